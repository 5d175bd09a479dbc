"""The revision of a store's schema: what it has, what this code knows, how it is brought forward.

A store moves forward only. All revisions are applied in one write transaction, so it is never between two.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from sqlalchemy import Connection, inspect, text

from featurestore.errors import StoreError, StoreVersionError

# Oldest first; the last is what this code reads and writes. A test holds it against the migrations.
REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006")

Standing = Literal["empty", "old", "current"]


def standing(connection: Connection, name: str, *, elsewhere: str) -> Standing:
    """Whether the store is at this code's revision; a newer one and a stranger's database are refused."""
    tables = set(inspect(connection).get_table_names())
    if not tables:
        return "empty"
    if "alembic_version" not in tables or "commits" not in tables:
        raise StoreVersionError(
            f"{name}: it is the database of something else",
            hint=elsewhere,
        )
    revision = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    if revision == REVISIONS[-1]:
        return "current"
    if revision in REVISIONS:
        return "old"
    raise StoreVersionError(
        f"{name}: written by a newer featurestore (schema {revision}; this one knows up to {REVISIONS[-1]})",
        hint="upgrade the package",
    )


def needs_migration(name: str, standing: Standing) -> StoreVersionError:
    fact = "it has no tables yet" if standing == "empty" else "its schema is older than this featurestore"
    return StoreVersionError(f"{name}: {fact}", hint="run `featurestore migrate`")


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Apply the migrations up to ``revision`` inside the caller's write transaction."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    # Config interpolates: a per cent sign in a path must be doubled.
    config.set_main_option("script_location", str(migrations_directory()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def migrations_directory() -> Path:
    """Inside the package in a wheel, beside it in a source tree."""
    package = Path(__file__).parents[1]
    for directory in (package / "_migrations", package.parent / "migrations"):
        if (directory / "versions" / "0001_timelines.py").is_file():
            return directory
    raise StoreError(f"no migrations beside {package}", hint="reinstall featurestore")
