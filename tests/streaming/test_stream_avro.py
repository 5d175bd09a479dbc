"""Avro through Kafka with a schema registry: the answers of the same rows in JSON, dead letters for what is
no message, patience with a registry that is away."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from featurestore import FeatureStore
from featurestore.store.dead_letters import read_dead_letters
from streaming.settings import NEEDS_A_PERSON
from tests.integration.backfill_project import Row, answers, messy_rows, row
from tests.services.avro import message
from tests.services.kafka import Broker
from tests.services.schema_registry import Registry
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
from tests.streaming.test_stream_tables import (
    AS_OF,
    DEBEZIUM,
    FLAT,
    TABLE_PY,
    Change,
    changes,
    envelope,
    flat,
)
from tests.streaming.test_stream_tables import answers as table_answers

AVRO = ', format="avro"'
MICROS = {"type": "long", "logicalType": "timestamp-micros"}


def record(name: str, **fields: Any) -> dict[str, Any]:
    made = [{"name": field, "type": schema} for field, schema in fields.items()]
    return {"type": "record", "name": name, "fields": made}


TRANSACTION = record(
    "transaction", transaction_id=["null", "string"], card_id=["null", "string"], ts=["null", MICROS],
    amount=["null", "double"], recorded_at=["null", MICROS], gone=["null", "boolean"],
)  # fmt: skip


@pytest.fixture
def registry() -> Iterator[Registry]:
    running = Registry()
    yield running
    running.stop()


def avro_project(root: Path, broker: Broker, topic: str, registry: Registry, **options: Any) -> Path:
    project(root, broker, topic, options=AVRO, **options)
    return with_registry(root, registry)


def with_registry(root: Path, registry: Registry) -> Path:
    settings = root / "featurestore.toml"
    text = settings.read_text().replace("[streaming]\n", f'[streaming]\nschema_registry = "{registry.url}"\n')
    settings.write_text(text)
    return root


def dead(root: Path) -> dict[int, str]:
    with FeatureStore(root) as store, store.store.snapshot() as snapshot:
        return {one.offset: one.reason for one in read_dead_letters(snapshot)}


def command(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = "from featurestore.cli import main; raise SystemExit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, "-C", str(root), "dead-letters", *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_rows_in_avro_answer_as_the_same_rows_in_json_and_poison_is_a_dead_letter(
    tmp_path: Path, broker: Broker, registry: Registry
):
    rows = messy_rows(21, 600, cards=20)
    as_json, as_avro = new_topic(broker), new_topic(broker)
    partitions = [number % 3 for number in range(len(rows))]
    number = registry.register("transactions-value", TRANSACTION)
    values = [message(number, TRANSACTION, one) for one in rows]
    good = message(number, TRANSACTION, row(1))
    poison = [good[:-2], good + b"\0", b"\1" + good[1:], value(row(1)), b"\0\0\0\0\x63" + good[5:]]
    expected_root = project(tmp_path / "json", broker, as_json, batch=100)
    root = avro_project(tmp_path / "avro", broker, as_avro, registry, batch=100)
    send(broker, as_json, [value(one) for one in rows], partitions=partitions)
    send(broker, as_avro, [*values, *poison, None], partitions=[*partitions, *([0] * len(poison)), 0])
    with FeatureStore(expected_root) as expected, FeatureStore(root) as store:
        for one in (expected, store):
            one.apply()
        read_to_end(expected_root)
        read_to_end(root)
        assert answers(store, 20) == answers(expected, 20)
        wanted, counts = totals(stream_counts(expected, as_json)), totals(stream_counts(store, as_avro))
        more = {"delivered": len(poison) + 1, "dead_lettered": len(poison), "ignored": 1}
        assert counts == {kind: wanted.get(kind, 0) + more.get(kind, 0) for kind in {*wanted, *more}}
    assert sum(path == f"/schemas/ids/{number}" for path in registry.asked) == 1


def test_a_dead_letter_of_an_unknown_schema_is_read_once_it_is_registered(
    tmp_path: Path, broker: Broker, registry: Registry
):
    topic = new_topic(broker, partitions=1)
    root = avro_project(tmp_path, broker, topic, registry)
    with FeatureStore(root) as store:
        store.apply()
    narrow = record("transaction", transaction_id="string", card_id="string", ts=MICROS)
    send(broker, topic, [message(1, narrow, row(1)), message(2, TRANSACTION, row(2)), b"\0"])
    read_to_end(root)
    assert dead(root) == {
        0: "schema 1 is unknown to the schema registry",
        1: "schema 2 is unknown to the schema registry",
        2: "no Avro of a schema registry: it doesn't begin with a zero byte and a schema's id",
    }
    registry.stop()
    early = command(root, "retry")
    assert early.returncode == 1 and "doesn't answer" in early.stderr and len(dead(root)) == 3
    registry.start()
    registry.register("transactions-value", narrow)
    registry.register("transactions-value", TRANSACTION)
    retried = command(root, "retry", "--json")
    assert json.loads(retried.stdout)["counts"] == {"accepted": 2, "still dead": 1}, retried.stderr
    with FeatureStore(root) as store:
        assert totals(stream_counts(store, topic)) == {"accepted": 2, "dead_lettered": 1, "delivered": 3}
        got = store.online_features(["activity:n", "activity:amount_sum"], {"card_id": ["c1"]}).to_dict()
        # The older schema has no amount: it is null.
        assert (got["activity__n"], got["activity__amount_sum"]) == ([2], [1.0])


def test_a_worker_waits_for_a_registry_that_is_away_and_no_message_is_lost(
    tmp_path: Path, broker: Broker, registry: Registry
):
    topic = new_topic(broker, partitions=2)
    root = avro_project(tmp_path, broker, topic, registry, batch=50)
    number = registry.register("transactions-value", TRANSACTION)
    rows = [row(i, card=f"c{i % 7}", day=i % 80) for i in range(400)]
    values = [message(number, TRANSACTION, one) for one in rows]
    partitions = [i % 2 for i in range(400)]
    with FeatureStore(root) as store:
        store.apply()
        other = registry.register("transactions-value", {**TRANSACTION, "doc": "again"})
        registry.broken = 503
        worker = started(root)
        try:
            send(broker, topic, values[:200], partitions=partitions[:200])
            wait_until(worker, lambda: registry.asked.count(f"/schemas/ids/{number}") > 3)
            assert taken(store) == 0
            registry.broken = 0
            wait_until(worker, lambda: taken(store) == 200)
            # A schema that it knows needs no registry any more; another one does.
            registry.stop()
            send(broker, topic, values[200:300], partitions=partitions[200:300])
            wait_until(worker, lambda: taken(store) == 300)
            anew = [message(other, TRANSACTION, one) for one in rows[300:]]
            send(broker, topic, anew, partitions=partitions[300:])
            time.sleep(2)
            assert worker.poll() is None and taken(store) == 300
            registry.start()
            wait_until(worker, lambda: taken(store) == 400)
            _, said = stopped(worker)
        finally:
            worker.kill()
            worker.communicate()
        assert f"the schema registry at {registry.url} doesn't answer: HTTP status 503, trying again" in said
        assert totals(stream_counts(store, topic)) == {"accepted": 400, "delivered": 400}
    assert dead(root) == {}


def taken(store: FeatureStore) -> int:
    return sum(one.next_offset for one in stands(store).values())


def wait_until(worker: subprocess.Popen[str], what: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 60
    while not what():
        assert worker.poll() is None and time.monotonic() < deadline_s
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("schema_registry", "said"),
    [
        ("", 'topic "TOPIC" is Avro, and no schema registry is named'),
        ("/elsewhere", "can't be used: GET /schemas/ids/1"),
    ],
)
def test_a_worker_whose_registry_can_never_answer_ends_and_says_why(
    tmp_path: Path, broker: Broker, registry: Registry, schema_registry: str, said: str
):
    topic = new_topic(broker, partitions=1)
    root = project(tmp_path, broker, topic, options=AVRO)
    if schema_registry:
        with_registry(root, registry)
        settings = root / "featurestore.toml"
        settings.write_text(settings.read_text().replace(registry.url, registry.url + schema_registry))
    with FeatureStore(root) as store:
        store.apply()
    send(broker, topic, [message(1, TRANSACTION, row(1))])
    worker = started(root)
    _, errors = worker.communicate(timeout=60)
    assert (
        worker.returncode == NEEDS_A_PERSON and said.replace("TOPIC", topic) in errors and "hint: " in errors
    )


# Tables and envelopes


ORDER = record(
    "orders.Value", id="long", card_id=["null", "string"],
    ts={"type": "long", "connect.name": "io.debezium.time.MicroTimestamp"}, amount="double",
)  # fmt: skip
ORIGIN = record("orders.Source", connector="string", lsn="long", ts_ms="long")
ENVELOPE = record(
    "orders.Envelope", before=["null", ORDER], after=["null", "orders.Value"], source=ORIGIN, op="string",
    ts_ms=["null", "long"],
)  # fmt: skip
FLAT_ORDER = record(
    "order", id="long", card_id=["null", "string"], ts=["null", MICROS], amount=["null", "double"],
    op="string", lsn="long", at=MICROS,
)  # fmt: skip
KEY = record("orders.Key", id="long")


def as_row(one: Row | None) -> Row | None:
    return None if one is None else {**one, "ts": us(str(one["ts"]))}


def us(text: str) -> int:
    from datetime import UTC, datetime, timedelta

    return (datetime.fromisoformat(text) - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1)


def avro_envelope(number: int, one: Change) -> bytes:
    # As a connector whose table has no full replica identity: a delete says by its key alone what it deletes.
    origin = {"connector": "postgresql", "lsn": one["lsn"], "ts_ms": one["at"] // 1_000}
    before = None if one["op"] == "d" else as_row(one["before"])
    held = {"before": before, "after": as_row(one["after"]), "source": origin, "op": one["op"], "ts_ms": None}
    return message(number, ENVELOPE, held)


def avro_flat(number: int, one: Change) -> bytes:
    held = as_row(one["after"]) or {"id": one["before"]["id"], "card_id": None, "ts": None, "amount": None}
    return message(number, FLAT_ORDER, {**held, "op": one["op"], "lsn": one["lsn"], "at": one["at"]})


@pytest.mark.parametrize(
    ("in_json", "in_avro", "schema", "roles"),
    [(flat, avro_flat, FLAT_ORDER, FLAT), (envelope, avro_envelope, ENVELOPE, DEBEZIUM)],
    ids=["flat", "debezium"],
)
def test_a_table_in_avro_answers_as_the_same_table_in_json(
    tmp_path: Path,
    broker: Broker,
    registry: Registry,
    in_json: Callable[[Change], bytes],
    in_avro: Callable[[int, Change], bytes],
    schema: Any,
    roles: str,
):
    made = changes(7, 300)
    number, of_keys = registry.register("orders-value", schema), registry.register("orders-key", KEY)
    found = []
    for kind, values, keys in (
        ("json", [in_json(one) for one in made], None),
        (
            "avro",
            [in_avro(number, one) for one in made],
            [message(of_keys, KEY, {"id": (one["after"] or one["before"])["id"]}) for one in made],
        ),
    ):
        topic = new_topic(broker)
        root = with_registry(project(tmp_path / kind, broker, topic, batch=90), registry)
        declared = f'KafkaTopic("{topic}", format="{kind}")'
        (root / "features.py").write_text(TABLE_PY.format(log="", topic=declared, roles=roles))
        with FeatureStore(root) as store:
            store.apply()
            send(broker, topic, values, partitions=[i % 3 for i in range(len(values))], keys=keys)
            read_to_end(root)
            found.append((table_answers(store), totals(stream_counts(store, topic))))
    assert found[0] == found[1]
    assert "dead_lettered" not in found[0][1]


def test_an_event_source_takes_the_rows_out_of_envelopes_in_avro(
    tmp_path: Path, broker: Broker, registry: Registry
):
    topic = new_topic(broker, partitions=1)
    root = avro_project(tmp_path, broker, topic, registry)
    declare(root, topic, options=', format="debezium-avro"')
    enclosed = record("e", before=["null", TRANSACTION], after=["null", "transaction"], op="string")
    number = registry.register("transactions-value", enclosed)
    with FeatureStore(root) as store:
        store.apply()
        rows = [{"before": None, "after": row(i, amount=float(i)), "op": "c"} for i in range(1, 4)]
        gone = {"before": row(1), "after": None, "op": "d"}
        send(broker, topic, [message(number, enclosed, one) for one in [*rows, gone]])
        read_to_end(root)
        assert totals(stream_counts(store, topic)) == {"accepted": 3, "dead_lettered": 1, "delivered": 4}
        got = store.online_features(["activity:amount_sum"], {"card_id": ["c1"]}, as_of=AS_OF).to_dict()
        assert got["activity__amount_sum"] == [6.0]
    assert "operation 'd' is no event" in dead(root)[3]
