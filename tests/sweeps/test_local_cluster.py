"""Sweeps on real workers: nothing finished is lost or doubled, whatever is killed."""

import errno
import json
import os
import signal
import time
from collections import Counter
from pathlib import Path

import pandas
import psutil
import pytest
from click.testing import CliRunner
from sweep_reader import EXPERIMENT, wait_for

from lossbook.cli import main
from lossbook.sweeps import store

pytestmark = [pytest.mark.slow, pytest.mark.no_typecheck]
SWEEP = ("sweep", "experiment:run", "-o", "out")


def test_a_grid_of_a_function_on_two_workers(reader):
    code, out, err = reader.lossbook(*SWEEP, "-p", "beta=1,2", "--seeds", "0:4", "--workers", "2")
    assert code == 0, err
    assert "8 of 8 runs are in out, 0 of them from before" in out
    assert "2 workers; dashboard: http://127.0.0.1:" in err and "8 of 8 runs, " in err
    frame = pandas.read_parquet(reader.folder / "out" / "records.parquet")
    assert len(frame) == 8 and sorted(frame["run"]) == reader.runs("out/runs")
    assert (frame["score"] == 10 * frame["beta"] + frame["seed"]).all()
    assert len({process for *_, process in reader.started()}) == 2
    printed = {path.read_text() for path in reader.folder.glob("out/runs/*/output.txt")}
    assert printed == {f"seed {seed}\n" for seed in range(4)}

    code, out, err = reader.lossbook(*SWEEP, "-p", "beta=1,2.0", "--seeds", "0:5")
    assert code == 0 and "10 of 10 runs are in out, 8 of them from before" in out
    assert len(reader.started()) == 10

    reader.write_experiment(EXPERIMENT + "# a comment\n")
    code, out, err = reader.lossbook(*SWEEP, "--seeds", "0:1")
    assert code == 0 and "1 of 1 runs are in out, 0 of them from before" in out
    assert "10 runs of earlier code stay there; the report leaves them out" in out
    code, out, err = reader.lossbook(*SWEEP, "--seeds", "1:2")
    assert "1 runs with other values or seeds are there too" in out


def test_failures_and_killers_stop_nobody_else(reader):
    arguments = (*SWEEP, "-p", "kind=fine,kills,raises", "--seeds", "0:2", "--workers", "2")
    code, out, err = reader.lossbook(*arguments)
    assert code == 1
    assert "3 of 6 runs are in out, 0 of them from before; 3 failed" in out
    assert "3 of 6 runs, 3 failed, " in err and "3 failed; the same command tries them again" in err
    assert (
        "  1 run: RuntimeError: no luck\n    such as experiment:run seed=1 kind=raises: out/failed/"
        in err
    )
    assert err.count("its worker died each time it ran") == 1
    assert "  2 runs: its worker died" in err
    assert len(reader.runs("out/runs")) == 3 and len(reader.runs("out/failed")) == 3
    starts = Counter((kind, seed) for kind, _, seed, _ in reader.started())
    assert starts["kills", "0"] > 1 and starts["kills", "1"] > 1
    failed = [json.loads(path.read_text()) for path in reader.folder.glob("out/failed/*/*.json")]
    assert "experiment.py" in next(r for r in failed if "no luck" in r["error"])["traceback"]

    code, out, err = reader.lossbook(*arguments)  # tries the three again
    assert code == 1 and "3 of 6 runs are in out, 3 of them from before" in out
    assert len(reader.runs("out/failed")) == 3


def test_a_dead_worker_costs_no_run(reader):
    command = reader.start(*SWEEP, "-p", "sleep=0.4", "--seeds", "0:8", "--workers", "2")
    wait_for(lambda: len(reader.runs("out/runs")) >= 2, "two runs")
    os.kill(int(reader.started()[-1][-1]), signal.SIGKILL)
    out, err = command.communicate(timeout=100)
    assert command.returncode == 0, err
    assert "8 of 8 runs" in out and len(reader.runs("out/runs")) == 8
    assert len({process for *_, process in reader.started()}) == 3
    frame = pandas.read_parquet(reader.folder / "out" / "records.parquet")
    assert sorted(frame["seed"]) == list(range(8))


def test_a_killed_command_goes_on(reader):
    arguments = (*SWEEP, "-p", "sleep=0.4", "--seeds", "0:8", "--workers", "2")
    command = reader.start(*arguments)
    wait_for(lambda: len(reader.runs("out/runs")) >= 2, "two runs")
    command.kill()
    command.communicate()
    there = {run: written(run) for run in reader.runs("out/runs")}
    workers = {int(process) for *_, process in reader.started()}
    wait_for(lambda: not any(map(is_alive, workers)), "the workers' end")

    code, out, err = reader.lossbook(*arguments)
    assert code == 0, err
    assert f"8 of 8 runs are in out, {len(there)} of them from before" in out
    assert len(reader.runs("out/runs")) == 8
    assert {run: written(run) for run in there} == there


def written(run: str) -> int:
    return Path(f"out/runs/{run}/record.json").stat().st_mtime_ns


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_ctrl_c_leaves_whole_runs_and_says_how_to_go_on(reader):
    command = reader.start(*SWEEP, "-p", "sleep=0.4", "--seeds", "0:40", "--workers", "2")
    wait_for(lambda: len(reader.runs("out/runs")) >= 2, "two runs")
    for _ in range(10):  # held
        os.killpg(command.pid, signal.SIGINT)  # the workers hear it too, as in a terminal
        time.sleep(0.05)
    out, err = command.communicate(timeout=100)
    assert command.returncode == 130
    assert "Traceback" not in err
    done = len(reader.runs("out/runs"))
    assert f"interrupted; {done} of 40 runs are in out, the same command does the rest" in err
    assert 2 <= done < 40 and len(list(Path("out/runs").iterdir())) == done
    assert not any(is_alive(int(process)) for *_, process in reader.started())
    assert len(pandas.read_parquet("out/records.parquet")) == done


@pytest.mark.skipif(os.name == "nt", reason="there, workers can't inherit that they are deaf")
def test_ctrl_c_while_workers_start_is_as_short(reader):
    command = reader.start(*SWEEP, "--seeds", "0:4", "--workers", "2")
    wait_for(lambda: len(workers_of(command.pid)) == 2, "the workers' processes")
    os.killpg(command.pid, signal.SIGINT)
    out, err = command.communicate(timeout=100)
    assert command.returncode == 130
    assert "interrupted; 0 of 4 runs are in out" in err
    assert "Traceback" not in err and "Exception ignored" not in err


def workers_of(process: int) -> list[int]:
    """The processes that a command has started to be workers."""
    return [
        child.pid
        for child in psutil.Process(process).children()
        if "spawn_main" in " ".join(child.cmdline())
    ]


def test_two_sweeps_in_one_folder_count_every_run_once(reader):
    arguments = (*SWEEP, "-p", "sleep=0.2", "--seeds", "0:6", "--workers", "1")
    both = [reader.start(*arguments) for _ in range(2)]
    for command in both:
        _, err = command.communicate(timeout=100)
        assert command.returncode == 0, err
    assert len(reader.runs("out/runs")) == 6
    assert len(list(Path("out/runs").iterdir())) == 6
    frame = pandas.read_parquet(reader.folder / "out" / "records.parquet")
    assert sorted(frame["seed"]) == list(range(6))


def test_a_full_disk_is_named_and_leaves_nothing_half_written(reader, monkeypatch):
    put, calls = store._put, []

    def full(place, files):
        calls.append(place)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        put(place, files)

    monkeypatch.setattr(store, "_put", full)
    result = CliRunner().invoke(main, [*SWEEP, "--seeds", "0:6", "--workers", "1"])
    assert result.exit_code == 1
    assert "Error: out can't be written to: No space left on device" in result.output
    assert "2 of 6 runs are in out, the same command does the rest" in result.output
    assert len(list(Path("out/runs").iterdir())) == 2
