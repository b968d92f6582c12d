"""Checks of arguments: Python numbers and shapes only, never a tensor's values.

A tensor's values would cost a synchronization on a GPU and cannot be read under ``vmap``; a grid's
values are therefore checked as Python numbers before they are stacked.
"""

from collections.abc import Collection
from numbers import Real

import torch
from torch import Tensor


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _scalar(name: str, value: Tensor) -> None:
    if value.ndim:
        raise ValueError(f"{name} must be a scalar, got a tensor of shape {tuple(value.shape)}")


def in_range(
    name: str,
    value: float | Tensor,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> None:
    """Raise unless a Python number lies between the bounds; tensors pass unread."""
    if isinstance(value, Tensor):
        return _scalar(name, value)
    bounds = [
        (above, "above", lambda v, b: v > b),
        (at_least, "at least", lambda v, b: v >= b),
        (below, "below", lambda v, b: v < b),
        (at_most, "at most", lambda v, b: v <= b),
    ]
    wanted = " and ".join(f"{word} {bound:g}" for bound, word, _ in bounds if bound is not None)
    holds_all = _is_number(value) and all(b is None or holds(value, b) for b, _, holds in bounds)
    if not holds_all:
        raise ValueError(f"{name} must be {wanted}, got {value!r}")


def positive(name: str, value: float | Tensor) -> None:
    """Raise unless a Python number is positive; tensors pass unread."""
    if isinstance(value, Tensor):
        _scalar(name, value)
    elif not _is_number(value) or not value > 0:
        raise ValueError(f"{name} must be positive, got {value!r}")


def one_of(name: str, value: object, allowed: Collection) -> None:
    """Raise unless the value is among those allowed."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def matrix(name: str, tensor: Tensor) -> None:
    """Raise unless the tensor is two-dimensional and has at least one row and column."""
    if tensor.ndim != 2 or 0 in tensor.shape:
        raise ValueError(
            f"{name} must have shape (n, d) with n, d at least 1, got {tuple(tensor.shape)}"
        )


def not_empty(name: str, tensor: Tensor) -> None:
    """Raise if the tensor has no element."""
    if not tensor.numel():
        raise ValueError(f"{name} must not be empty, got shape {tuple(tensor.shape)}")


def same_shape(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Raise unless both tensors have one shape."""
    if tensor.shape != other.shape:
        raise ValueError(
            f"{name} must have the shape of {other_name}, {tuple(other.shape)}, "
            f"got {tuple(tensor.shape)}"
        )


def class_labels(labels: Tensor, n: int, name: str = "labels") -> None:
    """Raise unless labels are integers, one for each of n samples."""
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"{name} must be integers, got dtype {labels.dtype}")
    if labels.shape != (n,):
        raise ValueError(f"{name} must have shape ({n},), got {tuple(labels.shape)}")
