"""Keeps saved notebooks free of widgets whose kernel is gone.

ipywidgets shows "Error displaying widget: model not found" for a saved widget view, even where a
static picture stands in the same output. The saved file therefore keeps the picture alone; the
widget that is live in the browser stays as it is. Imports nothing, since the server loads it.
"""

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
STATIC = ("text/html", "image/png", "image/svg+xml", "image/jpeg")


def strip_widgets(notebook: dict) -> None:
    """Drop, in place, the widget views that have a static picture, and all widget state."""
    notebook.get("metadata", {}).pop("widgets", None)
    for cell in notebook.get("cells", []):
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if any(kind in data for kind in STATIC):
                data.pop(WIDGET_VIEW, None)
                output.get("metadata", {}).pop(WIDGET_VIEW, None)


def pre_save_hook(model: dict, path: str = "", contents_manager=None, **_) -> None:
    """Jupyter's hook before a file is saved; a failure is logged and never stops the save."""
    if model.get("type") != "notebook":
        return
    try:
        strip_widgets(model["content"])
    except Exception as error:
        if contents_manager is not None:
            contents_manager.log.warning("lossbook: widgets of %s are kept: %s", path, error)
