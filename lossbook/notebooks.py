"""Where the book's notebooks are, and how they are read and written."""

import os
from collections.abc import Iterator
from pathlib import Path

from lossbook import catalog
from lossbook._files import replacing


def home() -> Path:
    """Returns the checkout's folder: `LOSSBOOK_HOME`, the package's parent, or one above us.

    Raises:
        ValueError: there is no checkout, as after a plain `pip install`.
    """
    given = os.environ.get("LOSSBOOK_HOME")
    here = Path.cwd()
    places = [Path(given)] if given else [Path(__file__).parents[1], here, *here.parents]
    for place in places:
        if (place / "notebooks").is_dir() and (place / "lossbook" / "catalog").is_dir():
            return place.resolve()
    if given:
        raise ValueError(f"LOSSBOOK_HOME must be a checkout of the book, got {given!r}")
    raise ValueError(
        "the notebooks are not part of the installed package: get a checkout "
        "(git clone the repository), then run this inside it or set LOSSBOOK_HOME to its folder"
    )


def find(name: str) -> Path:
    """Returns the file of a notebook given by path, number, slug or file name.

    Raises:
        ValueError: there is no such notebook, or it is not written yet.
    """
    if name.endswith(".ipynb") and Path(name).is_file():
        return Path(name).resolve()
    entry = catalog.notebook(name)
    path = home() / entry.path
    if not path.is_file():
        raise ValueError(
            f"{entry.title!r} ({entry.path}) is planned, but not written yet; "
            f"written so far: {', '.join(p.stem for p in written()) or 'none'}"
        )
    return path


def written() -> list[Path]:
    """Returns the files of the notebooks that exist in the checkout, in reading order."""
    return [path for entry in catalog.notebooks() if (path := home() / entry.path).is_file()]


def shown(path: Path) -> str:
    """Returns how a file is named to the user: from the checkout's folder, if it is in there."""
    try:
        return path.resolve().relative_to(home()).as_posix()
    except ValueError:
        return str(path)


def exists(entry: catalog.Notebook) -> bool:
    """Whether a catalog entry's notebook is written, as far as this installation can see."""
    try:
        return (home() / entry.path).is_file()
    except ValueError:  # installed without a checkout: finished papers point to their notebook
        return any(catalog.paper(name).done for name in entry.papers)


def read(path: str | os.PathLike):
    """Returns the notebook in a file, as nbformat's current format.

    Raises:
        ValueError: the file is not a notebook.
    """
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat raises whatever its JSON reader and its validator raise
        raise ValueError(f"{path} is not a readable notebook: {error}") from error


def displayed(nb, mime: str) -> Iterator[dict]:
    """Yields what the cells of an executed notebook have displayed of one MIME type, in order."""
    for cell in nb.cells:
        for output in cell.get("outputs", []):
            if mime in output.get("data", {}):
                yield output["data"][mime]


def write(nb, path: Path) -> None:
    """Writes a notebook so that a reader sees either the old file or the whole new one."""
    import nbformat

    with replacing(path) as stream:
        nbformat.write(nb, stream)
