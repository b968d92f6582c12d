"""A model that trains in the notebook while the reader watches and turns its knobs."""

import asyncio
import atexit
import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from lossbook._controls import Control
from lossbook._live import LIVE, LiveFigure, with_present_globals
from lossbook._picture import DRAWING

DRAW_EVERY = 0.125  # seconds between two pictures while training
BEAT = 5.0  # seconds between two questions to the front end
BEATS = 6  # unanswered questions that end the training


class TrainingPanel(LiveFigure):
    """Start, pause, step and reset a training run; its knobs act on the running model.

    Training runs in one thread, so other cells run meanwhile. It ends when the cell runs again,
    when the kernel shuts down, on an exception, at the first non-finite metric, and when no front
    end has answered for 30 seconds; but for the first two, Start goes on from where it stopped.

    Args:
        start: ``start(seed)`` returns the state that the other functions get (any object).
        step: ``step(state, **knob_values)`` trains once and returns a dict of floats, such as
            ``{"loss": 0.3}``.
        draw: ``draw(state, history)`` updates the figure's artists; ``history`` is a dict of
            lists of floats, one value a step, all empty after a reset.
        figure: from ``plots.figure``; axes keep the layout of the first drawing.
        alt: what the picture shows, for readers who don't see it.
        steps: steps that the constructor trains at once, so that a page without a kernel shows a
            result.
        seed: passed to ``start``.
        **controls: one control for each knob of ``step``.

    Raises:
        ValueError: if a control's numbers contradict each other, or ``alt`` is empty.
    """

    def __init__(
        self,
        start: Callable[[int], Any],
        step: Callable[..., dict[str, float]],
        draw: Callable[[Any, dict[str, list[float]]], None],
        *,
        figure,
        alt: str,
        steps: int = 200,
        seed: int = 0,
        **controls: Control,
    ):
        super().__init__(figure, alt, controls)
        self._start, self._step, self._draw = map(with_present_globals, (start, step, draw))
        self._seed = seed
        self._thread: threading.Thread | None = None
        self._turn = threading.RLock()  # one of start, pause, step, reset at a time
        self._stop = threading.Event()
        self._lock = threading.Lock()  # guards _values: the reader turns, the thread reads
        self._values = self.values
        self._loop = _running_loop()
        self._make_widgets()
        self._begin()
        for _ in range(steps):
            self._advance()
        self._redraw()
        self._tell("ready")
        self._display(self._buttons, self._status)

    @property
    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    @property
    def steps(self) -> int:
        """Steps trained since the last reset."""
        return max(map(len, self.history.values()), default=0)

    @property
    def status(self) -> str:
        return self._status.value

    def start(self) -> None:
        """Train on, in a thread, until paused."""
        with self._turn:
            if self.running:
                return
            self._stop.clear()
            self._message.value = ""
            self._thread = threading.Thread(target=self._train, name="TrainingPanel", daemon=True)
            self._show_running(True)
            self._thread.start()
            if self._loop:
                self._loop.call_soon_threadsafe(self._expect_front_end, self._thread)

    def pause(self, reason: str = "paused") -> None:
        """Stop after the present step; returns when the thread has ended."""
        with self._turn:
            if not self.running:
                return
            self._stop.set()
            self._thread.join()
            if not self._message.value:
                self._tell(reason)
                self._attempt(self._redraw)

    def step(self) -> None:
        """Train one step."""
        with self._turn:
            self.pause()
            self._message.value = ""
            if self._attempt(self._advance) and self._attempt(self._redraw):
                self._tell("paused")

    def reset(self) -> None:
        """Begin anew with the first seed and the present knobs; trains on if it was training."""
        with self._turn:
            was_running = self.running
            self.pause()
            self._message.value = ""
            if self._attempt(self._begin) and self._attempt(self._redraw):
                self._tell("ready")
                if was_running:
                    self.start()

    def close(self) -> None:
        self.pause()
        for widget in (*self._buttons.children, self._ping, self._pong, self._link):
            widget.close()
        super().close()

    def _begin(self) -> None:
        self.state = self._start(self._seed)
        self.history: dict[str, list[float]] = defaultdict(list)
        self._rate = 0.0

    def _advance(self) -> None:
        with self._lock:
            knobs = dict(self._values)
        metrics = {name: float(v) for name, v in self._step(self.state, **knobs).items()}
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise FloatingPointError(f"{name} is {value}")
        for name, value in metrics.items():
            self.history[name].append(value)

    def _redraw(self) -> None:
        with DRAWING:
            self._draw(self.state, self.history)
            self._picture.show()

    def _train(self) -> None:
        shown, done = time.perf_counter(), self.steps
        due = shown + DRAW_EVERY
        while not self._stop.is_set() and self._attempt(self._advance):
            now = time.perf_counter()
            if now < due:
                continue
            self._rate = (self.steps - done) / (now - shown)
            shown, done = now, self.steps
            if not self._attempt(self._redraw):
                break
            self._tell("training")
            cost = time.perf_counter() - now
            due = now + max(DRAW_EVERY, 2 * cost)  # at least half of the time goes to training
        self._show_running(False)

    def _attempt(self, action: Callable[[], None]) -> bool:
        """Do it; an exception goes to the status line with the step and the knobs."""
        try:
            action()
        except Exception as error:  # the thread must end in order, with the state kept
            knobs = ", ".join(f"{name}={value!r}" for name, value in self._values.items())
            self._report(error, where=f"step {self.steps + 1} ({knobs}): ")
            self._tell("stopped")
            return False
        return True

    def exercise(self, steps: int) -> list[tuple[str, int, list[str]]]:
        rows = super().exercise(steps)
        seen = len(self.errors)
        self.reset()
        faults = [f"after a reset: {error!r}" for error in self.errors[seen:]]
        return [*rows, ("reset", 1, faults)] if faults else rows

    def _try(self, values: dict[str, Any]) -> None:
        self.pause()
        self.set(**values)
        self.step()

    def _turned(self, _change) -> None:
        with self._lock:
            self._values = self.values

    def _make_widgets(self) -> None:
        import ipywidgets

        for widget in self._widgets.values():
            widget.observe(self._turned, "value")
        self._toggle = ipywidgets.Button(description="Start", icon="play")
        once = ipywidgets.Button(description="Step", icon="step-forward")
        reset = ipywidgets.Button(description="Reset", icon="refresh")
        self._toggle.on_click(lambda _: self.pause() if self.running else self.start())
        once.on_click(lambda _: self.step())
        reset.on_click(lambda _: self.reset())
        for button in (self._toggle, once, reset):
            button.layout.width = "7em"
        self._buttons = ipywidgets.HBox([self._toggle, once, reset])
        self._status = ipywidgets.HTML(layout={"height": "28px"})
        # The front end copies each ping to the pong, also in a hidden tab: that is its answer.
        self._ping, self._pong = ipywidgets.IntText(0), ipywidgets.IntText(0)
        self._link = ipywidgets.jsdlink((self._ping, "value"), (self._pong, "value"))
        self._pong.observe(self._answered, "value")

    def _show_running(self, running: bool) -> None:
        self._toggle.description = "Pause" if running else "Start"
        self._toggle.icon = "pause" if running else "play"

    def _tell(self, condition: str) -> None:
        parts = [f"step {self.steps}"]
        if condition == "training":
            parts.append(f"{self._rate:.0f} steps/s")
        parts += [f"{name} {values[-1]:.4g}" for name, values in self.history.items() if values]
        self._status.value = " · ".join([*parts, condition])

    def _expect_front_end(self, thread: threading.Thread) -> None:
        """Ask the front end every BEAT seconds whether it is there, while this thread trains."""
        self._unanswered = 0
        self._loop.call_later(BEAT, self._beat, thread, self._loop.time() + BEAT)

    def _beat(self, thread: threading.Thread, due: float) -> None:
        if not thread.is_alive():
            return
        if self._loop.time() - due < 1.0:  # else a cell ran, which may have kept answers waiting
            self._unanswered += 1
        if self._unanswered > BEATS:
            self.pause(f"paused: no front end answered for {BEAT * BEATS:.0f} s")
        else:
            self._ping.value += 1
            self._loop.call_later(BEAT, self._beat, thread, self._loop.time() + BEAT)

    def _answered(self, _change) -> None:
        self._unanswered = 0


@atexit.register
def _end_training() -> None:
    """End all threads before the interpreter takes torch away from under them."""
    for panel in list(LIVE):
        if isinstance(panel, TrainingPanel):
            panel.pause()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    """The kernel's event loop; None where no kernel runs and so no front end can be asked."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
