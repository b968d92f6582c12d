"""Stages what Sphinx reads: `docs/`, the notebooks as pages, and a page for each module."""

import ast
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from lossbook import catalog
from lossbook.catalog import Notebook
from lossbook.course import MARKDOWN_LINK
from lossbook.notebooks import home, read, write
from lossbook.site.frames import draw_all, frames
from lossbook.site.pages import IMAGES, Page, docname
from lossbook.site.repository import Repository

# The package's modules beside the parts, in the order in which a reader meets them.
HELPERS = (
    *("baselines", "training", "claims", "data", "models", "metrics", "plots", "widgets"),
    *("settings", "testing", "chunking", "distributed", "catalog", "ledger", "sweeps"),
)
CONTENTS = "% The notebooks, part by part\n"  # the place in docs/index.md


def stage(
    folder: Path,
    entries: Iterable[Notebook],
    *,
    cache: Path | None,
    repository: Repository | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Writes everything that Sphinx reads, anew.

    Args:
        folder: what Sphinx will read.
        entries: the written notebooks that get a page.
        cache: where the frames of sliders are kept; None makes pages without.
        repository: for links to Binder and Colab.
        say: is told what takes a while.
    """
    entries = list(entries)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(home() / "docs", folder)
    (folder / IMAGES).mkdir(parents=True)
    if cache:
        say("frames of the sliders")
        draw_all([home() / entry.path for entry in entries], cache)
    for entry in entries:
        _add_notebook(entry, entries, folder, cache, repository)
    for page in folder.glob("*.md"):
        text = page.read_text("utf-8").replace(CONTENTS, contents(entries))
        page.write_text(without_dead_links(text, {entry.path for entry in entries}), "utf-8")
    _add_modules(folder / "api")


def _add_notebook(entry, entries, folder, cache, repository) -> None:
    path = home() / entry.path
    page = Page(entry, read(path), folder, repository=repository)
    if cache:
        page.frames = cache / path.stem
        page.explorers = frames(path, page.frames)
    page.make([entry.path for entry in entries])
    target = folder / entry.path
    target.parent.mkdir(parents=True, exist_ok=True)
    write(page.nb, target)


def without_dead_links(text: str, pages: set[str]) -> str:
    """Returns Markdown in which links to notebooks without a page have become plain text."""
    return MARKDOWN_LINK.sub(lambda link: link[0] if link[2] in pages else link[1], text)


def contents(entries: list[Notebook]) -> str:
    """The site's navigation by part: hidden tables of contents, as MyST."""
    blocks = []
    for part in catalog.parts():
        caption = part.title if part.number == 0 else f"{part.number} {part.title}"
        lines = [
            f"{f'{entry.number} {entry.title}'.strip()} <{docname(entry)}>"
            for entry in entries
            if entry.part == part.number and entry.path != catalog.START_HERE
        ]
        if lines:
            blocks.append(_toctree(lines, caption))
    start = [f"Start here <{docname(e)}>" for e in entries if e.path == catalog.START_HERE]
    return "\n".join([_toctree(start), *blocks] if start else blocks)


def _toctree(lines: list[str], caption: str = "") -> str:
    options = [":hidden:", f":caption: {caption}"] if caption else [":hidden:"]
    return "\n".join(["```{toctree}", *options, "", *lines, "```", ""])


def _add_modules(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    groups = [
        (part.title, [entry.module for entry in catalog.notebooks() if entry.part == part.number])
        for part in catalog.parts()
    ]
    groups.append(("Beside the parts", [f"lossbook.{name}" for name in HELPERS]))
    text = []
    for title, names in groups:
        modules = [name for name in names if name and _source(name)]
        if modules:
            text.append(f"## {title}\n")
            text += [f"- [`{name}`]({name}.rst): {summary(name)}" for name in modules]
            text.append("")
            for name in modules:
                (folder / f"{name}.rst").write_text(_module_page(name), "utf-8")
            text.append(_toctree([f"{name.rpartition('.')[2]} <{name}>" for name in modules]))
    index = folder / "index.md"
    index.write_text(index.read_text("utf-8") + "\n" + "\n".join(text), "utf-8")


def _module_page(name: str) -> str:
    title = f"``{name}``"
    return f"{title}\n{'=' * len(title)}\n\n.. automodule:: {name}\n   :members:\n"


def _source(name: str) -> Path | None:
    base = home().joinpath(*name.split("."))
    candidates = (base.with_suffix(".py"), base / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


def summary(name: str) -> str:
    """The first sentence of a module's docstring, without its period."""
    text = ast.get_docstring(ast.parse(_source(name).read_text("utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split()).rstrip(".")
