"""Ingest: pushed rows become part of a source's log and of its timelines, durable before it returns.

Time: a declared ``available_at`` that a row lacks is the moment of the push. A row that was pushed before
adds nothing, unless it is now known to have been available earlier.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.dsl.table_source import TableSource
from featurestore.errors import RequestError, RowError, UnknownNameError, suggestion
from featurestore.kernel.changes import OPERATION_COLUMN
from featurestore.kernel.content import content_hash
from featurestore.kernel.roles import ChangeRoles, Roles
from featurestore.kernel.versions import single
from featurestore.log.cast import cast_rows, cast_table
from featurestore.log.cells import cells_of
from featurestore.log.changes import flat_changes
from featurestore.log.versions import event_versions
from featurestore.plan.nodes import SourcePlan
from featurestore.store.additions import Additions, prepare
from featurestore.store.changes import ChangeLayout, is_table, taken_apart
from featurestore.store.commit import Commit
from featurestore.store.delivery import Delivery, Layout, deliver
from featurestore.store.entity_key import encode_keys
from featurestore.store.novelty import ACCEPTED, CORRECTED, DUPLICATE
from featurestore.store.payload import encode_arrivals
from featurestore.store.placement import Placement, placement
from featurestore.store.pushed_files import pushed_tables
from featurestore.store.records import DELTA_LEVEL, TimelineVersion
from featurestore.store.registry import Registry, read_registry
from featurestore.store.snapshot import Snapshot
from featurestore.store.store import Store

PARTITION = "arrivals"
KEYLESS = 3
# 5,000 rows of a file take some 20 ms, so that others get their turn.
CHUNK_ROWS = 5_000
# Casting and rejecting name the first thousand faults: of as many rows, all.
PIECE_ROWS = 1_000

_registries: WeakKeyDictionary[Store, Registry] = WeakKeyDictionary()


@dataclass(frozen=True)
class IngestReport:
    """What became of each pushed row. ``rejected`` holds (number, reason): rows are numbered from 1,
    without the header of a file; in JSON lines it is the line's number. ``store_commit`` is the commit
    that holds the last of them."""

    source: str
    accepted: int
    corrected: int
    duplicate: int
    keyless: int
    rejected: list[tuple[int, str]]
    store_commit: int

    def to_dict(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "accepted": self.accepted,
            "corrected": self.corrected,
            "duplicate": self.duplicate,
            "keyless": self.keyless,
            "rejected": [{"row": row, "reason": reason} for row, reason in self.rejected],
            "store_commit": self.store_commit,
        }

    def text(self) -> str:
        counted = (("accepted", self.accepted), ("corrected", self.corrected), ("duplicate", self.duplicate),
                   ("without an entity key", self.keyless), ("rejected", len(self.rejected)))  # fmt: skip
        told = ", ".join(f"{n:,} {what}" for what, n in counted if n or what == "accepted")
        lines = [f"{self.source}: {told} (store commit {self.store_commit})"]
        lines.extend(f"  row {row:,}: {reason}" for row, reason in self.rejected[:20])
        if len(self.rejected) > 20:
            lines.append(f"  ... and {len(self.rejected) - 20:,} more")
        return "\n".join(lines)


def ingest(
    store: Store,
    root: Path,
    source: str,
    rows: str | Path | Sequence[Mapping[str, object]] | pa.Table,
    *,
    atomic: bool,
    now_us: int,
) -> IngestReport:
    """Push ``rows`` into an applied source: a file (.jsonl, .csv, .parquet), dicts or an Arrow table.

    A bad row is refused with its reason and the others go on; with ``atomic`` it refuses all of them
    (RowError, nothing is written). Rows that are handed in at once are one commit, those of a file one commit
    for every few thousand.
    """
    registry = _registry(store)
    plan = _source(registry, source)
    pushes: Iterable[Push] = _pushes(root, plan, rows)
    if atomic:
        pushes = [_all_or_none(_joined(list(pushes), plan), plan)]
    counts: Counter[str] = Counter()
    rejected: list[tuple[int, str]] = []
    number = 0
    for push in pushes:
        number = _push(store, plan, push, now_us, counts) or number
        rejected.extend(push.rejected)
    if not number:
        with store.snapshot() as snapshot:
            number = snapshot.commit_number
    return IngestReport(
        source,
        counts["accepted"],
        counts["corrected"],
        counts["duplicate"],
        counts["keyless"],
        rejected,
        number,
    )


def _registry(store: Store) -> Registry:
    with store.snapshot() as snapshot:
        return _registry_of(store, snapshot)


def _registry_of(store: Store, snapshot: Snapshot) -> Registry:
    known = _registries.get(store)
    if known is None or known.commit_number != snapshot.registry_commit:
        known = _registries[store] = read_registry(snapshot)
    return known


def _source(registry: Registry, name: str) -> SourcePlan:
    plan = registry.sources.get(name)
    if plan is None:
        raise UnknownNameError(
            f'no source "{name}"', hint=suggestion(name, registry.sources, what="applied sources")
        )
    if isinstance(plan.roles, Roles) and not plan.ids:
        raise RequestError(
            f'source "{name}" has no id: each of its rows is its own fact, and a push may be repeated',
            hint="declare what identifies an event, id=...; or add the rows to its log and backfill",
        )
    if not any(timeline.source == name for timeline in registry.timelines):
        raise RequestError(
            f'no applied feature view reads source "{name}"', hint='declare one and run "featurestore apply"'
        )
    return plan


# What is pushed


@dataclass(frozen=True)
class Push:
    """Good rows of one push, in canonical columns (of a table: a changes table), and those that were refused;
    how many were tombstones and the like."""

    table: pa.Table
    rejected: Sequence[tuple[int, str]] = ()
    ignored: int = 0


def _pushes(root: Path, plan: SourcePlan, rows: object) -> Iterator[Push]:
    """What to commit, one after another: a file's chunks, or all that was handed in at once."""
    if not isinstance(rows, str | Path):
        yield _joined(list(_pieces(plan, rows)), plan)
        return
    some: list[Push] = []
    for piece in _pieces_of_file(root / Path(rows).expanduser(), plan):
        some.append(piece)
        if len(some) * PIECE_ROWS >= CHUNK_ROWS:
            yield _joined(some, plan)
            some = []
    yield _joined(some, plan)


def _pieces_of_file(path: Path, plan: SourcePlan) -> Iterator[Push]:
    for table, numbers, refused in pushed_tables(path, list(_given(plan)), plan):
        if refused:
            yield Push(_empty(plan), refused)
        for first in range(0, table.num_rows, PIECE_ROWS):
            yield _good(table.slice(first, PIECE_ROWS), plan, numbers[first : first + PIECE_ROWS])


def _pieces(plan: SourcePlan, rows: object) -> Iterator[Push]:
    columns = _given(plan)
    if isinstance(rows, pa.Table):
        unknown = [name for name in rows.column_names if name not in columns]
        if unknown:
            raise RequestError(
                f'no column "{unknown[0]}" in source "{plan.name}"',
                hint=suggestion(unknown[0], columns, what="columns"),
            )
        for first in range(0, rows.num_rows, PIECE_ROWS):
            part = rows.slice(first, PIECE_ROWS)
            yield _good(part, plan, np.arange(first + 1, first + 1 + part.num_rows))
        return
    if not isinstance(rows, Sequence) or not all(isinstance(row, Mapping) for row in rows):
        raise RequestError(
            "rows are a path, a list of dicts or an Arrow table", hint='as [{"id": "t1", ...}]'
        )
    for first in range(0, len(rows), PIECE_ROWS):
        some = rows[first : first + PIECE_ROWS]
        yield _good(some, plan, np.arange(first + 1, first + 1 + len(some)))


def _good(
    raw: pa.Table | Sequence[Mapping[str, object]], plan: SourcePlan, numbers: NDArray[np.int64]
) -> Push:
    # Without entity keys: a row may be keyless for one entity of the source and not for another.
    if plan.changes is not None:
        return _good_changes(raw, plan, plan.changes.op, numbers)
    if isinstance(raw, pa.Table):
        cast = cast_table(raw, plan.schema, timezone=plan.timezone, time_unit=plan.time_unit)
    else:
        cast = cast_rows(raw, plan.schema, timezone=plan.timezone, time_unit=plan.time_unit)
    made = event_versions(cast, plan, ())
    return Push(made.table, [(int(numbers[row]), reason) for row, reason in made.rejected])


def _good_changes(
    raw: pa.Table | Sequence[Mapping[str, object]], plan: SourcePlan, op: str, numbers: NDArray[np.int64]
) -> Push:
    """Flat rows with an operation column, whatever the format of the source's log is."""
    refused: list[tuple[int, str]] = []
    if not isinstance(raw, pa.Table):
        known = _given(plan)
        stays = []
        for number, row in zip(numbers.tolist(), raw, strict=True):
            unknown = next((str(name) for name in row if name not in known), None)
            if unknown is None:
                stays.append(row)
            else:
                refused.append((number, f'no column "{unknown[:80]}" in the source'))
        if refused:
            out = {number for number, _ in refused}
            numbers = numbers[[number not in out for number in numbers.tolist()]]
        raw = pa.table({name: cells_of([row.get(name) for row in stays]) for name in (*plan.schema, op)})
    made = flat_changes(raw, _flat(plan), (), plan.schema)
    refused += [(int(numbers[row]), reason) for row, reason in made.rejected]
    return Push(made.table, sorted(refused), made.ignored)


def _flat(plan: SourcePlan) -> TableSource:
    """The source as if its log were flat rows of the columns that it has."""
    roles = plan.roles
    assert plan.changes is not None and isinstance(roles, ChangeRoles)
    return replace(
        plan.changes.declared,
        format="flat",
        changed_at=roles.changed_at,
        position=roles.position,
        columns=None,
    )


def _given(plan: SourcePlan) -> Sequence[str]:
    """The columns that a pushed row may have."""
    return [*plan.schema, plan.changes.op] if plan.changes is not None else list(plan.schema)


def _joined(pushes: Sequence[Push], plan: SourcePlan) -> Push:
    if len(pushes) == 1:
        return pushes[0]
    tables = [push.table for push in pushes] or [_empty(plan)]
    return Push(
        pa.concat_tables(tables).combine_chunks(),
        sorted(row for push in pushes for row in push.rejected),
        sum(push.ignored for push in pushes),
    )


def _empty(plan: SourcePlan) -> pa.Table:
    operation = [] if plan.changes is None else [(OPERATION_COLUMN, pa.int64())]
    return pa.schema([*((name, dtype.arrow) for name, dtype in plan.columns), *operation]).empty_table()


def _all_or_none(push: Push, plan: SourcePlan) -> Push:
    if push.rejected:
        shown = "; ".join(f"row {row}: {reason}" for row, reason in push.rejected[:5])
        raise RowError(
            f'source "{plan.name}": nothing is written, {len(push.rejected):,} rows are refused ({shown})',
            hint="mend them, or push without atomic to leave them out",
            rows=push.rejected,
        )
    return push


# What a push adds


@dataclass(frozen=True)
class _Prepared:
    """One timeline's part of a push; ``row_status`` int8[rows]."""

    timeline: TimelineVersion
    additions: Additions

    def statuses(self, rows: int) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
        status = np.full(rows, KEYLESS, np.int8)
        kept = np.zeros(rows, np.bool_)
        status[self.additions.delivery.row] = self.additions.novelty.status
        kept[self.additions.delivery.row] = self.additions.novelty.kept
        return status, kept

    def append(self, commit: Commit) -> None:
        commit.append(self.timeline.id, self.additions.rows)

    def again(self, commit: Commit) -> _Prepared:
        return _Prepared(self.timeline, self.additions.still_hold(commit, self.timeline.id))


@dataclass(frozen=True)
class _PlacedChanges:
    """The same of a table."""

    timeline: TimelineVersion
    placement: Placement

    def statuses(self, rows: int) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
        assert len(self.placement.status) == rows
        return self.placement.status, self.placement.kept

    def append(self, commit: Commit) -> None:
        self.placement.write(commit, self.timeline.id)

    def again(self, commit: Commit) -> _PlacedChanges:
        layout = ChangeLayout.of(self.timeline)
        made = placement(self.placement.delivered, layout, self.timeline.id, commit, level=DELTA_LEVEL)
        return _PlacedChanges(self.timeline, made)


_Part = _Prepared | _PlacedChanges


def _push(store: Store, plan: SourcePlan, push: Push, now_us: int, counts: Counter[str]) -> int:
    """Write one push in one commit; returns its number, 0 where there was nothing to write."""
    if not push.table.num_rows and not push.rejected and not push.ignored:
        return 0
    table = _stamped(push.table, plan, now_us)
    hashes = content_hash(table, plan.roles.content)
    with store.snapshot() as snapshot:
        registry = _registry_of(store, snapshot)
        prepared = _prepare(registry, plan, table, hashes, snapshot)
        seen = snapshot.commit_number
    with store.commit("ingest", now_us=now_us, detail=plan.name) as commit:
        if commit.number != seen + 1:
            prepared = _again(store, registry, plan, table, hashes, prepared, commit)
        found = _write(commit, plan, table, prepared, now_us)
        found["rejected"] = len(push.rejected)
        found["ignored"] = push.ignored
        found["delivered"] = sum(found.values())
        commit.count(plan.name, PARTITION, found)
        number = commit.number
    counts.update(found)
    return number


def _again(
    store: Store,
    registry: Registry,
    plan: SourcePlan,
    table: pa.Table,
    hashes: NDArray[np.uint64],
    prepared: Sequence[_Part],
    commit: Commit,
) -> list[_Part]:
    """What another commit since the preparation has changed is prepared anew, inside this one."""
    with store.snapshot() as snapshot:
        if snapshot.registry_commit != registry.commit_number:
            return _prepare(_registry_of(store, snapshot), plan, table, hashes, snapshot)
    return [one.again(commit) for one in prepared]


def _prepare(
    registry: Registry, plan: SourcePlan, table: pa.Table, hashes: NDArray[np.uint64], snapshot: Snapshot
) -> list[_Part]:
    made: list[_Part] = []
    for timeline in registry.timelines:
        if timeline.source == plan.name and is_table(timeline) != (plan.changes is not None):
            continue  # The source was of the other kind when this version was made.
        if timeline.source == plan.name and plan.changes is not None:
            layout = ChangeLayout.of(timeline)
            delivered = taken_apart(table, hashes, plan, layout)
            made.append(
                _PlacedChanges(
                    timeline, placement(delivered, layout, timeline.id, snapshot, level=DELTA_LEVEL)
                )
            )
        elif timeline.source == plan.name:
            delivery = _delivery(table, hashes, plan, Layout.of(timeline))
            made.append(
                _Prepared(timeline, prepare(delivery, 0, delivery.runs, DELTA_LEVEL, timeline.id, snapshot))
            )
    return made


def _delivery(table: pa.Table, hashes: NDArray[np.uint64], plan: SourcePlan, layout: Layout) -> Delivery:
    """The rows that have an entity key, in key order."""
    schema = plan.schema
    codes = np.full(table.num_rows, -1, np.int64)
    keys: list[bytes] = []
    if all(name in schema for name in layout.keys):
        columns = [single(table, name) for name in layout.keys]
        has_key = np.ones(table.num_rows, np.bool_)
        for column in columns:
            if column.null_count:
                has_key &= column.is_valid().to_numpy(zero_copy_only=False)
        if not has_key.all():
            columns = [column.filter(pa.array(has_key)) for column in columns]
        encoded = encode_keys(columns, [schema[name] for name in layout.keys])
        keys = sorted(set(encoded))
        number = {key: i for i, key in enumerate(keys)}
        codes[has_key] = [number[key] for key in encoded]
    return deliver(table, hashes, codes, keys, layout)


def _stamped(table: pa.Table, plan: SourcePlan, now_us: int) -> pa.Table:
    name = plan.roles.available_at
    if name is None or name == plan.roles.event_time or not table.num_rows:
        return table
    column = table.column(name)
    if not column.null_count:
        return table
    stamp = pa.scalar(now_us, pa.int64()).cast(column.type)
    return table.set_column(table.schema.get_field_index(name), name, pc.fill_null(column, stamp))


def _write(
    commit: Commit, plan: SourcePlan, table: pa.Table, prepared: Sequence[_Part], now_us: int
) -> dict[str, int]:
    """Append what is new to the timelines and to the arrivals; returns how many rows became what."""
    rows = table.num_rows
    statuses = [one.statuses(rows) for one in prepared]
    # A row counts as the most that it is in any timeline: new, a correction, a duplicate, without key.
    status = (
        np.minimum.reduce([status for status, _ in statuses]) if statuses else np.full(rows, KEYLESS, np.int8)
    )
    kept = np.logical_or.reduce([kept for _, kept in statuses]) if statuses else np.zeros(rows, np.bool_)
    # What has no key today may have one for an entity that is declared tomorrow.
    kept = kept | (status == KEYLESS)
    for one in prepared:
        one.append(commit)
    if kept.any():
        new = table if kept.all() else table.filter(pa.array(kept))
        commit.add_arrivals(plan.name, encode_arrivals(new), rows=new.num_rows, arrived_at_us=now_us)
    numbers = np.bincount(status, minlength=4).tolist()
    return {
        "accepted": numbers[ACCEPTED],
        "corrected": numbers[CORRECTED],
        "duplicate": numbers[DUPLICATE],
        "keyless": numbers[KEYLESS],
    }
