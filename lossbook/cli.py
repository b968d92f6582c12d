"""The command `lossbook`."""

import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from dataclasses import asdict
from itertools import chain, count
from pathlib import Path

import click

from lossbook import __version__, catalog, notebooks, parameters
from lossbook._commands import EXTRAS, Commands, bad_input, expect_interrupts
from lossbook.catalog import Notebook, Paper
from lossbook.course_cli import course
from lossbook.sweep_cli import run_book, sweep


@click.group(
    cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="lossbook")
def main() -> None:
    """Lossbook, an interactive book about training objectives."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # formulas and names on a non-Unicode terminal


# The catalog


@main.command("list")
@click.option("--part", metavar="PART", help="A part's number, folder or a word of its title.")
@click.option("--search", metavar="WORDS", help="Papers that contain all these words, best first.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def list_(part: str | None, search: str | None, as_json: bool) -> None:
    """List parts, notebooks and papers, and what is done."""
    with bad_input():
        parts = [catalog.part(part)] if part else catalog.parts()
    numbers = {p.number for p in parts}
    papers = catalog.search(search) if search else catalog.papers()
    papers = [paper for paper in papers if paper.part in numbers]
    if as_json:
        rows = [_as_dict(paper) for paper in papers]
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    elif search:
        found = [entry for entry in catalog.search_notebooks(search) if entry.part in numbers]
        _print_hits(search, papers, found)
    else:
        for each in parts:
            _print_part(each, papers)
        done = sum(paper.done for paper in papers)
        click.echo(f"{done} of {len(papers)} papers are done.")


def _as_dict(paper: Paper) -> dict:
    return {
        **asdict(paper),
        "done": paper.done,
        "url": paper.url,
        "notebook_path": catalog.notebook(paper.notebook).path,
    }


def _print_part(part: catalog.Part, papers: list[Paper]) -> None:
    click.secho(f"\n{part.number:2}  {part.title}", bold=True)
    for entry in catalog.notebooks():
        if entry.part == part.number:
            click.echo(f"    {_notebook_line(entry)}")
            for paper in papers:
                if paper.id in entry.papers:
                    click.echo(f"          {_paper_line(paper)}")


def _print_hits(words: str, papers: list[Paper], found: list[Notebook]) -> None:
    if not papers and not found:
        click.echo(f"nothing in the catalog contains {words!r}")
    for paper in papers:
        click.echo(f"{_paper_line(paper)}  [{paper.notebook}]")
    if found:
        click.secho("\nNotebooks", bold=True)
        for entry in found:
            click.echo(f"    {_notebook_line(entry)}")


def _notebook_line(entry: Notebook) -> str:
    state = "written" if notebooks.exists(entry) else "coming"
    return f"{entry.number or '  ':2}  {entry.title} ({entry.slug}, {state})"


def _paper_line(paper: Paper) -> str:
    state = "done  " if paper.done else "coming"
    width = max(40, shutil.get_terminal_size((100, 24)).columns - 54)
    title = textwrap.shorten(paper.title, width, placeholder=" …")
    return f"{paper.id:30} {state} {paper.year}  {title}"


@main.command()
@click.argument("name", metavar="PAPER|NOTEBOOK")
def show(name: str) -> None:
    """Show a paper (idea, formula, source) or a notebook (papers, parameters and their ranges)."""
    with bad_input():
        try:
            paper = catalog.paper(name)
        except ValueError as error:
            try:
                entry = catalog.notebook(name)
            except ValueError:
                raise error from None
            return _show_notebook(entry)
    _show_paper(paper)


def _show_notebook(entry: Notebook) -> None:
    click.secho(f"{entry.number or ''} {entry.title} ({entry.slug})".strip(), bold=True)
    click.echo(f"Part {entry.part}, {entry.part_title}; {entry.path}\n")
    for name in entry.papers:
        click.echo(_paper_line(catalog.paper(name)))
    if not notebooks.exists(entry):
        return
    rows = parameters.parse(notebooks.read(notebooks.find(entry.slug))).values()
    click.echo(
        "\nparameters, their defaults and ranges; for `lossbook run` and `lossbook sweep` -p"
    )
    for parameter in rows:
        allowed = ", ".join(parameter.choices)
        if parameter.low is not None:
            allowed = f"{parameter.low:g} to {parameter.high:g}"
        click.echo(f"    {f'{parameter.name} = {parameter.default}':40} {allowed}".rstrip())


def _show_paper(paper: Paper) -> None:
    entry = catalog.notebook(paper.notebook)
    click.secho(f"{paper.short} ({paper.id})", bold=True)
    click.echo(_wrap(paper.title))
    if paper.authors:
        click.echo(_wrap(", ".join(paper.authors)))
    click.echo(_wrap(", ".join(filter(None, [paper.venue, paper.url]))))
    if paper.code:
        code = paper.code if "://" in paper.code else f"https://github.com/{paper.code}"
        click.echo(f"code: {code}")
    click.echo(f"\n{_wrap(paper.idea)}\n")
    click.echo(textwrap.indent(paper.formula.strip(), "    "))
    if paper.knobs:
        click.echo(f"\n{_wrap('Knobs: ' + '; '.join(paper.knobs))}")
    click.echo(f"\nPart {entry.part}, {entry.part_title}; notebook {entry.number}, {entry.title}")
    if paper.done:
        click.echo(f"notebook   {paper.section}")
        for objective in paper.objective:
            click.echo(f"objective  {objective}")
        click.echo(f"test       {paper.test}")
    else:
        click.echo(f"coming, in {entry.path}")
    click.echo(f"formula    {KNOWN.get(paper.known, paper.known)}")


KNOWN = {
    "code": "read in the official code",
    "paper": "read in the paper",
    "recalled": "from memory, not checked against the source",
    "inferred": "made concrete from the abstract",
}


def _wrap(text: str) -> str:
    width = min(100, shutil.get_terminal_size((100, 24)).columns)
    return textwrap.fill(" ".join(text.split()), width)


@main.command()
@click.argument("name", metavar="PAPER")
def cite(name: str) -> None:
    """Print BibTeX for a paper and for this release of the book."""
    from lossbook.citation import bibtex, bibtex_of_release

    with bad_input():
        paper = catalog.paper(name)
    click.echo(f"{bibtex(paper)}\n\n{bibtex_of_release()}")


# Running


@main.command()
@click.argument("name", metavar="NOTEBOOK", required=False)
@click.option(
    "-p",
    "assignments",
    metavar="NAME=VALUE",
    multiple=True,
    help="A value for a parameter of the notebook; may be repeated.",
)
@click.option("--scale", type=str, help="smoke (seconds), quick (the default) or full (minutes).")
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    type=click.Path(path_type=Path),
    help="The executed notebook's file or folder [default: runs/, with --all runs/book].",
)
@click.option("--all", "everything", is_flag=True, help="Run every notebook of the book.")
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="With --all: how many run at the same time [default: the cores of this machine].",
)
def run(
    name: str | None,
    assignments: tuple[str, ...],
    scale: str | None,
    output: Path | None,
    everything: bool,
    workers: int | None,
) -> None:
    """Run a notebook with other parameters, into a new file.

    NOTEBOOK is a number (21), a name (pair_weighting) or a path. `lossbook run 21 -p seed=3`

    --all runs the whole book at its defaults and tells the seconds of each notebook. What is done
    already stays: the same command goes on after an interruption.
    """
    with bad_input():
        if everything == bool(name):
            raise ValueError("name a notebook, or give --all for every notebook")
        if everything and assignments:
            raise ValueError("-p is for one notebook; leave it out with --all")
        if workers and not everything:
            raise ValueError("--workers is for --all, since one notebook is one process")
    if everything:
        sys.exit(1 if run_book(scale, workers, output) else 0)
    from lossbook.execution import NotebookFailed
    from lossbook.execution import run as run_notebook

    with bad_input():
        path = notebooks.find(name)
        nb = notebooks.read(path)
        assignments += (f"scale={scale}",) if scale else ()
        values = parameters.assign(assignments, parameters.parse(nb))
        target = _target(output, path)
    expect_interrupts()
    try:
        executed = run_notebook(path, values, progress_bar=True)
    except NotebookFailed as failure:
        failed = target.with_suffix(".failed.ipynb")
        notebooks.write(failure.notebook, failed)
        raise click.ClickException(
            f"{path.stem}: {failure}\n  the notebook as far as it ran is in {failed}"
        ) from failure
    notebooks.write(executed, target)
    click.echo(str(target))


def _target(output: Path | None, notebook: Path) -> Path:
    """The file to write, in a folder that is there and can be written to."""
    target = output or Path("runs")
    if target.suffix != ".ipynb":
        if output and target.suffix and not target.is_dir():
            raise ValueError(f"OUT must be a folder or end in .ipynb, got {str(output)!r}")
        target = _unused(target / f"{notebook.stem}-{time.strftime('%Y%m%d-%H%M%S')}.ipynb")
    if target.resolve() == notebook:
        raise ValueError(f"OUT must not be the notebook itself, got {str(output)!r}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise ValueError(f"output folder {target.parent} can't be written to: {error}") from error
    return target


def _unused(path: Path) -> Path:
    """The path itself or, for a second run in the same second, one with a number."""
    numbered = (path.with_stem(f"{path.stem}-{number}") for number in count(2))
    return next(candidate for candidate in chain([path], numbered) if not candidate.exists())


@main.command()
@click.argument("names", metavar="NOTEBOOK…", nargs=-1)
@click.option("--stale", is_flag=True, help="Only those whose outputs are not current.")
@click.option("--all", "everything", is_flag=True, help="Every notebook that is written.")
def execute(names: tuple[str, ...], stale: bool, everything: bool) -> None:
    """Execute notebooks in place, as they are committed.

    For maintainers: they run at their own defaults, whatever LOSSBOOK_SCALE says. A file changes
    only when all of its cells have run. Widget state and timings are removed, and the notebook is
    stamped with the fingerprint that tells whether its outputs are current.
    """
    from lossbook.execution import NotebookFailed, is_stale
    from lossbook.execution import execute as execute_notebook

    with bad_input():
        if not names and not (everything or stale):
            raise ValueError("name the notebooks to execute, or give --stale or --all")
        paths = [notebooks.find(name) for name in names] or notebooks.written()
        opened = {path: notebooks.read(path) for path in paths}
    if stale:
        paths = [path for path in paths if is_stale(opened[path])]
    expect_interrupts()
    failures = 0
    for path in paths:
        cells = sum(cell.cell_type == "code" for cell in opened[path].cells)
        try:
            with click.progressbar(length=cells, label=path.stem, file=sys.stderr) as bar:
                seconds = execute_notebook(path, progress=bar.update)
        except NotebookFailed as failure:
            failures += 1
            click.echo(f"{notebooks.shown(path)}: {failure}\n  the file is unchanged", err=True)
        else:
            size = path.stat().st_size / 1000
            click.echo(f"{notebooks.shown(path)}: executed in {seconds} s, {size:.0f} kB")
    if not paths:
        click.echo("nothing to execute: all outputs are current")
    sys.exit(1 if failures else 0)


@main.command()
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    envvar="PORT",
    help="The port to serve on [default: 8888 or the next free one; also PORT].",
)
def lab(port: int | None) -> None:
    """Open the book in JupyterLab.

    It listens on this machine only, and asks for the token in the address that it prints.
    """
    from lossbook.execution import POLITE_THREADS
    from lossbook.lab import command

    with bad_input():
        home = notebooks.home()
        line = command(home, port)
    import jupyterlab  # noqa: F401  (to say what is missing before the process is replaced)

    os.environ.update(POLITE_THREADS)
    if sys.platform == "win32":  # there, execv returns to the prompt while the server runs
        sys.exit(subprocess.call(line, cwd=home))
    os.chdir(home)
    os.execv(line[0], line)


@main.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("options", metavar="[OPTION…]", nargs=-1, type=click.UNPROCESSED)
def bench(options: tuple[str, ...]) -> None:
    """Compare speed and memory with other libraries; --help lists the options.

    Tables and figures go to the checkout's benchmarks/results, or to the folder after -o.
    """
    with bad_input():
        home = str(notebooks.home())
    for package in EXTRAS["bench"]:
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    # -P: no folder of ours that happens to be called benchmarks.
    command = [sys.executable, "-P", "-m", "benchmarks", *options]
    sys.exit(subprocess.call(command, env=environment))


# What checks the book


@main.command()
@click.argument("paths", metavar="[PATH…]", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead.")
@click.option("--csv", "as_csv", is_flag=True, help="Print a sweep's settings as CSV instead.")
@click.option("--metric", "metrics", multiple=True, help="Of a sweep: only this; may be repeated.")
@click.option(
    "--higher",
    metavar="METRIC",
    multiple=True,
    help="Of a sweep: its higher values are better [default: as claimed, or by its name].",
)
@click.option("--lower", metavar="METRIC", multiple=True, help="Of a sweep: its lower ones are.")
@click.option("--include-old", is_flag=True, help="Of a sweep: also runs of earlier code.")
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    type=click.Path(path_type=Path, file_okay=False),
    help="Of a sweep: the report's folder [default: DIR/report].",
)
def report(
    paths: tuple[Path, ...], as_json: bool, as_csv: bool, output: Path | None, **options
) -> None:
    """Report what has been measured: the ledger of claims, or the results of a sweep.

    In the ledger each claim stands with its difference, 95 % interval, number of seeds, the
    smallest effect that they could have shown, and its verdict. Without a PATH it reads the
    notebooks of the book; a PATH is a notebook or a folder of them.

    If PATH is the folder of a sweep, it draws every metric against each knob, with 95 % intervals
    over seeds, over each pair of knobs, and as differences from the best setting, as PNG, SVG and
    one HTML page that needs no other file.
    """
    from lossbook import ledger
    from lossbook.report_cli import check_places, latest_notebooks, report_sweep, swept

    with bad_input():
        if as_json and as_csv:
            raise ValueError("--json and --csv must not be given together")
        form = "json" if as_json else "csv" if as_csv else None
        check_places(paths)
        if len(paths) == 1 and (found := swept(paths[0])):
            return report_sweep(paths[0], *found, output, form, **options)
        if output or form == "csv" or any(options.values()):
            raise ValueError("only --json is for the ledger; the other options want a sweep's DIR")
        places = [place for path in paths for place in latest_notebooks(path)]
        claims = ledger.collect(places or [notebooks.home() / "notebooks"])
    click.echo(ledger.as_json(claims) if form else ledger.as_text(claims))


@main.command()
@click.argument("names", metavar="[NOTEBOOK…]", nargs=-1)
@click.option("--stale", is_flag=True, help="Only list notebooks whose outputs are not current.")
def check(names: tuple[str, ...], stale: bool) -> None:
    """Check notebooks and the catalog against their contract.

    Exit code 1 if something breaks the contract. Stale outputs are listed, and are no failure.
    """
    from lossbook import contract
    from lossbook.execution import is_stale

    with bad_input():
        paths = [notebooks.find(name) for name in names] or notebooks.written()
        opened = {path: notebooks.read(path) for path in paths}
    findings = [] if stale else [f for path in paths for f in contract.check(path, opened[path])]
    if not names and not stale:
        findings += contract.check_catalog()
    for finding in findings:
        click.echo(finding)
    outdated = [path for path in paths if is_stale(opened[path])]
    for path in outdated:
        click.echo(
            f"{notebooks.shown(path)}: stale, its sources changed since it was executed; "
            f"`lossbook execute {path.stem}` renews it"
        )
    if not stale:
        counts = f"{len(findings)} findings, {len(outdated)} stale"
        click.echo(f"{len(paths)} notebooks checked: {counts}")
    sys.exit(1 if findings else 0)


main.add_command(course)
main.add_command(sweep)

if __name__ == "__main__":
    main()
