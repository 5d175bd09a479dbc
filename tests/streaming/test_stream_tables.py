"""Tables through Kafka: changes, flat and in envelopes, give what a backfill of the same messages gives."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import FeatureStore
from tests.integration.backfill_project import BEGIN_US, DAY_US
from tests.services.kafka import Broker
from tests.streaming.stream_project import new_topic, project, read_to_end, send, stream_counts, totals

CARDS = [f"c{number}" for number in range(12)]
AS_OF = "2026-04-10T00:00:00Z"

TABLE_PY = """
from featurestore import Entity, FeatureView, JSONLines, KafkaTopic, TableSource, agg

card = Entity("card", key="card_id")
orders = TableSource("orders", {log} topic={topic}, primary_key="id", event_time="ts", {roles}
    columns={{"id": "int64", "card_id": "string", "ts": "timestamp", "amount": "float64"}})
activity = FeatureView("activity", entity=card, source=orders, features=[
    agg.count(name="n"), agg.sum("amount", windows=["30d"]), agg.last("amount"), agg.min("amount"),
])
"""
FLAT = 'changed_at="at", position="lsn",'
DEBEZIUM = 'format="debezium",'

Change = dict[str, Any]


def changes(seed: int, count: int) -> list[Change]:
    """Rows that are inserted, changed, given to other cards, deleted, and inserted again."""
    draw = random.Random(seed)
    made: list[Change] = []
    rows: dict[int, Change] = {}
    for lsn in range(1, count + 1):
        key = draw.randrange(60)
        at = BEGIN_US + lsn * 1_000_000
        before = rows.get(key)
        if before is not None and draw.random() < 0.15:
            made.append({"op": "d", "before": before, "after": None, "lsn": lsn, "at": at})
            del rows[key]
            continue
        after = {
            "id": key,
            "card_id": draw.choice([*CARDS, None]),
            "ts": f"2026-{draw.randrange(1, 4):02}-{draw.randrange(1, 28):02}T0{draw.randrange(10)}:00:00Z",
            "amount": draw.randrange(1_000) / 8,
        }
        made.append({"op": "u" if before else "c", "before": before, "after": after, "lsn": lsn, "at": at})
        rows[key] = after
    return made


def flat(one: Change) -> bytes:
    row = one["after"] or {"id": one["before"]["id"]}
    at = {"op": one["op"], "lsn": one["lsn"], "at": _iso(one["at"])}
    return json.dumps({**row, **at}).encode()


def envelope(one: Change) -> bytes:
    origin = {"connector": "postgresql", "lsn": one["lsn"], "ts_ms": one["at"] // 1_000}
    return json.dumps(
        {"before": one["before"], "after": one["after"], "op": one["op"], "source": origin}
    ).encode()


def wrapped(one: Change) -> bytes:
    """As Kafka Connect writes it with schemas enabled."""
    types = {"id": "int64", "card_id": "string", "ts": "string", "amount": "double"}
    row = {
        "type": "struct",
        "optional": True,
        "fields": [{"field": name, "type": kind, "optional": True} for name, kind in types.items()],
    }
    fields = [row | {"field": "before"}, row | {"field": "after"}, {"type": "string", "field": "op"}]
    schema = {"type": "struct", "fields": fields, "name": "orders.Envelope"}
    return json.dumps({"schema": schema, "payload": json.loads(envelope(one))}).encode()


def _iso(at_us: int) -> str:
    from featurestore.dtypes import instant_text

    return instant_text(at_us)


def answers(store: FeatureStore) -> list[Any]:
    return [
        store.online_features(["activity"], {"card_id": CARDS}, as_of=AS_OF, known_at=known_at)
        .to_arrow()
        .to_pydict()
        for known_at in (None, "as_of", "2026-01-01T00:05:00Z")
    ]


def declared(
    root: Path, broker: Broker, name: str, roles: str, *, log: str = "", topic: str | None = None
) -> Path:
    project(root, broker, name, batch=90)
    text = "None" if topic is None else f'KafkaTopic("{topic}")'
    (root / "features.py").write_text(TABLE_PY.format(log=log, topic=text, roles=roles))
    return root


@pytest.mark.parametrize(
    ("value", "roles"),
    [(flat, FLAT), (envelope, DEBEZIUM), (wrapped, DEBEZIUM)],
    ids=["flat", "debezium", "debezium with its schema"],
)
def test_a_table_through_kafka_answers_as_a_backfill_of_its_log(
    tmp_path: Path, broker: Broker, value: Callable[[Change], bytes], roles: str
):
    made = changes(5, 400)
    values: Sequence[bytes] = [value(one) for one in made]
    topic = new_topic(broker)
    logged = declared(tmp_path / "log", broker, topic, roles, log='log=JSONLines("data/*.jsonl"),')
    (logged / "data" / "all.jsonl").write_bytes(b"\n".join(values) + b"\n")
    with FeatureStore(logged) as store:
        store.apply()
        store.backfill()
        expected = answers(store)

    root = declared(tmp_path / "stream", broker, topic, roles, topic=topic)
    with FeatureStore(root) as store:
        store.apply()
        draw = random.Random(6)
        # Connectors send deletes twice over: as a change, and as a tombstone for the topic's own cleaning.
        sent: list[bytes | None] = [*values, *draw.sample(values, 40), None, None]
        draw.shuffle(sent)
        send(broker, topic, sent, partitions=[draw.randrange(3) for _ in sent])
        read_to_end(root, archive=True)
        assert answers(store) == expected
        counts = totals(stream_counts(store, topic))
        assert (counts["delivered"], counts["duplicate"], counts["ignored"]) == (442, 40, 2)
        assert "dead_lettered" not in counts

        # What the stream archived is the table's log for a training set.
        spine = pa.table(
            {"card_id": CARDS, "ts": pa.array([BEGIN_US + 99 * DAY_US] * 12, pa.timestamp("us", "UTC"))}
        )
        offline = store.training_set(spine, ["activity"]).to_arrow()
        for name in offline.column_names[2:]:
            assert offline.column(name).to_pylist() == expected[0][name]

        # What is forgotten leaves the archive, too; what ends its rows elsewhere stays.
        held = [one for one in _archived(root, "card_id") if one is not None]
        assert CARDS[0] in held
        assert store.forget({"card_id": CARDS[0]}).erased["archived_files"] >= 1
        left = [one for one in _archived(root, "card_id") if one is not None]
        assert sorted(left) == sorted(one for one in held if one != CARDS[0])
        offline = store.training_set(spine, ["activity"]).to_arrow()
        online = answers(store)[0]
        for name in offline.column_names[2:]:
            assert offline.column(name).to_pylist() == online[name]


def _archived(root: Path, column: str) -> list[object]:
    files = sorted((root / ".featurestore" / "archive").rglob("*.parquet"))
    return [one for file in files for one in pq.ParquetFile(file).read().column(column).to_pylist()]


def test_a_record_that_names_its_row_in_the_key_alone_is_read(tmp_path: Path, broker: Broker):
    topic = new_topic(broker, partitions=1)
    root = declared(tmp_path, broker, topic, DEBEZIUM, topic=topic)
    with FeatureStore(root) as store:
        store.apply()
        (made,) = changes(1, 1)
        gone = {"op": "d", "before": None, "after": None, "lsn": 9, "at": BEGIN_US + 9_000_000}
        keys = [json.dumps({"id": made["after"]["id"]}).encode()] * 2
        send(broker, topic, [envelope(made), envelope(gone)], keys=keys)
        read_to_end(root)
        counts = totals(stream_counts(store, topic))
        assert counts.get("accepted", 0) + counts.get("keyless", 0) == counts["delivered"] == 2
        got = store.online_features(["activity:n"], {"card_id": CARDS}).to_dict()
        assert got["activity__n"] == [0] * 12


EVENTS_PY = """
from featurestore import Entity, EventSource, FeatureView, KafkaTopic, agg

card = Entity("card", key="card_id")
clicks = EventSource("clicks", topic=KafkaTopic("{topic}"{options}), event_time="ts", id="id",
    available_at="seen",
    columns={{"id": "string", "card_id": "string", "ts": "timestamp", "seen": "timestamp"}})
activity = FeatureView("activity", entity=card, source=clicks, features=[agg.count(name="n")])
"""


def test_a_records_timestamp_tells_when_it_was_known(tmp_path: Path, broker: Broker):
    topic = new_topic(broker, 1, **{"retention.ms": "-1"})
    root = project(tmp_path, broker, topic)
    (root / "features.py").write_text(EVENTS_PY.format(topic=topic, options=', timestamp_column="seen"'))
    with FeatureStore(root) as store:
        store.apply()
        one = json.dumps({"id": "a", "card_id": "c1", "ts": "2026-01-01T00:00:00Z", "seen": None}).encode()
        known_ms = (BEGIN_US + DAY_US) // 1_000
        send(broker, topic, [one], timestamps_ms=[known_ms])
        read_to_end(root, archive=True)
        spine = pa.table(
            {"card_id": ["c1"], "ts": pa.array([BEGIN_US + 5 * DAY_US], pa.timestamp("us", "UTC"))}
        )
        for known_at, expected in (("2026-01-02T00:00:00Z", 0), ("2026-01-02T00:00:00.001Z", 1)):
            got = store.online_features(["activity:n"], {"card_id": ["c1"]}, known_at=known_at).to_dict()
            assert got["activity__n"] == [expected]
            offline = store.training_set(spine, ["activity:n"], known_at=known_at).to_arrow()
            assert offline.column("activity__n").to_pylist() == [expected]


def test_events_out_of_envelopes_and_in_connects_wrapper(tmp_path: Path, broker: Broker):
    topic = new_topic(broker, partitions=1)
    root = project(tmp_path, broker, topic)
    row = {"id": "a", "card_id": "c1", "ts": "2026-01-01T00:00:00Z", "seen": None}
    (root / "features.py").write_text(EVENTS_PY.format(topic=topic, options=', format="debezium"'))
    with FeatureStore(root) as store:
        store.apply()
        sent = [
            json.dumps({"before": None, "after": row, "op": "c"}),
            json.dumps({"schema": None, "payload": {"before": None, "after": row | {"id": "b"}, "op": "r"}}),
            json.dumps({"before": row, "after": None, "op": "d"}),
        ]
        send(broker, topic, [one.encode() for one in sent])
        read_to_end(root)
        assert totals(stream_counts(store, topic)) == {"accepted": 2, "dead_lettered": 1, "delivered": 3}
    plain = new_topic(broker, partitions=1)
    other = project(tmp_path / "plain", broker, plain)
    (other / "features.py").write_text(EVENTS_PY.format(topic=plain, options=""))
    with FeatureStore(other) as store:
        store.apply()
        send(broker, plain, [json.dumps({"schema": {"type": "struct"}, "payload": row}).encode()])
        read_to_end(other)
        assert totals(stream_counts(store, plain)) == {"accepted": 1, "delivered": 1}
