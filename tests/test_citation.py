"""BibTeX entries are complete and escaped."""

from dataclasses import replace

import pytest

from lossbook import __version__, catalog, citation
from lossbook.citation import bibtex, bibtex_of_release

PAPER = replace(
    catalog.paper("multi-similarity"),
    authors=("Xun Wang", "Ève Müller"),
    title="P&L at 50% of x_i",
    arxiv="1904.06627",
)


def test_an_entry_has_author_title_venue_and_eprint():
    entry = bibtex(replace(PAPER, venue="CVPR 2019", year=2019))
    assert entry.splitlines() == [
        "@inproceedings{wang2019-multi-similarity,",
        "  author = {Xun Wang and Ève Müller},",
        r"  title = {{P\&L at 50\% of x\_i}},",
        "  booktitle = {CVPR},",
        "  year = {2019},",
        "  eprint = {1904.06627},",
        "  archiveprefix = {arXiv},",
        "  url = {https://arxiv.org/abs/1904.06627},",
        "}",
    ]


@pytest.mark.parametrize(
    "venue, kind, where",
    [
        ("JMLR 2024", "article", "journal = {JMLR}"),
        ("Neural Networks 132 (2020)", "article", "journal = {Neural Networks 132}"),
        ("arXiv", "misc", None),
        ("arXiv 2025 (ICDE 2025 recalled, not confirmed)", "misc", None),
        ("CVPR Workshops 2025 (FGVC12)", "inproceedings", "booktitle = {CVPR Workshops}"),
    ],
)
def test_the_venue_decides_the_kind_of_entry(venue, kind, where):
    entry = bibtex(replace(PAPER, venue=venue))
    assert entry.startswith(f"@{kind}{{")
    assert where in entry if where else "booktitle" not in entry and "journal" not in entry


def test_unknown_authors_are_left_out():
    entry = bibtex(replace(PAPER, authors=(), arxiv=None))
    assert entry.startswith("@inproceedings{multi-similarity-2019,")
    assert "author" not in entry and "eprint" not in entry and "url" not in entry


def test_accents_stay_in_names_and_leave_the_key():
    assert "{muller2019-" in bibtex(replace(PAPER, authors=("Ève Müller",)))
    assert "{muller2019-" in bibtex(replace(PAPER, authors=("Müller, Ève",)))


def test_every_entry_has_balanced_braces():
    for paper in catalog.papers():
        entry = bibtex(paper)
        assert entry.count("{") == entry.count("}"), entry


def test_the_release_is_cited_with_its_version_and_year():
    entry = bibtex_of_release()
    assert entry.startswith(f"@software{{lossbook-{__version__},")
    assert "author = {{The Lossbook authors}}" in entry
    assert f"version = {{{__version__}}}" in entry
    assert "year = {20" in entry


def test_a_release_without_its_citation_file_still_has_a_version(monkeypatch):
    monkeypatch.setattr(citation, "_citation_file", dict)
    assert bibtex_of_release().count("\n") == 3
