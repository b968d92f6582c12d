"""What each suite shows: a few sentences, computed from its rows, and a figure."""

from collections.abc import Callable
from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from benchmarks import book, pair_losses, replicas, vocabularies
from benchmarks.report import (
    by_arm,
    duration,
    exponent_of,
    geometric_mean,
    ratios,
    two_sizes,
    volume,
)
from lossbook import plots

SLOWEST = 25


class Shown(NamedTuple):
    """Sentences, the most important first, and the figure that goes with it."""

    findings: list[str]
    figure: Figure


def pairs(measured: pd.DataFrame) -> Shown:
    """How many times faster, and NT-Xent's memory."""
    ours, peer = pair_losses.OURS, pair_losses.PEER
    faster = ratios(measured, peer, ours)
    by_case = faster.groupby("case", sort=False).apply(geometric_mean)
    # There the peer holds a cube, and so could be beaten by any margin.
    square = faster[~faster.index.get_level_values("case").str.startswith(("NT-Xent", "InfoNCE"))]
    nt_xent = measured[measured["case"].str.startswith("NT-Xent")]
    largest = nt_xent[nt_xent["arm"] == ours].dropna(subset="peak_bytes").iloc[-1]
    findings = [
        f"Over the {len(faster)} cases and sizes that both can run, {peer} takes "
        f"{geometric_mean(faster):.1f} times as long as lossbook (geometric mean).",
        f"Without NT-Xent and InfoNCE, for which the peer needs memory of the order N cubed: "
        f"{geometric_mean(square):.1f} times, between {square.min():.1f} and {square.max():.1f}.",
        "By loss: " + "; ".join(f"{case} {ratio:,.1f}" for case, ratio in by_case.items()) + ".",
        _memory_of_nt_xent(nt_xent, largest),
    ]
    fig, (left, right) = plots.figure(11, 4.4, columns=2)
    for case, rows in faster.groupby("case", sort=False):
        line = "--" if case.endswith("a class") else "-"
        left.plot(rows.index.get_level_values("size"), rows, line, marker="o", label=case)
    left.axhline(1, color="0.6", lw=1)
    left.set(title=f"{geometric_mean(faster):.1f} times as fast as {peer} (geometric mean)")
    left.set(ylabel=f"time of {peer} / ours")
    fig.legend(loc="outside lower center", ncols=5, fontsize=8)
    _lines(right, nt_xent, "peak_bytes")
    right.legend(fontsize=8)
    right.set(title=f"NT-Xent of {largest['size']:,} samples in {volume(largest['peak_bytes'])}")
    right.set(ylabel="peak memory beyond the inputs")
    for axes, shown in ((left, "{:g}".format), (right, volume)):
        axes.set(xlabel="samples N")
        _log_scales(axes, sorted(measured["size"].unique()), shown)
    return Shown(findings, fig)


def _memory_of_nt_xent(nt_xent: pd.DataFrame, largest: pd.Series) -> str:
    of_peer = nt_xent[nt_xent["arm"] == pair_losses.PEER]
    needs = [
        f"{row['note'] or volume(row['peak_bytes'])} for {row['size']:,}"
        for _, row in of_peer.iterrows()
    ]
    text = f"NT-Xent of {largest['size']:,} samples needs {volume(largest['peak_bytes'])}"
    return f"{text}; {pair_losses.PEER} needs {', '.join(needs)}."


def heads(measured: pd.DataFrame) -> Shown:
    """Seconds and extra memory by the number of logits."""
    ours, full = vocabularies.OURS, vocabularies.FULL
    wide = by_arm(measured, "seconds")
    to_fastest = (wide[ours] / wide.drop(columns=ours).min(axis=1)).dropna()
    memory = ratios(measured, ours, full, "extra_bytes")
    findings = [
        f"lossbook takes {geometric_mean(to_fastest):.2f} times as long as the fastest of the "
        f"others (geometric mean; {to_fastest.min():.2f} to {to_fastest.max():.2f}), and "
        f"{memory.iloc[-1]:.1%} of the extra memory of full logits at the largest size that both "
        f"can run ({memory.min():.1%} to {memory.max():.1%} overall).",
    ]
    fig, both = plots.figure(11, 4.4, columns=2)
    for axes, column in zip(both, ("seconds", "extra_bytes"), strict=True):
        wide = by_arm(measured, column)
        labels = [f"{case}\nN = {size:,}" for case, size in wide.index]
        for head in measured["arm"].unique():
            axes.plot(labels, wide[head], "o", label=head)
        axes.set(yscale="log", xlabel="words and tokens")
        axes.tick_params(axis="x", labelsize=8)
    seconds, memory_axes = both
    seconds.set(title=f"{geometric_mean(to_fastest):.2f} times the time of the fastest other")
    seconds.set(ylabel="seconds, forward and backward")
    memory_axes.set(title=f"Down to {memory.min():.1%} of the memory of full logits")
    memory_axes.set(ylabel="memory beyond inputs and gradients")
    _ticks(seconds, duration)
    _ticks(memory_axes, volume)
    seconds.legend(fontsize=8)
    return Shown(findings, fig)


def seeds(measured: pd.DataFrame) -> Shown:
    """Speed-up over the best loop, by the number of replicas."""
    way = measured["arm"].str.partition(",")[0]
    best = measured.assign(way=way).groupby(["case", "size", "way"], sort=False)["seconds"].min()
    best = best.unstack("way")
    speedup = best.rdiv(best["loop"], axis=0)
    fig, both = plots.figure(9, 3.8, columns=2, sharey=True)
    findings = []
    for axes, (model, rows) in zip(both, speedup.groupby("case", sort=False), strict=True):
        rows = rows.droplevel("case")
        count = 16 if 16 in rows.index else rows.index.max()
        gain = rows.loc[count]
        findings.append(
            f"{count} replicas of the {model}: fit_replicas is {gain['fit_replicas']:.1f} times "
            f"as fast as the best loop, two processes {gain[replicas.PROCESSES]:.1f} times."
        )
        for name in rows.columns:
            axes.plot(rows.index, rows[name], marker="o", label=name)
        axes.set(xlabel="replicas")
        axes.set(title=f"{model}: {gain['fit_replicas']:.1f} times as fast for {count} replicas")
        _log_scales(axes, list(rows.index), "{:g}".format)
    both[0].set(ylabel="speed, best loop = 1")
    both[0].legend(fontsize=8)
    return Shown(findings, fig)


def notebooks(measured: pd.DataFrame) -> Shown:
    """Seconds of each notebook."""
    able = measured.dropna(subset="seconds")
    is_notebook = able["arm"].isin(book.SCALES) & (able["case"] != book.ALL)
    findings = [
        f"{row['case']} ({row['arm']}): {duration(row['seconds'])}."
        for _, row in able[~is_notebook].iterrows()
    ]
    each = able[is_notebook]
    fig, axes = plots.figure(7, 1.5 + 0.25 * each["case"].nunique())
    for scale, rows in each.groupby("arm", sort=False):
        axes.plot(rows["seconds"], rows["case"], "o", label=scale)
    axes.invert_yaxis()
    axes.legend(fontsize=8)
    axes.set(title=f"The slowest notebook takes {duration(each['seconds'].max())}")
    axes.set(xlabel="seconds", xlim=(0, None))
    return Shown(findings, fig)


def growths(measured: pd.DataFrame) -> Shown:
    """The slowest objectives, at both sizes."""
    (small, before), (large, after) = two_sizes(measured)
    able = after.dropna(subset="seconds")
    exponents = {
        case: exponent_of(before.loc[case], able.loc[case], "seconds") for case in able.index
    }
    looping = (after["operations"] > 1.5 * before["operations"]).sum()
    unable = after[after["note"] != ""]
    slow = able["seconds"].nlargest(SLOWEST)
    findings = [
        f"{(able['seconds'] > 0.1).sum()} of {len(after)} objectives take more than 100 ms at "
        f"n = {large:,}, and {looping} call more operators there than at n = {small:,}.",
        f"{sum(p > 1.5 for p in exponents.values())} grow faster than n^1.5.",
    ]
    if len(unable):
        each = ", ".join(f"{_short(case)} ({note})" for case, note in unable["note"].items())
        findings.append(f"Not measured at n = {large:,}: {each}.")
    fig, axes = plots.figure(7.5, 1.2 + 0.24 * len(slow))
    names = [_short(case) for case in slow.index]
    axes.hlines(names, before["seconds"][slow.index], slow, color="0.8")
    for seconds, n in ((before["seconds"][slow.index], small), (slow, large)):
        axes.plot(seconds, names, "o", label=f"n = {n:,}")
    axes.invert_yaxis()
    axes.legend()
    axes.set(xscale="log", xlabel="seconds, forward and backward")
    axes.set(title=f"The slowest objective takes {duration(slow.iloc[0])} at n = {large:,}")
    return Shown(findings, fig)


def _short(path: str) -> str:
    return path.rpartition(".")[2]


def _lines(axes: Axes, measured: pd.DataFrame, column: str) -> None:
    for arm, rows in measured.dropna(subset=column).groupby("arm", sort=False):
        axes.plot(rows["size"], rows[column], marker="o", label=arm)


def _log_scales(axes: Axes, sizes: list[int], shown: Callable[[float], str]) -> None:
    """Both axes logarithmic, with ticks at the sizes."""
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
    _ticks(axes, shown)


def _ticks(axes: Axes, shown: Callable[[float], str]) -> None:
    """Ticks of a logarithmic axis at round numbers, written as in the tables."""
    rounds = {"base": 32} if shown is volume else {"subs": (1, 3)}
    axes.yaxis.set_major_locator(LogLocator(**rounds))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value)))
    axes.minorticks_off()
