"""What a training run leaves behind, and how it is collected."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from lossbook.training.batches import map_batch
from lossbook.training.stacking import eval_mode, stateful, vmap_replicas

if TYPE_CHECKING:
    import pandas

COLUMNS = ("replica", "seed", "step", "loss")


@dataclass(repr=False)
class History:
    """What a training run left behind.

    Attributes:
        frame: one row per (replica, step) with the columns "replica", "seed", the knobs, "step"
            (1, 2, ...), "loss" (before that step's update) and what ``evaluate`` returned
            (after the update; NaN at steps without an evaluation).
        replicas: one row per replica: "replica", "seed", the knobs, "stopped_at" (the step whose
            loss or gradient was not finite; missing if there was none) and "reason".
        interrupted: whether Ctrl-C ended the training early.
        parameters: the trained parameters, each with a first dimension of R replicas.
        buffers: the buffers, likewise.
    """

    frame: pandas.DataFrame
    replicas: pandas.DataFrame
    interrupted: bool
    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    _template: nn.Module

    def __repr__(self) -> str:
        replicas = "1 replica" if len(self) == 1 else f"{len(self)} replicas"
        stopped = int(self.replicas["stopped_at"].notna().sum())
        state = [f"{stopped} stopped"] * (stopped > 0) + ["interrupted"] * self.interrupted
        steps = 0 if self.frame.empty else self.frame["step"].max()
        return f"<History: {', '.join([replicas, f'{steps} steps', *state])}>"

    def __len__(self) -> int:
        """Number of replicas."""
        return len(self.replicas)

    @property
    def final(self) -> pandas.DataFrame:
        """The last row of each replica; a stopped replica has no evaluation there."""
        return self.frame.groupby("replica").tail(1).reset_index(drop=True)

    @torch.no_grad()
    def forward(self, inputs: Tensor | tuple[Tensor, ...], per_replica: bool = False) -> Any:
        """Run all replicas in eval mode, without gradients.

        Args:
            inputs: a tensor, or a tuple of positional arguments.
            per_replica: whether the inputs have a first dimension of R, one entry per replica;
                else all replicas see the same inputs.

        Returns:
            What the model returns, with a first dimension of R replicas.
        """
        state = (*self.parameters.values(), *self.buffers.values())
        device = state[0].device if state else torch.device("cpu")
        inputs = tuple(x.to(device) for x in (inputs if isinstance(inputs, tuple) else (inputs,)))
        if per_replica and any(len(x) != len(self) for x in inputs):
            raise ValueError(
                f"inputs must have a first dimension of {len(self)} replicas, "
                f"got shapes {[tuple(x.shape) for x in inputs]}"
            )
        call = stateful(self._template, lambda model, inputs: model(*inputs))
        with eval_mode(self._template):
            if len(self) > 1:
                dims = (0, 0, 0 if per_replica else None)
                return vmap_replicas(call, dims)(self.parameters, self.buffers, inputs)[0]
            # Models that fit() trained need not run under vmap.
            state = ({k: v[0] for k, v in s.items()} for s in (self.parameters, self.buffers))
            outputs = call(*state, tuple(x[0] for x in inputs) if per_replica else inputs)[0]
            return map_batch(lambda output: output.unsqueeze(0), outputs)

    def model(self, replica: int = 0) -> nn.Module:
        """Return one replica as an independent module in eval mode."""
        if not -len(self) <= replica < len(self):
            raise ValueError(f"replica must be less than {len(self)}, got {replica}")
        model = copy.deepcopy(self._template).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(self.parameters[name][replica])
            for name, buffer in model.named_buffers():
                buffer.copy_(self.buffers[name][replica])
        return model


class Recorder:
    """Collects losses and scores as tensors; reads them only at the end, in one transfer."""

    def __init__(
        self,
        rows: list[dict[str, Any]],
        every: int | None,
        steps: int,
        device: torch.device | str = "cpu",
    ):
        self.rows = rows
        self.every = every or steps
        self.steps = steps
        self.device = device
        self.losses: list[Tensor] = []
        self.active: list[Tensor] = []
        self.scores: list[tuple[int, dict[str, Tensor]]] = []
        self.interrupted = False

    @contextmanager
    def catch_interrupt(self) -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt:
            self.interrupted = True

    def add_step(self, losses: Tensor, active: Tensor) -> None:
        self.losses.append(losses)
        self.active.append(active)

    def is_due(self, step: int) -> bool:
        return step == self.steps or step % self.every == 0

    def add_scores(self, step: int, scores: dict[str, Tensor]) -> None:
        taken = set(scores) & {*COLUMNS, *self.rows[0]}
        if taken:
            raise ValueError(f"evaluate must not return the names {sorted(taken)}")
        self.scores.append((step, scores))

    def state_dict(self) -> dict[str, Any]:
        """Return what has been recorded, after one step at least."""
        return {
            "losses": torch.stack(self.losses),
            "active": torch.stack(self.active),
            "scores": self.scores,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a record; scores at steps that are not due any more are left out."""
        if len(state["losses"]) > self.steps:
            raise ValueError(
                f"steps must be at least the {len(state['losses'])} of the checkpoint, "
                f"got {self.steps}"
            )
        self.losses = list(state["losses"].to(self.device))
        self.active = list(state["active"].to(self.device))
        self.scores = [(step, scores) for step, scores in state["scores"] if self.is_due(step)]

    def history(
        self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], template: nn.Module
    ) -> History:
        import pandas

        size, steps = len(self.rows), min(len(self.losses), len(self.active))
        losses, active = np.zeros((size, steps)), np.ones((size, steps), dtype=bool)
        if steps:
            losses = torch.stack(self.losses[:steps], 1).cpu().double().numpy()
            active = torch.stack(self.active[:steps], 1).cpu().numpy()
        # A stopped replica keeps the row of the step that stopped it.
        kept = np.concatenate([np.ones((size, 1), dtype=bool), active[:, :-1]], 1)[:, :steps]
        replica, step = np.nonzero(kept)

        replicas = pandas.DataFrame({"replica": range(size)}).join(pandas.DataFrame(self.rows))
        frame = replicas.iloc[replica].reset_index(drop=True)
        frame["step"], frame["loss"] = step + 1, losses[replica, step]
        for name in dict.fromkeys(name for _, scores in self.scores for name in scores):
            column = np.full((size, steps), np.nan)
            for at, scores in self.scores:
                if at <= steps and name in scores:
                    values = scores[name].detach().cpu().double().numpy()
                    column[:, at - 1] = np.where(active[:, at - 1], values, np.nan)
            frame[name] = column[replica, step]

        stopped = [None if row.all() else int(row.argmin()) + 1 for row in active]
        replicas["stopped_at"] = pandas.array(stopped, dtype="Int64")
        replicas["reason"] = [
            None if at is None else describe_stop(at, losses[i, at - 1], self.rows[i])
            for i, at in enumerate(stopped)
        ]
        return History(frame, replicas, self.interrupted, parameters, buffers, template)


def describe_stop(step: int, loss: float, settings: Mapping[str, Any]) -> str:
    where = ", ".join(f"{name}={value}" for name, value in settings.items())
    if math.isfinite(loss):
        return f"gradient at loss {loss:.4g} is not finite at step {step} ({where})"
    return f"loss is {loss} at step {step} ({where})"


def warn_of_stopped(history: History) -> None:
    reasons = history.replicas["reason"].dropna()
    if len(reasons):
        more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
        warnings.warn(
            f"{len(reasons)} of {len(history)} replicas stopped: {'; '.join(reasons[:3])}{more}",
            RuntimeWarning,
            stacklevel=3,
        )
