"""One write transaction of the store: everything in it is there, or nothing is.

A commit has a number, larger than every one before it. Its time, ``now_us``, is the caller's; the order of
commits is by number and never by time.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import CursorResult, Select, delete, func, insert, select, text, update

from featurestore.store.database import Session
from featurestore.store.records import (
    COUNTER_KINDS,
    Definition,
    ForgottenKey,
    ForgottenState,
    LoadedFile,
    Roles,
    SegmentRow,
    StoredRow,
    TimelineState,
    Truncate,
    ViewState,
)
from featurestore.store.tables import (
    arrivals,
    backfill_progress,
    commits,
    definitions,
    forgotten,
    identities,
    loaded_files,
    segments,
    store_meta,
    timeline_versions,
    truncates,
    view_versions,
)

_ADD_COUNT = text(
    "INSERT INTO counters (source, partition, kind, n) VALUES (:source, :partition, :kind, :n) "
    "ON CONFLICT (source, partition, kind) DO UPDATE SET n = counters.n + excluded.n"
)


# Keys that one statement names.
KEYS_A_STATEMENT = 500


class Commit:
    """An open write transaction, given by ``store.commit(...)``."""

    def __init__(self, session: Session, *, kind: str, now_us: int, detail: str) -> None:
        self._session = session
        self._connection = session.connection
        self.now_us = now_us
        self.number, self._last_arrival, _ = session.begin_commit(kind=kind, now_us=now_us, detail=detail)

    # Timelines

    def append(self, timeline_version_id: int, rows: Iterable[SegmentRow]) -> None:
        """Add segments or deltas; at most one row per (entity, level, start) in one commit."""
        self._session.append(timeline_version_id, self.number, rows)

    def read(self, timeline_version_id: int, entity_keys: Sequence[bytes]) -> dict[bytes, list[bytes]]:
        """The payloads of each entity that has any, as they are now, this commit's own included."""
        return self._session.segments(timeline_version_id, entity_keys)

    def newer(
        self, timeline_version_id: int, entity_keys: Sequence[bytes], *, after: int | Sequence[int]
    ) -> list[StoredRow]:
        """The rows of some entities, each named once, that were written after a commit, or after a commit of
        each one's own."""
        commits_of = [after] * len(entity_keys) if isinstance(after, int) else after
        return self._session.newer(timeline_version_id, entity_keys, after=commits_of)

    def kinds(self, *, after: int) -> set[str]:
        """What kinds of commits there are after another one, before this one."""
        c = commits.c
        query = select(c.kind).where(c.number > after, c.number < self.number).distinct()
        return set(self._connection.execute(query).scalars())

    def identities(self, timeline_version_id: int, row_keys: Sequence[bytes]) -> dict[bytes, list[bytes]]:
        """Row key -> the entities whose timelines the row has been in, this commit's own included."""
        return self._session.identities(timeline_version_id, row_keys)

    def has_identities(self, timeline_version_id: int, *, first: bytes, last: bytes) -> bool:
        """Whether any row with a key in ``[first, last]`` is in the index."""
        return self._session.has_identities(timeline_version_id, first=first, last=last)

    def truncates(self, timeline_version_id: int) -> list[Truncate]:
        """The truncates of a timeline version's table, this commit's own included."""
        return self._session.truncates(timeline_version_id)

    def add_identities(self, timeline_version_id: int, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        """Say that rows are now in timelines that they have never been in: (row key, entity key)."""
        self._session.add_identities(timeline_version_id, pairs)

    def add_truncates(self, timeline_version_id: int, truncated: Sequence[Truncate]) -> None:
        """Keep truncates of a timeline version's table."""
        values = [
            {
                "timeline_version_id": timeline_version_id,
                "position": json.dumps(one.position),
                "changed_at": one.changed_at,
                "available_at": one.available_at,
                "commit_number": self.number,
            }
            for one in truncated
        ]
        if values:
            self._connection.execute(insert(truncates), values)

    def remove_identities(self, timeline_version_id: int, *, rows: int) -> int:
        """Remove the next ``rows`` entries of a dropped timeline version's index, and its truncates; 0 when
        none are left."""
        c = identities.c
        self._connection.execute(
            delete(truncates).where(truncates.c.timeline_version_id == timeline_version_id)
        )
        keys = select(c.row_key).where(c.timeline_version_id == timeline_version_id).order_by(c.row_key)
        last = self._last(keys, rows)
        if last is None:
            return 0
        removed = delete(identities).where(c.timeline_version_id == timeline_version_id, c.row_key <= last)
        return self._connection.execute(removed).rowcount

    def remove_segments(self, timeline_version_id: int, *, entities: int) -> int:
        """Remove the rows of a dropped timeline version's next ``entities`` keys; 0 when none are left."""
        of_version = segments.c.timeline_version_id == timeline_version_id
        keys = select(segments.c.entity_key).where(of_version).distinct().order_by(segments.c.entity_key)
        last = self._last(keys, entities)
        if last is None:
            return 0
        removed = delete(segments).where(of_version, segments.c.entity_key <= last)
        return self._connection.execute(removed).rowcount

    def remove_rows(self, timeline_version_id: int, rows: Sequence[StoredRow]) -> int:
        """Remove those of ``rows`` that are still there as they were read; returns how many were."""
        return self._session.remove_rows(timeline_version_id, rows)

    def add_meta(self, key: str, value: str) -> None:
        """Keep something that the store says about itself."""
        self._connection.execute(insert(store_meta).values(key=key, value=value))

    # Forgetting

    def forgetting(self) -> tuple[int, int, int]:
        """What tells one state of the list of forgotten keys, and of whose keys they may be, from another."""
        made = self._connection.execute(select(func.max(forgotten.c.commit_number))).scalar_one()
        if made is None:
            return 0, 0, 0
        newest = [
            self._connection.execute(select(func.max(ids))).scalar_one() or 0
            for ids in (timeline_versions.c.id, view_versions.c.id)
        ]
        return made, newest[0], newest[1]

    def forget_more(self, columns: Sequence[str]) -> None:
        """Say that forgotten keys of these columns are to be looked for again: they stand elsewhere, too."""
        c = forgotten.c
        self._connection.execute(
            update(forgotten).where(c.columns == json.dumps(columns)).values(state="erasing")
        )

    def add_forgotten(self, columns: Sequence[str], digest: str) -> None:
        """Put a key on the list: from this commit on, no host takes in or answers with what it holds."""
        self._connection.execute(
            insert(forgotten).values(
                columns=json.dumps(columns),
                digest=digest,
                state="erasing",
                counts="{}",
                commit_number=self.number,
            )
        )
        self._latest(registry_commit=self.number)

    def count_forgotten(self, key: ForgottenKey, erased: Mapping[str, int], state: ForgottenState) -> None:
        """Add what this commit erases to what has been erased of a key."""
        c = forgotten.c
        of_key = (c.columns == json.dumps(key.columns)) & (c.digest == key.digest)
        before = self._connection.execute(select(c.counts, c.state).where(of_key)).one()
        counts = Counter(json.loads(before.counts))
        counts.update(erased)
        self._connection.execute(
            update(forgotten).where(of_key).values(counts=json.dumps(counts, sort_keys=True), state=state)
        )
        if before.state != state:
            self._latest(registry_commit=self.number)

    def rewrite(self, timeline_version_id: int, before: StoredRow, after: SegmentRow | None) -> bool:
        """Put other versions in the place of a stored row, or none; whether it was still as ``before``."""
        c = segments.c
        same = (
            (c.timeline_version_id == timeline_version_id)
            & (c.entity_key == before.entity_key)
            & (c.level == before.level)
            & (c.start == before.start)
            & (c.commit_number == before.commit_number)
            & (c.payload == before.payload)
        )
        done: CursorResult[Any]
        if after is None:
            done = self._connection.execute(delete(segments).where(same))
        else:
            values = {"start": after.start, "versions": after.versions, "payload": after.payload}
            done = self._connection.execute(update(segments).where(same).values(values))
        return done.rowcount == 1

    def remove_entity(self, timeline_version_id: int, entity_key: bytes) -> int:
        """Remove all that is stored of an entity; returns how many rows of the store that were."""
        c = segments.c
        removed = delete(segments).where(
            c.timeline_version_id == timeline_version_id, c.entity_key == entity_key
        )
        return self._connection.execute(removed).rowcount

    def leave_timelines(
        self, timeline_version_id: int, row_keys: Sequence[bytes], entity_key: bytes | None = None
    ) -> None:
        """Take rows out of the index: of one entity's timeline, or of all."""
        c = identities.c
        for first in range(0, len(row_keys), KEYS_A_STATEMENT):
            some = row_keys[first : first + KEYS_A_STATEMENT]
            of_these = (c.timeline_version_id == timeline_version_id) & c.row_key.in_(some)
            if entity_key is not None:
                of_these &= c.entity_key == entity_key
            self._connection.execute(delete(identities).where(of_these))

    def rewrite_arrival(self, first_number: int, payload: bytes) -> None:
        """Put other rows in the place of a push's; their numbers stay taken."""
        self._connection.execute(
            update(arrivals).where(arrivals.c.first_number == first_number).values(payload=payload)
        )

    # Arrivals and counters

    def add_arrivals(self, source: str, payload: bytes, *, rows: int, arrived_at_us: int) -> int:
        """Append one push of ``rows`` rows; they are numbered from the returned number on, without a gap."""
        assert rows > 0
        first = self._last_arrival + 1
        self._last_arrival += rows
        self._connection.execute(
            insert(arrivals).values(
                first_number=first,
                rows=rows,
                source=source,
                arrived_at_us=arrived_at_us,
                payload=payload,
                commit_number=self.number,
            )
        )
        self._latest(last_arrival=self._last_arrival)
        return first

    def count(self, source: str, partition: str, counts: Mapping[str, int]) -> None:
        """Move a source's counters, in the transaction of the data that they count."""
        for kind in counts:
            assert kind in COUNTER_KINDS, kind
        moved = [
            {"source": source, "partition": partition, "kind": kind, "n": n}
            for kind, n in counts.items()
            if n
        ]
        if moved:
            self._connection.execute(_ADD_COUNT, moved)

    # Progress of backfills

    def file_loaded(self, timeline_version_id: int, file: LoadedFile) -> None:
        """Say that a timeline version holds a file; a path that was loaded before is replaced."""
        of_path = (loaded_files.c.timeline_version_id == timeline_version_id) & (
            loaded_files.c.path == file.path
        )
        self._connection.execute(delete(loaded_files).where(of_path))
        self._connection.execute(
            insert(loaded_files).values(
                timeline_version_id=timeline_version_id,
                path=file.path,
                sha256=file.sha256,
                size=file.size,
                rows=file.rows,
                commit_number=self.number,
            )
        )

    def progress(self, timeline_version_id: int, part: str, *, done: int, total: int) -> None:
        """Say how many of a part's entities, in key order, are written, this commit's included."""
        self._forget_progress(timeline_version_id, part)
        self._connection.execute(
            insert(backfill_progress).values(
                timeline_version_id=timeline_version_id,
                part=part,
                done=done,
                total=total,
                commit_number=self.number,
            )
        )

    def finish_part(self, timeline_version_id: int, part: str) -> None:
        """A part is whole: its progress is no longer kept (its files are, by ``file_loaded``)."""
        self._forget_progress(timeline_version_id, part)

    # Registry

    def define(self, definition: Definition) -> None:
        """Keep what was applied under a name, in place of what was applied before."""
        self.undefine(definition.kind, definition.name)
        self._connection.execute(
            insert(definitions).values(
                kind=definition.kind,
                name=definition.name,
                payload=definition.payload,
                fingerprint=definition.fingerprint,
                commit_number=self.number,
            )
        )

    def undefine(self, kind: str, name: str) -> None:
        self._connection.execute(
            delete(definitions).where((definitions.c.kind == kind) & (definitions.c.name == name))
        )
        self._latest(registry_commit=self.number)

    def add_timeline_version(
        self,
        *,
        source: str,
        entity: str,
        fingerprint: str,
        columns: Mapping[str, str],
        roles: Roles,
        state: TimelineState = "filling",
    ) -> int:
        """A new, empty timeline version; returns its id."""
        self._latest(registry_commit=self.number)
        new_id: int = self._connection.execute(
            insert(timeline_versions)
            .values(
                source=source,
                entity=entity,
                fingerprint=fingerprint,
                columns=json.dumps(dict(columns)),
                roles=json.dumps(dict(roles)),
                state=state,
                created_commit=self.number,
            )
            .returning(timeline_versions.c.id)
        ).scalar_one()
        return new_id

    def set_timeline_state(self, timeline_version_id: int, state: TimelineState) -> None:
        self._latest(registry_commit=self.number)
        self._connection.execute(
            update(timeline_versions).where(timeline_versions.c.id == timeline_version_id).values(state=state)
        )

    def set_horizon(self, timeline_version_id: int, *, horizon_us: int, floor_us: int) -> None:
        """From this commit on, no question before the horizon is answered, and no event before the floor is
        needed."""
        self._latest(registry_commit=self.number)
        self._connection.execute(
            update(timeline_versions)
            .where(timeline_versions.c.id == timeline_version_id)
            .values(horizon_us=horizon_us, floor_us=floor_us)
        )

    def log_is_whole(self, timeline_version_id: int) -> None:
        """Say that a timeline version holds all that its source's log held by now."""
        self._latest(registry_commit=self.number)
        self._connection.execute(
            update(timeline_versions)
            .where(timeline_versions.c.id == timeline_version_id, timeline_versions.c.filled_commit.is_(None))
            .values(filled_commit=self.number)
        )

    def add_view_version(self, *, view: str, fingerprint: str, spec: str, timeline_version_id: int) -> int:
        """The view's next version, filling; returns its id. ``switch_view`` makes it the current one."""
        self._latest(registry_commit=self.number)
        newest = self._connection.execute(
            select(func.max(view_versions.c.version)).where(view_versions.c.view == view)
        ).scalar_one()
        new_id: int = self._connection.execute(
            insert(view_versions)
            .values(
                view=view,
                version=(newest or 0) + 1,
                fingerprint=fingerprint,
                spec=spec,
                timeline_version_id=timeline_version_id,
                state="filling",
                created_commit=self.number,
            )
            .returning(view_versions.c.id)
        ).scalar_one()
        return new_id

    def switch_view(self, view_version_id: int) -> None:
        """Make a version its view's current one; the one before it stays readable as ``view@version``."""
        c = view_versions.c
        view = select(c.view).where(c.id == view_version_id).scalar_subquery()
        self._connection.execute(
            update(view_versions).where(c.view == view, c.state == "current").values(state="pinned")
        )
        self.set_view_state(view_version_id, "current")

    def set_view_state(self, view_version_id: int, state: ViewState) -> None:
        """``switched_commit`` tells the commit that last made the version current."""
        self._latest(registry_commit=self.number)
        values: dict[str, object] = {"state": state}
        if state == "current":
            values["switched_commit"] = self.number
        self._connection.execute(
            update(view_versions).where(view_versions.c.id == view_version_id).values(values)
        )

    def _last(self, keys: Select[bytes], most: int) -> bytes | None:
        """The last of the first ``most`` keys in their order."""
        (key,) = keys.limit(most).subquery().c
        return self._connection.execute(select(key).order_by(key.desc()).limit(1)).scalar()

    def _latest(self, **values: int) -> None:
        self._connection.execute(update(commits).where(commits.c.number == self.number).values(values))

    def _forget_progress(self, timeline_version_id: int, part: str) -> None:
        c = backfill_progress.c
        self._connection.execute(
            delete(backfill_progress).where(c.timeline_version_id == timeline_version_id, c.part == part)
        )
