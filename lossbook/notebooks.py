"""Where the book's notebooks are, how they are read and written, and their parameters."""

import ast
import io
import os
import re
import tempfile
import tokenize
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path

from lossbook import catalog

SCALES = ("smoke", "quick", "full")
RESERVED = ("scale", "seed", "device")

# Where notebooks are


def home() -> Path:
    """Returns the checkout's folder: `LOSSBOOK_HOME`, the package's parent, or one above us.

    Raises:
        ValueError: there is no checkout, as after a plain `pip install`.
    """
    given = os.environ.get("LOSSBOOK_HOME")
    here = Path.cwd()
    places = [Path(given)] if given else [Path(__file__).parents[1], here, *here.parents]
    for place in places:
        if (place / "notebooks").is_dir() and (place / "lossbook" / "catalog").is_dir():
            return place.resolve()
    if given:
        raise ValueError(f"LOSSBOOK_HOME must be a checkout of the book, got {given!r}")
    raise ValueError(
        "the notebooks are not part of the installed package: get a checkout "
        "(git clone the repository), then run this inside it or set LOSSBOOK_HOME to its folder"
    )


def find(name: str) -> Path:
    """Returns the file of a notebook given by path, number, slug or file name.

    Raises:
        ValueError: there is no such notebook, or it is not written yet.
    """
    if name.endswith(".ipynb") and Path(name).is_file():
        return Path(name).resolve()
    entry = catalog.notebook(name)
    path = home() / entry.path
    if not path.is_file():
        raise ValueError(
            f"{entry.title!r} ({entry.path}) is planned, but not written yet; "
            f"written so far: {', '.join(p.stem for p in written()) or 'none'}"
        )
    return path


def written() -> list[Path]:
    """Returns the files of the notebooks that exist in the checkout, in reading order."""
    return [path for entry in catalog.notebooks() if (path := home() / entry.path).is_file()]


def exists(entry: catalog.Notebook) -> bool:
    """Whether a catalog entry's notebook is written, as far as this installation can see."""
    try:
        return (home() / entry.path).is_file()
    except ValueError:  # installed without a checkout: finished papers point to their notebook
        return any(catalog.paper(name).done for name in entry.papers)


def read(path: str | os.PathLike):
    """Returns the notebook in a file, as nbformat's current format.

    Raises:
        ValueError: the file is not a notebook.
    """
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat raises whatever its JSON reader and its validator raise
        raise ValueError(f"{path} is not a readable notebook: {error}") from error


def write(nb, path: Path) -> None:
    """Writes a notebook so that a reader sees either the old file or the whole new one."""
    import nbformat

    handle, partial = tempfile.mkstemp(".partial", f".{path.name}.", path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
            nbformat.write(nb, stream)
        os.chmod(partial, path.stat().st_mode if path.exists() else 0o666 & ~_umask())
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# Parameters


@dataclass(frozen=True)
class Parameter:
    """A line of the parameters cell: `temperature = 0.1  # 0.02 .. 2`."""

    name: str
    default: object
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def numeric(self) -> bool:
        """Whether its default is a number or a list of numbers."""
        values = self.default if isinstance(self.default, list | tuple) else [self.default]
        return bool(values) and all(_is_number(value) for value in values)

    @cached_property
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
        if self.choices and value not in self.choices:
            allowed = f"one of {', '.join(self.choices)}"
        elif self.numeric and not isinstance(self.default, list | tuple) and not _is_number(value):
            allowed = "a number"
        elif isinstance(self.default, bool) and not isinstance(value, bool):
            allowed = "true or false"
        else:
            return
        near = get_close_matches(str(value), self.choices, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"{self.name} must be {allowed}, got {value!r}{hint}")


_NUMBER = r"[-+]?\d[\d_]*(?:\.(?!\.)\d*)?(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"(?<![\w.])({_NUMBER})\s*\.\.\s*({_NUMBER})(?![\w])")
_CHOICES = re.compile(r"one of:\s*(.+)")


def parameters(nb) -> dict[str, Parameter]:
    """Returns the parameters of a notebook, from its cell tagged `parameters`.

    A comment behind a value gives its range (`# 0.02 .. 2`) or its choices (`# one of: a, b`).
    """
    source = "\n".join(
        cell.source
        for cell in nb.cells
        if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", [])
    )
    comments = _comments(source)
    found = {}
    for node in ast.parse(source).body:
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


def parse_assignments(assignments: list[str], known: dict[str, Parameter]) -> dict[str, object]:
    """Returns the values of `name=value` arguments, checked against a notebook's parameters.

    Values are YAML: numbers, true and false, null, strings and lists such as `[0.1, 0.2]`.

    Raises:
        ValueError: an argument is not `name=value`, or the notebook has no such parameter.
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
                f"the notebook has no parameter {name!r}{hint}\n"
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
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{parameter.name} has a value that is not YAML: {text!r}") from error
    try:
        return float(value) if isinstance(value, str) else value  # YAML 1.1 takes 1e-3 for a word
    except ValueError:
        return value


def own_scale(nb) -> str:
    """Returns the scale that a notebook runs at when nobody asks for another."""
    scale = parameters(nb).get("scale")
    return scale.default if scale else "quick"
