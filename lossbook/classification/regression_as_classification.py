"""Regression as classification: a number becomes a distribution over bins (notebook 07).

Two supports occur, and must not be mixed. Two-hot and C51 put probability on ``c`` points evenly
spaced from ``low`` to ``high``, both included (``atoms="ends"``). HL-Gauss cuts the same interval
into ``c`` equal bins and stands each for its middle (``atoms="centers"``).

Reference for the whole module: J. Farebrother et al., "Stop Regressing: Training Value Functions
via Classification for Scalable Deep RL", ICML 2024, arXiv:2403.03950.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lossbook._checks import in_range, matrix, not_empty, one_of, positive, same_shape
from lossbook._numerics import Scalar, full_precision
from lossbook.baselines import reduce


def categorical_value(
    logits: Float[Tensor, "*batch c"],
    *,
    low: Scalar = -10.0,
    high: Scalar = 10.0,
    atoms: str = "centers",
) -> Float[Tensor, "*batch"]:
    r"""The number that logits over bins stand for: the mean of their softmax.

    .. math:: \hat v = \sum_i p_i z_i, \qquad p = \operatorname{softmax}(\text{logits})

    Args:
        logits: (..., c).
        low: the support's lower end.
        high: its upper end, larger than low.
        atoms: where the c points z lie: "centers", the middles of c equal bins (HL-Gauss), or
            "ends", evenly from low to high, both included (two-hot, C51).

    Returns:
        (...), in [low, high].

    Raises:
        ValueError: for no logits, an empty support or other atoms.

    Reference:
        J. Farebrother et al., ICML 2024, arXiv:2403.03950.
    """
    one_of("atoms", atoms, ("centers", "ends"))
    not_empty("logits", logits)
    (logits,) = full_precision(logits)
    low, high = _support(low, high, logits)
    c = logits.shape[-1]
    steps = torch.arange(c, dtype=logits.dtype, device=logits.device)
    shares = (steps + 0.5) / c if atoms == "centers" else steps / max(c - 1, 1)
    return low + (high - low) * (logits.softmax(-1) * shares).sum(-1)


def two_hot_targets(
    values: Float[Tensor, " n"],
    *,
    low: Scalar = -10.0,
    high: Scalar = 10.0,
    bins: int = 51,
) -> Float[Tensor, "n bins"]:
    r"""Each value as two probabilities on its neighboring points, with the value as their mean.

    .. math:: p_i = \frac{z_{i+1} - v}{z_{i+1} - z_i}, \quad p_{i+1} = 1 - p_i
        \quad\text{for } z_i \le v \le z_{i+1}

    Args:
        values: (n,); those outside the support count as its nearest end.
        low: the support's lower end, the first point.
        high: its upper end, the last point, larger than low.
        bins: the number of points, at least 2.

    Returns:
        (n, bins), each row a distribution.

    Raises:
        ValueError: for no values, an empty support or fewer than two points.

    Reference:
        J. Farebrother et al., ICML 2024, arXiv:2403.03950.
    """
    in_range("bins", bins, at_least=2)
    return _two_hot(values, low, high, bins)


def hl_gauss_targets(
    values: Float[Tensor, " n"],
    *,
    low: Scalar = -10.0,
    high: Scalar = 10.0,
    bins: int = 51,
    sigma_ratio: Scalar = 0.75,
) -> Float[Tensor, "n bins"]:
    r"""Each value as a Gaussian around it, cut off at the support's ends and summed up by bins.

    .. math:: p_i = \frac{\Phi\big(\frac{e_i - v}{\sigma}\big)
        - \Phi\big(\frac{e_{i-1} - v}{\sigma}\big)}{\Phi\big(\frac{e_m - v}{\sigma}\big)
        - \Phi\big(\frac{e_0 - v}{\sigma}\big)}, \qquad
        \sigma = \text{sigma ratio} \cdot \frac{\text{high} - \text{low}}{m}

    with the edges :math:`e_0 = \text{low}, \dots, e_m = \text{high}` of m equal bins. The mean over
    the bins' middles is the value up to (bin width / pi) exp(-2 pi^2 ratio^2), except near the
    ends, where the cut pulls it inward.

    Args:
        values: (n,); those outside the support count as its nearest end.
        low: the support's lower end.
        high: its upper end, larger than low.
        bins: m, at least 2.
        sigma_ratio: the Gaussian's standard deviation over the width of a bin, positive.

    Returns:
        (n, bins), each row a distribution.

    Raises:
        ValueError: for no values, an empty support, fewer than two bins or a sigma_ratio that is
            not positive.

    Reference:
        J. Farebrother et al., ICML 2024, arXiv:2403.03950; the loss is from E. Imani, M. White,
        "Improving Regression Performance with Distributional Losses", ICML 2018, arXiv:1806.04613.
    """
    in_range("bins", bins, at_least=2)
    return _hl_gauss(values, low, high, bins, sigma_ratio)


def two_hot_loss(
    logits: Float[Tensor, "n c"],
    values: Float[Tensor, " n"],
    *,
    low: Scalar = -10.0,
    high: Scalar = 10.0,
    reduction: str = "mean",
) -> Tensor:
    r"""Cross-entropy between two-hot targets and the softmax of the logits.

    .. math:: L = -\sum_i p_i \log \hat p_i, \qquad \hat p = \operatorname{softmax}(\text{logits})

    with p from :func:`two_hot_targets`. Read the prediction with ``categorical_value(logits,
    atoms="ends")``.

    Args:
        logits: (n, c), one for each of c points from low to high.
        values: (n,); a gradient flows into them too, so detach targets that are predictions.
        low: the support's lower end.
        high: its upper end, larger than low.
        reduction: "mean", "sum" or "none".

    Returns:
        The reduced loss; its least value is the entropy of the targets, not 0.

    Raises:
        ValueError: for an empty batch, values that are not n, an empty support or an unknown
            reduction.

    Reference:
        J. Farebrother et al., ICML 2024, arXiv:2403.03950.
    """
    _check_batch(logits, values)
    targets = _two_hot(values, low, high, logits.shape[-1])
    return reduce(_cross_entropy(logits, targets), reduction)


def hl_gauss_loss(
    logits: Float[Tensor, "n c"],
    values: Float[Tensor, " n"],
    *,
    low: Scalar = -10.0,
    high: Scalar = 10.0,
    sigma_ratio: Scalar = 0.75,
    reduction: str = "mean",
) -> Tensor:
    r"""HL-Gauss: cross-entropy between a Gaussian on bins and the softmax of the logits.

    .. math:: L = -\sum_i p_i \log \hat p_i, \qquad \hat p = \operatorname{softmax}(\text{logits})

    with p from :func:`hl_gauss_targets`. Read the prediction with :func:`categorical_value`.

    Args:
        logits: (n, c), one for each of c equal bins from low to high.
        values: (n,); a gradient flows into them too, so detach targets that are predictions.
        low: the support's lower end.
        high: its upper end, larger than low.
        sigma_ratio: the Gaussian's standard deviation over the width of a bin, positive.
        reduction: "mean", "sum" or "none".

    Returns:
        The reduced loss; its least value is the entropy of the targets, not 0.

    Raises:
        ValueError: for an empty batch, values that are not n, an empty support, a sigma_ratio that
            is not positive or an unknown reduction.

    Reference:
        J. Farebrother et al., ICML 2024, arXiv:2403.03950; the loss is from E. Imani, M. White,
        ICML 2018, arXiv:1806.04613.
    """
    _check_batch(logits, values)
    targets = _hl_gauss(values, low, high, logits.shape[-1], sigma_ratio)
    return reduce(_cross_entropy(logits, targets), reduction)


def c51_projection(
    probabilities: Float[Tensor, "n c"],
    rewards: Float[Tensor, " n"],
    not_done: Float[Tensor, " n"] | Bool[Tensor, " n"],
    *,
    discount: Scalar = 0.99,
    low: Scalar = -10.0,
    high: Scalar = 10.0,
) -> Float[Tensor, "n c"]:
    r"""C51's target: the next state's distribution, discounted, moved by the reward, on the points.

    .. math:: p_i = \sum_j q_j \, \max\Big(0, 1 - \frac{|b_j - z_i|}{\Delta z}\Big), \qquad
        b_j = \operatorname{clip}(r + \gamma\, d\, z_j,\ \text{low},\ \text{high})

    with q the distribution at the next state on the points z, evenly from low to high, and d the
    flag ``not_done``. The loss is the cross-entropy to this target.

    Args:
        probabilities: (n, c), q, each row a distribution.
        rewards: (n,).
        not_done: (n,), 1 or True where the episode goes on, else 0 or False.
        discount: gamma, in [0, 1].
        low: the support's lower end, the first point.
        high: its upper end, the last point, larger than low.

    Returns:
        (n, c), each row a distribution; its mean is r + gamma d E[z] if nothing was clipped.

    Raises:
        ValueError: for an empty batch, shapes that do not match, an empty support or a discount
            out of range.

    Reference:
        M. Bellemare, W. Dabney, R. Munos, "A Distributional Perspective on Reinforcement Learning",
        ICML 2017, arXiv:1707.06887.
    """
    matrix("probabilities", probabilities)
    _one_each("rewards", rewards, len(probabilities))
    same_shape("not_done", not_done, "rewards", rewards)
    in_range("discount", discount, at_least=0, at_most=1)
    probabilities, rewards = full_precision(probabilities, rewards)
    low, high = _support(low, high, rewards)
    c = probabilities.shape[-1]
    steps = torch.arange(c, dtype=rewards.dtype, device=rewards.device)
    points = low + (high - low) * steps / max(c - 1, 1)
    moved = rewards[:, None] + discount * not_done.to(rewards.dtype)[:, None] * points
    return _share_out(probabilities, _position(moved, low, high, c - 1), c)


def _check_batch(logits: Tensor, values: Tensor) -> None:
    matrix("logits", logits)
    _one_each("values", values, len(logits))


def _one_each(name: str, values: Tensor, n: int) -> None:
    if values.shape != (n,):
        raise ValueError(f"{name} must have shape ({n},), got {tuple(values.shape)}")


def _support(low: Scalar, high: Scalar, like: Tensor) -> tuple[Tensor, Tensor]:
    """Both ends as tensors of the dtype and device of another one."""
    in_range("low", low, above=-math.inf, below=math.inf)
    in_range("high", high, above=-math.inf, below=math.inf)
    if not isinstance(low, Tensor):
        in_range("high", high, above=low)
    return tuple(torch.as_tensor(end, dtype=like.dtype, device=like.device) for end in (low, high))


def _position(values: Tensor, low: Tensor, high: Tensor, intervals: int) -> Tensor:
    """Where values, clipped to the support, lie on a scale from 0 to the number of intervals."""
    return (values.clamp(low, high) - low) / (high - low) * intervals


def _two_hot(values: Tensor, low: Scalar, high: Scalar, c: int) -> Tensor:
    not_empty("values", values)
    (values,) = full_precision(values)
    low, high = _support(low, high, values)
    position = _position(values, low, high, c - 1)[:, None]
    return _share_out(torch.ones_like(position), position, c)


def _share_out(mass: Tensor, position: Tensor, c: int) -> Tensor:
    """Each mass on the two of c points between which its position lies: memory linear in both."""
    below = position.detach().floor().clamp(max=c - 1)
    upper = mass * (position - below)
    below = below.long()
    shared = upper.new_zeros(*upper.shape[:-1], c).scatter_add(-1, below, mass - upper)
    return shared.scatter_add(-1, (below + 1).clamp(max=c - 1), upper)


def _hl_gauss(values: Tensor, low: Scalar, high: Scalar, c: int, sigma_ratio: Scalar) -> Tensor:
    not_empty("values", values)
    positive("sigma_ratio", sigma_ratio)
    (values,) = full_precision(values)
    low, high = _support(low, high, values)
    edges = torch.arange(c + 1, dtype=values.dtype, device=values.device)
    mass = _normal_mass((edges - _position(values, low, high, c)[:, None]) / sigma_ratio)
    return mass / mass.sum(-1, keepdim=True)


def _normal_mass(edges: Tensor) -> Tensor:
    """The standard normal's probability between neighboring edges, (n, m + 1) -> (n, m).

    Far out on the right the distribution function rounds to 1, and differences of it are lost. The
    probability beyond an edge, on the edge's own side of the middle, is small there and exact.
    """
    is_right = edges >= 0
    beyond = torch.erfc(torch.where(is_right, edges, -edges) / math.sqrt(2)) / 2
    start, end = beyond[:, :-1], beyond[:, 1:]
    around_the_middle = torch.where(is_right[:, 1:], 1 - start - end, end - start)
    return torch.where(is_right[:, :-1], start - end, around_the_middle)


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    (logits,) = full_precision(logits)
    return -(targets * logits.log_softmax(-1)).sum(-1)
