"""``featurestore verify``: what was answered is computed once more; what is damaged on purpose is found, with
the facts responsible, and what is not damaged is not."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from api_project import served, write_project
from sqlalchemy import update

from featurestore import FeatureStore, clock
from featurestore.batch import verify as verifying
from featurestore.dtypes import STRING, instant_text
from featurestore.log.request_files import SCHEMA, read_answers, request_files, rewrite_answers
from featurestore.store.delivery import Layout
from featurestore.store.entity_key import encode_key
from featurestore.store.payload import encode_versions, reader
from featurestore.store.records import SegmentRow
from featurestore.store.tables import segments
from tests.integration.verify_project import MIDNIGHT, Verified, at, envelope, payment

C1 = encode_key(["c1"], [STRING])

EVERY = ("spend", "visits", "book", "abroad")


def filled(made: Verified) -> Verified:
    """Facts of every kind, backfilled."""
    made.pay("1", [
        payment("p1", "09:00:00", 0.1, price="1.10", kind="a", xs=[0.5, float("nan")], raw="AAE="),
        payment("p2", "10:00:00", 0.2, price="2.20", kind="b", xs=[], user="u2"),
        payment("p3", "10:30:00", float("nan"), card="c2", price="3.30", kind="a"),
    ])  # fmt: skip
    made.pay("2", [payment("p4", "11:00:00", 0.3, price="12345678901234567.89", kind="a", known="12:00:00")])
    made.append("clicks.jsonl", *({"card": "c1", "ts": at("09:00:00"), "n": n} for n in (1, 1, 2)))
    made.order("1", [
        {"order": "o1", "card": "c1", "lsn": 1, "changed": at("08:00:00"), "amount": 0.5, "op": "c"},
        {"order": "o2", "card": "c1", "lsn": 2, "changed": at("08:00:00"), "amount": 0.25, "op": "c"},
        {"order": "o1", "card": "c2", "lsn": 3, "changed": at("09:00:00"), "amount": 0.75, "op": "u"},
    ])  # fmt: skip
    made.append(
        "users.jsonl",
        envelope("c", 1, "08:00:00", {"id": "u1", "country": "de", "score": 1.5}),
        envelope("c", 2, "08:00:00", {"id": "u2", "country": "fr", "score": 2.5}),
        envelope("u", 3, "10:15:00", {"id": "u1", "country": "us", "score": 3.5}),
    )
    assert made.project.backfill().counts["rejected"] == 0
    return made


def ask_everything(made: Verified) -> None:
    for known_at in (None, "as_of", at("11:30:00")):
        made.ask(*EVERY, known_at=known_at)
        made.ask(*EVERY, as_of=at("10:00:00.000001"), known_at=known_at)
        made.ask("home", ids=["u1", "u2", "nobody"], known_at=known_at)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Verified]:
    project = filled(Verified(tmp_path / "project"))
    yield project
    project.project.close()


@pytest.fixture
def on_each_store(tmp_path: Path, empty_store_url: str) -> Iterator[Verified]:
    project = filled(Verified(tmp_path / "project", empty_store_url))
    yield project
    project.project.close()


def command(made: Verified, *arguments: str) -> subprocess.CompletedProcess[str]:
    made.project.close()
    run = "import sys; from featurestore.cli import main; sys.exit(main())"
    line = [sys.executable, "-c", run, "-C", str(made.directory), "verify", *arguments]
    try:
        return subprocess.run(line, env=os.environ, capture_output=True, text=True, check=False)
    finally:
        made.open()


def test_what_is_whole_verifies_to_the_bit(on_each_store: Verified) -> None:
    made = on_each_store
    ask_everything(made)
    made.project.ingest("payments", [payment("p5", "12:00:00", -0.0, card="c2", xs=[1e300, 1e-300])])
    made.project.ingest("orders", [
        {"order": "o2", "lsn": 4, "changed": at("10:00:00"), "op": "d"},
        {"op": "t", "lsn": 5, "changed": at("12:00:00")},
        {"order": "o9", "card": "c2", "lsn": 6, "changed": at("12:30:00"), "amount": 9.0, "op": "c"},
    ])  # fmt: skip
    ask_everything(made)
    found = made.verify()
    assert found.ok and found.answers == found.equal == found.compared, found.text()
    assert found.answers > 500 and not found.missing and not found.skipped and not found.unverified
    # The answers of before the pushes don't know what had not entered.
    assert found.freshness.facts >= 3 and found.freshness.questions >= 4


def test_a_stored_row_that_is_gone_is_named_as_lost_and_the_command_fails(on_each_store: Verified) -> None:
    made = on_each_store
    made.ask("spend", cards=["c1"])
    before = command(made)
    assert before.returncode == 0 and "12 equal to the bit" in before.stdout
    assert made.lose("payments", rows=lambda row: row.entity_key == C1) > 0
    found = made.verify()
    assert not found.ok and found.lost == 3 and found.differing > 5
    assert {fact.id["id"] for fact in found.lost_facts} == {"p1", "p2", "p4"}
    lost = next(fact for fact in found.lost_facts if fact.id["id"] == "p1")
    assert (lost.what, lost.side, lost.place) == ("lost", "log", "payments/1.parquet, row 1")
    total = next(one for one in found.differences if one.feature == "spend@1:x_sum")
    assert total.logged[0] == "0.6" and total.computed[:2] == ("null", "NOT_FOUND")
    assert [fact.id["id"] for fact in total.facts] == ["p1", "p2", "p4"]
    assert {fact.what for fact in total.facts} == {"lost"} and "lost facts" in total.because
    after = command(made)
    assert after.returncode == 1 and "lost: payments id=p1" in after.stdout


def test_one_ulp_in_the_request_log_is_a_difference(made: Verified) -> None:
    ask_everything(made)
    made.alter("x_sum", lambda value: value if value is None else math.nextafter(value, math.inf))
    found = made.verify(limit=1)
    assert not found.ok and found.differing >= 3 and not found.lost and not found.missing
    [one] = found.differences
    assert one.feature == "spend@1:x_sum" and "no fact explains it" in one.because
    assert {(fact.id["id"], fact.side) for fact in one.facts} <= {
        ("p1", "both"),
        ("p2", "both"),
        ("p4", "both"),
    }
    assert float(one.logged[0]) == math.nextafter(float(one.computed[0]), math.inf)


def test_a_status_and_an_event_timestamp_are_compared_like_a_value(made: Verified) -> None:
    made.ask("visits", cards=["c1"])
    [file] = request_files(made.directory / ".featurestore/requests")
    rows = read_answers(file).to_pylist()
    rows[0]["status"] = "NOT_FOUND"
    rows[1]["event_timestamp"] = rows[1]["as_of"]
    rewrite_answers(file, pa.Table.from_pylist(rows, schema=SCHEMA))
    assert made.verify().differing == 2


def test_a_file_that_is_gone_from_the_log_is_missing_and_fails_only_when_strict(made: Verified) -> None:
    ask_everything(made)
    (made.directory / "payments" / "2.parquet").unlink()
    found = made.verify()
    assert found.ok and found.missing == 1 and found.unverified > 0 and not found.differing
    [fact] = found.missing_facts
    assert (fact.id["id"], fact.side, fact.place) == ("p4", "store", "")
    assert found.equal + found.unverified == found.compared
    assert command(made).returncode == 0
    strict = command(made, "--strict")
    assert strict.returncode == 1 and "missing from the log: payments id=p4" in strict.stdout


def test_what_is_missing_does_not_hide_what_differs(made: Verified) -> None:
    made.ask("spend", cards=["c1"])
    (made.directory / "payments" / "2.parquet").unlink()
    made.alter("price_sum", lambda value: "1.00")
    found = made.verify()
    assert found.differing == 1 and found.differences[0].feature == "spend@1:price_sum"


def test_a_late_file_that_is_not_loaded_is_freshness_and_no_fault(made: Verified) -> None:
    made.ask("spend")
    made.pay("3", [
        payment("late", "10:00:00", 5.0),
        payment("of nobody who was asked", "10:00:00", 5.0, card="elsewhere"),
        payment("after the question", "10:00:00", 7.0) | {"ts": "2026-03-04T00:00:00Z"},
    ])  # fmt: skip
    found = made.verify()
    assert found.ok and found.equal == found.answers and not found.lost
    assert (found.freshness.facts, found.freshness.questions) == (1, 1)
    oldest = clock.now() - 1_772_445_601_000_000
    assert oldest - 3_600_000_000 < (found.freshness.oldest_us or 0) <= oldest
    assert command(made).returncode == 0
    made.project.backfill()
    again = made.verify()
    assert again.ok and again.freshness.facts == 1 and again.equal == again.answers


def test_a_correction_that_entered_after_the_answer_has_no_part_in_it(made: Verified) -> None:
    before = made.ask("spend", cards=["c1"])
    made.project.ingest("payments", [payment("p1", "09:00:00", 100.0, known="13:00:00")])
    after = made.ask("spend", cards=["c1"])
    assert before["spend__x_sum"] != after["spend__x_sum"]
    found = made.verify()
    assert found.ok and found.equal == found.answers and found.freshness.facts == 1


def test_a_redelivery_that_was_known_earlier_counts_since_it_entered(made: Verified) -> None:
    made.ask("spend", known_at=at("11:30:00"))
    made.project.ingest("payments", [payment("p4", "11:00:00", 0.3, price="12345678901234567.89", kind="a")])
    made.ask("spend", known_at=at("11:30:00"))
    # A later delivery of what is known is a duplicate: neither lost nor fresh.
    made.pay("3", [payment("p1", "09:00:00", 0.1, price="1.10", kind="a", xs=[0.5, float("nan")], raw="AAE=",
                           known="20:00:00")])  # fmt: skip
    made.project.backfill()
    made.ask("spend", known_at=at("11:30:00"))
    found = made.verify()
    assert found.ok and found.equal == found.answers and not found.missing, found.text()
    assert found.freshness.facts == 1


def test_of_equal_events_without_id_each_one_is_looked_for(made: Verified) -> None:
    made.ask("visits", cards=["c1"])
    assert made.verify().ok
    made.lose("clicks")
    found = made.verify()
    assert found.lost == 3 and found.differing == 3
    assert sorted(fact.place for fact in found.lost_facts) == [f"clicks.jsonl, row {i}" for i in (2, 3, 4)]


def test_a_log_that_has_one_equal_event_less_misses_one(made: Verified) -> None:
    made.ask("visits", cards=["c1"])
    lines = (made.directory / "clicks.jsonl").read_text().splitlines(keepends=True)
    (made.directory / "clicks.jsonl").write_text("".join([lines[0], *lines[2:]]))
    found = made.verify()
    assert found.ok and found.missing == 1 and found.unverified == 2 and not found.lost


def test_what_a_push_brought_and_the_store_lost_is_named(made: Verified) -> None:
    made.project.ingest("payments", [payment("pushed", "12:00:00", 4.0)])
    made.ask("spend", cards=["c1"])
    with made.project.store.snapshot() as snapshot:
        last = snapshot.commit_number
    assert made.lose("payments", rows=lambda row: row.commit_number == last) == 1
    found = made.verify()
    [fact] = found.lost_facts
    assert (fact.id["id"], fact.place) == ("pushed", "pushed rows, row 1") and found.differing


def test_what_the_store_says_entered_after_it_had_taken_its_file_was_lost_to_the_answers_before(
    made: Verified,
) -> None:
    made.ask("spend", cards=["c1"])
    made.project.ingest("payments", [payment("p9", "12:00:00", 1.0, card="c2")])
    with made.project.store.commit("damage", now_us=clock.now()) as commit:
        mine = segments.c.entity_key == C1
        commit._connection.execute(update(segments).where(mine).values(commit_number=commit.number))
    made.ask("spend", cards=["c1"])
    found = made.verify()
    assert not found.ok and found.lost >= 3 and found.equal >= 12
    assert {one.store_commit for one in found.differences} < set(range(commit.number))
    assert {fact.id["id"] for fact in found.lost_facts if "id" in fact.id} >= {"p1", "p2", "p4"}


def test_content_that_was_changed_in_the_store_is_not_taken_for_the_logs(made: Verified) -> None:
    with made.project.store.snapshot() as snapshot:
        [timeline] = [
            one for one in snapshot.timeline_versions()
            if one.source == "payments" and one.entity == "card" and snapshot.stored_rows(one.id, [C1])
        ][:1]  # fmt: skip
        rows = snapshot.stored_rows(timeline.id, [C1])
    schema = Layout.of(timeline).stored
    for row in rows:
        table, _ = reader(schema).read([row.payload])
        values = [value + 1.0 for value in table.column("x").to_pylist()]
        place = table.schema.get_field_index("x")
        other = table.set_column(place, schema.field("x"), [values])
        with made.project.store.commit("damage", now_us=clock.now()) as commit:
            commit.rewrite(
                timeline.id, row,
                SegmentRow(row.entity_key, row.level, row.start, row.versions, encode_versions(other)),
            )  # fmt: skip
    made.ask("spend", cards=["c1"])
    found = made.verify()
    assert not found.ok and not found.lost and not found.missing
    one = next(one for one in found.differences if one.feature == "spend@1:x_sum")
    assert "other content" in one.because
    assert {fact.id["id"] for fact in one.facts} == {"p1", "p2", "p4"}


# Tables and lookups


def test_a_tables_lost_changes_are_named(made: Verified) -> None:
    made.project.ingest("orders", [{"order": "o2", "lsn": 4, "changed": at("10:00:00"), "op": "d"}])
    made.ask("book", cards=["c1", "c2"])
    with made.project.store.snapshot() as snapshot:
        last = snapshot.commit_number
    assert made.lose("orders", rows=lambda row: row.commit_number == last) == 1
    found = made.verify()
    assert found.lost == 1 and found.lost_facts[0].id == {"order": "o2"}
    one = next(one for one in found.differences if one.feature == "book@1:count")
    assert (one.logged[0], one.computed[0]) == ("0", "1")
    assert [fact.id for fact in one.facts] == [{"order": "o2"}] and one.facts[0].what == "lost"


def test_a_lost_truncate_is_named(made: Verified) -> None:
    made.order("2", [{"op": "t", "lsn": 9, "changed": at("12:00:00")}] * 2)
    made.project.backfill()
    made.ask("book", cards=["c1"])
    assert made.verify().ok
    made.lose_truncates()
    found = made.verify()
    assert found.lost == 1 and found.lost_facts[0].changed_at and found.differing == 2
    assert "lost facts" in found.differences[0].because


def test_a_truncate_that_is_not_loaded_yet_and_one_that_is_missing(made: Verified) -> None:
    made.ask("book", cards=["c1"])
    path = made.order("2", [{"op": "t", "lsn": 9, "changed": at("12:00:00")}])
    assert made.verify().ok
    made.project.backfill()
    made.ask("book", cards=["c1"])
    assert made.verify().ok
    path.unlink()
    found = made.verify()
    assert found.ok and found.missing == 1 and found.unverified == 2


def test_a_debezium_tables_lost_rows_are_found_where_they_are_asked_and_where_they_are_looked_up(
    made: Verified,
) -> None:
    made.ask("home", ids=["u1"])
    made.ask("abroad", cards=["c1"])
    assert made.verify().ok
    assert made.lose("users") > 0
    found = made.verify()
    assert {fact.id["id"] for fact in found.lost_facts} == {"u1", "u2"}
    features = {one.feature for one in found.differences}
    assert {"home@1:country_last", "abroad@1:country_last", "abroad@1:in_de"} <= features
    looked_up = next(one for one in found.differences if one.feature == "abroad@1:in_de")
    assert "looks up" in looked_up.because


def test_a_change_of_what_is_looked_up_counts_since_it_entered(made: Verified) -> None:
    before = made.ask("abroad", cards=["c1"])
    made.append("users.jsonl", envelope("u", 4, "08:30:00", {"id": "u1", "country": "at", "score": 0.0}))
    made.project.backfill()
    after = made.ask("abroad", cards=["c1"])
    assert before != after
    found = made.verify()
    assert found.ok and found.equal == found.answers, found.text()


def test_answers_of_a_server_that_takes_pushes_and_backfills_meanwhile_verify(tmp_path: Path) -> None:
    project = write_project(tmp_path / "project", settings="[request_log]\nsample = 1.0\n")
    commits: set[int] = set()
    given: list[int] = []
    with served(project) as server:
        body = {"features": ["kinds", "spend", "delays:count"], "as_of": MIDNIGHT, "known_at": "as_of",
                "entities": {"card": ["c1", "c2"], "line": ["a", "b"], "run": [1, 1]}}  # fmt: skip

        def push(number: int) -> None:
            row = {"id": f"n{number % 25}", "card": f"c{number % 3}", "ts": at("11:00:00"), "x": number / 7}
            known = {"known": at(f"12:00:{number % 60:02}"), "xs": [number / 3, None, -0.0], "n": number}
            response = server.client.post("/ingest/payments", json=[row | known])
            assert response.status_code == 200

        def ask(number: int) -> None:
            horizon = ["as_of", None, at("12:00:30")][number % 3]
            response = server.client.post("/get-online-features", json=body | {"known_at": horizon})
            assert response.status_code == 200
            answer = response.json()
            commits.add(answer["metadata"]["store_commit"])
            given.append(2 * (len(answer["results"]) - len(body["entities"])))

        with ThreadPoolExecutor(4) as threads:
            asked = [threads.submit(one, i) for i in range(120) for one in (push, ask)]
            with FeatureStore(project) as other:
                other.backfill()
                for _ in range(3):
                    assert other.verify().ok
                other.compact()
            for one in asked:
                one.result()
    with FeatureStore(project) as store:
        found = store.verify()
    assert found.ok and found.equal == found.answers, found.text()
    assert len(commits) >= 20 and found.answers == sum(given) > 1_000


# What can't be compared


def test_answers_of_dropped_versions_and_other_stores_are_counted_with_their_reason(
    made: Verified, tmp_path: Path
) -> None:
    made.ask("visits", cards=["c1"])
    declared = (made.directory / "features.py").read_text()
    (made.directory / "features.py").write_text(
        declared.replace('agg.last("n"), agg.sum("n")', 'agg.last("n")')
    )
    made.project.close()
    made.open()
    made.project.apply()
    pinned = made.verify()
    assert pinned.ok and pinned.equal == 3
    made.ask("visits", cards=["c1"])
    made.project.drop_version("visits", 1)
    found = made.verify()
    assert found.ok and found.equal == 2 and dict(found.skipped) == {verifying.DROPPED: 3}
    other = filled(Verified(tmp_path / "other"))
    other.project.settings.request_log.directory = str(made.directory / ".featurestore/requests")
    stranger = other.verify()
    assert stranger.ok and dict(stranger.skipped) == {verifying.OTHER_STORE: 5}
    other.project.close()


def test_answers_from_before_a_key_was_forgotten_are_skipped_where_they_differ(made: Verified) -> None:
    made.ask("abroad", cards=["c1", "c2"])
    made.ask("spend", cards=["c1", "c2"])
    made.project.forget({"id": "u1"})
    made.project.forget({"card": "c2"})
    made.ask("abroad", cards=["c1", "c2"])
    found = made.verify()
    assert found.ok and found.skipped[verifying.FORGOTTEN] >= 1 and not found.lost and not found.missing
    assert found.equal + found.skipped.total() == found.answers


def test_a_store_that_is_older_than_its_answers_fails(made: Verified) -> None:
    made.project.close()
    whole = {path: path.read_bytes() for path in (made.directory / ".featurestore").glob("store.db*")}
    made.open()
    made.project.ingest("payments", [payment("p9", "12:00:00", 1.0)])
    made.ask("visits", cards=["c1"])
    made.project.close()
    for path in (made.directory / ".featurestore").glob("store.db*"):
        path.unlink()
    for path, content in whole.items():
        path.write_bytes(content)
    made.open()
    found = made.verify()
    assert not found.ok and found.ahead == 3 and "does not have" in found.text()


def test_a_view_that_looks_up_what_was_filled_anew_is_skipped(made: Verified) -> None:
    made.ask("abroad", cards=["c1"])
    made.project.backfill(["home"], rebuild=True)
    made.ask("abroad", cards=["c1"])
    found = made.verify()
    assert found.ok and found.equal + found.skipped[verifying.REBUILT] == found.answers == 6


# Choosing


def test_answers_are_chosen_by_time_and_by_sample(made: Verified, monkeypatch: pytest.MonkeyPatch) -> None:
    times = []
    for _ in range(6):
        times.append(clock.now())
        made.ask("visits", cards=["c1"])
    text = instant_text
    assert made.verify(since=text(times[4])).answers == 6
    assert made.verify(until=text(times[1])).answers == 3
    assert made.verify(since=text(times[1]), until=text(times[3])).answers == 6
    assert made.verify(since=text(clock.now())).text().startswith("no answer is logged")
    sampled = made.verify(sample=4)
    assert (
        sampled.answers == 6 and made.verify(sample=1).answers == 3 and made.verify(sample=99).answers == 18
    )
    monkeypatch.setattr("featurestore.batch.logged.ANSWERS_AT_ONCE", 4)
    done: list[tuple[int, int, str]] = []
    assert made.verify(progress=lambda *told: done.append(told)).equal == 18
    assert done[-1] == (18, 18, "answers") and len(done) > 3


def test_the_command_tells_it_as_json(made: Verified) -> None:
    made.ask("spend", cards=["c1"], as_of=MIDNIGHT)
    made.alter("x_sum", lambda value: 7.0)
    run = command(made, "--json", "--since", "2026-01-01T00:00:00Z")
    told: dict[str, Any] = json.loads(run.stdout)
    assert run.returncode == 1 and told["differing"] == 1 and not told["ok"]
    [one] = told["differences"]
    assert one["logged"]["value"] == "7.0" and one["keys"] == '{"card":"c1"}' and one["as_of"] == MIDNIGHT
    assert command(made, "--since", "yesterday").returncode == 2
