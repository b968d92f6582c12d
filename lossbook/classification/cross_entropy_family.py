"""Comp-sum losses: cross-entropy and its relatives (notebook 01).

One parameter, tau, leads from the sum-exponential loss (0) through cross-entropy (1) and
generalized cross-entropy (between 1 and 2) to the mean absolute error (2).

Reference for the whole module: A. Mao, M. Mohri, Y. Zhong, "Cross-Entropy Loss Functions:
Theoretical Analysis and Applications", ICML 2023, arXiv:2304.07288.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lossbook._checks import class_labels, in_range, not_empty, positive
from lossbook._numerics import Scalar, full_precision, log_sum_exp
from lossbook.baselines import label_log_probability, pgd_attack, reduce

LARGEST_EXPONENT = 30.0
"""Beyond e^30 the losses with tau below one go on linearly instead of overflowing."""


def comp_sum_loss(
    logits: Float[Tensor, "n c"],
    labels: Int[Tensor, " n"],
    *,
    tau: Scalar = 1.0,
    reduction: str = "mean",
) -> Tensor:
    r"""Comp-sum loss of a softmax: cross-entropy (tau = 1) and its relatives.

    .. math:: \ell_\tau = \frac{p_y^{\tau-1} - 1}{1 - \tau}, \qquad
        \ell_1 = -\log p_y, \qquad p = \operatorname{softmax}(\text{logits})

    tau = 0 is the sum-exponential loss 1/p - 1, 1 < tau < 2 generalized cross-entropy with
    q = tau - 1, tau = 2 the mean absolute error 1 - p.

    Args:
        logits: (n, c).
        labels: (n,), integers below c.
        tau: at least 0.
        reduction: "mean", "sum" or "none".

    Returns:
        The reduced loss. For tau < 1 the formula overflows where p is tiny: from
        (tau - 1) log p = 30 on it continues linearly, with the slope it has there.

    Raises:
        ValueError: for an empty batch, labels that are not n integers, a negative tau or an unknown
            reduction.

    Reference:
        A. Mao, M. Mohri, Y. Zhong, ICML 2023, arXiv:2304.07288.
    """
    in_range("tau", tau, at_least=0)
    return reduce(_comp_sum(label_log_probability(logits, labels), tau), reduction)


def _comp_sum(log_p: Tensor, tau: Scalar) -> Tensor:
    """The loss as a function of log p_y, which may also be -log(1 + u) for a sum u of margins."""
    power = torch.as_tensor(tau, dtype=log_p.dtype, device=log_p.device) - 1
    is_log = power.abs() < 1e-6
    power = torch.where(is_log, 1.0, power)
    exponent = power * log_p
    beyond = (exponent - LARGEST_EXPONENT).relu()
    growth = torch.expm1(exponent - beyond) + math.exp(LARGEST_EXPONENT) * beyond
    return torch.where(is_log, -log_p, -growth / power)


def comp_sum_transform(
    beta: Float[Tensor, "..."], *, tau: float = 1.0, n_classes: int = 2
) -> Float[Tensor, "..."]:
    r"""A lower bound on the comp-sum regret that comes with a zero-one regret of beta: T_tau.

    For hypothesis sets that are symmetric and complete, with regrets that include the
    minimizability gaps, ``T_tau(zero-one regret) <= comp-sum regret``, where

    .. math:: S = \tfrac12\big[(1+\beta)^{1/(2-\tau)} + (1-\beta)^{1/(2-\tau)}\big],\quad
        T_\tau(\beta) = \begin{cases}
        \frac{2^{1-\tau}}{1-\tau}\,(1 - S^{2-\tau}) & \tau < 1\\
        \frac{1+\beta}{2}\log(1+\beta) + \frac{1-\beta}{2}\log(1-\beta) & \tau = 1\\
        \frac{1}{(\tau-1)\,n^{\tau-1}}\,(S^{2-\tau} - 1) & 1 < \tau < 2\\
        \frac{\beta}{(\tau-1)\,n^{\tau-1}} & \tau \ge 2\end{cases}

    Args:
        beta: zero-one regret, in [0, 1].
        tau: at least 0, a Python number.
        n_classes: n, at least 2; it matters for tau > 1 only.

    Returns:
        T_tau(beta), of beta's shape. Two classes attain it for tau <= 2.

    Raises:
        ValueError: for a negative tau or fewer than two classes.

    Reference:
        A. Mao, M. Mohri, Y. Zhong, ICML 2023, arXiv:2304.07288.
    """
    in_range("tau", tau, at_least=0)
    in_range("n_classes", n_classes, at_least=2)
    dtype, beta = beta.dtype, beta.double()  # near tau = 1 the formula is 0 / 0 in float32
    return _transform(beta, tau, n_classes).to(dtype)


def _transform(beta: Tensor, tau: float, n_classes: int) -> Tensor:
    if abs(tau - 1) < 1e-6:
        return (torch.special.xlog1py(1 + beta, beta) + torch.special.xlog1py(1 - beta, -beta)) / 2
    if tau >= 2:
        return beta / ((tau - 1) * n_classes ** (tau - 1))
    root = 2 - tau
    log_s = torch.logaddexp(torch.log1p(beta) / root, torch.log1p(-beta) / root) - math.log(2)
    growth = torch.expm1(root * log_s) / (tau - 1)
    return growth * (2 ** (1 - tau) if tau < 1 else n_classes ** (1 - tau))


def comp_sum_best_risk(
    probabilities: Float[Tensor, "*batch c"], *, tau: float = 1.0
) -> Float[Tensor, "*batch"]:
    r"""The smallest expected comp-sum loss that any logits reach for a class distribution.

    .. math:: C^*_\tau(p) = \frac{1}{1-\tau}\Big[\Big(\sum_y p_y^{1/(2-\tau)}\Big)^{2-\tau} - 1\Big]
        \ (\tau < 2), \qquad C^*_1 = -\sum_y p_y \log p_y, \qquad
        C^*_\tau = \frac{1 - \max_y p_y}{\tau - 1}\ (\tau \ge 2)

    Args:
        probabilities: (..., c), each row a distribution.
        tau: at least 0, a Python number.

    Returns:
        (...), the pointwise best conditional risk: the entropy for tau = 1.

    Raises:
        ValueError: for a negative tau.

    Reference:
        A. Mao, M. Mohri, Y. Zhong, ICML 2023, arXiv:2304.07288.
    """
    in_range("tau", tau, at_least=0)
    dtype, probabilities = probabilities.dtype, probabilities.double()
    return _best_risk(probabilities, tau).to(dtype)


def _best_risk(probabilities: Tensor, tau: float) -> Tensor:
    if abs(tau - 1) < 1e-6:
        return torch.special.entr(probabilities).sum(-1)
    if tau >= 2:
        return (1 - probabilities.amax(-1)) / (tau - 1)
    root = 2 - tau
    present = probabilities > 0
    log_p = torch.where(present, probabilities, 1).log()
    return torch.expm1(root * log_sum_exp(log_p / root, present)) / (1 - tau)


def smooth_adversarial_comp_sum_loss(
    model: Callable[[Tensor], Tensor],
    inputs: Float[Tensor, "n ..."],
    labels: Int[Tensor, " n"],
    *,
    tau: Scalar = 1.0,
    rho: Scalar = 1.0,
    nu: Scalar = 1.0,
    radius: Scalar = 0.1,
    steps: int = 5,
    step_size: Scalar | None = None,
    norm: str = "linf",
) -> Float[Tensor, ""]:
    r"""Smooth adversarial comp-sum loss: fit the clean input, keep the margins still around it.

    .. math:: \tilde\ell_\tau = \Phi^\tau\Big(\sum_{y' \ne y} e^{-\Delta(x, y, y') / \rho}\Big)
        + \nu \sup_{\|x' - x\| \le r} \big\| \bar\Delta(x', y) - \bar\Delta(x, y) \big\|_2

    with the margins :math:`\Delta(x, y, y') = h(x)_y - h(x)_{y'}` and :math:`\bar\Delta` their
    vector over y'. The sup is searched by projected gradient ascent; the point found is held fixed
    while the model is updated.

    Args:
        model: inputs -> logits (n, c).
        inputs: (n, ...).
        labels: (n,), integers below c.
        tau: at least 0, the member of the family.
        rho: the margin's scale, positive.
        nu: weight of the stability term, at least 0. With nu = 0 and rho = 1 the loss is
            :func:`comp_sum_loss`.
        radius, steps, step_size, norm: as in :func:`lossbook.baselines.pgd_attack`.

    Returns:
        The mean over samples.

    Raises:
        ValueError: for an empty batch, arguments out of these ranges or labels that are not n
            integers.

    Reference:
        A. Mao, M. Mohri, Y. Zhong, ICML 2023, arXiv:2304.07288.
    """
    in_range("tau", tau, at_least=0)
    positive("rho", rho)
    in_range("nu", nu, at_least=0)
    not_empty("inputs", inputs)
    class_labels(labels, len(inputs))
    clean = model(inputs)
    clean_margins = _margins(clean, labels)
    anchor = clean_margins.detach()

    def shift(perturbed: Tensor) -> Tensor:
        return torch.linalg.vector_norm(_margins(model(perturbed), labels) - anchor, dim=-1).sum()

    attacked = pgd_attack(shift, inputs, radius=radius, steps=steps, step_size=step_size, norm=norm)
    fit = _comp_sum(label_log_probability(clean / rho, labels), tau)
    moved = _margins(model(attacked), labels) - clean_margins
    return (fit + nu * torch.linalg.vector_norm(moved, dim=-1)).mean()


def _margins(logits: Tensor, labels: Tensor) -> Tensor:
    """How far the label's logit is above each logit; the label's own margin is 0."""
    (logits,) = full_precision(logits)
    return logits.gather(-1, labels.long()[:, None]) - logits
