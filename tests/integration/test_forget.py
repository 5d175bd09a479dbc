"""Forgetting: what an entity's facts were is nowhere any more, and every other answer is as if its log had
never held them.

Times are within a hundred days from 2026-01-01; questions stand inside and after them.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import random
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore import FeatureStore
from featurestore.batch import timeline_fill
from featurestore.cli.application import run
from featurestore.errors import ManifestError, RequestError
from featurestore.store import erasing, forget
from featurestore.store.forgotten import digest
from featurestore.testing.reference import Row
from tests.integration.compaction_project import held
from tests.integration.forget_project import AS_OF, BEGIN_US, CARDS, DAY_US, Project, generated

GONE = CARDS[0]


def of_card(card: object) -> Callable[[Row], bool]:
    return lambda row: row["card_id"] == card


def others(seed: int, rows: int) -> dict[str, list[Row]]:
    """Rows that are not those of ``generated``: other ids, later positions."""
    return {
        name: [{**row, "lsn": row.get("lsn", 0) + 1000, "id": f"more-{row.get('id')}"} for row in some]  # type: ignore[operator]
        for name, some in generated(seed, rows).items()
    }


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A filled project, to be copied."""
    made = Project(tmp_path_factory.mktemp("filled") / "project")
    with made.open() as store:
        made.fill(store, generated(3))
        assert made.mismatches(store) == []
    return made


@pytest.fixture
def project(filled: Project, tmp_path: Path) -> Project:
    made = Project.__new__(Project)
    made.root = tmp_path / "project"
    shutil.copytree(filled.root, made.root)
    made.rows = {name: list(rows) for name, rows in filled.rows.items()}
    made.files = filled.files
    return made


@pytest.fixture
def store(project: Project) -> Iterator[FeatureStore]:
    with project.open() as store:
        yield store


def test_every_answer_is_as_if_the_log_had_never_held_the_entity(project: Project, store: FeatureStore):
    report = store.forget({"card_id": GONE})
    assert report.entities == ("card",) and not report.before and report.purged
    assert report.erased["timelines"] == 5  # transactions by card and by three pairs, orders by card
    assert min(report.erased["facts"], report.erased["pushed_rows"]) > 0
    assert project.mismatches(store, of_card(GONE)) == []


def test_it_is_so_on_each_database(tmp_path: Path, empty_store_url: str):
    project = Project(tmp_path / "project")
    (project.root / "featurestore.toml").write_text(f'[store]\nurl = "{empty_store_url}"\n')
    with project.open() as store:
        project.fill(store, generated(8, rows=40))
        report = store.forget({"card_id": GONE})
        assert report.purged and report.erased["facts"] > 0
        assert project.mismatches(store, of_card(GONE)) == []
        store.backfill(rebuild=True)
        assert project.mismatches(store, of_card(GONE)) == []


def test_the_entity_is_answered_for_as_one_that_nobody_knows(store: FeatureStore):
    store.forget({"card_id": GONE})
    given = store.online_features(
        ["card_activity:n", "card_orders:amount_sum"], {"card_id": [GONE]}, as_of=AS_OF
    )
    response = given.to_response(full_feature_names=True)
    assert [column["values"] for column in response["results"]] == [[GONE], [0], [None]]
    assert [column["statuses"] for column in response["results"][1:]] == [["NOT_FOUND"]] * 2
    explained = store.explain_value("card_activity:n", {"card_id": GONE}, as_of=AS_OF)
    assert (explained.value, explained.status, explained.facts) == (0, "NOT_FOUND", ())


def test_no_byte_of_it_is_left_in_the_stores_files(project: Project, store: FeatureStore):
    notes = [row["note"] for rows in project.rows.values() for row in rows if row["card_id"] == GONE]
    assert len(notes) > 20
    before = project.bytes_of(GONE, *notes)
    # A note in a compressed push, or one that was superseded as a marker, is not found as text.
    assert before[GONE] > 20 and sum(n > 0 for n in before.values()) > len(notes) / 2
    store.forget({"card_id": GONE})
    assert set(project.bytes_of(GONE, f"note-{GONE}", *notes).values()) == {0}
    assert project.bytes_of(CARDS[1])[CARDS[1]] > 20


@pytest.mark.parametrize("rebuild", [False, True])
def test_a_backfill_does_not_bring_it_back(project: Project, store: FeatureStore, rebuild: bool):
    store.forget({"card_id": GONE})
    for name, rows in others(4, rows=40).items():
        project.write(name, rows)
    report = store.backfill(rebuild=rebuild)
    assert report.counts["forgotten"] > 0
    assert report.counts["delivered"] == sum(n for kind, n in report.counts.items() if kind != "delivered")
    assert project.mismatches(store, of_card(GONE)) == []
    assert project.bytes_of(GONE)[GONE] == 0


def test_folded_rows_are_erased_too_and_the_others_keep_when_they_entered(
    project: Project, store: FeatureStore
):
    for name, rows in others(7, rows=40).items():
        for part in range(4):
            project.push(store, name, rows[part::4])
    assert store.compact(full=True).commits
    assert project.mismatches(store) == []
    before = held(store.store)
    # A row of a table may be erased in another entity's timeline: its merchant's, say.
    store.forget({"card_id": GONE})
    assert project.mismatches(store, of_card(GONE)) == []
    assert project.bytes_of(GONE)[GONE] == 0
    after = held(store.store)
    assert len(after) < len(before)
    entered = {(timeline, owner, commit) for timeline, owner, commit, *_ in before}
    assert {(timeline, owner, commit) for timeline, owner, commit, *_ in after if owner} <= entered
    store.compact(full=True)
    assert held(store.store) == after


def test_a_push_of_it_is_counted_and_nothing_is_kept(project: Project, store: FeatureStore):
    store.forget({"card_id": GONE})
    with store.store.snapshot() as snapshot:
        arrivals = snapshot.last_arrival
    at = BEGIN_US + DAY_US
    event = {"id": "p1", "card_id": GONE, "merchant_id": 1, "ts": at, "amount": 5.0, "known": at,
             "gone": False, "note": "pushed"}  # fmt: skip
    report = project.push(store, "transactions", [event, {**event, "id": "p2", "card_id": CARDS[1]}])
    assert (report.accepted, report.forgotten) == (1, 1)
    report = project.push(store, "cards", [
        {"op": "u", "card_id": GONE, "country": "DE", "lsn": 999, "committed": at, "note": "pushed"}
    ])  # fmt: skip
    assert (report.accepted, report.forgotten) == (0, 1)
    with store.store.snapshot() as snapshot:
        assert snapshot.last_arrival == arrivals + 1
        counters = snapshot.counters()
    assert project.mismatches(store, of_card(GONE)) == []
    assert project.bytes_of(GONE)[GONE] == 0
    for (source, partition, kind), n in counters.items():
        if kind == "delivered":
            became = sum(
                m for (s, p, k), m in counters.items() if (s, p) == (source, partition) and k != "delivered"
            )
            assert became == n, (source, partition)


def test_a_row_that_moves_to_a_forgotten_entity_still_leaves_the_one_before(
    project: Project, store: FeatureStore
):
    """The end of what stood before is kept, pushed or not, and whoever joins later sees it, too."""
    store.forget({"card_id": GONE})
    at = BEGIN_US + 30 * DAY_US

    def order(lsn: int, card: str, merchant: int, note: str) -> dict[str, object]:
        return {"op": "u", "order_id": 77, "card_id": card, "merchant_id": merchant, "lsn": lsn,
                "committed": at + lsn, "known": at + lsn, "placed": at,
                "amount": 1.0, "note": note}  # fmt: skip

    project.push(store, "orders", [order(5001, CARDS[1], 1, "first")])
    moved = project.push(store, "orders", [order(5002, GONE, 2, "hidden away")])
    assert (moved.accepted, moved.forgotten) == (0, 1)
    assert project.mismatches(store, of_card(GONE)) == []
    assert project.bytes_of("hidden away")["hidden away"] == 0
    # Another row is known only through the forgotten entity, then enters a timeline at an earlier position.
    project.push(store, "orders", [{**order(6002, GONE, 2, "hidden away"), "order_id": 78}])
    project.push(store, "orders", [{**order(6001, CARDS[2], 3, "late"), "order_id": 78}])
    assert project.mismatches(store, of_card(GONE)) == []
    store.backfill(rebuild=True)
    assert project.mismatches(store, of_card(GONE)) == []


def test_a_row_known_only_from_a_forgotten_entity_keeps_its_ends(project: Project, store: FeatureStore):
    """The entity is forgotten after it had the row; an earlier change of the row arrives later."""
    at = BEGIN_US + 30 * DAY_US
    base = {
        "op": "u",
        "order_id": 79,
        "merchant_id": 1,
        "known": at,
        "placed": at,
        "amount": 1.0,
        "note": "x",
    }
    project.push(store, "orders", [{**base, "card_id": GONE, "lsn": 7002, "committed": at + 2}])
    store.forget({"card_id": GONE})
    project.push(store, "orders", [{**base, "card_id": CARDS[3], "lsn": 7001, "committed": at + 1}])
    assert project.mismatches(store, of_card(GONE)) == []
    online = store.online_features(["card_orders:n"], {"card_id": [CARDS[3]]}, as_of=AS_OF).to_dict()
    project.push(
        store, "orders", [{**base, "order_id": 80, "card_id": CARDS[3], "lsn": 7003, "committed": at}]
    )
    after = store.online_features(["card_orders:n"], {"card_id": [CARDS[3]]}, as_of=AS_OF).to_dict()
    assert after["card_orders__n"][0] == online["card_orders__n"][0] + 1


def test_a_key_of_several_columns_is_forgotten_as_a_whole(project: Project, store: FeatureStore):
    merchant, card = 1, CARDS[1]
    report = store.forget({"card_id": card, "merchant_id": "1"})
    assert report.entities == ("pair",) and report.columns == ("card_id", "merchant_id")
    # Only transactions are read by pairs: orders of the same card and merchant stay.
    views = ["card_activity", "merchant_activity", "pair_activity"]
    gone = [row for row in project.rows["transactions"] if (row["merchant_id"], row["card_id"]) == (1, card)]
    assert gone
    assert (
        project.mismatches(store, lambda row: (row["merchant_id"], row["card_id"]) == (merchant, card), views)
        == []
    )
    rest = ["card_orders", "merchant_orders", "card_facts", "country_facts"]
    assert project.mismatches(store, views=rest) == []


def test_two_entities_and_an_integer_key_are_forgotten_one_after_another(
    project: Project, store: FeatureStore
):
    store.forget({"card_id": GONE})
    store.forget({"merchant_id": 2})
    store.forget({"country": "DE"})
    views = ["card_activity", "merchant_activity", "pair_activity", "card_orders", "merchant_orders"]
    assert (
        project.mismatches(store, lambda row: row["card_id"] == GONE or row["merchant_id"] == 2, views) == []
    )
    store.backfill(rebuild=True)
    assert (
        project.mismatches(store, lambda row: row["card_id"] == GONE or row["merchant_id"] == 2, views) == []
    )


def test_an_entity_that_nobody_knows_can_be_forgotten_ahead(project: Project, store: FeatureStore):
    report = store.forget({"card_id": "card-later"})
    assert not report.before and not report.erased
    assert "held nothing of it" in report.text()
    at = BEGIN_US + DAY_US
    event = {"id": "later", "card_id": "card-later", "merchant_id": 1, "ts": at, "amount": 5.0, "known": at,
             "gone": False, "note": "later"}  # fmt: skip
    project.write("transactions", [event])
    store.backfill()
    assert project.mismatches(store, of_card("card-later")) == []
    assert project.bytes_of("card-later")["card-later"] == 0


def test_forgetting_twice_says_when_it_was(store: FeatureStore):
    first = store.forget({"card_id": GONE})
    again = store.forget({"card_id": GONE})
    assert again.before and again.store_commit == first.store_commit and again.erased == first.erased
    assert f"forgotten at store commit {first.store_commit}, 20" in again.text()


def test_what_is_no_entitys_key_is_refused(store: FeatureStore):
    with pytest.raises(RequestError, match="no applied entity has the key id") as error:
        store.forget({"id": "t1"})
    assert error.value.hint is not None and "card: card_id" in error.value.hint
    with pytest.raises(RequestError, match="no value"):
        store.forget({"card_id": None})
    with pytest.raises(RequestError, match="merchant_id"):
        store.forget({"merchant_id": "one"})
    with store.store.snapshot() as snapshot:
        assert snapshot.forgotten() == []


def test_later_manifests_say_what_was_forgotten_and_no_key(project: Project, store: FeatureStore):
    spine = pa.table({"card_id": CARDS, "ts": [AS_OF] * len(CARDS)})
    before = store.training_set(spine, "card_activity")
    assert before.manifest["forgotten"] == {"keys": 0, "list": []}
    report = store.forget({"card_id": GONE})
    after = store.training_set(spine, "card_activity")
    with store.store.snapshot() as snapshot:
        expected = digest(bytes.fromhex(snapshot.meta()["digest_key"]), ["card_id"], [GONE])
    assert after.manifest["forgotten"] == {
        "keys": 1,
        "list": [{"columns": ["card_id"], "digest": expected, "store_commit": report.store_commit}],
    }
    assert after.manifest["sources"]["transactions"]["entities"]["card"]["forgotten"] > 0
    assert after.manifest["content"]["sha256"] != before.manifest["content"]["sha256"]
    assert GONE not in json.dumps(after.manifest)
    was, now = (one.manifest["sources"]["transactions"]["log"]["arrivals"] for one in (before, after))
    assert (now["rows"], now["last"]) == (was["rows"], was["last"])  # numbers stay


def test_a_training_set_from_before_is_not_made_again_and_it_says_why(store: FeatureStore):
    spine = pa.table({"card_id": CARDS, "ts": [AS_OF] * len(CARDS)})
    before = store.training_set(spine, "card_activity")
    report = store.forget({"card_id": GONE})
    after = store.training_set(spine, "card_activity")
    with pytest.raises(ManifestError) as error:
        store.reproduce(before.manifest, spine)
    assert "an entity by card_id" in str(error.value) and report.digests[0] in str(error.value)
    assert f"forgotten at store commit {report.store_commit}" in str(error.value)
    assert store.reproduce(after.manifest, spine).table.equals(after.table)


def test_a_source_that_joins_the_entity_later_is_searched_then(tmp_path: Path):
    """Until a view reads it by card, nobody says that a card_id there is the same thing."""
    project = Project(tmp_path / "project")
    features = project.root / "features.py"
    whole = features.read_text()
    without = [line for line in whole.splitlines() if not line.startswith("card_orders")]
    features.write_text("\n".join(without))
    with project.open() as first:
        project.fill(first, generated(6))
        first.forget({"card_id": GONE})
        assert project.mismatches(first, views=["merchant_orders"]) == []
        assert project.mismatches(first, of_card(GONE), ["card_activity", "country_facts"]) == []
    features.write_text(whole)
    with project.open() as second:
        second.apply()
        assert project.mismatches(second, of_card(GONE), ["merchant_orders"]) == []
        second.backfill()
        assert project.mismatches(second, of_card(GONE)) == []
        assert project.bytes_of(GONE)[GONE] == 0


def test_from_the_first_commit_on_nobody_is_answered_with_it(
    project: Project, store: FeatureStore, monkeypatch: pytest.MonkeyPatch
):
    """Every commit of the erasure is a state that is right: other hosts look at it between two of them."""
    monkeypatch.setattr(erasing, "ENTITIES_A_STEP", 1)
    monkeypatch.setattr(erasing, "ROWS_A_COMMIT", 2)
    monkeypatch.setattr(forget, "PUSHES_A_COMMIT", 1)
    looks = 0
    with project.open() as other:

        def look(done: int, total: int, what: str) -> None:
            nonlocal looks
            looks += 1
            assert done <= total
            if looks % 4 == 1:
                assert project.mismatches(other, of_card(GONE)) == []

        store.forget({"card_id": GONE}, progress=look)
    assert looks > 20
    assert project.mismatches(store, of_card(GONE)) == []
    assert project.bytes_of(GONE)[GONE] == 0


def test_an_entity_is_forgotten_while_a_backfill_and_pushes_go_on(
    project: Project, monkeypatch: pytest.MonkeyPatch
):
    """The backfill reads before the key is forgotten and writes after it."""
    for name in ("LEAST_CHUNK_ROWS", "FIRST_CHUNK_ROWS", "MOST_CHUNK_ROWS"):
        monkeypatch.setattr(timeline_fill, name, 3)
    for name, rows in others(5, rows=30).items():
        project.write(name, rows)
    steps = 0
    with project.open() as filling, project.open() as forgetting:

        def meanwhile(done: int, total: int, what: str) -> None:
            nonlocal steps
            steps += 1
            if steps == 2:
                forgetting.forget({"card_id": GONE})
            elif what.startswith("orders") and steps % 5 == 0:
                forgetting.forget({"card_id": f"nobody-{steps}"})

        filling.backfill(rebuild=True, progress=meanwhile)
        assert steps > 10
        assert project.mismatches(filling, of_card(GONE)) == []
    assert project.bytes_of(GONE)[GONE] == 0


# Killed


def run_forget(root: Path) -> None:
    erasing.ENTITIES_A_STEP, erasing.ROWS_A_COMMIT, forget.PUSHES_A_COMMIT = 2, 3, 1
    with FeatureStore(root) as store:
        store.forget({"card_id": GONE}, progress=lambda done, total, what: time.sleep(0.005))


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["featurestore.batch.backfill", "featurestore.feature_store", __name__])
    return context


def started(processes: ForkServerContext, root: Path) -> ForkServerProcess:
    process = processes.Process(target=run_forget, args=(root,))
    process.start()
    return process


def commits(database: Path) -> int:
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        return int(connection.execute("SELECT max(number) FROM commits").fetchone()[0])


def test_killed_at_any_moment_it_is_gone_on_with(project: Project, processes: ForkServerContext):
    database = project.root / ".featurestore" / "store.db"
    whole = project.root.with_name("whole")
    shutil.copytree(project.root, whole)
    before = commits(database)
    process = started(processes, whole)
    process.join(60)
    assert process.exitcode == 0
    total = commits(whole / ".featurestore" / "store.db") - before
    assert total > 12
    draw, kills = random.Random(7), 0
    for moment in sorted(draw.sample(range(1, total), 8)):
        process = started(processes, project.root)
        while process.is_alive() and commits(database) < before + moment:
            time.sleep(0.0005)
        process.kill()
        process.join(60)
        kills += process.exitcode != 0
        with project.open() as store:
            views = ["card_activity", "merchant_orders"]
            assert project.mismatches(store, of_card(GONE), views) == []
    assert kills >= 6
    with project.open() as store:
        report = store.forget({"card_id": GONE})
        assert report.before and report.purged
        with FeatureStore(whole) as other:
            assert report.erased == other.forget({"card_id": GONE}).erased
        assert project.mismatches(store, of_card(GONE)) == []
    assert project.bytes_of(GONE)[GONE] == 0


@settings(deadline=None, max_examples=6, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 10**6), data=st.data())
def test_any_history_with_any_keys_forgotten_answers_as_the_oracle_does(
    tmp_path_factory: pytest.TempPathFactory, seed: int, data: st.DataObject
):
    made = Project(tmp_path_factory.mktemp("any") / "project")
    cards = data.draw(st.lists(st.sampled_from(CARDS), min_size=1, max_size=2, unique=True))
    ahead = data.draw(st.booleans())
    with made.open() as store:
        store.apply()
        store.backfill()
        if ahead:
            store.forget({"card_id": cards[0]})
        made.fill(store, generated(seed, rows=30))
        for card in cards:
            store.forget({"card_id": card})
        if data.draw(st.booleans()):
            for name, rows in generated(seed, rows=30).items():
                made.push(store, name, rows)
        if data.draw(st.booleans()):
            store.backfill(rebuild=True)
        assert made.mismatches(store, lambda row: row["card_id"] in cards) == []
        for card in cards:
            assert made.bytes_of(card)[card] == 0


# The command


def test_the_command_asks_first_and_names_the_way_out(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    at = ["-C", str(project.root), "forget"]
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert run([*at, "--entity", f"card_id={GONE}"]) == 1
    told = capsys.readouterr().err
    assert "looked for in" in told and "nothing was forgotten" in told
    assert run([*at, "-e", f"card_id={GONE}", "--yes", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["entities"] == ["card"] and not told["forgotten_before"] and told["purged"]
    assert GONE not in json.dumps(told)
    assert run([*at, "-e", f"card_id={GONE}", "--yes"]) == 0
    assert "forgotten at store commit" in capsys.readouterr().out
    assert run([*at, "-e", "card_id=a", "-e", "card_id=b", "--yes"]) == 2
    assert "one by one" in capsys.readouterr().err
    assert run([*at, "-e", "cart_id=a", "--yes"]) == 1
    assert "no applied entity has the key cart_id" in capsys.readouterr().err
