"""Scores of trained models, in torch: exact, and quick enough to run for every replica.

scikit-learn has them too; ``tests/parity`` compares.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lossbook._checks import class_labels, in_range, matrix
from lossbook.baselines import pair_masks


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
    positives, _ = pair_masks(labels)
    own = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    order = (embeddings @ embeddings.mT).masked_fill(own, -torch.inf).argsort(-1, descending=True)
    hits = positives.gather(-1, order).float()
    relevant = positives.sum(-1)
    rank = torch.arange(1, len(labels) + 1, device=labels.device)
    precision = hits.cumsum(-1) / rank
    average = (precision * hits * (rank <= relevant[:, None])).sum(-1) / relevant.clamp(min=1)
    counts = relevant > 0
    n_queries = counts.sum().clamp(min=1)
    return {
        "recall_at_1": (hits[:, 0] * counts).sum() / n_queries,
        "map_at_r": (average * counts).sum() / n_queries,
    }


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
    nearest = (queries @ gallery.mT).topk(k, dim=-1).indices
    votes = gallery_labels[nearest].mode(dim=-1).values
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
