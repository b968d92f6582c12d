"""Confidence after training and during it: correctness-aware calibration and DCO (notebook 06).

A calibrator divides the logits of a trained classifier by a temperature; the correctness-aware
loss says which temperature. Direct coverage optimization (DCO) trains a model whose answers will
be sampled several times, and needs no more confidence than that many tries ask for.

References for the whole module: Y. Liu, L. Wang, Y. Zou, J. Zou, L. Zheng, "Optimizing Calibration
by Gaining Aware of Prediction Correctness", 2024, arXiv:2404.13016; F. Chen, A. Raventós, N. Cheng,
S. Ganguli, S. Druckmann, "Rethinking Fine-Tuning when Scaling Test-Time Compute: Limiting
Confidence Improves Mathematical Reasoning", NeurIPS 2025, arXiv:2502.07154.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lossbook._checks import class_labels, in_range, matrix, not_empty
from lossbook._numerics import Scalar, full_precision
from lossbook.baselines import reduce

# Correctness-aware calibration ------------------------------------------------------------------


def correctness_aware_loss(
    logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"], *, balanced: bool = False
) -> Float[Tensor, ""]:
    r"""Correctness-aware loss: confidence should be 1 on right predictions and 0 on wrong ones.

    .. math:: L = \frac1n \sum_i (\hat p_i - c_i)^2, \qquad
        \hat p_i = \max_k \operatorname{softmax}(\text{logits}_i)_k, \qquad
        c_i = [\arg\max_k \text{logits}_{ik} = y_i]

    For a calibrator, the logits are the classifier's divided by a temperature, one for all or one
    for each sample: ``correctness_aware_loss(logits / temperature, labels)``.

    Args:
        logits: (n, c), already divided by the temperature.
        labels: (n,), integers below c.
        balanced: whether right and wrong predictions count as one half each, however many there
            are, as in the authors' code. It moves the best confidence from a group's accuracy a to
            a (1 - A) / (a (1 - A) + (1 - a) A), with A the accuracy of the batch.

    Returns:
        The mean over samples; balanced, the mean of the right ones' mean and the wrong ones' mean
        (where one of the two is missing, the other's; the authors' weights give 0 / 0 there).

    Raises:
        ValueError: for an empty batch or labels that are not n integers.

    Reference:
        Y. Liu et al., 2024, arXiv:2404.13016.
    """
    matrix("logits", logits)
    class_labels(labels, len(logits))
    (logits,) = full_precision(logits)
    largest, prediction = logits.max(-1)
    confidence = torch.exp(largest - torch.logsumexp(logits, -1))
    correct = (prediction == labels).to(logits.dtype)
    losses = (confidence - correct).square()
    if not balanced:
        return losses.mean()
    groups = torch.stack([correct, 1 - correct])
    sizes = groups.sum(-1)
    means = (groups * losses).sum(-1) / sizes.clamp(min=1)
    return means.sum() / (sizes > 0).sum()


def transform_features(
    logits: Float[Tensor, "n c"], transformed_logits: Float[Tensor, "m n c"], *, top: int = 4
) -> Float[Tensor, "n f"]:
    r"""What a calibrator sees: whether a prediction survives small changes of its input.

    .. math:: \phi_i = \big( \operatorname{softmax}(z^{(t)}_i)_k \big)_{t = 1..m,\ k \in K_i},
        \qquad K_i = \text{the classes with the largest logits of the original input}

    Args:
        logits: (n, c), of the inputs as they are.
        transformed_logits: (m, n, c), of m transformed copies (turned, shifted, blurred, ...).
        top: how many classes to look at, at least 1; all if there are fewer.

    Returns:
        (n, m * min(top, c)), in [0, 1]: for each copy the probabilities of the original's top
        classes, the likeliest first.

    Raises:
        ValueError: for an empty batch, shapes that do not match or a top below 1.

    Reference:
        Y. Liu et al., 2024, arXiv:2404.13016.
    """
    matrix("logits", logits)
    not_empty("transformed_logits", transformed_logits)
    if transformed_logits.ndim != 3 or transformed_logits.shape[1:] != logits.shape:
        raise ValueError(
            f"transformed_logits must have shape (m, {logits.shape[0]}, {logits.shape[1]}), "
            f"got {tuple(transformed_logits.shape)}"
        )
    in_range("top", top, at_least=1)
    logits, transformed_logits = full_precision(logits, transformed_logits)
    classes = logits.topk(min(top, logits.shape[-1]), dim=-1).indices
    probabilities = transformed_logits.softmax(-1)
    index = classes.expand(len(probabilities), *classes.shape)
    return probabilities.gather(-1, index).transpose(0, 1).flatten(1)


class TemperatureNet(nn.Module):
    r"""A calibrator: a small network from features of an input to its temperature.

    .. math:: T(\phi) = \text{low}^{1 - s}\, \text{high}^s, \qquad
        s = \sigma\big(w \cdot \operatorname{relu}(A \phi + a) + b\big)

    It starts at T = 1 for every input. The authors' code clamps a linear output to [low, high]
    instead; wherever that starts below low, as it does for about half of all initial weights, it
    gets no gradient and stays there.

    Args:
        n_features: width of the features, at least 1.
        hidden: hidden units, at least 1.
        low: the lowest temperature, in (0, 1).
        high: the highest temperature, above 1.

    Raises:
        ValueError: for arguments out of these ranges.

    Reference:
        Y. Liu et al., 2024, arXiv:2404.13016.
    """

    def __init__(
        self, n_features: int, *, hidden: int = 5, low: float | int = 0.1, high: float | int = 10
    ):
        super().__init__()
        in_range("n_features", n_features, at_least=1)
        in_range("hidden", hidden, at_least=1)
        in_range("low", low, above=0, below=1)
        in_range("high", high, above=1)
        self.log_low, self.log_high = math.log(low), math.log(high)
        self.hidden = nn.Linear(n_features, hidden)
        self.out = nn.Linear(hidden, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.constant_(self.out.bias, math.log(-self.log_low / self.log_high))

    def forward(self, features: Float[Tensor, "n f"]) -> Float[Tensor, "n 1"]:
        share = torch.sigmoid(self.out(self.hidden(features).relu()))
        return torch.exp(self.log_low + (self.log_high - self.log_low) * share)


# Direct coverage optimization -------------------------------------------------------------------

LOG_TINY = -80.0
"""Probabilities below e^-80 are so small that (1 - p)^N is 1 - N p to machine precision."""


def dco_loss(
    log_probabilities: Float[Tensor, " n"], *, n_tries: Scalar = 16, reduction: str = "mean"
) -> Tensor:
    r"""Direct coverage optimization: minus the log-probability that one of N tries is right.

    .. math:: \ell^N = -\log\big(1 - (1 - p)^N\big)

    N = 1 is cross-entropy. The gradient is cross-entropy's times :func:`dco_factor`, which is near
    1 for p far below 1 / N and vanishes above.

    Args:
        log_probabilities: (n,), log p of each sample's right answer, at most 0. The answer is all
            of a sequence: sum the log-probabilities of its tokens first.
        n_tries: N, at least 1; need not be whole.
        reduction: "mean", "sum" or "none".

    Returns:
        The reduced loss.

    Raises:
        ValueError: for an empty batch, an n_tries below 1 or an unknown reduction.

    Reference:
        F. Chen et al., NeurIPS 2025, arXiv:2502.07154.
    """
    not_empty("log_probabilities", log_probabilities)
    in_range("n_tries", n_tries, at_least=1)
    (log_p,) = full_precision(log_probabilities)
    return reduce(-_log_coverage(log_p, n_tries), reduction)


def _log_coverage(log_p: Tensor, n_tries: Scalar) -> Tensor:
    """log(1 - (1 - p)^N); each branch gets inputs at which it and its slope are finite."""
    n = torch.as_tensor(n_tries, dtype=log_p.dtype, device=log_p.device)
    half = -math.log(2)
    miss = -torch.expm1(log_p.clamp(min=half))
    likely = torch.log1p(-(miss**n))
    log_miss = n * torch.log1p(-torch.exp(log_p.clamp(LOG_TINY, half)))
    rare = torch.log(-torch.expm1(log_miss.clamp(min=half)))
    common = torch.log1p(-torch.exp(log_miss.clamp(max=half)))
    unlikely = torch.where(log_miss > half, rare, common)
    tiny = log_p + torch.log(n)
    return torch.where(log_p > half, likely, torch.where(log_p > LOG_TINY, unlikely, tiny))


def dco_factor(
    probabilities: Float[Tensor, "..."], *, n_tries: Scalar = 16
) -> Float[Tensor, "..."]:
    r"""How much of cross-entropy's gradient direct coverage optimization keeps: F(N, p).

    .. math:: F(N, p) = \frac{N (1 - p)^{N-1}\, p}{1 - (1 - p)^N}

    Args:
        probabilities: p of the right answer, any shape, in [0, 1].
        n_tries: N, at least 1.

    Returns:
        F, in [0, 1], of the same shape: 1 everywhere for N = 1, 1 in the limit p = 0.

    Raises:
        ValueError: for an n_tries below 1.

    Reference:
        F. Chen et al., NeurIPS 2025, arXiv:2502.07154.
    """
    in_range("n_tries", n_tries, at_least=1)
    (p,) = full_precision(probabilities)
    p = p.clamp(math.exp(LOG_TINY), 1 - torch.finfo(p.dtype).eps)
    log_miss = torch.log1p(-p)
    return n_tries * torch.exp((n_tries - 1) * log_miss) * p / -torch.expm1(n_tries * log_miss)


def pass_at_n(probabilities: Float[Tensor, "..."], *, n_tries: Scalar = 16) -> Float[Tensor, "..."]:
    r"""The probability that at least one of N independent samples is the right answer.

    .. math:: C_N(p) = 1 - (1 - p)^N

    Args:
        probabilities: p of the right answer, any shape, in [0, 1].
        n_tries: N, at least 1.

    Returns:
        C_N(p), of the same shape; its mean over a test set is that set's pass@N.

    Raises:
        ValueError: for an n_tries below 1.

    Reference:
        F. Chen et al., NeurIPS 2025, arXiv:2502.07154.
    """
    in_range("n_tries", n_tries, at_least=1)
    (p,) = full_precision(probabilities)
    return 1 - (1 - p) ** n_tries


def optimal_pass_at_n_policy(
    probabilities: Float[Tensor, "... k"], *, n_tries: Scalar = 16
) -> Float[Tensor, "... k"]:
    r"""From which distribution to draw N answers, if answer i is right with probability q_i.

    It maximizes :math:`\sum_i q_i (1 - (1 - p_i)^N)` over distributions p. Where p_i > 0, the
    derivatives :math:`N q_i (1 - p_i)^{N-1}` are equal, so that

    .. math:: p_i = \max(0,\ 1 - s\, r_i), \qquad r_i = (q_1 / q_i)^{1/(N-1)}, \qquad
        s = \frac{m - 1}{r_1 + \dots + r_m}

    for the answers in order of q, with the largest m for which p_m > 0.

    Args:
        probabilities: (..., k), q: each row a distribution.
        n_tries: N, at least 1. At 1 all goes to the likeliest answer (to several, if they tie).

    Returns:
        (..., k), the best p. For N > 1 at least two answers get some, if q gives them any.

    Raises:
        ValueError: for an n_tries below 1.

    Reference:
        F. Chen et al., NeurIPS 2025, arXiv:2502.07154 (the closed form is worked out here).
    """
    in_range("n_tries", n_tries, at_least=1)
    (q,) = full_precision(probabilities)
    n = torch.as_tensor(n_tries, dtype=q.dtype, device=q.device)
    log_q = q.clamp(min=torch.finfo(q.dtype).tiny).log()
    # At N = 1 every answer but the likeliest is out of reach; e^80 is far enough.
    log_r = (log_q.amax(-1, keepdim=True) - log_q) / (n - 1).clamp(min=1e-6)
    r, order = log_r.clamp(max=80).exp().sort(-1)
    count = torch.arange(1, q.shape[-1] + 1, dtype=q.dtype, device=q.device)
    used = (count - 1) * r < r.cumsum(-1)
    s = (used.sum(-1, keepdim=True) - 1) / torch.where(used, r, 0).sum(-1, keepdim=True)
    p = torch.where(used, 1 - s * r, 0)
    return p.gather(-1, order.argsort(-1))
