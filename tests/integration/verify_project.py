"""A project whose server logs what it answers: events of many types, tables by flat rows and Debezium
envelopes, lookups; and the ways to damage its store, its log and its request log.

Everything happens on 2026-03-02; questions are asked as of the next midnight unless they say otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sqlalchemy import delete, select

from featurestore import FeatureStore, clock
from featurestore.batch.verification import Verification
from featurestore.dtypes import parse
from featurestore.log.cast import cast_rows
from featurestore.log.request_files import read_answers, request_files, rewrite_answers
from featurestore.serving.request_log import Answered, RequestLog
from featurestore.serving.vectors import FeatureVectors
from featurestore.settings import RequestLogSettings
from featurestore.store.tables import segments, timeline_versions, truncates

MIDNIGHT = "2026-03-03T00:00:00Z"

PAYMENTS = {
    "id": "string", "card": "string", "user": "string", "ts": "timestamp", "known": "timestamp",
    "gone": "bool", "x": "float64", "price": "decimal(20, 2)", "kind": "string", "xs": "list<float64>",
    "raw": "binary",
}  # fmt: skip
ORDERS = {
    "order": "string", "card": "string", "lsn": "int64", "changed": "timestamp", "amount": "float64",
    "op": "string",
}  # fmt: skip

FEATURES_PY = f"""
from featurestore import Entity, EventSource, FeatureView, JSONLines, Parquet, TableSource, agg

card, user = Entity("card", key="card"), Entity("user", key="id")
payments = EventSource(
    "payments", log=Parquet("payments"), event_time="ts", id="id", available_at="known", deleted="gone",
    columns={PAYMENTS!r},
)
clicks = EventSource("clicks", log=JSONLines("clicks.jsonl"), event_time="ts",
                     columns={{"card": "string", "ts": "timestamp", "n": "int64"}})
orders = TableSource(
    "orders", log=Parquet("orders"), primary_key="order", changed_at="changed", position="lsn",
    columns={ ({name: kind for name, kind in ORDERS.items() if name != "op"})!r},
)
users = TableSource("users", log=JSONLines("users.jsonl"), format="debezium", primary_key="id",
                    columns={{"id": "string", "country": "string", "score": "float64"}})

spend = FeatureView("spend", entity=card, source=payments, features=[
    agg.count(), agg.sum("x"), agg.sum("x", windows=["1h"]), agg.sum("price"), agg.mean("x"),
    agg.last("kind"), agg.last("xs"), agg.last_k("raw", k=2), agg.histogram("kind"), agg.min("x"),
    agg.stddev("x"), agg.time_since_last(),
])
visits = FeatureView("visits", entity=card, source=clicks,
                     features=[agg.count(), agg.last("n"), agg.sum("n")])
book = FeatureView("book", entity=card, source=orders, features=[agg.count(), agg.sum("amount")])
home = FeatureView("home", entity=user, source=users, features=[agg.last("country"), agg.sum("score")])
abroad = FeatureView(
    "abroad", entity=card, source=payments.lookup(users, on="user", columns=["country"]),
    features=[agg.last("country"), agg.histogram("country"), agg.count(where="country = 'de'", name="in_de")],
)
"""


def at(time: str) -> str:
    return f"2026-03-02T{time}Z"


def payment(id: str, time: str, x: float, *, card: str = "c1", known: str | None = None, **more: Any) -> Any:
    """A payment at ``time``, known a second later unless it says otherwise."""
    given = known or f"{time[:-1]}1"
    return {"id": id, "card": card, "user": "u1", "ts": at(time), "known": at(given), "x": x, **more}


def envelope(op: str, lsn: int, time: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """A change of a user as Debezium writes it."""
    ms = int(np.datetime64(f"2026-03-02T{time}", "ms").astype(np.int64))
    source = {"connector": "postgresql", "lsn": lsn, "ts_ms": ms, "db": "shop", "table": "users"}
    image = {"before": dict(row) if op == "d" else None, "after": None if op == "d" else dict(row)}
    return {**image, "op": op, "ts_ms": ms, "source": source}


def log_answer(project: FeatureStore, request_id: str, vectors: FeatureVectors) -> None:
    """Log an answer as a server does."""
    settings = RequestLogSettings(sample=1.0)
    log = RequestLog(project.store, project.root / settings.directory, settings, clock.now)
    response = vectors.to_response(full_feature_names=True)
    log.offer(Answered(request_id, clock.now(), vectors, response, 1))
    log.start()
    log.close()
    # What is asked about a key that is forgotten is not logged.
    assert log.counts.logged + log.counts.dropped == vectors.rows * len(vectors.vectors)


def lose(project: FeatureStore, source: str, rows: Callable[[Any], bool]) -> int:
    """Delete stored rows of a source's timelines behind the store's back; returns how many."""
    with project.store.commit("damage", now_us=clock.now()) as commit:
        connection = commit._connection
        ids = select(timeline_versions.c.id).where(timeline_versions.c.source == source)
        found = connection.execute(select(segments).where(segments.c.timeline_version_id.in_(ids))).all()
        chosen = [row for row in found if rows(row)]
        for row in chosen:
            same = [c == value for c, value in zip(segments.c, row, strict=True) if c.name != "payload"]
            connection.execute(delete(segments).where(*same))
    return len(chosen)


class Verified:
    """The project, open."""

    def __init__(self, directory: Path, url: str | None = None) -> None:
        self.directory = directory
        directory.mkdir()
        for name in ("payments", "orders"):
            (directory / name).mkdir()
        (directory / "features.py").write_text(FEATURES_PY)
        store = "" if url is None else f'[store]\nurl = "{url}"\n'
        (directory / "featurestore.toml").write_text(f"{store}[engine]\nthreads = 1\n")
        self.pay("0", [])
        self.order("0", [])
        # A log has a row.
        self.append("clicks.jsonl", {"card": "c0", "ts": at("00:00:00"), "n": 0})
        self.append("users.jsonl", envelope("c", 0, "00:00:00", {"id": "u0", "country": "de", "score": 0.0}))
        self.requests = 0
        self.open()
        self.project.apply()

    def open(self) -> None:
        self.project = FeatureStore(self.directory)

    # The logs

    def pay(self, name: str, rows: Sequence[Mapping[str, Any]]) -> Path:
        """A file of payments."""
        return self._write(f"payments/{name}.parquet", PAYMENTS, rows)

    def order(self, name: str, rows: Sequence[Mapping[str, Any]]) -> Path:
        """A file of changes of orders."""
        return self._write(f"orders/{name}.parquet", ORDERS, rows)

    def _write(self, name: str, columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> Path:
        types = {column: parse(text) for column, text in columns.items()}
        cast = cast_rows(list(rows), types, timezone="UTC", time_unit=None)
        assert cast.bad is None, cast.reasons
        pq.write_table(cast.table, self.directory / name)
        return self.directory / name

    def append(self, name: str, *rows: Mapping[str, Any]) -> None:
        """Lines of a log of JSON lines."""
        with (self.directory / name).open("a") as file:
            file.writelines(f"{json.dumps(row)}\n" for row in rows)

    # Questions

    def ask(
        self,
        *features: str,
        cards: Sequence[str | None] = ("c1", "c2", None, "nobody"),
        ids: Sequence[str] = (),
        as_of: str = MIDNIGHT,
        known_at: str | None = None,
    ) -> dict[str, list[object]]:
        """One request, answered and logged."""
        entities: dict[str, Sequence[object]] = {"id": ids} if ids else {"card": cards}
        self.requests += 1
        vectors = self.project.online_features(list(features), entities, as_of=as_of, known_at=known_at)
        log_answer(self.project, f"r{self.requests}", vectors)
        return vectors.to_dict()

    def verify(self, **more: Any) -> Verification:
        return self.project.verify(**more)

    # Damage

    def lose(self, source: str, *, rows: Callable[[Any], bool] = lambda row: True) -> int:
        """Delete stored rows of a source's timelines behind the store's back; returns how many."""
        return lose(self.project, source, rows)

    def lose_truncates(self) -> None:
        with self.project.store.commit("damage", now_us=clock.now()) as commit:
            commit._connection.execute(delete(truncates))

    def alter(self, feature: str, change: Callable[[Any], Any]) -> None:
        """Change what the request log says that a feature was for c1."""
        for file in request_files(self.directory / ".featurestore/requests"):
            table = read_answers(file)
            mine = pc.and_(pc.equal(table["feature"], feature), pc.equal(table["keys"], '{"card":"c1"}'))
            values = [
                json.dumps(change(json.loads(value)), separators=(",", ":")) if is_mine else value
                for value, is_mine in zip(table["value"].to_pylist(), mine.to_pylist(), strict=True)
            ]
            place = table.schema.get_field_index("value")
            rewrite_answers(file, table.set_column(place, "value", pa.array(values)))
