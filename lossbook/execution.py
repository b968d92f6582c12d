"""Executing notebooks: in place for the maintainer, with other parameters for the reader."""

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from lossbook._jupyter.hooks import strip_widgets
from lossbook.fingerprint import fingerprint
from lossbook.notebooks import read, write
from lossbook.parameters import own_scale
from lossbook.presentation import fold_solutions, mark_slides

KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
LANGUAGE = {
    "codemirror_mode": {"name": "ipython", "version": 3},
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "nbconvert_exporter": "python",
    "pygments_lexer": "ipython3",
}
PAPERMILL_NOTE = "papermill-error-cell-tag"  # cells that papermill adds to a failed notebook
CELL_TIMEOUT = 600  # seconds, for the book's own runs; a reader's run has no limit


class NotebookFailed(Exception):
    """A notebook's cell raised. `notebook` holds it as far as it ran."""

    def __init__(self, message: str, notebook):
        super().__init__(message)
        self.notebook = notebook


def execute(path: Path, progress: Callable[[int], None] | None = None) -> float:
    """Executes a notebook in place at its own defaults, as it is committed.

    It is stamped with its fingerprint, the seconds and the scale in `metadata.lossbook`, its
    solutions are folded, and its cells get slide types where the author has set none. The file
    changes only when every cell has run. Returns the seconds that it took.

    Args:
        path: the notebook.
        progress: called with 1 when a code cell is done.

    Raises:
        NotebookFailed: a cell raised, or took longer than `CELL_TIMEOUT` seconds.
    """
    from nbclient.exceptions import CellControlSignal, DeadKernelError

    nb = read(path)
    fold_solutions(nb)
    stamp = fingerprint(nb)
    clear(nb)
    client = kernel_client(nb, path.parent)
    if progress:
        client.on_cell_complete = lambda cell, cell_index: progress(1)

    started = time.perf_counter()
    try:
        # Not client.execute(), which answers Ctrl-C with a failed assertion.
        with kernel_environment(LOSSBOOK_SCALE=None), client.setup_kernel():
            for index, cell in enumerate(nb.cells):
                client.execute_cell(cell, index)
    except (CellControlSignal, DeadKernelError) as error:
        raise NotebookFailed(describe_failure(nb, error), nb) from error
    seconds = round(time.perf_counter() - started, 1)

    clean(nb)
    mark_slides(nb)
    nb.metadata["lossbook"] = {"fingerprint": stamp, "seconds": seconds, "scale": own_scale(nb)}
    write(nb, path)
    return seconds


def run(
    path: Path,
    parameters: dict[str, object] | None = None,
    scale: str | None = None,
    progress_bar: bool = False,
    nb=None,
):
    """Runs a notebook with papermill and returns it executed; the file itself stays as it is.

    What is returned is stamped as by `execute`, and with the parameters.

    Args:
        path: the notebook, which runs in its folder.
        parameters: values that replace those of its parameters cell.
        scale: smoke, quick or full; None leaves it to `LOSSBOOK_SCALE` and the notebook.
        progress_bar: whether papermill shows one.
        nb: the notebook, if it has been read already; else it is read from the file.

    Raises:
        NotebookFailed: a cell raised.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    nb = nb or read(path)
    stamp = fingerprint(nb)
    values = dict(parameters or {})
    if scale:
        values["scale"] = scale
    wins = {"LOSSBOOK_SCALE": str(values["scale"])} if "scale" in values else {}
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, kernel_environment(**wins):
        scale = os.environ.get("LOSSBOOK_SCALE") or own_scale(nb)
        out = Path(folder) / "out.ipynb"
        try:
            papermill.execute_notebook(
                nb,
                str(out),
                parameters=values,
                cwd=str(path.parent),
                progress_bar={"desc": path.stem} if progress_bar else False,
                request_save_on_cell_execute=False,
                kernel_name="python3",
                language="python",
                kernel_manager_class=_kernel_manager(),
                coalesce_streams=True,
            )
        except PapermillExecutionError as error:
            nb = read(out)
            raise NotebookFailed(describe_failure(nb, error), nb) from error
        except DeadKernelError as error:
            raise NotebookFailed(str(error), nb) from error
        nb = read(out)
    seconds = round(time.perf_counter() - started, 1)
    clean(nb)
    nb.metadata["lossbook"] = {
        "fingerprint": stamp,
        "seconds": seconds,
        "scale": scale,
        "parameters": values,
    }
    return nb


def is_stale(nb) -> bool:
    """Whether a notebook's sources, or the package code they use, changed since it was executed."""
    return nb.metadata.get("lossbook", {}).get("fingerprint") != fingerprint(nb)


def describe_failure(nb, error: Exception, lines: int = 12) -> str:
    """Returns what went wrong in a notebook: the cell, its first lines, the traceback's end."""
    own = [cell for cell in nb.cells if PAPERMILL_NOTE not in cell.metadata.get("tags", [])]
    for number, cell in enumerate(own, 1):
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                source = "\n".join(f"    {line}" for line in cell.source.splitlines()[:6])
                trace = plain("\n".join(output.traceback)).splitlines()[-lines:]
                return (
                    f"cell {number} raised {output.ename}: {plain(output.evalue)}\n"
                    f"{source}\n  the end of the traceback:\n"
                    + "\n".join(f"    {line}" for line in trace)
                )
    return plain(str(error))


def plain(text: str) -> str:
    """Returns a text without terminal colors."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def clear(nb) -> None:
    """Removes all outputs and execution counts."""
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None


def clean(nb) -> None:
    """Removes what only a running front end can use, or what differs from run to run.

    That is widget state, widget views with a picture beside them, timings, the notes of papermill
    and jupytext, the kernel's name and the interpreter's version.
    """
    strip_widgets(nb)
    for name in ("papermill", "jupytext"):
        nb.metadata.pop(name, None)
    nb.metadata["kernelspec"] = dict(KERNEL)
    nb.metadata["language_info"] = dict(LANGUAGE)
    for cell in nb.cells:
        for name in ("execution", "papermill", "ExecuteTime", "lines_to_next_cell"):
            cell.metadata.pop(name, None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]  # papermill leaves empty lists


def kernel_client(nb, folder: str | os.PathLike):
    """Returns nbclient's client that runs a notebook's cells in this interpreter, in a folder."""
    from nbclient import NotebookClient

    return NotebookClient(
        nb,
        timeout=CELL_TIMEOUT,
        resources={"metadata": {"path": str(folder)}},
        kernel_name="python3",
        kernel_manager_class=_kernel_manager(),
        coalesce_streams=True,
        store_widget_state=False,
    )


@cache
def _kernel_manager() -> type:
    """A kernel manager that starts the interpreter we run in, whatever kernels are installed."""
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    class ThisInterpreter(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            return KernelSpec(resource_dir="", **get_kernel_dict())

        async def start_kernel(self, **options):
            # What the kernel process itself logs; what cells write arrives as their output.
            return await super().start_kernel(stderr=subprocess.DEVNULL, **options)

    return ThisInterpreter


# OpenMP's threads spin while they wait, and where anything else runs on a small machine (a browser,
# a second notebook) that made training six times slower.
# Small networks, stacked, gain nothing from a second thread: with two, some took a fifth longer.
POLITE_THREADS = {
    name: os.environ.get(name, default)
    for name, default in (("OMP_WAIT_POLICY", "PASSIVE"), ("OMP_NUM_THREADS", "1"))
}


@contextmanager
def kernel_environment(**changes: str | None) -> Iterator[None]:
    """Sets the variables that kernels started inside inherit; None unsets one.

    Progress bars are off, threads are few and polite, and the kernel imports our own package.
    """
    changes["LOSSBOOK_PROGRESS"] = "0"
    changes = {**POLITE_THREADS, **changes}
    root = Path(__file__).parents[1]
    if (root / "pyproject.toml").is_file():  # a checkout, which need not be installed
        paths = [str(root), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        changes["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    before = {name: os.environ.get(name) for name in changes}
    _set_variables(changes)
    try:
        yield
    finally:
        _set_variables(before)


def _set_variables(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
