"""Slides: which cells are shown, how they are torn apart, and that the page needs no network."""

import re
from pathlib import Path

import nbformat.v4 as v4
import pytest
from click.testing import CliRunner

from lossbook import cli, notebooks, slides
from lossbook.presentation import fold_solutions, mark_slides, slide_type_of
from lossbook.slide_blocks import ROOM, blocks, size

FIGURE = [v4.new_output("display_data", {"text/html": '<img alt="a line" src="data:,">'})]
VERDICT = [v4.new_output("display_data", {"text/html": "<div>reproduced</div>"})]
EXERCISE = {"nbgrader": {"grade_id": "one", "solution": True}}
LONG = "words that go on and on " * 12


def text(source, slide_type=None):
    metadata = {"slideshow": {"slide_type": slide_type}} if slide_type else {}
    return v4.new_markdown_cell(source, metadata=metadata)


def code(source, outputs=(), **metadata):
    return v4.new_code_cell(source, outputs=list(outputs), metadata=metadata)


def shown(cell):
    """The sources of a cell's blocks, and their slide types."""
    return [(slide_type_of(block), block.source.strip()) for block in blocks(cell)]


# What the notebook says


def test_slide_types_follow_from_the_structure():
    expected = [
        ("slide", text("# Title")),
        ("skip", code("seed = 0", tags=["parameters"])),
        ("skip", code("run = configure(scale, seed, device)")),
        ("slide", text("## A paper\n\n### The idea\n\nAn idea.")),
        ("subslide", text("### As code")),
        ("-", code("def loss(x):\n    return x")),
        ("skip", code("assert_agree(loss, package.loss, x)")),
        ("subslide", text("### Turn the knobs")),
        ("-", code("explore(draw)", FIGURE)),
        ("subslide", code("plots.show(fig)", FIGURE)),
        ("notes", text("What one sees.")),
        ("subslide", text("### An experiment")),
        ("skip", code("\n".join(["def f(): pass"] * 25))),
        ("skip", code("def another(): pass")),
        ("-", text("More.")),
        ("-", code("claims.record()", VERDICT)),
        ("slide", text("## Exercises\n\n### Exercise 1")),
        ("skip", code("### BEGIN SOLUTION", **EXERCISE)),
        ("slide", text("## Further reading")),
    ]
    expected[16] = ("skip", expected[16][1])
    nb = v4.new_notebook(cells=[cell for _, cell in expected])
    mark_slides(nb)
    assert [slide_type_of(cell) for cell in nb.cells] == [kind for kind, _ in expected]


def test_what_the_author_has_set_stays_and_counts():
    nb = v4.new_notebook(
        cells=[
            text("# Title"),
            text("A fragment.", "fragment"),
            code("explore(draw)", FIGURE),
            code("hidden()", FIGURE, slideshow={"slide_type": "skip", "data": {"x": "1"}}),
            text("On a slide.", "subslide"),
            code("explore(draw)", FIGURE),
        ]
    )
    mark_slides(nb)
    types = [slide_type_of(cell) for cell in nb.cells]
    assert types == ["slide", "fragment", "-", "skip", "subslide", "-"]
    assert nb.cells[3].metadata.slideshow["data"] == {"x": "1"}


def test_solutions_are_folded_unless_the_author_says_otherwise():
    opened = code("3", **EXERCISE, jupyter={"source_hidden": False})
    answer = v4.new_markdown_cell("A good answer.", metadata=EXERCISE)
    nb = v4.new_notebook(cells=[code("1", **EXERCISE), code("2"), opened, answer])
    fold_solutions(nb)
    fold_solutions(nb)
    hidden = [cell.metadata.get("jupyter", {}).get("source_hidden") for cell in nb.cells]
    assert hidden == [True, None, False, None]
    assert answer.source == ("<details><summary>Solution</summary>\n\nA good answer.\n\n</details>")


# What a slide is made of


def test_a_text_keeps_its_first_paragraph_formulas_and_lists():
    source = (
        "## Paper\n\n### The idea\n\nFirst.\n\nSecond.\n\nIt leads to\n\n$$\nx\n\ny\n$$\n\n"
        "where it goes on.\n\nThird.\n\n- one\n- two\n\n### Next\n\nFourth."
    )
    assert shown(text(source, "slide")) == [
        ("slide", "## Paper\n\n### The idea\n\nFirst."),
        ("notes", "Second."),
        ("-", "It leads to\n\n$$\nx\n\ny\n$$\n\nwhere it goes on."),
        ("-", "Third.\n\n- one\n- two"),
        ("subslide", "### Next\n\nFourth."),
    ]


def test_text_before_a_heading_belongs_to_the_last_slide():
    assert shown(text("Seen above.\n\n## Next\n\nIts text.", "slide")) == [
        ("notes", "Seen above."),
        ("slide", "## Next\n\nIts text."),
    ]


def test_a_text_without_a_heading_shows_its_first_paragraph():
    for kind in ("-", "subslide", "fragment"):
        assert shown(text("One.\n\nTwo.", kind)) == [(kind, "One."), ("notes", "Two.")]
    assert shown(text("One.\n\nTwo.", "skip")) == []
    assert shown(text("One.\n\nTwo.", "notes")) == [("notes", "One.\n\nTwo.")]


def test_the_title_shows_its_papers_and_not_the_reading_time():
    source = "# Title\n\nYou can\n\n- read;\n\nA paper.\n\nReading time about 9 minutes."
    kinds = shown(text(source, "slide"))
    assert kinds[-2:] == [("-", "A paper."), ("notes", "Reading time about 9 minutes.")]


def test_long_lists_and_tables_are_torn_between_items_and_rows():
    listing = text("- " + "\n- ".join([LONG] * 4), "-")
    assert len(list(blocks(listing))) == 4
    rows = "".join(f"<tr><td>{i}</td></tr>" for i in range(20))
    head = "<table><thead><tr><th>n</th></tr></thead><tbody>"
    html = f"{head}{rows}</tbody></table>"
    table = code("claims.table()", [v4.new_output("display_data", {"text/html": html})])
    parts = list(blocks(table))
    found = ["".join(part.outputs[0].data["text/html"]) for part in parts]
    assert len(parts) > 1 and all(part.startswith(head) for part in found)
    assert re.findall(r"<td>(\d+)", "".join(found)) == [str(i) for i in range(20)]
    assert all(size(part) <= ROOM for part in parts)


# The page


def lecture():
    paragraphs = [text(f"### Part {i}\n\n{LONG}\n\n$$x$$\n\n{LONG}") for i in range(3)]
    return v4.new_notebook(
        cells=[
            text("# Losses & slopes\n\nSee [pairs](../00_primers/pairs.ipynb)."),
            code("x = '</script>'\nprint(lambda: x)", [v4.new_output("stream", text="</script>")]),
            *paragraphs,
            *[code("claims.record()", VERDICT * 9)],
            code("plots.show(fig)", FIGURE),
        ]
    )


def test_full_slides_go_on_under_the_same_heading():
    page = slides.export(lecture())
    starts = re.findall(r'<div class="page">(.*?)</h\d>', page, re.DOTALL)
    assert len(starts) == page.count('<div class="page">')
    titles = [re.sub(r"<.*?>|\s+", " ", start).strip().split(" ¶")[0] for start in starts]
    assert [title.split("¶")[0] for title in titles] == [
        *("Losses &amp; slopes", "Part 0", "Part 1", "Part 2", "Part 2", "Part 2"),
        *["Part 2"] * (len(titles) - 6),
    ]
    assert len(titles) > 6


def test_the_page_needs_no_other_file():
    page = slides.export(lecture())
    assert "Reveal.initialize" in page and "MathJax.startup" in page
    rest = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert "<title>Losses &amp; slopes: slides</title>" in rest
    assert not re.search(r'src="(?!data:)|<link |<script|@import|url\((?!data:)', rest)
    assert "pairs.ipynb" not in rest


def test_the_command_writes_beside_the_caller_or_where_it_is_told(book, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = book.add("pairs", ("text", "# Pairs"), ("code", "draw()", {}, FIGURE))
    before = path.read_bytes()

    def run(*arguments):
        return CliRunner().invoke(cli.main, ["course", "slides", *arguments])

    assert run("pairs").output == "pairs.slides.html\n"
    assert run("pairs", "-o", "new").output.strip() == str(Path("new/pairs.slides.html"))
    assert run("pairs", "-o", "talk.html").output == "talk.html\n"
    assert Path("talk.html").read_text("utf-8") == Path("pairs.slides.html").read_text("utf-8")
    assert path.read_bytes() == before

    assert "OUT must be a folder or end in .html" in run("pairs", "-o", "talk.pdf").output
    assert "did you mean pairs" in run("pears").output
    book.add("pairs", ("text", "# Pairs"), ("code", "draw()"))
    bare = run("pairs")
    assert bare.exit_code == 2 and "has no outputs; `lossbook execute` runs it" in bare.output


def test_a_missing_package_is_named(book, monkeypatch):
    book.add("pairs", ("text", "# Pairs"), ("code", "draw()", {}, FIGURE))
    monkeypatch.setattr(slides, "REVEAL", ("no-such-package", "x"))
    monkeypatch.setattr("lossbook._commands.EXTRAS", {"course": ("no-such-package",)})
    result = CliRunner().invoke(cli.main, ["course", "slides", "pairs"])
    assert result.exit_code == 2 and "pip install 'lossbook[course]'" in result.output


@pytest.mark.parametrize("path", notebooks.written()[:1], ids=lambda path: path.stem)
def test_every_slide_of_a_notebook_has_a_heading(path):
    page = slides.export(notebooks.read(path))
    starts = re.findall(r'<div class="page">.*?<(?:h\d|/section)', page, re.DOTALL)
    assert starts and all(re.search(r"<h\d$", start) for start in starts)
