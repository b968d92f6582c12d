"""The command line: what it prints, how it fails, what it leaves behind."""

import json
import os
import re
import subprocess
import sys

import nbformat.v4 as v4
import pytest
from click.testing import CliRunner

from lossbook import __version__, catalog, cli, execution, lab, notebooks
from lossbook.claims import MIME
from lossbook.execution import NotebookFailed

PARAMETERS = 'scale = "quick"\nseed = 0\ndevice = "auto"\ntemperature = 0.1  # 0.02 .. 2'
CELLS = [("text", "# Pairs"), ("code", PARAMETERS, {"tags": ["parameters"]}), ("code", "seed")]


@pytest.fixture
def lossbook(book, tmp_path, monkeypatch):
    folder = tmp_path / "somewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("PORT", raising=False)
    return lambda *arguments: CliRunner().invoke(cli.main, arguments)


@pytest.fixture
def fake_run(monkeypatch):
    """Replaces the kernel: hands back the notebook, or fails if the temperature is too high."""
    calls = []

    def run(path, values, progress_bar=False):
        calls.append(values)
        nb = v4.new_notebook(cells=[v4.new_markdown_cell(repr(values))])
        if values.get("temperature", 0) > 2:
            raise NotebookFailed("cell 4 raised ValueError: too hot", nb)
        return nb

    monkeypatch.setattr(execution, "run", run)
    return calls


def test_help_and_version(lossbook):
    assert f"version {__version__}" in lossbook("--version").output
    help_text = lossbook("-h").output
    for name in ("list", "show", "cite", "run", "sweep", "execute", "report", "check", "lab"):
        assert f"\n  {name} " in help_text
    assert lossbook("lst").exit_code == 2


# The catalog


def test_list_shows_every_part_notebook_and_paper(lossbook, book):
    book.add("21", *CELLS)
    out = lossbook("list").output
    for part in catalog.parts():
        assert part.title in out
    for paper in catalog.papers():
        assert paper.id in out
    assert "21  Pair weighting, negative pairs and mixup (pair_weighting, written)" in out
    assert "22  Few-shot, zero-shot and label geometry (few_and_zero_shot, coming)" in out
    done = sum(paper.done for paper in catalog.papers())
    assert out.endswith(f"\n{done} of 215 papers are done.\n")


def test_list_of_a_part(lossbook):
    out = lossbook("list", "--part", "metric").output
    assert "multi-similarity" in out and "comp-sum" not in out
    wrong = lossbook("list", "--part", "cooking")
    assert wrong.exit_code == 2
    assert "no part is called 'cooking'" in wrong.output and "03_metric_learning" in wrong.output


def test_search(lossbook):
    out = lossbook("list", "--search", "multi similarity").output
    assert out.startswith("multi-similarity ") and "[21]" in out.splitlines()[0]
    assert "pairs" in lossbook("list", "--search", "triplet").output
    nothing = lossbook("list", "--search", "zebra crossing")
    assert nothing.exit_code == 0
    assert nothing.output == "nothing in the catalog contains 'zebra crossing'\n"


def test_list_as_json(lossbook):
    rows = json.loads(lossbook("list", "--json").output)
    assert len(rows) == 215
    rows = json.loads(lossbook("list", "--part", "3", "--search", "multi", "--json").output)
    assert rows[0]["id"] == "multi-similarity"
    assert rows[0]["url"] == "https://arxiv.org/abs/1904.06627"
    assert rows[0]["notebook_path"] == "notebooks/03_metric_learning/21_pair_weighting.ipynb"
    assert {"done", "idea", "formula", "knobs"} <= rows[0].keys()


def test_show(lossbook):
    for paper in catalog.papers():
        shown = lossbook("show", paper.id)
        assert shown.exit_code == 0 and paper.formula.strip().splitlines()[0] in shown.output
    out = lossbook("show", "multi-similarity").output
    assert "CVPR 2019, https://arxiv.org/abs/1904.06627" in out
    assert "code: https://github.com/MalongTech/research-ms-loss" in out
    assert "notebook 21, Pair weighting" in out
    wrong = lossbook("show", "multi-similarty")
    assert wrong.exit_code == 2 and "did you mean multi-similarity" in wrong.output


def test_show_a_notebook():
    def lossbook(*arguments):
        return CliRunner().invoke(cli.main, arguments)

    for name in ("21", "pair_weighting"):
        out = lossbook("show", name).output
        assert "multi-similarity" in out and "notebooks/03_metric_learning/21_pair" in out
        assert re.search(r"ms_beta = 50\.0 +5 to 80\n", out)
        assert re.search(r"pairing = \S+ +positive-negative, anchor-negative\n", out)
    coming = next(entry for entry in catalog.notebooks() if not notebooks.exists(entry))
    shown = lossbook("show", coming.slug)
    assert shown.exit_code == 0 and "parameters" not in shown.output


def test_cite(lossbook):
    out = lossbook("cite", "multi-similarity").output
    assert "@inproceedings{" in out and "@software{" in out
    assert lossbook("cite", "nobody").exit_code == 2


def test_the_catalog_needs_no_checkout(lossbook, monkeypatch, tmp_path):
    monkeypatch.setenv("LOSSBOOK_HOME", str(tmp_path / "nowhere"))
    for arguments in (["list"], ["show", "comp-sum"], ["cite", "comp-sum"]):
        assert lossbook(*arguments).exit_code == 0
    without = lossbook("run", "21")
    assert without.exit_code == 2 and "LOSSBOOK_HOME must be a checkout" in without.output


def test_the_command_line_starts_quickly():
    code = (
        "import sys; from lossbook.cli import main; main(['list'], standalone_mode=False);"
        "print([m for m in ('torch', 'numpy', 'nbformat', 'papermill') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "[]"


# Running


def test_run_writes_the_notebook_that_it_was_asked_for(lossbook, book, fake_run, tmp_path):
    book.add("pairs", *CELLS)
    done = lossbook("run", "pairs", "-p", "temperature=0.5", "-p", "seed=3", "--scale", "smoke")
    assert done.exit_code == 0, done.output
    assert fake_run == [{"temperature": 0.5, "seed": 3, "scale": "smoke"}]
    (file,) = os.listdir("runs")
    assert file.startswith("pairs-2") and file.endswith(".ipynb")
    assert done.output.strip() == os.path.join("runs", file)

    assert lossbook("run", "pairs", "-o", "new/folder/result.ipynb").exit_code == 0
    assert os.listdir("new/folder") == ["result.ipynb"]
    for _ in range(3):  # within a second or not, no run replaces another
        assert lossbook("run", "pairs", "-o", "other").exit_code == 0
    assert len(os.listdir("other")) == 3


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["paris"], "no notebook is called 'paris'; did you mean pairs"),
        (["22"], "is planned, but not written yet; written so far: pairs"),
        (["pairs", "-p", "temprature=1"], "did you mean temperature?\nits parameters: scale, seed"),
        (["pairs", "--scale", "ful"], "scale must be one of smoke, quick, full, got 'ful'"),
        (["pairs", "-p", "temperature=hot"], "temperature must be a number, got 'hot'"),
        (["pairs", "-o", "result.html"], "OUT must be a folder or end in .ipynb, got 'res"),
        (["pairs", "-o", "file/out.ipynb"], "output folder file can't be written to"),
    ],
)
def test_bad_input_is_named_before_anything_is_written(
    lossbook, book, fake_run, arguments, message
):
    book.add("pairs", *CELLS)
    open("file", "w").close()
    result = lossbook("run", *arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert os.listdir() == ["file"] and not fake_run


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_named(lossbook, book, fake_run, tmp_path):
    book.add("pairs", *CELLS)
    os.mkdir("locked", 0o500)
    result = lossbook("run", "pairs", "-o", "locked")
    assert result.exit_code == 2 and "output folder locked can't be written to" in result.output
    assert not fake_run


def test_the_notebook_itself_is_no_output(lossbook, book, fake_run):
    path = book.add("pairs", *CELLS)
    result = lossbook("run", "pairs", "-o", str(path))
    assert result.exit_code == 2 and "OUT must not be the notebook itself" in result.output


def test_a_notebook_that_raises_is_kept_beside_the_output(lossbook, book, fake_run):
    book.add("pairs", *CELLS)
    result = lossbook("run", "pairs", "-p", "temperature=3", "-o", "out.ipynb")
    assert result.exit_code == 1
    assert "pairs: cell 4 raised ValueError: too hot" in result.output
    assert "out.failed.ipynb" in result.output
    assert os.listdir() == ["out.failed.ipynb"]


def test_run_with_a_real_kernel(lossbook, book):
    book.add("pairs", *CELLS)
    result = lossbook("run", "pairs", "-p", "seed=3", "-o", "out.ipynb")
    assert result.exit_code == 0, result.output
    assert notebooks.read("out.ipynb").cells[-1].outputs[0].data["text/plain"] == "3"


def test_execute(lossbook, book, monkeypatch):
    good = book.add("pairs", *CELLS)
    bad = book.add("21", *CELLS)
    executed = []

    def execute(path, progress):
        if path == bad:
            raise NotebookFailed("cell 1 raised ValueError: no", None)
        progress(1)
        executed.append(path)
        return 1.5

    monkeypatch.setattr(execution, "execute", execute)
    assert lossbook("execute").exit_code == 2
    result = lossbook("execute", "--all")
    assert result.exit_code == 1 and executed == [good]
    message = "cell 1 raised ValueError: no\n  the file is unchanged"
    assert f"{notebooks.shown(bad)}: {message}" in result.output
    assert "executed in 1.5 s" in result.output

    monkeypatch.setattr(execution, "is_stale", lambda nb: False)
    result = lossbook("execute", "--stale")
    assert result.exit_code == 0
    assert result.output == "nothing to execute: all outputs are current\n"


# What checks the book


def test_report(lossbook, book):
    assert lossbook("report").output == "no executed notebook has recorded a claim\n"
    record = {
        "id": "comp-sum/limit", "paper": "comp-sum", "claim": "limit", "kind": "exact", "n": 9,
        "sentence": "It holds.", "largest": 0.0, "tolerance": 1e-6, "verdict": "reproduced",
    }  # fmt: skip
    path = book.add("01", ("code", "a", {}, [v4.new_output("display_data", {MIME: record})]))
    assert "1 claims: 1 reproduced." in lossbook("report").output
    facts = json.loads(lossbook("report", "--json", str(path)).output)
    assert facts["claims"][0]["notebook"] == catalog.notebook("01").path
    assert lossbook("report", "nowhere").exit_code == 2


def test_check(lossbook, book, monkeypatch):
    monkeypatch.setattr(catalog, "papers", tuple)
    path = book.add("00_start_here", ("text", "# Lossbook"), ("code", "1"))
    result = lossbook("check")
    assert result.exit_code == 0
    assert f"{notebooks.shown(path)}: stale, its sources changed since" in result.output
    assert result.output.endswith("1 notebooks checked: 0 findings, 1 stale\n")

    nb = notebooks.read(path)
    nb.metadata["lossbook"] = {"fingerprint": execution.fingerprint(nb)}
    nb.metadata["widgets"] = {}
    notebooks.write(nb, path)
    result = lossbook("check", "00_start_here")
    assert result.exit_code == 1
    assert "notebooks/00_start_here.ipynb: holds widget state" in result.output
    only_stale = lossbook("check", "--stale")
    assert only_stale.exit_code == 0 and only_stale.output == ""


def test_lab_replaces_the_process(lossbook, book, monkeypatch):
    calls = []
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "execv", lambda *arguments: calls.append(arguments))
    assert lossbook("lab").exit_code == 0
    ((program, line),) = calls
    assert program == sys.executable and f"--ServerApp.root_dir={book.home}" in line
    assert lossbook("lab", "--port", "99999").exit_code == 2


def test_lab_waits_for_its_server_on_windows(lossbook, book, monkeypatch):
    calls = []
    monkeypatch.setattr(lab, "has_browser", lambda: True)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(subprocess, "call", lambda line, cwd: calls.append((line[0], cwd)) or 3)
    assert lossbook("lab").exit_code == 3
    assert calls == [(sys.executable, book.home)]


def test_what_a_plain_installation_lacks_is_named(lossbook, book, monkeypatch):
    book.add("pairs", *CELLS)
    monkeypatch.setitem(sys.modules, "nbformat", None)
    result = lossbook("run", "pairs")
    assert result.exit_code == 2
    assert "needs nbformat; install it with: pip install 'lossbook[book]'" in result.output
