"""What a slide is made of: the parts of a notebook's cells, and how much room each needs.

Long paragraphs become speaker notes; code gives way to the picture, table or verdict that it shows.
"""

import copy
import math
import re
from collections.abc import Iterator

from lossbook.presentation import set_slide_type, shown_html, shows_figure, slide_type_of

ROOM = 15  # lines of text at projector size on one slide
FIGURE, FORMULA, VERDICT, TABLE_ROW, CODE_LINE = 11, 2.7, 2.6, 1.7, 0.68
HEADINGS = {1: 2.4, 2: 2.0, 3: 1.6}
CHARACTERS = 84  # in a line
FENCES = {"```": "```", "~~~": "~~~", "$$": "$$", "<details": "</details>"}
TABLE = re.compile(r"(.*?<tbody>)(.*)(</tbody>.*)", re.DOTALL)


def blocks(cell) -> Iterator:
    """Returns the parts of a cell that a slide break may not tear apart, as cells."""
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
    """If the cell starts a slide, so do its headings, and what precedes the first is for notes."""
    slide_type, chunks = slide_type_of(cell), _chunks(cell.source)
    starts = slide_type in {"slide", "subslide"} and any(map(_is_heading, chunks))
    if starts:
        slide_type = "-"
    for text, is_shown in _grouped(chunks, is_first=not starts):
        if starts and _is_heading(text):
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


def _is_heading(chunk: str) -> bool:
    return chunk.startswith("#")


def _is_list(chunk: str) -> bool:
    return bool(re.match(r"[-*] |\d+\. ", chunk))


def _is_paragraph(chunk: str) -> bool:
    return not re.match(r"#|\$\$|\||<|```|~~~|[-*] |\d+\. ", chunk)


def _grouped(chunks: list[str], is_first: bool) -> Iterator[tuple[str, bool]]:
    """Texts that stay together, and whether they are shown.

    A paragraph is shown if it is the first below a heading, leads to something that is no
    paragraph, or goes on after a formula; other paragraphs are for the speaker. The title's slide
    shows them all. Headings stay with what follows, formulas with what leads to them.
    """
    held, on_title = "", False
    for chunk, following in zip(chunks, [*chunks[1:], "#"], strict=True):
        if _is_heading(chunk):
            held += f"{chunk}\n\n"
            is_first, on_title = True, chunk.startswith("# ")
            continue
        leads = not _is_paragraph(following) and not _is_heading(following)
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


def size(block) -> float:
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
