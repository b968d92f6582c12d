import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import nn
from torch.testing import assert_close

from lossbook.classification.label_robust_losses import (
    AdaptiveLDRKLLoss,
    adaptive_temperature,
    aldr_kl_loss,
    ldr_kl_loss,
    normalize_scores,
)
from lossbook.models import mlp
from lossbook.training import fit, fit_replicas, replica_seed

TEMPERATURES = [0.01, 0.3, 1, 10, 1e4]
each_temperature = pytest.mark.parametrize("temperature", TEMPERATURES)
each_normalization = pytest.mark.parametrize("normalize", ["softplus", "l1", "none"])


def double(value):
    return torch.tensor(value, dtype=torch.float64)


def batch(n=8, n_classes=5):
    scores = 2 * torch.randn(n, n_classes, dtype=torch.float64)
    return scores, torch.randint(n_classes, (n,))


def differences(row, label, margin):
    return [f - row[label] + (margin if k != label else 0) for k, f in enumerate(row)]


def normalized(row, kind):
    positive = [math.log(1 + math.exp(f)) for f in row] if kind == "softplus" else row
    size = sum(map(abs, positive)) / len(row) if kind != "none" else 1
    return [g / size for g in positive]


# LDR-KL -----------------------------------------------------------------------------------------


@each_normalization
@each_temperature
@pytest.mark.parametrize("margin", [0, 0.1, 2])
def test_the_loss_is_its_formula(temperature, margin, normalize):
    scores, labels = batch()
    found = ldr_kl_loss(
        scores,
        labels,
        temperature=temperature,
        margin=margin,
        normalize=normalize,
        reduction="none",
    )
    for row, label, loss in zip(scores.tolist(), labels.tolist(), found, strict=True):
        d = differences(normalized(row, normalize), label, margin)
        top = max(d)
        mean = math.fsum(math.exp((x - top) / temperature) for x in d) / len(d)
        assert_close(loss, double(top + temperature * math.log(mean)), rtol=1e-7, atol=1e-9)


@each_temperature
def test_the_loss_is_the_worst_case_over_weights(temperature):
    scores, labels = batch()
    loss = ldr_kl_loss(
        scores, labels, temperature=temperature, margin=0.5, normalize="none", reduction="none"
    )
    d = double(
        [differences(*pair, 0.5) for pair in zip(scores.tolist(), labels.tolist(), strict=True)]
    )

    def value(p):
        return (p * d).sum(-1) + temperature * (torch.special.entr(p).sum(-1) - math.log(5))

    assert_close(value((d / temperature).softmax(-1)), loss, rtol=1e-6, atol=1e-9)
    concentrations = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    weights = torch.distributions.Dirichlet(concentrations[:, None].expand(3, 5)).sample((500,))
    assert (value(weights[:, :, None, :]) <= loss + 1e-9).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ends_are_the_hinge_and_the_mean_margin(dtype):
    scores, labels = batch()
    scores = scores.to(dtype)
    own = scores.gather(1, labels[:, None])
    d = scores - own + 0.7 * (labels[:, None] != torch.arange(5))
    knobs = {"margin": 0.7, "normalize": "none", "reduction": "none"}
    cold, hot = (ldr_kl_loss(scores, labels, temperature=t, **knobs) for t in (1e-6, 1e7))
    assert_close(cold, d.amax(1), rtol=1e-5, atol=1e-5)
    assert_close(hot, d.mean(1), rtol=1e-5, atol=1e-5)


def test_the_hinge_is_that_of_crammer_and_singer():
    scores, labels = batch()
    found = ldr_kl_loss(
        scores, labels, temperature=1e-9, margin=1, normalize="none", reduction="none"
    )
    for row, label, loss in zip(scores.tolist(), labels.tolist(), found, strict=True):
        rival = max(f for k, f in enumerate(row) if k != label)
        assert_close(loss, double(max(0, 1 + rival - row[label])))


def test_at_one_it_is_cross_entropy_less_the_logarithm_of_the_number_of_classes():
    scores, labels = batch()
    for reduction in ("mean", "none"):
        expected = F.cross_entropy(scores, labels, reduction=reduction) - math.log(5)
        found = ldr_kl_loss(
            scores, labels, temperature=1, margin=0, normalize="none", reduction=reduction
        )
        assert_close(found, expected)


@each_normalization
def test_the_loss_falls_with_the_temperature(normalize):
    scores, labels = batch()
    losses = torch.stack(
        [
            ldr_kl_loss(scores, labels, temperature=t, normalize=normalize, reduction="none")
            for t in TEMPERATURES
        ]
    )
    assert (losses.diff(dim=0) < 0).all()


def losses_of_all_labels(scores, **knobs):
    """(n, c): the loss of each row for each label that it might have."""
    n, c = scores.shape
    labels = torch.arange(c).repeat(n)
    losses = ldr_kl_loss(scores.repeat_interleave(c, 0), labels, reduction="none", **knobs)
    return losses.reshape(n, c)


@each_normalization
@pytest.mark.parametrize("margin", [0, 0.5])
def test_hot_losses_of_all_labels_add_up_to_the_same_for_any_scores(normalize, margin):
    scores, _ = batch(n=20)
    knobs = {"margin": margin, "normalize": normalize}
    hot, warm = (losses_of_all_labels(scores, temperature=t, **knobs).sum(1) for t in (1e8, 1.0))
    assert_close(hot, torch.full_like(hot, 4 * margin), rtol=0, atol=1e-6)
    assert warm.std() > 0.01


@pytest.mark.parametrize("temperature", [0.1, 1, 10])
@pytest.mark.parametrize("margin", [0, 0.1, 3])
def test_the_best_scores_are_in_the_order_of_the_probabilities(temperature, margin):
    p = double([0.05, 0.5, 0.1, 0.15, 0.2])

    def risk(scores):
        knobs = {"temperature": temperature, "margin": margin, "normalize": "none"}
        scores = torch.from_numpy(scores).requires_grad_()
        value = (p * losses_of_all_labels(scores[None], **knobs)[0]).sum()
        return value.item(), torch.autograd.grad(value, scores)[0].numpy()

    best = minimize(risk, x0=[0.0] * 5, jac=True, options={"gtol": 1e-9}).x
    assert best.argsort().tolist() == p.argsort().tolist()
    if margin == 0:
        expected = temperature * p.log().numpy()
        assert best - best.mean() == pytest.approx(expected - expected.mean(), abs=1e-4)


def test_a_high_temperature_keeps_its_digits_in_single_precision():
    scores, labels = batch(n=50)
    exact = ldr_kl_loss(scores, labels, temperature=1e5, reduction="none")
    found = ldr_kl_loss(scores.float(), labels, temperature=1e5, reduction="none")
    assert_close(found.double(), exact, rtol=1e-4, atol=1e-5)


def test_many_classes_keep_their_digits_in_single_precision():
    scores = torch.zeros(1, 100_000)
    scores[0, 7] = 20.0
    knobs = {"temperature": 1, "margin": 0, "normalize": "none"}
    found = ldr_kl_loss(scores, torch.tensor([3]), **knobs)
    expected = 20 - math.log(100_000) + math.log1p(99_999 * math.exp(-20))
    assert found.item() == pytest.approx(expected, rel=1e-6)


# Normalization ----------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", ["softplus", "l1"])
def test_normalized_scores_have_a_mean_size_of_one(normalize):
    found = normalize_scores(torch.randn(6, 4, dtype=torch.float64), normalize=normalize)
    assert_close(found.abs().mean(1), torch.ones(6, dtype=torch.float64))
    assert (found > 0).all() == (normalize == "softplus")


def test_l1_forgets_the_size_of_the_scores_and_softplus_does_not():
    scores = torch.randn(6, 4)
    assert_close(*(normalize_scores(c * scores, normalize="l1") for c in (1, 30)))
    one, other = (normalize_scores(c * scores, normalize="softplus") for c in (1, 30))
    assert (one - other).abs().max() > 0.1


@given(st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=6))
@settings(max_examples=60, deadline=None)
def test_softplus_neither_underflows_nor_overflows(row):
    found = normalize_scores(double([row]), normalize="softplus")[0]
    logs = [f + math.log1p(math.exp(-f)) if f > 0 else math.log1p(math.exp(f)) for f in row]
    logs = [math.log(g) if g > 1e-13 else f for g, f in zip(logs, row, strict=True)]
    expected = double(logs).softmax(0) * len(row)
    assert_close(found, expected, rtol=1e-8, atol=1e-12)


def test_softplus_is_continuous_where_its_formula_changes():
    scores = torch.tensor([[-30 - 1e-9, -31], [-30 + 1e-9, -31]], dtype=torch.float64)
    assert_close(*normalize_scores(scores, normalize="softplus"), rtol=1e-7, atol=1e-7)


def test_rows_of_zeros_stay_finite():
    scores = torch.zeros(2, 3, requires_grad=True)
    loss = ldr_kl_loss(scores, torch.tensor([0, 1]), normalize="l1")
    (gradient,) = torch.autograd.grad(loss, scores)
    assert loss.isfinite() and gradient.isfinite().all()


# Adaptive temperature ---------------------------------------------------------------------------


@pytest.mark.parametrize("reference", [0.1, 1, 10])
@pytest.mark.parametrize("alpha", [1.05, 2, 10])
def test_the_adaptive_temperature_maximizes_what_it_should(reference, alpha):
    p = torch.distributions.Dirichlet(torch.full((6,), 0.5).double()).sample((50,))
    found = adaptive_temperature(p, reference_temperature=reference, alpha=alpha)
    divergence = math.log(6) - torch.special.entr(p).sum(-1)

    def value(t):
        return -t * divergence - alpha * math.log(6) / (2 * reference) * (t - reference) ** 2

    tried = reference * torch.linspace(0, 1.5, 1501, dtype=torch.float64)[:, None]
    assert (value(found) >= value(tried) - 1e-12).all()
    assert ((found > 0) & (found <= reference)).all()


def test_even_weights_get_the_reference_and_a_certain_class_the_least():
    p = double([[0.25] * 4, [1, 0, 0, 0]])
    found = adaptive_temperature(p, reference_temperature=3, alpha=1.5)
    assert_close(found, double([3, 3 * (1 - 1 / 1.5)]))


def test_a_single_class_gets_the_reference():
    assert adaptive_temperature(torch.ones(2, 1), reference_temperature=3).tolist() == [3, 3]


# ALDR-KL for given temperatures ------------------------------------------------------------------


@each_normalization
def test_at_the_reference_it_is_ldr_kl(normalize):
    scores, labels = batch()
    knobs = {"margin": 0.3, "normalize": normalize, "reduction": "none"}
    found = aldr_kl_loss(
        scores, labels, torch.full((8,), 0.5).double(), reference_temperature=0.5, **knobs
    )
    assert_close(found, ldr_kl_loss(scores, labels, temperature=0.5, **knobs))


def test_other_temperatures_pay_a_penalty():
    scores, labels = batch(n=3)
    temperatures = double([0.2, 0.5, 1.7])
    found = aldr_kl_loss(
        scores, labels, temperatures, reference_temperature=2, alpha=3, reduction="none"
    )
    for i, t in enumerate(temperatures.tolist()):
        own = ldr_kl_loss(scores[[i]], labels[[i]], temperature=t, normalize="l1")
        assert_close(found[i], own - 3 * math.log(5) / 4 * (t - 2) ** 2)


@pytest.mark.parametrize("reference", [0.1, 1, 10])
def test_renewing_the_temperature_climbs_to_the_maximum_over_temperatures(reference):
    """With a margin of 0 the weights of the loss are those of the renewal."""
    scores, labels = batch(n=40)
    module = AdaptiveLDRKLLoss(40)
    losses = [
        module(
            scores,
            labels,
            torch.arange(40),
            reference_temperature=reference,
            margin=0,
            reduction="none",
        )
        for _ in range(200)
    ]
    tried = reference * torch.linspace(0.4, 1, 601, dtype=torch.float64)[:, None].expand(-1, 40)
    best = torch.func.vmap(
        lambda t: aldr_kl_loss(
            scores, labels, t, reference_temperature=reference, margin=0, reduction="none"
        )
    )(tried).amax(0)
    assert (losses[-1] >= losses[0] - 1e-4 * reference).all()
    assert_close(losses[-1], best, rtol=0, atol=1e-3 * reference)


# The module -------------------------------------------------------------------------------------


def official_step(row, label, share, reference, alpha, margin):
    """Loss and new relative temperature of one example, as the authors' code computes them."""
    f = normalized(row, "l1")
    n = len(f)
    exponentials = [math.exp(x / (share * reference)) for x in f]
    p = [e / sum(exponentials) + 1e-5 for e in exponentials]
    p = [q / sum(p) for q in p]
    divergence = sum(q * math.log(n * q) for q in p)
    t = reference - reference * divergence / (alpha * math.log(n))
    mean = sum(math.exp(d / t) for d in differences(f, label, margin)) / n
    penalty = alpha * math.log(n) / (2 * reference) * (t - reference) ** 2
    return t * math.log(mean) - penalty, t / reference


def test_two_calls_follow_the_authors_steps():
    module = AdaptiveLDRKLLoss(6)
    knobs = {"reference_temperature": 0.7, "alpha": 1.3, "margin": 0.2}
    shares = [1.0] * 6
    for index in ([4, 1, 2], [2, 4, 0]):
        scores, labels = batch(n=3)
        found = module(scores, labels, torch.tensor(index), reduction="none", **knobs)
        for i, row, label, loss in zip(index, scores.tolist(), labels.tolist(), found, strict=True):
            expected, shares[i] = official_step(row, label, shares[i], 0.7, 1.3, 0.2)
            assert loss.item() == pytest.approx(expected, abs=1e-5)
    assert module.relative_temperatures.tolist() == pytest.approx(shares, abs=1e-5)
    assert shares[3] == shares[5] == 1


def test_no_gradient_flows_through_the_temperatures():
    scores, labels = batch()
    module, leaf = AdaptiveLDRKLLoss(8), scores.clone().requires_grad_()
    (found,) = torch.autograd.grad(module(leaf, labels, torch.arange(8)), leaf)
    fixed = 10 * module.relative_temperatures.double()
    (expected,) = torch.autograd.grad(aldr_kl_loss(leaf, labels, fixed), leaf)
    assert_close(found, expected)
    assert not module.relative_temperatures.requires_grad


def test_eval_mode_uses_the_temperatures_and_keeps_them():
    scores, labels = batch()
    module = AdaptiveLDRKLLoss(8)
    module(scores, labels, torch.arange(8), reference_temperature=1.0)
    before = module.relative_temperatures.clone()
    found = module.eval()(scores[:3], labels[:3], torch.tensor([5, 6, 7]))
    assert torch.equal(module.relative_temperatures, before)
    assert_close(found, aldr_kl_loss(scores[:3], labels[:3], 10 * before[5:].double()))


def test_the_state_survives_a_round_trip():
    scores, labels = batch()
    module, other = AdaptiveLDRKLLoss(8), AdaptiveLDRKLLoss(8)
    module(scores, labels, torch.arange(8), reference_temperature=0.5)
    other.load_state_dict(module.state_dict())
    assert torch.equal(other.relative_temperatures, module.relative_temperatures)
    assert (other.relative_temperatures < 1).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_scores_are_computed_in_float32(dtype):
    scores, labels = batch()
    losses, states = [], []
    for copy in (scores.to(dtype), scores.to(dtype).float()):
        module = AdaptiveLDRKLLoss(8)
        losses.append(module(copy, labels, torch.arange(8), reference_temperature=1.0))
        states.append(module.relative_temperatures)
    assert_close(*losses)
    assert_close(*states)


@pytest.mark.parametrize(
    "scores",
    [torch.full((2, 3), 1e4), torch.tensor([[1e4, -1e4, 0.0]] * 2), torch.ones(2, 1)],
    ids=["equal", "far apart", "one class"],
)
def test_extreme_scores_leave_loss_and_state_finite(scores):
    for normalize in ("softplus", "l1", "none"):
        module, leaf = AdaptiveLDRKLLoss(2), scores.clone().requires_grad_()
        for _ in range(3):
            loss = module(leaf, torch.tensor([0, 0]), torch.tensor([0, 1]), normalize=normalize)
        (gradient,) = torch.autograd.grad(loss, leaf)
        assert loss.isfinite() and gradient.isfinite().all()
        assert ((module.relative_temperatures > 0.49) & (module.relative_temperatures < 1.01)).all()


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = mlp((4, 8, 3))
        self.loss = AdaptiveLDRKLLoss(30)

    def forward(self, inputs):
        return self.network(inputs)


def training_loss(model, batch, reference_temperature):
    inputs, labels, index = batch
    return model.loss(model(inputs), labels, index, reference_temperature=reference_temperature)


def test_replicas_keep_temperatures_of_their_own():
    data = torch.randn(30, 4), torch.randint(3, (30,)), torch.arange(30)
    options = {"steps": 5, "batch_size": 10, "progress": False}
    references = [0.3, 2.0]
    grid = {"reference_temperature": references}
    together = fit_replicas(Classifier, training_loss, data, seeds=2, grid=grid, **options)
    states = together.buffers["loss.relative_temperatures"]
    assert (states[0] - states[1]).abs().max() > 0.01
    again = fit_replicas(Classifier, training_loss, data, seeds=2, grid=grid, **options)
    assert torch.equal(again.buffers["loss.relative_temperatures"], states)
    for replica, (i, reference) in enumerate((i, t) for i in range(2) for t in references):
        torch.manual_seed(replica_seed(0, i))
        model = Classifier()
        knobs = {"reference_temperature": reference}
        fit(model, training_loss, data, seed=replica_seed(0, i), knobs=knobs, **options)
        assert_close(model.loss.relative_temperatures, states[replica], rtol=1e-4, atol=1e-5)


@pytest.mark.no_typecheck
@pytest.mark.parametrize(
    "bad, message",
    [
        ({"alpha": 1}, "alpha must be above 1, got 1"),
        ({"reference_temperature": 0}, "reference_temperature must be above 0 and below inf"),
        ({"reference_temperature": math.inf}, "reference_temperature must be above 0 and below"),
        ({"margin": -1}, "margin must be at least 0, got -1"),
        ({"normalize": "l2"}, "normalize must be one of 'softplus', 'l1', 'none', got 'l2'"),
        ({"index": torch.arange(3)}, r"index must have shape \(8,\), got \(3,\)"),
        ({"index": torch.zeros(8)}, "index must be integers, got dtype torch.float32"),
        ({"labels": torch.zeros(8)}, "labels must be integers"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused(bad, message):
    scores, labels = batch()
    arguments = {"scores": scores, "labels": labels, "index": torch.arange(8), **bad}
    with pytest.raises(ValueError, match=message):
        AdaptiveLDRKLLoss(8)(**arguments)


def test_a_module_needs_an_example():
    with pytest.raises(ValueError, match="n_examples must be at least 1, got 0"):
        AdaptiveLDRKLLoss(0)


def test_infinite_temperatures_are_refused():
    scores, labels = batch()
    with pytest.raises(ValueError, match="temperature must be above 0 and below inf, got inf"):
        ldr_kl_loss(scores, labels, temperature=math.inf)
