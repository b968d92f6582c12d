"""Notebooks and functions as targets: how they are found, and what their fingerprints see."""

import sys
from pathlib import Path

import pytest

from lossbook.sweeps.targets import find, import_function, own_modules


def stamp(reader) -> str:
    """The fingerprint that a fresh process gives the experiment."""
    for name in ("experiment", "helper"):
        sys.modules.pop(name, None)
    return import_function("experiment:run", str(reader.folder))[1]


def test_a_notebook_is_found_and_sent_without_outputs(reader):
    reader.write_notebook()
    target = find("mine.ipynb")
    assert (target.kind, target.name, target.folder) == ("notebook", "mine", str(Path.cwd()))
    assert list(target.known) == ["scale", "seed", "beta"]
    before = target.fingerprint
    path = reader.folder / "mine.ipynb"
    path.write_text(path.read_text().replace("too cold", "too warm"))
    after = find("mine.ipynb").fingerprint
    assert after != before
    (reader.folder / "helper.py").write_text("x = 1")
    path.write_text(path.read_text().replace("import log", "import log\\nimport helper"))
    with_helper = find("mine.ipynb").fingerprint
    (reader.folder / "helper.py").write_text("x = 22")
    assert len({before, after, with_helper, find("mine.ipynb").fingerprint}) == 4


def test_a_function_is_found_in_the_current_folder(reader):
    target = find("experiment:run")
    assert (target.kind, target.name, target.short) == (
        "function",
        "experiment:run",
        "experiment.run",
    )
    assert {name: p.default for name, p in target.known.items()} == {
        "beta": 1.0,
        "kind": "fine",
        "sleep": 0.0,
        "widths": [1],
        "seed": None,
    }


@pytest.mark.parametrize(
    "source, name, message",
    [
        ("", "experiment:run", "experiment has no function 'run'"),
        ("run = 3", "experiment:run", "experiment has no function 'run'"),
        ("def run(): ...", "experiment:run", r"must take a parameter seed, got run\(\)"),
        ("def run(a, /, seed): ...", "experiment:run", "must take its parameters by name"),
        ("1 / 0", "experiment:run", "importing experiment raised ZeroDivisionError"),
        ("import nowhere", "experiment:run", "No module named 'nowhere'"),
        ("", "expriment:run", "No module named 'expriment'; modules are looked for in /"),
        ("", "experiment", "is a module; name its function, such as experiment:run"),
        ("", "experiment.py", "is a module; name its function, such as experiment:run"),
        ("", "experiment.py:run", "must be module:function; write experiment:run"),
        ("", "math:sqrt", "math must be a module with Python source"),
    ],
)
def test_what_a_sweep_cannot_call_is_named(reader, source, name, message):
    reader.write_experiment(source)
    with pytest.raises(ValueError, match=message):
        find(name)


def test_a_functions_fingerprint_sees_its_own_modules_and_the_package(reader, monkeypatch):
    helper = reader.folder / "helper.py"
    helper.write_text("from lossbook.models import mlp\n")
    reader.write_experiment("import helper, yaml\ndef run(seed): ...\ndef other(seed): ...")
    first = stamp(reader)
    assert list(own_modules(sys.modules["experiment"])) == ["helper", "experiment"]
    assert stamp(reader) == first
    assert import_function("experiment:other", str(reader.folder))[1] != first

    helper.write_text("from lossbook.models import mlp\nx = 1\n")
    second = stamp(reader)
    assert second != first
    reader.write_experiment("import helper, yaml\ndef run(seed): return {}")
    assert stamp(reader) != second

    with_models = stamp(reader)
    helper.write_text("from lossbook.plots import png\nx = 1\n")
    assert stamp(reader) != with_models


def test_installed_modules_are_the_readers_own_only_within_their_package():
    import yaml

    names = list(own_modules(yaml))
    assert "yaml" in names and "yaml.loader" in names
    assert all(name.split(".")[0] == "yaml" for name in names)
