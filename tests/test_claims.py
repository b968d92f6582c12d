import json
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lossbook import _display, claims
from lossbook.settings import Run

RUN = Run("quick", 7, torch.device("cpu"))
finite = st.floats(-100, 100, allow_nan=False)


@pytest.fixture(autouse=True)
def fresh_kernel(monkeypatch):
    monkeypatch.setattr(claims, "_recorded", {})


def record(**changes):
    arguments = {
        "paper": "multi-similarity",
        "claim": "beats-contrastive",
        "sentence": "Multi-similarity gives a higher MAP@R than <contrastive> loss.",
        "metric": "MAP@R",
        "treatment": ("multi-similarity", [0.8, 0.9, 0.85]),
        "baseline": ("contrastive", [0.6, 0.65, 0.7]),
        "run": RUN,
    }
    return claims.record(**(arguments | changes))


# compare


def test_compare_by_hand():
    # Differences 1, 2, 3: mean 2, standard deviation 1, t(0.975, 2) = 4.3027, t(0.8, 2) = 1.0607.
    result = claims.compare([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert result.n == 3
    assert result.mean == pytest.approx(2)
    assert result.low == pytest.approx(2 - 4.302653 / 3**0.5, abs=1e-5)
    assert result.high == pytest.approx(2 + 4.302653 / 3**0.5, abs=1e-5)
    assert result.smallest_effect == pytest.approx((4.302653 + 1.060660) / 3**0.5, abs=1e-5)
    assert result.verdict == "inconclusive"


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(finite, finite), min_size=2, max_size=12))
def test_compare_agrees_with_scipy(pairs):
    first, second = np.array(pairs).T
    difference = first - second
    if difference.std() < 1e-6:
        return
    result = claims.compare(first, second)
    expected = stats.ttest_rel(first, second)
    interval = expected.confidence_interval(0.95)
    assert result.mean == pytest.approx(difference.mean(), abs=1e-9)
    assert (result.low, result.high) == pytest.approx((interval.low, interval.high), rel=1e-6)
    assert result.p_value == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)
    assert (result.verdict == "inconclusive") == (result.low <= 0 <= result.high)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(finite, finite), min_size=2, max_size=8))
def test_directions_mirror_each_other(pairs):
    first, second = map(list, zip(*pairs, strict=True))
    higher = claims.compare(first, second, "higher").verdict
    assert claims.compare(second, first, "lower").verdict == higher
    opposite = {"reproduced": "contradicted", "contradicted": "reproduced"}
    assert claims.compare(first, second, "lower").verdict == opposite.get(higher, higher)


def test_equal_arms_are_inconclusive():
    result = claims.compare([0.1, 0.2], [0.1, 0.2])
    assert result == claims.Comparison(2, 0.0, 0.0, 0.0, 1.0, 0.0, "inconclusive")


def test_rounding_noise_is_no_difference():
    base = np.array([0.1, 0.2, 0.3])
    assert claims.compare(base + 2e-17 + 3e-17 * base, base).verdict == "inconclusive"


@pytest.mark.parametrize(
    ("shift", "direction", "verdict"),
    [
        (0.5, "higher", "reproduced"),
        (-0.5, "higher", "contradicted"),
        (0.5, "lower", "contradicted"),
        (-0.5, "lower", "reproduced"),
    ],
)
def test_a_constant_difference_is_decided_by_its_sign(shift, direction, verdict):
    result = claims.compare([0.3 + shift, 0.1 + shift], [0.3, 0.1], direction)
    assert result.verdict == verdict
    assert (result.low, result.high) == pytest.approx((shift, shift))
    assert (result.p_value, result.smallest_effect) == (0.0, 0.0)


def test_the_smallest_effect_is_found_in_four_of_five_runs():
    n, runs = 10, 4000
    noise = np.random.default_rng(0).normal(size=(runs, n))
    effect = np.median([claims.compare(row, np.zeros(n)).smallest_effect for row in noise[:500]])
    p_values = stats.ttest_1samp(noise + effect, 0, axis=1).pvalue
    assert (p_values < 0.05).mean() == pytest.approx(0.8, abs=0.06)


@pytest.mark.parametrize("container", [list, tuple, np.array, torch.tensor, pd.Series])
def test_compare_takes_any_sequence(container):
    result = claims.compare(container([2.0, 4.0, 6.0]), container([1.0, 2.0, 3.0]))
    assert result.mean == pytest.approx(2)


def test_compare_takes_a_list_of_tensors_and_a_filtered_series():
    series = pd.Series([9.0, 1.0, 2.0])[lambda s: s < 5]
    assert claims.compare([torch.tensor(2.0), torch.tensor(4.0)], series).mean == 1.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0], [2.0]), "at least 2 seeds"),
        (([], []), "at least 2 seeds"),
        (([1.0, 2.0], [1.0]), "treatment has 2 values, baseline has 1"),
        (([1.0, float("nan")], [1.0, 2.0]), r"treatment has values that are not finite, .* \[1\]"),
        (([1.0, 2.0], [float("inf"), 2.0]), "baseline has values that are not finite"),
        (([[1.0, 2.0]], [1.0, 2.0]), "treatment must hold one value a seed"),
        (([1.0, 2.0], [1.0, 2.0], "up"), "direction must be one of 'higher', 'lower', got 'up'"),
    ],
)
def test_compare_names_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        claims.compare(*arguments)


# record, exact, table


def test_the_record_is_strict_json_with_all_keys():
    claim = record()
    read = json.loads(json.dumps(claim.record, allow_nan=False))
    assert read == claim.record
    assert read["id"] == claim.id == "multi-similarity/beats-contrastive"
    assert (read["schema"], read["kind"], read["direction"]) == (1, "measured", "higher")
    assert (read["treatment"], read["baseline"]) == ("multi-similarity", "contrastive")
    assert (read["scale"], read["seed"], read["device"]) == ("quick", 7, "cpu")
    assert read["n"] == 3
    assert read["mean"] == pytest.approx(0.2)
    assert read["treatment_values"] == [0.8, 0.9, 0.85]
    assert read["treatment_mean"] == 0.85
    assert read["verdict"] == claim.verdict == "reproduced"


def test_numbers_are_rounded_to_six_digits():
    claim = record(treatment=("a", [1 / 3e5, 2 / 3e5]), baseline=("b", [0.0, 0.0]))
    assert claim.record["treatment_values"] == [3.33333e-06, 6.66667e-06]


def test_the_arm_with_nan_is_named():
    with pytest.raises(ValueError, match="contrastive has values that are not finite"):
        record(baseline=("contrastive", [0.1, float("nan"), 0.2]))


def test_exact_takes_the_largest_deviation():
    arguments = {"paper": "p", "claim": "identity", "sentence": "a equals b."}
    claim = claims.exact(**arguments, deviations=torch.tensor([[1e-8, -3e-7]]))
    assert claim.verdict == "reproduced"
    assert claim.record["largest"] == pytest.approx(3e-7, rel=1e-5)
    assert (claim.record["n"], claim.record["kind"]) == (2, "exact")
    assert claim.record["mean"] is None
    json.dumps(claim.record, allow_nan=False)
    claim = claims.exact(**arguments, deviations=[1e-8, -3e-7], tolerance=1e-7)
    assert claim.verdict == "contradicted"
    measured = record(claim="other")
    assert set(claim.record) | {"largest", "tolerance"} >= {
        key for key in measured.record if not key.startswith(("treatment_", "baseline_"))
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"deviations": []}, "deviations must have at least one element"),
        ({"deviations": [float("nan")]}, "deviations has values that are not finite"),
        ({"deviations": [0.0], "tolerance": -1.0}, "tolerance must be finite and not negative"),
        ({"deviations": [0.0], "paper": "Not A Slug"}, "paper must be lowercase words"),
        ({"deviations": [0.0], "sentence": " "}, "sentence must say what is claimed"),
    ],
)
def test_exact_names_what_is_wrong(changes, message):
    with pytest.raises(ValueError, match=message):
        claims.exact(**({"paper": "p", "claim": "c", "sentence": "s"} | changes))


def test_arms_need_different_names():
    with pytest.raises(ValueError, match="must have different names"):
        record(treatment=("contrastive", [0.1, 0.2, 0.3]))


def test_a_script_prints_plain_text(capsys, monkeypatch):
    monkeypatch.setattr(_display, "shell", lambda: None)
    record()
    claims.table()
    printed = capsys.readouterr().out
    assert printed.count("reproduced: Multi-similarity gives a higher MAP@R") == 2
    assert "+0.2 [" in printed


@pytest.fixture
def displayed(monkeypatch):
    """The bundles that a notebook would show."""
    bundles = []
    shell = SimpleNamespace(execution_count=1)
    monkeypatch.setattr(_display, "shell", lambda: shell)
    display = SimpleNamespace(display=lambda bundle, raw: bundles.append(bundle))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    bundles_and_shell = SimpleNamespace(bundles=bundles, shell=shell)
    return bundles_and_shell


def test_a_notebook_gets_one_bundle(displayed):
    claim = record()
    claim._ipython_display_()  # the last expression of its cell
    (bundle,) = displayed.bundles
    assert set(bundle) == {"text/html", "text/plain", "application/vnd.lossbook.claim+json"}
    assert bundle[claims.MIME] == claim.record
    assert "✓ reproduced" in bundle["text/html"]
    assert "&lt;contrastive&gt;" in bundle["text/html"]
    assert "background" not in bundle["text/html"] and "<h" not in bundle["text/html"]
    displayed.shell.execution_count = 2
    claim._ipython_display_()  # looked at again in a later cell
    assert len(displayed.bundles) == 2


def test_the_table_shows_the_newest_of_each_claim(displayed):
    record()
    record(claim="other", sentence="Another one.", direction="lower")
    record(sentence="Said again.")
    claims.exact(paper="p", claim="c", sentence="An identity.", deviations=[0.0])
    claims.table()
    bundle = displayed.bundles[-1]
    assert set(bundle) == {"text/html", "text/plain"}
    assert bundle["text/html"].count("<tr>") == 4
    assert "Said again." in bundle["text/html"]
    assert "Multi-similarity gives" not in bundle["text/html"]
    assert bundle["text/plain"].count("\n") == 2
    assert "✗ contradicted" in bundle["text/html"]


def test_an_empty_table_says_so(capsys, monkeypatch):
    monkeypatch.setattr(_display, "shell", lambda: None)
    claims.table()
    assert "No claim has been recorded yet." in capsys.readouterr().out


# tune


def scores(rows):
    return pd.DataFrame(rows, columns=["arm", "seed", "temperature", "validation", "test"])


def test_tune_takes_the_best_mean_validation_score():
    table = scores(
        [
            ("a", 1, 0.1, 0.5, 10.0),
            ("a", 0, 0.1, 0.7, 11.0),
            ("a", 0, 0.2, 0.9, 12.0),
            ("a", 1, 0.2, 0.2, 13.0),
            ("b", 0, 0.1, 0.1, 14.0),
            ("b", 1, 0.1, 0.1, 15.0),
            ("b", 0, 0.2, 0.2, 16.0),
            ("b", 1, 0.2, 0.2, 17.0),
        ]
    )
    tuned = claims.tune(table, knobs=["temperature"])
    assert tuned[["arm", "seed", "temperature", "test"]].values.tolist() == [
        ["a", 0, 0.1, 11.0],
        ["a", 1, 0.1, 10.0],
        ["b", 0, 0.2, 16.0],
        ["b", 1, 0.2, 17.0],
    ]
    lower = claims.tune(table, knobs=["temperature"], higher_is_better=False)
    assert lower["temperature"].tolist() == [0.2, 0.2, 0.1, 0.1]


def test_tune_takes_the_first_of_equals():
    table = scores([("a", 0, 0.2, 0.5, 1.0), ("a", 0, 0.1, 0.5, 2.0)])
    assert claims.tune(table, knobs=["temperature"])["temperature"].tolist() == [0.2]


def test_tune_never_chooses_knobs_that_diverged():
    nan = float("nan")
    table = scores(
        [
            ("a", 0, 0.1, 0.9, 1.0),
            ("a", 1, 0.1, nan, nan),
            ("a", 0, 0.2, 0.2, 2.0),
            ("a", 1, 0.2, 0.2, 3.0),
        ]
    )
    assert claims.tune(table, knobs=["temperature"])["temperature"].tolist() == [0.2, 0.2]
    with pytest.raises(ValueError, match="arm 'a' has no knob values with a finite 'validation'"):
        claims.tune(table[table.temperature == 0.1], knobs=["temperature"])


def test_tune_takes_arms_with_different_knobs_or_none():
    nan = float("nan")
    table = scores([("a", 0, 0.1, 0.5, 1.0), ("a", 0, 0.2, 0.6, 2.0), ("b", 0, nan, 0.5, 3.0)])
    assert claims.tune(table, knobs=["temperature"])["test"].tolist() == [2.0, 3.0]
    single = table[table.temperature != 0.2]
    assert claims.tune(single, knobs=[])["test"].tolist() == [1.0, 3.0]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", 0, 0.1, 1, 1), ("a", 1, 0.1, 1, 1), ("a", 0, 0.2, 1, 1)], r"temperature=0.2 ran"),
        ([("a", 0, 0.1, 1, 1), ("a", 0, 0.1, 1, 1)], r"temperature=0.1 ran on \[0, 0\]"),
        ([("a", 0, 0.1, 1, 1), ("b", 1, 0.1, 1, 1)], r"arm=a, temperature=0.1 ran on \[0\]"),
        ([], "at least one row"),
    ],
)
def test_tune_names_unequal_seeds(rows, message):
    with pytest.raises(ValueError, match=message):
        claims.tune(scores(rows), knobs=["temperature"])


@pytest.mark.parametrize("column", ["arm", "seed", "temperature", "validation", "test"])
def test_tune_names_a_missing_column(column):
    table = scores([("a", 0, 0.1, 1, 1)]).drop(columns=column)
    with pytest.raises(ValueError, match=f"must have the column '{column}'"):
        claims.tune(table, knobs=["temperature"])


# benjamini_hochberg


@settings(deadline=None, max_examples=100)
@given(st.lists(st.floats(0, 1) | st.sampled_from([0.0, 0.01, 0.025, 0.05]), max_size=20))
def test_benjamini_hochberg_agrees_with_scipy(p_values):
    mask = claims.benjamini_hochberg(p_values)
    adjusted = stats.false_discovery_control(p_values) if p_values else np.zeros(0)
    clear = np.abs(adjusted - 0.05) > 1e-12
    assert mask.dtype == bool and mask.shape == (len(p_values),)
    assert (mask == (adjusted <= 0.05))[clear].all()


def test_benjamini_hochberg_rejects_below_a_late_crossing():
    assert claims.benjamini_hochberg([0.04, 0.045, 0.9, 0.03], 0.06).tolist() == [
        True,
        True,
        False,
        True,
    ]


@pytest.mark.parametrize(("p_values", "level"), [([1.5], 0.05), ([-0.1], 0.05), ([0.5], 0.0)])
def test_benjamini_hochberg_checks_its_ranges(p_values, level):
    with pytest.raises(ValueError, match="must lie in"):
        claims.benjamini_hochberg(p_values, level)


def test_a_comparison_reads_as_one_line():
    text = str(claims.compare([0.5, 0.6, 0.7], [0.4, 0.4, 0.6]))
    assert text == "+0.133 [-0.0101, +0.277] over 3 seeds: inconclusive"
