"""The page of all papers: what is shown of each, and by what it is found."""

import html
from collections.abc import Iterator

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from lossbook import catalog
from lossbook.catalog import Paper
from lossbook.cli import KNOWN
from lossbook.site.markup import Links, label, link, raw, tag

FILTERS = """
<form id="catalog-filters" role="search" aria-label="Papers" hidden>
  <label class="wide">Search <input type="search" name="words" autocomplete="off"
    placeholder="hard negatives, label noise, margin …"></label>
  <label>Part <select name="part"><option value="">all parts</option>{parts}</select></label>
  <label>Kind <select name="kind"><option value="">all kinds</option>{kinds}</select></label>
  <label class="box"><input type="checkbox" name="done"> only papers that are done</label>
  <output name="count" aria-live="polite"></output>
</form>
"""


class Catalog(SphinxDirective):
    """All papers, a section for each part, below the controls that filter them."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(catalog.__file__)
        links = Links(self.env)
        found: list[nodes.Node] = [raw(_filters())]
        for part in catalog.parts():
            papers = [paper for paper in catalog.papers() if paper.part == part.number]
            if papers:
                section = nodes.section(ids=[f"part-{part.number}"], classes=["catalog-part"])
                title = f"{part.number} {part.title}"
                section += nodes.title(title, title)
                for paper in papers:
                    section += list(_entry(paper, links))
                found.append(section)
        return found


def _filters() -> str:
    papers = catalog.papers()
    parts = "".join(
        tag("option", f"{part.number} {part.title}", value=part.number)
        for part in catalog.parts()
        if any(paper.part == part.number for paper in papers)
    )
    kinds = "".join(
        tag("option", kind, value=kind) for kind in sorted({paper.kind for paper in papers})
    )
    return FILTERS.format(parts=parts, kinds=kinds)


def _entry(paper: Paper, links: Links) -> Iterator[nodes.Node]:
    facts = {
        "id": paper.id,
        "data-part": paper.part,
        "data-kind": paper.kind,
        "data-done": str(paper.done).lower(),
        "data-more": f"{paper.id} {' '.join(paper.authors)}".casefold(),
    }
    attributes = "".join(f' {key}="{html.escape(str(value))}"' for key, value in facts.items())
    source = [tag("a", paper.title, href=paper.url) if paper.url else tag("span", paper.title)]
    # A preprint's venue says no more than the link and the year do.
    source += [tag("span", paper.venue)] if paper.venue.casefold() != "arxiv" else []
    yield raw(
        f'<article class="paper"{attributes}><h3>{html.escape(paper.short)} '
        f"{tag('small', f'{paper.year} · {paper.kind}')}</h3>"
        f'<p class="source">{" · ".join(source)}</p>{tag("p", paper.idea)}'
    )
    yield nodes.math_block(
        paper.formula, paper.formula, number=None, **{"nowrap": False, "no-wrap": False}
    )
    yield raw(f"{_footer(paper, links)}</article>")


def _footer(paper: Paper, links: Links) -> str:
    entry = catalog.notebook(paper.notebook)
    where = links.paper(paper)
    lines = [link(label(entry), where) + ("" if where else " (coming)")]
    lines += [_objective(name, links) for name in paper.objective]
    if paper.code:
        address = paper.code if "://" in paper.code else f"https://github.com/{paper.code}"
        lines.append(tag("a", "official code", href=address))
    lines.append(tag("span", f"formula {KNOWN.get(paper.known, paper.known)}"))
    return f'<p class="place">{" ".join(f"<span>{line}</span>" for line in lines)}</p>'


def _objective(name: str, links: Links) -> str:
    module, _, function = name.rpartition(".")
    return f'<a href="{links.page(f"api/{module}", name)}"><code>{function}</code></a>'
