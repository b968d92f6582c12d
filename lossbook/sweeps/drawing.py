"""The figures of a sweep: a metric against each knob, and over each pair of knobs."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from numbers import Real
from textwrap import fill

import numpy as np
import pandas
from matplotlib.figure import Figure

from lossbook import plots
from lossbook.sweeps.measured import Metric, in_words, setting, shown

MOST_LINES = 5  # values of a second knob that one figure shows as lines
MOST_TICKS = 10  # values of a knob that each have their tick
MOST_NUMBERS = 60  # cells of a heat map that have room for their number


@dataclass(frozen=True)
class Picture:
    """A figure, the name of its file and its alt text."""

    name: str
    figure: Figure
    alt: str


def pictures(metric: Metric, knobs: list[str]) -> Iterator[Picture]:
    """Draws a metric against each knob, and over each pair of knobs; against seeds without any."""
    if not knobs:
        yield _over_seeds(metric)
    for knob in knobs:
        yield _curve(metric, knob, [other for other in knobs if other != knob])
    for pair in combinations(knobs, 2):
        yield _heat_map(metric, *pair, [other for other in knobs if other not in pair])


def finding(metric: Metric, knobs: list[str]) -> str:
    """Returns which setting is best, as a figure's title."""
    best = metric.best
    if not knobs:
        return f"Mean of {metric.label}: {in_words(best)}"
    word = "Highest" if metric.higher else "Lowest"
    return f"{word} {metric.label} at {setting(best, knobs)}:\n{in_words(best)}"


def _at_best(metric: Metric, others: list[str]) -> pandas.DataFrame:
    """The settings that have the best one's values of the other knobs."""
    rows = metric.settings
    for other in others:
        rows = rows[rows[other].map(shown) == shown(metric.best[other])]
    return rows


def _axis_label(metric: Metric) -> str:
    return fill(f"{metric.label} ({'higher' if metric.higher else 'lower'} is better)", 40)


def _over_seeds(metric: Metric) -> Picture:
    fig, ax = plots.figure()
    mean = metric.settings.iloc[0]
    ax.plot(metric.values["seed"], metric.values["value"], "o")
    ax.axhline(mean["mean"], color=plots.PALETTE[0], lw=1)
    ax.axhspan(mean["low"], mean["high"], color=plots.PALETTE[0], alpha=0.2, lw=0)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set(xlabel="seed", ylabel=_axis_label(metric), title=finding(metric, []))
    alt = f"{finding(metric, [])}. One point a seed; the band is the mean's."
    return Picture("seeds", fig, alt)


# Against one knob


def _curve(metric: Metric, knob: str, others: list[str]) -> Picture:
    fig, ax = plots.figure(6.8, 4)
    by = _knob_of_lines(metric, others)
    rows = metric.settings if by else _at_best(metric, others)
    groups = list(rows.groupby(by, dropna=False)) if by else [("", rows)]
    numeric = _is_numeric(rows[knob])
    ticks = _names_in_order(rows[knob])
    for place, (value, group) in enumerate(groups):
        label = f"{by} = {shown(value)}" if by else None
        if numeric:
            _band(ax, group[knob].astype(float), group, label)
        else:
            shift = 0.12 * (place - (len(groups) - 1) / 2)
            _bars(ax, [ticks.index(shown(v)) + shift for v in group[knob]], group, label)
    if numeric:
        _number_axis(ax, rows[knob])
    else:
        _name_ticks(ax, "x", ticks)
    if rows["low"].min() < 0 < rows["high"].max():
        ax.axhline(0, color="0.6", lw=1, zorder=0)
    if by:
        ax.legend()
    title = finding(metric, [knob, *others])
    ax.set(xlabel=f"{knob} ({_counts(rows)} seeds, 95 % intervals)", ylabel=_axis_label(metric))
    ax.set_title(title)
    points = "; ".join(f"{shown(row[knob])}: {in_words(row)}" for _, row in rows.iterrows())
    alt = f"{title}. {metric.label} against {knob}: {points}" if len(rows) <= 12 else title
    return Picture(knob, fig, alt)


def _knob_of_lines(metric: Metric, others: list[str]) -> str:
    """The only other knob, if its values are few enough for a line each."""
    few = len(others) == 1 and metric.settings[others[0]].nunique() <= MOST_LINES
    return others[0] if few else ""


def _band(ax, x: pandas.Series, rows: pandas.DataFrame, label: str | None) -> None:
    (line,) = ax.plot(x, rows["mean"], "o-", label=label)
    ax.fill_between(x, rows["low"], rows["high"], color=line.get_color(), alpha=0.2, lw=0)


def _bars(ax, x: list[float], rows: pandas.DataFrame, label: str | None) -> None:
    errors = [rows["mean"] - rows["low"], rows["high"] - rows["mean"]]
    ax.errorbar(x, rows["mean"], errors, fmt="o", capsize=3, label=label)


def _number_axis(ax, values: pandas.Series) -> None:
    """Ticks at the knob's values, if there are few, on a logarithmic axis if they suit it."""
    if is_geometric(values):
        ax.set_xscale("log")
    points = np.unique(values.astype(float))
    if len(points) <= MOST_TICKS:
        ax.set_xticks(points, [f"{point:g}" for point in points])
        ax.minorticks_off()


def _is_numeric(values: pandas.Series) -> bool:
    return all(isinstance(v, Real | np.number) and not isinstance(v, bool) for v in values)


def is_geometric(values: pandas.Series) -> bool:
    """Whether a knob's values are spaced more evenly on a logarithmic axis than on a linear one."""
    points = np.unique(values.astype(float))
    if len(points) < 3 or points[0] <= 0:
        return False
    linear, logarithmic = np.diff(points), np.diff(np.log(points))
    return bool(logarithmic.std() / logarithmic.mean() < linear.std() / linear.mean())


def _counts(rows: pandas.DataFrame) -> str:
    fewest, most = rows["n"].min(), rows["n"].max()
    return f"{most:.0f}" if fewest == most else f"{fewest:.0f} to {most:.0f}"


# Over two knobs


def _heat_map(metric: Metric, down: str, across: str, others: list[str]) -> Picture:
    rows = _at_best(metric, others)
    rows_of_map, columns = (_names_in_order(rows[knob]) for knob in (down, across))
    named = rows.assign(**{knob: rows[knob].map(shown) for knob in (down, across)})
    wide = named.pivot(index=down, columns=across, values="mean")
    grid = wide.reindex(index=rows_of_map, columns=columns).to_numpy()
    fig, ax = plots.figure(max(6.4, 2.6 + 0.75 * grid.shape[1]), 2 + 0.5 * grid.shape[0])
    image = ax.imshow(grid, cmap="viridis" if metric.higher else "viridis_r", aspect="auto")
    fig.colorbar(image, ax=ax, label=_axis_label(metric))
    if grid.size <= MOST_NUMBERS:
        _write_numbers(ax, grid, image)
    _name_ticks(ax, "x", columns)
    _name_ticks(ax, "y", rows_of_map)
    title = finding(metric, [down, across, *others])
    ax.set(xlabel=across, ylabel=down)
    fig.suptitle(title, x=0.01, ha="left", fontsize=11)
    alt = f"{title}. Heat map of {metric.label}, mean over seeds."
    return Picture(f"{down}-{across}", fig, alt)


def _names_in_order(values: pandas.Series) -> list[str]:
    """A knob's values as they are shown, numbers in their order."""
    return list(dict.fromkeys(map(shown, sorted(values) if _is_numeric(values) else values)))


def _write_numbers(ax, grid: np.ndarray, image) -> None:
    for (i, j), value in np.ndenumerate(grid):
        if np.isfinite(value):
            dark = sum(image.cmap(image.norm(value))[:3]) < 1.5
            ax.text(j, i, f"{value:.3g}", ha="center", va="center", color="w" if dark else "k")


def _name_ticks(ax, axis: str, names: list[str]) -> None:
    long = axis == "x" and sum(map(len, names)) > 50
    turned = {"rotation": 30, "ha": "right"} if long else {}
    getattr(ax, f"set_{axis}ticks")(range(len(names)), names, **turned)
