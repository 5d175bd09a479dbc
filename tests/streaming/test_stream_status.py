"""What a person sees of streams: ``featurestore status``, and ``/metrics`` of a worker."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from featurestore import FeatureStore
from streaming.metrics import Metrics
from tests.integration.backfill_project import row
from tests.services.kafka import Broker
from tests.streaming.stream_project import (
    new_topic,
    project,
    read_to_end,
    send,
    stands,
    started,
    stopped,
    value,
)


def command(root: Path, *arguments: str) -> str:
    code = "from featurestore.cli import main; raise SystemExit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "-C", str(root), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def applied(root: Path) -> Path:
    with FeatureStore(root) as store:
        store.apply()
    return root


def test_status_shows_positions_lag_and_counters(tmp_path: Path, broker: Broker):
    topic = new_topic(broker, partitions=2)
    root = applied(project(tmp_path, broker, topic))
    assert json.loads(command(root, "status", "--json")) == []
    send(broker, topic, [value(row(1)), value(row(1)), b"{"], partitions=[0, 0, 0])
    read_to_end(root)
    send(broker, topic, [value(row(number)) for number in range(2, 7)], partitions=[0] * 5)
    first, second = json.loads(command(root, "status", "--json"))
    assert (first["source"], first["topic"], first["partition"]) == ("transactions", topic, 0)
    assert (first["position"], first["end"], first["lag"]) == (3, 8, 5)
    assert first["counts"] == {"accepted": 1, "duplicate": 1, "dead_lettered": 1, "delivered": 3}
    assert (first["worker"], first["epoch"], first["end_is_of_now"]) == ("test-0", 1, True)
    assert (second["position"], second["lag"], second["counts"]) == (0, 0, {})
    shown = command(root, "status").splitlines()
    assert shown[0].split()[:4] == ["source", "partition", "position", "lag"]
    assert shown[1].split()[:4] == ["transactions", f"{topic}/0", "3", "5"]


def test_status_without_a_broker_tells_what_a_worker_last_saw(tmp_path: Path, broker: Broker):
    topic = new_topic(broker, partitions=1)
    root = applied(project(tmp_path, broker, topic))
    send(broker, topic, [value(row(1))])
    read_to_end(root)
    settings = root / "featurestore.toml"
    settings.write_text(settings.read_text().replace(broker.bootstrap, "127.0.0.1:1"))
    (one,) = json.loads(command(root, "status", "--json"))
    assert (one["position"], one["lag"], one["end_is_of_now"]) == (1, 0, False)
    assert "~0" in command(root, "status")


def test_a_worker_serves_its_metrics(tmp_path: Path, broker: Broker):
    topic = new_topic(broker, partitions=1)
    root = applied(project(tmp_path, broker, topic))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    worker = started(root, 0, FEATURESTORE_STREAMING__METRICS_PORT=str(port))
    try:
        send(broker, topic, [value(row(1)), value(row(2)), value(row(1)), b"{"])
        deadline_s = time.monotonic() + 60
        with FeatureStore(root) as store:
            while not any(one.next_offset == 4 for one in stands(store).values()):
                assert time.monotonic() < deadline_s and worker.poll() is None
                time.sleep(0.02)
        time.sleep(0.5)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as answer:
            assert json.load(answer)["status"] == "ok"
        stopped(worker)
    finally:
        worker.kill()
    found = dict(re.findall(r"^(featurestore_stream_\S+) (\S+)$", text, flags=re.M))
    place = f'partition="0",source="transactions",topic="{topic}"'
    messages = "featurestore_stream_messages_total"
    for outcome, n in (("accepted", 2.0), ("duplicate", 1.0), ("dead_lettered", 1.0)):
        assert float(found[f'{messages}{{outcome="{outcome}",{place}}}']) == n
    assert float(found[f"featurestore_stream_lag_messages{{{place}}}"]) == 0
    assert float(found[f"featurestore_stream_position{{{place}}}"]) == 4
    for histogram, n in (("freshness", 4), ("commit", 1)):
        count = float(found[f'featurestore_stream_{histogram}_seconds_count{{source="transactions"}}'])
        assert count == n or (histogram == "commit" and 1 <= count <= 4)
    assert float(found['featurestore_stream_event_time_lag_seconds{source="transactions"}']) > 86_400
    assert float(found["featurestore_stream_refused_commits_total"]) == 0


def test_a_worker_whose_loop_stands_still_is_not_well(monkeypatch: pytest.MonkeyPatch):
    metrics = Metrics()
    metrics.serve("localhost", 0)
    try:
        assert metrics._server is not None
        health = f"http://localhost:{metrics._server.server_port}/health"
        monkeypatch.setattr("streaming.metrics.SILENT_S", 0.05)
        time.sleep(0.1)
        with pytest.raises(urllib.error.HTTPError) as refused, urllib.request.urlopen(health, timeout=10):
            pass
        assert refused.value.code == 503 and json.load(refused.value)["status"] == "stuck"
        refused.value.close()
        monkeypatch.setattr("streaming.metrics.SILENT_S", 60)
        metrics.turned()
        with urllib.request.urlopen(health, timeout=10) as answer:
            assert json.load(answer)["status"] == "ok"
    finally:
        metrics.close()
