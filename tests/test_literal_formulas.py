"""Every loss that has a fast path, dense and in chunks, against its formula as loops in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from lossbook import baselines, metrics
from lossbook.classification import linear_cross_entropy
from lossbook.metric_learning import metrix_loss, multi_similarity_loss, utilization
from lossbook.self_supervised import hard_contrastive_loss, simple_contrastive_loss

LABELS = {
    "one sample": [0],
    "two of one class": [4, 4],
    "two classes of one": [3, 0],
    "one class": [2] * 5,
    "only singles": [5, 3, 1, 4, 0, 2, 6],
    "odd classes": [0, 7, 0, 2, 7, 7, 2, 0, 9, 7, 2],
}


def mean(values):
    values = list(values)
    return sum(values) / len(values) if values else 0.0


def positives(labels, i):
    return [j for j, label in enumerate(labels) if label == labels[i] and j != i]


def negatives(labels, i):
    return [j for j, label in enumerate(labels) if label != labels[i]]


def cross_entropy(logits, target):
    return math.log(sum(math.exp(x) for x in logits)) - target


# With labels: similarities as nested lists, labels as a list -----------------------------------


def supcon(s, labels):
    anchors = [i for i in range(len(s)) if positives(labels, i)]
    others = {i: [s[i][j] / 0.2 for j in range(len(s)) if j != i] for i in anchors}
    return mean(
        mean(cross_entropy(others[i], s[i][j] / 0.2) for j in positives(labels, i)) for i in anchors
    )


def pair_contrastive(s, labels):
    pulls = ((1 - s[i][j]) for i in range(len(s)) for j in positives(labels, i))
    pushes = (max(s[i][j] - 0.1, 0) for i in range(len(s)) for j in negatives(labels, i))
    return (sum(pulls) + sum(pushes)) / len(s)


def triplet(s, labels):
    violations = (
        s[i][k] - s[i][j] + 0.2
        for i in range(len(s))
        for j in positives(labels, i)
        for k in negatives(labels, i)
    )
    return mean(v for v in violations if v > 0)


def multi_similarity(s, labels, mine=True):
    total = 0.0
    for i in range(len(s)):
        near, far = positives(labels, i), negatives(labels, i)
        if mine:
            hardest = min((s[i][j] for j in near), default=math.inf)
            kept = [k for k in far if s[i][k] + 0.1 > hardest]
            hardest = max((s[i][k] for k in far), default=-math.inf)
            near, far = [j for j in near if s[i][j] - 0.1 < hardest], kept
        total += math.log1p(sum(math.exp(-2 * (s[i][j] - 0.5)) for j in near)) / 2
        total += math.log1p(sum(math.exp(50 * (s[i][k] - 0.5)) for k in far)) / 50
    return total / len(s)


def metrix(s, labels, mix=0.3, weight=0.4):
    def pair(similarity, label):
        return -label * similarity + (1 - label) * max(similarity - 0.5, 0)

    total = 0.0
    for i in range(len(s)):
        near, far = positives(labels, i), negatives(labels, i)
        total += sum(pair(s[i][j], 1) for j in near) + sum(pair(s[i][k], 0) for k in far)
        for j in near:
            for k in far:
                length = mix**2 + (1 - mix) ** 2 + 2 * mix * (1 - mix) * s[j][k]
                mixed = (mix * s[i][j] + (1 - mix) * s[i][k]) / math.sqrt(length)
                total += weight * pair(mixed, mix)
    return total / len(s)


LABELLED = [
    (supcon, baselines.supcon_loss, {"temperature": 0.2}),
    (pair_contrastive, baselines.pair_contrastive_loss, {"margin": 0.1}),
    (triplet, baselines.triplet_loss, {"margin": 0.2}),
    (multi_similarity, multi_similarity_loss, {}),
    (lambda *a: multi_similarity(*a, mine=False), multi_similarity_loss, {"mine": False}),
    (metrix, metrix_loss, {"mix": 0.3}),
]


@pytest.mark.parametrize("chunk_size", [None, 1, 3, 4])
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("literal, loss, knobs", LABELLED)
def test_losses_with_labels(literal, loss, knobs, labels, chunk_size):
    embeddings = unit_rows(len(labels))
    expected = literal((embeddings @ embeddings.T).tolist(), labels)
    got = loss(embeddings, torch.tensor(labels), chunk_size=chunk_size, **knobs)
    assert_close(got.item(), float(expected), atol=1e-12, rtol=1e-9)


# Two views: similarities of query i and key j -----------------------------------------------------


def info_nce(s):
    return mean(cross_entropy([x / 0.2 for x in row], row[i] / 0.2) for i, row in enumerate(s))


def hard_contrastive(s):
    losses = []
    for i, row in enumerate(s):
        others = sorted((x for j, x in enumerate(row) if j != i), reverse=True)
        kept = others[: math.ceil(0.4 * len(others) - 1e-9)]
        losses.append(cross_entropy([x / 0.3 for x in [row[i], *kept]], row[i] / 0.3))
    return mean(losses)


def simple_contrastive(s):
    return mean(
        sum(x for j, x in enumerate(row) if j != i) / max(len(s) - 1, 1) - row[i]
        for i, row in enumerate(s)
    )


TWO_VIEWS = [
    (info_nce, baselines.info_nce_loss, {"temperature": 0.2}),
    (hard_contrastive, hard_contrastive_loss, {"hard_fraction": 0.4}),
    (simple_contrastive, simple_contrastive_loss, {}),
]


@pytest.mark.parametrize("chunk_size", [None, 1, 3, 4])
@pytest.mark.parametrize("n", [1, 2, 5, 11])
@pytest.mark.parametrize(
    "literal, loss, knobs", TWO_VIEWS, ids=lambda o: getattr(o, "__name__", "")
)
def test_losses_of_two_views(literal, loss, knobs, n, chunk_size):
    queries, keys = unit_rows(n), unit_rows(n)
    expected = literal((queries @ keys.T).tolist())
    got = loss(queries, keys, chunk_size=chunk_size, **knobs)
    assert_close(got.item(), float(expected), atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("chunk_size", [None, 1, 3, 4])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_nt_xent(n, chunk_size):
    z = unit_rows(2 * n)
    s = (z @ z.T / 0.2).tolist()
    expected = mean(
        cross_entropy([x for j, x in enumerate(row) if j != i], row[(i + n) % (2 * n)])
        for i, row in enumerate(s)
    )
    got = baselines.nt_xent_loss(z[:n], z[n:], temperature=0.2, chunk_size=chunk_size)
    assert_close(got.item(), float(expected), atol=1e-12, rtol=1e-9)


# The rest -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n, c", [(1, 1), (1, 7), (3, 1), (7, 11)])
@pytest.mark.parametrize("chunk_size, block_size", [(None, 512), (1, 1), (3, 4), (5, 100)])
def test_linear_cross_entropy(n, c, chunk_size, block_size):
    embeddings, weight = torch.randn(n, 3).double(), torch.randn(c, 3).double()
    labels = torch.randint(c, (n,))
    logits = (embeddings @ weight.T).tolist()
    expected = mean(
        cross_entropy(row, row[label]) for row, label in zip(logits, labels, strict=True)
    )
    blocks = {"chunk_size": chunk_size, "block_size": block_size}
    got = linear_cross_entropy(embeddings, weight, labels, **blocks)
    assert_close(got.item(), float(expected), atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("entries", [1, 30, 1000])
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_retrieval(labels, entries, monkeypatch):
    chunks_of(entries, monkeypatch)
    embeddings = unit_rows(len(labels))
    recall, average = [], []
    for i, row in enumerate((embeddings @ embeddings.T).tolist()):
        if relevant := positives(labels, i):
            ranked = sorted((j for j in range(len(row)) if j != i), key=lambda j: -row[j])
            hits = [j in relevant for j in ranked[: len(relevant)]]
            recall.append(hits[0])
            average.append(
                sum(hit * sum(hits[: r + 1]) / (r + 1) for r, hit in enumerate(hits)) / len(hits)
            )
    got = metrics.retrieval(embeddings, torch.tensor(labels))
    assert_close(got["recall_at_1"].item(), float(mean(recall)))
    assert_close(got["map_at_r"].item(), float(mean(average)))


@pytest.mark.parametrize("entries", [1, 30, 1000])
def test_neighbors_in_chunks(entries, monkeypatch):
    queries, gallery = unit_rows(11), unit_rows(7)
    labels, known = torch.arange(11) % 3, torch.arange(7) % 3
    nearest = [max(range(7), key=lambda j, q=q: float(q @ gallery[j])) for q in queries]
    expected = mean(known[j] == label for j, label in zip(nearest, labels, strict=True))
    chunks_of(entries, monkeypatch)
    got = metrics.nearest_neighbor_accuracy(queries, labels, gallery, known)
    assert_close(got.item(), float(expected))
    least = mean(min(float((q - x).square().sum()) for x in gallery) for q in queries)
    assert_close(utilization(queries, gallery).item(), least)


def chunks_of(entries, monkeypatch):
    monkeypatch.setattr("lossbook.chunking.DENSE_ENTRIES", entries)
    monkeypatch.setattr("lossbook.chunking.CHUNK_ENTRIES", entries)


def unit_rows(n):
    torch.manual_seed(n)
    return F.normalize(torch.randn(n, 3, dtype=torch.float64), dim=-1)
