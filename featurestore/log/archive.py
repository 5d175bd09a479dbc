"""The archive of a topic: what a stream delivered, as Parquet, so that it can be backfilled and trained on.

One file for each topic, partition and range of offsets, ``topic-NAME/partition-N/FIRST-NEXT.parquet``; what
was retried out of the dead letters is in a file of its own. Rows are canonical: the declared columns, then
where each is from. A file is on the disk before the position moves past it, so one that was written twice, in
other pieces, may overlap another: readers keep one row per (topic, partition, offset).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.dsl.log import Archive
from featurestore.dsl.table_source import TableSource
from featurestore.kernel.changes import CLAIM_COLUMN, DELETE, OPERATION_COLUMN, TRUNCATE, UPSERT
from featurestore.kernel.roles import ChangeRoles
from featurestore.log.durable import sync_folder, write_whole
from featurestore.log.scan import OFFSET
from featurestore.plan.nodes import SourcePlan

PARTITION, TOPIC = "__partition", "__topic"
WORDS = {UPSERT: "u", DELETE: "d", TRUNCATE: "t"}
CODES = {"c": UPSERT, **{word: code for code, word in WORDS.items()}}


def archive_path(plan: SourcePlan) -> str | None:
    """Where a source's archive is, below the project's directory; None for a source that has a log, or no
    topic."""
    if plan.log is not None or plan.topic is None:
        return None
    return plan.topic.archive or f".featurestore/archive/{plan.name}"


def archive_of(plan: SourcePlan) -> Archive | None:
    """A source's archive as a log, be it there or not."""
    path = archive_path(plan)
    return None if path is None else Archive(path)


def archived(plan: SourcePlan, root: Path) -> SourcePlan:
    """The source with its archive as its log, where it has one and no other log."""
    path = archive_path(plan)
    if path is None or next((root / path).glob("topic-*/partition-*/*.parquet"), None) is None:
        return plan
    log = Archive(path)
    if plan.changes is None:
        return replace(plan, log=log)
    declared = replace(flat_table(plan), log=log, op=OPERATION_COLUMN, operations=None)
    return replace(plan, log=log, changes=replace(plan.changes, declared=declared))


def archived_from(plan: SourcePlan, root: Path) -> dict[int, int]:
    """Partition -> the first offset that the archive of the source's topic has."""
    path = archive_path(plan)
    if path is None or plan.topic is None:
        return {}
    found: dict[int, int] = {}
    for file in (root / path).glob(f"topic-{plan.topic.name}/partition-*/*-*.parquet"):
        first = file.name.partition("-")[0]
        number = file.parent.name.removeprefix("partition-")
        if first.isdigit() and number.isdigit():
            found[int(number)] = min(int(first), found.get(int(number), int(first)))
    return found


def flat_table(plan: SourcePlan) -> TableSource:
    """A table source as if its log were flat rows of the columns that it has."""
    roles = plan.roles
    assert plan.changes is not None and isinstance(roles, ChangeRoles)
    return replace(
        plan.changes.declared,
        format="flat",
        changed_at=roles.changed_at,
        position=roles.position,
        columns=None,
    )


def write_archive(
    directory: Path, topic: str, partition: int, first: int, end: int, rows: pa.Table, offsets: Sequence[int]
) -> None:
    """Write what offsets ``[first, end)`` of a partition delivered, and return when it is on the disk.

    ``rows`` are canonical, ``offsets`` say where each is from. What delivered no row leaves no file.
    """
    _write(directory, topic, partition, f"{first:020}-{end:020}.parquet", rows, offsets)


def write_retried(directory: Path, topic: str, partition: int, offset: int, rows: pa.Table) -> None:
    """Write what a dead letter holds that can be read now."""
    _write(directory, topic, partition, f"retried-{offset:020}.parquet", rows, [offset] * rows.num_rows)


def archive_files(directory: Path) -> list[Path]:
    """An archive's files."""
    return sorted(directory.glob("topic-*/partition-*/*.parquet"))


def read_archive(file: Path) -> tuple[pa.Table, pa.Table]:
    """A file's rows as ``write_archive`` took them, and where each is from."""
    with pq.ParquetFile(file) as opened:
        table = opened.read()
    places = table.select([TOPIC, PARTITION, OFFSET])
    rows = table.drop_columns(places.column_names)
    if OPERATION_COLUMN in rows.column_names:
        words = rows.column(OPERATION_COLUMN).to_pylist()
        rows = rows.drop_columns([OPERATION_COLUMN])
        rows = rows.append_column(OPERATION_COLUMN, pa.array([CODES[word] for word in words], pa.int64()))
        rows = rows.append_column(CLAIM_COLUMN, pa.array([word != "c" for word in words]))
    return rows, places


def rewrite_archive(file: Path, rows: pa.Table, offsets: Sequence[int]) -> None:
    """Put ``rows`` in the place of a file's own, and return when that is on the disk."""
    if rows.num_rows:
        folder = file.parent
        topic = folder.parent.name.removeprefix("topic-")
        partition = int(folder.name.removeprefix("partition-"))
        _write(folder.parent.parent, topic, partition, file.name, rows, offsets)
    else:
        file.unlink()
        sync_folder(file.parent)


def _write(
    directory: Path, topic: str, partition: int, name: str, rows: pa.Table, offsets: Sequence[int]
) -> None:
    if not rows.num_rows:
        return
    if OPERATION_COLUMN in rows.column_names:
        told = zip(
            rows.column(OPERATION_COLUMN).to_pylist(), rows.column(CLAIM_COLUMN).to_pylist(), strict=True
        )
        words = ["c" if code == UPSERT and not claim else WORDS[code] for code, claim in told]
        rows = rows.drop_columns([OPERATION_COLUMN, CLAIM_COLUMN])
        rows = rows.append_column(OPERATION_COLUMN, pa.array(words, pa.string()))
    rows = rows.append_column(TOPIC, pa.repeat(pa.scalar(topic), rows.num_rows))
    rows = rows.append_column(PARTITION, pa.repeat(pa.scalar(partition, pa.int64()), rows.num_rows))
    rows = rows.append_column(OFFSET, pa.array(np.asarray(offsets, np.int64)))
    folder = directory / f"topic-{topic}" / f"partition-{partition}"
    write_whole(folder, name, lambda file: pq.write_table(rows, file, compression="zstd"))
