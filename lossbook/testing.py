"""Does a formula written out in a notebook agree with the package's function?"""

from collections.abc import Callable

import torch
from torch import Tensor


def assert_agree(
    literal: Callable[..., Tensor],
    packaged: Callable[..., Tensor],
    *inputs: Tensor,
    tolerance: float = 1e-9,
) -> None:
    """Check that two functions have the same value and gradient, and say so.

    Args:
        literal: the formula as a notebook writes it out.
        packaged: the package's function.
        *inputs: what both are called with; gradients are compared in every float tensor, which
            should be float64.
        tolerance: largest difference allowed, relative to the larger of 1 and the packaged value.

    Raises:
        AssertionError: with the largest difference, if they disagree.
    """
    expected, expected_gradients = _value_and_gradients(packaged, inputs)
    value, gradients = _value_and_gradients(literal, inputs)
    _assert_close("values", value, expected, tolerance)
    for i, (gradient, other) in enumerate(zip(gradients, expected_gradients, strict=True)):
        _assert_close(f"gradients in input {i}", gradient, other, tolerance)
    print(f"value and gradient agree within {tolerance:g}")


def _value_and_gradients(function, inputs) -> tuple[Tensor, list[Tensor]]:
    leaves = [x.detach().clone().requires_grad_(x.is_floating_point()) for x in inputs]
    value = function(*leaves)
    wanted = [x for x in leaves if x.requires_grad]
    gradients = torch.autograd.grad(value.sum(), wanted, materialize_grads=True)
    return value.detach(), list(gradients)


def _assert_close(what: str, actual: Tensor, expected: Tensor, tolerance: float) -> None:
    if actual.shape != expected.shape:
        raise AssertionError(
            f"the {what} differ in shape: {tuple(actual.shape)} in the literal formula, "
            f"{tuple(expected.shape)} in the package"
        )
    difference = ((actual - expected).abs() / expected.abs().clamp(min=1)).max().item()
    if not difference <= tolerance:
        raise AssertionError(f"the {what} differ by {difference:.3g}, more than {tolerance:g}")
