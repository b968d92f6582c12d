"""Losses over several processes: every sample is compared with those of all ranks.

With data parallelism each process embeds its own part of the batch, and a contrastive loss of that
part alone sees a fraction of the negatives. Here each rank gets the embeddings of all, which are
linear in the batch, and compares its equal share of the anchors with them: one W-th of the
similarities for each of W ranks. Two sums make the loss of the whole batch from the shares.
"""

from collections.abc import Callable
from functools import partial, wraps

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from lossbook.chunking import SHARE


def across_ranks(
    loss: Callable[..., Tensor], *, group: "dist.ProcessGroup | None" = None
) -> Callable[..., Tensor]:
    """A loss on pairs, of the samples of all processes together.

    ``across_ranks(nt_xent_loss)(z1, z2, temperature=0.2)`` is the loss of the rows of all ranks,
    one below the other in the order of ranks, and has that value on each of them.

    The gradient is that of the sum of all ranks' losses, so W times that of one among W ranks:
    DistributedDataParallel averages over ranks, which gives parameters, a learnable temperature
    among them, exactly the gradient that a single process has with the whole batch. Without it,
    average the gradients yourself.

    Args:
        loss: a loss that takes its anchors a few at a time, as those with a ``chunk_size`` do that
            compare samples with each other. Every tensor that is passed to it, other than a single
            number, has a row for each sample of this rank; ranks may have different numbers of
            rows, even none. All other arguments must be the same on all ranks.
        group: the processes that take part; None takes all. Each has to call the loss, and its
            backward pass if any does.

    Returns:
        A function with the arguments of ``loss``. Where no process group is initialized it has the
        value of ``loss`` itself. It runs uncompiled, though what makes the embeddings may be
        compiled, and can be differentiated once.

    Raises:
        ValueError: when it is called, on every rank: for arguments that differ between ranks in
            more than their rows, for different numbers of rows on one rank, and for a loss that
            can't be shared out, of which each rank would compute the whole. Also in a process
            outside ``group``.
    """

    @wraps(loss, updated=())
    @torch.compiler.disable
    def loss_of_all(*arguments, **knobs) -> Tensor:
        share = _Share(group)
        values = share.gathered([*arguments, *knobs.values()])
        renewed = dict(zip(knobs, values[len(arguments) :], strict=True))
        token = SHARE.set(share)
        try:
            value = loss(*values[: len(arguments)], **renewed)
        finally:
            SHARE.reset(token)
        if not share.taken:
            name = getattr(loss, "__name__", repr(loss))
            raise ValueError(
                "loss must take its anchors a few at a time, as lossbook.chunking does, to be "
                f"shared between processes; each would compute the whole of {name}"
            )
        return value

    return loss_of_all


class _Share:
    """One rank's part in a loss."""

    def __init__(self, group):
        self.group, self.rank, self.world, self.taken = group, 0, 1, False
        if dist.is_available() and dist.is_initialized():
            self.rank, self.world = dist.get_rank(group), dist.get_world_size(group)
        if self.rank < 0:
            raise ValueError("group must contain this process, got a group of others")

    def __call__(self, sums: Callable, n_anchors: int) -> Tensor:
        """Total and count over all anchors: ``sums`` of this rank's range, plus the others'."""
        self.taken = True
        start, stop = (n_anchors * r // self.world for r in (self.rank, self.rank + 1))
        # A rank without anchors takes one zero times: the backward pass needs all ranks.
        total, count = sums(range(start, max(stop, start + 1)))
        pair = torch.stack([total, count.to(total)]) * (stop > start)
        return _Sum.apply(pair, self.group) if self.world > 1 else pair

    def gathered(self, values: list) -> list:
        """The samples of all ranks; what is no sample stays as it is."""
        if self.world == 1:
            return values
        counts = _rows_of_ranks(values, self.world, self.group)
        gather = partial(_Gather.apply, counts, self.rank, self.group)
        return [gather(value) if _is_samples(value) else value for value in values]


def _is_samples(value) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0


def _rows_of_ranks(values: list, world: int, group) -> list[int]:
    """How many rows each rank has. All ranks raise where they do not fit together."""
    rows = sorted({len(value) for value in values if _is_samples(value)})
    of_ranks: list = [None] * world
    dist.all_gather_object(of_ranks, ([_kind(value) for value in values], rows), group=group)
    first = of_ranks[0][0]
    for rank, (kinds, rows) in enumerate(of_ranks):
        if kinds != first:
            raise ValueError(
                "arguments must be alike on all ranks but for their number of rows, "
                f"got {', '.join(first)} on rank 0 and {', '.join(kinds)} on rank {rank}"
            )
        if len(rows) != 1:
            raise ValueError(
                f"tensors must have one number of rows on each rank, got {rows} on rank {rank}"
            )
    return [rows for _, (rows,) in of_ranks]


def _kind(value) -> str:
    """What has to be the same on all ranks."""
    if not isinstance(value, Tensor):
        return repr(value) if isinstance(value, int | float | str | None) else type(value).__name__
    shape = ", ".join(["n", *map(str, value.shape[1:])]) if value.ndim else ""
    wanted = " with gradient" if value.requires_grad and torch.is_grad_enabled() else ""
    return f"{value.dtype} ({shape}){wanted}"


class _Gather(torch.autograd.Function):
    """The rows of all ranks; backward, each rank gets the gradients that all have for its own."""

    @staticmethod
    def forward(ctx, counts: list[int], rank: int, group, rows: Tensor) -> Tensor:
        ctx.counts, ctx.rank, ctx.group = counts, rank, group
        # Gloo wants tensors of one shape.
        padding = [0, 0] * (rows.ndim - 1) + [0, max(counts) - len(rows)]
        padded = F.pad(rows, padding).contiguous()
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded, group=group)
        return torch.cat([part[:n] for part, n in zip(parts, counts, strict=True)])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor):
        own = _sum(gradient, ctx.group).split(ctx.counts)[ctx.rank]
        return None, None, None, own.clone()


class _Sum(torch.autograd.Function):
    """The sum over ranks, on each of them; backward, the sum of all their gradients."""

    @staticmethod
    def forward(ctx, values: Tensor, group) -> Tensor:
        ctx.group = group
        return _sum(values, group)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor):
        return _sum(gradient, ctx.group), None


def _sum(values: Tensor, group) -> Tensor:
    values = values.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(values, group=group)
    return values
