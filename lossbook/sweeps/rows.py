"""From the records of runs to one row for each metric of each run."""

import json
from collections.abc import Iterable

from lossbook.sweeps.store import first_line

COLUMNS = {"run", "code", "metric", "label", "direction", "by_default", "value", "setting"}
COLUMNS |= {"n", "mean", "low", "high", "pairs", "seeds", "failed", "error"}
COLUMNS |= {"difference", "difference_low", "difference_high", "better", "is_best", "ranked"}


def code(record: dict) -> str:
    """Returns the fingerprint of a run's code, and the package's version."""
    return f"{record['fingerprint'][:8]}, lossbook {record['version']}"


def measurements(record: dict) -> Iterable[dict]:
    """Yields a row for each number that a run returned, logged or claims."""
    run = _run(record)
    for row in record["rows"]:
        texts = {_knob(name): value for name, value in row.items() if isinstance(value, str)}
        for name in [name for name, value in row.items() if not isinstance(value, str)]:
            label = {"metric": name, "label": name, "direction": None, "by_default": True}
            yield {**run, **texts, **label, "value": row[name]}
    for claim in record["claims"]:
        for name, label, value in _claim_values(claim):
            by_default = name == claim["id"] and claim["kind"] == "measured"
            facts = {"direction": claim["direction"], "by_default": by_default}
            yield {**run, "metric": name, "label": label, **facts, "value": value}


def failure(record: dict) -> dict:
    """Returns the row of a run that failed, which has no metric."""
    error = first_line(record["error"])
    return {**_run(record), "metric": None, "by_default": False, "error": error}


def _run(record: dict) -> dict:
    parameters = {_knob(name): _plain(value) for name, value in record["parameters"].items()}
    return {"run": record["run"], "code": code(record), **parameters, "error": ""}


def _knob(name: str) -> str:
    """The column of a parameter, apart from those of the tables."""
    return f"{name}_" if name in COLUMNS else name


def _claim_values(claim: dict) -> Iterable[tuple[str, str, float]]:
    if claim["kind"] == "exact":
        yield claim["id"], claim["metric"], claim["largest"]
        return
    arms = f"{claim['treatment']} minus {claim['baseline']}"
    yield claim["id"], f"{claim['metric']}, {arms}", claim["mean"]
    treatment = claim["treatment"]
    yield f"{claim['id']} treatment", f"{claim['metric']}, {treatment}", claim["treatment_mean"]


def _plain(value: object) -> object:
    return json.dumps(value) if isinstance(value, list | dict) else value


def varied(used: list[dict]) -> list[str]:
    """Returns the parameters that differ between runs, beside the seed."""
    values: dict[str, set] = {}
    for record in used:
        for name, value in record["parameters"].items():
            values.setdefault(_knob(name), set()).add(_plain(value))
    return [name for name, found in values.items() if name != "seed" and len(found) > 1]


def text_columns(used: list[dict]) -> list[str]:
    """Returns the texts by which the rows of one run differ, such as a condition or a data set."""
    names = []
    for record in used:
        for name in {name for row in record["rows"] for name in row}:
            texts = {row.get(name) for row in record["rows"]}
            if len(texts) > 1 and all(isinstance(text, str) for text in texts):
                names.append(_knob(name))
    return sorted(set(names))
