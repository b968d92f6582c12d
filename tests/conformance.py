"""Calls any objective of the book with inputs built from its signature.

``test_conformance.py`` runs the same checks on every objective that the catalog lists and on the
losses of ``lossbook.baselines``. A new objective passes by being listed: its tensors are made from
the names and shape annotations of its parameters, its ranges are read from its docstring and the
choices of its string arguments from its own error message. Only a tensor with an unusual domain
needs a line in ``DOMAINS``.
"""

import inspect
import re
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module

import jaxtyping
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves

from lossbook import baselines, catalog


def listed() -> list["Objective"]:
    """All that the catalog's rows name, and the losses of ``lossbook.baselines``."""
    of_papers = [path for paper in catalog.papers() for path in paper.objective]
    of_baselines = [f"lossbook.baselines.{n}" for n in vars(baselines) if n.endswith("_loss")]
    return [Objective(path) for path in dict.fromkeys(of_papers + sorted(of_baselines))]


# What each input may look like ------------------------------------------------------------------
# A domain draws a tensor of a shape; `extreme` asks for values at the end of what users meet.


def _anything(shape, extreme):
    return torch.randn(shape) * (1e4 if extreme else 1)


def _unit_rows(shape, extreme):
    return F.normalize(torch.randn(shape), dim=-1) * (100 if extreme else 1)


def _cosines(shape, extreme):
    return (2 * torch.rand(shape) - 1) * (1e4 if extreme else 1)


def _shares(shape, extreme):
    shares = torch.rand(shape)
    return torch.where(shares < 0.5, 1e-6, 1 - 1e-6) if extreme else shares


def _distributions(shape, extreme):
    return (torch.randn(shape) * (15 if extreme else 1)).softmax(-1)


def _binary(shape, extreme):
    return (torch.rand(shape) < 0.4).float()


def _temperatures(shape, extreme):
    return 10 ** ((2 * torch.rand(shape) - 1) * (3 if extreme else 0.5))


def _log_probabilities(shape, extreme):
    shares = torch.rand(shape)
    return torch.where(shares < 0.5, -1e4 * shares, 0.0) if extreme else shares.log()


DOMAINS = {
    **dict.fromkeys(
        "anchors embeddings keys positives prototypes queries z1 z2".split(), _unit_rows
    ),
    "beta": _shares,
    "correlation": _cosines,
    "gram": _cosines,
    "log_probabilities": _log_probabilities,
    "pair_labels": _shares,
    "probabilities": _distributions,
    "similarities": _cosines,
    "targets": _binary,
    "temperatures": _temperatures,
}

VALUES = {"tau": (0, 0.5, 1.5, 2, 2.5), "r": (float("inf"),)}
"""Further values of a knob at which its formula changes."""


@dataclass(frozen=True)
class Case:
    """Sizes of a batch, and which of its samples share a label."""

    sizes: dict[str, int] = field(default_factory=dict)
    n_labels: int = 3
    extreme: bool = False
    seed: int = 0

    def size(self, symbol: str) -> int:
        return self.sizes.get(symbol, {"n": 6, "c": 3, "d": 4, "l": 8}.get(symbol, 5))

    def labels(self, n: int) -> Tensor:
        return torch.arange(n) % self.n_labels


class Model:
    """Logits of six classes, smooth and of the size of the inputs, in the inputs' precision."""

    def __init__(self, n_inputs: int):
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.randn(n_inputs, 6, generator=generator) / 4

    def __call__(self, inputs: Tensor) -> Tensor:
        rows = inputs.flatten(1)
        return (rows + rows.sin()) @ self.weight.to(rows)


def same_class_similarity(similarities: Tensor, labels: Tensor) -> Tensor:
    """A loss on similarities that has a slope everywhere."""
    same = labels[:, None] == labels[None, :]
    return torch.where(same, -similarities, similarities.square()).sum()


CALLABLES = {"model": Model(Case().size("...")), "loss": same_class_similarity}


# Objectives -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Objective:
    """A function of the book, with what its signature and its docstring say."""

    path: str

    @property
    def name(self) -> str:
        return self.path.rpartition(".")[2]

    @cached_property
    def function(self) -> Callable:
        module, _, name = self.path.rpartition(".")
        return getattr(import_module(module), name)

    @property
    def is_function_of_tensors(self) -> bool:
        """Whether it maps tensors to tensors; modules and fits have tests of their own."""
        result = self.hints.get("return") if inspect.isfunction(self.function) else None
        return result is Tensor or bool(annotations(result))

    @cached_property
    def hints(self) -> dict[str, object]:
        return typing.get_type_hints(self.function)

    @cached_property
    def parameters(self) -> dict[str, inspect.Parameter]:
        return dict(inspect.signature(self.function).parameters)

    @property
    def data(self) -> list[str]:
        """The positional parameters: tensors and callables."""
        return [n for n, p in self.parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]

    @property
    def knobs(self) -> dict[str, object]:
        """The keyword-only parameters and their defaults."""
        return {n: p.default for n, p in self.parameters.items() if p.kind is p.KEYWORD_ONLY}

    @property
    def tensors(self) -> dict[str, type]:
        """The positional tensors and their annotations."""
        annotated = {name: annotations(self.hints.get(name)) for name in self.data}
        return {name: found[0] for name, found in annotated.items() if found}

    @property
    def scalars(self) -> dict[str, float]:
        """The knobs that a replica may carry as a 0-dim tensor, with a value for each."""
        knobs = {n: v for n, v in self.knobs.items() if annotations(self.hints[n])}
        return {n: v if v else 0.5 for n, v in knobs.items()}

    @property
    def choices(self) -> dict[str, list[str]]:
        """The values of each string knob, as its error message lists them."""
        names = [name for name, default in self.knobs.items() if isinstance(default, str)]
        return {name: re.findall(r"'([^']+)'", self._complaint(name)) for name in names}

    def _complaint(self, name: str) -> str:
        try:
            self(**{name: "no such choice"})
        except ValueError as error:
            return str(error).partition(", got ")[0]
        raise AssertionError(f"{self.name} takes {name}='no such choice'")

    def variants(self) -> list[dict]:
        """The defaults, and every other choice, switch and special value, one at a time."""
        others = {**self.choices}
        others |= {n: [not v] for n, v in self.knobs.items() if isinstance(v, bool)}
        others |= {n: VALUES[n] for n in self.knobs if n in VALUES}
        changes = [{n: v} for n, values in others.items() for v in values if v != self.knobs[n]]
        return [{}, *changes]

    def inputs(self, case: Case | None = None, dtype=torch.float64) -> dict[str, object]:
        """The positional arguments of a call."""
        case = case or Case()
        torch.manual_seed(case.seed)
        return {
            name: make_tensor(name, self.tensors[name], case, dtype)
            if name in self.tensors
            else CALLABLES[name]
            for name in self.data
        }

    def __call__(self, inputs: dict[str, object] | None = None, **knobs):
        """The value at some inputs; every call draws the same random numbers."""
        inputs = self.inputs() if inputs is None else inputs
        torch.manual_seed(1)
        return self.function(*inputs.values(), **knobs)

    @cached_property
    def is_random(self) -> bool:
        """Whether two calls on the same inputs differ."""
        inputs = self.inputs()
        first, second = (tree_leaves(self.function(*inputs.values())) for _ in range(2))
        return not all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def annotations(hint: object) -> list[type]:
    """The jaxtyping annotations in a hint, which may be a union or a tuple."""
    parts = typing.get_args(hint) or (hint,)
    return [p for p in parts if isinstance(p, type) and issubclass(p, jaxtyping.AbstractArray)]


def dimensions(annotation: type) -> list[str]:
    """The symbols of a shape annotation: `"n d"` -> `["n", "d"]`."""
    return annotation.dim_str.split()


def make_tensor(name: str, annotation: type, case: Case, dtype: torch.dtype) -> Tensor:
    """A tensor for a parameter, from its name and annotation."""
    shape = [int(s) if s.isdecimal() else case.size(s) for s in dimensions(annotation)]
    if annotation.dtype is jaxtyping.Bool:
        return _mask(name, shape, case)
    if annotation.dtype is jaxtyping.Int:
        return case.labels(shape[0])
    return DOMAINS.get(name, _anything)(shape, case.extreme).to(dtype)


def _mask(name: str, shape: list[int], case: Case) -> Tensor:
    if name not in ("positives", "negatives"):
        return torch.rand(shape) < 0.7
    rows, columns = (case.labels(n) for n in shape)
    same = rows[:, None] == columns[None, :]
    return same & ~torch.eye(*shape, dtype=torch.bool) if name == "positives" else ~same


# Docstrings -------------------------------------------------------------------------------------


def sections(objective: Objective) -> dict[str, str]:
    """A docstring's sections by their titles; what comes first has the title ""."""
    parts = re.split(r"^(\w+):$", inspect.getdoc(objective.function) or "", flags=re.MULTILINE)
    return dict(zip(["", *parts[1::2]], parts[::2], strict=True))


def documented(objective: Objective) -> dict[str, str]:
    """What the docstring says of each parameter; "as in :func:`f`" is looked up there."""
    entries = {}
    for entry in re.split(r"\n    (?=\S)", sections(objective).get("Args", "").strip()):
        names, _, text = " ".join(entry.split()).partition(": ")
        for name in names.split(", "):
            entries[name.lstrip("*")] = _follow(objective, name, text)
    return entries


def _follow(objective: Objective, name: str, text: str) -> str:
    other = re.match(r"as in :func:`([\w.]+)`", text)
    if not other:
        return text
    module = objective.path.rpartition(".")[0]
    path = other[1] if "." in other[1] else f"{module}.{other[1]}"
    return documented(Objective(path)).get(name, "")


def values_outside(text: str) -> list[float]:
    """Numbers that a documented range excludes; none where no range is documented.

    Knows "in [0, 1]", "(0, 1)" and mixtures, "at least 0", ">= 0", "> 0" and ", positive".
    """
    number = r"(-?\d+(?:\.\d+)?)"
    nan = float("nan")
    if both := re.search(rf"in ([\[(]){number}, {number}([\])])", text):
        low, high = float(both[2]), float(both[3])
        at_ends = [low] * (both[1] == "(") + [high] * (both[4] == ")")
        return [low - 1, high + 1, nan, *at_ends]
    if least := re.search(rf"(?:at least|>=) {number}", text):
        return [float(least[1]) - 1, nan]
    if re.search(r"> 0|(?:^|, )positive(?=[.,;]|$)", text):
        return [0, -1, nan]
    return []
