"""Interactive figures: ``explore`` for a formula's knobs, ``TrainingPanel`` for a running model.

Both show controls and picture as one widget, beside a static picture that remains where no kernel
runs. ipywidgets and matplotlib are imported when a widget is made.
"""

from collections.abc import Callable
from typing import Any

from lossbook._controls import Control, choice, int_slider, log_slider, slider, toggle
from lossbook._live import LIVE, LiveFigure, with_present_globals
from lossbook._panel import TrainingPanel
from lossbook._picture import DRAWING

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


def explore(draw: Callable[..., None], *, figure, alt: str, **controls: Control) -> "Explorer":
    """Show a figure whose knobs the reader moves.

    Args:
        draw: called as ``draw(**values)``; updates the figure's artists, never clears it.
        figure: from ``plots.figure``; axes keep the layout of the first drawing.
        alt: what the picture shows, for readers who don't see it.
        **controls: one ``slider``, ``log_slider``, ``int_slider``, ``choice`` or ``toggle`` for
            each argument of ``draw``.

    Returns:
        The explorer, already displayed.

    Raises:
        ValueError: if a control's numbers contradict each other, or ``alt`` is empty.
    """
    return Explorer(draw, figure=figure, alt=alt, **controls)


class Explorer(LiveFigure):
    """A figure with knobs; made by :func:`explore`."""

    def __init__(self, draw: Callable[..., None], *, figure, alt: str, **controls: Control):
        super().__init__(figure, alt, controls)
        self._draw = draw = with_present_globals(draw)
        self._muted = False
        with DRAWING:
            draw(**self.values)
            self._picture.show()
        for widget in self._widgets.values():
            widget.observe(self._changed, "value")
        self._display()

    def set(self, **values: Any) -> None:
        """Move knobs and draw at once.

        Raises:
            ValueError: if a name is no knob of this figure.
        """
        self._muted = True
        try:
            super().set(**values)
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
        frames = {
            name: [(value, self._frame(name, value)) for value in control.positions(steps)]
            for name, control in self._controls.items()
        }
        self._refresh()
        return frames

    def _frame(self, name: str, value: Any) -> bytes:
        with DRAWING:
            self._draw(**{**self.defaults, name: value})
            return self._picture.render()

    def _try(self, values: dict[str, Any]) -> None:
        self.set(**values)

    def _changed(self, _change) -> None:
        """Draw at once: the front end holds back newer values until it is done, and then sends the
        newest, so that a slider that is dragged never queues drawings."""
        if not self._muted:
            self._refresh()

    def _refresh(self) -> None:
        try:
            with DRAWING:
                self._draw(**self.values)
                self._picture.show()
        except Exception as error:  # the reader sees it, and the next value may work
            self._report(error)
        else:
            self._message.value = ""


def exercise_all(steps: int = 7) -> list[str]:
    """Move every control of every live widget over its whole range, without a browser.

    Args:
        steps: number of positions of a slider.

    Returns:
        One line for each control.

    Raises:
        AssertionError: if a widget raises, if its picture is blank, cut off or made from
            non-finite data, or if a control changes nothing.
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
