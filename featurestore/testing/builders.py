"""Small histories for tests and examples: versions of events and changes of rows, with times as ``"09:00"``.

Time: a clock time is on ``DAY``, in UTC; ``available`` is when a version or a change could first be known, by
default its event time or when it was committed.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from featurestore.dsl.aggregation import Aggregation
from featurestore.dsl.entity import Entity
from featurestore.dsl.feature_view import FeatureView
from featurestore.dsl.log import Parquet
from featurestore.dsl.source import EventSource
from featurestore.dsl.table_source import OPERATIONS, TableSource
from featurestore.dtypes import DType, parse
from featurestore.testing.reference_tables import DELETE, OPERATION, TRUNCATE, UPSERT

DAY = datetime.date(2026, 3, 2)
"""A Monday."""

COLUMNS: Mapping[str, str] = {
    "card": "string",
    "id": "string",
    "ts": "timestamp",
    "available_at": "timestamp",
}
"""The columns that every built event has; ``deleted`` joins them where the source declares it."""


def instant(text: str | int | None) -> int | None:
    """Microseconds of ``"09:00"``, ``"09:00:00.000001"``, ``"+1 09:00"`` (a day later), or ISO 8601."""
    if text is None or isinstance(text, int):
        return text
    day, clock = DAY, text.strip()
    if clock[0] in "+-":
        days, clock = clock.split()
        day += datetime.timedelta(days=int(days))
    full = clock if "T" in clock else f"{day.isoformat()}T{clock}"
    moment = datetime.datetime.fromisoformat(full)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return (moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)) // datetime.timedelta(microseconds=1)


def event(
    id: str = "e1",
    *,
    at: str | int | None,
    available: str | int | None = None,
    card: str | None = "c1",
    **columns: Any,
) -> dict[str, Any]:
    """A version of the event ``id`` of ``card``; other columns as given."""
    known = instant(at if available is None else available)
    return {"card": card, "id": id, "ts": instant(at), "available_at": known, **columns}


def correction(
    id: str = "e1", *, at: str | int, available: str | int, card: str = "c1", **columns: Any
) -> dict[str, Any]:
    """A later version of an event, with other content."""
    return event(id, at=at, available=available, card=card, **columns)


def retraction(id: str = "e1", *, available: str | int | None, card: str = "c1") -> dict[str, Any]:
    """A version that takes the event back: entity key and id are all that it needs."""
    return {**event(id, at=None, available=available, card=card), "deleted": True}


def change(
    op: str = "u",
    id: str | None = "r1",
    *,
    lsn: int | None,
    at: str | int | None,
    available: str | int | None = None,
    card: str | None = "c1",
    **columns: Any,
) -> dict[str, Any]:
    """A change of the row ``id``: ``op`` is r, c, u, d or t, ``at`` when it was committed, ``lsn`` its
    position. A delete says nothing of the entity, and a truncate not even of the row."""
    upserts = operation_of(op) == UPSERT
    return {
        OPERATION: operation_of(op),
        "card": card if upserts else None,
        "id": None if operation_of(op) == TRUNCATE else id,
        "lsn": lsn,
        "changed": instant(at),
        "available_at": instant(at if available is None else available),
        **columns,
    }


def operation_of(op: str) -> int:
    """``UPSERT``, ``DELETE`` or ``TRUNCATE`` from a log's word for it."""
    return {"r": UPSERT, "c": UPSERT, "u": UPSERT, "d": DELETE, "t": TRUNCATE}[OPERATIONS[op]]


def schema_of(columns: Mapping[str, str]) -> dict[str, DType]:
    """Declared columns with their types, in order."""
    return {name: parse(text) for name, text in columns.items()}


def view_of(
    features: Sequence[Aggregation],
    *,
    columns: Mapping[str, str],
    key: str | Sequence[str] = "card",
    **source: Any,
) -> FeatureView:
    """A view ``card_activity`` over these columns; ``source`` has ``id=``, ``available_at=``, ..."""
    events = EventSource(
        "events", log=Parquet("events.parquet"), columns=dict(columns), **{"event_time": "ts", **source}
    )
    keys = key if isinstance(key, str) else list(key)
    return FeatureView("card_activity", entity=Entity("card", key=keys), source=events, features=features)


def table_view_of(
    features: Sequence[Aggregation],
    *,
    columns: Mapping[str, str],
    key: str | Sequence[str] = "card",
    **source: Any,
) -> FeatureView:
    """The like, ``card_rows``, over a table's changes; ``source`` has ``event_time=``, ``order_by=``, ..."""
    table = TableSource(
        "rows",
        log=Parquet("rows.parquet"),
        columns=dict(columns),
        **{"primary_key": "id", "changed_at": "changed", "position": "lsn", **source},
    )
    keys = key if isinstance(key, str) else list(key)
    return FeatureView("card_rows", entity=Entity("card", key=keys), source=table, features=features)
