import math

import mpmath
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch.testing import assert_close

from lossbook.classification.confidence_and_calibration import (
    TemperatureNet,
    correctness_aware_loss,
    dco_factor,
    dco_loss,
    optimal_pass_at_n_policy,
    pass_at_n,
    transform_features,
)
from lossbook.training import fit_replicas

TRIES = [1, 1.5, 2, 16, 300]
each_n = pytest.mark.parametrize("n_tries", TRIES)


def double(value):
    return torch.tensor(value, dtype=torch.float64)


# The correctness-aware loss ---------------------------------------------------------------------


def test_correctness_aware_loss_by_hand():
    p = double([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2]])
    labels = torch.tensor([0, 1])  # right with confidence 0.7, wrong with confidence 0.5
    assert_close(correctness_aware_loss(p.log(), labels), double((0.3**2 + 0.5**2) / 2))


def by_the_authors_weights(logits, labels):
    """The definition with weights 1 - acc on right and acc on wrong predictions."""
    p = logits.softmax(-1)
    rows = list(zip(p.amax(-1).tolist(), (p.argmax(-1) == labels).tolist(), strict=True))
    accuracy = sum(right for _, right in rows) / len(rows)
    weights = [1 - accuracy if right else accuracy for _, right in rows]
    losses = [w * (c - right) ** 2 for w, (c, right) in zip(weights, rows, strict=True)]
    return sum(losses) / sum(weights)


def test_balanced_is_the_authors_weighted_mean():
    logits, labels = torch.randn(40, 5).double(), torch.randint(5, (40,))
    found = correctness_aware_loss(logits, labels, balanced=True)
    assert found.item() == pytest.approx(by_the_authors_weights(logits, labels))


def test_balanced_without_wrong_or_without_right_predictions_is_the_plain_mean():
    logits = torch.randn(6, 3, dtype=torch.float64)
    right = logits.argmax(-1)
    for labels in (right, (right + 1) % 3):
        found = correctness_aware_loss(logits, labels, balanced=True)
        assert_close(found, correctness_aware_loss(logits, labels))


def test_the_best_confidence_of_a_group_is_its_accuracy_and_balanced_a_biased_one():
    """Two groups of two-class samples, each with one confidence of its own."""
    rights, sizes = (18, 12), (20, 20)
    labels = torch.tensor([0] * 18 + [1] * 2 + [0] * 12 + [1] * 8)

    def best(balanced):
        def loss(leads):
            lead = torch.tensor(leads).repeat_interleave(torch.tensor(sizes))
            logits = torch.stack([lead, torch.zeros_like(lead)], -1)
            return correctness_aware_loss(logits, labels, balanced=balanced).item()

        right_leads = [(1e-9, 20)] * 2  # below 0 the prediction would change
        found = minimize(loss, x0=[2.0, 1.0], method="Nelder-Mead", bounds=right_leads, tol=1e-9)
        return 1 / (1 + np.exp(-found.x))

    a, overall = np.divide(rights, sizes), sum(rights) / sum(sizes)
    assert best(False) == pytest.approx(a, abs=1e-3)
    biased = a * (1 - overall) / (a * (1 - overall) + (1 - a) * overall)
    assert best(True) == pytest.approx(np.maximum(biased, 0.5), abs=1e-3)


def slope_in_sharpness(loss, logits):
    """The derivative of a loss by 1 / T at T = 1: negative asks for a sharper softmax."""
    sharpness = torch.ones((), dtype=logits.dtype)
    return torch.func.grad(lambda b: loss(b * logits))(sharpness).item()


def test_on_a_narrowly_wrong_sample_cross_entropy_sharpens_and_ca_softens():
    p = double([0.45, 0.40, *[0.03] * 5])
    logits, label = p.log()[None], torch.tensor([1])
    assert slope_in_sharpness(lambda z: F.cross_entropy(z, label), logits) < 0
    assert slope_in_sharpness(lambda z: correctness_aware_loss(z, label), logits) > 0


def test_cross_entropy_sharpens_where_the_label_surprises_less_than_average():
    for row in 2 * torch.randn(100, 4, dtype=torch.float64):
        for label in range(4):
            target = torch.tensor([label])
            p = row.softmax(-1)
            surplus = (-p[label].log() - torch.special.entr(p).sum()).item()
            slope = slope_in_sharpness(lambda z, t=target: F.cross_entropy(z, t), row[None])
            assert slope == pytest.approx(surplus)
            aware = slope_in_sharpness(lambda z, t=target: correctness_aware_loss(z, t), row[None])
            assert (aware > 0) == (p.argmax().item() != label)


# What the calibrator sees -----------------------------------------------------------------------


def test_transform_features_look_up_the_original_s_top_classes():
    logits = double([[1, 3, 2], [5, 0, 4]])
    p = torch.randn(2, 2, 3, dtype=torch.float64).softmax(-1)
    expected = [
        [p[0, 0, 1], p[0, 0, 2], p[1, 0, 1], p[1, 0, 2]],
        [p[0, 1, 0], p[0, 1, 2], p[1, 1, 0], p[1, 1, 2]],
    ]
    assert_close(transform_features(logits, p.log(), top=2), double(expected))


def test_a_copy_that_changes_nothing_gives_the_sorted_probabilities():
    logits = torch.randn(7, 5)
    expected = logits.softmax(-1).sort(-1, descending=True).values
    assert_close(transform_features(logits, logits[None], top=9), expected)


@pytest.mark.no_typecheck
def test_transformed_logits_need_a_dimension_of_their_own():
    wanted = r"transformed_logits must have shape \(m, 7, 5\), got \(7, 5\)"
    with pytest.raises(ValueError, match=wanted):
        transform_features(torch.zeros(7, 5), torch.zeros(7, 5))


# The calibrator ---------------------------------------------------------------------------------


@pytest.mark.parametrize("low, high", [(0.1, 10), (0.5, 3)])
def test_temperatures_start_at_one_and_stay_in_range(low, high):
    net, features = TemperatureNet(12, low=low, high=high), torch.rand(9, 12)
    assert_close(net(features), torch.ones(9, 1))
    for bias, expected in ((-1e4, low), (1e4, high)):
        torch.nn.init.constant_(net.out.bias, bias)
        assert_close(net(features), torch.full((9, 1), float(expected)))


def test_a_new_calibrator_has_a_gradient_whatever_its_seed():
    for seed in range(20):
        torch.manual_seed(seed)
        net = TemperatureNet(12)
        net(torch.rand(9, 12)).sum().backward()
        assert net.out.weight.grad.norm() > 0 and net.out.bias.grad.abs() > 0


@pytest.mark.no_typecheck
@pytest.mark.parametrize(
    "bad, message",
    [
        ({"n_features": 0}, "n_features must be at least 1, got 0"),
        ({"hidden": 0}, "hidden must be at least 1, got 0"),
        ({"low": 1}, "low must be above 0 and below 1, got 1"),
        ({"high": 1}, "high must be above 1, got 1"),
    ],
)
def test_bad_arguments_of_the_calibrator_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        TemperatureNet(**{"n_features": 3, **bad})


def test_a_saved_calibrator_gives_the_same_temperatures():
    net, other, features = TemperatureNet(4), TemperatureNet(4), torch.rand(5, 4)
    torch.nn.init.normal_(net.out.weight)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(features), net(features))


def calibration_problem(seed):
    """Half of the samples are marked; marked predictions are right half as often."""
    torch.manual_seed(seed)
    marked = torch.arange(200) % 2
    logits = torch.zeros(200, 3).index_fill_(1, torch.tensor(0), 2.0)
    wrong = torch.rand(200) < torch.where(marked == 1, 0.6, 0.1)
    return marked[:, None].float(), logits, wrong.long()


def test_replicas_learn_each_group_s_accuracy_and_the_argmax_stays():
    def loss(net, batch):
        features, logits, labels = batch
        return correctness_aware_loss(logits / net(features), labels)

    problems = [calibration_problem(seed) for seed in range(3)]
    history = fit_replicas(
        lambda: TemperatureNet(1), loss, problems, seeds=3, steps=300, learning_rate=0.05,
        progress=False,
    )  # fmt: skip
    for i, (features, logits, labels) in enumerate(problems):
        calibrated = logits / history.model(i)(features)
        assert torch.equal(calibrated.argmax(-1), logits.argmax(-1))
        for mark in (0, 1):
            group = features.squeeze(1) == mark
            confidence = calibrated[group].softmax(-1).amax(-1).mean()
            accuracy = (labels[group] == 0).float().mean()
            assert abs(confidence - accuracy) < 0.02


# Direct coverage optimization -------------------------------------------------------------------

LOG_P = [0.0, -1e-12, -1e-6, -0.3, math.log(0.5), -0.7, -2, -10, -30, -79.9, -80.1, -400, -1e4]


def exact_loss(log_p, n_tries):
    with mpmath.workdps(400):
        p = mpmath.exp(mpmath.mpf(log_p))
        return float(-mpmath.log(1 - (1 - p) ** mpmath.mpf(n_tries)))


def exact_factor(p, n_tries):
    with mpmath.workdps(400):
        p, n = mpmath.mpf(p), mpmath.mpf(n_tries)
        return float(n * (1 - p) ** (n - 1) * p / (1 - (1 - p) ** n))


@each_n
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_dco_loss_equals_four_hundred_digits(n_tries, dtype, tolerance):
    # Below -900 the digits do not suffice, and -(log N + log p) is exact.
    expected = [
        exact_loss(x, n_tries) if x > -900 else -x - math.log(n_tries)
        for x in torch.tensor(LOG_P, dtype=dtype).double().tolist()
    ]
    found = dco_loss(torch.tensor(LOG_P, dtype=dtype), n_tries=n_tries, reduction="none")
    assert_close(found.double(), double(expected), rtol=tolerance, atol=tolerance)


@each_n
def test_the_gradient_is_minus_the_factor_at_both_ends_too(n_tries):
    log_p = double(LOG_P)
    slope = torch.func.grad(lambda x: dco_loss(x, n_tries=n_tries, reduction="sum"))(log_p)
    assert_close(slope, -dco_factor(log_p.exp(), n_tries=n_tries), rtol=1e-9, atol=1e-7)


@each_n
def test_the_factor_equals_many_digits_and_its_limits(n_tries):
    shares = [1e-30, 1e-9, 0.01, 0.3, 0.9, 0.999]
    expected = [exact_factor(p, n_tries) for p in shares]
    assert_close(dco_factor(double(shares), n_tries=n_tries), double(expected))
    ends = dco_factor(torch.tensor([0.0, 1.0]), n_tries=n_tries)
    assert_close(ends, torch.tensor([1.0, float(n_tries == 1)]), rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_one_try_is_cross_entropy(reduction):
    logits, labels = torch.randn(9, 4, dtype=torch.float64), torch.randint(4, (9,))

    def both(z):
        log_p = z.log_softmax(-1).gather(1, labels[:, None]).squeeze(1)
        return dco_loss(log_p, n_tries=1, reduction=reduction).sum()

    def cross_entropy(z):
        return F.cross_entropy(z, labels, reduction=reduction).sum()

    for transform in (lambda f: f, torch.func.grad):
        assert_close(transform(both)(logits), transform(cross_entropy)(logits))


def test_dco_is_minus_the_log_of_pass_at_n_and_pass_at_n_counts_draws():
    p = torch.rand(20, dtype=torch.float64)
    assert_close(-pass_at_n(p, n_tries=7).log().mean(), dco_loss(p.log(), n_tries=7))
    draws = torch.rand(20_000, 3, generator=torch.Generator().manual_seed(0)) < 0.2
    assert pass_at_n(double(0.2), n_tries=3) == pytest.approx(0.488)
    assert draws.any(1).double().mean() == pytest.approx(0.488, abs=0.02)


@pytest.mark.no_typecheck
def test_less_than_one_try_is_refused():
    for function in (dco_factor, pass_at_n, optimal_pass_at_n_policy, dco_loss):
        with pytest.raises(ValueError, match="n_tries must be at least 1, got 0.5"):
            function(double([0.2, 0.8]), n_tries=0.5)


# The optimal policy -----------------------------------------------------------------------------


def coverage(q, p, n_tries):
    return (q * (1 - (1 - p) ** n_tries)).sum(-1)


@pytest.mark.parametrize("n_tries", [1.5, 2, 4, 16, 64])
def test_the_optimal_policy_is_what_numerical_optimization_finds(n_tries):
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        q = (2 * torch.randn(5, dtype=torch.float64, generator=generator)).softmax(-1)
        found = optimal_pass_at_n_policy(q, n_tries=n_tries)
        assert found.sum() == pytest.approx(1) and (found >= 0).all()
        best = minimize(
            lambda p, q=q: -coverage(q.numpy(), p, n_tries),
            x0=np.full(5, 0.2),
            bounds=[(0, 1)] * 5,
            constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
            options={"ftol": 1e-14, "maxiter": 500},
        )
        assert coverage(q, found, n_tries).item() == pytest.approx(-best.fun, abs=1e-7)
        if n_tries < 64:  # there the optimum is too flat for the solver
            assert np.abs(best.x - found.numpy()).max() < 1e-3


@pytest.mark.parametrize("n_tries", [1, 2, 16, 1000])
def test_no_distribution_covers_more(n_tries):
    q = torch.randn(50, 1, 6, dtype=torch.float64).mul(3).softmax(-1)
    others = torch.distributions.Dirichlet(torch.full((6,), 0.3).double()).sample((50, 200))
    best = coverage(q, optimal_pass_at_n_policy(q, n_tries=n_tries), n_tries)
    assert (coverage(q, others, n_tries) <= best + 1e-12).all()


def test_the_optimal_policy_for_two_answers_by_hand():
    # N = 2: 2 q_i (1 - p_i) is equal, so that 1 - p_1 = q_2.
    assert_close(optimal_pass_at_n_policy(double([0.8, 0.2]), n_tries=2), double([0.8, 0.2]))
    assert_close(optimal_pass_at_n_policy(double([0.9, 0.1]), n_tries=3), double([0.75, 0.25]))


def test_one_try_goes_to_the_likeliest_and_many_spread_evenly():
    q = double([[0.2, 0.5, 0.3], [0.4, 0.2, 0.4]])
    once = optimal_pass_at_n_policy(q, n_tries=1)
    assert_close(once, double([[0, 1, 0], [0.5, 0, 0.5]]))
    assert_close(optimal_pass_at_n_policy(q, n_tries=1e9), torch.full_like(q, 1 / 3))


def test_impossible_answers_get_nothing_and_tries_may_differ_between_replicas():
    q = torch.tensor([0.0, 0.6, 0.4, 0.0], requires_grad=True)
    p = optimal_pass_at_n_policy(q, n_tries=8)
    assert p[0] == p[3] == 0
    p.square().sum().backward()
    assert q.grad.isfinite().all()
    tries = torch.tensor([1.0, 2.0, 64.0])
    mapped = torch.func.vmap(lambda n: optimal_pass_at_n_policy(q, n_tries=n))(tries)
    looped = [optimal_pass_at_n_policy(q, n_tries=n.item()) for n in tries]
    assert_close(mapped, torch.stack(looped))
