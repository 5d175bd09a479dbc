"""A feature store that answers to the microsecond, the same offline and online, bit for bit.

What an author writes is here (``Entity``, ``EventSource``, ``agg``, ``FeatureView``, ...), and
``FeatureStore``, which does the work. Heavy libraries are imported when something needs them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

# Batch work fills few arrays of tens of megabytes once each. Arrow's default pool gives such pages back and
# faults them in again: a training set over 10M rows took 1.72 s with it, 1.42 s with the system's allocator,
# a latest-value join 3.6 s and 1.5 s (medians, interleaved runs on two cores, 2026-11-20). Arrow reads this
# when it is first imported.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")

from featurestore.dsl.aggregation import agg
from featurestore.dsl.entity import Entity
from featurestore.dsl.feature_view import FeatureService, FeatureView
from featurestore.dsl.log import CSV, DuckDBTable, JSONLines, Parquet
from featurestore.dsl.source import EventSource, KafkaTopic
from featurestore.dsl.table_source import TableSource
from featurestore.errors import FeatureStoreError

if TYPE_CHECKING:
    from featurestore.feature_store import FeatureStore

__all__ = [
    "CSV",
    "DuckDBTable",
    "Entity",
    "EventSource",
    "FeatureService",
    "FeatureStore",
    "FeatureStoreError",
    "FeatureView",
    "JSONLines",
    "KafkaTopic",
    "Parquet",
    "TableSource",
    "agg",
]


def __getattr__(name: str) -> object:
    if name == "FeatureStore":
        from featurestore.feature_store import FeatureStore

        return FeatureStore
    raise AttributeError(f"module featurestore has no attribute {name!r}")
