"""Sweeps: seconds that a run costs beyond its own work, and what a second worker brings."""

import time
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from benchmarks.arms import Arm, Step

TITLE = "Sweeps"
ABOUT = """\
`lossbook sweep` on a local Dask cluster. *Nothing to do*: seconds a run, written to disk, of a
function that returns at once and of a notebook with one cell. *Half a second of work*: seconds of
all runs of a function that keeps a core busy, on one worker and on two, which is at best twice as
fast. The cluster's start and end come on top, once."""
EMPTY = "benchmarks.sweeps:nothing"
BUSY = "benchmarks.sweeps:work"
WORK = 0.5  # seconds
SCALING = "function, half a second of work"


def nothing(*, seed: int) -> dict:
    return {"seed": seed}


def work(*, seed: int) -> dict:
    end, turns = time.process_time() + WORK, 0
    while time.process_time() < end:
        turns += 1
    return {"turns": turns}


def build_runs(name: str, size: int, workers: int, each: bool, device: torch.device) -> Step:
    """Seconds from the first run's start to the last one's end; of each run, if asked."""
    from tempfile import TemporaryDirectory

    from lossbook.sweeps import cluster, driving, jobs, targets
    from lossbook.sweeps.store import Store

    def seconds() -> float:
        with TemporaryDirectory() as folder:
            if name.endswith(".ipynb"):
                target = targets.notebook_target(_write_notebook(Path(folder) / name))
            else:
                target = targets.function_target(name, str(Path(__file__).parents[1]))
            todo, store = jobs.grid(target, [], f"0:{size}"), Store(Path(folder) / "out")
            failed = []

            def finish(job, outcome):
                store.keep(job, outcome)
                failed.extend(outcome.get("error", "").splitlines())

            with cluster.connected(None, workers) as client:
                client.wait_for_workers(workers)
                started = time.perf_counter()
                driving.drive(todo, client, finish)
                took = time.perf_counter() - started
        if failed:
            raise RuntimeError(failed[0])
        return took / size if each else took

    return Step(seconds)


def _write_notebook(path: Path) -> Path:
    from nbformat import v4

    from lossbook.notebooks import write

    cell = v4.new_code_cell("seed = 0", metadata={"tags": ["parameters"]})
    write(v4.new_notebook(cells=[cell]), path)
    return path


def build_cluster(workers: int, device: torch.device) -> Step:
    from lossbook.sweeps import cluster

    def seconds() -> float:
        started = time.perf_counter()
        with cluster.connected(None, workers) as client:
            client.wait_for_workers(workers)
        return time.perf_counter() - started

    return Step(seconds)


def arms(small: bool = False, device: str = "cpu") -> list[Arm]:
    """All that is timed; a quick look takes fewer runs."""
    single = partial(Arm, single=True, memory=False, limit=600)
    few, many = (4, 20) if small else (16, 200)
    found = [single("start and end of a cluster", 2, "2 workers", partial(build_cluster, 2))]
    for workers in (1, 2):
        name = f"{workers} worker{'s' if workers > 1 else ''}"
        function = partial(build_runs, EMPTY, many, workers, True)
        notebook = partial(build_runs, "empty.ipynb", few // 2, workers, True)
        busy = partial(build_runs, BUSY, few, workers, False)
        found.append(single("function, nothing to do, a run", many, name, function))
        found.append(single("notebook, nothing to do, a run", few // 2, name, notebook))
        found.append(single(SCALING, few, name, busy))
    return sorted(found, key=lambda arm: (arm.case, arm.size))


def show(measured: pd.DataFrame):
    """Seconds of each arm, and how much faster two workers are."""
    from benchmarks.figures import Shown
    from benchmarks.report import by_arm, duration
    from lossbook import plots

    able = measured.dropna(subset="seconds")
    busy = by_arm(measured[measured["case"] == SCALING], "seconds").iloc[0]
    faster = f"Two workers are {busy['1 worker'] / busy['2 workers']:.1f} times as fast as one"
    findings = [f"{faster} ({SCALING})."]
    findings += [f"{r['case']}, {r['arm']}: {duration(r['seconds'])}." for _, r in able.iterrows()]
    fig, axes = plots.figure(7, 3.4)
    for arm, rows in able.groupby("arm"):
        axes.plot(rows["seconds"], rows["case"], "o", label=arm)
    axes.legend(fontsize=8)
    axes.set(xscale="log", xlabel="seconds", title=faster)
    return Shown(findings, fig)
