"""`lossbook bench`: measure suites, print each row, write their tables and figures."""

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import click
import pandas as pd
import torch

from benchmarks import (
    book,
    figures,
    machine,
    objectives,
    pair_losses,
    replicas,
    report,
    sweeps,
    vocabularies,
)
from benchmarks.arms import Arm, Limits
from benchmarks.harness import measure_all
from lossbook import plots

RESULTS = Path(__file__).parent / "results"
POSITIVE = click.FloatRange(0, min_open=True)


class Suite(NamedTuple):
    """The module of its arms, and how they are shown."""

    module: ModuleType
    show: Callable[[pd.DataFrame], figures.Shown]
    table: Callable[[pd.DataFrame, dict], str] = report.table


SUITES = {
    "pairs": Suite(pair_losses, figures.pairs),
    "vocabularies": Suite(vocabularies, figures.heads),
    "replicas": Suite(replicas, figures.seeds),
    "objectives": Suite(objectives, figures.growths, report.growth),
    "book": Suite(book, figures.notebooks),
    "sweeps": Suite(sweeps, sweeps.show),
}


@click.command(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.option(
    "--only",
    "names",
    multiple=True,
    type=click.Choice(list(SUITES)),
    metavar="SUITE",
    help=f"One of {', '.join(SUITES)}; may be repeated. [default: all]",
)
@click.option(
    "--match",
    default="",
    metavar="REGEX",
    help="Only arms of which 'CASE, SIZE, ARM' holds this, such as 'NT-Xent.*, 4096,'.",
)
@click.option("--small", is_flag=True, help="Small sizes, for a quick look.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu")
@click.option("--budget", type=click.FloatRange(0), default=3, help="Seconds of repeats per arm.")
@click.option("--memory", type=POSITIVE, default=16, help="GiB that an arm may use beyond inputs.")
@click.option("--seconds", type=POSITIVE, default=120, help="Seconds until an arm is given up.")
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder to write to. [default: benchmarks/results/DEVICE]",
)
def main(
    names: tuple[str, ...],
    match: str,
    small: bool,
    device: str,
    budget: float,
    memory: float,
    seconds: float,
    output: Path | None,
) -> None:
    """Compare speed and memory with other libraries, each arm in a process of its own."""
    if device == "cuda" and not torch.cuda.is_available():
        raise click.UsageError("device must be 'cpu' here, got 'cuda': torch finds no GPU")
    chosen = {name: matching(name, match, small, device) for name in names or SUITES}
    limits = Limits(seconds, memory, budget)
    rates = machine.rates(device, limits)
    for name, arms in chosen.items():
        run(name, SUITES[name], arms, limits, device, rates, output or RESULTS / device)


def matching(name: str, match: str, small: bool, device: str) -> list[Arm]:
    """The arms of a suite that a regular expression fits, or a usage error."""
    try:
        pattern = re.compile(match)
    except re.error as error:
        message = f"match must be a regular expression, got {match!r} ({error})"
        raise click.UsageError(message) from error
    arms = [arm for arm in SUITES[name].module.arms(small, device) if pattern.search(arm.label)]
    if not arms:
        raise click.UsageError(f"match must fit an arm of {name}, got {match!r}")
    return arms


def run(
    name: str,
    suite: Suite,
    arms: list[Arm],
    limits: Limits,
    device: str,
    rates: dict[str, float],
    folder: Path,
) -> None:
    """Measure arms of one suite and write its files."""
    click.secho(f"\n{suite.module.TITLE}", bold=True)
    found = machine.describe(device) | rates
    rows = []
    for row in measure_all(arms, limits, device):
        rows.append(row)
        click.echo(report.line(row))
    found["load_at_end"] = machine.load()
    measured = report.frame(rows)
    report.write_rows(folder, name, measured, found)
    findings, figure = suite.show(measured)
    parts = [
        f"# {suite.module.TITLE}\n\n{findings[0]}",
        *findings[1:],
        suite.module.ABOUT,
        suite.table(measured, found),
        f"Measured on {report.described(found)}. All numbers are in [{name}.csv]({name}.csv).",
    ]
    report.write_page(folder, name, parts, plots.png(figure), alt=findings[0])
    for finding in findings:
        click.echo(finding)
    click.echo(f"written to {folder / name}.md")


if __name__ == "__main__":
    main(prog_name="lossbook bench")
