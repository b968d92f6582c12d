"""What a sweep's runs say, for machines."""

import json

import pandas

from lossbook.sweeps.measured import Sweep


def as_frame(sweep: Sweep) -> pandas.DataFrame:
    """Returns all settings of all metrics as one table."""
    tables = [metric.settings.assign(metric=metric.name) for metric in sweep.metrics]
    frame = pandas.concat(tables, ignore_index=True)
    return frame[["metric", *sweep.knobs, "n", "mean", "low", "high"]]


def as_json(sweep: Sweep) -> str:
    """Returns the sweep's facts, and of each metric the best setting and all settings, as JSON."""
    metrics = [
        {
            "name": metric.name,
            "label": metric.label,
            "better": "higher" if metric.higher else "lower",
            "runs_without_a_finite_value": metric.n_missing,
            "best": json.loads(metric.best.to_json()),
            "settings": json.loads(metric.settings.to_json(orient="records")),
        }
        for metric in sweep.metrics
    ]
    facts = {
        "target": sweep.target,
        "code": sweep.code,
        "runs": sweep.n_runs,
        "runs_of_other_code_left_out": sweep.n_left_out,
        "knobs": sweep.knobs,
        "metrics": metrics,
    }
    return json.dumps(facts, indent=2)
