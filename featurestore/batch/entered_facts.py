"""The facts that a source's log has of some entities, each with the commit at which it entered a timeline
version of the store: what the store could answer with, at any commit, with the content that the log has.

Time: commits say what the store knew, instants what happened. A version is one identity, content and
``available_at``; where the log has it more often than the store, it is a duplicate: it counts since the first
that was available no later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.batch.facts import Facts, Reader
from featurestore.batch.keys import key_index
from featurestore.batch.matching import Facing, Matcher, available_of, ranges
from featurestore.batch.taken_files import SinceWhen
from featurestore.kernel.feature import Feature
from featurestore.kernel.roles import ChangeRoles, Roles
from featurestore.kernel.timelines import Held, HeldLookup
from featurestore.kernel.versions import instants, single
from featurestore.log.origins import Place
from featurestore.plan.nodes import ViewPlan
from featurestore.store import Snapshot, TimelineVersion
from featurestore.store.entered import NEVER, entered, taken
from featurestore.store.entity_key import encode_keys
from featurestore.store.registry import Registry

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class EnteredFacts:
    """``table`` has the log's rows, the first ``logged`` of them, and then what the store alone has;
    ``codes`` numbers each one's entity as asked, -1 for others. ``entity``, ``commit`` and ``row`` are the
    entries of the asked entities' timelines by (entity, commit); ``truncates`` are (row, commit) pairs,
    ``untaken`` the rows of truncates that the store does not have. ``damaged``: rows whose content is another
    one in the store."""

    plan: ViewPlan
    timeline: TimelineVersion
    table: pa.Table
    codes: I64
    logged: int
    entities: int
    entity: I64
    commit: I64
    row: I64
    truncates: tuple[I64, I64]
    untaken: I64
    facing: Facing
    facts: Facts
    when: SinceWhen
    damaged: frozenset[int] = frozenset()
    lookups: tuple[LookedUp, ...] = ()

    @property
    def roles(self) -> Roles | ChangeRoles:
        return self.plan.source.roles

    @property
    def is_table(self) -> bool:
        return isinstance(self.roles, ChangeRoles)

    @cached_property
    def _by_commit(self) -> tuple[int, I64]:
        """Entries' (entity, commit) as one ascending number each."""
        base = int(self.commit.max(initial=0)) + 2
        return base, self.entity * base + self.commit

    def until(self, entity: I64, commit: I64) -> tuple[I64, I64]:
        """Of each (entity, commit) the entries ``[first, end)`` that had entered."""
        base, keys = self._by_commit
        first = np.searchsorted(keys, entity * base)
        return first, np.searchsorted(keys, entity * base + np.minimum(commit, base - 1), side="right")

    def commits(self) -> I64:
        """The commits at which anything entered, what is looked up too, ascending."""
        parts = [self.commit, self.truncates[1], *(one.facts.commits() for one in self.lookups)]
        return np.unique(np.concatenate(parts))

    def held(
        self, entities: I64, commit: int, *, absent: bool = False, more: I64 | None = None
    ) -> tuple[Held, I64]:
        """What the kernel takes: the facts of ``entities`` (ascending) that had entered by ``commit``, and
        each one's row here. ``absent``: those too that the log does not have. ``more``: rows besides."""
        first, end = self.until(entities, np.full(len(entities), commit, np.int64))
        rows = self.row[ranges(first, end)]
        at, since = self.truncates
        rows = np.concatenate([rows, at[since <= commit], *([] if more is None else [more])])
        rows = np.unique(rows)
        if not absent:
            rows = rows[rows < self.logged]
        codes = self.codes[rows]
        place = np.searchsorted(entities, codes)
        mine = (codes >= 0) & (place < len(entities))
        mine[mine] = entities[place[mine]] == codes[mine]
        lookups = tuple(one.held(rows, commit, absent=absent) for one in self.lookups)
        made = self.table.take(pa.array(rows))
        numbers: I64 = np.where(mine, place, -1).astype(np.int64)
        return Held(made, numbers, len(entities), self.roles, lookups), rows

    def absent_by(self, entities: I64, commit: I64) -> Bools:
        """Whether, of each (entity, commit), something had entered that the log does not have: its own, or
        what any of its facts looks up."""
        first, end = self.until(entities, commit)
        counts = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.row >= self.logged)])
        found: Bools = counts[end] > counts[first]
        at, since = self.truncates
        for one in since[at >= self.logged].tolist():
            found = found | (commit >= one)
        for looked_up in self.lookups:
            found = found | (commit >= looked_up.facts.first_absent())
        return found

    def first_absent(self) -> int:
        """The first commit of anything that the log does not have."""
        at, since = self.truncates
        own = min(
            int(self.commit[self.row >= self.logged].min(initial=NEVER)),
            int(since[at >= self.logged].min(initial=NEVER)),
        )
        return min([own, *(one.facts.first_absent() for one in self.lookups)])

    def happened(self) -> I64:
        """When each fact happened: an event's time, a change's ``changed_at``; NEVER for null."""
        roles = self.roles
        name = roles.changed_at if isinstance(roles, ChangeRoles) else roles.event_time
        return instants(single(self.table, name), null=NEVER)

    def available(self) -> I64:
        """When each could first have been known; NEVER for null."""
        return available_of(self.table, self.roles)

    def place(self, row: int) -> Place:
        """Where in the log a row is."""
        return self.facts.origins.of(row)


@dataclass(frozen=True)
class LookedUp:
    """What rows look up: the facts of the entities that they ask about, ``keys`` int64[rows] each one's, -1
    for none; ``columns`` are (name, feature) pairs."""

    facts: EnteredFacts
    keys: I64
    columns: tuple[tuple[str, Feature], ...]

    def held(self, rows: I64, commit: int, *, absent: bool) -> HeldLookup:
        """What some of the rows look up, as it had entered by ``commit``."""
        keys = self.keys[rows]
        wanted = np.unique(keys[keys >= 0])
        inner, _ = self.facts.held(wanted, commit, absent=absent)
        return HeldLookup(inner, np.where(keys < 0, -1, np.searchsorted(wanted, keys)), self.columns)


def entered_facts(
    plan: ViewPlan,
    timeline: TimelineVersion,
    keys: Sequence[pa.Array],
    reader: Reader,
    registry: Registry,
    snapshot: Snapshot,
    root: Path,
) -> EnteredFacts:
    """Match what the log has of some entities with what their timelines have. ``keys``: a column of values
    for each key column, distinct and without nulls."""
    entities = len(keys[0])
    index, codes_asked = key_index(list(keys))
    facts = reader.facts(plan, plan.features, of=index)
    number = np.full(facts.index.entities + 1, -1, np.int64)
    found = facts.index.find(list(keys))
    number[found[found >= 0]] = np.flatnonzero(found >= 0)
    codes = np.where(facts.codes < 0, -1, number[facts.codes])
    del index, codes_asked
    store = entered(snapshot, timeline, encode_keys(list(keys), plan.entity.dtypes) if entities else [])
    matcher = Matcher(plan, facts, codes, store, keys)
    when = SinceWhen(plan.source, root, facts.origins, taken(snapshot, timeline))
    table, all_codes, entry_row = matcher.joined()
    order = np.lexsort((store.commit, store.owner))
    made = EnteredFacts(
        plan,
        timeline,
        table,
        all_codes,
        facts.table.num_rows,
        entities,
        store.owner[order],
        store.commit[order],
        entry_row[order],
        matcher.truncates,
        matcher.untaken,
        matcher.facing(),
        facts,
        when,
        matcher.damaged(),
    )
    lookups = []
    for one in plan.lookups:
        columns = [single(table, name) for name in one.on]
        index, keyed = key_index(columns)
        distinct = _distinct(columns, keyed, index.entities)
        inner_timeline = registry.inner_timeline(one.view)
        inner = entered_facts(one.view, inner_timeline, distinct, reader, registry, snapshot, root)
        lookups.append(LookedUp(inner, keyed.astype(np.int64), one.columns))
    return replace(made, lookups=tuple(lookups))


def _distinct(columns: Sequence[pa.Array], codes: NDArray[np.signedinteger], entities: int) -> list[pa.Array]:
    first = np.zeros(entities, np.int64)
    known = np.flatnonzero(codes >= 0)[::-1]
    first[codes[known]] = known
    return [column.take(pa.array(first)) for column in columns]
