"""The commands `lossbook course`: editions for students and for nbgrader, and slides."""

import sys
from pathlib import Path

import click

from lossbook import catalog, notebooks
from lossbook._commands import bad_input, expect_interrupts


@click.group()
def course() -> None:
    """Make course material from the notebooks: student edition, nbgrader, slides."""


_out = click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
_names = click.option(
    "--notebooks",
    "names",
    metavar="NOTEBOOK,…",
    multiple=True,
    help="Only these, by number or name; may be repeated [default: all that are written].",
)
_force = click.option(
    "--force", is_flag=True, help="Write into a folder that is not empty; replaces files."
)


@course.command()
@_out
@_names
@click.option(
    "--with-solutions",
    is_flag=True,
    help="Put a folded solution behind each check, for those who work alone.",
)
@_force
def build(out: Path, names: tuple[str, ...], with_solutions: bool, force: bool) -> None:
    """Write the student edition into the folder OUT.

    Solutions, their outputs and hidden tests are left out; the outputs of all else stay. Each
    notebook runs first, at smoke scale: up to the exercises as students find it, then with its
    solutions, which have to pass all checks. Nothing is written unless every notebook is fit.
    """
    from lossbook.course import check_destination, student_files, write_files

    with bad_input():
        opened = _opened(names)
        files = student_files(opened, with_solutions)
        check_destination(out, files, force)
    _prove(opened)
    write_files(out, files)
    click.echo(f"{len(files)} notebooks in {out}")


@course.command()
@_out
@_names
@_force
def nbgrader(out: Path, names: tuple[str, ...], force: bool) -> None:
    """Write a course for nbgrader into the folder OUT.

    Each notebook with exercises becomes an assignment, source/NAME/NAME.ipynb, with its solutions
    and hidden tests; nbgrader_config.py lets nbgrader grade at smoke scale. The notebooks run
    first, as in `lossbook course build`.

    In OUT, `nbgrader generate_assignment NAME` then makes what students get. Activate the
    environment first: nbgrader calls another program of it by its name.
    """
    from lossbook.course import check_destination, has_exercises, nbgrader_files, write_files

    with bad_input():
        opened = _opened(names)
        files = nbgrader_files(opened)
        check_destination(out, files, force)
    _prove({path: nb for path, nb in opened.items() if has_exercises(nb)})
    write_files(out, files)
    click.echo(f"{len(files) - 1} assignments in {out}")


@course.command()
@click.argument("name", metavar="NOTEBOOK")
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    type=click.Path(path_type=Path),
    help="The file, or the folder for it [default: NOTEBOOK.slides.html].",
)
def slides(name: str, output: Path | None) -> None:
    """Make slides of a notebook: one HTML file that needs no network.

    The notebook says which cells are slides, notes or skipped; `lossbook execute` sets what its
    author has not (change it in JupyterLab's property inspector). Long paragraphs become speaker
    notes. In the browser, S shows the notes; opened with ?print-pdf, the page prints as a PDF.
    """
    from lossbook.course import check_folder
    from lossbook.slides import export

    with bad_input():
        path = notebooks.find(name)
        target = output or Path(f"{path.stem}.slides.html")
        if target.is_dir() or not target.suffix:
            target = target / f"{path.stem}.slides.html"
        if target.suffix != ".html":
            raise ValueError(f"OUT must be a folder or end in .html, got {str(output)!r}")
        check_folder(target.parent)
        page = export(notebooks.read(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    with notebooks.replacing(target) as stream:
        stream.write(page)
    click.echo(str(target))


def _opened(names: tuple[str, ...]) -> dict[Path, object]:
    """The named notebooks, or all that are written, in reading order."""
    wanted = [name.strip() for text in names for name in text.split(",") if name.strip()]
    if names and not wanted:
        raise ValueError("--notebooks names none; leave it out for all that are written")
    paths = {notebooks.find(name) for name in wanted} or notebooks.written()
    order = {entry.stem: place for place, entry in enumerate(catalog.notebooks())}
    paths = sorted(paths, key=lambda path: order.get(path.stem, len(order)))
    return {path: notebooks.read(path) for path in paths}


def _prove(opened: dict[Path, object]) -> None:
    """Runs the notebooks; ends the command if one of them can't be handed out."""
    from lossbook.proof import NotFit, prove

    expect_interrupts()
    unfit = []
    for path, nb in opened.items():
        cells = sum(cell.cell_type == "code" for cell in nb.cells)
        with click.progressbar(length=cells, label=path.stem, file=sys.stderr) as bar:
            try:
                prove(nb, bar.update)
            except NotFit as reason:
                unfit.append(f"{path.stem}: {reason}")
    if unfit:
        raise click.ClickException("\n".join([*unfit, "nothing is written"]))
