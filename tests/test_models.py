import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lossbook.models import ProxyHead, Sphere, mlp


def test_mlp_flattens_and_puts_relu_between_linear_layers():
    kinds = [type(layer) for layer in mlp((4, 8, 8, 2))]
    assert kinds == [nn.Flatten, nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    assert mlp((4, 8, 2))(torch.randn(5, 2, 2)).shape == (5, 2)


def test_mlp_of_two_sizes_is_linear():
    network, x = mlp((3, 2)), torch.randn(4, 3)
    assert_close(network(x), x @ network[1].weight.T + network[1].bias)


@pytest.mark.parametrize(
    "sizes, message",
    [
        ((4,), "the number of sizes must be at least 2, got 1"),
        ((4, 0, 2), "every size must be at least 1, got 0"),
    ],
)
def test_mlp_refuses_sizes_that_make_no_network(sizes, message):
    with pytest.raises(ValueError, match=message):
        mlp(sizes)


def test_sphere_has_rows_of_length_one_in_the_encoder_s_direction():
    encoder, x = mlp((3, 4)), torch.randn(5, 3)
    rows = Sphere(encoder)(x)
    assert_close(rows.norm(dim=-1), torch.ones(5))
    assert_close(rows * encoder(x).norm(dim=-1, keepdim=True), encoder(x))


def test_proxy_head_gives_embeddings_and_a_unit_prototype_for_each_class():
    embeddings, prototypes = ProxyHead(mlp((3, 4)), 6, 4)(torch.randn(5, 3))
    assert embeddings.shape == (5, 4) and prototypes.shape == (6, 4)
    assert_close(prototypes.norm(dim=-1), torch.ones(6))


def test_proxy_head_needs_a_class():
    with pytest.raises(ValueError, match="n_classes must be at least 1, got 0"):
        ProxyHead(mlp((3, 4)), 0, 4)


def test_models_train_as_replicas():
    replicas = [ProxyHead(mlp((3, 4)), 6, 4) for _ in range(3)]
    parameters, buffers = torch.func.stack_module_state(replicas)
    x = torch.randn(5, 3)

    def call(parameters, buffers):
        return torch.func.functional_call(replicas[0], (parameters, buffers), (x,))

    embeddings, prototypes = torch.func.vmap(call)(parameters, buffers)
    assert_close(embeddings[2], replicas[2](x)[0])
    assert_close(prototypes[1], replicas[1](x)[1])
