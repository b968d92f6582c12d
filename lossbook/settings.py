"""The settings of a run: how large it is, where its randomness starts, which device it uses."""

from __future__ import annotations

import operator
import os
from dataclasses import dataclass
from typing import TypeVar

import torch

from lossbook._checks import one_of

SCALES = ("smoke", "quick", "full")
DEVICES = ("auto", "cpu", "cuda", "mps")

WIDER = 8  # times as many hidden units at full scale on a GPU

T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """The scale, seed and device that a notebook or script runs with."""

    scale: str
    seed: int
    device: torch.device

    def pick(self, *, smoke: T, quick: T, full: T) -> T:
        """Return the value that belongs to this run's scale."""
        return {"smoke": smoke, "quick": quick, "full": full}[self.scale]

    @property
    def precision(self) -> str:
        """What ``fit`` and ``fit_replicas`` take: bfloat16 at full scale on a GPU that has it.

        Its three digits are enough to find a class or a neighbor. An experiment whose result is a
        fine difference of the model's own numbers (a regression, a calibration, a value function)
        leaves it out and stays in float32.
        """
        has_it = self._is_large and torch.cuda.is_bf16_supported()
        return "bfloat16" if has_it else "float32"

    def units(self, n: int) -> int:
        """How many units a hidden layer has: n, or 8 n at full scale on a GPU."""
        return n * WIDER if self._is_large else n

    @property
    def _is_large(self) -> bool:
        return self.scale == "full" and self.device.type == "cuda"


def configure(scale: str = "quick", seed: int = 0, device: str = "auto") -> Run:
    """Settle scale, seed and device, seed torch, and print what was settled.

    Args:
        scale: "smoke", "quick" or "full"; the environment variable LOSSBOOK_SCALE wins over it.
        seed: a whole number, 0 or greater; also given to ``torch.manual_seed``.
        device: "auto" (CUDA, then MPS, then the CPU), "cpu", "cuda", "cuda:<index>" or "mps".

    Returns:
        The settled ``Run``.

    Raises:
        ValueError: if a value is unknown, or the device is not there.
    """
    run = Run(_scale(scale), _seed(seed), _device(device))
    torch.manual_seed(run.seed)
    print(f"{run.scale} scale, {run.device}, {_what_it_has(run)}")
    return run


def _what_it_has(run: Run) -> str:
    if run.device.type == "cuda":
        large = f" where safe, hidden layers {WIDER} times as wide" if run._is_large else ""
        return f"{torch.cuda.get_device_name(run.device)}, {run.precision}{large}"
    threads = torch.get_num_threads()
    return f"{threads} thread{'s' if threads > 1 else ''}"


def _scale(scale: str) -> str:
    environment = os.environ.get("LOSSBOOK_SCALE")
    name, value = ("LOSSBOOK_SCALE", environment) if environment else ("scale", scale)
    one_of(name, value, SCALES)
    return value


def _seed(seed: int) -> int:
    try:
        value = operator.index(seed)
    except TypeError:
        value = -1
    if value < 0:
        raise ValueError(f"seed must be a whole number, 0 or greater, got {seed!r}")
    return value


def _device(device: str | torch.device) -> torch.device:
    name = str(device)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if _has_mps() else "cpu"
    kind, _, index = name.partition(":")
    if kind not in DEVICES[1:] or (index and not index.isdecimal()):
        raise ValueError(f"device must be one of {', '.join(map(repr, DEVICES))}, got {device!r}")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {device!r} was asked for, but torch finds {torch.cuda.device_count()} "
            "CUDA devices; use 'auto' or 'cpu'"
        )
    if kind == "mps" and not _has_mps():
        raise ValueError(f"device {device!r} was asked for, but torch finds none; use 'auto'")
    return torch.device(name)


def _has_mps() -> bool:
    return torch.backends.mps.is_available()
