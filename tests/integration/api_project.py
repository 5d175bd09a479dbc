"""A project to serve: two entities, a source with a column of every type, and a client of its app.

Everything happens on 2026-03-02; questions are asked as of the next midnight unless they say otherwise.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import uvicorn

from api.app import create_app
from featurestore import FeatureStore
from featurestore.dtypes import parse
from featurestore.log.cast import cast_rows

MIDNIGHT = "2026-03-03T00:00:00Z"

KINDS: Mapping[str, str] = {
    "n": "int64",
    "x": "float64",
    "d": "decimal(38, 3)",
    "b": "bool",
    "s": "string",
    "u": "uuid",
    "seen": "timestamp",
    "day": "date",
    "raw": "binary",
    "xs": "list<float64>",
    "ds": "list<decimal(20, 2)>",
}

FEATURES_PY = f'''
"""Declarations of a test."""
from featurestore import Entity, EventSource, FeatureService, FeatureView, JSONLines, Parquet, agg

KINDS = {dict(KINDS)!r}
card = Entity("card", key="card")
trip = Entity("trip", key=["line", "run"])

payments = EventSource(
    "payments", log=Parquet("data/payments.parquet"), event_time="ts", id="id", available_at="known",
    columns={{"id": "string", "card": "string", "ts": "timestamp", "known": "timestamp", **KINDS}},
)
stops = EventSource(
    "stops", log=JSONLines("data/stops.jsonl"), event_time="ts", id=["run", "seq"],
    columns={{"line": "string", "run": "int64", "seq": "int64", "ts": "timestamp", "late_s": "float64"}},
)
clicks = EventSource(
    "clicks", log=JSONLines("data/clicks.jsonl"), event_time="ts",
    columns={{"card": "string", "ts": "timestamp"}},
)

kinds = FeatureView("kinds", entity=card, source=payments, description="a feature of every type", features=[
    *(agg.last(kind) for kind in KINDS),
    agg.histogram("s"), agg.histogram("n"), agg.histogram("x"), agg.histogram("d"), agg.histogram("b"),
    agg.histogram("seen"), agg.last_k("raw", k=2),
])
spend = FeatureView("spend", entity=card, source=payments, tags={{"team": "risk"}}, owner="me", features=[
    agg.count(windows=["1h", "1d"]),
    agg.sum("n", windows=["1d"]),
    agg.sum("x", windows=["1h", "1d"]),
    agg.max_by("s", order="x", windows=["1d"]),
    agg.last("card"),
    agg.count(windows=["1d"], where="card = 'c1'", name="of_c1"),
])
twin = FeatureView("twin", entity=card, source=payments, features=[agg.count(windows=["1h"])])
delays = FeatureView("delays", entity=trip, source=stops, features=[
    agg.mean("late_s", windows=["1d"]), agg.last("seq"), agg.count(),
])
visits = FeatureView("visits", entity=card, source=clicks, features=[agg.count(windows=["1d"])])

model = FeatureService("model", features=[spend["n_sum_1d", "count_1d"], twin])
'''

PAYMENTS: tuple[Mapping[str, Any], ...] = tuple(
    {
        "id": id,
        "card": card,
        "ts": f"2026-03-02T{at}Z",
        "known": f"2026-03-02T{known}Z",
        "n": n,
        "x": x,
        "s": s,
    }
    for id, card, at, known, n, x, s in (
        ("p1", "c1", "09:00:00", "09:00:01", 10, 0.1, "a"),
        ("p2", "c1", "10:00:00", "12:00:00", 20, 0.2, "b"),
        ("p3", "c2", "10:00:00", "10:00:00", 30, 0.3, "c"),
    )
)
STOPS: tuple[Mapping[str, Any], ...] = (
    {"line": "a", "run": 1, "seq": 1, "ts": "2026-03-02T09:00:00Z", "late_s": 60.0},
    {"line": "a", "run": 1, "seq": 2, "ts": "2026-03-02T09:10:00Z", "late_s": 90.0},
    {"line": "b", "run": 1, "seq": 1, "ts": "2026-03-02T09:20:00Z", "late_s": 0.0},
)


def write_project(directory: Path, *, settings: str = "") -> Path:
    """The project, applied and filled."""
    (directory / "data").mkdir(parents=True)
    (directory / "features.py").write_text(FEATURES_PY)
    (directory / "featurestore.toml").write_text(settings)
    clicks = [{"card": "c1", "ts": "2026-03-02T09:00:00Z"}]
    for name, rows in (("stops", STOPS), ("clicks", clicks)):
        (directory / "data" / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    columns = {"id": "string", "card": "string", "ts": "timestamp", "known": "timestamp", **KINDS}
    types = {name: parse(text) for name, text in columns.items()}
    cast = cast_rows(PAYMENTS, types, timezone="UTC", time_unit=None)
    pq.write_table(cast.table, directory / "data" / "payments.parquet")
    with FeatureStore(directory) as store:
        store.apply()
        store.backfill()
    return directory


@dataclass(frozen=True)
class Served:
    """A running server, a client of it, and the app's own project."""

    client: httpx.Client
    project: FeatureStore
    port: int


@contextmanager
def served(directory: Path) -> Iterator[Served]:
    """The project's app on a real server in a thread, warm."""
    app = create_app(directory)
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, access_log=False, log_level="error", lifespan="on"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            deadline_s = time.monotonic() + 280
            while client.get("/ready").status_code != 200:
                assert time.monotonic() < deadline_s, client.get("/ready").json()
                time.sleep(0.05)
            yield Served(client, app.state.service.project, port)
    finally:
        server.should_exit = True
        thread.join()


def ask(client: httpx.Client, *features: str, **more: Any) -> dict[str, list[Any]]:
    """Values by feature name of the cards (``cards=``, default c1) or other ``entities=``."""
    cards = more.pop("cards", ["c1"])
    body = {"features": list(features), "entities": {"card": cards}, "as_of": MIDNIGHT, **more}
    response = client.post("/get-online-features", json=body)
    assert response.status_code == 200, response.text
    answer = response.json()
    names = answer["metadata"]["feature_names"]
    return {name: column["values"] for name, column in zip(names, answer["results"], strict=True)}


def push(client: httpx.Client, source: str, *rows: Mapping[str, Any], atomic: bool = False) -> dict[str, Any]:
    """What became of pushed rows."""
    response = client.post(f"/ingest/{source}", json=list(rows), params={"atomic": str(atomic).lower()})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer
