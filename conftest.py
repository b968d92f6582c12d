"""Runs the committed notebooks: `pytest notebooks --nbval-lax --nbval-current-env`.

nbval executes every cell at smoke scale. Each notebook gets three more items, all of them in the
notebook's own file, so that xdist's `--dist loadfile` keeps a notebook on one worker:

- `low` and `high`: at smoke scale with all knobs at that end of their range;
- `quick`: at quick scale, if the committed outputs are not current (or `LOSSBOOK_FULL=1`). Its
  claims must agree with the committed ones.
"""

import os
from pathlib import Path

import nbformat.v4 as v4
import pytest

from lossbook import catalog, ledger, parameters
from lossbook.execution import NotebookFailed, is_stale, kernel_environment, run
from lossbook.notebooks import read, write

ROOT = Path(__file__).parent


def pytest_collect_file(file_path: Path, parent):
    tested = parent.config.getoption("nbval_lax", default=False)
    if tested and file_path.suffix == ".ipynb" and file_path.is_relative_to(ROOT / "notebooks"):
        return NotebookRuns.from_parent(parent, path=file_path)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    """nbval starts a notebook's kernel when it sets up the first cell."""
    if item.path.suffix != ".ipynb":
        return (yield)
    with _small_kernels():
        return (yield)


def _small_kernels():
    threads = {"OMP_NUM_THREADS": "1"} if "PYTEST_XDIST_WORKER" in os.environ else {}
    return kernel_environment(LOSSBOOK_SCALE="smoke", **threads)


class NotebookRuns(pytest.File):
    """The runs of one notebook beside nbval's."""

    def collect(self):
        nb = read(self.path)
        knobs = [p for p in parameters.parse(nb).values() if p.name not in parameters.RESERVED]
        ends = {p.name: p.ends for p in knobs if p.ends}
        if ends:
            for place, name in enumerate(("low", "high")):
                values = {knob: both[place] for knob, both in ends.items()}
                yield EndOfRange.from_parent(self, name=name, values=values)
        yield Quick.from_parent(self, name="quick", nb=nb)


class NotebookItem(pytest.Item):
    def reportinfo(self):
        return self.path, None, f"{self.path.stem} {self.name}"

    def repr_failure(self, excinfo, style=None):
        if excinfo.errisinstance((NotebookFailed, AssertionError)):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)


class EndOfRange(NotebookItem):
    """All knobs at one end of their ranges: the notebook still runs."""

    def __init__(self, *, values, **kwargs):
        super().__init__(**kwargs)
        self.values = values

    def runtest(self):
        with _small_kernels():
            run(self.path, self.values, scale="smoke")


class Quick(NotebookItem):
    """The claims of a fresh run agree with the committed ones."""

    def __init__(self, *, nb, **kwargs):
        super().__init__(**kwargs)
        self.nb = nb

    def runtest(self):
        if not (is_stale(self.nb) or os.environ.get("LOSSBOOK_FULL")):
            pytest.skip("the committed outputs are current")
        with _small_kernels():
            fresh = run(self.path, scale="quick")
        changes = ledger.changes(ledger.claims_of(self.nb), ledger.claims_of(fresh))
        assert not changes, "\n".join(changes)


# A small checkout, for the tests of the command line


class Book:
    """A checkout in a temporary folder, with the notebooks that a test puts there."""

    def __init__(self, home: Path):
        self.home = home

    def add(self, name: str, *cells: tuple) -> Path:
        """Writes a notebook of (kind, source[, metadata[, outputs]]) cells; returns its file."""
        path = self.home / catalog.notebook(name).path
        code = 0
        nb = v4.new_notebook()
        for kind, source, *rest in cells:
            metadata = rest[0] if rest else {}
            if kind == "text":
                nb.cells.append(v4.new_markdown_cell(source, metadata=metadata))
                continue
            code += 1
            cell = v4.new_code_cell(source, metadata=metadata, execution_count=code)
            cell.outputs = rest[1] if len(rest) > 1 else []
            nb.cells.append(cell)
        write(nb, path)
        return path


@pytest.fixture
def book(tmp_path, monkeypatch) -> Book:
    home = (tmp_path / "checkout").resolve()
    (home / "lossbook" / "catalog").mkdir(parents=True)
    for part in catalog.parts():
        (home / "notebooks" / part.folder).mkdir(parents=True)
    monkeypatch.setenv("LOSSBOOK_HOME", str(home))
    monkeypatch.delenv("LOSSBOOK_SCALE", raising=False)
    return Book(home)
