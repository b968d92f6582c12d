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
from sweep_reader import record

from lossbook.cli import main
from lossbook.sweeps import drawing, estimates, measured, words
from lossbook.sweeps.differences import against_best
from lossbook.sweeps.jobs import grid
from lossbook.sweeps.store import Store
from lossbook.sweeps.targets import find

OUTCOME = {"claims": [], "seconds": 1.0, "host": "here"}


def score(beta, seed):
    return -((beta - 2) ** 2) + [0.1, 0.4, -0.3][seed]


@pytest.fixture
def found():
    return [
        record(
            [{"score": score(beta, seed) - (kind == "y"), "loss": 1.0}], seed, beta=beta, kind=kind
        )
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


def test_what_is_better_goes_by_name_or_wish(found):
    def higher(**options):
        return {metric.name: metric.higher for metric in measured.read(found, **options).metrics}

    assert higher() == {"score": True, "loss": False}
    assert higher(lower=["score"]) == {"score": False, "loss": False}
    assert higher(higher=["loss"]) == {"score": True, "loss": True}
    lowest = measured.read(found, ["score"], lower=["score"]).metrics[0].best
    assert (lowest["beta"], lowest["kind"]) == (4.0, "y")
    with pytest.raises(ValueError, match="no metric 'scor'"):
        higher(lower=["scor"])


@pytest.mark.parametrize(
    "name, higher",
    [
        ("recall_at_1", True),
        ("error_rate", False),
        ("seconds", False),
        ("memory_mb", False),
        ("val_loss", False),
        ("count", None),
        ("n", None),
    ],
)
def test_a_metric_has_a_direction_only_if_its_name_tells(name, higher):
    rows = [record([{name: beta + seed}], seed, beta=beta) for beta in (1, 2) for seed in range(2)]
    (metric,) = measured.read(rows).metrics
    assert metric.higher is higher
    assert (metric.best is None) is (higher is None)
    asks = any("--higher" in remark for remark in words.remarks(metric))
    assert asks is (higher is None)
    if higher is None:
        assert words.finding(metric).endswith("from 1.5 at beta = 1 to 2.5 at beta = 2")


def test_settings_are_compared_in_the_same_seeds():
    noise = [0.0, 5.0, -5.0, 2.0, 9.0, 1.0]
    small = [0.1, 0.12, 0.11, 0.13, 0.1, 0.09]
    rows = [record([{"acc": noise[s]}], s, beta=1) for s in range(6)]
    rows += [record([{"acc": noise[s] + small[s]}], s, beta=2) for s in range(6)]
    rows += [record([{"acc": 50.0}], 9, beta=1)]  # a seed of its own must not decide
    (metric,) = measured.read(rows).metrics
    assert (metric.best["beta"], metric.estimates.chosen["n"]) == (2, 6)
    other = metric.settings.iloc[0]
    expected = stats.t.interval(0.95, 5, -np.mean(small), stats.sem(small))
    assert other["difference"] == pytest.approx(-np.mean(small)) and other["pairs"] == 6
    assert (other["difference_low"], other["difference_high"]) == pytest.approx(expected)
    said = " ".join(words.remarks(metric))
    assert "differs from 1 of the 1 other settings" in said
    assert "from 6 to 7 seeds" in said
    assert words.finding(metric).startswith(
        "Highest acc, of the 2 settings that share 6 seeds, at beta = 2:"
    )


def test_a_knob_without_effect_is_said_to_have_none(found):
    metric = next(m for m in measured.read(found).metrics if m.name == "loss")
    assert (metric.knobs, metric.idle, metric.best) == ([], ["beta", "kind"], None)
    assert words.finding(metric) == "Mean of loss: 1 [1, 1], n = 3, the same at every beta and kind"
    rows = pandas.DataFrame({"seed": [0, 1], "a": [1, 2], "value": [1.0, 1.0]})
    assert estimates.idle(rows, ["a"]) == []  # no seed has both


def test_the_retest_is_a_whole_command(found):
    rows = [{**r, "given": ["seed", "kind", "beta", "scale"]} for r in found]
    for row in rows:
        row["parameters"] |= {"scale": "smoke", "other": 3}
    sweep = measured.read(rows, ["score"])
    command = words.retest(sweep.metrics[0], sweep, Path("runs/a b"))
    assert command == (
        "lossbook sweep experiment:run -p kind=x -p beta=2.0 -p scale=smoke --seeds 3:6 "
        "-o 'runs/a b_again'"
    )


def test_one_seed_has_no_interval_and_missing_values_do_not_count():
    rows = [record([{"a": value}], seed, beta=1) for seed, value in enumerate([1.0, None, None])]
    (metric,) = measured.read(rows).metrics
    mean = metric.settings.iloc[0]
    assert metric.n_missing == 2 and mean["n"] == 1
    assert np.isnan(mean["low"]) and words.in_words(mean) == "1, n = 1"
    assert "2 runs have no finite value and do not count." in words.remarks(metric)
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
    assert sweep.knobs == []
    found = [(m.where, m.title, *m.settings[["n", "mean"]].iloc[0]) for m in sweep.metrics]
    assert found == [
        ({"on": "clean"}, "acc, on = clean", 2, 1.0),
        ({"on": "noisy"}, "acc, on = noisy", 2, 0.5),
    ]


def test_runs_of_other_code_are_left_out_unless_asked(found):
    old = [record([{"score": 100.0}], seed, code="b" * 8, beta=1.0, kind="x") for seed in range(3)]
    sweep = measured.read(old + found, ["score"])
    assert (sweep.n_runs, sweep.n_left_out) == (18, 3)
    assert sweep.metrics[0].best["mean"] < 1
    mixed = measured.read(old + found, ["score"], include_old=True)
    assert (mixed.n_runs, mixed.n_left_out) == (21, 0)
    means = {m.where["code"]: m.settings["mean"].max() for m in mixed.metrics}
    assert means == {"bbbbbbbb, lossbook 1": 100, "aaaaaaaa, lossbook 1": pytest.approx(0.2 / 3)}


def test_claims_are_metrics():
    claim = {"id": "p/c", "kind": "measured", "metric": "MAP@R", "direction": "lower"}
    claim |= {"treatment": "a", "baseline": "b", "mean": 0.1, "treatment_mean": 0.7}
    exact = {"id": "p/e", "kind": "exact", "metric": "largest deviation", "direction": "lower"}
    exact |= {"largest": 1e-9}
    rows = [record([], seed, [claim, exact], beta=seed) for seed in range(2)]
    (metric,) = measured.read(rows).metrics
    assert (metric.name, metric.label, metric.higher) == ("p/c", "MAP@R, a minus b", False)
    (metric,) = measured.read(rows, ["p/c treatment"]).metrics
    assert metric.label == "MAP@R, a" and metric.settings["mean"].tolist() == [0.7] * 2
    (metric,) = measured.read(rows, ["p/e"]).metrics
    assert metric.settings["mean"].tolist() == [1e-9] * 2


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
    "values, logarithmic",
    [
        ([0.05, 0.1, 0.5], True),
        ([1, 2, 4, 8], True),
        ([1, 10], True),
        ([1, 2, 3], False),
        ([0, 1, 10], False),
        ([10, 20, 40], False),
    ],
)
def test_a_logarithmic_axis_is_for_values_far_apart(values, logarithmic):
    assert drawing.is_logarithmic(pandas.Series(values)) is logarithmic


def drawn(found, name="score") -> dict[str, drawing.Picture]:
    (metric,) = measured.read(found, [name]).metrics
    return {p.name: p for p in [*drawing.pictures(metric), *against_best(metric)]}


def test_figures_show_each_knob_and_each_pair(found):
    pictures = drawn(found)
    assert list(pictures) == ["beta", "kind", "beta-kind"]
    (ax,) = pictures["beta"].figure.axes
    assert ax.get_ylabel() == "score (higher is better)"
    title = pictures["beta"].figure.get_suptitle()
    assert title.startswith("Highest score at beta = 2, kind = x:\n0.0667 [")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["kind = x", "kind = y"]
    assert ax.get_xlabel() == "beta (3 seeds, each a small point)"
    means = [line.get_ydata().tolist() for line in ax.lines if len(line.get_xdata()) == 3]
    assert pytest.approx([-1 + 0.2 / 3, 0.2 / 3, -4 + 0.2 / 3]) in means
    low, high = ax.get_ylim()
    assert low < -5.3 and high > 0.4  # all seeds' points are within
    image = pictures["beta-kind"].figure.axes[0].images[0].get_array()
    assert image.shape == (3, 2) and image[1, 0] == pytest.approx(0.2 / 3)
    assert all("Highest score" in picture.alt for picture in pictures.values())


def test_a_slice_says_where_it_lies_and_differences_are_drawn():
    rows = [
        record([{"score": a + b + c + seed % 2 * a / 9}], seed, a=a, b=b, c=c)
        for a in (1, 2)
        for b in (1, 2)
        for c in (1, 2)
        for seed in range(6)
    ]
    pictures = drawn(rows)
    assert "Here: b = 2, c = 2" in pictures["a"].figure.get_suptitle()
    assert "Here: c = 2" in pictures["a-b"].figure.get_suptitle()
    cells = [text.get_text() for text in pictures["a-b"].figure.axes[0].texts]
    assert len(cells) == 4 and all(re.fullmatch(r"\d\.\d\d\n±\d\.\d\d", cell) for cell in cells)
    differences = pictures["differences"].figure
    assert differences.get_suptitle().startswith("7 of 7 settings differ from a = 2, b = 2, c = 2")
    assert len(differences.axes[0].get_yticklabels()) == 7


def test_a_sweep_over_seeds_alone_is_drawn():
    (picture,) = drawn([record([{"a": float(seed)}], seed) for seed in range(4)], "a").values()
    assert picture.alt.startswith("Mean of a: 1.5 [")


# The command


@pytest.fixture
def folder(reader) -> Path:
    store = Store(Path("out"))
    for job in grid(find("experiment:run"), ["beta=1,2,4", "kind=x,<b>"], "0:3"):
        value = score(job.given["beta"], job.given["seed"]) + (job.given["kind"] == "<b>")
        store.keep(job, {**OUTCOME, "rows": [{"score": value, "size": 7}]})
    store.keep(job, {**OUTCOME, "rows": [{"score": 0}]})
    (failed, *_) = grid(find("experiment:run"), ["beta=9"], "0")
    store.keep(failed, {"error": "no luck", "traceback": "", "seconds": 1.0, "host": "here"})
    return store.folder


def lossbook(*arguments: str):
    return CliRunner().invoke(main, arguments)


def test_report_writes_pictures_and_one_page(folder):
    result = lossbook("report", "out")
    assert result.exit_code == 0, result.output
    assert "score: Highest score, of the 6 settings that share 3 seeds, at " in result.output
    assert "at beta = 2, kind = <b>: 1.07 [" in result.output
    assert (
        "runs that failed and are missing: 1\n  1 run: no luck (such as beta = 9," in result.output
    )
    names = sorted(path.name for path in (folder / "report").iterdir())
    stems = ["score-beta", "score-beta-kind", "score-kind"]
    pictures = [f"{s}.{e}" for s in stems for e in ("png", "svg")]
    assert names == sorted(["report.html", *pictures])
    page = (folder / "report" / "report.html").read_text()
    assert len(re.findall(r'<img alt="[^"]+"', page)) == 3
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', page)
    assert len(sources) == 3 and all(s.startswith("data:image/png;base64,") for s in sources)
    assert "://" not in re.sub(r"base64,[^\"]+", "", page)
    assert "was picked on the same runs" in page
    assert "-p beta=2 -p &#x27;kind=&lt;b&gt;&#x27; --seeds 3:6 -o out_again</pre>" in page
    assert "1 metric that is the same in every setting" in page and "<h2>size" not in page
    assert "<code>--metric score</code>" in page
    assert "&lt;b&gt;" in page and "<b>" not in page
    assert lossbook("report", "out", "-o", "elsewhere").exit_code == 0
    assert Path("elsewhere/report.html").is_file()


def test_report_for_machines(folder):
    result = lossbook("report", "out", "--json")
    data = json.loads(result.stdout)
    assert (data["runs"], data["runs_failed"], data["knobs"]) == (18, 1, ["beta", "kind"])
    metric, size = data["metrics"]
    assert metric["best"] in metric["settings"] and len(metric["settings"]) == 7
    assert metric["best"]["is_best"] and metric["best"]["difference"] is None
    assert [e["value"] for e in metric["effects"]] == [2, 4, "x"]
    assert repr((metric["best"]["beta"], metric["best"]["n"])) == "(2, 3)"
    assert (size["better"], size["best"], size["the_same_at_every"]) == (None, None, data["knobs"])
    result = lossbook("report", "out", "--csv")
    assert result.stderr.startswith("runs that failed and are missing: 1\n")
    table = pandas.read_csv(io.StringIO(result.stdout))
    first = ["metric", "beta", "kind", "n", "mean", "low", "high"]
    paired = ["pairs", "difference", "difference_low", "difference_high"]
    about = ["ranked", "is_best", "better", "seeds", "failed", "error"]
    assert list(table) == first + paired + about
    assert "score,1,x,3," in result.stdout
    lost = table[(table["metric"] == "score") & (table["beta"] == 9)].iloc[0]
    assert (lost["n"], lost["seeds"], lost["failed"], lost["error"]) == (0, 1, 1, "no luck")
    best = table[table["is_best"] == True]  # noqa: E712
    assert best["better"].tolist() == ["higher"] and best["difference"].isna().all()
    assert not (folder / "report").exists()


def test_a_sweep_without_runs_says_so(reader):
    Store(Path("empty"))
    result = lossbook("report", "empty")
    assert result.exit_code == 2 and "the sweep in empty has no run yet" in result.output


def test_report_options_need_a_sweep(folder, book):
    wrong = lossbook("report", "out", "--metric", "nothing")
    assert wrong.exit_code == 2 and "there is no metric 'nothing'" in wrong.output
    wrong = lossbook("report", "--csv")
    assert wrong.exit_code == 2 and "only --json is for the ledger" in wrong.output
    assert json.loads(lossbook("report", "--json").output)["claims"] == []


def test_one_sweep_is_reported_at_a_time(folder):
    Path("two").mkdir()
    for wrong, message in (
        (("out", "two"), "one sweep's folder at a time, got out, two"),
        (("out/runs",), "out/runs lies in a sweep's folder; name that: out"),
        (("out", "--json", "--csv"), "--json and --csv must not be given together"),
        (("out", "--higher", "score", "--lower", "score"), "got score in both"),
    ):
        result = lossbook("report", *wrong)
        assert result.exit_code == 2 and message in result.output


def test_a_report_removes_an_earlier_one_s_figures_and_nothing_else(folder):
    lossbook("report", "out", "-o", "elsewhere")
    Path("elsewhere/mine.png").write_text("mine")
    assert Path("elsewhere/score-beta.png").is_file()
    lossbook("report", "out", "--metric", "size", "-o", "elsewhere")
    names = sorted(path.name for path in Path("elsewhere").iterdir())
    assert names == ["mine.png", "report.html"]


def test_a_report_renews_the_table_that_its_page_names(folder):
    assert not (folder / "records.parquet").exists()
    lossbook("report", "out")
    assert len(pandas.read_parquet(folder / "records.parquet")) == 18


def test_a_sweep_whose_runs_all_failed_says_why(reader):
    store = Store(Path("bad"))
    (job,) = grid(find("experiment:run"), [], "0")
    store.keep(job, {"error": "no luck", "traceback": "", "seconds": 1.0, "host": "here"})
    result = lossbook("report", "bad")
    assert result.exit_code == 2
    assert "no run in bad is complete; failed: 1 run: no luck (such as seed = 0)" in result.output
