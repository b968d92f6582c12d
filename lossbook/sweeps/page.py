"""A sweep's report: its figures as PNG and SVG, and one HTML page that needs no other file."""

import html
import json
import re
import shlex
from collections.abc import Iterable
from pathlib import Path

import pandas

from lossbook import plots
from lossbook._files import replacing
from lossbook.sweeps.differences import against_best
from lossbook.sweeps.drawing import Picture, pictures
from lossbook.sweeps.effects import effects
from lossbook.sweeps.measured import Metric, Sweep
from lossbook.sweeps.words import failures, finding, remarks, retest, shown, tried

STYLE = """
body { font-family: system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em;
       line-height: 1.5; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 1em 0; overflow-wrap: normal; }
th, td { text-align: right; padding: 0.2em 0.6em; border-bottom: 1px solid #ccc; }
pre { overflow-x: auto; background: #f4f4f4; padding: 0.6em; }
summary { cursor: pointer; }
"""
SHOWN = 10  # settings in a table that is open
FIGURES = "lossbook-figures"  # where a page names those that were written with it
PAIRED = ("difference", "difference_low", "difference_high")
TITLES = {
    "low": "95 % from",
    "high": "to",
    "n": "seeds",
    "error": "failed runs",
    "difference": "minus the best",
    "difference_low": "95 % from",
    "difference_high": "to",
}


def write(sweep: Sweep, swept: Path, folder: Path) -> Path:
    """Writes the figures and the page into a folder; returns the page's path.

    The figures of an earlier report there, which its page names, go.

    Args:
        sweep: what the runs say.
        swept: the sweep's folder.
        folder: where to; made if it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "report.html"
    earlier = _figures_of(page)
    depends = [metric for metric in sweep.metrics if metric.knobs or not sweep.knobs]
    sections, figures = [], []
    for metric in depends:
        drawn = {_stem(metric, p): p for p in [*pictures(metric), *against_best(metric)]}
        images = [_image(folder / stem, picture) for stem, picture in drawn.items()]
        figures += [f"{stem}.{kind}" for stem in drawn for kind in ("png", "svg")]
        sections.append(_section(metric, sweep, swept, images))
    flat = [metric for metric in sweep.metrics if metric not in depends]
    with replacing(page) as stream:
        stream.write(_page(sweep, figures, [*sections, *_folded(flat)]))
    for name in set(earlier) - set(figures):
        (folder / name).unlink(missing_ok=True)
    return page


def _figures_of(page: Path) -> list[str]:
    """The names of the figures beside an earlier page."""
    text = page.read_text("utf-8") if page.is_file() else ""
    named = re.search(f'<meta name="{FIGURES}" content="([^"]*)">', text)
    names = json.loads(html.unescape(named[1])) if named else []
    return [name for name in names if re.fullmatch(r"[\w-]+\.(png|svg)", name)]


def _section(metric: Metric, sweep: Sweep, swept: Path, images: list[str]) -> str:
    rows = metric.settings
    if metric.best is not None:
        order = [False, False, not metric.higher]
        rows = rows.sort_values(["ranked", "is_best", "mean"], ascending=order)
    parts = [
        f"<h2>{html.escape(metric.title)}</h2>",
        f"<p><code>--metric {html.escape(shlex.quote(metric.name))}</code></p>",
        _paragraph(finding(metric) + "."),
        *map(_paragraph, remarks(metric)),
    ]
    if len(metric.estimates.ranked) > 1:
        parts += [
            _paragraph("It was picked on the same runs that its interval comes from, which makes "
                       "both optimistic. Before you rely on it, measure it with new seeds:"),
            f"<pre>{html.escape(retest(metric, sweep, swept))}</pre>",
        ]  # fmt: skip
    parts += [_table(rows.head(SHOWN), metric.knobs), *_effects(metric), *images]
    if len(rows) > SHOWN:
        rest = _table(rows, metric.knobs)
        parts.append(f"<details><summary>All {len(rows)} settings</summary>{rest}</details>")
    return "\n".join(parts)


def _effects(metric: Metric) -> list[str]:
    """What each knob changes by itself, as a list."""
    found = effects(metric)
    if not found:
        return []
    words = "Each knob by itself, in the same seeds, averaged over the settings of the others:"
    return [_paragraph(words), _list(map(str, found))]


def _stem(metric: Metric, picture: Picture) -> str:
    where = "".join(f"-{text}" for text in metric.where.values())
    return re.sub(r"[^\w-]+", "-", f"{metric.name}{where}-{picture.name}")


def _image(path: Path, picture: Picture) -> str:
    """Writes a figure's PNG and SVG; returns it as HTML."""
    png = plots.png(picture.figure)
    with replacing(path.with_name(f"{path.name}.png"), binary=True) as stream:
        stream.write(png)
    with replacing(path.with_name(f"{path.name}.svg"), binary=True) as stream:
        picture.figure.savefig(stream, format="svg", metadata={"Date": None})
    return plots.img_tag(png, picture.alt)


def _folded(flat: list[Metric]) -> list[str]:
    """The metrics that no knob changes."""
    if not flat:
        return []
    count = "1 metric that is" if len(flat) == 1 else f"{len(flat)} metrics that are"
    summary = f"{count} the same in every setting"
    return [f"<details><summary>{summary}</summary>{_list(map(finding, flat))}</details>"]


def _list(items: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{html.escape(item)}</li>' for item in items)}</ul>"


def _paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def _table(rows: pandas.DataFrame, knobs: list[str]) -> str:
    optional = [name for name in PAIRED if name in rows] + ["error"] * bool(rows["failed"].any())
    columns = [*knobs, "mean", "low", "high", "n", *optional]
    head = "".join(f'<th scope="col">{html.escape(TITLES.get(c, c))}</th>' for c in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(_cell(c, row))}</td>" for c in columns) + "</tr>"
        for _, row in rows.iterrows()
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide">{table}</div>'


def _cell(column: str, row: pandas.Series) -> str:
    if column in ("mean", "low", "high", *PAIRED):
        return f"{row[column]:.4g}" if pandas.notna(row[column]) else ""
    if column == "error":
        return f"{row['failed']}, {row['error']}" if row["failed"] else ""
    return tried(row) if column == "n" else shown(row[column])


def _page(sweep: Sweep, figures: list[str], sections: list[str]) -> str:
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
    failed = [f"Runs that failed and are missing: {len(sweep.failed)}."] if sweep.failed else []
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width">',
            f'<meta name="{FIGURES}" content="{html.escape(json.dumps(figures))}">',
            f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>",
            f"<h1>{title}</h1>",
            *map(_paragraph, [*facts, *failed]),
            _list(failures(sweep.failed, sweep.knobs)) if failed else "",
            *sections,
            "</body>\n</html>\n",
        ]
    )
