"""The ledger: the claims that executed notebooks carry, collected and counted."""

import json
import textwrap
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from lossbook import catalog, notebooks

MIME = "application/vnd.lossbook.claim+json"  # as in lossbook.claims, which imports torch
LEVEL = 0.05  # how often chance alone gives a verdict where there is no difference


def claims_of(nb) -> list[dict]:
    """Returns the records of the claims in a notebook's outputs; a later one replaces an earlier.

    Args:
        nb: an executed notebook, as nbformat reads it.
    """
    records = {record["id"]: dict(record) for record in notebooks.displayed(nb, MIME)}
    return list(records.values())


def collect(places: Iterable[Path]) -> list[dict]:
    """Returns the claims of all notebooks in some files and folders, in the book's order.

    Each record also says from which file it comes (`notebook`) and which part it belongs to.

    Raises:
        ValueError: a file is not a notebook.
    """
    records = []
    for path in _files(places):
        for record in claims_of(notebooks.read(path)):
            origin = {"notebook": notebooks.shown(path), "part": _part(record["paper"])}
            records.append({**record, **origin})
    order = {paper.id: place for place, paper in enumerate(catalog.papers())}
    return sorted(records, key=lambda record: order.get(record["paper"], len(order)))


def _files(places: Iterable[Path]) -> list[Path]:
    files = []
    for place in places:
        found = sorted(place.rglob("*.ipynb")) if place.is_dir() else [place]
        files += [path for path in found if ".ipynb_checkpoints" not in path.parts]
    return files


def _part(paper: str) -> int | None:
    try:
        return catalog.paper(paper).part
    except ValueError:
        return None


def summary(records: list[dict]) -> dict:
    """Returns how many claims have which verdict, and how many chance alone would give.

    Only measured claims can be a matter of chance: an exact one holds or does not. `survivors`
    are the measured claims whose difference from zero survives Benjamini and Hochberg's procedure
    at a false discovery rate of 5 %.
    """
    from lossbook.claims import benjamini_hochberg

    measured = [record for record in records if record["kind"] == "measured"]
    kept = benjamini_hochberg([record["p_value"] for record in measured], LEVEL)
    return {
        "claims": len(records),
        "measured": len(measured),
        "exact": len(records) - len(measured),
        "verdicts": dict(Counter(record["verdict"] for record in records)),
        "expected_by_chance": LEVEL * len(measured),
        "survivors": [record["id"] for record, keep in zip(measured, kept, strict=True) if keep],
    }


def as_json(records: list[dict]) -> str:
    """Returns the ledger and its summary as JSON."""
    return json.dumps({"summary": summary(records), "claims": records}, indent=2)


def as_text(records: list[dict]) -> str:
    """Returns the ledger as a table by part and paper, followed by its summary."""
    if not records:
        return "no executed notebook has recorded a claim"
    lines: list[str] = []
    titles = {part.number: part.title for part in catalog.parts()}
    facts = summary(records)
    part = paper = ()  # nothing shown yet
    for record in records:
        if record["part"] != part:
            part, paper = record["part"], None
            lines.append(f"\n{titles.get(part, 'Not in the catalog')}")
        if (record["paper"], record["notebook"]) != paper:
            paper = (record["paper"], record["notebook"])
            lines.append(f"\n  {record['paper']}  ({record['notebook']})")
        lines += _rows(record, record["id"] in facts["survivors"])
    return "\n".join([*lines, "", *_closing(facts)]).lstrip("\n")


def _rows(record: dict, survives: bool) -> list[str]:
    if record["kind"] == "exact":
        numbers = (
            f"largest deviation {record['largest']:.2g} in {record['n']} cases "
            f"(tolerance {record['tolerance']:.2g})"
        )
    else:
        numbers = (
            f"{record['metric']}: {record['mean']:+.3g} [{record['low']:+.3g}, "
            f"{record['high']:+.3g}], n = {record['n']}, "
            f"smallest effect {record['smallest_effect']:.2g}"
        )
    mark = "*" if survives else " "
    sentence = textwrap.wrap(record["sentence"], 80)
    indent = " " * 19
    return [
        f"   {mark}{record['verdict']:14} {sentence[0]}",
        *(indent + line for line in sentence[1:]),
        indent + numbers,
    ]


def _closing(facts: dict) -> list[str]:
    verdicts = ", ".join(f"{count} {name}" for name, count in sorted(facts["verdicts"].items()))
    return [
        f"{facts['claims']} claims: {verdicts}.",
        f"{facts['measured']} are measured: chance alone would give about "
        f"{facts['expected_by_chance']:.1f} verdicts other than inconclusive, if none were true.",
        f"{len(facts['survivors'])} (*) survive Benjamini-Hochberg at a false discovery rate of "
        f"5 %. {facts['exact']} are checked exactly.",
    ]


def changes(committed: list[dict], fresh: list[dict]) -> list[str]:
    """Returns what a fresh execution says differently from the committed one.

    Between two runs a verdict may turn inconclusive or back. What counts is a claim that is gone
    or new, a flip between reproduced and contradicted, and intervals that do not overlap.
    """
    before = {record["id"]: record for record in committed}
    after = {record["id"]: record for record in fresh}
    found = [f"{name}: is no longer recorded" for name in before if name not in after]
    found += [f"{name}: is new" for name in after if name not in before]
    for name in before:
        if name in after:
            found += [f"{name}: {change}" for change in _change(before[name], after[name])]
    return found


def _change(old: dict, new: dict) -> list[str]:
    if {old["verdict"], new["verdict"]} == {"reproduced", "contradicted"}:
        return [f"flipped from {old['verdict']} to {new['verdict']}"]
    if old["kind"] != new["kind"]:
        return [f"was {old['kind']}, is {new['kind']}"]
    if new["kind"] == "measured" and (old["high"] < new["low"] or new["high"] < old["low"]):
        return [
            f"the intervals [{old['low']:.3g}, {old['high']:.3g}] and "
            f"[{new['low']:.3g}, {new['high']:.3g}] do not overlap"
        ]
    return []
