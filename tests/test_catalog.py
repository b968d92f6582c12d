"""The catalog is complete and consistent, and finds what a reader asks for."""

import re
import subprocess
import sys

import pytest

from lossbook import catalog


def test_there_are_215_papers_in_66_notebooks_6_primers_and_a_guide():
    assert len(catalog.papers()) == 215
    assert len({paper.id for paper in catalog.papers()}) == 215
    numbers = [entry.number for entry in catalog.notebooks() if entry.number]
    assert numbers == [f"{number:02}" for number in range(1, 67)]
    folders = [entry.path.split("/")[1] for entry in catalog.notebooks()]
    assert folders.count("00_primers") == 6 and folders.count("14_guides") == 1


def test_every_paper_belongs_to_the_notebook_that_it_names():
    for paper in catalog.papers():
        entry = catalog.notebook(paper.notebook)
        assert paper.id in entry.papers
        assert paper.part == entry.part


@pytest.mark.parametrize("paper", catalog.papers(), ids=lambda paper: paper.id)
def test_every_paper_has_what_a_reader_sees(paper):
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", paper.id)
    for field in ("title", "short", "venue", "kind", "idea", "formula"):
        assert getattr(paper, field).strip(), field
    assert 1950 < paper.year < 2100
    assert paper.known in {"code", "paper", "recalled", "inferred"}
    assert paper.arxiv is None or re.fullmatch(r"\d{4}\.\d{4,5}|[a-z-]+/\d{7}", paper.arxiv)


def test_one_name_three_floors():
    for entry in catalog.notebooks():
        if entry.number:
            folder = catalog.part(entry.part).folder
            package = folder.split("_", 1)[1]
            assert entry.path == f"notebooks/{folder}/{entry.number}_{entry.slug}.ipynb"
            assert entry.module == f"lossbook.{package}.{entry.slug}"
            assert entry.test == f"tests/{package}/test_{entry.slug}.py"


def test_prerequisites_and_course_name_notebooks():
    for entry in catalog.notebooks():
        for name in entry.needs:
            catalog.notebook(name)
    weeks = catalog.twelve_weeks()
    assert len(weeks) == 12
    for name in sum(weeks, []):
        if not name.startswith("project:"):
            catalog.notebook(name)


@pytest.mark.parametrize(
    "name",
    [
        "21",
        "pair_weighting",
        "pair-weighting",
        "21_pair_weighting",
        "notebooks/03_metric_learning/21_pair_weighting.ipynb",
        "03_metric_learning/21_pair_weighting.ipynb",
        "21_pair_weighting.ipynb",
        "03_metric_learning\\21_pair_weighting.ipynb",
    ],
)
def test_a_notebook_has_many_names(name):
    assert catalog.notebook(name).title == "Pair weighting, negative pairs and mixup"


def test_primers_and_single_digits_are_found():
    assert catalog.notebook("1").slug == "cross_entropy_family"
    assert catalog.notebook("pairs").part == 0
    assert catalog.notebook("00_start_here").path == catalog.START_HERE


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(ValueError, match="'pair_weightin'; did you mean pair_weighting"):
        catalog.notebook("pair_weightin")
    with pytest.raises(ValueError, match="'multi-similarty'; did you mean multi-similarity"):
        catalog.paper("multi-similarty")
    with pytest.raises(ValueError, match="no notebook is called '99'; `lossbook list`"):
        catalog.notebook("99")


def test_a_part_has_many_names():
    for name in ("3", 3, "03_metric_learning", "metric_learning", "metric", "Metric learning"):
        assert catalog.part(name).number == 3
    with pytest.raises(ValueError, match="no part is called 'cooking'; the parts:\n   0  00_prim"):
        catalog.part("cooking")
    with pytest.raises(ValueError, match="several parts match 'learning'"):
        catalog.part("learning")


def test_search_ranks_names_before_mentions():
    found = [paper.id for paper in catalog.search("multi similarity")]
    assert found[0] == "multi-similarity"
    assert catalog.search("multi zebra") == []
    assert catalog.search("  ") == []


def test_search_finds_knobs_topics_and_beginnings_of_words():
    assert any("temperature" in " ".join(paper.knobs) for paper in catalog.search("temperature"))
    assert {paper.id for paper in catalog.search("temperature")} <= {
        paper.id for paper in catalog.search("temp")
    }
    assert "pairs" in {entry.slug for entry in catalog.search_notebooks("triplet")}
    assert "pair_weighting" in {entry.slug for entry in catalog.search_notebooks("mixup")}


def test_the_catalog_is_read_without_heavy_imports():
    code = (
        "import sys, lossbook.catalog as c; c.papers(); c.search('loss');"
        "print([m for m in ('torch', 'numpy', 'pandas', 'nbformat') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
