"""Stages what Sphinx reads: `docs/`, the notebooks as pages, and a page for each module."""

import base64
import html
import json
import re
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from posixpath import relpath

from lossbook import catalog
from lossbook.course import MARKER, relink
from lossbook.notebooks import home, read, write
from lossbook.presentation import is_solution
from lossbook.site.capture import webp
from lossbook.site.frames import PICTURE, frames
from lossbook.site.repository import Repository

HELPERS = (
    "baselines",
    "training",
    "claims",
    "data",
    "models",
    "metrics",
    "plots",
    "widgets",
    "settings",
    "testing",
    "chunking",
    "catalog",
    "ledger",
)
NEEDED = (  # what a page without a kernel shows of an output, the best first
    "text/html",
    "image/png",
    "text/plain",
)
CHECKED = "# NBVAL_CHECK_OUTPUT\n"
IMAGES = "_static/pictures"
HEADING = re.compile(r"^# .*$", re.MULTILINE)
LINK_TO_NOTEBOOK = re.compile(r'(<a href="[^":]+)\.ipynb(?:#([^"]*))?"')
ANCHOR = re.compile(r"(\]\([^()\s]+\.ipynb#)([^()\s]+)\)")


@dataclass(frozen=True)
class Stage:
    """A folder that Sphinx reads, and the settings that its pages are made with."""

    folder: Path
    written: tuple[catalog.Notebook, ...]
    cache: Path
    repository: Repository | None = None
    with_frames: bool = True

    def fill(self) -> None:
        """Writes everything, anew."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(home() / "docs", self.folder)
        (self.folder / IMAGES).mkdir(parents=True)
        for entry in self.written:
            self._add_notebook(entry)
        self._add_contents()
        self._add_modules()
