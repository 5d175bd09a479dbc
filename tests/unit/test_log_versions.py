"""Step one of the order of work: bad input is rejected and counted, and nothing else is filtered."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.dsl.entity import Entity
from featurestore.dsl.log import Parquet
from featurestore.dsl.source import EventSource
from featurestore.log.versions import Versions, read_versions

card = Entity("card", key=["bank", "card_id"])


def read(root: Path, columns: dict[str, list[object]], **more: object) -> Versions:
    schema = {"deleted": pa.bool_(), "amount": pa.string(), "ts": pa.string()}
    table = pa.table({name: pa.array(values, schema.get(name)) for name, values in columns.items()})
    pq.write_table(table, root / "events.parquet")
    declared = {
        name: "float64" if name == "amount" else "timestamp" if name == "ts" else "string" for name in columns
    }
    declared |= {"deleted": "bool"} if "deleted" in columns else {}
    source = EventSource("s", log=Parquet("events.parquet"), event_time="ts", columns=declared, **more)  # type: ignore[arg-type]
    (versions,) = read_versions(source, card, None, root)
    return versions


def events(**columns: list[object]) -> dict[str, list[object]]:
    rows = max(len(values) for values in columns.values())
    good = {"bank": ["b"], "card_id": ["c"], "id": ["1"], "ts": ["2026-01-01"], "amount": ["1.5"]}
    return {name: values * rows for name, values in good.items() if name not in columns} | columns


def test_a_row_without_id_or_event_time_is_rejected_and_counted(tmp_path: Path):
    versions = read(
        tmp_path, events(id=["1", None, "3", None], ts=["2026-01-01", "2026-01-01", None, None]), id="id"
    )
    assert versions.table.column("id").to_pylist() == ["1"]
    assert versions.reasons == {'no id: column "id" is null': 2, 'no event time: column "ts" is null': 1}
    assert [row for row, _ in versions.rejected] == [1, 2, 3]
    assert versions.rejected_count == 3


def test_every_column_of_an_id_is_needed(tmp_path: Path):
    versions = read(tmp_path, events(id=["1", "2"], part=["x", None]), id=["id", "part"])
    assert versions.table.column("id").to_pylist() == ["1"]


def test_without_a_declared_id_a_null_there_is_a_value(tmp_path: Path):
    assert read(tmp_path, events(id=["1", None])).table.num_rows == 2


def test_a_value_that_its_type_cannot_hold_rejects_its_row_and_is_shown(tmp_path: Path):
    versions = read(tmp_path, events(amount=["1", "one", None]), id="id")
    assert versions.table.column("amount").to_pylist() == [1.0, None]
    assert versions.reasons == {'column "amount" holds no float64': 1}
    assert versions.rejected == ((1, "column \"amount\" holds no float64: 'one'"),)


def test_a_row_with_a_null_key_is_of_no_timeline(tmp_path: Path):
    versions = read(
        tmp_path,
        events(bank=["b", None, "b", None], card_id=["c", "c", None, None], ts=["2026-01-01"] * 3 + [None]),
    )
    assert versions.table.num_rows == 1
    assert versions.keyless == 2
    assert versions.rejected_count == 1  # without a time it is bad input before it is keyless


def test_a_version_that_retracts_needs_key_and_id_only(tmp_path: Path):
    versions = read(
        tmp_path,
        events(
            deleted=[True, True, True, True, False, None],
            id=["1", None, "3", "4", "5", "6"],
            card_id=["c", "c", None, "c", "c", "c"],
            ts=[None, "2026-01-01", "2026-01-01", "soon", None, "2026-01-01"],
            amount=["one", "1", "1", "1", "1", "1"],
        ),
        id="id",
        deleted="deleted",
    )
    assert versions.table.column("id").to_pylist() == ["1", "4", "6"]
    assert versions.table.column("ts").null_count == 2
    assert versions.keyless == 1
    assert versions.reasons == {'no id: column "id" is null': 1, 'no event time: column "ts" is null': 1}


def test_a_null_available_at_a_duplicate_and_disorder_pass(tmp_path: Path):
    versions = read(
        tmp_path,
        events(id=["2", "1", "1"], at=[None, None, None], ts=["2026-02-01"] * 3),
        id="id",
        version="at",
    )
    assert versions.table.column("id").to_pylist() == ["2", "1", "1"]


def test_thousands_of_rejected_rows_are_counted_and_the_first_are_listed(tmp_path: Path):
    versions = read(tmp_path, events(amount=["x"] * 5000, id=[None] * 5000), id="id")
    assert versions.reasons == {'column "amount" holds no float64': 5000}
    assert [row for row, _ in versions.rejected] == list(range(1000))
