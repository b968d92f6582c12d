"""What a sweep's runs measured: each metric, from their records."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import pandas

from lossbook.sweeps.estimates import Estimates, estimate, idle
from lossbook.sweeps.rows import code, failure, measurements, text_columns, varied

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
        failed: the records of the failed runs of the same code.
        runs: the records that are used and those of failed runs, by their run.
    """

    target: str
    code: list[str]
    n_runs: int
    n_left_out: int
    knobs: list[str]
    metrics: list["Metric"]
    failed: list[dict]
    runs: dict[str, dict]


@dataclass(frozen=True)
class Metric:
    """A number that every run measured.

    Attributes:
        name: by which `--metric` finds it.
        label: what stands at an axis.
        where: what tells it from others of its name, such as a data set, and the parameters that
            differ in the sweep but have only one value here.
        higher: whether a higher value is better; None where nothing says so.
        knobs: the parameters that it depends on.
        idle: those at whose every value it is the same.
        n_missing: how many complete runs have no finite value.
        estimates: its settings; their parts are attributes of the metric too.
    """

    name: str
    label: str
    where: dict[str, object]
    higher: bool | None
    knobs: list[str]
    idle: list[str]
    n_missing: int
    estimates: Estimates

    @property
    def title(self) -> str:
        """Its label and where it was measured."""
        return ", ".join([self.label, *(f"{name} = {value}" for name, value in self.where.items())])

    @property
    def values(self) -> pandas.DataFrame:
        """One row for each seed of a setting."""
        return self.estimates.values

    @property
    def settings(self) -> pandas.DataFrame:
        """One row a setting, also where every run failed."""
        return self.estimates.settings

    @property
    def measured(self) -> pandas.DataFrame:
        """The settings that have a value."""
        return self.settings[self.settings["n"] > 0]

    @property
    def best(self) -> pandas.Series | None:
        """The setting with the best mean over the seeds that are compared, if better is known."""
        place = self.estimates.best
        return None if place is None else self.settings.astype(object).loc[place]


def read(
    found: list[dict],
    names: Sequence[str] = (),
    higher: Sequence[str] = (),
    lower: Sequence[str] = (),
    include_old: bool = False,
    failed: Sequence[dict] = (),
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
        failed: records of failed runs.

    Raises:
        ValueError: there is no such metric, or none at all, or it is in both lists.
    """
    if not found:
        raise ValueError("no run is complete; `lossbook sweep` lists why they failed")
    for name in higher:
        if name in lower:
            raise ValueError(
                f"--higher and --lower must name different metrics, got {name} in both"
            )
    newest = code(found[-1])
    used = [record for record in found if include_old or code(record) == newest]
    codes = sorted({code(record) for record in used})
    lost = [record for record in failed if code(record) in codes]
    frame = pandas.DataFrame(
        [row for record in used for row in measurements(record)] + [failure(r) for r in lost]
    )
    knobs = varied([*used, *lost])
    texts = text_columns(used) + (["code"] if len(codes) > 1 else [])
    _chosen(frame, [*higher, *lower])
    metrics = []
    for name in _chosen(frame, names):
        rows = frame[frame["metric"] == name]
        claimed = rows["direction"].iloc[0]
        wish = "higher" if name in higher else "lower" if name in lower else claimed
        direction = _is_higher_better(name, wish)
        metrics += _metrics(name, rows, frame[frame["metric"].isna()], knobs, texts, direction)
    return Sweep(
        target=found[-1]["target"],
        code=codes,
        n_runs=len(used),
        n_left_out=len(found) - len(used),
        knobs=knobs,
        metrics=metrics,
        failed=lost,
        runs={record["run"]: record for record in [*used, *lost]},
    )


def _chosen(frame: pandas.DataFrame, names: Sequence[str]) -> list[str]:
    known = list(frame["metric"].dropna().unique()) if len(frame) else []
    if not known:
        raise ValueError("the runs hold no metric: a function returns them, a notebook logs them")
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"there is no metric {name!r}{hint}\nmetrics: {', '.join(known)}")
    by_default = list(frame.loc[frame["by_default"], "metric"].unique())
    return list(names) or by_default or known


def _is_higher_better(name: str, direction: object) -> bool | None:
    if isinstance(direction, str):
        return direction == "higher"
    words = set(re.split(r"[^a-z]+", name.lower()))
    return False if words & LOWER else True if words & HIGHER else None


def _metrics(
    name: str,
    rows: pandas.DataFrame,
    failed: pandas.DataFrame,
    knobs: list[str],
    texts: list[str],
    higher: bool | None,
) -> Iterable[Metric]:
    """One metric for each combination of texts, such as each data set."""
    rows = rows.assign(value=pandas.to_numeric(rows["value"]).astype(float))
    if rows["value"].isna().all():
        raise ValueError(f"{name} is finite in no run")
    parts = rows.groupby(texts, sort=False, dropna=False) if texts else [((), rows)]
    for key, part in parts:
        if part["value"].isna().all():
            continue
        values = _tried(part, failed[failed["code"].isin(part["code"])], knobs)
        places = {knob: values[knob].drop_duplicates().tolist() for knob in knobs}
        several = [knob for knob in knobs if len(places[knob]) > 1]
        where = dict(zip(texts, key, strict=True))
        where |= {knob: places[knob][0] for knob in knobs if knob not in several}
        without = _without_effect(values, several)
        own = [knob for knob in several if knob not in without]
        yield Metric(
            name=name,
            label=part["label"].iloc[0],
            where={name: value for name, value in where.items() if value == value},
            higher=higher,
            knobs=own,
            idle=without,
            n_missing=int((values["value"].isna() & (values["error"] == "")).sum()),
            estimates=estimate(values, own, higher),
        )


def _without_effect(values: pandas.DataFrame, knobs: list[str]) -> list[str]:
    """The knobs that change nothing, not even whether runs fail; or all, if no value differs."""
    complete = values[values["error"] == ""]
    several = all(complete[knob].nunique(dropna=False) > 1 for knob in knobs)
    flat = several and idle(complete, knobs) == knobs
    return knobs if flat else idle(values, knobs)


def _tried(part: pandas.DataFrame, failed: pandas.DataFrame, knobs: list[str]) -> pandas.DataFrame:
    """One row a run, with its mean; also those that failed, without a value."""
    keys = ["run", "seed", *knobs, "error"]
    values = part.groupby(keys, sort=False, dropna=False)["value"].mean().reset_index()
    return pandas.concat([values, failed[keys].assign(value=float("nan"))], ignore_index=True)
