"""What a worker does: one run, whose outcome it returns to the command that asked for it."""

import io
import logging
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from lossbook.sweeps import targets
from lossbook.sweeps.logged import logged_in, plain_row
from lossbook.sweeps.targets import Target

_imported: dict[str, tuple[Callable, str]] = {}


class Unfit(Exception):
    """A worker has other software than the command, so that its results would be mislabeled."""


def software() -> Callable[[], dict[str, str]]:
    """Returns a function that tells the versions that count, also where this package is absent.

    It is not importable by name, so that Dask sends its code and not its name.
    """

    def versions() -> dict[str, str]:
        import platform
        from importlib import metadata

        found = {"python": ".".join(platform.python_version_tuple()[:2])}
        for package in ("torch", "distributed"):
            try:
                found[package] = metadata.version(package).partition("+")[0]  # CPU or CUDA build
            except metadata.PackageNotFoundError:
                found[package] = "none"
        try:
            from lossbook import __version__

            found["lossbook"] = __version__
        except ImportError:
            found["lossbook"] = "none"
        return found

    return versions


def check_software(there: dict[str, str], here: dict[str, str], worker: str) -> None:
    """Raises Unfit, naming both versions, if a worker's software differs from the command's."""
    different = [
        f"{name} {there.get(name, 'none')} (here {version})"
        for name, version in here.items()
        if there.get(name) != version
    ]
    if different:
        raise Unfit(f"worker {worker} has {', '.join(different)}")


def execute(target: Target, given: dict[str, object], here: dict[str, str]) -> dict:
    """Runs a target once.

    Args:
        target: what runs.
        given: its parameters.
        here: the software of the command that asks, as `software()()` tells it.

    Returns:
        "seconds" and "host", with "rows" and "claims", or "error" and "traceback"; of a notebook
        also "notebook" as JSON, of a function "output", what it printed.
    """
    started = time.perf_counter()
    host = socket.gethostname()
    try:
        check_software(software()(), here, host)
        run = _run_notebook if target.kind == "notebook" else _run_function
        outcome = run(target, given)
    except Exception as error:
        outcome = {"error": _described(error), "traceback": traceback.format_exc()}
    return {**outcome, "seconds": round(time.perf_counter() - started, 3), "host": host}


def _described(error: BaseException) -> str:
    text = str(error)
    return text if isinstance(error, Unfit) else f"{type(error).__name__}: {text}".rstrip(": ")


def _run_notebook(target: Target, given: dict[str, object]) -> dict:
    import nbformat

    from lossbook import execution, ledger

    logging.getLogger("traitlets").setLevel(logging.CRITICAL)  # the failure is in the outcome
    folder = Path(target.folder)
    path = (folder if folder.is_dir() else Path.cwd()) / f"{target.name}.ipynb"
    nb = nbformat.reads(target.content, as_version=4)
    _check_code(targets.notebook_fingerprint(nb, folder), target)
    try:
        executed = execution.run(path, given, nb=nb)
    except execution.NotebookFailed as failure:
        return {"error": str(failure), "notebook": nbformat.writes(failure.notebook)}
    row = logged_in(executed)
    return {
        "rows": [_results(row, target, given)] if row else [],
        "claims": ledger.claims_of(executed),
        "notebook": nbformat.writes(executed),
    }


def _run_function(target: Target, given: dict[str, object]) -> dict:
    from lossbook.execution import kernel_environment

    function = _function(target)
    printed = io.StringIO()
    try:
        with kernel_environment(), redirect_stdout(printed), redirect_stderr(printed):
            rows = [_results(row, target, given) for row in _rows(function(**given))]
    except (Exception, SystemExit) as error:
        outcome = {"error": _described(error), "traceback": traceback.format_exc()}
    else:
        outcome = {"rows": rows, "claims": []}
    return {**outcome, "output": printed.getvalue()}


def _function(target: Target) -> Callable:
    """The target's function as the command has it; an older one that is still loaded is dropped."""
    if _imported.get(target.name, ("", ""))[1] != target.fingerprint:
        module = sys.modules.get(target.name.partition(":")[0])
        for own in targets.own_modules(module) if module else ():
            sys.modules.pop(own, None)
        _imported[target.name] = targets.import_function(target.name, target.folder)
    function, stamp = _imported[target.name]
    _check_code(stamp, target)
    return function


def _check_code(stamp: str, target: Target) -> None:
    if stamp != target.fingerprint:
        raise Unfit(
            f"worker {socket.gethostname()} has other source code of {target.name}, or of what it "
            f"imports (fingerprint {stamp[:8]}, here {target.fingerprint[:8]}); has a file changed "
            "since the command began?"
        )


def _results(row: dict, target: Target, given: dict[str, object]) -> dict[str, object]:
    """A row without what only repeats a parameter."""
    defaults = {name: parameter.default for name, parameter in target.known.items()}
    given = {**defaults, **given}
    row = plain_row(row)
    for name in row.keys() & given.keys():
        if row[name] != given[name]:
            raise ValueError(
                f"the result {name!r} must not be called like a parameter that has another value: "
                f"it is {row[name]!r}, the parameter {given[name]!r}"
            )
    return {name: value for name, value in row.items() if name not in given}


def _rows(returned: object) -> list:
    """The rows that a function returned: a dict of scalars, a list of them, or a DataFrame."""
    if hasattr(returned, "to_dict") and hasattr(returned, "columns"):
        returned = returned.to_dict("records")
    rows = [returned] if isinstance(returned, dict) else returned
    if not isinstance(rows, list) or not all(isinstance(row, dict) and row for row in rows):
        raise ValueError(
            "the function must return a dict of scalars, a list of such dicts or a DataFrame, "
            f"got {type(returned).__name__}"
        )
    return rows
