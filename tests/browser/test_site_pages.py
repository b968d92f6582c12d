"""The book as a site, opened from a folder in Chromium, as a reader finds it on a file share."""

import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from lossbook import catalog
from lossbook.site import build

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),  # of Sphinx's extensions
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

SHOWN = ("00_start_here", "pairs", "temperature")
TEMPERATURE = "notebooks/02_self_supervised/09_temperature.html"
MOST = 5_000_000  # bytes of a page with all it can load
FAULTS = """() => {
  const all = (selector) => [...document.querySelectorAll(selector)];
  const levels = all("article :is(h1, h2, h3, h4, h5, h6)").map((h) => Number(h.tagName[1]));
  return [
    ...all("[data-mml-node=merror]").map((e) => `formula: ${e.textContent}`),
    ...all("article .math:not(:has(mjx-container))").map((e) => `not typeset: ${e.textContent}`),
    ...all("img:not([alt])").map((e) => `no alt text: ${e.outerHTML}`),
    ...all("article :is(input, select)").filter((e) => !e.labels.length)
      .map((e) => `no label: ${e.outerHTML}`),
    ...levels.filter((level, i) => level > (levels[i - 1] ?? 0) + 1)
      .map((level) => `a heading of level ${level} skips one`),
    ...(levels.filter((level) => level === 1).length === 1 ? [] : ["not one title"]),
  ];
}"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    entries = [catalog.notebook(name) for name in SHOWN]
    build(folder / "html", entries, cache=folder / "frames")
    return folder / "html"


@pytest.fixture
def visit(site, browser):
    """Open a page of the site; at the end nothing has failed and nothing was asked of a host."""
    contexts, faults = [], []

    def open_(name: str, width: int = 1280, **settings):
        context = browser.new_context(viewport={"width": width, "height": 900}, **settings)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: faults.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("requestfailed", lambda request: faults.extend(failure(request)))
        page.on(
            "request",
            lambda r: None if r.url.startswith(("file:", "data:")) else faults.append(r.url),
        )
        page.goto((site / name).as_uri())
        page.evaluate("window.MathJax?.startup.promise")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert faults == []


def failure(request) -> list[str]:
    """What failed; nothing if the page was only left before a request was done."""
    return [] if request.failure == "net::ERR_ABORTED" else [f"{request.failure}: {request.url}"]


def names(site: Path) -> list[str]:
    return sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html"))


def written_pages(site: Path) -> list[str]:
    """The pages with content: not the search's, nor Sphinx's own lists."""
    lists = ("search.html", "genindex.html", "py-modindex.html")
    return [n for n in names(site) if n not in lists and not n.startswith("_")]


# Every page


def test_pages_are_complete_and_accessible(site, visit):
    faults = []
    page = visit("index.html")
    for name in written_pages(site):
        page.goto((site / name).as_uri())
        page.evaluate("window.MathJax?.startup.promise")
        faults += [f"{name}: {fault}" for fault in page.evaluate(FAULTS)]
    assert faults == []


def test_pages_fit_a_phone(site, visit):
    page = visit("index.html", width=390)
    wide = []
    for name in written_pages(site):
        page.goto((site / name).as_uri())
        page.evaluate("window.MathJax?.startup.promise")
        if page.evaluate("document.documentElement.scrollWidth") > 390:
            wide.append(name)
    assert wide == []


class Links(HTMLParser):
    """The ids of a page, and the addresses that it links to or loads."""

    def __init__(self, path: Path):
        super().__init__()
        self.ids, self.links, self.loads = {""}, [], []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.ids.add(values.get("id") or "")
        if "href" in values:
            (self.loads if tag == "link" else self.links).append(values["href"])
        if "src" in values:
            self.loads.append(values["src"])
        self.loads += re.findall(r'"([^"]+\.webp)"', values.get("data-knobs", ""))


parsed = cache(Links)


def target(page: Path, address: str) -> Path | None:
    """The file that an address leads to; None outside of the site."""
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return None
    return (page.parent / unquote(parts.path)).resolve() if parts.path else page


def test_no_link_is_dead(site):
    dead = []
    for page in site.rglob("*.html"):
        for address in parsed(page).links + parsed(page).loads:
            file = target(page, address)
            section = unquote(urlsplit(address).fragment)
            if file and not file.is_file():
                dead.append(f"{page.name}: {address}")
            elif file and file.suffix == ".html" and section not in parsed(file).ids:
                dead.append(f"{page.name}: {address}")
    assert dead == []


def test_pages_stay_small(site):
    for page in site.rglob("*.html"):
        files = {target(page, address) for address in parsed(page).loads} - {None}
        size = page.stat().st_size + sum(file.stat().st_size for file in files)
        assert size < MOST, f"{page.name}: {size / 1e6:.1f} MB"


# Search


def test_search_finds_words_of_notebooks(visit):
    page = visit("ledger.html")
    page.get_by_placeholder("Search").fill("collapse positives")
    page.keyboard.press("Enter")
    found = page.locator("#search-results")
    found.get_by_role("link", name="Learning from pairs").first.click()
    assert page.locator("h1").inner_text().startswith("Learning from pairs")


# The catalog


def shown_papers(page) -> list[str]:
    return page.locator(".paper:not([hidden])").evaluate_all("all => all.map((e) => e.id)")


def test_catalog_shows_every_paper_with_its_formula(visit):
    page = visit("catalog.html")
    assert shown_papers(page) == [paper.id for paper in catalog.papers()]
    assert page.locator(".paper mjx-container").count() >= len(catalog.papers())


def test_catalog_is_searched_and_filtered_with_the_keyboard(visit):
    page = visit("catalog.html")
    page.get_by_label("Search", exact=False).nth(1).focus()
    page.keyboard.type("pairs mined")
    assert "multi-similarity" in shown_papers(page)
    assert page.locator("output").inner_text() == f"{len(shown_papers(page))} of 215 papers"
    page.keyboard.press("Tab")
    page.keyboard.type("4 Knowledge")
    page.keyboard.press("Enter")
    assert shown_papers(page) == []
    page.get_by_label("Search", exact=False).nth(1).fill("")
    assert {catalog.paper(name).part for name in shown_papers(page)} == {4}


def test_catalog_shows_what_is_done(visit):
    page = visit("catalog.html")
    page.get_by_label("only papers that are done").check()
    assert shown_papers(page) == [paper.id for paper in catalog.papers() if paper.done]
    page.locator("#contrastive-behaviour").get_by_role("link", name="09 What").click()
    assert page.url.endswith(f"{TEMPERATURE}#temperature-and-hard-negatives")


# Sliders


def test_sliders_move_the_picture(visit):
    page = visit(TEMPERATURE)
    box = page.locator(".explorer")
    image = box.locator("img")
    temperature, fraction = box.get_by_label("temperature"), box.get_by_label("hard fraction")
    start, value = image.get_attribute("src"), temperature.get_attribute("aria-valuetext")

    temperature.focus()
    page.keyboard.press("ArrowRight")
    assert image.get_attribute("src") != start
    assert temperature.get_attribute("aria-valuetext") != value
    assert box.locator("output").first.inner_text() == temperature.get_attribute("aria-valuetext")
    page.wait_for_function(
        "image => image.complete && image.naturalWidth", arg=image.element_handle()
    )

    fraction.focus()
    page.keyboard.press("End")
    assert temperature.get_attribute("aria-valuetext") == value
    moved = image.get_attribute("src")
    page.keyboard.press("Home")
    assert image.get_attribute("src") not in (start, moved)


def test_sliders_answer_a_finger(visit):
    page = visit(TEMPERATURE, width=390, has_touch=True)
    slider = page.locator(".explorer input[type=range]").first
    slider.scroll_into_view_if_needed()
    start = page.locator(".explorer img").get_attribute("src")
    place = slider.bounding_box()
    page.touchscreen.tap(place["x"] + 0.9 * place["width"], place["y"] + place["height"] / 2)
    assert page.locator(".explorer img").get_attribute("src") != start


def test_pages_are_complete_without_scripts(visit):
    page = visit(TEMPERATURE, java_script_enabled=False)
    picture = page.locator(".explorer img")
    picture.scroll_into_view_if_needed()
    assert picture.is_visible() and picture.get_attribute("alt")
