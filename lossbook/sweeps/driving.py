"""Driving a sweep: hands jobs to the workers, and writes each run as soon as it has ended.

Workers return their outcome and the command writes it, so no disk has to be shared. A command that
is killed loses the runs in progress and nothing else.
"""

import queue
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lossbook.sweeps import tasks
from lossbook.sweeps.jobs import Job

if TYPE_CHECKING:
    from distributed import Client, Future

KILLER = "its worker died each time it ran, the last time alone (was the memory enough?)"


class SchedulerLost(Exception):
    """The cluster's scheduler has gone away."""


@contextmanager
def one_interrupt() -> Iterator[None]:
    """Hears Ctrl-C once, and no more from then on, so that nothing disturbs the cluster's end."""

    def interrupt(number, frame):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is interrupt:
            signal.signal(signal.SIGINT, before)


def drive(
    jobs: Iterable[Job],
    client: "Client",
    finish: Callable[[Job, dict], None],
    tick: Callable[[], None] = lambda: None,
) -> None:
    """Runs jobs on a cluster.

    A job whose workers died may have died of its neighbors: it runs again, alone, when all others
    are done, and fails if that kills its worker too.

    Args:
        jobs: what to run.
        client: of the cluster.
        finish: called with each job and its outcome (see ``tasks.execute``) as it ends.
        tick: called about once a second while nothing ends.

    Raises:
        SchedulerLost: the scheduler has gone away.
    """
    suspects: list[Job] = []

    def finish_or_suspect(job: Job, outcome: dict | None) -> None:
        if outcome is None:
            suspects.append(job)
        else:
            finish(job, outcome)

    def finish_or_fail(job: Job, outcome: dict | None) -> None:
        finish(job, outcome or _killed())

    _drive(jobs, client, finish_or_suspect, tick)
    for job in suspects:
        _drive([job], client, finish_or_fail, tick, suffix="-alone")


def _killed() -> dict:
    return {"error": KILLER, "traceback": "", "seconds": None, "host": None}


def _drive(
    jobs: Iterable[Job],
    client: "Client",
    finish: Callable[[Job, dict | None], None],
    tick: Callable[[], None],
    suffix: str = "",
) -> None:
    done: queue.Queue[Future] = queue.Queue()
    pending: dict[str, tuple[Job, Future]] = {}
    here = tasks.software()()
    try:
        for job in jobs:
            key = f"{job.target.short}-{job.id}{suffix}"
            future = client.submit(tasks.execute, job.target, job.given, here, key=key)
            pending[key] = job, future
            future.add_done_callback(done.put)
        while pending:
            try:
                future = done.get(timeout=1)
            except queue.Empty:
                _check_connection(client)
                tick()
                continue
            job, _ = pending.pop(future.key)
            finish(job, _outcome(future, client))
    finally:
        if pending and client.status == "running":
            client.cancel([future for _, future in pending.values()])


def _outcome(future: "Future", client: "Client") -> dict | None:
    """What the worker returned; None if workers died of it."""
    from distributed import KilledWorker

    try:
        return future.result()
    except KilledWorker:
        return None
    except Exception as error:  # whatever Dask raises where a task can't be sent or read
        _check_connection(client)
        return {**_killed(), "error": f"Dask could not run it: {type(error).__name__}: {error}"}


def _check_connection(client: "Client") -> None:
    if client.status != "running":
        raise SchedulerLost("the connection to the Dask scheduler is lost")
