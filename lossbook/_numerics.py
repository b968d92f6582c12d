"""The few numerical moves that several objectives share."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Scalar = float | int | Float[Tensor, ""]


def full_precision(*tensors: Tensor) -> list[Tensor]:
    """Half-precision tensors as float32, the others as they are."""
    return [t.float() if t.dtype in (torch.float16, torch.bfloat16) else t for t in tensors]


def inner_products(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """All inner products of rows, in float32 at least, under autocast too.

    Divided by a temperature of 0.01, bfloat16's rounding would move a logit by half a unit.
    """
    a, b = full_precision(a, b)
    with torch.autocast(a.device.type, enabled=False):
        return a @ b.mT


def log_sigmoid(values: Tensor) -> Tensor:
    """``F.logsigmoid``, which on a GPU fails under two levels of vmap (seen in torch 2.11)."""
    return -F.softplus(-values, threshold=40)  # from there on log1p(exp(x)) is x, in float64 too


def lowest(values: Tensor) -> float:
    """A logit that no softmax notices: finite, and so is what is added to it or multiplied by 0."""
    return torch.finfo(values.dtype).min / 2


def without(logits: Tensor, dropped: Tensor) -> Tensor:
    """Logits, so low that no softmax notices them where a mask drops them.

    Adding is many times faster than masked_fill, which stumbles over a random mask.
    """
    return logits + lowest(logits) * dropped.to(logits)


def log_sum_exp(values: Tensor, mask: Tensor) -> Tensor:
    """``log sum exp`` over the entries of the last dimension where ``mask`` holds.

    Returns the lowest finite number, with gradient zero, where no entry does; torch.logsumexp
    would return minus infinity with a gradient of NaN.
    """
    return torch.logsumexp(values.masked_fill(~mask, lowest(values)), dim=-1)
