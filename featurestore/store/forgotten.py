"""Which facts are left out for good: those whose key columns hold a forgotten key.

Time: none. From the commit that forgot a key on, every host reads the log as if the key had never been in it:
an event with it is no fact at all, a change of a table's row is only the end of what stood before it. The
list holds no key, only digests under the store's own digest key; so it says of a row whether it is forgotten,
and of no key that nobody has what it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from hashlib import blake2b
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.dtypes import date_text, instant_text, parse
from featurestore.kernel.changes import CLAIM_COLUMN, DELETE, OPERATION_COLUMN, UPSERT
from featurestore.kernel.content import content_hash
from featurestore.kernel.roles import ChangeRoles, Roles
from featurestore.kernel.versions import HASH_COLUMN, instants, single
from featurestore.plan.nodes import ViewPlan
from featurestore.store.entity_key import decode_key
from featurestore.store.reach import Reach, Scope, columns_of, names_of, own_keys, read_reach
from featurestore.store.records import ForgottenKey, TimelineVersion
from featurestore.store.snapshot import Snapshot

Bools = NDArray[np.bool_]
I64 = NDArray[np.int64]
Column: TypeAlias = "pa.Array | pa.ChunkedArray"

DIGEST_KEY = "digest_key"


def digest(digest_key: bytes, columns: Sequence[str], texts: Sequence[str]) -> str:
    """32 hex digits that stand for a key: of the values' texts under sorted column names, so that neither a
    column's type nor the order in which an entity names its columns makes another key of it."""
    said = "".join(
        [f"{len(name)}:{name}{len(text)}:{text}" for name, text in sorted(zip(columns, texts, strict=True))]
    )
    return blake2b(said.encode(), digest_size=16, key=digest_key).hexdigest()


def key_texts(values: pa.Array) -> list[str]:
    """The text that stands for each value of a key column; equal values of two types have one text."""
    t = pa.types
    if t.is_timestamp(values.type):
        return [instant_text(value) for value in values.cast(pa.int64()).to_pylist()]
    if t.is_date32(values.type):
        return [date_text(value) for value in values.cast(pa.int32()).to_pylist()]
    return [_text(value) for value in values.to_pylist()]


def _text(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case Decimal():
            whole = value == value.to_integral_value()
            return format(value.quantize(Decimal(1)) if whole else value.normalize(), "f")
        case bytes():
            return value.hex()
    return str(value)


@dataclass(frozen=True)
class Gone:
    """What is forgotten of one source: digests by where a key stands. A fact with a key of ``dropping`` is
    left out; a table's change with one of ``marking`` still ends the change before it."""

    digest_key: bytes
    dropping: Mapping[Scope, frozenset[str]]
    marking: Mapping[Scope, frozenset[str]]

    @property
    def columns(self) -> frozenset[str]:
        """Every column of the source that has a part in a forgotten key."""
        return frozenset(
            column for keys in (self.dropping, self.marking) for scope in keys for column in columns_of(scope)
        )

    def parts(self) -> list[Gone]:
        """The same place by place; each has its columns for one key."""
        dropping = [
            replace(self, dropping={scope: some}, marking={}) for scope, some in self.dropping.items()
        ]
        marking = [replace(self, dropping={}, marking={scope: some}) for scope, some in self.marking.items()]
        return dropping + marking

    def dropped(self, columns: Mapping[str, Column], rows: int) -> Bools:
        """Which of ``rows`` rows are no facts; ``columns`` are theirs."""
        return self._rows(self.dropping, columns, rows)

    def marked(self, columns: Mapping[str, Column], rows: int) -> Bools:
        """Which rows of a table only end what stood before them."""
        return self._rows(self.marking, columns, rows)

    def _rows(self, keys: Mapping[Scope, frozenset[str]], columns: Mapping[str, Column], rows: int) -> Bools:
        found = np.zeros(rows, np.bool_)
        for scope, digests in keys.items():
            held = columns_of(scope)
            if all(name in columns for name in held):
                found |= self._holding(names_of(scope), digests, [columns[name] for name in held])
        return found

    def _holding(self, names: Sequence[str], digests: frozenset[str], columns: Sequence[Column]) -> Bools:
        # Only the distinct keys are digested.
        texts: list[list[str]] = []
        codes: I64 | None = None
        for column in columns:
            values, part = _numbered(column)
            if codes is None:
                codes, texts = part, [key_texts(values)]
                continue
            pair = np.where((codes < 0) | (part < 0), -1, codes * max(1, len(values)) + part)
            pairs, number = np.unique(pair, return_inverse=True)
            left, right = np.divmod(np.maximum(pairs, 0), max(1, len(values)))
            said = key_texts(values)
            texts = [[one[i] if one else "" for i in left.tolist()] for one in texts]
            texts.append([said[i] if said else "" for i in right.tolist()])
            codes = np.where(pair < 0, -1, number)
        assert codes is not None
        forgotten = np.array(
            [digest(self.digest_key, names, key) in digests for key in zip(*texts, strict=True)] + [False]
        )
        made: Bools = forgotten[codes]  # -1, a null in the key, is the last
        return made


def _numbered(column: Column) -> tuple[pa.Array, I64]:
    """The distinct values of a column, and each row's number among them, -1 for null."""
    encoded = pc.dictionary_encode(column)
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.unify_dictionaries()
        chunks = encoded.chunks
        if not chunks:
            return pa.array([], column.type), np.empty(0, np.int64)
    else:
        chunks = [encoded]
    codes = [pc.fill_null(chunk.indices, -1).to_numpy(zero_copy_only=False) for chunk in chunks]
    return chunks[0].dictionary, np.concatenate(codes).astype(np.int64)


@dataclass(frozen=True)
class Forgotten:
    """The list of one state of the store. ``reach`` tells where its keys may stand; ``standing`` is the
    commit's ``forgetting``."""

    keys: tuple[ForgottenKey, ...] = ()
    reach: Reach = field(default_factory=Reach)
    digest_key: bytes = b""
    standing: tuple[int, int, int] = (0, 0, 0)

    def of(self, source: str, primary_key: Sequence[str] = (), *, pending: bool = False) -> Gone | None:
        """What is forgotten of a source whose rows have ``primary_key`` (events: none); None where nothing
        is. ``pending``: only what is not erased yet."""
        if not self.keys:
            return None
        dropping: dict[Scope, frozenset[str]] = {}
        marking: dict[Scope, frozenset[str]] = {}
        digests: dict[tuple[str, ...], set[str]] = {}
        for one in self.keys:
            if not (pending and one.state == "done"):
                digests.setdefault(one.columns, set()).add(one.digest)
        for scope in self.reach.scopes.get(source, ()):
            some = digests.get(names_of(scope))
            if some:
                # A row whose primary key holds the key is never anybody else's: it has nothing to end.
                is_fact = not primary_key or set(columns_of(scope)) <= set(primary_key)
                (dropping if is_fact else marking)[scope] = frozenset(some)
        if not dropping and not marking:
            return None
        return Gone(self.digest_key, dropping, marking)

    def joined(self, views: Iterable[ViewPlan]) -> Forgotten:
        """The same where views count that are not applied yet."""
        return replace(self, reach=self.reach.joined(views)) if self.keys else self

    def in_sources(self, sources: Iterable[str]) -> list[ForgottenKey]:
        """The keys that some of these sources' facts may have."""
        scopes = (scope for source in sources for scope in self.reach.scopes.get(source, ()))
        known = {names_of(scope) for scope in scopes}
        return [one for one in self.keys if one.columns in known]

    def told(self, sources: Iterable[str]) -> dict[str, object]:
        """What a manifest says: enough to tell why a reproduction differs, and no key."""
        keys = self.in_sources(sources)
        return {
            "keys": len(keys),
            "list": [
                {"columns": list(one.columns), "digest": one.digest, "store_commit": one.commit_number}
                for one in keys
            ],
        }


def read_forgotten(snapshot: Snapshot, timelines: Iterable[TimelineVersion] | None = None) -> Forgotten:
    """The list as a snapshot has it; a store that forgot nothing costs one look."""
    keys = snapshot.forgotten()
    if not keys:
        return Forgotten()
    timelines = list(snapshot.timeline_versions() if timelines is None else timelines)
    reach, newest_view = read_reach(snapshot, timelines)
    return Forgotten(
        tuple(keys),
        reach,
        bytes.fromhex(snapshot.meta()[DIGEST_KEY]),
        (
            max(one.commit_number for one in keys),
            max((one.id for one in timelines), default=0),
            newest_view,
        ),
    )


# Tables that are on their way: from a log, from a push, from the store


@dataclass(frozen=True)
class Kept:
    """What is left of some rows. ``dropped`` are gone from ``table``; ``marked`` bool[rows of table] only end
    what stood before them (None: none does). ``hashes`` are of the contents as they were; row i was row
    ``rows[i]`` (None: none is gone)."""

    table: pa.Table
    hashes: NDArray[np.uint64] | None
    dropped: int = 0
    marked: Bools | None = None
    rows: I64 | None = None

    @property
    def forgotten(self) -> int:
        return self.dropped + (0 if self.marked is None else int(self.marked.sum()))


def kept(table: pa.Table, gone: Gone | None, content: Sequence[str], *, is_table: bool) -> Kept:
    """Versions or changes without what is forgotten; the content hashes of changes that are marked, and of
    those that an arrival holds without their content, are what they were before.

    ``hashes`` is None where nothing but the content itself decides them.
    """
    hashes = None
    if HASH_COLUMN in table.column_names:
        table, hashes = with_known_hashes(table, content)
    if gone is None:
        return Kept(table, hashes)
    columns = dict(zip(table.column_names, table.columns, strict=True))
    drop = gone.dropped(columns, table.num_rows)
    marked = None
    if is_table:
        upsert = instants(single(table, OPERATION_COLUMN), null=UPSERT) == UPSERT
        marked = gone.marked(columns, table.num_rows) & upsert
        if marked.any():
            hashes = content_hash(table, content) if hashes is None else hashes
            table = with_ends(table, marked)
    rows = None
    if drop.any():
        stays = ~drop
        rows = np.flatnonzero(stays)
        table = table.filter(pa.array(stays))
        hashes = None if hashes is None else hashes[stays]
        marked = None if marked is None else marked[stays]
    return Kept(table, hashes, int(drop.sum()), marked, rows)


def with_ends(table: pa.Table, ends: Bools) -> pa.Table:
    """A changes table where some changes only end what stood before them."""
    at = table.schema.get_field_index(OPERATION_COLUMN)
    operation = np.where(ends, DELETE, instants(single(table, OPERATION_COLUMN), null=UPSERT))
    return table.set_column(at, OPERATION_COLUMN, pa.array(operation))


def with_known_hashes(table: pa.Table, content: Sequence[str]) -> tuple[pa.Table, NDArray[np.uint64]]:
    """A table without its column of hashes, and each row's hash: the stored one, or that of its content."""
    stored = single(table, HASH_COLUMN)
    table = table.drop_columns([HASH_COLUMN])
    hashes = content_hash(table, content)
    known = np.flatnonzero(stored.is_valid().to_numpy(zero_copy_only=False))
    if len(known):
        raw = b"".join(stored.take(pa.array(known)).to_pylist())
        hashes[known] = np.frombuffer(raw, np.uint64).reshape(-1, 2)
    return table, hashes


def hash_column(hashes: NDArray[np.uint64], only: Bools | None = None) -> pa.Array:
    """Hashes as a column of 16 bytes a row; null elsewhere than in ``only``."""
    data = pa.py_buffer(np.ascontiguousarray(hashes))
    made = pa.Array.from_buffers(pa.binary(16), len(hashes), [None, data])
    return made if only is None else pc.if_else(pa.array(only), made, pa.scalar(None, made.type))


def identifying(roles: Roles | ChangeRoles) -> frozenset[str]:
    """The columns that a change keeps when its content is erased: those of a marker."""
    assert isinstance(roles, ChangeRoles)
    named = (*roles.primary_key, roles.changed_at, *roles.position, roles.available_at)
    return frozenset(name for name in named if name is not None)


def without_content(
    table: pa.Table, hashes: NDArray[np.uint64], erased: Bools, identifying: Iterable[str]
) -> pa.Table:
    """A changes table, as arrivals keep it, where some changes have nothing left but what names their row,
    its position and times, and their hash."""
    if not erased.any():
        return table
    stays = {*identifying, OPERATION_COLUMN, CLAIM_COLUMN}
    index = pa.array(np.arange(table.num_rows), mask=erased)
    upsert = instants(single(table, OPERATION_COLUMN), null=UPSERT) == UPSERT
    table = with_ends(table, erased & upsert)
    columns = {
        name: single(table, name) if name in stays else single(table, name).take(index)
        for name in table.column_names
        if name != HASH_COLUMN
    }
    known = erased
    if HASH_COLUMN in table.column_names:
        known = erased | single(table, HASH_COLUMN).is_valid().to_numpy(zero_copy_only=False)
    return pa.table({**columns, HASH_COLUMN: hash_column(hashes, known)})


def key_columns(
    timeline: TimelineVersion, names: Iterable[str], keys: Sequence[bytes], owner: I64, table: pa.Table
) -> dict[str, Column]:
    """Columns of stored versions: as they are stored, or out of the keys of their entities. ``owner``
    int64[rows] numbers each one's entity in ``keys``."""
    own = own_keys(timeline)
    made: dict[str, Column] = {}
    for name in names:
        if name in table.column_names:
            made[name] = table.column(name)
        elif name in own:
            made[name] = entity_column(timeline, keys, name).take(pa.array(owner))
    return made


def entity_column(timeline: TimelineVersion, keys: Sequence[bytes], name: str) -> pa.Array:
    """One key column of some entities; null for the empty key, which is nobody's."""
    own = own_keys(timeline)
    dtypes = [parse(timeline.columns[one]) for one in own]
    at = own.index(name)
    arrow = dtypes[at].arrow
    values = [decode_key(key, dtypes)[at] if key else None for key in keys]
    if pa.types.is_timestamp(arrow):
        return pa.array(values, pa.int64()).cast(arrow)
    if pa.types.is_date32(arrow):
        return pa.array(values, pa.int32()).cast(arrow)
    return pa.array(values, arrow)
