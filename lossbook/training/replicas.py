"""What makes a replica: its seed, its knobs, its fresh model."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lossbook.training.history import COLUMNS
from lossbook.training.stacking import isolated_rng


def replica_seed(seed: int, i: int) -> int:
    """Return the seed of the i-th seed of a run; runs with different ``seed`` share none."""
    return int(np.random.SeedSequence([seed, i]).generate_state(1, np.uint64)[0])


def make_module(make_model: Callable[[], nn.Module], seed: int, device: torch.device) -> nn.Module:
    with isolated_rng(seed, device):
        model = make_model()
    if not isinstance(model, nn.Module):
        raise ValueError(f"make_model must return a torch.nn.Module, got {type(model).__name__}")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("make_model must return a model with parameters that require gradients")
    return model.to(device).train()


def grid_settings(grid: Mapping[str, Iterable[float]]) -> list[dict[str, float]]:
    values = {name: _grid_values(name, of) for name, of in grid.items()}
    return [dict(zip(values, point, strict=True)) for point in product(*values.values())]


def _grid_values(name: str, values: Iterable[float]) -> list[float]:
    if name in COLUMNS:
        raise ValueError(f"grid must not have a knob called {name!r}")
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValueError(f"grid[{name!r}] must be a list of numbers, got {values!r}")
    plain = [value.item() if hasattr(value, "item") else value for value in values]
    if not plain:
        raise ValueError(f"grid[{name!r}] must have at least one value, got none")
    for value in plain:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise ValueError(
                f"grid[{name!r}] must hold numbers, got {value!r}; loop outside fit_replicas "
                "over knobs that are not numbers"
            )
    return plain


def replica_rows(seeds: Sequence[int], settings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"seed": seed, **setting} for seed in seeds for setting in settings]


def check_scalar(value: Tensor) -> Tensor:
    if not isinstance(value, Tensor) or value.dim() != 0:
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise ValueError(f"loss must return a scalar tensor, got {got}")
    return value
