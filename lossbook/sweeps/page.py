"""A sweep's report: its figures as PNG and SVG, and one HTML page that needs no other file."""

import html
import re
from pathlib import Path

import pandas

from lossbook import plots
from lossbook._files import replacing
from lossbook.sweeps.drawing import finding, pictures
from lossbook.sweeps.measured import Metric, Sweep, setting, shown

STYLE = """
body { font-family: system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em;
       line-height: 1.5; }
table { border-collapse: collapse; margin: 1em 0; }
th, td { text-align: right; padding: 0.2em 0.8em; border-bottom: 1px solid #ccc; }
summary { cursor: pointer; }
"""


def write(sweep: Sweep, failed: list[dict], folder: Path) -> Path:
    """Writes the figures and the page into a folder; returns the page's path.

    Args:
        sweep: what the runs say.
        failed: the records of runs that failed.
        folder: where to; made if it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sections = [_section(metric, sweep, folder) for metric in sweep.metrics]
    page = folder / "report.html"
    with replacing(page) as stream:
        stream.write(_page(sweep, failed, sections))
    return page


def _section(metric: Metric, sweep: Sweep, folder: Path) -> str:
    images = []
    for picture in pictures(metric, sweep.knobs):
        stem = re.sub(r"[^\w-]+", "-", f"{metric.name}-{picture.name}")
        png = plots.png(picture.figure)
        with replacing(folder / f"{stem}.png", binary=True) as stream:
            stream.write(png)
        with replacing(folder / f"{stem}.svg", binary=True) as stream:
            picture.figure.savefig(stream, format="svg", metadata={"Date": None})
        images.append(plots.img_tag(png, picture.alt))
    ordered = metric.settings.sort_values("mean", ascending=not metric.higher)
    parts = [
        f"<h2>{html.escape(metric.label)}</h2>",
        _paragraph(finding(metric, sweep.knobs) + "."),
    ]
    parts += [_paragraph(text) for text in _remarks(metric, sweep)]
    parts += [_table(ordered.head(5), sweep.knobs), *images]
    if len(ordered) > 5:
        rest = _table(ordered, sweep.knobs)
        parts.append(f"<details><summary>All {len(ordered)} settings</summary>{rest}</details>")
    return "\n".join(parts)


def _remarks(metric: Metric, sweep: Sweep) -> list[str]:
    remarks = []
    if len(metric.settings) > 1:
        end = int(metric.values["seed"].max()) + 1
        remarks.append(
            f"The best of {len(metric.settings)} settings was picked on the same runs that its "
            "interval comes from, which makes both optimistic. Before you rely on it, run "
            f"{setting(metric.best, sweep.knobs)} with new seeds: --seeds {end}:{2 * end}."
        )
    if metric.n_missing:
        remarks.append(f"{metric.n_missing} runs have no finite value and do not count.")
    if metric.settings["n"].min() < 2:
        remarks.append("Settings with a single seed have no interval.")
    return remarks


def _paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def _table(rows: pandas.DataFrame, knobs: list[str]) -> str:
    columns = [*knobs, "mean", "low", "high", "n"]
    titles = {"low": "95 % from", "high": "to", "n": "seeds"}
    head = "".join(f'<th scope="col">{html.escape(titles.get(c, c))}</th>' for c in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(_cell(c, row[c]))}</td>" for c in columns) + "</tr>"
        for _, row in rows.iterrows()
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(column: str, value: object) -> str:
    if column in ("mean", "low", "high"):
        return f"{value:.4g}" if value == value else ""
    return f"{value:.0f}" if column == "n" else shown(value)


def _page(sweep: Sweep, failed: list[dict], sections: list[str]) -> str:
    title = html.escape(f"Sweep of {sweep.target}")
    facts = [
        f"{sweep.n_runs} runs (code {'; '.join(sweep.code)}). Bands and intervals are 95 % t "
        "intervals over seeds, each seed an independent run; where a run returned several rows for "
        "one setting, their mean counts."
    ]
    if sweep.n_left_out:
        facts.append(
            f"{sweep.n_left_out} runs of other code are left out; --include-old adds them."
        )
    if failed:
        facts.append(f"Runs that failed and are missing: {len(failed)}.")
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>",
            f"<h1>{title}</h1>",
            *map(_paragraph, facts),
            *sections,
            "</body>\n</html>\n",
        ]
    )
