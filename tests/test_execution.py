"""Notebooks are executed in this interpreter, cleaned, stamped, and kept whole on failure."""

import sys

import nbformat.v4 as v4
import pytest

from lossbook import execution, notebooks
from lossbook._jupyter.hooks import WIDGET_VIEW
from lossbook.execution import NotebookFailed, is_stale

PARAMETERS = 'scale = "quick"\nseed = 0\ndevice = "auto"\ntemperature = 0.1  # 0.02 .. 2'
REPORT = """\
import os, sys
import lossbook
print([scale, temperature, os.environ.get("LOSSBOOK_SCALE"), os.environ["LOSSBOOK_PROGRESS"]])
print(sys.executable, os.getcwd(), lossbook.__file__, sep="\\n")"""
PICTURE = """\
from IPython.display import display
view = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "a slider"}
display({**view, "text/html": '<img alt="a line" src="data:,">'}, raw=True)
display(view, raw=True)"""


def test_execute_stamps_and_cleans(book, monkeypatch):
    monkeypatch.setenv("LOSSBOOK_SCALE", "smoke")
    path = book.add(
        "pairs",
        ("code", PARAMETERS, {"tags": ["parameters"], "execution": {"iopub.status.busy": "1"}}),
        ("text", "# Pairs"),
        ("code", REPORT),
        ("code", PICTURE),
    )
    done = []
    seconds = execution.execute(path, progress=done.append)
    nb = notebooks.read(path)

    assert done == [1, 1, 1]
    own, where = nb.cells[2].outputs[0].text.split("\n", 1)
    assert own == "['quick', 0.1, None, '0']"  # LOSSBOOK_SCALE does not reach what is committed
    assert where.split() == [sys.executable, str(path.parent), sys.modules["lossbook"].__file__]
    assert [cell.execution_count for cell in nb.cells if cell.cell_type == "code"] == [1, 2, 3]

    with_picture, without = nb.cells[3].outputs
    assert set(with_picture.data) == {"text/html", "text/plain"}
    assert WIDGET_VIEW in without.data
    assert "execution" not in nb.cells[0].metadata
    assert nb.metadata.kernelspec.name == "python3"
    assert "version" not in nb.metadata.language_info

    assert nb.metadata.lossbook.seconds == seconds > 0
    assert nb.metadata.lossbook.scale == "quick"
    assert not is_stale(nb)
    nb.cells[1].source = "# Changed"
    assert is_stale(nb)


def test_execute_folds_solutions_and_marks_slides(book):
    solution = {"nbgrader": {"solution": True}}
    path = book.add("pairs", ("text", "# T"), ("code", "1", solution), ("text", "A.", solution))
    execution.execute(path)
    nb = notebooks.read(path)
    assert [cell.metadata.slideshow.slide_type for cell in nb.cells] == ["slide", "skip", "skip"]
    assert nb.cells[1].metadata.jupyter.source_hidden
    assert nb.cells[2].source.startswith("<details>")
    assert not is_stale(nb)


def test_execute_leaves_a_notebook_that_raises_untouched(book):
    path = book.add("pairs", ("text", "# T"), ("code", "x = 1\nraise ValueError('no such thing')"))
    before = path.read_bytes()
    with pytest.raises(NotebookFailed) as caught:
        execution.execute(path)
    message = str(caught.value)
    assert message.startswith("cell 2 raised ValueError: no such thing\n    x = 1")
    assert "----> 2 raise ValueError" in message and "\x1b" not in message
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_run_takes_parameters_and_its_scale_wins_over_the_environment(book, monkeypatch):
    monkeypatch.setenv("LOSSBOOK_SCALE", "full")
    path = book.add("pairs", ("code", PARAMETERS, {"tags": ["parameters"]}), ("code", REPORT))
    before = path.read_bytes()
    nb = execution.run(path, {"temperature": 1.5}, scale="smoke")
    assert "['smoke', 1.5, 'smoke', '0']" in nb.cells[2].outputs[0].text
    assert nb.metadata.lossbook.scale == "smoke"
    assert nb.metadata.lossbook.parameters == {"temperature": 1.5, "scale": "smoke"}
    assert "papermill" not in nb.metadata
    assert path.read_bytes() == before


def test_a_run_that_raises_hands_over_what_ran(book, monkeypatch):
    monkeypatch.setenv("LOSSBOOK_SCALE", "full")
    path = book.add("pairs", ("code", "print('before')"), ("code", "1 / 0"), ("code", "2"))
    with pytest.raises(NotebookFailed, match="cell 2 raised ZeroDivisionError") as caught:
        execution.run(path)
    code = [cell for cell in caught.value.notebook.cells if cell.cell_type == "code"]
    assert code[0].outputs[0].text == "before\n"
    assert code[2].outputs == []


def test_the_environment_is_put_back(monkeypatch):
    monkeypatch.setenv("LOSSBOOK_SCALE", "full")
    monkeypatch.delenv("LOSSBOOK_PROGRESS", raising=False)
    with pytest.raises(KeyError), execution.kernel_environment(LOSSBOOK_SCALE=None):
        assert "LOSSBOOK_SCALE" not in execution.os.environ
        raise KeyError
    assert execution.os.environ["LOSSBOOK_SCALE"] == "full"
    assert "LOSSBOOK_PROGRESS" not in execution.os.environ


def test_clean_leaves_no_widget_state():
    nb = v4.new_notebook(metadata={"widgets": {}, "papermill": {}, "jupytext": {}})
    nb.cells = [v4.new_code_cell("1", metadata={"tags": [], "collapsed": True})]
    execution.clean(nb)
    assert set(nb.metadata) == {"kernelspec", "language_info"}
    assert nb.cells[0].metadata == {"collapsed": True}
