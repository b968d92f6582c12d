"""What ``fit`` and ``fit_replicas`` take alike, and how it is checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from lossbook._checks import in_range, one_of, positive

Loss = Callable[..., Tensor]
PRECISIONS = ("float32", "bfloat16")
Evaluate = Callable[..., Mapping[str, Tensor | float]]


def check_schedule(steps: int, every: int | None, clip_norm: float | None, momentum: float) -> None:
    in_range("steps", steps, at_least=1)
    in_range("momentum", momentum, at_least=0, below=1)
    if every is not None:
        in_range("every", every, at_least=1)
    if clip_norm is not None:
        positive("clip_norm", clip_norm)


def check_rates(learning_rates: list[float], weight_decays: list[float]) -> None:
    for value in learning_rates:
        positive("learning_rate", value)
    for value in weight_decays:
        in_range("weight_decay", value, at_least=0)


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context that model and loss run in."""
    one_of("precision", precision, PRECISIONS)
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def check_evaluate(evaluate: Evaluate | None) -> None:
    if evaluate is None:
        raise ValueError("held_out needs evaluate, the function that scores a model on it")


def tensors_of(evaluate: Evaluate) -> Callable:
    def scores(model, *held_out):
        found = evaluate(model, *held_out)
        tensors = {name: torch.as_tensor(value) for name, value in found.items()}
        for name, tensor in tensors.items():
            if tensor.dim() != 0:
                raise ValueError(
                    f"evaluate must return scalars, got shape {tuple(tensor.shape)} for {name!r}"
                )
        return tensors

    return scores
