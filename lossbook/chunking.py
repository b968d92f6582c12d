"""Averages over anchors in memory that grows linearly with the batch.

A pairwise loss is a sum over anchors, and each anchor needs one row of the similarity matrix. So
the sum is taken a few rows at a time: the gradient of those rows is computed in the forward pass,
added up, and the rows are dropped. That costs the same three matrix products as the dense loss
(one forward, two backward) and never holds more than ``chunk_size`` rows.

The chunked path can be differentiated once, and under vmap it takes one replica after the other;
the dense path has no such limits.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lossbook._checks import in_range

DENSE_ENTRIES = 2**22
"""A similarity matrix of up to so many entries (2,048 x 2,048) is held whole."""

Rows = Callable[..., tuple[Tensor, Tensor]]


def mean_over_anchors(
    rows: Rows, n_anchors: int, n_others: int, *tensors: Tensor, chunk_size: int | None, **knobs
) -> Tensor:
    """The mean of a loss over its anchors, dense or a chunk of rows at a time.

    Args:
        rows: ``rows(index, *tensors, **knobs) -> (total, count)``: the summed loss of the anchors
            in ``index`` and how many terms the sum has. The count carries no gradient.
        n_anchors: number of anchors.
        n_others: samples that an anchor is compared with, the length of a row.
        *tensors: what ``rows`` reads.
        chunk_size: rows held at once; None holds all of them while the matrix has at most
            2^22 entries, and as many as stay below that otherwise.
        **knobs: hyper-parameters of ``rows``; those that are tensors have gradients too.

    Returns:
        total / count, and zero where no anchor counts.

    Raises:
        ValueError: if ``chunk_size`` is below 1.
    """
    if chunk_size is None:
        chunk_size = max(DENSE_ENTRIES // n_others, 1)
    in_range("chunk_size", chunk_size, at_least=1)
    if chunk_size >= n_anchors:
        index = torch.arange(n_anchors, device=tensors[0].device)
        total, count = rows(index, *tensors, **knobs)
    else:
        learnable = {name: value for name, value in knobs.items() if isinstance(value, Tensor)}

        def chunk(index: Tensor, *values: Tensor) -> tuple[Tensor, Tensor]:
            renewed = zip(learnable, values[len(tensors) :], strict=True)
            return rows(index, *values[: len(tensors)], **{**knobs, **dict(renewed)})

        values = (*tensors, *learnable.values())
        if not torch.is_grad_enabled():  # an autograd.Function does not know
            values = tuple(value.detach() for value in values)
        # Inside torch.func.grad a tensor does not tell whether its gradient is wanted.
        transformed = torch._C._are_functorch_transforms_active()
        total, count, *_ = _ChunkedSum.apply(
            chunk, n_anchors, int(chunk_size), transformed, *values
        )
    return total / count.clamp(min=1)


class _ChunkedSum(torch.autograd.Function):
    """Sum of ``rows`` over chunks; the gradients are ready when the forward pass ends."""

    @staticmethod
    def forward(rows: Rows, n_anchors: int, chunk_size: int, all_wanted: bool, *tensors: Tensor):
        leaves = [
            t.detach().requires_grad_(t.is_floating_point() and (t.requires_grad or all_wanted))
            for t in tensors
        ]
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        gradients = [torch.zeros_like(leaf) for leaf in wanted]
        sums = []
        for start in range(0, n_anchors, chunk_size):
            stop = min(start + chunk_size, n_anchors)
            index = torch.arange(start, stop, device=tensors[0].device)
            with torch.set_grad_enabled(bool(wanted)):
                total, count = rows(index, *leaves)
            if wanted:
                parts = torch.autograd.grad(total, wanted, materialize_grads=True)
                for gradient, part in zip(gradients, parts, strict=True):
                    gradient += part
            sums.append((total.detach(), count.detach()))
        total, count = (torch.stack(column).sum(0) for column in zip(*sums, strict=True))
        ready = iter(gradients)
        return total, count, *(next(ready) if x.requires_grad else None for x in leaves)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, count, *gradients = output
        ctx.mark_non_differentiable(count, *(g for g in gradients if g is not None))
        ctx.save_for_backward(*gradients)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_total: Tensor, *_):
        gradients = (None if g is None else grad_total * g for g in ctx.saved_tensors)
        return None, None, None, None, *gradients

    @staticmethod
    def vmap(info, in_dims, rows, n_anchors, chunk_size, all_wanted, *tensors: Tensor):
        """One replica after the other: chunks are for what is too large to hold at once."""
        columns = zip(
            *(
                _ChunkedSum.apply(
                    rows,
                    n_anchors,
                    chunk_size,
                    all_wanted,
                    *(
                        t if dim is None else t.select(dim, i)
                        for t, dim in zip(tensors, in_dims[4:], strict=True)
                    ),
                )
                for i in range(info.batch_size)
            ),
            strict=True,
        )
        stacked = [None if column[0] is None else torch.stack(column) for column in columns]
        return tuple(stacked), tuple(None if column is None else 0 for column in stacked)
