"""What the site's generated pages share: HTML, and links to pages as seen from one of them."""

import html

from docutils import nodes
from sphinx.util.osutil import relative_uri

from lossbook import catalog
from lossbook.catalog import Notebook, Paper
from lossbook.site.pages import anchor, docname

SYMBOLS = {"reproduced": "✓", "contradicted": "✗", "inconclusive": "?"}


class Links:
    """Addresses of the site's pages, as seen from the page that Sphinx reads."""

    def __init__(self, env):
        self._env = env

    def page(self, name: str, section: str = "") -> str:
        here = self._env.docname
        address = "" if name == here else relative_uri(f"{here}.html", f"{name}.html")
        return f"{address}#{section}" if section else address

    def notebook(self, entry: Notebook, section: str = "") -> str | None:
        """The page of a notebook, or a section of it; None if the site has no such page."""
        name = docname(entry)
        return self.page(name, section) if name in self._env.found_docs else None

    def paper(self, paper: Paper) -> str | None:
        """The section of a paper; None if it is not written."""
        section = anchor(paper.section.partition("#")[2])
        return self.notebook(catalog.notebook(paper.notebook), section) if paper.done else None


def raw(text: str) -> nodes.raw:
    """HTML as a node of the document."""
    return nodes.raw("", text, format="html")


def tag(name: str, text: str, **attributes: object) -> str:
    """An HTML element with escaped text and attributes (`class_` for `class`)."""
    pairs = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items())
    written = "".join(f' {key}="{html.escape(str(value))}"' for key, value in pairs)
    return f"<{name}{written}>{html.escape(text)}</{name}>"


def link(text: str, address: str | None) -> str:
    """A link, or pale text where there is nothing to lead to."""
    return tag("a", text, href=address) if address else tag("span", text, class_="coming")


def badge(verdict: str) -> str:
    """A verdict in its color, with a sign for those who don't see it."""
    return tag("span", f"{SYMBOLS[verdict]} {verdict}", class_=f"verdict {verdict}")


def short_badge(verdict: str, count: int) -> str:
    """How many claims have a verdict: a sign and a number, and in words for screen readers."""
    words = f"{count} {verdict}"
    sign = f"{SYMBOLS[verdict]} {count}"
    return tag("span", sign, class_=f"verdict {verdict}", role="img", aria_label=words, title=words)


def label(entry: Notebook) -> str:
    """Number and title of a notebook."""
    return f"{entry.number} {entry.title}".strip()
