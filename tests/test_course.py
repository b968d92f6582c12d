"""Course editions: what students find, what nbgrader grades, and the proof that both are fit."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import nbformat.v4 as v4
import pytest
from click.testing import CliRunner

from lossbook import cli, course, notebooks, proof
from lossbook.presentation import fold_solutions
from lossbook.proof import NotFit, prove

ROOT = Path(__file__).parents[1]
SOLUTION = """\
def double(x):
    ### BEGIN SOLUTION
    return 2 * x
    ### END SOLUTION"""
CHECK = """\
assert double(2) == 4, f"twice 2 is 4, yours is {double(2)}"
### BEGIN HIDDEN TESTS
assert double(3) == 6
### END HIDDEN TESTS"""
STUB = "def double(x):\n    # YOUR CODE HERE\n    raise NotImplementedError()"


def graded(name, *, solution, grade, points=2):
    kind = {"solution": solution, "grade": grade, "locked": not solution, "task": False}
    metadata = {"grade_id": name, "schema_version": 3, **kind}
    return {"nbgrader": {**metadata, "points": points} if grade else metadata}


def printed(text):
    return [v4.new_output("stream", text=text)]


def cells(start="print('teaching')", solution=SOLUTION, check=CHECK):
    return [
        ("text", "# Pairs\n\nSee [temperature](../02_self_supervised/09_temperature.ipynb#Idea)."),
        ("code", start, {}, printed("teaching\n")),
        ("text", "### Exercise 1\n\nWrite `double`."),
        ("code", solution, graded("double", solution=True, grade=False), printed("revealing\n")),
        ("code", check, graded("double-check", solution=False, grade=True)),
        ("code", "print(double(5))", {}, printed("10\n")),
        ("text", "It doubles.", graded("why", solution=True, grade=True)),
    ]


@pytest.fixture
def pairs(book):
    path = book.add("pairs", *cells())
    nb = notebooks.read(path)
    fold_solutions(nb)
    nb.metadata["lossbook"] = {"fingerprint": "0"}
    return nb


@pytest.fixture
def lossbook(book, tmp_path, monkeypatch):
    folder = tmp_path / "somewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return lambda *arguments: CliRunner().invoke(cli.main, ["course", *arguments])


@pytest.fixture
def proven(monkeypatch):
    """Replaces the kernel: a notebook is fit unless its first code cell says otherwise."""
    calls = []

    def prove(nb, progress):
        calls.append(nb)
        if "unfit" in nb.cells[1].source:
            raise NotFit("the check 'double-check' raised AssertionError: no")

    monkeypatch.setattr(proof, "prove", prove)
    return calls


# The student edition


def test_students_find_stubs_visible_checks_and_the_teaching_outputs(pairs):
    before = copy.deepcopy(pairs)
    nb = course.student_edition(pairs)
    assert pairs == before
    _, teaching, _, solution, check, later, answer = nb.cells

    assert teaching.outputs == printed("teaching\n") and teaching.execution_count == 1
    assert solution.source == STUB
    assert solution.outputs == later.outputs == [] and solution.execution_count is None
    assert check.source == CHECK.split("\n###")[0]
    assert answer.source == "YOUR ANSWER HERE"

    assert "jupyter" not in solution.metadata and "lossbook" not in nb.metadata
    assert solution.metadata.deletable is False and check.metadata.editable is False
    assert all("checksum" in cell.metadata.nbgrader for cell in (solution, check, answer))


def test_solutions_can_be_unfolded_behind_their_checks(pairs):
    nb = course.student_edition(pairs, with_solutions=True)
    assert [cell.cell_type for cell in nb.cells[3:]] == [
        *("code", "code", "markdown"),
        *("code", "markdown", "markdown"),
    ]
    folded = nb.cells[5].source
    assert folded.startswith("<details><summary>Solution</summary>\n\n```python\ndef double(x):\n")
    assert "    return 2 * x\n```" in folded and "BEGIN" not in folded
    assert "It doubles." in nb.cells[8].source
    assert len({cell.id for cell in nb.cells}) == len(nb.cells)


@pytest.mark.parametrize(
    "solution, reason",
    [
        ("### BEGIN SOLUTION\n1", "no end solution statement found"),
        ("### BEGIN SOLUTION\n### BEGIN SOLUTION\n### END SOLUTION", "nested begin solution"),
    ],
)
def test_what_nbgrader_refuses_is_named(book, solution, reason):
    path = book.add("pairs", *cells(solution=solution))
    with pytest.raises(ValueError, match=f"^pairs: nbgrader can't release it: .*{reason}"):
        course.student_files({path: notebooks.read(path)})


def test_links_lead_to_what_is_in_the_course():
    link = '<a href="../02_b/two.ipynb#Idea">Two</a>'
    nb = v4.new_notebook(
        cells=[
            v4.new_markdown_cell(
                "[Two](../02_b/two.ipynb#Idea), [three](../03_c/three.ipynb), "
                "[paper](https://arxiv.org), ![figure](two.png)"
            ),
            v4.new_code_cell(outputs=[v4.new_output("display_data", {"text/html": link})]),
        ]
    )
    places = {"01_a/one.ipynb": "source/one/one.ipynb", "02_b/two.ipynb": "source/two/two.ipynb"}
    course.relink(nb, "01_a/one.ipynb", places)
    assert nb.cells[0].source == (
        "[Two](../two/two.ipynb#Idea), three, [paper](https://arxiv.org), ![figure](two.png)"
    )
    html = '<a href="../two/two.ipynb#Idea">Two</a>'
    assert nb.cells[1].outputs[0].data["text/html"] == html


# The proof


@pytest.mark.notebook
def test_a_fit_notebook_is_proven_at_smoke_scale(book):
    scale = "import os\nassert os.environ['LOSSBOOK_SCALE'] == 'smoke'"
    done = []
    prove(notebooks.read(book.add("pairs", *cells(scale))), done.append)
    assert done == [1] * 4


@pytest.mark.notebook
@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"start": "1 / 0"}, "the cell '1 / 0' raised ZeroDivisionError: division by zero"),
        ({"check": "assert double(2) == 5, 'no'"}, "'double-check' raised AssertionError: no"),
        ({"check": "double"}, "the check 'double-check' passes although nothing is answered"),
        ({"solution": SOLUTION + "\n1 / 0"}, "'double', handed out without its answer, raised"),
    ],
)
def test_an_unfit_notebook_is_named_with_the_reason(book, changes, reason):
    with pytest.raises(NotFit, match=reason):
        prove(notebooks.read(book.add("pairs", *cells(**changes))))


# The commands


def test_build_writes_the_chosen_notebooks_in_the_books_folders(lossbook, book, proven):
    book.add("pairs", *cells())
    book.add("09", *cells())
    book.add("21", *cells())
    done = lossbook("build", "out/here", "--notebooks", "9,pairs")
    assert done.exit_code == 0, done.output
    assert done.output.endswith(f"2 notebooks in {os.path.join('out', 'here')}\n")
    assert len(proven) == 2
    written = sorted(path.as_posix() for path in Path("out").rglob("*.*"))
    assert written == [
        "out/here/00_primers/pairs.ipynb",
        "out/here/02_self_supervised/09_temperature.ipynb",
    ]
    nb = notebooks.read(written[0])
    assert "[temperature](../02_self_supervised/09_temperature.ipynb#Idea)" in nb.cells[0].source
    assert nb.cells[3].source == STUB

    Path("out/mine.txt").touch()
    alone = lossbook("build", "out/here", "--notebooks", "pairs")
    assert alone.exit_code == 2 and "is not empty; --force replaces 1 files" in alone.output
    assert lossbook("build", "out/here", "--notebooks", "pairs", "--force").exit_code == 0
    assert "See temperature." in notebooks.read(written[0]).cells[0].source
    assert Path(written[1]).exists() and Path("out/mine.txt").exists()

    assert "3 notebooks in all" in lossbook("build", "all").output


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["out", "--notebooks", "pears"], "did you mean pairs?"),
        (["out", "--notebooks", "22"], "is planned, but not written yet"),
        (["out", "--notebooks", ","], "--notebooks names none"),
        (["file"], "OUT must be a folder, and file is a file"),
        (["file/folder"], "OUT must be a folder, and"),
        (["../checkout/notebooks"], "OUT must lie outside the book's own notebooks"),
    ],
)
def test_bad_input_is_named_before_anything_runs(lossbook, book, proven, arguments, message):
    book.add("pairs", *cells())
    Path("file").touch()
    for command in ("build", "nbgrader"):
        result = lossbook(command, *arguments)
        assert result.exit_code == 2 and message in result.output.replace("\n", " ")
    assert not proven and not Path("out").exists()


def test_nothing_is_written_if_one_notebook_is_unfit(lossbook, book, proven):
    book.add("pairs", *cells("unfit"))
    book.add("09", *cells())
    for command in ("build", "nbgrader"):
        result = lossbook(command, "out")
        assert result.exit_code == 1 and not Path("out").exists()
        assert "pairs: the check 'double-check' raised AssertionError: no" in result.output
        assert "nothing is written" in result.output


def test_the_nbgrader_course_has_an_assignment_for_each_notebook(lossbook, book, proven):
    book.add("pairs", *cells())
    book.add("09", *cells())
    book.add("00_start_here", ("text", "# No exercises"), ("code", "1"))
    assert "2 assignments in out" in lossbook("nbgrader", "out").output
    assert len(proven) == 2
    source = notebooks.read("out/source/pairs/pairs.ipynb")
    assert "(../09_temperature/09_temperature.ipynb#Idea)" in source.cells[0].source
    assert source.cells[3].source == SOLUTION and source.cells[3].outputs == []
    assert source.cells[4].source == CHECK
    none = lossbook("nbgrader", "other", "--notebooks", "00_start_here")
    assert none.exit_code == 2 and "none of these notebooks has exercises" in none.output


# nbgrader


@pytest.mark.notebook
def test_nbgrader_grades_a_right_and_a_wrong_submission(tmp_path):
    path = ROOT / "notebooks/02_self_supervised/09_temperature.ipynb"
    nb = notebooks.read(path)
    last = max(place for place, cell in enumerate(nb.cells) if "nbgrader" in cell.metadata)
    by_hand = graded("by-hand", solution=True, grade=True, points=4)
    nb.cells.insert(last + 1, v4.new_markdown_cell("Because.", metadata=by_hand))
    course.write_files(tmp_path, course.nbgrader_files({path: nb}))
    source = notebooks.read(tmp_path / "source" / path.stem / path.name)

    _nbgrader(tmp_path, "generate_assignment", path.stem)
    released = notebooks.read(tmp_path / "release" / path.stem / path.name)
    outputs = [[cell.get("outputs") for cell in each.cells] for each in (source, released)]
    assert outputs[0] == outputs[1]
    answers = {"temperature-1": "def largest_share(a, b, m, T):\n    return 0.5"}
    _submit(tmp_path, path, "right", _filled_in(released, nb))
    _submit(tmp_path, path, "wrong", _filled_in(released, nb, answers))
    _nbgrader(tmp_path, "autograde", path.stem)

    right, wrong = (_grades(tmp_path, path.stem, student) for student in ("right", "wrong"))
    assert right.pop("by-hand") == wrong.pop("by-hand") == (None, 4, True)
    checks = [name for name in right if right[name][1] > 0 and not right[name][2]]
    assert len(checks) >= 3 and all(right[name][0] == right[name][1] for name in checks)
    assert wrong.pop("temperature-1-test")[0] == 0
    assert all(wrong[name] == right[name] for name in wrong)

    graded_nb = notebooks.read(tmp_path / "autograded" / "wrong" / path.stem / path.name)
    outputs = [output for cell in graded_nb.cells for output in cell.get("outputs", [])]
    assert any(output.get("text", "").startswith("smoke scale") for output in outputs)
    (error,) = [output for output in outputs if output.output_type == "error"]
    assert "the share is 0.1000, yours is 0.5000" in error.evalue


def _nbgrader(folder, *arguments):
    # nbgrader calls alembic by its name, which is found only if the environment is active.
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": search, "PYTHONPATH": str(ROOT), "HOME": str(folder)}
    environment.pop("LOSSBOOK_SCALE", None)
    subprocess.run(
        [sys.executable, "-m", "nbgrader", *arguments],
        cwd=folder,
        env=environment,
        check=True,
        capture_output=True,
    )


def _filled_in(released, nb, answers=None):
    """The released notebook with the book's solutions, or with other answers, in it."""
    sources = {
        cell.metadata.nbgrader.grade_id: course.MARKER.sub("", cell.source)
        for cell in nb.cells
        if cell.metadata.get("nbgrader", {}).get("solution")
    }
    filled = copy.deepcopy(released)
    for cell in filled.cells:
        name = cell.metadata.get("nbgrader", {}).get("grade_id")
        if name in sources:
            cell.source = {**sources, **(answers or {})}[name]
    return filled


def _submit(folder, path, student, nb):
    target = folder / "submitted" / student / path.stem / path.name
    target.parent.mkdir(parents=True)
    notebooks.write(nb, target)


def _grades(folder, assignment, student):
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{folder / 'gradebook.db'}") as gradebook:
        submission = gradebook.find_submission_notebook(assignment, assignment, student)
        return {
            grade.name: (grade.auto_score, grade.max_score, grade.needs_manual_grade)
            for grade in submission.grades
        }
