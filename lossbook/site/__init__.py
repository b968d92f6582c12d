"""The book as a static site: `python -m lossbook.site`, or `make site`.

The notebooks are shown as they are committed. Sphinx, myst-nb and furo turn a staged copy of
`docs/` and `notebooks/` into pages that need no network and no server: they also work from a
folder, or from a file share. What `explore` draws is drawn ahead, so that its sliders move.

Needs the extra `site`: `pip install 'lossbook[site]'`.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from lossbook.catalog import Notebook


def build(
    output: Path,
    entries: Iterable[Notebook],
    *,
    cache: Path | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Builds the site.

    Args:
        output: the folder of the site; an earlier site there is replaced.
        entries: the notebooks; those that are not written are left out.
        cache: where the frames of sliders are kept from build to build; None makes a site whose
            sliders don't move.
        say: is told what takes a while.

    Raises:
        ValueError: the repository's address in `pyproject.toml` is not one on GitHub, or Sphinx
            found something to complain about.
    """
    from sphinx.cmd.build import build_main

    from lossbook import notebooks
    from lossbook.site.repository import of_project
    from lossbook.site.stage import stage

    written = [entry for entry in entries if notebooks.exists(entry)]
    repository = of_project(notebooks.home())
    if repository is None:
        say("no Repository in [project.urls] of pyproject.toml: no links to Binder and Colab")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        stage(source, written, cache=cache, repository=repository, say=say)
        say("pages")
        if (output / ".buildinfo").exists():  # left by Sphinx: a site, and nothing else
            shutil.rmtree(output)
        options = ["-q", "--fail-on-warning", "--keep-going", "-d", str(Path(folder) / "doctrees")]
        if build_main(["-b", "html", *options, str(source), str(output)]):
            raise ValueError("Sphinx complains, see above; the site may be incomplete")
    for entry in written:
        shutil.copy(notebooks.home() / entry.path, output / entry.path)
