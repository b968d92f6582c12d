"""The Sphinx extension of the site.

Directives `book-map`, `catalog`, `ledger`, `twelve-weeks` and `pull-links` make lists from the
catalog and the executed notebooks. The role `paper` leads to a paper and says what was measured,
`minutes` says how long a notebook takes to read.
"""

import html
import re
from collections import Counter

from docutils import nodes
from sphinx.util.docutils import SphinxDirective, SphinxRole

from lossbook import catalog, notebooks
from lossbook.catalog import Notebook
from lossbook.site.catalog_page import Catalog
from lossbook.site.ledger_page import Ledger, claims
from lossbook.site.markup import SYMBOLS, Links, label, link, raw, short_badge, tag
from lossbook.site.repository import of_project

SCALAR = "float | int | ~jaxtyping.Float[Tensor, '']"
HUB = "https://hub.example.edu"


def setup(app) -> dict:
    """Registers everything with Sphinx."""
    app.add_directive("book-map", BookMap)
    app.add_directive("catalog", Catalog)
    app.add_directive("ledger", Ledger)
    app.add_directive("twelve-weeks", TwelveWeeks)
    app.add_directive("pull-links", PullLinks)
    app.add_role("paper", PaperRole())
    app.add_role("minutes", MinutesRole())
    app.connect("autodoc-process-signature", _name_scalars)
    app.connect("html-page-context", _level_captions, priority=900)  # after the theme's own
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _name_scalars(_app, _what, _name, _object, _options, signature, returns):
    """Writes the type of what may be a number or a replica's tensor as the code does."""
    return tuple(text and text.replace(SCALAR, "Scalar") for text in (signature, returns))


def _level_captions(_app, _page, _template, context, _doctree) -> None:
    """Gives the captions of the navigation, which are headings, the level that they lack."""
    tree = context.get("furo_navigation_tree", "")
    context["furo_navigation_tree"] = tree.replace(
        'role="heading"', 'role="heading" aria-level="2"'
    )


class BookMap(SphinxDirective):
    """The parts and their notebooks, those that are not written yet as pale text."""

    def run(self) -> list[nodes.Node]:
        links = Links(self.env)
        rows = []
        for part in catalog.parts():
            entries = [
                link(label(entry), links.notebook(entry))
                for entry in catalog.notebooks()
                if entry.part == part.number and entry.path != catalog.START_HERE
            ]
            title = html.escape(part.title if part.number == 0 else f"{part.number} {part.title}")
            rows.append(f"<dt>{title}</dt><dd>{' · '.join(entries)}</dd>")
        return [raw(f'<dl class="book-map">{"".join(rows)}</dl>')]


class TwelveWeeks(SphinxDirective):
    """The weeks of the course, with what each notebook takes to read."""

    def run(self) -> list[nodes.Node]:
        links = Links(self.env)
        weeks = [
            f"<li>{''.join(self._line(name, links) for name in names)}</li>"
            for names in catalog.twelve_weeks()
        ]
        return [raw(f'<ol class="weeks">{"".join(weeks)}</ol>')]

    def _line(self, name: str, links: Links) -> str:
        if ":" in name:  # "project: what to do", no notebook
            return tag("p", name[0].upper() + name[1:])
        entry = catalog.notebook(name)
        about = entry.teaches or ", ".join(catalog.paper(paper).short for paper in entry.papers)
        minutes = f"{minutes_to_read(entry)} min"
        state = minutes if links.notebook(entry) else f"{minutes}, coming"
        return (
            f"<p>{link(label(entry), links.notebook(entry))} {tag('small', state)}"
            f"<br>{tag('small', about)}</p>"
        )


def minutes_to_read(entry: Notebook) -> int:
    """What the notebook says; before it is written ten minutes, and six for each paper."""
    said = None
    if notebooks.exists(entry):
        first = notebooks.read(notebooks.home() / entry.path).cells[0]
        said = re.search(r"Reading time about (\d+) minutes", first.source)
    return int(said[1]) if said else 10 + 6 * len(entry.papers)


class PullLinks(SphinxDirective):
    """For each notebook the link that pulls the book into a JupyterHub and opens it there."""

    def run(self) -> list[nodes.Node]:
        repository = of_project(notebooks.home())
        if repository is None:
            text = (
                "This copy of the book does not know its repository's address, so it cannot list "
                "the links: set Repository in [project.urls] of pyproject.toml."
            )
            return [nodes.paragraph(text, text)]
        links = [
            f"{label(entry)}\n  {repository.on_hub(HUB, entry.path)}"
            for entry in catalog.notebooks()
            if Links(self.env).notebook(entry)
        ]
        text = "\n".join(links)
        return [nodes.literal_block(text, text, language="text")]


class PaperRole(SphinxRole):
    """A paper by its id: a link to where it is read, and its verdicts or that it is coming."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        try:
            paper = catalog.paper(self.text)
        except ValueError as error:
            message = self.inliner.reporter.error(str(error), line=self.lineno)
            return [self.inliner.problematic(self.rawtext, self.rawtext, message)], [message]
        links = Links(self.env)
        name = link(paper.short, links.paper(paper) or links.page("catalog", paper.id))
        verdicts = Counter(row["verdict"] for row in claims() if row["paper"] == paper.id)
        counts = [
            short_badge(verdict, verdicts[verdict]) for verdict in SYMBOLS if verdicts[verdict]
        ]
        state = " ".join(counts) or tag("span", "done" if paper.done else "listed", class_="coming")
        return [raw(f"{name} <small>{state}</small>")], []


class MinutesRole(SphinxRole):
    """How many minutes a notebook takes to read, by its name."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        minutes = str(minutes_to_read(catalog.notebook(self.text)))
        return [nodes.Text(minutes)], []
