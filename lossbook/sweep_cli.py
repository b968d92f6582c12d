"""The commands `lossbook sweep` and `lossbook run --all`."""

import sys
from contextlib import suppress
from pathlib import Path

import click

from lossbook import notebooks
from lossbook._commands import bad_input


@click.command()
@click.argument("name", metavar="TARGET")
@click.option(
    "-p",
    "assignments",
    metavar="NAME=VALUE,…",
    multiple=True,
    help="Values for a parameter; may be repeated. Lists: -p 'widths=[64],[64,32]'.",
)
@click.option("--seeds", default="0:5", show_default=True, help="0:20 are 0 to 19; or 1,2,5.")
@click.option("--scale", help="smoke (seconds), quick (the default) or full (minutes).")
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="A running Dask cluster: tcp://10.0.0.7:8786 or its scheduler file "
    "[default: this machine].",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Processes on this machine, one thread each [default: its cores].",
)
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="The sweep's folder [default: runs/TARGET].",
)
def sweep(
    name: str,
    assignments: tuple[str, ...],
    seeds: str,
    scale: str | None,
    scheduler: str | None,
    workers: int | None,
    output: Path | None,
) -> None:
    """Run a notebook or a function with all combinations of values, each with every seed.

    TARGET is a notebook (21, pair_weighting or a path), or package.module:function: it is called
    with the parameters and seed by name, and returns a dict of scalars, a list of such dicts or a
    DataFrame. `lossbook sweep 21 -p ms_beta=10,40,80 --seeds 0:20`

    A run that is in DIR already is not done again, so that the same command goes on after an
    interruption, and runs those that failed once more. `lossbook report DIR` draws the results.
    """
    from lossbook.sweeps import jobs, targets
    from lossbook.sweeps.store import Store, records

    with bad_input():
        if scheduler and workers:
            raise ValueError("--workers starts processes here; leave it out with --scheduler")
        target = targets.find(name)
        todo = jobs.grid(target, assignments, seeds, scale)
        folder = output or Path("runs") / target.short
        store = Store(folder)
        others = {record["target"] for record in records(folder)} - {target.name}
        if others:
            raise ValueError(
                f"{folder} holds runs of {', '.join(sorted(others))}; name another by -o"
            )
    failed = run_jobs(todo, store, scheduler, workers)
    click.echo(f"`lossbook report {folder}` draws the results")
    sys.exit(1 if failed else 0)


def run_jobs(todo: list, store, scheduler: str | None = None, workers: int | None = None) -> bool:
    """Runs what a store lacks, writes its table, prints a summary; returns whether a run failed."""
    import bokeh  # noqa: F401  (to say what is missing before anything runs)
    import pyarrow  # noqa: F401

    from lossbook.sweeps.cluster import NoCluster
    from lossbook.sweeps.driving import SchedulerLost, one_interrupt
    from lossbook.sweeps.store import NotWritten

    missing = [job for job in todo if not store.has(job)]
    failed: list[tuple] = []
    try:
        if missing:
            with one_interrupt():
                _run_missing(missing, len(todo), store, failed, scheduler, workers)
        store.write_table()
    except NoCluster as error:
        raise click.ClickException(str(error)) from error
    except (SchedulerLost, NotWritten) as error:
        _renew_table(store)
        raise click.ClickException(f"{error}\n{_how_to_go_on(todo, store)}") from error
    except KeyboardInterrupt:
        _renew_table(store)
        click.echo(f"\ninterrupted; {_how_to_go_on(todo, store)}", err=True)
        sys.exit(130)
    done = len(todo) - len(failed)
    before = len(todo) - len(missing)
    lost = f"; {len(failed)} failed" if failed else ""
    where = f"in {store.folder}, {before} of them from before"
    click.echo(f"{done} of {len(todo)} runs are {where}{lost}")
    _count_others(todo, store)
    _list_failures(failed)
    return bool(failed)


def _renew_table(store) -> None:
    """Writes the table of what is there at an end that came too early, if that is possible."""
    from lossbook.sweeps.store import NotWritten, renew_table

    with suppress(NotWritten):
        renew_table(store.folder)


def _count_others(todo: list, store) -> None:
    """Says what else is in the folder: runs of other values, and of code as it was."""
    from lossbook.sweeps.store import records

    asked = {job.id for job in todo}
    code = {(job.target.name, job.target.fingerprint) for job in todo}
    others = [record for record in records(store.folder) if record["run"] not in asked]
    old = sum((record["target"], record["fingerprint"]) not in code for record in others)
    if len(others) > old:
        click.echo(f"{len(others) - old} runs with other values or seeds are there too")
    if old:
        click.echo(f"{old} runs of earlier code stay there; the report leaves them out")


def _how_to_go_on(todo: list, store) -> str:
    done = sum(store.has(job) for job in todo)
    return f"{done} of {len(todo)} runs are in {store.folder}, the same command does the rest"


def _run_missing(
    missing: list,
    total: int,
    store,
    failed: list,
    scheduler: str | None,
    workers: int | None,
) -> None:
    from lossbook.sweeps import cluster
    from lossbook.sweeps.driving import drive
    from lossbook.sweeps.progress import progress

    workers = min(workers or cluster.cores(), len(missing))
    with cluster.connected(scheduler, workers) as client:
        click.echo(_workers_in_words(client), err=True)
        with progress(total, total - len(missing)) as shown:

            def finish(job, outcome: dict) -> None:
                place = store.keep(job, outcome)
                if "error" in outcome:
                    failed.append((job, outcome["error"], place))
                shown.add("error" in outcome)

            drive(missing, client, finish, shown.tick)


def _workers_in_words(client) -> str:
    count = len(client.nthreads())
    state = f"{count} worker{'s' if count > 1 else ''}" if count else "no worker yet, waiting"
    return f"{state}; dashboard: {client.dashboard_link}"


def _list_failures(failed: list[tuple], shown: int = 10) -> None:
    """Lists errors, each with how many runs it ended and one of these."""
    from lossbook.sweeps.store import by_error

    if failed:
        click.echo(f"{len(failed)} failed; the same command tries them again:", err=True)
    errors = by_error((error, (job, place)) for job, error, place in failed)
    for error, runs in list(errors.items())[:shown]:
        job, place = runs[0]
        name = "notebook.ipynb" if (place / "notebook.ipynb").is_file() else "record.json"
        count = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
        example = f"{job.target.name} {job}".rstrip()
        click.echo(f"  {count}: {error}\n    such as {example}: {place / name}", err=True)
    if len(errors) > shown:
        click.echo(f"  and {len(errors) - shown} other errors in {failed[0][2].parent}", err=True)


# The whole book

BUDGET = 40  # seconds at quick scale, on two cores


def run_book(scale: str | None, workers: int | None, output: Path | None) -> bool:
    """Runs all notebooks that are written, and prints their times; returns whether one failed."""
    from lossbook.sweeps.jobs import book
    from lossbook.sweeps.store import Store, records

    with bad_input():
        todo = book(notebooks.written(), scale)
        store = Store(output or Path("runs") / "book")
    failed = run_jobs(todo, store, workers=workers)
    by_run = {record["run"]: record for record in records(store.folder)}
    _print_times([by_run[job.id] for job in todo if job.id in by_run])
    return failed


def _print_times(runs: list[dict]) -> None:
    for run in runs:
        quick = run["parameters"].get("scale", "quick") == "quick"
        over = f"  over the budget of {BUDGET} s" if quick and run["seconds"] > BUDGET else ""
        click.echo(f"{run['seconds']:7.1f} s  {run['target']}{over}")
    click.echo(f"{sum(run['seconds'] for run in runs):7.1f} s  together")
