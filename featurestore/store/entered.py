"""What had entered a timeline version by a commit, and since when it should hold what its log has.

Time: none of the world's; commits alone say what came before what. A version entered with the commit of the
row that was written for it; a row that others were folded into says it version by version.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sqlalchemy import select

from featurestore.store.changes import ChangeLayout, is_table
from featurestore.store.delivery import Layout
from featurestore.store.payload import PayloadReader, entry_commits
from featurestore.store.positions import Position, read_positions
from featurestore.store.records import LoadedFile, TimelineVersion, Truncate
from featurestore.store.snapshot import Snapshot
from featurestore.store.tables import arrivals, truncates

I64 = NDArray[np.int64]

NEVER = np.iinfo(np.int64).max
"""The commit of what has not happened."""

# Keys of one statement: fewer than the parameters that SQLite takes.
_KEYS = 1_000


@dataclass(frozen=True)
class Entered:
    """All versions, or changes, that a timeline version holds of some entities: ``table`` has its stored
    columns, ``owner`` int64[rows] numbers each one's entity as they were asked for, ``commit`` int64[rows] is
    the one that it entered with. ``truncates`` are those of the whole table, each with its commit."""

    table: pa.Table
    owner: I64
    commit: I64
    truncates: Sequence[tuple[Truncate, int]] = ()


def entered(snapshot: Snapshot, timeline: TimelineVersion, keys: Sequence[bytes]) -> Entered:
    """What a timeline version holds of the entities ``keys`` (distinct, encoded), with when it entered."""
    changes = ChangeLayout.of(timeline) if is_table(timeline) else None
    reader = PayloadReader((changes or Layout.of(timeline)).stored)
    number = {key: i for i, key in enumerate(keys)}
    tables: list[pa.Table] = []
    owners: list[I64] = []
    commits: list[I64] = []
    for first in range(0, len(keys), _KEYS):
        rows = snapshot.stored_rows(timeline.id, keys[first : first + _KEYS])
        if not rows:
            continue
        table, counts = reader.read([row.payload for row in rows])
        tables.append(table)
        owners.append(np.repeat(np.array([number[row.entity_key] for row in rows], np.int64), counts))
        written = np.array([row.commit_number for row in rows], np.int64)
        commits.append(entry_commits([row.payload for row in rows], counts, written))
    whole = pa.concat_tables(tables) if tables else reader.schema.empty_table()
    return Entered(
        whole.combine_chunks(),
        np.concatenate(owners) if owners else np.empty(0, np.int64),
        np.concatenate(commits) if commits else np.empty(0, np.int64),
        [] if changes is None else _truncates(snapshot, timeline),
    )


def _truncates(snapshot: Snapshot, timeline: TimelineVersion) -> list[tuple[Truncate, int]]:
    c = truncates.c
    query = select(c.changed_at, c.available_at, c.commit_number, c.position).where(
        c.timeline_version_id == timeline.id
    )
    made = []
    for changed_at, available_at, commit, position in snapshot._rows(query):
        made.append((Truncate(tuple(json.loads(position)), changed_at, available_at), commit))
    return made


@dataclass(frozen=True)
class Taken:
    """What a timeline version has taken of its source's log: files, each push's first number with the commit
    since which its rows are there (NEVER: not yet), and positions in a topic."""

    files: Mapping[str, LoadedFile]
    pushes: Mapping[int, int]
    positions: Sequence[Position]


def taken(snapshot: Snapshot, timeline: TimelineVersion) -> Taken:
    """What of its source's log a timeline version should hold, as the store has written it down."""
    filled = NEVER if timeline.filled_commit is None else timeline.filled_commit
    query = select(arrivals.c.first_number, arrivals.c.commit_number).where(
        arrivals.c.source == timeline.source
    )
    # A push is written to the timelines that are there; one from before is brought by a backfill.
    pushes = {
        first: commit if commit > timeline.created_commit else filled
        for first, commit in snapshot._rows(query)
    }
    return Taken(snapshot.loaded_files(timeline.id), pushes, read_positions(snapshot, [timeline.id]))
