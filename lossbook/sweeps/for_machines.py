"""What a sweep's runs say, for machines."""

import json

import pandas

from lossbook.sweeps.effects import Effect, effects
from lossbook.sweeps.measured import Metric, Sweep

BETTER = {True: "higher", False: "lower", None: None}
PAIRED = ("pairs", "difference", "difference_low", "difference_high")


def as_frame(sweep: Sweep) -> pandas.DataFrame:
    """Returns all settings of all metrics as one table.

    A knob that a metric doesn't depend on is empty, and so is the best one's own difference.
    """
    tables = [_table(metric) for metric in sweep.metrics]
    frame = pandas.concat(tables, ignore_index=True)
    frame = frame.reindex(columns=list(dict.fromkeys([*frame, *sweep.knobs])))
    texts = list(dict.fromkeys(name for metric in sweep.metrics for name in metric.where))
    where = [name for name in texts if name not in sweep.knobs]
    first = ["metric", *where, *sweep.knobs, "n", "mean", "low", "high"]
    paired = [name for name in (*PAIRED, "ranked", "is_best") if name in frame]
    return frame[[*first, *paired, "better", "seeds", "failed", "error"]]


def _table(metric: Metric) -> pandas.DataFrame:
    whole = dict.fromkeys([*metric.knobs, "n"], object)
    facts = {"metric": metric.name, "better": BETTER[metric.higher], **metric.where}
    return metric.settings.astype(whole).assign(**facts)


def as_json(sweep: Sweep) -> str:
    """Returns the sweep's facts, and of each metric the best setting and all settings, as JSON."""
    facts = {
        "target": sweep.target,
        "code": sweep.code,
        "runs": sweep.n_runs,
        "runs_failed": len(sweep.failed),
        "runs_of_other_code_left_out": sweep.n_left_out,
        "knobs": sweep.knobs,
        "metrics": [_facts(metric) for metric in sweep.metrics],
    }
    return json.dumps(facts, indent=2)


def _facts(metric: Metric) -> dict:
    rows = json.loads(metric.settings.to_json(orient="records"))
    place = metric.estimates.best
    return {
        "name": metric.name,
        "label": metric.label,
        "where": metric.where,
        "better": BETTER[metric.higher],
        "knobs": metric.knobs,
        "the_same_at_every": metric.idle,
        "runs_without_a_finite_value": metric.n_missing,
        "best": None if place is None else rows[place],
        "best_in_the_seeds_that_ranked_settings_share": metric.estimates.chosen,
        "effects": [_effect_facts(effect) for effect in effects(metric)],
        "settings": rows,
    }


def _effect_facts(effect: Effect) -> dict:
    facts = {"value": effect.value, "minus": effect.base, **effect.estimate}
    facts = pandas.Series(facts, dtype=object)
    facts = {"knob": effect.knob, **json.loads(facts.to_json())}
    return {**facts, "settings": effect.settings, "of_settings": effect.others}
