"""A folder of a reader with an experiment and a notebook, and sweeps as the reader starts them."""

import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import nbformat.v4 as v4

EXPERIMENT = """\
import os, pathlib, signal, time

def run(beta=1.0, kind="fine", sleep=0.0, widths=[1], *, seed):
    with open("log.txt", "a") as log:
        log.write(f"{kind} {beta} {seed} {os.getpid()}\\n")
    print("seed", seed)
    time.sleep(sleep)
    if kind == "kills":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "raises" and seed == 1:
        raise RuntimeError("no luck")
    return {"score": beta * 10 + seed, "kind": kind}
"""
PARAMETERS = 'scale = "quick"\nseed = 0\nbeta = 1.0  # 0 .. 10'
CELLS = """\
from lossbook.sweeps import log
if beta < 0:
    raise RuntimeError("too cold")
log(score=beta * 10 + seed)"""
PATIENCE = 100  # seconds, on a busy machine


def record(rows, seed=0, claims=(), code="a" * 8, **parameters) -> dict:
    """A run's record, as far as a report reads it."""
    return {
        "run": f"{code}{seed}{parameters}",
        "target": "experiment:run",
        "fingerprint": code,
        "version": "1",
        "parameters": {"seed": seed, **parameters},
        "rows": rows,
        "claims": list(claims),
    }


def failed(error, seed=0, **parameters) -> dict:
    """The record of a run that failed."""
    return {**record([], seed, **parameters), "error": error}


class Reader:
    """A reader's folder, and the command `lossbook` in it."""

    def __init__(self, folder: Path):
        self.folder = folder

    def write_experiment(self, source: str = EXPERIMENT) -> None:
        (self.folder / "experiment.py").write_text(source)

    def write_notebook(self) -> None:
        nb = v4.new_notebook()
        nb.cells.append(v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}))
        nb.cells.append(v4.new_code_cell(CELLS))
        nbformat.write(nb, self.folder / "mine.ipynb")

    def start(self, *arguments: str) -> subprocess.Popen:
        """Starts the command in a process group of its own, as a terminal does."""
        return subprocess.Popen(
            [sys.executable, "-m", "lossbook", *arguments],
            cwd=self.folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def lossbook(self, *arguments: str) -> tuple[int, str, str]:
        """Runs the command; returns its exit code, what it printed, and on stderr."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=PATIENCE)
        return process.returncode, out, err

    def runs(self, place: str) -> list[str]:
        return sorted(path.parent.name for path in self.folder.glob(f"{place}/[!.]*/record.json"))

    def started(self) -> list[list[str]]:
        """What the experiment has logged: kind, beta, seed and process of each run's start."""
        log = self.folder / "log.txt"
        return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def wait_for(condition, what: str):
    """Waits until a condition holds; returns its value."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"waited {PATIENCE} s for {what}")
