"""Items: what an operation takes of each fact. None, one, or with a list the elements one by one.

Two features with the same input, ``where`` and order expression share their items.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.kernel.blocks import I64
from featurestore.kernel.expression import Column, Node, columns
from featurestore.kernel.expression_eval import evaluate_bound
from featurestore.kernel.feature import Feature


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

    def columns(self) -> frozenset[str]:
        nodes = [node for node in (self.input, self.where, self.order) if node is not None]
        return frozenset().union(*(columns(node) for node in nodes))


@dataclass(frozen=True)
class Items:
    """Items in timeline order.

    ``first`` is int64[facts + 1], the first item of each fact, or None when each fact is one item; ``fact`` is
    int64[items], each item's fact (None likewise). ``values`` and ``order`` are the inputs and order values, without
    nulls; None where the feature has none. ``flagged``: overflows and casts that gave null while computing them.
    """

    count: int
    first: I64 | None
    fact: I64 | None
    values: pa.Array | None
    order: pa.Array | None
    flagged: int

    def fact_of(self, item: I64) -> I64:
        """The fact of each item; -1 stays -1."""
        if self.fact is None:
            return item
        if not len(self.fact):
            return np.full(len(item), -1)
        return np.where(item < 0, -1, self.fact[item])


def items(key: ItemsKey, table: Mapping[str, pa.Array], facts: int) -> Items:
    """Evaluate a key's expressions over facts in timeline order and keep what counts."""
    keep = None
    flagged = 0
    parts: dict[str, pa.Array] = {}
    for name, node in (("where", key.where), ("input", key.input), ("order", key.order)):
        if node is None:
            continue
        if isinstance(node, Column):
            # What was cast from a log is canonical already.
            array = table[node.name]
        else:
            evaluated = evaluate_bound(node, table, facts)
            flagged += evaluated.flagged
            array = evaluated.array
        if name == "where":
            mask = pc.fill_null(array, False).to_numpy(zero_copy_only=False)
        elif array.null_count:
            mask = array.is_valid().to_numpy(zero_copy_only=False)
        else:
            mask = None
        if mask is not None:
            keep = mask if keep is None else keep & mask
        if name != "where":
            parts[name] = array
    first = fact = None
    if keep is not None and not keep.all():
        fact = np.flatnonzero(keep)
        first = np.zeros(facts + 1, np.int64)
        np.cumsum(keep, out=first[1:])
        index = pa.array(fact)
        parts = {name: array.take(index) for name, array in parts.items()}
    if key.explode:
        return _exploded(parts["input"], facts, first, fact, flagged)
    count = facts if fact is None else len(fact)
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
    return Items(len(elements), first, owner, elements, None, flagged)
