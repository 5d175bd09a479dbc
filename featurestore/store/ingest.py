"""Ingest: pushed rows become part of a source's log and of its timelines, durable before it returns.

Time: a declared ``available_at`` that a row lacks is the moment of the push. A row that was pushed before
adds nothing, unless it is now known to have been available earlier.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.errors import RequestError, RowError, UnknownNameError, suggestion
from featurestore.kernel.content import content_hash
from featurestore.kernel.roles import Roles
from featurestore.kernel.versions import single
from featurestore.log.origins import Place
from featurestore.plan.nodes import SourcePlan
from featurestore.store.additions import Additions, prepare
from featurestore.store.changes import ChangeLayout, is_table, taken_apart
from featurestore.store.commit import Commit
from featurestore.store.conflicts import SHOWN, Conflict, conflicts_of, refused
from featurestore.store.delivery import Delivery, Layout, deliver
from featurestore.store.entity_key import encode_keys
from featurestore.store.forgotten import Kept, identifying, kept, without_content
from featurestore.store.novelty import FORGOTTEN, KEYLESS, counted
from featurestore.store.payload import encode_arrivals
from featurestore.store.placement import Placement, placement
from featurestore.store.pushes import Push, all_or_none, joined, pushes_of
from featurestore.store.records import DELTA_LEVEL, TimelineVersion
from featurestore.store.registry import Registry, read_registry
from featurestore.store.seen import Seen, seen_by
from featurestore.store.snapshot import Snapshot
from featurestore.store.store import Store

PARTITION = "arrivals"

_registries: WeakKeyDictionary[Store, Registry] = WeakKeyDictionary()


@dataclass(frozen=True)
class IngestReport:
    """What became of each pushed row: accepted + corrected + duplicate + late + keyless + forgotten +
    ignored + rejected are all of them. ``rejected`` holds (number, reason): rows are numbered from 1, without
    the header of a file; in JSON lines it is the line's number. ``store_commit`` is the commit that holds
    the last of them.

    Of a table, ``ignored`` rows are tombstones and the like, ``corrected`` ones are in conflict: other
    content than another change of their row at their position, the first of which ``conflicts`` names.
    ``updates_of_unseen_rows`` counts rows that the store had not seen and whose first change, by position, is
    an update or a delete: it is accepted. Of ``forgotten`` rows, those of forgotten entities, nothing is
    kept, nor of ``late`` ones: no question inside the retention could see them.
    """

    source: str
    accepted: int
    corrected: int
    duplicate: int
    keyless: int
    rejected: list[tuple[int, str]]
    store_commit: int
    ignored: int = 0
    conflicts: list[Conflict] = field(default_factory=list)
    updates_of_unseen_rows: int = 0
    forgotten: int = 0
    late: int = 0

    def to_dict(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "accepted": self.accepted,
            "corrected": self.corrected,
            "duplicate": self.duplicate,
            "keyless": self.keyless,
            "ignored": self.ignored,
            "conflicts": [conflict.to_dict() for conflict in self.conflicts],
            "updates_of_unseen_rows": self.updates_of_unseen_rows,
            "forgotten": self.forgotten,
            "late": self.late,
            "rejected": [{"row": row, "reason": reason} for row, reason in self.rejected],
            "store_commit": self.store_commit,
        }

    def text(self) -> str:
        counted = (("accepted", self.accepted), ("corrected", self.corrected), ("duplicate", self.duplicate),
                   ("too late to be of use", self.late), ("without an entity key", self.keyless),
                   ("of forgotten entities", self.forgotten),
                   ("ignored", self.ignored),
                   ("rejected", len(self.rejected)))  # fmt: skip
        told = ", ".join(f"{n:,} {what}" for what, n in counted if n or what == "accepted")
        lines = [f"{self.source}: {told} (store commit {self.store_commit})"]
        lines.extend(f"  in conflict: {conflict.text()}" for conflict in self.conflicts)
        if self.updates_of_unseen_rows:
            lines.append(
                f"  rows never seen before that begin with an update: {self.updates_of_unseen_rows:,}"
            )
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
    strict: bool = False,
) -> IngestReport:
    """Push ``rows`` into an applied source: a file (.jsonl, .csv, .parquet), dicts or an Arrow table.

    A bad row is refused with its reason and the others go on; with ``atomic`` it refuses all of them
    (RowError, nothing is written). With ``strict`` so does a change that is in conflict with another one of
    its row at its position, here or in the store. Rows that are handed in at once are one commit, those of a
    file one commit for every few thousand; with ``atomic`` or ``strict`` one.
    """
    registry = _registry(store)
    plan = _source(registry, source)
    pushes: Iterable[Push] = pushes_of(root, plan, rows)
    if atomic or strict:
        pushes = [all_or_none(joined(list(pushes), plan), plan)]
    counts: Counter[str] = Counter()
    rejected: list[tuple[int, str]] = []
    conflicts: list[Conflict] = []
    number = 0
    for push in pushes:
        number = _push(store, plan, push, now_us, counts, conflicts, strict=strict) or number
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
        counts["ignored"],
        conflicts[:SHOWN],
        counts["unseen"],
        counts["forgotten"],
        counts["late"],
    )


def _registry(store: Store) -> Registry:
    with store.snapshot() as snapshot:
        return registry_of(store, snapshot)


def registry_of(store: Store, snapshot: Snapshot) -> Registry:
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


# What a push adds


@dataclass(frozen=True)
class Taken:
    """The rows of a push without what is forgotten; ``erased`` bool[rows] are changes of a table that hold a
    forgotten key, of which nothing but what names them is kept."""

    kept: Kept
    hashes: NDArray[np.uint64]
    erased: NDArray[np.bool_] | None

    @classmethod
    def of(cls, table: pa.Table, plan: SourcePlan, registry: Registry) -> Taken:
        is_table = plan.changes is not None
        gone = registry.forgotten.of(plan.name, plan.identity if is_table else ())
        made = kept(table, gone, plan.roles.content, is_table=is_table)
        hashes = made.hashes if made.hashes is not None else content_hash(made.table, plan.roles.content)
        erased = None
        if gone is not None and is_table:
            columns = dict(zip(made.table.column_names, made.table.columns, strict=True))
            erased = gone.marked(columns, made.table.num_rows)
        return cls(made, hashes, erased)

    @property
    def table(self) -> pa.Table:
        return self.kept.table

    def arrivals(self, plan: SourcePlan) -> pa.Table:
        """The rows as they are kept."""
        if self.erased is None:
            return self.table
        return without_content(self.table, self.hashes, self.erased, identifying(plan.roles))


@dataclass(frozen=True)
class _Prepared:
    """One timeline's part of a push; ``row_status`` int8[rows]."""

    timeline: TimelineVersion
    additions: Additions
    seen: Seen | None

    def statuses(self, rows: int) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
        status = np.full(rows, KEYLESS, np.int8)
        kept = np.zeros(rows, np.bool_)
        status[self.additions.delivery.row] = self.additions.novelty.status
        kept[self.additions.delivery.row] = self.additions.novelty.kept
        return status, kept

    def conflicts(self, push: Push) -> list[Conflict]:
        return []

    @property
    def conflicting(self) -> int:
        return 0

    @property
    def unseen(self) -> int:
        return 0

    def append(self, commit: Commit) -> None:
        commit.append(self.timeline.id, self.additions.rows)

    def again(self, commit: Commit) -> _Prepared:
        made = self.additions.still_hold(commit, self.timeline.id, self.seen)
        return _Prepared(self.timeline, made, self.seen)


@dataclass(frozen=True)
class _PlacedChanges:
    """The same of a table."""

    timeline: TimelineVersion
    placement: Placement

    def statuses(self, rows: int) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
        assert len(self.placement.status) == rows
        return self.placement.status, self.placement.kept

    def conflicts(self, push: Push) -> list[Conflict]:
        layout = ChangeLayout.of(self.timeline)
        return conflicts_of(self.placement, layout, lambda row: Place("", int(push.numbers[row])))

    @property
    def conflicting(self) -> int:
        return len(self.placement.conflicting)

    @property
    def unseen(self) -> int:
        return self.placement.unseen

    def append(self, commit: Commit) -> None:
        self.placement.write(commit, self.timeline.id)

    def again(self, commit: Commit) -> _PlacedChanges:
        layout = ChangeLayout.of(self.timeline)
        made = placement(self.placement.delivered, layout, self.timeline.id, commit, level=DELTA_LEVEL)
        return _PlacedChanges(self.timeline, made)


Part = _Prepared | _PlacedChanges


def _push(
    store: Store,
    plan: SourcePlan,
    push: Push,
    now_us: int,
    counts: Counter[str],
    conflicts: list[Conflict],
    *,
    strict: bool,
) -> int:
    """Write one push in one commit; returns its number, 0 where there was nothing to write."""
    if not push.table.num_rows and not push.rejected and not push.ignored:
        return 0
    table = _stamped(push.table, plan, now_us)
    with store.snapshot() as snapshot:
        registry = registry_of(store, snapshot)
        taken = Taken.of(table, plan, registry)
        prepared = prepared_parts(registry, plan, taken, snapshot, seen=seen_by(store))
        before = snapshot.commit_number
    for attempt in store.attempts("ingest", now_us=now_us, detail=plan.name):
        with attempt as commit:
            if commit.number != before + 1:
                taken, prepared = parts_again(store, registry, plan, table, taken, prepared, commit)
            # The timelines of all entities hold the same changes.
            left = push
            if taken.kept.rows is not None and plan.changes is not None:
                left = replace(push, numbers=push.numbers[taken.kept.rows])
            told = max((one.conflicts(left) for one in prepared), key=len, default=[])
            if strict and told:
                raise _in_conflict(plan.name, told, max(one.conflicting for one in prepared))
            found = _write(commit, plan, taken, prepared, now_us)
            found["rejected"] = len(push.rejected)
            found["ignored"] = push.ignored
            found["delivered"] = sum(found.values())
            commit.count(plan.name, PARTITION, found)
            number = commit.number
    remember(store, number, prepared)
    counts.update(found)
    counts["unseen"] += max((one.unseen for one in prepared), default=0)
    conflicts += told
    return number


def _in_conflict(source: str, conflicts: Sequence[Conflict], count: int) -> RowError:
    rows = [
        (place.row, f"in conflict with another change of row {conflict.row} at position {conflict.position}")
        for conflict in conflicts
        for place in (conflict.counts, *conflict.others)
        if place.row is not None
    ]
    return refused(source, conflicts=conflicts, count=count, written="nothing is written", rows=sorted(rows))


def parts_again(
    store: Store,
    registry: Registry,
    plan: SourcePlan,
    table: pa.Table,
    taken: Taken,
    prepared: Sequence[Part],
    commit: Commit,
    only: Collection[int] | None = None,
) -> tuple[Taken, list[Part]]:
    """What another commit since the preparation has changed is prepared anew, inside this one."""
    with store.snapshot() as snapshot:
        if snapshot.registry_commit != registry.commit_number:
            registry = registry_of(store, snapshot)
            taken = Taken.of(table, plan, registry)
            return taken, prepared_parts(registry, plan, taken, snapshot, only, seen_by(store))
    return taken, [one.again(commit) for one in prepared]


def prepared_parts(
    registry: Registry,
    plan: SourcePlan,
    taken: Taken,
    snapshot: Snapshot,
    only: Collection[int] | None = None,
    seen: Seen | None = None,
) -> list[Part]:
    """What canonical rows add to each timeline version of their source, or to ``only`` some of them."""
    made: list[Part] = []
    table, hashes = taken.table, taken.hashes
    for timeline in registry.timelines:
        if only is not None and timeline.id not in only:
            continue
        if timeline.source == plan.name and is_table(timeline) != (plan.changes is not None):
            continue  # The source was of the other kind when this version was made.
        if timeline.source == plan.name and plan.changes is not None:
            layout = ChangeLayout.of(timeline)
            delivered = taken_apart(table, hashes, plan, layout, taken.kept.marked)
            made.append(
                _PlacedChanges(
                    timeline, placement(delivered, layout, timeline.id, snapshot, level=DELTA_LEVEL)
                )
            )
        elif timeline.source == plan.name:
            delivery = _delivery(table, hashes, plan, timeline)
            new = prepare(delivery, 0, delivery.runs, DELTA_LEVEL, timeline.id, snapshot, seen)
            made.append(_Prepared(timeline, new, seen))
    return made


def remember(store: Store, number: int, parts: Sequence[Part]) -> None:
    """After a commit of this process: what it wrote need not be read."""
    seen = seen_by(store)
    if seen is not None:
        events = [one for one in parts if isinstance(one, _Prepared)]
        seen.wrote(number, [one.additions.written(one.timeline.id) for one in events])


def _delivery(
    table: pa.Table, hashes: NDArray[np.uint64], plan: SourcePlan, timeline: TimelineVersion
) -> Delivery:
    """The rows that have an entity key, in key order."""
    layout, schema = Layout.of(timeline), plan.schema
    codes = np.full(table.num_rows, -1, np.int64)
    keys: list[bytes] = []
    # An older version's key may be a column that the source has no more, or has in another type.
    if all(name in schema and timeline.columns[name] == str(schema[name]) for name in layout.keys):
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


def row_statuses(prepared: Sequence[Part], rows: int) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
    """What each row is, and whether any timeline keeps it. A row counts as the most that it is in any: new, a
    correction, a duplicate, without key."""
    if not prepared:
        return np.full(rows, KEYLESS, np.int8), np.zeros(rows, np.bool_)
    statuses = [one.statuses(rows) for one in prepared]
    status: NDArray[np.int8] = np.minimum.reduce([status for status, _ in statuses])
    kept: NDArray[np.bool_] = np.logical_or.reduce([kept for _, kept in statuses])
    return status, kept


def _write(
    commit: Commit, plan: SourcePlan, taken: Taken, prepared: Sequence[Part], now_us: int
) -> dict[str, int]:
    """Append what is new to the timelines and to the arrivals; returns how many rows became what."""
    status, stays = row_statuses(prepared, taken.table.num_rows)
    # What has no key today may have one for an entity that is declared tomorrow.
    stays = stays | (status == KEYLESS)
    for one in prepared:
        one.append(commit)
    if taken.kept.marked is not None:
        status[taken.kept.marked] = FORGOTTEN
    if stays.any():
        new = taken.arrivals(plan)
        new = new if stays.all() else new.filter(pa.array(stays))
        commit.add_arrivals(plan.name, encode_arrivals(new), rows=new.num_rows, arrived_at_us=now_us)
    counts = counted(status)
    counts["forgotten"] += taken.kept.dropped
    return counts
