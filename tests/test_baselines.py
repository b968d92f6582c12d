"""Each loss against its definition, written as loops over numbers."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from lossbook import baselines


def unit_rows(n, d=4):
    return F.normalize(torch.randn(n, d, dtype=torch.float64), dim=-1)


def double(value):
    return torch.tensor(value, dtype=torch.float64)


# Contrast ---------------------------------------------------------------------------------------


def test_info_nce_is_the_cross_entropy_of_each_query_over_the_keys():
    queries, keys = unit_rows(5), unit_rows(5)
    s = (queries @ keys.T).tolist()
    losses = [
        math.log(sum(math.exp((s[i][j] - s[i][i]) / 0.2) for j in range(5))) for i in range(5)
    ]
    assert_close(baselines.info_nce_loss(queries, keys, temperature=0.2), double(sum(losses) / 5))


def test_info_nce_of_two_orthogonal_queries_by_hand():
    rows = torch.eye(2)
    loss = baselines.info_nce_loss(rows, rows, temperature=0.5)
    assert_close(loss, torch.tensor(math.log(1 + math.exp(-2))))


def test_info_nce_and_nt_xent_of_one_sample_are_zero():
    z1, z2 = unit_rows(1), unit_rows(1)
    assert baselines.info_nce_loss(z1, z2) == 0
    assert baselines.nt_xent_loss(z1, z2) == 0


def test_nt_xent_looks_for_the_other_view_among_all_others():
    z1, z2 = unit_rows(3), unit_rows(3)
    s = (torch.cat([z1, z2]) @ torch.cat([z1, z2]).T / 0.3).exp().tolist()
    losses = [-math.log(s[a][(a + 3) % 6] / (sum(s[a]) - s[a][a])) for a in range(6)]
    assert_close(baselines.nt_xent_loss(z1, z2, temperature=0.3), double(sum(losses) / 6))


def test_nt_xent_of_collapsed_views_is_the_log_of_the_candidates():
    z = unit_rows(1).expand(8, -1)
    assert_close(baselines.nt_xent_loss(z, z), double(math.log(15)))


def test_supcon_averages_over_positives_and_over_anchors_that_have_one():
    z, labels = unit_rows(6), [0, 1, 0, 2, 1, 0]
    s = (z @ z.T / 0.3).tolist()
    losses = []
    for a in range(6):
        positives = [p for p in range(6) if p != a and labels[p] == labels[a]]
        total = math.log(sum(math.exp(s[a][b]) for b in range(6) if b != a))
        if positives:
            losses.append(sum(total - s[a][p] for p in positives) / len(positives))
    assert len(losses) == 5
    found = baselines.supcon_loss(z, torch.tensor(labels), temperature=0.3)
    assert_close(found, double(sum(losses) / 5))


def test_supcon_with_two_views_of_each_class_is_nt_xent():
    z1, z2 = unit_rows(4), unit_rows(4)
    supcon = baselines.supcon_loss(torch.cat([z1, z2]), torch.arange(4).repeat(2), temperature=0.3)
    assert_close(supcon, baselines.nt_xent_loss(z1, z2, temperature=0.3))


def test_n_pairs_is_log_one_plus_the_sum_over_the_other_classes():
    anchors, positives = (torch.randn(4, 3, dtype=torch.float64) for _ in range(2))
    s = (anchors @ positives.T).tolist()
    losses = [
        math.log(1 + sum(math.exp(s[i][j] - s[i][i]) for j in range(4) if j != i)) for i in range(4)
    ]
    assert_close(baselines.n_pairs_loss(anchors, positives), double(sum(losses) / 4))
    lengths = ((anchors**2).sum() + (positives**2).sum()).item() / 4
    found = baselines.n_pairs_loss(anchors, positives, l2_weight=0.1)
    assert_close(found, double(sum(losses) / 4 + 0.1 * lengths))


# Pairs and triplets -----------------------------------------------------------------------------


def test_pair_masks_leave_the_sample_itself_out():
    positives, negatives = baselines.pair_masks(torch.tensor([0, 1, 0]))
    assert positives.tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    assert negatives.tolist() == [[0, 1, 0], [1, 0, 1], [0, 1, 0]]


def test_pair_masks_of_chosen_anchors_are_rows_of_the_whole():
    labels, index = torch.tensor([0, 1, 0, 1, 2]), torch.tensor([3, 1])
    whole = [mask[index] for mask in baselines.pair_masks(labels)]
    assert_close(list(baselines.pair_masks(labels, index)), whole)


def test_pair_contrastive_sums_over_the_pairs_of_an_anchor():
    z, labels = unit_rows(6), [0, 1, 0, 2, 1, 0]
    s = (z @ z.T).tolist()
    pairs = [(i, j) for i in range(6) for j in range(6) if i != j]
    pull = sum(1 - s[i][j] for i, j in pairs if labels[i] == labels[j])
    push = sum(max(s[i][j] - 0.2, 0) for i, j in pairs if labels[i] != labels[j])
    found = baselines.pair_contrastive_loss(z, torch.tensor(labels), margin=0.2)
    assert_close(found, double((pull + push) / 6))


def test_triplet_averages_over_the_triplets_that_violate_the_margin():
    z, labels = unit_rows(7), [0, 1, 0, 2, 1, 0, 2]
    s = (z @ z.T).tolist()
    active = []
    for a in range(7):
        for p in [p for p in range(7) if p != a and labels[p] == labels[a]]:
            for k in [k for k in range(7) if labels[k] != labels[a]]:
                violation = s[a][k] - s[a][p] + 0.3
                active += [violation] if violation > 0 else []
    found = baselines.triplet_loss(z, torch.tensor(labels), margin=0.3)
    assert_close(found, double(sum(active) / len(active)))


def test_triplet_is_zero_where_classes_are_far_apart():
    z = torch.eye(2).repeat_interleave(2, 0)
    assert baselines.triplet_loss(z, torch.tensor([0, 0, 1, 1]), margin=0.5) == 0


# Margins ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, target", [("arc", math.cos(0.6 + 0.3)), ("cos", math.cos(0.6) - 0.3), ("none", None)]
)
def test_margin_logits_handicap_the_true_class_only(kind, target):
    embedding = double([[1.0, 0.0]])
    prototypes = double([[math.cos(a), math.sin(a)] for a in (0.6, 2.0)])
    logits = baselines.margin_logits(
        embedding, prototypes, torch.tensor([0]), scale=8, margin=0.3, kind=kind
    )
    target = math.cos(0.6) if target is None else target
    assert_close(logits, double([[8 * target, 8 * math.cos(2.0)]]))


def test_margin_logits_have_a_finite_slope_where_embedding_and_prototype_coincide():
    embeddings = torch.eye(3).requires_grad_()
    baselines.margin_logits(embeddings, torch.eye(3), torch.arange(3)).sum().backward()
    assert embeddings.grad.isfinite().all()


@pytest.mark.no_typecheck
def test_prototypes_must_live_where_embeddings_do():
    with pytest.raises(ValueError, match="prototypes must have 3 columns like embeddings"):
        baselines.margin_logits(torch.eye(3), torch.eye(4), torch.arange(3))


# Classification ---------------------------------------------------------------------------------


def test_label_log_probability_is_the_log_softmax_at_the_label():
    logits, labels = torch.randn(5, 3), torch.tensor([0, 2, 1, 1, 0])
    expected = logits.log_softmax(-1)[torch.arange(5), labels]
    assert_close(baselines.label_log_probability(logits, labels), expected)


def test_focal_by_hand():
    logits = double([[math.log(0.25), math.log(0.75)]])
    loss = baselines.focal_loss(logits, torch.tensor([0]), gamma=2)
    assert_close(loss, double(0.75**2 * math.log(4)))


def test_focal_with_gamma_zero_is_cross_entropy():
    logits, labels = torch.randn(5, 3), torch.tensor([0, 2, 1, 1, 0])
    assert_close(baselines.focal_loss(logits, labels, gamma=0), F.cross_entropy(logits, labels))


@pytest.mark.parametrize("gamma", [0.5, 1, 2])
def test_focal_has_a_finite_slope_at_certainty(gamma):
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
    baselines.focal_loss(logits, torch.tensor([0]), gamma=gamma).backward()
    assert logits.grad.isfinite().all()


def test_reduce_takes_mean_sum_or_none():
    losses = torch.tensor([1.0, 2.0, 6.0])
    assert baselines.reduce(losses, "mean") == 3
    assert baselines.reduce(losses, "sum") == 9
    assert baselines.reduce(losses, "none") is losses


def test_dice_is_tversky_with_half_the_price_for_each_error():
    logits, targets = torch.randn(3, 4, 5), torch.randint(2, (3, 4, 5))
    assert_close(
        baselines.dice_loss(logits, targets, smooth=2.0),
        baselines.tversky_loss(logits, targets, smooth=1.0),
    )


def test_dice_by_hand():
    logits, targets = double([[0.9, 0.2], [0.5, 0.5]]).logit(), double([[1, 0], [0, 0]])
    first = 1 - (2 * 0.9 + 1) / (1.1 + 1 + 1)
    second = 1 - 1 / (1 + 1)
    assert_close(baselines.dice_loss(logits, targets), double((first + second) / 2))
    squared = 1 - (2 * 0.9 + 1) / (0.81 + 0.04 + 1 + 1), 1 - 1 / (0.5 + 1)
    assert_close(baselines.dice_loss(logits, targets, square=True), double(sum(squared) / 2))


def test_tversky_by_hand():
    logits, targets = double([0.9, 0.2, 0.6]).logit(), double([1, 1, 0])
    tp, fp, fn = 1.1, 0.6, 0.9
    expected = 1 - (tp + 0.5) / (tp + 0.3 * fp + 0.7 * fn + 0.5)
    prices = {"false_positive_weight": 0.3, "false_negative_weight": 0.7}
    assert_close(baselines.tversky_loss(logits, targets, **prices, smooth=0.5), double(expected))


def test_tversky_refuses_a_negative_price():
    with pytest.raises(ValueError, match="false_negative_weight must be at least 0, got -1"):
        baselines.tversky_loss(torch.zeros(2), torch.zeros(2), false_negative_weight=-1)


# Attacks ----------------------------------------------------------------------------------------


def distance(a, b, norm):
    order = {"linf": torch.inf, "l2": 2}[norm]
    return torch.linalg.vector_norm((a - b).flatten(1), ord=order, dim=1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_attack_stays_within_the_radius_and_raises_the_objective(norm):
    inputs, weight = torch.randn(20, 2, 3).double(), torch.randn(2, 3).double()

    def objective(x):
        return (x * weight).sum((1, 2)).sin().sum()

    attacked = baselines.pgd_attack(objective, inputs, radius=0.3, steps=10, norm=norm)
    assert distance(attacked, inputs, norm).max() <= 0.3 + 1e-12
    assert objective(attacked) > objective(inputs) + 1


@pytest.mark.parametrize("norm, worst", [("linf", [0.1, -0.1]), ("l2", [0.06, -0.08])])
def test_attack_finds_the_worst_point_of_a_linear_objective(norm, worst):
    slope, inputs = torch.tensor([3.0, -4.0]), torch.randn(6, 2)
    attacked = baselines.pgd_attack(
        lambda x: (x @ slope).sum(), inputs, radius=0.1, steps=20, step_size=0.1, norm=norm
    )
    assert_close(attacked - inputs, torch.tensor(worst).expand(6, 2), rtol=0, atol=1e-5)


def test_attack_without_radius_or_slope_stays_put():
    inputs = torch.randn(4, 3)
    assert_close(baselines.pgd_attack(lambda x: x.sum(), inputs, radius=0), inputs)
    lost = baselines.pgd_attack(lambda x: 0 * x.sum(), inputs, radius=0.1, norm="l2")
    assert distance(lost, inputs, "l2").max() <= 0.1 + 1e-6


@pytest.mark.parametrize(
    "bad, message",
    [
        ({"radius": -0.1}, "radius must be at least 0, got -0.1"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"norm": "l1"}, "norm must be one of 'linf', 'l2', got 'l1'"),
    ],
)
def test_attack_refuses_bad_arguments(bad, message):
    with pytest.raises(ValueError, match=message):
        baselines.pgd_attack(lambda x: x.sum(), torch.ones(2, 2), **bad)


def test_trades_is_cross_entropy_plus_the_divergence_to_the_attacked_input():
    model = torch.nn.Linear(4, 3).double()
    inputs, labels = torch.randn(6, 4).double(), torch.tensor([0, 1, 2, 0, 1, 2])
    torch.manual_seed(1)
    found = baselines.trades_loss(model, inputs, labels, weight=2.5, radius=0.2, steps=3)
    torch.manual_seed(1)
    clean = model(inputs).detach()
    attacked = baselines.pgd_attack(
        lambda x: F.kl_div(model(x).log_softmax(-1), clean.softmax(-1), reduction="sum"),
        inputs,
        radius=0.2,
        steps=3,
    )
    kl = F.kl_div(model(attacked).log_softmax(-1), clean.softmax(-1), reduction="batchmean")
    assert_close(found, F.cross_entropy(clean, labels) + 2.5 * kl)
    assert kl > 0


def test_trades_without_weight_is_cross_entropy():
    model, inputs, labels = torch.nn.Linear(4, 3), torch.randn(3, 4), torch.arange(3)
    found = baselines.trades_loss(model, inputs, labels, weight=0)
    assert_close(found, F.cross_entropy(model(inputs), labels))


@pytest.mark.parametrize(
    "name, loss",
    [
        ("logistic", lambda z: math.log(1 + math.exp(-z))),
        ("hinge", lambda z: max(0, 1 - z)),
        ("squared_hinge", lambda z: max(0, 1 - z) ** 2),
        ("exponential", lambda z: math.exp(-z)),
        ("focal", lambda z: math.log(1 + math.exp(-z)) / (1 + math.exp(z)) ** 2),
    ],
)
def test_margin_losses_by_their_formulas(name, loss):
    margins = [-2.5, 0.0, 0.3, 1.0, 4.0]
    found = baselines.margin_loss(double(margins), name=name, reduction="none")
    assert_close(found, double([float(loss(z)) for z in margins]))


def test_margin_losses_agree_with_the_losses_of_two_classes():
    logits, targets = torch.randn(9), torch.arange(9) % 2
    margins, two = (2 * targets - 1) * logits, torch.stack([torch.zeros(9), logits], -1)
    logistic = F.binary_cross_entropy_with_logits(logits, targets.float())
    assert_close(baselines.margin_loss(margins), logistic)
    focal = baselines.focal_loss(two, targets, gamma=2.0)
    assert_close(baselines.margin_loss(margins, name="focal"), focal)


def test_the_exponential_margin_loss_goes_on_linearly():
    values = baselines.margin_loss(double([-30.0, -40.0]), name="exponential", reduction="none")
    assert_close(values, math.exp(30) * double([1.0, 11.0]))
