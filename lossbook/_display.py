"""Bundles of one output in several formats: HTML, plain text, JSON, a live widget."""

import sys
from typing import Any

from lossbook._jupyter.hooks import WIDGET_VIEW


def shell() -> Any:
    """The running IPython shell, or None; never imports IPython."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython else None


def widget_view(widget: Any) -> dict[str, Any]:
    """The part of a bundle by which a front end finds a live widget."""
    view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
    return {WIDGET_VIEW: view}


def show(bundle: dict[str, Any]) -> None:
    """Display a bundle by MIME type, or print its plain text where no IPython runs."""
    if shell() is None:
        print(bundle["text/plain"])
        return
    from IPython.display import display

    display(bundle, raw=True)
