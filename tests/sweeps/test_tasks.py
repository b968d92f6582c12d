"""What a worker does with one run."""

import math

import pandas
import pytest
import torch

from lossbook.sweeps import tasks
from lossbook.sweeps.logged import MIME, log, logged_in, plain_row
from lossbook.sweeps.targets import Target, find

HERE = tasks.software()()


@pytest.fixture
def execute(reader):
    def run(body: str, **given) -> dict:
        reader.write_experiment(f"def run(beta=1.0, *, seed):\n    {body}\n")
        tasks._imported.clear()
        return tasks.execute(find("experiment:run"), {"seed": 3, **given}, HERE)

    return run


@pytest.mark.parametrize(
    "returned, rows",
    [
        ("{'a': 1, 'b': 'x', 'c': True, 'd': None}", [dict(a=1, b="x", c=True, d=None)]),
        ("[{'a': 1}, {'a': 2}]", [{"a": 1}, {"a": 2}]),
        ("__import__('pandas').DataFrame({'a': [1, 2]})", [{"a": 1}, {"a": 2}]),
        ("{'a': __import__('torch').tensor(0.5)}", [{"a": 0.5}]),
        ("{'a': __import__('numpy').float32(0.5)}", [{"a": 0.5}]),
        ("{'a': float('nan'), 'b': float('inf')}", [{"a": None, "b": None}]),
        ("{'a': 1, 'seed': seed, 'beta': beta}", [{"a": 1}]),
    ],
)
def test_what_a_function_may_return(execute, returned, rows):
    outcome = execute(f"print('hello'); return {returned}")
    assert outcome["rows"] == rows and outcome["claims"] == []
    assert outcome["output"] == "hello\n" and outcome["seconds"] >= 0


@pytest.mark.parametrize(
    "body, error",
    [
        ("return 3", "must return a dict of scalars, a list of such dicts or a DataFrame, got int"),
        ("return [1]", "must return a dict of scalars"),
        ("return {}", "must return a dict of scalars"),
        ("return {'a': [1, 2]}", r"a must be a number, a text, true or false, got \[1, 2\]"),
        ("return {1: 2}", "the name of a value must be a text, got 1"),
        ("return {'run_seconds': 2}", "must not begin with run_ or claim_, got 'run_seconds'"),
        ("return {'beta': 5.0}", "'beta' must not be called like a parameter that has another"),
        ("raise KeyError('x')", "KeyError: 'x'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_what_goes_wrong_is_an_outcome(execute, body, error):
    outcome = execute(f"print('hello'); {body}")
    assert outcome["output"] == "hello\n" and "Traceback" in outcome["traceback"]
    with pytest.raises(ValueError, match=error):
        raise ValueError(outcome["error"])


def test_a_worker_with_other_code_or_versions_refuses(execute, reader):
    target = find("experiment:run")
    other = Target(**{**vars(target), "fingerprint": "0" * 64})
    tasks._imported.clear()
    assert "has other source code of experiment:run" in tasks.execute(other, {}, HERE)["error"]
    newer = {**HERE, "torch": "99.0"}
    error = tasks.execute(target, {"seed": 0}, newer)["error"]
    assert error.endswith(f"has torch {HERE['torch']} (here 99.0)")


def test_log_shows_values_and_refuses_others(capsys):
    log(recall_at_1=torch.tensor(0.7125), name="x")
    assert capsys.readouterr().out == "recall_at_1 = 0.7125, name = x\n"
    with pytest.raises(ValueError, match="at least one value"):
        log()
    with pytest.raises(ValueError, match="a must be a number, a text, true or false, got tensor"):
        log(a=torch.ones(2))
    assert plain_row({"a": math.inf}) == {"a": None}


def test_logged_values_of_a_notebook(reader):
    import nbformat.v4 as v4

    outputs = [
        v4.new_output("display_data", {MIME: row, "text/plain": ""})
        for row in ({"a": 1, "b": 2}, {"a": 3})
    ]
    nb = v4.new_notebook(cells=[v4.new_code_cell("", outputs=outputs), v4.new_markdown_cell("")])
    assert logged_in(nb) == {"a": 3, "b": 2}


def test_a_frame_is_told_by_what_it_can_do():
    assert tasks._rows(pandas.DataFrame({"a": [1]})) == [{"a": 1}]
