"""Slides for the lecture hall: one HTML file with reveal.js, MathJax and all pictures in it.

Which cells are shown is said by the notebook (see `presentation`). What is too much for one slide
at projector size goes on to the next, under the same heading.
"""

import copy
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from itertools import chain
from pathlib import Path

from lossbook.contract import headings
from lossbook.course import relink
from lossbook.presentation import mark_slides, set_slide_type, slide_type_of
from lossbook.slide_blocks import HEADINGS, ROOM, blocks, size

TEMPLATES = Path(__file__).parent / "_slides"
REVEAL = ("sphinx-revealjs", "sphinx_revealjs/_static/revealjs")
MATHJAX = ("sphinx-mathjax-offline", "sphinx-mathjax-offline/static/mathjax")


def export(nb) -> str:
    """Returns a notebook's slides as a page that needs no other file and no network.

    Args:
        nb: the notebook, executed.

    Raises:
        ValueError: it is not executed, or all its cells are skipped.
    """
    from nbconvert import SlidesExporter
    from traitlets.config import Config

    nb = copy.deepcopy(nb)
    if not any(cell.get("outputs") for cell in nb.cells):
        raise ValueError("the notebook has no outputs; `lossbook execute` runs it")
    relink(nb, "alone", {"alone": "alone"})  # other notebooks are not beside this page
    nb.metadata["title"] = next((heading.text for heading in headings(nb)), "Slides")
    mark_slides(nb)
    nb.cells = list(_pages(chain.from_iterable(map(blocks, nb.cells))))
    for number, cell in enumerate(nb.cells):
        cell["id"] = f"cell-{number}"
    exporter = SlidesExporter(
        config=Config({"CSSHTMLHeaderPreprocessor": {"style": "default"}}),
        template_name="lossbook",
        extra_template_basedirs=[str(TEMPLATES)],
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    return exporter.from_notebook_node(nb, resources={"lossbook": _assets()})[0]


def _pages(parts: Iterator) -> Iterator:
    """Lets a block start a new slide where the old one is full, and gives each slide a heading."""
    heading, filled, is_bare = "", 0.0, True
    for block in parts:
        slide_type, needed = slide_type_of(block), size(block)
        if slide_type == "notes":
            yield block
            continue
        found = re.findall(r"^#{1,3} .*$", block.source, re.MULTILINE)
        has_heading = block.cell_type == "markdown" and bool(found)
        starts = slide_type in {"slide", "subslide"}
        if starts or (filled + needed > ROOM and not is_bare):
            filled = 0.0
            if heading and not has_heading:
                yield _again(heading, slide_type if starts else "subslide")
                set_slide_type(block, "-")
                filled = HEADINGS[3]
        if has_heading:
            heading = found[-1]
        is_bare = has_heading and block.source.strip().endswith(heading)
        filled += needed
        yield block


def _again(heading: str, slide_type: str):
    from nbformat.v4 import new_markdown_cell

    cell = new_markdown_cell(f"### {heading.lstrip('# ')}")
    set_slide_type(cell, slide_type)
    return cell


def _assets() -> dict[str, str]:
    """The scripts and styles that the page holds. `</script>` in a script would end it."""
    scripts = {
        "reveal_js": _packaged(*REVEAL, "dist/reveal.js"),
        "notes_js": _packaged(*REVEAL, "plugin/notes/notes.js"),
        "mathjax_js": _packaged(*MATHJAX, "tex-svg.js"),
    }
    return {
        "reveal_css": _packaged(*REVEAL, "dist/reveal.css"),
        **{name: text.replace("</script", r"<\/script") for name, text in scripts.items()},
    }


def _packaged(package: str, folder: str, name: str) -> str:
    try:
        return Path(distribution(package).locate_file(f"{folder}/{name}")).read_text("utf-8")
    except PackageNotFoundError as error:
        raise ModuleNotFoundError(f"{package} is not installed", name=package) from error
