"""Sweeps on a Dask cluster that runs already: what it lacks is named, and changed code is seen."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager

import pytest
from sweep_reader import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.no_typecheck]
SWEEP = ("sweep", "experiment:run", "-o", "out")


@contextmanager
def process(*command: str, **environment: str):
    started = subprocess.Popen(
        [sys.executable, "-m", *command],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield started
    finally:
        started.terminate()
        started.wait()


@pytest.fixture
def scheduler(reader):
    """A scheduler, its process and its file."""
    file = reader.folder / "scheduler.json"
    options = ("--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file))
    with process("distributed.cli.dask_scheduler", *options, "--no-dashboard") as started:
        wait_for(file.exists, "the scheduler's file")
        yield started, str(file)


def worker(file: str, *options: str, **environment: str):
    options = ("--scheduler-file", file, "--no-dashboard", *(options or ("--nthreads", "1")))
    return process("distributed.cli.dask_worker", *options, **environment)


def has_workers(file: str) -> bool:
    from distributed import Client

    with Client(scheduler_file=file) as client:
        return bool(client.scheduler_info()["workers"])


def test_a_running_cluster_sees_changed_code(reader, scheduler):
    _, file = scheduler
    arguments = (*SWEEP, "--seeds", "0:2", "--scheduler", file)
    with worker(file):
        code, out, err = reader.lossbook(*arguments)
        assert code == 0, err
        reader.write_experiment(EDITED)
        code, out, err = reader.lossbook(*arguments)
        assert code == 0, err
    assert "2 of 2 runs are in out, 0 of them from before" in out
    assert len(reader.runs("out/runs")) == 4
    code, out, err = reader.lossbook("report", "out", "--json")
    report = json.loads(out)
    assert report["runs"] == report["runs_of_other_code_left_out"] == 2
    assert report["metrics"][0]["settings"][0]["mean"] == 1234


EDITED = "def run(*, seed):\n    return {'score': 1234}\n"


def test_a_lost_scheduler_is_named(reader, scheduler):
    started, file = scheduler
    with worker(file):
        arguments = ("-p", "sleep=0.5", "--seeds", "0:40", "--scheduler", file)
        command = reader.start(*SWEEP, *arguments)
        wait_for(lambda: reader.runs("out/runs"), "a run")
        started.kill()
        out, err = command.communicate(timeout=100)
    assert command.returncode == 1
    assert "Error: the connection to the Dask scheduler is lost" in err
    assert "of 40 runs are in out, the same command does the rest" in err


@pytest.mark.parametrize(
    "options, version, message",
    [
        ((), "0.0.9", "has lossbook 0.0.9 (here 0.1.0); install the same versions"),
        (("--nthreads", "2"), "", "has 2 threads, which would share one random generator"),
    ],
)
def test_an_unfit_worker_is_named(reader, scheduler, tmp_path, options, version, message):
    _, file = scheduler
    path = os.environ.get("PYTHONPATH", "")
    if version:
        (tmp_path / "other" / "lossbook").mkdir(parents=True)
        (tmp_path / "other" / "lossbook" / "__init__.py").write_text(f"__version__ = {version!r}")
        path = str(tmp_path / "other")
    with worker(file, *options, PYTHONPATH=path):
        wait_for(lambda: has_workers(file), "the worker")
        code, out, err = reader.lossbook(*SWEEP, "--scheduler", file)
    assert code == 1 and message in err
    assert not reader.runs("out/runs") and not reader.started()


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense", "none.json"])
def test_an_unreachable_scheduler_is_named(reader, address):
    code, _, err = reader.lossbook(*SWEEP, "--scheduler", address)
    silent = f"no Dask scheduler answers at {address} within 5 seconds"
    assert code == 1
    assert ("there is no scheduler file none.json" if "json" in address else silent) in err
    assert "Traceback" not in err
