"""A folder of a reader, with an experiment in it."""

import sys

import pytest
from sweep_reader import Reader


@pytest.fixture
def reader(tmp_path, monkeypatch) -> Reader:
    monkeypatch.delenv("LOSSBOOK_SCALE", raising=False)
    monkeypatch.chdir(tmp_path)
    found = Reader(tmp_path)
    found.write_experiment()
    yield found
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
    while str(tmp_path) in sys.path:
        sys.path.remove(str(tmp_path))
