"""The book on another machine: seconds of each notebook, and the verdicts that differ there.

`lossbook run --all --scale full -o FOLDER` runs it, `python -m benchmarks.verdicts FOLDER` compares
its claims with those of the committed notebooks, and writes a table and a page.
"""

from collections import Counter
from pathlib import Path

import click
import pandas as pd
import torch

from benchmarks import machine, report
from benchmarks.__main__ import RESULTS
from lossbook import ledger, notebooks
from lossbook.sweeps.store import failures, first_line, records

NAME = "verdicts"
VERDICTS = ("reproduced", "inconclusive", "contradicted")
NUMBERS = ("verdict", "mean", "low", "high", "n", "scale", "device")


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="[default: cuda, if there]")
@click.option("--note", default="", help="What else the page says of the run.")
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path))
def main(folder: Path, device: str | None, note: str, output: Path | None) -> None:
    """Write what the runs of the book in FOLDER say, beside what the committed notebooks say."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    runs, failed = records(folder), failures(folder)
    if not runs:
        raise click.UsageError(f"FOLDER must hold runs of the book, got {folder}")
    write(output or RESULTS / device, runs, failed, machine.describe(device), note)


def write(
    folder: Path, runs: list[dict], failed: list[dict], found: dict[str, object], note: str = ""
) -> None:
    """Write all claims as CSV and a page that shows the notebooks and what differs."""
    claims = compared(runs)
    report.write_rows(folder, NAME, claims, found)
    scale = ", ".join(sorted({str(run["parameters"].get("scale", "quick")) for run in runs}))
    parts = [
        f"# The book at {scale} scale",
        f"{_summary(claims)} {note}".strip(),
        report.markdown(
            ["notebook", "seconds", *VERDICTS, "verdicts that differ"], _lines(runs, failed, claims)
        ),
        "## Where the verdict differs",
        report.markdown(["claim", "in the book", "here"], _changes(claims)),
        f"Run on {found['device']}, {found['cpu']} with {found['cores']} cores, torch "
        f"{found['torch']}, commit {found['commit']}, {found['date']}. "
        f"All claims are in [{NAME}.csv]({NAME}.csv).",
    ]
    report.write_text(folder, NAME, parts)


def compared(runs: list[dict]) -> pd.DataFrame:
    """A row for each claim: what the committed notebook says (`book_…`), and what the run says."""
    committed = {claim["id"]: claim for claim in ledger.collect(notebooks.written())}
    place = {path.stem: i for i, path in enumerate(notebooks.written())}
    rows = []
    for run in sorted(runs, key=lambda run: place.get(run["target"], len(place))):
        for claim in run["claims"]:
            here = {name: claim.get(name) for name in NUMBERS}
            book = {f"book_{name}": committed.get(claim["id"], {}).get(name) for name in NUMBERS}
            rows.append({"notebook": run["target"], "claim": claim["id"], **here, **book})
    frame = pd.DataFrame(
        rows, columns=["notebook", "claim", *NUMBERS, *map("book_{}".format, NUMBERS)]
    )
    return frame.assign(differs=frame["verdict"] != frame["book_verdict"])


def _summary(claims: pd.DataFrame) -> str:
    counts = claims["verdict"].value_counts()
    return (
        f"{len(claims)} claims: {', '.join(f'{counts.get(v, 0)} {v}' for v in VERDICTS)}; "
        f"{claims['differs'].sum()} verdicts differ from the book's."
    )


def _lines(runs: list[dict], failed: list[dict], claims: pd.DataFrame) -> list[list[str]]:
    seconds = {run["target"]: f"{run['seconds']:.0f}" for run in runs}
    errors = {run["target"]: first_line(run["error"]) for run in failed}
    lines = []
    for path in notebooks.written():
        name = path.stem
        if name not in seconds:
            lines.append([name, errors.get(name, "not run to the end"), "", "", "", ""])
            continue
        own = claims[claims["notebook"] == name]
        counts = Counter(own["verdict"])
        verdicts = [str(counts[verdict]) for verdict in VERDICTS]
        lines.append([name, seconds[name], *verdicts, str(own["differs"].sum())])
    return lines


def _changes(claims: pd.DataFrame) -> list[list[str]]:
    changed = claims[claims["differs"]]
    return [[row["claim"], _said(row, "book_"), _said(row, "")] for _, row in changed.iterrows()]


def _said(row: pd.Series, prefix: str) -> str:
    mean, low, high = (row[f"{prefix}{name}"] for name in ("mean", "low", "high"))
    interval = "" if pd.isna(mean) else f", {mean:+.2g} [{low:+.2g}, {high:+.2g}]"
    return f"{row[f'{prefix}verdict']}{interval}"


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.verdicts")
