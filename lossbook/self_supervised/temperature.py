"""What the temperature does to a contrastive loss (notebook 09).

The softmax contrastive loss itself is ``lossbook.baselines.info_nce_loss``; here are the relatives
that switch its hardness-awareness off or make it explicit, and the measures that show the effect.

Reference for the whole module: F. Wang, H. Liu, "Understanding the Behaviour of Contrastive Loss",
CVPR 2021, arXiv:2012.09740.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from lossbook._checks import class_labels, in_range, matrix, positive, same_shape
from lossbook._numerics import Scalar, full_precision, inner_products, log_sum_exp, without
from lossbook.baselines import pair_masks, with_own
from lossbook.chunking import mean_over_similarities


def hard_contrastive_loss(
    queries: Float[Tensor, "n d"],
    keys: Float[Tensor, "n d"],
    *,
    temperature: Scalar = 0.3,
    hard_fraction: Scalar = 0.1,
    chunk_size: int | None = None,
) -> Float[Tensor, ""]:
    r"""InfoNCE in which each query keeps only its most similar negatives.

    .. math:: L = -\frac1n \sum_i \log \frac{e^{s_{ii}/T}}
        {e^{s_{ii}/T} + \sum_{j \ne i,\ s_{ij} \ge q_i} e^{s_{ij}/T}}

    with q_i the similarity of the last negative in the hardest share alpha. Which negatives are
    kept is a choice without a gradient.

    Args:
        queries: (n, d), unit rows.
        keys: (n, d), unit rows; row i is the positive of query i.
        temperature: T > 0.
        hard_fraction: alpha in (0, 1], the share of negatives kept (rounded up, so one at least);
            1 is :func:`lossbook.baselines.info_nce_loss`.
        chunk_size: rows of the similarity matrix held at once; None chooses by size.

    Returns:
        The mean over queries; 0 for a single query.

    Raises:
        ValueError: for an empty batch, different shapes, a temperature that is not positive or a
            share outside (0, 1].

    Reference:
        F. Wang, H. Liu, CVPR 2021, arXiv:2012.09740.
    """
    _check_pairs(queries, keys)
    positive("temperature", temperature)
    in_range("hard_fraction", hard_fraction, above=0, at_most=1)
    return mean_over_similarities(
        *(_hard_contrastive_rows, queries, keys),
        chunk_size=chunk_size,
        temperature=temperature,
        hard_fraction=hard_fraction,
    )


def _hard_contrastive_rows(s, index, *, temperature, hard_fraction):
    last = _last_kept(with_own(s.detach(), index, -torch.inf), hard_fraction)
    dropped = with_own(s < last, index, False)
    logits = without(s / temperature, dropped)
    return F.cross_entropy(logits, index, reduction="sum"), len(index)


def _last_kept(s: Tensor, hard_fraction: Scalar) -> Tensor:
    """The similarity of each row's last negative in its hardest share, (n, 1)."""
    n_kept = hard_fraction * (s.shape[1] - 1) - 1e-4  # 0.1 of 30 is more than 3 in floating point
    if isinstance(hard_fraction, Tensor):
        last = (n_kept.ceil().long() - 1).clamp(min=0)
        return s.sort(dim=-1, descending=True).values.gather(-1, last.expand(len(s), 1))
    # A share known in Python spares the full sort, which costs three times as much.
    return s.topk(max(math.ceil(n_kept), 1), dim=-1).values[:, -1:]


def simple_contrastive_loss(
    queries: Float[Tensor, "n d"],
    keys: Float[Tensor, "n d"],
    *,
    negative_weight: Scalar | None = None,
    chunk_size: int | None = None,
) -> Float[Tensor, ""]:
    r"""Contrast without a softmax: every negative is pushed with the same force.

    .. math:: L = \frac1n \sum_i \Big[ -s_{ii} + \lambda \sum_{j \ne i} s_{ij} \Big]

    Args:
        queries: (n, d), unit rows.
        keys: (n, d), unit rows; row i is the positive of query i.
        negative_weight: lambda >= 0; None takes 1 / (n - 1), so that all negatives together push
            as hard as the positive pulls.
        chunk_size: rows of the similarity matrix held at once; None chooses by size.

    Returns:
        The mean over queries.

    Raises:
        ValueError: for an empty batch, different shapes or a negative weight.

    Reference:
        F. Wang, H. Liu, CVPR 2021, arXiv:2012.09740.
    """
    _check_pairs(queries, keys)
    if negative_weight is None:
        negative_weight = 1 / max(len(keys) - 1, 1)
    in_range("negative_weight", negative_weight, at_least=0)
    return mean_over_similarities(
        *(_simple_contrastive_rows, queries, keys),
        chunk_size=chunk_size,
        negative_weight=negative_weight,
    )


def _simple_contrastive_rows(s, index, *, negative_weight):
    own = s.gather(1, index[:, None]).sum()
    return negative_weight * with_own(s, index, 0).sum() - own, len(index)


def relative_penalty(
    similarities: Float[Tensor, "n m"], *, temperature: Scalar = 0.3
) -> Float[Tensor, "n m"]:
    r"""Each negative's share of an anchor's repulsion in InfoNCE.

    .. math:: r_{ij} = \Big|\frac{\partial L}{\partial s_{ij}}\Big| \Big/
        \Big|\frac{\partial L}{\partial s_{ii}}\Big| = \frac{e^{s_{ij}/T}}{\sum_k e^{s_{ik}/T}}

    Args:
        similarities: (n, m), each anchor's similarities to its m negatives, the positive left out.
        temperature: T > 0.

    Returns:
        (n, m), rows that sum to 1.

    Raises:
        ValueError: for an empty matrix or a temperature that is not positive.

    Reference:
        F. Wang, H. Liu, CVPR 2021, arXiv:2012.09740.
    """
    return _log_relative_penalty(similarities, temperature).exp()


def penalty_entropy(
    similarities: Float[Tensor, "n m"], *, temperature: Scalar = 0.3
) -> Float[Tensor, " n"]:
    r"""Entropy of :func:`relative_penalty`: over how many negatives the repulsion spreads.

    .. math:: H_i = -\sum_j r_{ij} \log r_{ij}

    Args:
        similarities: (n, m), each anchor's similarities to its m negatives.
        temperature: T > 0. The entropy grows with it, unless all similarities are equal.

    Returns:
        (n,), in nats, between 0 (one negative takes all) and log m.

    Raises:
        ValueError: for an empty matrix or a temperature that is not positive.

    Reference:
        F. Wang, H. Liu, CVPR 2021, arXiv:2012.09740.
    """
    # entr(r) would have an infinite slope where a share underflows to 0.
    log_shares = _log_relative_penalty(similarities, temperature)
    return -(log_shares.exp() * log_shares).sum(-1)


def _log_relative_penalty(similarities: Tensor, temperature: Scalar) -> Tensor:
    matrix("similarities", similarities)
    positive("temperature", temperature)
    (similarities,) = full_precision(similarities)
    return (similarities / temperature).log_softmax(-1)


def uniformity(embeddings: Float[Tensor, "n d"], *, t: Scalar = 2.0) -> Float[Tensor, ""]:
    r"""How evenly embeddings cover the sphere; larger is more uniform.

    .. math:: U = -\log \frac{1}{n(n-1)} \sum_{i \ne j} e^{-t \|z_i - z_j\|^2}

    Args:
        embeddings: (n, d), unit rows, one view of each sample, n at least 2.
        t: sharpness of the kernel, positive.

    Returns:
        At least 0 (all in one point). The loss L_uniform of Wang & Isola is -U.

    Raises:
        ValueError: for fewer than two embeddings or a t that is not positive.

    Reference:
        T. Wang, P. Isola, "Understanding Contrastive Representation Learning through Alignment and
        Uniformity on the Hypersphere", ICML 2020, arXiv:2005.10242.
    """
    matrix("embeddings", embeddings)
    positive("t", t)
    n = len(embeddings)
    in_range("the number of embeddings", n, at_least=2)
    (embeddings,) = full_precision(embeddings)
    squares = embeddings.square().sum(-1)
    distances = squares[:, None] + squares[None, :] - 2 * inner_products(embeddings, embeddings)
    others = ~torch.eye(n, dtype=torch.bool, device=embeddings.device)
    kernel = log_sum_exp(-t * distances.clamp(min=0), others)
    return torch.log(torch.tensor(n * (n - 1.0))).to(kernel) - kernel.logsumexp(-1)


def tolerance(
    embeddings: Float[Tensor, "n d"], labels: Int[Tensor, " n"], *, conditional: bool = False
) -> Float[Tensor, ""]:
    r"""How close embeddings of one class stay; larger is more tolerant.

    .. math:: T = \frac{1}{n^2} \sum_{i, j} z_i \cdot z_j\, 1(y_i = y_j)

    Args:
        embeddings: (n, d), unit rows.
        labels: (n,), integers.
        conditional: divide by the number of same-class pairs instead of all pairs, which makes
            data sets with different class frequencies comparable; a sample and itself is no pair.

    Returns:
        The mean similarity; 0 where ``conditional`` finds no pair.

    Raises:
        ValueError: for an empty batch or labels that are not n integers.

    Reference:
        F. Wang, H. Liu, CVPR 2021, arXiv:2012.09740.
    """
    matrix("embeddings", embeddings)
    class_labels(labels, len(embeddings))
    s = inner_products(embeddings, embeddings)
    if conditional:
        pairs, _ = pair_masks(labels)
        return torch.where(pairs, s, 0).sum() / pairs.sum().clamp(min=1)
    return torch.where(labels[:, None] == labels[None, :], s, 0).mean()


def _check_pairs(queries: Tensor, keys: Tensor) -> None:
    matrix("queries", queries)
    same_shape("keys", keys, "queries", queries)
