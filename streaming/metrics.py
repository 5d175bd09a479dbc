"""A worker's metrics in Prometheus' terms, at ``/metrics`` of its own port, and its health, at ``/health``.

Time: freshness is from the record's own timestamp, which is its producer's clock or its broker's, to the
commit; event-time lag from the latest event to now. Both are of this machine's wall clock. A worker is well
while its loop turns, whatever it waits for.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from socketserver import ThreadingMixIn
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app

from featurestore.errors import SettingsError

# From a commit of a few messages to a store that waits for another writer.
_COMMIT_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
# From a poll that was waiting to a topic that is read from its beginning.
_FRESHNESS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 600.0, 3_600.0, 86_400.0)
# A turn waits half a minute for a store at most, and some seconds for brokers.
SILENT_S = 60.0


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Silent(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing: it is asked every few seconds."""


class Metrics:
    """The numbers of one worker."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        place = ["source", "topic", "partition"]
        self._messages = Counter(
            "featurestore_stream_messages", "Messages below the committed position, by outcome.",
            [*place, "outcome"], registry=self.registry,
        )  # fmt: skip
        self._lag = Gauge(
            "featurestore_stream_lag_messages", "Messages of the topic that are not read yet.",
            place, registry=self.registry,
        )  # fmt: skip
        self._position = Gauge(
            "featurestore_stream_position", "The offset of the next message to read.",
            place, registry=self.registry,
        )  # fmt: skip
        self._event_lag_s = Gauge(
            "featurestore_stream_event_time_lag_seconds", "From the latest event of the last commit to it.",
            ["source"], registry=self.registry,
        )  # fmt: skip
        self._fresh_s = Histogram(
            "featurestore_stream_freshness_seconds", "From a record's timestamp to the commit that holds it.",
            ["source"], buckets=_FRESHNESS_S, registry=self.registry,
        )  # fmt: skip
        self._commit_s = Histogram(
            "featurestore_stream_commit_seconds", "Seconds that a batch took to prepare and commit.",
            ["source"], buckets=_COMMIT_S, registry=self.registry,
        )  # fmt: skip
        self._refused = Counter(
            "featurestore_stream_refused_commits", "Commits that the store refused: the partition was lost.",
            registry=self.registry,
        )  # fmt: skip
        self._server: WSGIServer | None = None
        self._turned_s = time.monotonic()
        self._metrics = make_wsgi_app(self.registry)

    def serve(self, host: str, port: int) -> None:
        """Answer at ``http://host:port/metrics`` and ``/health`` until ``close``."""
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            server = type("Server", (_Server,), {"address_family": family})
            self._server = make_server(host, port, self._answer, server, _Silent)
        except OSError as error:
            raise SettingsError(
                f"metrics can't be served on {host}:{port}: {(error.strerror or str(error)).lower()}",
                hint="name another port: [streaming] metrics_port",
            ) from error
        Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()

    def turned(self) -> None:
        """The worker's loop has come round."""
        self._turned_s = time.monotonic()

    def _answer(self, asked: dict[str, Any], begin: Callable[..., Any]) -> Iterable[bytes]:
        if asked["PATH_INFO"] != "/health":
            made: Iterable[bytes] = self._metrics(asked, begin)
            return made
        silent_s = time.monotonic() - self._turned_s
        well = silent_s < SILENT_S
        begin("200 OK" if well else "503 Service Unavailable", [("Content-Type", "application/json")])
        told = {"status": "ok" if well else "stuck", "silent_s": round(silent_s, 3)}
        return [json.dumps(told).encode()]

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def committed(
        self,
        source: str,
        counts: Mapping[str, Mapping[str, int]],
        *,
        took_s: float,
        stamps_ms: Sequence[int],
        latest_event_us: int | None,
        now_us: int,
    ) -> None:
        """One commit that took ``took_s``: what became of messages by partition (``topic/partition``), the
        timestamps of their records, and the latest event time among them."""
        for name, of_partition in counts.items():
            topic, _, partition = name.rpartition("/")
            for outcome, n in of_partition.items():
                if n and outcome != "delivered":
                    self._messages.labels(source, topic, partition, outcome).inc(n)
        self._commit_s.labels(source).observe(took_s)
        if latest_event_us is not None:
            self._event_lag_s.labels(source).set((now_us - latest_event_us) / 1e6)
        fresh = self._fresh_s.labels(source)
        for age_s in ((now_us - np.asarray(stamps_ms, np.int64) * 1_000) / 1e6).tolist():
            fresh.observe(age_s)

    def stands(self, source: str, topic: str, partition: int, *, position: int, end: int) -> None:
        self._position.labels(source, topic, str(partition)).set(position)
        self._lag.labels(source, topic, str(partition)).set(max(0, end - position))

    def gone(self, source: str, topic: str, partition: int) -> None:
        """The worker has lost the partition: what it knew of it is old."""
        for gauge in (self._position, self._lag):
            with suppress(KeyError):
                gauge.remove(source, topic, str(partition))

    def refused(self) -> None:
        self._refused.inc()
