"""One task for all classification losses: digits, with few examples, with wrong labels, with both.

Each notebook of the part records what its losses do on it (:func:`train`, or :func:`classify` for
classifiers that are fitted without gradients), and the part's last notebook puts the records side
by side (:func:`records`, :func:`differences`, :func:`draw`).

Under every condition the classes are equally frequent in the test data, with true labels, so that
accuracy there is balanced accuracy. Validation data have equally many digits of each class too, but
labels as wrong as the training data's.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from itertools import product
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lossbook import _display, claims, notebooks
from lossbook.data import Splits, flip_labels, load
from lossbook.metrics import accuracy
from lossbook.models import mlp
from lossbook.settings import Run
from lossbook.training import fit_replicas, replica_seed

if TYPE_CHECKING:
    import pandas

MIME = "application/vnd.lossbook.common-task+json"
COMPARISON = "application/vnd.lossbook.comparison+json"
CONDITIONS = {"clean": (1, 0.0), "long-tailed": (10, 0.0), "noisy": (1, 0.3), "both": (10, 0.3)}
"""How many times more examples the commonest class has than the rarest; share of wrong labels."""
BASELINE = "cross-entropy"
RATES = (2e-3, 1e-2)
PER_CLASS = (90, 34, 50)
"""Digits of each class (of the commonest, if long-tailed) in train, validation and test."""

LIMITS = (-0.16, 0.12)
"""Differences that the figure shows; one beyond is an arrowhead with its number."""

Loss = Callable[..., Tensor]

_recorded: dict[str, dict] = {}


@cache
def splits(condition: str, seed: int) -> Splits:
    """The digits of one condition and seed; seeds differ in the split and in which class is rare.

    Args:
        condition: one of ``CONDITIONS``.
        seed: of the split, the frequencies and the wrong labels.
    """
    imbalance, noise = CONDITIONS[condition]
    inputs, labels = load("digits")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    rarity = torch.randperm(10, generator=generator) / 9
    members = [order[labels[order] == c] for c in range(10)]
    n_train, n_validation, n_test = PER_CLASS
    kept = [round(n_train * imbalance**-share) for share in rarity.tolist()]
    train = torch.cat([m[:n] for m, n in zip(members, kept, strict=True)])
    validation = torch.cat([m[n_train : n_train + n_validation] for m in members])
    test = torch.cat([m[n_train + n_validation :][:n_test] for m in members])

    def noisy(part: Tensor, salt: int) -> Tensor:
        return flip_labels(labels[part], share=noise, n_classes=10, seed=replica_seed(seed, salt))

    return Splits(
        (inputs[train], noisy(train, 0)),
        (inputs[validation], noisy(validation, 1)),
        (inputs[test], labels[test]),
    )


def one_vs_rest(loss: Loss) -> Loss:
    """A loss of ten classes from a binary one: the mean over "this class or another".

    Args:
        loss: ``loss(logits (n,), targets (n,), **knobs)`` -> scalar, targets 0.0 or 1.0.
    """

    def mean_over_classes(logits: Tensor, labels: Tensor, **knobs) -> Tensor:
        targets = F.one_hot(labels, logits.shape[-1]).to(logits.dtype)
        each = torch.func.vmap(partial(loss, **knobs), in_dims=-1, randomness="different")
        return each(logits, targets).mean()

    return mean_over_classes


def train(
    name: str,
    loss: Loss | None = None,
    *,
    paper: str | None,
    run: Run,
    grid: Mapping[str, Sequence[float]] | None = None,
    model_loss: Loss | None = None,
    make_model: Callable[[], nn.Module] | None = None,
) -> None:
    """Train with a loss under all conditions, tune on validation data, record the test accuracy.

    Args:
        name: of the loss, as the closing figure shows it.
        loss: ``loss(logits (n, 10), labels (n,), **knobs)`` -> scalar.
        paper: whose loss it is; None for a classic.
        run: the run's settings.
        grid: values of the loss's knobs; learning rates are the same for all losses.
        model_loss: in place of ``loss``, ``f(model, (inputs, labels, index), **knobs)`` -> scalar,
            for a loss with a state for each sample.
        make_model: makes another model from inputs (n, 64) to logits (n, 10).

    Raises:
        ValueError: unless exactly one of ``loss`` and ``model_loss`` is given.
    """
    if (loss is None) == (model_loss is None):
        raise ValueError("exactly one of loss and model_loss must be given")

    def loss_of_logits(model: nn.Module, batch: tuple[Tensor, ...], **knobs) -> Tensor:
        inputs, labels, _ = batch
        return loss(model(inputs), labels, **knobs)

    cases = _cases(run)
    data = [(*s.train, torch.arange(len(s.train[1]))) for _, _, s in cases]
    history = fit_replicas(
        make_model or (lambda: mlp((64, run.units(32), 10))),
        model_loss or loss_of_logits,
        data,
        seeds=len(cases),
        seed=run.seed,
        grid={"learning_rate": RATES, **(grid or {})},
        steps=run.pick(smoke=10, quick=300, full=3000),
        batch_size=32,
        evaluate=_accuracies,
        held_out=[(*s.validation, *s.test) for _, _, s in cases],
        device=run.device,
        precision=run.precision,
        progress=False,
    )
    scores = history.final
    scores[["condition", "seed"]] = [cases[i][:2] for i in scores["seed"]]
    _record(name, paper, run, scores, ["learning_rate", *(grid or {})])


def classify(
    name: str,
    predict: Callable[..., Tensor],
    *,
    paper: str | None,
    run: Run,
    grid: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """Record the accuracy of a classifier that is fitted without gradients.

    Args:
        name: of the classifier, as the closing figure shows it.
        predict: ``predict(inputs (n, 64), labels (n,), queries (q, 64), **knobs)`` -> labels (q,).
        paper: whose classifier it is; None for a classic.
        run: the run's settings.
        grid: values of its knobs, chosen on validation data.
    """
    import pandas

    grid = dict(grid or {})
    settings = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    rows = []
    for condition, seed, split in _cases(run):
        for knobs in settings:
            queries, truth = (torch.cat(parts) for parts in zip(*split[1:], strict=True))
            right = (predict(*split.train, queries, **knobs) == truth).double()
            validation, test = right.split([len(part[1]) for part in split[1:]])
            row = {"validation": validation.mean().item(), "test": test.mean().item()}
            rows.append({"condition": condition, "seed": seed, **knobs, **row})
    _record(name, paper, run, pandas.DataFrame(rows), list(grid))


def _cases(run: Run) -> list[tuple[str, int, Splits]]:
    seeds = range(run.pick(smoke=2, quick=8, full=20))
    return [(c, i, splits(c, replica_seed(run.seed, i))) for c in CONDITIONS for i in seeds]


def _accuracies(model: nn.Module, held_out: tuple[Tensor, ...]) -> dict[str, Tensor]:
    inputs, labels, test_inputs, test_labels = held_out
    return {
        "validation": accuracy(model(inputs), labels),
        "test": accuracy(model(test_inputs), test_labels),
    }


def _record(
    name: str, paper: str | None, run: Run, scores: "pandas.DataFrame", knobs: list[str]
) -> None:
    record = {
        "schema": 1,
        "name": name,
        "paper": paper,
        "scale": run.scale,
        "seed": run.seed,
        "scores": {},
        "chosen": {},
    }
    for condition, rows in scores.assign(arm=name).groupby("condition", sort=False):
        tuned = claims.tune(rows, knobs)
        record["scores"][condition] = [round(float(value), 6) for value in tuned["test"]]
        record["chosen"][condition] = {knob: float(tuned[knob].iloc[0]) for knob in knobs}
    _recorded[name] = record
    _show(record)


def _show(record: dict) -> None:
    means = {c: sum(values) / len(values) for c, values in record["scores"].items()}
    n = len(next(iter(record["scores"].values())))
    line = ", ".join(f"{condition} {mean:.3f}" for condition, mean in means.items())
    text = f"{record['name']}: {line} (mean of {n} seeds)"
    _display.show({"text/html": f"<small>{text}</small>", "text/plain": text, MIME: record})


# Side by side -----------------------------------------------------------------------------------


def records() -> list[dict]:
    """The records that the executed notebooks of the book hold, in the book's order.

    One that this kernel has recorded takes the place of the book's if it was made alike: at the
    scale and seed of the book's cross-entropy.
    """
    found = {}
    for path in notebooks.written():
        for record in notebooks.displayed(notebooks.read(path), MIME):
            found[record["name"]] = json.loads(json.dumps(record))
    if BASELINE not in found:
        return list(_recorded.values())
    made = found[BASELINE]["scale"], found[BASELINE]["seed"]
    found |= {n: r for n, r in _recorded.items() if (r["scale"], r["seed"]) == made}
    return [record for record in found.values() if (record["scale"], record["seed"]) == made]


def differences(found: list[dict], baseline: str = BASELINE) -> "pandas.DataFrame":
    """How much better than a baseline each loss is, paired over seeds.

    Args:
        found: records, as :func:`records` returns them.
        baseline: name of the record to compare with.

    Returns:
        One row for each (name, condition): "accuracy", "difference", "low" and "high" (95 %),
        "p_value", and "survives": whether it stays below a false discovery rate of 5 % among all
        rows (Benjamini and Hochberg).

    Raises:
        ValueError: if there is no record of the baseline.
    """
    import pandas

    by_name = {record["name"]: record for record in found}
    if baseline not in by_name:
        raise ValueError(f"found must hold a record of {baseline!r}, got {list(by_name)}")
    rows = []
    for name, condition in product(by_name, CONDITIONS):
        values = by_name[name]["scores"][condition]
        c = claims.compare(values, by_name[baseline]["scores"][condition])
        rows.append(
            {
                "name": name,
                "paper": by_name[name]["paper"],
                "condition": condition,
                "accuracy": sum(values) / len(values),
                "difference": c.mean,
                "low": c.low,
                "high": c.high,
                "p_value": c.p_value,
            }
        )
    frame = pandas.DataFrame(rows)
    others = frame["name"] != baseline
    frame["survives"] = False
    frame.loc[others, "survives"] = claims.benjamini_hochberg(frame.loc[others, "p_value"].tolist())
    return frame


def draw(frame: "pandas.DataFrame", baseline: str = BASELINE) -> None:
    """Display the differences as a figure: one column a condition, one row a loss.

    Args:
        frame: as :func:`differences` returns it.
        baseline: what they were compared with.
    """
    from lossbook import plots

    others = frame[frame["name"] != baseline]
    hardest = others[others["condition"] == "both"].sort_values("difference")
    places = {name: place for place, name in enumerate(hardest["name"])}
    fig, axes = plots.figure(9.6, 1.5 + 0.25 * len(places), columns=len(CONDITIONS), sharey=True)
    for ax, condition in zip(axes, CONDITIONS, strict=True):
        for row in others[others["condition"] == condition].itertuples():
            _draw_interval(ax, places[row.name], row)
        level = frame[(frame["name"] == baseline) & (frame["condition"] == condition)]
        ax.axvline(0, color="0.6", lw=1, zorder=0)
        ax.set(xlim=LIMITS, ylim=(-0.7, len(places) - 0.3))
        ax.set_title(f"{condition} ({level['accuracy'].item():.1%})", fontsize=9)
        ax.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(list(places.values()), list(places))
    fig.supxlabel(
        f"accuracy minus that of {baseline} (above each column), 95 % interval over seeds",
        fontsize=10,
    )
    fig.suptitle(_finding(others, baseline), x=0.01, ha="left", fontsize=11)
    alt = f"{_finding(others, baseline)}. {_described(others)}"
    bundle = {"text/html": plots.img_tag(plots.png(fig), alt), "text/plain": f"[figure: {alt}]"}
    _display.show({**bundle, COMPARISON: comparison(frame)})


def comparison(frame: "pandas.DataFrame") -> dict:
    """What a figure shows, to find out later whether it still shows what the records say."""
    return {
        f"{row.name} ({row.condition})": [round(row.difference, 5), bool(row.survives)]
        for row in frame.itertuples()
    }


def _draw_interval(ax, place: int, row) -> None:
    """One loss: blue above the baseline, orange below, gray undecided; filled if it survives."""
    from lossbook import plots

    decided = row.low > 0 or row.high < 0
    color = "0.5" if not decided else plots.PALETTE[0 if row.difference > 0 else 3]
    face = color if row.survives else "white"
    low, high = LIMITS
    if low < row.difference < high:
        ax.plot([max(row.low, low), min(row.high, high)], [place, place], color=color, lw=1.5)
        ax.plot(row.difference, place, "o", ms=5, mfc=face, mec=color)
        return
    inside = 0.93 * (low if row.difference < low else high)
    ax.plot(inside, place, "<" if row.difference < low else ">", ms=5, mfc=face, mec=color)
    ax.annotate(
        f"{row.difference:+.2f}",
        (inside, place),
        (6 if row.difference < low else -6, 0),
        textcoords="offset points",
        ha="left" if row.difference < low else "right",
        va="center",
        fontsize=8,
        color=color,
    )


def _finding(others: "pandas.DataFrame", baseline: str) -> str:
    better = others[others["survives"] & (others["difference"] > 0)].groupby("condition").size()
    counts = ", ".join(f"{better.get(condition, 0)} ({condition})" for condition in CONDITIONS)
    return f"More accurate than {baseline}, of {others['name'].nunique()}: {counts}"


def _described(others: "pandas.DataFrame") -> str:
    best = others.loc[others.groupby("condition", sort=False)["difference"].idxmax()]
    return "The best of each condition: " + "; ".join(
        f"{row.condition}: {row.name}, {row.difference:+.3f} [{row.low:+.3f}, {row.high:+.3f}]"
        for row in best.itertuples()
    )
