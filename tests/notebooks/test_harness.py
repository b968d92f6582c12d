"""What `conftest.py` adds to nbval: each way in which a notebook can fail is found."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat.v4 as v4
import pytest

from lossbook.claims import MIME
from lossbook.fingerprint import fingerprint
from lossbook.notebooks import write

ROOT = Path(__file__).parents[2]
PARAMETERS = 'scale = "quick"\nseed = 0\ndevice = "auto"\ntemperature = 0.1  # 0.02 .. 2'
SETUP = 'import os\nscale = os.environ["LOSSBOOK_SCALE"]'
CLAIM = f"""\
from IPython.display import display
record = dict(id="a/b", kind="exact", verdict="contradicted" if scale == "quick" else "reproduced")
display({{"{MIME}": record}}, raw=True)"""


def notebook(*cells, stamp=True):
    code = [v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})]
    code += [v4.new_code_cell(source, outputs=outputs) for source, outputs in cells]
    for count, cell in enumerate(code, 1):
        cell.execution_count = count
    nb = v4.new_notebook(cells=code)
    if stamp:
        nb.metadata["lossbook"] = {"fingerprint": fingerprint(nb)}
    return nb


def printed(text):
    return [v4.new_output("stream", text=text)]


def claimed(verdict):
    record = {"id": "a/b", "kind": "exact", "verdict": verdict}
    return [v4.new_output("display_data", {MIME: record})]


@pytest.mark.slow
@pytest.mark.notebook
def test_every_run_of_a_notebook_is_checked(tmp_path):
    shutil.copy(ROOT / "conftest.py", tmp_path)
    folder = tmp_path / "notebooks"
    folder.mkdir()
    good = notebook(("# NBVAL_CHECK_OUTPUT\nprint(6 * 7)", printed("42\n")))
    write(good, folder / "good.ipynb")
    bad = notebook(
        (SETUP, []),
        (CLAIM, claimed("reproduced")),
        ("# NBVAL_CHECK_OUTPUT\nprint(scale)", printed("quick\n")),
        ("if temperature > 1: raise ValueError('temperature must be at most 1')", []),
        stamp=False,
    )
    write(bad, folder / "bad.ipynb")

    command = [sys.executable, "-m", "pytest", "notebooks", "-rA", "-p", "no:cacheprovider"]
    command += ["--nbval-lax", "--nbval-current-env"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    outcomes = re.findall(r"^([A-Z]+) notebooks/([^-\n]+)", done.stdout, re.MULTILINE)
    assert {name.strip(): outcome for outcome, name in outcomes} == {
        "good.ipynb::Cell 0": "PASSED",
        "good.ipynb::Cell 1": "PASSED",
        "good.ipynb::low": "PASSED",
        "good.ipynb::high": "PASSED",
        "bad.ipynb::Cell 0": "PASSED",
        "bad.ipynb::Cell 1": "PASSED",
        "bad.ipynb::Cell 2": "PASSED",
        "bad.ipynb::Cell 3": "FAILED",  # "smoke" is printed, "quick" is committed
        "bad.ipynb::Cell 4": "PASSED",
        "bad.ipynb::low": "PASSED",
        "bad.ipynb::high": "FAILED",
        "bad.ipynb::quick": "FAILED",
    }
    assert "temperature must be at most 1" in done.stdout
    assert "the committed outputs are current" in done.stdout
    assert "a/b: flipped from reproduced to contradicted" in done.stdout
