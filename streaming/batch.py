"""From messages of some partitions to the batch that the store takes in one commit.

Time: a batch's latest event time is for metrics; it decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.kernel.roles import Roles
from featurestore.log.archive import write_archive
from featurestore.plan.nodes import SourcePlan
from featurestore.store import Store
from featurestore.store.dead_letters import DeadLetter
from featurestore.store.positions import Slice
from featurestore.store.stream import StreamBatch, without_forgotten
from streaming.assignment import Partition
from streaming.codec import Codec
from streaming.processor import Decoded, decode


class Run(NamedTuple):
    """Messages of one partition: ``records`` are those among the offsets ``[first, next)``; ``epoch`` is the
    worker's, ``end`` where the partition ends."""

    partition: Partition
    epoch: int
    first: int
    next: int
    end: int
    records: Sequence[Any]


def batch_of(
    plan: SourcePlan,
    timelines: frozenset[int],
    runs: Sequence[Run],
    codec: Codec,
    *,
    catching_up: bool,
    max_value_bytes: int,
) -> StreamBatch:
    """The rows of a source, for ``timelines``, with what could not be read and what is no row."""
    slice_of = np.repeat(np.arange(len(runs)), [len(run.records) for run in runs])
    slices = [
        Slice(run.partition.topic, run.partition.number, run.epoch, run.first, run.next, run.end)
        for run in runs
    ]
    records = [record for run in runs for record in run.records]
    decoded = decode(records, plan, codec, max_value_bytes=max_value_bytes)
    return StreamBatch(
        plan,
        timelines,
        slices,
        decoded.table,
        decoded.message,
        slice_of,
        _dead_letters(plan.name, records, decoded),
        _ignored(slices, slice_of, decoded),
        catching_up,
    )


def archive(store: Store, directory: Path, batch: StreamBatch, runs: Sequence[Run]) -> None:
    """Write a batch's rows to the archive of its source, a file a partition; on the disk when it returns."""
    table, kept = without_forgotten(store, batch.plan, batch.table)
    message = batch.message[kept]
    of_row = batch.slice_of[message]
    offsets = np.array([record.offset for run in runs for record in run.records], np.int64)[message]
    for i, one in enumerate(batch.slices):
        rows = np.flatnonzero(of_row == i)
        write_archive(
            directory, one.topic, one.partition, one.first, one.next, table.take(pa.array(rows)),
            offsets[rows].tolist(),
        )  # fmt: skip


def latest_event(plan: SourcePlan, table: pa.Table) -> int | None:
    """The latest event time, or time of a change, among canonical rows; in microseconds."""
    roles = plan.roles
    name = roles.event_time if isinstance(roles, Roles) else roles.changed_at
    latest = pc.max(table.column(name).cast(pa.int64())).as_py()
    return None if latest is None else int(latest)


def _dead_letters(source: str, records: Sequence[Any], decoded: Decoded) -> list[DeadLetter]:
    """The messages that could not be read, as they were."""
    letters = []
    for number, reason in sorted(decoded.dead.items()):
        record = records[number]
        stamp = None if record.timestamp < 0 else record.timestamp * 1_000
        letters.append(
            DeadLetter(
                source, record.topic, record.partition, record.offset, reason, stamp, record.key, record.value
            )
        )
    return letters


def _ignored(slices: Sequence[Slice], slice_of: Any, decoded: Decoded) -> Any:
    """Of each slice, the messages that are no row and the offsets that hold no message."""
    offsets = np.array([one.next - one.first for one in slices], np.int64)
    messages = np.bincount(slice_of, minlength=len(slices))
    return offsets - messages + np.bincount(slice_of[decoded.ignored], minlength=len(slices))
