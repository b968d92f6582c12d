import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from lossbook.baselines import margin_logits, pair_masks
from lossbook.metric_learning.pair_weighting import (
    metrix_loss,
    multi_similarity_loss,
    multi_similarity_mask,
    pair_weights,
    soft_pair_loss,
    unpg_loss,
    utilization,
    whisker_mask,
)

LABELS = [0, 1, 0, 2, 1, 0, 2, 3]
ALPHA, BETA, BASE = 2.0, 50.0, 0.5


def unit_rows(n=8, d=3):
    return F.normalize(torch.randn(n, d, dtype=torch.float64), dim=-1)


def double(value):
    return torch.tensor(value, dtype=torch.float64)


def similarities(z):
    return (z @ z.T).tolist()


def positives_of(i, labels=LABELS):
    return [j for j, label in enumerate(labels) if label == labels[i] and j != i]


def negatives_of(i, labels=LABELS):
    return [j for j, label in enumerate(labels) if label != labels[i]]


# Multi-similarity -------------------------------------------------------------------------------


def mined(s, i, margin):
    """The pairs of an anchor that the official code keeps."""
    positives, negatives = positives_of(i), negatives_of(i)
    if not positives or not negatives:
        return [], []
    return (
        [j for j in positives if s[i][j] - margin < max(s[i][k] for k in negatives)],
        [k for k in negatives if s[i][k] + margin > min(s[i][j] for j in positives)],
    )


def multi_similarity_by_loops(s, margin):
    total = 0
    for i in range(len(s)):
        pairs = positives_of(i), negatives_of(i)
        positives, negatives = pairs if margin is None else mined(s, i, margin)
        total += math.log(1 + sum(math.exp(-ALPHA * (s[i][j] - BASE)) for j in positives)) / ALPHA
        total += math.log(1 + sum(math.exp(BETA * (s[i][k] - BASE)) for k in negatives)) / BETA
    return double(total / len(s))


@pytest.mark.parametrize("margin", [0, 0.1, 0.4])
def test_multi_similarity_follows_the_official_algorithm(margin):
    z = unit_rows()
    found = multi_similarity_loss(z, torch.tensor(LABELS), margin=margin)
    assert_close(found, multi_similarity_by_loops(similarities(z), margin))


def test_without_mining_all_pairs_count():
    z = unit_rows()
    found = multi_similarity_loss(z, torch.tensor(LABELS), mine=False)
    assert_close(found, multi_similarity_by_loops(similarities(z), None))


@pytest.mark.parametrize("margin", [0, 0.1, 0.4])
def test_mining_keeps_what_is_hard_beside_the_other_sign(margin):
    z = unit_rows()
    s = similarities(z)
    kept = multi_similarity_mask(z @ z.T, *pair_masks(torch.tensor(LABELS)), margin=margin)
    for i in range(len(s)):
        positives, negatives = mined(s, i, margin)
        assert kept[0][i].nonzero().flatten().tolist() == positives
        assert kept[1][i].nonzero().flatten().tolist() == negatives


def test_exact_copies_of_an_anchor_are_pairs_too():
    # The official code takes s >= 1 - 1e-5 for the sample itself and drops them.
    z = double([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    kept, _ = multi_similarity_mask(z @ z.T, *pair_masks(torch.tensor([0, 0, 1])), margin=1.5)
    assert kept.tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]


def test_pair_weights_of_multi_similarity_have_their_closed_form():
    z, labels = unit_rows(), torch.tensor(LABELS)
    s = similarities(z)

    def loss(s, labels):
        positives, negatives = pair_masks(labels)
        pull = torch.where(positives, torch.exp(-ALPHA * (s - BASE)), 0).sum(-1)
        push = torch.where(negatives, torch.exp(BETA * (s - BASE)), 0).sum(-1)
        return (pull.log1p() / ALPHA + push.log1p() / BETA).sum()

    expected = torch.zeros(len(s), len(s), dtype=torch.float64)
    for i in range(len(s)):
        for j in positives_of(i):
            relative = sum(math.exp(-ALPHA * (s[i][m] - s[i][j])) for m in positives_of(i))
            expected[i, j] = 1 / (math.exp(-ALPHA * (BASE - s[i][j])) + relative)
        for k in negatives_of(i):
            relative = sum(math.exp(BETA * (s[i][m] - s[i][k])) for m in negatives_of(i))
            expected[i, k] = 1 / (math.exp(BETA * (BASE - s[i][k])) + relative)
    assert_close(pair_weights(loss, double(s), labels), expected)


def test_multi_similarity_has_the_gradient_of_its_weighted_pairs():
    z, labels = unit_rows().requires_grad_(), torch.tensor(LABELS)
    (slopes,) = torch.autograd.grad(multi_similarity_loss(z, labels, mine=False), z)
    positives, negatives = pair_masks(labels)

    def loss(s, labels):
        rows = torch.eye(len(s), dtype=s.dtype)
        pull = torch.where(positives, -ALPHA * (s - BASE), -torch.inf)
        push = torch.where(negatives, BETA * (s - BASE), -torch.inf)
        zero = torch.zeros_like(rows[:, :1])
        terms = [torch.cat([zero, x], 1).logsumexp(-1) for x in (pull, push)]
        return (terms[0] / ALPHA + terms[1] / BETA).mean()

    weights = pair_weights(loss, (z @ z.T).detach(), labels)
    weighted = torch.where(negatives, weights, -weights) * (z @ z.T)
    assert_close(slopes, torch.autograd.grad(weighted.sum(), z)[0])


def test_pair_weights_of_the_contrastive_loss_are_one_or_zero():
    z, labels = unit_rows(), torch.tensor(LABELS)
    positives, negatives = pair_masks(labels)

    def loss(s, labels):
        return torch.where(positives, 1 - s, torch.where(negatives, (s - 0.2).relu(), 0)).sum()

    s = z @ z.T
    expected = positives | (negatives & (s > 0.2))
    assert_close(pair_weights(loss, s, labels), expected.double())


# Unified negative pair generation ---------------------------------------------------------------


def whisker_by_sorting(values, r):
    ranked = sorted(values)
    q1, q3 = ranked[int(0.25 * len(values))], ranked[int(0.75 * len(values))]
    return [q1 - r * (q3 - q1) <= v <= q3 + r * (q3 - q1) for v in values]


@settings(max_examples=80, deadline=None)
@given(
    values=st.lists(st.floats(-100, 100), min_size=1, max_size=30),
    r=st.sampled_from([0, 0.5, 1.5, 3]),
)
def test_whiskers_cut_both_tails_as_the_official_code_does(values, r):
    found = whisker_mask(double(values), r=r)
    assert found.tolist() == whisker_by_sorting(values, r)


def test_whiskers_by_hand():
    values = double([0, 10, 11, 12, 13, 14, 15, 40])  # quartiles: numbers 2 and 6, 11 and 15
    assert whisker_mask(values, r=1.5).tolist() == [False, *[True] * 6, False]
    assert whisker_mask(values, r=2.75).tolist() == [True] * 7 + [False]
    assert whisker_mask(values, r=float("inf")).all()


def test_values_that_do_not_count_neither_move_the_quartiles_nor_are_kept():
    values, mask = torch.randn(40, dtype=torch.float64), torch.rand(40) < 0.6
    found = whisker_mask(values, mask, r=0.5)
    assert not found[~mask].any()
    assert found[mask].tolist() == whisker_by_sorting(values[mask].tolist(), 0.5)


@pytest.mark.parametrize("r", [0, 1.5, float("inf")])
def test_whiskers_of_equal_values_or_of_none(r):
    assert whisker_mask(torch.ones(5), r=r).all()
    assert not whisker_mask(torch.ones(5), torch.zeros(5, dtype=torch.bool), r=r).any()


def unpg_by_numpy(z, prototypes, labels, scale, margin, kind, r):
    z, prototypes = z.numpy(), prototypes.numpy()
    n, cosines = len(z), z @ prototypes.T
    extra = np.array([z[a] @ z[b] for a in range(n) for b in range(a) if labels[a] != labels[b]])
    if len(extra):
        extra = extra[whisker_by_sorting(extra.tolist(), r)] if np.isfinite(r) else extra
    losses = []
    for i, y in enumerate(labels):
        handicap = np.cos(np.arccos(cosines[i, y]) + margin) if kind == "arc" else None
        target = {"arc": handicap, "cos": cosines[i, y] - margin, "none": cosines[i, y]}[kind]
        others = [cosines[i, j] for j in range(len(prototypes)) if j != y]
        total = sum(math.exp(scale * q) for q in [target, *others, *extra])
        losses.append(math.log(total) - scale * target)
    return double(sum(losses) / n)


@pytest.mark.parametrize("r", [0, 1.5, float("inf")])
@pytest.mark.parametrize("kind", ["arc", "cos", "none"])
def test_unpg_adds_the_batch_s_negative_pairs_to_every_anchor_s_sum(kind, r):
    z, prototypes = unit_rows(), unit_rows(4)
    knobs = {"scale": 8.0, "margin": 0.3, "kind": kind, "r": r}
    found = unpg_loss(z, prototypes, torch.tensor(LABELS), **knobs)
    assert_close(found, unpg_by_numpy(z, prototypes, LABELS, **knobs))


def test_unpg_without_a_negative_pair_is_the_margin_softmax():
    z, prototypes, labels = unit_rows(5), unit_rows(4), torch.ones(5, dtype=torch.int64)
    logits = margin_logits(z, prototypes, labels)
    assert_close(unpg_loss(z, prototypes, labels), F.cross_entropy(logits, labels))


def test_unpg_pushes_both_samples_of_a_negative_pair():
    z = double([[1.0, 0.0], [math.cos(0.5), math.sin(0.5)]]).requires_grad_()
    prototypes, labels = torch.eye(2, dtype=torch.float64), torch.tensor([0, 1])
    with_pair = unpg_loss(z, prototypes, labels, scale=8, kind="none")
    without = F.cross_entropy(margin_logits(z, prototypes, labels, scale=8, kind="none"), labels)
    (slopes,) = torch.autograd.grad(with_pair - without, z)
    assert (slopes * z.detach().flip(0)).sum(-1).min() > 0


# Metrix -----------------------------------------------------------------------------------------


def soft_pair_by_loops(s, y, form, margin, alpha=ALPHA, beta=BETA):
    """s and y: for each anchor the list of its pairs' similarities and labels."""
    total = 0
    for row in (list(zip(*rows, strict=True)) for rows in zip(s, y, strict=True)):
        if form == "contrastive":
            total += sum(-y * s + (1 - y) * max(s - margin, 0) for s, y in row)
        else:
            pull = sum(y * math.exp(-alpha * (s - margin)) for s, y in row)
            push = sum((1 - y) * math.exp(beta * (s - margin)) for s, y in row)
            total += math.log(1 + pull) / alpha + math.log(1 + push) / beta
    return double(total / len(s))


each_form = pytest.mark.parametrize("form", ["contrastive", "multi-similarity"])


@each_form
def test_soft_pair_loss_weighs_both_parts_by_the_pair_s_label(form):
    s, y = 2 * torch.rand(4, 6).double() - 1, torch.rand(4, 6).double()
    y[0, :3] = double([0.0, 1.0, 0.5])
    mask = torch.rand(4, 6) < 0.7
    counted = [[row[m].tolist() for row, m in zip(x, mask, strict=True)] for x in (s, y)]
    found = soft_pair_loss(s, y, mask, form=form, margin=0.3)
    assert_close(found, soft_pair_by_loops(*counted, form, 0.3))


@each_form
def test_soft_pair_loss_has_a_finite_slope_at_hard_labels(form):
    s, y = torch.zeros(1, 2), torch.tensor([[0.0, 1.0]], requires_grad=True)
    soft_pair_loss(s, y, torch.ones(1, 2).bool(), form=form).backward()
    assert y.grad.isfinite().all()


def test_hard_labels_make_the_soft_pair_loss_multi_similarity_without_mining():
    z, labels = unit_rows(), torch.tensor(LABELS)
    positives, negatives = pair_masks(labels)
    found = soft_pair_loss(
        z @ z.T, positives.double(), positives | negatives, form="multi-similarity"
    )
    assert_close(found, multi_similarity_loss(z, labels, mine=False))


def metrix_by_mixing(z, mix, pairing, form, margin, weight):
    n, s = len(z), similarities(z)
    pairs = [positives_of(i) + negatives_of(i) for i in range(n)]
    clean_s = [[s[i][j] for j in pairs[i]] for i in range(n)]
    clean_y = [[float(LABELS[i] == LABELS[j]) for j in pairs[i]] for i in range(n)]
    mixed_s = []
    for a in range(n):
        partners = positives_of(a) if pairing == "positive-negative" else [a]
        mixtures = [mix * z[p] + (1 - mix) * z[k] for p in partners for k in negatives_of(a)]
        mixed_s.append([(z[a] @ F.normalize(v, dim=0)).item() for v in mixtures])
    mixed_y = [[mix] * len(row) for row in mixed_s]
    clean = soft_pair_by_loops(clean_s, clean_y, form, margin)
    return clean + weight * soft_pair_by_loops(mixed_s, mixed_y, form, margin)


@pytest.mark.parametrize("mix", [0, 0.3, 0.5, 1])
@pytest.mark.parametrize("pairing", ["positive-negative", "anchor-negative"])
@each_form
def test_metrix_mixes_embeddings_and_their_labels(form, pairing, mix):
    z = unit_rows()
    found = metrix_loss(
        z, torch.tensor(LABELS), mix=mix, form=form, pairing=pairing, margin=0.4, mixed_weight=0.7
    )
    assert_close(found, metrix_by_mixing(z, mix, pairing, form, 0.4, 0.7))


@each_form
def test_without_weight_metrix_is_the_clean_loss(form):
    z, labels = unit_rows(), torch.tensor(LABELS)
    positives, negatives = pair_masks(labels)
    clean = soft_pair_loss(z @ z.T, positives.double(), positives | negatives, form=form)
    assert_close(metrix_loss(z, labels, mixed_weight=0, form=form), clean)


def test_all_positive_and_all_negative_mixes_are_the_pairs_themselves():
    z, labels = unit_rows(), torch.tensor(LABELS)
    s = similarities(z)

    def mixed(mix):
        with_mix, clean = (
            metrix_loss(z, labels, mix=mix, mixed_weight=w, margin=0.2) for w in (1, 0)
        )
        return with_mix - clean

    pull = sum(-s[a][p] * len(negatives_of(a)) for a in range(8) for p in positives_of(a))
    push = sum(
        max(s[a][k] - 0.2, 0) * len(positives_of(a)) for a in range(8) for k in negatives_of(a)
    )
    assert_close(mixed(1), double(pull / 8))
    assert_close(mixed(0), double(push / 8))


def test_metrix_stays_finite_where_a_mix_of_opposite_vectors_vanishes():
    z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    loss = metrix_loss(z, torch.tensor([0, 0, 1]), mix=0.5)
    (slopes,) = torch.autograd.grad(loss, z)
    assert loss.isfinite() and slopes.isfinite().all()


def test_utilization_is_the_mean_squared_distance_to_the_nearest():
    queries, embeddings = unit_rows(5), unit_rows(7)
    nearest = [min((q - x).square().sum().item() for x in embeddings) for q in queries]
    assert_close(utilization(queries, embeddings), double(sum(nearest) / 5))
    assert_close(utilization(-double([[1.0, 0]]), double([[1.0, 0]])), double(4.0))


def test_utilization_of_the_same_set_is_zero_also_where_it_is_large():
    z = F.normalize(torch.randn(200, 16), dim=-1)
    assert utilization(z, z) < 1e-6


@pytest.mark.no_typecheck
def test_queries_and_embeddings_live_in_one_space():
    with pytest.raises(ValueError, match="queries must have 4 columns like embeddings"):
        utilization(unit_rows(2, 3), unit_rows(2, 4))
