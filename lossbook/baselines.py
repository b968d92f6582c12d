"""The losses that everyone knows and that the papers are compared with: their one home.

Losses on pairs take embeddings as they are; those defined on the sphere (temperatures, cosine
margins) expect unit rows, and the caller normalizes. Each is a mean over anchors in memory linear
in the batch (see ``lossbook.chunking``): dense up to 2,048 x 2,048 similarities, chunked above,
and ``chunk_size`` forces either. Half-precision inputs are computed in float32.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
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
from lossbook._numerics import Scalar, full_precision, inner_products, lowest
from lossbook.chunking import mean_over_similarities


def reduce(losses: Float[Tensor, " n"], reduction: str) -> Tensor:
    """The mean, the sum or the losses themselves.

    Raises:
        ValueError: if ``reduction`` is not "mean", "sum" or "none".
    """
    one_of("reduction", reduction, ("mean", "sum", "none"))
    return {"mean": torch.mean, "sum": torch.sum, "none": lambda x: x}[reduction](losses)


# Contrast: a softmax over similarities ---------------------------------------------------------


def info_nce_loss(
    queries: Float[Tensor, "n d"],
    keys: Float[Tensor, "n d"],
    *,
    temperature: Scalar = 0.1,
    chunk_size: int | None = None,
) -> Float[Tensor, ""]:
    r"""InfoNCE in one direction: query i must pick key i among all keys of the batch.

    .. math:: L = -\frac1n \sum_i \log \frac{e^{q_i \cdot k_i / T}}{\sum_j e^{q_i \cdot k_j / T}}

    Args:
        queries: (n, d), unit rows.
        keys: (n, d), unit rows; row i is the positive of query i, the others its negatives.
        temperature: T > 0.
        chunk_size: rows of the similarity matrix held at once; None chooses by size.

    Returns:
        The mean over queries; 0 for a single query.

    Raises:
        ValueError: for an empty batch, different shapes or a temperature that is not positive.

    Reference:
        A. van den Oord, Y. Li, O. Vinyals, "Representation Learning with Contrastive Predictive
        Coding", 2018, arXiv:1807.03748.
    """
    matrix("queries", queries)
    same_shape("keys", keys, "queries", queries)
    positive("temperature", temperature)
    return mean_over_similarities(
        _info_nce_rows, queries, keys, chunk_size=chunk_size, temperature=temperature
    )


def _info_nce_rows(similarities, index, *, temperature):
    return F.cross_entropy(similarities / temperature, index, reduction="sum"), len(index)


def nt_xent_loss(
    z1: Float[Tensor, "n d"],
    z2: Float[Tensor, "n d"],
    *,
    temperature: Scalar = 0.5,
    chunk_size: int | None = None,
) -> Float[Tensor, ""]:
    r"""NT-Xent (SimCLR): each of the 2n views must find its other view among 2n - 1 candidates.

    .. math:: L = -\frac1{2n} \sum_a \log
        \frac{e^{z_a \cdot z_{p(a)} / T}}{\sum_{b \ne a} e^{z_a \cdot z_b / T}}

    Args:
        z1: (n, d), unit rows, first views.
        z2: (n, d), unit rows; row i is the second view of sample i.
        temperature: T > 0.
        chunk_size: rows of the similarity matrix held at once; None chooses by size.

    Returns:
        The mean over the 2n views; 0 for a single sample.

    Raises:
        ValueError: for an empty batch, different shapes or a temperature that is not positive.

    Reference:
        T. Chen, S. Kornblith, M. Norouzi, G. Hinton, "A Simple Framework for Contrastive Learning
        of Visual Representations", ICML 2020, arXiv:2002.05709.
    """
    matrix("z1", z1)
    same_shape("z2", z2, "z1", z1)
    positive("temperature", temperature)
    views = torch.cat([z1, z2])
    return mean_over_similarities(
        _nt_xent_rows, views, views, chunk_size=chunk_size, temperature=temperature
    )


def _nt_xent_rows(similarities, index, *, temperature):
    n = similarities.shape[1]
    logits = with_own(similarities / temperature, index, -torch.inf)
    return F.cross_entropy(logits, (index + n // 2) % n, reduction="sum"), len(index)


def supcon_loss(
    embeddings: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    *,
    temperature: Scalar = 0.1,
    chunk_size: int | None = None,
) -> Float[Tensor, ""]:
    r"""Supervised contrastive loss: every sample of the anchor's class is a positive.

    .. math:: L = \frac1{|A|} \sum_{a \in A} \frac{-1}{|P(a)|} \sum_{p \in P(a)} \log
        \frac{e^{z_a \cdot z_p / T}}{\sum_{b \ne a} e^{z_a \cdot z_b / T}}

    with A the anchors that have a positive. (The paper's code divides by all anchors; the two agree
    where each class has two samples or more.)

    Args:
        embeddings: (n, d), unit rows.
        labels: (n,), integers.
        temperature: T > 0.
        chunk_size: rows of the similarity matrix held at once; None chooses by size.

    Returns:
        The mean over anchors that have a positive; 0 where none has.

    Raises:
        ValueError: for an empty batch, labels that are not n integers or a temperature that is not
            positive.

    Reference:
        P. Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, arXiv:2004.11362 (the
        form L_out).
    """
    _require_labels("embeddings", embeddings, labels)
    positive("temperature", temperature)
    return mean_over_similarities(
        *(_supcon_rows, embeddings, embeddings, labels),
        chunk_size=chunk_size,
        temperature=temperature,
    )


def _supcon_rows(similarities, index, labels, *, temperature):
    # Not minus infinity: it stays finite where an anchor is alone, and times 0.
    own = lowest(similarities)
    log_p = with_own(similarities / temperature, index, own).log_softmax(-1)
    positives = pair_masks(labels, index)[0].to(log_p)
    n_positives = positives.sum(-1)
    total = ((log_p * positives).sum(-1) / n_positives.clamp(min=1)).sum()
    return -total, (n_positives > 0).sum()


def n_pairs_loss(
    anchors: Float[Tensor, "n d"],
    positives: Float[Tensor, "n d"],
    *,
    l2_weight: Scalar = 0.0,
    chunk_size: int | None = None,
) -> Float[Tensor, ""]:
    r"""N-pairs loss: InfoNCE on unnormalized embeddings, with a penalty on their length.

    .. math:: L = \frac1n \sum_i \log\Big(1 + \sum_{j \ne i} e^{a_i \cdot p_j - a_i \cdot p_i}\Big)
        + \frac{\lambda}{n} \sum_i \big(\|a_i\|^2 + \|p_i\|^2\big)

    Args:
        anchors: (n, d), one sample from each of n classes.
        positives: (n, d), another sample from the same classes.
        l2_weight: the penalty's weight, at least 0.
        chunk_size: rows of the similarity matrix held at once; None chooses by size.

    Returns:
        The mean over anchors.

    Raises:
        ValueError: for an empty batch, different shapes or a negative ``l2_weight``.

    Reference:
        K. Sohn, "Improved Deep Metric Learning with Multi-class N-pair Loss Objective", NeurIPS
        2016.
    """
    matrix("anchors", anchors)
    same_shape("positives", positives, "anchors", anchors)
    in_range("l2_weight", l2_weight, at_least=0)
    contrast = info_nce_loss(anchors, positives, temperature=1.0, chunk_size=chunk_size)
    anchors, positives = full_precision(anchors, positives)
    return contrast + l2_weight * (anchors.square() + positives.square()).sum(-1).mean()


# Pairs and triplets with margins ---------------------------------------------------------------


def pair_masks(
    labels: Int[Tensor, " n"], index: Int[Tensor, " m"] | None = None
) -> tuple[Tensor, Tensor]:
    """Which pairs share a label and which do not.

    Args:
        labels: (n,), integers.
        index: (m,), the anchors; None takes all.

    Returns:
        ``(positives, negatives)``, two boolean masks (m, n); a sample is no pair with itself.
    """
    if index is None:
        index = torch.arange(len(labels), device=labels.device)
    same = labels[index][:, None] == labels[None, :]
    return with_own(same, index, False), ~same


def with_own(rows: Shaped[Tensor, "m n"], index: Int[Tensor, " m"], value: float) -> Tensor:
    """Rows of a matrix, one for each anchor, with a value at the anchor's own place.

    Args:
        rows: (m, n).
        index: (m,), the anchors: row i is that of sample ``index[i]``.
        value: a number.

    Returns:
        (m, n), new.
    """
    return rows.scatter(1, index[:, None], value)


def pair_contrastive_loss(
    embeddings: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    *,
    margin: Scalar = 0.5,
    chunk_size: int | None = None,
) -> Float[Tensor, ""]:
    r"""Contrastive loss on cosine similarities: pull positives to 1, push negatives below a margin.

    .. math:: L = \frac1n \sum_i \Big[ \sum_{p \in P_i} (1 - s_{ip})
        + \sum_{k \in N_i} (s_{ik} - m)_+ \Big]

    Hadsell et al. state it with squared distances; this is the form that the metric-learning
    literature compares with, where every positive pulls with force 1 and every negative above the
    margin pushes with force 1.

    Args:
        embeddings: (n, d), unit rows; s = cosine similarity.
        labels: (n,), integers.
        margin: m in [-1, 1].
        chunk_size: rows of the similarity matrix held at once; None chooses by size.

    Returns:
        The mean over samples of the sum over their pairs.

    Raises:
        ValueError: for an empty batch, labels that are not n integers or a margin outside [-1, 1].

    Reference:
        R. Hadsell, S. Chopra, Y. LeCun, "Dimensionality Reduction by Learning an Invariant
        Mapping", CVPR 2006.
    """
    _require_labels("embeddings", embeddings, labels)
    in_range("margin", margin, at_least=-1, at_most=1)
    return mean_over_similarities(
        *(_pair_contrastive_rows, embeddings, embeddings, labels),
        chunk_size=chunk_size,
        margin=margin,
    )


def _pair_contrastive_rows(s, index, labels, *, margin):
    _, negatives = pair_masks(labels, index)
    forces = torch.where(negatives, (s - margin).relu(), 1 - s)
    return with_own(forces, index, 0).sum(), len(index)


def triplet_loss(
    embeddings: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    *,
    margin: Scalar = 0.1,
    chunk_size: int | None = None,
) -> Float[Tensor, ""]:
    r"""Triplet loss over all triplets of the batch, averaged over those that violate the margin.

    .. math:: L = \operatorname{mean}_{(a, p, k):\ s_{ak} - s_{ap} + m > 0} (s_{ak} - s_{ap} + m)

    Args:
        embeddings: (n, d), unit rows; s = cosine similarity.
        labels: (n,), integers.
        margin: m > 0.
        chunk_size: rows of the similarity matrix held at once; None chooses by size.

    Returns:
        The mean over active triplets; 0 where none is active. Triplets are counted, not listed:
        time and memory are those of the n x n similarities.

    Raises:
        ValueError: for an empty batch, labels that are not n integers or a margin that is not
            positive.

    Reference:
        F. Schroff, D. Kalenichenko, J. Philbin, "FaceNet: A Unified Embedding for Face Recognition
        and Clustering", CVPR 2015, arXiv:1503.03832 (there with squared distances).
    """
    _require_labels("embeddings", embeddings, labels)
    positive("margin", margin)
    return mean_over_similarities(
        *(_triplet_rows, embeddings, embeddings, labels),
        chunk_size=chunk_size,
        margin=margin,
        n_positives=most_positives(labels),
    )


def _triplet_rows(s, index, labels, *, margin, n_positives):
    """The sum over active triplets is linear in the similarities, with counts for weights.

    A negative counts as often as there are positives less than a margin above it, and a positive
    as often as there are negatives more than that near.
    """
    positives, negatives = pair_masks(labels, index)
    nearest = s.masked_fill(~positives, torch.inf).topk(n_positives, largest=False).values
    counts = torch.searchsorted(nearest.detach(), s.detach() + margin) * negatives
    reached = torch.zeros_like(nearest, dtype=counts.dtype)
    reached = F.pad(reached, (0, 1)).scatter_add(1, counts, torch.ones_like(counts))
    of_positives = reached.flip(1).cumsum(1).flip(1)[:, 1:]
    n_active = of_positives.sum().to(s)
    pulled = torch.where(of_positives > 0, nearest, 0) * of_positives
    return (s * counts).sum() - pulled.sum() + margin * n_active, n_active


def most_positives(labels: Tensor) -> int:
    """How many positives an anchor has at most.

    As many as it could have where labels can't be read, under vmap over them or when compiled.
    """
    if torch._C._functorch.is_batchedtensor(labels) or torch.compiler.is_compiling():
        return len(labels) - 1
    return int(labels.unique(return_counts=True)[1].max()) - 1


# Margins in a softmax over classes ------------------------------------------------------------


def margin_logits(
    embeddings: Float[Tensor, "n d"],
    prototypes: Float[Tensor, "c d"],
    labels: Int[Tensor, " n"],
    *,
    scale: Scalar = 64.0,
    margin: Scalar = 0.5,
    kind: str = "arc",
) -> Float[Tensor, "n c"]:
    r"""Logits of ArcFace and CosFace: the true class is handicapped by a margin.

    .. math:: \ell_{ij} = s\,\cos\theta_{ij}\ (j \ne y_i), \qquad
        \ell_{i y_i} = s \cos(\theta_{i y_i} + m)\ \text{(arc)}\quad\text{or}\quad
        s\,(\cos\theta_{i y_i} - m)\ \text{(cos)}

    Args:
        embeddings: (n, d), unit rows.
        prototypes: (c, d), unit rows, one for each class.
        labels: (n,), integers below c.
        scale: s > 0, the inverse of a temperature.
        margin: m >= 0, radians for "arc", cosine for "cos".
        kind: "arc", "cos" or "none" (normalized softmax, no margin).

    Returns:
        (n, c) logits for cross-entropy. Cosines are clamped to 1 - 1e-6 before the arc cosine,
        whose slope is infinite at 1.

    Raises:
        ValueError: for an empty batch, wrong shapes or labels, a scale that is not positive, a
            negative margin or an unknown kind.

    References:
        J. Deng, J. Guo, N. Xue, S. Zafeiriou, "ArcFace", CVPR 2019, arXiv:1801.07698;
        H. Wang et al., "CosFace", CVPR 2018, arXiv:1801.09414.
    """
    _require_labels("embeddings", embeddings, labels)
    matrix("prototypes", prototypes)
    if prototypes.shape[1] != embeddings.shape[1]:
        raise ValueError(
            f"prototypes must have {embeddings.shape[1]} columns like embeddings, "
            f"got shape {tuple(prototypes.shape)}"
        )
    positive("scale", scale)
    in_range("margin", margin, at_least=0)
    one_of("kind", kind, ("arc", "cos", "none"))
    cosines = inner_products(embeddings, prototypes)
    if kind == "arc":
        penalized = torch.cos(cosines.clamp(-1 + 1e-6, 1 - 1e-6).arccos() + margin)
    else:
        penalized = cosines - (margin if kind == "cos" else 0)
    target = F.one_hot(labels.long(), len(prototypes)).bool()
    return scale * torch.where(target, penalized, cosines)


# Classification and robustness ----------------------------------------------------------------

MARGIN_LOSSES = {
    "logistic": lambda z: F.softplus(-z),
    "hinge": lambda z: (1 - z).relu(),
    "squared_hinge": lambda z: (1 - z).relu().square(),
    "exponential": lambda z: (-z).clamp(max=30).exp() * (1 + (-z - 30).relu()),
    "focal": lambda z: F.softplus(-z) * torch.sigmoid(-z).square(),
}


def margin_loss(
    margins: Float[Tensor, " n"], *, name: str = "logistic", reduction: str = "mean"
) -> Tensor:
    r"""A classical loss of the margin: the sign of a binary label times the score.

    .. math:: \log(1 + e^{-z}), \quad (1 - z)_+, \quad (1 - z)_+^2, \quad e^{-z}, \quad
        \sigma(-z)^2 \log(1 + e^{-z})

    Args:
        margins: (n,), z = (2 t - 1) f for a target t of 0 or 1 and a score f.
        name: "logistic" (binary cross-entropy), "hinge", "squared_hinge", "exponential" or "focal"
            (with gamma = 2), in the order of the formulas.
        reduction: "mean", "sum" or "none".

    Returns:
        The reduced loss. The exponential overflows where z is very negative: below -30 it goes on
        linearly, with the slope it has there.

    Raises:
        ValueError: for an empty batch, an unknown name or an unknown reduction.

    Reference:
        P. Bartlett, M. Jordan, J. McAuliffe, "Convexity, Classification, and Risk Bounds", JASA
        2006.
    """
    not_empty("margins", margins)
    one_of("name", name, MARGIN_LOSSES)
    (margins,) = full_precision(margins)
    return reduce(MARGIN_LOSSES[name](margins), reduction)


def focal_loss(
    logits: Float[Tensor, "n c"],
    labels: Int[Tensor, " n"],
    *,
    gamma: Scalar = 2.0,
    reduction: str = "mean",
) -> Tensor:
    r"""Focal loss: cross-entropy with confident samples weighed down.

    .. math:: L_i = -(1 - p_{i y_i})^\gamma \log p_{i y_i}

    Args:
        logits: (n, c).
        labels: (n,), integers below c.
        gamma: at least 0; 0 is cross-entropy.
        reduction: "mean", "sum" or "none".

    Returns:
        The reduced loss.

    Raises:
        ValueError: for an empty batch, labels that are not n integers, a negative gamma or an
            unknown reduction.

    Reference:
        T.-Y. Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, arXiv:1708.02002.
    """
    log_p = label_log_probability(logits, labels)
    in_range("gamma", gamma, at_least=0)
    # 1 - p below 1e-12 is noise, and its power has an infinite slope at 0 for gamma below one.
    doubt = (-torch.expm1(log_p)).clamp(min=1e-12)
    return reduce(-(doubt**gamma) * log_p, reduction)


def dice_loss(
    logits: Float[Tensor, "*batch n"],
    targets: Float[Tensor, "*batch n"] | Int[Tensor, "*batch n"],
    *,
    smooth: Scalar = 1.0,
    square: bool = False,
) -> Float[Tensor, ""]:
    r"""Soft Dice: one minus the F1 score of sets, with probabilities for decisions.

    .. math:: L = 1 - \frac{2 \sum_i p_i y_i + \gamma}{\sum_i p_i + \sum_i y_i + \gamma}, \qquad
        p = \sigma(\text{logits})

    Args:
        logits: (..., n); each row is one set, such as the pixels of an image.
        targets: (..., n), 1 for members and 0 for others.
        smooth: gamma, positive.
        square: whether the denominator's terms are squared (V-Net's form).

    Returns:
        The mean over sets.

    Raises:
        ValueError: for an empty batch, different shapes or a smooth that is not positive.

    References:
        F. Milletari, N. Navab, S.-A. Ahmadi, "V-Net", 3DV 2016, arXiv:1606.04797 (squared);
        C. H. Sudre et al., "Generalised Dice Overlap as a Deep Learning Loss Function for Highly
        Unbalanced Segmentations", DLMIA 2017, arXiv:1707.03237.
    """
    p, targets = _probabilities_and_targets(logits, targets)
    positive("smooth", smooth)
    power = 2 if square else 1
    total = (p**power + targets**power).sum(-1)
    return (1 - (2 * (p * targets).sum(-1) + smooth) / (total + smooth)).mean()


def tversky_loss(
    logits: Float[Tensor, "*batch n"],
    targets: Float[Tensor, "*batch n"] | Int[Tensor, "*batch n"],
    *,
    false_positive_weight: Scalar = 0.5,
    false_negative_weight: Scalar = 0.5,
    smooth: Scalar = 1.0,
) -> Float[Tensor, ""]:
    r"""Tversky loss: Dice with a price for each kind of error.

    .. math:: L = 1 - \frac{\mathrm{TP} + \gamma}
        {\mathrm{TP} + a\,\mathrm{FP} + b\,\mathrm{FN} + \gamma}, \quad
        \mathrm{TP} = \sum_i p_i y_i, \ \mathrm{FP} = \sum_i p_i (1 - y_i), \
        \mathrm{FN} = \sum_i (1 - p_i)\, y_i

    a = b = 1/2 is Dice (with twice its gamma), a = b = 1 the Jaccard index.

    Args:
        logits: (..., n); each row is one set; p is their sigmoid.
        targets: (..., n), 1 for members and 0 for others.
        false_positive_weight: a, at least 0.
        false_negative_weight: b, at least 0.
        smooth: gamma, positive.

    Returns:
        The mean over sets.

    Raises:
        ValueError: for an empty batch, different shapes, a negative weight or a smooth that is not
            positive.

    Reference:
        S. S. M. Salehi, D. Erdogmus, A. Gholipour, "Tversky Loss Function for Image Segmentation
        Using 3D Fully Convolutional Deep Networks", MLMI 2017, arXiv:1706.05721.
    """
    p, targets = _probabilities_and_targets(logits, targets)
    in_range("false_positive_weight", false_positive_weight, at_least=0)
    in_range("false_negative_weight", false_negative_weight, at_least=0)
    positive("smooth", smooth)
    tp = (p * targets).sum(-1)
    errors = false_positive_weight * (p.sum(-1) - tp)
    errors = errors + false_negative_weight * (targets.sum(-1) - tp)
    return (1 - (tp + smooth) / (tp + errors + smooth)).mean()


def _probabilities_and_targets(logits: Tensor, targets: Tensor) -> list[Tensor]:
    not_empty("logits", logits)
    same_shape("targets", targets, "logits", logits)
    logits, targets = full_precision(logits, targets)
    return [logits.sigmoid(), targets]


def label_log_probability(
    logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """The log-probability that a softmax gives to each sample's label.

    Raises:
        ValueError: for an empty batch or labels that are not n integers.
    """
    _require_labels("logits", logits, labels)
    (logits,) = full_precision(logits)
    return -F.cross_entropy(logits, labels.long(), reduction="none")


def pgd_attack(
    objective: Callable[[Tensor], Tensor],
    inputs: Float[Tensor, "n ..."],
    *,
    radius: Scalar = 0.1,
    steps: int = 5,
    step_size: Scalar | None = None,
    norm: str = "linf",
) -> Float[Tensor, "n ..."]:
    r"""Inputs within a radius that make an objective large: projected gradient ascent.

    Starts at a random point of the ball, since an objective that compares with the clean input has
    no gradient there.

    .. math:: x' \leftarrow \Pi_{\|x' - x\| \le r}\big(x' + \eta\, g / \|g\|\big)

    with the sign of g instead of its direction for the maximum norm.

    Args:
        objective: perturbed inputs -> a scalar to be maximized (a sum over samples).
        inputs: (n, ...).
        radius: r >= 0.
        steps: number of ascent steps, at least 1.
        step_size: step length, at least 0; None takes 2.5 radius / steps.
        norm: "linf" or "l2".

    Returns:
        Perturbed inputs, detached. Draws from torch's generator (under vmap use
        ``randomness="different"``).

    Raises:
        ValueError: for a negative radius, steps below 1 or an unknown norm.

    Reference:
        A. Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018,
        arXiv:1706.06083.
    """
    in_range("radius", radius, at_least=0)
    in_range("steps", steps, at_least=1)
    one_of("norm", norm, ("linf", "l2"))
    step_size = 2.5 * radius / steps if step_size is None else step_size
    in_range("step_size", step_size, at_least=0)
    inputs = inputs.detach()
    direction, project = _BALLS[norm]
    offset = project(torch.rand_like(inputs) * 2 - 1, 1.0) * radius
    for _ in range(steps):
        gradient = torch.func.grad(objective)(inputs + offset).detach()
        offset = project(offset + step_size * direction(gradient), radius)
    return inputs + offset


def _l2_norm(x: Tensor) -> Tensor:
    norms = torch.linalg.vector_norm(x.flatten(1), dim=1).clamp(min=1e-12)
    return norms.reshape(-1, *[1] * (x.ndim - 1))


_BALLS = {
    "linf": (torch.sign, lambda x, radius: x.clamp(-radius, radius)),
    "l2": (lambda g: g / _l2_norm(g), lambda x, radius: x * (radius / _l2_norm(x)).clamp(max=1)),
}


def trades_loss(
    model: Callable[[Tensor], Tensor],
    inputs: Float[Tensor, "n ..."],
    labels: Int[Tensor, " n"],
    *,
    weight: Scalar = 6.0,
    radius: Scalar = 0.1,
    steps: int = 5,
    step_size: Scalar | None = None,
    norm: str = "linf",
) -> Float[Tensor, ""]:
    r"""TRADES: cross-entropy on clean inputs plus the divergence to the worst input nearby.

    .. math:: L = \mathrm{CE}(h(x), y)
        + w \max_{\|x' - x\| \le r} \mathrm{KL}\big(h(x)\,\|\,h(x')\big)

    Args:
        model: inputs -> logits (n, c).
        inputs: (n, ...).
        labels: (n,), integers below c.
        weight: w >= 0, the price of a divergence.
        radius, steps, step_size, norm: as in :func:`pgd_attack`.

    Returns:
        The mean over samples.

    Raises:
        ValueError: as :func:`pgd_attack`, or for an empty batch, a negative weight or wrong labels.

    Reference:
        H. Zhang et al., "Theoretically Principled Trade-off between Robustness and Accuracy", ICML
        2019, arXiv:1901.08573.
    """
    in_range("weight", weight, at_least=0)
    not_empty("inputs", inputs)
    class_labels(labels, len(inputs))
    clean = model(inputs)
    target = clean.detach()
    attacked = pgd_attack(
        lambda perturbed: _kl_divergence(target, model(perturbed)),
        inputs,
        radius=radius,
        steps=steps,
        step_size=step_size,
        norm=norm,
    )
    shift = _kl_divergence(clean, model(attacked)) / len(inputs)
    return -label_log_probability(clean, labels).mean() + weight * shift


def _kl_divergence(logits: Tensor, other_logits: Tensor) -> Tensor:
    """KL from one softmax to another, summed over samples (F.kl_div has no rule for vmap)."""
    log_p, log_q = logits.log_softmax(-1), other_logits.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum()


def _require_labels(name: str, samples: Tensor, labels: Tensor) -> None:
    matrix(name, samples)
    class_labels(labels, len(samples))
