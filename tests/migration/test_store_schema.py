"""A store is brought forward by its migrations, and never silently used at another revision."""

from __future__ import annotations

import multiprocessing
import re
import shutil
import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from featurestore.errors import StoreVersionError
from featurestore.store import SEGMENT_LEVEL, SegmentRow, Store, schema
from featurestore.store.database import Session
from featurestore.store.sqlite import Sqlite
from featurestore.store.store import _database
from featurestore.store.tables import metadata


def revision_of(path: Path) -> str:
    with sqlite3.connect(path) as connection:
        (revision,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    connection.close()
    return revision


def set_revision(path: Path, revision: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    connection.close()


def session_of(url: str) -> Session:
    """A session of a store's database, whichever it is."""
    return _database(url, 30.0).session()


def test_the_migrations_make_exactly_the_tables_that_the_code_reads(empty_store_url: str):
    Store.migrate(empty_store_url)

    def is_ours(_: object, name: str | None, kind: str, *__: object) -> bool:
        # Partitions are tables of their own to whoever asks for tables.
        return kind != "table" or re.fullmatch(r"(segments|identities)_\d", str(name)) is None

    with session_of(empty_store_url).connection as connection:
        options = {"compare_type": True, "include_object": is_ours}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []


def test_a_store_of_the_first_revision_is_brought_forward_with_what_it_holds(
    empty_store_url: str, monkeypatch: pytest.MonkeyPatch
):
    upgrade = schema.upgrade
    with monkeypatch.context() as then:
        then.setattr(schema, "REVISIONS", schema.REVISIONS[:1])
        then.setattr(schema, "upgrade", lambda connection: upgrade(connection, "0001"))
        with Store.open(empty_store_url, migrate=True) as store, store.commit("ingest", now_us=1) as commit:
            commit.add_arrivals("transactions", b"kept", rows=1, arrived_at_us=1)
            commit.append(1, [SegmentRow(b"k", SEGMENT_LEVEL, 0, 1, b"x")])
    with pytest.raises(StoreVersionError, match="older than this featurestore"):
        Store.open(empty_store_url, migrate=False)
    with Store.open(empty_store_url, migrate=True) as store, store.snapshot() as snapshot:
        assert [arrival.payload for arrival in snapshot.arrivals("transactions")] == [b"kept"]
        assert snapshot.read(1, [b"k"]) == {b"k": [b"x"]} and snapshot.identities(1, [b"r"]) == {}


def test_many_processes_make_one_store_in_postgresql_at_once(postgres_url: str):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=Store.migrate, args=(postgres_url,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    with Store.open(postgres_url, migrate=False) as store:
        assert len(store.store_id()) == 32


def test_a_migration_that_fails_leaves_postgresql_as_it_was(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    migrations = tmp_path / "migrations"
    shutil.copytree(schema.migrations_directory(), migrations)
    (migrations / "versions" / "9002_next.py").write_text(
        f'''"""It breaks half way."""
from alembic import op
revision, down_revision = "9002", "{schema.REVISIONS[-1]}"
def upgrade():
    op.execute("DROP TABLE segments")
    raise ZeroDivisionError("half way")
'''
    )
    Store.migrate(postgres_url)
    with monkeypatch.context() as tomorrow:
        tomorrow.setattr(schema, "migrations_directory", lambda: migrations)
        tomorrow.setattr(schema, "REVISIONS", (*schema.REVISIONS, "9002"))
        with pytest.raises(ZeroDivisionError):
            Store.open(postgres_url, migrate=True)
    with Store.open(postgres_url, migrate=False) as store, store.snapshot() as snapshot:
        assert snapshot.read(1, [b"k"]) == {}


def test_the_revisions_that_the_code_knows_are_those_of_the_migrations():
    config = Config()
    config.set_main_option("script_location", str(schema.migrations_directory()))
    config.set_main_option("path_separator", "os")
    newest_first = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    assert tuple(reversed(newest_first)) == schema.REVISIONS


def test_an_empty_file_is_brought_to_the_newest_revision(tmp_path: Path):
    path = tmp_path / "store.db"
    Store.migrate(path)
    assert revision_of(path) == schema.REVISIONS[-1]
    before = path.read_bytes()
    Store.migrate(path)
    assert path.read_bytes() == before


def test_a_store_without_tables_asks_for_migrate(tmp_path: Path):
    path = tmp_path / "store.db"
    path.touch()
    with pytest.raises(StoreVersionError, match="no tables yet") as error:
        Store.open(path, migrate=False)
    assert error.value.hint == "run `featurestore migrate`"


def test_an_older_store_asks_for_migrate_and_is_brought_forward(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The day after tomorrow's release, played with a copy of the migrations that has one revision more."""
    path, newest = tmp_path / "store.db", schema.REVISIONS[-1]
    with Store.open(path, migrate=True) as store, store.commit("ingest", now_us=1) as commit:
        commit.add_arrivals("transactions", b"kept", rows=1, arrived_at_us=1)
    migrations = tmp_path / "migrations"
    shutil.copytree(schema.migrations_directory(), migrations)
    (migrations / "versions" / "9002_next.py").write_text(
        '"""A column more."""\n'
        "import sqlalchemy as sa\n"
        "from alembic import op\n"
        f'revision, down_revision = "9002", "{schema.REVISIONS[-1]}"\n'
        "def upgrade():\n"
        '    op.add_column("arrivals", sa.Column("note", sa.Text, nullable=True))\n'
    )
    monkeypatch.setattr(schema, "migrations_directory", lambda: migrations)
    monkeypatch.setattr(schema, "REVISIONS", (*schema.REVISIONS, "9002"))
    with pytest.raises(StoreVersionError, match="older than this featurestore") as error:
        Store.open(path, migrate=False)
    assert error.value.hint == "run `featurestore migrate`" and revision_of(path) == newest
    with Store.open(path, migrate=True) as store, store.snapshot() as snapshot:
        assert [arrival.payload for arrival in snapshot.arrivals("transactions")] == [b"kept"]
    assert revision_of(path) == "9002"


def test_a_store_from_before_entities_could_be_forgotten_keeps_what_it_has(tmp_path: Path):
    path = tmp_path / "store.db"
    database = Sqlite(path)
    session = database.session(writer=True)
    session.begin_write(first=True)
    schema.upgrade(session.connection, "0002")
    raw = session.raw
    raw.execute("INSERT INTO store_meta (key, value) VALUES ('store_id', 'as it was')")
    raw.execute("INSERT INTO commits VALUES (1, 1, 'ingest', '', 1, 0)")
    raw.execute("INSERT INTO arrivals VALUES (1, 1, 'transactions', 1, x'01', 1)")
    session.commit()
    session.rollback()
    session.close()
    with pytest.raises(StoreVersionError):
        Store.open(path, migrate=False)
    with Store.open(path, migrate=True) as store, store.snapshot() as snapshot:
        meta = snapshot.meta()
        assert meta["store_id"] == "as it was" and len(bytes.fromhex(meta["digest_key"])) == 32
        assert snapshot.forgotten() == []
        assert [arrival.payload for arrival in snapshot.arrivals("transactions")] == [b"\x01"]
    # Older writers did not overwrite what they removed: the file is written anew, once.
    with Store.open(path, migrate=False) as store:
        assert "overwrites_removed" not in meta and store.purge(now_us=2)
        with store.snapshot() as snapshot:
            assert "overwrites_removed" in snapshot.meta() and snapshot.commit_number == 2
        assert store.purge(now_us=3)
        with store.snapshot() as snapshot:
            assert snapshot.commit_number == 2


def test_a_migration_that_fails_leaves_the_store_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, newest = tmp_path / "store.db", schema.REVISIONS[-1]
    Store.migrate(path)
    migrations = tmp_path / "migrations"
    shutil.copytree(schema.migrations_directory(), migrations)
    (migrations / "versions" / "9002_next.py").write_text(
        '"""It breaks half way."""\n'
        "import sqlalchemy as sa\n"
        "from alembic import op\n"
        f'revision, down_revision = "9002", "{schema.REVISIONS[-1]}"\n'
        "def upgrade():\n"
        '    op.add_column("arrivals", sa.Column("note", sa.Text, nullable=True))\n'
        '    raise ZeroDivisionError("half way")\n'
    )
    with monkeypatch.context() as tomorrow:
        tomorrow.setattr(schema, "migrations_directory", lambda: migrations)
        tomorrow.setattr(schema, "REVISIONS", (*schema.REVISIONS, "9002"))
        with pytest.raises(ZeroDivisionError):
            Store.open(path, migrate=True)
    assert revision_of(path) == newest
    with sqlite3.connect(path) as connection:
        assert "note" not in [row[1] for row in connection.execute("PRAGMA table_info(arrivals)")]
    connection.close()
    Store.open(path, migrate=False).close()


@pytest.mark.parametrize("migrate", [True, False])
def test_a_store_of_a_newer_featurestore_is_refused(tmp_path: Path, migrate: bool):
    path = tmp_path / "store.db"
    Store.migrate(path)
    set_revision(path, "0999")
    with pytest.raises(StoreVersionError, match="written by a newer featurestore") as error:
        Store.open(path, migrate=migrate)
    assert "0999" in error.value.fact and error.value.hint == "upgrade the package"
    assert revision_of(path) == "0999"


@pytest.mark.parametrize("migrate", [True, False])
def test_the_database_of_something_else_is_left_alone(tmp_path: Path, migrate: bool):
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE customers (id INTEGER)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreVersionError, match="database of something else"):
        Store.open(path, migrate=migrate)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_many_processes_make_one_store_at_once(tmp_path: Path):
    path = tmp_path / "store.db"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=Store.migrate, args=(path,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert revision_of(path) == schema.REVISIONS[-1]
