"""The same numbers as pytorch-metric-learning."""

import math

import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning import distances, losses, miners, reducers
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from torch.testing import assert_close

from lossbook import baselines, metrics
from lossbook.metric_learning.pair_weighting import multi_similarity_loss, multi_similarity_mask

N, DIMENSIONS, CLASSES = 24, 6, 8


@pytest.fixture
def rows():
    return torch.randn(N, DIMENSIONS, dtype=torch.float64, requires_grad=True)


@pytest.fixture
def embeddings(rows):
    return F.normalize(rows, dim=-1)


@pytest.fixture
def labels():
    return torch.arange(N) % CLASSES


def assert_same(ours, theirs, rows):
    """One value, and one gradient with respect to what is normalized, which they do once more."""
    assert_close(ours, theirs)
    gradients = [torch.autograd.grad(x, rows, retain_graph=True)[0] for x in (ours, theirs)]
    assert_close(*gradients)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_nt_xent(rows, embeddings, temperature):
    theirs = losses.NTXentLoss(temperature)(embeddings, torch.arange(N // 2).repeat(2))
    ours = baselines.nt_xent_loss(*embeddings.chunk(2), temperature=temperature)
    assert_same(ours, theirs, rows)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_supcon(rows, embeddings, labels, temperature):
    theirs = losses.SupConLoss(temperature)(embeddings, labels)
    ours = baselines.supcon_loss(embeddings, labels, temperature=temperature)
    assert_same(ours, theirs, rows)


def test_supcon_with_samples_alone_in_their_class(rows, embeddings):
    labels = torch.arange(N) // 2
    labels[-6:] = torch.arange(100, 106)
    theirs = losses.SupConLoss(0.1)(embeddings, labels)
    assert_same(baselines.supcon_loss(embeddings, labels), theirs, rows)


@pytest.mark.parametrize("margin", [0.0, 0.3])
def test_pair_contrastive(rows, embeddings, labels, margin):
    loss = losses.ContrastiveLoss(
        pos_margin=1,
        neg_margin=margin,
        distance=distances.CosineSimilarity(),
        reducer=reducers.SumReducer(),
    )
    ours = baselines.pair_contrastive_loss(embeddings, labels, margin=margin)
    assert_same(ours, loss(embeddings, labels) / N, rows)


@pytest.mark.parametrize("margin", [0.05, 0.4])
def test_triplet(rows, embeddings, labels, margin):
    loss = losses.TripletMarginLoss(margin, distance=distances.CosineSimilarity())
    ours = baselines.triplet_loss(embeddings, labels, margin=margin)
    assert_same(ours, loss(embeddings, labels), rows)


def test_n_pairs(embeddings):
    anchors, positives = embeddings.chunk(2)
    theirs = losses.NPairsLoss()(embeddings, torch.arange(N // 2).repeat(2))
    # It picks anchor and positive by the order of the labels, so either half may be the anchors.
    ours = baselines.n_pairs_loss(anchors, positives), baselines.n_pairs_loss(positives, anchors)
    assert any(torch.isclose(loss, theirs) for loss in ours)


@pytest.mark.parametrize("margin", [0.0, 0.1, 0.5])
def test_multi_similarity_with_its_miner(rows, embeddings, labels, margin):
    pairs = miners.MultiSimilarityMiner(epsilon=margin)(embeddings, labels)
    theirs = losses.MultiSimilarityLoss(alpha=2, beta=50, base=0.5)(embeddings, labels, pairs)
    ours = multi_similarity_loss(embeddings, labels, margin=margin)
    assert_same(ours, theirs, rows)


def test_multi_similarity_without_mining(rows, embeddings, labels):
    theirs = losses.MultiSimilarityLoss(alpha=3, beta=20, base=0.2)(embeddings, labels)
    ours = multi_similarity_loss(embeddings, labels, alpha=3, beta=20, base=0.2, mine=False)
    assert_same(ours, theirs, rows)


@pytest.mark.parametrize("margin", [0.0, 0.1, 0.5])
def test_multi_similarity_mining(embeddings, labels, margin):
    a1, p, a2, n = miners.MultiSimilarityMiner(epsilon=margin)(embeddings, labels)
    theirs = [torch.zeros(N, N, dtype=torch.bool) for _ in range(2)]
    theirs[0][a1, p] = theirs[1][a2, n] = True
    s = embeddings @ embeddings.T
    ours = multi_similarity_mask(s, *baselines.pair_masks(labels), margin=margin)
    assert_close(list(ours), theirs)


@pytest.mark.parametrize(
    "kind, make, margin",
    [
        (
            "arc",
            lambda m: losses.ArcFaceLoss(CLASSES, DIMENSIONS, margin=math.degrees(m), scale=16),
            0.2,
        ),
        ("cos", lambda m: losses.CosFaceLoss(CLASSES, DIMENSIONS, margin=m, scale=16), 0.35),
    ],
)
def test_margin_softmax(rows, embeddings, labels, kind, make, margin):
    loss = make(margin).double()
    prototypes = F.normalize(loss.W.T, dim=-1)
    logits = baselines.margin_logits(
        embeddings, prototypes, labels, scale=16, margin=margin, kind=kind
    )
    assert_same(F.cross_entropy(logits, labels), loss(embeddings, labels), rows)


def test_recall_at_1_and_map_at_r(embeddings, labels):
    calculator = AccuracyCalculator(
        include=("precision_at_1", "mean_average_precision_at_r"),
        knn_func=exact_neighbors,
        device=torch.device("cpu"),
    )
    theirs = calculator.get_accuracy(embeddings.detach().float(), labels)
    ours = metrics.retrieval(embeddings.detach(), labels)
    assert ours["recall_at_1"] == pytest.approx(theirs["precision_at_1"])
    assert ours["map_at_r"] == pytest.approx(theirs["mean_average_precision_at_r"])


def exact_neighbors(query, k, reference, ref_includes_query):
    """The calculator's search without faiss: distances and indices of the k nearest."""
    found = torch.cdist(query, reference).topk(k + ref_includes_query, largest=False)
    start = int(ref_includes_query)
    return found.values[:, start:], found.indices[:, start:]
