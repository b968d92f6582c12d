"""The grid of a sweep, and what makes two runs the same."""

import pytest

from lossbook.sweeps.jobs import Job, book, canonical, grid, split
from lossbook.sweeps.targets import find


@pytest.fixture
def target(reader):
    return find("experiment:run")


def test_the_product_of_values_and_seeds_begins_with_every_setting(target):
    jobs = grid(target, ["beta=1,2", "kind=fine,raises"], "0:2")
    assert [str(job) for job in jobs] == [
        f"seed={seed} beta={beta} kind={kind}"
        for seed in (0, 1)
        for beta in (1, 2)
        for kind in ("fine", "raises")
    ]
    assert jobs[0].parameters == dict(seed=0, beta=1, kind="fine", sleep=0.0, widths=[1])
    assert len({job.id for job in jobs}) == 8


def test_values_that_are_lists(target):
    jobs = grid(target, ["widths=[1,2],[3, 4]"], "0")
    assert [job.given["widths"] for job in jobs] == [[1, 2], [3, 4]]
    with pytest.raises(ValueError, match=r"widths must be a list such as \[1, 2\], got 1"):
        grid(target, ["widths=1,2"], "0")


@pytest.mark.parametrize(
    "text, parts",
    [
        ("1", ["1"]),
        ("a, b", ["a", "b"]),
        ("[1,[2,3]],4", ["[1,[2,3]]", "4"]),
        ("{a: 1, b: 2},x", ["{a: 1, b: 2}", "x"]),
        ("'a,b',\"c]\"", ["'a,b'", '"c]"']),
    ],
)
def test_split(text, parts):
    assert split(text) == parts


@pytest.mark.parametrize("text", ["", "1,,2", "1,", "[1,2", "'a"])
def test_split_refuses_what_is_not_whole(text):
    with pytest.raises(ValueError, match="values must be separated|lacks its closing"):
        split(text)


@pytest.mark.parametrize(
    "assignments, seeds, message",
    [
        (["bta=1"], "0", "the function has no parameter 'bta'; did you mean beta"),
        (["beta=1,high"], "0", "beta must be a number, got 'high'"),
        (["beta=1,1.0"], "0", "beta must not have a value twice, got 1.0"),
        (["beta=1", "beta=2"], "0", "-p beta is given twice"),
        (["beta"], "0", "-p must be name=value, got 'beta'"),
        (["seed=1"], "0", "seeds are given by --seeds"),
        ([], "0:x", "--seeds must be like 0:20 or 1,2,5, got '0:x'"),
        ([], "3:1", "whole numbers from 0, each once, got '3:1'"),
        ([], "1,0:3", "each once, got '1,0:3'"),
        ([], "-1", "whole numbers from 0"),
    ],
)
def test_bad_grids_are_named(target, assignments, seeds, message):
    with pytest.raises(ValueError, match=message):
        grid(target, assignments, seeds)


def test_a_function_may_need_values_and_take_any(reader):
    reader.write_experiment("def run(loss, **knobs): ...")
    target = find("experiment:run")
    with pytest.raises(ValueError, match="needs -p loss=…, which has no default"):
        grid(target, [], "0")
    (job,) = grid(target, ["loss=a", "margin=0.5"], "7")
    assert job.given == {"seed": 7, "loss": "a", "margin": 0.5}


def test_the_scale_is_part_of_a_run(reader, monkeypatch):
    reader.write_notebook()
    target = find("mine.ipynb")
    own, smoke = (grid(target, [], "0", scale)[0] for scale in (None, "smoke"))
    assert own.parameters["scale"] == "quick" and smoke.parameters["scale"] == "smoke"
    assert own.id == grid(target, ["scale=quick"], "0")[0].id != smoke.id
    monkeypatch.setenv("LOSSBOOK_SCALE", "smoke")
    assert grid(target, [], "0")[0].id == smoke.id
    assert book([reader.folder / "mine.ipynb"])[0].id == smoke.id
    with pytest.raises(ValueError, match="scale must be given once"):
        grid(target, ["scale=quick"], "0", "smoke")
    with pytest.raises(ValueError, match="scale must be one of smoke, quick, full, got 'huge'"):
        grid(target, [], "0", "huge")


def test_what_determines_a_run_changes_its_identity(reader, target, monkeypatch):
    job = Job(target, {"seed": 0, "beta": 1})
    assert job.id == Job(target, {"beta": 1.0, "seed": 0}).id
    assert job.id != Job(target, {"beta": 1, "seed": 1}).id
    assert job.id != Job(target, {"beta": 1.5, "seed": 0}).id
    before = job.id
    monkeypatch.setattr("lossbook.sweeps.jobs.__version__", "9.9.9")
    assert job.id != before
    assert canonical([1.0, 2.5, "a", True]) == [1, 2.5, "a", True]
