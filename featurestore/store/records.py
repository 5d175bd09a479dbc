"""What the store's rows are once they are read: frozen, named like their tables.

Instants are int64 microseconds UTC; a commit number says when in the store's own order something was written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

DELTA_LEVEL = -1
SEGMENT_LEVEL = 0

# What became of each delivered row, per source and partition (law 6).
COUNTER_KINDS = (
    "delivered", "accepted", "corrected", "duplicate", "keyless", "rejected", "ignored", "late",
    "dead_lettered", "forgotten", "skipped",
)  # fmt: skip

TimelineState = Literal["filling", "current", "retired"]
ViewState = Literal["filling", "current", "pinned", "dropped"]
ForgottenState = Literal["erasing", "done"]
Roles = Mapping[str, "str | Sequence[str] | None"]


class SegmentRow(NamedTuple):
    """Versions of one entity: ``versions`` of them in the payload, ``start`` their least event_time."""

    entity_key: bytes
    level: int
    start: int
    versions: int
    payload: bytes


class StoredRow(NamedTuple):
    """A segment or delta with all that names it in its timeline version."""

    entity_key: bytes
    level: int
    start: int
    commit_number: int
    versions: int
    payload: bytes


class Truncate(NamedTuple):
    """A truncate of a table: it ends every change at a position not after its own. ``available_at`` None for
    null, and where the source declares none."""

    position: tuple[int, ...]
    changed_at: int
    available_at: int | None


class Arrival(NamedTuple):
    """One push: rows numbered ``[first_number, first_number + rows)``."""

    first_number: int
    rows: int
    arrived_at_us: int
    payload: bytes


class CounterKey(NamedTuple):
    source: str
    partition: str
    kind: str


class Progress(NamedTuple):
    """How far one part of a backfill has come: ``done`` of ``total`` entities, in key order."""

    done: int
    total: int


class Sizes(NamedTuple):
    """What one timeline version takes: stored rows, the versions in them, and the bytes of their payloads."""

    segments: int
    versions: int
    payload_bytes: int


@dataclass(frozen=True)
class Definition:
    """What was applied last under a name, for ``plan`` to compare with."""

    kind: str
    name: str
    payload: str
    fingerprint: str
    commit_number: int = 0


@dataclass(frozen=True)
class TimelineVersion:
    """The stored columns of one (source, entity), the horizon before which no question is answered, and the
    floor: events before it may have been dropped."""

    id: int
    source: str
    entity: str
    fingerprint: str
    columns: Mapping[str, str]
    roles: Roles
    state: TimelineState
    horizon_us: int | None
    created_commit: int
    filled_commit: int | None = None
    floor_us: int | None = None


@dataclass(frozen=True)
class ViewVersion:
    """One fingerprint of a view over one timeline version; ``version`` counts 1, 2, ... within the view."""

    id: int
    view: str
    version: int
    fingerprint: str
    spec: str
    timeline_version_id: int
    state: ViewState
    created_commit: int
    switched_commit: int | None


@dataclass(frozen=True)
class ForgottenKey:
    """A key that is forgotten: its columns, sorted, and its digest. ``counts``: what has been erased so far;
    ``state``: "erasing" until nothing is left."""

    columns: tuple[str, ...]
    digest: str
    state: ForgottenState
    counts: Mapping[str, int]
    commit_number: int
    committed_at_us: int


@dataclass(frozen=True)
class LoadedFile:
    """A file of a log that a timeline version holds, with the hash that it had then."""

    path: str
    sha256: str
    size: int
    rows: int
    commit_number: int = 0
