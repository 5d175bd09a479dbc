"""Warming: every operation answers once over made-up facts, through the code that requests go through.

The facts are at 1970; the store is not touched. Compiled loops are loaded, or compiled on a machine's first
use.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal

import numpy as np
import pyarrow as pa

from featurestore.dsl.aggregation import Aggregation, agg
from featurestore.dsl.entity import Entity
from featurestore.dsl.feature_view import FeatureView
from featurestore.dsl.log import CSV
from featurestore.dsl.source import EventSource
from featurestore.dtypes import parse
from featurestore.kernel.changes import DELETE, OPERATION_COLUMN, TRUNCATE, UPSERT, change_timeline
from featurestore.kernel.content import content_hash
from featurestore.kernel.evaluate import answer
from featurestore.kernel.operations import OPERATIONS, Operation
from featurestore.kernel.questions import questions
from featurestore.kernel.roles import ChangeRoles, KnownAt
from featurestore.kernel.versions import HASH_COLUMN, timeline
from featurestore.plan.compile import source_plan, view_plan
from featurestore.plan.nodes import ViewPlan
from featurestore.serving.faces import json_values
from featurestore.store.payload import PayloadReader, encode_versions

# Each type of input with the values of two facts.
_INPUTS: Mapping[str, tuple[str, list[object]]] = {
    "int64": ("int64", [1, 2]),
    "float64": ("float64", [0.5, 1.5]),
    "decimal": ("decimal(10, 2)", [Decimal("0.50"), Decimal("1.50")]),
    "bool": ("bool", [True, False]),
    "string": ("string", ["a", "b"]),
    "timestamp": ("timestamp", [1, 2]),
}
_CHANGES = ChangeRoles(
    primary_key=("id",),
    changed_at="ts",
    position=("id",),
    event_time="ts",
    available_at=None,
    order_by=None,
    content=(),
)
_PARAMETERS = {"k": 2, "q": 0.5, "order": "a_float64"}


def every_operation() -> ViewPlan:
    """A view with each operation over each type of input that it takes."""
    schema = {"id": parse("int64"), "ts": parse("timestamp"), "entity": parse("int64")}
    schema |= {f"a_{kind}": parse(text) for kind, (text, _) in _INPUTS.items()}
    # A source has a log; this one's is never opened.
    source = EventSource("warm", log=CSV("none.csv"), event_time="ts", id="id")
    features = [one for operation in OPERATIONS.values() for one in _features(operation)]
    return view_plan(
        FeatureView("warm", Entity("warm", key="entity"), source, features), source_plan(source, schema)
    )


def _features(operation: Operation) -> Iterable[Aggregation]:
    given = {name: _PARAMETERS[name] for name in operation.required}
    make = getattr(agg, operation.name)
    if operation.column != "required":
        yield make(windows=["1h"], name=operation.name, **given)
    if operation.column != "none":
        for kind in _INPUTS:
            if not operation.takes or kind in operation.takes:
                yield make(f"a_{kind}", windows=["1h"], name=f"{operation.name}_{kind}", **given)
                yield make(f"a_{kind}", where="a_int64 > 1", name=f"{operation.name}_{kind}_where", **given)


def warm() -> None:
    """Answer every operation once, at each kind of horizon; returns when all is loaded."""
    plan = every_operation()
    table = pa.table(
        {
            "id": pa.array([1, 2]),
            "ts": pa.array([1, 2]).cast(parse("timestamp").arrow),
            **{f"a_{kind}": pa.array(values, parse(text).arrow) for kind, (text, values) in _INPUTS.items()},
        }
    )
    hashes = content_hash(table, list(table.column_names))
    hashed = pa.Array.from_buffers(pa.binary(16), 2, [None, pa.py_buffer(np.ascontiguousarray(hashes))])
    table = table.append_column(HASH_COLUMN, hashed)
    table, _ = PayloadReader(table.schema).read([encode_versions(table)])
    # The same rows again are duplicates: the choice of versions is warmed, too.
    twice = pa.concat_tables([table, table]).combine_chunks()
    asked = questions(np.zeros(2, np.int64), np.array([2, 3]), 1)
    horizons: tuple[KnownAt, ...] = (None, "as_of", 3)
    for facts in (table, twice):
        for known_at in horizons:
            made, _ = timeline(facts, np.zeros(facts.num_rows, np.int64), 1, plan.source.events, known_at)
            for one in answer(plan.features, made, facts, asked, latest=True).answers:
                json_values(one.values, one.feature.dtype)
    operations = pa.array([UPSERT, UPSERT, DELETE, TRUNCATE])
    for known_at in horizons:
        changes = twice.append_column(OPERATION_COLUMN, operations)
        made, _ = change_timeline(changes, np.array([0, 0, 0, -1]), 1, _CHANGES, known_at, delay_us=0)
        answer(plan.features[:1], made, changes, asked, latest=True)
