"""The page of all claims with their verdicts."""

import html
from functools import cache
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from lossbook import catalog, ledger, notebooks
from lossbook.site.markup import Links, badge, link, raw, tag
from lossbook.site.pages import claim_id

COLUMNS = ("Claim", "Verdict", "Difference [95 % interval]", "Seeds", "Smallest effect")
SURVIVES = "its difference from zero survives Benjamini and Hochberg's procedure"


def claims() -> list[dict]:
    """The claims of all notebooks of the book."""
    return _claims(notebooks.home())


@cache
def _claims(home: Path) -> list[dict]:
    return ledger.collect([home / "notebooks"])


class Ledger(SphinxDirective):
    """What the claims add up to, and a table of them for each paper."""

    def run(self) -> list[nodes.Node]:
        records, links = claims(), Links(self.env)
        if not records:
            return [raw(tag("p", "No executed notebook has recorded a claim."))]
        facts = ledger.summary(records)
        found: list[nodes.Node] = [raw(_summary(facts))]
        for part in catalog.parts():
            names = dict.fromkeys(row["paper"] for row in records if row["part"] == part.number)
            if names:
                section = nodes.section(ids=[f"part-{part.number}"])
                title = f"{part.number} {part.title}"
                section += nodes.title(title, title)
                for name in names:
                    rows = [row for row in records if row["paper"] == name]
                    section += raw(_paper(name, rows, facts["survivors"], links))
                found.append(section)
        return found


def _summary(facts: dict) -> str:
    counts = " ".join(
        f"<span>{count} {badge(verdict)}</span>"
        for verdict, count in sorted(facts["verdicts"].items())
    )
    return (
        f'<p class="place">{counts}</p>'
        f"<p>{facts['measured']} of the {facts['claims']} claims are measured. If none of them "
        f"were true, chance alone would give about {facts['expected_by_chance']:.1f} verdicts "
        f"other than inconclusive. {len(facts['survivors'])} (marked *) survive Benjamini and "
        "Hochberg's procedure at a false discovery rate of 5 %. "
        f"{facts['exact']} are checked exactly: they hold or they don't.</p>"
    )


def _paper(name: str, rows: list[dict], survivors: list[str], links: Links) -> str:
    paper = catalog.paper(name)
    head = "".join(tag("th", column, scope="col") for column in COLUMNS)
    body = "".join(_row(row, row["id"] in survivors, links) for row in rows)
    title = f"{link(paper.short, links.paper(paper))} <small>{paper.year}</small>"
    return (
        f'<h3 id="{name}">{title}</h3><table class="ledger"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )


def _row(row: dict, survives: bool, links: Links) -> str:
    entry = catalog.notebook(row["notebook"])
    sentence = link(row["sentence"], links.notebook(entry, claim_id(row["id"])))
    verdict = badge(row["verdict"])
    if survives:
        verdict += f' <abbr title="{SURVIVES}">*</abbr>'
    cells = (sentence, verdict, *map(html.escape, _numbers(row)))
    return "<tr>" + "".join(map(_cell, COLUMNS, cells)) + "</tr>"


def _numbers(row: dict) -> tuple[str, str, str]:
    if row["kind"] == "exact":
        deviation = f"at most {row['largest']:.2g}, tolerance {row['tolerance']:.2g}"
        return deviation, f"{row['n']:,} cases", "none: exact"
    interval = f"{row['mean']:+.3g} [{row['low']:+.3g}, {row['high']:+.3g}]".replace("-", "−")
    return f"{row['metric']}: {interval}", str(row["n"]), f"{row['smallest_effect']:.2g}"


def _cell(column: str, content: str) -> str:
    return f'<td data-column="{html.escape(column)}">{content}</td>'
