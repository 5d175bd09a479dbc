"""Messages that can't be read become dead letters with their bytes and reason; nothing else is lost."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from kafka import KafkaConsumer, TopicPartition

from featurestore import FeatureStore
from featurestore.store.dead_letters import DeadLetter, read_dead_letters
from tests.integration.backfill_project import answers, row
from tests.services.kafka import Broker
from tests.streaming.stream_project import (
    declare,
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

GOOD = value(row(1))
DEEP = b"[" * 100_000
POISON: list[tuple[str, bytes, str]] = [
    ("no JSON", b"{not json", "no JSON object"),
    ("cut off", GOOD[:-5], "no JSON object"),
    ("an array", b"[1, 2]", "no JSON object"),
    ("a number", b"17", "no JSON object"),
    ("empty", b"", "no JSON object"),
    ("NaN", GOOD.replace(b"1.0", b"NaN"), "no JSON object"),
    ("nested beyond reason", b'{"amount": ' + DEEP, "no JSON object"),
    ("a wrong type", GOOD.replace(b"1.0", b'"much"'), 'column "amount" holds no float64'),
    ("a list for a number", GOOD.replace(b"1.0", b"[1]"), 'column "amount" holds no float64'),
    ("a time that is none", value(row(1) | {"ts": "yesterday"}), 'column "ts" holds no timestamp'),
    ("no id", value(row(1) | {"transaction_id": None}), "no id"),
    ("no event time", value(row(1) | {"ts": None}), "no event time"),
    ("invalid UTF-8", GOOD.replace(b"t1", b"t\xff\xfe"), "no UTF-8"),
    ("ten megabytes", GOOD[:-1] + b', "pad": "' + b"x" * 10_000_000 + b'"}', "10,000,1"),
]


def applied(root: Path) -> Path:
    with FeatureStore(root) as store:
        store.apply()
    return root


def letters(root: Path) -> list[DeadLetter]:
    with FeatureStore(root) as store, store.store.snapshot() as snapshot:
        return read_dead_letters(snapshot)


def copies(broker: Broker, topic: str) -> dict[int, tuple[bytes | None, dict[str, bytes]]]:
    """Offset of the original -> value and headers of its copy; a copy that came twice is once here."""
    with closing(
        KafkaConsumer(bootstrap_servers=broker.bootstrap, group_id=None, max_partition_fetch_bytes=20_000_000)
    ) as consumer:
        at = TopicPartition(topic, 0)
        consumer.assign([at])
        consumer.seek_to_beginning(at)
        end = consumer.end_offsets([at])[at]
        found = {}
        while consumer.position(at) < end:
            for one in consumer.poll(timeout_ms=1_000).get(at, []):
                headers = dict(one.headers)
                found[int(headers["offset"])] = (one.value, headers)
    return found


def test_each_kind_of_poison_is_a_dead_letter_with_its_bytes_and_reason(tmp_path: Path, broker: Broker):
    topic = new_topic(broker, partitions=1)
    root = applied(project(tmp_path, broker, topic))
    send(
        broker,
        topic,
        [GOOD, *(bad for _, bad, _ in POISON), None, b"null", value(row(2) | {"card_id": None})],
    )
    read_to_end(root)
    found = letters(root)
    assert [one.offset for one in found] == list(range(1, len(POISON) + 1))
    for one, (what, bad, reason) in zip(found, POISON, strict=True):
        assert one.value == bad, what
        assert reason in one.reason, (what, one.reason)
        assert (one.source, one.topic, one.partition) == ("transactions", topic, 0)
    with FeatureStore(root) as store:
        counts = totals(stream_counts(store, topic))
        assert counts == {
            "accepted": 1,
            "dead_lettered": len(POISON),
            "ignored": 2,
            "keyless": 1,
            "delivered": len(POISON) + 4,
        }
        assert store.online_features(["activity:n"], {"card_id": ["c1"]}).to_dict()["activity__n"] == [1]
    copied = copies(broker, f"{topic}.dead-letters")
    assert {offset: held for offset, (held, _) in copied.items()} == {one.offset: one.value for one in found}
    assert copied[1][1] == {
        "source": b"transactions", "topic": topic.encode(), "partition": b"0", "offset": b"1",
        "reason": found[0].reason.encode(),
    }  # fmt: skip


@pytest.mark.parametrize("messages", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_one_per_cent_poison_among_many_messages_stops_nothing(tmp_path: Path, broker: Broker, messages: int):
    topic = new_topic(broker)
    root = applied(project(tmp_path / "poisoned", broker, topic, batch=1_000))
    draw = random.Random(6)
    values, partitions, poisoned = [], [], set()
    offsets = [0, 0, 0]
    good = []
    short = [bad for _, bad, _ in POISON if len(bad) < 1_000]
    for number in range(messages):
        partition = draw.randrange(3)
        if draw.random() < 0.01:
            values.append(draw.choice(short))
            poisoned.add((partition, offsets[partition]))
        else:
            one = row(number, card=f"c{draw.randrange(40)}", day=draw.randrange(90))
            good.append(value(one))
            values.append(good[-1])
        partitions.append(partition)
        offsets[partition] += 1
    send(broker, topic, values, partitions=partitions)
    worker = started(root)
    with FeatureStore(root) as store:
        deadline_s = time.monotonic() + 120
        seen = 0
        while seen < messages:
            assert time.monotonic() < deadline_s and worker.poll() is None
            time.sleep(0.05)
            seen = sum(one.next_offset for one in stands(store).values())
            if messages // 3 < seen < messages and not worker.returncode:
                # Once, in the middle.
                worker.kill()
                worker.communicate()
                worker = started(root)
                seen = 0
                while seen < messages:
                    assert time.monotonic() < deadline_s and worker.poll() is None
                    time.sleep(0.05)
                    seen = sum(one.next_offset for one in stands(store).values())
        time.sleep(0.5)
        stopped(worker)
        assert {(one.partition, one.offset) for one in letters(root)} == poisoned
        counts = totals(stream_counts(store, topic))
        assert counts == {
            "accepted": len(good), "dead_lettered": len(poisoned), "delivered": messages
        }  # fmt: skip
        clean = new_topic(broker)
        other = applied(project(tmp_path / "clean", broker, clean))
        send(broker, clean, good, partitions=[number % 3 for number in range(len(good))])
        read_to_end(other)
        with FeatureStore(other) as expected:
            assert answers(store, 40) == answers(expected, 40)


def command(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = "from featurestore.cli import main; raise SystemExit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, "-C", str(root), "dead-letters", *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_dead_letters_are_listed_retried_and_discarded(tmp_path: Path, broker: Broker):
    topic = new_topic(broker, partitions=1)
    root = project(tmp_path, broker, topic)
    features = root / "features.py"
    right = features.read_text()
    features.write_text(right.replace('"amount": "float64"', '"amount": "int64"'))
    applied(root)
    send(broker, topic, [value(row(1, amount=1.0)), value(row(2, amount=2.5)), b"{", b"\xff"])
    read_to_end(root)
    listed = json.loads(command(root, "list", "--json").stdout)
    assert [one["letter"] for one in listed] == [f"{topic}/0/{offset}" for offset in (1, 2, 3)]
    assert listed[1]["value"] == {"text": "{"} and listed[2]["value"] == {"base64": "/w=="}
    assert listed[0]["time"] is not None and "amount" in listed[0]["reason"]
    assert f"{topic}/0/1" in command(root, "list").stdout

    # What was a fault of the declaration is mended there.
    features.write_text(right)
    applied(root)
    retried = command(root, "retry", "--json")
    assert retried.returncode == 1
    report = json.loads(retried.stdout)
    assert report["counts"] == {"accepted": 1, "still dead": 2}
    assert [one["offset"] for one in report["still_dead"]] == [2, 3]
    with FeatureStore(root) as store:
        assert totals(stream_counts(store, topic)) == {"accepted": 2, "dead_lettered": 2, "delivered": 4}
    read_to_end(root)
    with FeatureStore(root) as store:
        got = store.online_features(["activity:n", "activity:amount_sum"], {"card_id": ["c1"]}).to_dict()
        assert (got["activity__n"], got["activity__amount_sum"]) == ([2], [3.5])

    assert command(root, "discard", f"{topic}/0/9").returncode == 2
    assert json.loads(command(root, "discard", f"{topic}/0/2", "--json").stdout) == {"discarded": 1}
    assert [one.offset for one in letters(root)] == [3]
    with FeatureStore(root) as store:
        assert totals(stream_counts(store, topic))["dead_lettered"] == 2


def test_a_dead_letter_topic_of_another_name_is_used(tmp_path: Path, broker: Broker):
    topic = new_topic(broker, partitions=1)
    root = project(tmp_path, broker, topic)
    declare(root, topic, options=f', dead_letters="{topic}-bad"')
    applied(root)
    send(broker, topic, [b"{"], keys=[b"the key"])
    read_to_end(root)
    assert copies(broker, f"{topic}-bad")[0][0] == b"{"
    assert letters(root)[0].key == b"the key"
