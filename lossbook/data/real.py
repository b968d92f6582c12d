"""Real data: what scikit-learn ships, OpenML by name, a folder of pictures; and how it is split."""

import os
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lossbook._checks import class_labels, in_range

EMBEDDED = ("digits", "iris", "wine", "breast_cancer", "diabetes")
"""The data sets that scikit-learn ships."""


class Splits(NamedTuple):
    """Three disjoint parts of a data set, each ``(inputs, targets)``."""

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def load(name: str) -> tuple[Tensor, Tensor]:
    """A data set by name: inputs (n, d) as float32, targets (n,).

    Args:
        name: one of ``digits``, ``iris``, ``wine``, ``breast_cancer``, ``diabetes`` (embedded), or
            ``openml:NAME`` for a data set of openml.org, downloaded once and cached.

    Returns:
        ``(inputs, targets)``; class targets are int64 from 0 on, others float32. Digits' pixels
        are scaled to [0, 1], all other columns are as published.

    Raises:
        ValueError: for an unknown name.
        OSError: if an OpenML data set cannot be fetched.
    """
    from sklearn import datasets

    if name.startswith("openml:"):
        return _open_ml(name.removeprefix("openml:"))
    if name not in EMBEDDED:
        near = get_close_matches(name, EMBEDDED, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(
            f"name must be one of {', '.join(EMBEDDED)} or openml:NAME, got {name!r}{hint}"
        )
    inputs, targets = getattr(datasets, f"load_{name}")(return_X_y=True)
    inputs = torch.as_tensor(inputs, dtype=torch.float32)
    kind = torch.float32 if name == "diabetes" else torch.int64
    return inputs / 16 if name == "digits" else inputs, torch.as_tensor(targets, dtype=kind)


def _open_ml(name: str) -> tuple[Tensor, Tensor]:
    from sklearn.datasets import fetch_openml
    from sklearn.preprocessing import LabelEncoder

    try:
        inputs, targets = fetch_openml(name, return_X_y=True, as_frame=False, parser="liac-arff")
    except Exception as error:
        raise OSError(
            f"openml:{name} could not be fetched ({error}); "
            f"offline, use an embedded data set: {', '.join(EMBEDDED)}"
        ) from error
    inputs = torch.as_tensor(inputs.astype("float32"))
    if targets.dtype.kind == "f":
        return inputs, torch.as_tensor(targets.astype("float32"))
    return inputs, torch.as_tensor(LabelEncoder().fit_transform(targets))


def image_folder(
    folder: str | os.PathLike, *, size: int, color: bool = False
) -> tuple[Float[Tensor, "n c size size"], Int[Tensor, " n"], list[str]]:
    """The pictures of a folder that has a subfolder for each class, as tensors in memory.

    Args:
        folder: holds ``CLASS/NAME.png`` or any other format that Pillow reads, sorted by path.
        size: height and width in pixels. A picture is scaled to cover the square, and what sticks
            out on two sides is cut off.
        color: whether pictures keep three channels; else one, gray.

    Returns:
        ``(images, labels, names)``: pixels in [0, 1], class numbers, and the classes' names.

    Raises:
        ValueError: for a folder without pictures, or a picture that can't be read.
    """
    from PIL import Image, ImageOps

    in_range("size", size, at_least=1)
    known = Image.registered_extensions()
    files = sorted(f for f in Path(folder).glob("*/[!.]*") if f.suffix.lower() in known)
    if not files:
        raise ValueError(f"folder must hold CLASS/NAME.png and the like, {folder} holds none")
    names = sorted({file.parent.name for file in files})
    number = {name: i for i, name in enumerate(names)}
    images = torch.empty(len(files), 3 if color else 1, size, size)
    for image, file in zip(images, files, strict=True):
        try:
            with Image.open(file) as picture:
                picture = ImageOps.exif_transpose(picture).convert("RGB" if color else "L")
        except OSError as error:
            raise ValueError(f"{file} can't be read as a picture: {error}") from error
        pixels = ImageOps.fit(picture, (size, size)).tobytes()
        flat = torch.frombuffer(bytearray(pixels), dtype=torch.uint8)
        image.copy_(flat.reshape(size, size, -1).permute(2, 0, 1) / 255)
    return images, torch.tensor([number[file.parent.name] for file in files]), names


def split(
    inputs: Float[Tensor, "n ..."],
    targets: Float[Tensor, " n"] | Int[Tensor, " n"],
    *,
    seed: int = 0,
    shares: Sequence[float] = (0.6, 0.2, 0.2),
) -> Splits:
    """Shuffle and cut into train, validation and test.

    Args:
        inputs: (n, ...).
        targets: (n,).
        seed: of the shuffle.
        shares: of the three parts; they add up to at most 1, and the rest is left out.

    Raises:
        ValueError: for shares that are not three positive numbers with a sum of at most 1, or that
            leave a part empty.
    """
    parts = _shuffled_parts(len(inputs), seed, shares)
    return Splits(*((inputs[part], targets[part]) for part in parts))


def split_classes(
    labels: Int[Tensor, " n"], *, seed: int = 0, shares: Sequence[float] = (0.6, 0.2, 0.2)
) -> tuple[Int[Tensor, " a"], Int[Tensor, " b"], Int[Tensor, " c"]]:
    """Row numbers for train, validation and test, such that no class is in two of them.

    Whoever asks how an embedding serves classes that training never saw splits like this.

    Args:
        labels: (n,), integers.
        seed: of the classes' shuffle.
        shares: of the classes in the three parts; they add up to at most 1, and the rest is left
            out.

    Returns:
        Three vectors of row numbers, each in ascending order.

    Raises:
        ValueError: as :func:`split`.
    """
    class_labels(labels, len(labels))
    classes = labels.unique()
    parts = _shuffled_parts(len(classes), seed, shares)
    return tuple(torch.isin(labels, classes[part]).nonzero().flatten() for part in parts)


def _shuffled_parts(n: int, seed: int, shares: Sequence[float]) -> tuple[Tensor, ...]:
    if len(shares) != 3 or min(shares) <= 0 or sum(shares) > 1 + 1e-9:
        raise ValueError(
            f"shares must be three positive numbers that add up to at most 1, got {tuple(shares)}"
        )
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    sizes = [int(share * n + 1e-9) for share in shares]
    in_range("the smallest part", min(sizes), at_least=1)
    return order[: sum(sizes)].split(sizes)


def digits(*, seed: int = 0, shares: Sequence[float] = (0.6, 0.2, 0.2)) -> Splits:
    """The 1,797 handwritten digits of scikit-learn, 8 x 8 pixels in [0, 1], flat: (n, 64).

    Args:
        seed: of the shuffle that splits them.
        shares: of train, validation and test.
    """
    return split(*load("digits"), seed=seed, shares=shares)
