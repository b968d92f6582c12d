"""The ledger collects claims from notebooks, counts them, and compares two executions."""

import json

import nbformat.v4 as v4
import pytest

from lossbook import ledger
from lossbook.claims import MIME, _recorded, exact, record


def measured(claim, low, high, verdict, paper="multi-similarity", p_value=0.01):
    return {
        "id": f"{paper}/{claim}", "paper": paper, "claim": claim, "kind": "measured",
        "sentence": f"{claim} holds", "metric": "MAP@R", "n": 20, "mean": (low + high) / 2,
        "low": low, "high": high, "p_value": p_value, "smallest_effect": 0.02, "verdict": verdict,
    }  # fmt: skip


def proven(claim, verdict="reproduced", paper="multi-similarity"):
    return {
        "id": f"{paper}/{claim}", "paper": paper, "claim": claim, "kind": "exact",
        "sentence": f"{claim} holds", "n": 100, "largest": 1e-8, "tolerance": 1e-6,
        "verdict": verdict,
    }  # fmt: skip


def output(record):
    return v4.new_output("display_data", {MIME: record, "text/plain": record["sentence"]})


@pytest.fixture
def claims(book):
    book.add(
        "21",
        ("code", "a", {}, [output(measured("beats", 0.01, 0.05, "inconclusive"))]),
        ("code", "b", {}, [output(measured("beats", 0.02, 0.06, "reproduced", p_value=1e-4))]),
        ("code", "c", {}, [output(proven("limit"))]),
    )
    book.add(
        "01",
        ("code", "a", {}, [output(measured("noise", -0.1, 0.2, "inconclusive", "comp-sum", 0.4))]),
    )
    return ledger.collect([book.home / "notebooks"])


def test_claims_are_collected_in_the_order_of_the_book(claims):
    assert [claim["id"] for claim in claims] == [
        "comp-sum/noise", "multi-similarity/beats", "multi-similarity/limit",
    ]  # fmt: skip
    assert claims[1]["verdict"] == "reproduced"  # the later record of the same claim
    assert claims[1]["notebook"] == "notebooks/03_metric_learning/21_pair_weighting.ipynb"
    assert [claim["part"] for claim in claims] == [1, 3, 3]


def test_checkpoints_are_left_out_and_single_files_are_read(book):
    path = book.add("21", ("code", "c", {}, [output(proven("limit"))]))
    copy = path.parent / ".ipynb_checkpoints" / path.name
    copy.parent.mkdir()
    copy.write_bytes(path.read_bytes())
    assert len(ledger.collect([book.home / "notebooks"])) == 1
    assert len(ledger.collect([path])) == 1


def test_the_summary_counts_what_chance_would_give(claims):
    facts = ledger.summary(claims)
    assert (facts["claims"], facts["measured"], facts["exact"]) == (3, 2, 1)
    assert facts["verdicts"] == {"inconclusive": 1, "reproduced": 2}
    assert facts["expected_by_chance"] == pytest.approx(0.1)
    assert facts["survivors"] == ["multi-similarity/beats"]


def test_the_report_shows_each_claim_with_its_numbers(claims):
    text = ledger.as_text(claims)
    assert text.startswith("Classification losses\n\n  comp-sum  (notebooks/01_classification/01_")
    assert "   *reproduced     beats holds" in text
    assert "MAP@R: +0.04 [+0.02, +0.06], n = 20, smallest effect 0.02" in text
    assert "largest deviation 1e-08 in 100 cases (tolerance 1e-06)" in text
    assert "3 claims: 1 inconclusive, 2 reproduced." in text
    assert "about 0.1 verdicts other than inconclusive" in text
    assert json.loads(ledger.as_json(claims))["summary"]["survivors"] == ["multi-similarity/beats"]


def test_a_ledger_without_claims_says_so(book):
    assert ledger.collect([book.home / "notebooks"]) == []
    assert ledger.as_text([]) == "no executed notebook has recorded a claim"
    assert ledger.summary([])["survivors"] == []


def test_papers_that_the_catalog_does_not_know_come_last(book):
    book.add("21", ("code", "a", {}, [output(proven("limit", paper="my-own-idea"))]))
    (claim,) = ledger.collect([book.home / "notebooks"])
    assert claim["part"] is None
    assert ledger.as_text([claim]).startswith("Not in the catalog\n")


OLD = measured("beats", 0.02, 0.06, "reproduced")


@pytest.mark.parametrize(
    "new, change",
    [
        (measured("beats", 0.03, 0.08, "reproduced"), None),
        (measured("beats", -0.01, 0.03, "inconclusive"), None),
        (measured("beats", 0.07, 0.09, "reproduced"), "do not overlap"),
        (measured("beats", -0.02, -0.01, "contradicted"), "flipped from reproduced to contradict"),
        (proven("beats"), "was measured, is exact"),
        (measured("loses", 0.02, 0.06, "reproduced"), "beats: is no longer recorded"),
    ],
)
def test_only_real_changes_count(new, change):
    found = ledger.changes([OLD], [new])
    assert change in found[0] if change else not found


def test_new_claims_and_broken_identities_are_changes():
    assert ledger.changes([], [OLD]) == ["multi-similarity/beats: is new"]
    flip = ledger.changes([proven("limit")], [proven("limit", "contradicted")])
    assert flip == ["multi-similarity/limit: flipped from reproduced to contradicted"]


def test_it_reads_what_claims_records(capsys):
    try:
        claims = [
            record(
                paper="multi-similarity", claim="beats", sentence="It is higher.", metric="MAP@R",
                treatment=("new", [0.5, 0.6, 0.7]), baseline=("old", [0.4, 0.45, 0.6]),
            ),
            exact(paper="multi-similarity", claim="limit", sentence="It holds.", deviations=[0.0]),
        ]  # fmt: skip
    finally:
        _recorded.clear()
    nb = v4.new_notebook(cells=[v4.new_code_cell("a")])
    nb.cells[0].outputs = [output(claim.record) for claim in claims]
    records = ledger.claims_of(nb)
    assert [r["verdict"] for r in records] == [claim.verdict for claim in claims]
    assert ledger.summary(records)["measured"] == 1
    assert ledger.changes(records, records) == []
    assert "It is higher." in ledger.as_text([{**r, "part": 3, "notebook": "n"} for r in records])
