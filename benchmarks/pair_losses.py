"""Losses on pairs: this package and pytorch-metric-learning."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.arms import Arm, Step, forward_and_backward
from lossbook.baselines import (
    info_nce_loss,
    nt_xent_loss,
    pair_contrastive_loss,
    supcon_loss,
    triplet_loss,
)
from lossbook.chunking import dense_entries
from lossbook.metric_learning import multi_similarity_loss

TITLE = "Losses on pairs"
ABOUT = """\
Forward and backward pass on unit rows of 128 dimensions in single precision. N is the number of
samples: "two views" makes 2 N rows, each sample a class of its own; "4 a class" makes N rows. Both
sides have the same hyperparameters and give the same value and gradient (tests/test_benchmarks.py);
"dense" holds the whole matrix, "lossbook" chooses by itself. Cells: median (quartiles), peak memory
beyond the inputs. Roofline: the time of three products with the matrix of similarities (half of
each could be saved by symmetry) at the machine's own rate."""
DIMENSIONS, PER_CLASS = 128, 4
SIZES, SMALL = (256, 1024, 4096, 16_384), (64, 256)
OURS, DENSE, PEER = "lossbook", "lossbook, dense", "pytorch-metric-learning"

Loss = Callable[[Tensor, Tensor], Tensor]


class Pairs(NamedTuple):
    """A loss ``ours(embeddings, labels, chunk_size=…)``, and what makes the peer's."""

    ours: Callable[..., Tensor]
    peer: Callable[[], Loss]
    layouts: tuple[str, ...] = ("two views", "4 a class")


def build(loss: str, layout: str, n: int, arm: str, device: torch.device) -> Step:
    torch.manual_seed(0)
    labels = class_labels(layout, n).to(device)
    rows = F.normalize(torch.randn(len(labels), DIMENSIONS), dim=-1)
    embeddings = rows.to(device).requires_grad_()
    function = loss_of(loss, arm, len(labels))
    return forward_and_backward(lambda: function(embeddings, labels), embeddings)


def loss_of(loss: str, arm: str, rows: int) -> Loss:
    """``function(embeddings, labels)`` of an arm."""
    if arm == PEER:
        return LOSSES[loss].peer()
    return partial(LOSSES[loss].ours, chunk_size=rows if arm == DENSE else None)


def class_labels(layout: str, n: int) -> Tensor:
    return torch.arange(n).repeat(2) if layout == "two views" else torch.arange(n) // PER_CLASS


def arms(small: bool = False, device: str = "cpu") -> list[Arm]:
    """Each loss and layout at each size; dense only where that is not what is chosen anyway."""
    return [
        Arm(
            case=f"{loss}, {layout}",
            size=n,
            name=name,
            build=partial(build, loss, layout, n, name),
            flops=6 * rows**2 * DIMENSIONS / parts,
            moved_bytes=2 * 4 * rows * DIMENSIONS,
        )
        for loss, pairs in LOSSES.items()
        for layout in pairs.layouts
        for n in (SMALL if small else SIZES)
        for rows, parts in [(len(class_labels(layout, n)), 4 if loss == "InfoNCE" else 1)]
        for name in (OURS, DENSE, PEER)
        if name != DENSE or rows**2 / parts > dense_entries(torch.device(device))
    ]


# The same loss twice ----------------------------------------------------------------------------


def _nt_xent(embeddings, labels, chunk_size):
    return nt_xent_loss(*embeddings.chunk(2), temperature=0.5, chunk_size=chunk_size)


def _peer_nt_xent():
    from pytorch_metric_learning.losses import NTXentLoss

    return NTXentLoss(temperature=0.5)


def _info_nce(embeddings, labels, chunk_size):
    return info_nce_loss(*embeddings.chunk(2), temperature=0.1, chunk_size=chunk_size)


def _peer_info_nce():
    from pytorch_metric_learning.losses import NTXentLoss

    loss = NTXentLoss(temperature=0.1)

    def one_direction(embeddings, labels):
        (queries, keys), (own, others) = embeddings.chunk(2), labels.chunk(2)
        return loss(queries, own, ref_emb=keys, ref_labels=others)

    return one_direction


def _peer_supcon():
    from pytorch_metric_learning.losses import SupConLoss

    return SupConLoss(temperature=0.1)


def _peer_multi_similarity():
    from pytorch_metric_learning.losses import MultiSimilarityLoss
    from pytorch_metric_learning.miners import MultiSimilarityMiner

    loss, mine = MultiSimilarityLoss(alpha=2, beta=50, base=0.5), MultiSimilarityMiner(epsilon=0.1)
    return lambda embeddings, labels: loss(embeddings, labels, mine(embeddings, labels))


def _peer_triplet():
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.losses import TripletMarginLoss

    return TripletMarginLoss(margin=0.1, distance=CosineSimilarity())


def _peer_pair_contrastive():
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.losses import ContrastiveLoss
    from pytorch_metric_learning.reducers import SumReducer

    loss = ContrastiveLoss(
        pos_margin=1, neg_margin=0.5, distance=CosineSimilarity(), reducer=SumReducer()
    )
    return lambda embeddings, labels: loss(embeddings, labels) / len(labels)


LOSSES = {
    "NT-Xent": Pairs(_nt_xent, _peer_nt_xent, ("two views",)),
    "InfoNCE": Pairs(_info_nce, _peer_info_nce, ("two views",)),
    "SupCon": Pairs(partial(supcon_loss, temperature=0.1), _peer_supcon),
    "multi-similarity": Pairs(multi_similarity_loss, _peer_multi_similarity),
    "triplet": Pairs(triplet_loss, _peer_triplet),
    "pair contrastive": Pairs(pair_contrastive_loss, _peer_pair_contrastive),
}
