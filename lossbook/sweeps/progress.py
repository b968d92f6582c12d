"""A progress bar on a terminal; elsewhere, as in a log file, a line now and then."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click

EVERY = 10  # seconds between lines


class Progress:
    """What is shown while runs end."""

    def __init__(self, total: int, there: int):
        from tqdm import tqdm

        self.on_terminal = sys.stderr.isatty()
        self.bar = tqdm(
            total=total,
            initial=there,
            unit="run",
            file=sys.stderr,
            disable=not self.on_terminal,
            dynamic_ncols=True,
            smoothing=0.1,
        )
        self.total, self.there, self.ended, self.failed = total, there, 0, 0
        self.started = self.last = time.monotonic()

    def add(self, failed: bool) -> None:
        """Counts a run that has ended."""
        self.ended += 1
        self.failed += failed
        if failed:
            self.bar.set_postfix_str(f"{self.failed} failed", refresh=False)
        self.bar.update()
        if not self.on_terminal:
            self._line()

    def tick(self) -> None:
        """Shows that time passes."""
        self.bar.refresh()

    def _line(self) -> None:
        now, left = time.monotonic(), self.total - self.there - self.ended
        if now - self.last < EVERY and left:
            return
        self.last = now
        pace = (now - self.started) / self.ended
        failed = f", {self.failed} failed" if self.failed else ""
        click.echo(
            f"{self.there + self.ended - self.failed} of {self.total} runs{failed}, "
            f"{60 / pace:.3g} a minute, {_duration(pace * left)} left",
            err=True,
        )


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes}:{seconds:02} min"


@contextmanager
def progress(total: int, there: int) -> Iterator[Progress]:
    """Opens a display of how many of `total` runs have ended, of which some were there before."""
    shown = Progress(total, there)
    try:
        yield shown
    finally:
        shown.bar.close()
