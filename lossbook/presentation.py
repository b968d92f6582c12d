"""What a notebook's metadata says about how it is shown: folded solutions and slides.

`lossbook execute` writes it where the author has not: JupyterLab then folds the solutions behind
a bar that a click opens, and `jupyter nbconvert --to slides` finds its slides.
"""


def is_solution(cell) -> bool:
    """Whether a cell is one that students fill in."""
    return bool(cell.metadata.get("nbgrader", {}).get("solution"))


def is_graded(cell) -> bool:
    """Whether a cell has points: a check, or an answer that a person grades."""
    return bool(cell.metadata.get("nbgrader", {}).get("grade"))


def fold_solutions(nb) -> None:
    """Folds the code of solutions, for the reader who wants to try first."""
    for cell in nb.cells:
        if is_solution(cell) and cell.cell_type == "code":
            cell.metadata.setdefault("jupyter", {}).setdefault("source_hidden", True)


def unfold(cell) -> None:
    """Opens a folded cell."""
    jupyter = cell.metadata.get("jupyter", {})
    jupyter.pop("source_hidden", None)
    if not jupyter:
        cell.metadata.pop("jupyter", None)
