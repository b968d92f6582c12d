"""The frames that the site's sliders show, drawn by the notebooks' own code and kept."""

import base64
import io
import json
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from lossbook.execution import describe_failure, kernel_client, kernel_environment
from lossbook.fingerprint import fingerprint
from lossbook.notebooks import read
from lossbook.site import capture

PICTURE = re.compile(
    r'<img alt="(?P<alt>[^"]*)"[^>]*? src="data:image/png;base64,(?P<data>[^"]+)">'
)
CURRENT = "fingerprint.txt"
MOST = 1_500_000  # bytes of all frames of a page, which stays under 5 MB with all that it loads
ALIKE = 1e-3  # share of pixels that may differ between two drawings of the same picture


def draw_all(paths: list[Path], cache: Path) -> None:
    """Draws the frames of several notebooks, two at a time, each into a folder of `cache`."""
    # Processes, since each sets variables for the kernels that it starts.
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        list(pool.map(frames, paths, [cache / path.stem for path in paths]))


def frames(path: Path, cache: Path) -> dict[str, dict]:
    """Returns what the explorers of a notebook show, by their alt texts.

    They are drawn in a kernel that runs the notebook up to its last explorer, and kept until the
    notebook, or the code that it uses, changes. Most draw from formulas, whatever the scale: the
    kernel runs at smoke scale first, and again at the notebook's own scale only if the pictures
    are not those of the committed notebook.

    Args:
        path: the notebook.
        cache: a folder of this notebook's own.

    Returns:
        For each alt text `picture`, the file that is shown first, and `knobs`, each with `label`,
        `kind` ("range" or "choice"), `values` as text, one of `files` for each, and `start`, the
        place of the default. Files are names in `cache`.

    Raises:
        ValueError: a cell up to the last explorer fails.
    """
    nb = read(path)
    if not any(_explores(cell) for cell in nb.cells):
        return {}
    state = f"{fingerprint(nb)} {capture.STOPS} {capture.HEAVY}"
    stamp = cache / CURRENT
    if not (stamp.exists() and stamp.read_text() == state):
        _draw(nb, path.parent, cache, scale="smoke")
        if not _as_committed(nb, cache):
            _draw(nb, path.parent, cache, scale=None)
        stamp.write_text(state)
    return fitted(_records(cache), cache)


def fitted(records: dict[str, dict], cache: Path, most: int = MOST) -> dict[str, dict]:
    """Returns the records with as many stops of their sliders as fit in `most` bytes."""
    for count in range(capture.STOPS, 2, -1):
        chosen = {
            alt: {**record, "knobs": [_thinned(knob, count) for knob in record["knobs"]]}
            for alt, record in records.items()
        }
        knobs = [knob for record in chosen.values() for knob in record["knobs"]]
        files = {name for knob in knobs for name in knob["files"]}
        if sum((cache / name).stat().st_size for name in files) <= most:
            break
    return chosen


def _thinned(knob: dict, count: int) -> dict:
    """The knob with about `count` of its stops: both ends, the default, and some in between."""
    last = len(knob["files"]) - 1
    if knob["kind"] != "range" or last < count:
        return knob
    kept = sorted({round(i * last / (count - 1)) for i in range(count)} | {knob["start"]})
    lists = {key: [knob[key][place] for place in kept] for key in ("values", "files")}
    return {**knob, **lists, "start": kept.index(knob["start"])}


def _explores(cell) -> bool:
    return cell.cell_type == "code" and bool(re.search(r"\bexplore\(", cell.source))


def _draw(nb, folder: Path, cache: Path, scale: str | None) -> None:
    from nbclient.exceptions import CellControlSignal, DeadKernelError
    from nbformat.v4 import new_code_cell

    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir(parents=True)
    call = f"from lossbook.site.capture import capture; capture({str(cache.resolve())!r})"
    last = max(index for index, cell in enumerate(nb.cells) if _explores(cell))
    run = nb.copy()
    run.cells = []
    for cell in nb.cells[: last + 1]:
        if cell.cell_type == "code":
            run.cells.append(new_code_cell(cell.source))
        if _explores(cell):  # at once: later cells may change what the drawing uses
            run.cells.append(new_code_cell(call))
    client = kernel_client(run, folder)
    alone = {"LOSSBOOK_SCALE": scale, "OMP_NUM_THREADS": "1"}  # other notebooks are drawn beside it
    try:
        with kernel_environment(**alone), client.setup_kernel():
            for index, cell in enumerate(run.cells):
                client.execute_cell(cell, index)
    except (CellControlSignal, DeadKernelError) as error:
        raise ValueError(f"no frames: {describe_failure(run, error)}") from error


def _records(cache: Path) -> dict[str, dict]:
    records = [json.loads(path.read_text("utf-8")) for path in sorted(cache.glob("*.json"))]
    return {record["alt"]: record for record in records}


def _as_committed(nb, cache: Path) -> bool:
    """Whether the explorers' first pictures are those that the notebook holds."""
    from html import unescape

    committed = {unescape(match["alt"]): match["data"] for match in pictures(nb)}
    return all(
        _alike(base64.b64decode(committed[alt]), cache / record["picture"])
        for alt, record in _records(cache).items()
        if alt in committed
    )


def pictures(nb) -> Iterator[re.Match]:
    """The embedded pictures of a notebook: matches with `alt` (still escaped) and `data`."""
    for cell in nb.cells:
        for output in cell.get("outputs", []):
            yield from PICTURE.finditer("".join(output.get("data", {}).get("text/html", "")))


def _alike(committed: bytes, drawn: Path) -> bool:
    import numpy as np
    from PIL import Image

    first, second = (Image.open(source).convert("L") for source in (io.BytesIO(committed), drawn))
    if first.size != second.size:
        return False
    distance = np.abs(np.asarray(first, dtype=int) - np.asarray(second, dtype=int))
    return bool((distance > 64).mean() < ALIKE)
