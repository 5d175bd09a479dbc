"""Stored payloads become timelines again: the facts of the entities that a request asks about.

A timeline version's columns never change, so what reads them is made once. All versions are read; which of
them count is chosen by the kernel, as known at the request's horizon.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.dtypes import parse
from featurestore.kernel.roles import KnownAt, Roles
from featurestore.kernel.versions import HASH_COLUMN, Timeline, timeline
from featurestore.store.payload import PayloadReader
from featurestore.store.records import TimelineVersion

I64 = NDArray[np.int64]


@dataclass(frozen=True)
class EntityFacts:
    """The facts of some entities: ``table`` holds all their versions, ``timeline`` those that count."""

    table: pa.Table
    timeline: Timeline


class StoredTimeline:
    """Reads the payloads of one timeline version. They lack the entity's key columns: those are the key."""

    def __init__(self, version: TimelineVersion, keys: Sequence[str]) -> None:
        schema = {name: parse(dtype).arrow for name, dtype in version.columns.items()}
        fields = [pa.field(name, arrow) for name, arrow in schema.items() if name not in keys]
        self._reader = PayloadReader(pa.schema([*fields, pa.field(HASH_COLUMN, pa.binary(16))]))

    def facts(
        self,
        numbers: Mapping[bytes, int],
        payloads: Mapping[bytes, Sequence[bytes]],
        keys: Mapping[str, pa.Array],
        roles: Roles,
        known_at: KnownAt,
    ) -> EntityFacts:
        """The facts of ``len(numbers)`` entities. ``numbers`` numbers them by encoded key, ``payloads`` holds
        what is stored of each, ``keys`` each entity's values of those key columns that are read like any
        other."""
        order = list(payloads)
        table, counts = self._reader.read([payload for key in order for payload in payloads[key]])
        owner = np.array([numbers[key] for key in order for _ in payloads[key]], np.int64)
        codes = np.repeat(owner, counts)
        for name, values in keys.items():
            table = table.append_column(name, values.take(pa.array(codes)))
        made, _ = timeline(table, codes, len(numbers), roles, known_at)
        return EntityFacts(table, made)
