"""Slides for the lecture hall: one HTML file with reveal.js, MathJax and all pictures in it.

Which cells are shown is said by the notebook (see `presentation`). A slide has room for about
fifteen lines at projector size, so that here long paragraphs move to the speaker notes, code gives
way to the picture that it draws, and what is too much for one slide goes on to the next.
"""

import copy
import math
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from lossbook.course import relink
from lossbook.presentation import (
    mark_slides,
    set_slide_type,
    shown_html,
    shows_figure,
    slide_type_of,
)

ROOM = 15  # lines of text at projector size
FIGURE, FORMULA, VERDICT, TABLE_ROW, CODE_LINE = 11, 2.7, 2.6, 1.7, 0.68
HEADINGS = {1: 2.4, 2: 2.0, 3: 1.6}
CHARACTERS = 84  # in a line
FENCES = {"```": "```", "~~~": "~~~", "$$": "$$", "<details": "</details>"}
TABLE = re.compile(r"(.*?<tbody>)(.*)(</tbody>.*)", re.DOTALL)
REVEAL = ("sphinx-revealjs", "sphinx_revealjs/_static/revealjs")
MATHJAX = ("sphinx-mathjax-offline", "sphinx-mathjax-offline/static/mathjax")


def export(nb, title: str) -> str:
    """Returns a notebook's slides as a page that needs no other file and no network.

    Args:
        nb: the notebook, executed.
        title: the page's title.
    """
    from nbconvert import SlidesExporter
    from traitlets.config import Config

    nb = copy.deepcopy(nb)
    mark_slides(nb)
    relink(nb, title, {title: title})
    nb.cells = list(_pages(block for cell in nb.cells for block in _blocks(cell)))
    for number, cell in enumerate(nb.cells):
        cell["id"] = f"cell-{number}"
    nb.metadata["title"] = title
    config = Config({"CSSHTMLHeaderPreprocessor": {"style": "default"}})
    exporter = SlidesExporter(
        config=config,
        template_name="lossbook",
        extra_template_basedirs=[str(Path(__file__).parent / "_slides")],
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    resources = {"lossbook": _assets()}
    return exporter.from_notebook_node(nb, resources=resources)[0]


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


# From cells to blocks: what may not be torn apart


def _blocks(cell) -> Iterator:
    slide_type = slide_type_of(cell)
    if slide_type == "skip":
        return
    if slide_type == "notes":
        yield cell
    elif cell.cell_type == "markdown":
        yield from _text_blocks(cell)
    else:
        yield from _code_blocks(cell)


def _text_blocks(cell) -> Iterator:
    """A heading starts a slide, wherever in the cell it stands, if the cell does."""
    slide_type, starts = slide_type_of(cell), slide_type_of(cell) in {"slide", "subslide"}
    if starts and not cell.source.startswith("#"):
        slide_type = "-"  # what stands before the first heading still belongs to the last slide
    for text, is_shown in _grouped(_chunks(cell.source)):
        if starts and text.startswith("#"):
            slide_type = "subslide" if text.startswith("###") else "slide"
        block = copy.deepcopy(cell)
        block.source = text
        set_slide_type(block, slide_type if is_shown else "notes")
        yield block
        slide_type = "-" if is_shown else slide_type


def _chunks(source: str) -> list[str]:
    """The paragraphs, lists, formulas and fenced blocks of a text."""
    chunks, end = [""], None
    for line in source.splitlines():
        if end is None and not line.strip():
            chunks.append("")
            continue
        chunks[-1] += f"{line}\n"
        start = line.lstrip()
        if end is None:
            end = next((e for f, e in FENCES.items() if start.startswith(f)), None)
            start = start[2:] if end else start
        if end and end in start:
            end = None
    return [piece for chunk in chunks for piece in _short_lists(chunk.strip("\n")) if piece]


def _short_lists(chunk: str) -> list[str]:
    """A long list item by item."""
    if not _is_list(chunk) or _lines(chunk) < ROOM / 2:
        return [chunk]
    return re.split(r"\n(?=[-*] |\d+\. )", chunk)


def _is_list(chunk: str) -> bool:
    return bool(re.match(r"[-*] |\d+\. ", chunk))


def _is_paragraph(chunk: str) -> bool:
    return not re.match(r"#|\$\$|\||<|```|~~~|[-*] |\d+\. ", chunk)


def _grouped(chunks: list[str]) -> Iterator[tuple[str, bool]]:
    """Texts that stay together, and whether they are shown.

    A paragraph is shown if it is the first below a heading, leads to something that is no
    paragraph, or goes on after a formula; other paragraphs are for the speaker. The title's slide
    shows them all. Headings stay with what follows, formulas with what leads to them.
    """
    held, is_first, on_title = "", False, False
    for chunk, following in zip(chunks, [*chunks[1:], "#"], strict=True):
        if chunk.startswith("#"):
            held += f"{chunk}\n\n"
            is_first, on_title = True, chunk.startswith("# ")
            continue
        leads = not _is_paragraph(following) and not following.startswith("#")
        if not _is_paragraph(chunk):
            is_shown, waits = True, following[0].islower()
        elif on_title:
            is_shown, waits = not chunk.startswith("Reading time"), False
        else:
            is_shown, waits = is_first or leads or chunk[0].islower(), leads
            is_first = False
        if not is_shown:
            yield chunk, False
            continue
        held += f"{chunk}\n\n"
        if not waits:
            yield held, True
            held = ""
    if held:
        yield held, True


def _code_blocks(cell) -> Iterator:
    """The code, or in its place the pictures, tables and verdicts that it shows."""
    if not shown_html(cell):
        cell.source = re.sub(r"\n{3,}", "\n\n", cell.source.removeprefix("# NBVAL_CHECK_OUTPUT\n"))
        yield cell
        return
    cell.metadata["transient"] = {"remove_source": True}
    outputs = [piece for output in cell.outputs for piece in _short_tables(output)]
    for number, output in enumerate(outputs):
        block = copy.deepcopy(cell)
        block.outputs = [output]
        if number:
            set_slide_type(block, "-")
        yield block


def _short_tables(output) -> list:
    """A long table on several slides, each with the table's head."""
    html = "".join(output.get("data", {}).get("text/html", ""))
    match = TABLE.fullmatch(html)
    if not match:
        return [output]
    head, body, tail = match.groups()
    rows = re.findall(r"<tr>.*?</tr>", body, re.DOTALL)
    parts = math.ceil(len(rows) * TABLE_ROW / (ROOM - HEADINGS[2]))
    size = math.ceil(len(rows) / parts)
    pieces = []
    for start in range(0, len(rows), size):
        piece = copy.deepcopy(output)
        piece.data["text/html"] = head + "".join(rows[start : start + size]) + tail
        pieces.append(piece)
    return pieces


# From blocks to pages


def _pages(blocks: Iterator) -> Iterator:
    """Lets a block start a new slide where the old one is full, and gives each slide a heading."""
    heading, filled, is_bare = "", 0.0, True
    for block in blocks:
        slide_type, size = slide_type_of(block), _size(block)
        if slide_type == "notes":
            yield block
            continue
        found = re.findall(r"^#{1,3} .*$", block.source, re.MULTILINE)
        has_heading = block.cell_type == "markdown" and bool(found)
        starts = slide_type in {"slide", "subslide"}
        if starts or (filled + size > ROOM and not is_bare):
            filled = 0.0
            if heading and not has_heading:
                yield _again(heading, slide_type if starts else "subslide")
                set_slide_type(block, "-")
                filled = HEADINGS[3]
        if has_heading:
            heading = found[-1]
        is_bare = has_heading and block.source.strip().endswith(heading)
        filled += size
        yield block


def _again(heading: str, slide_type: str):
    from nbformat.v4 import new_markdown_cell

    cell = new_markdown_cell(f"### {heading.lstrip('# ')}")
    set_slide_type(cell, slide_type)
    return cell


def _size(block) -> float:
    """How many lines of a slide a block takes, roughly."""
    if block.cell_type == "markdown":
        return sum(_lines(chunk) for chunk in block.source.split("\n\n"))
    if shows_figure(block):
        return FIGURE
    rows = sum(html.count("<tr>") for html in shown_html(block))
    if rows:
        return rows * TABLE_ROW
    if shown_html(block):
        return VERDICT
    printed = "".join(output.get("text", "") for output in block.outputs)
    return CODE_LINE * (block.source.count("\n") + printed.count("\n") + 2)


def _lines(chunk: str) -> float:
    if match := re.match(r"#{1,3}(?= )", chunk):
        return HEADINGS[len(match[0])]
    if chunk.startswith("$$"):
        return FORMULA + 1.2 * chunk.count(r"\\")
    plain = re.sub(r"\]\([^)]*\)|\\[a-zA-Z]+|[${}]", "", chunk)
    items = re.split(r"\n(?=[-*|] |\d+\. )", plain)
    return 0.4 + sum(math.ceil(len(item) / CHARACTERS) for item in items)
