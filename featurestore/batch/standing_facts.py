"""How the store and the log stand to each other in the facts of what was asked: what the store has lost, what
the log misses, what had not entered yet.

Time: a fact that had not entered by an answer's commit is *lost* where the store says that it had taken the
file, push or offsets that it is in; else it is a matter of freshness, where it happened before the question
and was known to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.batch.answered import Questions
from featurestore.batch.entered_facts import EnteredFacts
from featurestore.batch.matching import ranges
from featurestore.batch.verification import LOST, MISSING, NamedFact, Verification
from featurestore.kernel.roles import ChangeRoles
from featurestore.kernel.versions import HASH_COLUMN, NEVER, instants, single
from featurestore.serving.faces import json_values

I64 = NDArray[np.int64]

# Pairs of a question and a fact that had not entered, looked at together.
_PAIRS = 4_000_000


@dataclass(frozen=True)
class Pairs:
    """Questions and rows of the log that had not entered by their commits; ``lost`` bool[pairs]: those that
    should have."""

    question: I64
    row: I64
    lost: NDArray[np.bool_]


def not_entered(facts: EnteredFacts, entity: I64, commit: I64, since: I64) -> Iterator[Pairs]:
    """What of the log had not entered by (entity, commit). ``since`` int64[logged] keeps what is known of
    when rows should be there, -1 for not looked up yet."""
    facing = facts.facing
    base = int(max(commit.max(initial=0), facts.commit.max(initial=0))) + 3
    keys = facing.entity * base + np.minimum(facing.since, base - 1)
    first = np.searchsorted(keys, entity * base + commit, side="right")
    end = np.searchsorted(keys, (entity + 1) * base)
    count = np.where(entity < 0, 0, end - first)
    happened = facts.happened()
    parts = np.cumsum(count) // _PAIRS
    for part in np.unique(parts[count > 0]).tolist():
        some = np.flatnonzero((parts == part) & (count > 0))
        at = ranges(first[some], end[some])
        question = np.repeat(some, count[some])
        # A change of a row that the timeline did not know then was nobody's business there.
        concerns = facing.joined[at] <= commit[question]
        if facts.timeline.floor_us is not None:
            # Dropped, or late when it came: of no use to any question that is still answered.
            concerns &= happened[facing.row[at]] >= facts.timeline.floor_us
        at, question = at[concerns], question[concerns]
        row = facing.row[at]
        unknown = np.unique(row[since[row] < 0])
        if len(unknown):
            since[unknown] = facts.when.since(unknown)
        yield Pairs(question, row, since[row] <= commit[question])


def lost_truncates(facts: EnteredFacts, commit: int) -> I64:
    """The rows of truncates that a timeline version should have by ``commit`` and has not."""
    if not len(facts.untaken):
        return facts.untaken
    return facts.untaken[facts.when.since(facts.untaken) <= commit]


class FactsFound:
    """Gathers facts, each once, however many answers they concern."""

    def __init__(self, found: Verification, limit: int) -> None:
        self._found = found
        self._limit = limit
        self._lost: set[bytes] = set()
        self._missing: set[bytes] = set()
        self._fresh: set[bytes] = set()

    def look(self, facts: EnteredFacts, asked: Questions) -> None:
        """Look at the facts that some questions are about."""
        most = np.full(facts.entities, -1, np.int64)
        there = asked.entity >= 0
        np.maximum.at(most, asked.entity[there], asked.commit[there])
        self._look_for_missing(facts, most)
        self._look_for_others(facts, asked)
        self._looked_up(facts, int(asked.commit.max(initial=-1)))

    def _looked_up(self, facts: EnteredFacts, commit: int) -> None:
        """What is looked up is looked at as of the last commit that anything was answered at."""
        for one in facts.lookups:
            inner = one.facts
            most = np.full(inner.entities, commit, np.int64)
            self._look_for_missing(inner, most)
            since = np.full(inner.logged, -1, np.int64)
            for pairs in not_entered(inner, np.arange(inner.entities), most, since):
                self._add_lost(inner, np.unique(pairs.row[pairs.lost]))
            self._add_lost(inner, lost_truncates(inner, commit))
            self._looked_up(inner, commit)

    def _look_for_missing(self, facts: EnteredFacts, most: I64) -> None:
        absent = (facts.row >= facts.logged) & (facts.commit <= most[facts.entity])
        at, since = facts.truncates
        rows = [facts.row[absent], at[(at >= facts.logged) & (since <= most.max(initial=-1))]]
        for row, key in _keys(facts, np.unique(np.concatenate(rows))):
            if key not in self._missing:
                self._missing.add(key)
                self._found.missing += 1
                if len(self._found.missing_facts) < self._limit:
                    self._found.missing_facts.append(named(facts, row, MISSING, "store"))

    def _look_for_others(self, facts: EnteredFacts, asked: Questions) -> None:
        since = np.full(facts.logged, -1, np.int64)
        self._add_lost(facts, lost_truncates(facts, int(asked.commit.max(initial=-1))))
        happened, available = facts.happened(), facts.available()
        horizon = _horizons(asked)
        stale = np.zeros(len(asked.commit), np.bool_)
        fresh: list[I64] = []
        for pairs in not_entered(facts, asked.entity, asked.commit, since):
            self._add_lost(facts, np.unique(pairs.row[pairs.lost]))
            known = available[pairs.row] < horizon[pairs.question]
            counts = ~pairs.lost & (happened[pairs.row] < asked.as_of[pairs.question])
            counts &= known | (horizon[pairs.question] == NEVER)
            question, row = pairs.question[counts], pairs.row[counts]
            stale[question] = True
            fresh.append(np.unique(row))
            age = asked.answered_at[question] - available[row]
            age = age[(available[row] != NEVER) & (age >= 0)]
            if len(age):
                oldest = self._found.freshness.oldest_us or 0
                self._found.freshness.oldest_us = max(oldest, int(age.max()))
        self._found.freshness.questions += int(stale.sum())
        found = np.unique(np.concatenate(fresh)) if fresh else np.empty(0, np.int64)
        keys = {key for _, key in _keys(facts, found)} - self._fresh
        self._fresh |= keys
        self._found.freshness.facts += len(keys)

    def _add_lost(self, facts: EnteredFacts, rows: I64) -> None:
        for row, key in _keys(facts, rows):
            if key not in self._lost:
                self._lost.add(key)
                self._found.lost += 1
                if len(self._found.lost_facts) < self._limit:
                    self._found.lost_facts.append(named(facts, row, LOST, "log"))

    def has_lost(self, facts: EnteredFacts) -> bool:
        """Whether anything was lost of a timeline version."""
        mark = _timeline(facts)
        return any(key.startswith(mark) for key in self._lost)


def _horizons(asked: Questions) -> I64:
    """Each question's horizon of knowledge as an instant, NEVER where everything is known."""
    made = np.full(len(asked.commit), NEVER, np.int64)
    for number in range(len(asked.answers.horizons)):
        known_at = asked.horizon(number)
        mine = asked.known_at == number
        if known_at == "as_of":
            made[mine] = asked.as_of[mine]
        elif isinstance(known_at, int):
            made[mine] = known_at
    return made


def _timeline(facts: EnteredFacts) -> bytes:
    return facts.timeline.id.to_bytes(8, "big")


def _keys(facts: EnteredFacts, rows: I64) -> Iterator[tuple[int, bytes]]:
    """Rows with what tells each fact from others: its content, and, where equal rows are as many facts, its
    place."""
    mark = _timeline(facts)
    hashes = single(facts.table, HASH_COLUMN).take(pa.array(rows)).to_pylist()
    for row, value in zip(rows.tolist(), hashes, strict=True):
        place = ""
        if not facts.plan.source.identity:
            place = facts.place(row).text() if row < facts.logged else str(row)
        yield row, mark + value + place.encode()


def named(facts: EnteredFacts, row: int, what: str, side: str) -> NamedFact:
    """A fact as reports name it."""
    plan, roles = facts.plan, facts.roles
    one = facts.table.slice(row, 1)
    schema = plan.source.schema

    def faces(names: Sequence[str]) -> dict[str, object]:
        return {name: json_values(single(one, name), schema[name])[0] for name in names}

    def at(name: str | None) -> int | None:
        value: int | None = None if name is None else single(one, name).cast(pa.int64())[0].as_py()
        return value

    changed = roles.changed_at if isinstance(roles, ChangeRoles) else None
    available = instants(single(one, roles.available_at), null=NEVER)[0] if roles.available_at else NEVER
    return NamedFact(
        what=what,
        side=side,
        source=plan.source.name,
        entity=orjson.dumps(faces(plan.entity.keys)).decode(),
        id=faces(plan.source.identity),
        event_time=at(roles.event_time),
        changed_at=at(changed),
        available_at=None if available == NEVER else int(available),
        place=facts.place(row).text() if row < facts.logged else "",
    )
