"""The static site: what becomes of a notebook, a slider, a paper, before Sphinx makes pages."""

import io
import json
import re
from pathlib import Path

import nbformat.v4 as v4
import pytest
from PIL import Image

from lossbook import catalog, plots, widgets
from lossbook._controls import choice, int_slider, log_slider, slider, toggle
from lossbook.site import capture
from lossbook.site.frames import fitted, frames
from lossbook.site.pages import IMAGES, Page, anchor
from lossbook.site.repository import Repository, of_project
from lossbook.site.sphinx_extension import minutes_to_read
from lossbook.site.stage import contents, stage, without_dead_links

ROOT = Path(__file__).parents[1]
ADDRESS = "https://github.com/someone/lossbook"
HERE = catalog.notebook("temperature")


# The repository's address


def test_links_to_binder_colab_and_a_hub():
    repository = Repository(f"{ADDRESS}.git")
    path = "notebooks/00_start_here.ipynb"
    assert repository.on_binder(path) == (
        f"https://mybinder.org/v2/gh/someone/lossbook/HEAD?urlpath=lab/tree/{path}"
    )
    assert repository.on_colab(path) == (
        f"https://colab.research.google.com/github/someone/lossbook/blob/main/{path}"
    )
    assert repository.on_hub("https://hub.edu/", path) == (
        "https://hub.edu/hub/user-redirect/git-pull?repo=https%3A%2F%2Fgithub.com%2Fsomeone%2F"
        "lossbook&branch=main&urlpath=lab%2Ftree%2Flossbook%2Fnotebooks%2F00_start_here.ipynb"
    )


@pytest.mark.parametrize(
    "address", ["", "github.com/a/b", "https://github.com/a", "https://x.org/a/b"]
)
def test_other_addresses_are_refused(address):
    with pytest.raises(ValueError, match="must be https://github.com/OWNER/NAME, got"):
        Repository(address)


def test_one_setting_holds_the_address(tmp_path):
    project = tmp_path / "pyproject.toml"
    project.write_text("[project]\nname = 'lossbook'\n")
    assert of_project(tmp_path) is None
    project.write_text(f"[project.urls]\nRepository = '{ADDRESS}'\n")
    assert of_project(tmp_path) == Repository(ADDRESS)


# Frames of sliders


@pytest.mark.parametrize(
    "control",
    [slider(0, 1, 0.23), log_slider(0.01, 1, 0.15), int_slider(0, 100, 37), int_slider(1, 3, 2)],
)
def test_stops_rise_and_hold_the_default(control):
    stops = capture.stops(control)
    assert control.value in stops and stops == sorted(set(stops))
    assert len(stops) <= capture.STOPS


def test_values_are_shown_as_a_reader_writes_them():
    assert capture.shown(slider(0, 1, 0.5), 1 / 3) == "0.333"
    assert capture.shown(int_slider(0, 9, 5), 7) == "7"
    assert capture.shown(toggle(True), False) == "off"
    assert capture.shown(choice({"one kind": 1, "the other": 2}, 1), 2) == "the other"


def test_capture_draws_each_knob_and_leaves_the_explorer_as_it_was(tmp_path):
    figure, axes = plots.figure(2, 1.5)
    (line,) = axes.plot([0, 1], [0, 1])

    def draw(slope, dashed):
        line.set(ydata=[0, slope], linestyle="--" if dashed else "-")

    explorer = widgets.explore(
        draw, figure=figure, alt="A line.", slope=slider(0, 1, 0.5), dashed=toggle(False)
    )
    before = explorer._picture.image.value
    capture.capture(str(tmp_path))
    (record,) = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    slope, dashed = record["knobs"]
    assert record["alt"] == "A line."
    assert (slope["kind"], dashed["kind"]) == ("range", "choice")
    assert dashed["values"] == ["off", "on"] and dashed["start"] == 0
    for knob in record["knobs"]:
        assert len(set(knob["files"])) == len(knob["files"]) == len(knob["values"])
        assert knob["files"][knob["start"]] == record["picture"]
        assert all((tmp_path / name).exists() for name in knob["files"])
    assert explorer._picture.image.value == before
    explorer.close()


def test_pictures_keep_their_pixels_unless_that_is_heavy():
    picture = Image.new("RGB", (60, 40), "white")
    picture.putpixel((7, 7), (200, 30, 3))
    stored = Image.open(io.BytesIO(capture.webp(_png(picture)))).convert("RGB")
    assert stored.tobytes() == picture.tobytes()
    noise = Image.effect_noise((400, 400), 90)
    assert len(capture.webp(_png(noise))) < 0.8 * len(_png(noise))


def _png(picture) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    return buffer.getvalue()


def test_sliders_have_as_many_stops_as_fit(tmp_path):
    files = [f"{i}.webp" for i in range(15)]
    for name in files:
        (tmp_path / name).write_bytes(b"x" * 100)
    slider = {"kind": "range", "values": files, "files": files, "start": 4}
    menu = {"kind": "choice", "values": files[:2], "files": files[:2], "start": 0}
    records = {"A line.": {"picture": "4.webp", "knobs": [slider, menu]}}
    assert fitted(records, tmp_path, 1500) == records
    thinned, same = fitted(records, tmp_path, 700)["A line."]["knobs"]
    assert same == menu
    assert len(thinned["files"]) == 5
    assert (thinned["files"][0], thinned["files"][-1]) == ("0.webp", "14.webp")
    assert thinned["files"][thinned["start"]] == "4.webp" and thinned["values"] == thinned["files"]


@pytest.mark.notebook
def test_frames_are_drawn_by_the_notebook_and_kept(book, tmp_path):
    path = book.add(
        "temperature",
        ("code", "from lossbook import plots\nfrom lossbook.widgets import explore, slider"),
        (
            "code",
            "figure, axes = plots.figure(2, 1.5)\n"
            "(line,) = axes.plot([0, 1], [0, 1])\n"
            "explore(lambda slope: line.set_ydata([0, slope]), figure=figure, alt='A line.',\n"
            "        slope=slider(0, 1, 0.5))",
        ),
        ("code", "raise RuntimeError('not needed for the frames')"),
    )
    drawn = frames(path, tmp_path / "cache")
    assert [knob["label"] for knob in drawn["A line."]["knobs"]] == ["slope"]
    first = (tmp_path / "cache" / drawn["A line."]["picture"]).stat().st_mtime_ns
    assert frames(path, tmp_path / "cache") == drawn
    assert (tmp_path / "cache" / drawn["A line."]["picture"]).stat().st_mtime_ns == first


@pytest.mark.notebook
def test_a_notebook_that_fails_says_where(book, tmp_path):
    path = book.add("temperature", ("code", "1 / 0"), ("code", "explore()"))
    with pytest.raises(ValueError, match="cell 1 raised ZeroDivisionError"):
        frames(path, tmp_path / "cache")


# A notebook's page


def make_page(tmp_path, *cells, **settings):
    nb = v4.new_notebook(cells=list(cells))
    (tmp_path / IMAGES).mkdir(parents=True)
    page = Page(HERE, nb, tmp_path, **settings)
    page.make([HERE.path, catalog.notebook("pairs").path])
    return nb.cells


def code(source, *htmls, **metadata):
    outputs = [v4.new_output("display_data", {"text/html": h, "text/plain": "…"}) for h in htmls]
    return v4.new_code_cell(source, outputs=outputs, metadata=metadata)


PICTURE = plots.img_tag(_png(Image.new("RGB", (30, 20), "red")), 'A "red" area.')
TITLE = v4.new_markdown_cell("# What the temperature does\n\nAfter this notebook you can")


def test_title_is_followed_by_where_the_page_stands(tmp_path):
    title, *_ = make_page(tmp_path, TITLE)
    assert title.source.startswith('# What the temperature does\n\n<p class="place">')
    assert "<span>Notebook 09</span>" in title.source
    assert "<span>Part 2: Contrastive and self-supervised learning</span>" in title.source
    assert '<a href="09_temperature.ipynb" download>' in title.source
    assert "Binder" not in title.source and "Colab" not in title.source


def test_links_to_binder_and_colab_where_the_address_is_known(tmp_path):
    repository = Repository(ADDRESS)
    title, *_ = make_page(tmp_path, TITLE, repository=repository)
    assert f'<a href="{repository.on_binder(HERE.path)}">Open in Binder</a>' in title.source
    assert f'<a href="{repository.on_colab(HERE.path)}">Open in Colab</a>' in title.source


def test_pictures_become_files_with_their_size_and_alt_text(tmp_path):
    _, cell = make_page(tmp_path, TITLE, code("plots.show(fig)", PICTURE))
    text = cell.outputs[0].data["text/html"]
    address = re.search(r'src="([^"]+)"', text)[1]
    assert (tmp_path / HERE.path).parent.joinpath(address).resolve().is_file()
    assert 'alt="A &quot;red&quot; area."' in text and 'width="30" height="20"' in text
    assert list(cell.outputs[0].data) == ["text/html"]


def test_an_explorer_carries_its_knobs(tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    for name in ("a.webp", "b.webp"):
        Image.new("RGB", (30, 20), "blue" if name < "b" else "red").save(cache / name)
    knob = {"label": "shade", "kind": "range", "values": ["0", "1"], "start": 1}
    record = {"picture": "b.webp", "knobs": [{**knob, "files": ["a.webp", "b.webp"]}]}
    _, cell = make_page(
        tmp_path, TITLE, code("explore(draw)", PICTURE),
        explorers={'A "red" area.': record}, frames=cache,
    )  # fmt: skip
    text = cell.outputs[0].data["text/html"]
    assert text.startswith('<div class="explorer" data-knobs="[{&quot;label&quot;: &quot;shade')
    files = re.search(r"files&quot;: \[(.*?)\]", text)[1].replace("&quot;", "").split(", ")
    page = (tmp_path / HERE.path).parent
    assert len(files) == 2 and all(page.joinpath(f).resolve().is_file() for f in files)


@pytest.mark.parametrize(
    "source, note", [("explore(draw)", "sliders move"), ("TrainingPanel(start)", "trains while")]
)
def test_what_only_moves_in_jupyterlab_says_so(tmp_path, source, note):
    _, cell = make_page(tmp_path, TITLE, code(source, PICTURE))
    assert note in cell.outputs[0].data["text/html"]


def test_links_lead_to_pages_and_only_to_those_that_exist(tmp_path):
    text = v4.new_markdown_cell(
        "[a](../00_primers/pairs.ipynb#Points-on-a-sphere) [b](10_individual_temperatures.ipynb)"
    )
    table = code(
        "show_map()",
        '<a href="../00_primers/pairs.ipynb#How-many-negatives">c</a>'
        '<a href="10_individual_temperatures.ipynb">d</a>',
    )
    _, text, table = make_page(tmp_path, TITLE, text, table)
    assert text.source == "[a](../00_primers/pairs.ipynb#points-on-a-sphere) b"
    assert table.outputs[0].data["text/html"] == (
        '<a href="../00_primers/pairs.html#how-many-negatives">c</a>d'
    )
    assert anchor("How-many-negatives") == "how-many-negatives"


def test_solutions_are_folded_and_markers_removed(tmp_path):
    exercise = {"nbgrader": {"solution": True, "grade": False}}
    source = "def f(x):\n    ### BEGIN SOLUTION\n    return x\n    ### END SOLUTION\n"
    written = v4.new_markdown_cell("Because.", metadata={"nbgrader": {"solution": True}})
    _, cell, written, checked = make_page(
        tmp_path, TITLE, code(source, **exercise), written, code("# NBVAL_CHECK_OUTPUT\nprint(1)")
    )
    assert cell.source == "def f(x):\n    return x"
    assert cell.metadata["tags"] == ["hide-input"]
    assert written.source.startswith("<details><summary>Solution</summary>")
    assert checked.source == "print(1)"


def test_a_claim_can_be_linked_to(tmp_path):
    output = v4.new_output(
        "display_data",
        {
            "text/html": '<b style="color: #178a68">✓ reproduced</b>',
            "application/vnd.lossbook.claim+json": {"id": "some-paper/holds"},
        },
    )
    _, cell = make_page(tmp_path, TITLE, v4.new_code_cell("claims.record()", outputs=[output]))
    assert cell.outputs[0].data == {
        "text/html": '<div id="claim-some-paper-holds">'
        '<b class="verdict reproduced">✓ reproduced</b></div>'
    }


# The staged folder


def test_navigation_lists_written_notebooks_by_part():
    text = contents([catalog.notebook(name) for name in ("00_start_here", "pairs", "21")])
    assert re.findall(r":caption: (.*)", text) == ["Primers", "3 Metric learning and retrieval"]
    assert "Learning from pairs <notebooks/00_primers/pairs>" in text
    assert (
        "21 Pair weighting, negative pairs and mixup "
        "<notebooks/03_metric_learning/21_pair_weighting>"
    ) in text


def test_stage_holds_docs_notebooks_and_a_page_for_each_module(tmp_path):
    stage(tmp_path / "source", [catalog.notebook("00_start_here")], cache=None)
    assert (tmp_path / "source" / "conf.py").is_file()
    assert (tmp_path / "source" / catalog.START_HERE).is_file()
    modules = {path.stem for path in (tmp_path / "source" / "api").glob("*.rst")}
    assert {"lossbook.baselines", "lossbook.self_supervised.temperature"} <= modules
    index = (tmp_path / "source" / "index.md").read_text()
    assert "Start here <notebooks/00_start_here>" in index


def test_pages_link_to_no_notebook_that_is_left_out():
    text = "[a](notebooks/a.ipynb) and [b](notebooks/b.ipynb#c), [d](catalog.md)"
    assert without_dead_links(text, {"notebooks/a.ipynb"}) == (
        "[a](notebooks/a.ipynb) and b, [d](catalog.md)"
    )


def test_minutes_are_those_that_the_notebook_says(book):
    entry = catalog.notebook("pairs")
    assert minutes_to_read(entry) == 10
    book.add("pairs", ("text", "# Learning from pairs\n\nReading time about 35 minutes; runs"))
    assert minutes_to_read(entry) == 35
    assert minutes_to_read(catalog.notebook("21")) == 28


# The hand-written pages


def test_which_loss_names_papers_of_the_catalog():
    named = re.findall(r"\{paper\}`([^`]+)`", (ROOT / "docs" / "which_loss.md").read_text())
    assert named and set(named) <= {paper.id for paper in catalog.papers()}


def test_instructors_have_notes_on_every_written_notebook():
    headings = re.findall(r"^## (.*)$", (ROOT / "docs" / "instructors.md").read_text(), re.M)
    written = [entry for entry in catalog.notebooks() if (ROOT / entry.path).is_file()]
    assert headings == [f"{entry.number} {entry.title}".strip() for entry in written]
