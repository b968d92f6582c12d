"""One arm, one process: seconds, peak memory and number of operations of a step.

A suite is a list of arms. An arm names what is measured (a case at a size) and how it is done (by
this package, by a peer), and builds a step in a fresh process. What fails, or needs more memory or
time than it may have, becomes a row that says so; larger sizes of that arm are then left out.
"""

import multiprocessing
import signal
from collections.abc import Iterable, Iterator
from dataclasses import replace

import psutil

from benchmarks import worker
from benchmarks.arms import Arm, BeyondLimit, Limits, Row


def measure_all(arms: Iterable[Arm], limits: Limits, device: str = "cpu") -> Iterator[Row]:
    """Measure one arm after the other; yields a row for each."""
    beyond: dict[tuple[str, str], str] = {}
    for arm in arms:
        row = Row(arm.case, arm.size, arm.name, flops=arm.flops, moved_bytes=arm.moved_bytes)
        key = arm.case, arm.name
        if key not in beyond:
            try:
                measured = measure(arm, limits, device)
            except BeyondLimit as error:
                beyond[key] = str(error)
            else:
                yield replace(row, **measured)
                continue
        yield replace(row, note=beyond[key])


def measure(arm: Arm, limits: Limits, device: str = "cpu") -> dict[str, object]:
    """The measured fields of an arm's row, from a process of its own.

    Raises:
        BeyondLimit: if it needs more memory or time than the limits allow.
    """
    seconds = arm.limit or limits.seconds
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=worker.work, args=(sender, arm, limits, device))
    process.start()
    sender.close()
    try:
        if not receiver.poll(seconds):
            raise BeyondLimit(f"more than {seconds:g} s")
        answer = receiver.recv()
    except EOFError:
        process.join()
        return {"note": f"its process ended with {_ending(process.exitcode)}"}
    finally:
        end(process.pid)
        process.join()
    if isinstance(answer, BeyondLimit):
        raise answer
    return answer


def end(pid: int) -> None:
    """Kill a process and all that it has started."""
    try:
        process = psutil.Process(pid)
        family = [*process.children(recursive=True), process]
    except psutil.NoSuchProcess:
        return
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            pass


def _ending(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
