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

from featurestore.kernel.blocks import I64, READ, Bools, Codes, gathered, grouped, shared_out, sort_blocks
from featurestore.kernel.compiled import compiled, inlined
from featurestore.kernel.content import content_hash, hash64
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
_BEFORE_ALL = np.iinfo(np.int64).min

UPSERT, DELETE, TRUNCATE = 0, 1, 2
"""What a change does: gives its row this content, ends the row, ends every row of the table."""

OPERATION_COLUMN = "__op"
"""Where a changes table says, as int64, which of these a change is."""

CLAIM_COLUMN = "__claim"
"""Where a changes table may say, as bool, that a change claims its row was there before: an update or a
delete. It is no content; it is counted where the row was not."""


@dataclass(frozen=True)
class _Order:
    """Known changes by (row, position): ``rows`` int64[n] in the changes table; ``begins`` bool[n] marks the
    first change of each row of the table; ``blocks`` int64[2^14 + 1] cuts between rows, for threads to share.
    """

    rows: I64
    begins: Bools
    blocks: I64


@dataclass(frozen=True)
class _Identity:
    """What tells rows of the table apart: equal where ``first`` and ``second`` are. ``second`` is empty where
    ``first`` alone does."""

    first: I64
    second: U64


# Identities are spread over blocks that fit a cache: the first bits of their hashes say which.
_BUCKET_BITS = 14
_NOTHING = np.empty(0, np.uint64)
READ_U64 = "Array(uint64, 1, 'C', True)"
READ_TABLE = "Array(int64, 2, 'C', True)"


def _identity(table: pa.Table, primary_key: tuple[str, ...]) -> _Identity:
    if len(primary_key) == 1:
        column = single(table, primary_key[0])
        if pa.types.is_int64(column.type) or pa.types.is_timestamp(column.type):
            # Different integers never have the same hash.
            return _Identity(hash64(column).view(np.int64), _NOTHING)
    hashes = content_hash(table, primary_key)
    return _Identity(np.ascontiguousarray(hashes[:, 0]).view(np.int64), np.ascontiguousarray(hashes[:, 1]))


@inlined
def _before(a: int, b: int, second: U64, position: I64) -> bool:
    # Whether change a stands before change b: by the rest of the identity, then by position.
    if len(second) and second[a] != second[b]:
        return bool(second[a] < second[b])
    for c in range(position.shape[0]):
        if position[c, a] != position[c, b]:
            return bool(position[c, a] < position[c, b])
    return False


@compiled(f"void({READ}, i8[::1], {READ_U64}, {READ_TABLE}, {READ}, b1[::1], b1[::1], i8, i8)")
def _by_position(
    offsets: I64, order: I64, second: U64, position: I64, first: I64, begins: Bools, tied: Bools,
    e0: int, e1: int,
) -> None:  # fmt: skip
    # Each block is sorted by the first half of the identity already; runs of equal ones are short.
    for e in range(e0, e1):
        begin = offsets[e]
        while begin < offsets[e + 1]:
            end = begin + 1
            while end < offsets[e + 1] and first[end] == first[begin]:
                end += 1
            if end - begin <= 32:
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
                if len(second):
                    run = run[np.argsort(second[run], kind="mergesort")]
                order[begin:end] = run
            begins[begin] = True
            for i in range(begin + 1, end):
                begins[i] = len(second) and second[order[i]] != second[order[i - 1]]
                if not begins[i] and not _before(order[i - 1], order[i], second, position):
                    tied[i - 1] = True
                    tied[i] = True
            begin = end


@compiled(f"void({READ}, {READ}, Array(bool, 1, 'C', True), {READ}, i8[::1], i8, i8)")
def _ends(blocks: I64, rows: I64, begins: Bools, starts: I64, ends: I64, e0: int, e1: int) -> None:
    # Backwards within a row: a change ends when the first of those at a later position takes effect.
    end = NEVER
    for i in range(blocks[e1] - 1, blocks[e0] - 1, -1):
        row = rows[i]
        ends[row] = end
        end = NEVER if begins[i] else min(end, starts[row])


def _positions(table: pa.Table, roles: ChangeRoles) -> I64:
    made = np.empty((len(roles.position), table.num_rows), np.int64)
    for i, name in enumerate(roles.position):
        made[i] = instants(single(table, name), null=0)
    return made


def _ordered(
    identity: _Identity, known: Bools, position: I64, threads: ThreadPoolExecutor | None
) -> tuple[_Order, Bools]:
    """Known changes by row and position, and which have another change of their row at their position."""
    bucket = (identity.first.view(np.uint64) >> np.uint64(64 - _BUCKET_BITS)).astype(np.int32)
    if not known.all():
        bucket[~known] = -1
    blocks, order = grouped(bucket, 1 << _BUCKET_BITS)
    in_order = sort_blocks(blocks, order, identity.first, threads=threads)
    begins, tied = np.zeros(len(order), np.bool_), np.zeros(len(order), np.bool_)
    shared_out(
        lambda e0, e1: _by_position(
            blocks, order, identity.second, position, in_order, begins, tied, e0, e1
        ),
        blocks, len(order), threads,
    )  # fmt: skip
    return _Order(order, begins, blocks), tied


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
    row = np.cumsum(order.begins)[places]
    hashes = row_hashes(table, rows, roles)
    by = np.lexsort([rows, available[rows], hashes[:, 1], hashes[:, 0], *position[::-1, rows], row])
    rows, hashes, row = rows[by], hashes[by], row[by]
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
    # The first change of a row is none that is left out.
    kept_before = np.append(0, np.cumsum(keep))
    return _Settled(
        _Order(arranged[keep], order.begins[keep], kept_before[order.blocks]),
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
    starts = changed + delay_us if delay_us else changed
    if follows:
        starts = np.maximum(starts, available)
    position = _positions(table, roles)
    identity = _identity(table, roles.primary_key)
    order, tied = _ordered(identity, known & (operation != TRUNCATE), position, threads)
    settled = _by_content(table, order, tied, roles, position, available)
    kept = settled.order
    # What is unknown, a duplicate or a truncate has ended before anything begins.
    ends = np.full(table.num_rows, _BEFORE_ALL, np.int64)
    shared_out(
        lambda e0, e1: _ends(kept.blocks, kept.rows, kept.begins, starts, ends, e0, e1),
        kept.blocks, len(kept.rows), threads,
    )  # fmt: skip
    truncates = np.flatnonzero(known & (operation == TRUNCATE))
    duplicates = settled.duplicates
    if len(truncates):
        duplicates += len(truncates) - len(np.unique(row_hashes(table, truncates, roles), axis=0))
        ends = np.minimum(ends, _truncated(position, position[:, truncates], starts[truncates]))
    live = (operation == UPSERT) & (starts < ends)
    event_time = changed
    if roles.event_time is not None:
        event_time = instants(single(table, roles.event_time), null=NEVER)
        live &= event_time != NEVER
    of_entity = np.where(live, codes, codes.dtype.type(-1))
    offsets, fact = grouped(of_entity, entities)
    in_order = sort_blocks(offsets, fact, event_time, threads=threads)
    _break_ties(table, offsets, fact, in_order, identity, roles, threads)
    counts = Counts(
        int(known.sum()),
        duplicates,
        settled.conflicts,
        int((operation[kept.rows] == DELETE).sum()),
        0 if roles.available_at is None else int((available == NEVER).sum()),
        settled.conflicting,
        _unseen(table, order, tied, position),
    )
    timeless = roles.event_time is None
    start = gathered(starts, fact, threads=threads)
    end = gathered(ends, fact, threads=threads)
    return Timeline(offsets, fact, in_order, start, end, timeless), counts


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
    first = np.flatnonzero(order.begins)
    unseen = claimed[order.rows[first]]
    for i in np.flatnonzero(tied[first]).tolist():
        begin = end = int(first[i])
        at = position[:, order.rows[begin]]
        while end == begin or (end < len(order.rows) and not order.begins[end]):
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


@compiled(f"void({READ}, {READ}, {READ}, {READ}, {READ_U64}, b1[::1], i8, i8)")
def _mark_ties(
    offsets: I64, order: I64, in_order: I64, first: I64, second: U64, marked: Bools, e0: int, e1: int
) -> None:
    for e in range(e0, e1):
        begin = offsets[e]
        while begin < offsets[e + 1]:
            end = begin + 1
            several = False
            while end < offsets[e + 1] and in_order[end] == in_order[begin]:
                a, b = order[begin], order[end]
                if first[a] != first[b] or (len(second) and second[a] != second[b]):
                    several = True
                end += 1
            if several:
                marked[begin:end] = True
            begin = end


def _break_ties(
    table: pa.Table,
    offsets: I64,
    order: I64,
    in_order: I64,
    identity: _Identity,
    roles: ChangeRoles,
    threads: ThreadPoolExecutor | None,
) -> None:
    """Order the facts of one entity and time by ``order_by`` and primary key; those of a table without event
    time, which have their ``changed_at``, by position and primary key.

    At most one change of a row is live at a time, so no question meets two facts of one row: where all facts
    of a time are of one row, which is what updates leave, their order decides nothing.
    """
    marked = np.zeros(len(order), np.bool_)
    shared_out(
        lambda e0, e1: _mark_ties(
            offsets, order, in_order, identity.first, identity.second, marked, e0, e1
        ),
        offsets, len(order), threads,
    )  # fmt: skip
    places = np.flatnonzero(marked)
    if not len(places):
        return
    rows = order[places]
    by_position = roles.position if roles.event_time is None else ()
    order_by = () if roles.order_by is None else (roles.order_by,)
    names = list(dict.fromkeys((*by_position, *order_by, *roles.primary_key)))
    part = table.select(names).take(pa.array(rows))
    entity = np.searchsorted(offsets, places, side="right")
    keys: list[NDArray[np.generic]] = [sortable(single(part, name)) for name in names]
    by = np.lexsort([*keys[::-1], in_order[places], entity])
    order[places] = rows[by]
