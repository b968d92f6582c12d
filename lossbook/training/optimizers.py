"""Optimizers on stacked parameters, where each replica has its own learning rate."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lossbook._checks import one_of

OPTIMIZERS = ("adam", "sgd")


class StackedOptimizer:
    """Adam or SGD on stacked parameters, where each replica has its own learning rate.

    The same updates as ``torch.optim.AdamW`` and ``torch.optim.SGD``, which act elementwise but
    take one learning rate for all.

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
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.decays = bool((weight_decay != 0).any())
        self.momentum, self.betas, self.epsilon = momentum, betas, epsilon
        self.update = self._adam if name == "adam" else self._sgd
        moments = 2 if name == "adam" else 1
        self.moments = [[torch.zeros_like(p) for _ in range(moments)] for p in parameters]
        self.counts = [0] * len(self.parameters)

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor | None], active: Tensor) -> None:
        """Update the replicas where ``active``, shape (R,), is true; others stay as they are.

        Gradients of other replicas may hold anything; a gradient of None leaves its parameter.
        """
        for i, (parameter, gradient) in enumerate(zip(self.parameters, gradients, strict=True)):
            if gradient is None:
                continue
            self.counts[i] += 1
            on = as_column(active, parameter)
            gradient = torch.where(on, gradient, 0.0)
            rate = as_column(self.learning_rate, parameter) * on
            decay = as_column(self.weight_decay, parameter)
            self.update(parameter, gradient, rate, decay, on, self.counts[i], *self.moments[i])

    def _adam(self, parameter, gradient, rate, decay, on, count, mean, square):
        first, second = self.betas
        moves = on.to(parameter.dtype)
        mean.lerp_(gradient, (1 - first) * moves)
        square.lerp_(gradient * gradient, (1 - second) * moves)
        if self.decays:
            parameter.mul_(1 - rate * decay)
        scale = (square / (1 - second**count)).sqrt_().add_(self.epsilon)
        parameter.sub_(mean / scale * (rate / (1 - first**count)))

    def _sgd(self, parameter, gradient, rate, decay, on, count, velocity):
        if self.decays:
            gradient = gradient + decay * parameter * on
        torch.where(on, self.momentum * velocity + gradient, velocity, out=velocity)
        parameter.sub_(velocity * rate)


def as_column(per_replica: Tensor, like: Tensor) -> Tensor:
    """Reshape (R,) to (R, 1, ...), to broadcast against a stacked tensor."""
    return per_replica.reshape(-1, *[1] * (like.dim() - 1))


def all_finite(gradients: Sequence[Tensor | None], like: Tensor) -> Tensor:
    """Say for each replica whether all of its gradients are finite: no sync with the device."""
    # 0 * g sums to zero unless an element is infinite or NaN; faster than isfinite().all().
    sums = [(g * 0).reshape(len(like), -1).sum(1) for g in gradients if g is not None]
    return (torch.stack(sums) == 0).all(0)


def clip_per_replica(gradients: Sequence[Tensor | None], clip_norm: float) -> list[Tensor | None]:
    """Scale each replica's gradient to a norm of at most clip_norm, over all parameters."""
    present = [gradient for gradient in gradients if gradient is not None]
    norms = [torch.linalg.vector_norm(g.reshape(len(g), -1), dim=1) for g in present]
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
