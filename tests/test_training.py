import copy
import math
import subprocess
import sys
import time
import warnings
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lossbook.training import StackedOptimizer, fit, fit_replicas, replica_seed
from lossbook.training.batches import batch_generator, shuffled_indices
from lossbook.training.fitting_replicas import LOOK_EVERY
from lossbook.training.optimizers import clip_per_replica

X = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
Y = X[:, :3].argmax(1)


def mlp():
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


def normalized_mlp():
    # No bias before the normalization: its gradient is zero but for rounding, which Adam inflates.
    return nn.Sequential(nn.Linear(5, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def dropout_mlp():
    return nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.Linear(8, 3))


def cross_entropy(model, batch, temperature=1.0):
    inputs, labels = batch
    return F.cross_entropy(model(inputs) / temperature, labels)


def accuracy(model):
    return {"accuracy": (model(X).argmax(1) == Y).float().mean()}


def made(make_model, seed):
    """The model that fit_replicas starts from."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return make_model()


def curves(history):
    """Losses, shape (R, steps)."""
    return history.frame["loss"].to_numpy().reshape(len(history), -1)


# Low precision


def precision_seen(model, batch):
    """A loss that is 1 where matrix products are in bfloat16, and still has a gradient."""
    products = batch[0] @ batch[0].mT
    return model(batch[0]).sum() * 0 + float(products.dtype == torch.bfloat16)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_precision_is_that_of_model_and_loss_alone(precision):
    dtypes = []

    def score(model):
        dtypes.append(model(X).dtype)
        return {"score": torch.tensor(0.0)}

    settings = dict(steps=2, precision=precision, evaluate=score, progress=False)
    alone = fit(mlp(), precision_seen, (X, Y), **settings)
    together = fit_replicas(mlp, precision_seen, (X, Y), seeds=2, **settings)
    for history in (alone, together):
        assert (history.frame["loss"] == (precision == "bfloat16")).all()
        assert all(p.dtype == torch.float32 for p in history.parameters.values())
    assert set(dtypes) == {torch.float32}


def test_low_precision_learns_much_the_same():
    def last(precision):
        settings = dict(seeds=3, steps=200, learning_rate=0.01, progress=False)
        history = fit_replicas(mlp, cross_entropy, (X, Y), precision=precision, **settings)
        return history.final["loss"]

    assert last("bfloat16").tolist() == pytest.approx(last("float32").tolist(), rel=0.2)


def test_an_unknown_precision_is_named():
    message = "precision must be one of 'float32', 'bfloat16', got 'float16'"
    for train in (lambda **k: fit(mlp(), **k), lambda **k: fit_replicas(mlp, **k)):
        with pytest.raises(ValueError, match=message):
            train(loss=cross_entropy, data=(X, Y), steps=1, precision="float16", progress=False)


# Replicas agree with a loop of fit


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("make_model", [mlp, normalized_mlp])
@pytest.mark.parametrize("batch_size", [None, 16])
def test_replicas_agree_with_fit(optimizer, make_model, batch_size):
    options = {
        "steps": 15,
        "batch_size": batch_size,
        "optimizer": optimizer,
        "clip_norm": 0.5,
        "evaluate": accuracy,
        "every": 5,
    }
    grid = {"temperature": [0.5, 2.0], "learning_rate": [0.01, 0.1], "weight_decay": [0.0, 0.1]}
    history = fit_replicas(make_model, cross_entropy, (X, Y), seeds=2, seed=4, grid=grid, **options)
    assert len(history) == 16
    for replica in history.replicas.itertuples():
        seed = replica_seed(4, replica.seed)
        model = made(make_model, seed)
        alone = fit(
            model,
            cross_entropy,
            (X, Y),
            seed=seed,
            knobs={"temperature": replica.temperature},
            learning_rate=replica.learning_rate,
            weight_decay=replica.weight_decay,
            **options,
        )
        rows = history.frame[history.frame.replica == replica.replica]
        np.testing.assert_allclose(rows["loss"], alone.frame["loss"], rtol=2e-4, atol=2e-5)
        np.testing.assert_array_equal(rows["accuracy"].isna(), alone.frame["accuracy"].isna())
        np.testing.assert_allclose(rows["accuracy"], alone.frame["accuracy"], atol=0.02)
        for name, tensor in model.state_dict().items():
            stacked = (history.parameters | history.buffers)[name][replica.replica]
            torch.testing.assert_close(stacked, tensor, rtol=2e-3, atol=2e-4)


def test_sixteen_mlps_on_the_digits_agree_with_a_loop_to_four_digits():
    from sklearn.datasets import load_digits

    digits = load_digits()
    data = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)

    def make_model():
        return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    options = {"steps": 40, "batch_size": 64}
    together = curves(fit_replicas(make_model, cross_entropy, data, seeds=16, **options))
    seeds = [replica_seed(0, i) for i in range(16)]
    alone = [
        curves(fit(made(make_model, seed), cross_entropy, data, seed=seed, **options))[0]
        for seed in seeds
    ]
    np.testing.assert_allclose(together, alone, rtol=1e-4)


def test_dict_batches_and_single_tensors():
    def loss(model, batch):
        return F.cross_entropy(model(batch["inputs"]), batch["labels"])

    options = {"seeds": 2, "steps": 3, "batch_size": 8}
    named = fit_replicas(mlp, loss, {"inputs": X, "labels": Y}, **options)
    assert np.array_equal(
        curves(named), curves(fit_replicas(mlp, cross_entropy, (X, Y), **options))
    )
    history = fit_replicas(mlp, lambda model, x: model(x).square().mean(), X, **options)
    assert len(history.frame) == 6


@pytest.mark.parametrize("batch_size", [None, 16])
def test_one_dataset_per_seed(batch_size):
    noisy = torch.randint(3, (64,), generator=torch.Generator().manual_seed(1))
    options = {"steps": 5, "batch_size": batch_size}
    grid = {"temperature": [1.0, 2.0]}
    both = fit_replicas(mlp, cross_entropy, [(X, Y), (X, noisy)], seeds=2, grid=grid, **options)
    for i, labels in enumerate((Y, noisy)):
        seed = replica_seed(0, i)
        alone = fit(made(mlp, seed), cross_entropy, (X, labels), seed=seed, **options)
        np.testing.assert_allclose(curves(both)[2 * i], curves(alone)[0], rtol=1e-4)


def test_datasets_of_different_sizes():
    small, large = (X[:20], Y[:20]), (X, Y)
    history = fit_replicas(mlp, cross_entropy, [small, large], seeds=2, steps=3, batch_size=8)
    assert len(history.frame) == 6
    with pytest.raises(ValueError, match="same shapes when batch_size is None"):
        fit_replicas(mlp, cross_entropy, [small, large], seeds=2, steps=3)


@pytest.mark.parametrize("per_seed", [False, True])
def test_sampled_batches(per_seed):
    def sample(generator):
        inputs = torch.randn(16, 5, generator=generator)
        return inputs, inputs[:, :3].argmax(1)

    data = [sample, sample] if per_seed else sample
    history = fit_replicas(mlp, cross_entropy, data, seeds=2, steps=4, grid={"temperature": [1, 2]})
    seed = replica_seed(0, 1)
    alone = fit(made(mlp, seed), cross_entropy, sample, seed=seed, steps=4)
    np.testing.assert_allclose(curves(history)[2], curves(alone)[0], rtol=1e-4)


# Held-out data


def held_out_accuracy(model, batch):
    inputs, labels = batch
    return {"accuracy": (model(inputs).argmax(1) == labels).float().mean()}


def test_each_replica_is_scored_on_its_own_seeds_held_out_data():
    held_out = [(X[:20], Y[:20]), (X[20:40], Y[20:40]), (X[40:60], Y[40:60])]
    history = fit_replicas(
        mlp,
        cross_entropy,
        (X, Y),
        seeds=3,
        grid={"temperature": [1.0, 0.5]},
        steps=6,
        evaluate=held_out_accuracy,
        held_out=held_out,
        every=3,
    )
    for replica, row in enumerate(history.final.itertuples()):
        expected = held_out_accuracy(history.model(replica), held_out[row.seed])["accuracy"]
        assert row.accuracy == pytest.approx(expected.item())
    assert history.frame["accuracy"].notna().sum() == 2 * len(history)


def test_one_held_out_batch_serves_all_seeds_and_fit_alike():
    settings = dict(steps=4, evaluate=held_out_accuracy, held_out=(X[:30], Y[:30]))
    history = fit_replicas(mlp, cross_entropy, (X, Y), seeds=2, **settings)
    for i, row in enumerate(history.final.itertuples()):
        alone = made(mlp, replica_seed(0, i))
        single = fit(alone, cross_entropy, (X, Y), seed=replica_seed(0, i), **settings)
        assert row.accuracy == pytest.approx(single.final["accuracy"].item())


@pytest.mark.no_typecheck
@pytest.mark.parametrize(
    "held_out, message",
    [
        ([(X, Y)], "held_out must have one entry for each of 2 seeds, got 1"),
        ([(X, Y), (X[:9], Y[:9])], "held_out of different seeds must have the same shapes, got"),
        ((X, 3), "held_out must hold tensors with a first dimension, got 3"),
        (
            lambda generator: (X, Y),
            "held_out must be a tensor, a tuple or dict of tensors, got func",
        ),
    ],
)
def test_held_out_data_that_do_not_fit_are_refused(held_out, message):
    with pytest.raises(ValueError, match=message):
        fit_replicas(
            mlp,
            cross_entropy,
            (X, Y),
            seeds=2,
            steps=1,
            evaluate=held_out_accuracy,
            held_out=held_out,
        )


def test_held_out_data_without_evaluate_are_refused():
    with pytest.raises(ValueError, match="held_out needs evaluate"):
        fit(mlp(), cross_entropy, (X, Y), steps=1, held_out=(X, Y))


# Pairing, batches and randomness


def test_replicas_of_a_seed_are_paired():
    history = fit_replicas(
        mlp, cross_entropy, (X, Y), seeds=2, grid={"temperature": [1.0, 1.0]}, steps=5, batch_size=8
    )
    losses = curves(history)
    assert np.array_equal(losses[0], losses[1]) and np.array_equal(losses[2], losses[3])
    assert not np.array_equal(losses[0], losses[2])
    assert history.replicas["seed"].tolist() == [0, 0, 1, 1]


def test_runs_with_other_seeds_share_none():
    seeds = {replica_seed(seed, i) for seed in range(50) for i in range(50)}
    assert len(seeds) == 2500


@settings(deadline=None, max_examples=25)
@given(n=st.integers(1, 30), batch_size=st.integers(1, 30), epochs=st.integers(1, 3))
def test_minibatches_cover_each_epoch_without_replacement(n, batch_size, epochs):
    if batch_size > n:
        return
    batches = shuffled_indices(n, batch_size, torch.Generator().manual_seed(0))
    for _ in range(epochs):
        epoch = torch.cat([next(batches) for _ in range(n // batch_size)])
        assert len(set(epoch.tolist())) == len(epoch) == n // batch_size * batch_size
        assert 0 <= epoch.min() and epoch.max() < n


def test_the_same_seed_gives_the_same_result_and_leaves_the_global_state():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    grid = {"temperature": [1.0, 2.0]}
    options = {"seeds": 2, "steps": 5, "batch_size": 16}
    first = fit_replicas(dropout_mlp, cross_entropy, (X, Y), grid=grid, **options)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again = fit_replicas(dropout_mlp, cross_entropy, (X, Y), grid=grid, **options)
    other = fit_replicas(dropout_mlp, cross_entropy, (X, Y), grid=grid, seed=1, **options)
    assert np.array_equal(curves(first), curves(again))
    assert not np.array_equal(curves(first), curves(other))

    model = made(dropout_mlp, 0)
    torch.manual_seed(1)
    alone = [fit(copy.deepcopy(model), cross_entropy, (X, Y), steps=5) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(curves(alone[0]), curves(alone[1]))


def test_sampled_data_do_not_repeat_the_initial_weights():
    seed = replica_seed(0, 0)
    weights = made(lambda: nn.ParameterList([nn.Parameter(torch.randn(64))]), seed)[0]
    data = torch.randn(64, generator=batch_generator(seed))
    assert abs(np.corrcoef(weights.detach(), data)[0, 1]) < 0.5


def test_dropout_differs_between_replicas_and_is_off_in_evaluation():
    grid = {"temperature": [1.0, 1.0]}
    history = fit_replicas(
        dropout_mlp, cross_entropy, (X, Y), seeds=1, grid=grid, steps=3, evaluate=accuracy
    )
    assert curves(history)[0, 0] != curves(history)[1, 0]
    outputs = history.forward(X)
    assert torch.equal(outputs, history.forward(X))
    expected = (outputs.argmax(2) == Y).double().mean(1)
    np.testing.assert_allclose(history.final["accuracy"], expected, atol=1e-6)


# What the model may be


def test_batch_norm_buffers_are_trained_per_replica():
    history = fit_replicas(normalized_mlp, cross_entropy, (X, Y), seeds=3, steps=7)
    assert history.buffers["1.num_batches_tracked"].tolist() == [7, 7, 7]
    means = history.buffers["1.running_mean"]
    assert means.shape == (3, 8) and not torch.equal(means[0], means[1])
    assert history.model(1)[1].running_mean.equal(means[1])


def test_two_views_of_a_batch_normalized_model():
    def loss(model, batch):
        return (model(batch) - model(-batch)).square().mean()

    history = fit_replicas(normalized_mlp, loss, X, seeds=2, steps=4)
    seed = replica_seed(0, 1)
    model = made(normalized_mlp, seed)
    np.testing.assert_allclose(
        curves(history)[1], curves(fit(model, loss, X, seed=seed, steps=4))[0], rtol=1e-4
    )
    assert history.buffers["1.num_batches_tracked"].tolist() == [8, 8]


class Teacher(nn.Module):
    """Replaces a buffer, holds a frozen and a tied parameter, and has parts to call."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(5, 5)
        self.head = nn.Linear(5, 5)
        self.head.weight = self.encoder.weight
        self.frozen = nn.Parameter(torch.randn(5), requires_grad=False)
        self.unused = nn.Parameter(torch.ones(2))
        self.register_buffer("average", torch.zeros(5))

    def forward(self, x):
        h = self.encoder(x) + self.frozen
        if self.training:
            self.average = 0.9 * self.average + 0.1 * h.detach().mean(0)
        return self.head(h)


def test_parts_of_a_model_and_replaced_buffers():
    def loss(model, batch):
        penalty = sum(p.square().sum() for p in (model.encoder.weight, model.head.bias))
        return (model(batch) - model.encoder(batch)).square().mean() + 0.01 * penalty

    options = {"steps": 6, "weight_decay": 0.1}
    history = fit_replicas(Teacher, loss, X, seeds=2, **options)
    seed = replica_seed(0, 1)
    model = made(Teacher, seed)
    frozen = model.frozen.clone()
    fit(model, loss, X, seed=seed, **options)
    for name, tensor in {**dict(model.named_parameters()), "average": model.average}.items():
        stacked = (history.parameters | history.buffers)[name][1]
        torch.testing.assert_close(stacked, tensor.detach(), rtol=1e-4, atol=1e-5)
    assert history.parameters["frozen"][1].equal(frozen)
    assert history.parameters["unused"].equal(torch.ones(2, 2))
    assert history.model(1).head.weight is history.model(1).encoder.weight or torch.equal(
        history.model(1).head.weight, history.model(1).encoder.weight
    )


def test_adversarial_training_takes_gradients_inside_the_loss():
    def loss(model, batch, radius):
        inputs, labels = batch

        def attacked(delta):
            return F.cross_entropy(model(inputs + delta), labels)

        delta = radius * torch.func.grad(attacked)(torch.zeros_like(inputs)).sign()
        return attacked(delta)

    grid = {"radius": [0.0, 0.3]}
    history = fit_replicas(mlp, loss, (X, Y), seeds=2, grid=grid, steps=5)
    losses = curves(history)
    np.testing.assert_allclose(losses[0], curves(fit_clean(0))[0], rtol=1e-4)
    assert (losses[1] > losses[0]).all()
    seed = replica_seed(0, 1)
    alone = fit(made(mlp, seed), loss, (X, Y), seed=seed, steps=5, knobs={"radius": 0.3})
    np.testing.assert_allclose(losses[3], curves(alone)[0], rtol=1e-4)


def fit_clean(i):
    seed = replica_seed(0, i)
    return fit(made(mlp, seed), cross_entropy, (X, Y), seed=seed, steps=5)


# The optimizer


@pytest.mark.parametrize("name", ["adam", "sgd"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_stacked_optimizer_agrees_with_torch(name, shape):
    rates, decays = [0.1, 0.01], [0.0, 0.3]
    start = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    stacked = start.clone()
    ours = StackedOptimizer(
        [stacked], name, torch.tensor(rates).double(), torch.tensor(decays).double(), momentum=0.8
    )
    single = [nn.Parameter(row.clone()) for row in start]
    make = {
        "adam": lambda p, lr, wd: torch.optim.AdamW([p], lr=lr, weight_decay=wd),
        "sgd": lambda p, lr, wd: torch.optim.SGD([p], lr=lr, weight_decay=wd, momentum=0.8),
    }[name]
    theirs = [make(*each) for each in zip(single, rates, decays, strict=True)]
    everyone = torch.ones(2, dtype=torch.bool)
    for step in range(20):
        gradient = torch.sin(start * step + stacked)
        ours.step([gradient], everyone)
        for parameter, optimizer, row in zip(single, theirs, gradient, strict=True):
            parameter.grad = row.clone()
            optimizer.step()
    torch.testing.assert_close(
        stacked, torch.stack([p.detach() for p in single]), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_parameters_of_many_shapes_some_without_a_gradient_some_of_the_time(name):
    torch.manual_seed(1)
    shapes, dtypes = [(3, 2), (4,), (), (2, 2)], [torch.float64] * 3 + [torch.float32]
    stacked = [torch.randn(2, *s, dtype=d) for s, d in zip(shapes, dtypes, strict=True)]
    rates, decays = torch.tensor([0.01, 0.1]).double(), torch.tensor([0.1, 0.0]).double()
    ours = StackedOptimizer(stacked, name, rates, decays)
    make = {"adam": torch.optim.AdamW, "sgd": partial(torch.optim.SGD, momentum=0.9)}[name]
    single = [[nn.Parameter(p[r].clone()) for p in stacked] for r in range(2)]
    theirs = [
        make(p, lr=rates[r].item(), weight_decay=decays[r].item()) for r, p in enumerate(single)
    ]
    for step in range(12):
        gradients = [torch.sin(p * step + 1) for p in stacked]
        absent = [3] if step < 4 else [0, 2] if step % 3 == 0 else []
        for i in absent:
            gradients[i] = None
        ours.step(gradients, torch.ones(2, dtype=torch.bool))
        for r, (parameters, optimizer) in enumerate(zip(single, theirs, strict=True)):
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = None if gradient is None else gradient[r].clone()
            optimizer.step()
    for i, parameter in enumerate(stacked):
        expected = torch.stack([parameters[i].detach() for parameters in single])
        torch.testing.assert_close(parameter, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_inactive_replicas_and_their_moments_stay(name):
    stacked = torch.ones(2, 3)
    optimizer = StackedOptimizer([stacked], name, torch.full((2,), 0.1), torch.full((2,), 0.1))
    optimizer.step([torch.ones(2, 3)], torch.tensor([True, True]))
    before = [tensor[1].clone() for tensor in (stacked, *optimizer.moments[0])]
    first = stacked[0].clone()
    gradient = torch.tensor([[1.0] * 3, [math.nan, math.inf, 1.0]])
    optimizer.step([gradient], torch.tensor([True, False]))
    after = [tensor[1] for tensor in (stacked, *optimizer.moments[0])]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    assert not torch.equal(stacked[0], first) and torch.isfinite(stacked).all()


def test_clipping_is_per_replica():
    gradients = [torch.tensor([[3.0], [0.3]]), None, torch.tensor([[4.0], [0.4]])]
    clipped = clip_per_replica(gradients, 1.0)
    torch.testing.assert_close(clipped[0], torch.tensor([[0.6], [0.3]]))
    torch.testing.assert_close(clipped[2], torch.tensor([[0.8], [0.4]]))
    assert clipped[1] is None


def test_fit_takes_a_torch_optimizer():
    made_with = []

    def optimizer(parameters):
        made_with.extend(parameters)
        return torch.optim.Adagrad(made_with, lr=0.1)

    history = fit(mlp(), cross_entropy, (X, Y), steps=30, optimizer=optimizer)
    assert len(made_with) == 4
    assert curves(history)[0, -1] < curves(history)[0, 0]


# Replicas and runs that end early


def unstable(model, batch, explode_at=0.0):
    """Cross-entropy that turns infinite for replicas whose step counter reaches explode_at."""
    inputs, labels = batch
    model.count += 1
    value = F.cross_entropy(model(inputs), labels)
    return value + torch.where(model.count == explode_at, torch.inf, 0.0)


class Counting(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(5, 8, bias=False), nn.BatchNorm1d(8), nn.Linear(8, 3))
        self.register_buffer("count", torch.zeros(()))


def test_a_diverged_replica_freezes_alone():
    grid = {"explode_at": [0.0, 4.0]}
    with pytest.warns(RuntimeWarning, match="1 of 2 replicas stopped: loss is inf at step 4"):
        history = fit_replicas(
            Counting, unstable, (X, Y), seeds=1, grid=grid, steps=30, evaluate=accuracy, every=2
        )
    assert history.replicas["stopped_at"].isna().tolist() == [True, False]
    assert history.replicas["stopped_at"][1] == 4
    assert history.replicas["reason"][1] == "loss is inf at step 4 (seed=0, explode_at=4.0)"
    assert history.frame.groupby("replica").size().tolist() == [30, 4]
    assert history.final["step"].tolist() == [30, 4]
    assert history.final["accuracy"].isna().tolist() == [False, True]

    seed = replica_seed(0, 0)
    model = made(Counting, seed)
    fit(model, unstable, (X, Y), seed=seed, steps=3)
    state = history.parameters | history.buffers
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(state[name][1], tensor, rtol=1e-4, atol=1e-5)
    healthy = made(Counting, seed)
    fit(healthy, unstable, (X, Y), seed=seed, steps=30)
    torch.testing.assert_close(
        state["0.weight"][0], healthy[0].weight.detach(), rtol=1e-3, atol=1e-4
    )


@pytest.mark.no_typecheck
def test_one_warning_points_at_the_caller():
    with pytest.warns(RuntimeWarning) as caught:
        fit_replicas(mlp, lambda model, x: model(x).mean() / 0.0, X, seeds=5, steps=2)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert str(caught[0].message).count("\n") == 0
    assert str(caught[0].message).endswith("; and 2 more")


def test_a_gradient_that_is_not_finite_stops_too():
    def loss(model, batch, shift):
        # At a shift of 0 the root's value is finite, its slope is not.
        return (model(batch).square().mean() * 0 + shift).sqrt()

    with pytest.warns(RuntimeWarning, match="gradient at loss 0 is not finite at step 1"):
        history = fit_replicas(
            mlp, plus_zero(loss), X, seeds=1, grid={"shift": [0.0, 1.0]}, steps=3
        )
    assert history.replicas["stopped_at"][0] == 1
    assert torch.isfinite(history.parameters["0.weight"]).all()
    with pytest.raises(FloatingPointError, match="gradient at loss 0 is not finite at step 1"):
        fit(mlp(), plus_zero(loss), X, steps=3, knobs={"shift": 0.0})


def plus_zero(loss):
    """Give plain numbers (the trial call) and tensors the same path."""
    return lambda model, batch, shift: loss(model, batch, torch.as_tensor(shift))


def test_training_stops_when_no_replica_is_left():
    calls = []

    def loss(model, batch):
        calls.append(1)
        return model(batch).mean() / 0.0

    with pytest.warns(RuntimeWarning, match="2 of 2 replicas stopped"):
        history = fit_replicas(mlp, loss, X, seeds=2, steps=10_000)
    assert len(calls) <= 2 * LOOK_EVERY
    assert len(history.frame) == 2


def test_fit_raises_with_what_was_recorded():
    model = made(Counting, 0)
    with pytest.raises(FloatingPointError) as caught:
        fit(model, unstable, (X, Y), steps=10, knobs={"explode_at": 4}, learning_rate=0.01)
    assert str(caught.value) == ("loss is inf at step 4 (seed=0, explode_at=4, learning_rate=0.01)")
    history = caught.value.history
    assert history.frame["step"].tolist() == [1, 2, 3, 4]
    assert history.replicas["stopped_at"].tolist() == [4]
    assert torch.isfinite(model[0].weight).all()


def interrupted_at(step):
    calls = []

    def loss(model, batch):
        calls.append(1)
        if len(calls) == step:
            raise KeyboardInterrupt
        return cross_entropy(model, batch)

    return loss


def test_an_interrupt_returns_what_there_is():
    history = fit(mlp(), interrupted_at(4), (X, Y), steps=10, evaluate=accuracy, every=2)
    assert history.interrupted
    assert history.frame["step"].tolist() == [1, 2, 3]
    assert history.frame["accuracy"].isna().tolist() == [True, False, True]
    # One call more: the trial with plain numbers.
    history = fit_replicas(mlp, interrupted_at(5), (X, Y), seeds=2, steps=10)
    assert history.interrupted
    assert history.frame["step"].tolist() == [1, 2, 3, 1, 2, 3]
    history = fit(mlp(), interrupted_at(1), (X, Y), steps=10)
    assert history.interrupted and history.frame.empty and len(history) == 1


# History


def test_history_columns_are_plain():
    grid = {"temperature": [1, 2], "learning_rate": [0.1]}
    history = fit_replicas(
        mlp, cross_entropy, (X, Y), seeds=2, grid=grid, steps=5, evaluate=accuracy, every=2
    )
    assert list(history.frame) == [
        "replica",
        "seed",
        "temperature",
        "learning_rate",
        "step",
        "loss",
        "accuracy",
    ]
    assert history.frame.index.tolist() == list(range(20))
    assert history.frame["accuracy"].notna().tolist() == [False, True, False, True, True] * 4
    assert list(history.replicas) == [
        "replica",
        "seed",
        "temperature",
        "learning_rate",
        "stopped_at",
        "reason",
    ]
    assert not history.interrupted
    assert (history.final["step"] == 5).all() and len(history.final) == 4


def test_forward_and_model():
    history = fit_replicas(normalized_mlp, cross_entropy, (X, Y), seeds=3, steps=3)
    outputs = history.forward(X)
    assert outputs.shape == (3, 64, 3) and not outputs.requires_grad
    model = history.model(2)
    torch.testing.assert_close(outputs[2], model(X).detach(), rtol=1e-4, atol=1e-5)
    own = history.forward(torch.stack([X, -X, 2 * X]), per_replica=True)
    torch.testing.assert_close(own[2], model(2 * X).detach(), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        model[0].weight.zero_()
    torch.testing.assert_close(history.forward(X), outputs)
    with pytest.raises(ValueError, match="first dimension of 3 replicas"):
        history.forward(X, per_replica=True)
    with pytest.raises(ValueError, match="replica must be less than 3, got 3"):
        history.model(3)


def test_the_history_of_fit_is_a_snapshot():
    def branching(model, batch):
        return cross_entropy(model, batch) * (2.0 if batch[0].sum() > 0 else 1.0)

    model = mlp()
    history = fit(model, branching, (X, Y), steps=3, batch_size=8, knobs=None)
    assert not model.training and all(p.grad is None for p in model.parameters())
    outputs = history.forward(X)
    torch.testing.assert_close(outputs[0], model(X).detach())
    assert torch.equal(history.forward(X[None], per_replica=True), outputs)
    with torch.no_grad():
        model[0].weight.zero_()
    torch.testing.assert_close(history.model(0)(X), outputs[0])


def test_a_model_with_several_inputs_and_outputs():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 2)

        def forward(self, first, second):
            return {"sum": self.layer(first + second), "difference": self.layer(first - second)}

    def loss(model, batch):
        return model(*batch)["sum"].square().mean()

    for history in (
        fit_replicas(Pair, loss, (X, -2 * X), seeds=2, steps=2),
        fit(Pair(), loss, (X, -2 * X), steps=2),
    ):
        assert history.forward((X, X))["difference"].shape == (len(history), 64, 2)


def test_a_history_at_the_end_of_a_cell_is_one_line():
    assert repr(fit(mlp(), cross_entropy, (X, Y), steps=2)) == "<History: 1 replica, 2 steps>"
    history = fit_replicas(mlp, cross_entropy, (X, Y), seeds=2, steps=3)
    assert repr(history) == "<History: 2 replicas, 3 steps>"
    history = fit(mlp(), interrupted_at(1), (X, Y), steps=2)
    assert repr(history) == "<History: 1 replica, 0 steps, interrupted>"


def test_knobs_of_fit():
    def loss(model, batch, weight, table, mode):
        return cross_entropy(model, batch) * weight + table.sum()

    knobs = {"weight": torch.tensor(0.5), "table": torch.ones(3), "mode": "plain"}
    history = fit(mlp(), loss, (X, Y), steps=2, knobs=knobs, evaluate=lambda model: {"one": 1})
    assert history.replicas.loc[0, "weight"] == 0.5
    assert history.replicas.loc[0, "mode"] == "plain"
    assert "table" not in history.frame
    assert history.final["one"].tolist() == [1.0]


# Bad arguments


def refuse_zero(model, batch, temperature):
    if not isinstance(temperature, torch.Tensor) and temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    return cross_entropy(model, batch, temperature)


@pytest.mark.no_typecheck
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"every": 0}, "every must be at least 1, got 0"),
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"batch_size": 65}, "batch_size must be between 1 and the 64 samples of data, got 65"),
        ({"batch_size": 0}, "batch_size must be between 1 and"),
        ({"learning_rate": 0.0}, "learning_rate must be positive, got 0.0"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0, got -0.1"),
        ({"grid": {"learning_rate": [0.1, -1]}}, "learning_rate must be positive, got -1"),
        ({"clip_norm": 0}, "clip_norm must be positive, got 0"),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1, got 1.0"),
        ({"optimizer": "lion"}, "optimizer must be one of 'adam', 'sgd', got 'lion'"),
        ({"grid": {"temperature": [0.1, -1]}}, "temperature must be positive, got -1"),
        ({"grid": {"temperature": []}}, r"grid\['temperature'\] must have at least one value"),
        ({"grid": {"temperature": 0.1}}, r"grid\['temperature'\] must be a list of numbers"),
        (
            {"grid": {"mode": ["a", "b"]}},
            r"grid\['mode'\] must hold numbers, got 'a'; loop outside",
        ),
        ({"grid": {"flag": [True]}}, r"grid\['flag'\] must hold numbers, got True"),
        ({"grid": {"seed": [1]}}, "grid must not have a knob called 'seed'"),
        ({"data": (X[:0], Y[:0])}, "data must not be empty"),
        ({"data": ()}, "data must not be empty"),
        ({"data": (X, Y[:5])}, r"tensors in data must have one first dimension, got \[5, 64\]"),
        ({"data": (X, 3)}, "data must hold tensors with a first dimension, got 3"),
        ({"data": "digits"}, "data must be a tensor, a tuple or dict of tensors, or a function"),
        ({"data": [(X, Y)]}, "data must have one entry for each of 2 seeds, got 1"),
        ({"data": [(X, Y), (X, Y[:3])]}, r"tensors in data\[1\] must have one first dimension"),
        ({"data": lambda generator: (X, Y), "batch_size": 4}, "batch_size must be None when"),
        ({"data": lambda generator: [X, Y]}, "expected a tensor, or a tuple or dict of tensors"),
        ({"data": [(X, Y), lambda generator: (X, Y)]}, "either tensors for every seed or"),
        ({"make_model": lambda: None}, "make_model must return a torch.nn.Module, got NoneType"),
        ({"make_model": nn.Identity}, "must return a model with parameters that require gradients"),
        ({"loss": lambda model, batch, **knobs: model(batch[0])}, "loss must return a scalar"),
        (
            {"evaluate": lambda model: {"margins": model(X)}},
            "evaluate must return scalars, got shape .* for 'margins'",
        ),
        (
            {"evaluate": lambda model: {"loss": 0.0}},
            r"evaluate must not return the names \['loss'\]",
        ),
    ],
)
def test_bad_arguments_are_named(changes, message):
    arguments = {
        "make_model": mlp,
        "loss": refuse_zero,
        "data": (X, Y),
        "seeds": 2,
        "steps": 2,
        "grid": {"temperature": [1.0]},
    }
    with pytest.raises(ValueError, match=message):
        fit_replicas(**(arguments | changes))


@pytest.mark.no_typecheck
def test_fit_names_bad_arguments():
    for changes, message in (
        ({"steps": 0}, "steps must be at least 1"),
        ({"batch_size": 65}, "batch_size must be between 1 and"),
        ({"data": [(X, Y)]}, "data must be a tensor, a tuple or dict"),
        ({"optimizer": "lion"}, "optimizer must be one of"),
    ):
        arguments = {"data": (X, Y), "steps": 2} | changes
        with pytest.raises(ValueError, match=message):
            fit(mlp(), cross_entropy, **arguments)


def test_what_vmap_cannot_do_is_explained():
    def loss(model, batch):
        value = cross_entropy(model, batch)
        return value if value.item() > 0 else -value

    with pytest.raises(RuntimeError) as caught:
        fit_replicas(mlp, loss, (X, Y), seeds=2, steps=2)
    assert "torch.func.vmap" in caught.value.__notes__[0]


def test_the_trial_of_the_grid_leaves_the_models_alone():
    history = fit_replicas(
        Counting, unstable, (X, Y), seeds=1, grid={"explode_at": [-1, -2, -3]}, steps=2
    )
    assert history.buffers["count"].tolist() == [2.0, 2.0, 2.0]
    assert history.buffers["1.num_batches_tracked"].tolist() == [2, 2, 2]


# Progress


def test_no_progress_in_files_and_pipes(capfd):
    fit(mlp(), cross_entropy, (X, Y), steps=3)
    fit_replicas(mlp, cross_entropy, (X, Y), seeds=2, steps=3)
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def kernel(monkeypatch):
    """A kernel in which every step takes a second; lists the bundles that it displays."""
    bundles = []
    handle = SimpleNamespace(update=lambda bundle, raw: bundles.append(bundle))

    def display(bundle, raw, display_id):
        bundles.append(bundle)
        return handle

    clock = iter(range(1000))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    monkeypatch.setitem(
        sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=1))
    )
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    monkeypatch.delenv("LOSSBOOK_PROGRESS", raising=False)
    return bundles


def test_the_bar_in_a_notebook_is_blanked_at_the_end(kernel):
    fit(mlp(), cross_entropy, (X, Y), steps=9)
    assert "<progress" in kernel[0]["text/html"]
    assert kernel[-1] == {"text/html": "", "text/plain": ""}


@pytest.mark.parametrize("quiet", ["argument", "environment"])
def test_the_bar_can_be_turned_off(kernel, monkeypatch, quiet):
    if quiet == "environment":
        monkeypatch.setenv("LOSSBOOK_PROGRESS", "0")
    fit(mlp(), cross_entropy, (X, Y), steps=9, progress=quiet == "environment")
    assert kernel == []


def test_importing_training_stays_light():
    heavy = "{'pandas', 'scipy', 'IPython', 'matplotlib', 'sklearn', 'ipywidgets'}"
    code = (
        "import sys; import lossbook.training, lossbook.settings, lossbook.claims; "
        f"sys.exit(str({heavy} & set(sys.modules)) if {heavy} & set(sys.modules) else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_no_warnings_in_a_healthy_run():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_replicas(
            normalized_mlp, cross_entropy, (X, Y), seeds=2, steps=2, weight_decay=0.1, clip_norm=1.0
        )
        fit(normalized_mlp(), cross_entropy, (X, Y), steps=2)
