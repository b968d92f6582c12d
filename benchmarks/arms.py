"""What is measured: an arm, what it may use, and the row that it becomes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Step(NamedTuple):
    """What an arm does again and again, and the leaves whose gradients it computes."""

    run: Callable[[], object]
    leaves: Sequence[Tensor] = ()


def forward_and_backward(loss: Callable[[], Tensor], *leaves: Tensor) -> Step:
    """The step that computes a loss and its gradients."""
    return Step(lambda: loss().backward(), leaves)


@dataclass(frozen=True)
class Arm:
    """One way to do what a case asks for.

    Args:
        case: what is computed.
        size: how large it is; the arms of a case come in ascending order.
        name: how it is done.
        build: ``build(device)`` makes the step; a function of a module, or a partial of one.
        threads: torch's threads; None leaves them as they are.
        flops: floating-point operations that no way can avoid.
        moved_bytes: bytes that every way has to read or write.
        memory: whether peak memory and operators are of interest, and memory is limited (a browser
            reserves far more than it uses).
        single: whether the step runs only once, cold; it may return the seconds that it has
            measured itself, one or several.
        limit: seconds after which the process is ended; None takes the run's.
    """

    case: str
    size: int
    name: str
    build: Callable[[torch.device], Step]
    threads: int | None = None
    flops: float | None = None
    moved_bytes: float | None = None
    memory: bool = True
    single: bool = False
    limit: float | None = None

    @property
    def label(self) -> str:
        """All that tells it from the others: "CASE, SIZE, ARM"."""
        return f"{self.case}, {self.size}, {self.name}"


@dataclass(frozen=True)
class Limits:
    """What an arm may use.

    Args:
        seconds: from the start of its process to its end.
        memory: GiB beyond what its process starts with (on Linux and CUDA).
        budget: seconds of repeats, of which there are 5 at least and 20 at most. A step of many
            budgets is repeated until five are used up.
    """

    seconds: float = 120
    memory: float = 16
    budget: float = 3


@dataclass(frozen=True)
class Row:
    """What was measured of an arm: quartiles of seconds, bytes, and why there is none.

    ``peak_bytes`` counts what the step holds beyond its inputs, ``extra_bytes`` that without the
    gradients it leaves. ``operations`` are calls of torch's operators, nested ones included.
    """

    case: str
    size: int
    arm: str
    seconds: float | None = None
    low: float | None = None
    high: float | None = None
    repeats: int = 0
    peak_bytes: int | None = None
    extra_bytes: int | None = None
    operations: int | None = None
    flops: float | None = None
    moved_bytes: float | None = None
    note: str = ""


class BeyondLimit(Exception):
    """An arm needs more than it may have."""
