"""What is SQLite's own: a file that can't be used is told from a bug, by its name and with the way out."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from featurestore.errors import StoreUnavailableError
from featurestore.store import SEGMENT_LEVEL, SegmentRow, Store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a directory" / "store.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(path, migrate=True) as opened:
        yield opened


def test_a_missing_store_is_not_made_by_opening_it(path: Path):
    with pytest.raises(StoreUnavailableError, match="there is no such file") as error:
        Store.open(path, migrate=False)
    assert str(path) in error.value.fact and error.value.hint == "run `featurestore apply`"
    assert not path.parent.exists()


def test_a_directory_that_can_not_be_made_is_told(tmp_path: Path):
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(StoreUnavailableError, match="can't be opened"):
        Store.open(tmp_path / "file" / "store.db", migrate=True)
    with pytest.raises(StoreUnavailableError, match="can't be opened"):
        Store.open(tmp_path, migrate=True)


def test_a_file_that_is_no_database_is_left_as_it_is(tmp_path: Path):
    path = tmp_path / "notes.txt"
    path.write_text("these are my notes\n" * 100)
    with pytest.raises(StoreUnavailableError, match="not a SQLite database"):
        Store.open(path, migrate=True)
    assert path.read_text() == "these are my notes\n" * 100


def test_a_read_only_store_is_told_and_loses_nothing(store: Store):
    with store.commit("ingest", now_us=1) as commit:
        commit.append(1, [SegmentRow(b"k", SEGMENT_LEVEL, 0, 1, b"x")])
    # The same answer as from a read-only file, which the superuser would be allowed to write.
    store._writer.raw.execute("PRAGMA query_only=ON")
    with pytest.raises(StoreUnavailableError, match="can't be written"), store.commit("ingest", now_us=2):
        pass
    with store.snapshot() as snapshot:
        assert snapshot.read(1, [b"k"]) == {b"k": [b"x"]}


def test_a_full_disk_keeps_nothing_of_the_commit_and_all_before_it(store: Store):
    with store.commit("ingest", now_us=1) as before:
        before.append(1, [SegmentRow(b"k", SEGMENT_LEVEL, 0, 1, b"x")])
    raw = store._writer.raw
    pages = raw.execute("PRAGMA page_count").fetchone()[0]
    raw.execute(f"PRAGMA max_page_count={pages + 4}")
    with (
        pytest.raises(StoreUnavailableError, match="the disk is full"),
        store.commit("ingest", now_us=2) as commit,
    ):
        commit.append(1, [SegmentRow(b"%d" % n, SEGMENT_LEVEL, 0, 1, b"x" * 9000) for n in range(100)])
    with store.snapshot() as snapshot:
        assert snapshot.commit_number == before.number and snapshot.sizes()[1].segments == 1
    raw.execute("PRAGMA max_page_count=1000000")
    with store.commit("ingest", now_us=3) as commit:
        commit.append(1, [SegmentRow(b"again", SEGMENT_LEVEL, 0, 1, b"x")])


def test_a_disk_that_refuses_a_write_is_told(path: Path):
    script = textwrap.dedent(
        """
        import resource, sys
        from featurestore.errors import StoreUnavailableError
        from featurestore.store import SegmentRow, Store

        store = Store.open(sys.argv[1], migrate=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, resource.RLIM_INFINITY))
        try:
            with store.commit("ingest", now_us=1) as commit:
                commit.append(1, [SegmentRow(b"%d" % n, 0, 0, 1, b"x" * 9000) for n in range(20000)])
        except StoreUnavailableError as error:
            print(error.fact)
        with store.snapshot() as snapshot:
            print(snapshot.commit_number, snapshot.sizes())
        """
    )
    said = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "the disk" in said and said.endswith("\n0 {}\n")


def test_a_store_locked_for_too_long_is_told(path: Path):
    Store.migrate(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with Store.open(path, migrate=False, busy_timeout_s=0.05) as store:
        with (
            pytest.raises(StoreUnavailableError, match="locked by another writer"),
            store.commit("ingest", now_us=1),
        ):
            pass
        with store.snapshot() as snapshot:
            assert snapshot.commit_number == 0
        other.execute("ROLLBACK")
        with store.commit("ingest", now_us=1) as commit:
            assert commit.number == 1
    other.close()


def test_a_thread_that_holds_the_store_too_long_locks_out_the_others(path: Path):
    with Store.open(path, migrate=True, busy_timeout_s=0.05) as store:
        held, told = threading.Event(), threading.Event()

        def hold() -> None:
            with store.commit("slow", now_us=1):
                held.set()
                told.wait(5)

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait(5)
        with pytest.raises(StoreUnavailableError, match="locked"), store.commit("ingest", now_us=1):
            pass
        told.set()
        thread.join()


def test_a_damaged_file_is_told(path: Path):
    with Store.open(path, migrate=True) as store, store.commit("backfill", now_us=1) as commit:
        rows = [SegmentRow(b"%05d" % n, SEGMENT_LEVEL, 0, 1, b"x" * 500) for n in range(2000)]
        commit.append(1, rows)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(16384 * 4)
        file.write(b"\xa5" * (size - 16384 * 4))
    with (
        pytest.raises(StoreUnavailableError, match="damaged"),
        Store.open(path, migrate=False) as store,
        store.snapshot() as snapshot,
    ):
        snapshot.read(1, [row.entity_key for row in rows])


def test_another_kind_of_url_is_refused_without_its_password(tmp_path: Path):
    with pytest.raises(StoreUnavailableError) as error:
        Store.open("mysql://me:secret@host/db", migrate=True)
    assert "secret" not in str(error.value) and "mysql" in str(error.value)


def test_an_error_of_the_caller_inside_a_commit_stays_itself(store: Store):
    with pytest.raises(FileNotFoundError), store.commit("ingest", now_us=1):
        Path("/nowhere/at/all").read_text()


def test_idle_readers_are_held_and_closed_with_the_store(store: Store):
    with store.snapshot() as outer, store.snapshot() as inner:
        assert outer is not inner
    assert len(store._readers) == 2
    store.close()
    assert not store._readers
