"""The workers: processes of this machine, or a Dask cluster that is running."""

import json
import logging
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING

from lossbook.sweeps import tasks

if TYPE_CHECKING:
    from distributed import Client

PATIENCE = 5  # seconds in which a scheduler has to answer
LOCAL = {
    "distributed.scheduler.allowed-failures": 1,  # of workers, before a run counts as their killer
    "distributed.scheduler.worker-saturation": 1.0,  # nothing waits behind a run that may kill
}
# A terminal sends Ctrl-C to the workers too; the command ends them when it has heard of it itself.
DEAF = """
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
if hasattr(signal, "pthread_sigmask"):
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
"""


class NoCluster(Exception):
    """The workers can't be used; the message says why."""


def cores() -> int:
    """Returns how many cores this process may use, as far as its container and affinity say."""
    from dask.system import CPU_COUNT

    return CPU_COUNT


@contextmanager
def connected(scheduler: str | None, workers: int) -> Iterator["Client"]:
    """Opens a client of a running cluster or, without an address, of one made for the purpose.

    Args:
        scheduler: a running scheduler's address, such as `tcp://10.0.0.7:8786`, or its file, which
            ends in `.json`.
        workers: how many processes to start without one, each with one thread.

    Raises:
        NoCluster: no scheduler answers, or a worker's software is not the command's.
    """
    import dask
    from distributed import Client, LocalCluster

    for logger in ("distributed", "distributed.client"):  # what matters becomes an error's sentence
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    if scheduler:
        with _client(scheduler) as client:
            check_workers(client)
            yield client
        return
    with dask.config.set(LOCAL), ExitStack() as stack:
        with _interrupts_later():
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                memory_limit=0,  # a notebook's memory is its kernel's, which Dask doesn't see
                silence_logs=logging.CRITICAL,
                preload=[DEAF],
            )
            client = stack.enter_context(Client(stack.enter_context(cluster)))
        yield client


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """Holds Ctrl-C back while workers start, which inherit that; on Windows it does nothing."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # to start with the first worker, it would let Ctrl-C through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _client(address: str) -> "Client":
    from distributed import Client

    is_file = address.endswith(".json")
    if is_file and not Path(address).is_file():
        raise NoCluster(f"there is no scheduler file {address}")
    try:
        found = json.loads(Path(address).read_text("utf-8"))["address"] if is_file else address
        return Client(found, timeout=PATIENCE)
    except (OSError, ValueError) as error:
        raise NoCluster(
            f"no Dask scheduler answers at {address} within {PATIENCE} seconds "
            f"({type(error).__name__}); an address is like tcp://10.0.0.7:8786, or a scheduler file"
        ) from error


def check_workers(client: "Client") -> None:
    """Raises NoCluster unless all workers have this software and run one task at a time."""
    here = tasks.software()()
    for worker, there in client.run(tasks.software(), on_error="return").items():
        if isinstance(there, BaseException):
            raise NoCluster(f"worker {worker} can't be asked for its software: {there}")
        try:
            tasks.check_software(there, here, worker)
        except tasks.Unfit as error:
            raise NoCluster(f"{error}; install the same versions on both sides") from error
    for worker, threads in client.nthreads().items():
        if threads > 1:
            raise NoCluster(
                f"worker {worker} has {threads} threads, which would share one random generator; "
                "start workers with --nthreads 1, and more of them"
            )
