"""Scores of trained models, in torch: exact, and quick enough to run for every replica.

scikit-learn has them too; ``tests/parity`` compares.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lossbook._checks import class_labels, in_range, matrix, not_empty, same_shape
from lossbook.baselines import most_positives, pair_masks, with_own
from lossbook.chunking import rows_at_once


def accuracy(logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"]) -> Float[Tensor, ""]:
    """The share of samples whose largest logit is their label's.

    Args:
        logits: (n, c), n and c at least 1.
        labels: (n,), integers.

    Returns:
        The accuracy, in [0, 1].

    Raises:
        ValueError: for empty logits or labels that are not n integers.
    """
    matrix("logits", logits)
    class_labels(labels, len(logits))
    return (logits.argmax(-1) == labels).float().mean()


def top_k_accuracy(
    logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"], *, k: int = 1
) -> Float[Tensor, ""]:
    """The share of samples whose label is among the k largest logits.

    Args:
        logits: (n, c), n and c at least 1.
        labels: (n,), integers.
        k: how many answers count, between 1 and c.

    Returns:
        The accuracy, in [0, 1]; that of ``k = 1`` is :func:`accuracy`.

    Raises:
        ValueError: for empty logits, labels that are not n integers or a k out of range.
    """
    matrix("logits", logits)
    class_labels(labels, len(logits))
    in_range("k", k, at_least=1, at_most=logits.shape[1])
    return (logits.topk(k, dim=-1).indices == labels[:, None]).any(-1).float().mean()


def binary_scores(
    logits: Float[Tensor, " n"],
    targets: Float[Tensor, " n"] | Int[Tensor, " n"],
    *,
    threshold: float | int | Float[Tensor, ""] = 0.0,
) -> dict[str, Float[Tensor, ""]]:
    """What a confusion matrix says of a binary classifier's decisions.

    Args:
        logits: (n,), or any scores.
        targets: (n,), 1 for positives and 0 for negatives.
        threshold: decisions are positive above it; 0 for logits is a probability of one half.

    Returns:
        A dict with "accuracy", "precision", "recall", "f1", "balanced_accuracy" and "g_mean", each
        in [0, 1]; what would divide by 0 is 0.

    Raises:
        ValueError: for an empty batch or different shapes.
    """
    not_empty("logits", logits)
    same_shape("targets", targets, "logits", logits)
    chosen = (logits > threshold).float()
    tp, n_chosen, n_positive = (chosen * targets).sum(), chosen.sum(), targets.sum()
    n_negative = len(logits) - n_positive
    tn = n_negative - n_chosen + tp
    recall, specificity = tp / n_positive.clamp(min=1), tn / n_negative.clamp(min=1)
    return {
        "accuracy": (tp + tn) / len(logits),
        "precision": tp / n_chosen.clamp(min=1),
        "recall": recall,
        "f1": 2 * tp / (n_positive + n_chosen).clamp(min=1),
        "balanced_accuracy": (recall + specificity) / 2,
        "g_mean": (recall * specificity).sqrt(),
    }


def roc_auc(
    scores: Float[Tensor, " n"], targets: Bool[Tensor, " n"] | Float[Tensor, " n"]
) -> Float[Tensor, ""]:
    """The probability that a random positive scores above a random negative (ties count half).

    Args:
        scores: (n,).
        targets: (n,), 1 or True for positives.

    Returns:
        The area under the ROC curve, in [0, 1]; one half where a class is missing.

    Raises:
        ValueError: for an empty batch or different shapes.
    """
    not_empty("scores", scores)
    same_shape("targets", targets, "scores", scores)
    ranked = scores.sort().values
    below = torch.searchsorted(ranked, scores)
    not_above = torch.searchsorted(ranked, scores, side="right")
    positive = targets.to(scores.dtype)
    n_positive = positive.sum()
    # Of each positive: how many score below it, and half of those that tie; then without positives.
    wins = (positive * (below + not_above) / 2).sum() - n_positive.square() / 2
    pairs = n_positive * (len(scores) - n_positive)
    return torch.where(pairs > 0, wins / pairs.clamp(min=1), 0.5)


def two_way_partial_auc(
    scores: Float[Tensor, " n"],
    targets: Bool[Tensor, " n"] | Float[Tensor, " n"],
    *,
    max_false_positive_rate: float = 0.05,
    min_true_positive_rate: float = 0.8,
) -> Float[Tensor, ""]:
    """The ROC area in a corner, few false positives and many true ones, as a share of the corner.

    That is how often a positive scores higher than a negative, among the lowest-scoring positives
    and the highest-scoring negatives. Samples that lie partly inside the corner count in part.

    Args:
        scores: (n,).
        targets: (n,), 1 or True for positives.
        max_false_positive_rate: in (0, 1], the corner's width.
        min_true_positive_rate: in [0, 1), where the corner begins; 0 is the one-way partial AUC.

    Returns:
        The share, in [0, 1], ties counting half; one half where a class is missing.

    Raises:
        ValueError: for no scores, different shapes or rates out of range.

    Reference:
        H. Yang et al., "Two-way Partial AUC and Its Properties", Statistical Methods in Medical
        Research 2019, arXiv:1508.00298.
    """
    not_empty("scores", scores)
    same_shape("targets", targets, "scores", scores)
    in_range("max_false_positive_rate", max_false_positive_rate, above=0, at_most=1)
    in_range("min_true_positive_rate", min_true_positive_rate, at_least=0, below=1)
    positives = targets > 0.5
    high, curve = _descending(scores, positives)
    inside_above = (curve.clamp(min=min_true_positive_rate) - min_true_positive_rate).diff()
    low, curve = _descending(scores, ~positives)
    inside_left = curve.clamp(max=max_false_positive_rate).diff()
    # Share of the negatives inside the corner that are below each positive.
    ascending, weight = low.flip(0), F.pad(inside_left.flip(0).cumsum(0), (1, 0))
    places = (torch.searchsorted(ascending, high, right=right) for right in (False, True))
    below = sum(weight[place] for place in places) / 2
    corner = max_false_positive_rate * (1 - min_true_positive_rate)
    both = positives.any() & ~positives.all()
    return torch.where(both, (inside_above * below).sum() / corner, 0.5)


def _descending(scores: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The masked scores from the highest down, others last, and the share of them reached so far.

    The shares start at 0 before the first score; they are NaN where nothing is masked.
    """
    ranked = scores.masked_fill(~mask, -torch.inf).sort(descending=True).values
    places = torch.arange(len(scores) + 1, dtype=scores.dtype, device=scores.device)
    return ranked, (places / mask.sum()).clamp(max=1)


def threshold_at_fpr(
    scores: Float[Tensor, " n"],
    targets: Bool[Tensor, " n"] | Float[Tensor, " n"],
    *,
    max_false_positive_rate: float = 0.05,
) -> Float[Tensor, ""]:
    """The lowest threshold above which at most a given share of the negatives lies.

    Args:
        scores: (n,); those above the threshold are called positive.
        targets: (n,), 1 or True for positives, with a negative at least.
        max_false_positive_rate: in [0, 1).

    Returns:
        The threshold, the score of a negative.

    Raises:
        ValueError: for no scores, different shapes or a rate outside [0, 1).
    """
    not_empty("scores", scores)
    same_shape("targets", targets, "scores", scores)
    in_range("max_false_positive_rate", max_false_positive_rate, at_least=0, below=1)
    negatives = targets <= 0.5
    ranked, _ = _descending(scores, negatives)
    above = (max_false_positive_rate * negatives.sum() + 1e-4).floor().long()
    return ranked.gather(0, above.reshape(1)).squeeze(0)


def expected_calibration_error(
    confidences: Float[Tensor, " n"],
    correct: Bool[Tensor, " n"] | Float[Tensor, " n"],
    *,
    bins: int = 15,
) -> Float[Tensor, ""]:
    r"""How far confidence is from accuracy, on average over bins of equal width.

    .. math:: \mathrm{ECE} = \sum_b \frac{n_b}{n} |\mathrm{accuracy}_b - \mathrm{confidence}_b|

    Args:
        confidences: (n,), in [0, 1]; bin b holds those in (b / bins, (b + 1) / bins].
        correct: (n,), 1 or True for right predictions.
        bins: at least 1.

    Returns:
        The error, in [0, 1].

    Raises:
        ValueError: for an empty batch, different shapes or bins below 1.

    Reference:
        C. Guo, G. Pleiss, Y. Sun, K. Weinberger, "On Calibration of Modern Neural Networks", ICML
        2017, arXiv:1706.04599.
    """
    not_empty("confidences", confidences)
    same_shape("correct", correct, "confidences", confidences)
    in_range("bins", bins, at_least=1)
    index = (confidences * bins).ceil().long().sub(1).clamp(0, bins - 1)
    members = F.one_hot(index, bins).to(confidences.dtype)
    return ((correct.to(confidences.dtype) - confidences) @ members).abs().sum() / len(confidences)


def brier_score(
    probabilities: Float[Tensor, "n c"], labels: Int[Tensor, " n"]
) -> Float[Tensor, ""]:
    """The mean squared distance between the probabilities and the label's corner of the simplex.

    Args:
        probabilities: (n, c), each row a distribution.
        labels: (n,), integers below c.

    Returns:
        The score, in [0, 2], summed over classes; 0 is perfect.

    Raises:
        ValueError: for an empty batch or labels that are not n integers.
    """
    matrix("probabilities", probabilities)
    class_labels(labels, len(probabilities))
    one_hot = F.one_hot(labels.long(), probabilities.shape[-1])
    return (probabilities - one_hot).square().sum(-1).mean()


def retrieval(
    embeddings: Float[Tensor, "n d"], labels: Int[Tensor, " n"]
) -> dict[str, Float[Tensor, ""]]:
    r"""Recall@1 and MAP@R when every sample searches all others for its class.

    MAP@R looks at the R nearest neighbors, R being the number of other samples of the class, and
    averages the precision at each hit: :math:`\frac1R \sum_{i \le R} P(i)\,[\text{hit at } i]`.

    Args:
        embeddings: (n, d), unit rows; neighbors are ranked by inner product.
        labels: (n,), integers; samples that are alone in their class do not count.

    Returns:
        ``{"recall_at_1": …, "map_at_r": …}``, each in [0, 1].

    Raises:
        ValueError: for empty embeddings or labels that are not n integers.

    Reference:
        K. Musgrave, S. Belongie, S.-N. Lim, "A Metric Learning Reality Check", ECCV 2020,
        arXiv:2003.08505.
    """
    matrix("embeddings", embeddings)
    class_labels(labels, len(embeddings))
    k = max(most_positives(labels), 1)
    sums = [_retrieval_sums(embeddings, labels, index, k) for index in _chunks(labels, len(labels))]
    recall, average, n_queries = torch.stack(sums).sum(0)
    n_queries = n_queries.clamp(min=1)
    return {"recall_at_1": recall / n_queries, "map_at_r": average / n_queries}


def _retrieval_sums(embeddings: Tensor, labels: Tensor, index: Tensor, k: int) -> Tensor:
    """Recall at 1 and average precision summed over some queries, and how many of them count."""
    positives, _ = pair_masks(labels, index)
    similarities = with_own(embeddings[index] @ embeddings.mT, index, -torch.inf)
    hits = positives.gather(-1, similarities.topk(k, -1).indices).float()
    relevant = positives.sum(-1)
    rank = torch.arange(1, k + 1, device=labels.device)
    precision = hits.cumsum(-1) / rank
    average = (precision * hits * (rank <= relevant[:, None])).sum(-1) / relevant.clamp(min=1)
    counts = (relevant > 0).float()
    return torch.stack([(hits[:, 0] * counts).sum(), (average * counts).sum(), counts.sum()])


def _chunks(samples: Tensor, n_others: int) -> Sequence[Tensor]:
    """Indices of samples, as many at once as a matrix of them and the others may hold."""
    index = torch.arange(len(samples), device=samples.device)
    return index.split(rows_at_once(len(samples), n_others, samples.device))


def nearest_neighbor_accuracy(
    queries: Float[Tensor, "q d"],
    query_labels: Int[Tensor, " q"],
    gallery: Float[Tensor, "g d"],
    gallery_labels: Int[Tensor, " g"],
    *,
    k: int = 1,
) -> Float[Tensor, ""]:
    """Accuracy of a majority vote among the k nearest gallery samples by inner product.

    A tie goes to the smallest label.

    Args:
        queries: (q, d), unit rows.
        query_labels: (q,), integers.
        gallery: (g, d), unit rows.
        gallery_labels: (g,), integers.
        k: how many neighbors vote, between 1 and g.

    Returns:
        The accuracy, in [0, 1].

    Raises:
        ValueError: for an empty batch, labels that are not one integer a row or a k out of range.
    """
    matrix("queries", queries)
    matrix("gallery", gallery)
    class_labels(query_labels, len(queries), "query_labels")
    class_labels(gallery_labels, len(gallery), "gallery_labels")
    in_range("k", k, at_least=1, at_most=len(gallery))
    chunks = _chunks(queries, len(gallery))
    nearest = [(queries[index] @ gallery.mT).topk(k, dim=-1).indices for index in chunks]
    votes = gallery_labels[torch.cat(nearest)].mode(dim=-1).values
    return (votes == query_labels).float().mean()


def verification(
    embeddings: Float[Tensor, "n d"], labels: Int[Tensor, " n"], *, false_accept_rate: float = 0.01
) -> dict[str, Float[Tensor, ""]]:
    """How well a threshold on the similarity tells same-class pairs from others.

    Args:
        embeddings: (n, d), unit rows.
        labels: (n,), integers, with a positive and a negative pair at least.
        false_accept_rate: the share of negative pairs let through, in (0, 1).

    Returns:
        ``{"true_accept_rate": …, "overlap": …}``: the share of positive pairs above the threshold
        that lets so many negatives through, and the share of negatives above the positives' 5 %
        quantile.

    Raises:
        ValueError: for empty embeddings, labels that are not n integers or a false accept rate
            outside (0, 1).
    """
    matrix("embeddings", embeddings)
    class_labels(labels, len(embeddings))
    in_range("false_accept_rate", false_accept_rate, above=0, below=1)
    s = embeddings @ embeddings.mT
    positives, negatives = pair_masks(labels)
    threshold = _quantile(s, negatives, 1 - false_accept_rate)
    bar = _quantile(s, positives, 0.05)
    return {
        "true_accept_rate": ((s > threshold) & positives).sum() / positives.sum(),
        "overlap": ((s > bar) & negatives).sum() / negatives.sum(),
    }


def _quantile(values: Tensor, mask: Tensor, share: float) -> Tensor:
    """The smallest value with at least this share of the masked values at or below it."""
    ranked = values.masked_fill(~mask, torch.inf).flatten().sort().values
    index = (share * mask.sum()).ceil().long().sub(1).clamp(min=0)
    return ranked.gather(0, index.reshape(1)).squeeze(0)
