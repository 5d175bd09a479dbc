"""Daily snapshots: the table of each day is what its changes so far make of it."""

from __future__ import annotations

import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.dsl.log import CSV, JSONLines, Parquet
from featurestore.dsl.table_source import TableSource
from featurestore.dtypes import INT64, STRING, TIMESTAMP
from featurestore.errors import DefinitionError, LogError
from featurestore.log.changes import Changes, change_columns, effective, read_changes

SCHEMA = pa.schema([("id", pa.int64()), ("user", pa.string())])


def source(**more: object) -> TableSource:
    declared = {"log": Parquet("table"), "primary_key": "id", "format": "snapshots"} | more
    return TableSource("users", **declared)  # type: ignore[arg-type]


def write(
    root: Path, day: str, rows: list[tuple[int | None, str | None]], name: str = "0", **more: object
) -> None:
    folder = root / "table" / f"ds={day}"
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist([{"id": id_, "user": user} | more for id_, user in rows], SCHEMA)
    for column, value in more.items():
        table = table.append_column(column, pa.array([value] * len(rows)))
    pq.write_table(table, folder / f"{name}.parquet")


def read(root: Path, declared: TableSource | None = None) -> list[Changes]:
    return list(read_changes(declared or source(), ("user",), None, root))


def rows(changes: list[Changes]) -> list[tuple[str, object, object, int]]:
    """(UTC time of the change, id, user, operation), by time and id."""
    found = [row for part in changes for row in part.table.to_pylist()]
    return sorted((f"{row['__changed_at']:%d %H:%M}", row["id"], row["user"], row["__op"]) for row in found)


def test_changes_are_the_differences_by_primary_key_at_the_end_of_the_day(tmp_path: Path):
    write(tmp_path, "2026-01-01", [(1, "ann"), (2, "bob"), (3, None)])
    write(tmp_path, "2026-01-02", [(3, None), (2, "bo"), (4, "cy")])
    changes = read(tmp_path)
    assert rows(changes) == [
        ("02 00:00", 1, "ann", 0), ("02 00:00", 2, "bob", 0), ("02 00:00", 3, None, 0),
        ("03 00:00", 1, None, 1), ("03 00:00", 2, "bo", 0), ("03 00:00", 4, "cy", 0),
    ]  # fmt: skip
    assert sum(part.keyless for part in changes) == 1
    for part in changes:
        assert part.table.column("__changed_at").cast(pa.int64()).equals(part.table.column("__position_0"))


def test_the_columns_are_the_tables_without_the_day(tmp_path: Path):
    write(tmp_path, "2026-01-01", [(1, "ann")])
    own = {"__changed_at": TIMESTAMP, "__position_0": INT64}
    assert change_columns(source(), ("user",), tmp_path) == {"id": INT64, "user": STRING} | own
    assert effective(source()) == ("__changed_at", ("__position_0",))


def test_a_deletion_is_known_when_the_snapshot_without_the_row_is(tmp_path: Path):
    known = datetime.datetime(2026, 1, 9, tzinfo=datetime.UTC)
    write(tmp_path, "2026-01-01", [(1, "ann"), (2, "bob")], known=known)
    write(tmp_path, "2026-01-02", [(1, "ann")], known=known)
    changes = read(tmp_path, source(available_at="known"))
    [gone] = [row for part in changes for row in part.table.to_pylist() if row["__op"]]
    assert gone["id"] == 2
    assert gone["known"] == gone["__changed_at"] == datetime.datetime(2026, 1, 3, tzinfo=datetime.UTC)
    others = [row for part in changes for row in part.table.to_pylist() if not row["__op"]]
    assert [row["known"] for row in others] == [known, known]


def test_a_missing_day_says_nothing_and_an_empty_one_deletes_all(tmp_path: Path):
    write(tmp_path, "2026-01-01", [(1, "ann")])
    write(tmp_path, "2026-01-05", [])
    write(tmp_path, "2026-01-06", [(1, "ann")])
    assert rows(read(tmp_path)) == [
        ("02 00:00", 1, "ann", 0),
        ("06 00:00", 1, None, 1),
        ("07 00:00", 1, "ann", 0),
    ]


def test_the_day_ends_in_the_zone_of_the_source(tmp_path: Path):
    write(tmp_path, "2026-03-28", [(1, "ann")])
    write(tmp_path, "2026-03-29", [(1, "anne")])
    found = rows(read(tmp_path, source(timezone="Europe/Berlin")))
    assert [time for time, *_ in found] == ["28 23:00", "29 22:00"]
    # Where midnight is skipped the day ends when the clocks jump.
    write(tmp_path, "2018-11-03", [(1, "ann")])
    assert rows(read(tmp_path, source(timezone="America/Sao_Paulo")))[0][0] == "04 03:00"


def test_a_primary_key_twice_is_reported_and_the_greater_content_counts(tmp_path: Path):
    write(tmp_path, "2026-01-01", [(1, "ann"), (1, "bob"), (2, "cy"), (2, "cy")])
    write(tmp_path, "2026-01-02", [(2, "cy"), (1, "bob")], "a")
    write(tmp_path, "2026-01-02", [(1, "ann")], "b")
    changes = read(tmp_path)
    assert len(rows(changes)) == 2  # the same one counts on both days, whatever the order
    assert sum(part.rejected_count for part in changes) == 2
    told = [(row, why) for part in changes for row, why in part.rejected]
    assert sorted(row for row, _ in told) == [0, 0, 1, 1]
    assert sum(why.endswith("this one counts") for _, why in told) == 2
    assert told[0][1].startswith("another row of its primary key in the snapshot of 2026-01-01")


def test_a_row_that_cannot_be_read_is_rejected_and_its_row_stays(tmp_path: Path):
    declared = source(columns={"id": "int64", "user": "int64"})
    write(tmp_path, "2026-01-01", [(1, "10"), (2, "20"), (None, "1")])
    write(tmp_path, "2026-01-02", [(1, "ten"), (2, "21")])
    write(tmp_path, "2026-01-03", [(2, "21")])
    changes = read(tmp_path, declared)
    assert rows(changes) == [
        ("02 00:00", 1, 10, 0), ("02 00:00", 2, 20, 0), ("03 00:00", 2, 21, 0), ("04 00:00", 1, None, 1),
    ]  # fmt: skip
    reasons = [part.reasons for part in changes if part.reasons]
    assert reasons == [{'no primary key: column "id" is null': 1}, {'column "user" holds no int64': 1}]


def test_a_new_column_is_null_before_and_a_changed_type_is_an_error(tmp_path: Path):
    write(tmp_path, "2026-01-01", [(1, "ann"), (2, "bob")])
    write(tmp_path, "2026-01-02", [(1, "ann"), (2, "bob")], vip=None)
    write(tmp_path, "2026-01-03", [(1, "ann")], vip=True)
    found = rows(read(tmp_path))
    assert found[2:] == [("04 00:00", 1, "ann", 0), ("04 00:00", 2, None, 1)]
    write(tmp_path, "2026-01-04", [(1, "ann")], vip="yes")
    with pytest.raises(LogError, match=r'column "vip" is bool in log file .*ds=2026-01-04'):
        read(tmp_path)


def test_the_day_may_be_a_column_of_dates_or_text(tmp_path: Path):
    days = [datetime.date(2026, 1, 1), datetime.date(2026, 1, 2), None, datetime.date(2026, 1, 1)]
    columns = {"id": [1, 1, 9, 2], "user": ["a", "b", "c", "d"], "day": days}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    expected = [
        ("02 00:00", 1, "a", 0),
        ("02 00:00", 2, "d", 0),
        ("03 00:00", 1, "b", 0),
        ("03 00:00", 2, None, 1),
    ]
    changes = read(tmp_path, source(log=Parquet("t.parquet"), changed_at="day"))
    assert rows(changes) == expected
    assert changes[0].rejected == ((2, 'no day: column "day" is null'),)
    (tmp_path / "t.jsonl").write_text(
        "".join(
            f'{{"id": {i}, "user": "{u}", "ds": "{d}"}}\n'
            for i, u, d in zip(*columns.values(), strict=True)
            if d
        )
    )
    assert rows(read(tmp_path, source(log=JSONLines("t.jsonl")))) == expected


def test_directories_of_csv_files_tell_the_day_too(tmp_path: Path):
    for day, text in {"2026-01-01": "1,ann\n", "2026-01-02": ""}.items():
        (tmp_path / f"ds={day}").mkdir()
        (tmp_path / f"ds={day}" / "t.csv").write_text("id,user\n" + text)
    assert rows(read(tmp_path, source(log=CSV("ds=*/t.csv")))) == [
        ("02 00:00", 1, "ann", 0),
        ("03 00:00", 1, None, 1),
    ]


def test_what_tells_no_day_is_an_error(tmp_path: Path):
    write(tmp_path, "soon", [(1, "ann")])
    with pytest.raises(LogError, match="ds=soon, which is no date"):
        read(tmp_path)
    with pytest.raises(DefinitionError, match='no column "day" in its log'):
        read(tmp_path, source(changed_at="day"))


CONTENTS = st.dictionaries(st.integers(1, 5), st.sampled_from(["a", "b", None]), max_size=5)


@given(days=st.dictionaries(st.integers(1, 28), CONTENTS, min_size=1, max_size=6))
def test_the_changes_so_far_make_each_days_table(
    tmp_path_factory: pytest.TempPathFactory, days: dict[int, dict[int, str]]
):
    root = tmp_path_factory.mktemp("snapshots")
    for day, table in days.items():
        write(root, f"2026-01-{day:02}", list(table.items()))
    by_time: dict[datetime.datetime, list[dict[str, object]]] = {}
    for row in [row for part in read(root) for row in part.table.to_pylist()]:
        by_time.setdefault(row["__changed_at"], []).append(row)
    state: dict[object, object] = {}
    for day in sorted(days):
        was = dict(state)
        at = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(days=day)
        for row in by_time.pop(at, []):
            assert (
                (row["id"] in was) if row["__op"] else (row["id"] not in was or was[row["id"]] != row["user"])
            )
            state.pop(row["id"], None)
            if not row["__op"]:
                state[row["id"]] = row["user"]
        assert state == days[day]
    assert not by_time


def test_an_empty_file_of_json_lines_is_an_empty_day_where_its_directory_tells_the_day(tmp_path: Path):
    days = {"2026-01-01": "", "2026-01-02": '{"id": 1, "user": "ann"}\n', "2026-01-03": ""}
    for day, text in days.items():
        (tmp_path / f"ds={day}").mkdir()
        (tmp_path / f"ds={day}" / "t.jsonl").write_text(text)
    lines = JSONLines("ds=*/t.jsonl")
    assert rows(read(tmp_path, source(log=lines))) == [("03 00:00", 1, "ann", 0), ("04 00:00", 1, None, 1)]
    (tmp_path / "ds=2026-01-02" / "t.jsonl").write_text("")
    declared = source(log=lines, columns={"id": "int64", "user": "string"})
    assert rows(read(tmp_path, declared)) == []
    # Elsewhere nothing tells what an empty file is of.
    (tmp_path / "t.jsonl").write_text("")
    with pytest.raises(LogError, match="is empty"):
        read(tmp_path, source(log=JSONLines("t.jsonl")))
