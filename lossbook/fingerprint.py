"""A notebook's fingerprint: a hash of its cells and of the package code that they import.

Committed notebooks carry the fingerprint that they were executed with, so that an unchanged one
need not run again. Packages' `__init__` files only count for the names that are taken from them:
`from lossbook.metric_learning import triplet_loss` depends on the module that defines
`triplet_loss`, not on its neighbors.
"""

import ast
import hashlib
from functools import cache
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
    code = "\n".join(_python(cell.source) for cell in nb.cells if cell.cell_type == "code")
    for path in sorted(_reachable(_imports_of_source(code))):
        name = path.relative_to(PACKAGE).as_posix()
        digest.update(f"{name}\0{path.read_text('utf-8')}\0".encode())
    return digest.hexdigest()


def modules(nb) -> list[str]:
    """Returns the package modules that a notebook depends on, as dotted names."""
    code = "\n".join(_python(cell.source) for cell in nb.cells if cell.cell_type == "code")
    return sorted(_dotted(path) for path in _reachable(_imports_of_source(code)))


def _python(source: str) -> str:
    """The source without IPython's magics; nothing if it is not Python (a lecturer's stub)."""
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
