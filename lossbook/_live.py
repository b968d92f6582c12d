"""What explorers and training panels share: knobs and a picture, shown as one widget."""

import html
from collections.abc import Callable, Mapping
from types import CodeType, FunctionType
from typing import Any
from weakref import WeakSet

from lossbook._controls import Control, make_widgets
from lossbook._picture import Picture

LIVE: WeakSet["LiveFigure"] = WeakSet()
_FROM_CELL: dict[str, tuple[str, list["LiveFigure"]]] = {}


class LiveFigure:
    """Knobs above a picture, in one widget with a static picture beside it.

    Attributes:
        alt: what the picture shows.
        values: the knobs' present values.
        errors: the exceptions that the author's functions raised, the newest last.
    """

    def __init__(self, figure, alt: str, controls: Mapping[str, Control]):
        import ipywidgets

        _close_previous()
        self.errors: list[Exception] = []
        self._controls = dict(controls)
        self._widgets = make_widgets(controls)
        self._picture = Picture(figure, alt)
        self._message = ipywidgets.HTML()

    def __repr__(self) -> str:
        knobs = ", ".join(f"{name}={value!r}" for name, value in self.values.items())
        return f"{type(self).__name__}({knobs})"

    def _ipython_display_(self) -> None:
        """Nothing: the widget was displayed when it was made."""

    @property
    def alt(self) -> str:
        return self._picture.alt

    @property
    def values(self) -> dict[str, Any]:
        return {name: widget.value for name, widget in self._widgets.items()}

    @property
    def defaults(self) -> dict[str, Any]:
        return {name: control.value for name, control in self._controls.items()}

    def set(self, **values: Any) -> None:
        """Move knobs.

        Raises:
            ValueError: if a name is no knob of this figure.
        """
        for name, value in values.items():
            if name not in self._widgets:
                raise ValueError(f"{name} must be one of {list(self._widgets)}, got {value!r}")
        for name, value in values.items():
            self._widgets[name].value = value

    def close(self) -> None:
        """Remove the widget from the front end and from ``exercise_all``."""
        LIVE.discard(self)
        for widget in (*self._box.children, self._box):
            widget.close()

    def exercise(self, steps: int) -> list[tuple[str, int, list[str]]]:
        """Move each knob over its range; per knob the distinct pictures and the failures."""
        rows = []
        for name, control in self._controls.items():
            pictures, failures = set(), []
            for value in control.positions(steps):
                seen = len(self.errors)
                self._try({**self.defaults, name: value})
                faults = [repr(e) for e in self.errors[seen:]] or self._picture.defects()
                failures += [f"{name}={value!r}: {fault}" for fault in faults]
                pictures.add(self._picture.image.value)
            rows.append((name, len(pictures), failures))
        self._try(self.defaults)
        return rows

    def _try(self, values: dict[str, Any]) -> None:
        """Show the picture for these values, as a front end would have it."""
        raise NotImplementedError

    def _display(self, *above) -> None:
        """Show the knobs, what else stands above the picture, and the picture."""
        import ipywidgets

        self._box = ipywidgets.VBox(
            [
                *self._widgets.values(),
                *above,
                self._picture.image,
                self._picture.spoken_alt(),
                self._message,
            ],
            layout={"max_width": f"{self._picture.image.width}px", "overflow": "hidden"},
        )
        _remember(self)
        LIVE.add(self)
        _display_bundle(self._picture.bundle(self._box))

    def _report(self, error: Exception, where: str = "") -> None:
        """Show an exception as one red line below the picture, and keep it."""
        self.errors.append(error)
        text = html.escape(f"{where}{type(error).__name__}: {error}")
        self._message.value = (
            f'<span class="lossbook-error" role="alert" style="color: #b00020">{text}</span>'
        )


def with_present_globals(function: Callable) -> Callable:
    """The function, bound to what its global names mean now: a later cell may reuse ``ax``."""
    if not isinstance(function, FunctionType):
        return function
    meant = {
        name: function.__globals__[name]
        for name in ("__builtins__", *_names(function.__code__))
        if name in function.__globals__
    }
    bound = FunctionType(
        function.__code__, meant, function.__name__, function.__defaults__, function.__closure__
    )
    bound.__kwdefaults__ = function.__kwdefaults__
    return bound


def _names(code: CodeType) -> set[str]:
    inner = [_names(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*inner)


def _display_bundle(bundle: dict) -> None:
    from IPython import get_ipython
    from IPython.display import display

    if get_ipython() is not None:  # elsewhere nobody could see it
        display(bundle, raw=True)


def _close_previous() -> None:
    """Close what an earlier run of the present cell made, and so end its training.

    Front ends name the cell in the request's metadata; without that name nothing is closed.
    """
    cell, request = _current_cell()
    earlier_request, widgets = _FROM_CELL.get(cell, (request, []))
    if earlier_request != request:
        del _FROM_CELL[cell]
        for widget in widgets:
            widget.close()


def _remember(widget: LiveFigure) -> None:
    cell, request = _current_cell()
    if cell is not None:
        _FROM_CELL.setdefault(cell, (request, []))[1].append(widget)


def _current_cell() -> tuple[str | None, str | None]:
    """The id of the cell that runs, and of the request that runs it."""
    from IPython import get_ipython

    shell = get_ipython()
    if not hasattr(shell, "get_parent"):
        return None, None
    parent = shell.get_parent() or {}
    cell = parent.get("metadata", {}).get("cellId")
    return cell, parent.get("header", {}).get("msg_id")
