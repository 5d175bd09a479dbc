"""Choosing and ordering versions: what the generated histories of the parity tests would meet too rarely."""

from __future__ import annotations

from featurestore import Entity, EventSource, FeatureView, Parquet, agg
from featurestore.dtypes import INT64, STRING, TIMESTAMP
from featurestore.testing.hosts import kernel_answer


def test_a_column_can_both_identify_events_and_order_them():
    source = EventSource("s", log=Parquet("log"), event_time="ts", id="id", order_by="id")
    view = FeatureView("v", Entity("card", key="card"), source, [agg.last("id")])
    schema = {"card": STRING, "id": INT64, "ts": TIMESTAMP}
    rows = [{"card": "a", "id": number, "ts": 10} for number in (2, 3, 1)]
    [answer] = kernel_answer(view, schema, rows, [(("a",), 11)], None)
    assert answer["id_last"].value == 3
