"""The common task: its data, what it records, and how records are compared."""

import json

import pytest
import torch
import torch.nn.functional as F

from lossbook import _display, common_task, notebooks, plots
from lossbook.baselines import focal_loss
from lossbook.models import mlp
from lossbook.settings import Run

SMOKE = Run("smoke", 0, torch.device("cpu"))


@pytest.fixture
def shown(monkeypatch):
    """The bundles that are displayed, with no records from other tests or the book."""
    bundles = []
    monkeypatch.setattr(_display, "show", bundles.append)
    monkeypatch.setattr(common_task, "_recorded", {})
    monkeypatch.setattr(common_task.notebooks, "written", lambda: [])
    return bundles


def cross_entropy(logits, labels):
    return F.cross_entropy(logits, labels)


# Data -------------------------------------------------------------------------------------------


def test_conditions_of_a_seed_share_their_test_digits():
    tests = [common_task.splits(condition, 3).test for condition in common_task.CONDITIONS]
    assert all(torch.equal(inputs, tests[0][0]) for inputs, _ in tests)
    assert (tests[0][1].bincount() == 50).all()
    assert not torch.equal(tests[0][0], common_task.splits("clean", 4).test[0])


def test_no_digit_is_in_two_parts():
    parts = common_task.splits("clean", 0)
    rows = torch.cat([inputs for inputs, _ in parts])
    assert len(rows) == sum(common_task.PER_CLASS) * 10
    distances = torch.cdist(rows, rows).fill_diagonal_(1)
    copies = (distances == 0).any(1).sum()  # scikit-learn's digits hold no duplicate
    assert copies == 0


def test_the_long_tail_has_the_documented_imbalance():
    counts = common_task.splits("long-tailed", 0).train[1].bincount(minlength=10).sort().values
    assert counts[0] == 9 and counts[-1] == 90
    ratios = counts[1:] / counts[:-1]
    assert ratios.min() > 1.1 and ratios.max() < 1.5


@pytest.mark.parametrize("condition, share", [("clean", 0), ("long-tailed", 0), ("noisy", 0.3)])
def test_a_documented_share_of_training_and_validation_labels_is_wrong(condition, share):
    clean = common_task.splits("long-tailed" if condition == "long-tailed" else "clean", 1)
    noisy = common_task.splits(condition, 1)
    for part in ("train", "validation"):
        wrong = (getattr(clean, part)[1] != getattr(noisy, part)[1]).double().mean()
        assert wrong == pytest.approx(share, abs=0.002)
    assert torch.equal(clean.test[1], noisy.test[1])


# Records ----------------------------------------------------------------------------------------


def test_a_loss_is_trained_tuned_and_recorded(shown):
    common_task.train("focal", focal_loss, paper=None, run=SMOKE, grid={"gamma": [0, 2]})
    record = shown[0][common_task.MIME]
    assert record == json.loads(json.dumps(record))
    assert list(record["scores"]) == list(common_task.CONDITIONS)
    assert all(len(values) == 2 for values in record["scores"].values())
    assert all(chosen["gamma"] in (0, 2) for chosen in record["chosen"].values())
    assert "focal: clean 0." in shown[0]["text/plain"]


def test_the_same_loss_under_another_name_scores_the_same(shown):
    def of_model(model, batch):
        inputs, labels, index = batch
        assert index.shape == labels.shape
        return F.cross_entropy(model(inputs), labels)

    make_model = lambda: mlp((64, 32, 10))  # noqa: E731
    common_task.train("one", cross_entropy, paper=None, run=SMOKE)
    common_task.train("two", paper=None, run=SMOKE, model_loss=of_model, make_model=make_model)
    one, two = (bundle[common_task.MIME] for bundle in shown)
    assert one["scores"] == two["scores"]


def test_a_fitted_classifier_is_recorded_with_the_knob_that_validates_best(shown):
    def nearest(inputs, labels, queries, broken):
        found = labels[torch.cdist(queries, inputs).argmin(1)]
        return (found + 1) % 10 if broken else found

    common_task.classify("1-NN", nearest, paper=None, run=SMOKE, grid={"broken": [1, 0]})
    record = shown[0][common_task.MIME]
    assert all(chosen == {"broken": 0} for chosen in record["chosen"].values())
    assert min(record["scores"]["clean"]) > 0.95


def test_exactly_one_loss_is_wanted():
    with pytest.raises(ValueError, match="exactly one of loss and model_loss"):
        common_task.train("none", paper=None, run=SMOKE)


def test_one_vs_rest_is_the_mean_of_ten_binary_losses():
    logits, labels = torch.randn(7, 10), torch.arange(7)
    found = common_task.one_vs_rest(F.binary_cross_entropy_with_logits)(logits, labels)
    targets = torch.eye(10)[:7]
    assert found == pytest.approx(F.binary_cross_entropy_with_logits(logits, targets).item())


# Side by side -----------------------------------------------------------------------------------


def record(name, shift=0.0, scale="quick", seed=0):
    scores = {
        c: [0.8 + 0.01 * i + shift * (1 + 0.1 * i) for i in range(4)]
        for c in common_task.CONDITIONS
    }
    return {"name": name, "paper": None, "scale": scale, "seed": seed, "scores": scores}


def test_differences_are_paired_over_seeds():
    found = [record("cross-entropy"), record("better", 0.05), record("same")]
    frame = common_task.differences(found).set_index(["name", "condition"])
    better = frame.loc[("better", "noisy")]
    assert better["difference"] == pytest.approx(0.05 * 1.15)
    assert better["low"] > 0.04 and better["survives"]
    assert frame.loc[("same", "noisy"), "difference"] == pytest.approx(0, abs=1e-12)
    assert not frame.loc[("same", "noisy"), "survives"]
    assert not frame.loc["cross-entropy", "survives"].any()


def test_the_baseline_has_to_be_there():
    with pytest.raises(ValueError, match="found must hold a record of 'cross-entropy'"):
        common_task.differences([record("better")])


def test_only_records_made_alike_stand_side_by_side(shown, monkeypatch, tmp_path):
    import nbformat

    cell = nbformat.v4.new_code_cell()
    for name in ("cross-entropy", "old"):
        data = {common_task.MIME: record(name)}
        cell.outputs.append(nbformat.v4.new_output("display_data", data=data))
    path = tmp_path / "book.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    monkeypatch.setattr(common_task.notebooks, "written", lambda: [path])
    common_task._recorded.update(
        {"old": record("old", 0.1), "smoke": record("smoke", scale="smoke")}
    )
    found = {r["name"]: r for r in common_task.records()}
    assert list(found) == ["cross-entropy", "old"]
    assert found["old"]["scores"]["clean"][0] == pytest.approx(0.9)


def test_the_figure_says_what_is_better(monkeypatch):
    bundles, figures = [], []
    monkeypatch.setattr(_display, "show", bundles.append)
    monkeypatch.setattr(plots, "png", lambda fig: figures.append(fig) or b"")
    found = [record("cross-entropy"), record("better", 0.05), record("far worse", -0.5)]
    common_task.draw(common_task.differences(found))
    alt, fig = bundles[0]["text/plain"], figures[0]
    assert "More accurate than cross-entropy, of 2: 1 (clean), 1 (long-tailed)" in alt
    assert "both: better, +0.058 [" in alt
    assert bundles[0][common_task.COMPARISON]["better (both)"] == [0.0575, True]
    texts = [text.get_text() for ax in fig.axes for text in ax.texts]
    assert texts == ["-0.57"] * 4


def test_the_closing_comparison_shows_what_the_notebooks_say():
    """Notebook 08 is executed again when another notebook of its part has new records."""
    found = common_task.records()
    assert {len(values) for r in found for values in r["scores"].values()} == {8}
    cells = notebooks.read(notebooks.find("08")).cells
    outputs = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    shown = [data[common_task.COMPARISON] for data in outputs if common_task.COMPARISON in data]
    now = common_task.comparison(common_task.differences(found))
    assert shown == [now], "run `lossbook execute 08`: its comparison is older than its records"
