"""The facts that are responsible for a difference between two horizons of knowledge.

Time: of an event or a row of a table, the version that a question at T sees is that of the kernel's own
timelines. Responsible is what is in a feature's set at one horizon and not at the other, or is there as
another version with another time or input.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from featurestore.batch.facts import Facts
from featurestore.dtypes import DType, instant_text
from featurestore.kernel.blocks import I64, Bools
from featurestore.kernel.changes import OPERATION_COLUMN, TRUNCATE, UPSERT
from featurestore.kernel.content import content_hash
from featurestore.kernel.edges import Edges
from featurestore.kernel.evaluate import Evaluation
from featurestore.kernel.feature import Feature
from featurestore.kernel.items import Items, ItemsKey
from featurestore.kernel.questions import Questions, questions
from featurestore.kernel.roles import ChangeRoles, KnownAt, Roles
from featurestore.kernel.timelines import HeldLookup, delay_groups, enrich, timelines
from featurestore.kernel.versions import NEVER, Timeline, instants, single
from featurestore.serving.faces import json_values

NAMED = 10
"""Facts that are named for one value."""

ARRIVED, NOT_YET = "arrived", "not known yet"
CORRECTED, RETRACTED, REINSTATED = "corrected", "retracted", "reinstated"
CHANGED, DELETED = "changed", "deleted"
ENRICHED = "looked up otherwise"


@dataclass(frozen=True)
class Reason:
    """What happened to one fact between the horizons: an event ``arrived``, was ``corrected``, ``retracted``
    or ``reinstated``; a table's row ``arrived``, was ``changed`` or ``deleted``; either is ``not known yet``
    where the second horizon is the earlier one. An event that itself is the same at both, but not what it
    looks up, is ``looked up otherwise``.

    ``id`` is the event's id or the row's primary key in its JSON face ({} for events without id); the
    instants are those of the version, or change, that made the difference; ``event_time`` is None where it
    has none, ``changed_at`` for events.
    """

    what: str
    id: Mapping[str, object]
    event_time: int | None
    changed_at: int | None
    available_at: int | None

    def to_dict(self) -> dict[str, Any]:
        def text(instant: int | None) -> str | None:
            return None if instant is None else instant_text(instant)

        changed = {} if self.changed_at is None else {"changed_at": text(self.changed_at)}
        return {
            "what": self.what,
            "id": dict(self.id),
            "event_time": text(self.event_time),
            **changed,
            "available_at": text(self.available_at),
        }

    def text(self) -> str:
        named = ", ".join(f"{name}={value}" for name, value in self.id.items()) or "an event"
        times = [
            f"{word} {instant_text(instant)}"
            for word, instant in (
                ("event time", self.event_time),
                ("changed at", self.changed_at),
                ("available at", self.available_at),
            )
            if instant is not None
        ]
        return f"{self.what}: {named} ({', '.join(times)})"


@dataclass(frozen=True)
class Asked:
    """A question about a feature: ``entity`` is its number in the facts' index."""

    feature: Feature
    entity: int
    as_of: int


@dataclass(frozen=True)
class Reasons:
    """How many facts are responsible for one value, and the first of them by ``available_at``."""

    facts: int
    named: tuple[Reason, ...]


def reasons(
    facts: Facts,
    schema: Mapping[str, DType],
    asked: Sequence[Asked],
    known_at: tuple[KnownAt, KnownAt],
    lookups: Sequence[HeldLookup] = (),
) -> list[Reasons]:
    """Why each value that was asked for differs between the two horizons."""
    if not asked:
        return []
    entities = np.unique(np.array([one.entity for one in asked], np.int64))
    picked, codes = _of_entities(facts, entities)
    table = facts.table.take(pa.array(picked))
    lookups = [replace(one, keys=one.keys[picked], tell=None) for one in lookups]
    explainer = _Explainer(table, codes, facts.roles, schema)
    numbers = np.searchsorted(entities, [one.entity for one in asked])
    made: list[Reasons | None] = [None] * len(asked)
    wanted: defaultdict[str, list[int]] = defaultdict(list)
    for i, one in enumerate(asked):
        wanted[one.feature.reference].append(i)
    features = list({one.feature.reference: one.feature for one in asked}.values())
    as_of = np.array([one.as_of for one in asked], np.int64)
    put = questions(numbers, as_of, len(entities))
    for delay_us, group in delay_groups(facts.roles, features):
        sides = [
            Side(known, delay_us, table, codes, len(entities), facts.roles, put, lookups)
            for known in known_at
        ]
        for feature in group:
            for i in wanted[feature.reference]:
                sets = [side.seen(feature, i, int(numbers[i])) for side in sides]
                made[i] = explainer.explain(sides, sets, int(as_of[i]))
    assert all(one is not None for one in made)
    return [one for one in made if one is not None]


def _of_entities(facts: Facts, entities: I64) -> tuple[I64, I64]:
    """Where all versions of the events of some entities are; of tables all changes of each row that has been
    in one of them, and the truncates. Codes number the entities anew, -1 for others."""
    mine = np.isin(facts.codes, entities)
    if isinstance(facts.roles, ChangeRoles):
        rows = content_hash(facts.table, facts.roles.primary_key)[:, 0]
        operation = instants(single(facts.table, OPERATION_COLUMN), null=UPSERT)
        mine = np.isin(rows, rows[mine]) | (operation == TRUNCATE)
    picked = np.flatnonzero(mine)
    codes = facts.codes[picked]
    found = np.isin(codes, entities)
    numbers = np.where(found, np.searchsorted(entities, np.where(found, codes, entities[0])), -1)
    return picked, numbers.astype(np.int64)


@dataclass(frozen=True)
class SeenSet:
    """What one question sees of a feature: ``rows`` of the table, and its ``items``, ``row`` each one's
    row."""

    rows: frozenset[int]
    of: Items
    items: I64
    row: I64


class Side:
    """The facts at one horizon, for features of one delay."""

    def __init__(
        self,
        known_at: KnownAt,
        delay_us: int,
        table: pa.Table,
        codes: I64,
        entities: int,
        roles: Roles | ChangeRoles,
        asked: Questions,
        lookups: Sequence[HeldLookup],
    ) -> None:
        self.known_at = known_at
        self.delay_us = delay_us
        self.line: Timeline = timelines(table, codes, entities, roles, known_at, delay_us=delay_us)[0]
        self._asked = asked
        self.looks_up = bool(lookups)
        enriched = enrich(table, roles, lookups, known_at)
        line = enriched.split(self.line)
        # A fact a piece where events look something up: each is of a row of the table.
        self._row = line.row if enriched.pieces is None else enriched.pieces.row[line.row]
        self._evaluation = Evaluation(line, enriched.table, asked, None)
        self._place = np.full(table.num_rows, -1, np.int64)
        self._place[self.line.row] = np.arange(self.line.facts)

    def seen(self, feature: Feature, question: int, entity: int) -> SeenSet:
        """The feature's set, for the ``question``-th question."""
        of = self._evaluation.items(ItemsKey.of(feature))
        edges = self._evaluation.item_edges(of, feature.window_us, feature.delay_us)
        items = _seen(edges, int(self._asked.answers[question]), entity)
        fact = of.fact_of(items)
        return SeenSet(frozenset(self._row[fact].tolist()), of, items, self._row[fact])

    def face(self, row: int, seen: SeenSet) -> object:
        """What a feature can tell of a version in its set: when it happened, and what is taken of it."""
        place = self._place[row]
        items = seen.items[seen.row == row]
        taken = [
            None if values is None else values.at(items).to_pylist()
            for values in (seen.of.values, seen.of.order)
        ]
        return repr((int(self.line.event_time[place]), len(items), taken))

    def knows(self, available: int, as_of: int) -> bool:
        if self.known_at is None:
            return True
        return available < (as_of if self.known_at == "as_of" else int(self.known_at))

    def is_live(self, row: int, as_of: int) -> bool:
        """Whether a question at ``as_of`` can see the version, be it outside a window."""
        place = self._place[row]
        if place < 0:
            return False
        start, end = self.line.start, self.line.end
        return (start is None or start[place] < as_of) and (end is None or as_of <= end[place])


def _seen(edges: Edges, question: int, entity: int) -> I64:
    if edges.ordered:
        return np.arange(edges.lo[question], edges.hi[question])
    first = edges.offsets[entity]
    return np.setdiff1d(edges.enter[first : edges.hi[question]], edges.leave[first : edges.lo[question]])


class _Explainer:
    """Compares the two sets of one question, identity by identity."""

    def __init__(
        self, table: pa.Table, codes: I64, roles: Roles | ChangeRoles, schema: Mapping[str, DType]
    ) -> None:
        self._table, self._roles, self._schema = table, roles, schema
        self._is_table = isinstance(roles, ChangeRoles)
        happened = roles.changed_at if isinstance(roles, ChangeRoles) else roles.event_time
        self._happened = instants(single(table, happened), null=NEVER)
        self._available = self._happened
        if roles.available_at is not None:
            self._available = instants(single(table, roles.available_at), null=NEVER)
        self._ends = self._ending()
        self._identity = self._identities(codes)
        # Rows by identity, so that the few that are asked about are found without a walk over all.
        self._by_identity = np.argsort(self._identity, kind="stable")
        self._sorted = self._identity[self._by_identity]
        self._truncates: list[int] = []
        if self._is_table:
            operation = instants(single(table, OPERATION_COLUMN), null=UPSERT)
            self._truncates = np.flatnonzero(operation == TRUNCATE).tolist()

    def _ending(self) -> Bools:
        """Which versions take their fact away: retractions, deletes and truncates."""
        if isinstance(self._roles, ChangeRoles):
            ends: Bools = instants(single(self._table, OPERATION_COLUMN), null=UPSERT) != UPSERT
            return ends
        if self._roles.deleted is None:
            return np.zeros(self._table.num_rows, np.bool_)
        flags = single(self._table, self._roles.deleted).fill_null(False)
        made: Bools = flags.to_numpy(zero_copy_only=False)
        return made

    def _identities(self, codes: I64) -> I64:
        """Rows of one event or of one row of the table have one number."""
        names = self._roles.primary_key if isinstance(self._roles, ChangeRoles) else self._roles.id
        if not names:
            return np.arange(self._table.num_rows)
        hashes = content_hash(self._table, names)
        parts = [hashes[:, 0].view(np.int64), hashes[:, 1].view(np.int64)]
        if not self._is_table:
            parts.append(codes)  # an event's identity is its entity's, too
        made: I64 = np.unique(np.stack(parts, axis=1), axis=0, return_inverse=True)[1].reshape(-1)
        return made

    def _of_identity(self, identity: int) -> list[int]:
        low, high = np.searchsorted(self._sorted, [identity, identity + 1])
        made: list[int] = self._by_identity[low:high].tolist()
        return made

    def explain(self, sides: Sequence[Side], sets: Sequence[SeenSet], as_of: int) -> Reasons:
        rows = sorted((sets[0].rows ^ sets[1].rows) | self._enriched(sides, sets))
        changed = list(dict.fromkeys(self._identity[rows].tolist())) if rows else []
        # Another version that looks the same to the feature matters only where a tie is broken by it.
        changed = [one for one in changed if self._looks_other(one, sides, sets)] or changed
        found = [self._reason(identity, sides, sets, as_of) for identity in changed]
        found.sort(key=lambda one: (self._available[one[0]], one[0]))
        return Reasons(len(found), tuple(self._told(*one) for one in found[:NAMED]))

    def _enriched(self, sides: Sequence[Side], sets: Sequence[SeenSet]) -> set[int]:
        """Versions in both sets that look different: what they look up does."""
        if not sides[0].looks_up:
            return set()
        return {
            row
            for row in sets[0].rows & sets[1].rows
            if sides[0].face(row, sets[0]) != sides[1].face(row, sets[1])
        }

    def _looks_other(self, identity: int, sides: Sequence[Side], sets: Sequence[SeenSet]) -> bool:
        faces = [
            {side.face(row, seen) for row in self._of_identity(identity) if row in seen.rows}
            for side, seen in zip(sides, sets, strict=True)
        ]
        return faces[0] != faces[1]

    def _reason(
        self, identity: int, sides: Sequence[Side], sets: Sequence[SeenSet], as_of: int
    ) -> tuple[int, str, int]:
        """The version that made the difference, what it did, and a version in one of the sets."""
        rows = self._of_identity(identity)
        same = [row for row in rows if all(row in seen.rows for seen in sets)]
        if not same and sides[0].looks_up:
            # Live at both, in one set only: its expressions see what it looks up.
            same = [
                row
                for row in rows
                if any(row in seen.rows for seen in sets) and all(side.is_live(row, as_of) for side in sides)
            ]
        if same:
            return same[0], ENRICHED, same[0]
        learnt = [row for row in [*rows, *self._truncates] if self._learnt(row, sides, as_of)]
        states = [self._state(rows, side, seen.rows, as_of) for side, seen in zip(sides, sets, strict=True)]
        before, after = (seen.rows for seen in sets)
        member = next(row for row in rows if row in before or row in after)
        in_after = [row for row in rows if row in after and row in learnt]
        ending = [row for row in learnt if self._ends[row]]
        taken = states[1] == "gone"
        candidates = in_after or (ending if taken and ending else learnt) or [member]
        decisive = max(candidates, key=lambda row: (self._available[row], self._happened[row], row))
        return decisive, self._what(states, taken=bool(taken and self._ends[decisive])), member

    def _learnt(self, row: int, sides: Sequence[Side], as_of: int) -> bool:
        known = [self._is_known(row, side, as_of) for side in sides]
        return known[0] != known[1]

    def _is_known(self, row: int, side: Side, as_of: int) -> bool:
        if not side.knows(int(self._available[row]), as_of):
            return False
        # A change in the future of the question says nothing to it.
        return not self._is_table or self._happened[row] < as_of - side.delay_us

    def _state(self, rows: Sequence[int], side: Side, seen: frozenset[int], as_of: int) -> str:
        if any(row in seen for row in rows):
            return "in"
        if any(side.is_live(row, as_of) for row in rows):
            return "out"
        return "gone" if any(self._is_known(row, side, as_of) for row in rows) else "unknown"

    def _what(self, states: Sequence[str], *, taken: bool) -> str:
        before, after = states
        if before == "unknown":
            return ARRIVED
        if after == "unknown":
            return NOT_YET
        if self._is_table:
            return DELETED if taken else CHANGED
        if after == "gone":
            return RETRACTED
        return REINSTATED if before == "gone" else CORRECTED

    def _told(self, decisive: int, what: str, member: int) -> Reason:
        names = self._roles.primary_key if isinstance(self._roles, ChangeRoles) else self._roles.id
        identity = {
            name: json_values(single(self._table.slice(member, 1), name), self._schema[name])[0]
            for name in names
        }
        event_time = self._roles.event_time
        happened = None if event_time is None else self._instant(event_time, decisive, member)
        changed = int(self._happened[decisive]) if self._is_table else None
        available = int(self._available[decisive])
        return Reason(what, identity, happened, changed, None if available == NEVER else available)

    def _instant(self, name: str, *rows: int) -> int | None:
        """A time of the first of some versions that has it: a delete has none."""
        for row in rows:
            value: int | None = single(self._table.slice(row, 1), name).cast(pa.int64())[0].as_py()
            if value is not None:
                return value
        return None
