"""The parameters of a notebook: what its cell tagged `parameters` sets, and over which ranges."""

import ast
import io
import re
import tokenize
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

SCALES = ("smoke", "quick", "full")
RESERVED = ("scale", "seed", "device")


@dataclass(frozen=True)
class Parameter:
    """A line of the parameters cell: `temperature = 0.1  # 0.02 .. 2`."""

    name: str
    default: object
    low: int | float | None = None
    high: int | float | None = None
    choices: tuple[str, ...] = ()

    @property
    def numeric(self) -> bool:
        """Whether its default is a number or a list of numbers."""
        values = self.default if isinstance(self.default, list | tuple) else [self.default]
        return bool(values) and all(_is_number(value) for value in values)

    @property
    def ends(self) -> tuple[object, object] | None:
        """The values at the two ends of its range; None if it names no range."""
        if isinstance(self.default, bool):
            return False, True
        if self.choices:
            return self.choices[0], self.choices[-1]
        if self.low is None:
            return None
        if isinstance(self.default, list):
            return [self.low], [self.high]
        return self.low, self.high

    @property
    def contains_default(self) -> bool:
        """Whether the default lies in the range, or is one of the choices."""
        values = self.default if isinstance(self.default, list | tuple) else [self.default]
        if self.choices:
            return all(value in self.choices for value in values)
        return self.low is None or all(self.low <= value <= self.high for value in values)

    def check(self, value: object) -> None:
        """Raises ValueError unless the value is of the default's kind, or one of the choices."""
        if self.choices:
            right, allowed = value in self.choices, f"one of {', '.join(self.choices)}"
        elif isinstance(self.default, list | tuple):
            right, allowed = isinstance(value, list), "a list such as [1, 2]"
        elif self.numeric:
            right, allowed = _is_number(value), "a number"
        elif isinstance(self.default, bool):
            right, allowed = isinstance(value, bool), "true or false"
        else:
            return
        if not right:
            near = get_close_matches(str(value), self.choices, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"{self.name} must be {allowed}, got {value!r}{hint}")


_NUMBER = r"[-+]?\d[\d_]*(?:\.(?!\.)\d*)?(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"(?<![\w.])({_NUMBER})\s*\.\.\s*({_NUMBER})(?![\w])")
_CHOICES = re.compile(r"one of:\s*(.+)")


def parse(nb) -> dict[str, Parameter]:
    """Returns the parameters of a notebook, from its cell tagged `parameters`.

    A comment behind a value gives its range (`# 0.02 .. 2`) or its choices (`# one of: a, b`).

    Raises:
        ValueError: the cell is not Python.
    """
    source = "\n".join(
        cell.source
        for cell in nb.cells
        if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", [])
    )
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise ValueError(f"the parameters cell is not Python: {error}") from error
    comments = _comments(source)
    found = {}
    for node in statements:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if len(targets) != 1 or not isinstance(targets[0], ast.Name):
            continue
        try:
            default = ast.literal_eval(node.value)
        except ValueError:
            continue
        comment = comments.get(node.end_lineno, "")
        found[targets[0].id] = _parameter(targets[0].id, default, comment)
    return found


def _parameter(name: str, default: object, comment: str) -> Parameter:
    if name == "scale":
        return Parameter(name, default, choices=SCALES)
    if match := _CHOICES.search(comment):
        choices = tuple(choice.strip().strip("\"'") for choice in match[1].split(","))
        return Parameter(name, default, choices=choices)
    if match := _RANGE.search(comment):
        low, high = (ast.literal_eval(end) for end in match.groups())
        return Parameter(name, default, low, high)
    return Parameter(name, default)


def _comments(source: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string for t in tokens if t.type == tokenize.COMMENT}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def assign(
    assignments: Iterable[str], known: dict[str, Parameter], owner: str = "notebook"
) -> dict[str, object]:
    """Returns the values of `name=value` arguments, checked against what has these parameters.

    Values are YAML: numbers, true and false, null, strings and lists such as `[0.1, 0.2]`.

    Args:
        assignments: texts such as `temperature=0.1`.
        known: the parameters that there are.
        owner: "notebook" or "function", for the message.

    Raises:
        ValueError: an argument is not `name=value`, or there is no such parameter.
    """
    values = {}
    for assignment in assignments:
        name, equals, text = (part.strip() for part in assignment.partition("="))
        if not equals or not name:
            raise ValueError(f"-p must be name=value, got {assignment!r}")
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(
                f"the {owner} has no parameter {name!r}{hint}\n"
                f"its parameters: {', '.join(known) or 'none'}"
            )
        values[name] = _value(text, known[name])
        known[name].check(values[name])
    return values


def _value(text: str, parameter: Parameter) -> object:
    import yaml

    if isinstance(parameter.default, str):
        return text.strip("\"'")
    try:
        value = _numbers(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ValueError(f"{parameter.name} has a value that is not YAML: {text!r}") from error
    whole = isinstance(value, float) and value.is_integer()
    return int(value) if whole and isinstance(parameter.default, int) else value


def _numbers(value: object) -> object:
    """YAML 1.1 takes 1e-3 for a word; here it is a number."""
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def own_scale(nb) -> str:
    """Returns the scale that a notebook runs at when nobody asks for another."""
    scale = parse(nb).get("scale")
    return scale.default if scale else "quick"
