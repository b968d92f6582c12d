"""What a sweep's runs say: each metric at each setting, with its 95 % interval over seeds."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import pandas
from scipy import stats

LEVEL = 0.95
COLUMNS = {"run", "code", "metric", "label", "direction", "by_default", "value"}
COLUMNS |= {"n", "mean", "low", "high"}
LOWER = {"loss", "error", "errors", "perplexity", "deviation", "nll", "ece", "brier", "mse", "mae"}
"""Words in a metric's name by which a lower value is better."""


@dataclass(frozen=True)
class Sweep:
    """The runs that a report is about.

    Attributes:
        target: what ran.
        code: its fingerprint and the package's version, of each kind of run that is used.
        n_runs: how many runs are used.
        n_left_out: how many runs of other code there are.
        knobs: the names of what differs between settings.
        metrics: what was measured.
    """

    target: str
    code: list[str]
    n_runs: int
    n_left_out: int
    knobs: list[str]
    metrics: list["Metric"]


@dataclass(frozen=True)
class Metric:
    """A number that every run measured.

    Attributes:
        name: by which `--metric` finds it.
        label: what stands at an axis.
        higher: whether a higher value is better.
        values: one row a run, with its seed, the knobs and "value".
        n_missing: how many runs have no finite value.
        settings: one row a setting, with the knobs, "n", "mean", "low" and "high".
    """

    name: str
    label: str
    higher: bool
    values: pandas.DataFrame
    n_missing: int
    settings: pandas.DataFrame

    @property
    def best(self) -> pandas.Series:
        """The setting with the best mean."""
        mean = self.settings["mean"]
        return self.settings.loc[mean.idxmax() if self.higher else mean.idxmin()]


def read(
    found: list[dict],
    names: Sequence[str] = (),
    direction: str | None = None,
    include_old: bool = False,
) -> Sweep:
    """Returns what the records of a sweep say.

    Args:
        found: records of complete runs, by time.
        names: metrics; none takes all that runs returned or logged, and the difference of each
            measured claim. `PAPER/CLAIM treatment` is a treatment's mean.
        direction: "higher" or "lower", what is better; None takes what a claim says, or goes by
            the metric's name.
        include_old: whether runs of other code than the newest run's count too; what code it was
            is then a knob.

    Raises:
        ValueError: there is no such metric, or none at all.
    """
    if not found:
        raise ValueError("no run is complete; `lossbook sweep` lists why they failed")
    code = _code(found[-1])
    used = [record for record in found if include_old or _code(record) == code]
    frame = pandas.DataFrame([row for record in used for row in _measurements(record)])
    codes = sorted({_code(record) for record in used})
    knobs = _varied(used) + _text_columns(used) + (["code"] if len(codes) > 1 else [])
    metrics = []
    for name in _chosen(frame, names):
        rows = frame[frame["metric"] == name]
        higher = _is_higher_better(name, rows["direction"].iloc[0], direction)
        metrics.append(_metric(name, rows, knobs, higher))
    return Sweep(
        target=found[-1]["target"],
        code=codes,
        n_runs=len(used),
        n_left_out=len(found) - len(used),
        knobs=knobs,
        metrics=metrics,
    )


def _code(record: dict) -> str:
    return f"{record['fingerprint'][:8]}, lossbook {record['version']}"


# From records to one row for each metric of each run


def _measurements(record: dict) -> Iterable[dict]:
    parameters = {_knob(name): _plain(value) for name, value in record["parameters"].items()}
    run = {"run": record["run"], "code": _code(record), **parameters}
    for row in record["rows"]:
        texts = {_knob(name): value for name, value in row.items() if isinstance(value, str)}
        for name in [name for name, value in row.items() if not isinstance(value, str)]:
            label = {"metric": name, "label": name, "direction": None, "by_default": True}
            yield {**run, **texts, **label, "value": row[name]}
    for claim in record["claims"]:
        for name, label, value in _claim_values(claim):
            by_default = name == claim["id"] and claim["kind"] == "measured"
            facts = {"direction": claim["direction"], "by_default": by_default}
            yield {**run, "metric": name, "label": label, **facts, "value": value}


def _knob(name: str) -> str:
    """The column of a parameter, apart from those of the tables."""
    return f"{name}_" if name in COLUMNS else name


def _claim_values(claim: dict) -> Iterable[tuple[str, str, float]]:
    if claim["kind"] == "exact":
        yield claim["id"], claim["metric"], claim["largest"]
        return
    arms = f"{claim['treatment']} minus {claim['baseline']}"
    yield claim["id"], f"{claim['metric']}, {arms}", claim["mean"]
    treatment = claim["treatment"]
    yield f"{claim['id']} treatment", f"{claim['metric']}, {treatment}", claim["treatment_mean"]


def _plain(value: object) -> object:
    return json.dumps(value) if isinstance(value, list | dict) else value


def _varied(used: list[dict]) -> list[str]:
    """The parameters that differ between runs, beside the seed."""
    values: dict[str, set] = {}
    for record in used:
        for name, value in record["parameters"].items():
            values.setdefault(_knob(name), set()).add(_plain(value))
    return [name for name, found in values.items() if name != "seed" and len(found) > 1]


def _text_columns(used: list[dict]) -> list[str]:
    """The texts by which the rows of one run differ, such as a condition or a data set."""
    names = []
    for record in used:
        for name in {name for row in record["rows"] for name in row}:
            texts = {row.get(name) for row in record["rows"]}
            if len(texts) > 1 and all(isinstance(text, str) for text in texts):
                names.append(_knob(name))
    return sorted(set(names))


def _chosen(frame: pandas.DataFrame, names: Sequence[str]) -> list[str]:
    if frame.empty:
        raise ValueError("the runs hold no metric: a function returns them, a notebook logs them")
    known = list(dict.fromkeys(frame["metric"]))
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"there is no metric {name!r}{hint}\nmetrics: {', '.join(known)}")
    by_default = list(dict.fromkeys(frame.loc[frame["by_default"], "metric"]))
    return list(names) or by_default or known


def _is_higher_better(name: str, claimed: str | None, direction: str | None) -> bool:
    if direction or claimed:
        return (direction or claimed) == "higher"
    return LOWER.isdisjoint(re.split(r"[^a-z]+", name.lower()))


# Settings


def _metric(name: str, rows: pandas.DataFrame, knobs: list[str], higher: bool) -> Metric:
    rows = rows.assign(value=pandas.to_numeric(rows["value"]).astype(float))
    keys = ["run", "seed", *knobs]
    values = rows.groupby(keys, sort=False, dropna=False)["value"].mean().reset_index()
    finite = values[values["value"].notna()]
    if finite.empty:
        raise ValueError(f"{name} is finite in no run")
    return Metric(
        name=name,
        label=rows["label"].iloc[0],
        higher=higher,
        values=finite,
        n_missing=len(values) - len(finite),
        settings=_settings(finite, knobs),
    )


def _settings(values: pandas.DataFrame, knobs: list[str]) -> pandas.DataFrame:
    """The mean of each setting and its t interval, over seeds."""
    by_seed = values.groupby(["seed", *knobs], dropna=False)["value"].mean().reset_index()
    if not knobs:
        return pandas.DataFrame([interval(by_seed["value"])])
    found = []
    for setting, group in by_seed.groupby(knobs, dropna=False):
        found.append({**dict(zip(knobs, setting, strict=True)), **interval(group["value"])})
    return pandas.DataFrame(found)


def interval(values: pandas.Series) -> dict[str, float]:
    """Returns "n", "mean", and "low" and "high" of the 95 % t interval (NaN for one value)."""
    n, mean = len(values), values.mean()
    half = stats.t.ppf((1 + LEVEL) / 2, n - 1) * values.std() / n**0.5 if n > 1 else float("nan")
    return {"n": n, "mean": mean, "low": mean - half, "high": mean + half}


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
