"""The harness of the benchmarks, on tiny arms; and the two sides of each comparison agree."""

import csv
import json
import os
from dataclasses import replace
from functools import partial

import pandas as pd
import pytest
import torch
from benchmark_arms import (
    MEBI,
    N_OPERATORS,
    arm,
    build_gradient,
    build_killed,
    build_known,
    build_operators,
    build_own_process,
    build_self_timed,
    build_slow,
    build_too_large,
    build_wrong,
)
from click.testing import CliRunner
from torch.testing import assert_close

from benchmarks import __main__ as command
from benchmarks import (
    figures,
    machine,
    objectives,
    pair_losses,
    replicas,
    report,
    verdicts,
    vocabularies,
)
from benchmarks.__main__ import SUITES, Suite, main
from benchmarks.arms import BeyondLimit, Limits, Row
from benchmarks.harness import measure, measure_all
from lossbook import _commands, cli, data, ledger, notebooks, plots

LIMITS = Limits(seconds=60, memory=2, budget=0)


# The harness


def test_peak_memory_is_that_of_the_tensors():
    assert measure(arm(build_known), LIMITS)["peak_bytes"] == pytest.approx(60 * MEBI, rel=0.02)


def test_extra_memory_leaves_out_the_gradients():
    found = measure(arm(build_gradient), LIMITS)
    assert found["peak_bytes"] - found["extra_bytes"] == 4 * MEBI
    assert 0 < found["extra_bytes"] <= 12 * MEBI


def test_each_arm_has_a_process_of_its_own():
    found = measure(arm(partial(build_own_process, os.getpid())), LIMITS)
    assert found["repeats"] >= 1 and found["low"] <= found["seconds"] <= found["high"]


def test_what_cannot_be_measured_is_a_row_that_says_why():
    arms = [
        arm(build_wrong, name="raises"),
        arm(build_killed, name="dies"),
        arm(build_too_large, 1, "too large"),
        arm(build_known, 2, "too large"),
        arm(build_known, name="works"),
    ]
    rows = list(measure_all(arms, LIMITS))
    assert [row.note for row in rows] == [
        "ValueError: size must be odd, got 2",
        "its process ended with SIGKILL",
        "more than 2 GiB",
        "more than 2 GiB",
        "",
    ]
    assert [row.seconds is None for row in rows] == [True, True, True, True, False]


def test_what_takes_too_long_is_ended():
    with pytest.raises(BeyondLimit, match="more than 5 s"):
        measure(arm(build_slow, limit=5), LIMITS)


def test_a_step_may_measure_itself_with_the_threads_asked_for():
    found = measure(arm(build_self_timed, threads=2, single=True), LIMITS)
    assert (found["seconds"], found["repeats"]) == (2.0, 3)


def test_operators_are_counted():
    per_step, rest = divmod(measure(arm(build_operators), LIMITS)["operations"], N_OPERATORS)
    assert per_step >= 1 and rest == 0


# Both sides compute the same


CASES = [(loss, layout) for loss, pairs in pair_losses.LOSSES.items() for layout in pairs.layouts]


@pytest.mark.parametrize("loss, layout", CASES)
@pytest.mark.parametrize("other", [pair_losses.DENSE, pair_losses.PEER])
def test_pair_losses_agree(loss, layout, other):
    ours, others = (value_and_gradient(loss, layout, arm) for arm in (pair_losses.OURS, other))
    assert_close(ours, others, rtol=1e-4, atol=1e-6)


def value_and_gradient(loss, layout, arm):
    torch.manual_seed(1)
    labels = pair_losses.class_labels(layout, 16)
    # Correlated rows, so that positives differ from negatives and miners keep some.
    centers = torch.randn(int(labels.max()) + 1, 8)
    rows = (centers[labels] + torch.randn(len(labels), 8)).requires_grad_()
    embeddings = torch.nn.functional.normalize(rows, dim=-1)
    value = pair_losses.loss_of(loss, arm, len(labels))(embeddings, labels)
    return value, torch.autograd.grad(value, rows)[0]


@pytest.mark.parametrize("head", list(vocabularies.HEADS))
def test_heads_agree(head):
    found = [losses_of_head(name) for name in (head, vocabularies.FULL)]
    assert_close(*found)


def losses_of_head(head):
    torch.manual_seed(0)
    embeddings, weight = torch.randn(20, 4).requires_grad_(), torch.randn(50, 4).requires_grad_()
    loss = vocabularies.HEADS[head](embeddings, weight, torch.arange(20))
    return loss, *torch.autograd.grad(loss, (embeddings, weight))


@pytest.mark.parametrize("model", list(replicas.MODELS))
def test_replicas_end_with_the_losses_of_the_loop(model):
    train, device = data.digits().train, torch.device("cpu")
    together = replicas.together(model, 2, train, device)
    in_turn = replicas.in_turn(model, range(2), train, device)
    assert together == pytest.approx(in_turn, rel=1e-3)
    assert together[0] != in_turn[1]


# Suites, reports, the command


@pytest.mark.parametrize("suite", list(SUITES))
@pytest.mark.parametrize("small", [True, False])
def test_arms_of_a_suite_are_distinct_and_in_ascending_order(suite, small):
    arms = SUITES[suite].module.arms(small)
    assert len({(a.case, a.size, a.name) for a in arms}) == len(arms) > 1
    by_key = {}
    for each in arms:
        by_key.setdefault((each.case, each.name), []).append(each.size)
    assert all(sizes == sorted(sizes) for sizes in by_key.values())


@pytest.mark.parametrize("path", [a.case for a in objectives.arms(small=True)[::2]])
def test_every_objective_can_be_measured(path):
    step = objectives.build(path, 12, torch.device("cpu"))
    step.run()


def rows_of(suite):
    """Rows as a run would give them: ours is twice as fast, and the largest peer fails."""
    for each in SUITES[suite].module.arms():
        row = Row(each.case, each.size, each.name, flops=each.flops, moved_bytes=each.moved_bytes)
        if each.size == 16_384 and each.name == pair_losses.PEER:
            yield replace(row, note="more than 16 GiB")
            continue
        seconds = 1e-3 * each.size * (1 if each.name.startswith(("lossbook", "fit")) else 2)
        memory = {"peak_bytes": 2000 * each.size, "extra_bytes": 1000 * each.size}
        timed = {"seconds": seconds, "low": seconds, "high": seconds, "repeats": 5}
        yield replace(row, **timed, **(memory if each.memory else {}), operations=each.size)


MACHINE = {
    **machine.describe("cpu"),
    "copied_bytes_per_second": 1e10,
    "matmul_flops_per_second": 1e11,
    "load_at_end": 0.5,
}


@pytest.mark.parametrize("suite", list(SUITES))
def test_tables_and_figures_say_what_was_measured(suite):
    measured = report.frame(rows_of(suite))
    shown, table = SUITES[suite].show(measured), SUITES[suite].table(measured, MACHINE)
    text = "\n".join(shown.findings)
    assert "nan" not in text and "nan" not in table
    assert {
        "pairs": "takes 2.0 times as long as lossbook" in text and "more than 16 GiB" in text,
        "vocabularies": "0.50 times as long as the fastest" in text,
        "replicas": "16 replicas of the MLP: fit_replicas is 2.0 times as fast" in text,
        "objectives": "| 1.0 |" in table,
        "book": "import lossbook (after torch)" in text and "all, on two" in text,
        "sweeps": "Two workers are 1.0 times as fast as one" in text,
    }[suite]
    assert all(axes.get_title("left") and axes.get_xlabel() for axes in shown.figure.axes)
    assert len(table.splitlines()) == 2 + len(measured.groupby(["case", "size"])) // (
        2 if suite == "objectives" else 1
    )


@pytest.mark.parametrize(
    "value, text", [(1.2345, "1.23 s"), (0.0123, "12.3 ms"), (0.9999, "1,000 ms"), (0, "0 µs")]
)
def test_durations(value, text):
    assert report.duration(value) == text


def test_the_roofline_is_the_slower_of_both_limits():
    row = pd.Series({"flops": 1e11, "moved_bytes": 4e10})
    assert report.least_seconds(row, MACHINE) == pytest.approx(4.0)


@pytest.mark.slow
def test_rates_of_this_machine():
    found = machine.rates("cpu", LIMITS)
    assert 1e8 < found["copied_bytes_per_second"] < 1e13
    assert 1e8 < found["matmul_flops_per_second"] < 1e15


class TinySuite:
    TITLE, ABOUT = "A tiny suite", "Two arms."

    @staticmethod
    def arms(small, device):
        return [arm(build_gradient), arm(build_wrong, name="raises")]


def show_tiny(measured):
    figure, _ = plots.figure()
    return figures.Shown([f"{len(measured)} rows."], figure)


def broken_table(measured, found):
    raise RuntimeError("no table")


@pytest.fixture
def bench(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "rates", lambda device, limits: {})
    monkeypatch.setitem(SUITES, "pairs", Suite(TinySuite, show_tiny))
    arguments = ["--only", "pairs", "--budget", "0", "-o", str(tmp_path)]

    def call(*more):
        return CliRunner().invoke(main, [*arguments, *more])

    call.folder = tmp_path
    return call


def test_a_run_leaves_rows_table_figure_and_machine(bench, monkeypatch):
    monkeypatch.setattr(machine, "rates", lambda device, limits: rates_only())
    answer = bench()
    assert answer.exit_code == 0, answer.output
    names = sorted(path.name for path in bench.folder.iterdir())
    assert names == ["pairs.csv", "pairs.json", "pairs.md", "pairs.png"]
    with open(bench.folder / "pairs.csv") as stream:
        first, second = csv.DictReader(stream)
    assert float(first["seconds"]) > 0 and second["note"].startswith("ValueError")
    assert json.loads((bench.folder / "pairs.json").read_text())["torch"] == torch.__version__
    assert "size must be odd" in (bench.folder / "pairs.md").read_text()


def rates_only():
    return {name: MACHINE[name] for name in MACHINE if name.endswith("per_second")}


def test_rows_are_safe_and_an_old_page_stays_where_a_new_one_fails(bench, monkeypatch):
    monkeypatch.setitem(SUITES, "pairs", Suite(TinySuite, show_tiny, broken_table))
    monkeypatch.setattr(command, "measure_all", lambda *_: [Row("a case", 1, "an arm", note="no")])
    page = bench.folder / "pairs.md"
    page.write_text("old")
    assert "no table" in str(bench().exception)
    assert {path.name for path in bench.folder.iterdir()} == {"pairs.csv", "pairs.json", "pairs.md"}
    assert page.read_text() == "old"
    assert "a case,1,an arm" in (bench.folder / "pairs.csv").read_text()


def test_an_unknown_suite_is_refused_with_the_known_ones():
    answer = CliRunner().invoke(main, ["--only", "pears"])
    assert answer.exit_code == 2 and "'pears'" in answer.output and "vocabularies" in answer.output


def test_arms_are_chosen_by_case_size_and_name(bench, monkeypatch):
    seen = []
    monkeypatch.setattr(command, "measure_all", lambda arms, *_: seen.extend(arms) or iter(()))
    bench("--match", "raises$")
    assert [arm.name for arm in seen] == ["raises"]
    for text, message in (("no such", "must fit an arm"), ("(", "must be a regular expression")):
        answer = bench("--match", text)
        assert answer.exit_code == 2 and message in answer.output and repr(text) in answer.output


def test_a_gpu_has_more_heads_and_bfloat16():
    found = vocabularies.arms(device="cuda")
    halves = {a.name for a in found if a.case.endswith(vocabularies.HALF)}
    assert halves == {*vocabularies.HEADS, vocabularies.CUT, vocabularies.LIGER}
    assert {a.name for a in found} - {a.name for a in vocabularies.arms()} == set(
        vocabularies.TRITON
    )
    for name in (vocabularies.OURS, vocabularies.FULL):
        step = vocabularies.build(300, 20, name, torch.device("cpu"), half=True)
        step.run()
        assert all(leaf.grad.dtype == torch.bfloat16 for leaf in step.leaves)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused():
    answer = CliRunner().invoke(main, ["--device", "cuda"])
    assert answer.exit_code == 2 and "torch finds no GPU" in answer.output


def test_lossbook_bench_runs_the_checkouts_benchmarks_from_any_folder(tmp_path, monkeypatch, capfd):
    (tmp_path / "benchmarks.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(cli.main, ["bench", "--only", "pears"]).exit_code == 2
    assert "'pears' is not one of 'pairs'" in capfd.readouterr().err


def test_lossbook_bench_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(_commands.EXTRAS, "bench", ("no_such_package",))
    answer = CliRunner().invoke(cli.main, ["bench"])
    assert answer.exit_code == 2 and "pip install 'lossbook[bench]'" in answer.output


# The book on another machine


def test_verdicts_are_put_beside_those_of_the_book(tmp_path):
    claims = [c for c in ledger.collect(notebooks.written()) if c["kind"] == "measured"][:3]
    other = {"verdict": "contradicted", "mean": -0.5, "low": -0.75, "high": -0.25}
    same, changed = claims[0], claims[1] | other
    assert claims[1]["verdict"] != "contradicted"
    ran, broke, *others = [path.stem for path in notebooks.written()]
    run = {"target": ran, "seconds": 12.6, "parameters": {"scale": "full"}}
    failed = {"target": broke, "error": "cell 3 raised ValueError: no\nthe rest"}
    verdicts.write(tmp_path, [run | {"claims": [same, changed]}], [failed], MACHINE)
    page = (tmp_path / "verdicts.md").read_text()
    assert page.startswith("# The book at full scale") and "1 verdicts differ" in page
    assert f"| {ran} | 13 |" in page
    assert f"| {broke} | cell 3 raised ValueError: no |" in page
    assert page.count("not run to the end") == len(others)
    assert f"| {changed['id']} | {claims[1]['verdict']}" in page
    assert "| contradicted, -0.5 [-0.75, -0.25] |" in page
    assert same["id"] not in page
    with open(tmp_path / "verdicts.csv") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["differs"] for row in rows] == ["False", "True"]
    assert rows[1]["book_verdict"] == claims[1]["verdict"]


def test_verdicts_need_runs(tmp_path):
    answer = CliRunner().invoke(verdicts.main, [str(tmp_path)])
    assert answer.exit_code == 2 and "FOLDER must hold runs" in answer.output
