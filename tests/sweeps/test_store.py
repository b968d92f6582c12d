"""A sweep's folder holds complete runs only, each once."""

import errno
import json
import os
from pathlib import Path

import pandas
import pytest

from lossbook.sweeps.jobs import grid
from lossbook.sweeps.store import NotWritten, Store, by_error, failures, records, renew_table, table
from lossbook.sweeps.targets import find

DONE = {"rows": [{"score": 1.5}], "claims": [], "seconds": 1.0, "host": "here"}
FAILED = {"error": "no luck", "traceback": "…", "seconds": 1.0, "host": "here"}


@pytest.fixture
def store(reader) -> Store:
    return Store(Path("out"))


@pytest.fixture
def jobs(reader):
    return grid(find("experiment:run"), ["widths=[1],[2,3]"], "0:2")


def test_a_run_is_kept_once(store, jobs):
    assert not store.has(jobs[0])
    place = store.keep(jobs[0], {**DONE, "output": "hello"})
    assert store.has(jobs[0]) and (place / "output.txt").read_text() == "hello"
    store.keep(jobs[0], {**DONE, "rows": [{"score": 99}]})
    assert [record["rows"] for record in records(store.folder)] == [[{"score": 1.5}]]
    assert os.listdir(store.runs) == [jobs[0].id]


def test_a_failed_run_is_replaced_and_goes_when_it_succeeds(store, jobs):
    store.keep(jobs[0], FAILED)
    store.keep(jobs[0], {**FAILED, "error": "again"})
    assert [record["error"] for record in failures(store.folder)] == ["again"]
    assert not store.has(jobs[0]) and records(store.folder) == []
    store.keep(jobs[0], DONE)
    assert failures(store.folder) == [] and os.listdir(store.failed) == []


def test_a_full_disk_leaves_nothing(store, jobs, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(NotWritten, match="out can't be written to: No space left on device"):
        store.keep(jobs[0], DONE)
    assert os.listdir(store.runs) == []


def test_abandoned_folders_go_and_those_in_progress_stay(store):
    old, new = (store.runs / name for name in (".a.partial", ".b.partial"))
    for place in (old, new):
        place.mkdir()
    os.utime(old, (0, 0))
    Store(store.folder)
    assert os.listdir(store.runs) == [".b.partial"]
    assert records(store.folder) == []


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_named(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(ValueError, match="output folder .*locked can't be written to"):
        Store(tmp_path / "locked")


def test_a_damaged_record_is_named(store, jobs):
    place = store.keep(jobs[0], DONE)
    (place / "record.json").write_text("{")
    with pytest.raises(ValueError, match="record.json can't be read: .*; delete its folder"):
        records(store.folder)


def test_the_table_has_a_row_for_each_row_and_claim(store, jobs):
    claim = {"id": "p/c", "kind": "measured", "metric": "MAP@R", "treatment": "a", "baseline": "b"}
    claim |= {"n": 5, "mean": 0.1, "low": 0.0, "high": 0.2, "verdict": "inconclusive"}
    store.keep(jobs[0], {**DONE, "rows": [{"score": 1.5, "mixed": 1}, {"score": None}]})
    store.keep(jobs[1], {**DONE, "rows": [{"mixed": "x"}], "claims": [claim]})
    frame = pandas.read_parquet(store.write_table())
    assert len(frame) == 4 and frame["run"].nunique() == 2
    assert frame["score"].tolist()[0] == 1.5 and frame["score"].isna().sum() == 3
    assert frame["widths"].tolist() == ["[1]", "[1]", "[2, 3]", "[2, 3]"]
    assert frame["mixed"].dropna().tolist() == ["1", '"x"']
    last = frame.iloc[-1]
    assert (last["claim"], last["claim_difference"], last["claim_verdict"]) == (
        "p/c",
        0.1,
        "inconclusive",
    )


def test_the_table_is_renewed_if_a_run_has_come_or_gone(store, jobs):
    store.keep(jobs[0], DONE)
    renew_table(store.folder)
    table_file = store.folder / "records.parquet"
    assert len(pandas.read_parquet(table_file)) == 1
    os.utime(table_file, (4e9, 4e9))
    renew_table(store.folder)
    assert table_file.stat().st_mtime == 4e9
    os.utime(table_file, (1, 1))
    store.keep(jobs[1], DONE)
    renew_table(store.folder)
    assert len(pandas.read_parquet(table_file)) == 2


def test_errors_are_grouped_by_their_first_line():
    errors = [("a\nb", 1), ("c", 2), ("c\nd", 3)]
    assert list(by_error(errors).items()) == [("c", [2, 3]), ("a", [1])]


def test_an_empty_table(store):
    assert table([]).empty
    assert pandas.read_parquet(store.write_table()).empty


def test_records_are_plain_json(store, jobs):
    place = store.keep(jobs[0], DONE)
    record = json.loads((place / "record.json").read_text(), parse_constant=pytest.fail)
    assert record["run"] == jobs[0].id and record["fingerprint"] == jobs[0].target.fingerprint
