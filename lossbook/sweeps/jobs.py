"""The runs that a sweep consists of: the product of the parameters' values and the seeds."""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from lossbook import __version__, parameters
from lossbook.parameters import Parameter
from lossbook.sweeps.targets import Target, notebook_target

BRACKETS = {"[": "]", "{": "}", "(": ")"}


@dataclass(frozen=True)
class Job:
    """One run: a target, and the values that it is given."""

    target: Target
    given: dict[str, object]

    @property
    def parameters(self) -> dict[str, object]:
        """All its parameters, defaults included."""
        defaults = {name: p.default for name, p in self.target.known.items()}
        return {**defaults, **self.given}

    @property
    def id(self) -> str:
        """The hash of what determines the run: code, parameters and the package's version."""
        facts = [
            self.target.name,
            self.target.fingerprint,
            __version__,
            {name: canonical(value) for name, value in self.parameters.items()},
        ]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:20]

    def __str__(self) -> str:
        """What it is given, as `beta=10 seed=3`."""
        return " ".join(f"{name}={value}" for name, value in self.given.items())


def canonical(value: object) -> object:
    """Returns 1 for 1.0, so that `-p margin=1` and `-p margin=1.0` are one run."""
    if isinstance(value, list):
        return [canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def grid(
    target: Target, assignments: Iterable[str], seeds: str, scale: str | None = None
) -> list[Job]:
    """Returns the jobs of a sweep: all settings with the first seed, then with the next.

    Args:
        target: what runs.
        assignments: texts such as `temperature=0.1,0.2` or `widths=[1,2],[3,4]`.
        seeds: `0:20` (0 to 19), `1,2,5` or both.
        scale: of all runs; None takes `LOSSBOOK_SCALE`, or else the target's own.

    Raises:
        ValueError: a parameter is unknown, missing or given twice, or a value is not allowed.
    """
    axes: dict[str, list] = {}
    for assignment in assignments:
        name, values = _axis(assignment, target)
        if name in axes:
            raise ValueError(f"-p {name} is given twice; write {name}=value,value")
        axes[name] = values
    if "scale" in axes and scale:
        raise ValueError("scale must be given once, by --scale or by -p scale=…")
    scale = scale or (os.environ.get("LOSSBOOK_SCALE") if "scale" in target.known else None)
    if scale and "scale" not in axes:
        axes["scale"] = list(_scaled(scale, target).values())
    missing = [name for name in target.required if name not in axes]
    if missing:
        raise ValueError(f"{target.name} needs -p {missing[0]}=…, which has no default")
    seed_axis = {"seed": _seeds(seeds)}
    if "seed" not in target.known and not target.open:
        raise ValueError(f"{target.name} has no parameter seed, which sweeps need")
    points = product(*seed_axis.values(), *axes.values())
    return [Job(target, dict(zip(("seed", *axes), point, strict=True))) for point in points]


def book(paths: Iterable[Path], scale: str | None = None) -> list[Job]:
    """Returns a job for each of the book's notebooks, at its own defaults but for the scale.

    Raises:
        ValueError: there is no such scale.
    """
    scale = scale or os.environ.get("LOSSBOOK_SCALE")
    jobs = []
    for target in map(notebook_target, paths):
        scaled = scale and "scale" in target.known
        jobs.append(Job(target, _scaled(scale, target) if scaled else {}))
    return jobs


def _scaled(scale: str, target: Target) -> dict[str, object]:
    return parameters.assign([f"scale={scale}"], target.known, target.kind)


def _axis(assignment: str, target: Target) -> tuple[str, list]:
    name, equals, text = (part.strip() for part in assignment.partition("="))
    if name == "seed":
        raise ValueError("seeds are given by --seeds, such as --seeds 0:20")
    known = target.known
    if target.open and name and name not in known:
        known = {**known, name: Parameter(name, None)}
    items = split(text) if equals else [text]
    values = []
    for item in items:
        assigned = parameters.assign([f"{name}{equals}{item}"], known, target.kind)
        values.append(assigned[name])
    seen = [canonical(value) for value in values]
    for place, value in enumerate(seen):
        if value in seen[:place]:
            raise ValueError(f"{name} must not have a value twice, got {items[place]} in {text!r}")
    return name, values


def split(text: str) -> list[str]:
    """Splits at the commas outside brackets and quotes: `[1,2],[3,4]` are two values.

    Raises:
        ValueError: a value is empty, or a bracket or quote is not closed.
    """
    parts, closing = [""], []
    for character in text:
        if closing and character == closing[-1]:
            closing.pop()
        elif character in "'\"" and not (closing and closing[-1] in "'\""):
            closing.append(character)
        elif character in BRACKETS and not (closing and closing[-1] in "'\""):
            closing.append(BRACKETS[character])
        if character == "," and not closing:
            parts.append("")
        else:
            parts[-1] += character
    if closing:
        raise ValueError(f"a value lacks its closing {closing[-1]}: {text!r}")
    parts = [part.strip() for part in parts]
    if not all(parts):
        raise ValueError(f"values must be separated by single commas, got {text!r}")
    return parts


def _seeds(text: str) -> list[int]:
    seeds: list[int] = []
    for part in text.split(","):
        first, colon, end = part.strip().partition(":")
        try:
            seeds += range(int(first), int(end)) if colon else [int(first)]
        except ValueError:
            raise ValueError(f"--seeds must be like 0:20 or 1,2,5, got {text!r}") from None
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise ValueError(f"--seeds must name whole numbers from 0, each once, got {text!r}")
    return seeds
