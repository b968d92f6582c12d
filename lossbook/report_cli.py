"""What `lossbook report` does with the folder of a sweep."""

from collections.abc import Sequence
from pathlib import Path

import click

from lossbook._commands import bad_input


def swept(folder: Path) -> tuple[list[dict], list[dict]] | None:
    """Returns a sweep's complete and failed runs; None if a folder isn't that of one target.

    Raises:
        ValueError: it is made for a sweep's runs and holds none.
    """
    from lossbook.sweeps.store import failures, records

    complete, failed = records(folder), failures(folder)
    found = complete + failed
    if not found and (folder / "runs").is_dir() and (folder / "failed").is_dir():
        raise ValueError(f"the sweep in {folder} has no run yet; the same command runs it")
    return (complete, failed) if len({record["target"] for record in found}) == 1 else None


def check_places(paths: Sequence[Path]) -> None:
    """Raises ValueError for places that hold a sweep, but are not the folder of one."""
    for path in paths:
        if path.name in ("runs", "failed") and swept(path.parent):
            raise ValueError(f"{path} lies in a sweep's folder; name that: {path.parent}")
    if len(paths) > 1 and any(map(swept, paths)):
        raise ValueError(
            f"report takes one sweep's folder at a time, got {', '.join(map(str, paths))}"
        )


def latest_notebooks(place: Path) -> list[Path]:
    """Returns the newest run of each notebook in a folder of runs; of another place, itself."""
    from lossbook.sweeps.store import records

    newest = {record["target"]: record["run"] for record in records(place)}
    return [place / "runs" / run / "notebook.ipynb" for run in newest.values()] or [place]


def report_sweep(
    folder: Path,
    complete: list[dict],
    failed: list[dict],
    output: Path | None,
    form: str | None,
    metrics: tuple[str, ...],
    higher: tuple[str, ...],
    lower: tuple[str, ...],
    include_old: bool,
) -> None:
    """Draws what a sweep's runs say into a folder, or prints it as `form`, json or csv."""
    import matplotlib  # noqa: F401  (to say what is missing)

    from lossbook.sweeps import for_machines, measured, words

    with bad_input():
        if not complete:
            errors = "; ".join(words.failures(failed, []))
            raise ValueError(f"no run in {folder} is complete; failed: {errors}")
        sweep = measured.read(complete, metrics, higher, lower, include_old, failed)
    if form == "json":
        click.echo(for_machines.as_json(sweep))
    elif form == "csv":
        click.echo(for_machines.as_frame(sweep).to_csv(index=False), nl=False)
    else:
        _draw_report(sweep, folder, output or folder / "report")
    if sweep.failed:
        click.echo(f"runs that failed and are missing: {len(sweep.failed)}", err=bool(form))
        for line in words.failures(sweep.failed, sweep.knobs):
            click.echo(f"  {line}", err=bool(form))


def _draw_report(sweep, folder: Path, output: Path) -> None:
    from lossbook.sweeps import words
    from lossbook.sweeps.page import write
    from lossbook.sweeps.store import NotWritten, renew_table

    try:
        page = write(sweep, folder, output)
    except OSError as error:
        raise click.ClickException(f"{output} can't be written to: {error}") from error
    try:
        renew_table(folder)
    except (NotWritten, ImportError) as error:
        click.echo(f"records.parquet is older than the runs: {error}", err=True)
    for metric in sweep.metrics:
        click.echo(f"{metric.name}: {' '.join(words.finding(metric).split())}")
        for remark in words.remarks(metric):
            click.echo(f"  {remark}")
    if sweep.n_left_out:
        click.echo(f"{sweep.n_left_out} runs of other code are left out; --include-old adds them")
    click.echo(f"{page}, with its figures as PNG and SVG beside it")
