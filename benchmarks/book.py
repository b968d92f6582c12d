"""The book itself: its notebooks, the import of the package, a slider in JupyterLab."""

import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch

from benchmarks.arms import Arm, Step
from lossbook import notebooks

TITLE = "The book"
ABOUT = """\
Seconds of each notebook at smoke and at quick scale with one thread, and of all of them on two
processes; of `import` after `import torch`, in several fresh interpreters; and from a key press on
a slider in JupyterLab to the new picture in Chromium (tests/browser)."""
SCALES = ("smoke", "quick")
LIMIT = 3600
ALL = "all, on two processes"
IMPORTS = (
    "lossbook",
    "lossbook.classification, lossbook.metric_learning, lossbook.self_supervised",
)
INTERPRETERS = 7
KEY_PRESS = "tests/browser/test_jupyterlab.py::test_a_key_press_shows_its_picture_at_once"
LATENCY = re.compile(r"key press to pixels: median (\d+) ms")


def run(path: Path, scale: str) -> None:
    from lossbook import execution

    execution.run(path, scale=scale)


def build_notebook(path: Path, scale: str, device: torch.device) -> Step:
    return Step(lambda: run(path, scale))


def build_all(scale: str, device: torch.device) -> Step:
    def run_all():
        paths = notebooks.written()
        with ProcessPoolExecutor(2, get_context("spawn")) as workers:
            list(workers.map(run, paths, len(paths) * [scale]))

    return Step(run_all)


def build_import(modules: str, device: torch.device) -> Step:
    code = (
        "import time, torch\nstart = time.perf_counter()\n"
        f"import {modules}\nprint(time.perf_counter() - start)"
    )

    def seconds() -> list[float]:
        command = (sys.executable, "-c", code)
        return [float(subprocess.check_output(command)) for _ in range(INTERPRETERS)]

    return Step(seconds)


def build_key_press(device: torch.device) -> Step:
    def seconds() -> float:
        command = (sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", KEY_PRESS)
        done = subprocess.run(command, capture_output=True, text=True, cwd=notebooks.home())
        found = LATENCY.search(done.stdout)
        if not found:
            raise RuntimeError(f"the browser test says: {done.stdout.strip().splitlines()[-1]}")
        return int(found[1]) / 1000

    return Step(seconds)


def arms(small: bool = False, device: str = "cpu") -> list[Arm]:
    """All that is timed; a quick look takes the imports and one notebook."""
    single = partial(Arm, size=1, memory=False, single=True, limit=LIMIT)
    scales, paths = (
        (SCALES[:1], notebooks.written()[:1]) if small else (SCALES, notebooks.written())
    )
    found = [
        single(case=f"import {modules}", name="after torch", build=partial(build_import, modules))
        for modules in IMPORTS
    ]
    if not small:
        found.append(single(case="key press to pixels", name="JupyterLab", build=build_key_press))
    for path in paths:
        for scale in scales:
            found.append(
                single(case=path.stem, name=scale, build=partial(build_notebook, path, scale))
            )
    if not small:
        for scale in scales:
            found.append(single(case=ALL, name=scale, build=partial(build_all, scale)))
    return found
