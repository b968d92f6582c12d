"""Classifiers on top of features: linear ones, and wide, deep networks (notebook 08).

Three papers meet here. A linear SVM on frozen features (Sharif Razavian et al. 2014) minimizes
:func:`one_vs_rest_hinge_loss`, perhaps after :func:`signed_power`. :func:`gaussian_naive_bayes` is
the rival of logistic regression (Zheng et al. 2023). The rest is about networks of infinite width
and depth (Radhakrishnan et al. 2023). They act like :func:`hilbert_classifier` with an exponent
that depends on the activation: 0 is a majority vote, infinity the nearest neighbor.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from lossbook._checks import class_labels, in_range, matrix, one_of, positive
from lossbook._numerics import Scalar, full_precision, inner_products, lowest
from lossbook.baselines import reduce

# Linear classifiers -----------------------------------------------------------------------------


def gaussian_naive_bayes(
    inputs: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    *,
    n_classes: int = 10,
    variance_floor: Scalar = 1e-9,
) -> tuple[Float[Tensor, "c d"], Float[Tensor, " c"]]:
    r"""Gaussian naive Bayes whose classes share one variance per feature: a linear classifier.

    With the mean :math:`\mu_k` and the share :math:`\pi_k` of class k, and the variance
    :math:`\sigma_j^2` of feature j around the class means,

    .. math:: w_k = \mu_k / \sigma^2, \qquad
        b_k = \log \pi_k - \tfrac12 \sum_j \mu_{kj}^2 / \sigma_j^2;

    a sample x belongs to the class with the largest :math:`w_k \cdot x + b_k`.

    Args:
        inputs: (n, d).
        labels: (n,), integers below n_classes.
        n_classes: number of classes c, at least 1.
        variance_floor: added to every variance, positive; in units of the squared inputs.

    Returns:
        The weights (c, d) and the biases (c,). A class without samples has weight 0 and the lowest
        bias, so it is never predicted.

    Raises:
        ValueError: for empty inputs, labels that are not n integers, n_classes below 1 or a floor
            that is not positive.

    Reference:
        C. Zheng, G. Wu, F. Bao, Y. Cao, C. Li, J. Zhu, "Revisiting Discriminative vs. Generative
        Classifiers: Theory and Implications", ICML 2023, arXiv:2302.02334.
    """
    matrix("inputs", inputs)
    class_labels(labels, len(inputs))
    in_range("n_classes", n_classes, at_least=1)
    positive("variance_floor", variance_floor)
    (inputs,) = full_precision(inputs)
    members = F.one_hot(labels.long(), n_classes).to(inputs.dtype)
    counts = members.sum(0)
    means = inner_products(members.mT, inputs.mT) / counts.clamp(min=1)[:, None]
    variance = (inputs - means[labels.long()]).square().mean(0) + variance_floor
    weight = means / variance
    log_share = (counts.clamp(min=1) / len(inputs)).log()
    log_share = torch.where(counts > 0, log_share, lowest(inputs))
    return weight, log_share - (weight * means).sum(-1) / 2


def one_vs_rest_hinge_loss(
    scores: Float[Tensor, "n c"],
    labels: Int[Tensor, " n"],
    *,
    squared: bool = False,
    reduction: str = "mean",
) -> Tensor:
    r"""The hinge loss of c linear SVMs, each of which tells one class from all others.

    .. math:: \ell = \sum_k \max(0,\ 1 - t_k s_k)^p, \qquad
        t_k = 1 \text{ for the label's class, } -1 \text{ for the others}

    with p = 1, or 2 if squared. A linear SVM minimizes
    :math:`\tfrac12 \|W\|^2 + C \sum_i \ell_i` for scores :math:`s = W x`.

    Args:
        scores: (n, c).
        labels: (n,), integers below c.
        squared: whether violations are squared, as scikit-learn's ``LinearSVC`` does by default.
        reduction: "mean", "sum" or "none", over samples.

    Returns:
        The reduced loss.

    Raises:
        ValueError: for empty scores, labels that are not n integers or an unknown reduction.

    Reference:
        A. Sharif Razavian, H. Azizpour, J. Sullivan, S. Carlsson, "CNN Features off-the-shelf: an
        Astounding Baseline for Recognition", CVPR Workshops 2014, arXiv:1403.6382.
    """
    matrix("scores", scores)
    class_labels(labels, len(scores))
    (scores,) = full_precision(scores)
    own = labels.long()[:, None] == torch.arange(scores.shape[1], device=scores.device)
    violation = (1 - torch.where(own, scores, -scores)).relu()
    return reduce((violation.square() if squared else violation).sum(-1), reduction)


def signed_power(features: Float[Tensor, "n d"], *, power: Scalar = 0.5) -> Float[Tensor, "n d"]:
    r"""The signed power of every feature, which brings large and small ones closer together.

    .. math:: f \mapsto \operatorname{sign}(f)\,|f|^p

    A power below 1 keeps a few large features from deciding an inner product alone. Scale the rows
    to unit length afterwards.

    Args:
        features: (n, d).
        power: p, positive; 1 changes nothing, near 0 only signs are left.

    Returns:
        (n, d). The gradient at a feature of exactly 0 is 0, where for p < 1 the formula has none.

    Raises:
        ValueError: for empty features or a power that is not positive.

    Reference:
        A. Sharif Razavian, H. Azizpour, J. Sullivan, S. Carlsson, CVPR Workshops 2014,
        arXiv:1403.6382.
    """
    matrix("features", features)
    positive("power", power)
    (features,) = full_precision(features)
    present = features != 0
    size = torch.where(present, features, 1).abs() ** power
    return torch.where(present, features.sign() * size, features)


# Wide and deep networks -------------------------------------------------------------------------
# The dual of an activation with Hermite coefficients a_k is the power series with coefficients
# a_k^2. All are scaled to 1 at correlation 1. The number in a name is the dimension d of the sphere
# for which the paper proposes the activation.

POLYNOMIALS = {
    "square": (0, 0, 1),
    "offset": (1 / 4, 1 / 4, 0, 1 / 2),
    "optimal-1": (0, 1 / 2, 0, 0, 0, 0, 0, 1 / 2),
    "optimal-2": (0, 1 / 2, 0, 1 / 2),
    "optimal-4": (0, 1 / 4, 1 / 2, 1 / 4),
    "optimal-8": (0, 1 / 16, 7 / 8, 1 / 16),
}
"""Coefficients of the dual activations that are polynomials, from the constant on."""

SINES = {"sine-2": 2.676, "sine-4": 6.13539, "sine-8": 13.8258}
"""The squared frequency a of the activations sin(sqrt(a) z)."""


def _polynomial(coefficients: tuple[float, ...], xi: Tensor) -> Tensor:
    """By Horner's rule; leaving out zeros matters, since deep kernels call it hundreds of times."""
    value = torch.full_like(xi, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * xi + coefficient if coefficient else value * xi
    return value


def _relu(xi: Tensor) -> Tensor:
    return (xi * (math.pi - xi.arccos()) + (1 - xi.square()).sqrt()) / math.pi


def _relu_slope(xi: Tensor) -> Tensor:
    return 1 - xi.arccos() / math.pi


def _inside(function: Callable[[Tensor], Tensor], at_minus_one: float, at_one: float):
    """The function where its autograd is finite, with its values at -1 and 1 filled in."""

    def value(xi: Tensor) -> Tensor:
        inside = xi.abs() < 1
        ends = torch.where(xi > 0, at_one, at_minus_one)
        return torch.where(inside, function(torch.where(inside, xi, 0)), ends)

    return value


def _sine(a: float, xi: Tensor) -> Tensor:
    return (a * xi).sinh() / math.sinh(a)


def _sine_slope(a: float, xi: Tensor) -> Tensor:
    return a * (a * xi).cosh() / math.sinh(a)


def _erf(xi: Tensor) -> Tensor:
    return (2 * xi / 3).arcsin() / math.asin(2 / 3)


def _erf_slope(xi: Tensor) -> Tensor:
    return 2 / (9 - 4 * xi.square()).sqrt() / math.asin(2 / 3)


def _derivative(coefficients: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(k * coefficient for k, coefficient in enumerate(coefficients))[1:]


DUALS = {
    "relu": (_inside(_relu, 0.0, 1.0), _inside(_relu_slope, 0.0, 1.0)),
    "erf": (_erf, _erf_slope),
    **{
        name: (partial(_polynomial, c), partial(_polynomial, _derivative(c)))
        for name, c in POLYNOMIALS.items()
    },
    **{name: (partial(_sine, a), partial(_sine_slope, a)) for name, a in SINES.items()},
}
"""Each activation's dual and the dual's slope."""


def dual_activation(
    correlation: Float[Tensor, "..."], *, activation: str = "relu"
) -> Float[Tensor, "..."]:
    r"""What one layer of infinite width makes of the correlation of its two inputs.

    .. math:: \check\phi(\xi) = \mathbb E[\phi(u)\,\phi(v)], \qquad
        u, v \sim N(0, 1) \text{ with correlation } \xi,

    scaled to :math:`\check\phi(1) = 1`.

    Args:
        correlation: any shape; clipped to [-1, 1].
        activation: "relu", "erf", "square", "offset", one of the paper's "optimal-d" or its
            "sine-d", where d is the dimension of the sphere that the data lie on.

    Returns:
        The correlation of the outputs, in the shape of the inputs'; computed in float64.

    Raises:
        ValueError: for an unknown activation.

    Reference:
        A. Radhakrishnan, M. Belkin, C. Uhler, "Wide and Deep Neural Networks Achieve Optimality for
        Classification", PNAS 2023, arXiv:2204.14126.
    """
    dual, _ = _duals(activation)
    return dual(_clipped(correlation)).to(correlation.dtype)


def dual_activation_slope(
    correlation: Float[Tensor, "..."], *, activation: str = "relu"
) -> Float[Tensor, "..."]:
    r"""The derivative of :func:`dual_activation`: how far one layer pulls two inputs apart.

    .. math:: \check\phi'(\xi) = \mathbb E[\phi'(u)\,\phi'(v)]

    Args:
        correlation: as in :func:`dual_activation`.
        activation: as in :func:`dual_activation`.

    Returns:
        The slope, in the shape of the correlation; computed in float64.

    Raises:
        ValueError: for an unknown activation.

    Reference:
        A. Radhakrishnan, M. Belkin, C. Uhler, PNAS 2023, arXiv:2204.14126.
    """
    _, slope = _duals(activation)
    return slope(_clipped(correlation)).to(correlation.dtype)


def _duals(activation: str) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    one_of("activation", activation, DUALS)
    return DUALS[activation]


def _clipped(correlation: Tensor) -> Tensor:
    return correlation.double().clamp(-1, 1)


def deep_nngp(
    gram: Float[Tensor, "..."], *, activation: str = "relu", depth: int = 10
) -> Float[Tensor, "..."]:
    r"""The kernel of an infinitely wide network at initialization (NNGP).

    .. math:: \Sigma^{(0)} = \xi, \qquad \Sigma^{(l+1)} = \check\phi(\Sigma^{(l)})

    Args:
        gram: inner products of unit vectors, any shape; clipped to [-1, 1]. Where a vector meets
            itself set it to exactly 1: depth magnifies a rounding error there without bound.
        activation: as in :func:`dual_activation`.
        depth: number of layers, at least 0.

    Returns:
        The kernel, in the shape of the inner products; computed in float64.

    Raises:
        ValueError: for an unknown activation or a negative depth.

    Reference:
        A. Radhakrishnan, M. Belkin, C. Uhler, PNAS 2023, arXiv:2204.14126.
    """
    in_range("depth", depth, at_least=0)
    dual, _ = _duals(activation)
    sigma = _clipped(gram)
    for _ in range(depth):
        sigma = dual(sigma).clamp(-1, 1)
    return sigma.to(gram.dtype)


def deep_ntk(
    gram: Float[Tensor, "..."], *, activation: str = "relu", depth: int = 10
) -> Float[Tensor, "..."]:
    r"""The neural tangent kernel: an infinitely wide network trained by gradient descent.

    .. math:: K^{(0)} = \xi, \qquad
        K^{(l+1)} = \Sigma^{(l+1)} + K^{(l)}\, \check\phi'(\Sigma^{(l)})

    with :math:`\Sigma` as in :func:`deep_nngp`.

    Args:
        gram: as in :func:`deep_nngp`.
        activation: as in :func:`dual_activation`.
        depth: number of layers, at least 0.

    Returns:
        The kernel divided by its value at correlation 1, which leaves a ridgeless classifier as it
        is, in the shape of the inner products; computed in float64.

    Raises:
        ValueError: for an unknown activation or a negative depth.

    Reference:
        A. Radhakrishnan, M. Belkin, C. Uhler, PNAS 2023, arXiv:2204.14126.
    """
    in_range("depth", depth, at_least=0)
    dual, slope = _duals(activation)
    sigma = kernel = _clipped(gram)
    inverse = torch.ones((), dtype=torch.float64, device=gram.device)  # of K at correlation 1
    steepest = slope(inverse)
    for _ in range(depth):
        shrink = 1 / (inverse + steepest)
        inverse = inverse * shrink
        after = dual(sigma).clamp(-1, 1)
        kernel = inverse * after + shrink * kernel * slope(sigma)
        sigma = after
    return kernel.to(gram.dtype)


def singularity_exponent(*, activation: str = "relu") -> float:
    r"""The exponent alpha of the singular kernel that a network of infinite depth becomes.

    .. math:: \alpha = -2\,\frac{\log\check\phi'(0)}{\log\check\phi'(1)}: \qquad
        \Sigma^{(L)}(x, x')\ /\ \check\phi'(0)^L \to \frac{R(\|x - x'\|)}{\|x - x'\|^\alpha}

    with R bounded and positive. The classifier is Bayes-consistent if and only if alpha is the
    dimension of the sphere that the data lie on.

    Args:
        activation: as in :func:`dual_activation`.

    Returns:
        alpha; 0 where :math:`\check\phi(0) > 0` (a majority vote) and infinity where
        :math:`\check\phi(0) = \check\phi'(0) = 0` (the nearest neighbor).

    Raises:
        ValueError: for an unknown activation.

    Reference:
        A. Radhakrishnan, M. Belkin, C. Uhler, PNAS 2023, arXiv:2204.14126.
    """
    dual, slope = _duals(activation)
    zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    if dual(zero) > 0:
        return 0.0
    if slope(zero) == 0:
        return math.inf
    return (-2 * slope(zero).log() / slope(one).log()).item()


def kernel_classifier(
    kernel: Float[Tensor, "n n"],
    labels: Int[Tensor, " n"],
    query_kernel: Float[Tensor, "q n"],
    *,
    n_classes: int = 10,
) -> Float[Tensor, "q c"]:
    r"""Ridgeless kernel regression on one-hot labels: an infinitely wide network, trained.

    .. math:: S = K(\text{queries}, X)\ K(X, X)^{-1}\ Y; \qquad \text{class } \arg\max_k S_{qk}

    Args:
        kernel: (n, n), of the training samples with each other; must be invertible.
        labels: (n,), integers below n_classes.
        query_kernel: (q, n), of the queries with the training samples.
        n_classes: number of classes c, at least 1.

    Returns:
        The scores (q, c). For two classes the difference of the columns is the score of a
        regression on labels 1 and -1. Deep kernels need float64.

    Raises:
        ValueError: for an empty kernel, shapes that do not fit, labels that are not n integers or
            n_classes below 1.

    Reference:
        A. Radhakrishnan, M. Belkin, C. Uhler, PNAS 2023, arXiv:2204.14126.
    """
    matrix("kernel", kernel)
    if kernel.shape[0] != kernel.shape[1] or query_kernel.shape[1:] != labels.shape:
        raise ValueError(
            "kernel must have shape (n, n) and query_kernel (q, n) for n labels, "
            f"got {tuple(kernel.shape)}, {tuple(query_kernel.shape)} and {tuple(labels.shape)}"
        )
    class_labels(labels, len(kernel))
    in_range("n_classes", n_classes, at_least=1)
    kernel, query_kernel = full_precision(kernel, query_kernel)
    targets = F.one_hot(labels.long(), n_classes).to(kernel.dtype)
    return inner_products(query_kernel, torch.linalg.solve(kernel, targets).mT)


def hilbert_classifier(
    inputs: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    queries: Float[Tensor, "q d"],
    *,
    n_classes: int = 10,
    exponent: Scalar = 1.0,
) -> Float[Tensor, "q c"]:
    r"""The Hilbert kernel estimate: every training sample votes, the nearer the more.

    .. math:: S_{qk} = \frac{\sum_{i:\,y_i = k} \|x_q - x_i\|^{-\alpha}}
        {\sum_i \|x_q - x_i\|^{-\alpha}}

    It passes through the training labels for every alpha > 0, and is consistent where alpha is the
    dimension of the data.

    Args:
        inputs: (n, d), the training samples.
        labels: (n,), integers below n_classes.
        queries: (q, d).
        n_classes: number of classes c, at least 1.
        exponent: alpha, at least 0. 0 is a majority vote; a large one leaves the nearest neighbor.

    Returns:
        The shares (q, c) of the votes; rows add up to 1. A query that is a training sample gets
        that sample's label.

    Raises:
        ValueError: for empty inputs, labels that are not n integers, queries of another dimension,
            n_classes below 1 or a negative exponent.

    Reference:
        L. Devroye, L. Györfi, A. Krzyżak, "The Hilbert Kernel Regression Estimate", Journal of
        Multivariate Analysis 65, 1998; A. Radhakrishnan, M. Belkin, C. Uhler, PNAS 2023,
        arXiv:2204.14126.
    """
    matrix("inputs", inputs)
    class_labels(labels, len(inputs))
    if queries.ndim != 2 or queries.shape[1] != inputs.shape[1]:
        raise ValueError(
            f"queries must have shape (q, {inputs.shape[1]}) like the inputs, "
            f"got {tuple(queries.shape)}"
        )
    in_range("n_classes", n_classes, at_least=1)
    in_range("exponent", exponent, at_least=0)
    inputs, queries = full_precision(inputs, queries)
    smallest = torch.finfo(inputs.dtype).tiny  # a query on a sample: log 0 would be infinite
    distances = torch.cdist(queries, inputs, compute_mode="donot_use_mm_for_euclid_dist")
    shares = (-exponent * distances.clamp(min=smallest).log()).softmax(-1)
    return inner_products(shares, F.one_hot(labels.long(), n_classes).to(shares.dtype).mT)
