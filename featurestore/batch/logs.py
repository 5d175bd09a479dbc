"""What is read of the sources' logs for one training set: which files, how much of them, and which arrivals.

Every part of a training set reads a source's log as it was when it was first asked about; its identity says
what that was, so that the same can be read again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from featurestore.batch.digest import of_stream
from featurestore.dsl.log import DuckDBTable, Log
from featurestore.log import duckdb_tables
from featurestore.log.files import LogFile, list_files
from featurestore.plan.nodes import SourcePlan
from featurestore.store import Snapshot
from featurestore.store.forgotten import Forgotten, read_forgotten
from featurestore.store.records import Arrival


class Logs:
    """The logs below ``root`` as they are now, and arrivals from one snapshot of the store (None: no
    store)."""

    def __init__(self, root: Path, snapshot: Snapshot | None) -> None:
        self.root = root
        self._snapshot = snapshot
        self._files: dict[str, tuple[LogFile, ...]] = {}
        self._identities: dict[str, _Identity] = {}

    def files(self, source: SourcePlan) -> tuple[LogFile, ...]:
        """The files of a source's log, and how many rows of tables, that are read: the same each time."""
        if source.name not in self._files:
            self._files[source.name] = self._listed(source)
        return self._files[source.name]

    def _listed(self, source: SourcePlan) -> tuple[LogFile, ...]:
        return () if source.log is None else with_rows(source.log, list_files(source.log, self.root))

    def arrivals(self, source: str) -> list[Arrival]:
        """The pushes of a source that are read, oldest first."""
        return [] if self._snapshot is None else self._snapshot.arrivals(source)

    def forgotten(self) -> Forgotten:
        """What is left out of all logs."""
        return Forgotten() if self._snapshot is None else read_forgotten(self._snapshot)

    def identify(self, source: SourcePlan, columns: Sequence[str], arrivals: Sequence[Arrival]) -> None:
        """Begin to hash what was read of a source: its files, the ``columns`` of its tables, and arrivals."""
        if source.name not in self._identities:
            self._identities[source.name] = _Identity(source, self.files(source), arrivals)
        self._identities[source.name].columns.update(dict.fromkeys(columns))

    def identity(self, source: str) -> dict[str, Any]:
        """What a source's log was: its files or tables with their hashes, and how far arrivals were read."""
        return self._identities[source].made()


class _Identity:
    """One source's identity. Files are hashed aside, on one core, while the kernel works on the others;
    whoever asks waits."""

    def __init__(self, source: SourcePlan, files: Sequence[LogFile], arrivals: Sequence[Arrival]) -> None:
        self.columns: dict[str, None] = {}
        self._log = source.log
        self._arrivals = arrivals_identity(arrivals)
        aside = ThreadPoolExecutor(1)
        self._files: list[tuple[LogFile, Future[str] | None]] = [
            (file, None if file.rows is not None else aside.submit(file.sha256)) for file in files
        ]
        aside.shutdown(wait=False)

    def made(self) -> dict[str, Any]:
        files = [self._file(file, sha256) for file, sha256 in self._files]
        return {"files": files, "arrivals": self._arrivals}

    def _file(self, file: LogFile, sha256: Future[str] | None) -> dict[str, Any]:
        if sha256 is not None:
            return file_identity(file, sha256.result())
        assert isinstance(self._log, DuckDBTable)
        return table_identity(self._log, file, list(self.columns))


def with_rows(log: Log, files: Sequence[LogFile]) -> tuple[LogFile, ...]:
    """The files, those of tables with the number of rows that they have now: later ones are not read."""
    if not isinstance(log, DuckDBTable):
        return tuple(files)
    return tuple(replace(file, rows=duckdb_tables.count(log, file)) for file in files)


def file_identity(file: LogFile, sha256: str) -> dict[str, Any]:
    """A file as manifests name it: the hash is that of its first ``size`` bytes."""
    return {"path": file.shown, "size": file.size, "sha256": sha256}


def table_identity(log: DuckDBTable, file: LogFile, columns: Sequence[str]) -> dict[str, Any]:
    """A table of a file as manifests name it. Its version is its first ``rows`` rows: what else is in the
    file, and where, means nothing. Columns that it doesn't have are left out."""
    held = duckdb_tables.schema(log, file).names
    present = sorted(name for name in columns if name in held)
    return {
        "path": file.shown,
        "table": list(log.table_path),
        "rows": file.rows,
        "columns": present,
        "sha256": of_stream(duckdb_tables.tables(log, file, present), present),
    }


def arrivals_identity(arrivals: Sequence[Arrival]) -> Mapping[str, Any]:
    """Pushes as manifests name them: how many rows, the number of the last, and a hash of them all."""
    made = hashlib.sha256()
    for one in arrivals:
        made.update(f"{one.first_number} {one.rows} {len(one.payload)} ".encode())
        made.update(one.payload)
    last = arrivals[-1] if arrivals else None
    return {
        "rows": sum(one.rows for one in arrivals),
        "last": 0 if last is None else last.first_number + last.rows - 1,
        "sha256": made.hexdigest(),
    }
