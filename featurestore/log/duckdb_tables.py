"""Tables and views of DuckDB files, read by DuckDB, read-only.

Time: none is interpreted here. ``TIMESTAMP`` is naive, ``TIMESTAMP WITH TIME ZONE`` an instant.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import duckdb
import pyarrow as pa

from featurestore.dsl.log import DuckDBTable
from featurestore.errors import LogError, suggestion
from featurestore.log.engine import BATCH_ROWS, ENGINE
from featurestore.log.files import LogFile


def schema(log: DuckDBTable, file: LogFile) -> pa.Schema:
    """The table's columns and their types."""
    with _open(log, file) as (connection, table):
        found: pa.Schema = connection.sql(f"SELECT * FROM {table} LIMIT 0").to_arrow_table().schema
        return found


def count(log: DuckDBTable, file: LogFile) -> int:
    """How many rows the table has now."""
    with _open(log, file) as (connection, table):
        ((rows,),) = connection.sql(f"SELECT count(*) FROM {table}").fetchall()
        return int(rows)


def tables(log: DuckDBTable, file: LogFile, columns: Sequence[str]) -> Iterator[pa.Table]:
    """The table's rows, the first ``file.rows`` of them, in the order in which they were inserted."""
    with _open(log, file) as (connection, table):
        held = connection.sql(f"SELECT * FROM {table} LIMIT 0").columns
        present = [name for name in columns if name in held]
        wanted = ", ".join(map(_quoted, present)) or "NULL"
        first = "" if file.rows is None else f" LIMIT {file.rows}"
        for batch in connection.sql(f"SELECT {wanted} FROM {table}{first}").to_arrow_reader(BATCH_ROWS):
            rows = pa.Table.from_batches([batch])
            yield rows.rename_columns(present) if present else rows.select([])


@contextmanager
def _open(log: DuckDBTable, file: LogFile) -> Iterator[tuple[duckdb.DuckDBPyConnection, str]]:
    """A connection to the file, and the table's name in SQL."""
    try:
        with duckdb.connect(str(file.path), read_only=True, config=ENGINE) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            yield connection, ".".join(map(_quoted, _find(log, file, connection)))
    except (duckdb.Error, pa.ArrowException) as error:
        said = str(error).splitlines()[0]
        raise LogError(
            f'log file "{file.shown}" can\'t be read as a DuckDB file: {said}',
            hint="close it where it is being written; is it whole, and of a version that this DuckDB reads?",
        ) from error


def _find(log: DuckDBTable, file: LogFile, connection: duckdb.DuckDBPyConnection) -> tuple[str, str]:
    """The table's schema and name. A name alone is looked for in ``main`` first, then in every schema."""
    held: list[tuple[str, str]] = connection.execute(
        "SELECT table_schema, table_name FROM information_schema.tables "
        "WHERE table_catalog = current_database() ORDER BY ALL"
    ).fetchall()
    asked = log.table_path
    found = [row for row in held if row[-len(asked) :] == asked]
    found = [row for row in found if row[0] == "main"] or found
    if len(found) == 1:
        return found[0]
    shown = ".".join(asked)
    if found:
        raise LogError(
            f'log file "{file.shown}" has a table "{shown}" in more than one schema',
            hint=f"name one: table={found[0]!r}",
        )
    known = [name if schema == "main" else f"{schema}.{name}" for schema, name in held]
    raise LogError(
        f'log file "{file.shown}" has no table "{shown}"', hint=suggestion(shown, known, what="tables")
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
