import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch.testing import assert_close

from lossbook.baselines import pgd_attack
from lossbook.classification.cross_entropy_family import (
    LARGEST_EXPONENT,
    comp_sum_best_risk,
    comp_sum_loss,
    comp_sum_transform,
    smooth_adversarial_comp_sum_loss,
)

TAUS = [0, 0.5, 0.999, 1, 1.3, 1.5, 1.8, 2, 2.5]
each_tau = pytest.mark.parametrize("tau", TAUS)


def double(value):
    return torch.tensor(value, dtype=torch.float64)


def losses_of_all_labels(logits, tau):
    """(n, c): the loss of each row for each label that it might have."""
    n, c = logits.shape
    labels = torch.arange(c).repeat(n)
    losses = comp_sum_loss(logits.repeat_interleave(c, 0), labels, tau=tau, reduction="none")
    return losses.reshape(n, c)


# The loss ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tau, loss",
    [
        (0, lambda p: 1 / p - 1),
        (0.5, lambda p: 2 * (p**-0.5 - 1)),
        (1, lambda p: -math.log(p)),
        (1.7, lambda p: (1 - p**0.7) / 0.7),
        (2, lambda p: 1 - p),
        (3, lambda p: (1 - p**2) / 2),
    ],
)
def test_members_of_the_family_by_their_own_formulas(tau, loss):
    for p in (0.9, 0.5, 0.01):
        logits = double([[math.log(p), math.log(1 - p)]])
        assert_close(comp_sum_loss(logits, torch.tensor([0]), tau=tau), double(loss(p)))


def test_tau_one_is_cross_entropy_with_every_reduction():
    logits, labels = torch.randn(7, 4), torch.randint(4, (7,))
    for reduction in ("mean", "sum", "none"):
        expected = F.cross_entropy(logits, labels, reduction=reduction)
        assert_close(comp_sum_loss(logits, labels, reduction=reduction), expected)


@each_tau
def test_the_loss_is_a_function_of_the_sum_of_exponential_margins(tau):
    logits, labels = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0])
    for row, label, found in zip(
        logits.tolist(),
        labels,
        comp_sum_loss(logits, labels, tau=tau, reduction="none"),
        strict=True,
    ):
        u = sum(math.exp(h - row[label]) for j, h in enumerate(row) if j != label)
        expected = math.log(1 + u) if tau == 1 else ((1 + u) ** (1 - tau) - 1) / (1 - tau)
        assert_close(found, double(expected))


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 2e-3), (torch.float64, 1e-4)])
def test_the_loss_and_its_slope_are_continuous_at_tau_one(dtype, tolerance):
    logits, labels = 3 * torch.randn(20, 4, dtype=dtype), torch.randint(4, (20,))

    def value_and_slope(tau):
        leaf = logits.clone().requires_grad_()
        value = comp_sum_loss(leaf, labels, tau=tau)
        return value, *torch.autograd.grad(value, leaf)

    for tau in (1 - 2e-6, 1 - 1e-7, 1 + 1e-7, 1 + 2e-6, 1 + 1e-5):
        found = value_and_slope(tau)
        assert_close(found, value_and_slope(1.0), rtol=tolerance, atol=tolerance)


def test_below_tau_one_the_loss_goes_on_linearly_instead_of_overflowing():
    def loss(log_p):
        logits = double([[log_p, math.log1p(-math.exp(log_p))]])
        return comp_sum_loss(logits, torch.tensor([0]), tau=0).item()

    edge = -LARGEST_EXPONENT
    assert loss(edge) == pytest.approx(math.exp(30) - 1)
    assert loss(edge - 5) - loss(edge) == pytest.approx(5 * math.exp(30))
    assert math.isfinite(loss(-10_000.0))


# Best risk --------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0, 0.5, 1, 1.5, 1.9])
@pytest.mark.parametrize("p", [(0.5, 0.3, 0.2), (0.7, 0.2, 0.1)], ids=str)
def test_best_risk_is_the_smallest_expected_loss(p, tau):
    def risk(logits):
        return (double(p) * losses_of_all_labels(double([logits.tolist()]), tau)).sum().item()

    found = minimize(risk, x0=[0.5, 0.1, 0.0], method="Nelder-Mead", options={"fatol": 1e-10})
    assert found.fun == pytest.approx(comp_sum_best_risk(double(p), tau=tau).item(), abs=1e-6)


@pytest.mark.parametrize("tau", [2, 2.5])
def test_best_risk_above_tau_two_is_a_limit_that_no_logits_undercut(tau):
    p = torch.rand(200, 4, dtype=torch.float64).softmax(-1)
    best = comp_sum_best_risk(p, tau=tau)
    random = (p * losses_of_all_labels(3 * torch.randn_like(p), tau)).sum(-1)
    assert (random >= best).all()
    certain = 50 * F.one_hot(p.argmax(-1), 4).double()
    assert_close((p * losses_of_all_labels(certain, tau)).sum(-1), best)


@each_tau
def test_best_risk_of_a_certain_class_is_zero_and_grows_with_doubt(tau):
    distributions = double([[1, 0, 0], [0.9, 0.1, 0], [0.6, 0.3, 0.1], [1 / 3, 1 / 3, 1 / 3]])
    risks = comp_sum_best_risk(distributions, tau=tau)
    assert risks[0] == 0
    assert (risks.diff() > 0).all()


def test_best_risk_at_tau_one_is_the_entropy():
    p = torch.randn(2, 3, 5).softmax(-1)
    expected = torch.distributions.Categorical(p).entropy()
    assert_close(comp_sum_best_risk(p), expected)


def test_best_risk_is_continuous_at_tau_one_and_two():
    p = torch.randn(20, 4, dtype=torch.float64).softmax(-1)
    for tau, step in ((1, 2e-6), (1, 1e-7), (2, 1e-7)):
        for nearby in (tau - step, tau + step):
            expected = comp_sum_best_risk(p, tau=tau)
            assert_close(comp_sum_best_risk(p, tau=nearby), expected, rtol=1e-5, atol=1e-5)


# The bound --------------------------------------------------------------------------------------


def regrets(p, logits, tau):
    """Zero-one and comp-sum regret of logits where p is the distribution of the label."""
    chosen = p.gather(-1, logits.argmax(-1, keepdim=True)).squeeze(-1)
    risk = (p * losses_of_all_labels(logits, tau)).sum(-1)
    return p.amax(-1) - chosen, risk - comp_sum_best_risk(p, tau=tau)


@each_tau
@pytest.mark.parametrize("n_classes", [2, 4, 10])
def test_no_regret_lies_below_the_transform(n_classes, tau):
    concentration = torch.full((n_classes,), 0.5, dtype=torch.float64)
    p = torch.distributions.Dirichlet(concentration).sample((5_000,))
    scales = torch.tensor([0.01, 0.3, 3.0]).repeat_interleave(len(p))[:, None]
    p = p.repeat(3, 1)
    zero_one, surrogate = regrets(p, scales * torch.randn_like(p), tau)
    bound = comp_sum_transform(zero_one, tau=tau, n_classes=n_classes)
    assert (surrogate >= bound - 1e-9).all()


@settings(max_examples=60, deadline=None)
@given(
    weights=st.lists(st.floats(0.01, 1), min_size=2, max_size=6),
    tau=st.floats(0, 3),
    data=st.data(),
)
def test_no_regret_lies_below_the_transform_for_any_distribution(weights, tau, data):
    n = len(weights)
    logits = double([data.draw(st.lists(st.floats(-8, 8), min_size=n, max_size=n))])
    p = double([weights]) / sum(weights)
    zero_one, surrogate = regrets(p, logits, tau)
    assert surrogate >= comp_sum_transform(zero_one, tau=tau, n_classes=n) - 1e-8


@pytest.mark.parametrize("tau", [tau for tau in TAUS if tau <= 2])
def test_two_classes_at_a_tie_touch_the_transform(tau):
    beta = torch.linspace(0, 1, 21, dtype=torch.float64)[1:-1]
    p = torch.stack([(1 - beta) / 2, (1 + beta) / 2], -1)
    tie = torch.zeros_like(p)  # argmax takes the first class, the wrong one
    zero_one, surrogate = regrets(p, tie, tau)
    assert_close(zero_one, beta)
    assert_close(comp_sum_transform(beta, tau=tau), surrogate)


@each_tau
def test_the_transform_starts_at_zero_grows_and_is_convex(tau):
    values = comp_sum_transform(torch.linspace(0, 1, 101, dtype=torch.float64), tau=tau)
    assert values[0] == 0 and values.isfinite().all()
    assert (values.diff() > 0).all()
    assert (values.diff().diff() > -1e-12).all()


def test_the_transform_is_continuous_at_tau_one_and_two():
    beta = torch.linspace(0, 1, 11, dtype=torch.float64)
    for tau, step in ((1, 2e-6), (1, 1e-7), (2, 1e-7)):
        for nearby in (tau - step, tau + step):
            expected = comp_sum_transform(beta, tau=tau, n_classes=5)
            found = comp_sum_transform(beta, tau=nearby, n_classes=5)
            assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_number_of_classes_matters_above_tau_one_only():
    beta = double([0.2, 0.7])
    for tau in (0, 0.5, 1):
        two, ten = (comp_sum_transform(beta, tau=tau, n_classes=n) for n in (2, 10))
        assert_close(two, ten)
    two, ten = (comp_sum_transform(beta, tau=1.5, n_classes=n) for n in (2, 10))
    assert_close(ten, two * math.sqrt(2 / 10))


# The smooth adversarial loss --------------------------------------------------------------------


@pytest.fixture
def problem():
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    return model.double(), torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, 2] * 2)


def test_without_stability_term_it_is_cross_entropy(problem):
    model, inputs, labels = problem
    found = smooth_adversarial_comp_sum_loss(model, inputs, labels, nu=0, rho=1, tau=1)
    assert_close(found, F.cross_entropy(model(inputs), labels))


@each_tau
def test_rho_divides_the_margins(problem, tau):
    model, inputs, labels = problem
    found = smooth_adversarial_comp_sum_loss(model, inputs, labels, nu=0, rho=2.5, tau=tau)
    assert_close(found, comp_sum_loss(model(inputs) / 2.5, labels, tau=tau))


def moved(model, inputs, labels, other):
    """How far the vector of margins moves between each input and another one."""

    def margins(x):
        rows = zip(model(x), labels, strict=True)
        return torch.stack([row[y] - torch.cat([row[:y], row[y + 1 :]]) for row, y in rows])

    return (margins(other) - margins(inputs).detach()).norm(dim=-1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_stability_term_is_how_far_margins_move_at_the_attacked_input(problem, norm):
    model, inputs, labels = problem
    attack = {"radius": 0.2, "steps": 4, "norm": norm}
    torch.manual_seed(1)
    found = smooth_adversarial_comp_sum_loss(model, inputs, labels, nu=1.5, **attack)
    torch.manual_seed(1)
    attacked = pgd_attack(lambda x: moved(model, inputs, labels, x).sum(), inputs, **attack)
    shift = moved(model, inputs, labels, attacked).mean()
    assert_close(found, F.cross_entropy(model(inputs), labels) + 1.5 * shift)


def test_the_search_beats_random_points_of_the_ball(problem):
    model, inputs, labels = problem
    with_term, without = (
        smooth_adversarial_comp_sum_loss(model, inputs, labels, nu=nu, radius=0.3, steps=20)
        for nu in (1, 0)
    )
    offsets = 0.3 * (2 * torch.rand(50, *inputs.shape) - 1)
    at_random = [moved(model, inputs, labels, inputs + offset).mean() for offset in offsets]
    assert with_term - without > max(at_random)


def test_the_model_s_gradient_holds_the_attacked_input_fixed(problem):
    model, inputs, labels = problem
    weight = model[2].weight

    def loss():
        torch.manual_seed(1)
        return smooth_adversarial_comp_sum_loss(model, inputs, labels, radius=0.2, steps=1)

    (slope,) = torch.autograd.grad(loss(), weight)
    direction, step = torch.randn_like(weight), 1e-6
    with torch.no_grad():
        weight.add_(step * direction)
        above = loss()
        weight.sub_(2 * step * direction)
        below = loss()
    # With the maximum norm the attacked point only depends on signs, so it does stay in place.
    assert_close((above - below) / (2 * step), (slope * direction).sum(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "bad, message",
    [
        ({"radius": -1}, "radius must be at least 0, got -1"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"norm": "l1"}, "norm must be one of 'linf', 'l2', got 'l1'"),
        ({"rho": 0}, "rho must be positive, got 0"),
    ],
)
def test_bad_arguments_of_the_attack_are_refused(problem, bad, message):
    with pytest.raises(ValueError, match=message):
        smooth_adversarial_comp_sum_loss(*problem, **bad)
