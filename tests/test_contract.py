"""`lossbook check` accepts a notebook that keeps the contract, and names each way to break it."""

import dataclasses

import nbformat.v4 as v4
import pytest

from lossbook import catalog, contract, notebooks
from lossbook._jupyter.hooks import WIDGET_VIEW
from lossbook.claims import MIME

SECTION = catalog.paper("comp-sum").section.partition("#")[2].replace("-", " ")
PARAMETERS = """\
scale = "quick"  # one of: smoke, quick, full
seed = 0
device = "auto"
tau = 1.0  # 0 .. 2.5
"""


def grading(name, solution):
    return {
        "nbgrader": {
            "grade": not solution, "grade_id": name, "locked": not solution, "points": 1,
            "schema_version": 3, "solution": solution, "task": False,
        }
    }  # fmt: skip


def by_hand(name):
    metadata = grading(name, True)
    metadata["nbgrader"]["grade"] = True
    return metadata


def exercise(number):
    solution = "### BEGIN SOLUTION\nanswer = 1\n### END SOLUTION"
    return [
        ("text", f"### Exercise {number}\n\nWork it out."),
        ("code", solution, grading(f"exercise-{number}", True)),
        ("code", "assert answer == 1", grading(f"test-{number}", False)),
    ]


def good_cells():
    claim = {"id": "comp-sum/bound", "paper": "comp-sum", "scale": "quick"}
    figure = '<img alt="a curve that falls" src="data:image/png;base64,">'
    return [
        ("text", "# Cross-entropy and its relatives"),
        ("code", PARAMETERS, {"tags": ["parameters"]}),
        ("code", "from lossbook import settings\nrun = settings.configure(scale, seed, device)"),
        ("text", f"## {SECTION}\n\n### The formula\n\n```python\n# no heading\n```"),
        ("code", "draw()", {}, [v4.new_output("display_data", {"text/html": figure})]),
        ("code", "claim()", {}, [v4.new_output("display_data", {MIME: claim})]),
        ("text", "## What we measured"),
        ("text", "## Exercises"),
        *exercise(1),
        *exercise(2),
        ("text", "A good answer.", by_hand("question")),
        ("text", "## Further reading"),
    ]


def findings(book, cells, edit=None, name="01"):
    path = book.add(name, *cells)
    nb = notebooks.read(path)
    if edit:
        edit(nb)
        notebooks.write(nb, path)
    return contract.check(path, nb)


def test_a_notebook_that_keeps_the_contract_has_no_findings(book):
    assert findings(book, good_cells()) == []


@pytest.mark.parametrize("source", ["x = 1\n%timeit x", "train(... your code ...)", "!ls"])
def test_a_cell_with_a_magic_or_a_stub_is_no_finding(book, source):
    assert findings(book, good_cells(), replace("draw()", source)) == []


def cell_with(nb, words):
    return next(cell for cell in nb.cells if words in cell.source)


def replace(words, new):
    def edit(nb):
        cell = cell_with(nb, words)
        cell.source = cell.source.replace(words, new)

    return edit


def remove(words):
    return lambda nb: nb.cells.remove(cell_with(nb, words))


def move_to_end(words):
    def edit(nb):
        cell = cell_with(nb, words)
        nb.cells.remove(cell)
        nb.cells.append(cell)

    return edit


def put_output(kind, words="draw()", **data):
    def edit(nb):
        cell_with(nb, words).outputs = [v4.new_output(kind, **data)]

    return edit


def grade(words, **values):
    return lambda nb: cell_with(nb, words).metadata.nbgrader.update(values)


def untag(nb):
    nb.cells[1].metadata.tags = []


def skip_a_count(nb):
    nb.cells[2].execution_count = 7


def add_widget_state(nb):
    nb.metadata["widgets"] = {}


def grow(nb):
    nb.cells[0].source += "\n" + "x" * 1_100_000


CLAIM_OF_ANOTHER = {MIME: {"id": "ldr/x", "paper": "ldr", "scale": "quick"}}
CLAIM_AT_SMOKE = {MIME: {"id": "comp-sum/x", "paper": "comp-sum", "scale": "smoke"}}

BROKEN = [
    (replace("# Cross", "## Cross"), "has 0 titles (#)"),
    (replace("### The formula", "#### The formula"), "'The formula' jumps from level 2 to 4"),
    (untag, "the first code cell, and no other, is tagged `parameters`"),
    (replace("configure", "nothing"), "the cell after the parameters is the setup"),
    (replace("seed = 0\n", ""), "the parameters cell has no 'seed'"),
    (replace("# 0 .. 2.5", "# tau"), "'tau' names no range; expected a comment `# 0.02 .. 2`"),
    (replace("# 0 .. 2.5", "# 2 .. 3"), "'tau': its default lies outside its range"),
    (replace("draw()", "fit_replicas(mlp)"), "'fit_replicas(mlp)' trains on the CPU; expected"),
    (replace(f"## {SECTION}", "## Other"), "has no section (##) "),
    (remove("## What we measured"), "has no section '## What we measured'"),
    (move_to_end("## What we measured"), "its sections stand in the order"),
    (replace("## Further reading", "## Further reading\n## More"), "and nothing behind"),
    (replace("### Exercise 2", "Exercise 2"), "has 1 exercises (### below ## Exercises); 2 to 4"),
    (grade("BEGIN", solution=False), "holds a solution, but is no solution cell"),
    (replace("### END SOLUTION", ""), "exercise-1 lacks '### BEGIN SOLUTION' … '### END SOLUTION'"),
    (grade("assert", locked=False), "exercise-1 is not followed by a locked test cell with points"),
    (grade("assert", points=0), "exercise-1 is not followed by a locked test cell with points"),
    (grade("assert", grade_id="exercise-1"), "grade_id 'exercise-1' occurs 2 times"),
    (grade("assert", schema_version=1), "has invalid nbgrader metadata: Outdated schema version"),
    (grade("assert", grade="yes"), "has invalid nbgrader metadata: 'yes' is not of type"),
    (remove("A good answer."), "has no question that a person grades"),
    (skip_a_count, "is not executed from the first cell to the last"),
    (add_widget_state, "holds widget state"),
    (grow, "is 1.10 MB; at most 1 MB"),
    (put_output("error", ename="ValueError", evalue="no"), "cell [3] has the error ValueError: no"),
    (put_output("stream", name="stderr", text="Warn\n"), "cell [3] writes to stderr: 'Warn'"),
    (put_output("display_data", data={WIDGET_VIEW: {}}), "cell [3] shows a widget without a pict"),
    (put_output("display_data", data={"text/html": "<img src=''>"}), "cell [3] shows an <img> w"),
    (put_output("display_data", data={"image/png": ""}), "cell [3] shows a picture without alt"),
    (replace("Work", "![](a.png) Work"), "cell 9 has a picture without alt text"),
    (remove("claim()"), "records no claim of 'comp-sum'; each paper has at least one"),
    (put_output("display_data", data=CLAIM_AT_SMOKE), "is recorded at scale smoke; expected quick"),
    (put_output("display_data", data=CLAIM_OF_ANOTHER), "records a claim of 'ldr'; its papers are"),
]


@pytest.mark.parametrize("edit, finding", BROKEN, ids=[finding for _, finding in BROKEN])
def test_each_breach_is_named(book, edit, finding):
    found = findings(book, good_cells(), edit)
    assert any(finding in line for line in found), found
    assert all(line.startswith("notebooks/01_classification/01_cross_ent") for line in found)
    assert not any("\n" in line for line in found)


def test_primers_need_no_papers_and_the_start_page_no_exercises(book):
    cells = [
        cell for cell in good_cells()
        if cell[1] not in {"## What we measured", "claim()"} and SECTION not in cell[1]
    ]  # fmt: skip
    assert findings(book, cells, name="pairs") == []
    start = [("text", "# Lossbook"), ("code", "draw()")]
    assert findings(book, start, name="00_start_here") == []


def test_a_file_outside_the_catalog_is_a_finding(tmp_path):
    (finding,) = contract.check(tmp_path / "my_notes.ipynb", v4.new_notebook())
    assert "is not listed in lossbook/catalog/notebooks.yml" in finding


def test_pointers_of_the_catalog_are_followed(book, monkeypatch):
    book.add("01", *good_cells())
    rows = [catalog.paper("comp-sum"), catalog.paper("isogclr")]
    monkeypatch.setattr(catalog, "papers", lambda: rows)

    def change(**values):
        rows[0] = dataclasses.replace(catalog.paper("comp-sum"), **values)
        return "\n".join(contract.check_catalog())

    good = change(test="", objective=("lossbook.catalog.papers",), authors=("A. Author",))
    assert good == (
        "lossbook/catalog/papers.yml: comp-sum: has no test, though its notebook is written"
    )
    assert "has no authors, objective" in change(authors=(), objective=())
    assert "objective 'lossbook.nowhere' can't be" in change(objective=("lossbook.nowhere",))
    assert "objective 'nowhere' can't be" in change(objective=("nowhere",))
    assert "test 'tests/no.py' is not a file" in change(test="tests/no.py")
    path = catalog.notebook("01").path
    assert "the notebook has no such heading" in change(section=f"{path}#Nothing")
    assert "is not in its notebook" in change(section="notebooks/other.ipynb#Nothing")
    assert "belongs to notebook 02, which lists ldr" in change(notebook="02")
