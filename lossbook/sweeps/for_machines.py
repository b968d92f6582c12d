"""What a sweep's runs say, for machines."""

import json

import pandas

from lossbook.sweeps.measured import Metric, Sweep


def as_frame(sweep: Sweep) -> pandas.DataFrame:
    """Returns all settings of all metrics as one table.

    A knob that a metric doesn't depend on is empty.
    """
    tables = [_table(metric) for metric in sweep.metrics]
    frame = pandas.concat(tables, ignore_index=True)
    frame = frame.reindex(columns=list(dict.fromkeys([*frame, *sweep.knobs])))
    texts = list(dict.fromkeys(name for metric in sweep.metrics for name in metric.where))
    first = ["metric", *texts, *sweep.knobs, "n", "mean", "low", "high"]
    paired = [name for name in frame if name not in first]
    return frame[[*first, *paired]]


def _table(metric: Metric) -> pandas.DataFrame:
    whole = dict.fromkeys([*metric.knobs, "n", *({"pairs"} & {*metric.settings})], object)
    return metric.settings.astype(whole).assign(metric=metric.name, **metric.where)


def as_json(sweep: Sweep, failed: int) -> str:
    """Returns the sweep's facts, and of each metric the best setting and all settings, as JSON.

    Args:
        sweep: what the runs say.
        failed: how many runs failed.
    """
    facts = {
        "target": sweep.target,
        "code": sweep.code,
        "runs": sweep.n_runs,
        "runs_failed": failed,
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
        "better": {True: "higher", False: "lower", None: None}[metric.higher],
        "knobs": metric.knobs,
        "the_same_at_every": metric.idle,
        "runs_without_a_finite_value": metric.n_missing,
        "seeds_that_all_settings_have": metric.common,
        "best": None if place is None else rows[place],
        "settings": rows,
    }
