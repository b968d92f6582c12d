"""A progress bar that leaves nothing in a saved notebook."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(steps: int, wanted: bool) -> Iterator[Callable[[int], None]]:
    """Yield a function that shows how many steps are done; nothing is left when it ends.

    In a kernel the bar is plain HTML that is blanked at the end: a widget would stay in the saved
    notebook as an error. On a terminal it is tqdm's. Bars of short runs never appear.
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if not wanted or os.environ.get("LOSSBOOK_PROGRESS") == "0":
        yield lambda step: None
    elif hasattr(shell, "kernel"):
        bar = _NotebookBar(steps)
        try:
            yield bar.show
        finally:
            bar.clear()
    else:
        from tqdm import tqdm

        hidden = not sys.stderr.isatty()
        with tqdm(total=steps, leave=False, delay=1, unit="step", disable=hidden) as bar:
            yield lambda step: bar.update(step - bar.n)


class _NotebookBar:
    """A progress bar in a notebook's output, first shown after a second, then twice a second."""

    def __init__(self, steps: int):
        self.steps = steps
        self.next_time = time.monotonic() + 1
        self.handle = None

    def show(self, step: int) -> None:
        if time.monotonic() < self.next_time:
            return
        self.next_time = time.monotonic() + 0.5
        text = f"step {step} of {self.steps}"
        self._send(
            {
                "text/html": f'<progress max="{self.steps}" value="{step}"></progress> {text}',
                "text/plain": text,
            }
        )

    def clear(self) -> None:
        if self.handle is not None:
            self._send({"text/html": "", "text/plain": ""})

    def _send(self, bundle: dict[str, str]) -> None:
        from IPython.display import display

        if self.handle is None:
            self.handle = display(bundle, raw=True, display_id=True)
        else:
            self.handle.update(bundle, raw=True)
