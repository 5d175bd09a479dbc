"""Timelines of either kind of source: events whose versions are chosen, table rows whose changes are
followed; and events that look up, at their own time, what other timelines say.

Time: a delay shifts when a table's change takes effect, so features over a table share a timeline with those
of their own delay only; a timeline of events serves every delay. A looked-up column of event e is the value
at (T' = e.event_time, K' = the question's K).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from featurestore.kernel.blocks import I64, Bools, Codes
from featurestore.kernel.changes import change_timeline
from featurestore.kernel.evaluate import Answer, Answers, answer
from featurestore.kernel.feature import Feature
from featurestore.kernel.horizons import Knowable, copies, knowable, steps
from featurestore.kernel.pieces import Pieces, pieces_between, split
from featurestore.kernel.questions import Questions, questions
from featurestore.kernel.roles import ChangeRoles, KnownAt, Roles
from featurestore.kernel.versions import NEVER, Counts, Timeline, instants, single, timeline


def delay_groups(roles: Roles | ChangeRoles, features: Sequence[Feature]) -> list[tuple[int, list[Feature]]]:
    """The features that can share a timeline, and the delay of each group."""
    if isinstance(roles, Roles):
        return [(0, list(features))]
    groups: dict[int, list[Feature]] = {}
    for feature in features:
        groups.setdefault(feature.delay_us, []).append(feature)
    return list(groups.items())


def timelines(
    table: pa.Table,
    codes: Codes,
    entities: int,
    roles: Roles | ChangeRoles,
    known_at: KnownAt,
    *,
    delay_us: int,
    threads: ThreadPoolExecutor | None = None,
) -> tuple[Timeline, Counts]:
    """The timelines of a versions or changes table as known at ``known_at``, for one of ``delay_groups``."""
    if isinstance(roles, Roles):
        return timeline(table, codes, entities, roles, known_at, threads=threads)
    return change_timeline(table, codes, entities, roles, known_at, delay_us=delay_us, threads=threads)


@dataclass(frozen=True)
class Held:
    """What a host holds of ``entities`` entities: a versions or changes ``table``, ``codes`` of its rows'
    entities, and what its rows look up."""

    table: pa.Table
    codes: Codes
    entities: int
    roles: Roles | ChangeRoles
    lookups: tuple[HeldLookup, ...] = ()


@dataclass(frozen=True)
class HeldLookup:
    """``columns``, (name, feature) pairs, that rows of a versions table take from ``held``: each from the
    entity that ``keys`` int64[rows] numbers, less than 0 for one that nobody knows."""

    held: Held
    keys: I64
    columns: tuple[tuple[str, Feature], ...]
    tell: Callable[[Counts], None] | None = None
    """Told what choosing facts met."""

    @property
    def features(self) -> list[Feature]:
        return list({feature.reference: feature for _, feature in self.columns}.values())

    def named(self, answers: Mapping[str, pa.Array]) -> Iterator[tuple[str, pa.Array]]:
        return ((name, answers[feature.reference]) for name, feature in self.columns)


@dataclass(frozen=True)
class Enriched:
    """A versions table with what its rows look up: a row of ``table`` a piece, where there are ``pieces``, or
    else a row. ``flagged_expressions`` were met while looking up."""

    table: pa.Table
    pieces: Pieces | None = None
    flagged_expressions: int = 0

    def split(self, timeline: Timeline) -> Timeline:
        """A timeline of the table before it was enriched, as one of this."""
        return timeline if self.pieces is None else split(timeline, self.pieces)

    def known_at_last(self) -> pa.Table:
        """Each row with what it looks up once everything is known that ever will be."""
        return self.table if self.pieces is None else self.table.take(pa.array(self.pieces.last))


def enrich(
    table: pa.Table,
    roles: Roles | ChangeRoles,
    lookups: Sequence[HeldLookup],
    known_at: KnownAt,
    *,
    threads: ThreadPoolExecutor | None = None,
) -> Enriched:
    """A versions table with its looked-up columns: for the version of an event that is at T' the values at
    (T', K), where K is ``known_at``; under "as_of" a piece for each span of K."""
    if not lookups:
        return Enriched(table)
    assert isinstance(roles, Roles), "the rows of a mutable table look nothing up"
    event_time = instants(single(table, roles.event_time), null=NEVER)
    flagged = 0
    if known_at != "as_of":
        for one in lookups:
            found, flags = _looked_up(one, one.held, event_time, known_at, threads)
            flagged += flags
            for name, values in one.named(found):
                table = table.append_column(name, values)
        return Enriched(table, None, flagged)
    inner = [
        enrich(one.held.table, one.held.roles, one.held.lookups, known_at, threads=threads) for one in lookups
    ]
    known = [
        knowable(
            one.held.table, one.held.codes, one.held.entities, one.held.roles,
            looks_up=of.pieces is not None,
        )
        for one, of in zip(lookups, inner, strict=True)
    ]  # fmt: skip
    found_at_last = []
    stepping = []
    for one, of, late in zip(lookups, inner, known, strict=True):
        settled = replace(one.held, table=of.known_at_last(), lookups=())
        found, flags = _looked_up(one, settled, event_time, NEVER, threads)
        flagged += flags + of.flagged_expressions
        found_at_last.append(found)
        times = event_time[:0]
        if of.pieces is not None and isinstance(one.held.roles, Roles):
            times = instants(single(one.held.table, one.held.roles.event_time), null=NEVER)
        stepping.append(steps(late, of.pieces, (one.held.codes, times), one.keys, event_time))
    if not any(len(row) for row, _ in stepping):
        for one, found in zip(lookups, found_at_last, strict=True):
            for name, values in one.named(found):
                table = table.append_column(name, values)
        return Enriched(table, None, flagged)
    pieces, marks = pieces_between(event_time, stepping)
    made = table.take(pa.array(pieces.row))
    for one, of, late, found, marked in zip(lookups, inner, known, found_at_last, marks, strict=True):
        answers = _in_pieces(one, of, late, found, event_time, pieces, marked, threads)
        for name, values in one.named(answers):
            made = made.append_column(name, values)
    return Enriched(made.combine_chunks(), pieces, flagged)


def _looked_up(
    one: HeldLookup, held: Held, event_time: I64, known_at: KnownAt, threads: ThreadPoolExecutor | None
) -> tuple[dict[str, pa.Array], int]:
    """The features of one lookup for every row, at one horizon."""
    # One entity more, which has no facts: that of keys nobody knows.
    asked = questions(
        np.where(one.keys < 0, held.entities, one.keys),
        event_time,
        held.entities + 1,
        timed=event_time != NEVER,
        threads=threads,
    )
    answers, counts = ask(
        one.features, held.table, held.codes, held.entities + 1, held.roles, known_at, asked,
        lookups=held.lookups, threads=threads,
    )  # fmt: skip
    if one.tell is not None:
        one.tell(counts)
    return {given.feature.reference: given.values for given in answers.answers}, answers.flagged_expressions


def _in_pieces(
    one: HeldLookup,
    of: Enriched,
    late: Knowable | None,
    at_last: Mapping[str, pa.Array],
    event_time: I64,
    pieces: Pieces,
    marked: Bools,
    threads: ThreadPoolExecutor | None,
) -> dict[str, pa.Array]:
    """The features of one lookup for every piece. ``marked``: the pieces that end where this lookup steps;
    another's steps change nothing here."""
    until = pieces.next_of(marked)
    stepping = np.flatnonzero(marked)
    values = {name: [array] for name, array in at_last.items()}
    place = np.full(len(marked), -1, np.int64)
    done = len(event_time)
    if late is not None and len(stepping):
        row = pieces.row[stepping]
        if isinstance(late.roles, Roles):
            # With what these rows look up themselves.
            late = replace(late, table=of.table)
        read = sorted(frozenset().union(*(feature.reads for feature in one.features)))
        for copied in copies(late, of.pieces, read, one.keys[row], pieces.end[stepping]):
            asked = questions(copied.of, event_time[row[copied.asked]], copied.entities)
            answers, _ = ask(
                one.features, copied.table, copied.codes, copied.entities, copied.roles, None, asked,
                threads=threads,
            )  # fmt: skip
            for given in answers.answers:
                values[given.feature.reference].append(given.values)
            place[stepping[copied.asked]] = done + np.arange(len(copied.asked))
            done += len(copied.asked)
    taken = np.where(place[until] < 0, pieces.row, place[until])
    return {name: pa.concat_arrays(parts).take(pa.array(taken)) for name, parts in values.items()}


def ask(
    features: Sequence[Feature],
    table: pa.Table,
    codes: Codes,
    entities: int,
    roles: Roles | ChangeRoles,
    known_at: KnownAt,
    asked: Questions,
    *,
    lookups: Sequence[HeldLookup] = (),
    latest: bool = False,
    threads: ThreadPoolExecutor | None = None,
) -> tuple[Answers, Counts]:
    """Every feature's value for every question, over a versions or changes table, whose rows may look up
    columns; and what choosing facts met."""
    enriched = enrich(table, roles, lookups, known_at, threads=threads)
    made: dict[str, Answer] = {}
    found = np.zeros(len(asked.answers), np.bool_)
    flagged = 0
    counts: Counts | None = None
    for delay_us, group in delay_groups(roles, features):
        line, counted = timelines(table, codes, entities, roles, known_at, delay_us=delay_us, threads=threads)
        counts = counts or counted
        answered = answer(group, enriched.split(line), enriched.table, asked, latest=latest, threads=threads)
        made |= {one.feature.reference: one for one in answered.answers}
        found |= answered.found
        flagged = max(flagged, answered.flagged_expressions)
    assert counts is not None
    flagged += enriched.flagged_expressions
    return Answers(tuple(made[feature.reference] for feature in features), found, flagged), counts
