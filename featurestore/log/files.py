"""Which files a log is made of.

Time: none. A file's name, age and order influence no value; its identity (path, size, hash) goes into
manifests.

Text is read as far as it was when the file was listed: what is appended later belongs to a later reading.
"""

from __future__ import annotations

import glob
import gzip
import hashlib
import io
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO
from urllib.parse import unquote

from featurestore.dsl.log import CSV, Archive, DuckDBTable, JSONLines, Log, Parquet
from featurestore.errors import LogError

_SUFFIXES: dict[type, tuple[str, ...]] = {
    Parquet: (".parquet", ".parq", ".pq"),
    Archive: (".parquet",),
    CSV: (".csv", ".tsv", ".txt", ".csv.gz"),
    JSONLines: (".jsonl", ".ndjson", ".json", ".jsonl.gz", ".ndjson.gz"),
    DuckDBTable: (".duckdb", ".ddb", ".db"),
}
# An archive's file is named by the offsets that it holds.
_OFFSETS = re.compile(r"^(\d+)-(\d+)\.parquet$")
_HASH_BLOCK_BYTES = 1 << 20
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class LogFile:
    """One file of a log. ``shown`` is its name in reports and manifests: posix text relative to the project's
    root where it lies below it, absolute otherwise. ``partitions`` are the columns that its directories
    hold. ``rows`` is how many of a DuckDB table are read, the first inserted; None: all. Of an archive's
    file, rows below ``from_offset`` are in another one."""

    shown: str
    path: Path
    size: int
    mtime_ns: int
    partitions: tuple[tuple[str, str | None], ...] = ()
    rows: int | None = None
    from_offset: int = -1

    def sha256(self) -> str:
        """The hash of the file's first ``size`` bytes, read now, as hex digits."""
        digest = hashlib.sha256()
        left = self.size
        try:
            with open(self.path, "rb") as file:
                while left and (block := file.read(min(left, _HASH_BLOCK_BYTES))):
                    digest.update(block)
                    left -= len(block)
        except OSError as error:
            raise unreadable(self.shown, error) from error
        return digest.hexdigest()


class _First(io.RawIOBase):
    """The first ``size`` bytes of an open file."""

    def __init__(self, whole: io.FileIO, size: int) -> None:
        self._whole = whole
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        read = self._whole.readinto(memoryview(buffer)[: self._left])
        self._left -= read
        return read


@contextmanager
def opened(file: LogFile) -> Iterator[IO[bytes]]:
    """The bytes of a text file as far as it was listed, unpacked where its name ends in .gz."""
    with open(file.path, "rb", buffering=0) as whole, io.BufferedReader(_First(whole, file.size)) as first:
        if file.path.suffix != ".gz":
            yield first
            return
        with gzip.GzipFile(fileobj=first) as unpacked:
            yield unpacked  # type: ignore[misc]


def list_files(log: Log, root: Path) -> tuple[LogFile, ...]:
    """The files of ``log`` now, each once, sorted by ``shown``.

    A directory gives the files below it that have a suffix of the log's kind; in directories and globs, names
    that start with ``.`` or ``_`` are skipped. A declared path that nothing answers to is a LogError.
    """
    root = Path(os.path.abspath(root))
    found: dict[str, Path] = {}
    for declared in log.paths:
        for path in _matches(declared, log, root):
            found[_shown(path, root)] = path
    files = [_log_file(shown, path, log) for shown, path in sorted(found.items())]
    if isinstance(log, Archive):
        return _one_row_each(files)
    return _with_agreed_partitions(files, log)


def listed_before(log: Log, root: Path, names: Sequence[str]) -> tuple[LogFile, ...]:
    """The files of ``log`` that an earlier ``list_files`` gave these ``shown`` names, as they are now."""
    root = Path(os.path.abspath(root))
    files = [_log_file(shown, root / shown, log) for shown in names]
    return _one_row_each(files) if isinstance(log, Archive) else _with_agreed_partitions(files, log)


def _one_row_each(files: Iterable[LogFile]) -> tuple[LogFile, ...]:
    """The files without those that others hold altogether; of those that overlap, each is read from where
    the ones before it end."""
    ranged: dict[Path, list[tuple[int, int, LogFile]]] = {}
    kept = []
    for file in files:
        named = _OFFSETS.match(file.path.name)
        if named is None:
            kept.append(file)
        else:
            first, end = int(named[1]), int(named[2])
            ranged.setdefault(file.path.parent, []).append((first, -end, file))
    for of_partition in ranged.values():
        covered = -1
        for first, end, file in sorted(of_partition, key=lambda one: one[:2]):
            if -end > covered:
                kept.append(replace(file, from_offset=covered) if first < covered else file)
                covered = -end
    return tuple(sorted(kept, key=lambda file: file.shown))


def unreadable(shown: str, error: OSError) -> LogError:
    """What the operating system said about a file of a log, as an error of the log."""
    if isinstance(error, FileNotFoundError):
        return LogError(
            f'log file "{shown}" is gone', hint="restore it, or run again to read the log as it is now"
        )
    if isinstance(error, PermissionError):
        return LogError(
            f'log file "{shown}" may not be read by this user', hint="give this user read permission"
        )
    return LogError(
        f'log file "{shown}" can\'t be read: {error.strerror or error}', hint="check the file and its disk"
    )


def _matches(declared: str, log: Log, root: Path) -> list[Path]:
    literal = Path(os.path.abspath(root / os.path.expanduser(declared)))
    if literal.is_dir():
        below = _below(literal, _SUFFIXES[type(log)])
        if not below:
            suffixes = ", ".join(_SUFFIXES[type(log)])
            raise LogError(
                f'log directory "{declared}" holds no file to read',
                hint=f"files end in {suffixes}; names that start with . or _ are skipped",
            )
        return below
    if literal.exists() or not glob.has_magic(declared):
        if not literal.exists():
            raise LogError(
                f'log file "{declared}" does not exist',
                hint=f"looked for {literal}; a relative path starts at the project's directory",
            )
        return [literal]
    matched = [Path(name) for name in glob.glob(str(literal), recursive=True)]
    matched = [path for path in matched if path.is_file() and not _hidden(path, literal)]
    if not matched:
        raise LogError(
            f'no file matches "{declared}"',
            hint=f"looked for {literal}; a relative path starts at the project's directory",
        )
    return matched


def _hidden(path: Path, pattern: Path) -> bool:
    """Whether a glob's match is skipped: it has a name with _ in front where the pattern spells none. (Names
    with a dot in front are skipped by glob's own rule.)"""
    fixed = next(i for i, part in enumerate(pattern.parts) if glob.has_magic(part))
    if any(part.startswith("_") for part in pattern.parts[fixed:]):
        return False
    return any(part.startswith("_") for part in path.parts[fixed:])


def _below(directory: Path, suffixes: tuple[str, ...]) -> list[Path]:
    found = []
    for folder, folders, names in os.walk(directory, followlinks=True):
        folders[:] = [name for name in folders if name[0] not in "._"]
        found += [
            Path(folder, name) for name in names if name[0] not in "._" and name.lower().endswith(suffixes)
        ]
    return found


def _shown(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def _log_file(shown: str, path: Path, log: Log) -> LogFile:
    try:
        status = os.stat(path)
    except OSError as error:
        raise unreadable(shown, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise LogError(
            f'log file "{shown}" is not a regular file', hint="a log is read more than once: name real files"
        )
    if not os.access(path, os.R_OK):
        raise unreadable(shown, PermissionError())
    hive = isinstance(log, Parquet) and log.hive_partitioning is not False
    return LogFile(shown, path, status.st_size, status.st_mtime_ns, _partitions(shown) if hive else ())


def _partitions(shown: str) -> tuple[tuple[str, str | None], ...]:
    """``day=2026-01-01/hour=3/x.parquet`` -> ``(("day", "2026-01-01"), ("hour", "3"))``, percent-decoded."""
    pairs = (part.split("=", 1) for part in shown.split("/")[:-1] if "=" in part and not part.startswith("="))
    return tuple((unquote(name), None if value == _HIVE_NULL else unquote(value)) for name, value in pairs)


def _with_agreed_partitions(files: list[LogFile], log: Log) -> tuple[LogFile, ...]:
    first = files[0]
    names = [name for name, _ in first.partitions]
    for file in files:
        if [name for name, _ in file.partitions] != names:
            raise LogError(
                f'log files "{first.shown}" and "{file.shown}" lie in directories of different columns',
                hint="every file needs the same column=value directories; or declare hive_partitioning=False",
            )
    if isinstance(log, Parquet) and log.hive_partitioning and not names:
        raise LogError(
            f'log file "{first.shown}" lies in no column=value directory',
            hint="hive_partitioning=True asks for them; leave it out to decide by the paths",
        )
    return tuple(files)
