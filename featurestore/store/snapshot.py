"""One consistent state of the store: everything that a snapshot reads is of one commit (law 5).

``commit_number`` is the last commit that it sees; nothing written after it began is in any answer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TypeVarTuple

from sqlalchemy import Row, Select, func, select, true

from featurestore.store.database import Database, Latest, Session
from featurestore.store.records import (
    Arrival,
    CounterKey,
    Definition,
    ForgottenKey,
    LoadedFile,
    Progress,
    Sizes,
    StoredRow,
    TimelineVersion,
    Truncate,
    ViewVersion,
)
from featurestore.store.tables import (
    arrivals,
    backfill_progress,
    commits,
    counters,
    definitions,
    forgotten,
    identities,
    loaded_files,
    segments,
    store_meta,
    timeline_versions,
    view_versions,
)

Columns = TypeVarTuple("Columns")


class Snapshot:
    """An open read transaction, given by ``store.snapshot()``; good until its block ends.

    ``registry_commit`` is the last commit that changed a definition or a version: what was read from the
    registry may be cached under it. ``last_arrival`` is the number of the last pushed row.
    """

    __slots__ = ("_database", "_session", "commit_number", "last_arrival", "registry_commit")

    def __init__(self, database: Database, session: Session, latest: Latest) -> None:
        self._database = database
        self._session = session
        self.commit_number, self.last_arrival, self.registry_commit = latest

    def read(self, timeline_version_id: int, entity_keys: Sequence[bytes]) -> dict[bytes, list[bytes]]:
        """The payloads of each entity that has any."""
        try:
            return self._session.segments(timeline_version_id, entity_keys)
        except self._database.driver_error as error:
            raise (self._database.unavailable(error) or error) from error

    def newer(
        self, timeline_version_id: int, entity_keys: Sequence[bytes], *, after: int | Sequence[int]
    ) -> list[StoredRow]:
        """The rows of some entities, each named once, that were written after a commit, or after a commit of
        each one's own."""
        commits_of = [after] * len(entity_keys) if isinstance(after, int) else after
        with self._database.errors():
            return self._session.newer(timeline_version_id, entity_keys, after=commits_of)

    def kinds(self, *, after: int) -> set[str]:
        """What kinds of commits there are after another one."""
        return {
            row[0] for row in self._rows(select(commits.c.kind).where(commits.c.number > after).distinct())
        }

    def identities(self, timeline_version_id: int, row_keys: Sequence[bytes]) -> dict[bytes, list[bytes]]:
        """Row key -> the entities whose timelines the row has been in; one of none is absent."""
        with self._database.errors():
            return self._session.identities(timeline_version_id, row_keys)

    def truncates(self, timeline_version_id: int) -> list[Truncate]:
        """The truncates of a timeline version's table."""
        with self._database.errors():
            return self._session.truncates(timeline_version_id)

    def is_empty(self, timeline_version_id: int) -> bool:
        """Whether a timeline version holds nothing of any entity."""
        held = [segments.c.timeline_version_id, identities.c.timeline_version_id]
        return not any(self._rows(select(c).where(c == timeline_version_id).limit(1)) for c in held)

    def entity_keys(self, timeline_version_id: int, *, after: bytes = b"", limit: int) -> list[bytes]:
        """The next keys of a timeline version in their order, for walking through all of them."""
        c = segments.c
        rows = self._rows(
            select(c.entity_key)
            .where(c.timeline_version_id == timeline_version_id, c.entity_key > after)
            .distinct()
            .order_by(c.entity_key)
            .limit(limit)
        )
        return [row[0] for row in rows]

    def entity_count(self, timeline_version_id: int) -> int:
        """How many entities a timeline version holds something of. Walks over their keys."""
        c = segments.c
        query = select(func.count(c.entity_key.distinct())).where(
            c.timeline_version_id == timeline_version_id
        )
        return int(self._rows(query)[0][0])

    def arrivals(
        self,
        source: str,
        *,
        after: int = 0,
        up_to: int | None = None,
        before: int | None = None,
        limit: int | None = None,
    ) -> list[Arrival]:
        """The pushes of a source, oldest first, whose rows have numbers in ``(after, up_to]``: all of them,
        or ``limit``. ``before``: those that begin before a number, however far they go."""
        c = arrivals.c
        query = select(c.first_number, c.rows, c.arrived_at_us, c.payload).where(
            c.source == source, c.first_number > after
        )
        if up_to is not None:
            query = query.where(c.first_number + c.rows - 1 <= up_to)
        if before is not None:
            query = query.where(c.first_number < before)
        return [Arrival(*row) for row in self._rows(query.order_by(c.first_number).limit(limit))]

    def definitions(self) -> list[Definition]:
        """What was applied last, by kind and name."""
        c = definitions.c
        query = select(c.kind, c.name, c.payload, c.fingerprint, c.commit_number).order_by(c.kind, c.name)
        return [Definition(*row) for row in self._rows(query)]

    def timeline_versions(self) -> list[TimelineVersion]:
        """Every timeline version, oldest first."""
        return [
            TimelineVersion(
                id=row.id,
                source=row.source,
                entity=row.entity,
                fingerprint=row.fingerprint,
                columns=json.loads(row.columns),
                roles=json.loads(row.roles),
                state=row.state,
                horizon_us=row.horizon_us,
                created_commit=row.created_commit,
                filled_commit=row.filled_commit,
                floor_us=row.floor_us,
            )
            for row in self._rows(select(timeline_versions).order_by(timeline_versions.c.id))
        ]

    def view_versions(self) -> list[ViewVersion]:
        """Every version of every view, dropped ones too, by view and version."""
        c = view_versions.c
        return [
            ViewVersion(**row._mapping)
            for row in self._rows(select(view_versions).order_by(c.view, c.version))
        ]

    def counters(self) -> dict[CounterKey, int]:
        """(source, partition, kind) -> how many rows, since the store was made."""
        c = counters.c
        query = select(c.source, c.partition, c.kind, c.n).order_by(c.source, c.partition, c.kind)
        return {CounterKey(source, partition, kind): n for source, partition, kind, n in self._rows(query)}

    def loaded_files(self, timeline_version_id: int) -> dict[str, LoadedFile]:
        """Path -> the file as it was when it was loaded."""
        c = loaded_files.c
        query = select(c.path, c.sha256, c.size, c.rows, c.commit_number)
        rows = self._rows(query.where(c.timeline_version_id == timeline_version_id).order_by(c.path))
        return {row[0]: LoadedFile(*row) for row in rows}

    def progress(self, timeline_version_id: int) -> dict[str, Progress]:
        """Part -> how far it has come, for parts that are not whole yet."""
        c = backfill_progress.c
        query = select(c.part, c.done, c.total).where(c.timeline_version_id == timeline_version_id)
        return {part: Progress(done, total) for part, done, total in self._rows(query.order_by(c.part))}

    def forgotten(self) -> list[ForgottenKey]:
        """The keys that are forgotten, in the order in which they were."""
        c = forgotten.c
        query = (
            select(c.columns, c.digest, c.state, c.counts, c.commit_number, commits.c.committed_at_us)
            .join(commits, commits.c.number == c.commit_number)
            .order_by(c.id)
        )
        return [
            ForgottenKey(tuple(json.loads(columns)), digest, state, json.loads(counts), number, at_us)
            for columns, digest, state, counts, number, at_us in self._rows(query)
        ]

    def stored_rows(self, timeline_version_id: int, entity_keys: Sequence[bytes]) -> list[StoredRow]:
        """The rows of some entities as they lie in the store, for rewriting them."""
        c = segments.c
        query = select(c.entity_key, c.level, c.start, c.commit_number, c.versions, c.payload)
        of_these = query.where(c.timeline_version_id == timeline_version_id, c.entity_key.in_(entity_keys))
        return [StoredRow(*row) for row in self._rows(of_these.order_by(c.entity_key))]

    def fragments(
        self, timeline_version_id: int, *, rows: int, after: bytes | None = None, limit: int
    ) -> list[tuple[bytes, int]]:
        """The next entities, in key order and the empty key too, that lie in at least ``rows`` stored rows,
        and in how many."""
        c = segments.c
        query = (
            select(c.entity_key, func.count())
            .where(c.timeline_version_id == timeline_version_id)
            .where(true() if after is None else c.entity_key > after)
            .group_by(c.entity_key)
            .having(func.count() >= rows)
            .order_by(c.entity_key)
            .limit(limit)
        )
        return [(key, n) for key, n in self._rows(query)]

    def entities_before(
        self, timeline_version_id: int, start: int, *, after: bytes | None, limit: int
    ) -> list[bytes]:
        """The next entities, in key order, that have a stored row whose least event time is before
        ``start``."""
        c = segments.c
        query = (
            select(c.entity_key)
            .where(c.timeline_version_id == timeline_version_id, c.start < start)
            .where(true() if after is None else c.entity_key > after)
            .distinct()
            .order_by(c.entity_key)
            .limit(limit)
        )
        return [row[0] for row in self._rows(query)]

    def row_count(self, timeline_version_id: int) -> int:
        """In how many rows a timeline version lies."""
        query = select(func.count()).where(segments.c.timeline_version_id == timeline_version_id)
        return int(self._rows(query)[0][0])

    def row_sizes(self, timeline_version_id: int, entity_keys: Sequence[bytes]) -> list[tuple[bytes, int]]:
        """(entity key, versions) of each stored row of some entities, each named once."""
        with self._database.errors():
            return self._session.row_sizes(timeline_version_id, entity_keys)

    def rows_below(
        self, timeline_version_id: int, entity_keys: Sequence[bytes], versions: int
    ) -> list[StoredRow]:
        """The stored rows of some entities, each named once, that have fewer ``versions`` than that."""
        with self._database.errors():
            return self._session.rows_below(timeline_version_id, entity_keys, versions)

    def rows_in(self, timeline_version_id: int, entity_key: bytes) -> list[bytes]:
        """The keys of the rows that have been in an entity's timeline. Walks over the whole index."""
        c = identities.c
        query = select(c.row_key).where(
            c.timeline_version_id == timeline_version_id, c.entity_key == entity_key
        )
        return [row[0] for row in self._rows(query)]

    def sizes(self) -> dict[int, Sizes]:
        """Timeline version -> what it takes. Walks over every row: for reports, not for requests."""
        c = segments.c
        query = select(
            c.timeline_version_id,
            func.count(),
            func.sum(c.versions),
            func.sum(func.length(c.payload)),
        ).group_by(c.timeline_version_id)
        return {row[0]: Sizes(row[1], int(row[2]), int(row[3])) for row in self._rows(query)}

    def meta(self) -> dict[str, str]:
        """What the store says about itself: ``store_id``."""
        return {row[0]: row[1] for row in self._rows(select(store_meta.c.key, store_meta.c.value))}

    def _rows(self, query: Select[*Columns]) -> Sequence[Row[*Columns]]:
        with self._database.errors():
            return self._session.connection.execute(query).all()
