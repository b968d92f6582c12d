"""A notebook's fingerprint: a hash of its cells and of the package code that they import.

Committed notebooks carry the fingerprint that they were executed with, so that an unchanged one
need not run again. Packages' `__init__` files only count for the names that are taken from them:
`from lossbook.metric_learning import triplet_loss` depends on the module that defines
`triplet_loss`, not on its neighbors.
"""

import ast
import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import accumulate
from pathlib import Path

PACKAGE = Path(__file__).parent
_NAME = PACKAGE.name


def fingerprint(nb) -> str:
    """Returns the hash of a notebook's cell sources and of all package modules they reach.

    Outputs, cell metadata and the catalog's data do not count.

    Args:
        nb: the notebook, as nbformat reads it.
    """
    digest = hashlib.sha256()
    for cell in nb.cells:
        digest.update(f"{cell.cell_type}\0{cell.source}\0".encode())
    _add_modules(digest, code_of(nb))
    return digest.hexdigest()


def of_sources(sources: Mapping[str, str]) -> str:
    """Returns the hash of named Python sources and of all package modules they reach."""
    digest = hashlib.sha256()
    for name, source in sources.items():
        digest.update(f"{name}\0{source}\0".encode())
    _add_modules(digest, "\n".join(map(python_of, sources.values())))
    return digest.hexdigest()


def modules_beside(
    code: str, root: Path, package: str = "", within: str | None = None
) -> dict[str, Path]:
    """Returns the modules of a folder that some code imports, directly or through each other.

    Args:
        code: Python, or a notebook's code cells.
        root: the folder; what is installed and this package are left out.
        package: the dotted name of the package that the code is in, for relative imports.
        within: the only outermost package whose modules count; None takes all.
    """
    found: dict[str, Path] = {}
    todo = [(code, package)]
    while todo:
        for name in _imported(*todo.pop()):
            path, top = _module_in(root, name), name.split(".")[0]
            if path and name not in found and top != _NAME and within in (None, top):
                found[name] = path
                is_package = path.name == "__init__.py"
                inside = name if is_package else name.rpartition(".")[0]
                todo.append((path.read_text("utf-8"), inside))
    return dict(sorted(found.items()))


def _imported(code: str, package: str) -> Iterator[str]:
    """The dotted names that code imports, each after the packages that it lies in."""
    for node in ast.walk(ast.parse(python_of(code))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{_origin(node, package)}.{alias.name}" for alias in node.names]
        for name in names:
            yield from accumulate(name.split("."), "{}.{}".format)


def _module_in(root: Path, dotted: str) -> Path | None:
    path = root.joinpath(*dotted.split("."))
    files = (path / "__init__.py", path.with_name(f"{path.name}.py"))
    return next((file for file in files if file.is_file()), None)


def _add_modules(digest, code: str) -> None:
    for path in sorted(_reachable(_imports_of_source(code))):
        name = path.relative_to(PACKAGE).as_posix()
        digest.update(f"{name}\0{path.read_text('utf-8')}\0".encode())


def modules(nb) -> list[str]:
    """Returns the package modules that a notebook depends on, as dotted names."""
    return sorted(_dotted(path) for path in _reachable(_imports_of_source(code_of(nb))))


def code_of(nb) -> str:
    """Returns what the code cells of a notebook hold, as one text of Python."""
    return "\n".join(python_of(cell.source) for cell in nb.cells if cell.cell_type == "code")


def python_of(source: str) -> str:
    """Returns a cell's code without IPython's magics; nothing if it is not Python (a stub)."""
    lines = [line for line in source.splitlines() if not line.lstrip().startswith(("%", "!"))]
    text = "\n".join(lines)
    try:
        ast.parse(text)
    except SyntaxError:
        return ""
    return text


def _reachable(names: frozenset[str]) -> set[Path]:
    found: set[Path] = set()
    todo = [path for name in names for path in _resolve(name)]
    while todo:
        path = todo.pop()
        if path not in found:
            found.add(path)
            todo += [p for name in _imports_of_file(path) for p in _resolve(name)]
    return found


@cache
def _imports_of_file(path: Path) -> frozenset[str]:
    package = _dotted(path if path.name == "__init__.py" else path.parent / "__init__.py")
    return _imports_of_source(path.read_text("utf-8"), package)


def _imports_of_source(code: str, package: str = "") -> frozenset[str]:
    """The dotted names below this package that the code imports or reaches through an import."""
    tree = ast.parse(code)
    names: set[str] = set()
    bound: dict[str, str] = {}  # local name -> dotted name it stands for
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names.add(alias.name)
                bound[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            origin = _origin(node, package)
            for alias in node.names:
                dotted = f"{origin}.{alias.name}"
                names.add(dotted)
                bound[alias.asname or alias.name] = dotted
    for node in ast.walk(tree):
        chain = _attribute_chain(node)
        if chain and chain[0] in bound:
            names.add(".".join([bound[chain[0]], *chain[1:]]))
    return frozenset(name for name in names if name.split(".")[0] == _NAME)


def _origin(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    base = package.split(".")[: len(package.split(".")) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def _attribute_chain(node: ast.AST) -> list[str]:
    chain: list[str] = []
    while isinstance(node, ast.Attribute):
        chain.insert(0, node.attr)
        node = node.value
    return [node.id, *chain] if chain and isinstance(node, ast.Name) else []


def _resolve(dotted: str) -> list[Path]:
    """The files that a dotted name needs: a module, or what a package's `__init__` hands on."""
    parts = dotted.split(".")[1:]
    folder = PACKAGE
    while parts and (folder / parts[0] / "__init__.py").exists():
        folder = folder / parts.pop(0)
    init = folder / "__init__.py"
    if not parts:
        return []  # a package on its own: what is used of it is named elsewhere
    if parts[0] == "*":
        return sorted(_reachable(_imports_of_file(init))) + [init]
    module = folder / f"{parts[0]}.py"
    if module.exists():
        return [module]
    if parts[0] in _handed_on(init):
        return _resolve(_handed_on(init)[parts[0]])
    return [init] if folder != PACKAGE else []


@cache
def _handed_on(init: Path) -> dict[str, str]:
    """The names that an `__init__` takes from modules below it, with where they come from."""
    package = _dotted(init)
    names = {}
    for node in ast.parse(init.read_text("utf-8")).body:
        if isinstance(node, ast.ImportFrom) and _origin(node, package).startswith(f"{_NAME}."):
            for alias in node.names:
                names[alias.asname or alias.name] = f"{_origin(node, package)}.{alias.name}"
    return names


def _dotted(path: Path) -> str:
    relative = path.relative_to(PACKAGE.parent).with_suffix("")
    return ".".join(p for p in relative.parts if p != "__init__")
