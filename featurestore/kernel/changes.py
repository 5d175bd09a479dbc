"""Which change of each table row is live, and when: from a mutation log's changes to timelines.

Time: change i of a row takes effect at s_i = changed_at_i + delay, or at max(that, available_at_i) where
knowledge follows the question; it is live for the questions T in (s_i, e_i], where e_i is the least s_j of
any known change of the row at a later position, deletes and truncates included. A change at exactly T is in
the future.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.kernel.blocks import I64, READ, Bools, Codes, grouped, shared_out, sort_blocks, ties
from featurestore.kernel.compiled import compiled, inlined
from featurestore.kernel.content import content_hash
from featurestore.kernel.roles import ChangeRoles, KnownAt
from featurestore.kernel.versions import (
    NAMED,
    NEVER,
    Counts,
    Timeline,
    instants,
    row_hashes,
    single,
    sortable,
)

U64 = NDArray[np.uint64]

UPSERT, DELETE, TRUNCATE = 0, 1, 2
"""What a change does: gives its row this content, ends the row, ends every row of the table."""

OPERATION_COLUMN = "__op"
"""Where a changes table says, as int64, which of these a change is."""

CLAIM_COLUMN = "__claim"
"""Where a changes table may say, as bool, that a change claims its row was there before: an update or a
delete. It is no content; it is counted where the row was not."""


@dataclass(frozen=True)
class _Order:
    """Known changes by (row, position): ``rows`` int64[n] in the changes table, ``row`` int64[n] which row of
    the table each belongs to (never decreasing)."""

    rows: I64
    row: I64


# Identities are spread over blocks that fit a cache: the first bits of their hashes say which.
_BUCKET_BITS = 14


@inlined
def _before(a: int, b: int, second: U64, position: I64) -> bool:
    # Whether row a stands before row b: by the rest of the identity, then by position.
    if second[a] != second[b]:
        return bool(second[a] < second[b])
    for c in range(position.shape[0]):
        if position[c, a] != position[c, b]:
            return bool(position[c, a] < position[c, b])
    return False


READ_U64 = "Array(uint64, 1, 'C', True)"
READ_TABLE = "Array(int64, 2, 'C', True)"


@compiled(f"void({READ}, i8[::1], {READ_U64}, {READ_TABLE}, {READ}, i8, i8)")
def _by_position(offsets: I64, order: I64, second: U64, position: I64, first: I64, e0: int, e1: int) -> None:
    # Each block is sorted by the first half of the identity already; runs of equal ones are short.
    for e in range(e0, e1):
        begin = offsets[e]
        while begin < offsets[e + 1]:
            end = begin + 1
            while end < offsets[e + 1] and first[end] == first[begin]:
                end += 1
            n = end - begin
            if n <= 32:
                for i in range(begin + 1, end):
                    row = order[i]
                    j = i
                    while j > begin and _before(row, order[j - 1], second, position):
                        order[j] = order[j - 1]
                        j -= 1
                    order[j] = row
            else:
                run = order[begin:end].copy()
                for c in range(position.shape[0] - 1, -1, -1):
                    run = run[np.argsort(position[c][run], kind="mergesort")]
                run = run[np.argsort(second[run], kind="mergesort")]
                order[begin:end] = run
            begin = end


@compiled(f"Tuple((i8[::1], b1[::1]))({READ}, {READ}, {READ_U64}, {READ_TABLE})")
def _rows_and_ties(order: I64, first: I64, second: U64, position: I64) -> tuple[I64, Bools]:
    row = np.empty(len(order), np.int64)
    tied = np.zeros(len(order), np.bool_)
    number = 0
    for i in range(len(order)):
        if i:
            same = first[i] == first[i - 1] and second[order[i]] == second[order[i - 1]]
            if same:
                equal = True
                for c in range(position.shape[0]):
                    if position[c, order[i]] != position[c, order[i - 1]]:
                        equal = False
                if equal:
                    tied[i - 1] = True
                    tied[i] = True
            else:
                number += 1
        row[i] = number
    return row, tied


@compiled(f"i8[::1]({READ}, {READ})")
def _ends(row: I64, starts: I64) -> I64:
    # Backwards within a row: a change ends when the first of those at a later position takes effect.
    end = np.full(len(row), NEVER, np.int64)
    for i in range(len(row) - 2, -1, -1):
        if row[i] == row[i + 1]:
            end[i] = min(end[i + 1], starts[i + 1])
    return end


def _positions(table: pa.Table, roles: ChangeRoles) -> I64:
    made = np.empty((len(roles.position), table.num_rows), np.int64)
    for i, name in enumerate(roles.position):
        made[i] = instants(single(table, name), null=0)
    return made


def _ordered(
    table: pa.Table, known: I64, roles: ChangeRoles, position: I64, threads: ThreadPoolExecutor | None
) -> tuple[_Order, Bools]:
    """Known changes by row and position, and which have another change of their row at their position."""
    identity = content_hash(table, roles.primary_key)
    first = np.ascontiguousarray(identity[:, 0]).view(np.int64)
    second = np.ascontiguousarray(identity[:, 1])
    codes = np.full(table.num_rows, -1, np.int64)
    codes[known] = (identity[known, 0] >> np.uint64(64 - _BUCKET_BITS)).astype(np.int64)
    offsets, order = grouped(codes, 1 << _BUCKET_BITS)
    in_order = sort_blocks(offsets, order, first, threads=threads)
    shared_out(
        lambda e0, e1: _by_position(offsets, order, second, position, in_order, e0, e1),
        offsets, len(order), threads,
    )  # fmt: skip
    row, tied = _rows_and_ties(order, in_order, second, position)
    return _Order(order, row), tied


@dataclass(frozen=True)
class _Settled:
    """Changes without duplicates, in order, and what was met: ``conflicts`` further contents at a
    position."""

    order: _Order
    duplicates: int
    conflicts: int
    conflicting: I64


def _by_content(
    table: pa.Table, order: _Order, tied: Bools, roles: ChangeRoles, position: I64, available: I64
) -> _Settled:
    """Changes of one row at one position: equal ones once, from the least available_at; different ones in the
    order of their content hashes, so that the greatest ends the others when it takes effect."""
    none = np.empty(0, np.int64)
    if not tied.any():
        return _Settled(order, 0, 0, none)
    places = np.flatnonzero(tied)
    rows = order.rows[places]
    hashes = row_hashes(table, rows, roles)
    by = np.lexsort(
        [rows, available[rows], hashes[:, 1], hashes[:, 0], *position[::-1, rows], order.row[places]]
    )
    rows, hashes, row = rows[by], hashes[by], order.row[places][by]
    same_place = row[1:] == row[:-1]
    for column in position:
        same_place &= column[rows[1:]] == column[rows[:-1]]
    same = same_place & (hashes[1:] == hashes[:-1]).all(axis=1)
    arranged = order.rows.copy()
    # The rows of one position keep their places; of equal ones the first, which was available first, stays.
    arranged[places] = rows
    keep = np.ones(len(arranged), np.bool_)
    keep[places[1:]] = ~same
    conflicting = np.append(False, same_place & ~same)
    return _Settled(
        _Order(arranged[keep], order.row[keep]),
        int(same.sum()),
        int(conflicting.sum()),
        np.sort(rows[conflicting])[:NAMED],
    )


def change_timeline(
    table: pa.Table,
    codes: Codes,
    entities: int,
    roles: ChangeRoles,
    known_at: KnownAt,
    *,
    delay_us: int,
    threads: ThreadPoolExecutor | None = None,
) -> tuple[Timeline, Counts]:
    """The timelines of a mutation log's changes as known at ``known_at``, for features of one delay.

    ``table`` holds the declared columns and ``OPERATION_COLUMN``; ``codes`` int64[rows] numbers each change's
    entity, less than 0 for one of none (it ends the change before it all the same).
    """
    operation = instants(single(table, OPERATION_COLUMN), null=UPSERT)
    changed = instants(single(table, roles.changed_at), null=NEVER)
    available = changed
    if roles.available_at is not None:
        available = instants(single(table, roles.available_at), null=NEVER)
    follows = known_at == "as_of"
    known = np.ones(table.num_rows, np.bool_)
    if isinstance(known_at, int):
        known = available < known_at
    elif follows:
        known = available != NEVER
    starts = changed + delay_us
    if follows:
        starts = np.maximum(starts, available)
    position = _positions(table, roles)
    order, tied = _ordered(table, np.flatnonzero(known & (operation != TRUNCATE)), roles, position, threads)
    settled = _by_content(table, order, tied, roles, position, available)
    rows = settled.order.rows
    end = _ends(settled.order.row, starts[rows])
    truncates = np.flatnonzero(known & (operation == TRUNCATE))
    duplicates = settled.duplicates
    if len(truncates):
        duplicates += len(truncates) - len(np.unique(row_hashes(table, truncates, roles), axis=0))
        end = np.minimum(end, _truncated(position[:, rows], position[:, truncates], starts[truncates]))
    live = (operation[rows] == UPSERT) & (starts[rows] < end) & (codes[rows] >= 0)
    event_time = changed
    if roles.event_time is not None:
        event_time = instants(single(table, roles.event_time), null=NEVER)
        live &= event_time[rows] != NEVER
    ends = np.full(table.num_rows, NEVER, np.int64)
    ends[rows] = end
    of_entity = np.full(table.num_rows, -1, np.int64)
    of_entity[rows[live]] = codes[rows[live]]
    offsets, fact = grouped(of_entity, entities)
    in_order = sort_blocks(offsets, fact, event_time, threads=threads)
    _break_ties(table, offsets, fact, in_order, roles, threads)
    counts = Counts(
        int(known.sum()),
        duplicates,
        settled.conflicts,
        int((operation[rows] == DELETE).sum()),
        0 if roles.available_at is None else int((available == NEVER).sum()),
        settled.conflicting,
        _unseen(table, order, tied, position),
    )
    timeless = roles.event_time is None
    return Timeline(offsets, fact, in_order, starts[fact], ends[fact], timeless), counts


def _unseen(table: pa.Table, order: _Order, tied: Bools, position: I64) -> int:
    """How many rows begin with a claim: at their least position is nothing but updates and deletes."""
    if CLAIM_COLUMN not in table.column_names or not len(order.rows):
        return 0
    claims = single(table, CLAIM_COLUMN)
    if claims.null_count:
        claims = pc.fill_null(claims, False)
    if not pc.any(claims).as_py():
        return 0
    claimed = claims.to_numpy(zero_copy_only=False)
    first = np.flatnonzero(np.append(True, order.row[1:] != order.row[:-1]))
    unseen = claimed[order.rows[first]]
    for i in np.flatnonzero(tied[first]).tolist():
        begin = end = int(first[i])
        at = position[:, order.rows[begin]]
        while end < len(order.rows) and order.row[end] == order.row[begin]:
            if (position[:, order.rows[end]] != at).any():
                break
            unseen[i] &= claimed[order.rows[end]]
            end += 1
    return int(unseen.sum())


def _truncated(position: I64, of_truncates: I64, starts: I64) -> I64:
    """When the first truncate at a position not before a change's takes effect; NEVER where there is none."""
    by = np.lexsort(of_truncates[::-1])
    ordered = of_truncates[:, by]
    first = np.minimum.accumulate(starts[by][::-1])[::-1]
    together = np.concatenate([position, ordered], axis=1)
    # Positions of several columns as dense ranks, so that one search finds the place.
    ranks = np.lexsort(together[::-1])
    changed = np.zeros(together.shape[1], np.bool_)
    for column in together:
        changed[1:] |= column[ranks][1:] != column[ranks][:-1]
    dense = np.empty(together.shape[1], np.int64)
    dense[ranks] = np.cumsum(changed)
    place = np.searchsorted(dense[position.shape[1] :], dense[: position.shape[1]], side="left")
    return np.append(first, NEVER)[place]


def _break_ties(
    table: pa.Table,
    offsets: I64,
    order: I64,
    in_order: I64,
    roles: ChangeRoles,
    threads: ThreadPoolExecutor | None,
) -> None:
    """Order the facts of one entity and time by ``order_by``, primary key and content hash; those of a table
    without event time, which have their ``changed_at``, by position and primary key."""
    tied = ties(offsets, in_order, threads=threads)
    if not tied.any():
        return
    places = np.flatnonzero(tied)
    rows = order[places]
    by_position = roles.position if roles.event_time is None else ()
    order_by = () if roles.order_by is None else (roles.order_by,)
    names = list(dict.fromkeys((*by_position, *order_by, *roles.primary_key)))
    part = table.select(names).take(pa.array(rows))
    entity = np.searchsorted(offsets, places, side="right")
    hashes = row_hashes(table, rows, roles)
    keys: list[NDArray[np.generic]] = [sortable(single(part, name)) for name in names]
    by = np.lexsort([hashes[:, 1], hashes[:, 0], *keys[::-1], in_order[places], entity])
    order[places] = rows[by]
