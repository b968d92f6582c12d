"""Interactive figures: ``explore`` for a formula's knobs, ``TrainingPanel`` for a running model.

Both show controls and picture as one widget, beside a static picture that remains where no kernel
runs. ipywidgets and matplotlib are imported when a widget is made.
"""

import asyncio
import html
from collections.abc import Callable
from typing import Any

from lossbook._controls import (
    Control,
    choice,
    int_slider,
    log_slider,
    make_widgets,
    slider,
    toggle,
)
from lossbook._live import LIVE, display_once, replace_previous
from lossbook._panel import TrainingPanel
from lossbook._picture import Picture

__all__ = [
    "Explorer",
    "TrainingPanel",
    "choice",
    "exercise_all",
    "explore",
    "int_slider",
    "log_slider",
    "slider",
    "toggle",
]

# A slider that is dragged sends messages faster than a figure draws. Drawing waits until no
# message has come for QUIET seconds, at most PATIENCE times over, so that old values are skipped.
QUIET = 0.002
PATIENCE = 10


def explore(draw: Callable[..., None], *, figure, alt: str, **controls: Control) -> "Explorer":
    """Show a figure whose knobs the reader moves.

    Args:
        draw: called as ``draw(**values)``; updates the figure's artists, never clears it.
        figure: from ``plots.figure``.
        alt: what the picture shows, for readers who don't see it.
        **controls: one ``slider``, ``log_slider``, ``int_slider``, ``choice`` or ``toggle`` for
            each argument of ``draw``.

    Returns:
        The explorer, already displayed.

    Raises:
        ValueError: if a control's numbers contradict each other, or ``alt`` is empty.
    """
    return Explorer(draw, figure=figure, alt=alt, **controls)


class Explorer:
    """A figure with controls; made by :func:`explore`.

    Attributes:
        values: the knobs' present values.
        errors: the exceptions that ``draw`` raised, the newest last.
    """

    def __init__(self, draw: Callable[..., None], *, figure, alt: str, **controls: Control):
        import ipywidgets

        self._draw = draw
        self._controls = controls
        self._widgets = make_widgets(controls)
        self._picture = Picture(figure, alt)
        self._message = ipywidgets.HTML()
        self._changes = 0
        self._waiting = False
        self._muted = False
        self.errors: list[Exception] = []

        draw(**self.values)
        self._picture.show()
        for widget in self._widgets.values():
            widget.observe(self._changed, "value")
        self._box = ipywidgets.VBox(
            [
                *self._widgets.values(),
                self._picture.image,
                self._picture.spoken_alt(),
                self._message,
            ],
            layout={"max_width": f"{self._picture.image.width}px", "overflow": "hidden"},
        )
        replace_previous(self)
        LIVE.add(self)
        display_once(self._picture.bundle(self._box))

    def __repr__(self) -> str:
        return f"Explorer({', '.join(f'{k}={v!r}' for k, v in self.values.items())})"

    def _ipython_display_(self) -> None:
        """Nothing: the explorer was displayed when it was made."""

    @property
    def alt(self) -> str:
        return self._picture.alt

    @property
    def values(self) -> dict[str, Any]:
        return {name: widget.value for name, widget in self._widgets.items()}

    def set(self, **values: Any) -> None:
        """Move knobs and draw at once.

        Raises:
            ValueError: if a name is no knob of this figure.
        """
        for name in values:
            if name not in self._widgets:
                raise ValueError(f"{name} must be one of {list(self._widgets)}")
        self._muted = True
        try:
            for name, value in values.items():
                self._widgets[name].value = value
        finally:
            self._muted = False
        self._refresh()

    def frames(self, steps: int = 11) -> dict[str, list[tuple[Any, bytes]]]:
        """Draw the figure with each knob over its range and the others at their defaults.

        Args:
            steps: number of positions of a slider.

        Returns:
            For each knob a list of (value, PNG).
        """
        defaults = {name: control.value for name, control in self._controls.items()}
        frames = {}
        for name, control in self._controls.items():
            frames[name] = []
            for value in control.positions(steps):
                self._draw(**{**defaults, name: value})
                frames[name].append((value, self._picture.render()))
        self._refresh()
        return frames

    def close(self) -> None:
        """Remove the widget from the front end and from :func:`exercise_all`."""
        LIVE.discard(self)
        for widget in (*self._box.children, self._box):
            widget.close()

    def exercise(self, steps: int) -> list[tuple[str, int, list[str]]]:
        """Move each knob over its range; per knob the distinct pictures and the failures."""
        defaults = {name: control.value for name, control in self._controls.items()}
        rows = []
        for name, control in self._controls.items():
            pictures, failures = set(), []
            for value in control.positions(steps):
                seen = len(self.errors)
                self.set(**{**defaults, name: value})
                faults = [repr(e) for e in self.errors[seen:]] or self._picture.defects()
                failures += [f"{name}={value!r}: {fault}" for fault in faults]
                pictures.add(self._picture.image.value)
            rows.append((name, len(pictures), failures))
        self.set(**defaults)
        return rows

    def _changed(self, _change) -> None:
        self._changes += 1
        if self._muted or self._waiting:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._refresh()
        else:
            self._waiting = True
            loop.call_later(QUIET, self._settle, loop, self._changes, PATIENCE)

    def _settle(self, loop, changes: int, patience: int) -> None:
        if self._changes != changes and patience:
            loop.call_later(QUIET, self._settle, loop, self._changes, patience - 1)
        else:
            self._waiting = False
            self._refresh()

    def _refresh(self) -> None:
        try:
            self._draw(**self.values)
            self._picture.show()
        except Exception as error:  # whatever draw raises belongs to the reader, not to the kernel
            self.errors.append(error)
            self._message.value = error_line(error)
        else:
            self._message.value = ""


def error_line(error: Exception) -> str:
    """An exception as one red line."""
    text = html.escape(f"{type(error).__name__}: {error}")
    return f'<span style="color: #b00020">{text}</span>'


def exercise_all(steps: int = 7) -> list[str]:
    """Move every control of every live widget over its whole range, without a browser.

    Args:
        steps: number of positions of a slider.

    Returns:
        One line for each control.

    Raises:
        AssertionError: if a widget raises, or draws a blank picture or non-finite data, or if a
            control changes nothing.
    """
    report, failures = [], []
    for widget in list(LIVE):
        for name, pictures, faults in widget.exercise(steps):
            if pictures < 2 and not faults:
                faults = [f"{name}: the picture is the same over the whole range"]
            failures += [f"{widget.alt}: {fault}" for fault in faults]
            report.append(f"{widget.alt}: {name}: {pictures} pictures")
    if failures:
        raise AssertionError("\n".join(failures))
    return report
