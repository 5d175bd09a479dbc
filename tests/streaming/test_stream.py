"""Law 4 on a real broker: what is streamed is what a backfill of the same rows gives, bit for bit."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka.errors import KafkaConnectionError

from featurestore import FeatureStore
from featurestore.errors import RequestError, StreamError
from featurestore.store.dead_letters import LetterKey, remove_dead_letter
from streaming.settings import NEEDS_A_PERSON
from streaming.worker import Worker
from tests.integration.backfill_project import Row, answers, messy_rows, row, write
from tests.integration.backfill_project import project as log_project
from tests.services.kafka import Broker
from tests.streaming.stream_project import (
    LOG,
    declare,
    make_topic,
    new_topic,
    project,
    read_to_end,
    send,
    stands,
    started,
    stopped,
    stream_counts,
    totals,
    value,
)

CARDS = 40
ROWS = messy_rows(3, 2_000, cards=CARDS)


def backfilled(root: Path, rows: Sequence[Row]) -> list[dict[str, object]]:
    """The answers of a store that was filled from the rows as a log."""
    log_project(root)
    write(root, "all.parquet", rows)
    with FeatureStore(root) as store:
        store.apply()
        store.backfill()
        return answers(store, CARDS)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    return backfilled(tmp_path_factory.mktemp("log"), ROWS)


def applied(root: Path) -> Path:
    with FeatureStore(root) as store:
        store.apply()
    return root


@pytest.mark.parametrize("batch", [170, 5_000])
def test_a_stream_gives_the_answers_of_a_backfill(
    tmp_path: Path, broker: Broker, batch: int, expected: list[dict[str, object]]
):
    topic = new_topic(broker)
    root = applied(project(tmp_path, broker, topic, batch=batch))
    draw = random.Random(batch)
    shuffled = [*ROWS, *draw.sample(ROWS, 200)]
    draw.shuffle(shuffled)
    send(broker, topic, [value(one) for one in shuffled], partitions=[draw.randrange(3) for _ in shuffled])
    report = read_to_end(root)
    assert report.switched == ["activity@1"]
    with FeatureStore(root) as store:
        assert answers(store, CARDS) == expected
        counts = totals(stream_counts(store, topic))
        assert counts["delivered"] == 2_200 and counts["keyless"] > 0 and counts["dead_lettered"] > 0
    assert read_to_end(root).commits == 0


def test_a_view_over_a_topic_is_served_when_all_that_was_there_is_read(tmp_path: Path, broker: Broker):
    topic = new_topic(broker)
    root = applied(project(tmp_path, broker, topic))
    send(broker, topic, [value(row(1))])
    with FeatureStore(root) as store:
        with pytest.raises(RequestError, match="not filled yet"):
            store.online_features(["activity"], {"card_id": ["c1"]})
        assert read_to_end(root).switched == ["activity@1"]
        assert store.online_features(["activity:n"], {"card_id": ["c1"]}).to_dict()["activity__n"] == [1]


def test_a_log_and_a_topic_with_the_same_events_count_them_once(
    tmp_path: Path, broker: Broker, expected: list[dict[str, object]]
):
    topic = new_topic(broker)
    root = project(tmp_path, broker, topic, log=LOG, batch=100)
    write(root, "old.parquet", ROWS[:1_300])
    applied(root)
    send(broker, topic, [value(one) for one in ROWS[700:]], partitions=[i % 3 for i in range(1_300)])
    worker = started(root)
    with FeatureStore(root) as store:
        # The stream runs while the backfill does.
        deadline_s = time.monotonic() + 60
        while not stands(store) and time.monotonic() < deadline_s:
            time.sleep(0.01)
        store.backfill()
        while sum(one.next_offset for one in stands(store).values()) < 1_300:
            assert time.monotonic() < deadline_s and worker.poll() is None
            time.sleep(0.02)
        time.sleep(0.3)
        stopped(worker)
        assert answers(store, CARDS) == expected
        stream_counts(store, topic)
        with store.store.snapshot() as snapshot:
            counters = snapshot.counters()
    new = sum(n for key, n in counters.items() if key.kind in ("accepted", "corrected"))
    with FeatureStore(tmp_path) as store, store.store.snapshot() as snapshot:
        # Kept besides are versions that are now known to have been available earlier.
        assert new <= snapshot.sizes()[1].versions <= new + 30


def test_the_command_reads_to_the_end_and_reports(tmp_path: Path, broker: Broker):
    topic = new_topic(broker, partitions=1)
    root = applied(project(tmp_path, broker, topic))
    send(broker, topic, [value(row(number)) for number in range(5)])
    command = [sys.executable, "-c", "from featurestore.cli import main; raise SystemExit(main())"]
    done = subprocess.run(
        [*command, "-C", str(root), "stream", "--until-end", "--json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (report,) = json.loads(done.stdout)
    assert report["partitions"][f"transactions:{topic}/0"]["accepted"] == 5


def test_a_worker_ends_by_itself_when_it_is_asked_to(tmp_path: Path, broker: Broker):
    topic = new_topic(broker)
    root = applied(project(tmp_path, broker, topic))
    send(broker, topic, [value(row(number)) for number in range(50)])
    worker = started(root, 0, "--json")
    with FeatureStore(root) as store:
        deadline_s = time.monotonic() + 60
        while sum(one.next_offset for one in stands(store).values()) < 50:
            assert time.monotonic() < deadline_s and worker.poll() is None
            time.sleep(0.02)
    out, _ = stopped(worker)
    counts = json.loads(out)["partitions"]
    assert sum(one["accepted"] for one in counts.values()) == 50


def test_a_new_version_catches_up_before_it_is_served(
    tmp_path: Path, broker: Broker, expected: list[dict[str, object]]
):
    topic = new_topic(broker)
    root = applied(project(tmp_path, broker, topic, batch=300))
    values = [value(one) for one in ROWS]
    partitions = [i % 3 for i in range(len(values))]
    send(broker, topic, values[:1_500], partitions=partitions[:1_500])
    assert read_to_end(root).switched == ["activity@1"]

    # Another id makes other timelines: all messages are read again, beside the version that is served.
    declare(root, topic, options="")
    features = root / "features.py"
    features.write_text(
        features.read_text().replace('id="transaction_id"', 'id=["transaction_id", "card_id"]')
    )
    with FeatureStore(root) as store:
        store.apply()
        served = store.online_features(["activity:n"], {"card_id": ["c1"]}).view_versions
        send(broker, topic, values[1_500:], partitions=partitions[1_500:])
        report = read_to_end(root)
        assert report.switched == ["activity@2"]
        assert store.online_features(["activity:n"], {"card_id": ["c1"]}).view_versions != served
        assert answers(store, CARDS) == expected
        # Both versions stand at the same position, and what was read again is counted on its own.
        assert {n: one.next_offset for n, one in stands(store, [1, 2]).items()} == {
            n: partitions.count(n) for n in range(3)
        }
        assert totals(stream_counts(store, topic))["delivered"] == 2_000
        with store.store.snapshot() as snapshot:
            again = [n for key, n in snapshot.counters().items() if key.partition.endswith("@2")
                     and key.kind == "delivered"]  # fmt: skip
        assert 0 < sum(again) <= 2_000


def test_a_position_that_the_topic_no_longer_holds_stops_the_worker(tmp_path: Path, broker: Broker):
    topic = new_topic(broker, partitions=1)
    root = applied(project(tmp_path, broker, topic))
    send(broker, topic, [value(row(number)) for number in range(10)])
    read_to_end(root)
    send(broker, topic, [value(row(number)) for number in range(10, 30)])
    with closing(KafkaAdminClient(bootstrap_servers=broker.bootstrap)) as admin:
        delete_records(admin, topic, before=25)
    with pytest.raises(StreamError, match=r"position 10 in partition 0 .* offsets 25 to 30") as raised:
        read_to_end(root)
    assert "messages 10 to 24 were deleted" in str(raised.value)
    assert "--accept-gap" in str(raised.value)
    with FeatureStore(root) as store:
        assert stands(store)[0].next_offset == 10
        read_to_end(root, accept_gap=True)
        counts = stream_counts(store, topic)[0]
        assert (counts["accepted"], counts["skipped"], counts["delivered"]) == (15, 15, 30)


def test_a_topic_that_was_deleted_and_made_again_is_another_topic(tmp_path: Path, broker: Broker):
    topic = new_topic(broker, partitions=1)
    root = applied(project(tmp_path, broker, topic))
    send(broker, topic, [*(value(row(number)) for number in range(9)), b"{"])
    read_to_end(root)

    def make_again() -> None:
        with closing(KafkaAdminClient(bootstrap_servers=broker.bootstrap)) as admin:
            admin.delete_topics([topic])
            while topic in admin.list_topics():
                time.sleep(0.02)
        make_topic(broker, topic, 1)

    make_again()
    # As many messages as the one before, and some more: its offsets alone tell nothing.
    send(broker, topic, [value(row(number)) for number in range(5, 25)])
    with pytest.raises(
        StreamError, match=r"in the topic with id \S+, which was deleted; .* has id \S+"
    ) as raised:
        read_to_end(root)
    assert "--accept-gap" in str(raised.value)
    with pytest.raises(StreamError, match="1 dead letters"):
        read_to_end(root, accept_gap=True)
    with FeatureStore(root) as store:
        with store.store.commit("dead letters", now_us=1) as commit:
            assert remove_dead_letter(commit, LetterKey("transactions", topic, 0, 9))
        assert stands(store)[0].next_offset == 10
        read_to_end(root, accept_gap=True)
        counts = stream_counts(store, topic)[0]
        assert (counts["accepted"], counts["duplicate"], counts["delivered"]) == (25, 4, 30)
        assert stands(store)[0].next_offset == 20
        # And under a worker that has it.
        worker = started(root)
        try:
            assert worker.stderr is not None
            while "takes" not in worker.stderr.readline():
                assert worker.poll() is None
            make_again()
            send(broker, topic, [value(row(number)) for number in range(25, 75)])
            _, said = worker.communicate(timeout=90)
        finally:
            worker.kill()
        # By its id; or, before the brokers tell of that, by offsets that end too early.
        assert worker.returncode == NEEDS_A_PERSON
        assert "which was deleted" in said or "the topic was made anew" in said
        assert totals(stream_counts(store, topic))["delivered"] == 30


def delete_records(admin: KafkaAdminClient, topic: str, *, before: int) -> None:
    from kafka import TopicPartition

    admin.delete_records({TopicPartition(topic, 0): before})


def test_what_a_producer_has_aborted_is_not_read(tmp_path: Path, broker: Broker):
    topic = new_topic(broker, partitions=1)
    root = applied(project(tmp_path, broker, topic))
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap, transactional_id=topic)
    producer.init_transactions()
    for number, commits in ((1, True), (2, False), (3, True)):
        producer.begin_transaction()
        producer.send(topic, value(row(number)))
        if commits:
            producer.commit_transaction()
        else:
            producer.flush()
            producer.abort_transaction()
    producer.close()
    read_to_end(root)
    with FeatureStore(root) as store:
        counts = stream_counts(store, topic)[0]
        # Three messages and the broker's three marks of how each transaction ended.
        assert (counts["accepted"], counts["ignored"], counts["delivered"]) == (2, 4, 6)


def test_a_partition_that_is_added_is_read_from_its_first_message(tmp_path: Path, broker: Broker):
    from kafka.admin import NewPartitions

    topic = new_topic(broker, partitions=1)
    root = applied(project(tmp_path, broker, topic))
    send(broker, topic, [value(row(1))])
    read_to_end(root)
    with closing(KafkaAdminClient(bootstrap_servers=broker.bootstrap)) as admin:
        admin.create_partitions({topic: NewPartitions(2)})
    send(broker, topic, [value(row(2))], partitions=[1])
    read_to_end(root)
    with FeatureStore(root) as store:
        assert {number: one.next_offset for number, one in stands(store).items()} == {0: 1, 1: 1}


def test_brokers_that_are_not_there_are_said(tmp_path: Path, broker: Broker):
    root = applied(project(tmp_path, broker, "any"))
    settings = root / "featurestore.toml"
    settings.write_text(
        settings.read_text().replace(
            f'"{broker.bootstrap}"', '"127.0.0.1:1"\nclient = {bootstrap_timeout_ms = 500}'
        )
    )
    worker = started(root)
    _, said = worker.communicate(timeout=60)
    assert worker.returncode == 1
    assert "error: the brokers at 127.0.0.1:1 can't be used" in said and "Traceback" not in said


def test_a_message_whose_reading_was_cut_short_is_read_again(
    tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
):
    topic = new_topic(broker, partitions=1)
    root = applied(project(tmp_path, broker, topic))
    send(broker, topic, [value(row(number)) for number in range(10)])
    consume, failed = Worker._consume, []

    def cut_short(self: Worker, polled: Any) -> None:
        if polled and not failed:
            failed.append(polled)
            raise KafkaConnectionError("the broker is gone")
        consume(self, polled)

    monkeypatch.setattr(Worker, "_consume", cut_short)
    read_to_end(root)
    assert failed
    with FeatureStore(root) as store:
        assert totals(stream_counts(store, topic)) == {"accepted": 10, "delivered": 10}


def test_what_is_forgotten_does_not_come_back_through_a_topic(tmp_path: Path, broker: Broker):
    topic = new_topic(broker, partitions=1)
    root = applied(project(tmp_path, broker, topic))
    send(broker, topic, [value(row(1, card="c1")), value(row(2, card="c2"))])
    read_to_end(root, archive=True)
    with FeatureStore(root) as store:
        report = store.forget({"card_id": "c1"})
        assert report.erased["archived_files"] == 1
        assert _archived(root) == ["t2"]
        send(broker, topic, [value(row(3, card="c1")), value(row(4, card="c2"))])
        read_to_end(root, archive=True)
        got = store.online_features(["activity:n"], {"card_id": ["c1", "c2"]}).to_dict()
        assert got["activity__n"] == [0, 2]
        counts = stream_counts(store, topic)[0]
        assert (counts["accepted"], counts["forgotten"], counts["delivered"]) == (3, 1, 4)
    assert _archived(root) == ["t2", "t4"]


def _archived(root: Path) -> list[str]:
    files = sorted((root / ".featurestore" / "archive").rglob("*.parquet"))
    return [one for file in files for one in pq.ParquetFile(file).read().column("transaction_id").to_pylist()]


def test_a_topic_that_is_not_there_is_said(tmp_path: Path, broker: Broker):
    root = applied(project(tmp_path, broker, "no-such-topic"))
    with pytest.raises(StreamError, match='there is no topic "no-such-topic"'):
        read_to_end(root)
