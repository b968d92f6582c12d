"""Batches and views: what a training loop draws from a data set.

Each function here returns a *sampler*, ``sample(generator) -> batch``, which ``lossbook.training``
calls with the replica's own generator.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from lossbook._checks import class_labels, in_range

Sampler = Callable[[Generator], tuple[Tensor, ...]]


def balanced_batches(
    inputs: Float[Tensor, "n ..."], labels: Int[Tensor, " n"], *, classes: int, per_class: int
) -> Sampler:
    """Batches with the same number of samples from each of a few random classes.

    Pair losses need this: a batch drawn at random has hardly any positive pairs.

    Args:
        inputs: (n, ...).
        labels: (n,), integers.
        classes: classes in a batch, at most as many as there are.
        per_class: samples of each, at most as many as the smallest class has.

    Returns:
        A sampler of ``(inputs, labels)`` with ``classes * per_class`` rows.
    """
    class_labels(labels, len(inputs))
    order = labels.argsort(stable=True)
    sizes = labels.unique(return_counts=True)[1]
    starts = sizes.cumsum(0) - sizes
    in_range("classes", classes, at_least=1, at_most=len(sizes))
    in_range("per_class", per_class, at_least=1, at_most=int(sizes.min()))

    def sample(generator: Generator) -> tuple[Tensor, Tensor]:
        chosen = torch.randperm(len(sizes), generator=generator)[:classes]
        # The per_class smallest of random keys, with those beyond a class's size out of reach.
        keys = torch.rand(classes, int(sizes.max()), generator=generator)
        keys = keys.masked_fill(torch.arange(keys.shape[1]) >= sizes[chosen, None].cpu(), 2.0)
        members = keys.argsort(-1)[:, :per_class].to(starts.device) + starts[chosen, None]
        picked = order[members.flatten()]
        return inputs[picked], labels[picked]

    return sample


def paired_views(
    inputs: Float[Tensor, "n ..."],
    augment: Callable[[Tensor, Generator], Tensor],
    *,
    batch_size: int,
) -> Sampler:
    """Batches of two independently augmented views of the same samples.

    Args:
        inputs: (n, ...).
        augment: ``augment(inputs, generator)`` -> inputs of the same shape.
        batch_size: samples in a batch, at most n.

    Returns:
        A sampler of ``(first_views, second_views)``.
    """
    in_range("batch_size", batch_size, at_least=1, at_most=len(inputs))

    def sample(generator: Generator) -> tuple[Tensor, Tensor]:
        chosen = inputs[torch.randperm(len(inputs), generator=generator)[:batch_size]]
        return augment(chosen, generator), augment(chosen, generator)

    return sample


def shift_and_noise(
    *, size: int, shift: int = 1, noise: float = 0.1, erase: float = 0.0
) -> Callable[[Tensor, Generator], Tensor]:
    """An augmentation of small square pictures: shift by whole pixels, add noise, erase a square.

    Args:
        size: pixels in height and width of the pictures, which may come flat.
        shift: largest shift in each direction, in pixels, at least 0.
        noise: standard deviation of each pixel.
        erase: side of the erased square as a share of the picture's, in [0, 1).

    Returns:
        ``augment(inputs, generator)``, for :func:`paired_views`.
    """
    in_range("size", size, at_least=1)
    in_range("shift", shift, at_least=0)
    in_range("noise", noise, at_least=0)
    in_range("erase", erase, at_least=0, below=1)
    axis = torch.arange(size)
    hole = round(erase * size)

    def augment(inputs: Tensor, generator: Generator) -> Tensor:
        images = inputs.reshape(-1, size, size)
        n, device = len(images), inputs.device

        def integers(low: int, high: int) -> Tensor:
            return torch.randint(low, high, (n, 1), generator=generator)

        rows, columns = (axis + integers(-shift, shift + 1) for _ in range(2))
        inside = _inside(rows, size)[:, :, None] & _inside(columns, size)[:, None, :]
        which = torch.arange(n)[:, None, None]
        rows, columns = rows.clamp(0, size - 1)[:, :, None], columns.clamp(0, size - 1)[:, None, :]
        moved = images[which.to(device), rows.to(device), columns.to(device)]
        if hole:
            top, left = integers(0, size - hole + 1), integers(0, size - hole + 1)
            in_hole = _inside(axis - top, hole)[:, :, None] & _inside(axis - left, hole)[:, None, :]
            inside = inside & ~in_hole
        grain = noise * torch.randn(moved.shape, generator=generator)
        return (moved * inside.to(device) + grain.to(device)).reshape(inputs.shape)

    return augment


def _inside(index: Tensor, size: int) -> Tensor:
    return (index >= 0) & (index < size)


def flip_labels(
    labels: Int[Tensor, " n"], *, share: float, n_classes: int, seed: int = 0
) -> Int[Tensor, " n"]:
    """Labels of which a share is replaced by another class, chosen evenly.

    Args:
        labels: (n,), integers below n_classes.
        share: of the labels that change, in [0, 1]; exactly ``round(share * n)`` do.
        n_classes: at least 2.
        seed: of the choice.
    """
    class_labels(labels, len(labels))
    in_range("share", share, at_least=0, at_most=1)
    in_range("n_classes", n_classes, at_least=2)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(labels), generator=generator)[: round(share * len(labels))]
    offset = torch.randint(1, n_classes, (len(chosen),), generator=generator)
    flipped = labels.clone()
    flipped[chosen] = (labels[chosen] + offset.to(labels.device)) % n_classes
    return flipped
