"""Losses for very many classes: the Z-loss, cut cross-entropy, decoupled softmax (notebook 03)."""

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lossbook._checks import class_labels, in_range, matrix, one_of, positive, same_shape
from lossbook._numerics import Scalar, full_precision, inner_products, log_sigmoid, log_sum_exp
from lossbook.baselines import reduce
from lossbook.blockwise import Blockwise, sweep
from lossbook.chunking import dense_entries, gradients_wanted

# The spherical family: three numbers of the logits ----------------------------------------------

SMALLEST_VARIANCE = 1e-12
"""Added to the variance of the logits, which is zero where all of them are equal."""


def z_loss(
    logits: Float[Tensor, "n c"],
    labels: Int[Tensor, " n"],
    *,
    sharpness: Scalar = 0.5,
    offset: Scalar = 3.0,
    reduction: str = "mean",
) -> Tensor:
    r"""Z-loss: a softplus of the label's logit, standardized over the classes.

    .. math:: \ell = \frac1a \log\big(1 + e^{a (b - z_y)}\big), \qquad
        z_y = \frac{h_y - \mu}{\sigma}, \qquad
        \mu = \frac1c \sum_k h_k, \qquad \sigma^2 = \frac1c \sum_k h_k^2 - \mu^2

    Adding a number to all logits of a sample, or multiplying them by a positive one, changes
    nothing. It is not the z-loss of large language models, a penalty on the log-partition function.

    Args:
        logits: (n, c).
        labels: (n,), integers below c.
        sharpness: a, positive: how abruptly the loss lets go at the offset.
        offset: b, the standardized logit that is enough. None is larger than sqrt(c - 1).
        reduction: "mean", "sum" or "none".

    Returns:
        The reduced loss.

    Raises:
        ValueError: for empty logits, labels that are not n integers, a sharpness that is not
            positive or an unknown reduction.

    Reference:
        A. de Brébisson, P. Vincent, "The Z-loss: a shift and scale invariant classification loss
        belonging to the Spherical Family", 2016, arXiv:1604.08859.
    """
    positive("sharpness", sharpness)
    logits, chosen = _label_logits(logits, labels)
    mean, variance = logits.mean(-1), logits.var(-1, correction=0)
    return reduce(_z(chosen - mean, variance, sharpness, offset), reduction)


def log_taylor_softmax_loss(
    logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"], *, reduction: str = "mean"
) -> Tensor:
    r"""Cross-entropy of a softmax whose exponential is cut after the second term.

    .. math:: \ell = -\log \frac{t(h_y)}{\sum_k t(h_k)}, \qquad t(h) = 1 + h + \tfrac12 h^2

    Args:
        logits: (n, c).
        labels: (n,), integers below c.
        reduction: "mean", "sum" or "none".

    Returns:
        The reduced loss.

    Raises:
        ValueError: for empty logits, labels that are not n integers or an unknown reduction.

    Reference:
        A. de Brébisson, P. Vincent, "An Exploration of Softmax Alternatives Belonging to the
        Spherical Loss Family", ICLR 2016, arXiv:1511.05042.
    """
    logits, chosen = _label_logits(logits, labels)
    sums = logits.sum(-1), logits.square().sum(-1)
    return reduce(_log_taylor_of_sums(chosen, *sums, logits.shape[-1]), reduction)


def _label_logits(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    matrix("logits", logits)
    class_labels(labels, len(logits))
    (logits,) = full_precision(logits)
    return logits, logits.gather(-1, labels.long()[:, None]).squeeze(-1)


def _z(above_mean: Tensor, variance: Tensor, sharpness: Scalar, offset: Scalar) -> Tensor:
    z = above_mean / (variance + SMALLEST_VARIANCE).sqrt()
    return F.softplus(sharpness * (offset - z)) / sharpness


def _z_of_sums(chosen, total, squares, n_classes, *, sharpness=0.5, offset=3.0) -> Tensor:
    mean = total / n_classes
    variance = (squares / n_classes - mean.square()).clamp(min=0)
    return _z(chosen - mean, variance, sharpness, offset)


def _log_taylor_of_sums(chosen, total, squares, n_classes) -> Tensor:
    label, everything = 1 + chosen + chosen.square() / 2, n_classes + total + squares / 2
    return everything.log() - label.log()


SPHERICAL = {"z": _z_of_sums, "log-taylor": _log_taylor_of_sums}


class SphericalOutput(nn.Module):
    r"""A linear output layer that takes exact SGD steps at a cost without the number of classes.

    A spherical loss sees the logits :math:`h = W x` through three numbers, the label's logit
    :math:`h_y = W_y \cdot x`, the sum :math:`s = \bar w \cdot x` and the squared norm :math:`q =
    x^\top Q x`, where :math:`\bar w = W^\top 1` and :math:`Q = W^\top W`. With the loss's slopes
    :math:`\alpha, \beta, \gamma` by :math:`h_y`, :math:`s` and :math:`q/2`, the gradient is
    :math:`\partial\ell/\partial h = \alpha e_y + \beta 1 + \gamma h`, and a step on a batch is

    .. math:: W \leftarrow W (I - \eta X^\top \Gamma X) - \eta 1 (X^\top \beta)^\top
        - \eta \sum_i \alpha_i e_{y_i} x_i^\top

    Stored as :math:`W = V U + 1 w^\top`, the first term changes U, the second w, and the third one
    row of V for each sample: :math:`O(d^2)` numbers a sample, and the same W as plain SGD.

    V is updated in place, since a copy would cost what the layer saves: no ``fit_replicas``.

    Args:
        n_classes: c, at least 1.
        dimensions: d of the inputs, at least 1.
        loss: "z", "log-taylor", or a function of the label's logits, the sums, the squared norms,
            each (n,), and c, that returns the losses (n,).
        learning_rate: positive. The losses of a batch are averaged.
        renew_every: after so many steps, at least 1, V takes up U, and what rounding has done to
            the sums is undone. This costs O(c d^2).
        **knobs: of the loss: ``sharpness`` and ``offset`` for "z".

    Raises:
        ValueError: for sizes or rates out of these ranges, an unknown loss or a sharpness that is
            not positive.

    Reference:
        P. Vincent, A. de Brébisson, X. Bouthillier, "Efficient Exact Gradient Update for Training
        Deep Networks with Very Large Sparse Targets", NeurIPS 2015, arXiv:1412.7091; with the
        Z-loss: arXiv:1604.08859.
    """

    def __init__(
        self,
        n_classes: int,
        dimensions: int,
        *,
        loss: str | Callable[..., Tensor] = "z",
        learning_rate: float | int = 0.1,
        renew_every: int = 1000,
        **knobs: float | int,
    ):
        super().__init__()
        in_range("n_classes", n_classes, at_least=1)
        in_range("dimensions", dimensions, at_least=1)
        positive("learning_rate", learning_rate)
        in_range("renew_every", renew_every, at_least=1)
        if not callable(loss):
            one_of("loss", loss, SPHERICAL)
        if "sharpness" in knobs:
            positive("sharpness", knobs["sharpness"])
        self.loss = partial(SPHERICAL.get(loss, loss), n_classes=n_classes, **knobs)
        self.learning_rate, self.renew_every, self.steps = learning_rate, renew_every, 0
        self.register_buffer("rows", torch.randn(n_classes, dimensions) / dimensions**0.5)  # V
        for name in ("mix", "inverse", "products"):  # U, its inverse, and Q
            self.register_buffer(name, torch.eye(dimensions))
        for name in ("shift", "total"):  # w and the sum of all rows of W
            self.register_buffer(name, torch.zeros(dimensions))
        self.renew()

    @property
    def weight(self) -> Float[Tensor, "c d"]:
        """W, for O(c d^2)."""
        return self.rows @ self.mix + self.shift

    def forward(self, inputs: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """All logits, for prediction: this does cost O(c d)."""
        return (inputs @ self.mix.mT) @ self.rows.mT + (inputs @ self.shift)[:, None]

    @torch.no_grad()
    def renew(self) -> None:
        """Write W out anew: V = W, U = I, w = 0, and the sums from W."""
        self.rows = self.weight
        self.mix = torch.eye(len(self.mix)).to(self.mix)
        self.inverse, self.shift = self.mix.clone(), torch.zeros_like(self.shift)
        self.products, self.total = self.rows.mT @ self.rows, self.rows.sum(0)

    @torch.no_grad()
    def step(
        self, inputs: Float[Tensor, "n d"], labels: Int[Tensor, " n"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "n d"]]:
        """One step of SGD on the mean loss of a batch.

        Args:
            inputs: (n, d), of the layer's dtype.
            labels: (n,), integers below c.

        Returns:
            The loss before the step, and its gradient by the inputs, for ``inputs.backward``.

        Raises:
            ValueError: for empty inputs or labels that are not n integers.
        """
        matrix("inputs", inputs)
        class_labels(labels, len(inputs))
        x, labels = inputs.detach(), labels.long()
        row = self.rows[labels] @ self.mix + self.shift  # the labels' rows of W
        seen = x @ self.products
        sums = (row * x).sum(-1), x @ self.total, (seen * x).sum(-1)
        loss, (alpha, beta, gamma) = self._loss_and_slopes(sums)
        slope = alpha[:, None] * row + beta[:, None] * self.total + gamma[:, None] * seen
        self._update(x, labels, row, alpha, beta, gamma)
        self.steps += 1
        if self.steps % self.renew_every == 0:
            self.renew()
        return loss, slope

    @torch.enable_grad()
    def _loss_and_slopes(self, sums: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        leaves = [s.requires_grad_() for s in sums]
        loss = self.loss(*leaves).mean()
        by_label, by_sum, by_square = torch.autograd.grad(loss, leaves, materialize_grads=True)
        return loss.detach(), (by_label, by_sum, 2 * by_square)

    def _update(self, x, labels, row, alpha, beta, gamma) -> None:
        rate, identity = self.learning_rate, torch.eye(len(x)).to(x)
        shrink = rate * gamma[:, None] * x
        # Woodbury: (I - X'GX)^-1 = I + X' (I - GXX')^-1 G X, a system of the batch's size.
        grow = x.mT @ torch.linalg.solve(identity - shrink @ x.mT, shrink)

        def shrunk(rows):
            return rows - (rows @ x.mT) @ shrink

        self.mix, self.inverse = shrunk(self.mix), self.inverse + grow @ self.inverse
        common, own = -rate * (beta @ x), -rate * alpha[:, None] * x
        self.shift = shrunk(self.shift[None])[0] + common
        self.rows.index_add_(0, labels, own @ self.inverse)

        # Q and the total of W after each of the three terms.
        c, same = len(self.rows), (labels[:, None] == labels).to(x)
        total = shrunk(self.total[None])[0]
        cross = (shrunk(row) + common).mT @ own + torch.outer(total, common)
        self.products = (
            shrunk(shrunk(self.products).mT)
            + (cross + cross.mT)
            + c * torch.outer(common, common)
            + own.mT @ same @ own
        )
        self.total = total + c * common + own.sum(0)


# Cut cross-entropy: the logits a block at a time ------------------------------------------------


def linear_cross_entropy(
    embeddings: Float[Tensor, "n d"],
    weight: Float[Tensor, "c d"],
    labels: Int[Tensor, " n"],
    *,
    chunk_size: int | None = None,
    block_size: int | None = None,
    filter_eps: float | int | None = None,
    softcap: float | int | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    r"""Cross-entropy of a linear classifier that never holds all logits.

    .. math:: \ell_i = \log \sum_k e^{h_{ik}} - h_{i y_i}, \qquad h_{ik} = e_i \cdot w_k
        \quad \Big(\text{or } t \tanh \frac{e_i \cdot w_k}{t} \text{ with a softcap } t\Big)

    A chunk of samples at a time, the logits are computed block by block of classes, turned into
    exponentials at once, and multiplied into both gradients before the next chunk takes their
    place: the three matrix products of the ordinary loss, and ``chunk_size * c`` numbers of memory
    for n c. (The paper's GPU kernel holds one block, and computes it twice.) Up to 2^22 logits (on
    a GPU 2^24) are held whole, unless ``chunk_size`` or ``filter_eps`` is given.

    On a GPU, bfloat16 is multiplied as it is and summed in float32: logits and softmax are those
    of float32, the softmax is rounded once before it is multiplied into the gradients. Everywhere
    else, half precision is computed in float32.

    Blockwise, the gradient can be differentiated no further, and vmap takes one replica after the
    other. A second backward pass through one graph computes everything again.

    Args:
        embeddings: (n, d).
        weight: (c, d), one row for each class.
        labels: (n,), integers below c, or ``ignore_index``.
        chunk_size: samples at a time, at least 1; None takes n / 8, between 64 and 256, on a GPU
            up to 1,024.
        block_size: classes at a time, at least 1; None takes 4,096, on a GPU all.
        filter_eps: leave blocks out of the gradient in which softmax and label differ by
            less than this everywhere, at least 0; the paper takes 2^-12 for bfloat16. None leaves
            out nothing. Each block is looked at on the host, for which a GPU has to wait.
        softcap: largest absolute logit, positive; None is no cap.
        ignore_index: the label of samples that do not count.
        reduction: "mean" over the samples that count, "sum" or "none".

    Returns:
        The reduced loss; the mean is zero where no sample counts.

    Raises:
        ValueError: for empty embeddings or weights, shapes that do not fit, labels that are not n
            integers, an argument out of its range or an unknown reduction.

    Reference:
        E. Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models", ICLR 2025,
        arXiv:2411.09009.
    """
    _check_linear(embeddings, weight, labels, chunk_size, block_size, filter_eps, softcap)
    one_of("reduction", reduction, ("mean", "sum", "none"))
    counts = labels != ignore_index
    labels = torch.where(counts, labels, 0).long()
    n, c = len(embeddings), len(weight)
    if chunk_size is None and filter_eps is None and n * c <= dense_entries(weight.device):
        logits = inner_products(embeddings, weight)
        logits = logits if softcap is None else softcap * (logits / softcap).tanh()
        losses = F.cross_entropy(logits, labels, reduction="none") * counts
        if reduction == "none":
            return losses
        return losses.sum() / (counts.sum().clamp(min=1) if reduction == "mean" else 1)

    scale = None  # of each sample's loss
    if reduction != "none":
        scale = counts.to(torch.promote_types(weight.dtype, torch.float32))
        scale = scale / scale.sum().clamp(min=1) if reduction == "mean" else scale
    all_wanted, embeddings, weight = gradients_wanted(embeddings, weight)
    most_rows, most_classes = (256, 4096) if weight.device.type == "cpu" else (1024, c)
    compute = partial(
        sweep,
        wanted=tuple(tensor.requires_grad or all_wanted for tensor in (embeddings, weight)),
        chunk_size=chunk_size or min(max(n // 8, 64), most_rows),
        block_size=block_size or most_classes,
        filter_eps=filter_eps,
        softcap=softcap,
    )
    value, *_ = Blockwise.apply(embeddings, weight, labels, scale, compute)
    return torch.where(counts, value, 0) if reduction == "none" else value


def _check_linear(embeddings, weight, labels, chunk_size, block_size, filter_eps, softcap) -> None:
    matrix("embeddings", embeddings)
    matrix("weight", weight)
    if embeddings.shape[1] != weight.shape[1]:
        raise ValueError(
            f"weight must have as many columns as embeddings, {embeddings.shape[1]}, "
            f"got {weight.shape[1]}"
        )
    class_labels(labels, len(embeddings))
    for name, size in (("chunk_size", chunk_size), ("block_size", block_size)):
        if size is not None:
            in_range(name, size, at_least=1)
    if filter_eps is not None:
        in_range("filter_eps", filter_eps, at_least=0)
    if softcap is not None:
        positive("softcap", softcap)


# Several correct labels: decoupled softmax and soft top-k ---------------------------------------


def multilabel_info_nce_loss(
    scores: Float[Tensor, "n l"], positives: Bool[Tensor, "n l"]
) -> Float[Tensor, ""]:
    r"""InfoNCE with several positives: each is compared with all labels, positives included.

    .. math:: \ell_i = -\frac1{|P_i|} \sum_{l \in P_i}
        \log \frac{e^{s_{il}}}{\sum_{j} e^{s_{ij}}}

    Args:
        scores: (n, l), similarities of queries and labels, divided by a temperature.
        positives: (n, l), which labels are correct.

    Returns:
        The mean over queries that have a positive.

    Raises:
        ValueError: for empty scores or positives of another shape.

    Reference:
        N. Gupta et al., "Dual-Encoders for Extreme Multi-Label Classification", ICLR 2024,
        arXiv:2310.10636, whose code draws one of the positives at random.
    """
    scores = _checked_scores(scores, positives)
    return _mean_over_positives(-scores.log_softmax(-1), positives)


def decoupled_softmax_loss(
    scores: Float[Tensor, "n l"], positives: Bool[Tensor, "n l"]
) -> Float[Tensor, ""]:
    r"""Decoupled softmax: each positive is compared with the true negatives only.

    .. math:: \ell_i = -\frac1{|P_i|} \sum_{l \in P_i}
        \log \frac{e^{s_{il}}}{e^{s_{il}} + \sum_{j \notin P_i} e^{s_{ij}}}

    Args:
        scores: (n, l), similarities of queries and labels, divided by a temperature.
        positives: (n, l), which labels are correct. With one for each query this is cross-entropy.

    Returns:
        The mean over queries that have a positive.

    Raises:
        ValueError: for empty scores or positives of another shape.

    Reference:
        N. Gupta et al., "Dual-Encoders for Extreme Multi-Label Classification", ICLR 2024,
        arXiv:2310.10636. The paper samples positives where there are many; here all count.
    """
    scores = _checked_scores(scores, positives)
    negatives = log_sum_exp(scores, ~positives)[:, None]
    return _mean_over_positives(F.softplus(negatives - scores), positives)


def soft_topk_loss(
    scores: Float[Tensor, "n l"],
    positives: Bool[Tensor, "n l"],
    *,
    k: int = 5,
    sharpness: Scalar = 2.0,
) -> Float[Tensor, ""]:
    r"""Soft top-k loss: the positives should be among the k labels that are selected.

    .. math:: \ell_i = -\frac1{|P_i|} \sum_{l \in P_i} \log z_{il}, \qquad
        z_i = \operatorname{soft-top-}k(s_i)

    Args:
        scores: (n, l), similarities of queries and labels, divided by a temperature.
        positives: (n, l), which labels are correct.
        k, sharpness: as in :func:`soft_topk`.

    Returns:
        The mean over queries that have a positive.

    Raises:
        ValueError: for empty scores, positives of another shape, a k that is not below the number
            of labels or a sharpness that is not positive.

    Reference:
        N. Gupta et al., "Dual-Encoders for Extreme Multi-Label Classification", ICLR 2024,
        arXiv:2310.10636. The paper samples k positives where there are more; here all count.
    """
    scores = _checked_scores(scores, positives)
    return _mean_over_positives(-log_sigmoid(_shifted(scores, k, sharpness)), positives)


def soft_topk(
    scores: Float[Tensor, "n l"], *, k: int = 5, sharpness: Scalar = 2.0
) -> Float[Tensor, "n l"]:
    r"""A smooth selection of the k largest scores: numbers in (0, 1) that add up to k.

    .. math:: z_l = \sigma\big(a (s_l + t)\big), \qquad
        t \text{ such that } \sum_l z_l = k, \qquad
        \frac{\partial t}{\partial s_j} = -\frac{v_j}{\sum_m v_m}, \quad v_j = z_j (1 - z_j)

    t is found without gradient, and has the gradient of the implicit function theorem: right to
    first order, so second derivatives are not those of the selection.

    Args:
        scores: (n, l).
        k: how many, at least 1 and below l.
        sharpness: a, positive; a large one selects exactly.

    Returns:
        (n, l).

    Raises:
        ValueError: for empty scores, a k out of range or a sharpness that is not positive.

    Reference:
        N. Gupta et al., "Dual-Encoders for Extreme Multi-Label Classification", ICLR 2024,
        arXiv:2310.10636, after T. D. Ahle's "Differentiable top-k function" (2022).
    """
    matrix("scores", scores)
    (scores,) = full_precision(scores)
    return torch.sigmoid(_shifted(scores, k, sharpness))


BISECTIONS, NEWTON_STEPS = 10, 5
"""The bracket is narrow enough that this finds the shift to rounding."""


def _shifted(scores: Tensor, k: int, sharpness: Scalar) -> Tensor:
    """a (s + t): the logits of the selection."""
    positive("sharpness", sharpness)
    in_range("k", k, at_least=1, below=scores.shape[-1])
    scores = sharpness * scores
    shift = _shift(scores.detach(), k)
    # A Newton step from the solution is zero, and has the gradient that the shift lacks.
    selected = torch.sigmoid(scores + shift)
    slope = (selected * (1 - selected)).sum(-1, keepdim=True).detach()
    step = (selected - selected.detach()).sum(-1, keepdim=True)
    return scores + shift - step / slope.clamp(min=torch.finfo(slope.dtype).tiny)


def _shift(scores: Tensor, k: int) -> Tensor:
    """(n, 1): the t with sum(sigmoid(scores + t)) = k, between two bounds and then by Newton."""
    largest = scores.topk(k + 1, dim=-1).values
    low = -largest[:, -2:-1] - math.log(scores.shape[-1] - k)
    high = -largest[:, -1:] + math.log(k)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        below = torch.sigmoid(scores + middle).sum(-1, keepdim=True) < k
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    shift = (low + high) / 2
    for _ in range(NEWTON_STEPS):
        selected = torch.sigmoid(scores + shift)
        slope = (selected * (1 - selected)).sum(-1, keepdim=True)
        step = (selected.sum(-1, keepdim=True) - k) / slope.clamp(min=1e-30)
        shift = torch.minimum(torch.maximum(shift - step, low), high)
    return shift


def _checked_scores(scores: Tensor, positives: Tensor) -> Tensor:
    matrix("scores", scores)
    same_shape("positives", positives, "scores", scores)
    return full_precision(scores)[0]


def _mean_over_positives(losses: Tensor, positives: Tensor) -> Tensor:
    """Over each query's positives first, and then over the queries that have one."""
    counts = positives.sum(-1)
    means = torch.where(positives, losses, 0).sum(-1) / counts.clamp(min=1)
    return means.sum() / (counts > 0).sum().clamp(min=1)
