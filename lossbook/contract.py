"""The contract of notebooks and of the catalog: what `lossbook check` looks at.

A finding is one line: the file, what is wrong, what is expected.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from importlib import import_module
from itertools import pairwise
from pathlib import Path

from lossbook import catalog, ledger, notebooks, parameters
from lossbook._jupyter.hooks import WIDGET_VIEW
from lossbook.fingerprint import python_of

MAX_BYTES = 1_000_000
LAST_SECTIONS = ("What we measured", "Exercises", "Further reading")
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"


@dataclass(frozen=True)
class Heading:
    """A heading of a notebook and the position of its cell."""

    level: int
    text: str
    cell: int

    @property
    def anchor(self) -> str:
        """What JupyterLab's links call it: its text with hyphens for spaces."""
        return re.sub(r"[*`]", "", self.text).replace(" ", "-")


def check(path: Path, nb) -> list[str]:
    """Returns what is wrong with a notebook, one line a finding."""
    try:
        entry = catalog.notebook(path.name)
    except ValueError:
        return [f"{notebooks.shown(path)}: is not listed in lossbook/catalog/notebooks.yml"]
    checks = [_outputs, _headings, _images]
    if entry.path != catalog.START_HERE:
        checks += [_parameters, _devices, _sections, _exercises, _claims]
    findings = [finding for part in checks for finding in part(nb, entry)]
    if path.stat().st_size > MAX_BYTES:
        findings.append(f"is {path.stat().st_size / 1e6:.2f} MB; at most {MAX_BYTES / 1e6:g} MB")
    return [f"{notebooks.shown(path)}: {finding}" for finding in findings]


# Structure


def headings(nb) -> list[Heading]:
    """Returns all headings of a notebook's text cells, in order."""
    found = []
    for position, cell in enumerate(nb.cells):
        if cell.cell_type != "markdown":
            continue
        fenced = False
        for line in cell.source.splitlines():
            fenced ^= line.lstrip().startswith(("```", "~~~"))
            if not fenced and (match := re.match(r"(#{1,6})\s+(.+?)\s*#*$", line)):
                found.append(Heading(len(match[1]), match[2], position))
    return found


def _headings(nb, entry) -> Iterator[str]:
    found = headings(nb)
    titles = [heading for heading in found if heading.level == 1]
    if len(titles) != 1 or titles[0].cell != 0:
        yield f"has {len(titles)} titles (#); exactly one is expected, in the first cell"
    for before, after in pairwise(found):
        if after.level > before.level + 1:
            yield (
                f"heading {after.text!r} jumps from level {before.level} to {after.level}; "
                "headings nest without jumps"
            )


def _parameters(nb, entry) -> Iterator[str]:
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    tagged = [i for i, cell in enumerate(code) if "parameters" in cell.metadata.get("tags", [])]
    if tagged != [0]:
        yield "the first code cell, and no other, is tagged `parameters`"
        return
    if len(code) < 2 or "configure(" not in code[1].source:
        yield "the cell after the parameters is the setup: imports, then settings.configure(…)"
    known = parameters.parse(nb)
    for name in parameters.RESERVED:
        if name not in known:
            yield f"the parameters cell has no {name!r}; it sets scale, seed and device"
    for parameter in known.values():
        if parameter.name in parameters.RESERVED:
            continue
        if parameter.ends is None:
            expected = "# one of: a, b" if isinstance(parameter.default, str) else "# 0.02 .. 2"
            yield f"parameter {parameter.name!r} names no range; expected a comment `{expected}`"
        elif not parameter.contains_default:
            yield f"parameter {parameter.name!r}: its default lies outside its range"


def _devices(nb, entry) -> Iterator[str]:
    """Solutions may train where they like."""
    for cell in nb.cells:
        if cell.cell_type != "code" or BEGIN in cell.source or cell.source.startswith("%"):
            continue
        code = python_of(cell.source)
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "fit_replicas":
                if "device" not in [keyword.arg for keyword in node.keywords]:
                    line = code.splitlines()[node.lineno - 1].strip()
                    yield f"{line!r} trains on the CPU; expected device=run.device"


def _sections(nb, entry) -> Iterator[str]:
    found = [heading for heading in headings(nb) if heading.level == 2]
    anchors = [heading.anchor for heading in found]
    expected = []
    for name in entry.papers:
        paper = catalog.paper(name)
        anchor = paper.section.partition("#")[2]
        if not anchor:
            yield f"paper {name!r} has no `section` in papers.yml; a written notebook's papers do"
        elif anchor not in anchors:
            yield f"has no section (##) {anchor!r} for paper {name!r}, which papers.yml points to"
        else:
            expected.append(anchor)
    expected = sorted(expected, key=anchors.index)
    for title in LAST_SECTIONS if entry.papers else LAST_SECTIONS[1:]:
        anchor = title.replace(" ", "-")
        if anchor not in anchors:
            yield f"has no section '## {title}'"
        else:
            expected.append(anchor)
    actual = [anchor for anchor in anchors if anchor in expected]
    if actual != expected or (expected and anchors[-1] != expected[-1]):
        yield f"its sections stand in the order {actual}; expected {expected}, and nothing behind"


def _exercises(nb, entry) -> Iterator[str]:
    section = _cells_of_section(nb, "Exercises")
    tasks = [
        heading
        for heading in headings(nb)
        if heading.level == 3 and any(nb.cells[heading.cell] is cell for cell in section)
    ]
    if not 2 <= len(tasks) <= 4:
        yield f"has {len(tasks)} exercises (### below ## Exercises); 2 to 4 are expected"
    solutions = [cell for cell in section if _grading(cell).get("solution")]
    if len(solutions) < len(tasks):
        yield f"has {len(tasks)} exercises but {len(solutions)} solution cells (nbgrader metadata)"
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    for cell in code:
        name = _grading(cell).get("grade_id", "without a grade_id")
        if not _grading(cell).get("solution"):
            if BEGIN in cell.source:
                yield f"cell {_first_line(cell)!r} holds a solution, but is no solution cell"
            continue
        if not re.search(rf"{BEGIN}.*{END}", cell.source, re.DOTALL):
            yield f"solution cell {name} lacks '{BEGIN}' … '{END}'"
        if _grading(cell).get("grade"):
            continue  # graded by a person
        position = next(i for i, other in enumerate(code) if other is cell) + 1
        test = _grading(code[position]) if position < len(code) else {}
        if not (test.get("locked") and test.get("grade") and test.get("points", 0) > 0):
            yield f"solution cell {name} is not followed by a locked test cell with points"
    by_hand = [cell for cell in solutions if _grading(cell).get("grade")]
    if entry.papers and not by_hand:
        yield (
            "has no question that a person grades: a text cell whose nbgrader metadata say "
            "grade, solution and points"
        )
    yield from _nbgrader(nb)


def _cells_of_section(nb, title: str) -> list:
    second = [heading for heading in headings(nb) if heading.level == 2]
    for heading, after in zip(second, [*second[1:], None], strict=True):
        if heading.text == title:
            return nb.cells[heading.cell : after.cell if after else None]
    return []


def _grading(cell) -> dict:
    return cell.metadata.get("nbgrader", {})


def _first_line(cell) -> str:
    return cell.source.strip().split("\n", 1)[0]


def _nbgrader(nb) -> Iterator[str]:
    names = [_grading(cell)["grade_id"] for cell in nb.cells if "grade_id" in _grading(cell)]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"grade_id {name!r} occurs {names.count(name)} times; each is unique"
    try:
        from nbgrader.nbgraderformat import MetadataValidator
    except ImportError:  # only maintainers have it
        return
    validator = MetadataValidator()
    for cell in nb.cells:
        try:
            validator.validate_cell(cell)
        except Exception as error:  # jsonschema's and nbgrader's own
            reason = str(error).split("\n", 1)[0]
            yield f"cell {_first_line(cell)!r} has invalid nbgrader metadata: {reason}"


# Outputs


def _outputs(nb, entry) -> Iterator[str]:
    code = [cell for cell in nb.cells if cell.cell_type == "code" and cell.source.strip()]
    counts = [cell.execution_count for cell in code]
    if counts != list(range(1, len(code) + 1)):
        yield "is not executed from the first cell to the last; `lossbook execute` does that"
    if "widgets" in nb.metadata:
        yield "holds widget state; `lossbook execute` leaves it out"
    for cell in code:
        for output in cell.outputs:
            if output.output_type == "error":
                yield f"cell [{cell.execution_count}] has the error {output.ename}: {output.evalue}"
            elif output.get("name") == "stderr":
                text = output.text.strip()[:80]
                yield f"cell [{cell.execution_count}] writes to stderr: {text!r}"
            elif WIDGET_VIEW in output.get("data", {}):
                yield (
                    f"cell [{cell.execution_count}] shows a widget without a picture beside it; "
                    "nothing is seen where no kernel runs"
                )


class _ImageTags(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.alts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.alts.append((dict(attributes).get("alt") or "").strip())


def _images(nb, entry) -> Iterator[str]:
    for position, cell in enumerate(nb.cells, 1):
        if cell.cell_type == "markdown":
            alts = re.findall(r"!\[([^\]]*)\]\(", cell.source) + _ImageTags(cell.source).alts
            if not all(alt.strip() for alt in alts):
                yield f"cell {position} has a picture without alt text"
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            alts = _ImageTags("".join(data.get("text/html", ""))).alts
            if not all(alts):
                yield f"cell [{cell.execution_count}] shows an <img> without alt text"
            if not alts and any(kind.startswith("image/") for kind in data):
                yield f"cell [{cell.execution_count}] shows a picture without alt text: plots.show"


def _claims(nb, entry) -> Iterator[str]:
    claims = ledger.claims_of(nb)
    recorded = {claim["paper"] for claim in claims}
    scale = parameters.own_scale(nb)
    for claim in claims:
        if claim["scale"] != scale:
            yield f"claim {claim['id']!r} is recorded at scale {claim['scale']}; expected {scale}"
    for name in sorted(recorded - set(entry.papers)):
        yield f"records a claim of {name!r}; its papers are {', '.join(entry.papers) or 'none'}"
    for name in entry.papers:
        if name not in recorded:
            yield f"records no claim of {name!r}; each paper has at least one"


# The catalog's pointers


def check_catalog() -> list[str]:
    """Returns which rows of the catalog point to nothing, one line a finding."""
    home = notebooks.home()
    anchors = {
        path.relative_to(home).as_posix(): {h.anchor for h in headings(notebooks.read(path))}
        for path in notebooks.written()
    }
    return [
        f"lossbook/catalog/papers.yml: {paper.id}: {finding}"
        for paper in catalog.papers()
        for finding in _pointers(paper, home, anchors)
    ]


def _pointers(paper: catalog.Paper, home: Path, anchors: dict[str, set[str]]) -> Iterator[str]:
    entry = catalog.notebook(paper.notebook)
    if paper.id not in entry.papers:
        yield f"belongs to notebook {paper.notebook}, which lists {', '.join(entry.papers)}"
    if entry.path in anchors:
        wanted = ("authors", "objective", "section", "test")
        missing = [name for name in wanted if not getattr(paper, name)]
        if missing:
            yield f"has no {', '.join(missing)}, though its notebook is written"
    for objective in paper.objective:
        if not _importable(objective):
            yield f"objective {objective!r} can't be imported"
    if paper.test and not (home / paper.test).is_file():
        yield f"test {paper.test!r} is not a file"
    if paper.section:
        path, _, anchor = paper.section.partition("#")
        if path != entry.path or path not in anchors:
            yield f"section {paper.section!r} is not in its notebook, {entry.path!r}"
        elif anchor not in anchors[path]:
            yield f"section {paper.section!r}: the notebook has no such heading"


def _importable(dotted: str) -> bool:
    module, _, name = dotted.rpartition(".")
    try:
        return hasattr(import_module(module), name)
    except (ImportError, ValueError):
        return False
