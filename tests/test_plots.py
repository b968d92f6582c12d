import pytest
from matplotlib.figure import Figure

from lossbook import plots


def test_figures_come_without_pyplot_and_with_their_axes():
    fig, ax = plots.figure()
    assert isinstance(fig, Figure) and ax.figure is fig
    assert plots.figure(rows=2, columns=3, sharey=True)[1].shape == (2, 3)


def test_a_picture_has_the_figure_s_size():
    fig, _ = plots.figure(width=4, height=2)
    data = plots.png(fig)
    assert data.startswith(b"\x89PNG")
    width, height = (int.from_bytes(data[i : i + 4]) for i in (16, 20))
    assert (width, height) == (4 * plots.DPI, 2 * plots.DPI)


def test_the_alt_text_is_escaped_in_the_tag():
    assert '<img alt="loss &lt; 1 &amp; &quot;flat&quot;"' in plots.img_tag(
        b"", 'loss < 1 & "flat"'
    )


def test_show_displays_one_image_with_its_alt_text(monkeypatch):
    shown = []
    monkeypatch.setattr("lossbook._display.show", shown.append)
    fig, _ = plots.figure()
    plots.show(fig, alt="A line that falls.")
    assert shown[0]["text/plain"] == "[figure: A line that falls.]"
    assert 'alt="A line that falls."' in shown[0]["text/html"]


@pytest.mark.parametrize("alt", ["", "  "])
def test_a_figure_without_alt_text_is_not_shown(alt):
    with pytest.raises(ValueError, match="alt must say in words what the picture shows"):
        plots.show(plots.figure()[0], alt=alt)


def test_two_colors_meet_near_white():
    colors = plots.two_colors("#000080", "#800000")
    assert colors(0.0)[:3] == pytest.approx((0, 0, 0.5), abs=0.01)
    assert min(colors(0.5)[:3]) > 0.9
