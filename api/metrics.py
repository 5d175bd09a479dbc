"""Metrics in Prometheus' terms: what was asked, how it ended, how long it took, what was pushed.

A registry belongs to one app, so that several can live in one process. Durations come from a monotonic clock.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from featurestore.errors import FeatureStoreError
from featurestore.serving.request_log import Logged
from featurestore.store import Store

# From one indexed read to a body that takes its whole time to arrive.
_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0)


class _StoreState(Collector):
    """The store's last commit, read when it is asked for."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterator[GaugeMetricFamily]:
        # A store that can't be read has no number; the rest of the metrics is still worth having.
        with suppress(FeatureStoreError), self._store.snapshot() as snapshot:
            yield GaugeMetricFamily(
                "featurestore_store_commit",
                "The number of the store's last commit.",
                value=snapshot.commit_number,
            )
            yield GaugeMetricFamily(
                "featurestore_store_last_arrival",
                "The number of the last pushed row.",
                value=snapshot.last_arrival,
            )


class _RequestLog(Collector):
    """What the request log has counted, which it does without a metric's lock."""

    def __init__(self, counts: Logged) -> None:
        self._counts = counts

    def collect(self) -> Iterator[CounterMetricFamily]:
        counts = self._counts
        for name, what, value in (
            ("logged_values", "Answered values that are in the request log's files.", counts.logged),
            ("dropped_values", "Answered values that should have been logged and are not.", counts.dropped),
            ("errors", "Files of the request log that could not be written.", counts.errors),
        ):
            yield CounterMetricFamily(f"featurestore_request_log_{name}", what, value=value)


class Metrics:
    """The counters of one app. With several worker processes each has its own."""

    def __init__(self, store: Store, logged: Logged) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_StoreState(store))
        self._registry.register(_RequestLog(logged))
        self._requests = Counter(
            "featurestore_http_requests", "Requests by route and status.", ["method", "route", "status"],
            registry=self._registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "featurestore_http_request_seconds", "Seconds from a request to its answer.", ["route"],
            buckets=_BUCKETS_S, registry=self._registry,
        )  # fmt: skip
        self._rows = Counter(
            "featurestore_ingested_rows", "Pushed rows by source and outcome.", ["source", "outcome"],
            registry=self._registry,
        )  # fmt: skip

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def rows(self, source: str, outcomes: Mapping[str, int]) -> None:
        for outcome, count in outcomes.items():
            self._rows.labels(source, outcome).inc(count)

    def text(self) -> bytes:
        return generate_latest(self._registry)
