"""What is PostgreSQL's own: a server that restarts, vanishes or refuses, and writers and readers on several
processes at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from featurestore.errors import StoreError, StoreInterruptedError, StoreUnavailableError
from featurestore.store import DELTA_LEVEL, SEGMENT_LEVEL, CounterKey, SegmentRow, Store
from featurestore.store.postgres import _SEGMENTS, _SEGMENTS_OF_ONE, _SET, PostgresSession
from tests.integration.backfill_project import (
    project,
)
from tests.services.postgres import PASSWORD, Postgres
from tests.services.proxy import Proxy

ACCEPTED = CounterKey("transactions", "", "accepted")


@pytest.fixture
def store(postgres_url: str) -> Iterator[Store]:
    with Store.open(postgres_url, migrate=True) as opened:
        yield opened


def name_of(url: str) -> str:
    return url.rpartition("/")[2]


def new_timeline(store: Store) -> int:
    with store.commit("apply", now_us=1) as commit:
        return commit.add_timeline_version(
            source="transactions", entity="card", fingerprint="f", columns={}, roles={}
        )


def append(store: Store, timeline: int, payload: bytes) -> int:
    """One row for each of two entities and a count of both, as often as it takes."""
    for attempt in store.attempts("ingest", now_us=1):
        with attempt as commit:
            for key in (b"left", b"right"):
                commit.append(timeline, [SegmentRow(key, DELTA_LEVEL, 0, 1, payload)])
            commit.count("transactions", "", {"accepted": 1})
    return commit.number


# What an operator reads


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (("postgres:", "nobody:"), 'password authentication failed for user "nobody"'),
        (("/test_", "/no_"), 'database "no_'),
        (("127.0.0.1:", "127.0.0.1:1"), "can't be reached"),
    ],
)
def test_a_server_that_lets_nobody_in_is_named_without_the_password(
    postgres_url: str, change: tuple[str, str], fact: str
):
    url = postgres_url.replace(*change)
    if fact == "can't be reached":
        url = f"{postgres_url.partition('@')[0]}@127.0.0.1:1/x"
    with pytest.raises(StoreUnavailableError) as error:
        Store.open(url, migrate=True)
    assert fact in str(error.value) and "can't be reached" in str(error.value)
    assert PASSWORD not in str(error.value) and "p%40ss" not in str(error.value)


def test_a_command_never_prints_the_password(tmp_path: Path, postgres_url: str):
    root = project(tmp_path)
    (root / "featurestore.toml").write_text(f'[store]\nurl = "{postgres_url}"\n')
    for arguments in (["apply"], ["migrate"], ["versions", "list"]):
        done = subprocess.run(
            [sys.executable, "-c", "from featurestore.cli import main; main()", *arguments],
            cwd=root, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "p%40ss" not in done.stdout + done.stderr and PASSWORD not in done.stdout + done.stderr
        if arguments == ["migrate"]:
            assert name_of(postgres_url) in done.stdout


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg", "postgres"])
def test_a_store_has_the_url_that_other_tools_take(postgres_url: str, scheme: str):
    with Store.open(postgres_url.replace("postgresql", scheme, 1), migrate=True) as store:
        assert store.name.startswith("store postgresql://postgres@127.0.0.1:")


def test_another_driver_is_refused(postgres_url: str):
    with pytest.raises(StoreUnavailableError, match="is not a store that this version speaks") as error:
        Store.open(postgres_url.replace("postgresql", "postgresql+asyncpg", 1), migrate=True)
    assert "p%40ss" not in str(error.value)


def test_a_database_in_another_encoding_is_refused(postgres: Postgres):
    with postgres.connect() as connection:
        connection.execute("CREATE DATABASE latin TEMPLATE template0 ENCODING LATIN1 LOCALE 'C'")
    with pytest.raises(StoreUnavailableError, match="encoding LATIN1"):
        Store.open(postgres.url("latin"), migrate=True)


def test_a_user_who_may_only_read_is_told_and_can_read(postgres: Postgres, store: Store, postgres_url: str):
    timeline = new_timeline(store)
    append(store, timeline, b"x")
    with postgres.connect(name_of(postgres_url)) as connection:
        connection.execute(f"CREATE ROLE reader LOGIN PASSWORD '{PASSWORD}'")
        connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
    url = postgres_url.replace("postgres:", "reader:")
    with Store.open(url, migrate=False) as reader:
        with reader.snapshot() as snapshot:
            assert snapshot.read(timeline, [b"left"]) == {b"left": [b"x"]}
        with pytest.raises(StoreUnavailableError, match="this user may not"), reader.commit("x", now_us=1):
            pass
    with postgres.connect(name_of(postgres_url)) as connection:
        connection.execute("DROP OWNED BY reader")
        connection.execute("DROP ROLE reader")


def test_a_store_may_live_in_a_schema_of_its_own_beside_other_tables(postgres: Postgres, postgres_url: str):
    with postgres.connect(name_of(postgres_url)) as connection:
        connection.execute("CREATE TABLE customers (id int)")
        connection.execute("CREATE SCHEMA features")
    with pytest.raises(StoreError, match="database of something else") as error:
        Store.open(postgres_url, migrate=True)
    assert error.value.hint is not None and "search_path" in error.value.hint
    with Store.open(f"{postgres_url}?options=-csearch_path%3Dfeatures", migrate=True) as store:
        timeline = new_timeline(store)
        append(store, timeline, b"x")
        with store.snapshot() as snapshot:
            assert snapshot.read(timeline, [b"left"]) == {b"left": [b"x"]}


def test_a_writer_that_does_not_come_to_its_turn_says_so(postgres_url: str):
    with (
        Store.open(postgres_url, migrate=True) as one,
        Store.open(postgres_url, migrate=False, busy_timeout_s=0.2) as other,
        one.commit("slow", now_us=1),
    ):
        with pytest.raises(StoreUnavailableError, match=r"locked by another writer for 0\.2 s"):
            append(other, 1, b"x")
        with other.snapshot() as snapshot:
            assert snapshot.commit_number == 0


def test_segments_and_identities_are_hashed_into_eight_partitions_that_a_read_chooses_from(
    postgres: Postgres, store: Store, postgres_url: str
):
    timeline = new_timeline(store)
    with store.commit("backfill", now_us=1) as commit:
        commit.append(timeline, [SegmentRow(b"%d" % n, SEGMENT_LEVEL, 0, 1, b"x") for n in range(400)])
        commit.add_identities(timeline, [(b"%d" % n, b"e") for n in range(400)])
    with postgres.connect(name_of(postgres_url)) as connection:
        for table in ("segments", "identities"):
            rows = connection.execute(f"SELECT tableoid::regclass::text, count(*) FROM {table} GROUP BY 1")
            found = dict(rows.fetchall())
            assert sorted(found) == [f"{table}_{rest}" for rest in range(8)]
            assert min(found.values()) > 20
        for setting in _SET:
            connection.execute(setting)
        connection.execute(f"PREPARE reading (bytea[], bigint) AS {_SEGMENTS.query.decode()}")
        plan = "\n".join(
            line for (line,) in connection.execute("EXPLAIN (ANALYZE) EXECUTE reading (ARRAY['7'::bytea], 1)")
        )
    assert (
        plan.count("never executed") == 7
        and plan.count("entity_key = asked.key") == 8
        and "Seq Scan" not in plan
    ), plan


def test_a_statement_of_the_read_path_is_prepared_once_a_connection(store: Store):
    timeline = new_timeline(store)
    append(store, timeline, b"x")
    for _ in range(20):
        with store.snapshot() as snapshot:
            assert snapshot.read(timeline, [b"left"]) == {b"left": [b"x"]}
            assert len(snapshot.read(timeline, [b"left", b"right"])) == 2
            snapshot.definitions()
    (session,) = store._readers
    assert isinstance(session, PostgresSession)
    rows = session.raw.execute("SELECT statement, generic_plans, custom_plans FROM pg_prepared_statements")
    used = {statement: plans for statement, *plans in rows.fetchall()}
    assert used[_SEGMENTS.query.decode()] == used[_SEGMENTS_OF_ONE.query.decode()] == [20, 0]
    # SQLAlchemy's are prepared by the driver, after a few.
    assert any("definitions" in statement and plans[0] > 10 for statement, plans in used.items())


# Several at once


def write_some(url: str, timeline: int, times: int, name: int) -> None:
    with Store.open(url, migrate=False) as store:
        for n in range(times):
            append(store, timeline, b"%d-%d" % (name, n))


def read_until(
    url: str, timeline: int, done: Event, seen: multiprocessing.Queue[tuple[int, list[str]]]
) -> None:
    """Ask in a loop: how many states were seen, and which of them were no state of the store."""
    torn: list[str] = []
    numbers: list[int] = []
    with Store.open(url, migrate=False) as store:
        while not done.is_set():
            with store.snapshot() as snapshot:
                left = snapshot.read(timeline, [b"left"]).get(b"left", [])
                both = snapshot.read(timeline, [b"left", b"right"])
                counted = snapshot.counters().get(ACCEPTED, 0)
                stored = snapshot.sizes()[timeline].versions if left else 0
                numbers.append(snapshot.commit_number)
            if not left == both.get(b"left", []) == both.get(b"right", []):
                torn.append("two entities of one commit")
            if not len(left) == counted == stored // 2 == numbers[-1] - 1:
                torn.append(f"{len(left)}, {counted}, {stored}, {numbers[-1]}")
    if numbers != sorted(numbers):
        torn.append("commits in another order than their numbers")
    seen.put((len(set(numbers)), torn))


def test_law_5_readers_see_whole_commits_in_their_order_while_four_processes_write(
    store: Store, postgres_url: str
):
    timeline = new_timeline(store)
    processes = multiprocessing.get_context("spawn")
    done = processes.Event()
    seen: multiprocessing.Queue[tuple[int, list[str]]] = processes.Queue()
    readers = [
        processes.Process(target=read_until, args=(postgres_url, timeline, done, seen)) for _ in range(2)
    ]
    writers = [processes.Process(target=write_some, args=(postgres_url, timeline, 60, n)) for n in range(4)]
    for process in readers + writers:
        process.start()
    for process in writers:
        process.join()
    done.set()
    states = [seen.get(timeout=60) for _ in readers]
    for process in readers:
        process.join()
    assert [process.exitcode for process in writers] == [0] * 4
    assert [torn for _, torn in states] == [[], []]
    assert all(distinct > 20 for distinct, _ in states)
    with store.snapshot() as snapshot:
        # Numbers without a gap: one commit made the timeline.
        assert snapshot.commit_number == 1 + 4 * 60
        payloads = snapshot.read(timeline, [b"left"])[b"left"]
        assert sorted(payloads) == sorted(b"%d-%d" % (name, n) for name in range(4) for n in range(60))


STOPPED = textwrap.dedent(
    """
    import sys
    from featurestore.errors import StoreInterruptedError
    from featurestore.store import DELTA_LEVEL, SegmentRow, Store, postgres

    postgres._SET_WRITER = ("SET idle_in_transaction_session_timeout = '300ms'",)
    with Store.open(sys.argv[1], migrate=False) as store:
        try:
            with store.commit("ingest", now_us=1) as commit:
                commit.append(1, [SegmentRow(b"left", DELTA_LEVEL, 0, 1, b"stopped")])
                print("inside", flush=True)
                sys.stdin.readline()
        except StoreInterruptedError as error:
            print(error.fact, flush=True)
    """
)


def test_a_process_that_stands_still_inside_a_commit_loses_it_and_holds_nobody_up(
    store: Store, postgres_url: str
):
    timeline = new_timeline(store)
    stopped = subprocess.Popen(
        [sys.executable, "-c", STOPPED, postgres_url],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert stopped.stdin is not None and stopped.stdout is not None
    assert stopped.stdout.readline() == "inside\n"
    stopped.send_signal(signal.SIGSTOP)
    append(store, timeline, b"mine")
    stopped.send_signal(signal.SIGCONT)
    said, _ = stopped.communicate("go on\n", timeout=60)
    assert "stood still" in said or "connection was lost" in said
    with store.snapshot() as snapshot:
        assert snapshot.read(timeline, [b"left"]) == {b"left": [b"mine"]}


# A server that goes away


def test_idle_sessions_that_the_server_has_ended_are_opened_again(
    postgres: Postgres, store: Store, postgres_url: str
):
    timeline = new_timeline(store)
    with store.snapshot():
        pass
    assert postgres.terminate_backends(name_of(postgres_url)) == 2
    with store.snapshot() as snapshot:
        assert snapshot.commit_number == 1
    with store.commit("ingest", now_us=1) as commit:
        commit.append(timeline, [SegmentRow(b"k", DELTA_LEVEL, 0, 1, b"x")])
    with store.snapshot() as snapshot:
        assert snapshot.read(timeline, [b"k"]) == {b"k": [b"x"]}


def test_a_session_that_is_ended_inside_a_snapshot_or_a_commit_says_so_and_keeps_nothing(
    postgres: Postgres, store: Store, postgres_url: str
):
    timeline = new_timeline(store)
    with store.snapshot() as snapshot:
        postgres.terminate_backends(name_of(postgres_url))
        with pytest.raises(StoreInterruptedError, match=r"being shut down|connection was lost"):
            snapshot.read(timeline, [b"left"])

    def be_ended() -> None:
        with store.commit("ingest", now_us=1) as commit:
            commit.append(timeline, [SegmentRow(b"left", DELTA_LEVEL, 0, 1, b"x")])
            postgres.terminate_backends(name_of(postgres_url))

    with pytest.raises(StoreInterruptedError, match=r"being shut down|connection was lost"):
        be_ended()
    with store.snapshot() as snapshot:
        assert snapshot.commit_number == 1 and snapshot.read(timeline, [b"left"]) == {}


@pytest.mark.parametrize("when", ["before", "after"])
def test_law_4_a_commit_whose_answer_is_lost_is_kept_once(postgres: Postgres, postgres_url: str, when: str):
    proxy = Proxy(postgres.port)
    through = postgres_url.replace(f":{postgres.port}/", f":{proxy.port}/")
    with Store.open(postgres_url, migrate=True) as direct, Store.open(through, migrate=False) as store:
        timeline = new_timeline(direct)
        numbers = []
        for n in range(3):
            proxy.cut(when)  # type: ignore[arg-type]
            numbers.append(append(store, timeline, b"%d" % n))
        assert proxy.cuts == 3 and numbers == [2, 3, 4]
        proxy.cut(when)  # type: ignore[arg-type]
        if when == "before":
            with (
                pytest.raises(StoreInterruptedError, match="connection was lost"),
                store.commit("x", now_us=1),
            ):
                pass
        else:
            with store.commit("x", now_us=1):
                pass
        with direct.snapshot() as snapshot:
            assert snapshot.commit_number == (4 if when == "before" else 5)
            assert snapshot.read(timeline, [b"left"]) == {b"left": [b"0", b"1", b"2"]}
            assert snapshot.counters()[ACCEPTED] == 3
    proxy.close()


def test_a_commit_whose_end_nobody_can_tell_is_not_done_again(own_server: Postgres):
    url = own_server.database()
    proxy = Proxy(own_server.port)
    Store.migrate(url)
    with Store.open(url.replace(f":{own_server.port}/", f":{proxy.port}/"), migrate=False) as store:
        timeline = new_timeline(store)
        proxy.cut("after")
        tries = 0

        def write_once() -> None:
            nonlocal tries
            for attempt in store.attempts("ingest", now_us=1):
                with attempt as commit:
                    tries += 1
                    commit.append(timeline, [SegmentRow(b"k", DELTA_LEVEL, 0, 1, b"x")])
                    proxy.refuse()

        with pytest.raises(StoreUnavailableError, match="nobody can say if it was kept"):
            write_once()
        assert tries == 1
    proxy.close()


@pytest.mark.timeout(600)
def test_law_4_a_server_that_is_killed_again_and_again_under_load_loses_and_doubles_nothing(
    own_server: Postgres,
):
    url = own_server.database()
    Store.migrate(url)
    with Store.open(url, migrate=False) as store:
        timeline = new_timeline(store)
        told: list[bytes] = []
        done = threading.Event()
        unexpected: list[BaseException] = []
        torn: list[object] = []

        def write_on() -> None:
            n = 0
            try:
                while not done.is_set():
                    append(store, timeline, b"%d" % n)
                    told.append(b"%d" % n)
                    n += 1
            except BaseException as error:  # noqa: BLE001 - the test's own edge
                unexpected.append(error)

        def read_on() -> None:
            while not done.is_set():
                try:
                    with store.snapshot() as snapshot:
                        both = snapshot.read(timeline, [b"left", b"right"])
                        counted = snapshot.counters().get(ACCEPTED, 0)
                except StoreInterruptedError:
                    continue
                if both.get(b"left") != both.get(b"right") or len(both.get(b"left", [])) != counted:
                    torn.append(both)

        threads = [threading.Thread(target=write_on), threading.Thread(target=read_on)]
        for thread in threads:
            thread.start()
        ways = [own_server.kill, own_server.stop, lambda: own_server.kill_backends(name_of(url))]
        for kill in range(12):
            before, until_s = len(told), time.monotonic() + 60
            while len(told) < before + 5 and time.monotonic() < until_s and not unexpected:
                time.sleep(0.001)
            time.sleep(kill * 0.0007)
            ways[kill % 3]()
            if kill % 3 < 2:
                own_server.start()
        before = len(told)
        while len(told) < before + 5 and not unexpected:
            time.sleep(0.001)
        done.set()
        for thread in threads:
            thread.join()
        assert not unexpected and not torn
        with store.snapshot() as snapshot:
            found = snapshot.read(timeline, [b"left", b"right"])
            assert found[b"left"] == found[b"right"] == told
            assert snapshot.counters()[ACCEPTED] == len(told) == snapshot.commit_number - 1
