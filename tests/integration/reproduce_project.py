"""Projects whose training sets are made again: one history of events or of a table, in each kind of log.

Time: the history is of the first hours of 2026-01-01; half as much again happens in the hours after, some of
it to what was there before.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore import FeatureStore

Row = Mapping[str, Any]

START = datetime(2026, 1, 1, tzinfo=UTC)
CARDS = ("c1", "c2", "c3")
FEATURES = """[
    agg.count(windows=["2h"]), agg.sum("amount"), agg.last("amount"), agg.percentile("amount", q=0.5),
    agg.first_k("id", k=3), agg.count_distinct("amount", windows=["1d"]),
]"""
HEAD = "from featurestore import *\ncard = Entity('card', key='card')\n"


def at(minutes: int) -> str:
    return (START + timedelta(minutes=minutes)).isoformat().replace("+00:00", "Z")


def events(first: int, end: int) -> list[Row]:
    """Events ``first`` to ``end``: each fifth corrects an earlier one, and each third is known late."""
    rows = []
    for i in range(first, end):
        happened = i * 7
        rows.append(
            {
                "id": f"e{i if i % 5 else max(i - 4, 0)}",
                "card": CARDS[i % 3] if i % 5 else CARDS[max(i - 4, 0) % 3],
                "ts": at(happened),
                "available_at": at(happened + (90 if i % 3 == 0 else 0)),
                "amount": i * 1.25,
            }
        )
    return rows


def changes(first: int, end: int) -> list[Row]:
    """Changes ``first`` to ``end`` of a table: inserts, updates that move a row now and then, deletes."""
    rows = []
    for i in range(first, end):
        op = "d" if i % 7 == 6 else "u" if i % 3 else "c"
        rows.append(
            {
                "op": op,
                "id": f"r{i // 3}" if op != "d" else f"r{max(i // 3 - 1, 0)}",
                "card": None if op == "d" else CARDS[i % 2 + i % 3 // 2],
                "lsn": i,
                "changed": at(i * 7),
                "available_at": at(i * 7 + (90 if i % 4 == 0 else 0)),
                "ts": None if op == "d" else at(i * 5),
                "amount": None if op == "d" else i * 1.25,
            }
        )
    return rows


EVENT_COLUMNS = {
    "id": "string", "card": "string", "ts": "timestamp", "available_at": "timestamp", "amount": "float64",
}  # fmt: skip
CHANGE_COLUMNS = {**EVENT_COLUMNS, "lsn": "int64", "changed": "timestamp"}
EVENT_SOURCE = f"""
source = EventSource("source", log=LOG, event_time="ts", id="id", available_at="available_at",
                     columns={EVENT_COLUMNS!r})
"""
TABLE_SOURCE = f"""
source = TableSource("source", log=LOG, primary_key="id", changed_at="changed", position="lsn",
                     event_time="ts", available_at="available_at", columns={CHANGE_COLUMNS!r})
"""
VIEW = f"v = FeatureView('v', card, source, features={FEATURES})\n"


# --- ways to write a log; the second time it grows


def to_parquet(root: Path, rows: Sequence[Row]) -> None:
    folder = root / "log"
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist([*rows]), folder / f"{len([*folder.iterdir()])}.parquet")


def to_csv(root: Path, rows: Sequence[Row]) -> None:
    path = root / "log.csv"
    if not path.exists():
        path.write_text(",".join(rows[0]) + "\n")
    with path.open("a") as file:
        for row in rows:
            file.write(",".join("" if value is None else str(value) for value in row.values()) + "\n")


def to_json_lines(root: Path, rows: Sequence[Row]) -> None:
    with (root / "log.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def to_gzip(root: Path, rows: Sequence[Row]) -> None:
    with gzip.open(root / "log.jsonl.gz", "ab") as file:
        file.writelines(json.dumps(row).encode() + b"\n" for row in rows)


def to_duckdb(root: Path, rows: Sequence[Row]) -> None:
    held = pa.Table.from_pylist([*rows])
    with duckdb.connect(str(root / "log.duckdb")) as connection:
        connection.register("held", held)
        connection.execute("CREATE TABLE IF NOT EXISTS t AS SELECT * FROM held LIMIT 0")
        connection.execute("INSERT INTO t SELECT * FROM held")


def to_debezium(root: Path, rows: Sequence[Row]) -> None:
    with (root / "log.jsonl").open("a") as file:
        for row in rows:
            cells = {name: value for name, value in row.items() if name not in ("op", "lsn", "changed")}
            when = datetime.fromisoformat(row["changed"])
            origin = {"ts_ms": int(when.timestamp() * 1000), "lsn": row["lsn"] + 1, "connector": "postgresql"}
            before = {"id": row["id"]} if row["op"] == "d" else None
            after = None if row["op"] == "d" else cells
            envelope = {"op": row["op"], "before": before, "after": after, "source": origin}
            file.write(json.dumps(envelope) + "\n")


def to_snapshots(root: Path, rows: Sequence[Row]) -> None:
    days = len([*(root / "log").glob("*")])
    for part in range(2 if days == 0 else 1):
        folder = root / "log" / f"ds=2026-01-0{days + part + 1}"
        folder.mkdir(parents=True)
        kept = {row["id"]: row for row in rows[: len(rows) - 5 * part] if row["op"] != "d"}
        cells = [{name: row[name] for name in ("id", "card", "ts", "amount")} for row in kept.values()]
        pq.write_table(pa.Table.from_pylist(cells), folder / "0.parquet")


def to_delta(root: Path, rows: Sequence[Row]) -> None:
    kinds = {"c": "insert", "u": "update_postimage", "d": "delete"}
    feed = [
        {
            **{name: row[name] for name in ("id", "card", "ts", "amount")},
            "_change_type": kinds[row["op"]],
            "_commit_version": row["lsn"],
            "_commit_timestamp": row["changed"],
        }
        for row in rows
    ]
    to_parquet(root, feed)


@dataclass(frozen=True)
class Case:
    """``declared`` is features.py; ``write`` adds rows of ``history`` to the log; rows can be ``pushed``."""

    declared: str
    history: Callable[[int, int], list[Row]]
    write: Callable[[Path, Sequence[Row]], None]
    pushed: bool = True
    instant: str = "2026-01-01T03:00:00Z"
    """A horizon of knowledge in the middle of the history."""


def _of_events(log: str, write: Callable[[Path, Sequence[Row]], None]) -> Case:
    return Case(HEAD + EVENT_SOURCE.replace("LOG", log) + VIEW, events, write)


def _of_table(log: str, write: Callable[[Path, Sequence[Row]], None], declared: str = TABLE_SOURCE) -> Case:
    return Case(HEAD + declared.replace("LOG", log) + VIEW, changes, write, pushed=declared == TABLE_SOURCE)


_DEBEZIUM = f"""
source = TableSource("source", log=LOG, primary_key="id", event_time="ts", available_at="available_at",
                     format="debezium", columns={EVENT_COLUMNS!r})
"""
_PLAIN = {name: EVENT_COLUMNS[name] for name in ("id", "card", "ts", "amount")}
_SNAPSHOTS = f"""
source = TableSource("source", log=LOG, primary_key="id", event_time="ts", format="snapshots",
                     columns={_PLAIN!r})
"""
_DELTA = _SNAPSHOTS.replace("snapshots", "delta_cdf")

CASES = {
    "events in Parquet": _of_events("Parquet('log')", to_parquet),
    "events in CSV": _of_events("CSV('log.csv')", to_csv),
    "events in JSON lines": _of_events("JSONLines('log.jsonl')", to_json_lines),
    "events in packed JSON lines": _of_events("JSONLines('log.jsonl.gz')", to_gzip),
    "events in DuckDB": _of_events("DuckDBTable('log.duckdb', 't')", to_duckdb),
    "a table in Parquet": _of_table("Parquet('log')", to_parquet),
    "a table in JSON lines": _of_table("JSONLines('log.jsonl')", to_json_lines),
    "a table in DuckDB": _of_table("DuckDBTable('log.duckdb', 't')", to_duckdb),
    "a table in Debezium's envelopes": _of_table("JSONLines('log.jsonl')", to_debezium, _DEBEZIUM),
    "a table in snapshots": replace(
        _of_table("Parquet('log')", to_snapshots, _SNAPSHOTS), instant="2026-01-02T12:00:00Z"
    ),
    "a table in Delta's change feed": _of_table("Parquet('log')", to_delta, _DELTA),
}


class Project:
    """A project's directory with 40 facts: 32 in the log, 8 pushed where the source takes pushes."""

    def __init__(self, root: Path, case: Case) -> None:
        self.root, self.case = root, case
        root.mkdir(exist_ok=True)
        (root / "features.py").write_text(case.declared)
        self.written = self.pushed = 0
        self._write(case.history(0, 32))
        with FeatureStore(root) as store:
            store.apply()
            store.backfill()
            self._push(store, case.history(32, 40))
        pq.write_table(self.spine, root / "spine.parquet")

    @property
    def spine(self) -> pa.Table:
        cards = [*CARDS, "nobody", None]
        times = [*range(0, 600, 40), 1_450, 2_900, 4_350]  # the last three are days later
        rows = [(card, at(minutes)) for minutes in times for card in cards]
        return pa.table({"card": [card for card, _ in rows], "ts": [when for _, when in rows]})

    @property
    def rows(self) -> int:
        return self.written + self.pushed

    def make(self, known_at: str | None = None, spine: object = "spine.parquet") -> bytes:
        """Write train.parquet and its manifest; their bytes."""
        with FeatureStore(self.root) as store:
            made = store.training_set(spine, "v", known_at=known_at)
        made.write_parquet(self.root / "train.parquet")
        return self.bytes("train")

    def bytes(self, name: str) -> bytes:
        """A written training set's bytes, and its manifest's."""
        return b"".join((self.root / f"{name}{end}").read_bytes() for end in (".parquet", ".manifest.json"))

    def again(self, spine: object = None) -> bytes:
        with FeatureStore(self.root) as store:
            made = store.reproduce(self.root / "train.manifest.json", spine=spine)
        assert made.warnings == ()
        made.write_parquet(self.root / "again.parquet")
        return self.bytes("again")

    def grow(self) -> None:
        """Half as much again, in the log and pushed; the store is filled; the features are others."""
        before = self.rows
        self._write(self.case.history(40, 56))
        with FeatureStore(self.root) as store:
            store.backfill()
            self._push(store, self.case.history(56, 60))
        (self.root / "features.py").write_text("raise SystemExit('edited since')\n")
        assert 2 * self.rows == 3 * before

    def _write(self, rows: Sequence[Row]) -> None:
        self.case.write(self.root, rows)
        self.written += len(rows)

    def _push(self, store: FeatureStore, rows: Sequence[Row]) -> None:
        if not self.case.pushed:
            self._write(rows)
            return
        report = store.ingest("source", [dict(row) for row in rows])
        assert report.accepted + report.corrected == len(rows), report
        self.pushed += len(rows)
