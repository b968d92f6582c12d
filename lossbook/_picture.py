"""A figure shown as an ipywidgets Image, and the checks that a test makes on it."""

import io
import threading

from lossbook import _display

# JupyterLab hands the sliders' messages to a second thread and panels train in a third, while
# matplotlib is not made for threads: whoever changes artists or draws holds this lock.
DRAWING = threading.RLock()
SLACK = 0.03  # inches beyond the figure's edge that nobody notices


class Picture:
    """One figure as a PNG inside an ``Image`` widget of fixed size.

    The first rendering lays the figure out; later ones keep that layout, which halves the time of
    a drawing and keeps the axes from jumping when a tick label grows.
    """

    def __init__(self, figure, alt: str):
        import ipywidgets
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        if not isinstance(alt, str) or not alt.strip():
            raise ValueError(f"alt must say in words what the picture shows, got {alt!r}")
        self.figure = figure
        self.alt = alt
        if not isinstance(figure.canvas, FigureCanvasAgg):
            FigureCanvasAgg(figure)
        width, height = (round(inches * figure.dpi) for inches in figure.get_size_inches())
        self.image = ipywidgets.Image(
            format="png",
            width=str(width),
            height=str(height),
            layout={"max_width": "100%", "height": "auto", "margin": "4px 0 0 0"},
        )

    def render(self) -> bytes:
        """Draw the figure and return its PNG (fast compression: a reader waits for it)."""
        from PIL import Image

        with DRAWING:
            self.figure.canvas.draw()
            self.figure.set_layout_engine("none")
            pixels = self.pixels()
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "png", compress_level=1)
        return buffer.getvalue()

    def show(self) -> None:
        """Draw the figure and send it to the front end."""
        self.image.value = self.render()

    def pixels(self):
        """The drawn figure as an array of shape (height, width, 3)."""
        import numpy as np

        return np.asarray(self.figure.canvas.buffer_rgba())[..., :3].copy()

    def bundle(self, box) -> dict:
        """The widget view with the static picture beside it, for pages where no kernel runs."""
        from lossbook.plots import img_tag

        return {
            **_display.widget_view(box),
            "text/html": img_tag(self.image.value, self.alt),
            "text/plain": f"[interactive figure: {self.alt}]",
        }

    def spoken_alt(self):
        """The alt text for screen readers: the Image widget has no alt attribute of its own."""
        import html

        import ipywidgets

        hidden = "position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)"
        return ipywidgets.HTML(
            f'<span style="{hidden}">{html.escape(self.alt)}</span>',
            layout={"height": "0", "margin": "0"},
        )

    def defects(self) -> list[str]:
        """What is wrong with the picture drawn last: blank, cut off, or with non-finite data."""
        pixels = self.pixels()
        found = ["the picture is blank"] if (pixels == pixels[0, 0]).all() else []
        found += [f"a text or label is cut off at the {side}" for side in self._cut_off()]
        return found + [
            f"non-finite data in {kind} {artist.get_label()!r}"
            for axes in self.figure.axes
            for kind, artist, data in _plotted(axes)
            if not _finite(data)
        ]

    def _cut_off(self) -> list[str]:
        drawn = self.figure.get_tightbbox()  # inches, as the figure's size
        width, height = self.figure.get_size_inches()
        gaps = {
            "left": drawn.x0,
            "bottom": drawn.y0,
            "right": width - drawn.x1,
            "top": height - drawn.y1,
        }
        return [side for side, gap in gaps.items() if gap < -SLACK]


def _plotted(axes):
    """Yield (kind, artist, data) for all that an axes draws from data."""
    for line in axes.lines:
        yield "line", line, line.get_xydata()
    for collection in axes.collections:
        yield "collection", collection, collection.get_offsets()
        for path in collection.get_paths():
            yield "collection", collection, path.vertices
    for image in axes.images:
        yield "image", image, image.get_array()
    for patch in axes.patches:
        yield "patch", patch, patch.get_patch_transform().transform(patch.get_path().vertices)


def _finite(data) -> bool:
    import numpy as np

    values = np.ma.compressed(np.ma.asarray(data, dtype=float))
    return bool(np.isfinite(values).all())
