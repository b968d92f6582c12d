"""Each setting's mean over seeds with its 95 % interval, and its difference from the best."""

from dataclasses import dataclass

import pandas
from scipy import stats

LEVEL = 0.95
FEW = 5  # seeds below which an interval says less than the seeds' values


@dataclass(frozen=True)
class Estimates:
    """What the runs say about the settings of one metric.

    Attributes:
        values: one row for each seed of a setting, with "seed", the knobs, "value", "run" (one
            of those that it is the mean of) and "setting", the setting's row in `settings`.
        settings: one row a setting, with the knobs, "n", "mean", "low" and "high"; and, if there
            is a best one, with its difference from that in the seeds that both have:
            "difference", "difference_low", "difference_high" and "pairs".
        best: the row of the best setting; None where nothing says what is better.
        common: how many seeds all settings have.
    """

    values: pandas.DataFrame
    settings: pandas.DataFrame
    best: int | None
    common: int


def estimate(values: pandas.DataFrame, knobs: list[str], higher: bool | None) -> Estimates:
    """Returns the settings' means, chosen and compared on the seeds that they share.

    Args:
        values: one row a run, with "seed", the knobs and a finite "value".
        knobs: what a setting consists of; there may be none.
        higher: whether a higher value is better; None where that is not known.
    """
    of_seed = values.groupby(["seed", *knobs], dropna=False)
    by_seed = of_seed.agg(value=("value", "mean"), run=("run", "first")).reset_index()
    by_seed["setting"] = by_seed.groupby(knobs, dropna=False).ngroup() if knobs else 0
    rows = []
    for _, group in by_seed.groupby("setting"):
        rows.append({**{knob: group[knob].iloc[0] for knob in knobs}, **interval(group["value"])})
    settings = pandas.DataFrame(rows)
    wide = by_seed.pivot(index="seed", columns="setting", values="value")
    shared = wide.dropna()
    if higher is None or not knobs:
        return Estimates(by_seed, settings, None, len(shared))
    means = (shared if len(shared) > 1 else wide).mean()
    best = int(means.idxmax() if higher else means.idxmin())
    return Estimates(by_seed, settings.join(_differences(wide, best)), best, len(shared))


def _differences(wide: pandas.DataFrame, best: int) -> pandas.DataFrame:
    names = {"n": "pairs", "mean": "difference", "low": "difference_low", "high": "difference_high"}
    found = [interval((wide[place] - wide[best]).dropna()) for place in wide]
    return pandas.DataFrame(found, index=list(wide)).rename(columns=names)


def differs(settings: pandas.DataFrame) -> pandas.Series:
    """Returns which settings' differences from the best have an interval without zero."""
    return (settings["difference_low"] > 0) | (settings["difference_high"] < 0)


def interval(values: pandas.Series) -> dict[str, float]:
    """Returns "n", "mean", and "low" and "high" of the 95 % t interval (NaN for one value)."""
    n, mean = len(values), values.mean()
    half = stats.t.ppf((1 + LEVEL) / 2, n - 1) * values.std() / n**0.5 if n > 1 else float("nan")
    return {"n": n, "mean": mean, "low": mean - half, "high": mean + half}


def idle(values: pandas.DataFrame, knobs: list[str]) -> list[str]:
    """Returns the knobs that change nothing: with all else and the seed the same, so is the value.

    A knob counts only if some seed has been run with all its values.
    """
    found = []
    for knob in knobs:
        rest = ["seed", *(other for other in knobs if other != knob)]
        groups = values.groupby(rest, dropna=False)
        all_values = values[knob].nunique(dropna=False)
        tried = (groups[knob].nunique(dropna=False) == all_values).any()
        if tried and (groups["value"].max() == groups["value"].min()).all():
            found.append(knob)
    return found
