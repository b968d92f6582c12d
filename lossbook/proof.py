"""Proves, by running it, that a notebook can be handed out.

One kernel at smoke scale runs the notebook up to the first exercise, where the student edition and
the book's notebook are the same. At each exercise it shows that the check fails on what students
find, and that it passes, hidden tests included, on the book's solution.
"""

import tempfile
from collections.abc import Callable
from itertools import zip_longest

from lossbook.course import student_edition
from lossbook.execution import kernel_client, kernel_environment, plain
from lossbook.presentation import is_graded, is_solution

UNANSWERED = "NotImplementedError"  # what nbgrader puts in a solution's place


class NotFit(Exception):
    """A notebook can't be handed out; the message names the cell and the reason."""


def prove(nb, progress: Callable[[int], None] | None = None) -> None:
    """Runs a notebook as students find it, and with its solutions.

    Args:
        nb: the notebook of the book.
        progress: called with 1 when a code cell is done.

    Raises:
        NotFit: a cell raises, a solution fails its check, or a check passes without an answer.
        ValueError: nbgrader can't release the notebook.
    """
    from nbformat.v4 import new_notebook

    handed_out = student_edition(nb)
    code = [
        (original, empty)
        for original, empty in zip(nb.cells, handed_out.cells, strict=True)
        if original.cell_type == "code"
    ]
    with tempfile.TemporaryDirectory() as folder, kernel_environment(LOSSBOOK_SCALE="smoke"):
        client = kernel_client(new_notebook(), folder)
        with client.setup_kernel():
            for (original, empty), following in zip_longest(code, code[1:]):
                if is_solution(original):
                    _leave_unanswered(client, empty, *(following or ()))
                if error := _run(client, original):
                    raise NotFit(f"{_described(original)} raised {error}")
                if progress:
                    progress(1)


def _leave_unanswered(client, empty, check=None, check_handed_out=None) -> None:
    """Runs an exercise as it is handed out, and the check behind it, which has to fail."""
    error = _run(client, empty)
    if error and not error.startswith(UNANSWERED):
        raise NotFit(f"{_described(empty)}, handed out without its answer, raised {error}")
    if check and is_graded(check) and not is_solution(check):
        if not _run(client, check_handed_out):
            raise NotFit(f"{_described(check)} passes although nothing is answered")


def _run(client, cell) -> str:
    """Runs a cell; returns its error, or an empty string."""
    from nbclient.exceptions import CellControlSignal, CellExecutionError, DeadKernelError

    cell = cell.copy()
    client.nb.cells.append(cell)
    try:
        client.execute_cell(cell, len(client.nb.cells) - 1)
    except CellExecutionError as error:
        return f"{error.ename}: {plain(error.evalue)}"
    except (CellControlSignal, DeadKernelError) as error:
        raise NotFit(f"{_described(cell)}: {plain(str(error))}") from error
    return ""


def _described(cell) -> str:
    name = cell.metadata.get("nbgrader", {}).get("grade_id")
    if is_solution(cell):
        return f"the solution {name!r}"
    if is_graded(cell):
        return f"the check {name!r}"
    return f"the cell {cell.source.strip().split(chr(10), 1)[0]!r}"
