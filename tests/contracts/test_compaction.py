"""Compaction, on every database: fewer rows, the same versions and the same bits, whatever happens beside it.

Transfers cancel each other: in every answer over all accounts, sums add up to 0.
"""

from __future__ import annotations

import multiprocessing
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from featurestore import FeatureStore
from featurestore.dtypes import STRING
from featurestore.store import compaction
from featurestore.store.entity_key import encode_keys
from tests.integration.compaction_project import (
    ACCOUNTS,
    AS_OF,
    DAY_US,
    Transfers,
    all_answers,
    answers,
    between,
    held,
    push,
    rows_of,
    table,
    transfers,
)


@pytest.fixture
def project(tmp_path: Path, empty_store_url: str) -> Transfers:
    return Transfers(tmp_path / "project", empty_store_url)


@pytest.fixture
def store(project: Transfers) -> Iterator[FeatureStore]:
    with project.open() as opened:
        yield opened


def key_of(account: str) -> bytes:
    return encode_keys([pa.array([account])], [STRING])[0]


def test_an_entitys_rows_become_one_and_every_answer_keeps_its_bits(store: FeatureStore):
    push(store, transfers(1, 300), pushes=30)
    before, versions = all_answers(store), held(store.store)
    assert min(len(sizes) for sizes in rows_of(store.store).values()) > 10
    report = store.compact()
    (folded,) = report.timelines
    assert (folded.rows_after, folded.entities, folded.versions) == (12, 12, 600)
    assert all(len(sizes) == 1 for sizes in rows_of(store.store).values())
    assert all_answers(store) == before
    assert held(store.store) == versions
    # Nothing is left to do, and nothing is done.
    again = store.compact()
    assert again.commits == 0 and again.timelines[0].rows_before == 0
    assert "nothing to fold" in again.text() and again.to_dict()["bytes_after"] == again.bytes_after


def test_what_is_folded_goes_on_as_before(project: Transfers, store: FeatureStore):
    """Duplicates are seen in folded rows; a backfill adds what is new."""
    rows = transfers(2, 100)
    push(store, rows[:100], pushes=5)
    store.compact()
    again = store.ingest("transfers", table(rows[:60]))
    assert again.duplicate == 60 and again.accepted == 0
    project.write(rows)
    report = store.backfill()
    assert (report.counts["accepted"], report.counts["duplicate"]) == (100, 100)
    before = all_answers(store)
    store.compact()
    assert all_answers(store) == before


def test_what_others_add_while_a_fold_is_prepared_stays_beside_it(store: FeatureStore):
    push(store, transfers(3, 100), pushes=10)
    added = iter(range(100))
    rows = transfers(4, 100)

    def push_more() -> None:
        number = next(added)
        push(store, rows[2 * number : 2 * number + 2], pushes=1)

    with between(store.store, "compact", push_more):
        store.compact()
    pushed = next(added)
    assert pushed > 0
    fresh, versions = all_answers(store), held(store.store)
    assert len(versions) == 200 + 2 * pushed
    store.compact(full=True)
    assert held(store.store) == versions and all_answers(store) == fresh


def test_a_push_that_was_prepared_before_a_fold_still_knows_what_is_there(store: FeatureStore):
    rows = transfers(5, 60)
    push(store, rows, pushes=6)
    before, versions = all_answers(store), held(store.store)
    with between(store.store, "ingest", store.compact):
        again = store.ingest("transfers", table(rows))
    assert again.duplicate == len(rows) and again.accepted == again.corrected == 0
    assert all_answers(store) == before and held(store.store) == versions


def test_an_entity_that_is_forgotten_while_its_fold_is_prepared_stays_forgotten(store: FeatureStore):
    push(store, transfers(6, 100), pushes=10)
    gone = iter(ACCOUNTS[:3])

    def forget_next() -> None:
        for account in gone:
            store.forget({"account": account})
            return

    with between(store.store, "compact", forget_next):
        store.compact()
    assert next(gone, None) != ACCOUNTS[0]
    for account in gone:
        store.forget({"account": account})
    store.compact()
    left = rows_of(store.store)
    assert sorted(left) == sorted(key_of(account) for account in ACCOUNTS[3:])
    counts = store.online_features(["balance:count"], {"account": ACCOUNTS}, as_of=AS_OF).to_dict()
    assert counts["balance__count"][:3] == [0, 0, 0] and all(counts["balance__count"][3:])


def test_two_compactions_at_once_lose_nothing(project: Transfers, store: FeatureStore):
    push(store, transfers(7, 200), pushes=10)
    before, versions = all_answers(store), held(store.store)
    with project.open() as other, between(store.store, "compact", other.compact):
        store.compact()
    assert held(store.store) == versions and all_answers(store) == before
    assert all(len(sizes) == 1 for sizes in rows_of(store.store).values())


def test_what_is_in_most_rows_is_folded_first_and_many_rows_of_one_entity_take_several_commits(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(compaction, "HOT_ROWS", 40)
    monkeypatch.setattr(compaction, "FIRST_ROWS", 10)
    monkeypatch.setattr(compaction, "LEAST_ROWS", 10)
    monkeypatch.setattr(compaction, "MOST_ROWS", 10)
    push(store, transfers(8, 60, ACCOUNTS[-2:]), pushes=60)
    push(store, transfers(9, 60, ACCOUNTS[:-2]), pushes=20)
    before = all_answers(store)
    folded: list[int] = []
    hot = key_of(ACCOUNTS[-1])
    with between(store.store, "compact", lambda: folded.append(len(rows_of(store.store)[hot]))):
        store.compact()
    assert folded[0] == 60
    # Both hot accounts are done before any other is begun: each takes three commits of twenty rows.
    assert folded[6] <= 3
    assert all_answers(store) == before


def test_law_5_requests_beside_a_compaction_see_one_state(project: Transfers, store: FeatureStore):
    push(store, transfers(10, 400), pushes=40)
    done = threading.Event()
    totals: list[tuple[int, int, int]] = []

    def ask() -> None:
        with project.open() as reading:
            while not done.is_set() or len(totals) < 20:
                found = reading.online_features(["balance"], {"account": ACCOUNTS}, as_of=AS_OF)
                values = found.to_dict()
                sums, counts = values["balance__amount_sum"], values["balance__count"]
                totals.append((sum(filter(None, sums)), sum(counts), found.store_commit))  # type: ignore[arg-type]

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for seed in range(11, 16):
            push(store, transfers(seed, 40), pushes=8)
            store.compact()
    finally:
        done.set()
        asking.join()
    assert {total for total, _, _ in totals} == {0}
    assert all(count % 2 == 0 for _, count, _ in totals)
    # A fold changes no answer: counts move with pushes alone, and never go back.
    assert [count for _, count, _ in totals] == sorted(count for _, count, _ in totals)
    assert len({commit for _, _, commit in totals}) > 5


def _compact_slowly(root: Path) -> None:
    compaction.FIRST_ROWS = compaction.LEAST_ROWS = compaction.MOST_ROWS = 8
    with FeatureStore(root) as store:
        store.compact()


def test_law_4_a_compaction_that_is_killed_at_any_moment_loses_nothing(
    project: Transfers, store: FeatureStore
):
    push(store, transfers(20, 300), pushes=30)
    before, versions = all_answers(store), held(store.store)
    rows = sum(map(len, rows_of(store.store).values()))
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["featurestore.feature_store", __name__])
    draw = random.Random(20)
    landed = 0
    for _ in range(6):
        with store.store.snapshot() as snapshot:
            at = snapshot.commit_number
        process = processes.Process(target=_compact_slowly, args=(project.root,))
        process.start()
        wanted = at + draw.randrange(1, 4)
        while process.is_alive():
            with store.store.snapshot() as snapshot:
                if snapshot.commit_number >= wanted:
                    time.sleep(draw.random() * 0.003)
                    process.kill()
                    break
        process.join()
        landed += process.exitcode != 0
        assert held(store.store) == versions
    assert landed >= 3
    left = sum(map(len, rows_of(store.store).values()))
    assert 12 < left < rows
    assert all_answers(store) == before
    store.compact()
    assert held(store.store) == versions and all_answers(store) == before
    assert sum(map(len, rows_of(store.store).values())) == 12


def test_what_was_pushed_in_random_order_takes_at_most_twice_the_room_of_a_backfill(
    project: Transfers, store: FeatureStore, tmp_path: Path, request: pytest.FixtureRequest
):
    """The large one, of five million events, is a benchmark."""
    draw = random.Random(30)
    accounts = [f"a{number}" for number in range(500)]
    rows = transfers(31, 25_000, accounts)
    # 2 % are corrected: the same event with another amount, known a day later.
    for row in draw.sample(rows, 1_000):
        rows.append({**row, "amount": row["amount"] + 1, "known": row["known"] + DAY_US})
    draw.shuffle(rows)
    for first in range(0, len(rows), 500):
        store.ingest("transfers", table(rows[first : first + 500]))
    asked = accounts[::7]
    before = answers(store, asked), answers(store, asked, "as_of")
    pushed = _bytes_of_segments(store)
    during = []
    with between(store.store, "compact", lambda: during.append(answers(store, asked[:10]))):
        store.compact(full=True)
    assert during and all(found == [one[:10] for one in before[0]] for found in during)
    assert (answers(store, asked), answers(store, asked, "as_of")) == before
    url = str(tmp_path / "fresh.db")
    if store.store.name.startswith("store postgresql"):
        url = request.getfixturevalue("postgres").database()
    fresh = Transfers(tmp_path / "fresh", url if "://" in url else f"sqlite:///{url}")
    fresh.write(rows)
    with fresh.open() as filled:
        filled.backfill()
        assert (answers(filled, asked), answers(filled, asked, "as_of")) == before
        least = _bytes_of_segments(filled)
    assert _bytes_of_segments(store) <= 2 * least < pushed


def _bytes_of_segments(store: FeatureStore) -> int:
    """What the store takes on the disk without what was pushed, which a backfill does not keep."""
    opened = store.store
    opened.checkpoint()
    with opened.snapshot() as snapshot:
        arrivals = sum(len(one.payload) for one in snapshot.arrivals("transfers"))
    return opened.size_bytes() - arrivals
