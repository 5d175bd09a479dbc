"""Delta's change feed: commits, images before updates, and keys that an update changes."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore.dsl.log import JSONLines, Parquet
from featurestore.dsl.table_source import TableSource
from featurestore.dtypes import INT64, STRING, TIMESTAMP
from featurestore.errors import DefinitionError
from featurestore.log.changes import Changes, change_columns, effective, read_changes

Row = tuple[int, int, str, str]


def source(**more: object) -> TableSource:
    declared = {"log": Parquet("*.parquet"), "primary_key": "id", "format": "delta_cdf"} | more
    return TableSource("t", **declared)  # type: ignore[arg-type]


def write(root: Path, rows: list[Row], name: str = "cdf", **more: list[object]) -> None:
    version, id_, user, kind = (list(column) for column in zip(*rows, strict=True))
    at = pa.array([v * 1_000_000 for v in version], pa.timestamp("us", "UTC"))
    columns = {
        "id": id_,
        "user": user,
        "_change_type": kind,
        "_commit_version": version,
        "_commit_timestamp": at,
    }
    pq.write_table(pa.table(columns | more), root / f"{name}.parquet")


def read(root: Path, **more: object) -> Changes:
    (changes,) = read_changes(source(**more), (), None, root)
    return changes


def test_a_change_feed_has_its_own_time_and_position(tmp_path: Path):
    write(tmp_path, [(0, 1, "a", "insert")])
    assert effective(source()) == ("_commit_timestamp", ("_commit_version", "__position_1"))
    assert change_columns(source(), (), tmp_path) == {
        "id": INT64, "user": STRING, "_commit_version": INT64, "_commit_timestamp": TIMESTAMP,
        "__position_1": INT64,
    }  # fmt: skip
    declared = source(columns=["user"], changed_at="_commit_timestamp", position="_commit_version")
    assert list(change_columns(declared, (), tmp_path)) == [
        "user",
        "id",
        "_commit_timestamp",
        "_commit_version",
    ]


def test_images_before_updates_say_nothing_and_deletes_of_a_commit_stand_first(tmp_path: Path):
    write(
        tmp_path,
        [
            (0, 1, "a", "insert"),
            (1, 1, "a", "update_preimage"),
            (1, 1, "b", "update_postimage"),
            (2, 1, "c", "insert"),
            (2, 1, "b", "delete"),
        ],
    )
    changes = read(tmp_path)
    assert changes.table.select(["user", "_commit_version", "__position_1", "__op"]).to_pylist() == [
        {"user": "a", "_commit_version": 0, "__position_1": 1, "__op": 0},
        {"user": "b", "_commit_version": 1, "__position_1": 1, "__op": 0},
        {"user": "c", "_commit_version": 2, "__position_1": 1, "__op": 0},
        {"user": "b", "_commit_version": 2, "__position_1": 0, "__op": 1},
    ]
    assert (changes.ignored, changes.rejected_count) == (1, 0)


def test_an_update_that_changes_the_primary_key_deletes_the_old_one(tmp_path: Path):
    write(tmp_path, [(1, 1, "a", "update_preimage"), (1, 7, "x", "update_postimage")], "1")
    write(tmp_path, [(1, 2, "a", "update_postimage"), (1, 7, "b", "update_preimage")], "2")
    tables = [changes.table for changes in read_changes(source(), (), None, tmp_path)]
    assert pa.concat_tables(tables).select(["id", "__position_1", "__op"]).to_pylist() == [
        {"id": 1, "__position_1": 0, "__op": 1},
        {"id": 7, "__position_1": 1, "__op": 0},
        {"id": 2, "__position_1": 1, "__op": 0},
    ]


def test_the_old_key_is_known_to_be_gone_when_that_was_committed(tmp_path: Path):
    arrived = pa.array([0, 9_000_000], pa.timestamp("us")).to_pylist()
    write(tmp_path, [(5, 1, "a", "update_preimage"), (5, 2, "a", "update_postimage")], arrived=arrived)
    changes = read(tmp_path, available_at="arrived")
    assert [at.value for at in changes.table.column("arrived")] == [5_000_000, 9_000_000]


def test_a_deletion_is_not_known_before_it_was_committed(tmp_path: Path):
    arrived = pa.array([0, 9_000_000], pa.timestamp("us")).to_pylist()
    write(tmp_path, [(5, 1, "a", "delete"), (5, 2, "a", "delete")], arrived=arrived)
    changes = read(tmp_path, available_at="arrived")
    assert [at.value for at in changes.table.column("arrived")] == [5_000_000, 9_000_000]


def test_a_log_that_is_no_change_feed_says_so(tmp_path: Path):
    pq.write_table(pa.table({"id": [1]}), tmp_path / "x.parquet")
    with pytest.raises(DefinitionError, match='no column "_change_type"'):
        change_columns(source(), (), tmp_path)


def test_a_feed_in_json_lines_is_the_feed_in_parquet(tmp_path: Path):
    rows = [
        (0, 1, "a", "insert"), (1, 1, "a", "update_preimage"), (1, 1, "b", "update_postimage"),
        (2, 1, "b", "delete"), (2, 1, "c", "insert"),
    ]  # fmt: skip
    write(tmp_path, rows)
    lines = [
        {
            "id": id_,
            "user": user,
            "_change_type": kind,
            "_commit_version": version,
            "_commit_timestamp": f"1970-01-01T00:00:0{version}Z",
        }
        for version, id_, user, kind in rows
    ]
    (tmp_path / "cdf.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (written,) = read_changes(source(), ("user",), None, tmp_path)
    (of_lines,) = read_changes(source(log=JSONLines("cdf.jsonl")), ("user",), None, tmp_path)
    assert (of_lines.rejected_count, of_lines.ignored) == (0, 1)
    assert of_lines.table.select(written.table.column_names).equals(written.table)
