"""Widgets without a browser: controls, explorers, and a panel that trains in a thread."""

import asyncio
import io
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

from lossbook import _live, _panel, plots
from lossbook.widgets import (
    TrainingPanel,
    choice,
    exercise_all,
    explore,
    int_slider,
    log_slider,
    slider,
    toggle,
)

X = np.linspace(0, 1, 20)


@pytest.fixture(autouse=True)
def no_other_widgets():
    """Each test has the live widgets to itself."""
    yield
    for widget in list(_live.LIVE):
        widget.close()


def curve_figure():
    figure, axes = plots.figure(2, 1.5)
    (curve,) = axes.plot(X, X)
    axes.set_ylim(-2, 2)
    return figure, curve


def explorer(draw=None, **controls):
    figure, curve = curve_figure()
    controls = controls or {"slope": slider(-1, 1, 0.5)}
    draw = draw or (lambda curve, slope: curve.set_ydata(slope * X))
    return explore(lambda **v: draw(curve, **v), figure=figure, alt="A line.", **controls)


# Controls


@pytest.mark.parametrize(
    ("control", "message"),
    [
        (slider(1, 1, 1), "k: low must be less than high, got 1 and 1"),
        (slider(0, 1, 2), "k: value must be between 0 and 1, got 2"),
        (slider(0, float("inf"), 2), "k: high must be a finite number, got inf"),
        (slider(0, 1, 0.5, step=0), "k: step must be positive, got 0"),
        (slider(0, 1, 0.5, step=0.3), "k: value must be 0 plus a whole number of steps of 0.3"),
        (log_slider(0, 1, 0.5), "k: low must be positive on a log scale, got 0"),
        (log_slider(0.1, 1, 0.01), "k: value must be between 0.1 and 1, got 0.01"),
        (int_slider(0, 3, 4), "k: value must be between 0 and 3, got 4"),
        (choice(["a", "b"], "c"), "k: value must be one of ['a', 'b'], got 'c'"),
        (choice([], "c"), "k: options must not be empty"),
    ],
)
def test_bad_controls_say_what_is_allowed(control, message):
    with pytest.raises(ValueError) as raised:
        explorer(k=control)
    assert str(raised.value).startswith(message)


@pytest.mark.no_typecheck
@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (slider, (0, 1, "a"), "k: value must be a finite number, got 'a'"),
        (int_slider, (0, 3, 1.5), "k: value must be an integer, got 1.5"),
        (toggle, (1,), "k: value must be True or False, got 1"),
    ],
)
def test_values_of_another_type_say_what_is_allowed(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        explorer(k=make(*arguments))


@pytest.mark.no_typecheck
def test_a_keyword_that_is_no_control():
    with pytest.raises(TypeError, match="k must be a slider, .* got 3"):
        explorer(k=3)


def test_an_empty_alt():
    with pytest.raises(ValueError, match="alt must say in words"):
        explore(lambda: None, figure=curve_figure()[0], alt=" ")


@pytest.mark.parametrize(
    ("low", "high", "value", "step"),
    [(0, 1, 0.5, 0.01), (0, 3, 0.7, 0.02), (1, 80, 40, 1), (-1, 1, 0, 0.02), (0, 1, 0.125, 0.005)],
)
def test_the_default_step_is_round_and_hits_the_value(low, high, value, step):
    assert slider(low, high, value).step == pytest.approx(step)


def test_any_value_lies_on_a_stop():
    control = slider(0, 1, 1 / 3)
    stops = control.value / control.step
    assert stops == pytest.approx(round(stops))
    exponents = log_slider(0.01, 10, 0.3).make()
    stops = (np.log10(exponents.value) - exponents.min) / exponents.step
    assert stops == pytest.approx(round(stops))


def test_positions_cover_the_range():
    assert slider(0, 1, 0.5).positions(3) == [0, 0.5, 1]
    assert log_slider(0.01, 100, 1).positions(3) == pytest.approx([0.01, 1, 100])
    assert int_slider(0, 2, 1).positions(7) == [0, 1, 2]
    assert choice({"A": "a", "B": "b"}, "a").positions(7) == ["a", "b"]
    assert toggle(True).positions(7) == [False, True]


# Explorer


def test_a_knob_moves_the_picture():
    shown = explorer()
    before = shown._picture.image.value
    shown.set(slope=-1.0)
    assert shown.values == {"slope": -1.0}
    assert shown._picture.image.value != before
    with pytest.raises(ValueError, match="slop must be one of"):
        shown.set(slop=1)


def test_a_message_of_the_front_end_moves_the_picture():
    shown = explorer()
    before = shown._picture.image.value
    shown._widgets["slope"].set_state({"value": -1.0})
    assert shown._picture.image.value != before


def test_the_picture_keeps_its_size_and_layout():
    shown = explorer(lambda curve, top: curve.axes.set_ylim(0, top), top=log_slider(1, 1e6, 1))
    place = shown._picture.figure.axes[0].get_position().bounds
    shown.set(top=1e6)
    assert shown._picture.figure.axes[0].get_position().bounds == place
    size = Image.open(io.BytesIO(shown._picture.image.value)).size
    assert size == (220, 165) == (int(shown._picture.image.width), int(shown._picture.image.height))


def test_a_later_cell_may_reuse_the_names_that_draw_uses():
    notebook = {"X": X}
    figure, notebook["line"] = curve_figure()
    exec("def draw(slope): [line.set_ydata(slope * x) for x in [X]]", notebook)
    moved = explore(notebook["draw"], figure=figure, alt="A line.", slope=slider(-1, 1, 0.5))
    notebook["line"] = notebook["X"] = None
    moved.set(slope=-1)
    assert not moved.errors
    assert figure.axes[0].lines[0].get_ydata()[-1] == -1


def test_an_exception_is_shown_and_the_widget_lives_on():
    def draw(curve, slope):
        if slope > 0.9:
            raise ValueError("slope <1> is too steep")
        curve.set_ydata(slope * X)

    shown = explorer(draw)
    good = shown._picture.image.value
    shown.set(slope=1.0)
    assert "ValueError: slope &lt;1&gt; is too steep" in shown._message.value
    assert shown._picture.image.value == good
    assert [str(e) for e in shown.errors] == ["slope <1> is too steep"]
    shown.set(slope=0.0)
    assert shown._message.value == ""
    assert shown._picture.image.value != good


def test_the_first_drawing_must_succeed():
    with pytest.raises(ZeroDivisionError):
        explorer(lambda curve, slope: 1 / 0)
    assert not _live.LIVE


def test_frames_move_one_knob_at_a_time():
    drawn = []

    def draw(curve, slope, shift):
        drawn.append((slope, shift))
        curve.set_ydata(slope * X + shift)

    shown = explorer(draw, slope=slider(-1, 1, 0.5), shift=int_slider(0, 1, 0))
    drawn.clear()
    frames = shown.frames(steps=3)
    assert {k: [v for v, _ in f] for k, f in frames.items()} == {
        "slope": [-1, 0, 1],
        "shift": [0, 1],
    }
    assert drawn == [(-1, 0), (0, 0), (1, 0), (0.5, 0), (0.5, 1), (0.5, 0)]
    assert all(png.startswith(b"\x89PNG") for f in frames.values() for _, png in f)


def test_view_and_static_picture_stand_in_one_bundle():
    shown = explorer()
    bundle = shown._picture.bundle(shown._box)
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == shown._box.model_id
    assert 'alt="A line."' in bundle["text/html"]
    assert "A line." in bundle["text/plain"]


# Exercising all widgets


def test_exercise_reports_every_control():
    explorer(
        lambda curve, slope, flip: curve.set_ydata(slope * X * (-1 if flip else 1)),
        slope=slider(-1, 1, 0.5),
        flip=toggle(False),
    )
    assert exercise_all(steps=3) == ["A line.: slope: 3 pictures", "A line.: flip: 2 pictures"]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda curve, slope: curve.set_ydata(X / slope), "slope=0.0: non-finite data in line"),
        (lambda curve, slope: 1 / slope, "slope=0.0: ZeroDivisionError"),
        (lambda curve, slope: None, "the picture is the same over the whole range"),
        (
            lambda curve, slope: curve.axes.set_title("long" * (20 if slope == 1 else 1)),
            "slope=1.0: a text or label is cut off at the right",
        ),
        (
            lambda curve, slope: curve.axes.set_visible(slope > 0),
            "slope=-1.0: the picture is blank",
        ),
        (
            lambda curve, slope: curve.axes.scatter(X, X).set_offsets([[0, slope], [1, np.nan]]),
            "non-finite data in collection",
        ),
        (
            lambda curve, slope: curve.axes.bar([0], [np.nan if slope < 0 else 1]),
            "non-finite data in patch",
        ),
    ],
)
def test_exercise_finds(draw, message):
    explorer(draw)
    with np.errstate(all="ignore"), pytest.raises(AssertionError, match=message):
        exercise_all(steps=3)


def test_exercise_forgets_closed_widgets():
    explorer().close()
    assert exercise_all() == []


def test_a_cell_that_runs_again_replaces_its_widgets(monkeypatch):
    requests = iter([("cell 1", "a"), ("cell 1", "a"), ("cell 2", "b"), ("cell 1", "c")])
    shown = []
    for request in requests:
        monkeypatch.setattr(_live, "_current_cell", lambda request=request: request)
        shown.append(explorer())
    assert set(_live.LIVE) == set(shown[2:])


# TrainingPanel


class Model:
    """Counts its steps; the loss is what the knob says."""

    def __init__(self, seed):
        self.seed, self.steps, self.threads = seed, 0, set()


def model_step(model, level):
    model.steps += 1
    model.threads.add(threading.current_thread().name)
    time.sleep(0.001)
    if level == 3:
        raise RuntimeError("level <3>")
    return {"loss": float("nan") if level == 2 else 1 / (1 + model.steps * level)}


def panel(step=model_step, **options):
    figure, curve = curve_figure()

    def draw(model, history):
        curve.set_data(X, np.resize(history["loss"] or 0, len(X)))

    options = {"steps": 5, "level": slider(0, 3, 1, step=1), **options}
    return TrainingPanel(Model, step, draw, figure=figure, alt="A loss.", **options)


def wait_for(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_the_constructor_trains_without_a_thread():
    shown = panel(seed=3)
    assert shown.state.seed == 3
    assert shown.state.threads == {"MainThread"}
    assert shown.history == {"loss": [1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 6]}
    assert shown.status == "step 5 · loss 0.1667 · ready"
    assert not shown.running


def test_start_pause_step_and_reset():
    shown = panel()
    picture = shown._picture.image.value
    shown._toggle.click()
    shown.start()
    wait_for(lambda: "training" in shown.status)
    assert shown.state.threads == {"MainThread", "TrainingPanel"}
    assert "steps/s" in shown.status
    assert [t.name for t in threading.enumerate()].count("TrainingPanel") == 1
    assert shown._toggle.description == "Pause"
    assert shown._picture.image.value != picture

    before = time.perf_counter()
    shown._toggle.click()
    assert time.perf_counter() - before < 2
    assert not shown.running
    assert shown._toggle.description == "Start"
    assert shown.status.endswith("paused")

    trained = shown.steps
    shown.step()
    assert shown.steps == trained + 1 == shown.state.steps
    shown.reset()
    assert (shown.steps, shown.state.steps, shown.status) == (0, 0, "step 0 · ready")
    assert not shown.running

    shown.start()
    shown.reset()
    assert shown.running


def test_knobs_act_on_the_running_model():
    shown = panel(level=slider(0, 3, 1, step=1))
    shown.start()
    shown.set(level=0)
    wait_for(lambda: shown.history["loss"][-1] == 1)
    assert shown.running


@pytest.mark.parametrize(
    ("level", "message"),
    [(2, "(level=2.0): FloatingPointError: loss is nan"), (3, "RuntimeError: level &lt;3&gt;")],
)
def test_what_goes_wrong_in_a_step_is_shown_and_the_state_kept(level, message):
    shown = panel()
    shown.set(level=level)
    shown.start()
    wait_for(lambda: not shown.running)
    assert shown._message.value.count(message) == 1
    assert "step 6 " in shown._message.value
    assert shown.status.endswith("stopped")
    assert shown._toggle.description == "Start"
    assert shown.steps == 5

    shown.set(level=1)
    shown.start()
    wait_for(lambda: shown.steps > 5)
    assert shown._message.value == ""


def test_exercise_trains_at_every_position():
    shown = panel(level=slider(0, 1, 1))
    assert exercise_all(steps=3) == ["A loss.: level: 3 pictures"]
    assert shown.steps == 0


def test_exercise_finds_a_drawing_that_cannot_begin_anew():
    figure, curve = curve_figure()
    TrainingPanel(
        Model,
        model_step,
        lambda model, history: curve.set_ydata(X * history["loss"][-1]),
        figure=figure,
        alt="A loss.",
        steps=2,
        level=slider(0, 1, 1),
    )
    with pytest.raises(AssertionError, match="after a reset: IndexError"):
        exercise_all(steps=2)


def test_a_cell_that_runs_again_ends_its_training(monkeypatch):
    monkeypatch.setattr(_live, "_current_cell", lambda: ("cell", "first run"))
    first = panel()
    first.start()
    monkeypatch.setattr(_live, "_current_cell", lambda: ("cell", "second run"))
    with pytest.raises(ZeroDivisionError):
        panel(step=lambda model, level: 1 / 0)
    assert not first.running


@pytest.mark.parametrize("answers", [True, False])
def test_training_ends_without_a_front_end(monkeypatch, answers):
    monkeypatch.setattr(_panel, "BEAT", 0.02)

    async def watch():
        shown = panel()
        if answers:
            shown._ping.observe(lambda change: shown._pong.set_trait("value", change.new), "value")
        shown.start()
        for _ in range(100):
            await asyncio.sleep(0.01)
        return shown

    shown = asyncio.run(watch())
    assert shown.running == answers
    assert ("no front end answered" in shown.status) != answers
    shown.pause()


def test_a_busy_kernel_is_no_missing_front_end(monkeypatch):
    monkeypatch.setattr(_panel, "BEAT", 0.01)

    async def watch():
        shown = panel()
        shown.start()
        for _ in range(8):
            time.sleep(1.05)  # a cell that blocks the kernel, and so the answers
            await asyncio.sleep(0)
        return shown.running

    monkeypatch.setattr(_panel, "BEATS", 3)
    assert asyncio.run(watch())


def test_the_interpreter_ends_while_a_model_trains():
    code = """
import torch
from lossbook import plots
from lossbook.widgets import TrainingPanel
figure, axes = plots.figure()
def step(state):
    return {"loss": (torch.randn(200, 200) @ torch.randn(200, 200)).mean()}
TrainingPanel(lambda seed: 0, step, lambda *_: None, figure=figure, alt="A loss.", steps=1).start()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
