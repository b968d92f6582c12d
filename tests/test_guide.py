"""The start page's map and search: what is written is a link, what is coming is not."""

import re

import pytest

from lossbook import catalog, guide


def shown(show, *arguments) -> str:
    """The HTML that a function displays."""
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    InteractiveShell.instance()
    with capture_output() as captured:
        show(*arguments)
    return captured.outputs[0].data["text/html"]


@pytest.fixture
def only_notebook_09(monkeypatch):
    monkeypatch.setattr(guide.notebooks, "exists", lambda entry: entry.number == "09")


def test_the_map_names_every_part_and_notebook():
    text = shown(guide.show_map)
    for part in catalog.parts():
        assert f"<b>{part.title}</b>" in text
    assert all(entry.number in text for entry in catalog.notebooks())


def test_the_map_links_what_is_written(only_notebook_09):
    links = re.findall(r'href="([^"]+)"', shown(guide.show_map))
    assert links == ["02_self_supervised/09_temperature.ipynb"]


def test_a_hit_leads_to_the_paper_s_section():
    table = guide.hits_table("hard negatives temperature")
    assert "02_self_supervised/09_temperature.ipynb#Temperature-and-hard-negatives" in table


def test_a_hit_that_is_not_written_says_so():
    table = guide.hits_table("isogclr")
    assert "coming" in table and "href" not in table


def test_no_hit_and_no_words():
    assert "Nothing found" in guide.hits_table("qwertyuiop")
    assert guide.hits_table("  ") == ""


def test_words_are_escaped():
    assert "<script>" not in shown(guide.search_box, "<script>")


def test_the_course_has_twelve_weeks_and_ends_with_a_project():
    text = shown(guide.show_twelve_weeks)
    assert re.findall(r'top">(\d+)</td>', text) == [str(week) for week in range(1, 13)]
    assert "project: one claim of the ledger on your own data" in text
