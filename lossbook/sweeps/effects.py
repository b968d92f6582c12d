"""What a knob changes by itself, averaged over the settings of the others."""

from dataclasses import dataclass

import pandas

from lossbook.sweeps.estimates import interval, largest_block
from lossbook.sweeps.measured import Metric
from lossbook.sweeps.words import shown


@dataclass(frozen=True)
class Effect:
    """The difference that one value of a knob makes against its first one.

    Attributes:
        knob: its name.
        value: the value.
        base: the first one, of numbers the lowest.
        estimate: "n", "mean", "low" and "high" of the difference over seeds.
        settings: how many settings of the other knobs it is averaged over.
        others: how many there are.
    """

    knob: str
    value: object
    base: object
    estimate: dict[str, float]
    settings: int
    others: int

    def __str__(self) -> str:
        n, mean = self.estimate["n"], self.estimate["mean"]
        spread = f" [{self.estimate['low']:.3g}, {self.estimate['high']:.3g}]" if n > 1 else ""
        partly = f", over {self.settings} of {self.others} settings of the others"
        return (
            f"{self.knob} {shown(self.value)} minus {shown(self.base)}: {mean:+.3g}{spread}, "
            f"n = {n} seed{'s' if n > 1 else ''}{partly if self.settings < self.others else ''}"
        )


def effects(metric: Metric) -> list[Effect]:
    """Returns the effect of each value of each knob against the knob's first value.

    It is the difference within a seed, averaged over the settings of the other knobs that both
    values have with all seeds that count; see ``estimates.largest_block``.
    """
    return [effect for knob in metric.knobs for effect in _of_knob(metric, knob)]


def _of_knob(metric: Metric, knob: str) -> list[Effect]:
    others = [other for other in metric.knobs if other != knob]
    place = metric.settings.groupby(others, dropna=False).ngroup() if others else 0
    settings = metric.settings.assign(place=place)
    values = metric.values.assign(place=metric.values["setting"].map(settings["place"]))
    tables = {
        value: values[values["setting"].isin(rows.index)].pivot(
            index="seed", columns="place", values="value"
        )
        for value, rows in settings[settings["n"] > 0].groupby(knob, dropna=False)
    }
    base, *rest = tables
    found = []
    for value in rest:
        differences = (tables[value] - tables[base]).dropna(how="all").dropna(how="all", axis=1)
        if not differences.empty:
            estimate, count = _averaged(differences)
            found.append(Effect(knob, value, base, estimate, count, settings["place"].nunique()))
    return found


def _averaged(differences: pandas.DataFrame) -> tuple[dict[str, float], int]:
    """The estimate over seeds, and how many settings of the other knobs it is averaged over."""
    seeds, places = largest_block(differences.notna())
    return interval(differences.loc[seeds, places].mean(axis=1)), len(places)
