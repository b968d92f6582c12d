"""Label-distributionally robust losses: the worst weighting of the classes' margins (notebook 02).

One temperature leads from the Crammer-Singer hinge (toward 0) through cross-entropy (1, without a
margin) to the mean margin (toward infinity), which is symmetric in the labels. In the adaptive
form each training example has a temperature of its own.

Reference for the whole module: D. Zhu, Y. Ying, T. Yang, "Label Distributionally Robust Losses for
Multi-class Classification: Consistency, Robustness and Adaptivity", ICML 2023, arXiv:2112.14869.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from lossbook._checks import class_labels, in_range, matrix, one_of
from lossbook._numerics import Scalar, full_precision
from lossbook.baselines import reduce

NORMALIZATIONS = ("softplus", "l1", "none")


def ldr_kl_loss(
    scores: Float[Tensor, "n c"],
    labels: Int[Tensor, " n"],
    *,
    temperature: Scalar = 10.0,
    margin: Scalar = 0.1,
    normalize: str = "softplus",
    reduction: str = "mean",
) -> Tensor:
    r"""LDR-KL: the worst weighting of the margins, less its divergence from even weights.

    .. math:: \ell = \max_{p} \sum_k p_k d_k - T\,\mathrm{KL}(p \,\|\, \tfrac1K)
        = T \log \Big( \tfrac1K \sum_k e^{d_k / T} \Big), \qquad
        d_k = \bar f_k - \bar f_y + m\,[k \ne y]

    with the scores f normalized to :math:`\bar f`. Toward T = 0 it is the Crammer-Singer hinge
    :math:`\max_k d_k`, at T = 1 with m = 0 and no normalization cross-entropy less log K, toward
    infinity the mean margin, whose sum over the labels is the same for all scores.

    Args:
        scores: (n, c), unbounded.
        labels: (n,), integers below c.
        temperature: T > 0, finite. The unit is that of the normalized scores, whose mean size
            is 1.
        margin: m, at least 0.
        normalize: "softplus" (the authors' choice for this loss), "l1" or "none", see
            :func:`normalize_scores`.
        reduction: "mean", "sum" or "none".

    Returns:
        The reduced loss. It is below 0 for samples whose label is well ahead.

    Raises:
        ValueError: for empty scores, labels that are not n integers, a temperature or margin out
            of range, an unknown normalization or reduction.

    Reference:
        D. Zhu, Y. Ying, T. Yang, ICML 2023, arXiv:2112.14869.
    """
    in_range("temperature", temperature, above=0, below=math.inf)
    differences = _differences(scores, labels, margin, normalize)
    return reduce(_soft_maximum(differences, temperature), reduction)


def normalize_scores(
    scores: Float[Tensor, "n c"], *, normalize: str = "softplus"
) -> Float[Tensor, "n c"]:
    r"""Scores of mean size 1, so that a temperature means the same for each sample.

    .. math:: \bar f_k = \frac{g(f_k)}{\frac1K \sum_j |g(f_j)|}, \qquad
        g(f) = \log(1 + e^f) \ \text{(softplus)} \quad\text{or}\quad g(f) = f \ \text{(l1)}

    Args:
        scores: (n, c), unbounded.
        normalize: "softplus" for positive scores, "l1" for scores that keep their signs, or "none"
            for the scores as they are.

    Returns:
        The scores, (n, c). Rows of zeros stay zero under "l1", with a large slope.

    Raises:
        ValueError: for empty scores or an unknown normalization.

    Reference:
        D. Zhu, Y. Ying, T. Yang, ICML 2023, arXiv:2112.14869 (the authors' code).
    """
    matrix("scores", scores)
    one_of("normalize", normalize, NORMALIZATIONS)
    (scores,) = full_precision(scores)
    if normalize == "softplus":
        # In logarithms: the softplus of very negative scores would underflow, and 0 / 0 follow.
        return scores.shape[-1] * _log_softplus(scores).softmax(-1)
    if normalize == "l1":
        return scores / scores.abs().mean(-1, keepdim=True).clamp(min=1e-8)
    return scores


def adaptive_temperature(
    probabilities: Float[Tensor, "n c"],
    *,
    reference_temperature: Scalar = 10.0,
    alpha: Scalar = 2.0,
) -> Float[Tensor, " n"]:
    r"""The temperature that the adaptive loss prefers for a weighting of the classes.

    .. math:: T = \operatorname*{arg\,max}_{T \ge 0} -T\,\mathrm{KL}(p \,\|\, \tfrac1K)
        - \frac{\alpha \log K}{2 T_0} (T - T_0)^2
        = T_0 \Big( 1 - \frac{\mathrm{KL}(p \,\|\, \frac1K)}{\alpha \log K} \Big)

    Even weights get :math:`T_0`; weights on a single class :math:`T_0 (1 - 1/\alpha)`, the least.

    Args:
        probabilities: (n, c), each row a distribution.
        reference_temperature: T_0 > 0, finite.
        alpha: above 1, how firmly temperatures are held at T_0.

    Returns:
        The temperatures, (n,). A single class gets T_0.

    Raises:
        ValueError: for empty probabilities, a reference temperature that is not positive and finite
            or an alpha that is not above 1.

    Reference:
        D. Zhu, Y. Ying, T. Yang, ICML 2023, arXiv:2112.14869.
    """
    matrix("probabilities", probabilities)
    _check_adaptive(reference_temperature, alpha)
    (p,) = full_precision(probabilities)
    n_classes = p.shape[-1]
    p = p.clamp(min=1e-30)  # the slope of p log p has no limit at 0
    divergence = (p * (n_classes * p).log()).sum(-1)
    return reference_temperature * (1 - divergence / (alpha * _log_classes(n_classes)))


def aldr_kl_loss(
    scores: Float[Tensor, "n c"],
    labels: Int[Tensor, " n"],
    temperatures: Float[Tensor, " n"],
    *,
    reference_temperature: Scalar = 10.0,
    alpha: Scalar = 2.0,
    margin: Scalar = 0.1,
    normalize: str = "l1",
    reduction: str = "mean",
) -> Tensor:
    r"""ALDR-KL for given temperatures: LDR-KL less a penalty for leaving the reference.

    .. math:: \ell = T_i \log \Big( \tfrac1K \sum_k e^{d_k / T_i} \Big)
        - \frac{\alpha \log K}{2 T_0} (T_i - T_0)^2

    with the differences d of :func:`ldr_kl_loss`. The full loss is the maximum over the
    temperatures; :class:`AdaptiveLDRKLLoss` keeps and improves them during training.

    Args:
        scores: (n, c), unbounded.
        labels: (n,), integers below c.
        temperatures: (n,), positive, one for each sample.
        reference_temperature: T_0 > 0, finite.
        alpha: above 1, how firmly temperatures are held at T_0.
        margin: m, at least 0.
        normalize: "softplus", "l1" (the authors' choice for this loss) or "none", see
            :func:`normalize_scores`.
        reduction: "mean", "sum" or "none".

    Returns:
        The reduced loss.

    Raises:
        ValueError: for empty scores, labels that are not n integers, temperatures of another shape,
            numbers out of range, an unknown normalization or reduction.

    Reference:
        D. Zhu, Y. Ying, T. Yang, ICML 2023, arXiv:2112.14869.
    """
    _check_adaptive(reference_temperature, alpha)
    differences = _differences(scores, labels, margin, normalize)
    if temperatures.shape != labels.shape:
        raise ValueError(
            f"temperatures must have shape {tuple(labels.shape)}, got {tuple(temperatures.shape)}"
        )
    (temperatures,) = full_precision(temperatures)
    losses = _soft_maximum(differences, temperatures[:, None])
    stiffness = alpha * _log_classes(scores.shape[-1]) / reference_temperature
    penalty = stiffness / 2 * (temperatures - reference_temperature).square()
    return reduce(losses - penalty, reduction)


class AdaptiveLDRKLLoss(nn.Module):
    r"""ALDR-KL with its state: a temperature for each training example.

    Each call in training mode first renews the temperatures of its batch by the closed form of
    :func:`adaptive_temperature`, at the weights that the scores and the old temperatures give,

    .. math:: p = \operatorname{softmax}(\bar f / T_i), \qquad
        T_i \leftarrow T_0 \Big( 1 - \frac{\mathrm{KL}(p \,\|\, \frac1K)}{\alpha \log K} \Big),

    and returns :func:`aldr_kl_loss` at the new ones, through which no gradient flows. As in the
    authors' code p knows neither the margin nor the label, and 1e-5 is added before it is
    normalized again.

    The buffer holds :math:`T_i / T_0`, so that replicas that are trained together may differ in
    :math:`T_0`; for the same reason the numbers are arguments of the call. In eval mode a call
    leaves the temperatures as they are.

    Args:
        n_examples: number of training examples, at least 1.

    Attributes:
        relative_temperatures: (n_examples,), between 1 - 1 / alpha and 1, at first 1.

    Returns:
        From ``loss(scores, labels, index, reference_temperature=10.0, alpha=2.0, margin=0.1,
        normalize="l1", reduction="mean")`` the reduced loss, where index (n,) numbers the batch's
        examples within the training set, each once.

    Raises:
        ValueError: for fewer than one example, an index that is not n integers, and as
            :func:`aldr_kl_loss`.

    Reference:
        D. Zhu, Y. Ying, T. Yang, ICML 2023, arXiv:2112.14869.
    """

    relative_temperatures: Tensor

    def __init__(self, n_examples: int):
        super().__init__()
        in_range("n_examples", n_examples, at_least=1)
        self.register_buffer("relative_temperatures", torch.ones(n_examples))

    def forward(
        self,
        scores: Float[Tensor, "n c"],
        labels: Int[Tensor, " n"],
        index: Int[Tensor, " n"],
        *,
        reference_temperature: Scalar = 10.0,
        alpha: Scalar = 2.0,
        margin: Scalar = 0.1,
        normalize: str = "l1",
        reduction: str = "mean",
    ) -> Tensor:
        _check_adaptive(reference_temperature, alpha)
        matrix("scores", scores)
        class_labels(index, len(scores), "index")
        if self.training:
            self._renew(scores.detach(), index, reference_temperature, alpha, normalize)
        return aldr_kl_loss(
            scores,
            labels,
            reference_temperature * self.relative_temperatures[index],
            reference_temperature=reference_temperature,
            alpha=alpha,
            margin=margin,
            normalize=normalize,
            reduction=reduction,
        )

    def _renew(self, scores, index, reference_temperature, alpha, normalize) -> None:
        old = reference_temperature * self.relative_temperatures[index]
        p = (normalize_scores(scores, normalize=normalize) / old[:, None]).softmax(-1) + 1e-5
        share = adaptive_temperature(F.normalize(p, p=1), reference_temperature=1.0, alpha=alpha)
        state = self.relative_temperatures
        # Out of place: under vmap each replica gets a buffer of its own.
        self.relative_temperatures = state.scatter(0, index, share.to(state.dtype))


def _differences(scores: Tensor, labels: Tensor, margin: Scalar, normalize: str) -> Tensor:
    """How far each class is above the label, plus the margin; 0 for the label itself."""
    in_range("margin", margin, at_least=0)
    scores = normalize_scores(scores, normalize=normalize)
    class_labels(labels, len(scores))
    labels = labels.long()[:, None]
    wrong = labels != torch.arange(scores.shape[-1], device=scores.device)
    return torch.where(wrong, scores - scores.gather(-1, labels) + margin, 0.0)


def _soft_maximum(differences: Tensor, temperature: Scalar | Tensor) -> Tensor:
    """T log mean exp(d / T): from the maximum, T toward 0, to the mean, T toward infinity."""
    top = differences.amax(-1, keepdim=True).detach()
    z = (differences - top) / temperature
    mean = z.exp().mean(-1, keepdim=True)
    # At a high temperature the mean is close to 1, and its logarithm would lose all digits.
    near_one = torch.log1p(z.expm1().mean(-1, keepdim=True).clamp(min=-0.5))
    return (top + temperature * torch.where(mean > 0.5, near_one, mean.log())).squeeze(-1)


def _log_softplus(scores: Tensor) -> Tensor:
    far_below = scores < -30  # there log(1 + e^f) is e^f
    return torch.where(far_below, scores, F.softplus(scores.clamp(min=-30)).log())


def _log_classes(n_classes: int) -> float:
    return math.log(n_classes) if n_classes > 1 else 1.0  # one class: the divergence is 0


def _check_adaptive(reference_temperature: Scalar, alpha: Scalar) -> None:
    in_range("reference_temperature", reference_temperature, above=0, below=math.inf)
    in_range("alpha", alpha, above=1)
