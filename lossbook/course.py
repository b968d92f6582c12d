"""Editions of the notebooks for a course: what students get, and what nbgrader takes.

A notebook of the book holds its exercises' solutions, so that nothing is kept twice by hand:

- the student edition has `# YOUR CODE HERE` in their place, the checks that may be seen, and the
  outputs of everything before the exercises. With solutions, each check is followed by a folded
  cell that shows the solution: for the reader who works alone.
- the nbgrader edition is the source of a course: solutions and hidden tests stay in, since
  nbgrader takes them out itself.

In the book itself the solution cells are folded (see `presentation`); here they are unfolded.
"""

import copy
import re
import tempfile
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath

from lossbook.notebooks import home, replacing, write
from lossbook.presentation import folded, is_graded, is_solution, unfold

MARKER = re.compile(r"^[ \t]*### (?:BEGIN|END) SOLUTION[ \t]*\n?", re.MULTILINE)
MARKDOWN_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^()\s]+\.ipynb)(#[^()\s]*)?\)")
HTML_LINK = re.compile(r'<a href="([^"]+\.ipynb)(#[^"]*)?">(.*?)</a>', re.DOTALL)
NBGRADER_CONFIG = """\
# Configuration of nbgrader for this course, written by `lossbook course nbgrader`.
c = get_config()
c.CourseDirectory.course_id = "lossbook"

# The kernel that grades runs at smoke scale. It is told so itself: a variable set here would also
# reach every other kernel of a server that has loaded nbgrader.
c.Execute.extra_arguments = [
    "--IPKernelApp.exec_lines=import os; os.environ['LOSSBOOK_SCALE'] = 'smoke'"
]
c.Execute.timeout = 120  # seconds for a cell; nbgrader's 30 are few on a busy machine

# Figures stay in the students' notebooks. The exercises' outputs are already gone.
c.ClearOutput.enabled = False
"""


def student_edition(nb, with_solutions: bool = False):
    """Returns a notebook without its solutions, as nbgrader releases it.

    Args:
        nb: the notebook of the book.
        with_solutions: whether each check is followed by a folded cell with the solution.

    Raises:
        ValueError: nbgrader can't release it; the message says why.
    """
    from nbgrader import preprocessors

    released, resources = source_edition(nb), {}
    try:
        for step in (
            preprocessors.LockCells,
            preprocessors.ClearSolutions,
            preprocessors.ClearHiddenTests,
            preprocessors.ClearMarkScheme,
            preprocessors.ComputeChecksums,
            preprocessors.CheckCellMetadata,
        ):
            released, resources = step().preprocess(released, resources)
    except Exception as error:  # RuntimeError, and jsonschema's own
        raise ValueError(f"nbgrader can't release it: {error}") from error
    if with_solutions:
        _insert_solutions(released, nb)
    return released


def source_edition(nb):
    """Returns a notebook as an instructor keeps it: with solutions, without their outputs."""
    source = copy.deepcopy(nb)
    source.metadata.pop("lossbook", None)  # the fingerprint is that of the book's notebook
    in_exercises = False
    for cell in source.cells:
        in_exercises = in_exercises or is_solution(cell)
        if in_exercises and cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        if is_solution(cell):
            unfold(cell)
    return source


def _insert_solutions(released, nb) -> None:
    """Puts a folded solution behind the check that belongs to it."""
    waiting, cells = None, []
    for cell, original in zip(released.cells, nb.cells, strict=True):
        cells.append(cell)
        if is_solution(original):
            waiting = original
        if waiting and is_graded(original):
            cells.append(_solution_cell(waiting))
            waiting = None
    released.cells = cells


def _solution_cell(solution):
    from nbformat.v4 import new_markdown_cell

    text = MARKER.sub("", solution.source).strip()
    if solution.cell_type == "code":
        text = f"```python\n{text}\n```"
    return new_markdown_cell(folded(text), id=f"{solution.id[:55]}-solution")


# Links between notebooks


def relink(nb, path: str, places: dict[str, str]) -> None:
    """Lets a notebook's links lead to where the other notebooks of the course are.

    What is linked and not part of the course becomes plain text.

    Args:
        nb: the notebook; its text cells and the HTML of its outputs change.
        path: where it stands in the book, from `notebooks/` on.
        places: for each notebook of the course its place in the book and in the course.
    """
    folder, here = PurePosixPath(path).parent.as_posix(), PurePosixPath(places[path]).parent

    def place(target: str) -> str | None:
        there = places.get(normpath(f"{folder}/{target}"))
        return there and relpath(there, here.as_posix())

    def in_markdown(match: re.Match) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        return f"[{text}]({there}{anchor})" if (there := place(target)) else text

    def in_html(match: re.Match) -> str:
        target, anchor, text = match[1], match[2] or "", match[3]
        return f'<a href="{there}{anchor}">{text}</a>' if (there := place(target)) else text

    for cell in nb.cells:
        if cell.cell_type == "markdown":
            cell.source = MARKDOWN_LINK.sub(in_markdown, cell.source)
        for output in cell.get("outputs", []):
            if "text/html" in output.get("data", {}):
                html = "".join(output.data["text/html"])
                output.data["text/html"] = HTML_LINK.sub(in_html, html)


# What is written


def student_files(opened: dict[Path, object], with_solutions: bool = False) -> dict[str, object]:
    """Returns the student edition of notebooks by their path, in the book's folders."""
    places = {name: name for name in map(_name, opened)}
    files = {}
    for (path, nb), name in zip(opened.items(), places, strict=True):
        try:
            files[name] = student_edition(nb, with_solutions)
        except ValueError as error:
            raise ValueError(f"{path.stem}: {error}") from error
        relink(files[name], name, places)
    return files


def has_exercises(nb) -> bool:
    """Whether something in a notebook is graded."""
    return any(map(is_graded, nb.cells))


def nbgrader_files(opened: dict[Path, object]) -> dict[str, object]:
    """Returns the files of an nbgrader course by their path: one assignment for each notebook.

    Notebooks in which nothing is graded are left out.

    Raises:
        ValueError: nothing is left.
    """
    places = {
        _name(path): f"source/{path.stem}/{path.name}"
        for path, nb in opened.items()
        if has_exercises(nb)
    }
    if not places:
        raise ValueError("none of these notebooks has exercises")
    files: dict[str, object] = {"nbgrader_config.py": NBGRADER_CONFIG}
    for path, nb in opened.items():
        if name := places.get(_name(path)):
            files[name] = source_edition(nb)
            relink(files[name], _name(path), places)
    return files


def _name(path: Path) -> str:
    """A notebook's path from `notebooks/` on; the file's name if it is not in the book."""
    folder = home() / "notebooks"
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name


def check_destination(out: Path, names: Collection[str], force: bool = False) -> None:
    """Raises ValueError unless files can be written below a folder without any harm."""
    check_folder(out)
    if (home() / "notebooks").resolve() in {out.resolve(), *out.resolve().parents}:
        raise ValueError(f"OUT must lie outside the book's own notebooks, got {str(out)!r}")
    if out.exists() and any(out.iterdir()) and not force:
        raise ValueError(
            f"{out} is not empty; --force replaces {len(names)} files there and keeps all others"
        )


def check_folder(folder: Path) -> None:
    """Raises ValueError unless files can be written into a folder, which need not exist yet."""
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not existing.is_dir():
        raise ValueError(f"OUT must be a folder, and {existing} is a file")
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise ValueError(f"OUT can't be written to: {error}") from error


def write_files(out: Path, files: dict[str, object]) -> None:
    """Writes notebooks and texts below a folder, each so that it is never seen half written."""
    for name, content in files.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            with replacing(path) as stream:
                stream.write(content)
        else:
            write(content, path)
