"""Runs in a notebook's kernel: draws the frames of its explorers into files."""

import io
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from lossbook._controls import Choice, Control, Toggle
from lossbook._live import LIVE
from lossbook.widgets import Explorer

STOPS = 15  # positions of a slider on the site
HEAVY = 30_000  # bytes of a picture, beyond which it is stored with losses

_drawn: set[str] = set()


def capture(folder: str) -> None:
    """Draws every explorer that was made since the last call.

    For each knob its frames over the knob's range, the others at their defaults, and one JSON file
    that says which is which, named after the explorer's alt text.
    """
    for explorer in list(LIVE):
        if isinstance(explorer, Explorer) and explorer.alt not in _drawn:
            _drawn.add(explorer.alt)
            _capture(explorer, Path(folder))


def _capture(explorer: Explorer, folder: Path) -> None:
    name = sha256(explorer.alt.encode()).hexdigest()[:8]
    controls = explorer._controls
    default = _save(explorer._picture.image.value, folder)
    knobs = []
    for knob, control in controls.items():
        values = stops(control)
        files = [
            default if value == control.value else _save(explorer._frame(knob, value), folder)
            for value in values
        ]
        knobs.append(
            {
                "label": control.caption(knob),
                "kind": "choice" if isinstance(control, Choice | Toggle) else "range",
                "values": [shown(control, value) for value in values],
                "files": files,
                "start": values.index(control.value),
            }
        )
    record = {"alt": explorer.alt, "picture": default, "knobs": knobs}
    (folder / f"{name}.json").write_text(json.dumps(record), "utf-8")
    explorer._refresh()


def stops(control: Control) -> list[Any]:
    """The values of a control that get a frame: evenly spread, its default among them."""
    values = control.positions(STOPS)
    if control.value not in values:
        nearest = min(range(len(values)), key=lambda i: abs(values[i] - control.value))
        values[nearest] = control.value
    return values


def shown(control: Control, value: Any) -> str:
    """How a value is written beside its control."""
    if isinstance(control, Toggle):
        return "on" if value else "off"
    if isinstance(control, Choice):
        return next(text for text, option in control.options if option == value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _save(png: bytes | memoryview, folder: Path) -> str:
    """Stores a picture under a name made from what it shows, so that equal ones are one file."""
    data = webp(png)
    name = f"{sha256(data).hexdigest()[:16]}.webp"
    (folder / name).write_bytes(data)
    return name


def webp(png: bytes | memoryview) -> bytes:
    """A PNG as a WebP: without losses, unless that makes a large file."""
    from PIL import Image

    picture = Image.open(io.BytesIO(png)).convert("RGB")
    options: dict[str, Any] = {"lossless": True, "method": 2}
    buffer = io.BytesIO()
    picture.save(buffer, "webp", **options)
    if buffer.tell() > HEAVY:
        buffer = io.BytesIO()
        picture.save(buffer, "webp", quality=85, method=4)
    return buffer.getvalue()
