import math

import pytest
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from lossbook.baselines import dice_loss, tversky_loss
from lossbook.classification.losses_from_metrics import (
    TwoWayPartialAUCLoss,
    anyloss,
    binary_self_adjusting_dice_loss,
    mann_whitney_loss,
    mann_whitney_retrieval_loss,
    pa_bce_loss,
    self_adjusting_dice_loss,
    soft_confusion,
    two_way_partial_auc_loss,
)
from lossbook.metrics import roc_auc
from lossbook.training import fit, fit_replicas, replica_seed

METRICS = ("f_beta", "accuracy", "balanced_accuracy", "g_mean")
each_metric = pytest.mark.parametrize("metric", METRICS)


def double(value):
    return torch.tensor(value, dtype=torch.float64)


def logit(p):
    return double(p).logit()


# The soft confusion matrix ----------------------------------------------------------------------


def test_without_amplification_probabilities_are_counted():
    logits, targets = logit([0.9, 0.6, 0.2, 0.3]), double([1, 1, 1, 0])
    found = soft_confusion(logits, targets, amplification=None)
    assert_close(torch.stack(found), double([1.7, 0.3, 1.3, 0.7]))


def test_amplified_decisions_by_their_formula():
    probabilities, targets = [0.9, 0.45, 0.6], [1, 1, 0]
    steep = [1 / (1 + math.exp(-10 * (p - 0.5))) for p in probabilities]
    tp, fp = steep[0] + steep[1], steep[2]
    found = soft_confusion(logit(probabilities), double(targets), amplification=10)
    assert_close(torch.stack(found), double([tp, fp, 2 - tp, 1 - fp]))


@settings(max_examples=50, deadline=None)
@given(
    logits=st.lists(st.floats(-20, 20), min_size=1, max_size=8),
    amplification=st.one_of(st.none(), st.floats(0.1, 100)),
    data=st.data(),
)
def test_the_four_parts_sum_to_n_and_none_is_negative(logits, amplification, data):
    n = len(logits)
    targets = data.draw(st.lists(st.sampled_from([0, 1]), min_size=n, max_size=n))
    parts = torch.stack(
        soft_confusion(double(logits), torch.tensor(targets), amplification=amplification)
    )
    assert_close(parts.sum(), double(n))
    assert (parts >= -1e-12).all()


def test_integer_targets_count_like_floats():
    logits, targets = torch.randn(9), torch.arange(9) % 2
    assert_close(soft_confusion(logits, targets), soft_confusion(logits, targets.float()))


def test_seventy_three_is_the_largest_integer_that_keeps_a_decision_below_one():
    certain, target = double([40.0]), double([1])  # its probability rounds to 1
    decisions = {at: soft_confusion(certain, target, amplification=at)[0].item() for at in (73, 75)}
    assert decisions[73] < 1 == decisions[75]


# AnyLoss ----------------------------------------------------------------------------------------


@each_metric
def test_hard_decisions_give_the_metric_itself(metric):
    torch.manual_seed(0)
    logits, targets = 3 * torch.randn(200, dtype=torch.float64), torch.arange(200) % 3 == 0
    decisions = logits > 0
    recall = sklearn.metrics.recall_score(targets, decisions)
    specificity = sklearn.metrics.recall_score(~targets, ~decisions)
    expected = {
        "f_beta": sklearn.metrics.fbeta_score(targets, decisions, beta=2),
        "accuracy": sklearn.metrics.accuracy_score(targets, decisions),
        "balanced_accuracy": sklearn.metrics.balanced_accuracy_score(targets, decisions),
        "g_mean": math.sqrt(recall * specificity),
    }[metric]
    found = anyloss(
        logits, targets.double(), metric=metric, beta=2, amplification=1e6, epsilon=1e-9
    )
    assert found.item() == pytest.approx(1 - expected, abs=1e-6)


def test_a_function_of_the_counts_may_be_the_metric():
    def jaccard(tp, fp, fn, tn):
        return tp / (tp + fp + fn)

    logits, targets = torch.randn(30, dtype=torch.float64), (torch.arange(30) % 4 == 0).double()
    tp, fp, fn, _ = soft_confusion(logits, targets, amplification=5)
    assert_close(anyloss(logits, targets, metric=jaccard, amplification=5), 1 - tp / (tp + fp + fn))


def test_beta_sets_the_price_of_a_missed_positive():
    logits, targets = double([2, -1, 1, -2]), double([1, 1, 0, 0])

    def pull_on_the_missed(beta):
        return -torch.func.grad(lambda z: anyloss(z, targets, beta=beta, amplification=None))(
            logits
        )[1]

    pulls = [pull_on_the_missed(beta).item() for beta in (0.5, 1, 2)]
    assert pulls[0] < pulls[1] < pulls[2]


def test_the_pull_is_l_times_two_bells():
    """d(decision)/d(logit) = L A (1 - A) p (1 - p): L / 16 at one half, next to nothing at 0.7."""

    def pull(p, amplification):
        one = double([1])
        return torch.func.grad(lambda z: soft_confusion(z, one, amplification=amplification)[0])(
            logit([p])
        ).item()

    assert pull(0.5, 73) == pytest.approx(73 / 16)
    assert pull(0.7, 73) == pytest.approx(7.0e-6, rel=0.02)
    assert pull(0.7, 10) == pytest.approx(10 * 0.1192 * 0.8808 * 0.21, rel=1e-3)


@each_metric
@pytest.mark.parametrize("amplification", [None, 10.0, 73.0])
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_one_class_alone_gives_a_finite_loss_and_gradient(metric, amplification, target):
    logits = torch.tensor([-1e4, -3.0, 0.0, 3.0, 1e4], requires_grad=True)
    loss = anyloss(logits, torch.full((5,), target), metric=metric, amplification=amplification)
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()


def test_without_positives_the_f_score_has_no_gradient():
    slope = torch.func.grad(lambda z: anyloss(z, torch.zeros(4), amplification=5))(torch.randn(4))
    assert_close(slope, torch.zeros(4))


# Dice and Tversky, which are soft F-scores ------------------------------------------------------


@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
def test_tversky_is_the_f_score_without_amplification(beta):
    logits, targets = torch.randn(20, dtype=torch.float64), (torch.arange(20) % 3 == 0).double()
    share = 1 / (1 + beta**2)
    tversky = tversky_loss(
        logits,
        targets,
        false_positive_weight=share,
        false_negative_weight=1 - share,
        smooth=1e-12,
    )
    expected = anyloss(logits, targets, beta=beta, amplification=None, epsilon=1e-12)
    assert_close(tversky, expected)


# Self-adjusting Dice ----------------------------------------------------------------------------


@pytest.mark.parametrize("square", [True, False])
@pytest.mark.parametrize("alpha", [0, 0.01, 1, 2])
def test_self_adjusting_dice_by_a_loop(alpha, square):
    logits, labels = 2 * torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1])
    power = 2 if square else 1
    losses = []
    for row, label in zip(logits.softmax(-1).tolist(), labels.tolist(), strict=True):
        total = 0
        for j, p in enumerate(row):
            w, y = (1 - p) ** alpha * p, float(j == label)
            total += 1 - (2 * w * y + 0.3) / (w**power + y + 0.3)
        losses.append(total)
    knobs = {"alpha": alpha, "smooth": 0.3, "square": square}
    found = self_adjusting_dice_loss(logits, labels, reduction="none", **knobs)
    assert_close(found, double(losses))


@pytest.mark.parametrize("square", [True, False])
@pytest.mark.parametrize("alpha", [0, 0.3, 1])
def test_binary_self_adjusting_dice_by_its_formula(alpha, square):
    probabilities, targets, power = [0.9, 0.3, 0.6], [1, 1, 0], 2 if square else 1
    w = [(1 - p) ** alpha * p for p in probabilities]
    each = [1 - (2 * a * y + 0.5) / (a**power + y + 0.5) for a, y in zip(w, targets, strict=True)]
    hits = sum(a * y for a, y in zip(w, targets, strict=True))
    total = sum(a**power for a in w) + 2
    expected = {"example": sum(each) / 3, "set": 1 - (2 * hits + 0.5) / (total + 0.5)}
    for level, value in expected.items():
        found = binary_self_adjusting_dice_loss(
            logit(probabilities),
            double(targets),
            alpha=alpha,
            smooth=0.5,
            square=square,
            level=level,
        )
        assert_close(found, double(value))


def test_two_classes_are_the_positive_class_and_its_complement():
    logits, targets = torch.randn(8, dtype=torch.float64), torch.arange(8) % 2
    two = torch.stack([torch.zeros_like(logits), logits], dim=1)
    both = binary_self_adjusting_dice_loss(logits, targets) + binary_self_adjusting_dice_loss(
        -logits, 1 - targets
    )
    assert_close(self_adjusting_dice_loss(two, targets), both)


def test_at_the_set_level_alpha_zero_is_soft_dice():
    logits, targets = torch.randn(20), torch.arange(20) % 3 == 0
    for square in (True, False):
        found = binary_self_adjusting_dice_loss(
            logits, targets.float(), alpha=0, square=square, level="set"
        )
        assert_close(found, dice_loss(logits, targets.float(), square=square))


def test_the_squared_form_is_a_squared_error_over_a_sum():
    logits, targets = 3 * torch.randn(50, dtype=torch.float64), (torch.arange(50) % 2).double()
    w = (1 - logits.sigmoid()) ** 0.5 * logits.sigmoid()
    expected = ((w - targets) ** 2 / (w**2 + targets + 1)).mean()
    assert_close(binary_self_adjusting_dice_loss(logits, targets, alpha=0.5), expected)


@pytest.mark.parametrize("alpha", [0.25, 1.0, 3.0])
def test_a_positive_is_pulled_to_the_peak_and_pushed_back_beyond(alpha):
    def pull(p):
        return -torch.func.grad(
            lambda z: binary_self_adjusting_dice_loss(z, double([1]), alpha=alpha)
        )(logit([p])).item()

    peak = 1 / (1 + alpha)
    assert pull(peak - 0.01) > 0 > pull(peak + 0.01)
    assert pull(peak) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.01, 0.5, 1.0])
def test_the_largest_probability_may_round_to_one(alpha):
    logits = torch.tensor([[0.0, 20.0, -30.0], [0.0, 200.0, 1e4], [5.0, 5.0, 5.0]])
    labels = torch.tensor([0, 1, 2])

    def loss(z):
        return self_adjusting_dice_loss(z, labels, alpha=alpha, smooth=0.1)

    slope = torch.func.grad(loss)(logits)
    assert slope.isfinite().all()
    exact = torch.func.grad(loss)(logits.double())
    assert_close(slope.double(), exact, rtol=1e-4, atol=1e-8)


@pytest.mark.no_typecheck
@pytest.mark.parametrize(
    "call, message",
    [
        (lambda z, t: anyloss(z, t, metric="f1"), "metric must be one of 'f_beta', 'accuracy'"),
        (lambda z, t: anyloss(z, t, amplification=0), "amplification must be positive, got 0"),
        (lambda z, t: anyloss(z, t[:2]), r"targets must have the shape of logits, \(3,\)"),
        (
            lambda z, t: binary_self_adjusting_dice_loss(z, t, alpha=-1),
            "alpha must be at least 0, got -1",
        ),
        (
            lambda z, t: binary_self_adjusting_dice_loss(z, t, level="batch"),
            "level must be one of 'example', 'set', got 'batch'",
        ),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.randn(3), torch.tensor([0.0, 1.0, 1.0]))


# Rankings ---------------------------------------------------------------------------------------


def scores_and_targets(n=30, share=0.3):
    targets = (torch.arange(n) < share * n).double()
    return torch.randn(n, dtype=torch.float64) + targets, targets


def pairs_of(scores, targets):
    """Lists of all positive and of all negative scores."""
    positives, negatives = (
        [s for s, t in zip(scores.tolist(), targets, strict=True) if t == kind] for kind in (1, 0)
    )
    return positives, negatives


# Mann-Whitney


def test_mann_whitney_is_the_mean_logistic_loss_over_pairs():
    scores, targets = scores_and_targets()
    positives, negatives = pairs_of(scores, targets)
    losses = [math.log1p(math.exp(-(p - q) / 0.5)) for p in positives for q in negatives]
    found = mann_whitney_loss(scores, targets, temperature=0.5)
    assert_close(found, double(sum(losses) / len(losses)))


def test_retrieval_compares_every_relevant_score_with_every_other_one():
    scores, labels = torch.randn(4, 6, dtype=torch.float64), torch.tensor([2, 0, 5, 2])
    ignored = torch.zeros(4, 6, dtype=torch.bool)
    ignored[1, 3] = ignored[2, 5] = True  # the second is relevant and counts all the same
    positives = [scores[i, label].item() for i, label in enumerate(labels)]
    negatives = [
        scores[i, j].item()
        for i in range(4)
        for j in range(6)
        if j != labels[i] and (i, j) != (1, 3)
    ]
    losses = [math.log1p(math.exp(-(p - q))) for p in positives for q in negatives]
    found = mann_whitney_retrieval_loss(scores, labels, ignored)
    assert_close(found, double(sum(losses) / len(losses)))


def test_retrieval_is_mann_whitney_of_all_scores():
    scores, labels = torch.randn(5, 5, dtype=torch.float64), torch.arange(5)
    flat = mann_whitney_loss(scores.flatten(), torch.eye(5).double().flatten(), temperature=0.3)
    assert_close(mann_whitney_retrieval_loss(scores, labels, temperature=0.3), flat)


@settings(max_examples=80, deadline=None)
@given(
    scores=st.lists(st.floats(-30, 30), min_size=2, max_size=12),
    temperature=st.floats(0.01, 5),
    data=st.data(),
)
def test_the_area_over_the_curve_is_bounded(scores, temperature, data):
    n = len(scores)
    rest = data.draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=n - 2, max_size=n - 2))
    scores, targets = double(scores), double([0, 1, *rest])
    loss = mann_whitney_loss(scores, targets, temperature=temperature)
    assert 1 - roc_auc(scores, targets) <= loss / math.log(2) + 1e-12


def test_offsets_of_queries_change_mann_whitney_but_not_info_nce():
    scores, labels = torch.randn(8, 8).double() + 3 * torch.eye(8), torch.arange(8)
    moved = scores + 5 * torch.randn(8, 1)
    cross_entropy = torch.nn.functional.cross_entropy
    assert_close(cross_entropy(moved, labels), cross_entropy(scores, labels))
    before, after = (mann_whitney_retrieval_loss(s, labels) for s in (scores, moved))
    assert after > 2 * before


@pytest.mark.parametrize("chunk_size", [1, 3, 100])
def test_chunks_give_the_same_value_and_gradient(chunk_size):
    scores, targets = scores_and_targets(10)
    for loss, data in (
        (mann_whitney_loss, (scores, targets)),
        (mann_whitney_retrieval_loss, (torch.randn(5, 7).double(), torch.arange(5))),
    ):
        results = []
        for size in (None, chunk_size):
            leaf = data[0].clone().requires_grad_()
            value = loss(leaf, *data[1:], temperature=0.5, chunk_size=size)
            results.append((value, *torch.autograd.grad(value, leaf)))
        assert_close(*results)


def test_large_batches_are_chunked_by_themselves(monkeypatch):
    monkeypatch.setattr("lossbook.chunking.DENSE_ENTRIES", 50)
    scores, targets = scores_and_targets(20)
    found = mann_whitney_loss(scores, targets)
    assert_close(found, mann_whitney_loss(scores, targets, chunk_size=20))


# Two-way partial AUC


@pytest.mark.parametrize("positive_temperature", [0.3, 1, 4])
@pytest.mark.parametrize("negative_temperature", [0.3, 1, 4])
def test_two_way_partial_auc_by_its_formula(positive_temperature, negative_temperature):
    scores, targets = scores_and_targets(12)
    positives, negatives = pairs_of(scores, targets)
    outer = 0.0
    for p in positives:
        hinges = [max(0, 0.7 - (p - q)) ** 2 for q in negatives]
        inner = sum(math.exp(h / negative_temperature) for h in hinges) / len(negatives)
        outer += inner ** (negative_temperature / positive_temperature) / len(positives)
    found = two_way_partial_auc_loss(
        scores,
        targets,
        positive_temperature=positive_temperature,
        negative_temperature=negative_temperature,
        margin=0.7,
    )
    assert_close(found, double(positive_temperature * math.log(outer)))


def hinges_of(scores, targets):
    positives, negatives = pairs_of(scores, targets)
    return [max(0, 1 - (p - q)) ** 2 for p in positives for q in negatives]


@pytest.mark.parametrize("temperature, limit", [(1e5, lambda h: sum(h) / len(h)), (1e-5, max)])
def test_two_way_partial_auc_has_the_mean_and_the_worst_pair_as_limits(temperature, limit):
    scores, targets = scores_and_targets()
    found = two_way_partial_auc_loss(
        scores, targets, positive_temperature=temperature, negative_temperature=temperature
    )
    assert_close(found, double(limit(hinges_of(scores, targets))), rtol=1e-3, atol=1e-3)


def minibatch_by_hand(scores, targets, index, u, w, positive, negative, rates):
    """LibAUC's tpAUC_KL_Loss with lists; changes u in place and returns the loss and w."""
    rows = [i for i, t in enumerate(targets) if t == 1]
    columns = [j for j, t in enumerate(targets) if t == 0]
    hinges = {(i, j): max(0, 1 - scores[i] + scores[j]) ** 2 for i in rows for j in columns}
    for i in rows:
        mean = sum(math.exp(hinges[i, j] / negative) for j in columns) / len(columns)
        u[index[i]] = (1 - rates[0]) * u[index[i]] + rates[0] * mean
    power = negative / positive
    mean = sum(u[index[i]] ** power for i in rows) / len(rows)
    w = (1 - rates[1]) * w + rates[1] * mean
    weighted = [
        u[index[i]] ** (power - 1) * math.exp(hinge / negative) / w * hinge
        for (i, j), hinge in hinges.items()
    ]
    return sum(weighted) / len(hinges), w


def test_minibatches_follow_the_moving_averages_step_by_step():
    knobs = {"positive_temperature": 0.6, "negative_temperature": 1.5}
    module = TwoWayPartialAUCLoss(40, **knobs, inner_rate=0.8, outer_rate=0.7).double()
    scores, targets = scores_and_targets(40)
    u, w = [0.0] * 40, 0.0
    for step in range(5):
        index = torch.randperm(40, generator=torch.Generator().manual_seed(step))[:16]
        batch = (scores[index] + step / 10, targets[index], index)
        expected, w = minibatch_by_hand(
            *(part.tolist() for part in batch), u, w, *knobs.values(), (0.8, 0.7)
        )
        assert_close(module(*batch), double(expected))
    assert_close(module.log_u.exp(), double(u))
    assert_close(module.log_w.exp(), double(w))


def test_one_full_batch_without_memory_has_the_objective_s_gradient():
    scores, targets = scores_and_targets()
    knobs = {"positive_temperature": 0.5, "negative_temperature": 2.0, "margin": 0.8}
    module = TwoWayPartialAUCLoss(30, **knobs, inner_rate=1, outer_rate=1)
    leaf = scores.clone().requires_grad_()
    (found,) = torch.autograd.grad(module(leaf, targets, torch.arange(30)), leaf)
    (expected,) = torch.autograd.grad(two_way_partial_auc_loss(leaf, targets, **knobs), leaf)
    assert_close(found, expected)


def test_at_large_temperatures_minibatches_count_all_pairs_alike():
    scores, targets = scores_and_targets()
    module = TwoWayPartialAUCLoss(
        30, positive_temperature=1e6, negative_temperature=1e6, inner_rate=1, outer_rate=1
    ).double()
    hinges = hinges_of(scores, targets)
    found = module(scores, targets, torch.arange(30))
    assert_close(found, double(sum(hinges) / len(hinges)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_a_batch_of_one_class_costs_nothing_and_leaves_the_averages_alone(target):
    module = TwoWayPartialAUCLoss(10)
    module(torch.rand(10), (torch.arange(10) < 5).float(), torch.arange(10))
    before = {name: state.clone() for name, state in module.state_dict().items()}
    scores = torch.rand(4, requires_grad=True)
    loss = module(scores, torch.full((4,), target), torch.arange(4))
    loss.backward()
    assert loss == 0 and (scores.grad == 0).all()
    assert_close(dict(module.state_dict()), before)


@pytest.mark.parametrize("temperature", [1e-3, 1e3])
def test_minibatches_stay_finite_for_logits_of_ten_thousand(temperature):
    module = TwoWayPartialAUCLoss(
        8, positive_temperature=temperature, negative_temperature=temperature
    )
    targets = torch.tensor([1.0, 0.0] * 4)
    for _ in range(3):
        scores = (1e4 * torch.randn(8)).requires_grad_()
        loss = module(scores, targets, torch.arange(8))
        loss.backward()
        assert loss.isfinite() and scores.grad.isfinite().all()
    assert module.log_u[::2].isfinite().all() and module.log_w.isfinite()


def test_half_precision_scores_are_computed_in_float32():
    scores, targets, index = torch.rand(8).bfloat16(), torch.tensor([1.0, 0.0] * 4), torch.arange(8)
    found, expected = (TwoWayPartialAUCLoss(8)(s, targets, index) for s in (scores, scores.float()))
    assert_close(found, expected)


def test_averages_are_saved_and_stay_in_eval_mode():
    module, batch = TwoWayPartialAUCLoss(6), (torch.rand(6), torch.tensor([1.0, 0] * 3))
    module(*batch, torch.arange(6))
    copy = TwoWayPartialAUCLoss(6)
    copy.load_state_dict(module.state_dict())
    again = (torch.rand(6), batch[1], torch.arange(6))
    before = copy.log_u.clone()
    in_eval = copy.eval()(*again)
    assert_close(copy.log_u, before)
    assert_close(in_eval, module(*again))


class Ranked(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.score = torch.nn.Linear(2, 1)
        self.risk = TwoWayPartialAUCLoss(20)

    def forward(self, inputs):
        return self.score(inputs).squeeze(-1).sigmoid()


def test_replicas_carry_their_own_averages():
    inputs, targets = torch.randn(20, 2), (torch.arange(20) % 2).float()
    inputs[:, 0] += targets

    def loss(model, batch):
        inputs, targets, index = batch
        return model.risk(model(inputs), targets, index)

    data = (inputs, targets, torch.arange(20))
    options = {"steps": 8, "batch_size": 10, "progress": False}
    together = fit_replicas(Ranked, loss, data, seeds=3, **options)
    for i in range(3):
        torch.manual_seed(replica_seed(0, i))
        alone = Ranked()
        fit(alone, loss, data, seed=replica_seed(0, i), **options)
        assert_close(dict(together.model(i).state_dict()), dict(alone.state_dict()))
    assert together.model(0).risk.log_w.isfinite()


# PA-BCE


@pytest.mark.parametrize(
    "weighting, weight",
    [("log", lambda gap: math.log10(1 + gap)), ("linear", lambda gap: gap), ("none", lambda _: 1)],
)
def test_pa_bce_by_a_loop_over_the_largest_profits(weighting, weight):
    profits, scores = 20 * torch.randn(9, dtype=torch.float64), torch.randn(9, dtype=torch.float64)
    items = sorted(zip(profits.tolist(), scores.tolist(), strict=True), reverse=True)[:4]
    total = sum(
        weight(g - lower) * math.log1p(math.exp(-(s - t)))
        for i, (g, s) in enumerate(items)
        for lower, t in items[i + 1 :]
    )
    found = pa_bce_loss(scores, profits, top_k=4, weighting=weighting)
    assert_close(found, double(total / 4))


def test_pa_bce_by_hand():
    scores, profits = double([0, 0, 5, -7]), double([9, 99, 0, -50])
    # Gaps 90, 99 and 9 weigh log10 of 91, 100 and 10; the loss-maker is not among the three.
    ties, wrong = math.log(2), math.log1p(math.exp(5))
    expected = (math.log10(91) * ties + 2 * wrong + 1 * wrong) / 3
    assert_close(pa_bce_loss(scores, profits, top_k=3), double(expected))


def test_items_outside_the_largest_profits_get_no_gradient():
    profits, scores = double([5, 1, 4, 3, 2]), double([0.0] * 5)
    slope = torch.func.grad(pa_bce_loss)(scores, profits, top_k=3)
    assert slope[0] < 0 < slope[3] and slope[1] == slope[4] == 0
    assert_close(slope.sum(), double(0.0))


def test_equal_profits_and_groups_of_one_cost_nothing():
    assert pa_bce_loss(torch.randn(5), torch.ones(5)) == 0
    assert pa_bce_loss(torch.randn(1), torch.ones(1)) == 0


def test_a_group_smaller_than_top_k_is_compared_whole():
    scores, profits = torch.randn(4), torch.randn(4)
    assert_close(pa_bce_loss(scores, profits), pa_bce_loss(scores, profits, top_k=4))


# What they refuse


@pytest.mark.no_typecheck
@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: mann_whitney_loss(torch.zeros(3), torch.zeros(2)),
            r"targets must have the shape of scores, \(3,\), got \(2,\)",
        ),
        (
            lambda: mann_whitney_retrieval_loss(
                torch.zeros(2, 3), torch.tensor([0, 1]), torch.zeros(2, 2).bool()
            ),
            r"ignored must have the shape of scores, \(2, 3\), got \(2, 2\)",
        ),
        (
            lambda: two_way_partial_auc_loss(torch.zeros(2), torch.ones(2), margin=0),
            "margin must be positive, got 0",
        ),
        (lambda: TwoWayPartialAUCLoss(0), "n_examples must be at least 1, got 0"),
        (
            lambda: TwoWayPartialAUCLoss(5, inner_rate=0),
            "inner_rate must be above 0 and at most 1, got 0",
        ),
        (
            lambda: TwoWayPartialAUCLoss(5, outer_rate=1.5),
            "outer_rate must be above 0 and at most 1, got 1.5",
        ),
        (
            lambda: TwoWayPartialAUCLoss(5, negative_temperature=-1),
            "negative_temperature must be positive, got -1",
        ),
        (
            lambda: TwoWayPartialAUCLoss(5)(torch.zeros(2), torch.ones(2), torch.tensor([0])),
            r"index must have shape \(2,\), got \(1,\)",
        ),
        (
            lambda: pa_bce_loss(torch.zeros(3), torch.zeros(3), top_k=1),
            "top_k must be at least 2, got 1",
        ),
        (
            lambda: pa_bce_loss(torch.zeros(3), torch.zeros(3), weighting="square"),
            "weighting must be one of 'log', 'linear', 'none', got 'square'",
        ),
    ],
)
def test_bad_arguments_of_rankings_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
