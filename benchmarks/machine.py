"""What the numbers were measured on."""

import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from benchmarks.arms import Arm, Limits, Step
from benchmarks.harness import measure
from benchmarks.worker import GIB

PACKAGES = ("torch", "pytorch-metric-learning")
SIZES = {"cpu": (2048, GIB // 4), "cuda": (8192, 4 * GIB)}  # of the matrices, and bytes copied


def describe(device: str) -> dict[str, object]:
    """The machine and the software, before a suite runs."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "commit": _commit(),
        "system": platform.platform(terse=True),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(0) if device == "cuda" else "cpu",
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "load_at_start": load(),
    }


def load() -> float | None:
    """Processes that wanted the CPU in the last minute, on average."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def rates(device: str, limits: Limits) -> dict[str, float]:
    """Bytes that a copy moves and operations that a matrix product does, in a second."""
    n, size = SIZES[device]
    copy, product = (
        measure(Arm("rates", n, build.__name__, build), limits, device)["seconds"]
        for build in (copying, multiplying)
    )
    return {
        "copied_bytes_per_second": 2 * size / copy,
        "matmul_flops_per_second": 2 * n**3 / product,
    }


def copying(device: torch.device) -> Step:
    _, size = SIZES[device.type]
    source, target = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
    return Step(lambda: target.copy_(source))


def multiplying(device: torch.device) -> Step:
    n, _ = SIZES[device.type]
    a, b = (torch.randn(n, n, device=device) for _ in range(2))
    return Step(lambda: a @ b)


def _commit() -> str:
    command = ("git", "describe", "--always", "--dirty")
    try:
        answer = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    except OSError:
        return "unknown"
    return answer.stdout.strip() or "unknown"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
