"""The store of timelines: one writer at a time, snapshots for readers, every commit numbered."""

from __future__ import annotations

from featurestore.store.commit import Commit
from featurestore.store.records import (
    COUNTER_KINDS,
    DELTA_LEVEL,
    SEGMENT_LEVEL,
    Arrival,
    CounterKey,
    Definition,
    ForgottenKey,
    LoadedFile,
    Progress,
    SegmentRow,
    Sizes,
    StoredRow,
    TimelineVersion,
    Truncate,
    ViewVersion,
)
from featurestore.store.snapshot import Snapshot
from featurestore.store.store import Store

__all__ = [
    "COUNTER_KINDS",
    "DELTA_LEVEL",
    "SEGMENT_LEVEL",
    "Arrival",
    "Commit",
    "CounterKey",
    "Definition",
    "ForgottenKey",
    "LoadedFile",
    "Progress",
    "SegmentRow",
    "Sizes",
    "Snapshot",
    "Store",
    "StoredRow",
    "TimelineVersion",
    "Truncate",
    "ViewVersion",
]
