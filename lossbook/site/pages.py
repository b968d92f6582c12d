"""A notebook as a page of the site: its pictures as files, its links and solutions for readers."""

import base64
import html
import json
import re
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from posixpath import relpath

from lossbook import ledger
from lossbook.catalog import Notebook
from lossbook.claims import COLORS
from lossbook.course import MARKER, relink
from lossbook.presentation import is_solution
from lossbook.site.capture import webp
from lossbook.site.frames import PICTURE
from lossbook.site.repository import Repository

IMAGES = "_static/pictures"
HOW_TO_MOVE = "In JupyterLab, sliders move this picture."
HOW_TO_TRAIN = "In JupyterLab this model trains while you watch, and its knobs can be turned."

_CHECKED = "# NBVAL_CHECK_OUTPUT\n"
_TITLE = re.compile(r"\A# .*$", re.MULTILINE)
_LINK = re.compile(r'(<a href="[^":]+)\.ipynb(?:#([^"]*))?"')
_ANCHOR = re.compile(r"(\]\((?:[^()\s]+\.ipynb)?#)([^()\s]+)\)")


def docname(entry: Notebook) -> str:
    """The name of a notebook's page: its path without the ending."""
    return entry.path.removesuffix(".ipynb")


def anchor(section: str) -> str:
    """The id of a section from a link to it: from Jupyter's to that of the page."""
    from docutils.nodes import make_id

    return make_id(section)


@dataclass
class Page:
    """Makes the page of one notebook in a staged folder.

    Attributes:
        entry: the notebook's row in the catalog.
        nb: its content, which is changed.
        folder: what Sphinx will read.
        explorers: what `frames` returned, with the folder of the files.
        repository: for links to Binder and Colab.
    """

    entry: Notebook
    nb: object
    folder: Path
    explorers: dict[str, dict] = field(default_factory=dict)
    frames: Path | None = None
    repository: Repository | None = None

    def make(self, written: list[str]) -> None:
        """Changes the notebook; stores pictures.

        Args:
            written: the paths of all notebooks that have a page.
        """
        names = [path.removeprefix("notebooks/") for path in written]
        relink(self.nb, self.entry.path.removeprefix("notebooks/"), {name: name for name in names})
        for cell in self.nb.cells:
            if cell.cell_type == "markdown":
                cell.source = _ANCHOR.sub(lambda m: f"{m[1]}{_slug(m[2])})", cell.source)
            else:
                cell.source = cell.source.removeprefix(_CHECKED)
                for output in cell.outputs:
                    self._simplify(output, cell.source)
            if is_solution(cell):
                _fold(cell)
        first = self.nb.cells[0]
        first.source = _TITLE.sub(lambda title: f"{title[0]}\n\n{self._heading()}", first.source)

    def _heading(self) -> str:
        """Where the notebook stands in the book, and where it can be run."""
        entry = self.entry
        place = [f"Notebook {entry.number}"] if entry.number else []
        if entry.part or entry.number:
            place.append(f"Part {entry.part}: {entry.part_title}")
        elif "00_primers" in entry.path:
            place.append("Primer")
        links = [f'<a href="{Path(entry.path).name}" download>Download the notebook</a>']
        note = ""
        if self.repository:
            links += [
                f'<a href="{self.repository.on_binder(entry.path)}">Open in Binder</a>',
                f'<a href="{self.repository.on_colab(entry.path)}">Open in Colab</a>',
            ]
            note = f"<span>In Colab, first run <code>{self.repository.for_colab}</code></span>"
        spans = [f"<span>{html.escape(text)}</span>" for text in place]
        return f'<p class="place">{" ".join([*spans, *links, note])}</p>'.replace(" </p>", "</p>")

    def _simplify(self, output, source: str) -> None:
        """Keeps of an output what a page shows, with its pictures in files."""
        data = output.get("data", {})
        if "text/html" not in data:
            for own in [kind for kind in data if "vnd.lossbook" in kind]:  # what was logged
                del data[own]
            return
        text = "".join(data["text/html"])
        if claim := data.get(ledger.MIME):
            text = f'<div id="{claim_id(claim["id"])}">{text}</div>'
        for verdict, color in COLORS.items():  # the site's own meet its contrast, on dark pages too
            text = text.replace(f'<b style="color: {color}">', f'<b class="verdict {verdict}">')
        text = _LINK.sub(_to_page, text)
        output["data"] = {"text/html": PICTURE.sub(lambda m: self._picture(m, source), text)}

    def _picture(self, match: re.Match, source: str) -> str:
        alt = html.unescape(match["alt"])
        explorer = self.explorers.get(alt)
        if explorer:
            knobs = [
                {**knob, "files": [self._keep_frame(name) for name in knob["files"]]}
                for knob in explorer["knobs"]
            ]
            data = html.escape(json.dumps(knobs))
            image = self._img(self._keep_frame(explorer["picture"]), match["alt"])
            return f'<div class="explorer" data-knobs="{data}">{image}</div>'
        image = self._img(self._keep(webp(base64.b64decode(match["data"]))), match["alt"])
        note = ""
        if "TrainingPanel(" in source:
            note = HOW_TO_TRAIN
        elif re.search(r"\bexplore\(", source):
            note = HOW_TO_MOVE
        return f'{image}<p class="live">{note}</p>' if note else image

    def _img(self, address: str, alt: str) -> str:
        from PIL import Image

        with Image.open(self.folder / IMAGES / address.rpartition("/")[2]) as picture:
            width, height = picture.size
        return f'<img alt="{alt}" src="{address}" width="{width}" height="{height}" loading="lazy">'

    def _keep_frame(self, name: str) -> str:
        return self._keep((self.frames / name).read_bytes())

    def _keep(self, data: bytes) -> str:
        """Stores a picture; returns its address as seen from the page."""
        name = f"{sha256(data).hexdigest()[:16]}.webp"
        (self.folder / IMAGES / name).write_bytes(data)
        return relpath(f"{IMAGES}/{name}", str(Path(self.entry.path).parent.as_posix()))


def claim_id(name: str) -> str:
    """The id of a claim's line on its notebook's page."""
    return f"claim-{name.replace('/', '-')}"


def _to_page(match: re.Match) -> str:
    section = f"#{anchor(match[2])}" if match[2] else ""
    return f'{match[1]}.html{section}"'


def _slug(section: str) -> str:
    """How myst names a section: lower case, without punctuation."""
    return re.sub(r"[^\w -]", "", section.casefold()).replace(" ", "-")


def _fold(cell) -> None:
    """Lets a solution be seen by those who ask for it."""
    cell.source = MARKER.sub("", cell.source).strip()
    if cell.cell_type == "markdown":
        if "<details>" not in cell.source:
            cell.source = f"<details><summary>Solution</summary>\n\n{cell.source}\n\n</details>"
        return
    cell.metadata.setdefault("tags", []).append("hide-input")
    prompts = {"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
    cell.metadata["mystnb"] = prompts
