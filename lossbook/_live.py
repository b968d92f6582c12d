"""Which widgets are alive, and from which notebook cell each came."""

from weakref import WeakSet

LIVE: WeakSet = WeakSet()
_FROM_CELL: dict[str, tuple[str, list]] = {}


def display_once(bundle: dict) -> None:
    """Display a mimebundle where IPython runs; elsewhere nobody could see it."""
    from IPython import get_ipython
    from IPython.display import display

    if get_ipython() is not None:
        display(bundle, raw=True)


def replace_previous(widget) -> None:
    """Close the widgets that an earlier run of the same notebook cell made.

    Front ends name the cell in the request's metadata; without that name nothing is closed.
    """
    cell, request = _current_cell()
    if cell is None:
        return
    earlier_request, widgets = _FROM_CELL.get(cell, (request, []))
    if earlier_request != request:
        for old in widgets:
            old.close()
        widgets = []
    _FROM_CELL[cell] = (request, [*widgets, widget])


def _current_cell() -> tuple[str | None, str | None]:
    from IPython import get_ipython

    shell = get_ipython()
    if not hasattr(shell, "get_parent"):
        return None, None
    parent = shell.get_parent() or {}
    cell = parent.get("metadata", {}).get("cellId")
    return cell, parent.get("header", {}).get("msg_id")
