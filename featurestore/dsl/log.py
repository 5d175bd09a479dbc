"""Logs: where a source's rows are kept. A declaration only; nothing is opened here.

Time: a log says nothing about time. Its order, its files and its duplicates influence no value.

``path`` is a file, a glob (``*``, ``?``, ``[...]``, ``**``), a directory (read recursively), or several of
these; relative to the project's root. It is kept as a tuple.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from featurestore.dsl.names import column_names
from featurestore.errors import DefinitionError


@dataclass(frozen=True)
class Parquet:
    """Parquet files. Directories named ``column=value`` are columns of the files below them; by default where
    every file lies in such directories, never with ``hive_partitioning=False``, and demanded of every file
    with ``True``."""

    path: str | Sequence[str]
    hive_partitioning: bool | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", _paths(self.path, "Parquet"))
        if self.hive_partitioning not in (None, True, False):
            raise DefinitionError(
                f"Parquet: hive_partitioning={self.hive_partitioning!r} is not a choice",
                hint="it is True, False or None (decide by the paths)",
            )

    @property
    def paths(self) -> tuple[str, ...]:
        assert isinstance(self.path, tuple)
        return self.path


@dataclass(frozen=True)
class CSV:
    """Comma-separated text in UTF-8, quotes doubled inside quotes.

    A field whose text is one of ``null_values`` is null, quoted or not. With ``header=False`` the names are
    ``columns``; with a header they are the header's, and ``columns`` must be left out.
    """

    path: str | Sequence[str]
    delimiter: str = ","
    header: bool = True
    quote: str = '"'
    null_values: Sequence[str] = ("",)
    columns: Sequence[str] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", _paths(self.path, "CSV"))
        for part in ("delimiter", "quote"):
            value = getattr(self, part)
            if not isinstance(value, str) or len(value) != 1 or not value.isascii() or value in "\r\n":
                raise DefinitionError(
                    f"CSV: {part}={value!r} is not one ASCII character", hint='for a tab write "\\t"'
                )
        if self.delimiter == self.quote:
            raise DefinitionError(
                f"CSV: delimiter and quote are both {self.quote!r}", hint="they must differ"
            )
        if not isinstance(self.header, bool):
            raise DefinitionError(
                f"CSV: header={self.header!r} is not True or False", hint="names go to columns="
            )
        nulls = (self.null_values,) if isinstance(self.null_values, str) else tuple(self.null_values)
        if not all(isinstance(text, str) for text in nulls):
            raise DefinitionError(f"CSV: null_values={nulls!r} are not texts", hint='for example ("", "NA")')
        object.__setattr__(self, "null_values", nulls)
        if self.columns is not None:
            object.__setattr__(self, "columns", column_names(tuple(self.columns), "CSV, columns"))
        if self.header and self.columns is not None:
            raise DefinitionError(
                "CSV: columns= goes with header=False", hint="a header names the columns; leave columns= out"
            )
        if not self.header and not self.columns:
            raise DefinitionError(
                "CSV: without a header the columns have no names",
                hint='name them in order: columns=["ts", "amount"]',
            )

    @property
    def paths(self) -> tuple[str, ...]:
        assert isinstance(self.path, tuple)
        return self.path


@dataclass(frozen=True)
class JSONLines:
    """One JSON object a line, in UTF-8; blank lines are skipped, a key that a line lacks is null."""

    path: str | Sequence[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", _paths(self.path, "JSONLines"))

    @property
    def paths(self) -> tuple[str, ...]:
        assert isinstance(self.path, tuple)
        return self.path


@dataclass(frozen=True)
class DuckDBTable:
    """A table or view of a DuckDB file, opened read-only. ``table`` is its name, or ``(schema, name)``."""

    path: str | Sequence[str]
    table: str | Sequence[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", _paths(self.path, "DuckDBTable"))
        parts = (self.table,) if isinstance(self.table, str) else tuple(self.table)
        if not 1 <= len(parts) <= 2 or not all(isinstance(part, str) and part for part in parts):
            raise DefinitionError(
                f"DuckDBTable: table={self.table!r} is not a table's name",
                hint='write "events" or ("sales", "events")',
            )
        object.__setattr__(self, "table", parts)

    @property
    def paths(self) -> tuple[str, ...]:
        assert isinstance(self.path, tuple)
        return self.path

    @property
    def table_path(self) -> tuple[str, ...]:
        """The table's name, after its schema's where one is declared."""
        assert isinstance(self.table, tuple)
        return self.table


@dataclass(frozen=True)
class Archive(Parquet):
    """What a stream has kept of a topic: Parquet files by topic, partition and range of offsets. Nobody
    declares it: it is the log of a source that has none but a topic."""

    hive_partitioning: bool | None = False


Log: TypeAlias = Parquet | CSV | JSONLines | DuckDBTable


def _paths(path: object, what: str) -> tuple[str, ...]:
    paths = (path,) if isinstance(path, str) else path
    if not isinstance(paths, Sequence) or not paths or not all(isinstance(one, str) and one for one in paths):
        raise DefinitionError(
            f"{what}: path={path!r} is not a path",
            hint='write a path or a list of them: "data/transactions/*.parquet"',
        )
    if any("\0" in one for one in paths):
        raise DefinitionError(f"{what}: path={path!r} holds a NUL character", hint="no file has such a name")
    return tuple(paths)
