"""Optimizers on stacked parameters, where each replica has its own learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lossbook._checks import one_of

OPTIMIZERS = ("adam", "sgd")


class StackedOptimizer:
    """Adam or SGD on stacked parameters, where each replica has its own learning rate.

    The same updates as ``torch.optim.AdamW`` and ``torch.optim.SGD``, which act elementwise but
    take one learning rate for all. Gradients and moments of all parameters lie side by side in one
    tensor, so that a step is a dozen operations however many layers there are.

    Args:
        parameters: tensors with a first dimension of R replicas.
        name: "adam" (decoupled weight decay) or "sgd" (with momentum).
        learning_rate: shape (R,).
        weight_decay: shape (R,).
        momentum: of "sgd".
        betas: decay rates of Adam's two moments.
        epsilon: added to the root of Adam's second moment.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        name: str,
        learning_rate: Tensor,
        weight_decay: Tensor,
        *,
        momentum: float = 0.9,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
    ):
        one_of("name", name, OPTIMIZERS)
        self.parameters = parameters
        self.learning_rate, self.weight_decay = learning_rate[:, None], weight_decay[:, None]
        self.decays = bool((weight_decay != 0).any())
        self.momentum, self.betas, self.epsilon = momentum, betas, epsilon
        self.update = self._adam if name == "adam" else self._sgd
        moments = 2 if name == "adam" else 1
        self.moments = [[torch.zeros_like(_rows(p)) for _ in range(moments)] for p in parameters]
        self.counts = [0] * len(parameters)
        self.updated: list[int] = []
        self.groups: list[_Group] = []

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor | None], active: Tensor) -> None:
        """Update the replicas where ``active``, shape (R,), is true; others stay as they are.

        Gradients of other replicas may hold anything; a gradient of None leaves its parameter.
        """
        self.step_joined(self.join(gradients), active)

    @torch.no_grad()
    def join(self, gradients: Sequence[Tensor | None]) -> list[Tensor]:
        """Return the gradients side by side, (R, elements): one tensor for each dtype."""
        updated = [i for i, gradient in enumerate(gradients) if gradient is not None]
        if updated != self.updated:
            self._regroup(updated)
        return [_side_by_side([gradients[i] for i in group.members]) for group in self.groups]

    @torch.no_grad()
    def step_joined(self, gradients: Sequence[Tensor], active: Tensor) -> None:
        """Update as :meth:`step`, with what :meth:`join` returned."""
        on = active[:, None]
        for group, gradient in zip(self.groups, gradients, strict=True):
            for i in group.members:
                self.counts[i] += 1
            parameters = [self.parameters[i] for i in group.members]
            gradient = torch.where(on, gradient, 0.0)
            rate = (self.learning_rate * on).to(gradient.dtype)
            decay = self.weight_decay.to(gradient.dtype)
            count = self.counts[i]
            change = self.update(parameters, gradient, rate, decay, on, count, *group.moments)
            for parameter, part in zip(parameters, change.split(group.sizes, 1), strict=True):
                parameter.sub_(part.view_as(parameter))

    def _regroup(self, updated: list[int]) -> None:
        """Put those parameters together that have one dtype and as many steps behind them."""
        groups: dict[tuple, list[int]] = {}
        for i in updated:
            groups.setdefault((self.parameters[i].dtype, self.counts[i]), []).append(i)
        self.updated, self.groups = updated, []
        for members in groups.values():
            sizes = [self.moments[i][0].shape[1] for i in members]
            columns = zip(*(self.moments[i] for i in members), strict=True)
            moments = [_side_by_side(column) for column in columns]
            for i, *parts in zip(members, *(m.split(sizes, 1) for m in moments), strict=True):
                self.moments[i] = parts
            self.groups.append(_Group(members, sizes, moments))

    def _adam(self, parameters, gradient, rate, decay, on, count, mean, square):
        first, second = self.betas
        moves = on.to(gradient.dtype)
        mean.lerp_(gradient, (1 - first) * moves)
        square.lerp_(gradient * gradient, (1 - second) * moves)
        if self.decays:
            for parameter in parameters:
                parameter.mul_(as_column(1 - rate * decay, parameter))
        scale = (square / (1 - second**count)).sqrt_().add_(self.epsilon)
        return (mean / scale).mul_(rate / (1 - first**count))

    def _sgd(self, parameters, gradient, rate, decay, on, count, velocity):
        if self.decays:
            gradient = gradient + decay * _side_by_side(parameters) * on
        torch.where(on, self.momentum * velocity + gradient, velocity, out=velocity)
        return velocity * rate


class _Group(NamedTuple):
    """Parameters that are updated together, by their places, and their moments side by side."""

    members: list[int]
    sizes: list[int]
    moments: list[Tensor]


def _rows(stacked: Tensor) -> Tensor:
    return stacked.reshape(len(stacked), -1)


def _side_by_side(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([_rows(tensor) for tensor in tensors], 1)


def as_column(per_replica: Tensor, like: Tensor) -> Tensor:
    """Reshape (R,) to (R, 1, ...), to broadcast against a stacked tensor."""
    return per_replica.reshape(-1, *[1] * (like.dim() - 1))


def all_finite(gradients: Sequence[Tensor | None], like: Tensor) -> Tensor:
    """Say for each replica whether all of its gradients are finite: no sync with the device."""
    # 0 * g sums to zero unless an element is infinite or NaN; faster than isfinite().all().
    sums = [_rows(g * 0).sum(1) for g in gradients if g is not None]
    return (torch.stack(sums) == 0).all(0)


def clip_per_replica(gradients: Sequence[Tensor | None], clip_norm: float) -> list[Tensor | None]:
    """Scale each replica's gradient to a norm of at most clip_norm, over all parameters."""
    present = [gradient for gradient in gradients if gradient is not None]
    norms = [torch.linalg.vector_norm(_rows(g), dim=1) for g in present]
    norm = torch.linalg.vector_norm(torch.stack(norms), dim=0)
    # The same guard against a norm of zero as torch.nn.utils.clip_grad_norm_.
    scale = (clip_norm / (norm + 1e-6)).clamp(max=1.0)
    return [None if g is None else g * as_column(scale, g) for g in gradients]


def torch_optimizer(optimizer, parameters, learning_rate, weight_decay, momentum):
    if callable(optimizer):
        return optimizer(parameters)
    one_of("optimizer", optimizer, OPTIMIZERS)
    if optimizer == "adam":
        return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay)
    return torch.optim.SGD(
        parameters, lr=learning_rate, momentum=momentum, weight_decay=weight_decay
    )
