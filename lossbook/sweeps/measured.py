"""What a sweep's runs measured: each metric, from their records."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import pandas

from lossbook.sweeps.estimates import Estimates, estimate, idle

COLUMNS = {"run", "code", "metric", "label", "direction", "by_default", "value", "setting"}
COLUMNS |= {"n", "mean", "low", "high", "pairs"}
COLUMNS |= {"difference", "difference_low", "difference_high"}
LOWER = {"loss", "losses", "error", "errors", "perplexity", "deviation", "nll", "ece", "brier"}
LOWER |= {"mse", "mae", "rmse", "seconds", "minutes", "hours", "time", "latency", "memory"}
"""Words in a metric's name by which a lower value is better."""
HIGHER = {"accuracy", "acc", "recall", "precision", "auc", "auroc", "map", "mrr", "ndcg", "nmi"}
HIGHER |= {"score", "f", "likelihood", "throughput"}
"""Words by which a higher value is better, if none of the others is there."""


@dataclass(frozen=True)
class Sweep:
    """The runs that a report is about.

    Attributes:
        target: what ran.
        code: its fingerprint and the package's version, of each kind of run that is used.
        n_runs: how many runs are used.
        n_left_out: how many runs of other code there are.
        knobs: the names of the parameters that differ between runs.
        metrics: what was measured.
        runs: the records that are used, by their run.
    """

    target: str
    code: list[str]
    n_runs: int
    n_left_out: int
    knobs: list[str]
    metrics: list["Metric"]
    runs: dict[str, dict]


@dataclass(frozen=True)
class Metric:
    """A number that every run measured.

    Attributes:
        name: by which `--metric` finds it.
        label: what stands at an axis.
        where: the texts that tell it from others of its name, such as a data set.
        higher: whether a higher value is better; None where nothing says so.
        knobs: the parameters that it depends on.
        idle: those at whose every value it is the same.
        n_missing: how many runs have no finite value.
        estimates: its settings; their parts are attributes of the metric too.
    """

    name: str
    label: str
    where: dict[str, str]
    higher: bool | None
    knobs: list[str]
    idle: list[str]
    n_missing: int
    estimates: Estimates

    @property
    def title(self) -> str:
        """Its label and where it was measured."""
        return ", ".join([self.label, *(f"{name} = {text}" for name, text in self.where.items())])

    @property
    def values(self) -> pandas.DataFrame:
        """One row for each seed of a setting."""
        return self.estimates.values

    @property
    def settings(self) -> pandas.DataFrame:
        """One row a setting."""
        return self.estimates.settings

    @property
    def common(self) -> int:
        """How many seeds all settings have."""
        return self.estimates.common

    @property
    def best(self) -> pandas.Series | None:
        """The setting with the best mean over the seeds that all have, if better is known."""
        place = self.estimates.best
        return None if place is None else self.settings.astype(object).loc[place]


def read(
    found: list[dict],
    names: Sequence[str] = (),
    higher: Sequence[str] = (),
    lower: Sequence[str] = (),
    include_old: bool = False,
) -> Sweep:
    """Returns what the records of a sweep say.

    Args:
        found: records of complete runs, by time.
        names: metrics; none takes all that runs returned or logged, and the difference of each
            measured claim. `PAPER/CLAIM treatment` is a treatment's mean.
        higher: metrics whose higher values are better; what is named in neither list goes by what
            a claim says, or by the words in its name.
        lower: metrics whose lower values are better.
        include_old: whether runs of other code than the newest run's count too, each code for
            itself.

    Raises:
        ValueError: there is no such metric, or none at all.
    """
    if not found:
        raise ValueError("no run is complete; `lossbook sweep` lists why they failed")
    code = _code(found[-1])
    used = [record for record in found if include_old or _code(record) == code]
    frame = pandas.DataFrame([row for record in used for row in _measurements(record)])
    codes = sorted({_code(record) for record in used})
    knobs = _varied(used)
    texts = _text_columns(used) + (["code"] if len(codes) > 1 else [])
    _chosen(frame, [*higher, *lower])
    metrics = []
    for name in _chosen(frame, names):
        rows = frame[frame["metric"] == name]
        claimed = rows["direction"].iloc[0]
        wish = "higher" if name in higher else "lower" if name in lower else claimed
        metrics += _metrics(name, rows, knobs, texts, _is_higher_better(name, wish))
    return Sweep(
        target=found[-1]["target"],
        code=codes,
        n_runs=len(used),
        n_left_out=len(found) - len(used),
        knobs=knobs,
        metrics=metrics,
        runs={record["run"]: record for record in used},
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


def _is_higher_better(name: str, direction: str | None) -> bool | None:
    if direction:
        return direction == "higher"
    words = set(re.split(r"[^a-z]+", name.lower()))
    return False if words & LOWER else True if words & HIGHER else None


def _metrics(
    name: str, rows: pandas.DataFrame, knobs: list[str], texts: list[str], higher: bool | None
) -> Iterable[Metric]:
    """One metric for each combination of texts, such as each data set."""
    rows = rows.assign(value=pandas.to_numeric(rows["value"]).astype(float))
    if rows["value"].isna().all():
        raise ValueError(f"{name} is finite in no run")
    parts = rows.groupby(texts, sort=False, dropna=False) if texts else [((), rows)]
    for key, part in parts:
        keys = ["run", "seed", *knobs]
        values = part.groupby(keys, sort=False, dropna=False)["value"].mean().reset_index()
        finite = values[values["value"].notna()]
        if finite.empty:
            continue
        n_missing = len(values) - len(finite)
        without = [] if n_missing else idle(values, knobs)
        own = [knob for knob in knobs if knob not in without]
        yield Metric(
            name=name,
            label=part["label"].iloc[0],
            where={text: value for text, value in zip(texts, key, strict=True) if value == value},
            higher=higher,
            knobs=own,
            idle=without,
            n_missing=n_missing,
            estimates=estimate(finite, own, higher),
        )
