"""Saved notebooks keep pictures and lose the widgets whose kernel will be gone."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lossbook import _jupyter
from lossbook._jupyter.hooks import WIDGET_VIEW, pre_save_hook

CONFIG = Path(_jupyter.__file__).parent / "jupyter_server_config.d" / "lossbook.json"


def output(**data) -> dict:
    bundle = {kind.replace("_", "/"): value for kind, value in data.items()}
    return {"output_type": "display_data", "data": bundle, "metadata": {}}


def model(*outputs) -> dict:
    cells = [{"cell_type": "code", "outputs": list(outputs)}, {"cell_type": "markdown"}]
    content = {"cells": cells, "metadata": {"widgets": {"state": {}}, "kernelspec": {}}}
    return {"type": "notebook", "content": content}


@pytest.mark.parametrize("picture", ["text_html", "image_png"])
def test_a_view_beside_a_picture_goes(picture):
    saved = output(**{picture: "…"}, text_plain="figure")
    saved["data"][WIDGET_VIEW] = {"model_id": "1"}
    notebook = model(saved)
    pre_save_hook(model=notebook, path="a.ipynb", contents_manager=None)
    assert set(saved["data"]) == {picture.replace("_", "/"), "text/plain"}
    assert notebook["content"]["metadata"] == {"kernelspec": {}}


def test_a_view_without_a_picture_stays():
    saved = output(text_plain="a widget of the reader's own")
    saved["data"][WIDGET_VIEW] = {"model_id": "1"}
    pre_save_hook(model=model(saved))
    assert WIDGET_VIEW in saved["data"]


def test_other_outputs_stay():
    outputs = [{"output_type": "stream", "text": "1"}, output(text_html="<b>", text_plain="b")]
    notebook = model(*outputs)
    before = json.dumps(notebook["content"]["cells"])
    pre_save_hook(model=notebook)
    assert json.dumps(notebook["content"]["cells"]) == before


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"type": "notebook"},
        {"type": "notebook", "content": {"cells": [None]}},
        {"type": "file"},
    ],
)
def test_a_save_never_fails(broken):
    warnings = []
    manager = SimpleNamespace(log=SimpleNamespace(warning=lambda *args: warnings.append(args)))
    pre_save_hook(model=broken, path="a.ipynb", contents_manager=manager)
    assert len(warnings) == (broken.get("type") == "notebook")


def test_the_server_loads_the_extension_that_the_configuration_names():
    (name,) = json.loads(CONFIG.read_text())["ServerApp"]["jpserver_extensions"]
    assert name == _jupyter.__name__
    assert _jupyter._jupyter_server_extension_points() == [{"module": name}]
    hooks = []
    manager = SimpleNamespace(register_pre_save_hook=hooks.append)
    _jupyter._load_jupyter_server_extension(SimpleNamespace(contents_manager=manager))
    assert hooks == [pre_save_hook]


def test_the_server_imports_nothing_heavy():
    code = (
        "import sys, lossbook._jupyter.hooks; "
        "print({'torch', 'numpy', 'matplotlib', 'ipywidgets'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
