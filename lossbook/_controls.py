"""Controls of the book's widgets, described without ipywidgets and made when they are shown."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import floor, isfinite, log10
from numbers import Real
from typing import Any, ClassVar

STOPS = 100  # of a slider whose step is not given


@dataclass(frozen=True)
class Control:
    """A knob: its default value, how to show it, and the values a test moves it over.

    Subclasses define ``check`` (raises ValueError), ``make`` (the ipywidget) and ``positions``.
    """

    value: Any
    label: str | None
    width: ClassVar[str] = "100%"

    def caption(self, name: str) -> str:
        return self.label or name.replace("_", " ")


@dataclass(frozen=True)
class Slider(Control):
    low: float
    high: float
    step: float | None

    def check(self, name: str) -> None:
        _check_range(name, self.low, self.high, self.value)
        if not (_is_number(self.step) and self.step > 0):
            raise ValueError(f"{name}: step must be positive, got {self.step!r}")
        if not _divides(self.step, self.value - self.low):  # the front end would show another one
            raise ValueError(
                f"{name}: value must be {self.low!r} plus a whole number of steps of "
                f"{self.step!r}, got {self.value!r}"
            )

    def make(self, **look):
        from ipywidgets import FloatSlider

        decimals = max(0, -floor(log10(self.step) + 1e-9))
        return FloatSlider(
            self.value,
            min=self.low,
            max=self.high,
            step=self.step,
            readout_format=f".{decimals}f",
            **look,
        )

    def positions(self, steps: int) -> list[float]:
        return _spaced(self.low, self.high, steps)


@dataclass(frozen=True)
class LogSlider(Control):
    low: float
    high: float

    def check(self, name: str) -> None:
        if not (_is_number(self.low) and self.low > 0):
            raise ValueError(f"{name}: low must be positive on a log scale, got {self.low!r}")
        _check_range(name, self.low, self.high, self.value)

    def make(self, **look):
        from ipywidgets import FloatLogSlider

        low, high = log10(self.low), log10(self.high)
        return FloatLogSlider(
            self.value,
            base=10,
            min=low,
            max=high,
            step=_even_step(low, high, log10(self.value)),
            readout_format=".3g",
            **look,
        )

    def positions(self, steps: int) -> list[float]:
        exponents = _spaced(log10(self.low), log10(self.high), steps)
        return [min(max(10**e, self.low), self.high) for e in exponents]


@dataclass(frozen=True)
class IntSlider(Control):
    low: int
    high: int

    def check(self, name: str) -> None:
        for key, number in (("low", self.low), ("high", self.high), ("value", self.value)):
            if not isinstance(number, int) or isinstance(number, bool):
                raise ValueError(f"{name}: {key} must be an integer, got {number!r}")
        _check_range(name, self.low, self.high, self.value)

    def make(self, **look):
        from ipywidgets import IntSlider

        return IntSlider(self.value, min=self.low, max=self.high, **look)

    def positions(self, steps: int) -> list[int]:
        return sorted({round(p) for p in _spaced(self.low, self.high, steps)})


@dataclass(frozen=True)
class Choice(Control):
    options: tuple[tuple[str, Any], ...]
    width: ClassVar[str] = "60%"

    def check(self, name: str) -> None:
        if not self.options:
            raise ValueError(f"{name}: options must not be empty")
        allowed = [value for _, value in self.options]
        if self.value not in allowed:
            raise ValueError(f"{name}: value must be one of {allowed}, got {self.value!r}")

    def make(self, **look):
        from ipywidgets import Dropdown

        return Dropdown(options=self.options, value=self.value, **look)

    def positions(self, steps: int) -> list[Any]:
        return [value for _, value in self.options]


@dataclass(frozen=True)
class Toggle(Control):
    def check(self, name: str) -> None:
        if not isinstance(self.value, bool):
            raise ValueError(f"{name}: value must be True or False, got {self.value!r}")

    def make(self, **look):
        from ipywidgets import Checkbox

        return Checkbox(self.value, **look)

    def positions(self, steps: int) -> list[bool]:
        return [False, True]


def slider(
    low: float, high: float, value: float, step: float | None = None, *, label: str | None = None
) -> Slider:
    """A slider over real numbers.

    Args:
        low: smallest value.
        high: largest value.
        value: the default, between ``low`` and ``high``.
        step: distance of two stops; by default about a hundredth of the range.
        label: text beside the slider; by default the keyword's name.
    """
    if step is None and all(map(_is_number, (low, high, value))) and low < high:
        step = _round_step(low, high, value)
    return Slider(value=value, label=label, low=low, high=high, step=step)


def log_slider(low: float, high: float, value: float, *, label: str | None = None) -> LogSlider:
    """A slider over positive numbers on a logarithmic scale, such as a temperature."""
    return LogSlider(value=value, label=label, low=low, high=high)


def int_slider(low: int, high: int, value: int, *, label: str | None = None) -> IntSlider:
    """A slider over integers, both ends included."""
    return IntSlider(value=value, label=label, low=low, high=high)


def choice(
    options: Collection | Mapping[str, Any], value: Any, *, label: str | None = None
) -> Choice:
    """A drop-down list; ``options`` are values, or a mapping from shown text to value."""
    pairs = options.items() if isinstance(options, Mapping) else ((str(o), o) for o in options)
    return Choice(value=value, label=label, options=tuple(pairs))


def toggle(value: bool, *, label: str | None = None) -> Toggle:
    """A check box."""
    return Toggle(value=value, label=label)


def make_widgets(controls: Mapping[str, Control]) -> dict[str, Any]:
    """Check the controls and make their ipywidgets, with aligned labels.

    Raises:
        ValueError: if a control's numbers contradict each other.
        TypeError: if a keyword is no control.
    """
    for name, control in controls.items():
        if not isinstance(control, Control):
            raise TypeError(
                f"{name} must be a slider, log_slider, int_slider, choice or toggle, "
                f"got {control!r}"
            )
        control.check(name)
    captions = {name: control.caption(name) for name, control in controls.items()}
    width = f"{max(map(len, captions.values()), default=0) + 2}ch"
    style = {"description_width": width}
    return {
        name: control.make(description=captions[name], style=style, layout={"width": control.width})
        for name, control in controls.items()
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)


def _check_range(name: str, low: float, high: float, value: float) -> None:
    for key, number in (("low", low), ("high", high), ("value", value)):
        if not _is_number(number):
            raise ValueError(f"{name}: {key} must be a finite number, got {number!r}")
    if not low < high:
        raise ValueError(f"{name}: low must be less than high, got {low!r} and {high!r}")
    if not low <= value <= high:
        raise ValueError(f"{name}: value must be between {low!r} and {high!r}, got {value!r}")


def _divides(step: float, distance: float) -> bool:
    return abs(distance / step - round(distance / step)) < 1e-6


def _round_step(low: float, high: float, value: float) -> float:
    """About a hundredth of the range, a round number if a whole number of such steps hits value."""
    ideal = (high - low) / STOPS
    power = 10.0 ** floor(log10(ideal))
    candidates = sorted(
        (m * power for m in (0.5, 1, 2, 5, 10)), key=lambda s: abs(log10(s / ideal))
    )
    hits = (step for step in candidates if _divides(step, value - low))
    return next(hits, _even_step(low, high, value))


def _even_step(low: float, high: float, value: float) -> float:
    """About a hundredth of the range, such that a whole number of steps leads to value."""
    ideal = (high - low) / STOPS
    return (value - low) / max(1, round((value - low) / ideal)) if value > low else ideal


def _spaced(low: float, high: float, steps: int) -> list[float]:
    if steps < 2:
        raise ValueError(f"steps must be at least 2, got {steps!r}")
    return [low + (high - low) * i / (steps - 1) for i in range(steps)]
