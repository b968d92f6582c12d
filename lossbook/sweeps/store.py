"""A sweep's folder: a folder for each run, complete or absent, and the table made of them.

``runs/ID/`` holds ``record.json`` and the executed notebook or ``output.txt``, ``failed/ID/`` the
same of a run that failed last time. ID is the hash of what determines the run (``Job.id``), so a
run is there once, however often and by however many commands it was made.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from lossbook import __version__
from lossbook._files import _umask, replacing
from lossbook.sweeps.jobs import Job

if TYPE_CHECKING:
    import pandas

ABANDONED = 3600  # seconds after which a folder that is not complete belongs to nobody
CLAIM = ("metric", "treatment", "treatment_mean", "baseline", "baseline_mean", "n")
INTERVAL = {"mean": "difference", "low": "low", "high": "high", "verdict": "verdict"}


class NotWritten(Exception):
    """A sweep's folder can't be written to, as when the disk is full."""


class Store:
    """The runs in a folder."""

    def __init__(self, folder: Path):
        """Opens the folder, or makes it.

        Raises:
            ValueError: it can't be written to.
        """
        self.folder = folder
        self.runs, self.failed = folder / "runs", folder / "failed"
        try:
            for parent in (self.runs, self.failed):
                parent.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=parent):
                    pass
                _remove_abandoned(parent)
        except OSError as error:
            raise ValueError(f"output folder {folder} can't be written to: {error}") from error

    def has(self, job: Job) -> bool:
        """Whether the run is there."""
        return (self.runs / job.id / "record.json").is_file()

    def keep(self, job: Job, outcome: dict) -> Path:
        """Writes a run that has ended; returns its folder. A failed one replaces an earlier one.

        Raises:
            NotWritten: the disk is full, or the like; nothing half-written is left.
        """
        failed = "error" in outcome
        texts = {"notebook.ipynb": outcome.get("notebook"), "output.txt": outcome.get("output")}
        files = {"record.json": json.dumps(_record(job, outcome), indent=1, allow_nan=False)}
        files |= {name: text for name, text in texts.items() if text}
        place = (self.failed if failed else self.runs) / job.id
        if failed:
            shutil.rmtree(place, ignore_errors=True)
        with _written(self.folder):
            _put(place, files)
        if not failed:
            shutil.rmtree(self.failed / job.id, ignore_errors=True)
        return place

    def write_table(self) -> Path:
        """Makes ``records.parquet`` anew from the runs; returns its path."""
        return write_table(self.folder)


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NotWritten(f"{folder} can't be written to: {error.strerror or error}") from error


def write_table(folder: Path) -> Path:
    """Makes ``records.parquet`` anew from the runs in a sweep's folder; returns its path.

    Raises:
        NotWritten: the disk is full, or the like.
    """
    target, rows = folder / "records.parquet", table(records(folder))
    with _written(folder), replacing(target, binary=True) as stream:
        rows.to_parquet(stream, index=False)
    return target


def renew_table(folder: Path) -> None:
    """Writes ``records.parquet`` if it is absent or a run has come or gone since."""
    target = folder / "records.parquet"
    changed = (folder / "runs").stat().st_mtime_ns
    if not target.is_file() or target.stat().st_mtime_ns <= changed:
        write_table(folder)


def _record(job: Job, outcome: dict) -> dict:
    return {
        "schema": 1,
        "run": job.id,
        "kind": job.target.kind,
        "target": job.target.name,
        "fingerprint": job.target.fingerprint,
        "version": __version__,
        "parameters": job.parameters,
        "given": list(job.given),
        "finished": datetime.now(UTC).isoformat(timespec="microseconds"),
        **{name: value for name, value in outcome.items() if name not in ("notebook", "output")},
    }


def _put(place: Path, files: dict[str, str]) -> None:
    """Writes a folder that appears complete; one that is there already stays."""
    partial = Path(tempfile.mkdtemp(prefix=".", suffix=".partial", dir=place.parent))
    try:
        for name, text in files.items():
            (partial / name).write_text(text, "utf-8", newline="\n")
        partial.chmod(0o777 & ~_umask())
        partial.rename(place)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if not (isinstance(error, OSError) and (place / "record.json").is_file()):
            raise


def _remove_abandoned(parent: Path) -> None:
    for partial in parent.glob(".*.partial"):
        if partial.stat().st_mtime < time.time() - ABANDONED:
            shutil.rmtree(partial, ignore_errors=True)


# Reading


def records(folder: Path) -> list[dict]:
    """Returns the records of the complete runs in a sweep's folder, by time.

    Raises:
        ValueError: a record can't be read.
    """
    return _by_time((folder / "runs").glob("[!.]*/record.json"))


def failures(folder: Path) -> list[dict]:
    """Returns the records of the runs that failed last time and are not complete, by time."""
    paths = (folder / "failed").glob("[!.]*/record.json")
    return _by_time(p for p in paths if not (folder / "runs" / p.parent.name).is_dir())


def _by_time(paths: Iterable[Path]) -> list[dict]:
    return sorted(map(_read, paths), key=lambda record: (record["finished"], record["run"]))


def first_line(error: str) -> str:
    """Returns what a failed run's error says before its traceback."""
    return error.partition("\n")[0]


def by_error(errors: Iterable[tuple[str, object]]) -> dict[str, list]:
    """Groups what failed by its error's first line, the most frequent one first.

    Args:
        errors: pairs of an error and what failed of it.
    """
    found: dict[str, list] = {}
    for error, what in errors:
        found.setdefault(first_line(error), []).append(what)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def _read(path: Path) -> dict:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} can't be read: {error}; delete its folder") from error


def table(found: list[dict]) -> "pandas.DataFrame":
    """Returns records as one tidy table.

    A row is what a function returned as one, all that a notebook logged, or one claim. Its columns
    are those of the run (`run`, `run_target`, …), the parameters, and the values; those of claims
    begin with `claim`. Lists, and values of different kinds in one column, are JSON texts.
    """
    import pandas
    from pandas.api.types import is_object_dtype

    frame = pandas.DataFrame([row for record in found for row in _table_rows(record)])
    for name in [name for name in frame if is_object_dtype(frame[name])]:
        kinds = {type(value) for value in frame[name] if not _is_missing(value)}
        if kinds != {str} and kinds != {bool}:
            frame[name] = [None if _is_missing(v) else json.dumps(v) for v in frame[name]]
    return frame


def _is_missing(value: object) -> bool:
    return value is None or value != value


def _table_rows(record: dict) -> Iterator[dict]:
    run = {
        "run": record["run"],
        "run_target": record["target"],
        "run_fingerprint": record["fingerprint"],
        "run_version": record["version"],
        "run_finished": record["finished"],
        "run_seconds": record["seconds"],
        **record["parameters"],
    }
    for row in record["rows"]:
        yield {**run, **row}
    for claim in record["claims"]:
        columns = {f"claim_{name}": claim.get(name) for name in CLAIM}
        columns |= {f"claim_{column}": claim.get(name) for name, column in INTERVAL.items()}
        yield {**run, "claim": claim["id"], **columns}
