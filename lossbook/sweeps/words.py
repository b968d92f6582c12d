"""What a report says of a metric in sentences."""

import json
import shlex
from collections.abc import Iterable
from pathlib import Path

import pandas

from lossbook.sweeps.estimates import differs
from lossbook.sweeps.measured import Metric, Sweep


def setting(row: pandas.Series, knobs: Iterable[str]) -> str:
    """Returns a setting in words: `beta = 10, margin = 0.5`."""
    return ", ".join(f"{knob} = {shown(row[knob])}" for knob in knobs)


def shown(value: object) -> str:
    """Returns a knob's value as it is shown."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def in_words(row: pandas.Series) -> str:
    """Returns a mean with its interval: `0.712 [0.690, 0.734], n = 20`."""
    spread = f" [{row['low']:.3g}, {row['high']:.3g}]" if row["n"] > 1 else ""
    return f"{row['mean']:.3g}{spread}, n = {row['n']:.0f}"


def finding(metric: Metric) -> str:
    """Returns which setting is best, or between what the means lie, as a figure's title."""
    rows = metric.settings
    if not metric.knobs:
        same = f", the same at every {' and '.join(metric.idle)}" if metric.idle else ""
        return f"Mean of {metric.title}: {in_words(rows.iloc[0])}{same}"
    if metric.best is None:
        ends = [rows.loc[rows["mean"].idxmin()], rows.loc[rows["mean"].idxmax()]]
        words = [f"{row['mean']:.3g} at {setting(row, metric.knobs)}" for row in ends]
        return f"Mean of {metric.title}: from {' to '.join(words)}"
    word = "Highest" if metric.higher else "Lowest"
    return (
        f"{word} {metric.title} at {setting(metric.best, metric.knobs)}:\n{in_words(metric.best)}"
    )


def remarks(metric: Metric) -> list[str]:
    """Returns what a reader has to know about a metric's numbers."""
    found = []
    if metric.idle and metric.knobs:
        found.append(f"It is the same at every {' and '.join(metric.idle)}.")
    if metric.knobs and metric.higher is None:
        found.append(
            f"Nothing says which values are better: --higher {metric.name} or "
            f"--lower {metric.name} does."
        )
    if metric.best is not None:
        found.append(_compared(metric))
    n = metric.settings["n"]
    if n.min() < n.max():
        how = f"; the best is chosen on the {metric.common} that all have"
        chosen = how if metric.best is not None and metric.common > 1 else ""
        found.append(f"Settings have from {n.min()} to {n.max()} seeds{chosen}.")
    if metric.n_missing:
        found.append(f"{metric.n_missing} runs have no finite value and do not count.")
    if n.min() < 2:
        found.append("Settings with a single seed have no interval.")
    return found


def _compared(metric: Metric) -> str:
    """How many settings differ from the best one in the same seeds."""
    others = metric.settings.drop(index=metric.best.name)
    differ = int(differs(others).sum())
    return (
        f"In the same seeds it differs from {differ} of the {len(others)} other settings at 95 %; "
        f"no difference is shown from {len(others) - differ}. That is not corrected for picking "
        f"the best of {len(metric.settings)}."
    )


def retest(metric: Metric, sweep: Sweep, folder: Path) -> str:
    """Returns the command that measures the best setting with new seeds, in another folder."""
    at_best = metric.values[metric.values["setting"] == metric.best.name]
    record = sweep.runs[at_best["run"].iloc[0]]
    given = record.get("given", [name for name in sweep.knobs if name in record["parameters"]])
    command = ["lossbook", "sweep", _target(record)]
    for name in given:
        if name != "seed":
            command += ["-p", f"{name}={_text(record['parameters'][name])}"]
    first = int(metric.values["seed"].max()) + 1
    seeds = f"{first}:{first + int(metric.settings['n'].max())}"
    output = folder.with_name(f"{folder.resolve().name}_again")
    return shlex.join([*command, "--seeds", seeds, "-o", str(output)])


def _target(record: dict) -> str:
    own = f"{record['target']}.ipynb"
    return own if Path(own).is_file() else record["target"]


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
