"""What a sweep runs: a notebook, or a function of the reader."""

import importlib
import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from lossbook import fingerprint, notebooks, parameters
from lossbook.parameters import Parameter


@dataclass(frozen=True)
class Target:
    """A notebook or a function, with all that a worker needs to run it.

    Attributes:
        kind: "notebook" or "function".
        name: the notebook's file name without its ending, or `package.module:function`.
        fingerprint: hash of its code and of the code that it imports.
        folder: where a notebook runs, and where a function's module is looked for.
        content: a notebook's cells as JSON; empty for a function.
        known: its parameters.
        required: names of a function's parameters that have no default.
        open: whether a function takes any other parameter too (`**knobs`).
    """

    kind: str
    name: str
    fingerprint: str
    folder: str
    content: str = ""
    known: dict[str, Parameter] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    open: bool = False

    @property
    def short(self) -> str:
        """A name for folders and for Dask's dashboard."""
        return self.name.replace(":", ".")


def find(name: str) -> Target:
    """Returns the target of a name: a notebook's number, slug or path, or `module:function`.

    Raises:
        ValueError: there is no such notebook or function, or a sweep can't call it.
    """
    module, colon, function = name.partition(":")
    if name.endswith(".ipynb") or not colon:
        if Path(f"{name.removesuffix('.py').replace('.', '/')}.py").is_file():
            module = name.removesuffix(".py").replace("/", ".")
            raise ValueError(f"{name} is a module; name its function, such as {module}:run")
        return notebook_target(notebooks.find(name))
    if module.endswith(".py"):
        module = module.removesuffix(".py").replace("/", ".")
        raise ValueError(f"{name} must be module:function; write {module}:{function}")
    return function_target(name, str(Path.cwd()))


def notebook_target(path: Path) -> Target:
    """Returns a notebook as a target, without the outputs in its file."""
    import nbformat

    from lossbook.execution import clear

    nb = notebooks.read(path)
    clear(nb)
    return Target(
        kind="notebook",
        name=path.stem,
        fingerprint=notebook_fingerprint(nb, path.parent),
        folder=str(path.parent),
        content=nbformat.writes(nb),
        known=parameters.parse(nb),
    )


def notebook_fingerprint(nb, folder: Path) -> str:
    """Returns the hash of a notebook, of the package code it uses, and of modules beside it."""
    stamp = fingerprint.fingerprint(nb)
    beside = fingerprint.modules_beside(fingerprint.code_of(nb), folder)
    if not beside:
        return stamp
    sources = {name: path.read_text("utf-8") for name, path in beside.items()}
    return fingerprint.of_sources({**sources, "notebook": stamp})


# Functions


def function_target(name: str, folder: str) -> Target:
    """Returns a function as a target.

    Args:
        name: `package.module:function`.
        folder: where its module is looked for, beside what is installed.

    Raises:
        ValueError: it can't be imported, or it takes no `seed`, or only positional arguments.
    """
    function, stamp = import_function(name, folder)
    signature = inspect.signature(function).parameters.values()
    named = [p for p in signature if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature)
    if any(p.kind is p.POSITIONAL_ONLY for p in signature):
        raise ValueError(f"{name} must take its parameters by name, got {_signature(function)}")
    if not takes_any and "seed" not in {p.name for p in named}:
        raise ValueError(f"{name} must take a parameter seed, got {_signature(function)}")
    return Target(
        kind="function",
        name=name,
        fingerprint=stamp,
        folder=folder,
        known={p.name: Parameter(p.name, _default(p)) for p in named},
        required=tuple(p.name for p in named if p.default is p.empty and p.name != "seed"),
        open=takes_any,
    )


def _default(parameter: inspect.Parameter) -> object:
    """The default, if it is plain; any other is as good as its source, which is fingerprinted."""
    try:
        return json.loads(json.dumps(parameter.default))
    except (TypeError, ValueError):
        return None


def _signature(function: Callable) -> str:
    return f"{function.__name__}{inspect.signature(function)}"


def import_function(name: str, folder: str) -> tuple[Callable, str]:
    """Imports the function `package.module:function`; returns it and its fingerprint.

    The fingerprint covers the function's module, the modules beside it that it imports, and what
    all of them import from this package.

    Raises:
        ValueError: it can't be imported.
    """
    module_name, _, attribute = name.partition(":")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{name} can't be imported: {error}; modules are looked for in {folder} and among "
            "the installed packages"
        ) from error
    except Exception as error:
        raise ValueError(
            f"importing {module_name} raised {type(error).__name__}: {error}"
        ) from error
    if not str(getattr(module, "__file__", None)).endswith(".py"):
        raise ValueError(f"{module_name} must be a module with Python source")
    function = getattr(module, attribute, None)
    if not callable(function):
        raise ValueError(f"{module_name} has no function {attribute!r}")
    sources = {name: path.read_text("utf-8") for name, path in own_modules(module).items()}
    return function, fingerprint.of_sources({**sources, "function": name})


def own_modules(module: ModuleType) -> dict[str, Path]:
    """Returns a module and those beside it that it imports, by name, with their files.

    "Beside it" is in the folder that its outermost package lies in; for an installed module, in
    its package.
    """
    name, file = module.__name__, Path(module.__file__)
    is_package = file.name == "__init__.py"
    root = file.parents[name.count(".") + is_package]
    package = name if is_package else name.rpartition(".")[0]
    within = name.split(".")[0] if root.name in ("site-packages", "dist-packages") else None
    beside = fingerprint.modules_beside(file.read_text("utf-8"), root, package, within)
    return {**beside, name: file}
