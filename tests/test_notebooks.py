"""Notebooks are found, read, and written whole or not at all."""

import os
import stat

import nbformat
import nbformat.v4 as v4
import pytest

from lossbook import catalog, notebooks


def test_home_is_the_checkout(monkeypatch):
    monkeypatch.delenv("LOSSBOOK_HOME", raising=False)
    assert (notebooks.home() / "lossbook" / "notebooks.py").samefile(notebooks.__file__)


def test_home_can_be_set_or_be_above_us(book, monkeypatch, tmp_path):
    assert notebooks.home() == book.home
    monkeypatch.setenv("LOSSBOOK_HOME", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="LOSSBOOK_HOME must be a checkout .*nowhere"):
        notebooks.home()

    monkeypatch.delenv("LOSSBOOK_HOME")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(notebooks, "__file__", str(tmp_path / "site-packages/lossbook/x.py"))
    with pytest.raises(ValueError, match="not part of the installed package.*LOSSBOOK_HOME"):
        notebooks.home()
    monkeypatch.chdir(book.home / "notebooks" / "00_primers")
    assert notebooks.home() == book.home


def test_a_notebook_is_found_by_name_or_path(book, monkeypatch, tmp_path):
    path = book.add("21", ("code", "1"))
    monkeypatch.chdir(tmp_path)  # where such a path leads nowhere: the catalog knows it
    for name in ("21", "pair_weighting", "notebooks/03_metric_learning/21_pair_weighting.ipynb"):
        assert notebooks.find(name) == path
    monkeypatch.chdir(path.parent)
    assert notebooks.find(path.name) == path
    assert notebooks.written() == [path]
    with pytest.raises(ValueError, match="not written yet; written so far: 21_pair_weighting"):
        notebooks.find("22")


def test_what_is_written_is_known_without_a_checkout(book, monkeypatch, tmp_path):
    book.add("09", ("code", "1"))
    assert notebooks.exists(catalog.notebook("09"))
    assert not notebooks.exists(catalog.notebook("10"))
    monkeypatch.setenv("LOSSBOOK_HOME", str(tmp_path / "nowhere"))
    done = any(catalog.paper(name).done for name in catalog.notebook("09").papers)
    assert notebooks.exists(catalog.notebook("09")) == done


def test_reading_what_is_no_notebook_says_so(tmp_path):
    path = tmp_path / "broken.ipynb"
    path.write_text('{"cells": [')
    with pytest.raises(ValueError, match="broken.ipynb is not a readable notebook"):
        notebooks.read(path)


def test_writing_replaces_the_file_in_one_step(tmp_path, monkeypatch):
    path = tmp_path / "a.ipynb"
    notebooks.write(v4.new_notebook(cells=[v4.new_markdown_cell("ä")]), path)
    assert notebooks.read(path).cells[0].source == "ä"
    before = path.read_bytes()

    def fail(nb, stream):
        stream.write('{"half": ')
        raise OSError("disk full")

    monkeypatch.setattr(nbformat, "write", fail)
    with pytest.raises(OSError, match="disk full"):
        notebooks.write(v4.new_notebook(), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.ipynb"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_written_files_have_ordinary_permissions(tmp_path):
    path = tmp_path / "a.ipynb"
    notebooks.write(v4.new_notebook(), path)
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(ordinary.stat().st_mode)
    path.chmod(0o600)
    notebooks.write(v4.new_notebook(), path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
