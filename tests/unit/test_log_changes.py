"""Changes of a table as flat rows: what is kept, what is rejected, and what is counted."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.dsl.log import CSV, JSONLines, Parquet
from featurestore.dsl.table_source import TableSource
from featurestore.dtypes import FLOAT64, INT64, STRING, TIMESTAMP
from featurestore.errors import DefinitionError, LogError
from featurestore.log.changes import Changes, change_columns, effective, read_changes
from featurestore.log.key_hashes import places, sorting


def source(path: str = "changes.parquet", **more: object) -> TableSource:
    log = {"parquet": Parquet, "csv": CSV, "jsonl": JSONLines}[path.rsplit(".", 1)[1]](path)
    declared = {"primary_key": "id", "changed_at": "at", "position": "lsn"} | more
    return TableSource("orders", log=log, **declared)  # type: ignore[arg-type]


def write(root: Path, name: str = "changes.parquet", **columns: list[object]) -> None:
    rows = max((len(values) for values in columns.values()), default=1)
    good = {
        "op": ["u"],
        "id": ["1"],
        "at": ["2026-01-01T00:00:00Z"],
        "lsn": [7],
        "user": ["ann"],
        "amount": [1.5],
    }
    columns = {part: values * rows for part, values in good.items() if part not in columns} | columns
    pq.write_table(pa.table(columns), root / name)


def read(root: Path, declared: TableSource, entity_keys: tuple[str, ...] = ("user",)) -> Changes:
    (changes,) = read_changes(declared, entity_keys, None, root)
    return changes


def test_operations_become_contents_deletes_and_truncates(tmp_path: Path):
    write(tmp_path, op=["r", "c", "U", " Insert ", "update", "DELETE", "d", "t", "Truncate"])
    changes = read(tmp_path, source())
    assert changes.table.column("__op").to_pylist() == [0, 0, 0, 0, 0, 1, 1, 2, 2]
    assert changes.table.column_names == ["id", "at", "lsn", "user", "amount", "__op"]
    assert changes.table.schema.field("at").type == pa.timestamp("us", "UTC")
    assert changes.table.schema.field("__op").type == pa.int64()
    assert changes.reasons == {}


def test_the_columns_are_the_rows_with_times_and_integer_positions(tmp_path: Path):
    write(tmp_path)
    declared = source()
    assert effective(declared) == ("at", ("lsn",))
    assert change_columns(declared, ["user"], tmp_path) == {
        "id": STRING, "at": TIMESTAMP, "lsn": INT64, "user": STRING, "amount": FLOAT64,
    }  # fmt: skip


def test_declared_operations_are_known_in_any_case_beside_the_usual_words(tmp_path: Path):
    write(tmp_path, op=["Upsert", "gone", "I", None], id=["1", "2", "3", "4"])
    changes = read(tmp_path, source(operations={"UPSERT": "u", "Gone": "d", "": "r"}))
    assert changes.table.column("__op").to_pylist() == [0, 1, 0, 0]


def test_numbers_may_be_operations(tmp_path: Path):
    write(tmp_path, op=[1, 2, 3])
    changes = read(tmp_path, source(operations={"1": "d", "2": "c"}))
    assert changes.table.column("__op").to_pylist() == [1, 0]
    assert changes.rejected_count == 1


def test_an_unknown_operation_is_rejected_with_its_value_first(tmp_path: Path):
    write(tmp_path, op=["c", "merge", None])
    changes = read(tmp_path, source())
    assert changes.table.num_rows == 1
    map_it = "map it to r, c, u, d, t or m (ignore) with operations="
    assert changes.rejected == (
        (1, f"operation 'merge' is unknown: {map_it}"),
        (2, "no operation: it is null"),
    )
    assert changes.reasons == {f"an operation is unknown: {map_it}": 1, "no operation: it is null": 1}
    assert changes.rejected_count == 2


def test_images_of_what_was_and_messages_are_ignored_and_a_row_of_nulls_is_rejected(
    tmp_path: Path,
):
    write(
        tmp_path,
        op=["m", "update_preimage", None, "c"],
        id=["1", "1", None, "1"],
        at=["2026-01-01", "2026-01-01", None, "2026-01-01"],
        lsn=[1, 2, None, 4],
        user=["ann", "ann", None, "ann"],
        amount=[1.0, 1.0, None, 1.0],
    )
    changes = read(tmp_path, source())
    assert (changes.table.num_rows, changes.ignored) == (1, 2)
    assert changes.rejected == ((2, "no operation: it is null"),)


def test_a_change_needs_primary_key_changed_at_and_position_and_a_truncate_no_key(tmp_path: Path):
    write(
        tmp_path,
        op=["u", "d", "t", "u", "d", "t"],
        id=[None, None, None, "1", "1", "1"],
        at=["2026-01-01", "2026-01-01", "2026-01-01", None, None, "2026-01-01"],
        lsn=[1, 1, 1, 1, 1, None],
    )
    changes = read(tmp_path, source())
    assert changes.table.column("__op").to_pylist() == [2]
    assert changes.reasons == {
        'no primary key: column "id" is null': 2,
        'no changed_at: column "at" is null': 2,
        'no position: column "lsn" is null': 1,
    }
    assert [row for row, _ in changes.rejected] == [0, 1, 3, 4, 5]


def test_a_delete_or_truncate_needs_no_value_elsewhere(tmp_path: Path):
    write(tmp_path, op=["u", "d", "t"], amount=["much"] * 3)
    declared = source(
        columns={"id": "string", "at": "timestamp", "lsn": "int64", "user": "string", "amount": "float64"}
    )
    changes = read(tmp_path, declared)
    assert changes.table.select(["amount", "__op"]).to_pylist() == [
        {"amount": None, "__op": 1},
        {"amount": None, "__op": 2},
    ]
    assert changes.rejected == ((0, "column \"amount\" holds no float64: 'much'"),)


def test_a_null_entity_key_is_counted_and_kept(tmp_path: Path):
    write(tmp_path, op=["c", "u", "d"], user=["ann", None, None])
    changes = read(tmp_path, source())
    assert changes.table.num_rows == 3
    assert changes.keyless == 1


def test_positions_are_integers_however_they_are_written(tmp_path: Path):
    write(
        tmp_path, lsn=["16/B374D848", "0/0", "42", " 7 ", "7FFFFFFF/FFFFFFFF", "9223372036854775807", "ff/1"]
    )
    changes = read(tmp_path, source())
    assert changes.table.column("lsn").to_pylist() == [
        0x16B374D848, 0, 42, 7, 2**63 - 1, 2**63 - 1, (255 << 32) + 1,
    ]  # fmt: skip


def test_what_is_beyond_int64_or_no_integer_is_no_position(tmp_path: Path):
    bad = ["80000000/0", "9223372036854775808", "1/2/3", "/1", "1/", "123456789/0", "soon", "1.5", ""]
    write(tmp_path, lsn=[*bad, "1"])
    changes = read(tmp_path, source())
    assert changes.table.num_rows == 1
    assert changes.reasons == {'column "lsn" holds no position': len(bad)}
    assert changes.rejected[0] == (0, "column \"lsn\" holds no position: '80000000/0'")


def test_a_position_may_be_of_several_columns(tmp_path: Path):
    write(tmp_path, file=[3, 3, 4], lsn=["10", "9", None])
    changes = read(tmp_path, source(position=["file", "lsn"]))
    assert changes.table.select(["file", "lsn"]).to_pylist() == [
        {"file": 3, "lsn": 10},
        {"file": 3, "lsn": 9},
    ]
    assert effective(source(position=["file", "lsn"]))[1] == ("file", "lsn")


def test_a_time_is_no_position(tmp_path: Path):
    write(tmp_path, lsn=pa.array([1], pa.timestamp("us", "UTC")).to_pylist())
    with pytest.raises(DefinitionError, match='column "lsn": the log has timestamp'):
        change_columns(source(), ["user"], tmp_path)


def test_times_follow_the_zone_and_unit_of_the_source(tmp_path: Path):
    write(tmp_path, at=["2026-07-01T12:00:00", "2026-07-01T12:00:00Z"])
    changes = read(tmp_path, source(timezone="Europe/Berlin"))
    assert [at.hour for at in changes.table.column("at").to_pylist()] == [10, 12]
    write(tmp_path, at=[1_000])
    with pytest.raises(DefinitionError, match="integers of no declared unit"):
        change_columns(source(), ["user"], tmp_path)
    assert read(tmp_path, source(time_unit="ms")).table.column("at")[0].value == 1_000_000


def test_maxwell_and_dms_rows_are_read_from_json_and_csv(tmp_path: Path):
    lines = [
        {"op": "bootstrap-insert", "id": 1, "at": 1767225600, "xid": 1, "xoffset": 0, "user": "ann"},
        {"op": "insert", "id": 2, "at": 1767225601, "xid": 2, "xoffset": 0, "user": "bob", "amount": 2.5},
        {"op": "delete", "id": 1, "at": 1767225601, "xid": 2, "xoffset": 1, "user": "ann"},
    ]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    declared = source("m.jsonl", position=["xid", "xoffset"], time_unit="s")
    changes = read(tmp_path, declared)
    assert changes.table.column("__op").to_pylist() == [0, 0, 1]
    assert changes.table.column("amount").to_pylist() == [None, 2.5, None]
    (tmp_path / "dms.csv").write_text("Op,id,user,at,seq\nI,1,ann,2026-01-01 00:00:00,1\nD,1,,2026-01-02,2\n")
    changes = read(tmp_path, source("dms.csv", op="Op", position="seq"))
    assert changes.table.column("__op").to_pylist() == [0, 1]
    assert changes.keyless == 0
    with gzip.open(tmp_path / "z.jsonl.gz", "wt") as file:
        file.write(json.dumps(lines[0]))
    log = JSONLines("z.jsonl.gz")
    zipped = TableSource("z", log=log, primary_key="id", changed_at="at", position="xid", time_unit="s")
    assert read(tmp_path, zipped).table.num_rows == 1


def test_a_column_that_appears_later_is_null_before_and_one_that_changes_type_is_an_error(tmp_path: Path):
    write(tmp_path, "1.parquet")
    write(tmp_path, "2.parquet", vip=[True])
    both = TableSource(
        "t", log=Parquet(["1.parquet", "2.parquet"]), primary_key="id", changed_at="at", position="lsn"
    )
    tables = [changes.table for changes in read_changes(both, ["user"], None, tmp_path)]
    assert pa.concat_tables(tables).column("vip").to_pylist() == [None, True]
    write(tmp_path, "2.parquet", amount=["1.5"])
    with pytest.raises(
        LogError, match=r'column "amount" is double in log file "1.parquet" and string in "2.parquet"'
    ):
        change_columns(both, ["user"], tmp_path)


def test_a_declaration_that_names_what_is_not_there_says_so(tmp_path: Path):
    write(tmp_path)
    with pytest.raises(DefinitionError, match=r'no column "action" in its log \(op\)'):
        change_columns(source(op="action"), ["user"], tmp_path)
    with pytest.raises(
        DefinitionError, match=r'no column "idd" in its log \(primary_key\)(.|\n)*did you mean "id"'
    ):
        change_columns(source(primary_key="idd"), ["user"], tmp_path)
    with pytest.raises(DefinitionError, match="declared string, but it is a position"):
        change_columns(source(columns={"lsn": "string"}), ["user"], tmp_path)


def test_a_flat_row_has_no_columns_of_the_formats_making(tmp_path: Path):
    write(tmp_path, __lsn=[3], __ms=["2026-01-01"])
    declared = source(position="__lsn", changed_at="__ms")
    assert read(tmp_path, declared).table.column("__lsn").to_pylist() == [3]
    with pytest.raises(DefinitionError, match=r'no column "__position_0" in its log \(position\)'):
        change_columns(source(position="__position_0"), ["user"], tmp_path)


def test_positions_in_json_are_numbers_or_text(tmp_path: Path):
    values = ["7", '"16/B374D848"', "12.0", '"9"', "1.5", "true", '"0/zz"', "[1]", "9223372036854775808"]
    row = '{"op": "c", "id": 1, "at": "2026-01-01", "user": "ann", "lsn": %s}\n'
    (tmp_path / "c.jsonl").write_text("".join(row % value for value in values))
    declared = source("c.jsonl", columns={"id": "int64", "user": "string"})
    columns = {"id": INT64, "user": STRING, "at": TIMESTAMP, "lsn": INT64}
    (changes,) = read_changes(declared, ("user",), columns, tmp_path)
    assert changes.table.column("lsn").to_pylist() == [7, 0x16B374D848, 12, 9]
    assert changes.reasons == {'column "lsn" holds no position': 5}


HASHES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=12)


@given(within=HASHES, keys=HASHES)
def test_hashes_are_found_where_their_first_halves_are_equal(
    within: list[tuple[int, int]], keys: list[tuple[int, int]]
):
    held = np.array(within, np.uint64).reshape(-1, 2)
    held = held[sorting(held)]
    assert [tuple(row) for row in held.tolist()] == sorted(within)
    place, there = places(held, np.array(keys, np.uint64).reshape(-1, 2))
    assert there.tolist() == [key in within for key in keys]
    assert all(tuple(held[p]) == key for p, key, found in zip(place, keys, there, strict=True) if found)


def test_an_object_without_any_value_is_rejected(tmp_path: Path):
    good = {"op": "c", "id": "1", "at": "2026-01-01T00:00:00Z", "lsn": 1, "user": "ann"}
    lines = [good, {}, {"op": None, "id": None}]
    (tmp_path / "changes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    changes = read(tmp_path, source("changes.jsonl"))
    assert (changes.table.num_rows, changes.ignored) == (1, 0)
    assert changes.rejected == ((1, "no operation: it is null"), (2, "no operation: it is null"))
