"""A sweep's report: its figures as PNG and SVG, and one HTML page that needs no other file."""

import html
import re
import shlex
from pathlib import Path

import pandas

from lossbook import plots
from lossbook._files import replacing
from lossbook.sweeps.differences import against_best
from lossbook.sweeps.drawing import Picture, pictures
from lossbook.sweeps.measured import Metric, Sweep
from lossbook.sweeps.words import finding, remarks, retest, shown

STYLE = """
body { font-family: system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em;
       line-height: 1.5; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 1em 0; overflow-wrap: normal; }
th, td { text-align: right; padding: 0.2em 0.6em; border-bottom: 1px solid #ccc; }
pre { overflow-x: auto; background: #f4f4f4; padding: 0.6em; }
summary { cursor: pointer; }
"""
PAIRED = ("difference", "difference_low", "difference_high")
TITLES = {
    "low": "95 % from",
    "high": "to",
    "n": "seeds",
    "difference": "minus the best",
    "difference_low": "95 % from",
    "difference_high": "to",
}


def write(sweep: Sweep, failed: list[dict], swept: Path, folder: Path) -> Path:
    """Writes the figures and the page into a folder; returns the page's path.

    Args:
        sweep: what the runs say.
        failed: the records of runs that failed.
        swept: the sweep's folder.
        folder: where to; made if it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    depends = [metric for metric in sweep.metrics if metric.knobs or not sweep.knobs]
    sections = [_section(metric, sweep, swept, folder) for metric in depends]
    flat = [metric for metric in sweep.metrics if metric not in depends]
    page = folder / "report.html"
    with replacing(page) as stream:
        stream.write(_page(sweep, failed, [*sections, *_folded(flat)]))
    return page


def _section(metric: Metric, sweep: Sweep, swept: Path, folder: Path) -> str:
    drawn = [*pictures(metric), *against_best(metric)]
    images = [_image(metric, picture, folder) for picture in drawn]
    rows = metric.settings
    ordered = rows if metric.best is None else rows.sort_values("mean", ascending=not metric.higher)
    parts = [
        f"<h2>{html.escape(metric.title)}</h2>",
        f"<p><code>--metric {html.escape(shlex.quote(metric.name))}</code></p>",
        _paragraph(finding(metric) + "."),
        *map(_paragraph, remarks(metric)),
    ]
    if metric.best is not None and len(rows) > 1:
        parts += [
            _paragraph("It was picked on the same runs that its interval comes from, which makes "
                       "both optimistic. Before you rely on it, measure it with new seeds:"),
            f"<pre>{html.escape(retest(metric, sweep, swept))}</pre>",
        ]  # fmt: skip
    parts += [_table(ordered.head(5), metric.knobs), *images]
    if len(ordered) > 5:
        rest = _table(ordered, metric.knobs)
        parts.append(f"<details><summary>All {len(ordered)} settings</summary>{rest}</details>")
    return "\n".join(parts)


def _image(metric: Metric, picture: Picture, folder: Path) -> str:
    """Writes a figure's PNG and SVG; returns it as HTML."""
    where = "".join(f"-{text}" for text in metric.where.values())
    stem = re.sub(r"[^\w-]+", "-", f"{metric.name}{where}-{picture.name}")
    png = plots.png(picture.figure)
    with replacing(folder / f"{stem}.png", binary=True) as stream:
        stream.write(png)
    with replacing(folder / f"{stem}.svg", binary=True) as stream:
        picture.figure.savefig(stream, format="svg", metadata={"Date": None})
    return plots.img_tag(png, picture.alt)


def _folded(flat: list[Metric]) -> list[str]:
    """The metrics that no knob changes."""
    if not flat:
        return []
    items = "".join(f"<li>{html.escape(finding(metric))}</li>" for metric in flat)
    count = "1 metric that is" if len(flat) == 1 else f"{len(flat)} metrics that are"
    summary = f"{count} the same in every setting"
    return [f"<details><summary>{summary}</summary><ul>{items}</ul></details>"]


def _paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def _table(rows: pandas.DataFrame, knobs: list[str]) -> str:
    paired = [name for name in PAIRED if name in rows]
    columns = [*knobs, "mean", "low", "high", "n", *paired]
    head = "".join(f'<th scope="col">{html.escape(TITLES.get(c, c))}</th>' for c in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(_cell(c, row[c]))}</td>" for c in columns) + "</tr>"
        for _, row in rows.iterrows()
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide">{table}</div>'


def _cell(column: str, value: object) -> str:
    if column in ("mean", "low", "high", *PAIRED):
        return f"{value:.4g}" if value == value else ""
    return f"{value:.0f}" if column == "n" else shown(value)


def _page(sweep: Sweep, failed: list[dict], sections: list[str]) -> str:
    title = html.escape(f"Sweep of {sweep.target}")
    facts = [
        f"{sweep.n_runs} runs (code {'; '.join(sweep.code)}). Intervals are 95 % t intervals over "
        "seeds, each seed an independent run; differences are paired by seed. Rows of a run that "
        "do not differ in a text are averaged. The figures are beside this page as PNG and SVG, "
        "the numbers in records.parquet of the sweep's folder."
    ]
    if sweep.n_left_out:
        facts.append(
            f"{sweep.n_left_out} runs of other code are left out; --include-old adds them."
        )
    if failed:
        facts.append(f"Runs that failed and are missing: {len(failed)}.")
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width">',
            f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>",
            f"<h1>{title}</h1>",
            *map(_paragraph, facts),
            *sections,
            "</body>\n</html>\n",
        ]
    )
