"""Logs of changes as they come, in every format: times that are none, columns that drift, several tables,
values that were not logged. What is refused is named with its file and row, in a backfill, a training set
and a push alike.

Times are those of the rows; questions are asked long after all of them unless they say otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import FeatureStore
from featurestore.errors import DefinitionError
from featurestore.testing.bits import bits
from tests.integration import bad_input_project as made

FORMATS = ("flat", "debezium", "delta_cdf", "snapshots")
LATER = "2030-01-01T00:00:00Z"

PARTS = {
    "flat": 'changed_at="at", position="lsn"',
    "debezium": 'format="debezium"',
    "delta_cdf": 'format="delta_cdf"',
    "snapshots": 'format="snapshots"',
}
LOGS = {
    "flat": 'Parquet("log/*.parquet")',
    "debezium": 'JSONLines("log/*.jsonl")',
    "delta_cdf": 'Parquet("log/*.parquet")',
    "snapshots": 'Parquet("log")',
}


def declare(root: Path, format: str, *, columns: str = "", more: str = "", features: str = "") -> None:
    listed = f", columns={columns}" if columns else ""
    made.declare(
        root,
        f"""
user = Entity("user", key="user")
rows = TableSource("rows", log={LOGS[format]}, primary_key="id", {PARTS[format]}{listed}{more})
v = FeatureView("v", user, rows, [agg.count(), {features or 'agg.sum("amount")'}])
""",
    )


def write(root: Path, format: str, number: int, rows: Sequence[Mapping[str, Any]]) -> str:
    """File ``number`` of the log, in which every row is created or updated; returns the name that reports
    give it."""
    folder = root / "log"
    folder.mkdir(exist_ok=True)
    if format == "debezium":
        path = folder / f"{number}.jsonl"
        path.write_text("".join(json.dumps(envelope(number, row)) + "\n" for row in rows))
        return str(path.relative_to(root))
    at = pa.array([number * 1_000_000] * len(rows), pa.timestamp("us", "UTC"))
    columns = {
        name: [row.get(name) for row in rows] for name in dict.fromkeys(n for row in rows for n in row)
    }
    aside: dict[str, Any] = {
        "flat": {"op": ["u"] * len(rows), "at": at, "lsn": [number] * len(rows)},
        "delta_cdf": {
            "_change_type": ["update_postimage"] * len(rows), "_commit_version": [number] * len(rows),
            "_commit_timestamp": at,
        },
        "snapshots": {},
    }[format]  # fmt: skip
    path = folder / (f"ds=2026-01-{number:02}/0.parquet" if format == "snapshots" else f"{number}.parquet")
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns | aside), path)
    return str(path.relative_to(root))


def envelope(number: int, row: Mapping[str, Any] | None, op: str = "u", **more: Any) -> dict[str, Any]:
    origin = {"connector": "postgresql", "ts_ms": number * 1000, "lsn": number, **more.pop("source", {})}
    return {"op": op, "before": None, "after": row, "source": origin, **more}


def answers(root: Path, users: Sequence[str] = ("ann", "bob"), as_of: str = LATER) -> dict[str, list[Any]]:
    """Every feature, from the log and from the store, which must say the same bits."""
    with FeatureStore(root) as store:
        spine = pa.table({"user": list(users), "ts": [as_of] * len(users)})
        offline = store.training_set(spine, "v").to_arrow().drop_columns(["user", "ts"])
        online = store.online_features("v", {"user": list(users)}, as_of=as_of).to_arrow()
    for name in offline.column_names:
        assert [*map(bits, offline[name].to_pylist())] == [*map(bits, online[name].to_pylist())], name
    return {name.removeprefix("v__"): offline[name].to_pylist() for name in offline.column_names}


def filled(root: Path) -> str:
    made.succeeds(root, "apply")
    return made.succeeds(root, "backfill")


def reasons(root: Path) -> dict[str, int]:
    """What a training set counts as rejected."""
    with FeatureStore(root) as store:
        made = store.training_set(pa.table({"user": ["ann"], "ts": [LATER]}), "v")
    counts: dict[str, int] = made.manifest["sources"]["rows"]["entities"]["user"]["reasons"]
    return counts


# --- a schema that drifts


@pytest.mark.parametrize("format", FORMATS)
def test_a_column_that_comes_or_goes_is_null_where_it_is_not(tmp_path: Path, format: str) -> None:
    declare(tmp_path, format, features='agg.sum("amount"), agg.last("tier"), agg.count("note")')
    old = {"id": 1, "user": "ann", "amount": 1.0, "note": "x"}
    write(tmp_path, format, 1, [old, {**old, "id": 2, "user": "bob"}])
    new = [{"id": 2, "user": "bob", "amount": 2.0, "tier": "gold"}]
    kept = [{"id": 1, "user": "ann", "amount": 1.0, "tier": None}] if format == "snapshots" else []
    write(tmp_path, format, 2, [*new, *kept])
    assert "rejected" not in filled(tmp_path)
    lost = format == "snapshots"  # the newest snapshot has no notes: every row of it has lost its own
    assert answers(tmp_path) == {
        "count": [1, 1], "amount_sum": [1.0, 2.0], "tier_last": [None, "gold"],
        "note_count": [0 if lost else 1, 0],
    }  # fmt: skip


@pytest.mark.parametrize("format", FORMATS)
def test_a_new_column_of_an_applied_table_needs_no_more_than_apply_and_backfill(
    tmp_path: Path, format: str
) -> None:
    declare(tmp_path, format)
    write(tmp_path, format, 1, [{"id": 1, "user": "ann", "amount": 1.0}])
    filled(tmp_path)
    write(tmp_path, format, 2, [{"id": 1, "user": "ann", "amount": 2.0, "tier": "gold"}])
    filled(tmp_path)
    assert answers(tmp_path) == {"count": [1, 0], "amount_sum": [2.0, None]}


@pytest.mark.parametrize("format", FORMATS)
def test_a_declared_type_is_what_a_changed_one_is_cast_to_and_what_is_none_is_named(
    tmp_path: Path, format: str
) -> None:
    declare(tmp_path, format, columns='{"user": "string", "amount": "float64"}')
    ann, bob = {"id": 1, "user": "ann"}, {"id": 2, "user": "bob"}
    write(tmp_path, format, 1, [{**ann, "amount": 1.0}, {**bob, "amount": 2.0}])
    third = write(tmp_path, format, 3, [{**ann, "amount": "1.50"}, {**bob, "amount": "much"}])
    said = filled(tmp_path)
    assert "1 rejected" in said
    assert f"{third}, row 2: column \"amount\" holds no float64: 'much'" in said
    assert answers(tmp_path) == {"count": [1, 1], "amount_sum": [1.5, 2.0]}
    assert reasons(tmp_path) == {'column "amount" holds no float64': 1}


@pytest.mark.parametrize("format", FORMATS)
def test_a_type_that_changes_where_none_is_declared_is_an_error_that_names_the_place(
    tmp_path: Path, format: str
) -> None:
    declare(tmp_path, format)
    first = write(tmp_path, format, 1, [{"id": 1, "user": "ann", "amount": 1.0}])
    second = write(tmp_path, format, 2, [{"id": 1, "user": "ann", "amount": "much"}])
    said = made.refused(tmp_path, "plan")
    assert 'column "amount"' in said and f'"{second}"' in said
    assert f'"{first}"' in said or "row 1" in said


def test_a_type_that_changes_in_json_lines_names_the_row(tmp_path: Path) -> None:
    declare(tmp_path, "flat")
    (tmp_path / "features.py").write_text(
        (tmp_path / "features.py").read_text().replace(LOGS["flat"], 'JSONLines("log.jsonl")')
    )
    row = {"op": "u", "id": 1, "user": "ann", "at": "2026-01-01", "lsn": 1, "amount": 1.0}
    lines = [json.dumps(row | {"amount": amount}) for amount in (None, 1, 2.5, "much")]
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    assert made.refused(tmp_path, "plan").endswith('in log file "log.jsonl", row 4')


def schema(*fields: tuple[str, str]) -> dict[str, Any]:
    row = {"type": "struct", "fields": [{"field": name, "type": type} for name, type in fields]}
    return {"type": "struct", "fields": [row | {"field": "before"}, row | {"field": "after"}]}


def test_an_envelopes_schema_may_change_inside_a_file(tmp_path: Path) -> None:
    """A column comes, one grows from int32 over int64 to double, one goes; then one becomes text."""
    changes = [
        ([("id", "int32"), ("user", "string"), ("amount", "int32"), ("note", "string")],
         {"id": 1, "user": "ann", "amount": 1, "note": "x"}),
        ([("id", "int64"), ("user", "string"), ("amount", "int64"), ("tier", "string")],
         {"id": 2**40, "user": "ann", "amount": 2**40, "tier": "gold"}),
        ([("id", "int64"), ("user", "string"), ("amount", "double")],
         {"id": 3, "user": "bob", "amount": 2.5}),
    ]  # fmt: skip
    lines = [
        {"schema": schema(*fields), "payload": envelope(number, row)}
        for number, (fields, row) in enumerate(changes, 1)
    ]
    declare(tmp_path, "debezium", features='agg.sum("amount"), agg.last("tier")')
    (tmp_path / "log").mkdir()
    path = tmp_path / "log/1.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    filled(tmp_path)
    assert answers(tmp_path) == {
        "count": [2, 1], "amount_sum": [2.0**40 + 1, 2.5], "tier_last": ["gold", None],
    }  # fmt: skip

    text = [("id", "int64"), ("user", "string"), ("amount", "string")]
    rows = [{"id": 3, "user": "bob", "amount": "7.25"}, {"id": 1, "user": "ann", "amount": "much"}]
    lines += [{"schema": schema(*text), "payload": envelope(4 + i, row)} for i, row in enumerate(rows)]
    path.write_text("\n".join(map(json.dumps, lines)))
    said = made.refused(tmp_path, "plan")
    assert said == 'column "amount" is double in log file "log/1.jsonl" and string in "log/1.jsonl", row 4'
    declare(tmp_path, "debezium", columns='{"user": "string", "amount": "float64"}')
    made.succeeds(tmp_path, "apply")
    said = made.succeeds(tmp_path, "backfill", "--rebuild")
    assert "log/1.jsonl, row 5: column \"amount\" holds no float64: 'much'" in said
    assert answers(tmp_path) == {"count": [2, 1], "amount_sum": [2.0**40 + 1, 7.25]}


# --- times and positions


def flat(root: Path, *rows: Mapping[str, Any], more: str = "") -> None:
    columns = '{"id": "int64", "user": "string", "amount": "float64", "at": "timestamp"}'
    declare(root, "flat", columns=columns, more=more)
    (root / "features.py").write_text(
        (root / "features.py").read_text().replace(LOGS["flat"], 'JSONLines("log.jsonl")')
    )
    (root / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


GOOD = {"op": "c", "id": 1, "user": "ann", "at": 1_767_225_600_000, "lsn": 1, "amount": 1.0}


@pytest.mark.parametrize("pushed", [False, True])
@pytest.mark.parametrize(
    ("at", "reason"),
    [
        (2**63 - 1, 'column "at" holds no timestamp'),
        (-(2**63), 'column "at" holds no timestamp'),
        (2**64, 'column "at" holds no timestamp'),
        (1.5, 'column "at" holds no timestamp'),
        ("soon", 'column "at" holds no timestamp'),
        ("2026-02-30T00:00:00Z", 'column "at" holds no timestamp'),
        (None, 'no changed_at: column "at" is null'),
    ],
)
def test_what_is_no_instant_is_rejected_with_its_row_and_value(
    tmp_path: Path, at: Any, reason: str, pushed: bool
) -> None:
    bad = {**GOOD, "id": 2, "lsn": 2, "at": at}
    flat(tmp_path, GOOD, *([] if pushed else [bad]), more=', time_unit="ms"')
    said = filled(tmp_path)
    value = "" if at is None else str(at)
    if pushed:
        with FeatureStore(tmp_path) as store:
            [(row, why)] = store.ingest("rows", [GOOD, bad]).rejected
        assert row == 2 and why.startswith(reason) and value in why
    else:
        assert f"log.jsonl, row 2: {reason}" in said and value in said
        assert reasons(tmp_path) == {reason: 1}
    assert answers(tmp_path) == {"count": [1, 0], "amount_sum": [1.0, None]}


@pytest.mark.parametrize("pushed", [False, True])
def test_what_is_an_instant_is_accepted_before_1970_and_after_2200_too(tmp_path: Path, pushed: bool) -> None:
    times = [-62_135_596_800_000, -1, 0, 7_258_118_400_001, 253_402_300_799_999, 9_223_372_036_854_775]
    rows = [{**GOOD, "id": number, "lsn": -number, "at": at} for number, at in enumerate(times)]
    flat(tmp_path, *([] if pushed else rows), more=', time_unit="ms"')
    if pushed:
        (tmp_path / "log.jsonl").write_text(json.dumps(dict.fromkeys(GOOD)) + "\n")
    filled(tmp_path)
    if pushed:
        with FeatureStore(tmp_path) as store:
            assert store.ingest("rows", rows).accepted == len(rows)
    for as_of, count in (
        ("0001-01-01T00:00:00Z", 0), ("0001-01-01T00:00:00.000001Z", 1), ("1969-12-31T23:59:59.999001Z", 2),
        ("1970-01-01T00:00:00.000001Z", 3), ("2200-01-01T00:00:00.001Z", 3),
        ("2200-01-01T00:00:00.001001Z", 4), ("9999-12-31T23:59:59.999999Z", 5),
    ):  # fmt: skip
        assert answers(tmp_path, ["ann"], as_of)["count"] == [count], as_of


@pytest.mark.parametrize(
    ("origin", "reason", "shown"),
    [
        ({"ts_ms": -1}, "no changed_at: what its source has is no time of a commit", "ts_ms = -1"),
        ({"ts_ms": 2**62}, "no changed_at: what its source has is no time of a commit", f"{2**62}"),
        ({"ts_ms": "soon"}, "no changed_at: what its source has is no time of a commit", '"soon"'),
        ({"ts_ms": None}, "no changed_at", ""),
        ({"lsn": -1}, "no position", ""),
        ({"lsn": 2**63}, "no position", ""),
        ({"lsn": None}, "no position", ""),
        ({"connector": "mysql", "file": "bin.000001", "pos": -4}, "no position", ""),
    ],
)
def test_a_commit_that_says_no_time_or_place_is_rejected(
    tmp_path: Path, origin: dict[str, Any], reason: str, shown: str
) -> None:
    declare(tmp_path, "debezium")
    write(tmp_path, "debezium", 1, [{"id": 1, "user": "ann", "amount": 1.0}])
    (tmp_path / "log/2.jsonl").write_text(
        json.dumps(envelope(2, {"id": 1, "user": "bob", "amount": 2.0}, source=origin))
    )
    said = filled(tmp_path)
    assert f"log/2.jsonl, row 1: {reason}" in said and shown in said
    assert reasons(tmp_path) == {reason: 1}
    assert answers(tmp_path) == {"count": [1, 0], "amount_sum": [1.0, None]}


def test_a_declared_part_of_the_source_that_is_no_time_is_named_too(tmp_path: Path) -> None:
    declare(tmp_path, "debezium", more=', changed_at="source.ts_ms", position="source.lsn"')
    write(tmp_path, "debezium", 1, [{"id": 1, "user": "ann", "amount": 1.0}])
    (tmp_path / "log/2.jsonl").write_text(
        json.dumps(envelope(2, {"id": 1, "user": "bob", "amount": 2.0}, source={"ts_ms": 2**62}))
    )
    assert (
        f"log/2.jsonl, row 1: no changed_at: what its source has is no time of a commit: {2**62}"
        in filled(tmp_path)
    )


@pytest.mark.parametrize("column", ["_commit_version", "_commit_timestamp"])
def test_a_change_feed_without_commit_is_rejected(tmp_path: Path, column: str) -> None:
    declare(tmp_path, "delta_cdf")
    name = write(tmp_path, "delta_cdf", 1, [{"id": i, "user": "ann", "amount": 1.0} for i in (1, 2)])
    table = pq.read_table(tmp_path / name)
    at = table.schema.get_field_index(column)
    odd = pa.array([table[column][0].as_py(), None], table.schema.field(column).type)
    pq.write_table(table.set_column(at, column, odd), tmp_path / name)
    what = "position" if column == "_commit_version" else "changed_at"
    assert f'{name}, row 2: no {what}: column "{column}" is null' in filled(tmp_path)
    assert answers(tmp_path)["count"] == [1, 0]


@pytest.mark.parametrize("day", ["2026-02-30", "soon"])
def test_a_snapshot_of_no_day_is_refused(tmp_path: Path, day: str) -> None:
    declare(tmp_path, "snapshots")
    name = write(tmp_path, "snapshots", 1, [{"id": 1, "user": "ann", "amount": 1.0}])
    (tmp_path / name).parent.rename(tmp_path / f"log/ds={day}")
    made.succeeds(tmp_path, "plan")
    made.succeeds(tmp_path, "apply")
    assert made.refused(tmp_path, "backfill") == (
        f'log file "log/ds={day}/0.parquet" lies in ds={day}, which is no date'
    )


# --- envelopes: keys, values that were not logged, several tables


def lines(root: Path, *messages: Any) -> None:
    (root / "log").mkdir(exist_ok=True)
    (root / "log/1.jsonl").write_text("".join(json.dumps(message) + "\n" for message in messages))


KEYS: list[Any] = [
    {"id": 1},
    '{"id": 1}',
    {"schema": {"type": "struct"}, "payload": {"id": 1}},
    json.dumps({"schema": {"type": "struct"}, "payload": {"id": 1}}),
    {"schema": {"type": "int32"}, "payload": 1},
    1,
    "1",
]


@pytest.mark.parametrize(
    ("form", "key"),
    [*(("beside", key) for key in KEYS), *((form, KEYS[0]) for form in ("value", "text", "payload")),
     *(("columns", key) for key in (KEYS[1], KEYS[2], 1))],
)  # fmt: skip
def test_a_delete_without_before_is_of_the_row_that_the_messages_key_names(
    tmp_path: Path, key: Any, form: str
) -> None:
    declare(tmp_path, "debezium")
    rows = [{"id": number, "user": "ann", "amount": float(number)} for number in (1, 2)]
    messages = [(envelope(number, row, "c"), row["id"]) for number, row in enumerate(rows, 1)]
    messages.append((envelope(3, None, "d"), key))
    if form == "columns":
        (tmp_path / "log").mkdir()
        text = (tmp_path / "features.py").read_text()
        (tmp_path / "features.py").write_text(text.replace(LOGS["debezium"], 'Parquet("log/*.parquet")'))
        told = [one if isinstance(one, str) else json.dumps(one) for _, one in messages]
        table = {"value": [*(json.dumps(message) for message, _ in messages), None], "key": [*told, told[-1]]}
        pq.write_table(pa.table(table), tmp_path / "log/1.parquet")
    else:
        wrapped = {
            "beside": lambda message: message,
            "value": lambda message: {"value": message},
            "text": lambda message: {"value": json.dumps(message)},
            "payload": lambda message: {"payload": message},
        }[form]
        tombstone = {"key": key, "value": None} if form in ("value", "text") else None
        lines(tmp_path, *(wrapped(message) | {"key": one} for message, one in messages), tombstone)
    assert "1 ignored" in filled(tmp_path)
    assert reasons(tmp_path) == {}
    assert answers(tmp_path) == {"count": [1, 0], "amount_sum": [2.0, None]}


def test_a_key_that_names_no_row_does_not_help(tmp_path: Path) -> None:
    declare(tmp_path, "debezium")
    row = {"id": 1, "user": "ann", "amount": 1.0}
    keys = [{"other": 1}, None, {"id": None}, [], "null"]
    lines(tmp_path, envelope(1, row, "c"), *(envelope(2, None, "d", key=key) for key in keys),
          envelope(3, None, "u", key={"id": 1}))  # fmt: skip
    assert f"{len(keys) + 1} rejected" in filled(tmp_path)
    assert sum(reasons(tmp_path).values()) == len(keys) + 1
    assert answers(tmp_path)["count"] == [1, 0]


GONE = "__debezium_unavailable_value"


@pytest.mark.parametrize("gone", [GONE, [GONE], "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ=="])
def test_a_value_that_was_not_logged_is_never_taken_for_one(tmp_path: Path, gone: Any) -> None:
    declare(tmp_path, "debezium", features='agg.sum("amount"), agg.last("note")')
    note = ["x"] if isinstance(gone, list) else "x"
    row = {"id": 1, "user": "ann", "amount": 1.0, "note": note}
    lines(
        tmp_path,
        envelope(1, row, "c"),
        envelope(2, {**row, "amount": 2.0, "note": gone}),
        envelope(3, {**row, "id": 2, "amount": 4.0, "note": gone}, before={**row, "id": 2}),
        envelope(4, {**row, "id": 3, "amount": 8.0, "note": gone}, before={**row, "note": gone, "id": 3}),
    )
    said = filled(tmp_path)
    assert 'log/1.jsonl, row 2: column "note" was not logged, as it did not change: set REPLICA' in said
    assert "log/1.jsonl, row 4: " in said and "2 rejected" in said
    assert answers(tmp_path) == {"count": [2, 0], "amount_sum": [5.0, None], "note_last": [note, None]}
    # What no declared column needs is not missed.
    declare(tmp_path, "debezium", columns='["id", "user", "amount"]')
    made.succeeds(tmp_path, "apply")
    assert "rejected" not in made.succeeds(tmp_path, "backfill")
    assert answers(tmp_path) == {"count": [3, 0], "amount_sum": [14.0, None]}


def of_table(table: str, number: int, row: dict[str, Any] | None, op: str = "c") -> dict[str, Any]:
    return envelope(number, row, op, source={"db": "shop", "schema": "public", "table": table})


def test_a_log_of_several_tables_needs_the_name_of_one(tmp_path: Path) -> None:
    order = {"id": 1, "user": "ann", "amount": 1.0}
    lines(
        tmp_path,
        of_table("orders", 1, order),
        of_table("tickets", 2, {"id": 1, "user": "bob", "amount": "high"}),
        of_table("orders", 3, {**order, "amount": 2.0}, "u"),
        of_table("tickets", 4, None, "t"),
    )
    declare(tmp_path, "debezium")
    _, _, said = made.command(tmp_path, "plan")
    assert 'source "rows": its log is about 2 tables' in said
    assert 'name one, table="shop.public.orders"; they are shop.public.orders, shop.public.tickets' in said
    for name in ("orders", "public.orders", "shop.orders", "shop.public.orders"):
        declare(tmp_path, "debezium", more=f', table="{name}"')
        assert "2 ignored" in filled(tmp_path), name
        # A truncate of another table ends nothing here.
        assert answers(tmp_path) == {"count": [1, 0], "amount_sum": [2.0, None]}
    declare(tmp_path, "debezium", more=', table="tickets"', features='agg.last("amount")')
    filled(tmp_path)
    assert answers(tmp_path) == {"count": [0, 0], "amount_last": [None, None]}
    declare(tmp_path, "debezium", more=', table="order"')
    _, _, said = made.command(tmp_path, "plan")
    assert 'source "rows": no table "order" in its log' in said
    declare(tmp_path, "flat", more=', table="orders"')
    assert "says nothing about flat logs" in made.refused(tmp_path, "plan")


def test_a_log_of_tombstones_alone_says_that_it_has_no_rows_and_takes_declared_types(tmp_path: Path):
    declare(tmp_path, "debezium")
    (tmp_path / "log").mkdir()
    (tmp_path / "log/1.jsonl").write_text("null\n" * 3)
    with FeatureStore(tmp_path) as store, pytest.raises(DefinitionError) as caught:
        store.apply()
    assert caught.value.fact == (
        'source "rows": its log holds no rows yet, which would tell the type of "id"'
    )
    assert 'columns={"id": "string", ...}' in str(caught.value.hint)

    declare(tmp_path, "debezium", columns='{"id": "int64", "user": "string", "amount": "int64"}')
    with FeatureStore(tmp_path) as store:
        store.apply()
        assert store.backfill().counts["ignored"] == 3
    write(tmp_path, "debezium", 2, [{"id": 1, "user": "ann", "amount": 7}])
    with FeatureStore(tmp_path) as store:
        assert {change.action for change in store.plan().changes} == {"unchanged"}
        store.backfill()
    assert answers(tmp_path) == {"count": [1, 0], "amount_sum": [7, None]}


@pytest.mark.parametrize("format", FORMATS)
def test_the_store_s_own_columns_are_not_suggested(tmp_path: Path, format: str):
    declare(tmp_path, format, features='agg.sum("amuont")')
    write(tmp_path, format, 1, [{"id": 1, "user": "a", "amount": 7}])
    with FeatureStore(tmp_path) as store, pytest.raises(DefinitionError) as caught:
        store.apply()
    assert 'did you mean "amount"?' in str(caught.value.hint) and "__" not in str(caught.value.hint)
