"""What was served while a topic was consumed is verified from its archive, or from the log beside it."""

from __future__ import annotations

import random
from pathlib import Path

from featurestore import FeatureStore
from tests.integration.backfill_project import messy_rows, write
from tests.integration.verify_project import log_answer, lose
from tests.services.kafka import Broker
from tests.streaming.stream_project import LOG, new_topic, project, read_to_end, send, value

CARDS = 20
ROWS = messy_rows(5, 600, cards=CARDS)
AS_OF = "2026-04-01T00:00:00Z"


def ask(store: FeatureStore, id: str) -> None:
    cards = [f"c{i}" for i in range(CARDS)]
    for known_at in (None, "2026-02-15T00:00:00Z", "as_of"):
        vectors = store.online_features("activity", {"card_id": cards}, as_of=AS_OF, known_at=known_at)
        log_answer(store, f"{id}, {known_at}", vectors)


def deliver(root: Path, broker: Broker, topic: str, part: slice) -> None:
    draw = random.Random(part.start)
    rows = [*ROWS[part], *draw.sample(ROWS[: part.stop], 20)]
    send(broker, topic, [value(one) for one in rows], partitions=[draw.randrange(3) for _ in rows])
    read_to_end(root, archive=True)


def test_a_streams_archive_verifies_what_was_served_and_names_what_the_store_has_lost(
    tmp_path: Path, broker: Broker
):
    topic = new_topic(broker)
    root = project(tmp_path, broker, topic, batch=50)
    with FeatureStore(root) as store:
        store.apply()
        for first in (0, 200, 400):
            deliver(root, broker, topic, slice(first, first + 200))
            ask(store, str(first))
        found = store.verify()
        assert found.ok and found.equal == found.answers > 1_000 and not found.missing, found.text()
        assert found.freshness.facts > 100
        store.compact()
        assert store.verify().equal == found.equal
        # What the last answers were made of is gone: it lay below the positions.
        assert lose(store, "transactions", lambda row: row.entity_key.startswith(b"c7\x00")) > 0
        damaged = store.verify()
        assert not damaged.ok and damaged.lost > 10 and damaged.differing > 0
        [one, *_] = damaged.lost_facts
        assert one.entity == '{"card_id":"c7"}' and f"topic-{topic}/partition-" in one.place
        assert {fact.side for fact in damaged.lost_facts} == {"log"}
        assert all('"c7"' in each.keys for each in damaged.differences)


def test_a_topic_that_is_ahead_of_the_log_beside_it_is_told_as_missing(tmp_path: Path, broker: Broker):
    topic = new_topic(broker)
    root = project(tmp_path, broker, topic, log=LOG, batch=100)
    write(root, "old.parquet", ROWS[:300])
    with FeatureStore(root) as store:
        store.apply()
        send(broker, topic, [value(one) for one in ROWS[250:]], partitions=[i % 3 for i in range(350)])
        store.backfill()
        read_to_end(root)
        ask(store, "ahead")
        found = store.verify()
        assert found.ok and found.missing > 100 and found.unverified > 0 and not found.lost, found.text()
        assert found.equal + found.unverified == found.answers
        write(root, "new.parquet", ROWS[300:])
        again = store.verify()
        assert again.ok and again.equal == again.answers and not again.missing, again.text()
