"""The book's widgets and notebooks, driven in JupyterLab as a reader does.

One file, so that one server and one browser serve all of it, and no two tests compete for the CPU
that the latency is measured on.
"""

import os
import statistics
import time
from datetime import date
from pathlib import Path

import pytest

from lossbook import notebooks
from lossbook.execution import is_stale

pytestmark = pytest.mark.browser

SAMPLE = 6  # notebooks opened in one run, beside those whose outputs are not current


def chosen_notebooks() -> list[Path]:
    """The stale notebooks, and of the others a sample that moves on each day (or all of them)."""
    paths = notebooks.written()
    if os.environ.get("LOSSBOOK_FULL"):
        return paths
    stale = [path for path in paths if is_stale(notebooks.read(path))]
    rest = [path for path in paths if path not in stale]
    start = date.today().toordinal() * SAMPLE % max(len(rest), 1)
    return stale + (rest[start:] + rest[:start])[:SAMPLE]


EXPLORER = """
import numpy as np
from lossbook import plots
from lossbook.widgets import choice, explore, int_slider, log_slider, slider, toggle

figure, axes = plots.figure()
x = np.linspace(0, 1, 200)
(curve,) = axes.plot(x, x)
axes.set(ylim=(-2, 2), xlabel="x", title="A wave")
drawn = []

def draw(frequency, offset, order, doubled, shape):
    drawn.append(frequency)
    if offset == 1:
        raise ValueError("offset <1> is too large")
    wave = {"sine": np.sin, "cosine": np.cos}[shape]
    curve.set_ydata(wave(order * frequency * x) * (2 if doubled else 1) + offset)

explorer = explore(
    draw, figure=figure, alt="A wave of one curve.", frequency=log_slider(0.1, 100, 5),
    offset=slider(-1, 1, 0), order=int_slider(1, 5, 1), doubled=toggle(False),
    shape=choice(["sine", "cosine"], "sine"),
)
"""
PANEL = """
import threading, time
import numpy as np
from lossbook import plots
from lossbook.widgets import TrainingPanel, log_slider

figure, axes = plots.figure()
(curve,) = axes.plot([], [])
axes.set(xlim=(0, 1000), ylim=(0, 2), xlabel="step", title="Loss")
seen = []

def step(state, rate):
    time.sleep(0.002)
    seen.append((time.time(), rate))
    state["w"] *= 1 - rate
    return {"loss": state["w"] ** 2}

def draw(state, history):
    curve.set_data(range(len(history["loss"])), history["loss"])

panel = TrainingPanel(
    lambda seed: {"w": 1.0}, step, draw, figure=figure, alt="A loss that falls.", steps=20,
    rate=log_slider(1e-5, 0.1, 1e-3),
)
"""
THREADS = "[t.name for t in threading.enumerate()].count('TrainingPanel')"

# Measures the time from each key press to the frame that shows the new picture, and counts the
# frames without a picture and the pictures of one color. (While a new picture loads, its natural
# width is zero and the browser goes on showing the old one.)
WATCH = """
image => {
  const watch = (window.watch = { latencies: [], blank: 0, flat: 0 });
  const canvas = document.createElement('canvas');
  canvas.width = 64;
  canvas.height = 36;
  const context = canvas.getContext('2d', { willReadFrequently: true });
  let pressed = null;
  document.addEventListener('keydown', () => (pressed ??= performance.now()), true);
  const isFlat = () => {
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    const pixels = new Uint32Array(context.getImageData(0, 0, 64, 36).data.buffer);
    return pixels.every(pixel => pixel === pixels[0]);
  };
  let shown = image.src;
  const look = () => {
    if (!image.clientHeight || (image.complete && !image.naturalWidth)) watch.blank++;
    else if (image.src !== shown && image.complete) {
      shown = image.src;
      if (pressed !== null) watch.latencies.push(performance.now() - pressed);
      pressed = null;
      if (isFlat()) watch.flat++;
    }
    requestAnimationFrame(look);
  };
  look();
}
"""


@pytest.fixture(scope="module")
def wave(server, notebooks_opened):
    """The notebook with an explorer, run once for the tests that look at one."""
    with notebooks_opened() as open_:
        lab = open_(server.add("wave.ipynb", EXPLORER))
        lab.run_all()
        yield lab


def test_a_key_press_shows_its_picture_at_once(wave):
    output = wave.output(0)
    output.get_by_role("slider").first.focus()
    output.locator("img").evaluate(WATCH)
    height = output.bounding_box()["height"]
    for presses in range(1, 31):
        wave.page.keyboard.press("ArrowRight")
        wave.page.wait_for_function(f"watch.latencies.length == {presses}", timeout=5000)
    watch = wave.page.evaluate("watch")
    latencies = sorted(watch["latencies"])
    median = statistics.median(latencies)
    print(f"key press to pixels: median {median:.0f} ms, 90 % within {latencies[26]:.0f} ms")
    assert median <= 400
    assert watch["blank"] == watch["flat"] == 0
    assert output.bounding_box()["height"] == height
    assert wave.failures() == []


def test_a_burst_of_keys_ends_at_the_newest_value(wave):
    wave.evaluate("drawn.clear()")
    slider = wave.output(0).get_by_role("slider").first
    slider.press("Home")
    for _ in range(40):
        wave.page.keyboard.press("ArrowRight")
    wave.page.wait_for_timeout(1000)
    assert float(wave.evaluate("drawn[-1]")) == pytest.approx(0.1 * 1000**0.4, rel=0.05)
    assert int(wave.evaluate("len(drawn)")) <= 41
    assert wave.failures() == []


def test_every_kind_of_control_draws_and_errors_are_shown(wave):
    output = wave.output(0)
    for label in ("frequency", "offset", "order", "doubled", "shape"):
        assert output.get_by_text(label, exact=True).first.is_visible()
    assert output.get_by_text("A wave of one curve.").count() == 1  # for screen readers
    image = output.locator("img")
    assert image.bounding_box()["width"] <= 704

    for move in (
        lambda: output.get_by_role("slider").nth(2).press("ArrowRight"),
        lambda: output.get_by_role("checkbox").check(),
        lambda: output.get_by_role("combobox").select_option("cosine"),
    ):
        before = image.get_attribute("src")
        move()
        wave.wait_for_new_picture(image, before)
    assert "order=2, doubled=True, shape='cosine'" in wave.evaluate("explorer")

    output.get_by_role("slider").nth(1).press("End")
    output.get_by_text("ValueError: offset <1> is too large").wait_for()
    output.get_by_role("slider").nth(1).press("ArrowLeft")
    output.get_by_text("ValueError").wait_for(state="detached")
    assert wave.failures() == []


def test_training_leaves_the_kernel_to_other_cells(server, open_notebook):
    lab = open_notebook(server.add("panel.ipynb", PANEL, "count = len(seen)"))
    lab.run_all()
    output = lab.output(0)
    output.get_by_role("button", name="Start").click()
    output.get_by_text("steps/s").wait_for()
    lab.run(1)
    lab.page.wait_for_timeout(500)  # a step or two, on a busy machine too
    assert lab.evaluate("panel.running, len(seen) > count") == "True True"

    output.get_by_role("slider").press("End")
    lab.page.wait_for_timeout(300)
    assert float(lab.evaluate("seen[-1][1]")) == pytest.approx(0.1)

    delays = []
    for _ in range(5):
        clicked = time.time()
        output.get_by_role("button", name="Pause").click()
        output.get_by_text("paused").wait_for()
        delays.append(float(lab.evaluate("seen[-1][0]")) - clicked)
        assert lab.evaluate(THREADS) == "0"
        output.get_by_role("button", name="Start").click()
        output.get_by_text("steps/s").wait_for()
    delay = statistics.median(delays)
    print(f"pause: the last step came {1000 * delay:.0f} ms after the click")
    assert delay <= 0.2
    assert lab.failures() == []


def test_running_the_cell_again_ends_the_training(server, open_notebook):
    lab = open_notebook(server.add("again.ipynb", PANEL))
    for _ in range(2):
        lab.run(0)
        assert lab.evaluate(THREADS) == "0"
        lab.output(0).get_by_role("button", name="Start").click()
        lab.output(0).get_by_role("button", name="Pause").wait_for()
        assert lab.evaluate(THREADS) == "1"
    assert lab.failures() == []


def test_training_ends_when_the_front_end_has_gone(server, open_notebook):
    hurry = "import lossbook._panel\nlossbook._panel.BEAT = 0.3"
    name = server.add("gone.ipynb", hurry, PANEL)
    lab = open_notebook(name)
    lab.run_all()
    lab.command("docmanager:save")
    lab.output(1).get_by_role("button", name="Start").click()
    lab.page.wait_for_timeout(4000)
    assert lab.evaluate("panel.running") == "True"  # the front end answers
    lab.page.close()
    time.sleep(4)
    again = open_notebook(name)  # its kernel still runs
    assert "no front end answered" in again.evaluate("panel.status")


def test_pictures_remain_where_no_kernel_runs(server, open_notebook):
    name = server.add("saved.ipynb", EXPLORER, PANEL)
    lab = open_notebook(name)
    lab.run_all()
    lab.command("docmanager:save")
    assert lab.output(0).get_by_role("slider").count() == 3  # the live widgets stay
    saved = server.saved(name)
    kinds = [set(o["data"]) for c in saved["cells"] for o in c["outputs"] if "data" in o]
    assert kinds == [{"text/html", "text/plain"}] * 2
    assert "widgets" not in saved["metadata"]

    server.restart()
    again = open_notebook(name)
    assert again.is_trusted()  # where JupyterLab would look for the widgets
    for index, alt in enumerate(("A wave of one curve.", "A loss that falls.")):
        picture = again.output(index).get_by_role("img", name=alt)
        picture.scroll_into_view_if_needed()
        assert picture.evaluate("image => image.naturalWidth") > 0
    assert again.failures() == []


@pytest.mark.parametrize("path", chosen_notebooks(), ids=lambda path: path.stem)
def test_notebook(path, server, open_notebook):
    check_notebook(path, server, open_notebook)


def check_notebook(path: Path, server, open_notebook) -> None:
    """A book's notebook opens cold, runs, and answers each of its sliders."""
    lab = open_notebook(server.copy(path))
    assert lab.failures() == []
    lab.run_all()
    assert lab.failures() == []
    for box in lab.page.locator(".widget-vbox:has(> img)").all():
        image = box.locator("img")
        for slider in box.get_by_role("slider").all():
            before = image.get_attribute("src")
            slider.scroll_into_view_if_needed()
            slider.press("ArrowRight")
            if box.get_by_role("button", name="Step").count():
                box.get_by_role("button", name="Step").click()
            for key in ("Home", "End"):  # one step may be too small to see
                if not lab.shows_new_picture(image, before, seconds=2):
                    slider.press(key)
            lab.wait_for_new_picture(image, before)
            assert lab.failures() == []
    assert lab.evaluate("__import__('lossbook.widgets').widgets.exercise_all(steps=3)")[0] == "["
    assert lab.failures() == []
