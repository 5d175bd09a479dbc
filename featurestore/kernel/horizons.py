"""Answers at a horizon of knowledge of each question's own, other than its time.

Time: a question is about T' and knows what was available before K', where K' > T'. Only what becomes known
late, after T', makes a difference between one K' and another.

An entity as known at K' is a *private copy* of those of its rows that K' knows: an entity of its own that the
kernel is asked about as about any other, so versions and changes are chosen anew from exactly what is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from featurestore.kernel.blocks import I64, Bools, Codes, grouped, repeated
from featurestore.kernel.changes import DELETE, OPERATION_COLUMN, TRUNCATE, UPSERT
from featurestore.kernel.content import content_hash
from featurestore.kernel.pieces import Pieces, search, spread
from featurestore.kernel.roles import ChangeRoles, Roles
from featurestore.kernel.versions import HASH_COLUMN, NEVER, instants, single

PRIVATE_COLUMN = "__private"
"""Which private copy a change is in: rows of a table are known by their primary key alone."""

AFTER_COLUMN = "__after"
"""A truncate stands behind the changes at its position, each truncate at a place of its own."""

COPIED_ROWS = 4_000_000
"""How many rows are copied at once: some hundred bytes each while they are sorted."""


@dataclass(frozen=True)
class Knowable:
    """The rows that each entity's answers depend on, by (entity, ``known``): those of entity e are
    ``[offsets[e], offsets[e + 1])``.

    ``row`` int64[n] in ``table``, of ``roles``; ``own`` bool[n]: the row is a fact of the entity, and not
    only one that ends another. ``since`` int64[n]: questions at or before it don't depend on the row.
    ``known`` int64[n]: when it was available, ``NEVER`` for null.
    """

    table: pa.Table
    roles: Roles | ChangeRoles
    offsets: I64
    row: I64
    own: Bools
    since: I64
    known: I64


def knowable(
    table: pa.Table, codes: Codes, entities: int, roles: Roles | ChangeRoles, *, looks_up: bool
) -> Knowable | None:
    """``Knowable`` of a versions or changes table; None where nothing becomes known late. What its rows look
    up may be late though they are not."""
    if isinstance(roles, Roles):
        return _of_events(table, codes, entities, roles, looks_up)
    return _of_changes(table, codes, entities, roles)


def _of_events(table: pa.Table, codes: Codes, entities: int, roles: Roles, looks_up: bool) -> Knowable | None:
    since = instants(single(table, roles.event_time), null=NEVER)
    known = since
    if roles.available_at is not None:
        known = instants(single(table, roles.available_at), null=NEVER)
    if roles.id:
        # A version that moves or retracts an event matters from the first time on that the event ever had.
        since = _first_of_identity(table, codes, entities, roles.id, since)
    row = np.flatnonzero(codes >= 0)
    if not looks_up and not (since < known)[row].any():
        return None
    return _sorted(
        table, roles, entities, codes[row].astype(np.int64), row, np.ones(len(row), np.bool_), since, known
    )


def _first_of_identity(
    table: pa.Table, codes: Codes, entities: int, ids: tuple[str, ...], event_time: I64
) -> I64:
    identity = np.ascontiguousarray(content_hash(table, ids)[:, 0]).view(np.int64)
    offsets, order = grouped(codes, entities)
    several = np.flatnonzero(repeated(offsets, order, identity))
    if not len(several):
        return event_time
    of_entity, identity = codes[several], identity[several]
    by = np.lexsort((identity, of_entity))
    new = np.ones(len(by), np.bool_)
    new[1:] = (of_entity[by][1:] != of_entity[by][:-1]) | (identity[by][1:] != identity[by][:-1])
    least = np.minimum.reduceat(event_time[several[by]], np.flatnonzero(new))
    first = event_time.copy()
    first[several[by]] = least[np.cumsum(new) - 1]
    return first


def _of_changes(table: pa.Table, codes: Codes, entities: int, roles: ChangeRoles) -> Knowable | None:
    if roles.available_at is None:
        return None
    since = instants(single(table, roles.changed_at), null=NEVER)
    known = instants(single(table, roles.available_at), null=NEVER)
    if not (since < known).any():
        return None
    operation = instants(single(table, OPERATION_COLUMN), null=UPSERT)
    identity = _identities(table, np.flatnonzero(operation != TRUNCATE), roles)
    truncates = np.flatnonzero(operation == TRUNCATE)
    codes = codes.astype(np.int64)
    if len(truncates):
        table, roles, added = _without_truncates(table, roles, identity, truncates)
        identity = np.append(identity, np.repeat(np.arange(identity.max() + 1), len(truncates)))
        since = np.append(since, since[added])
        known = np.append(known, known[added])
        codes = np.append(codes, np.full(len(added), -1))
    # A table's row belongs to each entity that it was ever given to: all its changes matter there.
    rows = np.flatnonzero((codes >= 0) & (identity >= 0))
    pair = np.unique(codes[rows] * (identity.max() + 1) + identity[rows])
    entity, member = np.divmod(pair, identity.max() + 1)
    offsets, by_identity = grouped(identity, int(identity.max()) + 1)
    counts = np.diff(offsets)[member]
    row = by_identity[spread(offsets[member], counts)]
    entity = np.repeat(entity, counts)
    return _sorted(table, roles, entities, entity, row, codes[row] == entity, since, known)


def _identities(table: pa.Table, rows: I64, roles: ChangeRoles) -> I64:
    """Which row of the mutable table each change is of, counted from 0; -1 for those not in ``rows``."""
    hashes = content_hash(table.select(list(roles.primary_key)), roles.primary_key)[rows]
    by = np.lexsort((hashes[:, 1], hashes[:, 0]))
    new = np.ones(len(by), np.bool_)
    new[1:] = (hashes[by][1:] != hashes[by][:-1]).any(axis=1)
    identity = np.full(table.num_rows, -1, np.int64)
    identity[rows[by]] = np.cumsum(new) - 1
    return identity


def _without_truncates(
    table: pa.Table, roles: ChangeRoles, identity: I64, truncates: I64
) -> tuple[pa.Table, ChangeRoles, I64]:
    """The table with a delete of every row for each truncate, behind all changes at its position; and of
    which truncate each of these is."""
    rows = int(identity.max()) + 1
    one_of = np.empty(rows, np.int64)
    one_of[identity[identity >= 0]] = np.flatnonzero(identity >= 0)
    of_row = pa.array(np.repeat(one_of, len(truncates)))
    added = np.tile(truncates, rows)
    of_truncate = pa.array(added)
    of_its_own = {roles.changed_at, roles.available_at, *roles.position}
    columns = []
    for field in table.schema:
        if field.name in roles.primary_key:
            columns.append(single(table, field.name).take(of_row))
        elif field.name in of_its_own:
            columns.append(single(table, field.name).take(of_truncate))
        elif field.name == OPERATION_COLUMN:
            columns.append(pa.array(np.full(len(added), DELETE)))
        else:
            columns.append(pa.nulls(len(added), field.type))
    after = np.append(np.zeros(table.num_rows, np.int64), np.tile(np.arange(1, len(truncates) + 1), rows))
    whole = pa.concat_tables([table, pa.Table.from_arrays(columns, schema=table.schema)])
    whole = whole.append_column(AFTER_COLUMN, pa.array(after))
    return whole, replace(roles, position=(*roles.position, AFTER_COLUMN)), added


def _sorted(
    table: pa.Table,
    roles: Roles | ChangeRoles,
    entities: int,
    entity: I64,
    row: I64,
    own: Bools,
    since: I64,
    known: I64,
) -> Knowable:
    order = np.lexsort((known[row], entity))
    offsets = np.searchsorted(entity[order], np.arange(entities + 1))
    row, own = row[order], own[order]
    return Knowable(table, roles, offsets, row, own, since[row], known[row])


def steps(
    of: Knowable | None, pieces: Pieces | None, inner: tuple[Codes, I64], keys: I64, event_time: I64
) -> tuple[I64, I64]:
    """Where the staircases of events step, as (event, K) pairs: event i is about entity ``keys[i]`` (less
    than 0: of none) at ``event_time[i]``. ``pieces`` are those of the entities' own rows, with ``inner``
    their entities and event times. More steps than there are do no harm."""
    entity, since, known = [], [], []
    if of is not None:
        entity.append(np.repeat(np.arange(len(of.offsets) - 1), np.diff(of.offsets)))
        since.append(of.since)
        known.append(of.known)
    if pieces is not None:
        entity.append(inner[0][pieces.row].astype(np.int64))
        since.append(inner[1][pieces.row])
        known.append(pieces.end)
    none = np.empty(0, np.int64)
    if not entity:
        return none, none
    e, s, k = np.concatenate(entity), np.concatenate(since), np.concatenate(known)
    # An event strictly between the two does not see at once what it sees at last.
    late = (k != NEVER) & (s < k) & (e >= 0)
    e, s, k = e[late], s[late], k[late]
    # Of what becomes known to an entity at one instant, the earliest says for which events.
    order = np.lexsort((s, k, e))
    e, s, k = e[order], s[order], k[order]
    new = np.ones(len(e), np.bool_)
    new[1:] = (e[1:] != e[:-1]) | (k[1:] != k[:-1])
    e, s, k = e[new], s[new], k[new]
    asked = np.flatnonzero((keys >= 0) & (event_time != NEVER))
    asked = asked[np.lexsort((event_time[asked], keys[asked]))]
    entities = int(max(e.max(initial=-1), keys.max(initial=-1))) + 1
    offsets = np.searchsorted(keys[asked], np.arange(entities + 1))
    times = event_time[asked]
    low = search(offsets, times, e, s + 1)
    high = np.maximum(search(offsets, times, e, k), low)
    return asked[spread(low, high - low)], np.repeat(k, high - low)


@dataclass(frozen=True)
class Copies:
    """Private copies, ``entities`` of them: as the kernel takes a table. ``asked`` int64: which of the
    questions they are for; ``codes`` and ``of`` number the copies, a row's and a question's."""

    table: pa.Table
    codes: I64
    entities: int
    roles: Roles | ChangeRoles
    asked: I64
    of: I64


def copies(
    of: Knowable, pieces: Pieces | None, columns: Sequence[str], entity: I64, known_at: I64
) -> Iterator[Copies]:
    """Private copies for questions about ``entity`` as known at ``known_at``, some at a time. ``columns``
    are those that are read besides what ``of.roles`` name."""
    order = np.lexsort((known_at, entity))
    e, k = entity[order], known_at[order]
    new = np.ones(len(order), np.bool_)
    new[1:] = (e[1:] != e[:-1]) | (k[1:] != k[:-1])
    private = np.cumsum(new) - 1
    e, k = e[new], k[new]
    counts = search(of.offsets, of.known, e, k) - of.offsets[e]
    table = of.table.select(_needed(of, columns))
    done = 0
    total = np.cumsum(counts)
    while done < len(e):
        end = max(
            done + 1, int(np.searchsorted(total, total[done] - counts[done] + COPIED_ROWS, side="right"))
        )
        place = spread(of.offsets[e[done:end]], counts[done:end])
        copy = np.repeat(np.arange(end - done), counts[done:end])
        row = of.row[place]
        if pieces is not None:
            row = pieces.at(row, k[done + copy])
        made = table.take(pa.array(row)).combine_chunks()
        roles = of.roles
        if isinstance(roles, ChangeRoles):
            made = made.append_column(PRIVATE_COLUMN, pa.array(copy))
            roles = replace(roles, primary_key=(*roles.primary_key, PRIVATE_COLUMN))
        first, last = np.searchsorted(private, [done, end])
        codes = np.where(of.own[place], copy, -1)
        yield Copies(made, codes, end - done, roles, order[first:last], private[first:last] - done)
        done = end


def _needed(of: Knowable, columns: Sequence[str]) -> list[str]:
    names = of.table.column_names
    wanted = {*columns, *of.roles.structural, OPERATION_COLUMN, HASH_COLUMN}
    if HASH_COLUMN not in names:
        wanted |= set(of.roles.content)
    return [name for name in names if name in wanted]
