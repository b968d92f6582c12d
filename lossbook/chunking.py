"""Averages over anchors in memory that grows linearly with the batch.

A pairwise loss is a sum over anchors, and each anchor needs one row of the similarity matrix. So
the sum is taken a few rows at a time: the gradient of those rows is computed in the forward pass,
added up, and the rows are dropped. That costs the same three matrix products as the dense loss
(one forward, two backward), never holds more than a chunk of rows, and is no slower on a CPU: a
chunk fits into the processor's cache, where a large matrix does not.

The chunked path can be differentiated once, and under vmap it takes one replica after the other;
the dense path has no such limits.
"""

from collections.abc import Callable
from contextvars import ContextVar
from functools import partial

import torch
from torch import Tensor

from lossbook._checks import in_range
from lossbook._numerics import full_precision, inner_products

DENSE_ENTRIES = 2**22
"""A similarity matrix of up to so many entries (2,048 x 2,048) is held whole."""

CHUNK_ENTRIES = 2**20
"""Entries of a chunk of rows, 4 MB in float32: a processor's cache holds them."""

GPU_ENTRIES = 2**24
"""Both on a GPU, which smaller matrices do not fill: 64 MB in float32."""

Rows = Callable[..., tuple[Tensor, Tensor | int]]

# Set where several processes share the anchors (lossbook.distributed): ``share(sums, n_anchors)``
# adds up ``sums(anchors)`` of all of them, each with its own range of anchors.
SHARE: ContextVar[Callable | None] = ContextVar("share", default=None)


def mean_over_similarities(
    rows: Rows, anchors: Tensor, others: Tensor, *tensors: Tensor, chunk_size: int | None, **knobs
) -> Tensor:
    """The mean over anchors of a loss that reads their inner products with all others.

    Args:
        rows: ``rows(similarities, index, *tensors, **knobs) -> (total, count)``: the summed loss
            of the anchors in ``index``, (m,), from their similarities, (m, n), and how many terms
            the sum has, an int or a tensor without gradient.
        anchors: (n_anchors, d).
        others: (n, d); the anchors again where a batch is compared with itself.
        *tensors: what else ``rows`` reads, such as labels.
        chunk_size: rows held at once; None holds all of them while the matrix has at most
            2^22 entries, and about 2^20 entries otherwise (2^24 and 2^24 on a GPU).
        **knobs: hyper-parameters of ``rows``; those that are tensors have gradients too.

    Returns:
        total / count, and zero where no anchor counts.

    Raises:
        ValueError: if ``chunk_size`` is below 1.
    """
    tensors = (*full_precision(anchors, others), *tensors)
    return _mean(_Products(rows, knobs), len(anchors), len(others), tensors, chunk_size)


def mean_over_anchors(
    rows: Rows, n_anchors: int, n_others: int, *tensors: Tensor, chunk_size: int | None, **knobs
) -> Tensor:
    """The mean over anchors of a loss that compares them with others in another way.

    Args:
        rows: ``rows(index, *tensors, **knobs) -> (total, count)``: the summed loss of the anchors
            in ``index`` and how many terms the sum has, an int or a tensor without gradient.
        n_anchors: number of anchors.
        n_others: samples that an anchor is compared with, the length of a row.
        *tensors: what ``rows`` reads.
        chunk_size: as in :func:`mean_over_similarities`.
        **knobs: as in :func:`mean_over_similarities`.

    Returns:
        total / count, and zero where no anchor counts.

    Raises:
        ValueError: if ``chunk_size`` is below 1.
    """
    return _mean(_Rows(rows, knobs), n_anchors, n_others, tensors, chunk_size)


def _mean(rows: "_Rows", n_anchors: int, n_others: int, tensors, chunk_size: int | None) -> Tensor:
    sums = partial(_sums, rows, n_others, rows.values(tensors), chunk_size)
    share = None if torch.compiler.is_compiling() else SHARE.get()
    total, count = share(sums, n_anchors) if share else sums(range(n_anchors))
    return total / count.clamp(min=1)


def _sums(rows: "_Rows", n_others: int, values, chunk_size: int | None, anchors: range):
    """The summed loss of some anchors and the number of its terms."""
    if chunk_size is None:
        chunk_size = rows_at_once(len(anchors), n_others, values[0].device, rows.at_least)
    in_range("chunk_size", chunk_size, at_least=1)
    if chunk_size >= len(anchors):
        return rows.total(_index(anchors.start, anchors.stop, values), *values)
    starts = range(anchors.start, anchors.stop, int(chunk_size))
    total, count, *_ = _ChunkedSum.apply(rows, starts, *gradients_wanted(*values))
    return total, count


def dense_entries(device: torch.device) -> int:
    """How many entries of a matrix may be held at once."""
    return DENSE_ENTRIES if device.type == "cpu" else GPU_ENTRIES


def rows_at_once(n_anchors: int, n_others: int, device: torch.device, at_least: int = 1) -> int:
    """All rows of a matrix of anchors and others, or as many as make a chunk."""
    if n_anchors * n_others <= dense_entries(device):
        return n_anchors
    entries = CHUNK_ENTRIES if device.type == "cpu" else GPU_ENTRIES
    return max(entries // n_others, at_least)


def _index(start: int, stop: int, values) -> Tensor:
    return torch.arange(start, stop, device=values[0].device)


class _Rows:
    """The loss of some anchors, as a function of tensors, learnable knobs among them."""

    at_least = 1  # rows of a chunk

    def __init__(self, rows: Rows, knobs: dict):
        self.rows, self.knobs = rows, knobs
        self.learnable = [name for name, value in knobs.items() if isinstance(value, Tensor)]

    def values(self, tensors) -> tuple[Tensor, ...]:
        return (*tensors, *(self.knobs[name] for name in self.learnable))

    def total(self, index: Tensor, *values: Tensor) -> tuple[Tensor, Tensor]:
        """The summed loss and the number of its terms."""
        return self._call(index, *values)

    def add_gradients(self, index: Tensor, values, gradients) -> tuple[Tensor, Tensor]:
        """Total and count; adds the total's gradients to those that are not None."""
        total, count = self.total(index, *values)
        _add(gradients, _slopes(total, values, gradients))
        return total, count

    def _call(self, *arguments) -> tuple[Tensor, Tensor]:
        n = len(arguments) - len(self.learnable)
        renewed = dict(zip(self.learnable, arguments[n:], strict=True))
        total, count = self.rows(*arguments[:n], **{**self.knobs, **renewed})
        if isinstance(count, Tensor):
            return total, count.to(total)
        return total, torch.full_like(total, count)


class _Products(_Rows):
    """The same for rows that read inner products: two more matrix products are the gradients."""

    at_least = 128  # however long they are: each chunk adds to the gradients of all samples

    def total(self, index: Tensor, anchors: Tensor, others: Tensor, *values: Tensor):
        own = anchors if len(index) == len(anchors) else anchors[index]
        return self._call(inner_products(own, others), index, *values)

    def add_gradients(self, index: Tensor, values, gradients) -> tuple[Tensor, Tensor]:
        anchors, others, *rest = values
        by_anchor, by_other, *by_rest = gradients
        own, others = anchors.detach()[index], others.detach()
        similarities = inner_products(own, others).requires_grad_()
        total, count = self._call(similarities, index, *rest)
        slope, *slopes = _slopes(total, [similarities, *rest], [similarities, *by_rest])
        if by_anchor is not None:
            by_anchor[index] += slope @ others
        if by_other is not None:
            by_other.addmm_(slope.mT, own)
        _add(by_rest, slopes)
        return total, count


def _slopes(total: Tensor, values, wanted) -> list[Tensor | None]:
    """The gradients of the total by those values for which something is wanted."""
    chosen = [value for value, want in zip(values, wanted, strict=True) if want is not None]
    slopes = iter(torch.autograd.grad(total, chosen, materialize_grads=True))
    return [None if want is None else next(slopes) for want in wanted]


def _add(gradients, slopes) -> None:
    for gradient, slope in zip(gradients, slopes, strict=True):
        if gradient is not None:
            gradient += slope


class _ChunkedSum(torch.autograd.Function):
    """Total and count over all chunks; the gradients are ready when the forward pass ends."""

    @staticmethod
    def forward(rows: _Rows, starts: range, all_wanted: bool, *values: Tensor):
        leaves = [
            v.detach().requires_grad_(v.is_floating_point() and (v.requires_grad or all_wanted))
            for v in values
        ]
        gradients = [torch.zeros_like(leaf) if leaf.requires_grad else None for leaf in leaves]
        differentiable = any(leaf.requires_grad for leaf in leaves)
        sums = []
        with (
            torch.set_grad_enabled(differentiable),
            torch.autocast(values[0].device.type, enabled=False),
        ):
            for start in starts:
                index = _index(start, min(start + starts.step, starts.stop), values)
                if differentiable:
                    total, count = rows.add_gradients(index, leaves, gradients)
                else:
                    total, count = rows.total(index, *leaves)
                sums.append((total.detach(), count.detach()))
        total, count = (torch.stack(column).sum(0) for column in zip(*sums, strict=True))
        return total, count, *gradients

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, count, *gradients = output
        ctx.mark_non_differentiable(count, *(g for g in gradients if g is not None))
        ctx.set_materialize_grads(False)  # or backward gets zeros of their size
        ctx.save_for_backward(*gradients)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_total: Tensor | None, *_):
        unwanted = grad_total is None
        gradients = (None if g is None or unwanted else grad_total * g for g in ctx.saved_tensors)
        return None, None, None, *gradients

    @staticmethod
    def vmap(info, in_dims, *arguments):
        return one_replica_at_a_time(_ChunkedSum, info.batch_size, in_dims, arguments)


# For this and for other functions whose gradients are ready when the forward pass ends -----------


def gradients_wanted(*values: Tensor) -> tuple[bool | Tensor, ...]:
    """``(all_wanted, *values)``: what an autograd.Function can't find out itself.

    It does not know of ``torch.no_grad``; and inside ``torch.func.grad`` a tensor does not tell
    whether its gradient is wanted, so there all gradients are.
    """
    if not torch.is_grad_enabled():
        values = tuple(value.detach() for value in values)
    return torch._C._are_functorch_transforms_active(), *values


def one_replica_at_a_time(function, n_replicas: int, in_dims, arguments):
    """A vmap rule: chunks are for what is too large to hold at once, let alone many times."""
    replicas = []
    for i in range(n_replicas):
        own = (a if d is None else a.select(d, i) for a, d in zip(arguments, in_dims, strict=True))
        replicas.append(function.apply(*own))
    columns = [None if c[0] is None else torch.stack(c) for c in zip(*replicas, strict=True)]
    return tuple(columns), tuple(None if column is None else 0 for column in columns)
