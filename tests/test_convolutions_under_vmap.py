"""Replicas of convolutional networks: as one after the other, whatever their layers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from lossbook.training import fit, fit_replicas, replica_seed
from lossbook.training.images import ReplicasAsChannels, _ByChannel
from lossbook.training.stacking import stack_models, stateful, vmap_replicas

POOLINGS = {
    "max": nn.MaxPool2d(2),
    "max, odd": nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True),
    "max, dilated": nn.MaxPool2d(2, stride=1, dilation=2),
    "mean": nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
    "adaptive mean": nn.AdaptiveAvgPool2d((3, 2)),
    "adaptive max": nn.AdaptiveMaxPool2d(2),
    "none": nn.Identity(),
}


class Network(nn.Module):
    def __init__(self, pooling):
        super().__init__()
        self.first = nn.Conv2d(2, 3, 3, padding="same")
        self.norm = nn.BatchNorm2d(3)
        self.pooling = pooling
        self.second = nn.Conv2d(3, 4, 2, stride=2, dilation=2, bias=False)

    def forward(self, images):
        hidden = self.pooling(F.relu(self.norm(self.first(images))))
        return self.second(F.pad(hidden, (2, 2, 2, 2))).mean((-1, -2))


def replicas(pooling, n=3):
    torch.manual_seed(0)
    models = [Network(pooling).double() for _ in range(n)]
    images = torch.randn(n, 5, 2, 7, 9, dtype=torch.float64)
    return models, images


def shared_and_own(images):
    return {"own images": (images, 0), "shared images": (images[0], None)}.items()


@pytest.mark.parametrize("name", POOLINGS)
def test_values_and_gradients_are_those_of_single_networks(name):
    models, images = replicas(POOLINGS[name])
    for kind, (batch, dim) in shared_and_own(images):
        parameters, buffers = stack_models(models)
        leaves = {name: value.requires_grad_() for name, value in parameters.items()}
        batch = batch.clone().requires_grad_()
        call = stateful(models[0], lambda model, x: model(x).square().sum())
        values, after = vmap_replicas(call, (0, 0, dim))(leaves, buffers, batch)
        gradients = torch.autograd.grad(values.sum(), [*leaves.values(), batch])
        for i, model in enumerate(models):
            own = (batch[i] if dim == 0 else batch).detach().requires_grad_()
            value = model(own).square().sum()
            assert_close(values[i], value, msg=kind)
            expected = torch.autograd.grad(value, [*model.parameters(), own])
            for name, got, want in zip(leaves, gradients, expected[:-1], strict=False):
                assert_close(got[i], want, msg=f"{kind}, {name}")
            if dim == 0:
                assert_close(gradients[-1][i], expected[-1])
            assert_close(after["norm.running_mean"][i], model.norm.running_mean)
            model.norm.reset_running_stats()


def test_gradients_inside_vmap():
    models, images = replicas(POOLINGS["max, odd"])
    parameters, buffers = stack_models([model.eval() for model in models])

    def loss(parameters, buffers, x):
        state = {**parameters, **buffers}
        return torch.func.functional_call(models[0], state, (x,)).square().sum()

    slopes = vmap_replicas(torch.func.grad(loss), (0, 0, 0))(parameters, buffers, images)
    for i, model in enumerate(models):
        expected = torch.autograd.grad(model(images[i]).square().sum(), [*model.parameters()])
        for got, want in zip(slopes.values(), expected, strict=True):
            assert_close(got[i], want)


def test_activations_keep_the_order_of_channels_last():
    seen = []

    def look(x, weight):
        with ReplicasAsChannels():
            hidden = F.max_pool2d(F.relu(F.conv2d(x, weight)), 2)
            _ByChannel.apply(lambda y: seen.append(y) or y.clone(), hidden)
            return hidden.sum()

    torch.func.vmap(look)(torch.randn(3, 5, 2, 8, 8), torch.randn(3, 4, 2, 3, 3))
    assert seen[0].shape == (5, 3 * 4, 3, 3)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


def test_a_small_network_trains_as_in_a_loop():
    torch.manual_seed(0)
    data = torch.randn(40, 1, 8, 8), torch.arange(40) % 3

    def make():
        layers = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)
        return nn.Sequential(*layers)

    def loss(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1])

    settings = {"steps": 20, "batch_size": 10, "progress": False}
    together = fit_replicas(make, loss, data, seeds=3, **settings)
    for i in range(3):
        with torch.random.fork_rng():
            torch.manual_seed(replica_seed(0, i))
            model = make()
        alone = fit(model, loss, data, seed=replica_seed(0, i), **settings)
        own = together.frame[together.frame["replica"] == i]
        assert own["loss"].tolist() == pytest.approx(alone.frame["loss"].tolist(), 1e-4, 1e-5)


def test_gradients_of_a_pooling_outside_vmap():
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)

    def pooled(x):
        with ReplicasAsChannels():
            return F.max_pool2d(x, 2) + F.avg_pool2d(x, 2)

    assert torch.autograd.gradcheck(pooled, x)
    assert torch.autograd.gradgradcheck(lambda x: pooled(x.square()), x)
