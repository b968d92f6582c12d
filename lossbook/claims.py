"""Claims: two arms run on the same seeds, a verdict that is computed, and a record of it.

Needs scipy for the t distribution; pandas only for :func:`tune`.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lossbook import _display
from lossbook._checks import one_of

if TYPE_CHECKING:
    import pandas

    from lossbook.settings import Run

MIME = "application/vnd.lossbook.claim+json"
SCHEMA = 1
LEVEL = 0.95
POWER = 0.8
# Mid tones that keep a contrast above 4 on white and on JupyterLab's dark background.
COLORS = {"reproduced": "#178a68", "contradicted": "#d04d32", "inconclusive": "#7a7a82"}
SYMBOLS = {"reproduced": "✓", "contradicted": "✗", "inconclusive": "?"}

# A list, array, tensor or pandas series of numbers.
Values = Any

_recorded: dict[str, Claim] = {}


@dataclass(frozen=True)
class Comparison:
    """The paired difference treatment - baseline over seeds, and what it says about a claim.

    Attributes:
        n: number of pairs.
        mean: mean difference.
        low, high: bounds of its 95 % t interval.
        p_value: two-sided, of the paired t test.
        smallest_effect: the true difference that n such pairs find in 80 % of all runs.
        verdict: "reproduced", "contradicted" or "inconclusive".
    """

    n: int
    mean: float
    low: float
    high: float
    p_value: float
    smallest_effect: float
    verdict: str

    def __str__(self) -> str:
        """One line: the difference with its interval, the number of pairs, the verdict."""
        interval = f"{self.mean:+.3g} [{self.low:+.3g}, {self.high:+.3g}]"
        return f"{interval} over {self.n} seeds: {self.verdict}"


def compare(treatment: Values, baseline: Values, direction: str = "higher") -> Comparison:
    r"""Compare two arms that ran on the same seeds.

    With the differences :math:`d_i` of :math:`n` pairs and their standard deviation :math:`s`,
    the interval is :math:`\bar d \pm t_{0.975,n-1}\, s/\sqrt n` and the smallest effect
    :math:`(t_{0.975,n-1} + t_{0.8,n-1})\, s/\sqrt n`. Differences below rounding error
    (1e-12 of the largest value) count as zero; if all differences are equal, their sign decides.

    Args:
        treatment: one value a seed, shape (n,), n >= 2.
        baseline: the values of the same seeds in the same order, shape (n,).
        direction: "higher" if the claim is that the treatment's values are higher, or "lower".

    Returns:
        The ``Comparison``; its verdict is "reproduced" if the interval lies on the claimed side
        of zero, "contradicted" if it lies on the other side, else "inconclusive".

    Raises:
        ValueError: for another direction, fewer than two pairs, unequal lengths or values that
            are not finite.
    """
    return _compare(("treatment", treatment), ("baseline", baseline), direction)


def _compare(
    treatment: tuple[str, Values], baseline: tuple[str, Values], direction: str
) -> Comparison:
    from scipy import stats

    one_of("direction", direction, ("higher", "lower"))
    first, second = _values(*treatment), _values(*baseline)
    if len(first) != len(second):
        raise ValueError(
            "the arms must have run on the same seeds: "
            f"{treatment[0]} has {len(first)} values, {baseline[0]} has {len(second)}"
        )
    n = len(first)
    if n < 2:
        raise ValueError(f"a comparison needs at least 2 seeds, {treatment[0]} has {n}")

    difference = first - second
    rounding = 1e-12 * max(np.abs(first).max(), np.abs(second).max())
    difference[np.abs(difference) <= rounding] = 0.0
    mean = float(difference.mean())
    deviation = float(difference.std(ddof=1))
    if deviation <= rounding:
        deviation = 0.0
    error = deviation / n**0.5
    quantile = stats.t.ppf((1 + LEVEL) / 2, n - 1)
    low, high = mean - quantile * error, mean + quantile * error
    if error > 0:
        p_value = float(2 * stats.t.sf(abs(mean) / error, n - 1))
    else:
        p_value = 1.0 if mean == 0 else 0.0
    smallest_effect = float((quantile + stats.t.ppf(POWER, n - 1)) * error)
    claimed = (low, high) if direction == "higher" else (-high, -low)
    verdict = _verdict(*claimed)
    return Comparison(n, mean, float(low), float(high), p_value, smallest_effect, verdict)


def _verdict(low: float, high: float) -> str:
    if low > 0:
        return "reproduced"
    return "contradicted" if high < 0 else "inconclusive"


def _values(name: str, values: Values) -> np.ndarray:
    """Return a new float64 vector, or raise with the name of the arm."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().double().numpy()
    elif isinstance(values, (list, tuple)):
        values = [value.item() if hasattr(value, "item") else value for value in values]
    array = np.array(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name} must hold one value a seed, got shape {array.shape}")
    if not np.isfinite(array).all():
        places = np.flatnonzero(~np.isfinite(array)).tolist()
        raise ValueError(f"{name} has values that are not finite, at positions {places}")
    return array


@dataclass(frozen=True)
class Claim:
    """A recorded claim; ``record`` is the JSON object from which the ledger is made."""

    record: dict[str, Any]
    execution: int | None = None

    @property
    def id(self) -> str:
        return self.record["id"]

    @property
    def verdict(self) -> str:
        return self.record["verdict"]

    def __str__(self) -> str:
        return f"{self.verdict}: {self.record['sentence']}\n  {self.details}"

    __repr__ = __str__

    @property
    def details(self) -> str:
        """The numbers behind the verdict, as one line."""
        record = self.record
        if record["kind"] == "exact":
            return (
                f"largest deviation {record['largest']:.2g} over {record['n']} cases, "
                f"tolerance {record['tolerance']:.2g}"
            )
        return (
            f"{record['metric']}: {record['treatment']} {record['treatment_mean']:.4g}, "
            f"{record['baseline']} {record['baseline_mean']:.4g}; "
            f"difference {_interval(record)} over {record['n']} seeds; "
            f"four of five such runs would find an effect of {record['smallest_effect']:.2g}"
        )

    def show(self) -> None:
        """Display the claim: one bundle of HTML, plain text and JSON."""
        color = COLORS[self.verdict]
        line = (
            f'<div style="border-left: 3px solid {color}; padding: 0 0 0 0.8em">'
            f"{_badge(self.verdict)} {html.escape(self.record['sentence'])}<br>"
            f'<small style="opacity: 0.8">{html.escape(self.details)}</small></div>'
        )
        _display.show({"text/html": line, "text/plain": str(self), MIME: self.record})

    def _ipython_display_(self) -> None:
        # A cell that ends with record(...) would otherwise show its claim twice.
        if self.execution != _execution_count():
            self.show()


def record(
    *,
    paper: str,
    claim: str,
    sentence: str,
    metric: str,
    treatment: tuple[str, Values],
    baseline: tuple[str, Values],
    direction: str = "higher",
    run: Run | None = None,
) -> Claim:
    """Compare two arms, display the verdict and record it.

    Args:
        paper: the paper's slug.
        claim: the claim's slug, unique within the paper; a claim recorded again replaces itself.
        sentence: the claim as the paper states it.
        metric: the name of what was measured.
        treatment: name and values of the arm that the claim is about, one value a seed.
        baseline: name and values of the arm it is compared with, same seeds, same order.
        direction: "higher" or "lower": where the paper claims the treatment to be.
        run: the run's settings, for the record.

    Returns:
        The recorded ``Claim``.

    Raises:
        ValueError: for slugs, sentences or arms that cannot be recorded (see :func:`compare`).
    """
    if treatment[0] == baseline[0]:
        raise ValueError(f"treatment and baseline must have different names, got {baseline[0]!r}")
    comparison = _compare(treatment, baseline, direction)
    first, second = _values(*treatment), _values(*baseline)
    return _keep(
        _head(paper, claim, "measured", sentence, run)
        | {
            "metric": metric,
            "direction": direction,
            "treatment": treatment[0],
            "baseline": baseline[0],
            "n": comparison.n,
            "mean": _round(comparison.mean),
            "low": _round(comparison.low),
            "high": _round(comparison.high),
            "p_value": _round(comparison.p_value),
            "smallest_effect": _round(comparison.smallest_effect),
            "verdict": comparison.verdict,
            "treatment_mean": _round(first.mean()),
            "baseline_mean": _round(second.mean()),
            "treatment_values": [_round(value) for value in first],
            "baseline_values": [_round(value) for value in second],
        }
    )


def exact(
    *,
    paper: str,
    claim: str,
    sentence: str,
    deviations: Values,
    tolerance: float = 1e-6,
    run: Run | None = None,
) -> Claim:
    """Record a statement that can be checked exactly: an identity, a bound, a limit.

    Args:
        paper: the paper's slug.
        claim: the claim's slug, unique within the paper.
        sentence: the statement.
        deviations: how far each case is from the statement (for a bound: by how much the case
            breaks it, 0 where it holds), any shape with at least one element.
        tolerance: the largest absolute deviation that rounding explains, 0 or greater.
        run: the run's settings, for the record.

    Returns:
        The recorded ``Claim``: "reproduced" if no deviation exceeds the tolerance, else
        "contradicted".

    Raises:
        ValueError: if there are no deviations, or one is not finite, or the tolerance is negative.
    """
    if isinstance(deviations, torch.Tensor):
        deviations = deviations.detach().cpu().double().numpy()
    values = _values("deviations", np.asarray(deviations, dtype=np.float64).reshape(-1))
    if values.size == 0:
        raise ValueError("deviations must have at least one element, got none")
    if not 0 <= tolerance < float("inf"):
        raise ValueError(f"tolerance must be finite and not negative, got {tolerance}")
    largest = float(np.abs(values).max())
    absent = dict.fromkeys(
        ("treatment", "baseline", "mean", "low", "high", "p_value", "smallest_effect")
    )
    return _keep(
        _head(paper, claim, "exact", sentence, run)
        | absent
        | {
            "metric": "largest deviation",
            "direction": "lower",
            "n": int(values.size),
            "largest": _round(largest),
            "tolerance": float(tolerance),
            "verdict": "reproduced" if largest <= tolerance else "contradicted",
        }
    )


def table() -> None:
    """Display the claims recorded in this kernel as a table."""
    records = [claim.record for claim in _recorded.values()]
    rows = "".join(
        "<tr>"
        f'<td style="text-align: left; max-width: 30em">{html.escape(record["sentence"])}</td>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in _cells(record))
        + f'<td style="text-align: left">{_badge(record["verdict"])}</td></tr>'
        for record in records
    )
    titles = ("claim", "difference [95 % interval]", "n", "smallest effect", "verdict")
    head = "".join(f'<th scope="col">{title}</th>' for title in titles)
    lines = [
        "{verdict}: {sentence} ({}; n = {}; smallest effect {})".format(*_cells(record), **record)
        for record in records
    ]
    _display.show(
        {
            "text/html": f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
            if records
            else "<p>No claim has been recorded yet.</p>",
            "text/plain": "\n".join(lines) or "No claim has been recorded yet.",
        }
    )


def tune(
    scores: pandas.DataFrame,
    knobs: Sequence[str],
    validation: str = "validation",
    test: str = "test",
    higher_is_better: bool = True,
) -> pandas.DataFrame:
    """Give each arm the knob values with the best mean validation score.

    Args:
        scores: one row per (arm, seed, knob values), with the columns "arm", "seed", the knobs,
            and the two scores. A knob that an arm does not have is NaN there.
        knobs: names of the knob columns.
        validation: column of the score that chooses; knob values that lack it for a seed
            (a replica that diverged) are never chosen. On a tie the first row's win.
        test: column of the score that is reported.
        higher_is_better: whether a higher validation score is better.

    Returns:
        One row per (arm, seed): "arm", "seed", the chosen knobs, the validation and test scores.

    Raises:
        ValueError: if a column is missing, a row occurs twice, or seeds differ between rows that
            are compared.
    """
    import pandas

    knobs = list(knobs)
    columns = ["arm", "seed", *knobs, validation, test]
    for column in columns:
        if column not in scores.columns:
            raise ValueError(f"scores must have the column {column!r}, got {list(scores.columns)}")
    if scores.empty:
        raise ValueError("scores must have at least one row, got none")
    _check_seeds(scores, knobs)
    chosen = [
        _best_rows(name, rows, knobs, validation, higher_is_better)
        for name, rows in scores.groupby("arm", sort=False)
    ]
    return pandas.concat(chosen, ignore_index=True)[list(dict.fromkeys(columns))]


def _check_seeds(scores: pandas.DataFrame, knobs: list[str]) -> None:
    expected = sorted(set(scores["seed"].tolist()))
    for setting, rows in scores.groupby(["arm", *knobs], sort=False, dropna=False):
        seeds = sorted(rows["seed"].tolist())
        if seeds != expected:
            arm, *values = setting
            where = ", ".join([f"arm={arm}", *map("{}={}".format, knobs, values)])
            raise ValueError(
                f"every arm and knob value must have run once on each of the seeds {expected}, "
                f"but {where} ran on {seeds}"
            )


def _best_rows(
    arm: str, rows: pandas.DataFrame, knobs: list[str], validation: str, higher_is_better: bool
) -> pandas.DataFrame:
    sign = 1 if higher_is_better else -1
    settings = rows.groupby(knobs, sort=False, dropna=False) if knobs else [((), rows)]
    best, best_mean = None, -float("inf")
    for _, setting in settings:
        mean = sign * setting[validation].mean(skipna=False)
        if mean > best_mean:
            best, best_mean = setting, mean
    if best is None:
        raise ValueError(f"arm {arm!r} has no knob values with a finite {validation!r} score")
    return best.sort_values("seed")


def benjamini_hochberg(p_values: Values, level: float = 0.05) -> np.ndarray:
    r"""Say which of many hypotheses to reject, at a false discovery rate of ``level``.

    Rejects the :math:`k` smallest of the :math:`m` p-values, with the largest :math:`k` for which
    :math:`p_{(k)} \le k\,\mathrm{level}/m` (Benjamini and Hochberg, "Controlling the False
    Discovery Rate", Journal of the Royal Statistical Society B 57, 1995).

    Args:
        p_values: shape (m,), each in [0, 1].
        level: the false discovery rate, in (0, 1).

    Returns:
        Boolean mask, shape (m,).

    Raises:
        ValueError: if a p-value or the level is out of range.
    """
    p = _values("p_values", p_values)
    if ((p < 0) | (p > 1)).any():
        raise ValueError(f"p_values must lie in [0, 1], got {p.tolist()}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level}")
    ordered = np.sort(p)
    below = np.flatnonzero(ordered <= level * np.arange(1, len(p) + 1) / max(len(p), 1))
    return p <= ordered[below[-1]] if below.size else np.zeros(len(p), dtype=bool)


def _head(paper: str, claim: str, kind: str, sentence: str, run: Run | None) -> dict[str, Any]:
    for name, slug in (("paper", paper), ("claim", claim)):
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", slug):
            raise ValueError(f"{name} must be lowercase words joined by hyphens, got {slug!r}")
    if not sentence.strip():
        raise ValueError("sentence must say what is claimed, got an empty one")
    return {
        "schema": SCHEMA,
        "id": f"{paper}/{claim}",
        "paper": paper,
        "claim": claim,
        "kind": kind,
        "sentence": sentence,
        "scale": run.scale if run else None,
        "seed": run.seed if run else None,
        "device": str(run.device) if run else None,
    }


def _keep(record: dict[str, Any]) -> Claim:
    claim = Claim(record, _execution_count())
    _recorded[claim.id] = claim
    claim.show()
    return claim


def _round(value: float) -> float:
    """Round to six significant digits: records are read and compared by people."""
    return float(f"{value:.6g}")


def _interval(record: dict[str, Any]) -> str:
    return f"{record['mean']:+.3g} [{record['low']:+.3g}, {record['high']:+.3g}]"


def _cells(record: dict[str, Any]) -> tuple[str, str, str]:
    if record["kind"] == "exact":
        return f"at most {record['largest']:.2g}", str(record["n"]), "none: exact"
    return _interval(record), str(record["n"]), f"{record['smallest_effect']:.2g}"


def _badge(verdict: str) -> str:
    return f'<b style="color: {COLORS[verdict]}">{SYMBOLS[verdict]} {verdict}</b>'


def _execution_count() -> int | None:
    shell = _display.shell()
    return shell.execution_count if shell else None
