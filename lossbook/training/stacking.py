"""Modules as functions of stacked parameters and buffers, under vmap."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lossbook.training.batches import repeat_replicas
from lossbook.training.images import ReplicasAsChannels


class _Bound(nn.Module):
    """Calls ``function(model, ...)`` as its forward, so that functional_call reaches the model."""

    def __init__(self, model: nn.Module, function: Callable):
        super().__init__()
        self.model = model
        self.function = function

    def forward(self, *arguments):
        return self.function(self.model, *arguments)


def stateful(model: nn.Module, function: Callable) -> Callable:
    """Return ``call(parameters, buffers, *arguments)`` -> (function's result, new buffers)."""
    bound = _Bound(model, function)

    def call(parameters, buffers, *arguments):
        state = {f"model.{name}": tensor for name, tensor in {**parameters, **buffers}.items()}
        result = torch.func.functional_call(bound, state, arguments)
        # functional_call writes buffers that the model replaced back into its state.
        return result, {name: state[f"model.{name}"] for name in buffers}

    return call


def stack_models(
    models: list[nn.Module], copies: int = 1
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return stacked parameters and buffers, each model's repeated ``copies`` times."""
    parameters, buffers = torch.func.stack_module_state(models)
    return (
        {name: repeat_replicas(stacked.detach(), copies) for name, stacked in parameters.items()},
        {name: repeat_replicas(stacked.detach(), copies) for name, stacked in buffers.items()},
    )


def vmap_replicas(call: Callable, in_dims: tuple[Any, ...]) -> Callable:
    def of_one(*arguments):
        with ReplicasAsChannels():
            return call(*arguments)

    mapped = torch.func.vmap(of_one, in_dims=in_dims, randomness="different")

    def explained(*arguments):
        try:
            return mapped(*arguments)
        except RuntimeError as error:
            error.add_note(
                "This ran under torch.func.vmap, where code can't branch on the values of tensors "
                "or call .item(); lossbook.training.fit trains one model without vmap."
            )
            raise

    return explained


def device_of(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def isolated_rng(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global random state, and restore it afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
