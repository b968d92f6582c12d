import math
import sys
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import approx_fprime
from scipy.stats import norm
from sklearn.neural_network import MLPRegressor
from torch import nn
from torch.testing import assert_close

from lossbook.classification.ensembles_of_losses import (
    SMALLEST_PULL,
    EnsLoss,
    _squared_error,
    ensloss,
    gbnn_fit,
    newton_step,
    random_calibrated_derivatives,
)
from lossbook.models import mlp
from lossbook.training import fit_replicas

EXPONENTS = [-1, -0.5, 0, 0.5, 1]
each_exponent = pytest.mark.parametrize("box_cox", EXPONENTS)


def double(value):
    return torch.tensor(value, dtype=torch.float64)


# Random slopes ----------------------------------------------------------------------------------


def slopes_by_the_recipe(margins, noise, exponent):
    """The paper's steps, one number at a time."""

    def inverse_box_cox(e):
        if exponent == 0:
            return math.exp(e)
        base = max(0.0, 1 + exponent * e)
        return math.inf if base == 0 and exponent < 0 else base ** (1 / exponent)

    steepest_first = sorted(max(-inverse_box_cox(e), -1.0) for e in noise)
    found = [0.0] * len(margins)
    for slope, i in zip(steepest_first, np.argsort(margins), strict=True):
        found[i] = (slope / margins[i] if margins[i] > 1 else slope) - 1e-6
    return found


@each_exponent
def test_slopes_follow_the_recipe(box_cox):
    margins = 2 * torch.randn(40, dtype=torch.float64)
    found = random_calibrated_derivatives(
        margins, box_cox=box_cox, generator=torch.Generator().manual_seed(3)
    )
    noise = torch.randn(40, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    assert_close(found, double(slopes_by_the_recipe(margins.tolist(), noise.tolist(), box_cox)))


@settings(max_examples=100, deadline=None)
@given(
    margins=st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=30, unique=True),
    box_cox=st.floats(-1, 1),
    clip=st.floats(0.1, 10),
    tail_start=st.floats(0.1, 10),
)
def test_slopes_are_those_of_a_convex_calibrated_loss(margins, box_cox, clip, tail_start):
    margins = double(margins).sort().values
    slopes = random_calibrated_derivatives(
        margins, box_cox=box_cox, clip=clip, tail_start=tail_start
    )
    assert (slopes.diff() >= 0).all()
    assert (slopes <= -SMALLEST_PULL).all() and (slopes >= -clip - SMALLEST_PULL).all()


def test_order_of_the_samples_only_moves_the_slopes():
    margins, order = torch.randn(20), torch.randperm(20)
    first, second = (
        random_calibrated_derivatives(z, generator=torch.Generator().manual_seed(0))
        for z in (margins, margins[order])
    )
    assert_close(second, first[order])


@each_exponent
def test_half_of_the_slopes_are_as_steep_as_may_be(box_cox):
    torch.manual_seed(0)
    slopes = random_calibrated_derivatives(torch.zeros(40_000), box_cox=box_cox)
    assert (slopes <= -1).float().mean().item() == pytest.approx(0.5, abs=0.01)
    shallow = -slopes[slopes > -1]

    def density(e):
        base = max(0.0, 1 + box_cox * e)
        return norm.pdf(e) * (math.exp(e) if box_cox == 0 else base ** (1 / box_cox))

    assert shallow.mean().item() == pytest.approx(2 * quad(density, -12, 0)[0], abs=0.01)


def test_the_exponent_is_continuous_at_zero():
    margins = torch.randn(30, dtype=torch.float64)

    def slopes(box_cox):
        generator = torch.Generator().manual_seed(0)
        return random_calibrated_derivatives(margins, box_cox=box_cox, generator=generator)

    for nearby in (-1e-5, -1e-7, 1e-7, 1e-5):
        assert_close(slopes(nearby), slopes(0.0), rtol=1e-4, atol=1e-6)


def test_the_tail_flattens_like_one_over_the_margin():
    margins = double([0.5, 1.0, 2.0, 8.0])
    slopes = random_calibrated_derivatives(margins, clip=1e-3)  # nearly all draws are clipped
    assert_close(slopes + SMALLEST_PULL, double([-1e-3, -1e-3, -5e-4, -1.25e-4]))
    later = random_calibrated_derivatives(margins, clip=1e-3, tail_start=2)
    assert_close(later + SMALLEST_PULL, double([-1e-3, -1e-3, -1e-3, -2.5e-4]))


def test_every_replica_draws_its_own():
    margins = torch.randn(12).expand(3, -1)
    mapped = torch.func.vmap(random_calibrated_derivatives, randomness="different")
    first, second, third = mapped(margins)
    assert not torch.equal(first, second) and not torch.equal(second, third)

    def seeded(generator):
        draw = partial(random_calibrated_derivatives, generator=generator)
        return torch.func.vmap(draw, randomness="different")(margins)

    alike = [seeded(torch.Generator().manual_seed(0)) for _ in range(2)]
    assert_close(*alike, rtol=0, atol=0)


# EnsLoss ----------------------------------------------------------------------------------------


def test_the_gradient_is_slope_times_sign_over_n():
    logits = torch.randn(9, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1, 1])
    sign = 2 * targets - 1
    ensloss(logits, targets, generator=torch.Generator().manual_seed(5)).backward()
    slopes = random_calibrated_derivatives(
        sign * logits, generator=torch.Generator().manual_seed(5)
    )
    assert_close(logits.grad, slopes * sign / 9)


def test_targets_may_be_numbers_of_any_kind():
    logits, targets = torch.randn(6), torch.tensor([0, 1, 1, 0, 1, 0])
    values = [
        ensloss(logits, t, generator=torch.Generator().manual_seed(1))
        for t in (targets, targets.float(), targets.bool())
    ]
    assert_close(values[0], values[1])
    assert_close(values[0], values[2])


def test_a_draw_is_the_gradient_of_a_loss_that_can_be_written_down():
    """Integrate the slopes, interpolated: its derivative at the margins is the draw."""
    torch.manual_seed(0)
    margins = (3 * torch.randn(15, dtype=torch.float64)).sort().values
    slopes = random_calibrated_derivatives(margins)
    z, g = margins.numpy(), slopes.numpy()

    def loss(at):
        inside = z[(z > min(0, at)) & (z < max(0, at))]
        return quad(lambda u: np.interp(u, z, g), 0, at, points=list(inside) or None, limit=200)[0]

    values = {at: loss(at) for at in np.linspace(-5, 5, 11)}
    for at, g_at in zip(z, g, strict=True):
        assert (loss(at + 1e-4) - loss(at - 1e-4)) / 2e-4 == pytest.approx(g_at, abs=1e-4)
    second = np.diff(list(values.values()), 2)
    assert (second >= -1e-9).all() and np.interp(0, z, g) < 0


class Learner(nn.Module):
    def __init__(self, **settings):
        super().__init__()
        self.network = mlp((2, 8, 1))
        self.objective = EnsLoss(**settings)

    def forward(self, inputs):
        return self.network(inputs).squeeze(-1)


def learner_loss(model, batch):
    inputs, targets = batch
    return model.objective(model(inputs), targets)


def test_the_exponent_is_drawn_anew_each_period():
    objective = EnsLoss(period=3, box_cox=0.25)
    seen = []
    for _ in range(9):
        objective(torch.randn(4), torch.ones(4))
        seen.append(objective.box_cox.item())
    assert seen[:2] == [0.25, 0.25] and len(set(seen)) == 4
    assert seen[2] == seen[3] == seen[4] and seen[5] == seen[6] == seen[7]
    assert all(-1 <= exponent <= 1 for exponent in seen) and objective.calls == 9


def test_the_state_goes_on_from_a_state_dict():
    first, second = EnsLoss(period=2), EnsLoss(period=2)
    for _ in range(3):
        first(torch.randn(4), torch.ones(4))
    second.load_state_dict(first.state_dict())
    for objective in (first, second):
        torch.manual_seed(7)
        objective(torch.zeros(4), torch.ones(4))
    assert first.box_cox == second.box_cox and second.calls == 4


def test_replicas_have_exponents_of_their_own_and_repeat_by_seed():
    inputs = torch.randn(40, 2)
    batch = (inputs, (inputs[:, 0] > 0).long())

    def train(seed):
        return fit_replicas(
            lambda: Learner(period=2), learner_loss, batch, seeds=3, seed=seed, steps=4,
            batch_size=20, optimizer="sgd", learning_rate=0.1, progress=False,
        )  # fmt: skip

    first, again, other = train(0), train(0), train(1)
    exponents = first.buffers["objective.box_cox"]
    assert len(set(exponents.tolist())) == 3 and (exponents != 0).all()
    assert first.buffers["objective.calls"].tolist() == [4, 4, 4]
    assert_close(first.parameters, again.parameters, rtol=0, atol=0)
    assert not torch.equal(exponents, other.buffers["objective.box_cox"])


def test_it_learns():
    torch.manual_seed(0)
    inputs = torch.randn(200, 2)
    targets = (inputs.sum(-1) > 0).long()
    history = fit_replicas(
        lambda: Learner(period=5), learner_loss, (inputs, targets), seeds=2, steps=100,
        batch_size=50, optimizer="sgd", learning_rate=0.1, progress=False,
    )  # fmt: skip
    right = (history.forward(inputs) > 0).long() == targets
    assert (right.float().mean(-1) > 0.95).all()


@pytest.mark.no_typecheck
@pytest.mark.parametrize(
    "bad, message",
    [
        ({"period": 0}, "period must be at least 1, got 0"),
        ({"period": 1, "box_cox": 1.5}, "box_cox must be at least -1 and at most 1, got 1.5"),
        ({"period": 1, "clip": 0}, "clip must be positive, got 0"),
        ({"period": 1, "tail_start": -1}, "tail_start must be positive, got -1"),
    ],
)
def test_bad_settings_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        EnsLoss(**bad)


@pytest.mark.no_typecheck
@pytest.mark.parametrize(
    "bad, message",
    [
        ({"box_cox": -2}, "box_cox must be at least -1 and at most 1, got -2"),
        ({"clip": -1}, "clip must be positive, got -1"),
        ({"tail_start": 0}, "tail_start must be positive, got 0"),
    ],
)
def test_bad_arguments_of_the_draw_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        random_calibrated_derivatives(torch.randn(3), **bad)
    with pytest.raises(ValueError, match=r"margins must not be empty, got shape \(0,\)"):
        random_calibrated_derivatives(torch.randn(0))


# GBNN -------------------------------------------------------------------------------------------

FEW = {"steps": 6, "units": 2, "learning_rate": 0.5, "max_iterations": 30}


def tasks():
    """A regression, a binary and a three-class problem with the same inputs."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(120, 3, generator=generator, dtype=torch.float64)
    value = inputs[:, 0] * inputs[:, 1] + inputs[:, 2]
    classes = (value > -0.7).long() + (value > 0.7).long()
    return {
        "regression": (inputs, value),
        "binary": (inputs, (value > 0).long()),
        "multiclass": (inputs, classes),
    }


each_task = pytest.mark.parametrize("kind", ["regression", "binary", "multiclass"])


def loss_of(kind, scores, targets):
    if kind == "regression":
        return F.mse_loss(scores.squeeze(-1), targets)
    if kind == "binary":
        return F.binary_cross_entropy_with_logits(scores.squeeze(-1), targets.double())
    return F.cross_entropy(scores, targets)


@each_task
def test_the_glued_network_is_the_staged_sum(kind):
    inputs, targets = tasks()[kind]
    model = gbnn_fit(inputs, targets, **FEW)
    staged = model.staged_scores(inputs)
    assert model.kind == kind and len(model) == 6 and len(staged) == 7
    for stages in (1, 4, 6):
        module = model.to_module(stages=stages)
        assert module[0].out_features == 2 * stages
        assert_close(module(inputs), staged[stages])
    assert_close(model.to_module()(inputs), staged[-1])


@each_task
def test_the_staged_sum_is_one_small_network_after_another(kind):
    inputs, targets = tasks()[kind]
    model = gbnn_fit(inputs, targets, **FEW)
    total = model.intercept.expand(len(inputs), -1).clone()
    for t in range(len(model)):
        hidden = torch.sigmoid(inputs @ model.hidden_weight[t].T + model.hidden_bias[t])
        total += model.step_lengths[t] * (hidden @ model.output_weight[t].T + model.output_bias[t])
        assert_close(model.staged_scores(inputs)[t + 1], total)


@each_task
def test_stage_zero_is_the_constant_that_the_official_code_starts_from(kind):
    inputs, targets = tasks()[kind]
    start = gbnn_fit(inputs, targets, steps=1, max_iterations=1).intercept
    mean = targets.double().mean()
    expected = {
        "regression": mean[None],
        "binary": (mean / (1 - mean)).log()[None],
        "multiclass": torch.zeros(3).double(),
    }
    assert_close(start, expected[kind])


@each_task
def test_each_stage_lowers_the_training_loss(kind):
    inputs, targets = tasks()[kind]
    model = gbnn_fit(inputs, targets, steps=8, units=2, learning_rate=0.5, subsample=1)
    losses = torch.stack([loss_of(kind, s, targets) for s in model.staged_scores(inputs)])
    assert (losses.diff() < 0).all()
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_step_lengths_are_newton_s_with_derivatives_from_autograd(kind):
    inputs, targets = tasks()[kind]
    model = gbnn_fit(inputs, targets, steps=3, units=2, learning_rate=0.7)
    staged = model.staged_scores(inputs)
    for t in range(3):
        scores = staged[t].clone().requires_grad_()
        summed = len(inputs) * loss_of(kind, scores, targets)
        (slope,) = torch.autograd.grad(summed, scores, create_graph=True)
        curvature = torch.stack(
            [torch.autograd.grad(s, scores, retain_graph=True)[0].flatten()[i]
             for i, s in enumerate(slope.flatten())]
        ).reshape(scores.shape)  # fmt: skip
        direction = (staged[t + 1] - staged[t]) / model.step_lengths[t]
        expected = 0.7 * (-slope * direction).sum() / (curvature * direction**2).sum()
        assert_close(model.step_lengths[t], expected.detach())


def test_the_binary_score_is_twice_the_paper_s():
    """The paper has labels of -1 and 1, log(1 + exp(-2 y F)), and twice our h."""
    inputs, targets = tasks()["binary"]
    model = gbnn_fit(inputs, targets, **FEW)
    staged, sign = model.staged_scores(inputs)[..., 0], 2 * targets.double() - 1
    mean = sign.mean()
    assert_close(staged[0, 0] / 2, 0.5 * ((1 + mean) / (1 - mean)).log())
    for t in range(len(model)):
        half = staged[t] / 2
        residuals = 2 * sign / (1 + (2 * sign * half).exp())
        h = 2 * (staged[t + 1] - staged[t]) / model.step_lengths[t]
        rho = (residuals * h).sum() / (residuals * h**2 * (2 * sign - residuals)).sum()
        assert_close(staged[t + 1] / 2, half + 0.5 * rho * h)


def test_a_regression_steps_by_the_learning_rate():
    model = gbnn_fit(*tasks()["regression"], **FEW)
    assert_close(model.step_lengths, torch.full((6,), 0.5).double())


def test_newton_step_minimizes_a_quadratic_and_survives_flatness():
    r, h = torch.randn(2, 30, 2, dtype=torch.float64)
    c = torch.rand(30, 2, dtype=torch.float64)
    rho = newton_step(r, c, h)

    def model(step):
        return (-r * step * h + c * (step * h) ** 2 / 2).sum()

    assert model(rho) < min(model(rho + 0.01), model(rho - 0.01))
    assert newton_step(0 * r, 0 * c, h) == 0


def test_the_gradient_of_a_stage_is_that_of_finite_differences():
    random = np.random.default_rng(0)
    shapes = [(2, 3), (2,), (4, 2), (4,)]
    flat = random.normal(size=6 + 2 + 8 + 4)
    arguments = (random.normal(size=(7, 3)), random.normal(size=(7, 4)), shapes, 0.3)
    found = _squared_error(flat, *arguments)[1]
    expected = approx_fprime(flat, lambda w: _squared_error(w, *arguments)[0], 1e-7)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_one_stage_fits_as_well_as_scikit_learn_s_network():
    """What the official code calls in each stage."""
    inputs, value = tasks()["regression"]
    model = gbnn_fit(inputs, value, steps=1, units=3, subsample=1)
    ours = F.mse_loss(model.predict(inputs), value).item()
    network = MLPRegressor(
        hidden_layer_sizes=(3,),
        activation="logistic",
        solver="lbfgs",
        tol=0,
        max_iter=3000,
        random_state=0,
    )
    theirs = network.fit(inputs, value - value.mean()).loss_
    assert ours / 2 < 1.5 * theirs


def test_xor_is_learned_and_units_come_in_stages():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(300, 2, generator=generator)
    targets = (inputs[:, 0] * inputs[:, 1] > 0).long()
    model = gbnn_fit(inputs, targets, steps=15, units=2, learning_rate=0.5)
    accuracies = [
        (model.predict(inputs, stages=t) == targets).float().mean().item() for t in (1, 15)
    ]
    assert accuracies[1] > 0.97 and accuracies[1] > accuracies[0]
    assert model.predict(inputs).dtype == torch.int64


def test_a_seed_gives_the_same_network_in_the_inputs_precision():
    inputs, targets = tasks()["multiclass"]
    first, again = (gbnn_fit(inputs.float(), targets, **FEW, seed=3) for _ in range(2))
    other = gbnn_fit(inputs.float(), targets, **FEW, seed=4)
    assert first.hidden_weight.dtype == torch.float32
    assert torch.equal(first.hidden_weight, again.hidden_weight)
    assert not torch.equal(first.hidden_weight, other.hidden_weight)


@pytest.mark.parametrize("installed", [True, False], ids=["threadpoolctl", "without"])
def test_threads_are_as_before_and_their_limit_is_optional(monkeypatch, installed):
    if not installed:
        monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    before = torch.get_num_threads()
    assert len(gbnn_fit(*tasks()["binary"], **FEW)) == 6
    assert torch.get_num_threads() == before


def test_the_module_s_state_goes_on():
    inputs, targets = tasks()["binary"]
    model = gbnn_fit(inputs, targets, **FEW)
    first, second = model.to_module(), model.to_module(stages=6)
    second.load_state_dict(first.state_dict())
    assert_close(second(inputs), first(inputs))


def test_extreme_and_separable_inputs_stay_finite():
    inputs = torch.cat([-torch.ones(5, 1), torch.ones(5, 1)]) * torch.tensor([[1.0, 1e4]])
    model = gbnn_fit(inputs, torch.arange(10) // 5, steps=30, subsample=1)
    assert model.staged_scores(inputs).isfinite().all()
    assert gbnn_fit(torch.zeros(1, 2), torch.zeros(1), steps=2).intercept == 0


@pytest.mark.no_typecheck
@pytest.mark.parametrize(
    "bad, message",
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"units": 0}, "units must be at least 1, got 0"),
        ({"max_iterations": 0}, "max_iterations must be at least 1, got 0"),
        ({"learning_rate": 0}, "learning_rate must be positive, got 0"),
        ({"subsample": 0}, "subsample must be above 0 and at most 1, got 0"),
        ({"subsample": 1.2}, "subsample must be above 0 and at most 1, got 1.2"),
        ({"l2_weight": -1}, "l2_weight must be at least 0, got -1"),
    ],
)
def test_bad_arguments_of_the_fit_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        gbnn_fit(*tasks()["binary"], **bad)


@pytest.mark.no_typecheck
def test_bad_data_of_the_fit_are_refused():
    inputs, targets = tasks()["binary"]
    for wrong, message in (
        (targets[:5], r"targets must have shape \(120,\), got \(5,\)"),
        (targets[:5].double(), r"targets must have shape \(120,\), got \(5,\)"),
        (torch.zeros_like(targets), "targets must hold at least 2 classes, got only 0"),
    ):
        with pytest.raises(ValueError, match=message):
            gbnn_fit(inputs, wrong, **FEW)
    with pytest.raises(ValueError, match="inputs must have shape"):
        gbnn_fit(inputs[:0], targets[:0], **FEW)
    with pytest.raises(ValueError, match="stages must be at least 1 and at most 6, got 7"):
        gbnn_fit(inputs, targets, **FEW).to_module(stages=7)
