"""What a suite leaves: every row as CSV, a table in Markdown, a figure, and the machine as JSON."""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.arms import Row
from benchmarks.worker import GIB
from lossbook._files import replacing

UNITS = {"s": 1.0, "ms": 1e-3, "µs": 1e-6}
SIZES = {"GiB": GIB, "MiB": 2**20, "KiB": 2**10, "B": 1}


def frame(rows: Iterable[Row]) -> pd.DataFrame:
    """The rows of a suite, one a line."""
    return pd.DataFrame([asdict(row) for row in rows])


def write_rows(folder: Path, name: str, measured: pd.DataFrame, machine: dict) -> None:
    """Write what was measured, and on what, each file complete or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / f"{name}.csv") as stream:
        measured.to_csv(stream, index=False, float_format="%.6g")
    with replacing(folder / f"{name}.json") as stream:
        json.dump(machine, stream, indent=2)
        stream.write("\n")


def write_page(folder: Path, name: str, parts: list[str], picture: bytes, alt: str) -> None:
    """Write a suite's page in Markdown and the figure that it shows after its first part."""
    with replacing(folder / f"{name}.png", binary=True) as stream:
        stream.write(picture)
    first, *others = parts
    write_text(folder, name, [first, f"![{alt}]({name}.png)", *others])


def write_text(folder: Path, name: str, parts: list[str]) -> None:
    """Write a page in Markdown."""
    with replacing(folder / f"{name}.md") as stream:
        stream.write("\n\n".join(parts) + "\n")


def described(machine: dict[str, object]) -> str:
    """One line about where and when the numbers come from."""
    rates = (
        f"copies {machine['copied_bytes_per_second'] / 1e9:.3g} GB/s, multiplies matrices at "
        f"{machine['matmul_flops_per_second'] / 1e12:.3g} Tflop/s"
    )
    device = "" if machine["device"] == "cpu" else f"{machine['device']}, "
    return (
        f"{device}{machine['cpu']} with {machine['cores']} cores ({machine['threads']} threads; "
        f"{rates}), torch {machine['torch']}, pytorch-metric-learning "
        f"{machine['pytorch-metric-learning']}, Python {machine['python']}, commit "
        f"{machine['commit']}, {machine['date']}; load {machine['load_at_start']} at the start, "
        f"{machine['load_at_end']} at the end"
    )


# Numbers ----------------------------------------------------------------------------------------


def duration(seconds: float) -> str:
    """Three digits and a unit: "1.23 ms"."""
    return _with_unit(seconds, UNITS)


def volume(n_bytes: float) -> str:
    """Three digits and a unit: "5.4 MiB"."""
    return _with_unit(n_bytes, SIZES)


def _with_unit(value: float, units: dict[str, float]) -> str:
    last = list(units)[-1]
    unit = next((name for name, size in units.items() if abs(value) >= size), last)
    return f"{_three_digits(value / units[unit])} {unit}"


def _three_digits(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:,.0f}"


def by_arm(measured: pd.DataFrame, column: str) -> pd.DataFrame:
    """A column of numbers for each arm, a row for each case and size, in their order."""
    wide = measured.pivot(index=["case", "size"], columns="arm", values=column).astype(float)
    return wide.reindex(pd.MultiIndex.from_frame(measured[["case", "size"]].drop_duplicates()))


def ratios(
    measured: pd.DataFrame, numerator: str, denominator: str, column: str = "seconds"
) -> pd.Series:
    """One arm's numbers divided by another's, for each case and size that both can do."""
    wide = by_arm(measured, column)
    return (wide[numerator] / wide[denominator]).dropna()


def geometric_mean(values: pd.Series) -> float:
    """NaN where there is none."""
    return float(np.exp(np.log(values).mean()))


def least_seconds(row: pd.Series, machine: dict[str, object]) -> float:
    """The roofline: what the machine's matmul and copy rates allow for what cannot be avoided."""
    by_flops = row["flops"] / machine["matmul_flops_per_second"]
    by_bytes = row["moved_bytes"] / machine["copied_bytes_per_second"]
    return max(by_flops, by_bytes)


# Tables -----------------------------------------------------------------------------------------


def table(measured: pd.DataFrame, machine: dict[str, object]) -> str:
    """A line for each case and size, a column for each arm."""
    arms = list(dict.fromkeys(measured["arm"]))
    roofline = ["roofline"] if measured["flops"].notna().any() else []
    lines = []
    for (case, size), rows in measured.groupby(["case", "size"], sort=False):
        texts = {row["arm"]: measured_text(row) for _, row in rows.iterrows()}
        least = [_roofline(rows.iloc[0], machine) for _ in roofline]
        lines.append([case, f"{size:,}", *(texts.get(arm, "") for arm in arms), *least])
    return markdown(["case", "size", *arms, *roofline], lines)


def _roofline(row: pd.Series, machine: dict[str, object]) -> str:
    return "" if pd.isna(row["flops"]) else duration(least_seconds(row, machine))


def line(row: Row) -> str:
    """What is printed when an arm is done."""
    return f"{row.case}, {row.size:,}, {row.arm}: {measured_text(pd.Series(asdict(row)))}"


def measured_text(row: pd.Series) -> str:
    """Median and quartiles of seconds, and peak memory; or why there are none."""
    if row["note"]:
        return row["note"]
    text = duration(row["seconds"])
    if row["repeats"] > 1:
        unit = UNITS[text.split()[1]]
        text += f" ({_three_digits(row['low'] / unit)}–{_three_digits(row['high'] / unit)})"
    return text if pd.isna(row["peak_bytes"]) else f"{text}, {volume(row['peak_bytes'])}"


def growth(measured: pd.DataFrame, machine: dict[str, object]) -> str:
    """A line for each case, slowest first, with the exponents of growth between two sizes."""
    (small, before), (large, after) = two_sizes(measured)
    order = after["seconds"].fillna(np.inf).sort_values(ascending=False).index
    header = ["objective", f"time, n = {large:,}", "exponent", "peak memory", "exponent"]
    header += [f"operators, n = {small:,}", f"n = {large:,}"]
    return markdown(header, [_growth(case, before.loc[case], after.loc[case]) for case in order])


def two_sizes(measured: pd.DataFrame) -> list[tuple[int, pd.DataFrame]]:
    """The smaller and the larger size, each with its rows by their case."""
    return [(n, rows.set_index("case")) for n, rows in measured.groupby("size")]


def _growth(case: str, before: pd.Series, after: pd.Series) -> list[str]:
    def grown(column: str, shown: Callable[[float], str]) -> list[str]:
        if pd.isna(after[column]):
            able = pd.notna(before[column])
            less = f" ({shown(before[column])} at n = {before['size']:,})" if able else ""
            return [after["note"] + less, ""]
        exponent = exponent_of(before, after, column)
        return [shown(after[column]), "" if pd.isna(exponent) else f"{exponent:.1f}"]

    counts = [
        "" if pd.isna(x["operations"]) else f"{x['operations']:,.0f}" for x in (before, after)
    ]
    name = case.removeprefix("lossbook.")
    return [name, *grown("seconds", duration), *grown("peak_bytes", volume), *counts]


def exponent_of(before: pd.Series, after: pd.Series, column: str) -> float:
    """p where a number grows like size^p."""
    if not (before[column] > 0 and after[column] > 0):
        return float("nan")
    return float(np.log(after[column] / before[column]) / np.log(after["size"] / before["size"]))


def markdown(header: list[str], lines: Iterable[list[str]]) -> str:
    """A table in Markdown."""
    rule = ["---"] * len(header)
    texts = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *texts))
