"""Pair weighting, negative pairs and mixup for metric learning (notebook 21).

Every pair loss is read through the weight it puts on each pair. Multi-similarity chooses the
weights, unified negative pair generation chooses which negatives there are, Metrix makes new ones
by mixing.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lossbook._checks import (
    class_labels,
    in_range,
    matrix,
    not_empty,
    one_of,
    positive,
    same_shape,
)
from lossbook._numerics import Scalar, full_precision, inner_products, log_sum_exp, without
from lossbook.baselines import margin_logits, most_positives, pair_masks, with_own
from lossbook.chunking import mean_over_anchors, mean_over_similarities


def pair_weights(
    loss: Callable[[Tensor, Tensor], Tensor],
    similarities: Float[Tensor, "n n"],
    labels: Int[Tensor, " n"],
) -> Float[Tensor, "n n"]:
    r"""The weight that a loss puts on each pair: the size of its gradient there.

    .. math:: w_{ij} = \Big| \frac{\partial L}{\partial s_{ij}} \Big|

    General pair weighting: with these weights held fixed, :math:`\sum_{neg} w\,s - \sum_{pos} w\,s`
    has the gradient of L, whatever pair loss L is.

    Args:
        loss: ``loss(similarities, labels)``, a scalar.
        similarities: (n, n).
        labels: (n,), integers.

    Returns:
        (n, n), at least 0.

    Raises:
        ValueError: for a matrix that is empty or not square or labels that are not n integers.

    Reference:
        X. Wang, X. Han, W. Huang, D. Dong, M. R. Scott, "Multi-Similarity Loss with General Pair
        Weighting for Deep Metric Learning", CVPR 2019, arXiv:1904.06627.
    """
    matrix("similarities", similarities)
    same_shape("similarities", similarities, "its transpose", similarities.mT)
    class_labels(labels, len(similarities))
    return torch.func.grad(loss)(similarities, labels).abs()


# Multi-similarity -----------------------------------------------------------------------------


def multi_similarity_mask(
    similarities: Float[Tensor, "m n"],
    positives: Bool[Tensor, "m n"],
    negatives: Bool[Tensor, "m n"],
    *,
    margin: Scalar = 0.1,
) -> tuple[Bool[Tensor, "m n"], Bool[Tensor, "m n"]]:
    r"""Multi-similarity mining: keep the pairs that are hard beside those of the other sign.

    A negative stays if :math:`s_{ik} + m > \min_{j \in P_i} s_{ij}`, a positive if
    :math:`s_{ij} - m < \max_{k \in N_i} s_{ik}`.

    Args:
        similarities: (m, n), a row for each anchor.
        positives: (m, n), which pairs are positive.
        negatives: (m, n), which pairs are negative.
        margin: at least 0.

    Returns:
        ``(positives, negatives)``, the masks of the pairs kept. An anchor without a positive or
        without a negative keeps none.

    Raises:
        ValueError: for an empty matrix, different shapes or a negative margin.

    Reference:
        X. Wang et al., CVPR 2019, arXiv:1904.06627.
    """
    matrix("similarities", similarities)
    same_shape("positives", positives, "similarities", similarities)
    same_shape("negatives", negatives, "similarities", similarities)
    in_range("margin", margin, at_least=0)
    s = similarities.detach()
    # Infinite where there is none: then nothing of the other sign is kept.
    hardest_positive = s.masked_fill(~positives, torch.inf).amin(-1, keepdim=True)
    hardest_negative = s.masked_fill(~negatives, -torch.inf).amax(-1, keepdim=True)
    return (
        positives & (s < hardest_negative + margin),
        negatives & (s > hardest_positive - margin),
    )


def multi_similarity_loss(
    embeddings: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    *,
    alpha: Scalar = 2.0,
    beta: Scalar = 50.0,
    base: Scalar = 0.5,
    margin: Scalar = 0.1,
    mine: bool = True,
    chunk_size: int | None = None,
) -> Float[Tensor, ""]:
    r"""Multi-similarity loss: soft weights on the pairs that mining leaves.

    .. math:: L = \frac1n \sum_i \Big[
        \tfrac1\alpha \log\Big(1 + \sum_{j \in P_i} e^{-\alpha (s_{ij} - \lambda)}\Big) +
        \tfrac1\beta \log\Big(1 + \sum_{k \in N_i} e^{\beta (s_{ik} - \lambda)}\Big) \Big]

    Args:
        embeddings: (n, d), unit rows; s = cosine similarity.
        labels: (n,), integers.
        alpha: sharpness on positives, positive.
        beta: sharpness on negatives, positive.
        base: lambda, the similarity around which both turn.
        margin: of :func:`multi_similarity_mask`, at least 0.
        mine: whether P and N are the mined pairs or all of them.
        chunk_size: rows of the similarity matrix held at once; None chooses by size.

    Returns:
        The mean over all n anchors; one with no pair left adds 0.

    Raises:
        ValueError: for an empty batch, labels that are not n integers, an alpha or beta that is not
            positive or a negative margin.

    Reference:
        X. Wang et al., CVPR 2019, arXiv:1904.06627. Defaults as in the paper except for base,
        which is 0.5 in the official code (with beta = 40) and 1 in the paper.
    """
    matrix("embeddings", embeddings)
    class_labels(labels, len(embeddings))
    positive("alpha", alpha)
    positive("beta", beta)
    in_range("margin", margin, at_least=0)
    return mean_over_similarities(
        *(_multi_similarity_rows, embeddings, embeddings, labels),
        chunk_size=chunk_size,
        alpha=alpha,
        beta=beta,
        base=base,
        margin=margin if mine else None,
    )


def _multi_similarity_rows(s, index, labels, *, alpha, beta, base, margin):
    positives, negatives = pair_masks(labels, index)
    if margin is not None:
        positives, negatives = multi_similarity_mask(s, positives, negatives, margin=margin)
    pull = _sum_of_log_one_plus_exps(-alpha * (s - base), positives, index) / alpha
    push = _sum_of_log_one_plus_exps(beta * (s - base), negatives, index) / beta
    return pull + push, len(index)


def _sum_of_log_one_plus_exps(values: Tensor, mask: Tensor, index: Tensor) -> Tensor:
    """log(1 + sum of exp(values) over the mask), summed over anchors.

    A cross-entropy: an anchor's own place, which no mask contains, holds the exponent of the 1.
    """
    logits = with_own(without(values, ~mask), index, 0)
    return F.cross_entropy(logits, index, reduction="sum")


# Unified negative pair generation -------------------------------------------------------------


def whisker_mask(
    values: Float[Tensor, " m"], mask: Bool[Tensor, " m"] | None = None, *, r: Scalar = 1.5
) -> Bool[Tensor, " m"]:
    r"""Box-plot filter: which values lie within r interquartile ranges of the quartiles.

    .. math:: q_1 - r\,(q_3 - q_1) \le v \le q_3 + r\,(q_3 - q_1)

    Args:
        values: (m,).
        mask: (m,), the values that count; None takes all.
        r: length of the whiskers, at least 0; ``float("inf")`` keeps everything.

    Returns:
        (m,), true for values that count and lie within the whiskers. The quartiles are the sorted
        values number m/4 and 3m/4 (rounded down), as in the official code, and carry no gradient.

    Raises:
        ValueError: for no values, a mask of another shape or a negative r.

    Reference:
        J. Jung, S. Lee, H. Oh, Y. Park, J. Park, S. Son, "Unified Negative Pair Generation toward
        Well-discriminative Feature Space for Face Recognition", BMVC 2022, arXiv:2203.11593.
    """
    not_empty("values", values)
    in_range("r", r, at_least=0)
    mask = torch.ones_like(values, dtype=torch.bool) if mask is None else mask
    same_shape("mask", mask, "values", values)
    ranked = values.detach().masked_fill(~mask, torch.inf).sort().values
    count = mask.sum()
    q1, q3 = (ranked.gather(0, (part * count // 4).reshape(1)) for part in (1, 3))
    # An infinite whisker times a spread of zero is NaN, and keeps everything like any other.
    reach = (r * (q3 - q1)).nan_to_num(nan=torch.inf, posinf=torch.inf)
    return mask & (values >= q1 - reach) & (values <= q3 + reach)


def unpg_loss(
    embeddings: Float[Tensor, "n d"],
    prototypes: Float[Tensor, "c d"],
    labels: Int[Tensor, " n"],
    *,
    scale: Scalar = 64.0,
    margin: Scalar = 0.5,
    kind: str = "arc",
    r: Scalar = 1.5,
) -> Float[Tensor, ""]:
    r"""Margin softmax with the batch's own negative pairs as further negative logits.

    .. math:: L = -\frac1n \sum_i \log \frac{e^{\ell_{i y_i}}}
        {\sum_j e^{\ell_{ij}} + \sum_{q \in Q'} e^{s q}}

    with the logits of :func:`lossbook.baselines.margin_logits` and Q' the similarities of all pairs
    in the batch with different labels, each once, after :func:`whisker_mask`. All anchors share Q'.

    Args:
        embeddings: (n, d), unit rows.
        prototypes: (c, d), unit rows, one for each class.
        labels: (n,), integers below c.
        scale: s > 0.
        margin: at least 0, radians for "arc", cosine for "cos".
        kind: "arc" (ArcFace), "cos" (CosFace) or "none".
        r: whiskers of the filter, at least 0; ``float("inf")`` keeps all pairs.

    Returns:
        The mean over samples. Without a pair of different labels it is the plain margin softmax.
        Gradients flow through both samples of a pair. Holds an n x n matrix.

    Raises:
        ValueError: as :func:`lossbook.baselines.margin_logits`, or for a negative r.

    Reference:
        J. Jung et al., BMVC 2022, arXiv:2203.11593.
    """
    logits = margin_logits(embeddings, prototypes, labels, scale=scale, margin=margin, kind=kind)
    similarities = inner_products(embeddings, embeddings)
    different = labels[:, None] != labels[None, :]
    pairs = torch.ones_like(different).triu(1) & different
    kept = whisker_mask(similarities.flatten(), pairs.flatten(), r=r)
    extra = log_sum_exp(scale * similarities.flatten(), kept)
    target = logits.gather(-1, labels.long()[:, None]).squeeze(-1)
    return (torch.logaddexp(logits.logsumexp(-1), extra) - target).mean()


# Metrix ---------------------------------------------------------------------------------------


def soft_pair_loss(
    similarities: Float[Tensor, "n m"],
    pair_labels: Float[Tensor, "n m"],
    mask: Bool[Tensor, "n m"],
    *,
    form: str = "contrastive",
    margin: Scalar = 0.5,
    alpha: Scalar = 2.0,
    beta: Scalar = 50.0,
) -> Float[Tensor, ""]:
    r"""A pair loss whose labels may lie between negative (0) and positive (1).

    .. math:: L_{con} = \frac1n \sum_i \sum_v
        \big[ -y_{iv} s_{iv} + (1 - y_{iv})(s_{iv} - m)_+ \big]

    .. math:: L_{ms} = \frac1n \sum_i \Big[
        \tfrac1\alpha \log\Big(1 + \sum_v y_{iv} e^{-\alpha (s_{iv} - m)}\Big) +
        \tfrac1\beta \log\Big(1 + \sum_v (1 - y_{iv}) e^{\beta (s_{iv} - m)}\Big) \Big]

    Args:
        similarities: (n, m), an anchor's similarities to its partners.
        pair_labels: (n, m), y in [0, 1].
        mask: (n, m), which pairs count.
        form: "contrastive" or "multi-similarity" (without mining).
        margin: m, the similarity above which negatives are pushed.
        alpha: sharpness on the positive part ("multi-similarity"), positive.
        beta: sharpness on the negative part ("multi-similarity"), positive.

    Returns:
        The mean over anchors.

    Raises:
        ValueError: for an empty matrix, different shapes, an unknown form or an alpha or beta that
            is not positive.

    Reference:
        S. Venkataramanan et al., "It Takes Two to Tango: Mixup for Deep Metric Learning", ICLR
        2022, arXiv:2106.04990.
    """
    matrix("similarities", similarities)
    same_shape("pair_labels", pair_labels, "similarities", similarities)
    same_shape("mask", mask, "similarities", similarities)
    one_of("form", form, ("contrastive", "multi-similarity"))
    positive("alpha", alpha)
    positive("beta", beta)
    similarities, pair_labels = full_precision(similarities, pair_labels)
    if form == "contrastive":
        pull, push = -pair_labels * similarities, (1 - pair_labels) * (similarities - margin).relu()
        return torch.where(mask, pull + push, 0).sum(-1).mean()
    pull = _log_one_plus_sum(-alpha * (similarities - margin), pair_labels, mask) / alpha
    push = _log_one_plus_sum(beta * (similarities - margin), 1 - pair_labels, mask) / beta
    return (pull + push).mean()


def _log_one_plus_sum(exponents: Tensor, weights: Tensor, mask: Tensor) -> Tensor:
    mask = mask & (weights > 0)
    return F.softplus(log_sum_exp(exponents + torch.where(mask, weights, 1).log(), mask))


def metrix_loss(
    embeddings: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    *,
    mix: Scalar = 0.5,
    mixed_weight: Scalar = 0.4,
    pairing: str = "positive-negative",
    form: str = "contrastive",
    margin: Scalar = 0.5,
    alpha: Scalar = 2.0,
    beta: Scalar = 50.0,
    chunk_size: int | None = None,
) -> Float[Tensor, ""]:
    r"""Metrix at the embedding level: a pair loss on clean pairs and on mixed ones.

    .. math:: L = L_{clean} + w\, L_{mixed}, \qquad
        v = \frac{\lambda z_p + (1 - \lambda) z_k}{\|\lambda z_p + (1 - \lambda) z_k\|},
        \qquad y_{av} = \lambda

    for every anchor a, positive p (or the anchor itself) and negative k, with both terms a
    :func:`soft_pair_loss`.

    Args:
        embeddings: (n, d), unit rows.
        labels: (n,), integers.
        mix: lambda in [0, 1], the share of the positive; in training a fresh draw from
            Beta(2, 2) for each batch.
        mixed_weight: w, at least 0.
        pairing: "positive-negative" mixes each positive with each negative (n^3 mixtures),
            "anchor-negative" the anchor with each negative (n^2).
        form, margin, alpha, beta: as in :func:`soft_pair_loss`.
        chunk_size: anchors held at once, each with its mixtures; None chooses by size.

    Returns:
        The mean over anchors. The official code has the contrastive form only, on Euclidean
        distances and averaged over non-zero terms; this is the paper's formula on similarities.

    Raises:
        ValueError: for an empty batch, labels that are not n integers, arguments out of these
            ranges or an unknown pairing or form.

    Reference:
        S. Venkataramanan et al., ICLR 2022, arXiv:2106.04990.
    """
    matrix("embeddings", embeddings)
    class_labels(labels, len(embeddings))
    in_range("mix", mix, at_least=0, at_most=1)
    in_range("mixed_weight", mixed_weight, at_least=0)
    one_of("pairing", pairing, ("positive-negative", "anchor-negative"))
    n, n_mixed = len(embeddings), 0
    if pairing == "positive-negative":
        n_mixed = max(most_positives(labels), 1)
    return mean_over_anchors(
        *(_metrix_rows, n, n * max(n_mixed, 1), embeddings, labels),
        chunk_size=chunk_size,
        mix=mix,
        mixed_weight=mixed_weight,
        n_mixed=n_mixed,
        **{"form": form, "margin": margin, "alpha": alpha, "beta": beta},
    )


def _metrix_rows(index, embeddings, labels, *, mix, mixed_weight, n_mixed, **knobs):
    s = inner_products(embeddings[index], embeddings)
    positives, negatives = pair_masks(labels, index)
    clean = soft_pair_loss(s, positives.to(s), positives | negatives, **knobs)
    if n_mixed:
        is_positive, place = positives.to(s).topk(n_mixed)
        between = inner_products(embeddings[place].flatten(0, 1), embeddings)
        between = between.unflatten(0, place.shape)
        to_positive = s.gather(1, place)[:, :, None]
        mixed = _mixed_similarity(to_positive, s[:, None, :], between, mix).flatten(1)
        mask = ((is_positive > 0)[:, :, None] & negatives[:, None, :]).flatten(1)
    else:
        mixed, mask = _mixed_similarity(1.0, s, s, mix), negatives
    loss = clean + mixed_weight * soft_pair_loss(mixed, torch.ones_like(mixed) * mix, mask, **knobs)
    return loss * len(index), len(index)


def _mixed_similarity(to_positive, to_negative, between: Tensor, mix: Scalar) -> Tensor:
    """Similarity of a unit anchor to the normalized mix of two unit vectors, from three cosines.

    The length of the mix is bounded away from zero, where two opposite vectors cancel.
    """
    square = mix**2 + (1 - mix) ** 2 + 2 * mix * (1 - mix) * between
    return (mix * to_positive + (1 - mix) * to_negative) * square.clamp(min=1e-6).rsqrt()


def utilization(
    queries: Float[Tensor, "q d"], embeddings: Float[Tensor, "m d"]
) -> Float[Tensor, ""]:
    r"""Mean squared distance from queries to the nearest training embedding; lower is better used.

    .. math:: u(Q, X) = \frac{1}{|Q|} \sum_{q \in Q} \min_{x \in X} \|q - x\|^2

    Args:
        queries: (q, d), unit rows, such as embeddings of unseen classes.
        embeddings: (m, d), unit rows. Compare only sets of equal size.

    Returns:
        Between 0 and 4 on the sphere.

    Raises:
        ValueError: for an empty set or different dimensions.

    Reference:
        S. Venkataramanan et al., ICLR 2022, arXiv:2106.04990.
    """
    matrix("queries", queries)
    matrix("embeddings", embeddings)
    if queries.shape[1] != embeddings.shape[1]:
        raise ValueError(
            f"queries must have {embeddings.shape[1]} columns like embeddings, "
            f"got shape {tuple(queries.shape)}"
        )
    queries, embeddings = full_precision(queries, embeddings)
    return mean_over_anchors(
        *(_utilization_rows, len(queries), len(embeddings), queries, embeddings), chunk_size=None
    )


def _utilization_rows(index, queries, embeddings):
    return torch.cdist(queries[index], embeddings).amin(-1).square().sum(), len(index)
