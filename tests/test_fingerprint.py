"""A fingerprint changes with what a notebook depends on, and with nothing else."""

import nbformat.v4 as v4
import pytest

from lossbook import fingerprint as module
from lossbook.fingerprint import fingerprint, modules, modules_beside

FILES = {
    "__init__.py": "",
    "helper.py": "import math",
    "part/__init__.py": "from lossbook.part.one import first, other as second\n"
    "from .two import third\n",
    "part/one.py": "from lossbook import helper\ndef first(): ...\ndef other(): ...",
    "part/two.py": "from .three import fourth\ndef third(): ...",
    "part/three.py": "def fourth():\n    from lossbook.data import load",
    "data/__init__.py": "def load(): ...",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "lossbook"
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(module, "PACKAGE", folder)
    module._imports_of_file.cache_clear()
    module._handed_on.cache_clear()
    yield folder
    module._imports_of_file.cache_clear()
    module._handed_on.cache_clear()


def notebook(*sources):
    return v4.new_notebook(cells=[v4.new_code_cell(source) for source in sources])


@pytest.mark.parametrize(
    "source, reached",
    [
        ("import torch", []),
        ("import lossbook", []),
        ("from lossbook import helper", ["lossbook.helper"]),
        ("import lossbook\nlossbook.helper.f()", ["lossbook.helper"]),
        ("import lossbook.helper as h", ["lossbook.helper"]),
        ("from lossbook.part.one import first", ["lossbook.helper", "lossbook.part.one"]),
        ("from lossbook.part import second", ["lossbook.helper", "lossbook.part.one"]),
        (
            "from lossbook.part import third",
            ["lossbook.data", "lossbook.part.three", "lossbook.part.two"],
        ),
        ("from lossbook import part\npart.first()", ["lossbook.helper", "lossbook.part.one"]),
        ("from lossbook.data import load", ["lossbook.data"]),
        ("%matplotlib inline\nfrom lossbook import helper", ["lossbook.helper"]),
        ("this is not Python", []),
    ],
)
def test_imports_are_followed_to_the_modules_that_define_the_names(package, source, reached):
    assert modules(notebook(source)) == reached


def test_star_imports_reach_everything_that_a_part_hands_on(package):
    reached = modules(notebook("from lossbook.part import *"))
    assert {"lossbook.part.one", "lossbook.part.two", "lossbook.part.three"} <= set(reached)


def test_it_changes_with_cells_and_with_what_they_import(package):
    nb = notebook("from lossbook.part import first")
    before = fingerprint(nb)
    nb.cells[0].outputs = [v4.new_output("stream", text="hello")]
    nb.cells[0].execution_count = 7
    (package / "part" / "two.py").write_text("def third(): return 1")
    assert fingerprint(nb) == before

    (package / "helper.py").write_text("import cmath")
    changed = fingerprint(nb)
    assert changed != before
    nb.cells.append(v4.new_markdown_cell("more"))
    assert fingerprint(nb) != changed


def test_line_endings_do_not_matter(package):
    nb = notebook("from lossbook import helper")
    (package / "helper.py").write_bytes(b"import math\nimport cmath\n")
    before = fingerprint(nb)
    (package / "helper.py").write_bytes(b"import math\r\nimport cmath\r\n")
    assert fingerprint(nb) == before


def test_the_real_package_is_followed():
    reached = modules(notebook("from lossbook.claims import record"))
    assert "lossbook.claims" in reached


def test_modules_beside_are_found_through_each_other(tmp_path):
    files = {
        "one.py": "import json, deep.inner\ndef f():\n    from two import x",
        "two.py": "import one, lossbook",
        "deep/__init__.py": "",
        "deep/inner.py": "from . import other\nfrom .other import y",
        "deep/other.py": "import torch",
        "unused.py": "",
        "lossbook.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    found = modules_beside("%matplotlib inline\nimport one as o", tmp_path)
    assert list(found) == ["deep", "deep.inner", "deep.other", "one", "two"]
    assert found["deep.inner"] == tmp_path / "deep" / "inner.py"
    assert list(modules_beside("from . import inner", tmp_path, "deep")) == list(found)[:3]
    assert modules_beside("import torch", tmp_path) == {}
