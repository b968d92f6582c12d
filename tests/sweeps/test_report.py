"""What a sweep's report says and shows."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pandas
import pytest
from click.testing import CliRunner
from scipy import stats

from lossbook.cli import main
from lossbook.sweeps import drawing, measured
from lossbook.sweeps.jobs import grid
from lossbook.sweeps.store import Store
from lossbook.sweeps.targets import find

OUTCOME = {"claims": [], "seconds": 1.0, "host": "here"}


def record(rows, seed=0, claims=(), code="a" * 8, **parameters) -> dict:
    return {
        "run": f"{code}{seed}{parameters}",
        "target": "experiment:run",
        "fingerprint": code,
        "version": "1",
        "parameters": {"seed": seed, **parameters},
        "rows": rows,
        "claims": list(claims),
    }


def score(beta, seed):
    return -((beta - 2) ** 2) + [0.1, 0.4, -0.3][seed]


@pytest.fixture
def found():
    return [
        record([{"score": score(beta, seed), "loss": 1.0}], seed, beta=beta, kind=kind)
        for beta in (1.0, 2.0, 4.0)
        for kind in ("x", "y")
        for seed in range(3)
    ]


def test_settings_have_t_intervals_over_seeds(found):
    sweep = measured.read(found)
    assert (sweep.knobs, sweep.n_runs) == (["beta", "kind"], 18)
    metric = next(metric for metric in sweep.metrics if metric.name == "score")
    assert len(metric.settings) == 6
    best = metric.best
    values = [score(2.0, seed) for seed in range(3)]
    expected = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert (best["beta"], best["n"]) == (2.0, 3)
    assert best["mean"] == pytest.approx(np.mean(values))
    assert (best["low"], best["high"]) == pytest.approx(expected)


def test_what_is_better_goes_by_name_claim_or_wish(found):
    def higher(**options):
        return {metric.name: metric.higher for metric in measured.read(found, **options).metrics}

    assert higher() == {"score": True, "loss": False}
    assert higher(direction="lower") == {"score": False, "loss": False}
    lowest = measured.read(found, ["score"], direction="lower").metrics[0].best
    assert lowest["beta"] == 4.0


def test_one_seed_has_no_interval_and_missing_values_do_not_count():
    rows = [record([{"a": value}], seed, beta=1) for seed, value in enumerate([1.0, None, None])]
    (metric,) = measured.read(rows).metrics
    assert metric.n_missing == 2 and metric.best["n"] == 1
    assert np.isnan(metric.best["low"]) and measured.in_words(metric.best) == "1, n = 1"
    with pytest.raises(ValueError, match="a is finite in no run"):
        measured.read(rows[1:])


def test_rows_of_a_run_differ_by_their_texts_and_others_count_with_their_mean():
    rows = [
        record(
            [{"on": on, "acc": acc} for on, acc in (("clean", 1), ("noisy", 0), ("noisy", 1))], s
        )
        for s in range(2)
    ]
    sweep = measured.read(rows)
    assert sweep.knobs == ["on"]
    assert sweep.metrics[0].settings[["on", "n", "mean"]].values.tolist() == [
        ["clean", 2, 1.0],
        ["noisy", 2, 0.5],
    ]


def test_runs_of_other_code_are_left_out_unless_asked(found):
    old = [record([{"score": 100.0}], seed, code="b" * 8, beta=1.0, kind="x") for seed in range(3)]
    sweep = measured.read(old + found, ["score"])
    assert (sweep.n_runs, sweep.n_left_out) == (18, 3)
    assert sweep.metrics[0].best["mean"] < 1
    mixed = measured.read(old + found, ["score"], include_old=True)
    assert (mixed.n_runs, mixed.n_left_out) == (21, 0)
    assert mixed.knobs == ["beta", "kind", "code"]
    assert mixed.metrics[0].best["code"] == "bbbbbbbb, lossbook 1"


def test_claims_are_metrics():
    claim = {"id": "p/c", "kind": "measured", "metric": "MAP@R", "direction": "lower"}
    claim |= {"treatment": "a", "baseline": "b", "mean": 0.1, "treatment_mean": 0.7}
    exact = {"id": "p/e", "kind": "exact", "metric": "largest deviation", "direction": "lower"}
    exact |= {"largest": 1e-9}
    rows = [record([], seed, [claim, exact], beta=seed) for seed in range(2)]
    (metric,) = measured.read(rows).metrics
    assert (metric.name, metric.label, metric.higher) == ("p/c", "MAP@R, a minus b", False)
    (metric,) = measured.read(rows, ["p/c treatment"]).metrics
    assert metric.label == "MAP@R, a" and metric.best["mean"] == 0.7
    (metric,) = measured.read(rows, ["p/e"]).metrics
    assert metric.best["mean"] == 1e-9


def test_parameters_may_be_called_like_columns():
    rows = [record([{"value": n, "on": "x"}], seed, n=n) for n in (1, 2) for seed in range(2)]
    sweep = measured.read(rows)
    assert sweep.knobs == ["n_"]
    assert sweep.metrics[0].settings.values.tolist()[1][:3] == [2, 2, 2.0]


def test_an_unknown_metric_is_named(found):
    with pytest.raises(ValueError, match="no metric 'scor'; did you mean score"):
        measured.read(found, ["scor"])
    with pytest.raises(ValueError, match="hold no metric"):
        measured.read([record([])])
    with pytest.raises(ValueError, match="no run is complete"):
        measured.read([])


@pytest.mark.parametrize(
    "values, geometric",
    [
        ([0.01, 0.1, 1], True),
        ([1, 2, 4, 8], True),
        ([1, 2, 3], False),
        ([0, 1, 10], False),
        ([1, 10], False),
        ([10, 40, 80], False),
    ],
)
def test_a_logarithmic_axis_is_for_geometric_values(values, geometric):
    assert drawing.is_geometric(pandas.Series(values)) is geometric


def test_figures_show_each_knob_and_each_pair(found):
    sweep = measured.read(found, ["score"])
    pictures = {p.name: p for p in drawing.pictures(sweep.metrics[0], sweep.knobs)}
    assert list(pictures) == ["beta", "kind", "beta-kind"]
    (ax,) = pictures["beta"].figure.axes
    assert ax.get_xscale() == "log" and ax.get_ylabel() == "score (higher is better)"
    assert ax.get_title(loc="left").startswith("Highest score at beta = 2, kind = x:\n0.0667 [")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["kind = x", "kind = y"]
    assert [line.get_ydata().tolist() for line in ax.lines[:2]] == [
        pytest.approx([-1 + 0.2 / 3, 0.2 / 3, -4 + 0.2 / 3])
    ] * 2
    image = pictures["beta-kind"].figure.axes[0].images[0].get_array()
    assert image.shape == (3, 2) and image[1, 0] == pytest.approx(0.2 / 3)
    assert all("Highest score" in picture.alt for picture in pictures.values())


def test_a_sweep_over_seeds_alone_is_drawn():
    sweep = measured.read([record([{"a": float(seed)}], seed) for seed in range(4)])
    (picture,) = drawing.pictures(sweep.metrics[0], sweep.knobs)
    assert picture.alt.startswith("Mean of a: 1.5 [")


# The command


@pytest.fixture
def folder(reader) -> Path:
    store = Store(Path("out"))
    for job in grid(find("experiment:run"), ["beta=1,2,4", "kind=x,<b>"], "0:3"):
        value = score(job.given["beta"], job.given["seed"])
        store.keep(job, {**OUTCOME, "rows": [{"score": value}]})
    store.keep(job, {**OUTCOME, "rows": [{"score": 0}]})
    (failed, *_) = grid(find("experiment:run"), ["beta=9"], "0")
    store.keep(failed, {"error": "no luck", "traceback": "", "seconds": 1.0, "host": "here"})
    return store.folder


def lossbook(*arguments: str):
    return CliRunner().invoke(main, arguments)


def test_report_writes_pictures_and_one_page(folder):
    result = lossbook("report", "out")
    assert result.exit_code == 0, result.output
    assert "score: Highest score at beta = 2, kind = <b>: 0.0667 [" in result.output
    assert "runs that failed and are missing: 1\n" in result.output
    names = sorted(path.name for path in (folder / "report").iterdir())
    stems = ["score-beta", "score-beta-kind", "score-kind"]
    pictures = [f"{s}.{e}" for s in stems for e in ("png", "svg")]
    assert names == sorted(["report.html", *pictures])
    page = (folder / "report" / "report.html").read_text()
    assert len(re.findall(r'<img alt="[^"]+"', page)) == 3
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', page)
    assert len(sources) == 3 and all(s.startswith("data:image/png;base64,") for s in sources)
    assert "://" not in re.sub(r"base64,[^\"]+", "", page)
    assert "was picked on the same runs" in page and "--seeds 3:6" in page
    assert "&lt;b&gt;" in page and "<b>" not in page
    assert lossbook("report", "out", "-o", "elsewhere").exit_code == 0
    assert Path("elsewhere/report.html").is_file()


def test_report_for_machines(folder):
    data = json.loads(lossbook("report", "out", "--json").output)
    assert (data["runs"], data["knobs"]) == (18, ["beta", "kind"])
    (metric,) = data["metrics"]
    assert metric["best"]["beta"] == 2 and len(metric["settings"]) == 6
    table = pandas.read_csv(io.StringIO(lossbook("report", "out", "--csv").output))
    assert list(table) == ["metric", "beta", "kind", "n", "mean", "low", "high"] and len(table) == 6
    assert not (folder / "report").exists()


def test_report_options_need_a_sweep(folder, book):
    wrong = lossbook("report", "out", "--metric", "nothing")
    assert wrong.exit_code == 2 and "there is no metric 'nothing'" in wrong.output
    wrong = lossbook("report", "--csv")
    assert wrong.exit_code == 2 and "only --json is for the ledger" in wrong.output
    assert json.loads(lossbook("report", "--json").output)["claims"] == []
