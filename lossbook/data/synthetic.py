"""Data from generators: a seed gives the same tensors everywhere."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lossbook._checks import in_range, positive


def gaussian_mixture(
    n: int,
    *,
    means: Float[Tensor, "k d"],
    spread: float = 1.0,
    weights: Float[Tensor, " k"] | None = None,
    seed: int = 0,
) -> tuple[Float[Tensor, "n d"], Int[Tensor, " n"], Float[Tensor, "n k"]]:
    """Points from round Gaussians, with the probabilities that the best classifier would give.

    Args:
        n: number of points, at least 1.
        means: (k, d), the Gaussians' centers.
        spread: their common standard deviation, positive.
        weights: (k,), how often each occurs; None makes them equal.
        seed: of the draw.

    Returns:
        ``(points, labels, posterior)``; row i of the posterior is p(label | point i), exactly.
    """
    in_range("n", n, at_least=1)
    positive("spread", spread)
    generator = torch.Generator().manual_seed(seed)
    weights = torch.ones(len(means)) if weights is None else weights
    labels = torch.multinomial(weights, n, replacement=True, generator=generator)
    points = means[labels] + spread * torch.randn(n, means.shape[1], generator=generator)
    log_density = -torch.cdist(points, means).square() / (2 * spread**2)
    return points, labels, (log_density + weights.log()).softmax(-1)


def two_moons(
    n: int, *, noise: float = 0.1, seed: int = 0
) -> tuple[Float[Tensor, "n 2"], Int[Tensor, " n"]]:
    """Two interleaved half circles, the smallest data set that no line separates.

    Args:
        n: number of points, at least 2.
        noise: standard deviation of the points around the circles, at least 0.
        seed: of the draw.

    Returns:
        ``(points, labels)``, labels 0 (upper moon) and 1 (lower moon) in turn.
    """
    in_range("n", n, at_least=2)
    in_range("noise", noise, at_least=0)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    angle = math.pi * torch.rand(n, generator=generator)
    upper = torch.stack([angle.cos() - 0.5, angle.sin() - 0.25], dim=-1)
    points = torch.where(labels[:, None] == 0, upper, -upper)
    return points + noise * torch.randn(n, 2, generator=generator), labels


def glyphs(
    n_classes: int,
    per_class: int,
    *,
    size: int = 16,
    strokes: int = 3,
    jitter: float = 0.06,
    rotation: float = 0.2,
    noise: float = 0.1,
    seed: int = 0,
) -> tuple[Float[Tensor, "n 1 size size"], Int[Tensor, " n"]]:
    """Made-up characters: each class is a few random strokes, each sample draws them anew.

    Digits have too few classes to ask whether an embedding works for classes that were never seen;
    here are as many classes as one wants.

    Args:
        n_classes: number of characters, at least 1.
        per_class: samples of each, at least 1.
        size: pixels in height and width, at least 4.
        strokes: straight strokes of one polyline in each character, at least 1.
        jitter: standard deviation of a corner's place, in widths of the picture.
        rotation: standard deviation of the whole character's rotation, in radians.
        noise: standard deviation of each pixel.
        seed: of the characters and of the samples.

    Returns:
        ``(images, labels)``: (n_classes * per_class, 1, size, size), ink 1 on paper 0, sorted by
        label.
    """
    for name, value, least in (
        ("n_classes", n_classes, 1),
        ("per_class", per_class, 1),
        ("size", size, 4),
        ("strokes", strokes, 1),
        ("jitter", jitter, 0),
        ("rotation", rotation, 0),
        ("noise", noise, 0),
    ):
        in_range(name, value, at_least=least)
    generator = torch.Generator().manual_seed(seed)
    n = n_classes * per_class
    labels = torch.arange(n_classes).repeat_interleave(per_class)
    corners = torch.rand(n_classes, strokes + 1, 2, generator=generator) * 1.4 - 0.7
    corners = corners[labels] + 2 * jitter * torch.randn(n, strokes + 1, 2, generator=generator)
    corners = corners @ _rotations(rotation * torch.randn(n, generator=generator))
    images = _draw_polylines(corners, size)
    images = images + noise * torch.randn(images.shape, generator=generator)
    return images.unsqueeze(1), labels


def _rotations(angles: Float[Tensor, " n"]) -> Float[Tensor, "n 2 2"]:
    c, s = angles.cos(), angles.sin()
    return torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)


def _draw_polylines(corners: Float[Tensor, "n k 2"], size: int) -> Float[Tensor, "n size size"]:
    """Soft ink: each pixel by its distance to the nearest stroke, in a picture over [-1, 1]^2."""
    axis = torch.linspace(-1, 1, size)
    pixels = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).reshape(-1, 2)
    start, stop = corners[:, :-1, None], corners[:, 1:, None]
    along = stop - start
    share = ((pixels - start) * along).sum(-1) / along.square().sum(-1).clamp(min=1e-6)
    nearest = start + share.clamp(0, 1).unsqueeze(-1) * along
    distance = (pixels - nearest).square().sum(-1).amin(1).sqrt()
    ink = torch.exp(-((distance * size / 2.5) ** 2))
    return ink.reshape(-1, size, size)
