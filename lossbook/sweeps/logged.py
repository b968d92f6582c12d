"""The values that a notebook logs for a sweep, and how rows of values are made plain."""

import math
from collections.abc import Mapping

from lossbook import _display, notebooks

MIME = "application/vnd.lossbook.values+json"
RESERVED = ("run", "claim")
"""Columns of the table of records are called so, or begin so: `run_seconds`, `claim_verdict`."""


def log(**values: object) -> None:
    """Log what a notebook measured: ``log(recall_at_1=0.71)``.

    The values are displayed, and ``lossbook sweep`` collects them from every run. A name that is
    logged again replaces the earlier value.

    Args:
        **values: numbers, texts or truth values; a tensor or array of one element counts as its
            number.

    Raises:
        ValueError: a value is none of these, or no value is given.
    """
    if not values:
        raise ValueError("log must be given at least one value, such as log(accuracy=0.9)")
    row = plain_row(values)
    text = ", ".join(f"{name} = {_shown(value)}" for name, value in row.items())
    _display.show({"text/plain": text, MIME: row})


def logged_in(nb) -> dict[str, object]:
    """Returns the values that an executed notebook has logged."""
    row: dict[str, object] = {}
    for values in notebooks.displayed(nb, MIME):
        row |= values
    return row


def plain_row(values: Mapping) -> dict[str, object]:
    """Returns named values as JSON can hold them; a number that is not finite becomes None.

    Raises:
        ValueError: a name is not a text or is reserved, or a value is no scalar.
    """
    return {_name(name): _scalar(name, value) for name, value in values.items()}


def _name(name: object) -> str:
    if not isinstance(name, str):
        raise ValueError(f"the name of a value must be a text, got {name!r}")
    if name in RESERVED or name.startswith(tuple(f"{word}_" for word in RESERVED)):
        raise ValueError(f"the names of values must not begin with run_ or claim_, got {name!r}")
    return name


def _scalar(name: str, value: object) -> object:
    if getattr(value, "shape", None) is not None and math.prod(value.shape) == 1:
        value = value.item()  # of torch, numpy or pandas
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    raise ValueError(f"{name} must be a number, a text, true or false, got {value!r}")


def _shown(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
