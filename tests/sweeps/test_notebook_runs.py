"""Notebooks in a sweep, and all of them: `lossbook run --all`."""

import json

import pytest
from click.testing import CliRunner

from lossbook.claims import MIME
from lossbook.cli import main

pytestmark = pytest.mark.no_typecheck
PARAMETERS = ("code", 'scale = "quick"\nseed = 0', {"tags": ["parameters"]})
CLAIM = {"id": "p/c", "paper": "p", "kind": "exact", "verdict": "reproduced", "sentence": "S."}
CLAIM |= {"largest": 0.0, "tolerance": 1e-6, "n": 3, "metric": "largest deviation"}
SHOW = f"from IPython.display import display\ndisplay({{{MIME!r}: {CLAIM!r}}}, raw=True)"


def lossbook(*arguments: str):
    return CliRunner().invoke(main, arguments)


@pytest.mark.slow
def test_a_notebook_with_a_failing_setting(reader):
    reader.write_notebook()
    arguments = ("sweep", "mine.ipynb", "-p", "beta=-1,2", "--seeds", "3", "-o", "out")
    code, out, err = reader.lossbook(*arguments, "--scale", "smoke", "--workers", "2")
    assert code == 1 and "1 of 2 runs" in out
    assert "  1 run: cell 3 raised RuntimeError: too cold\n    such as mine seed=3 beta=-1" in err
    (failed,) = reader.folder.glob("out/failed/*/notebook.ipynb")
    assert str(failed.relative_to(reader.folder)) in err and "too cold" in failed.read_text()
    (run,) = reader.folder.glob("out/runs/*")
    assert sorted(path.name for path in run.iterdir()) == ["notebook.ipynb", "record.json"]
    record = json.loads((run / "record.json").read_text())
    assert record["rows"] == [{"score": 23.0}]
    assert record["parameters"] == {"scale": "smoke", "seed": 3, "beta": 2}


@pytest.mark.slow
def test_the_book_runs_in_parallel_and_goes_on(book, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    book.add("pairs", PARAMETERS, ("code", SHOW))
    broken = book.add("21", PARAMETERS, ("code", "raise RuntimeError(scale)"))
    result = lossbook("run", "--all", "--scale", "smoke", "--workers", "2", "-o", "out")
    assert result.exit_code == 1, result.output
    assert "1 of 2 runs are in out, 0 of them from before" in result.output
    assert (
        "cell 3 raised RuntimeError: smoke\n    such as 21_pair_weighting scale=smoke: "
        in result.output
    )
    assert " s  pairs\n" in result.output and " s  together\n" in result.output

    broken.write_text(broken.read_text().replace("raise RuntimeError(scale)", "scale"))
    result = lossbook("run", "--all", "--scale", "smoke", "-o", "out")
    assert result.exit_code == 0, result.output
    assert "2 of 2 runs are in out, 1 of them from before" in result.output
    ledger = json.loads(lossbook("report", "out", "--json").output)
    assert [claim["id"] for claim in ledger["claims"]] == ["p/c"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "name a notebook, or give --all"),
        (["21", "--all"], "name a notebook, or give --all"),
        (["--all", "-p", "seed=1"], "-p is for one notebook"),
        (["21", "--workers", "2"], "--workers is for --all"),
        (["--all", "--scale", "huge"], "scale must be one of smoke, quick, full, got 'huge'"),
    ],
)
def test_bad_input(book, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    book.add("pairs", PARAMETERS)
    result = lossbook("run", *arguments)
    assert result.exit_code == 2 and message in result.output
