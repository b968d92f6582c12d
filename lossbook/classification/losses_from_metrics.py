"""Losses made from metrics: confusion matrices that bend, and rankings (notebook 04).

The upper half turns metrics of a confusion matrix (F-score, balanced accuracy, Dice) into losses,
the lower half metrics of a ranking (AUC, partial AUC, profit at the top).

References for the upper half: D. Han, N. Moniz, N. V. Chawla, "AnyLoss: Transforming Classification
Metrics into Loss Functions", KDD 2024, arXiv:2405.14745; X. Li, X. Sun, Y. Meng, J. Liang, F. Wu,
J. Li, "Dice Loss for Data-imbalanced NLP Tasks", ACL 2020, arXiv:1911.02855.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lossbook._checks import (
    class_labels,
    in_range,
    matrix,
    not_empty,
    one_of,
    positive,
    same_shape,
)
from lossbook._numerics import Scalar, full_precision, log_sigmoid, log_sum_exp
from lossbook.baselines import reduce
from lossbook.chunking import mean_over_anchors

# Confusion matrices ----------------------------------------------------------------------------

Targets = Float[Tensor, " n"] | Int[Tensor, " n"]
Confusion = tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]


def soft_confusion(
    logits: Float[Tensor, " n"],
    targets: Targets,
    *,
    amplification: Scalar | None = 73.0,
) -> Confusion:
    r"""A confusion matrix with a gradient: decisions are steep sigmoids of probabilities.

    .. math:: \hat y_i = \frac{1}{1 + e^{-L (p_i - 1/2)}}, \quad p = \sigma(\text{logits}), \qquad
        \mathrm{TP} = \sum_i y_i \hat y_i, \quad \mathrm{FP} = \sum_i (1 - y_i)\,\hat y_i, \quad
        \mathrm{FN} = \sum_i y_i (1 - \hat y_i), \quad
        \mathrm{TN} = \sum_i (1 - y_i)(1 - \hat y_i)

    Args:
        logits: (n,).
        targets: (n,), 1 for a positive and 0 for a negative, or the probability of a positive.
        amplification: L, positive; None takes the probabilities themselves as decisions.

    Returns:
        ``(tp, fp, fn, tn)``, four scalars that sum to n. Decisions never leave
        [1 / (1 + exp(L / 2)), 1 / (1 + exp(-L / 2))].

    Raises:
        ValueError: for an empty batch, different shapes or an amplification that is not positive.

    Reference:
        D. Han, N. Moniz, N. V. Chawla, KDD 2024, arXiv:2405.14745.
    """
    not_empty("logits", logits)
    same_shape("targets", targets, "logits", logits)
    if amplification is not None:
        positive("amplification", amplification)
    logits, targets = full_precision(logits, targets)
    decisions = torch.sigmoid(logits)
    if amplification is not None:
        decisions = torch.sigmoid(amplification * (decisions - 0.5))
    tp, chosen, positives = (targets * decisions).sum(), decisions.sum(), targets.sum()
    return tp, chosen - tp, positives - tp, len(logits) - chosen - positives + tp


def anyloss(
    logits: Float[Tensor, " n"],
    targets: Targets,
    *,
    metric: str | Callable[..., Tensor] = "f_beta",
    amplification: Scalar | None = 73.0,
    beta: Scalar = 1.0,
    epsilon: float = 1e-5,
) -> Float[Tensor, ""]:
    r"""AnyLoss: one minus a metric of the soft confusion matrix.

    .. math:: L_{F_\beta} = 1 - \frac{(1 + \beta^2)\,\mathrm{TP}}
        {(1 + \beta^2)\,\mathrm{TP} + \beta^2\,\mathrm{FN} + \mathrm{FP} + \epsilon}, \qquad
        L_{\text{acc}} = 1 - \frac{\mathrm{TP} + \mathrm{TN}}{n}, \qquad
        L_{\text{bal}} = 1 - \frac{r_+ + r_-}2, \qquad L_G = 1 - \sqrt{r_+ r_- + \epsilon}

    with the recalls of both classes, :math:`r_+ = \mathrm{TP} / (\mathrm{TP} + \mathrm{FN} +
    \epsilon)` and :math:`r_- = \mathrm{TN} / (\mathrm{TN} + \mathrm{FP} + \epsilon)`.

    Args:
        logits: (n,).
        targets: (n,), 1 for a positive and 0 for a negative, or the probability of a positive.
        metric: "f_beta", "accuracy", "balanced_accuracy", "g_mean", or a function of
            ``(tp, fp, fn, tn)`` whose larger values are better.
        amplification: as in :func:`soft_confusion`.
        beta: of "f_beta", positive: how many times recall counts as much as precision.
        epsilon: positive; added to denominators and under the root of "g_mean", whose slope at 0
            is infinite without it.

    Returns:
        1 - metric. A class without samples has a recall of 0 and an F-score of 0, with gradient 0.

    Raises:
        ValueError: as :func:`soft_confusion`, or for an unknown metric, a beta or an epsilon that
            is not positive.

    Reference:
        D. Han, N. Moniz, N. V. Chawla, KDD 2024, arXiv:2405.14745.
    """
    if not callable(metric):
        one_of("metric", metric, ("f_beta", "accuracy", "balanced_accuracy", "g_mean"))
    positive("beta", beta)
    positive("epsilon", epsilon)
    tp, fp, fn, tn = soft_confusion(logits, targets, amplification=amplification)
    if callable(metric):
        return 1 - metric(tp, fp, fn, tn)
    if metric == "f_beta":
        hits = (1 + beta**2) * tp
        return 1 - hits / (hits + beta**2 * fn + fp + epsilon)
    if metric == "accuracy":
        return 1 - (tp + tn) / len(logits)
    recall, specificity = tp / (tp + fn + epsilon), tn / (tn + fp + epsilon)
    if metric == "balanced_accuracy":
        return 1 - (recall + specificity) / 2
    return 1 - torch.sqrt(recall * specificity + epsilon)


def self_adjusting_dice_loss(
    logits: Float[Tensor, "n c"],
    labels: Int[Tensor, " n"],
    *,
    alpha: Scalar = 0.01,
    smooth: Scalar = 1.0,
    square: bool = True,
    reduction: str = "mean",
) -> Tensor:
    r"""Self-adjusting Dice (DSC): Dice of each sample, with confident probabilities damped.

    .. math:: w_{ij} = (1 - p_{ij})^\alpha\, p_{ij}, \qquad
        L_i = \sum_{j=1}^c \Big( 1 - \frac{2 w_{ij} y_{ij} + \gamma}
        {w_{ij}^2 + y_{ij}^2 + \gamma} \Big), \qquad p = \operatorname{softmax}(\text{logits})

    with y the one-hot labels, and w and y in the denominator without their squares where ``square``
    is off. w peaks at p = 1 / (1 + alpha): a label's probability is pulled up to there only.

    Args:
        logits: (n, c).
        labels: (n,), integers below c.
        alpha: at least 0; 0 damps nothing.
        smooth: gamma, positive.
        square: whether the denominator's terms are squared.
        reduction: "mean", "sum" or "none".

    Returns:
        The reduced loss.

    Raises:
        ValueError: for an empty batch, labels that are not n integers, a negative alpha, a smooth
            that is not positive or an unknown reduction.

    Reference:
        X. Li et al., ACL 2020, arXiv:1911.02855.
    """
    matrix("logits", logits)
    class_labels(labels, len(logits))
    _check_dice(alpha, smooth)
    (logits,) = full_precision(logits)
    one_hot = F.one_hot(labels.long(), logits.shape[1]).to(logits)
    damped = _damped(*_log_probabilities(logits), alpha)
    return reduce(_dice_losses(damped, one_hot, smooth, square).sum(-1), reduction)


def binary_self_adjusting_dice_loss(
    logits: Float[Tensor, " n"],
    targets: Targets,
    *,
    alpha: Scalar = 0.01,
    smooth: Scalar = 1.0,
    square: bool = True,
    level: str = "example",
) -> Float[Tensor, ""]:
    r"""Self-adjusting Dice (DSC) of one positive class, for each sample or for the whole batch.

    .. math:: w_i = (1 - p_i)^\alpha\, p_i, \qquad
        L_{\text{example}} = \frac1n \sum_i
        \Big( 1 - \frac{2 w_i y_i + \gamma}{w_i^2 + y_i^2 + \gamma} \Big), \qquad
        L_{\text{set}} = 1 - \frac{2 \sum_i w_i y_i + \gamma}
        {\sum_i w_i^2 + \sum_i y_i^2 + \gamma}

    Args:
        logits: (n,), p is their sigmoid.
        targets: (n,), 1 for a positive and 0 for a negative.
        alpha: at least 0; 0 damps nothing.
        smooth: gamma, positive.
        square: whether the denominator's terms are squared.
        level: "example" (the paper's formula) or "set" (the released code for one logit).

    Returns:
        The loss. Where no target is positive, the set level pushes with a weight of 1 / smooth.

    Raises:
        ValueError: for an empty batch, different shapes, a negative alpha, a smooth that is not
            positive or an unknown level.

    Reference:
        X. Li et al., ACL 2020, arXiv:1911.02855.
    """
    not_empty("logits", logits)
    same_shape("targets", targets, "logits", logits)
    _check_dice(alpha, smooth)
    one_of("level", level, ("example", "set"))
    logits, targets = full_precision(logits, targets)
    damped = _damped(log_sigmoid(logits), log_sigmoid(-logits), alpha)
    if level == "example":
        return _dice_losses(damped, targets, smooth, square).mean()
    power = 2 if square else 1
    hits, total = (damped * targets).sum(), (damped**power + targets**power).sum()
    return 1 - (2 * hits + smooth) / (total + smooth)


def _check_dice(alpha: Scalar, smooth: Scalar) -> None:
    in_range("alpha", alpha, at_least=0)
    positive("smooth", smooth)


def _damped(log_p: Tensor, log_complement: Tensor, alpha: Scalar) -> Tensor:
    """(1 - p)^alpha p, whose slope at p = 1 is finite in the logit, though not in p."""
    return torch.exp(log_p + alpha * log_complement)


def _dice_losses(damped: Tensor, targets: Tensor, smooth: Scalar, square: bool) -> Tensor:
    power = 2 if square else 1
    total = damped**power + targets**power + smooth
    return 1 - (2 * damped * targets + smooth) / total


def _log_probabilities(logits: Tensor) -> tuple[Tensor, Tensor]:
    """log p and log(1 - p) of a softmax; the largest p's complement is summed from the others."""
    log_p = logits.log_softmax(-1)
    largest = F.one_hot(logits.argmax(-1), logits.shape[1]).bool()
    of_others = log_sum_exp(log_p, ~largest)[..., None]
    at_most_half = log_p.exp().masked_fill(largest, 0)
    return log_p, torch.where(largest, of_others, torch.log1p(-at_most_half))


# Rankings --------------------------------------------------------------------------------------
#
# References for this half: N. Sheikholeslami, E. Hosseini, P. Bechard, S. Daruru, S. Rajeswar,
# "Optimizing What Matters: AUC-Driven Learning for Robust Neural Retrieval", 2025,
# arXiv:2510.00137; S. Thorat, A. Caines, "DACTYL: Diverse Adversarial Corpus of Texts Yielded from
# Large Language Models", 2025, arXiv:2508.00619; W. W. Li, T. Ma, "Learn to Rank Risky Investors",
# ACM TOIS 2025, arXiv:2509.16616.


def mann_whitney_loss(
    scores: Float[Tensor, " n"],
    targets: Float[Tensor, " n"],
    *,
    temperature: Scalar = 1.0,
    chunk_size: int | None = None,
) -> Float[Tensor, ""]:
    r"""Mann-Whitney loss: a logistic loss on every pair of a positive and a negative.

    .. math:: L = \frac1{|P|\,|N|} \sum_{i \in P} \sum_{j \in N}
        \log\big(1 + e^{-(s_i - s_j) / T}\big) \ \ge\ (1 - \mathrm{AUC}) \log 2

    Args:
        scores: (n,).
        targets: (n,), 1 for a positive and 0 for a negative.
        temperature: T > 0.
        chunk_size: samples compared with all others at once; None chooses by size.

    Returns:
        The mean over pairs; 0 where a class is missing.

    Raises:
        ValueError: for an empty batch, different shapes or a temperature that is not positive.

    Reference:
        N. Sheikholeslami et al., 2025, arXiv:2510.00137.
    """
    not_empty("scores", scores)
    same_shape("targets", targets, "scores", scores)
    positive("temperature", temperature)
    (scores,) = full_precision(scores)
    positives = targets > 0.5
    pairs = scores, positives, scores, ~positives
    return _mean_over_pairs(*pairs, temperature=temperature, chunk_size=chunk_size)


def mann_whitney_retrieval_loss(
    scores: Float[Tensor, "n c"],
    labels: Int[Tensor, " n"],
    ignored: Bool[Tensor, "n c"] | None = None,
    *,
    temperature: Scalar = 1.0,
    chunk_size: int | None = None,
) -> Float[Tensor, ""]:
    r"""Mann-Whitney loss of queries and documents: positives against the negatives of all queries.

    .. math:: L = \frac1{n\,|N|} \sum_i \sum_{(k, j) \in N}
        \log\big(1 + e^{-(s_{i y_i} - s_{kj}) / T}\big), \qquad N = \{(k, j) : j \ne y_k\}

    Args:
        scores: (n, c), of query i and document j. In a batch of pairs c = n, and further columns
            are hard negatives.
        labels: (n,), integers below c: the relevant document of each query, ``torch.arange(n)`` in
            a batch of pairs.
        ignored: (n, c), pairs that are no negatives either, such as copies of the relevant
            document; None ignores none.
        temperature: T > 0.
        chunk_size: positives compared with all negatives at once; None chooses by size.

    Returns:
        The mean over pairs of a positive and a negative; 0 where there is no negative.

    Raises:
        ValueError: for an empty batch, labels that are not n integers, an ``ignored`` of another
            shape or a temperature that is not positive.

    Reference:
        N. Sheikholeslami et al., 2025, arXiv:2510.00137.
    """
    matrix("scores", scores)
    class_labels(labels, len(scores))
    positive("temperature", temperature)
    (scores,) = full_precision(scores)
    relevant = F.one_hot(labels.long(), scores.shape[1]).bool()
    negatives = ~relevant
    if ignored is not None:
        same_shape("ignored", ignored, "scores", scores)
        negatives = negatives & ~ignored
    of_relevant = scores.gather(1, labels.long()[:, None]).squeeze(1)
    every_query = torch.ones_like(of_relevant, dtype=torch.bool)
    pairs = of_relevant, every_query, scores.flatten(), negatives.flatten()
    return _mean_over_pairs(*pairs, temperature=temperature, chunk_size=chunk_size)


def _mean_over_pairs(
    scores: Tensor, positives: Tensor, others: Tensor, negatives: Tensor, *, temperature, chunk_size
) -> Tensor:
    return mean_over_anchors(
        _pair_rows,
        len(scores),
        len(others),
        *(scores, positives, others, negatives),
        chunk_size=chunk_size,
        temperature=temperature,
    )


def _pair_rows(index, scores, positives, others, negatives, *, temperature):
    pairs = positives[index][:, None] & negatives[None, :]
    leads = (scores[index][:, None] - others[None, :]) / temperature
    return torch.where(pairs, -log_sigmoid(leads), 0).sum(), pairs.sum()


def two_way_partial_auc_loss(
    scores: Float[Tensor, " n"],
    targets: Float[Tensor, " n"],
    *,
    positive_temperature: Scalar = 1.0,
    negative_temperature: Scalar = 1.0,
    margin: Scalar = 1.0,
) -> Float[Tensor, ""]:
    r"""Two-way partial AUC, KL form: soft maxima over the hardest negatives and positives.

    .. math:: F = \lambda' \log \frac1{|P|} \sum_{i \in P} \Big( \frac1{|N|} \sum_{j \in N}
        e^{L_{ij} / \lambda} \Big)^{\lambda / \lambda'}, \qquad
        L_{ij} = \max\big(0,\ m - (s_i - s_j)\big)^2

    Both temperatures large: the mean over pairs, the squared-hinge AUC loss. Both small: the worst
    pair. Holds all n x n pairs; :class:`TwoWayPartialAUCLoss` works on minibatches.

    Args:
        scores: (n,), usually probabilities: the margin is on their scale.
        targets: (n,), 1 for a positive and 0 for a negative.
        positive_temperature: lambda' > 0, of the soft maximum over positives.
        negative_temperature: lambda > 0, of the soft maximum over negatives.
        margin: m > 0, the lead from which a pair costs nothing.

    Returns:
        F; 0 where a class is missing.

    Raises:
        ValueError: for an empty batch, different shapes, or a temperature or margin that is not
            positive.

    References:
        D. Zhu et al., "When AUC meets DRO: Optimizing Partial AUC for Deep Learning with Non-Convex
        Convergence Guarantee", ICML 2022, arXiv:2203.00176; used by S. Thorat, A. Caines, 2025,
        arXiv:2508.00619.
    """
    _check_partial_auc(scores, targets, positive_temperature, negative_temperature, margin)
    (scores,) = full_precision(scores)
    positives = targets > 0.5
    log_inner = _log_inner_means(scores, positives, negative_temperature, margin)[1]
    counts = positives & ~positives.all()
    powers = negative_temperature / positive_temperature * log_inner
    return positive_temperature * torch.where(counts.any(), _log_mean_exp(powers, counts), 0)


def _check_partial_auc(scores, targets, positive_temperature, negative_temperature, margin):
    not_empty("scores", scores)
    same_shape("targets", targets, "scores", scores)
    positive("positive_temperature", positive_temperature)
    positive("negative_temperature", negative_temperature)
    positive("margin", margin)


def _log_inner_means(scores, positives, negative_temperature, margin) -> tuple[Tensor, Tensor]:
    """The squared hinges of all pairs, and the log of their mean exponential over negatives."""
    hinges = (margin - scores[:, None] + scores[None, :]).relu().square()
    return hinges, _log_mean_exp(hinges / negative_temperature, ~positives.expand_as(hinges))


def _log_mean_exp(values: Tensor, mask: Tensor) -> Tensor:
    return log_sum_exp(values, mask) - mask.sum(-1).clamp(min=1).to(values).log()


class TwoWayPartialAUCLoss(nn.Module):
    r"""Two-way partial AUC on minibatches: weights of pairs from moving averages (LibAUC, SOTAs).

    For the pairs of a batch, with :math:`E_{ij} = e^{L_{ij} / \lambda}` and u and w starting at 0,

    .. math:: u_i \leftarrow (1 - \gamma_0)\,u_i + \gamma_0 \operatorname*{mean}_j E_{ij}, \quad
        w \leftarrow (1 - \gamma_1)\,w + \gamma_1 \operatorname*{mean}_i u_i^{\lambda / \lambda'},
        \quad \text{loss} = \operatorname*{mean}_{ij}
        \frac{u_i^{\lambda / \lambda' - 1} E_{ij}}{w} L_{ij}

    The weights carry no gradient. With both rates at 1 and all samples in the batch, the gradient
    is that of :func:`two_way_partial_auc_loss`; the value is not. Averages are kept as logarithms
    in buffers, where small temperatures cannot overflow; in eval mode they stay as they are.

    Args:
        n_examples: samples of the training set, at least 1.
        positive_temperature: as in :func:`two_way_partial_auc_loss`.
        negative_temperature: as in :func:`two_way_partial_auc_loss`.
        margin: as in :func:`two_way_partial_auc_loss`.
        inner_rate: gamma_0 in (0, 1], the share of the new batch in each u.
        outer_rate: gamma_1 in (0, 1], the share of the new batch in w.

    Raises:
        ValueError: for arguments out of these ranges.

    References:
        As for :func:`two_way_partial_auc_loss`; LibAUC 1.4.0, ``tpAUC_KL_Loss``.
    """

    def __init__(
        self,
        n_examples: int,
        *,
        positive_temperature: Scalar = 1.0,
        negative_temperature: Scalar = 1.0,
        margin: Scalar = 1.0,
        inner_rate: float = 0.9,
        outer_rate: float = 0.9,
    ):
        super().__init__()
        in_range("n_examples", n_examples, at_least=1)
        positive("positive_temperature", positive_temperature)
        positive("negative_temperature", negative_temperature)
        positive("margin", margin)
        in_range("inner_rate", inner_rate, above=0, at_most=1)
        in_range("outer_rate", outer_rate, above=0, at_most=1)
        self.positive_temperature = positive_temperature
        self.negative_temperature = negative_temperature
        self.margin = margin
        self.inner_rate = inner_rate
        self.outer_rate = outer_rate
        self.register_buffer("log_u", torch.full((n_examples,), -torch.inf))
        self.register_buffer("log_w", torch.tensor(-torch.inf))

    def forward(
        self,
        scores: Float[Tensor, " n"],
        targets: Float[Tensor, " n"],
        index: Int[Tensor, " n"],
    ) -> Float[Tensor, ""]:
        """The weighted mean over the batch's pairs; 0, and no update, where a class is missing.

        Args:
            scores: (n,), usually probabilities.
            targets: (n,), 1 for a positive and 0 for a negative.
            index: (n,), integers below n_examples: which samples of the training set these are.

        Raises:
            ValueError: for an empty batch, different shapes or an index that is not n integers.
        """
        not_empty("scores", scores)
        same_shape("targets", targets, "scores", scores)
        class_labels(index, len(scores), "index")
        (scores,) = full_precision(scores)
        positives, index = targets > 0.5, index.long()
        pairs = positives[:, None] & ~positives[None, :]
        hinges, log_inner = _log_inner_means(
            scores, positives, self.negative_temperature, self.margin
        )
        log_u, log_w = self._averages(log_inner.detach(), positives, self.log_u[index])
        ratio = self.negative_temperature / self.positive_temperature
        # Bounded in each bracket, since the batch itself has a share in both averages: by
        # log(n / outer_rate) and log(n / inner_rate).
        log_weights = (ratio * log_u - log_w)[:, None] + (
            hinges.detach() / self.negative_temperature - log_u[:, None]
        )
        weighted = torch.where(pairs, log_weights.exp(), 0) * hinges
        if self.training:
            self.log_u = self.log_u.scatter(0, index, log_u.to(self.log_u))
            self.log_w = log_w.to(self.log_w)
        return weighted.sum() / pairs.sum().clamp(min=1)

    def _averages(self, log_inner, positives, log_u) -> tuple[Tensor, Tensor]:
        """The batch's u and w after the update, as logarithms."""
        counts = positives & ~positives.all()
        log_u = torch.where(counts, _blend(log_u, log_inner, self.inner_rate), log_u)
        powers = self.negative_temperature / self.positive_temperature * log_u
        log_w = _blend(self.log_w, _log_mean_exp(powers, counts), self.outer_rate)
        return log_u, torch.where(counts.any(), log_w, self.log_w)


def _blend(log_old: Tensor, log_new: Tensor, rate: float) -> Tensor:
    """log((1 - rate) old + rate new) of logarithms."""
    log_kept = math.log1p(-rate) if rate < 1 else -math.inf
    return torch.logaddexp(log_old + log_kept, log_new + math.log(rate))


def pa_bce_loss(
    scores: Float[Tensor, " n"],
    profits: Float[Tensor, " n"],
    *,
    top_k: int = 6,
    weighting: str = "log",
) -> Float[Tensor, ""]:
    r"""Profit-aware cross-entropy (PA-BCE): order a group's K largest profits, by their gaps.

    .. math:: L = \frac1K \sum_{1 \le i < j \le K} \log_{10}(1 + g_i - g_j)
        \log\big(1 + e^{-(s_i - s_j)}\big), \qquad g_1 \ge \dots \ge g_K

    where K is ``top_k`` or the size of the group, whichever is smaller.

    Args:
        scores: (n,), of one group; average over groups outside (``torch.func.vmap``).
        profits: (n,), g: profit and loss of each item, in units in which a gap of 1 is small.
        top_k: items that are compared, at least 2; the others get no gradient.
        weighting: "log", "linear" (the gap itself) or "none" (1 for every pair).

    Returns:
        The sum over pairs, divided by K; 0 for a group of one.

    Raises:
        ValueError: for an empty group, different shapes, a ``top_k`` below 2 or an unknown
            weighting.

    Reference:
        W. W. Li, T. Ma, ACM TOIS 2025, arXiv:2509.16616; released code ``GraphBasedLoss``.
    """
    not_empty("scores", scores)
    same_shape("profits", profits, "scores", scores)
    in_range("top_k", top_k, at_least=2)
    one_of("weighting", weighting, ("log", "linear", "none"))
    scores, profits = full_precision(scores, profits)
    k = min(int(top_k), len(scores))
    highest, index = profits.topk(k)
    leading = scores.gather(0, index)
    pairs = torch.ones(k, k, dtype=torch.bool, device=scores.device).triu(1)
    gaps = torch.where(pairs, highest[:, None] - highest[None, :], 0)
    weights = {"log": torch.log1p(gaps) / math.log(10), "linear": gaps}.get(weighting, 1.0)
    losses = -log_sigmoid(leading[:, None] - leading[None, :])
    return torch.where(pairs, weights * losses, 0).sum() / k
