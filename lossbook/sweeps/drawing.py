"""The figures of a sweep: a metric against each knob, and over each pair of knobs."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from numbers import Real
from textwrap import fill

import numpy as np
import pandas
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from lossbook import plots
from lossbook.sweeps.estimates import FEW
from lossbook.sweeps.measured import Metric
from lossbook.sweeps.words import finding, in_words, setting, shown, tried

MOST_LINES = 5  # values of a second knob that one figure shows as lines
MOST_TICKS = 10  # values of a knob that each have their tick
MOST_NUMBERS = 60  # cells of a heat map that have room for their number
WIDE = 5  # ratio of a knob's values from which they are drawn on a logarithmic axis
DODGE = 7  # points between the bars of neighboring lines


@dataclass(frozen=True)
class Picture:
    """A figure, the name of its file and its alt text."""

    name: str
    figure: Figure
    alt: str


def pictures(metric: Metric) -> Iterator[Picture]:
    """Draws a metric against each knob, and over each pair of knobs; against seeds without any."""
    if not metric.knobs:
        yield _over_seeds(metric)
    for knob in metric.knobs:
        yield _curve(metric, knob, [other for other in metric.knobs if other != knob])
    for pair in combinations(metric.knobs, 2):
        yield _heat_map(metric, *pair, [other for other in metric.knobs if other not in pair])


def _slice(metric: Metric, others: list[str]) -> tuple[pandas.DataFrame, str]:
    """The settings that have the best one's values of the other knobs, and those values.

    Without a best one they have the first one's.
    """
    center = metric.measured.iloc[0] if metric.best is None else metric.best
    rows = metric.settings
    for other in others:
        rows = rows[rows[other].map(shown) == shown(center[other])]
    return rows, setting(center, others)


def _title(metric: Metric, place: str, width: float) -> str:
    """The finding, and where the figure is a slice, at which values; in lines that fit."""
    lines = finding(metric).split("\n") + ([f"Here: {place}"] if place else [])
    return "\n".join(fill(line, round(11 * width)) for line in lines)


def _axis_label(metric: Metric) -> str:
    better = {True: " (higher is better)", False: " (lower is better)", None: ""}
    return fill(f"{metric.title}{better[metric.higher]}", 30)


def _over_seeds(metric: Metric) -> Picture:
    fig, ax = plots.figure()
    mean = metric.settings.iloc[0]
    ax.plot(metric.values["seed"], metric.values["value"], "o")
    ax.axhline(mean["mean"], color=plots.PALETTE[0], lw=1)
    if mean["n"] >= FEW:
        ax.axhspan(mean["low"], mean["high"], color=plots.PALETTE[0], alpha=0.2, lw=0)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set(xlabel="seed", ylabel=_axis_label(metric), title=_title(metric, "", 6.4))
    alt = f"{finding(metric)}. One point a seed; the line is their mean, a band its interval."
    return Picture("seeds", fig, alt)


# Against one knob


def _curve(metric: Metric, knob: str, others: list[str]) -> Picture:
    fig, ax = plots.figure(6.8, 4)
    by = _knob_of_lines(metric, others)
    rows, place = (metric.settings, "") if by else _slice(metric, others)
    rows, empty = rows[rows["n"] > 0], rows[rows["n"] == 0]
    groups = list(rows.groupby(by, dropna=False)) if by else [("", rows)]
    numeric = _is_numeric(rows[knob])
    ticks = _names_in_order(rows[knob])
    for at, (value, group) in enumerate(groups):
        x = [float(v) if numeric else ticks.index(shown(v)) for v in group[knob]]
        shift = DODGE * (at - (len(groups) - 1) / 2)
        label = f"{by} = {shown(value)}" if by else None
        _points(ax, x, group, metric, shift, plots.PALETTE[at], "o-" if numeric else "o", label)
    if numeric:
        _number_axis(ax, rows[knob])
    else:
        _name_ticks(ax, "x", ticks)
        ax.autoscale()
        ax.set_xlim(-0.5, len(ticks) - 0.5)
    if by:
        ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    title = _title(metric, place, 6.8)
    without = "; ".join(setting(row, metric.knobs) for _, row in empty.iterrows())
    lacking = f"\nno value: {fill(without, 70)}" if without else ""
    ax.set(xlabel=f"{knob} ({_counts(rows)}){lacking}", ylabel=_axis_label(metric))
    fig.suptitle(title, x=0.01, ha="left", fontsize=11)
    points = "; ".join(
        f"{setting(row, metric.knobs)}: {in_words(row)}" for _, row in rows.iterrows()
    )
    alt = f"{title}. {metric.title} against {knob}. {points}" if len(rows) <= 12 else title
    return Picture(knob, fig, alt)


def _knob_of_lines(metric: Metric, others: list[str]) -> str:
    """The only other knob, if its values are few enough for a line each."""
    few = len(others) == 1 and metric.settings[others[0]].nunique() <= MOST_LINES
    return others[0] if few else ""


def _points(
    ax,
    x: list[float],
    rows: pandas.DataFrame,
    metric: Metric,
    shift: float,
    color: str,
    style: str,
    label: str | None,
) -> None:
    """Means with their intervals; where seeds are few, with the seeds' values."""
    moved = ax.transData + ScaledTranslation(shift / 72, 0, ax.figure.dpi_scale_trans)
    bars = {"fmt": style, "capsize": 3, "lw": 1.2, "color": color, "label": label}
    half = (rows["high"] - rows["mean"]).where(rows["n"] >= FEW)
    ax.errorbar(x, rows["mean"], half, **bars, transform=moved)
    seen = [*zip(x, rows["mean"] - half, strict=True), *zip(x, rows["mean"] + half, strict=True)]
    for at, (place, row) in zip(x, rows.iterrows(), strict=True):
        if row["n"] < FEW:
            seeds = metric.values.loc[metric.values["setting"] == place, "value"]
            ax.plot([at] * len(seeds), seeds, ".", color=color, alpha=0.5, transform=moved)
            seen += [(at, seed) for seed in seeds]
    ax.update_datalim([point for point in seen if np.isfinite(point[1])])  # moved lines don't


def _number_axis(ax, values: pandas.Series) -> None:
    """Ticks at the knob's values, if there are few, on a logarithmic axis if they suit it."""
    if is_logarithmic(values):
        ax.set_xscale("log")
    ax.margins(x=0.1)
    ax.autoscale()
    points = np.unique(values.astype(float))
    if len(points) <= MOST_TICKS:
        ax.set_xticks(points, [f"{point:g}" for point in points])
        ax.minorticks_off()


def _is_numeric(values: pandas.Series) -> bool:
    return all(isinstance(v, Real | np.number) and not isinstance(v, bool) for v in values)


def is_logarithmic(values: pandas.Series) -> bool:
    """Whether a knob's values are positive and lie apart by a factor of 5 or more."""
    return bool(values.min() > 0 and values.max() >= WIDE * values.min())


def _counts(rows: pandas.DataFrame) -> str:
    fewest, most = rows["n"].min(), rows["n"].max()
    n = f"{most} seed{'s' if most > 1 else ''}" if fewest == most else f"{fewest} to {most} seeds"
    if most < FEW:
        return f"{n}, each a small point"
    return f"{n}, 95 % intervals" + (f" from {FEW} seeds" if fewest < FEW else "")


# Over two knobs


def _heat_map(metric: Metric, down: str, across: str, others: list[str]) -> Picture:
    rows, place = _slice(metric, others)
    rows_of_map, columns = (_names_in_order(rows[knob]) for knob in (down, across))
    named = rows.assign(**{knob: rows[knob].map(shown) for knob in (down, across)})
    named["half"] = (named["high"] - named["mean"]).where(named["n"] >= FEW)
    means, halves = (
        named.pivot(index=down, columns=across, values=column)
        .reindex(index=rows_of_map, columns=columns)
        .to_numpy()
        for column in ("mean", "half")
    )
    width = max(6.8, 2.6 + 1.1 * means.shape[1])
    fig, ax = plots.figure(width, 2 + 0.6 * means.shape[0])
    low, high = _color_range(means, halves)
    colors = "viridis_r" if metric.higher is False else "viridis"
    image = ax.imshow(means, cmap=colors, aspect="auto", vmin=low, vmax=high)
    fig.colorbar(image, ax=ax, label=_axis_label(metric))
    if means.size <= MOST_NUMBERS:
        _write_numbers(ax, means, halves, image)
        for _, row in named[named["n"] == 0].iterrows():
            at = columns.index(row[across]), rows_of_map.index(row[down])
            ax.text(*at, f"{tried(row)}\nseeds", ha="center", va="center", fontsize=9)
    _name_ticks(ax, "x", columns)
    _name_ticks(ax, "y", rows_of_map)
    title = _title(metric, place, width)
    ax.set(xlabel=across, ylabel=down)
    fig.suptitle(title, x=0.01, ha="left", fontsize=11)
    alt = f"{title}. Heat map of {metric.title}, mean over seeds, with the 95 % intervals' halves."
    return Picture(f"{down}-{across}", fig, alt)


def _color_range(means: np.ndarray, halves: np.ndarray) -> tuple[float, float]:
    """The means' range, or that of a typical interval where it is wider."""
    low, high = np.nanmin(means), np.nanmax(means)
    half = np.nanmedian(halves) if np.isfinite(halves).any() else 0
    middle = (low + high) / 2
    return min(low, middle - half), max(high, middle + half)


def _names_in_order(values: pandas.Series) -> list[str]:
    """A knob's values as they are shown, numbers in their order."""
    return list(dict.fromkeys(map(shown, sorted(values) if _is_numeric(values) else values)))


def _write_numbers(ax, means: np.ndarray, halves: np.ndarray, image) -> None:
    largest = np.nanmax(np.abs(means)) or 1.0
    digits = max(0, 2 - int(np.floor(np.log10(largest))))
    form = f".{digits}f" if digits < 6 else ".2e"
    for (i, j), value in np.ndenumerate(means):
        if np.isfinite(value):
            dark = sum(image.cmap(image.norm(value))[:3]) < 1.5
            spread = f"\n±{halves[i, j]:{form}}" if np.isfinite(halves[i, j]) else ""
            ax.text(j, i, f"{value:{form}}{spread}", ha="center", va="center", fontsize=9,
                    color="w" if dark else "k")  # fmt: skip


def _name_ticks(ax, axis: str, names: list[str]) -> None:
    long = axis == "x" and sum(map(len, names)) > 50
    turned = {"rotation": 30, "ha": "right"} if long else {}
    getattr(ax, f"set_{axis}ticks")(range(len(names)), names, **turned)
