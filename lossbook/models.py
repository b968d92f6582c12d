"""The small networks that the book trains."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lossbook._checks import in_range


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """A multilayer perceptron with ReLU between linear layers; it flattens its input first.

    Args:
        sizes: widths from the input to the output, two at least: ``(64, 128, 10)`` has one hidden
            layer.

    Returns:
        The network, from (n, ...) to (n, sizes[-1]).

    Raises:
        ValueError: for fewer than two sizes or one below 1.
    """
    in_range("the number of sizes", len(sizes), at_least=2)
    for size in sizes:
        in_range("every size", size, at_least=1)
    layers: list[nn.Module] = [nn.Flatten()]
    for n_in, n_out in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Sphere(nn.Module):
    """An encoder whose embeddings are scaled to length 1.

    Args:
        encoder: a network from inputs to (n, d).
    """

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def forward(self, inputs: Float[Tensor, "n ..."]) -> Float[Tensor, "n d"]:
        return F.normalize(self.encoder(inputs), dim=-1)


class ProxyHead(nn.Module):
    """An encoder on the sphere together with one unit prototype for each class.

    Args:
        encoder: a network from inputs to (n, dimensions).
        n_classes: number of prototypes, at least 1.
        dimensions: of the embedding.
    """

    def __init__(self, encoder: nn.Module, n_classes: int, dimensions: int):
        super().__init__()
        in_range("n_classes", n_classes, at_least=1)
        self.encoder = Sphere(encoder)
        self.weight = nn.Parameter(torch.randn(n_classes, dimensions))

    def forward(
        self, inputs: Float[Tensor, "n ..."]
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "c d"]]:
        return self.encoder(inputs), F.normalize(self.weight, dim=-1)
