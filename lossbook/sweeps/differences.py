"""The figure of a sweep's settings against the best one, paired by seed."""

from collections.abc import Iterator
from textwrap import fill

import numpy as np

from lossbook import plots
from lossbook.sweeps.drawing import Picture
from lossbook.sweeps.estimates import FEW, differs
from lossbook.sweeps.measured import Metric
from lossbook.sweeps.words import setting

MOST_COMPARED = 20  # settings that are drawn


def against_best(metric: Metric) -> Iterator[Picture]:
    """Draws the settings' differences from the best one, if there are seeds enough."""
    if metric.best is None:
        return
    rows = metric.settings.loc[metric.estimates.ranked].drop(index=metric.best.name)
    rows = rows[rows["pairs"] >= FEW]
    if rows.empty:
        return
    rows = rows.sort_values("difference", ascending=not metric.higher).head(MOST_COMPARED)
    fig, ax = plots.figure(6.8, 1.8 + 0.3 * len(rows))
    half = rows["difference_high"] - rows["difference"]
    differ = differs(rows)
    for words, chosen, color in (
        ("differs", differ, plots.PALETTE[0]),
        ("no difference shown", ~differ, "0.6"),
    ):
        if chosen.any():
            ax.errorbar(rows.loc[chosen, "difference"], np.flatnonzero(chosen), fmt="o",
                        xerr=half[chosen], color=color, capsize=3, label=words)  # fmt: skip
    ax.axvline(0, color="0.4", lw=1, zorder=0)
    ax.set_yticks(range(len(rows)), [setting(row, metric.knobs) for _, row in rows.iterrows()])
    ax.invert_yaxis()
    best = setting(metric.best, metric.knobs)
    title = f"{differ.sum()} of {len(rows)} settings differ from {best} in the same seeds"
    ax.set_xlabel(fill(f"{metric.title}, minus the best (95 %, not corrected for the choice)", 44))
    fig.suptitle(fill(title, 74), x=0.01, ha="left", fontsize=11)
    fig.legend(loc="outside lower left", ncols=2)
    yield Picture("differences", fig, f"{title}. {metric.title}, paired by seed.")
