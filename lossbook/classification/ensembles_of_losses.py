"""Ensembles: a new calibrated loss at every step, and a network boosted together (notebook 05).

EnsLoss draws the derivatives of a random convex, calibrated loss for each batch: dropout over loss
functions. GBNN grows a hidden layer by gradient boosting, a few units at a time.

References: B. Dai, "EnsLoss: Stochastic Calibrated Loss Ensembles for Preventing Overfitting in
Classification", ICML 2025, arXiv:2409.00908; S. Emami, G. Martínez-Muñoz, "Sequential Training of
Neural Networks with Gradient Boosting", IEEE Access 2023, arXiv:1909.12098.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lossbook._checks import class_labels, in_range, matrix, not_empty, one_of, positive, same_shape
from lossbook._numerics import Scalar, full_precision

SMALLEST_PULL = 1e-6
"""Every derivative is below minus this, so that the loss still falls where it is nearly flat."""

# EnsLoss ----------------------------------------------------------------------------------------


def ensloss(
    logits: Float[Tensor, " n"],
    targets: Float[Tensor, " n"] | Int[Tensor, " n"] | Bool[Tensor, " n"],
    *,
    box_cox: Scalar = 0.0,
    clip: Scalar = 1.0,
    tail_start: Scalar = 1.0,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    r"""EnsLoss: the gradient of a convex, calibrated loss that is drawn anew at every call.

    .. math:: L = \frac1n \sum_i g_i z_i, \qquad z_i = (2 t_i - 1)\, f_i

    with the slopes g of :func:`random_calibrated_derivatives`, which are held fixed. Only the
    gradient means something: that of :math:`\frac1n \sum_i \phi(z_i)` for a random loss
    :math:`\phi` with :math:`\phi'(z_i) = g_i`. The value is no loss, and falls below zero as the
    classifier gets better: never compare it, plot it or stop early on it.

    Args:
        logits: (n,), f, the scores for target 1.
        targets: (n,), t, 0 or 1.
        box_cox, clip, tail_start, generator: as in :func:`random_calibrated_derivatives`.

    Returns:
        A scalar whose gradient is that of the random loss.

    Raises:
        ValueError: for an empty batch, different shapes, or arguments out of range.

    Reference:
        B. Dai, ICML 2025, arXiv:2409.00908.
    """
    not_empty("logits", logits)
    same_shape("targets", targets, "logits", logits)
    (logits,) = full_precision(logits)
    margins = (2 * targets.to(logits.dtype) - 1) * logits
    slopes = random_calibrated_derivatives(
        margins, box_cox=box_cox, clip=clip, tail_start=tail_start, generator=generator
    )
    return (slopes * margins).mean()


def random_calibrated_derivatives(
    margins: Float[Tensor, " n"],
    *,
    box_cox: Scalar = 0.0,
    clip: Scalar = 1.0,
    tail_start: Scalar = 1.0,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " n"]:
    r"""Slopes at some margins that belong to a random convex and calibrated loss.

    .. math:: v = \min\big(\max(0, 1 + \lambda e)^{1/\lambda}, c\big), \quad
        e \sim \mathcal N(0, I), \qquad g_{(k)} = -v_{[k]} \Big/ \max\Big(1, \frac{z_{(k)}}{s}\Big)

    where :math:`z_{(1)} \le z_{(2)} \le \dots` are the margins in ascending order and
    :math:`v_{[1]} \ge v_{[2]} \ge \dots` the draws in descending order: the smallest margin gets
    the steepest slope. At :math:`\lambda = 0`, v is :math:`e^e`. So g is negative (with 1e-6 taken
    from it) and does not fall with the margin: for distinct margins there is a convex loss with
    these slopes, and its slope at zero is negative.

    Args:
        margins: (n,), the label's sign times the score.
        box_cox: the exponent lambda of the inverse Box-Cox map, in [-1, 1]. Half of the draws
            exceed 1 whatever it is; it shapes the other half, near 1 for -1 and down to 0 for 1.
        clip: c, positive; no slope is steeper.
        tail_start: s, positive; beyond it slopes are also divided by margin / s.
        generator: of the draws; None takes torch's global state. Under vmap with
            ``randomness="different"`` every replica draws its own.

    Returns:
        (n,), detached, between -c - 1e-6 and -1e-6.

    Raises:
        ValueError: for an empty batch or arguments out of range.

    Reference:
        B. Dai, ICML 2025, arXiv:2409.00908.
    """
    not_empty("margins", margins)
    in_range("box_cox", box_cox, at_least=-1, at_most=1)
    positive("clip", clip)
    positive("tail_start", tail_start)
    (margins,) = full_precision(margins.detach())
    noise = torch.randn(
        margins.shape, generator=generator, dtype=margins.dtype, device=margins.device
    )
    steepest_first = -_inverse_box_cox(noise, box_cox).clamp(max=clip).sort(descending=True).values
    rank = margins.argsort().argsort()
    tail = torch.where(margins > tail_start, margins / tail_start, 1)
    return steepest_first[rank] / tail - SMALLEST_PULL


def _inverse_box_cox(e: Tensor, exponent: Scalar) -> Tensor:
    """max(0, 1 + exponent e)^(1 / exponent), and its limit exp(e) at zero."""
    exponent = torch.as_tensor(exponent, dtype=e.dtype, device=e.device)
    is_log = exponent.abs() < 1e-6
    exponent = torch.where(is_log, 1.0, exponent)
    base = (1 + exponent * e).clamp(min=torch.finfo(e.dtype).tiny)
    return torch.where(is_log, e, base.log() / exponent).exp()


class EnsLoss(nn.Module):
    r""":func:`ensloss` whose Box-Cox exponent is drawn anew, between -1 and 1, every few calls.

    .. math:: \lambda \sim U(-1, 1) \quad \text{at calls } P, 2P, 3P, \dots

    The count of calls and the exponent are buffers: they follow ``.to()`` and ``state_dict()``, and
    under ``fit_replicas`` every replica has its own.

    Args:
        period: P, the calls from one exponent to the next, at least 1. The paper counts epochs:
            take as many calls as an epoch has batches.
        box_cox: the exponent to start with, in [-1, 1].
        clip, tail_start: as in :func:`random_calibrated_derivatives`.

    Returns:
        When called with logits (n,) and targets (n,): what :func:`ensloss` returns.

    Raises:
        ValueError: for arguments out of range.

    Reference:
        B. Dai, ICML 2025, arXiv:2409.00908 (the official code's ``period``).
    """

    def __init__(
        self,
        *,
        period: int,
        box_cox: float | int = 0.0,
        clip: float | int = 1.0,
        tail_start: float | int = 1.0,
    ):
        super().__init__()
        in_range("period", period, at_least=1)
        in_range("box_cox", box_cox, at_least=-1, at_most=1)
        positive("clip", clip)
        positive("tail_start", tail_start)
        self.period, self.clip, self.tail_start = period, clip, tail_start
        self.register_buffer("calls", torch.tensor(0))
        self.register_buffer("box_cox", torch.tensor(float(box_cox)))

    def forward(
        self,
        logits: Float[Tensor, " n"],
        targets: Float[Tensor, " n"] | Int[Tensor, " n"] | Bool[Tensor, " n"],
    ) -> Float[Tensor, ""]:
        self.calls = self.calls + 1
        fresh = 2 * torch.rand_like(self.box_cox) - 1
        self.box_cox = torch.where(self.calls % self.period == 0, fresh, self.box_cox)
        return ensloss(
            logits, targets, box_cox=self.box_cox, clip=self.clip, tail_start=self.tail_start
        )


# Gradient-boosted neural networks ---------------------------------------------------------------

KINDS = ("regression", "binary", "multiclass")


@dataclass(frozen=True)
class GBNNModel:
    """A hidden layer of sigmoid units that was trained in stages; made by :func:`gbnn_fit`.

    Attributes:
        kind: "regression", "binary" or "multiclass".
        intercept: (k,), the scores before the first stage; k = 1 but for "multiclass".
        hidden_weight: (t, j, d), of j units in each of t stages.
        hidden_bias: (t, j).
        output_weight: (t, k, j).
        output_bias: (t, k).
        step_lengths: (t,), rho.
    """

    kind: str
    intercept: Tensor
    hidden_weight: Tensor
    hidden_bias: Tensor
    output_weight: Tensor
    output_bias: Tensor
    step_lengths: Tensor

    def __len__(self) -> int:
        """Number of stages."""
        return len(self.step_lengths)

    def staged_scores(self, inputs: Float[Tensor, "n d"]) -> Float[Tensor, "stages n k"]:
        """The scores after 0, 1, ... all stages: values, the logit of target 1, or logits."""
        hidden = torch.einsum("nd,tjd->tnj", inputs, self.hidden_weight)
        hidden = torch.sigmoid(hidden + self.hidden_bias[:, None])
        outputs = torch.einsum("tnj,tkj->tnk", hidden, self.output_weight)
        added = self.step_lengths[:, None, None] * (outputs + self.output_bias[:, None])
        start = self.intercept.expand(1, *added.shape[1:])
        return torch.cat([start, added]).cumsum(0)

    def predict(
        self, inputs: Float[Tensor, "n d"], *, stages: int | None = None
    ) -> Float[Tensor, " n"] | Int[Tensor, " n"]:
        """Values, or labels of classes, from the first stages; None takes all."""
        scores = self.to_module(stages=stages)(inputs)
        if self.kind == "multiclass":
            return scores.argmax(-1)
        return scores.squeeze(-1) if self.kind == "regression" else (scores.squeeze(-1) > 0).long()

    def to_module(self, *, stages: int | None = None) -> nn.Sequential:
        """The first stages, glued into one network: linear, sigmoid, linear.

        Args:
            stages: between 1 and all of them; None takes all.

        Raises:
            ValueError: for a number of stages out of range.
        """
        stages = len(self) if stages is None else stages
        in_range("stages", stages, at_least=1, at_most=len(self))
        rho, hidden_weight = self.step_lengths[:stages], self.hidden_weight[:stages].flatten(0, 1)
        module = nn.Sequential(
            nn.Linear(hidden_weight.shape[1], len(hidden_weight)),
            nn.Sigmoid(),
            nn.Linear(len(hidden_weight), len(self.intercept)),
        ).to(hidden_weight)
        with torch.no_grad():
            module[0].weight.copy_(hidden_weight)
            module[0].bias.copy_(self.hidden_bias[:stages].flatten())
            weights = rho[:, None, None] * self.output_weight[:stages]
            module[2].weight.copy_(weights.movedim(1, 0).flatten(1))
            module[2].bias.copy_(self.intercept + rho @ self.output_bias[:stages])
        return module


def gbnn_fit(
    inputs: Float[Tensor, "n d"],
    targets: Float[Tensor, " n"] | Int[Tensor, " n"],
    *,
    steps: int = 200,
    units: int = 1,
    learning_rate: float | int = 1.0,
    subsample: float | int = 0.5,
    l2_weight: float | int = 1e-4,
    max_iterations: int = 200,
    seed: int = 0,
) -> GBNNModel:
    r"""GBNN: a network with one hidden layer, grown by gradient boosting.

    .. math:: F_t = F_{t-1} + \rho_t h_t, \qquad h_t(x) = W_t\, \sigma(V_t x + a_t) + b_t

    Each stage fits a network h of a few units to the residuals r on a subsample, by least squares
    with L-BFGS, and adds it with the length of one Newton step on all samples,

    .. math:: r = y - p(F_{t-1}), \qquad
        \rho_t = \eta\, \frac{\sum r\, h_t(x)}{\sum \ell''\, h_t(x)^2}, \qquad \ell'' = p\,(1 - p)

    where p is a sigmoid, a softmax (sums then run over classes, too), or, for regression, F itself;
    there :math:`\rho_t = \eta`. The paper's binary score is half a logit; here it is the logit.

    Args:
        inputs: (n, d), standardized.
        targets: (n,); integers are classes from 0 on, floats the values of a regression.
        steps: number of stages, at least 1.
        units: hidden units added by each stage, at least 1.
        learning_rate: eta, positive; the share of the Newton step that is taken.
        subsample: share of the samples that each stage is fitted to, in (0, 1].
        l2_weight: weight decay inside a stage, at least 0, divided by the size of the subsample:
            the default of scikit-learn's networks, which the official code uses.
        max_iterations: of L-BFGS in each stage, at least 1.
        seed: of initial weights and subsamples.

    Returns:
        The :class:`GBNNModel`, in the inputs' precision and on their device; the stages are fitted
        on the CPU in float64.

    Raises:
        ValueError: for an empty batch, targets of another length or of one class only, or arguments
            out of range.

    Reference:
        S. Emami, G. Martínez-Muñoz, IEEE Access 2023, arXiv:1909.12098.
    """
    matrix("inputs", inputs)
    for name, count in (("steps", steps), ("units", units), ("max_iterations", max_iterations)):
        in_range(name, count, at_least=1)
    positive("learning_rate", learning_rate)
    in_range("subsample", subsample, above=0, at_most=1)
    in_range("l2_weight", l2_weight, at_least=0)
    kind, wanted = _wanted_outputs(targets, len(inputs))
    random = np.random.default_rng(seed)
    x, wanted = inputs.detach().cpu().double(), wanted.cpu()
    intercept = _best_constant(kind, wanted)
    scores = intercept.expand_as(wanted)
    size = max(1, int(subsample * len(x)))

    stages = []
    with _one_thread():
        for _ in range(steps):
            residuals, curvature = _residuals(kind, scores, wanted)
            chosen = random.permutation(len(x))[:size]
            weights = _fit_units(
                x[chosen].numpy(),
                residuals[chosen].numpy(),
                units,
                l2_weight,
                max_iterations,
                random,
            )
            fitted = _outputs(x, *weights)
            rho = learning_rate * newton_step(residuals, curvature, fitted)
            if kind == "regression":
                rho = torch.full_like(rho, learning_rate)
            scores = scores + rho * fitted
            stages.append((*weights, rho))
    tensors = [torch.stack(parts).to(inputs) for parts in zip(*stages, strict=True)]
    return GBNNModel(kind, intercept.to(inputs), *tensors)


def newton_step(
    residuals: Float[Tensor, "n k"],
    curvature: Float[Tensor, "n k"],
    direction: Float[Tensor, "n k"],
) -> Float[Tensor, ""]:
    r"""How far along a direction h a quadratic model of the loss is smallest.

    .. math:: \rho = \frac{\sum r h}{\sum \ell'' h^2}

    Args:
        residuals: (n, k), r, the negative slopes of the loss.
        curvature: (n, k), its second derivatives; the model ignores mixed ones.
        direction: (n, k), h.

    Returns:
        A scalar; 0 where the loss is flat and has no slope.
    """
    slope = (residuals * direction).sum()
    return slope / (curvature * direction.square()).sum().clamp(min=1e-12)


def _wanted_outputs(targets: Tensor, n: int) -> tuple[str, Tensor]:
    """The kind of the task, and what the outputs should be: (n, k), float64."""
    if targets.is_floating_point():
        if targets.shape != (n,):
            raise ValueError(f"targets must have shape ({n},), got {tuple(targets.shape)}")
        return "regression", targets.double()[:, None]
    class_labels(targets, n, "targets")
    n_classes = int(targets.max()) + 1
    if len(targets.unique()) < 2:
        raise ValueError(f"targets must hold at least 2 classes, got only {int(targets[0])}")
    if n_classes == 2:
        return "binary", targets.double()[:, None]
    return "multiclass", F.one_hot(targets.long(), n_classes).double()


def _best_constant(kind: str, wanted: Tensor) -> Tensor:
    """The scores of stage 0: as in the official code, zero for more than two classes."""
    mean = wanted.mean(0)
    return {"regression": mean, "binary": mean.logit(), "multiclass": torch.zeros_like(mean)}[kind]


def _residuals(kind: str, scores: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """The negative slopes of the loss in the scores, and its second derivatives."""
    one_of("kind", kind, KINDS)
    if kind == "regression":
        return wanted - scores, torch.ones_like(scores)
    p = scores.sigmoid() if kind == "binary" else scores.softmax(-1)
    return wanted - p, p * (1 - p)


def _outputs(x: Tensor, hidden_weight, hidden_bias, output_weight, output_bias) -> Tensor:
    return torch.sigmoid(x @ hidden_weight.mT + hidden_bias) @ output_weight.mT + output_bias


def _fit_units(x, residuals, units, l2_weight, max_iterations, random) -> list[Tensor]:
    """Least squares by L-BFGS: hidden weight (j, d), bias (j,), output weight (k, j), bias (k,)."""
    from scipy.optimize import minimize

    d, k = x.shape[1], residuals.shape[1]
    shapes = [(units, d), (units,), (k, units), (k,)]
    # Glorot's uniform range for sigmoid units, also for biases, as scikit-learn has it.
    ranges = [(2 / (d + units)) ** 0.5] * 2 + [(2 / (units + k)) ** 0.5] * 2
    start = [random.uniform(-r, r, shape).ravel() for r, shape in zip(ranges, shapes, strict=True)]
    found = minimize(
        partial(_squared_error, x=x, residuals=residuals, shapes=shapes, l2_weight=l2_weight),
        np.concatenate(start),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": max_iterations, "maxfun": 10 * max_iterations, "gtol": 0},
    )
    return [torch.from_numpy(part) for part in _unflatten(found.x, shapes)]


def _one_thread() -> AbstractContextManager:
    """A few units are too little work to share: with two threads a stage takes twice as long.

    What limits the threads of NumPy comes with scikit-learn; without it the fit is only slower.
    """
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return nullcontext()
    return threadpool_limits(1)


def _unflatten(flat: np.ndarray, shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
    ends = list(accumulate(math.prod(shape) for shape in shapes))[:-1]
    return [part.reshape(s) for part, s in zip(np.split(flat, ends), shapes, strict=True)]


def _squared_error(flat, x, residuals, shapes, l2_weight) -> tuple[float, np.ndarray]:
    """Half the mean squared error of the units plus weight decay, and its gradient.

    Written out in NumPy: for a few units this is four times as fast as autograd.
    """
    from scipy.special import expit

    hidden_weight, hidden_bias, output_weight, output_bias = _unflatten(flat, shapes)
    hidden = expit(x @ hidden_weight.T + hidden_bias)
    error = hidden @ output_weight.T + output_bias - residuals
    decay = l2_weight / len(x)
    penalty = decay / 2 * (np.square(hidden_weight).sum() + np.square(output_weight).sum())
    slope = error / error.size
    slope_inside = (slope @ output_weight) * hidden * (1 - hidden)
    gradient = [
        slope_inside.T @ x + decay * hidden_weight,
        slope_inside.sum(0),
        slope.T @ hidden + decay * output_weight,
        slope.sum(0),
    ]
    value = np.square(error).mean() / 2 + penalty
    return value, np.concatenate([part.ravel() for part in gradient])
