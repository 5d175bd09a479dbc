"""Debezium's envelopes: bare, wrapped, as text and in columns; each connector's positions and each type's
face."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import dtypes
from featurestore.dsl.log import JSONLines, Parquet
from featurestore.dsl.table_source import TableSource
from featurestore.dtypes import BINARY, BOOL, DATE, FLOAT64, INT64, STRING, TIMESTAMP, UUID
from featurestore.errors import DefinitionError, LogError
from featurestore.log.changes import Changes, change_columns, effective, read_changes

OWN = {"__changed_at": TIMESTAMP} | {f"__position_{i}": INT64 for i in range(4)}
CASES = Path(__file__).resolve().parents[2] / ".." / "shared" / "cases" / "debezium_inventory"
PG = {"connector": "postgresql", "ts_ms": 1000, "lsn": 5}


def source(**more: object) -> TableSource:
    declared = {"log": JSONLines("log.jsonl"), "primary_key": "id", "format": "debezium"} | more
    return TableSource("customers", **declared)  # type: ignore[arg-type]


def change(
    op: str | None, after: object = None, before: object = None, **origin: object
) -> dict[str, object]:
    return {"op": op, "before": before, "after": after, "source": PG | origin, "ts_ms": 999_999}


def read(
    root: Path, messages: list[object], declared: TableSource | None = None, **columns: object
) -> Changes:
    (root / "log.jsonl").write_text("".join(json.dumps(message) + "\n" for message in messages))
    (changes,) = read_changes(declared or source(), (), None, root)
    return changes


def wrapped(message: object, *fields: dict[str, object]) -> dict[str, object]:
    row = {"type": "struct", "fields": list(fields), "optional": True}
    parts = [row | {"field": "before"}, row | {"field": "after"}, {"type": "string", "field": "op"}]
    return {"schema": {"type": "struct", "fields": parts, "name": "x.Envelope"}, "payload": message}


def test_an_envelope_is_the_row_after_the_change_and_a_delete_what_was_before(tmp_path: Path):
    changes = read(
        tmp_path,
        [
            change("r", {"id": 1, "name": "ann"}),
            change("c", {"id": 2, "name": "bob"}),
            change("u", {"id": 1, "name": "anne"}, {"id": 1, "name": "ann"}),
            change("d", None, {"id": 2, "name": None}),
            None,
            change("t"),
            change("m"),
        ],
    )
    assert changes.table.select(["id", "name", "__op"]).to_pylist() == [
        {"id": 1, "name": "ann", "__op": 0},
        {"id": 2, "name": "bob", "__op": 0},
        {"id": 1, "name": "anne", "__op": 0},
        {"id": 2, "name": None, "__op": 1},
        {"id": None, "name": None, "__op": 2},
    ]
    assert (changes.ignored, changes.rejected_count) == (2, 0)


def test_the_commit_time_is_the_sources_in_its_finest_unit_and_never_the_connectors(tmp_path: Path):
    row = {"id": 1}
    changes = read(
        tmp_path,
        [
            change("c", row, ts_ms=1),
            change("c", row, ts_ms=1, ts_us=1002),
            change("c", row, ts_ms=1, ts_us=1002, ts_ns=1003999),
            change("c", row, ts_ms=0, ts_ns=-1),
            change("c", row, ts_ms=0),
            change("c", row, ts_ms=None),
        ],
    )
    assert [at.value for at in changes.table.column("__changed_at")] == [1000, 1002, 1003, 0, 0]
    assert changes.reasons == {"no changed_at": 1}


def test_a_change_can_be_known_when_the_connector_saw_it(tmp_path: Path):
    messages = [
        change("c", {"id": 1}) | {"ts_ms": 7},
        {"payload": change("d", None, {"id": 1}) | {"ts_ms": 8, "ts_us": 8123, "ts_ns": 8123999}},
        change("u", {"id": 3}, {"id": 2}) | {"ts_ms": None},
        change("t") | {"ts_ms": 9},
    ]
    for unit, known in (("ts_ms", [7000, 8000, None, 9000, None]), ("ts_ns", [None, 8123, None, None, None])):
        name = f"envelope.{unit}"
        table = read(tmp_path, messages, source(available_at=name)).table
        assert [at.value for at in table.column(name)] == known
        assert [at.value for at in table.column("__changed_at")] == [1_000_000] * 5
    assert change_columns(source(available_at=name), (), tmp_path)[name] == TIMESTAMP


def test_the_connectors_clock_is_read_from_a_column_too(tmp_path: Path):
    rows = [change("c", {"id": 1}) | {"ts_ms": 7}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "log.parquet")
    declared = source(log=Parquet("log.parquet"), available_at="envelope.ts_ms")
    (changes,) = read_changes(declared, (), None, tmp_path)
    assert [at.value for at in changes.table.column("envelope.ts_ms")] == [7000]


def test_another_part_of_the_envelope_is_no_time_that_a_change_was_known(tmp_path: Path):
    with pytest.raises(DefinitionError, match=r'an envelope has no "envelope\.tsms"') as caught:
        read(tmp_path, [change("c", {"id": 1})], source(available_at="envelope.tsms"))
    assert 'did you mean "envelope.ts_ms"?' in str(caught.value.hint)


def test_a_deletion_is_not_known_before_it_was_committed_whatever_the_deleted_row_says(tmp_path: Path):
    early, late = "1970-01-01T00:00:00.5Z", "1970-01-01T00:00:09Z"
    changes = read(
        tmp_path,
        [
            change("c", {"id": 1, "arrived": early}),
            change("d", None, {"id": 1, "arrived": early}),
            change("d", None, {"id": 2, "arrived": late}),
            change("d", None, {"id": 3}),
            change("u", {"id": 5, "arrived": late}, {"id": 4, "arrived": early}),
        ],
        source(available_at="arrived"),
    )
    known = [at.value for at in changes.table.column("arrived")]
    assert known == [500_000, 1_000_000, 9_000_000, 1_000_000, 9_000_000, 9_000_000]


def test_the_columns_are_the_rows_and_the_envelopes_own(tmp_path: Path):
    read(tmp_path, [change("c", {"id": 1, "name": "ann", "vip": True, "score": 1.5, "day": "2026-01-01"})])
    assert change_columns(source(), (), tmp_path) == {
        "id": INT64, "name": STRING, "vip": BOOL, "score": FLOAT64, "day": DATE,
    } | OWN  # fmt: skip
    assert effective(source()) == ("__changed_at", tuple(f"__position_{i}" for i in range(4)))


@pytest.mark.parametrize(
    ("origin", "position"),
    [
        ({"lsn": 7}, (7, 7, 0, 0)),
        ({"lsn": 7, "sequence": '["5","7"]'}, (5, 7, 0, 0)),
        ({"lsn": 7, "sequence": '[null,"7"]'}, (7, 7, 0, 0)),
        ({"connector": "mysql", "file": "mysql-bin.000003", "pos": 154, "row": 2}, (3, 154, 2, 0)),
        ({"connector": "mariadb", "file": "bin.log.000010", "pos": 4}, (10, 4, 0, 0)),
        (
            {
                "connector": "sqlserver",
                "commit_lsn": "00000027:00000ac0:0002",
                "change_lsn": "00000027:00000ab0:0003",
                "event_serial_no": 1,
            },
            ((0x27 << 32) + 0xAC0, 2, (0x27 << 32) + 0xAB0, (3 << 32) + 1),
        ),
        ({"connector": "sqlserver", "commit_lsn": "00000027:00000ac0:0002"}, ((0x27 << 32) + 0xAC0, 2, 0, 0)),
        ({"lsn": None}, None),
        ({"connector": None}, None),
        ({"connector": "mysql", "file": "x", "pos": 1}, None),
        ({"connector": "sqlserver", "commit_lsn": "80000000:00000000:0000"}, None),
    ],
)
def test_each_connector_has_its_position(
    tmp_path: Path, origin: dict[str, object], position: tuple[int, ...]
):
    changes = read(tmp_path, [change("c", {"id": 1}, **origin)])
    if position is None:
        assert changes.reasons == {"no position": 1}
    else:
        (row,) = changes.table.select([f"__position_{i}" for i in range(4)]).to_pylist()
        assert tuple(row.values()) == position


def test_another_connector_needs_a_declared_position(tmp_path: Path):
    message = change("c", {"id": 1}, connector="oracle", scn="12", commit_scn="13")
    with pytest.raises(DefinitionError, match='connector "oracle"'):
        read(tmp_path, [message])
    declared = source(position=["source.commit_scn", "source.scn"], changed_at="source.ts_ms")
    changes = read(tmp_path, [message], declared)
    assert effective(declared) == ("source.ts_ms", ("source.commit_scn", "source.scn"))
    assert changes.table.drop(["source.ts_ms"]).to_pylist() == [
        {"id": 1, "source.commit_scn": 13, "source.scn": 12, "__op": 0}
    ]
    assert changes.table.column("source.ts_ms")[0].value == 1_000_000


def test_position_and_commit_time_may_be_columns_of_the_row(tmp_path: Path):
    declared = source(position="version", changed_at="modified")
    changes = read(
        tmp_path, [change("c", {"id": 1, "version": 3, "modified": "2026-01-01T00:00:00Z"})], declared
    )
    assert changes.table.column_names == ["id", "version", "modified", "__op"]


def test_an_update_that_changes_the_primary_key_ends_the_row_that_it_leaves(tmp_path: Path):
    messages = [
        change("u", {"id": 2, "name": "ann"}, {"id": 1, "name": "ann"}, lsn=9),
        change("u", {"id": 2, "name": "anne"}, {"id": 2, "name": None}),
        change("u", {"id": 2, "name": "anne"}, {"id": None, "name": None}),
    ]
    changes = read(tmp_path, messages)
    assert changes.table.select(["id", "name", "__position_1", "__op"]).to_pylist() == [
        {"id": 2, "name": "ann", "__position_1": 9, "__op": 0},
        {"id": 2, "name": "anne", "__position_1": 5, "__op": 0},
        {"id": 2, "name": "anne", "__position_1": 5, "__op": 0},
        {"id": 1, "name": None, "__position_1": 9, "__op": 1},
    ]


def test_bad_envelopes_are_rejected_and_counted_with_their_rows(tmp_path: Path):
    changes = read(
        tmp_path,
        [
            change("c", {"id": None}),
            change("u", None, {"id": 1}),
            change("d", None, None),
            change("x", {"id": 1}),
            change("c", {"id": 1}),
            {"db": "no envelope"},
        ],
    )
    assert changes.table.num_rows == 1
    assert changes.reasons['no primary key: column "id" is null'] == 3
    assert [row for row, _ in changes.rejected] == [0, 1, 2, 3, 5]


def test_connect_types_say_what_their_values_are(tmp_path: Path):
    zoned = "io.debezium.time.ZonedTimestamp"
    fields: list[dict[str, object]] = [
        {"type": "int32", "field": "id"},
        {"type": "int32", "name": "io.debezium.time.Date", "field": "day"},
        {"type": "int64", "name": "io.debezium.time.Timestamp", "field": "ms"},
        {"type": "int64", "name": "io.debezium.time.MicroTimestamp", "field": "us"},
        {"type": "int64", "name": "io.debezium.time.NanoTimestamp", "field": "ns"},
        {"type": "string", "name": zoned, "field": "zoned"},
        {
            "type": "bytes",
            "name": "org.apache.kafka.connect.data.Decimal",
            "parameters": {"scale": "2", "connect.decimal.precision": "10"},
            "field": "price",
        },
        {"type": "struct", "name": "io.debezium.data.VariableScaleDecimal", "field": "any"},
        {"type": "string", "name": "io.debezium.data.Uuid", "field": "uuid"},
        {"type": "bytes", "field": "raw"},
        {"type": "double", "field": "x"},
        {"type": "array", "items": {"type": "string"}, "field": "tags"},
        {"type": "map", "field": "map"},
    ]
    row = {
        "id": 1, "day": 20454, "ms": 1_767_225_600_123, "us": 1_767_225_600_123_456, "ns": -1,
        "zoned": "2026-01-01T01:00:00+01:00", "price": "/t4=", "any": {"scale": 3, "value": "AQ=="},
        "uuid": "6F9619FF-8B86-D011-B42D-00C04FC964FF", "raw": "AAE=", "x": 0.5, "tags": ["a", None],
        "map": {},
    }  # fmt: skip
    nothing = dict.fromkeys(row) | {"id": 2}
    declared = source(timezone="Europe/Berlin")
    messages: list[object] = [
        wrapped(change("c", row), *fields),
        None,
        wrapped(change("c", nothing), *fields),
    ]
    changes = read(tmp_path, messages, declared)
    assert change_columns(declared, (), tmp_path) == {
        "id": INT64, "day": DATE, "ms": TIMESTAMP, "us": TIMESTAMP, "ns": TIMESTAMP, "zoned": TIMESTAMP,
        "price": dtypes.decimal(10, 2), "uuid": UUID, "raw": BINARY, "x": FLOAT64,
        "tags": dtypes.list_of(STRING),
    } | OWN  # fmt: skip
    midnight = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    hour, us = datetime.timedelta(hours=1), datetime.timedelta(microseconds=1)
    got = changes.table.to_pylist()[0]
    assert got["day"] == datetime.date(2026, 1, 1)
    assert got["ms"] == midnight - hour + 123_000 * us and got["us"] == midnight - hour + 123_456 * us
    assert got["ns"] == datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) - hour - us
    assert got["zoned"] == midnight
    assert got["price"] == Decimal("-2.90") and got["raw"] == b"\0\1"
    assert got["uuid"] == "6f9619ff-8b86-d011-b42d-00c04fc964ff" and got["tags"] == ["a", None]
    assert (changes.ignored, changes.rejected_count) == (1, 0)
    assert all(changes.table.to_pylist()[1][name] is None for name in row if name not in ("id", "any", "map"))
    exact = source(columns={"id": "int64", "any": "decimal(10, 4)"})
    assert read(tmp_path, messages, exact).table.column("any")[0].as_py() == Decimal("0.0010")


def test_a_value_beyond_its_connect_type_rejects_its_row(tmp_path: Path):
    day = {"type": "int32", "name": "io.debezium.time.Date", "field": "day"}
    id_ = {"type": "int32", "field": "id"}
    messages: list[object] = [
        wrapped(change("c", {"id": 1, "day": value}), id_, day) for value in (-1, 2**31, 2**63, None, "soon")
    ]
    changes = read(tmp_path, messages)
    assert changes.table.column("day").to_pylist() == [datetime.date(1969, 12, 31), None]
    assert changes.reasons == {'column "day" holds no date': 3}


def test_a_type_that_changes_inside_the_log_is_an_error_that_names_file_and_row(tmp_path: Path):
    id_, text = {"type": "int32", "field": "id"}, {"type": "string", "field": "id"}
    with pytest.raises(
        LogError, match=r'column "id" is int64 in log file "log.jsonl" and string in "log.jsonl", row 2'
    ):
        read(tmp_path, [wrapped(change("c", {"id": 1}), id_), wrapped(change("c", {"id": "1"}), text)])
    with pytest.raises(
        LogError, match=r'column "id" holds both number and text in log file "log.jsonl", row 3'
    ):
        read(tmp_path, [change("c", {"id": 1}), None, change("c", {"id": "1"})])
    with pytest.raises(LogError, match=r'"log.jsonl", line 2: no Debezium envelope'):
        read(tmp_path, [change("c", {"id": 1}), {"before": 3}])


def test_a_column_that_appears_later_is_null_before(tmp_path: Path):
    changes = read(tmp_path, [change("c", {"id": 1}), change("c", {"id": 2, "name": "x"})])
    assert changes.table.column("name").to_pylist() == [None, "x"]
    id_, name = {"type": "int32", "field": "id"}, {"type": "string", "field": "name"}
    (tmp_path / "log.jsonl").write_text(
        json.dumps(wrapped(change("c", {"id": 1}), id_)) + "\n"
        + json.dumps(wrapped(change("c", {"id": 2, "name": "x"}), id_, name)) + "\n"
    )  # fmt: skip
    tables = [changes.table for changes in read_changes(source(), (), None, tmp_path)]
    assert pa.concat_tables(tables).column("name").to_pylist() == [None, "x"]


def test_messages_lie_in_columns_too(tmp_path: Path):
    messages = [change("c", {"id": 1, "name": "ann"}), None, change("d", None, {"id": 1})]
    text = [None if message is None else json.dumps(message) for message in messages]
    expected = read(tmp_path, messages).table
    forms: list[dict[str, list[object]]] = [
        {"value": [*text], "key": ["{}"] * 3},
        {"payload": [*text]},
        {"value": [None if one is None else one.encode() for one in text]},
        {
            part: [
                None if m is None or m[part] is None else m[part] if part == "op" else json.dumps(m[part])
                for m in messages
            ]
            for part in ("op", "before", "after", "source")
        },
        {"op": ["c", None, "d"], "after": [{"id": 1, "name": "ann"}, None, None],
         "before": [None, None, {"id": 1}], "source": [PG, None, PG]},
    ]  # fmt: skip
    for form in forms:
        pq.write_table(pa.table(form), tmp_path / "log.parquet")
        (changes,) = read_changes(source(log=Parquet("log.parquet")), (), None, tmp_path)
        assert changes.table.equals(expected), list(form)
        assert changes.ignored == 1
    (changed,) = read_changes(source(log=Parquet("log.parquet")), (), None, tmp_path)
    assert changed.rejected_count == 0


def test_a_log_without_envelopes_says_so(tmp_path: Path):
    pq.write_table(pa.table({"id": [1]}), tmp_path / "log.parquet")
    with pytest.raises(DefinitionError, match="holds no Debezium envelopes"):
        change_columns(source(log=Parquet("log.parquet")), (), tmp_path)


@pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not here")
def test_the_inventory_of_debeziums_own_tests_is_read(tmp_path: Path):
    cases = {name: json.loads((CASES / f"{name}.json").read_text()) for name in (
        "serde-without-schema", "serde-update", "serde-with-schema", "sample1")}  # fmt: skip
    anne = {"id": 1004, "first_name": "Anne", "last_name": "Kretchmar", "email": "annek@noanswer.org"}
    own = {"__position_0": 3, "__position_1": 154, "__position_2": 0, "__position_3": 0, "__op": 0}
    tables = {name: read(tmp_path, [case]).table for name, case in cases.items() if name != "sample1"}
    for table in tables.values():
        (row,) = table.drop(["__changed_at"]).to_pylist()
        assert row == anne | own
        assert table.column("__changed_at")[0].value == 0  # source.ts_ms, not the connector's ts_ms
    assert tables["serde-with-schema"].equals(tables["serde-without-schema"])
    together = read(tmp_path, [cases["serde-without-schema"], cases["sample1"]])
    assert (together.table.num_rows, together.reasons) == (1, {"no operation: it is null": 1})


def test_a_primary_key_written_in_two_ways_is_one_key(tmp_path: Path):
    at = '"source": {"connector": "postgresql", "ts_ms": 1000, "lsn": 5}'
    pairs = [("1", "1.0"), ("1", "1e0"), ("10", "1e1"), ("1", "2.0")]
    declared = source(columns={"id": "int64"})
    for before, after in pairs:
        text = f'{{"op": "u", "before": {{"id": {before}}}, "after": {{"id": {after}}}, {at}}}\n'
        (tmp_path / "log.jsonl").write_text(text)
        (changes,) = read_changes(declared, (), None, tmp_path)
        moves = (before, after) == pairs[-1]
        assert changes.table.column("__op").to_pylist() == ([0, 1] if moves else [0]), after
        assert changes.rejected_count == 0
    for before, after, operations in [
        ('"\\u00e9"', '"\u00e9"', [0]), ('"a\\/b"', '"a/b"', [0]), ('"1"', '"1.0"', [0, 1]),
    ]:  # fmt: skip
        text = f'{{"op": "u", "before": {{"id": {before}}}, "after": {{"id": {after}}}, {at}}}\n'
        (tmp_path / "log.jsonl").write_text(text, encoding="utf-8")
        (changes,) = read_changes(source(), (), None, tmp_path)
        assert changes.table.column("__op").to_pylist() == operations, after


def test_a_key_that_only_the_message_has_after_an_update_is_compared_too(tmp_path: Path):
    messages = [
        change("c", {"id": 1, "name": "an"}),
        change("u", {"name": "ann"}, {"id": 1, "name": "an"}) | {"key": {"id": 1}},
        change("u", {"name": "bob"}, {"id": 2, "name": "bo"}) | {"key": {"id": 3}},
    ]
    changes = read(tmp_path, messages)
    assert [(row["id"], row["__op"]) for row in changes.table.to_pylist()] == [(1, 0), (1, 0), (3, 0), (2, 1)]
