"""The log's rows of some entities against the entries of their timelines: which row each entry is, what
either has alone, and since when a row has concerned whom.

Time: commits say when a version entered. A version is one identity, content and ``available_at``; content and
identity are one hash.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.batch.facts import Facts
from featurestore.kernel.changes import DELETE, OPERATION_COLUMN, TRUNCATE, UPSERT
from featurestore.kernel.content import content_hash
from featurestore.kernel.roles import ChangeRoles, Roles
from featurestore.kernel.versions import HASH_COLUMN, instants, row_hashes, single
from featurestore.plan.nodes import ViewPlan
from featurestore.store.changes import hash_array, hashes_of
from featurestore.store.entered import NEVER, Entered

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Facing:
    """Pairs of an asked entity and a row of the log that concerns it, by (entity, ``since``): the commit at
    which the entity's timeline had it, NEVER for not yet. ``joined``: the commit at which the timeline knew
    the first of the fact's identity, 0 where the fact is the entity's own and needs no other to concern
    it."""

    entity: I64
    row: I64
    since: I64
    joined: I64


def ranges(first: I64, end: I64) -> I64:
    """All numbers of ``[first[i], end[i])``, one span after another."""
    count = np.maximum(end - first, 0)
    begin = np.cumsum(count) - count
    made: I64 = np.arange(count.sum()) - np.repeat(begin, count) + np.repeat(first, count)
    return made


def available_of(table: pa.Table, roles: Roles | ChangeRoles) -> I64:
    happened = roles.changed_at if isinstance(roles, ChangeRoles) else roles.event_time
    return instants(single(table, roles.available_at or happened), null=NEVER)


class Matcher:
    """The log's rows of some entities against the entries of their timelines."""

    def __init__(
        self, plan: ViewPlan, facts: Facts, codes: I64, store: Entered, keys: Sequence[pa.Array]
    ) -> None:
        self._plan, self._roles = plan, plan.source.roles
        self._is_table = isinstance(self._roles, ChangeRoles)
        self._codes = codes
        self._store = store
        rows = np.arange(facts.table.num_rows)
        self._hashes = row_hashes(facts.table, rows, self._roles)
        self._available = available_of(facts.table, self._roles)
        table = facts.table
        if HASH_COLUMN in table.column_names:
            table = table.drop_columns([HASH_COLUMN])
        self._table = table.append_column(HASH_COLUMN, hash_array(self._hashes))
        self._stored = self._as_logged(store.table, keys, store.owner)
        self._entry_hashes = hashes_of(single(store.table, HASH_COLUMN))
        self._entry_available = available_of(self._stored, self._roles)
        self._operation = np.zeros(0, np.int64)
        if self._is_table:
            self._operation = instants(single(table, OPERATION_COLUMN), null=UPSERT)
        self._entry_row = self._matched()
        self.truncates = np.empty(0, np.int64), np.empty(0, np.int64)
        self.untaken = np.empty(0, np.int64)

    def _as_logged(self, stored: pa.Table, keys: Sequence[pa.Array], owner: I64) -> pa.Table:
        """Stored versions with the columns of the log's table."""
        named = dict(zip(self._plan.entity.keys, keys, strict=True))
        columns = []
        for part in self._table.schema:
            if part.name in stored.column_names:
                columns.append(single(stored, part.name))
            elif part.name in named:
                columns.append(named[part.name].take(pa.array(owner)))
            else:
                columns.append(pa.nulls(stored.num_rows, part.type))
        return pa.Table.from_arrays(columns, schema=self._table.schema)

    # Which row of the log each entry is

    def _matched(self) -> I64:
        """The log's row of each entry, -1 for none."""
        n, m = len(self._codes), len(self._store.owner)
        by_entity = not self._is_table
        of = [
            np.concatenate([self._hashes[:, 0], self._entry_hashes[:, 0]]),
            np.concatenate([self._hashes[:, 1], self._entry_hashes[:, 1]]),
            np.concatenate([self._available, self._entry_available]).view(np.uint64),
        ]
        if by_entity:
            of.append(np.concatenate([self._codes, self._store.owner]).view(np.uint64))
        group = grouped(of)
        log, entry = group[:n], group[n:]
        several = by_entity and not self._plan.source.identity
        of_log = _ordinals(log, np.arange(n)) if several else np.zeros(n, np.int64)
        of_entry = _ordinals(entry, self._store.commit) if several else np.zeros(m, np.int64)
        width = int(max(of_log.max(initial=0), of_entry.max(initial=0))) + 1
        keys = log * width + of_log
        order = np.argsort(keys, kind="stable")
        wanted = entry * width + of_entry
        at = np.searchsorted(keys[order], wanted)
        there = at < n
        there[there] = keys[order][at[there]] == wanted[there]
        made = np.full(m, -1, np.int64)
        made[there] = order[at[there]]
        self._entry_of_log = np.full(n, -1, np.int64)
        self._entry_of_log[made[there]] = np.flatnonzero(there)
        return made

    def joined(self) -> tuple[pa.Table, I64, I64]:
        """The log's rows and behind them what the store alone has; codes; each entry's row."""
        n = self._table.num_rows
        row = self._entry_row.copy()
        alone = np.flatnonzero(row < 0)
        parts, codes = [self._table], [self._codes]
        if len(alone):
            # A change that stands in several timelines is one row: its own, or any of its markers.
            hashes = self._entry_hashes[alone]
            of = [hashes[:, 0], hashes[:, 1], self._entry_available[alone].view(np.uint64)]
            group = grouped(of) if self._is_table else np.arange(len(alone))
            owner = self._store.owner[alone]
            marker = np.zeros(len(alone), np.bool_)
            if self._is_table:
                part = self._stored.take(pa.array(alone))
                marker = instants(single(part, OPERATION_COLUMN), null=UPSERT) == DELETE
            order = np.lexsort((marker, group))
            first = np.append(True, np.diff(group[order]) != 0)
            chosen = order[first]
            place = np.empty(len(alone), np.int64)
            place[order] = np.cumsum(first) - 1
            row[alone] = n + place
            parts.append(self._stored.take(pa.array(alone[chosen])))
            codes.append(np.where(marker[chosen], -1, owner[chosen]))
        if isinstance(self._roles, ChangeRoles):
            self._match_truncates(self._roles, parts, codes)
        return pa.concat_tables(parts).combine_chunks(), np.concatenate(codes), row

    def _match_truncates(self, roles: ChangeRoles, parts: list[pa.Table], codes: list[I64]) -> None:
        """Find the rows of truncates; those of the store alone come behind."""
        at = np.flatnonzero(self._operation == TRUNCATE)
        part = self._table.take(pa.array(at))
        names = [*roles.position, roles.changed_at, *([roles.available_at] if roles.available_at else [])]
        known: dict[tuple[int | None, ...], int] = {}
        columns = [single(part, name).cast(pa.int64()).to_pylist() for name in names]
        for row, values in zip(at.tolist(), zip(*columns, strict=True), strict=True):
            known.setdefault(values, row)
        in_log = dict(known)
        rows, commits = [], []
        total = sum(table.num_rows for table in parts)
        for one, commit in self._store.truncates:
            values = (*one.position, one.changed_at, *([one.available_at] if roles.available_at else []))
            if values not in known:
                known[values] = total
                total += 1
                given = dict(zip(names, values, strict=True)) | {OPERATION_COLUMN: TRUNCATE}
                columns_of = [
                    pa.array([given.get(field.name)], pa.int64()).cast(field.type)
                    if field.name in given
                    else pa.nulls(1, field.type)
                    for field in self._table.schema
                ]
                truncate = pa.Table.from_arrays(columns_of, schema=self._table.schema)
                hashes = hash_array(content_hash(truncate, roles.content))
                at_hash = truncate.schema.get_field_index(HASH_COLUMN)
                parts.append(truncate.set_column(at_hash, HASH_COLUMN, hashes))
                codes.append(np.array([-1], np.int64))
            rows.append(known[values])
            commits.append(commit)
        self.truncates = np.array(rows, np.int64), np.array(commits, np.int64)
        untaken = set(in_log.values()) - set(rows)
        self.untaken = np.array(sorted(untaken), np.int64)

    # What of the log concerns whom

    def facing(self) -> Facing:
        """Each row of the log with the asked entities that it concerns."""
        if self._is_table:
            entity, row, own = self._concerned()
        else:
            row = np.flatnonzero(self._codes >= 0)
            entity, own = self._codes[row], np.ones(len(row), np.bool_)
        since = self._since(entity, row)
        joined = np.zeros(len(row), np.int64)
        if self._is_table:
            joined = np.where(own, 0, self._joined(entity, row))
        order = np.lexsort((since, entity))
        return Facing(entity[order], row[order], since[order], joined[order])

    @cached_property
    def _row_keys(self) -> tuple[I64, I64]:
        """A number for the table's row that each change of the log, and each entry, is of."""
        roles = self._roles
        assert isinstance(roles, ChangeRoles)
        log = content_hash(self._table, roles.primary_key)
        entry = content_hash(self._stored, roles.primary_key)
        both = np.concatenate([log, entry])
        group = grouped([both[:, 0], both[:, 1]])
        return group[: len(log)], group[len(log) :]

    def _concerned(self) -> tuple[I64, I64, Bools]:
        """Of tables: all changes of the rows that have been in an entity, as the log or the store has it."""
        log, entry = self._row_keys
        upsert = (self._codes >= 0) & (self._operation == UPSERT)
        width = int(max(log.max(initial=0), entry.max(initial=0))) + 1
        pairs = np.unique(
            np.concatenate([self._codes[upsert] * width + log[upsert], self._store.owner * width + entry])
        )
        changes = np.flatnonzero(self._operation != TRUNCATE)
        order = changes[np.argsort(log[changes], kind="stable")]
        ordered = log[order]
        wanted = pairs % width
        first, end = np.searchsorted(ordered, wanted), np.searchsorted(ordered, wanted, side="right")
        entity, row = np.repeat(pairs // width, end - first), order[ranges(first, end)]
        return entity, row, (self._codes[row] == entity) & (self._operation[row] == UPSERT)

    def _joined(self, entity: I64, row: I64) -> I64:
        """The first commit at which an entity's timeline knew anything of the table's row."""
        log, entry = self._row_keys
        width = int(max(log.max(initial=0), entry.max(initial=0))) + 1
        keys = self._store.owner * width + entry
        order = np.lexsort((self._store.commit, keys))
        ordered = keys[order]
        wanted = entity * width + log[row]
        at = np.searchsorted(ordered, wanted)
        made = np.full(len(row), NEVER, np.int64)
        there = at < len(ordered)
        there[there] = ordered[at[there]] == wanted[there]
        made[there] = self._store.commit[order[at[there]]]
        return made

    def _since(self, entity: I64, row: I64) -> I64:
        """The commit at which an entity's timeline had a row of the log, itself or as a duplicate that was
        available no later."""
        if not self._is_table and not self._plan.source.identity:
            at = self._entry_of_log[row]
            return np.where(at < 0, NEVER, self._store.commit[at] if len(self._store.commit) else NEVER)
        n = len(row)
        hashes = np.concatenate([self._hashes[row], self._entry_hashes])
        owner = np.concatenate([entity, self._store.owner])
        available = np.concatenate([self._available[row], self._entry_available])
        commit = np.concatenate([np.full(n, NEVER, np.int64), self._store.commit])
        group = grouped([hashes[:, 0], hashes[:, 1], owner.view(np.uint64)])
        is_log = np.arange(len(group)) < n
        order = np.lexsort((is_log, available, group))
        # The least commit so far within each group: commits as ranks, groups one below the other.
        ranked, rank = np.unique(commit[order], return_inverse=True)
        depth = (group.max(initial=0) - group[order]) * (len(ranked) + 1)
        least = np.minimum.accumulate(rank.reshape(-1) + depth) - depth
        made = np.empty(len(group), np.int64)
        made[order] = ranked[least]
        return made[:n]

    def damaged(self) -> frozenset[int]:
        """The log's rows whose content the store does not have as it was hashed: events, and the own changes
        of tables."""
        own = self._entry_row >= 0
        if self._is_table:
            operation = instants(single(self._stored, OPERATION_COLUMN), null=UPSERT)
            own &= operation == UPSERT
        rows = np.flatnonzero(own)
        if not len(rows):
            return frozenset()
        content = content_hash(self._stored.take(pa.array(rows)), self._roles.content)
        other = (content != self._entry_hashes[rows]).any(axis=1)
        return frozenset(self._entry_row[rows[other]].tolist())


def grouped(of: Sequence[U64]) -> I64:
    """A number for each row, equal where all columns are, ascending with them."""
    rows = len(of[0])
    order = np.lexsort(tuple(reversed(of)))
    new = np.zeros(rows, np.bool_)
    for column in of:
        ordered = column[order]
        new[1:] |= ordered[1:] != ordered[:-1]
    made = np.empty(rows, np.int64)
    made[order] = np.cumsum(new)
    return made


def _ordinals(group: I64, by: I64) -> I64:
    """Each row's place within its group, in the order of ``by``."""
    order = np.lexsort((np.arange(len(group)), by, group))
    ordered = group[order]
    begins = np.append(True, ordered[1:] != ordered[:-1]) if len(ordered) else np.zeros(0, np.bool_)
    first = np.maximum.accumulate(np.where(begins, np.arange(len(group)), 0))
    made = np.empty(len(group), np.int64)
    made[order] = np.arange(len(group)) - first
    return made
