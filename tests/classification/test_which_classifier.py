import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import erf, eval_hermitenorm
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import LinearSVC
from torch.testing import assert_close

from lossbook.classification.which_classifier import (
    DUALS,
    POLYNOMIALS,
    SINES,
    deep_nngp,
    deep_ntk,
    dual_activation,
    dual_activation_slope,
    gaussian_naive_bayes,
    hilbert_classifier,
    kernel_classifier,
    one_vs_rest_hinge_loss,
    signed_power,
    singularity_exponent,
)

each_activation = pytest.mark.parametrize("activation", DUALS)


def double(value):
    return torch.tensor(value, dtype=torch.float64)


# Naive Bayes ------------------------------------------------------------------------------------


def samples(n=60, d=5, n_classes=3):
    labels = torch.arange(n) % n_classes
    means = 2 * torch.randn(n_classes, d, dtype=torch.float64)
    return means[labels] + torch.randn(n, d, dtype=torch.float64), labels


def test_naive_bayes_is_the_rule_of_shared_variances():
    inputs, labels = samples(n=40)
    labels[:5] = 1  # classes of different sizes
    weight, bias = gaussian_naive_bayes(inputs, labels, n_classes=3, variance_floor=0.01)
    rows = {k: inputs[labels == k].numpy() for k in range(3)}
    share = {k: len(rows[k]) / 40 for k in range(3)}
    variance = sum(share[k] * (rows[k].var(axis=0) + 0.01) for k in range(3))
    queries = torch.randn(20, 5, dtype=torch.float64)
    for query, scores in zip(queries.numpy(), queries @ weight.T + bias, strict=True):
        expected = [
            math.log(share[k]) - 0.5 * ((query - rows[k].mean(axis=0)) ** 2 / variance).sum()
            for k in range(3)
        ]
        assert_close(scores - scores[0], double(expected) - expected[0])


def test_naive_bayes_is_scikit_learn_s_where_all_classes_vary_alike():
    noise = torch.randn(20, 4, dtype=torch.float64)
    inputs = torch.cat([noise + shift for shift in torch.randn(3, 4, dtype=torch.float64)])
    labels = torch.arange(3).repeat_interleave(20)
    weight, bias = gaussian_naive_bayes(inputs, labels, n_classes=3)
    queries = torch.randn(30, 4, dtype=torch.float64)
    fitted = GaussianNB(var_smoothing=1e-12).fit(inputs.numpy(), labels.numpy())
    expected = torch.from_numpy(fitted.predict_log_proba(queries.numpy()))
    assert_close((queries @ weight.T + bias).log_softmax(-1), expected, rtol=1e-6, atol=1e-6)


def test_naive_bayes_never_predicts_a_class_without_samples():
    inputs, labels = samples()
    three = gaussian_naive_bayes(inputs, labels, n_classes=3)
    five = gaussian_naive_bayes(inputs, labels, n_classes=5)
    for found, expected in zip(five, three, strict=True):
        assert_close(found[:3], expected)
    queries = 1e3 * torch.randn(200, 5, dtype=torch.float64)
    assert (queries @ five[0].T + five[1]).argmax(-1).max() < 3


def test_naive_bayes_ignores_the_units_of_the_features():
    inputs, labels = samples()
    units = double([1, 10, 100, 0.1, 3])
    weight, bias = gaussian_naive_bayes(inputs, labels, n_classes=3, variance_floor=1e-12)
    in_units = gaussian_naive_bayes(inputs * units, labels, n_classes=3, variance_floor=1e-12)
    assert_close(in_units, (weight / units, bias))


# Linear SVM -------------------------------------------------------------------------------------


@pytest.mark.parametrize("squared", [False, True])
def test_the_hinge_loss_sums_violations_of_all_margins(squared):
    scores, labels = double([[0.5, -2.0, 0.2], [0.1, 3.0, -1.0]]), torch.tensor([0, 1])
    violations = [[0.5, 0.0, 1.2], [1.1, 0.0, 0.0]]
    expected = double(violations) ** (2 if squared else 1)
    found = one_vs_rest_hinge_loss(scores, labels, squared=squared, reduction="none")
    assert_close(found, expected.sum(1))
    assert_close(one_vs_rest_hinge_loss(scores, labels, squared=squared), expected.sum(1).mean())


@pytest.mark.parametrize("cost", [0.1, 1.0, 10.0])
def test_scikit_learn_s_linear_svm_minimizes_the_squared_hinge_loss(cost):
    inputs, labels = samples()
    fitted = LinearSVC(C=cost, fit_intercept=False, tol=1e-10, max_iter=100_000)
    weight = torch.from_numpy(fitted.fit(inputs.numpy(), labels.numpy()).coef_)

    def objective(weight):
        scores = inputs @ weight.T
        loss = one_vs_rest_hinge_loss(scores, labels, squared=True, reduction="sum")
        return weight.square().sum() / 2 + cost * loss

    slope = torch.func.grad(objective)(weight)
    assert slope.abs().max() < 1e-4 * weight.abs().max()


def test_signed_power_keeps_signs_and_zeros():
    features = double([[4.0, -9.0, 0.0]])
    assert_close(signed_power(features), double([[2.0, -3.0, 0.0]]))
    assert_close(signed_power(features, power=1), features)


# Dual activations -------------------------------------------------------------------------------


def hermite(k, z):
    return eval_hermitenorm(k, z) / math.sqrt(math.factorial(k))


def primal(activation, z):
    """The activation itself, up to a factor."""
    if activation in POLYNOMIALS:
        return sum(math.sqrt(c) * hermite(k, z) for k, c in enumerate(POLYNOMIALS[activation]))
    if activation in SINES:
        return np.sin(math.sqrt(SINES[activation]) * z)
    return {"relu": lambda z: np.maximum(z, 0), "erf": erf}[activation](z)


@each_activation
def test_the_dual_is_an_expectation_over_correlated_gaussians(activation):
    axis = np.linspace(-8, 8, 1601)
    u, v = np.meshgrid(axis, axis)
    density = np.exp(-(u**2 + v**2) / 2)
    size = (density * primal(activation, u) ** 2).sum()
    for xi in (-0.7, 0.0, 0.4, 0.95):
        second = xi * u + math.sqrt(1 - xi**2) * v
        product = primal(activation, u) * primal(activation, second)
        expected = (density * product).sum() / size
        found = dual_activation(double(xi), activation=activation)
        assert found.item() == pytest.approx(expected, abs=2e-4)


@each_activation
def test_the_dual_is_one_at_one_and_keeps_its_place_under_depth(activation):
    one = torch.ones(3, dtype=torch.float64)
    assert torch.equal(dual_activation(one, activation=activation), one)
    assert torch.equal(deep_nngp(one, activation=activation, depth=100), one)
    assert_close(deep_ntk(one, activation=activation, depth=100), one)


@each_activation
def test_the_slope_is_the_derivative_of_the_dual(activation):
    xi = torch.linspace(-0.99, 0.99, 41, dtype=torch.float64)
    expected = torch.func.grad(lambda xi: dual_activation(xi, activation=activation).sum())(xi)
    assert_close(dual_activation_slope(xi, activation=activation), expected)


def test_correlations_are_clipped():
    beyond, ends = double([-1.5, 1.0 + 1e-12]), double([-1.0, 1.0])
    for activation in DUALS:
        for function in (dual_activation, dual_activation_slope, deep_nngp, deep_ntk):
            found, expected = (function(xi, activation=activation) for xi in (beyond, ends))
            assert torch.equal(found, expected)


# Deep kernels -----------------------------------------------------------------------------------


def test_depth_zero_is_the_inner_product():
    gram = 2 * torch.rand(4, 4, dtype=torch.float64) - 1
    assert torch.equal(deep_nngp(gram, depth=0), gram)
    assert torch.equal(deep_ntk(gram, depth=0), gram)


def test_squares_of_squares():
    xi = torch.linspace(-1, 1, 21, dtype=torch.float64)
    assert_close(deep_nngp(xi, activation="square", depth=4), xi**16)


def test_the_tangent_kernel_of_two_layers_by_hand():
    xi = torch.linspace(-1, 1, 21, dtype=torch.float64)
    first = dual_activation(xi)
    kernel = first + xi * dual_activation_slope(xi)
    kernel = dual_activation(first) + kernel * dual_activation_slope(first)
    assert_close(deep_ntk(xi, depth=2), kernel / 3)  # 1 + 1 + 1 at correlation 1


@pytest.mark.parametrize("depth", [1, 2])
def test_kernels_are_those_of_wide_random_networks(depth):
    torch.manual_seed(0)
    width, inputs = 800, F.normalize(torch.randn(4, 5, dtype=torch.float64), dim=-1)
    sizes = [5, *[width] * depth, 1]

    def hidden(layers, x):
        for i, layer in enumerate(layers[:-1]):
            x = layer @ x / math.sqrt(sizes[i] if i else 1)  # the inputs have length 1
            x = math.sqrt(2) * x.relu()
        return x

    def output(layers, x):
        return (layers[-1] @ hidden(layers, x)).squeeze() / math.sqrt(width)

    nngp, ntk = 0, 0
    for _ in range(10):
        shapes = zip(sizes[1:], sizes[:-1], strict=True)
        layers = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
        features = torch.stack([hidden(layers, x) for x in inputs])
        nngp += features @ features.T / width / 10
        slopes = [torch.func.grad(output)(layers, x) for x in inputs]
        flat = torch.stack([torch.cat([g.flatten() for g in slope]) for slope in slopes])
        ntk += flat @ flat.T / (depth + 1) / 10
    gram = inputs @ inputs.T
    assert_close(nngp, deep_nngp(gram, depth=depth), rtol=0, atol=0.08)
    assert_close(ntk, deep_ntk(gram, depth=depth), rtol=0, atol=0.08)


# The exponent -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dimension", [1, 2, 4, 8])
def test_the_paper_s_activations_have_the_dimension_for_an_exponent(dimension):
    found = singularity_exponent(activation=f"optimal-{dimension}")
    assert found == pytest.approx(dimension, abs=1e-12)
    if dimension > 1:
        sine = singularity_exponent(activation=f"sine-{dimension}")
        assert sine == pytest.approx(dimension, abs=1e-4)


def test_the_exponents_at_the_ends_of_the_taxonomy():
    assert singularity_exponent(activation="relu") == 0
    assert singularity_exponent(activation="offset") == 0
    assert singularity_exponent(activation="square") == math.inf
    steep, flat = (2 / 3) / math.asin(2 / 3) / math.sqrt(5 / 9), (2 / 3) / math.asin(2 / 3)
    expected = -2 * math.log(flat) / math.log(steep)
    assert singularity_exponent(activation="erf") == pytest.approx(expected)


@pytest.mark.parametrize("activation", ["optimal-1", "optimal-2", "optimal-4", "erf", "sine-4"])
def test_deep_kernels_are_singular_with_that_exponent(activation):
    slope = dual_activation_slope(double(1.0), activation=activation).item()
    # R repeats itself when the distance shrinks by sqrt(slope): there the power law is exact.
    far = double([0.01, 0.015, 0.02])
    near = far * slope**-2
    depth = 150 if activation == "erf" else 40
    kernels = [deep_nngp(1 - r**2 / 2, activation=activation, depth=depth) for r in (near, far)]
    found = (kernels[0] / kernels[1]).log() / (far / near).log()
    expected = torch.full_like(found, singularity_exponent(activation=activation))
    assert_close(found, expected, rtol=0.02, atol=0)


# Classifiers ------------------------------------------------------------------------------------


def on_the_sphere(n, d=3):
    return F.normalize(torch.rand(n, d, dtype=torch.float64), dim=-1)


def kernels(inputs, queries, function=deep_nngp, **knobs):
    gram = (inputs @ inputs.T).fill_diagonal_(1)
    return function(gram, **knobs), function(queries @ inputs.T, **knobs)


def test_the_kernel_classifier_is_a_regression_on_plus_and_minus_one():
    inputs, queries, labels = on_the_sphere(20), on_the_sphere(7), torch.arange(20) % 2
    kernel, query_kernel = kernels(inputs, queries, depth=2)
    scores = kernel_classifier(kernel, labels, query_kernel, n_classes=2)
    signs = 2.0 * labels.double() - 1
    expected = query_kernel @ torch.linalg.inv(kernel) @ signs
    assert_close(scores[:, 1] - scores[:, 0], expected, rtol=1e-6, atol=1e-6)
    one_hot = F.one_hot(labels, 2).double()
    assert_close(kernel_classifier(kernel, labels, kernel, n_classes=2), one_hot)


@pytest.mark.no_typecheck
def test_kernels_that_do_not_fit_are_refused():
    kernel, labels = torch.eye(4), torch.tensor([0, 1, 0, 1])
    for bad in ((kernel[:3], labels, kernel), (kernel, labels, kernel[:, :3])):
        with pytest.raises(ValueError, match="kernel must have shape"):
            kernel_classifier(*bad)
    with pytest.raises(ValueError, match=r"queries must have shape \(q, 4\)"):
        hilbert_classifier(kernel, labels, torch.eye(3))


def test_squares_become_the_nearest_neighbor():
    inputs, queries, labels = on_the_sphere(60), on_the_sphere(200), torch.arange(60) % 3
    kernel, query_kernel = kernels(inputs, queries, activation="square", depth=13)
    found = kernel_classifier(kernel, labels, query_kernel, n_classes=3).argmax(-1)
    nearest = KNeighborsClassifier(1).fit(inputs.numpy(), labels.numpy())
    expected = torch.from_numpy(nearest.predict(queries.numpy()))
    # Depth L tells two neighbors apart if their correlations differ by much more than 2^-L.
    best, second = (queries @ inputs.T).topk(2).values.T
    clear = 2**13 * (best / second).log() > math.log(60)
    assert clear.float().mean() > 0.7
    assert torch.equal(found[clear], expected[clear])


def test_an_offset_becomes_a_majority_vote():
    inputs, queries = on_the_sphere(50), on_the_sphere(200)
    labels = (torch.arange(50) < 20).long()
    kernel, query_kernel = kernels(inputs, queries, activation="offset", depth=60)
    found = kernel_classifier(kernel, labels, query_kernel, n_classes=2)
    assert (found.argmax(-1) == 0).all()
    assert_close(found, found[:1].expand_as(found))


def test_the_relu_tangent_kernel_tends_to_a_constant():
    gram = double([0.1, 0.5, 0.9])
    shallow, deep = (deep_ntk(gram, depth=depth) for depth in (10, 3000))
    assert (deep - 0.25).abs().max() < 0.01 < (shallow - 0.25).abs().max()


@pytest.mark.parametrize("d", [1, 2])
def test_a_deep_network_decides_like_the_hilbert_estimate(d):
    inputs, queries = on_the_sphere(100, d + 1), on_the_sphere(300, d + 1)
    labels = (inputs[:, 0] > inputs[:, 1]).long()
    kernel, query_kernel = kernels(inputs, queries, activation=f"optimal-{d}", depth=40)
    network = kernel_classifier(kernel, labels, query_kernel, n_classes=2).argmax(-1)
    hilbert = hilbert_classifier(inputs, labels, queries, n_classes=2, exponent=float(d))
    assert (network == hilbert.argmax(-1)).double().mean() > 0.95


def test_the_hilbert_estimate_by_its_definition():
    inputs, labels = torch.randn(8, 2, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2, 0, 0])
    queries = torch.randn(5, 2, dtype=torch.float64)
    found = hilbert_classifier(inputs, labels, queries, n_classes=3, exponent=1.5)
    for query, shares in zip(queries, found, strict=True):
        votes = [(query - x).norm().item() ** -1.5 for x in inputs]
        expected = [sum(v for v, y in zip(votes, labels, strict=True) if y == k) for k in range(3)]
        assert_close(shares, double(expected) / sum(votes))


def test_the_hilbert_estimate_runs_from_the_majority_to_the_nearest_neighbor():
    inputs, labels = samples(n=40, n_classes=2)
    labels[:5] = 1
    queries = torch.randn(50, 5, dtype=torch.float64)
    vote = hilbert_classifier(inputs, labels, queries, n_classes=2, exponent=0)
    shares = F.one_hot(labels).double().mean(0)
    assert_close(vote, shares.expand_as(vote))
    single = hilbert_classifier(inputs, labels, queries, n_classes=2, exponent=1e6)
    nearest = torch.cdist(queries, inputs).argmin(-1)
    assert torch.equal(single.argmax(-1), labels[nearest])
    own = hilbert_classifier(inputs, labels, inputs, n_classes=2, exponent=1)
    assert_close(own, F.one_hot(labels).double(), rtol=0, atol=1e-9)
