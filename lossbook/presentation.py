"""What a notebook's metadata says about how it is shown: folded solutions, and slides.

`lossbook execute` writes it where the author has not. JupyterLab then folds each solution behind a
bar that a click opens, and `lossbook course slides` or `jupyter nbconvert --to slides` find where
a slide starts, what is shown and what is skipped. To change it: the property inspector of
JupyterLab, the gears at the upper right.
"""

from collections.abc import Iterator

from lossbook.contract import headings

LONGEST_CODE = 20  # lines of code and printed text that a projector shows
SKIPPED_SECTIONS = ("Exercises",)


def is_solution(cell) -> bool:
    """Whether a cell is one that students fill in."""
    return bool(cell.metadata.get("nbgrader", {}).get("solution"))


def is_graded(cell) -> bool:
    """Whether a cell has points: a check, or an answer that a person grades."""
    return bool(cell.metadata.get("nbgrader", {}).get("grade"))


def fold_solutions(nb) -> None:
    """Folds solutions, in code and in words, for the reader who wants to try first."""
    for cell in nb.cells:
        if is_solution(cell) and cell.cell_type == "code":
            cell.metadata.setdefault("jupyter", {}).setdefault("source_hidden", True)
        elif is_solution(cell):
            cell.source = folded(cell.source)


def folded(text: str) -> str:
    """Returns a text behind a line that a click opens, unless it has one."""
    if "<details>" in text:
        return text
    return f"<details><summary>Solution</summary>\n\n{text.strip()}\n\n</details>"


def unfold(cell) -> None:
    """Opens a folded cell."""
    jupyter = cell.metadata.get("jupyter", {})
    jupyter.pop("source_hidden", None)
    if not jupyter:
        cell.metadata.pop("jupyter", None)


def mark_slides(nb) -> None:
    """Gives each cell a slide type, unless its author has set one.

    A title or section (`#`, `##`) starts a slide, a subsection (`###`) one below it; what follows
    stands on the same slide. A second figure starts its own, and text behind a figure or table
    becomes speaker notes. Parameters, setup, long code, checks and exercises are skipped.
    """
    for cell, slide_type in zip(nb.cells, list(_slide_types(nb)), strict=True):
        set_slide_type(cell, slide_type)


def slide_type_of(cell, default: str = "-") -> str:
    """Returns a cell's slide type, which is the default where none is set."""
    return cell.metadata.get("slideshow", {}).get("slide_type", default)


def set_slide_type(cell, slide_type: str) -> None:
    """Sets a cell's slide type: slide, subslide, fragment, notes, skip, or - for none."""
    cell.metadata["slideshow"] = {**cell.metadata.get("slideshow", {}), "slide_type": slide_type}


def _slide_types(nb) -> Iterator[str]:
    of_cell: dict[int, list] = {}
    for heading in headings(nb):
        of_cell.setdefault(heading.cell, []).append(heading)
    section, has_figure, has_output, after_text = "", False, False, False
    for position, cell in enumerate(nb.cells):
        found = of_cell.get(position, [])
        section = next((h.text for h in reversed(found) if h.level <= 2), section)
        if section in SKIPPED_SECTIONS or "nbgrader" in cell.metadata:
            default = "skip"
        elif found and found[0].level <= 3:
            default = "subslide" if found[0].level == 3 else "slide"
        elif cell.cell_type == "markdown":
            default = "notes" if has_output else "-"
        elif shows_figure(cell):
            default = "subslide" if has_figure else "-"
        else:
            default = "-" if _is_worth_showing(cell, after_text) else "skip"
        slide_type = slide_type_of(cell, default)
        if slide_type in {"slide", "subslide"}:
            has_figure = has_output = False
        if slide_type != "skip":
            has_figure = has_figure or shows_figure(cell)
            has_output = has_output or bool(shown_html(cell))
        after_text = cell.cell_type == "markdown"
        yield slide_type


def shows_figure(cell) -> bool:
    """Whether a cell's output has a picture."""
    return any("<img" in html for html in shown_html(cell))


def shown_html(cell) -> list[str]:
    """Returns the HTML of a cell's outputs."""
    data = [output.get("data", {}) for output in cell.get("outputs", [])]
    return ["".join(bundle["text/html"]) for bundle in data if "text/html" in bundle]


def _is_worth_showing(cell, after_text: bool) -> bool:
    """Tables and verdicts are, and short code or its printed text where a text leads to it."""
    if shown_html(cell):
        return True
    machinery = ("configure(", "assert_agree(")
    if "tags" in cell.metadata or any(word in cell.source for word in machinery):
        return False
    printed = "".join(output.get("text", "") for output in cell.get("outputs", []))
    defines = "def " in cell.source or "lambda" in cell.source
    lines = cell.source.count("\n") + printed.count("\n") + 1
    return after_text and lines <= LONGEST_CODE and (defines or bool(printed))
