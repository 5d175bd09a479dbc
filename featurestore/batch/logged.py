"""What a server has answered, as its request log has it, ready to be computed once more.

Time: answers are chosen by when they were given, ``answered_at`` in [since, until). A sample is taken by the
requests' ids: the same one each time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.dtypes import DType, parse
from featurestore.kernel.versions import instants, single
from featurestore.log.cast import cast_rows
from featurestore.log.request_files import SCHEMA, read_answers, request_files

I64 = NDArray[np.int64]
Bools = NDArray[np.bool_]

# Some 200 MB as columns, questions and texts.
ANSWERS_AT_ONCE = 250_000


@dataclass(frozen=True)
class Chosen:
    """Which answers of a request log are looked at; instants in microseconds."""

    directory: Path
    since: int | None = None
    until: int | None = None
    sample: int | None = None

    def total(self) -> int:
        """How many there are."""
        return sum(int(mine.sum()) for _, _, mine in self._files(["answered_at", "request_id"]))

    def batches(self) -> Iterator[pa.Table]:
        """The answers, at most about ``ANSWERS_AT_ONCE`` at a time, oldest file first."""
        parts: list[pa.Table] = []
        rows = 0
        for _, table, mine in self._files(list(SCHEMA.names)):
            for first in range(0, table.num_rows, ANSWERS_AT_ONCE):
                part = table.slice(first, ANSWERS_AT_ONCE)
                part = part.filter(pa.array(mine[first : first + ANSWERS_AT_ONCE]))
                if rows and rows + part.num_rows > ANSWERS_AT_ONCE:
                    yield pa.concat_tables(parts)
                    parts, rows = [], 0
                parts.append(part)
                rows += part.num_rows
        if rows:
            yield pa.concat_tables(parts)

    def _files(self, columns: list[str]) -> Iterator[tuple[Path, pa.Table, Bools]]:
        bound = self._bound()
        for file in request_files(self.directory):
            # Forgetting may have removed it meanwhile.
            if file.exists():
                table = read_answers(file, columns)
                yield file, table, self._in_time(table) & _below(table, bound)

    def _in_time(self, table: pa.Table) -> Bools:
        at = instants(single(table, "answered_at"), null=0)
        mine = np.ones(len(at), np.bool_)
        if self.since is not None:
            mine &= at >= self.since
        if self.until is not None:
            mine &= at < self.until
        return mine

    def _bound(self) -> int | None:
        """Of a sample, the mark of the last request in it: those with the least marks have as many answers
        as were asked for."""
        if self.sample is None:
            return None
        counts: dict[int, int] = {}
        for file in request_files(self.directory):
            table = read_answers(file, ["answered_at", "request_id"])
            marks = _marks(table.filter(pa.array(self._in_time(table))))
            for mark, n in zip(*np.unique(marks, return_counts=True), strict=True):
                counts[int(mark)] = counts.get(int(mark), 0) + int(n)
        total = 0
        for mark in sorted(counts):
            total += counts[mark]
            if total >= self.sample:
                return mark
        return None


def _marks(table: pa.Table) -> NDArray[np.uint64]:
    encoded = pc.dictionary_encode(single(table, "request_id"))
    marks = [
        int.from_bytes(blake2b(id.encode(), digest_size=8, person=b"verify").digest(), "big")
        for id in encoded.dictionary.to_pylist()
    ]
    made: NDArray[np.uint64] = np.array(marks, np.uint64)[encoded.indices.to_numpy(zero_copy_only=False)]
    return made


def _below(table: pa.Table, bound: int | None) -> Bools:
    if bound is None:
        return np.ones(table.num_rows, np.bool_)
    made: Bools = _marks(table) <= np.uint64(bound)
    return made


@dataclass(frozen=True)
class ViewAnswers:
    """Answers of one version of a view: a row each of every column. ``entity`` numbers its key among
    ``keys``, distinct and in the view's types, -1 for one with a null; ``known_at`` and ``feature`` are
    numbers of ``horizons`` and ``features``."""

    answered_at: I64
    commit: I64
    as_of: I64
    entity: I64
    known_at: I64
    feature: I64
    keys: list[pa.Array]
    key_texts: list[str]
    key: I64
    horizons: list[str | None]
    features: list[str]
    table: pa.Table

    def __len__(self) -> int:
        return len(self.commit)


def view_answers(table: pa.Table, names: tuple[str, ...], dtypes: tuple[DType, ...]) -> ViewAnswers:
    """The answers of one view's version, whose entity has the key columns ``names``."""
    encoded = pc.dictionary_encode(single(table, "keys"))
    texts: list[str] = encoded.dictionary.to_pylist()
    rows = [json.loads(text) for text in texts]
    whole = np.array([all(row.get(name) is not None for name in names) for row in rows], np.bool_)
    types = dict(zip(names, dtypes, strict=True))
    there = [{name: rows[i][name] for name in names} for i in np.flatnonzero(whole).tolist()]
    cast = cast_rows(there, types, timezone="UTC", time_unit=None)
    keys = [cast.table.column(name).combine_chunks() for name in names]
    number = np.where(whole, np.cumsum(whole) - 1, -1)
    key = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    known = pc.dictionary_encode(single(table, "known_at"), null_encoding="encode")
    features = pc.dictionary_encode(single(table, "feature"))
    return ViewAnswers(
        answered_at=instants(single(table, "answered_at"), null=0),
        commit=single(table, "store_commit").to_numpy(zero_copy_only=False),
        as_of=instants(single(table, "as_of"), null=0),
        entity=number[key],
        known_at=known.indices.to_numpy(zero_copy_only=False).astype(np.int64),
        feature=features.indices.to_numpy(zero_copy_only=False).astype(np.int64),
        keys=keys,
        key_texts=texts,
        key=key,
        horizons=known.dictionary.to_pylist(),
        features=features.dictionary.to_pylist(),
        table=table,
    )


def is_of_types(table: pa.Table, names: tuple[str, ...], dtypes: tuple[DType, ...]) -> Bools:
    """Which answers were asked by keys of these columns and types; bool[rows]."""
    encoded = pc.dictionary_encode(single(table, "key_types"))
    wanted = dict(zip(names, dtypes, strict=True))
    same = [
        {name: parse(text) for name, text in json.loads(one).items()} == wanted
        for one in encoded.dictionary.to_pylist()
    ]
    made: Bools = np.array(same, np.bool_)[encoded.indices.to_numpy(zero_copy_only=False)]
    return made
