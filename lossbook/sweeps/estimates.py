"""Each setting's mean over seeds with its 95 % interval, and its difference from the best."""

from dataclasses import dataclass, field

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
        settings: one row a setting, with the knobs, "n", "mean", "low" and "high" over the seeds
            that have a value, "seeds" (how many were tried), "failed" (runs) and "error" (of one
            of these, or None); and, if there is a best one, "ranked", "is_best" and the difference
            from the best in the seeds that both have: "difference", "difference_low",
            "difference_high" and "pairs".
        best: the row of the best setting; None where nothing says what is better.
        ranked: the rows of the settings that the best is chosen from.
        chosen: "n", "mean", "low" and "high" of the best in the seeds that these share.
    """

    values: pandas.DataFrame
    settings: pandas.DataFrame
    best: int | None = None
    ranked: list[int] = field(default_factory=list)
    chosen: dict[str, float] | None = None


def estimate(tried: pandas.DataFrame, knobs: list[str], higher: bool | None) -> Estimates:
    """Returns the settings' means, chosen and compared on seeds that they share.

    Args:
        tried: one row a run, with "seed", the knobs, "run", "value" (NaN for none) and "error" (a
            text, empty unless the run failed).
        knobs: what a setting consists of; there may be none.
        higher: whether a higher value is better; None where that is not known.
    """
    of_seed = tried.assign(failed=tried["error"] != "").groupby(["seed", *knobs], dropna=False)
    how = {"value": "mean", "run": "first", "failed": "sum", "error": "max"}
    by_seed = of_seed.agg(how).reset_index()
    by_seed["setting"] = by_seed.groupby(knobs, dropna=False).ngroup() if knobs else 0
    settings = pandas.DataFrame([_setting(group, knobs) for _, group in by_seed.groupby("setting")])
    values = by_seed[by_seed["value"].notna()].drop(columns=["failed", "error"])
    if higher is None or not knobs:
        return Estimates(values, settings)
    ranked, seeds = _ranked(by_seed)
    wide = by_seed.pivot(index="seed", columns="setting", values="value")
    shared = wide.loc[seeds, ranked]
    best = int(shared.mean().idxmax() if higher else shared.mean().idxmin())
    settings = settings.join(_differences(wide, best))
    settings["ranked"] = settings.index.isin(ranked)
    settings["is_best"] = settings.index == best
    return Estimates(values, settings, best, ranked, interval(shared[best]))


def _setting(group: pandas.DataFrame, knobs: list[str]) -> dict[str, object]:
    tried = {"seeds": len(group), "failed": int(group["failed"].sum())}
    of_knobs = {knob: group[knob].iloc[0] for knob in knobs}
    return {
        **of_knobs,
        **interval(group["value"].dropna()),
        **tried,
        "error": group["error"].max() or None,
    }


def _ranked(by_seed: pandas.DataFrame) -> tuple[list[int], list[int]]:
    """The settings that can be compared, and the seeds that they share.

    A setting that lost more seeds than others, to failures or NaN, is not among them; a seed that
    all settings lost doesn't count. Of seeds that were not run for some, see ``largest_block``.
    """
    wide = by_seed.pivot(index="seed", columns="setting", values="value").dropna(how="all")
    known = by_seed[by_seed["seed"].isin(wide.index)]
    lost = known["value"].isna().groupby(known["setting"]).sum()
    measured = [place for place in wide if wide[place].notna().any()]
    complete = [place for place in measured if lost[place] == lost[measured].min()]
    seeds, ranked = largest_block(wide[complete].notna())
    return ranked, seeds


def largest_block(there: pandas.DataFrame) -> tuple[list, list]:
    """Returns rows, and columns that have them all, with the most cells; two columns if there are.

    Args:
        there: whether each cell is there. Rows are taken by the number of their cells.
    """
    order = there.sum(axis=1).sort_values(ascending=False, kind="stable").index

    def columns(n: int) -> list:
        return list(there.columns[there.loc[order[:n]].all()])

    sizes = range(1, len(order) + 1)
    most = max(sizes, key=lambda n: (len(columns(n)) > 1, n * len(columns(n))))
    return sorted(order[:most]), columns(most)


def _differences(wide: pandas.DataFrame, best: int) -> pandas.DataFrame:
    names = {"n": "pairs", "mean": "difference", "low": "difference_low", "high": "difference_high"}
    found = [interval((wide[place] - wide[best]).dropna()) for place in wide]
    frame = pandas.DataFrame(found, index=list(wide)).rename(columns=names)
    return frame.astype({"pairs": "Int64"}).drop(index=best)


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

    A knob counts only if some seed has been run with all its values. To have no value, as after a
    failure, is to differ.
    """
    found = []
    for knob in knobs:
        rest = ["seed", *(other for other in knobs if other != knob)]
        groups = values.groupby(rest, dropna=False)
        all_values = values[knob].nunique(dropna=False)
        tried = (groups[knob].nunique(dropna=False) == all_values).any()
        if tried and (groups["value"].nunique(dropna=False) == 1).all():
            found.append(knob)
    return found
