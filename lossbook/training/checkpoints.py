"""A file from which a preempted ``fit`` goes on as if nothing had happened."""

from __future__ import annotations

import os
import signal
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lossbook._files import replacing

FORMAT = "lossbook.fit 1"
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def checkpointing(
    path: str | os.PathLike | None,
    seconds: float,
    parts: Mapping[str, Any],
    arguments: Mapping[str, Any],
) -> Iterator[Callable[[bool], None]]:
    """Take up the state that a file holds, and keep the file up to date.

    Ctrl-C and SIGTERM wait for the end of the step and for the file; a second one acts at once.
    Outside the main thread Python can't catch signals, and only the clock counts.

    Args:
        path: the file; None neither reads nor writes one.
        seconds: how often the file is written, 0 or greater.
        parts: what has the state of the run, in ``state_dict`` and ``load_state_dict``.
        arguments: what has to be the same when the run goes on.

    Yields:
        ``keep(finished)``, to be called at the end of each step.

    Raises:
        ValueError: if the file can't be read, is no checkpoint, or is that of another run.
    """
    if path is None:
        yield lambda finished: None
        return
    path = Path(path)
    settings = {name: described(value) for name, value in arguments.items()}
    if path.exists():
        _resume(path, parts, settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _postponed_signals() as arrived:
        due = time.monotonic() + seconds

        def keep(finished: bool) -> None:
            nonlocal due
            if finished or arrived or time.monotonic() >= due:
                _write(path, parts, settings)
                due = time.monotonic() + seconds
            if arrived:
                signal.raise_signal(arrived.pop())

        yield keep


def _write(path: Path, parts: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    states = {name: part.state_dict() for name, part in parts.items()}
    with replacing(path, binary=True) as stream:
        torch.save({"format": FORMAT, "settings": settings, "states": states}, stream)


def _resume(path: Path, parts: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the readers of zip files and pickles raise
        raise ValueError(
            f"checkpoint {path} can't be read; delete it to start anew ({error})"
        ) from error
    if not isinstance(saved, dict) or saved.get("format") != FORMAT:
        raise ValueError(f"checkpoint must be a file that fit wrote, {path} is another")
    _check_settings(path, saved["settings"], settings)
    for name, part in parts.items():
        part.load_state_dict(saved["states"][name])


def _check_settings(path: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    changes = [
        f"{name} was {then.get(name)} and is {now.get(name)}"
        for name in {**then, **now}
        if then.get(name) != now.get(name)
    ]
    if changes:
        more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
        raise ValueError(
            f"checkpoint {path} is of another run: {', '.join(changes[:3])}{more}; "
            "repeat that run's arguments, or name another file"
        )


@contextmanager
def _postponed_signals() -> Iterator[list[int]]:
    """Hold back the first signal that would end the process, and yield where it is put."""
    arrived: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield arrived
        return
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def hold_back(number: int, frame: Any) -> None:
        arrived.append(number)
        restore()

    for number in SIGNALS:
        signal.signal(number, hold_back)
    try:
        yield arrived
    finally:
        restore()


class ModelState:
    """A model's state, with the buffers that its ``state_dict`` leaves out."""

    def __init__(self, model: nn.Module):
        self.model = model

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "buffers": dict(self.model.named_buffers())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        for name, buffer in self.model.named_buffers():
            buffer.copy_(state["buffers"][name])


class RandomState:
    """torch's global random state, of the CPU and of the CUDA device that a model is on."""

    def __init__(self, device: torch.device):
        self.device = device

    def state_dict(self) -> dict[str, Tensor]:
        state = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        torch.set_rng_state(state["cpu"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"], self.device)


def described(value: Any) -> Any:
    """Return a plain value that tells one argument from another: contents, or else a name."""
    if isinstance(value, Tensor):
        content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return f"{value.dtype} {list(value.shape)} {zlib.crc32(content.numpy()):08x}"
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {name: described(item) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [described(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, partial):
        return [described(value.func), described(value.args), described(value.keywords)]
    inner = [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()]
    return " of ".join(map(_name, [value, *filter(callable, inner)]))


def _name(value: Any) -> str:
    return getattr(value, "__qualname__", type(value).__qualname__)
