"""The facts that a training set reads: a source's declared log and its arrivals, as one versions table.

All versions are read, whatever ``known_at``: what it knows is chosen by the kernel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.batch.filled import SHOWN
from featurestore.batch.keys import KeyIndex, key_index
from featurestore.batch.logs import Logs
from featurestore.batch.parts import Rejected
from featurestore.dsl.log import CSV, JSONLines
from featurestore.dsl.table_source import TableSource
from featurestore.dtypes import BOOL, INT64, DType
from featurestore.kernel.changes import CLAIM_COLUMN
from featurestore.kernel.feature import Feature
from featurestore.kernel.roles import ChangeRoles, Roles
from featurestore.kernel.versions import HASH_COLUMN
from featurestore.log.archive import archived
from featurestore.log.cast import cast_table
from featurestore.log.change_columns import not_of_the_row
from featurestore.log.changes import Changes, read_changes
from featurestore.log.envelopes import KEY, PARTS
from featurestore.log.files import LogFile
from featurestore.log.origins import Origins
from featurestore.log.scan import scan
from featurestore.log.schema import raw_schema
from featurestore.log.versions import Versions, event_versions
from featurestore.plan.compile import OPERATION
from featurestore.plan.nodes import SourcePlan, ViewPlan
from featurestore.store.arrivals import arrived_versions
from featurestore.store.forgotten import Gone, hash_column, kept

# Operations whose value depends on the order of facts of one event time.
ORDER_SENSITIVE = frozenset({"first", "last", "first_k", "last_k", "min_by", "max_by", "distinct_k"})


@dataclass(frozen=True)
class Facts:
    """The versions of one source that belong to an entity.

    ``codes`` int32 or int64[rows] numbers each row's entity in ``index``; ``roles`` are those that the kernel
    needs here; ``rejected``, ``keyless`` and ``forgotten`` rows are left out (a forgotten change of a table
    only ends the one before it), ``reasons`` counts the first, ``shown`` names some of them. ``origins`` says
    where each row came from.
    """

    table: pa.Table
    codes: NDArray[np.int32] | NDArray[np.int64]
    index: KeyIndex
    roles: Roles | ChangeRoles
    rejected: int
    keyless: int
    reasons: Mapping[str, int]
    shown: Sequence[Rejected] = ()
    origins: Origins = field(default_factory=Origins)
    forgotten: int = 0


class Reader:
    """Reads facts for training sets from ``logs``."""

    def __init__(self, logs: Logs) -> None:
        self.logs = logs
        self._root = logs.root
        self.forgotten = self._left_out = logs.forgotten()

    def ask(self, views: Iterable[ViewPlan]) -> None:
        """Leave out what is forgotten as it will be when these views are applied."""
        self._left_out = self.forgotten.joined(views)

    def facts(
        self,
        view: ViewPlan,
        features: Sequence[Feature],
        used: frozenset[str] | None = None,
        *,
        of: KeyIndex | None = None,
    ) -> Facts:
        """All versions that ``features`` of ``view``'s source and entity may need. ``used``: the columns
        of the source that they read; None where all are ``view``'s. ``of``: only the events of these
        entities (of a table all changes), but all columns, so that each version can be told by its
        content."""
        source = archived(view.source, self._root)
        gone = self._left_out.of(source.name, () if source.changes is None else source.identity)
        roles, wanted = _needed(view, features, view.columns_for(features) if used is None else used)
        if of is not None:
            roles, wanted = view.source.roles, frozenset(source.schema)
        # Whose a row is decides whether it counts, whether or not a feature reads it.
        wanted |= frozenset() if gone is None else gone.columns & set(source.schema)
        schema = {name: dtype for name, dtype in source.columns if name in wanted}
        parts: list[pa.Table] = []
        reasons: Counter[str] = Counter()
        shown: list[Rejected] = []
        origins = Origins()
        keyless = 0
        files = self.logs.files(source)
        checked = wanted | _doubtful(source, files, self._root)
        read = {name: dtype for name, dtype in source.columns if name in checked}
        with ThreadPoolExecutor(1) as aside:
            made: Iterator[Changes | Versions]
            if source.changes is not None:
                made = read_changes(source.changes.declared, view.entity.keys, schema, self._root, files)
            else:
                made = self._versions(source, view, read, files)
            for part in made:
                if isinstance(part, Changes):
                    parts.append(part.with_claims())
                    origins.add_changes(part, source.name)
                else:
                    parts.append(_of_entities(part, view.entity.keys, of, origins).select(list(schema)))
                reasons.update(part.reasons)
                _name(shown, part, source.name)
                keyless += part.keyless
            if source.changes is not None:
                schema = {**schema, OPERATION: INT64, CLAIM_COLUMN: BOOL}
            arrivals = self.logs.arrivals(source.name)
            for arrival in arrivals:
                pushed = arrived_versions(arrival.payload, schema, hashes=True)
                # A change without a key still ends the one before it.
                left = _with_key(pushed, view.entity.keys) if source.changes is None else pushed
                keyless += pushed.num_rows - left.num_rows
                if of is not None and source.changes is None:
                    left = left.filter(pa.array(_is_of(left, view.entity.keys, of)))
                parts.append(left)
                origins.add_push(arrival.first_number, arrival.rows, left.num_rows)
            whole = pa.concat_tables(parts, promote_options="default") if parts else _nothing(schema)
            whole, forgotten = self._without_forgotten(whole, view, gone, origins)
            # Keys are numbered on the other core while the rest is brought together.
            numbered = aside.submit(key_index, [whole.column(key) for key in view.entity.keys])
            columns = [
                whole.column(name) if name in view.entity.keys else _single(whole, name)
                for name in whole.column_names
            ]
            table = pa.Table.from_arrays(columns, schema=whole.schema)
            index, codes = numbered.result()
        self.logs.identify(source, _columns_of_log(source, read), arrivals)
        return Facts(
            table, codes, index, roles, sum(reasons.values()), keyless, dict(reasons), shown, origins,
            forgotten,
        )  # fmt: skip

    def _without_forgotten(
        self, whole: pa.Table, view: ViewPlan, gone: Gone | None, origins: Origins
    ) -> tuple[pa.Table, int]:
        """The versions of all entities that are not forgotten, and how many were of others. Hashes that the
        contents don't have any more stand in a column of their own, where the kernel looks for them."""
        source = view.source
        is_table = source.changes is not None
        if gone is None and HASH_COLUMN not in whole.column_names:
            return whole, 0
        left = kept(whole, gone, source.roles.content, is_table=is_table)
        table = left.table
        origins.keep(left.rows)
        if left.hashes is not None:
            table = table.append_column(HASH_COLUMN, hash_column(left.hashes))
        return table, left.forgotten

    def _versions(
        self, source: SourcePlan, view: ViewPlan, schema: Mapping[str, DType], files: Sequence[LogFile]
    ) -> Iterator[Versions]:
        if source.log is None:
            return
        for batch in scan(source.log, self._root, list(schema), files):
            cast = cast_table(batch.table, schema, timezone=source.timezone, time_unit=source.time_unit)
            yield event_versions(cast, source, view.entity.keys, file=batch.file, first_row=batch.first_row)


def _columns_of_log(source: SourcePlan, read: Iterable[str]) -> list[str]:
    """The columns that are read of a source's log, some of which it may lack: an event's, or a table's row
    and what says of a change what it does."""
    if source.changes is None:
        return list(read)
    declared = source.changes.declared
    return list(dict.fromkeys([*source.schema, *not_of_the_row(declared), *_envelope(declared)]))


def _envelope(declared: TableSource) -> tuple[str, ...]:
    return (KEY, *PARTS) if declared.format == "debezium" else ()


def _name(shown: list[Rejected], part: Changes | Versions, source: str) -> None:
    """Add the first rows that were left out to those that are named."""
    path = source if part.file is None else part.file.shown
    shown += [Rejected(path, row + 1, why) for row, why in part.rejected[: SHOWN - len(shown)]]


def _of_entities(part: Versions, keys: Sequence[str], of: KeyIndex | None, origins: Origins) -> pa.Table:
    """The versions of some entities, or all, with where they came from."""
    table, rows = part.table, part.rows
    if of is not None:
        mine = _is_of(table, keys, of)
        table = table.filter(pa.array(mine))
        rows = np.flatnonzero(mine) + part.first_row if rows is None else rows[mine]
    path = "" if part.file is None else part.file.shown
    origins.add(path, table.num_rows, part.first_row, rows)
    return table


def _is_of(table: pa.Table, keys: Sequence[str], of: KeyIndex) -> NDArray[np.bool_]:
    made: NDArray[np.bool_] = of.find([_single(table, name) for name in keys]) >= 0
    return made


def _with_key(table: pa.Table, keys: Sequence[str]) -> pa.Table:
    """Pushed rows without those with a null key (those of the log are left out already)."""
    if not any(table.column(key).null_count for key in keys):
        return table
    return table.filter(np.logical_and.reduce([table.column(key).is_valid().to_numpy() for key in keys]))


def _needed(
    view: ViewPlan, features: Sequence[Feature], used: frozenset[str]
) -> tuple[Roles | ChangeRoles, frozenset[str]]:
    """The columns to read, and the roles that matter for these features.

    Without ``id`` every row counts; when no operation depends on the order of ties either, the content that
    would break them is not read.
    """
    roles = view.source.roles
    if (
        isinstance(roles, ChangeRoles)
        or roles.id
        or any(feature.op in ORDER_SENSITIVE for feature in features)
    ):
        return roles, frozenset(view.source.schema)
    structural = (roles.event_time, roles.available_at, roles.deleted)
    named = frozenset(name for name in structural if name is not None)
    return replace(roles, version=None, order_by=None, content=()), used | named | frozenset(view.entity.keys)


def _doubtful(source: SourcePlan, files: Sequence[LogFile], root: Path) -> frozenset[str]:
    """The declared columns of the log that may hold a value their type can't.

    Such a row is rejected whether or not a feature reads the column: what a training set reads never depends
    on which features are asked for, and is what a backfill loads.
    """
    if source.log is None:
        return frozenset()
    if isinstance(source.log, CSV | JSONLines):
        return frozenset(source.schema)
    # File by file: what the types of all files have in common may hide one that doesn't fit.
    raw = [raw_schema(source.log, root, files=[file]) for file in files]
    return frozenset(
        name
        for name, dtype in source.columns
        if not all(_always_fits(one[name], dtype) for one in raw if name in one)
    )


def _always_fits(arrow: pa.DataType, dtype: DType) -> bool:
    """Whether every value of a log's type is one of ``dtype``. Text may be damaged, so it is looked at."""
    t = pa.types
    match dtype.kind:
        case "int64":
            return bool(t.is_integer(arrow)) and not t.is_uint64(arrow)
        case "float64":
            return bool(t.is_integer(arrow) or t.is_floating(arrow))
        case "bool" | "date" | "decimal":
            return bool(arrow == dtype.arrow)
        case "timestamp":
            return bool(t.is_timestamp(arrow)) and arrow.unit in ("us", "ns") and arrow.tz is not None
    return False


def _nothing(schema: Mapping[str, DType]) -> pa.Table:
    return pa.table({name: pa.array([], dtype.arrow) for name, dtype in schema.items()})


def _single(table: pa.Table, name: str) -> pa.Array:
    column = table.column(name)
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
