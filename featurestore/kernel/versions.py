"""Which version of each fact counts, and when: from a log's versions to timelines.

Time: ``start`` and ``end`` are instants of question time. A version is live for the questions T in (start,
end]: it is not seen by a question at exactly its ``available_at``, it is still seen by one at exactly its
successor's.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.kernel.blocks import I64, READ, Bools, Codes, grouped, repeated, sort_blocks, ties
from featurestore.kernel.compiled import compiled
from featurestore.kernel.content import content_hash, hash64
from featurestore.kernel.ranked import order_codes
from featurestore.kernel.roles import ChangeRoles, KnownAt, Roles

NEVER = np.iinfo(np.int64).max
"""The available_at of a version whose declared column is null, and the end of what nothing ends."""

NAMED = 10
"""Corrected identities that a report names."""

HASH_COLUMN = "__hash"
"""Where a versions table carries its content hashes (16 bytes a row) when they are already known."""


@dataclass(frozen=True)
class Timeline:
    """Facts in order, entity by entity.

    ``offsets`` int64[entities + 1]; ``row`` int64[facts], each fact's row in the versions table;
    ``event_time`` int64[facts], never decreasing within an entity. ``start`` and ``end`` int64[facts] bound
    the questions that can see the fact, besides its window; both None: all can, and the timeline is
    *settled*. ``timeless``: the facts have no event time of their own and no window; ``event_time`` only
    orders them.
    """

    offsets: I64
    row: I64
    event_time: I64
    start: I64 | None
    end: I64 | None
    timeless: bool = False

    @property
    def facts(self) -> int:
        return len(self.row)

    @property
    def entities(self) -> int:
        return len(self.offsets) - 1


@dataclass(frozen=True)
class Counts:
    """What choosing versions met: ``versions`` known, ``duplicates`` (same identity, same content),
    ``corrections`` (same identity, other content), ``retracted`` identities whose last version is a
    retraction; ``without_available_at`` versions whose declared available_at is null; ``corrected`` int64,
    the rows of the last versions of some corrected identities, for a report to name; ``unseen`` rows of a
    table whose first known change is an update or a delete."""

    versions: int
    duplicates: int
    corrections: int
    retracted: int
    without_available_at: int
    corrected: I64
    unseen: int = 0


def instants(array: pa.Array, *, null: int) -> I64:
    """A timestamp array as int64 microseconds, nulls as ``null``."""
    us = array.cast(pa.int64())
    if us.null_count:
        us = pc.fill_null(us, null)
    made: I64 = us.to_numpy(zero_copy_only=False)
    return made


def single(table: pa.Table, name: str) -> pa.Array:
    """A column as one array."""
    column = table.column(name)
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def row_hashes(table: pa.Table, rows: I64, roles: Roles | ChangeRoles) -> NDArray[np.uint64]:
    """Content hashes uint64[rows, 2] of some rows of a versions table, as stored or computed from the
    content."""
    part = table.take(pa.array(rows))
    if HASH_COLUMN in table.column_names:
        stored = single(part, HASH_COLUMN)
        flat = np.frombuffer(stored.buffers()[1], np.uint64)
        return flat[2 * stored.offset : 2 * (stored.offset + len(stored))].reshape(-1, 2)
    made: NDArray[np.uint64] = content_hash(part, roles.content)
    return made


def sortable(array: pa.Array) -> I64:
    """Dense int64 ranks of an array's values: nulls are 0 and first, strings by code point, NaN last."""
    ranks = np.zeros(len(array), np.int64)
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    codes = order_codes(array.drop_null() if array.null_count else array, nan="greatest")
    ranks[valid] = np.unique(codes, return_inverse=True)[1] + 1
    return ranks


def _identity_hash(table: pa.Table, ids: tuple[str, ...]) -> I64:
    mixed = hash64(single(table, ids[0]))
    for name in ids[1:]:
        mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9) + hash64(
            single(table, name)
        )
    made: I64 = mixed.view(np.int64)
    return made


def _groups(table: pa.Table, rows: I64, codes: Codes, ids: tuple[str, ...]) -> I64:
    """An exact group number per row: equal entity and equal id values."""
    keys: list[NDArray[Any]] = [codes[rows]]
    part = table.select(list(ids)).take(pa.array(rows))
    keys.extend(sortable(single(part, name)) for name in ids)
    order = np.lexsort(keys[::-1])
    changed = np.zeros(len(rows), np.bool_)
    for key in keys:
        sorted_key = key[order]
        changed[1:] |= sorted_key[1:] != sorted_key[:-1]
    group = np.empty(len(rows), np.int64)
    group[order] = np.cumsum(changed)
    return group


@dataclass(frozen=True)
class _Chosen:
    """Of the rows in groups: those that stay, with their spans, and what was met."""

    rows: I64
    start: I64
    end: I64
    duplicates: int
    corrections: int
    retracted: int
    corrected: I64


@compiled(f"i8[::1]({READ}, {READ})")
def _ends(group: I64, available: I64) -> I64:
    # Backwards within an identity: a version ends when the first of those that beat it becomes known.
    end = np.full(len(group), NEVER, np.int64)
    for i in range(len(group) - 2, -1, -1):
        if group[i] == group[i + 1]:
            end[i] = min(end[i + 1], available[i + 1])
    return end


def _choose(
    table: pa.Table, rows: I64, group: I64, roles: Roles, available: I64, *, follows_question: bool
) -> _Chosen:
    """Rank each identity's versions; keep the last one, or under "as_of" all that are live at some time."""
    hashes = row_hashes(table, rows, roles)
    av = available[rows]
    # One row a content: the one of the least available_at (null, as NEVER, is the greatest).
    order = np.lexsort((rows, av, hashes[:, 1], hashes[:, 0], group))
    g, h = group[order], hashes[order]
    first = np.ones(len(rows), np.bool_)
    first[1:] = (g[1:] != g[:-1]) | (h[1:] != h[:-1]).any(axis=1)
    kept = order[first]
    duplicates = len(rows) - len(kept)
    rows, group, hashes, av = rows[kept], group[kept], hashes[kept], av[kept]

    keys: list[NDArray[np.generic]] = [hashes[:, 1], hashes[:, 0], av]
    part = pa.array(rows)
    if roles.version is not None:
        keys.append(sortable(single(table, roles.version).take(part)))
    order = np.lexsort([*keys, group])
    rows, group, av = rows[order], group[order], av[order]
    last = np.ones(len(rows), np.bool_)
    last[:-1] = group[1:] != group[:-1]
    corrections = int(len(rows) - last.sum())
    corrects = last.copy()
    corrects[1:] &= group[1:] == group[:-1]
    corrects[:1] = False
    corrected = np.sort(rows[corrects])[:NAMED]
    deleted = _deleted(table, rows, roles)
    retracted = int((deleted & last).sum())
    if not follows_question:
        stay = last & ~deleted
        none = np.empty(0, np.int64)
        return _Chosen(rows[stay], none, none, duplicates, corrections, retracted, corrected)
    end = _ends(group, av)
    stay = ~deleted & (av < end)
    return _Chosen(rows[stay], av[stay], end[stay], duplicates, corrections, retracted, corrected)


def _deleted(table: pa.Table, rows: I64, roles: Roles) -> Bools:
    if roles.deleted is None:
        return np.zeros(len(rows), np.bool_)
    flags = pc.fill_null(single(table, roles.deleted).take(pa.array(rows)), False)
    made: Bools = flags.to_numpy(zero_copy_only=False)
    return made


def _break_ties(
    table: pa.Table, offsets: I64, order: I64, in_order: I64, roles: Roles, threads: ThreadPoolExecutor | None
) -> None:
    """Order the facts of one entity and event_time by ``order_by`` (nulls first), id, content hash; in
    place."""
    tied = ties(offsets, in_order, threads=threads)
    if not tied.any():
        return
    places = np.flatnonzero(tied)
    rows = order[places]
    names = list(dict.fromkeys(name for name in (roles.order_by, *roles.id) if name is not None))
    part = table.select(names).take(pa.array(rows)) if names else None
    entity = np.searchsorted(offsets, places, side="right")
    keys: list[NDArray[np.generic]] = [sortable(single(part, name)) for name in names] if part else []
    hashes = row_hashes(table, rows, roles)
    by = np.lexsort([hashes[:, 1], hashes[:, 0], *keys[::-1], in_order[places], entity])
    order[places] = rows[by]


def timeline(
    table: pa.Table,
    codes: Codes,
    entities: int,
    roles: Roles,
    known_at: KnownAt,
    *,
    threads: ThreadPoolExecutor | None = None,
) -> tuple[Timeline, Counts]:
    """The timelines of a versions table as known at ``known_at``.

    ``table`` holds the declared columns; ``codes`` int64[rows] numbers each row's entity, 0 to entities - 1,
    or less than 0 for a row of no entity. First what ``known_at`` knows is kept (``available_at`` strictly
    before it), then each identity's version is chosen, then facts are put in timeline order (semantics,
    sections 2 and 3).
    """
    event_time = instants(single(table, roles.event_time), null=NEVER)
    if roles.available_at is not None:
        available = instants(single(table, roles.available_at), null=NEVER)
    else:
        available = event_time
    follows = known_at == "as_of"
    keep = codes >= 0
    unavailable = 0
    if roles.available_at is not None:
        unavailable = int(((available == NEVER) & keep).sum())
    if isinstance(known_at, int):
        keep = keep & (available < known_at)
    elif follows:
        keep = keep & (available != NEVER)
    if not keep.all():
        codes = np.where(keep, codes, -1)
    offsets, order = grouped(codes, entities)
    known = len(order)

    single_row = None
    chosen: _Chosen | None = None
    if roles.id:
        identity = _identity_hash(table, roles.id)
        several = repeated(offsets, order, identity, threads=threads)
        if several.any():
            rows = np.flatnonzero(several)
            single_row = ~several
            group = _groups(table, rows, codes, roles.id)
            chosen = _choose(table, rows, group, roles, available, follows_question=follows)

    alone = codes >= 0 if single_row is None else single_row & (codes >= 0)
    gone_alone = 0
    if roles.deleted is not None:
        gone = _deleted(table, np.arange(len(codes)), roles) & alone
        alone = alone & ~gone
        gone_alone = int(gone.sum())
    start = end = None
    stays = alone
    if follows and bool((available > event_time)[alone].any()):
        start = available
    if chosen is not None:
        stays = alone.copy()
        stays[chosen.rows] = True
        if follows:
            start = available.copy()
            start[chosen.rows] = chosen.start
            end = np.full(len(codes), NEVER, np.int64)
            end[chosen.rows] = chosen.end
    if chosen is None:
        counts = Counts(known, 0, 0, gone_alone, unavailable, np.empty(0, np.int64))
    else:
        retracted = gone_alone + chosen.retracted
        counts = Counts(
            known, chosen.duplicates, chosen.corrections, retracted, unavailable, chosen.corrected
        )
    # Where nothing is retracted and nothing has versions, everything known stays.
    if roles.deleted is not None or chosen is not None:
        # A retraction may lack its event_time; nothing else that stays does.
        stays = stays & (event_time != NEVER)
        offsets, order = grouped(np.where(stays, codes, -1), entities)
    in_order = sort_blocks(offsets, order, event_time, threads=threads)
    if roles.content:
        _break_ties(table, offsets, order, in_order, roles, threads)
    return (
        Timeline(
            offsets=offsets,
            row=order,
            event_time=in_order,
            start=None if start is None else start[order],
            end=None if end is None else end[order],
        ),
        counts,
    )


def columns_in_order(table: pa.Table, row: I64, names: frozenset[str]) -> Mapping[str, pa.Array]:
    """Some columns of a versions table, each as one array in timeline order."""
    index = pa.array(row)
    return {name: single(table, name).take(index) for name in names}
