"""Figures in one style: colorblind palette, one finding each, an alt text on every picture.

Figures are made without pyplot, so that they are never shown twice and training threads may draw
them. Importing this module sets matplotlib's defaults to the book's style.
"""

import base64
import html
import io

import matplotlib as mpl
import seaborn as sns
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lossbook import _display

PALETTE = sns.color_palette("colorblind").as_hex()
DPI = 110
STYLE = {
    **sns.axes_style("ticks"),
    **sns.plotting_context("notebook", font_scale=0.85),
    "axes.prop_cycle": mpl.cycler(color=PALETTE),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "legend.frameon": False,
    "figure.facecolor": "white",
}
mpl.rcParams.update(STYLE)


def figure(width: float = 6.4, height: float = 3.6, rows: int = 1, columns: int = 1, **subplots):
    """A figure in the book's style with its axes (one, or an array as from ``subplots``).

    Args:
        width: inches; 6.4 fills a notebook cell of 700 pixels.
        height: inches.
        rows: rows of axes.
        columns: columns of axes.
        **subplots: passed to ``Figure.subplots`` (``sharey=True``, ``width_ratios=…``).

    Returns:
        ``(figure, axes)``.
    """
    fig = blank_figure(width, height)
    return fig, fig.subplots(rows, columns, **subplots)


def blank_figure(width: float = 6.4, height: float = 3.6) -> Figure:
    """A figure without axes, for layouts that :func:`figure` does not have."""
    fig = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(fig)
    return fig


def two_colors(low: str, high: str) -> mpl.colors.Colormap:
    """A colormap from one color through near white to another, for beliefs between two classes."""
    return mpl.colors.LinearSegmentedColormap.from_list("two_colors", [low, "#f7f7f7", high])


def png(fig: Figure) -> bytes:
    """The figure as PNG bytes."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=DPI, pil_kwargs={"compress_level": 1})
    return buffer.getvalue()


def img_tag(picture: bytes | memoryview, alt: str) -> str:
    """An ``<img>`` with the picture inside and the alt text that screen readers speak."""
    if not alt.strip():
        raise ValueError("alt must say in words what the picture shows, got an empty string")
    data = base64.b64encode(picture).decode()
    return (
        f'<img alt="{html.escape(alt)}" style="max-width: 100%" src="data:image/png;base64,{data}">'
    )


def show(fig: Figure, *, alt: str) -> None:
    """Display the figure as an image with an alt text.

    Args:
        fig: a figure from :func:`figure`.
        alt: what the picture shows, in one or two sentences.

    Raises:
        ValueError: if ``alt`` is empty.
    """
    _display.show({"text/html": img_tag(png(fig), alt), "text/plain": f"[figure: {alt}]"})
