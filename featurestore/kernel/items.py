"""Items: what an operation takes of each fact. None, one, or with a list the elements one by one.

Two features with the same input, ``where`` and order expression share their items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.kernel.blocks import I64, gathered
from featurestore.kernel.expression import Column, Node
from featurestore.kernel.expression import columns as columns_of
from featurestore.kernel.expression_eval import evaluate_bound
from featurestore.kernel.feature import Feature
from featurestore.kernel.versions import Timeline, single

Columns = Mapping[str, pa.Array]


@dataclass(frozen=True)
class ItemsKey:
    """What makes two features' items the same."""

    input: Node | None
    where: Node | None
    order: Node | None
    explode: bool

    @classmethod
    def of(cls, feature: Feature) -> ItemsKey:
        return cls(feature.input, feature.where, feature.order, feature.explode)


class Values:
    """The values of items, without nulls, fetched from the log's order only when and where they are asked
    for.

    ``rows`` is int64[items], each item's place in ``column``; None: the column is in the items' order.
    """

    def __init__(self, column: pa.Array, rows: I64 | None, threads: ThreadPoolExecutor | None = None) -> None:
        self._column = column
        self._rows = rows
        self._threads = threads
        self.dtype: pa.DataType = column.type

    @cached_property
    def array(self) -> pa.Array:
        """All values, in the items' order."""
        column = self._column
        if self._rows is None:
            return column
        if not pa.types.is_primitive(column.type) or column.type.bit_width != 64:
            return column.take(pa.array(self._rows))
        # The rows have no nulls, whatever the column has elsewhere.
        words = np.frombuffer(column.buffers()[1] or b"", np.int64)[column.offset :]
        made = gathered(words, self._rows, threads=self._threads)
        return pa.Array.from_buffers(column.type, len(made), [None, pa.py_buffer(made)])

    def of(self, items: I64) -> Values:
        """The values of some of the items, as items of their own."""
        rows = items if self._rows is None else gathered(self._rows, items, threads=self._threads)
        return Values(self._column, rows, self._threads)

    def at(self, item: I64) -> pa.Array:
        """The values of some items; null for -1."""
        missing = item < 0
        column, place = self._column, item
        if "array" in self.__dict__:
            column = self.array
        elif self._rows is not None:
            place = self._rows[item] if len(self._rows) else item
        return column.take(pa.array(place, mask=missing if missing.any() else None))


@dataclass(frozen=True)
class Items:
    """Items in timeline order.

    ``first`` is int64[facts + 1], the first item of each fact, or None when each fact is one item; ``fact``
    is int64[items], each item's fact (None likewise). ``values`` and ``order`` are the inputs and order
    values, without nulls; None where the feature has none. ``flagged``: overflows and casts that gave null
    while computing them.
    """

    count: int
    first: I64 | None
    fact: I64 | None
    values: Values | None
    order: Values | None
    flagged: int

    def fact_of(self, item: I64) -> I64:
        """The fact of each item; -1 stays -1."""
        if self.fact is None:
            return item
        if not len(self.fact):
            return np.full(len(item), -1)
        return np.where(item < 0, -1, self.fact[item])


def items(
    key: ItemsKey,
    table: pa.Table,
    timeline: Timeline,
    columns: Callable[[frozenset[str]], Columns],
    threads: ThreadPoolExecutor | None = None,
) -> Items:
    """Evaluate a key's expressions over facts in timeline order and keep what counts.

    ``columns`` gives columns of ``table`` in timeline order, for expressions; a bare column stays where it
    is.
    """
    keep = None
    flagged = 0
    parts: dict[str, Values] = {}
    for name, node in (("where", key.where), ("input", key.input), ("order", key.order)):
        if node is None:
            continue
        if isinstance(node, Column) and name != "where":
            # What was cast from a log is canonical already.
            array = single(table, node.name)
            parts[name] = Values(array, timeline.row, threads)
            mask = array.is_valid().to_numpy(zero_copy_only=False)[timeline.row] if array.null_count else None
        else:
            evaluated = evaluate_bound(node, columns(columns_of(node)), timeline.facts)
            flagged += evaluated.flagged
            array = evaluated.array
            parts[name] = Values(array, None, threads)
            if name == "where":
                mask = pc.fill_null(array, False).to_numpy(zero_copy_only=False)
            else:
                mask = array.is_valid().to_numpy(zero_copy_only=False) if array.null_count else None
        if mask is not None:
            keep = mask if keep is None else keep & mask
    first = fact = None
    if keep is not None and not keep.all():
        fact = np.flatnonzero(keep)
        first = np.zeros(timeline.facts + 1, np.int64)
        np.cumsum(keep, out=first[1:])
        parts = {name: values.of(fact) for name, values in parts.items()}
    if key.explode:
        return _exploded(parts["input"].array, timeline.facts, first, fact, flagged)
    count = timeline.facts if fact is None else len(fact)
    return Items(count, first, fact, parts.get("input"), parts.get("order"), flagged)


def _exploded(lists: pa.Array, facts: int, first: I64 | None, fact: I64 | None, flagged: int) -> Items:
    elements = lists.flatten()
    parent = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False).astype(np.int64)
    if elements.null_count:
        valid = elements.is_valid()
        parent = parent[valid.to_numpy(zero_copy_only=False)]
        elements = elements.drop_null()
    owner = parent if fact is None else fact[parent]
    counts = np.bincount(owner, minlength=facts) if facts else np.zeros(0, np.int64)
    first = np.zeros(facts + 1, np.int64)
    np.cumsum(counts, out=first[1:])
    return Items(len(elements), first, owner, Values(elements, None), None, flagged)
