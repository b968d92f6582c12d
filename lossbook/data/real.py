"""Real data: what scikit-learn ships, and OpenML by name for a reader who is online."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lossbook._checks import in_range

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
    if len(shares) != 3 or min(shares) <= 0 or sum(shares) > 1 + 1e-9:
        raise ValueError(
            f"shares must be three positive numbers that add up to at most 1, got {tuple(shares)}"
        )
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
    sizes = [int(share * len(inputs) + 1e-9) for share in shares]
    in_range("the smallest part", min(sizes), at_least=1)
    parts = order[: sum(sizes)].split(sizes)
    return Splits(*((inputs[part], targets[part]) for part in parts))


def digits(*, seed: int = 0, shares: Sequence[float] = (0.6, 0.2, 0.2)) -> Splits:
    """The 1,797 handwritten digits of scikit-learn, 8 x 8 pixels in [0, 1], flat: (n, 64).

    Args:
        seed: of the shuffle that splits them.
        shares: of train, validation and test.
    """
    return split(*load("digits"), seed=seed, shares=shares)
