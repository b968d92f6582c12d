"""What a report says where runs failed, have no finite value or were not made."""

import re

import pytest
from sweep_reader import failed, record

from lossbook.sweeps import drawing, for_machines, measured, words
from lossbook.sweeps.differences import against_best
from lossbook.sweeps.effects import effects

NOISE = [0.0, 0.3, -0.2, 0.1, 0.25, -0.15]


def runs(lr, width, seeds=range(6)) -> list[dict]:
    values = {seed: lr + width / 100 + NOISE[seed % 6] * lr for seed in seeds}
    return [record([{"recall": v}], seed, lr=lr, width=width) for seed, v in values.items()]


@pytest.fixture
def found():
    """All but lr = 10 with width = 64, whose runs failed."""
    return [run for lr, width in ((1, 16), (1, 64), (10, 16)) for run in runs(lr, width)]


@pytest.fixture
def diverged():
    return [failed("ValueError: diverged\nmore", seed, lr=10, width=64) for seed in range(6)]


def metric_of(found, lost=(), **options):
    (metric,) = measured.read(found, failed=lost, **options).metrics
    return metric


def test_logged_values_beside_claims_go_by_their_names():
    claim = {"id": "p/c", "kind": "measured", "metric": "MAP@R", "direction": "lower"}
    claim |= {"treatment": "a", "baseline": "b", "mean": 0.1, "treatment_mean": 0.7}
    found = [
        record([{"recall_at_1": b, "loss": -b}], s, [claim], b=b) for b in (1, 2) for s in (0, 1)
    ]
    better = {metric.name: metric.higher for metric in measured.read(found).metrics}
    assert better == {"recall_at_1": True, "loss": False, "p/c": False}
    turned = measured.read(found, ["recall_at_1"], lower=["recall_at_1"]).metrics[0]
    assert turned.higher is False


def test_a_setting_that_always_fails_is_a_row_and_spoils_nothing(found, diverged):
    metric = metric_of(found, diverged)
    assert (metric.best["lr"], metric.best["width"], metric.estimates.chosen["n"]) == (10, 16, 6)
    lost = metric.settings.iloc[-1]
    assert (lost["lr"], lost["width"], lost["n"], lost["seeds"], lost["failed"]) == (
        10,
        64,
        0,
        6,
        6,
    )
    assert words.finding(metric).startswith(
        "Highest recall, of the 3 settings that share 6 seeds, at"
    )
    said = " ".join(words.remarks(metric))
    assert (
        "Incomplete, not ranked: lr = 10, width = 64: 0 of 6 seeds, ValueError: diverged." in said
    )
    assert "differs from 2 of the 2 other ranked settings" in said
    (line,) = words.failures(diverged, ["lr", "width"])
    assert line == "6 runs: ValueError: diverged (such as lr = 10, width = 64, seed = 0)"


def test_a_setting_that_always_fails_is_in_the_figures(found, diverged):
    pictures = {p.name: p.figure for p in drawing.pictures(metric_of(found, diverged))}
    assert "no value: lr = 10, width = 64" in pictures["lr"].axes[0].get_xlabel()
    cells = [text.get_text() for text in pictures["lr-width"].axes[0].texts]
    assert len(cells) == 4 and "0 of 6\nseeds" in cells


def test_a_setting_that_lost_a_seed_is_not_ranked(found):
    best = runs(20, 16)
    best[3]["rows"] = [{"recall": None}]
    metric = metric_of([*found, *best])
    assert (metric.best["lr"], metric.estimates.chosen["n"]) == (10, 6)
    assert "not ranked: lr = 20, width = 16: 5 of 6 seeds." in " ".join(words.remarks(metric))
    table = for_machines.as_frame(measured.read([*found, *best]))
    assert table["ranked"].tolist() == [True, True, True, False]


def test_a_seed_that_not_all_have_run_leaves_all_ranked(found):
    metric = metric_of([*found, *runs(1, 16, [6])])  # as after Ctrl-C
    assert len(metric.estimates.ranked) == 3 and metric.estimates.chosen["n"] == 6


def test_a_setting_with_one_seed_does_not_cost_the_others_theirs(found):
    metric = metric_of([*found, *runs(20, 16, [0])])
    assert (metric.best["lr"], metric.estimates.chosen["n"]) == (10, 6)
    assert "Not ranked for want of seeds in common: lr = 20" in " ".join(words.remarks(metric))


def test_a_setting_that_is_ranked_alone_is_not_the_highest(diverged):
    metric = metric_of(runs(1, 64), diverged)
    assert words.finding(metric).startswith("recall at lr = 1, the only setting that is ranked:")


def test_all_is_drawn_where_one_setting_is_left(diverged):
    for pictures in (drawing.pictures, against_best):
        for picture in pictures(metric_of(runs(1, 64), diverged)):
            assert picture.alt.startswith("recall at lr = 1, the only setting that is ranked:")


def test_one_pair_of_seeds_cannot_be_tested(found):
    metric = metric_of([run for run in found if run["parameters"]["seed"] == 0])
    said = " ".join(words.remarks(metric))
    assert "can't be tested" in said and "no difference is shown" not in said


def test_a_knob_with_one_value_in_a_section_is_not_said_to_be_idle(found):
    old = [record([{"recall": 0.5}], s, code="b" * 8, lr=1, width=64) for s in range(3)]
    metric = measured.read(old + found, include_old=True).metrics[0]
    assert (metric.knobs, metric.idle) == ([], [])
    assert metric.where == {"code": "bbbbbbbb, lossbook 1", "lr": 1, "width": 64}
    assert "same at every" not in words.finding(metric)


def test_a_knob_that_decides_whether_runs_fail_is_not_idle():
    found = [run for width in (16, 64) for run in runs(1, width)]
    found += [record(run["rows"], run["parameters"]["seed"], lr=2, width=16) for run in found[:6]]
    found += [record(run["rows"], run["parameters"]["seed"], lr=2, width=64) for run in found[6:12]]
    assert metric_of(found).idle == ["lr"]
    lost = [failed("no", seed, lr=3, width=w) for seed in range(6) for w in (16, 64)]
    assert metric_of(found, lost).idle == []


def test_a_metric_that_nothing_changes_stays_so_where_others_fail(diverged):
    places = [(seed, lr, width) for seed in (0, 1) for lr in (1, 2) for width in (16, 64)]
    found = [record([{"recall": 1.0}], seed, lr=lr, width=width) for seed, lr, width in places]
    metric = metric_of(found, diverged)
    assert (metric.knobs, metric.idle) == ([], ["lr", "width"])
    assert words.finding(metric).endswith("the same at every lr and width that has a value")


def test_one_metric_is_not_higher_and_lower(found):
    with pytest.raises(ValueError, match="--higher and --lower .* got recall in both"):
        measured.read(found, higher=["recall"], lower=["recall"])


def test_the_effect_of_a_knob_is_paired_and_averaged_over_the_others(found):
    both = metric_of([*found, *runs(10, 64)])
    lr, width = effects(both)
    expected = [9 + 9 * noise for noise in NOISE]  # at each width
    assert lr.estimate["mean"] == pytest.approx(sum(expected) / 6)
    assert (lr.estimate["n"], lr.settings, lr.others) == (6, 2, 2)
    assert width.estimate["mean"] == pytest.approx(0.48)
    assert width.estimate["low"] == pytest.approx(0.48)
    assert re.fullmatch(r"lr 10 minus 1: \+9\.\d+ \[\d.*\], n = 6 seeds", str(lr))


def test_an_effect_says_over_which_part_of_the_settings_it_is(found, diverged):
    lr, width = effects(metric_of(found, diverged))
    assert str(lr).endswith("n = 6 seeds, over 1 of 2 settings of the others")
    assert (width.settings, width.others) == (1, 2)
    assert effects(metric_of(runs(1, 16))) == []
