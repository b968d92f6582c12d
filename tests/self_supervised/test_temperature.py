import math

import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from lossbook.baselines import info_nce_loss
from lossbook.self_supervised.temperature import (
    hard_contrastive_loss,
    penalty_entropy,
    relative_penalty,
    simple_contrastive_loss,
    tolerance,
    uniformity,
)


def unit_rows(n, d=5):
    return F.normalize(torch.randn(n, d, dtype=torch.float64), dim=-1)


def double(value):
    return torch.tensor(value, dtype=torch.float64)


def info_nce_of_similarities(s, temperature):
    """The loss as a function of its similarities: queries s and the unit vectors as keys."""
    return info_nce_loss(s, torch.eye(len(s), dtype=s.dtype), temperature=temperature)


# The softmax loss -------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.05, 0.3, 2.0])
def test_all_negatives_together_push_as_hard_as_the_positive_pulls(temperature):
    s = (2 * torch.rand(6, 6, dtype=torch.float64) - 1).requires_grad_()
    (slopes,) = torch.autograd.grad(info_nce_of_similarities(s, temperature), s)
    p = (s / temperature).softmax(-1).detach()
    own = torch.eye(6, dtype=torch.bool)
    assert_close(slopes[~own], p[~own] / (6 * temperature))
    assert_close(-slopes.diagonal(), slopes.masked_fill(own, 0).sum(-1))


@pytest.mark.parametrize("temperature", [0.05, 0.3, 2.0])
def test_relative_penalty_is_the_ratio_of_the_gradients(temperature):
    s = (2 * torch.rand(6, 6, dtype=torch.float64) - 1).requires_grad_()
    (slopes,) = torch.autograd.grad(info_nce_of_similarities(s, temperature), s)
    own = torch.eye(6, dtype=torch.bool)
    ratios = (slopes / slopes.diagonal()[:, None]).abs()[~own].reshape(6, 5)
    found = relative_penalty(s.detach()[~own].reshape(6, 5), temperature=temperature)
    assert_close(found, ratios)
    assert_close(found.sum(-1), torch.ones(6, dtype=torch.float64))


def test_a_small_temperature_only_sees_the_hardest_negative():
    s = 2 * torch.rand(5, 5, dtype=torch.float64) - 1
    temperature = 1e-4
    hardest = s.masked_fill(torch.eye(5, dtype=torch.bool), -torch.inf).amax(-1)
    expected = (hardest - s.diagonal()).relu().mean()
    found = temperature * info_nce_of_similarities(s, temperature)
    assert_close(found, expected, rtol=0, atol=1e-3)


def test_a_large_temperature_sees_all_samples_alike():
    s, n = 2 * torch.rand(5, 5, dtype=torch.float64) - 1, 5
    for temperature in (10, 100, 1000):
        linear = math.log(n) - (s.diagonal() - s.mean(-1)).mean() / temperature
        error = (info_nce_of_similarities(s, temperature) - linear).abs()
        assert error < 1 / temperature**2


def test_the_penalty_s_entropy_grows_with_the_temperature():
    s = 2 * torch.rand(20, 30, dtype=torch.float64) - 1
    temperatures = torch.logspace(-2, 1, 30).tolist()
    entropies = torch.stack([penalty_entropy(s, temperature=t) for t in temperatures])
    assert (entropies.diff(dim=0) > 0).all()
    assert entropies[0].min() >= 0 and entropies[-1].max() <= math.log(30)


def test_penalty_entropy_agrees_with_scipy():
    s = torch.randn(4, 6, dtype=torch.float64)
    expected = scipy.stats.entropy(relative_penalty(s, temperature=0.2), axis=-1)
    assert_close(penalty_entropy(s, temperature=0.2), torch.from_numpy(expected))


def test_penalty_entropy_keeps_a_finite_slope_where_shares_underflow():
    s = torch.tensor([[1.0, -1.0, 0.5]], requires_grad=True)
    entropy = penalty_entropy(s, temperature=0.01)
    assert_close(entropy, torch.zeros(1))
    (slope,) = torch.autograd.grad(entropy.sum(), s)
    assert slope.isfinite().all()


# The hard loss ----------------------------------------------------------------------------------


@pytest.mark.parametrize("hard_fraction", [0.01, 0.2, 0.5, 0.76, 1.0])
def test_the_hard_loss_keeps_the_top_share_of_negatives_rounded_up(hard_fraction):
    queries, keys = unit_rows(9), unit_rows(9)
    s = (queries @ keys.T).tolist()
    n_kept = math.ceil(hard_fraction * 8)
    losses = []
    for i in range(9):
        hardest = sorted((s[i][j] for j in range(9) if j != i), reverse=True)[:n_kept]
        total = sum(math.exp(v / 0.3) for v in [s[i][i], *hardest])
        losses.append(math.log(total) - s[i][i] / 0.3)
    found = hard_contrastive_loss(queries, keys, hard_fraction=hard_fraction)
    assert_close(found, double(sum(losses) / 9))


@pytest.mark.parametrize("share, n_negatives, n_kept", [(0.1, 30, 3), (0.7, 10, 7), (0.3, 100, 30)])
def test_a_whole_number_of_negatives_is_not_rounded_up_further(share, n_negatives, n_kept):
    # In floating point 0.1 * 30 and 0.7 * 10 are more than 3 and 7, and so is 0.3 * 100 in float32.
    queries, keys = unit_rows(n_negatives + 1), unit_rows(n_negatives + 1)
    expected = hard_contrastive_loss(queries, keys, hard_fraction=(n_kept - 0.5) / n_negatives)
    for hard_fraction in (share, torch.tensor(share)):
        found = hard_contrastive_loss(queries, keys, hard_fraction=hard_fraction)
        assert_close(found, expected)


def test_with_all_negatives_the_hard_loss_is_info_nce():
    queries, keys = unit_rows(7), unit_rows(7)
    found = hard_contrastive_loss(queries, keys, temperature=0.2, hard_fraction=1)
    assert_close(found, info_nce_loss(queries, keys, temperature=0.2))


def test_the_hard_loss_of_one_query_is_zero():
    assert hard_contrastive_loss(unit_rows(1), unit_rows(1)) == 0


# The simple loss --------------------------------------------------------------------------------


@pytest.mark.parametrize("negative_weight, used", [(None, 1 / 4), (0.7, 0.7), (0, 0)])
def test_the_simple_loss_pushes_every_negative_alike(negative_weight, used):
    queries, keys = unit_rows(5), unit_rows(5)
    s = (queries @ keys.T).tolist()
    losses = [used * sum(s[i][j] for j in range(5) if j != i) - s[i][i] for i in range(5)]
    found = simple_contrastive_loss(queries, keys, negative_weight=negative_weight)
    assert_close(found, double(sum(losses) / 5))


# Measures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0.5, 2, 10])
def test_uniformity_equals_a_loop_over_pairs(t):
    z = unit_rows(8)
    pairs = [(i, j) for i in range(8) for j in range(8) if i != j]
    kernel = [math.exp(-t * (z[i] - z[j]).square().sum()) for i, j in pairs]
    assert_close(uniformity(z, t=t), double(-math.log(sum(kernel) / len(pairs))))


def test_uniformity_of_one_point_is_zero_and_of_opposite_points_the_largest():
    point = double([[1.0, 0.0]])
    assert_close(uniformity(point.repeat(4, 1)), double(0.0))
    assert_close(uniformity(torch.cat([point, -point])), double(8.0))


def test_uniformity_needs_two_embeddings():
    with pytest.raises(ValueError, match="number of embeddings must be at least 2, got 1"):
        uniformity(unit_rows(1))


def test_tolerance_equals_a_loop_over_pairs():
    z, labels = unit_rows(7), [0, 1, 0, 2, 1, 0, 3]
    s = (z @ z.T).tolist()
    same = [(i, j) for i in range(7) for j in range(7) if labels[i] == labels[j]]
    found = tolerance(z, torch.tensor(labels))
    assert_close(found, double(sum(s[i][j] for i, j in same) / 49))
    others = [(i, j) for i, j in same if i != j]
    found = tolerance(z, torch.tensor(labels), conditional=True)
    assert_close(found, double(sum(s[i][j] for i, j in others) / len(others)))


def test_tolerance_of_collapsed_classes():
    z, labels = torch.eye(2).repeat(3, 1), torch.arange(2).repeat(3)
    assert tolerance(z, labels) == 0.5
    assert tolerance(z, labels, conditional=True) == 1
    assert tolerance(torch.eye(3), torch.arange(3), conditional=True) == 0
