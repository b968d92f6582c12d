"""What happens in an arm's own process."""

import gc
import statistics
import sys
import time
from collections.abc import Iterable
from itertools import accumulate

import psutil
import torch

from benchmarks.arms import Arm, BeyondLimit, Limits, Step

GIB = 2**30
REPEATS = (5, 20)  # at least and at most
PATIENCE = 5  # budgets after which a slow step is repeated no more
OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc")


def work(sender, arm: Arm, limits: Limits, device: str) -> None:
    """Measure an arm and send the fields of its row, or what it needs too much of."""
    try:
        if arm.memory:
            limit_memory(limits.memory, device)
        answer = _measured(arm, limits, torch.device(device))
    except Exception as error:
        if isinstance(error, MemoryError) or any(sign in str(error) for sign in OUT_OF_MEMORY):
            answer = BeyondLimit(f"more than {limits.memory:g} GiB")
        else:
            answer = {"note": " ".join(f"{type(error).__name__}: {error}".split())[:200]}
    sender.send(answer)


def limit_memory(gibibytes: float, device: str) -> None:
    """Let allocations of more than so many GiB beyond the present ones fail."""
    if device == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(gibibytes * GIB / total, 1.0))
    elif sys.platform == "linux":
        import resource

        allowed = psutil.Process().memory_info().vms + int(gibibytes * GIB)
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (allowed, hard))


def _measured(arm: Arm, limits: Limits, device: torch.device) -> dict[str, object]:
    if arm.threads:
        torch.set_num_threads(arm.threads)
    step = arm.build(device)
    if arm.single:
        return _summary(_own_or_wall_seconds(step))
    _seconds(step, device)
    memory = _profile(step, device) if arm.memory else {}
    seconds: list[float] = []
    while not _enough(seconds, limits.budget):
        seconds.append(_seconds(step, device))
    return _summary(seconds) | memory


def _summary(seconds: list[float]) -> dict[str, object]:
    low, median, high = (
        statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else 3 * seconds
    )
    return {"seconds": median, "low": low, "high": high, "repeats": len(seconds)}


def _enough(seconds: list[float], budget: float) -> bool:
    least, most = REPEATS
    total, count = sum(seconds), len(seconds)
    if not count or count >= most:
        return bool(count)
    return total >= (budget if count >= least else PATIENCE * budget)


def _own_or_wall_seconds(step: Step) -> list[float]:
    start = time.perf_counter()
    own = step.run()
    wall = time.perf_counter() - start
    return [wall] if own is None else [own] if isinstance(own, float) else list(own)


def _seconds(step: Step, device: torch.device) -> float:
    _clear(step)
    _synchronize(device)
    start = time.perf_counter()
    step.run()
    _synchronize(device)
    return time.perf_counter() - start


def _clear(step: Step) -> None:
    for leaf in step.leaves:
        leaf.grad = None


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _profile(step: Step, device: torch.device) -> dict[str, int]:
    """Peak bytes beyond what was live before, with and without gradients, and operators called.

    On the CPU the peak comes from the profiler's record of each allocation. (The resident set
    would count what malloc keeps, and a dispatch mode would miss the buffers inside operators.)
    The record goes wrong where an earlier profile saw a block being allocated but not freed, so
    only the first profile of a process is right.
    """
    _clear(step)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        step.run()
    _synchronize(device)
    events = profile.profiler.kineto_results.events()
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device) - before
    else:
        peak = _highest((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    gradients = sum(leaf.grad.nbytes for leaf in step.leaves if leaf.grad is not None)
    return {
        "peak_bytes": peak,
        "extra_bytes": peak - gradients,
        "operations": sum(event.name().startswith("aten::") for event in events),
    }


def _highest(allocations: Iterable[tuple[int, int]]) -> int:
    """The largest sum of changes, each with the time when it happened."""
    in_order = sorted(allocations, key=lambda event: event[0])
    return max(accumulate((size for _, size in in_order), initial=0))
