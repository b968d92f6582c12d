"""What a report says of a metric in sentences."""

import json
import shlex
from collections.abc import Iterable
from pathlib import Path

import pandas

from lossbook.sweeps.estimates import differs
from lossbook.sweeps.measured import Metric, Sweep
from lossbook.sweeps.store import by_error


def setting(row: pandas.Series, knobs: Iterable[str]) -> str:
    """Returns a setting in words: `beta = 10, margin = 0.5`."""
    return ", ".join(f"{knob} = {shown(row[knob])}" for knob in knobs)


def shown(value: object) -> str:
    """Returns a knob's value as it is shown."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def in_words(row: pandas.Series | dict) -> str:
    """Returns a mean with its interval: `0.712 [0.690, 0.734], n = 20`."""
    spread = f" [{row['low']:.3g}, {row['high']:.3g}]" if row["n"] > 1 else ""
    return f"{row['mean']:.3g}{spread}, n = {row['n']:.0f}"


def finding(metric: Metric) -> str:
    """Returns which setting is best, or between what the means lie, as a figure's title."""
    if not metric.knobs:
        row = metric.settings.iloc[0]
        same = f", the same at every {' and '.join(metric.idle)}" if metric.idle else ""
        where = " that has a value" if metric.idle and row["failed"] else ""
        return f"Mean of {metric.title}: {in_words(row)}{same}{where}"
    rows = metric.measured
    if metric.best is None:
        ends = [rows.loc[rows["mean"].idxmin()], rows.loc[rows["mean"].idxmax()]]
        words = [f"{row['mean']:.3g} at {setting(row, metric.knobs)}" for row in ends]
        return f"Mean of {metric.title}: from {' to '.join(words)}"
    place = setting(metric.best, metric.knobs)
    ranked, n = len(metric.estimates.ranked), metric.estimates.chosen["n"]
    estimate = in_words(metric.estimates.chosen)
    if ranked == 1 < len(metric.settings):
        return f"{metric.title} at {place}, the only setting that is ranked:\n{estimate}"
    word = "Highest" if metric.higher else "Lowest"
    whole = ranked == len(metric.settings) and (rows["n"] == n).all()
    shared = "" if whole else f", of the {ranked} settings that share {counted(n, 'seed')},"
    return f"{word} {metric.title}{shared} at {place}:\n{estimate}"


def counted(n: int, noun: str) -> str:
    """Returns `1 seed` or `2 seeds`."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def tried(row: pandas.Series) -> str:
    """Returns how many seeds a setting has, and of how many if some lack: `4 of 6`."""
    return f"{row['n']}" if row["n"] == row["seeds"] else f"{row['n']} of {row['seeds']}"


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
    if metric.best is not None and len(metric.estimates.ranked) > 1:
        found.append(_compared(metric))
    found += _incomplete(metric)
    n = metric.measured["n"]
    if n.min() < n.max():
        found.append(f"Settings have from {n.min()} to {n.max()} seeds.")
    if metric.n_missing:
        found.append(f"{metric.n_missing} runs have no finite value and do not count.")
    if n.min() < 2:
        found.append("Settings with a single seed have no interval.")
    return found


def _compared(metric: Metric) -> str:
    """How many settings differ from the best one in the same seeds."""
    others = metric.settings.loc[metric.estimates.ranked].drop(index=metric.best.name)
    if (others["pairs"] < 2).all():
        return "With one seed in common, a difference from the others can't be tested."
    differ, untested = int(differs(others).sum()), int((others["pairs"] < 2).sum())
    rest = f", and {untested} can't be tested" if untested else ""
    ranked = "" if len(others) + 1 == len(metric.settings) else "ranked "
    same = len(others) - differ - untested
    return (
        f"In the same seeds it differs from {differ} of the {len(others)} other {ranked}settings "
        f"at 95 %; no difference is shown from {same}{rest}. That is not corrected for picking the "
        f"best of {len(others) + 1}."
    )


def _incomplete(metric: Metric) -> list[str]:
    """The settings that lack seeds or are not ranked, if there are any."""
    rows = metric.settings
    lack = rows["n"] < rows["seeds"]
    if metric.best is None:
        return _listed("Incomplete", rows[lack], metric)
    return [
        *_listed("Incomplete, not ranked", rows[lack & ~rows["ranked"]], metric),
        *_listed("Not ranked for want of seeds in common", rows[~lack & ~rows["ranked"]], metric),
        *_listed("Incomplete", rows[lack & rows["ranked"]], metric),
    ]


def _listed(what: str, rows: pandas.DataFrame, metric: Metric, most: int = 5) -> list[str]:
    items = [_with_reason(row, metric) for _, row in rows.head(most).iterrows()]
    more = f"; and {len(rows) - most} more" if len(rows) > most else ""
    return [f"{what}: {'; '.join(items)}{more}."] if items else []


def _with_reason(row: pandas.Series, metric: Metric) -> str:
    """`lr = 10: 0 of 6 seeds, ValueError: diverged`."""
    place = f"{setting(row, metric.knobs)}: " if metric.knobs else ""
    return f"{place}{tried(row)} seeds" + (f", {row['error']}" if row["failed"] else "")


def failures(failed: list[dict], knobs: Iterable[str]) -> list[str]:
    """Returns failed runs by their error, with how many there are and one's parameters."""
    found = []
    for error, runs in by_error((record["error"], record) for record in failed).items():
        parameters = runs[0]["parameters"]
        names = [name for name in [*knobs, "seed"] if name in parameters]
        example = ", ".join(f"{name} = {shown(parameters[name])}" for name in names)
        found.append(f"{counted(len(runs), 'run')}: {error} (such as {example})")
    return found


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
