"""Cross-entropy of a linear classifier a block of logits at a time.

``chunking.py`` takes a few rows of a matrix at a time and lets autograd differentiate them, which
holds three numbers for each of their entries, and a gradient of all shared tensors for each chunk.
With very many classes that is too much. Here the gradient is written out: one number an entry, and
matrix products that add to the gradients in place.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from lossbook.chunking import one_replica_at_a_time


class Blockwise(torch.autograd.Function):
    """The scaled sum of the losses, with gradients that are ready when the forward pass ends.

    Without a scale: the losses themselves, whose gradients are computed in the backward pass.
    """

    @staticmethod
    def forward(embeddings, weight, labels, scale, compute):
        losses, *gradients = compute(embeddings, weight, labels, scale)
        return losses if scale is None else (losses * scale).sum(), *gradients

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.compute = inputs
        _, *gradients = output
        ctx.save_for_backward(*tensors)
        ctx.mark_non_differentiable(*(g for g in gradients if g is not None))
        ctx.set_materialize_grads(False)  # or backward gets zeros of their size
        ctx.gradients = gradients if any(g is not None for g in gradients) else None

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad, *_):
        if grad is None:
            return (None,) * 5
        *tensors, scale = ctx.saved_tensors
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:  # apply() and not compute(), for the sake of vmap
            compute = partial(ctx.compute, wanted=ctx.needs_input_grad[:2])
            _, *gradients = Blockwise.apply(*tensors, grad if scale is None else scale, compute)
        if scale is not None and torch._C._are_functorch_transforms_active():
            gradients = [None if g is None else grad * g for g in gradients]
        elif scale is not None:  # in place: a copy of the weight's gradient may be the largest
            gradients = [None if g is None else g.mul_(grad) for g in gradients]
        # Rounded to half precision only now: the scale of mixed-precision training is in grad.
        pairs = zip(gradients, tensors[:2], strict=True)
        return *(None if g is None else g.to(t.dtype) for g, t in pairs), None, None, None

    @staticmethod
    def vmap(info, in_dims, *arguments):
        return one_replica_at_a_time(Blockwise, info.batch_size, in_dims, arguments)


def sweep(
    embeddings, weight, labels, scale, *, wanted, chunk_size, block_size, filter_eps, softcap
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """All losses, and the gradients of their sum weighted with the scale, if there is one."""
    wanted = wanted if scale is not None else (False, False)
    dtype = torch.promote_types(weight.dtype, torch.float32)
    by_embedding, by_weight = (
        torch.zeros_like(tensor, dtype=dtype) if is_wanted else None
        for tensor, is_wanted in zip((embeddings, weight), wanted, strict=True)
    )
    # Blocks that will be multiplied into a gradient are kept until the chunk's softmax is known.
    width = len(weight) if any(wanted) else min(block_size, len(weight))
    memory = torch.empty(min(chunk_size, len(labels)) * width, dtype=dtype, device=weight.device)
    kept = embeddings.dtype if _as_they_are(embeddings, weight) else dtype
    losses = []
    with torch.autocast(weight.device.type, enabled=False):
        for start in range(0, len(labels), chunk_size):
            rows = slice(start, start + chunk_size)
            chunk = _Chunk(embeddings[rows].to(kept), labels[rows], memory, any(wanted))
            losses.append(chunk.losses(weight, block_size, softcap))
            if any(wanted):
                own = None if by_embedding is None else by_embedding[rows]
                chunk.add_gradients(weight, scale[rows], own, by_weight, filter_eps)
    return torch.cat(losses), by_embedding, by_weight


def _as_they_are(a: Tensor, b: Tensor) -> bool:
    """Whether a GPU multiplies two matrices of bfloat16 into one of float32.

    Not of float16, in which the softmax over many classes would be zero.
    """
    return a.is_cuda and a.dtype == b.dtype == torch.bfloat16 and torch.__version__ >= "2.8"


def _multiply(a: Tensor, b: Tensor, out: Tensor | None = None, add_to: Tensor | None = None):
    """The product, written to ``out`` or added to ``add_to``, in the precision of these."""
    target = add_to if out is None else out
    mixed = {"out_dtype": target.dtype} if _as_they_are(a, b) else {}
    if not mixed:
        a, b = a.to(target.dtype), b.to(target.dtype)
    if out is None:
        torch.addmm(add_to, a, b, out=add_to, **mixed)
    else:
        torch.mm(a, b, out=out, **mixed)


class _Chunk:
    """The blocks of some samples: logits first, then exponentials, then gradients.

    The label's logit is kept apart from the others. The loss is softplus(rest - label), where rest
    is the log-sum-exp of the others, and 1 - p of the label a sigmoid: exact for confident samples,
    too, where p has been rounded to 1.
    """

    def __init__(self, embeddings: Tensor, labels: Tensor, memory: Tensor, keep: bool):
        self.embeddings, self.labels, self.memory, self.keep = embeddings, labels, memory, keep
        self.blocks: list[tuple[slice, Tensor, Tensor]] = []
        self.rest = memory.new_full((len(labels),), -torch.inf)
        self.label_logit = torch.full_like(self.rest, torch.nan)  # if it is in no block
        self.label_slope = torch.ones_like(self.rest)

    def losses(self, weight: Tensor, block_size: int, softcap: float | None) -> Tensor:
        n, c = len(self.labels), len(weight)
        for start in range(0, c, block_size):
            classes = slice(start, min(start + block_size, c))
            width, offset = classes.stop - start, start if self.keep else 0
            block = self.memory[n * offset : n * (offset + width)].view(n, width)
            _multiply(self.embeddings, weight[classes].mT, out=block)
            top = self._to_exponentials(classes, block, softcap)
            if self.keep:
                self.blocks.append((classes, block, top))
        return F.softplus(self.rest - self.label_logit)

    def _to_exponentials(self, classes: slice, block: Tensor, softcap: float | None) -> Tensor:
        """exp(logit - the row's largest) without the label, times the slope of the softcap."""
        slope = None
        if softcap is not None:
            block.div_(softcap).tanh_()
            slope = 1 - block.square()
            block.mul_(softcap)
        inside = self._inside(classes)
        place = (self.labels - classes.start).clamp(0, block.shape[1] - 1)[:, None]
        at_place = block.gather(1, place)
        self.label_logit = torch.where(inside, at_place[:, 0], self.label_logit)
        block.scatter_(1, place, at_place.masked_fill(inside[:, None], -torch.inf))
        top = block.amax(1).clamp(min=torch.finfo(block.dtype).min)
        block.sub_(top[:, None]).exp_()
        self.rest = torch.logaddexp(self.rest, top + block.sum(1).log())
        if slope is not None and self.keep:
            block.mul_(slope)
            at_label = slope.gather(1, place)[:, 0]
            self.label_slope = torch.where(inside, at_label, self.label_slope)
        return top

    def add_gradients(
        self,
        weight: Tensor,
        scale: Tensor,
        by_embedding: Tensor | None,
        by_weight: Tensor | None,
        filter_eps: float | None,
    ) -> None:
        """Add scale times the gradients of this chunk's losses."""
        # Away from the label the gradient by the logits is p, at the label it is p - 1.
        missing = torch.sigmoid(self.rest - self.label_logit)
        log_sum = torch.logaddexp(self.rest, self.label_logit)
        at_label = -scale * missing * self.label_slope
        for classes, block, top in self.blocks:
            largest = (top - log_sum).exp()
            if filter_eps is not None:
                inside = self._inside(classes)
                error = torch.maximum(largest, torch.where(inside, missing, 0))
                if not bool((error >= filter_eps).any()):
                    at_label = torch.where(inside, 0, at_label)
                    continue
            block.mul_((largest * scale)[:, None])
            if _as_they_are(self.embeddings, weight):
                block = block.to(weight.dtype)
            if by_embedding is not None:
                _multiply(block, weight[classes], add_to=by_embedding)
            if by_weight is not None:
                _multiply(block.mT, self.embeddings, add_to=by_weight[classes])
        if by_embedding is not None:
            by_embedding += at_label[:, None] * weight[self.labels]
        if by_weight is not None:
            by_weight.index_add_(0, self.labels, at_label[:, None] * self.embeddings)

    def _inside(self, classes: slice) -> Tensor:
        return (self.labels >= classes.start) & (self.labels < classes.stop)
