import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.testing import assert_close

from lossbook.classification.regression_as_classification import (
    c51_projection,
    categorical_value,
    hl_gauss_loss,
    hl_gauss_targets,
    two_hot_loss,
    two_hot_targets,
)

RATIOS = [0.1, 0.5, 0.75, 2.0, 4.0]


def double(value):
    return torch.tensor(value, dtype=torch.float64)


def points(low, high, c, atoms):
    """The c numbers that the probabilities belong to."""
    if atoms == "ends":
        return torch.linspace(low, high, c, dtype=torch.float64)
    edges = torch.linspace(low, high, c + 1, dtype=torch.float64)
    return (edges[1:] + edges[:-1]) / 2


# Values -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("atoms", ["centers", "ends"])
def test_a_value_is_the_mean_over_the_atoms(atoms):
    logits = torch.randn(4, 3, 7, dtype=torch.float64)
    found = categorical_value(logits, low=-1.5, high=4, atoms=atoms)
    assert_close(found, (logits.softmax(-1) * points(-1.5, 4, 7, atoms)).sum(-1))


def test_a_certain_prediction_is_one_atom_and_an_even_one_the_middle():
    certain = 100 * torch.eye(5, dtype=torch.float64)
    for atoms in ("centers", "ends"):
        assert_close(categorical_value(certain, atoms=atoms), points(-10, 10, 5, atoms))
        even = categorical_value(torch.zeros(1, 5), low=2, high=8, atoms=atoms)
        assert_close(even, torch.tensor([5.0]))


def test_the_ends_are_reached_only_where_atoms_lie_there():
    last = 100 * torch.eye(5)[4:]
    assert categorical_value(last, low=0, high=10, atoms="ends") == 10
    assert categorical_value(last, low=0, high=10, atoms="centers") == 9


# Two-hot ----------------------------------------------------------------------------------------


def test_two_hot_by_hand():
    found = two_hot_targets(double([0, 1, 2.5, 7.9, 10]), low=0, high=10, bins=6)
    expected = double(
        [
            [1, 0, 0, 0, 0, 0],
            [0.5, 0.5, 0, 0, 0, 0],
            [0, 0.75, 0.25, 0, 0, 0],
            [0, 0, 0, 0.05, 0.95, 0],
            [0, 0, 0, 0, 0, 1],
        ]
    )
    assert_close(found, expected)


@settings(max_examples=80, deadline=None)
@given(
    value=st.floats(-30, 30),
    low=st.floats(-20, 0),
    width=st.floats(0.5, 40),
    bins=st.integers(2, 60),
)
def test_the_mean_of_a_two_hot_target_is_the_value(value, low, width, bins):
    high = low + width
    (target,) = two_hot_targets(double([value]), low=low, high=high, bins=bins)
    assert (target >= 0).all() and (target > 0).sum() <= 2
    mean = (target * points(low, high, bins, "ends")).sum().item()
    assert mean == pytest.approx(min(max(value, low), high), abs=1e-9)


def test_values_outside_the_support_count_as_its_ends():
    outside, ends = double([-50.0, 11.0]), double([-10.0, 10.0])
    for targets in (two_hot_targets, hl_gauss_targets):
        assert_close(targets(outside), targets(ends))


# HL-Gauss ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", RATIOS)
def test_hl_gauss_is_a_truncated_normal_summed_over_bins(ratio):
    low, high, bins = -3.0, 5.0, 16
    edges, sigma = np.linspace(low, high, bins + 1), ratio * 0.5
    values = np.linspace(low, high, 41)
    found = hl_gauss_targets(double(values), low=low, high=high, bins=bins, sigma_ratio=ratio)
    for value, row in zip(values, found.numpy(), strict=True):
        cut = stats.truncnorm((low - value) / sigma, (high - value) / sigma, value, sigma)
        np.testing.assert_allclose(row, np.diff(cut.cdf(edges)), atol=1e-12)


def test_the_tails_keep_their_precision_in_float32():
    values = torch.linspace(-9.9, 9.9, 37)
    found = hl_gauss_targets(values, bins=51)
    expected = hl_gauss_targets(values.double(), bins=51)
    large = expected > 1e-30
    assert (expected[large] < 1e-20).sum() > 50, "the case holds far tails"
    relative = (found[large] / expected[large] - 1).abs()
    assert relative.max() < 2e-4
    edges = torch.linspace(-10, 10, 52)
    distribution = torch.erf((edges - values[:, None]) / (0.75 * 20 / 51 * math.sqrt(2)))
    assert (distribution.diff(dim=-1)[large] == 0).sum() > 100, "differences of erf lose them"


@pytest.mark.parametrize("value", [-10.0, -9.0, 0.0, 4.0, 10.0])
def test_hl_gauss_has_the_right_slope_on_an_edge_too(value):
    def targets(value):
        return hl_gauss_targets(value.clamp(-10, 10), bins=20)[:, 1:-1]

    step = 1e-6 if value < 10 else -1e-6
    here, there = double([value]), double([value + step])
    _, slope = torch.func.jvp(targets, (here,), (torch.ones_like(here),))
    assert_close(slope, (targets(there) - targets(here)) / step, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75, 1.0])
def test_away_from_the_ends_the_mean_is_off_by_less_than_the_first_harmonic(ratio):
    values = torch.linspace(-4, 4, 501, dtype=torch.float64)
    targets = hl_gauss_targets(values, bins=50, sigma_ratio=ratio)
    bias = (targets * points(-10, 10, 50, "centers")).sum(-1) - values
    k = torch.arange(1, 50, dtype=torch.float64)
    bound = 0.4 * (torch.exp(-2 * (math.pi * k * ratio) ** 2) / (math.pi * k)).sum()
    assert bias.abs().max() <= bound + 1e-12
    assert bias.abs().max() >= 0.9 * bound - 1e-12, "and it comes near"


def test_at_an_end_the_cut_pulls_the_mean_inward_by_that_of_a_half_normal():
    fine = hl_gauss_targets(double([-10.0, 10.0]), bins=2000, sigma_ratio=50)
    means = (fine * points(-10, 10, 2000, "centers")).sum(-1)
    inward = 0.5 * math.sqrt(2 / math.pi)
    assert_close(means, double([-10 + inward, 10 - inward]), rtol=0, atol=1e-4)


def test_a_tiny_sigma_gives_the_bin_of_the_value():
    values = double([-10.0, -9.3, 0.2, 9.99, 10.0])
    found = hl_gauss_targets(values, bins=20, sigma_ratio=1e-4)
    assert_close(found, F.one_hot(torch.tensor([0, 0, 10, 19, 19]), 20).double())


def test_a_huge_sigma_gives_all_bins_alike():
    found = hl_gauss_targets(torch.tensor([-10.0, 3.0]), bins=10, sigma_ratio=1e3)
    assert_close(found, torch.full((2, 10), 0.1), rtol=1e-3, atol=0)


@pytest.mark.parametrize("ratio", RATIOS)
def test_hl_gauss_is_symmetric_and_shifts_with_the_value(ratio):
    knobs = {"bins": 40, "sigma_ratio": ratio}
    values = torch.rand(20, dtype=torch.float64)
    found = hl_gauss_targets(values, **knobs)
    assert_close(found.flip(-1), hl_gauss_targets(-values, **knobs))
    if ratio <= 2:
        assert_close(
            found[:, :-1], hl_gauss_targets(values + 0.5, **knobs)[:, 1:], atol=1e-5, rtol=0
        )


# The losses -------------------------------------------------------------------------------------

LOSSES = [
    pytest.param(two_hot_loss, two_hot_targets, id="two-hot"),
    pytest.param(hl_gauss_loss, hl_gauss_targets, id="hl-gauss"),
]


@pytest.mark.parametrize("loss, targets_of", LOSSES)
def test_the_losses_are_cross_entropies_to_their_targets(loss, targets_of):
    logits, values = torch.randn(6, 9), 12 * torch.randn(6)
    targets = targets_of(values, low=-8, high=9, bins=9)
    for reduction in ("mean", "sum", "none"):
        found = loss(logits, values, low=-8, high=9, reduction=reduction)
        assert_close(found, F.cross_entropy(logits, targets, reduction=reduction))


@pytest.mark.parametrize("loss, targets_of", LOSSES)
def test_the_least_loss_is_the_entropy_of_the_targets_and_there_the_slope_is_zero(loss, targets_of):
    values = double([0.3, -2.0, 4.9])
    targets = targets_of(values, low=-5, high=5, bins=12)
    logits = targets.clamp(min=1e-300).log().requires_grad_()
    least = loss(logits, values, low=-5, high=5, reduction="sum")
    assert_close(least, torch.special.entr(targets).sum())
    (slope,) = torch.autograd.grad(least, logits)
    assert_close(slope, torch.zeros_like(slope), atol=1e-9, rtol=0)


def test_the_best_single_prediction_for_noisy_values_is_the_mean_of_their_targets():
    values = double([-3.0, 0.5, 4.0, 4.0])
    logits = two_hot_targets(values, bins=30).mean(0).clamp(min=1e-300).log()
    assert_close(categorical_value(logits, atoms="ends"), values.mean())
    moved = logits.clone().requires_grad_()
    loss = two_hot_loss(moved.expand(4, -1), values)
    (slope,) = torch.autograd.grad(loss, moved)
    assert_close(slope, torch.zeros_like(slope), atol=1e-9, rtol=0)


@pytest.mark.parametrize("loss", [two_hot_loss, hl_gauss_loss])
def test_gradient_descent_on_logits_finds_the_value(loss):
    atoms = "ends" if loss is two_hot_loss else "centers"
    values = torch.tensor([-6.3, 0.0, 7.7])
    logits = torch.zeros(3, 51, requires_grad=True)
    optimizer = torch.optim.Adam([logits], 0.3)
    for _ in range(200):
        optimizer.zero_grad()
        loss(logits, values, reduction="sum").backward()
        optimizer.step()
    assert_close(categorical_value(logits, atoms=atoms), values, atol=0.03, rtol=0)


# C51 --------------------------------------------------------------------------------------------


def loop_projection(probabilities, rewards, not_done, discount, low, high):
    """The definition, one atom at a time."""
    n, c = probabilities.shape
    z = points(low, high, c, "ends").tolist()
    width = z[1] - z[0]
    out = torch.zeros(n, c, dtype=torch.float64)
    for row in range(n):
        for j in range(c):
            moved = rewards[row].item() + discount * float(not_done[row]) * z[j]
            b = (min(max(moved, low), high) - low) / width
            for i in range(c):
                out[row, i] += probabilities[row, j] * max(0.0, 1 - abs(b - i))
    return out


@pytest.mark.parametrize("discount", [0, 0.9, 1])
def test_c51_follows_its_definition(discount):
    probabilities = (2 * torch.randn(5, 11, dtype=torch.float64)).softmax(-1)
    rewards, not_done = (
        4 * torch.randn(5, dtype=torch.float64),
        torch.tensor([1, 1, 0, 1, 0]).bool(),
    )
    arguments = (probabilities, rewards, not_done)
    found = c51_projection(*arguments, discount=discount, low=-3, high=6)
    assert_close(found, loop_projection(*arguments, discount, -3, 6))
    assert_close(
        found,
        c51_projection(
            probabilities, rewards, not_done.double(), discount=discount, low=-3, high=6
        ),
    )


def test_c51_keeps_the_mean_inside_the_support_and_the_mass_always():
    probabilities = torch.randn(40, 51, dtype=torch.float64).softmax(-1)
    rewards, not_done = torch.rand(40, dtype=torch.float64), torch.rand(40) < 0.7
    target = c51_projection(probabilities, rewards, not_done, discount=0.8)
    z = points(-10, 10, 51, "ends")
    assert_close((target * z).sum(-1), rewards + 0.8 * not_done * (probabilities * z).sum(-1))
    far = c51_projection(probabilities, 100 * rewards, not_done)
    assert_close(far.sum(-1), torch.ones(40, dtype=torch.float64))


def test_c51_without_reward_and_discount_changes_nothing_and_at_the_end_is_two_hot():
    probabilities, rewards = torch.rand(6, 9).softmax(-1), 3 * torch.randn(6)
    on, off = torch.ones(6), torch.zeros(6)
    assert_close(c51_projection(probabilities, 0 * rewards, on, discount=1), probabilities)
    at_the_end = c51_projection(probabilities, rewards, off)
    assert_close(at_the_end, two_hot_targets(rewards, bins=9))


def test_c51_takes_probabilities_and_rewards_of_different_precision():
    probabilities, rewards = torch.rand(3, 9).softmax(-1), torch.zeros(3, dtype=torch.float64)
    found = c51_projection(probabilities, rewards, torch.ones(3), discount=1)
    assert_close(found, probabilities.double())


# Bad arguments ----------------------------------------------------------------------------------

CALLS = [
    pytest.param(lambda **k: categorical_value(torch.zeros(2, 5), **k), id="value"),
    pytest.param(lambda **k: two_hot_targets(torch.zeros(2), **k), id="two-hot targets"),
    pytest.param(lambda **k: hl_gauss_targets(torch.zeros(2), **k), id="hl-gauss targets"),
    pytest.param(lambda **k: two_hot_loss(torch.zeros(2, 5), torch.zeros(2), **k), id="two-hot"),
    pytest.param(lambda **k: hl_gauss_loss(torch.zeros(2, 5), torch.zeros(2), **k), id="hl-gauss"),
    pytest.param(
        lambda **k: c51_projection(torch.ones(2, 5) / 5, torch.zeros(2), torch.ones(2), **k),
        id="c51",
    ),
]


@pytest.mark.parametrize(
    "bad, message",
    [
        ({"low": 3, "high": 3}, "high must be above 3, got 3"),
        ({"low": 3, "high": 1}, "high must be above 3, got 1"),
        ({"low": math.nan}, "low must be above -inf and below inf, got nan"),
        ({"high": math.inf}, "high must be above -inf and below inf, got inf"),
    ],
)
@pytest.mark.parametrize("call", CALLS)
def test_an_empty_support_is_refused(call, bad, message):
    with pytest.raises(ValueError, match=message):
        call(**bad)


@pytest.mark.no_typecheck
@pytest.mark.parametrize("targets", [two_hot_targets, hl_gauss_targets])
def test_fewer_than_two_bins_are_refused(targets):
    with pytest.raises(ValueError, match="bins must be at least 2, got 1"):
        targets(torch.zeros(3), bins=1)
    with pytest.raises(ValueError, match=r"values must not be empty, got shape \(0,\)"):
        targets(torch.zeros(0))


@pytest.mark.no_typecheck
def test_one_value_for_each_row_of_logits():
    for loss in (two_hot_loss, hl_gauss_loss):
        with pytest.raises(ValueError, match=r"values must have shape \(3,\), got \(2,\)"):
            loss(torch.zeros(3, 5), torch.zeros(2))
    with pytest.raises(ValueError, match=r"rewards must have shape \(3,\), got \(3, 1\)"):
        c51_projection(torch.ones(3, 5) / 5, torch.zeros(3, 1), torch.ones(3))
