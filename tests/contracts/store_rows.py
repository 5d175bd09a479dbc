"""Timelines and rows for the tests of what every store promises."""

from __future__ import annotations

from featurestore.store import (
    DELTA_LEVEL,
    SEGMENT_LEVEL,
    SegmentRow,
    Store,
)


def new_timeline(store: Store, source: str = "transactions") -> int:
    with store.commit("apply", now_us=1) as commit:
        return commit.add_timeline_version(
            source=source,
            entity="card",
            fingerprint="f",
            columns={"ts": "timestamp"},
            roles={"id": ["a", "b"]},
        )


def delta(key: bytes, payload: bytes, start: int = 0) -> SegmentRow:
    return SegmentRow(key, DELTA_LEVEL, start, 1, payload)


def segment(key: bytes, payload: bytes, start: int = 0) -> SegmentRow:
    return SegmentRow(key, SEGMENT_LEVEL, start, 1, payload)
