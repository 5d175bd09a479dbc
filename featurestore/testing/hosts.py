"""The kernel asked directly, over rows given as Python values: what the oracle is compared with.

No log, no store and no spine: a test of values that does not depend on how they are read or kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from featurestore.batch.keys import KeyIndex, key_index
from featurestore.dsl.feature_view import FeatureView
from featurestore.dsl.table_source import TableSource
from featurestore.dtypes import INT64, DType
from featurestore.kernel.changes import OPERATION_COLUMN
from featurestore.kernel.evaluate import NO_EVENT
from featurestore.kernel.questions import questions
from featurestore.kernel.roles import ChangeRoles, KnownAt
from featurestore.kernel.timelines import Held, HeldLookup, ask
from featurestore.plan.compile import source_plan, table_plan, view_plan
from featurestore.plan.lookups import lookup_plans, rows_view
from featurestore.plan.nodes import ViewPlan

Logs: TypeAlias = "Mapping[str, tuple[Mapping[str, DType], Sequence[Mapping[str, object]]]]"
"""Columns and rows of each source by name."""


@dataclass(frozen=True)
class KernelValue:
    """One value: ``value`` as Arrow gives it to Python, timestamps as int microseconds; ``flagged``;
    ``latest`` event time in the feature's set, or None."""

    value: object
    flagged: bool
    latest: int | None


def kernel_answer(
    view: FeatureView,
    schema: Mapping[str, DType],
    rows: Sequence[Mapping[str, object]],
    asked: Sequence[tuple[tuple[object, ...], int | None]],
    known_at: KnownAt,
    logs: Logs | None = None,
) -> list[dict[str, KernelValue]]:
    """Each question's values by feature name. ``rows`` are canonical Python values (timestamps int
    microseconds) of valid versions; ``asked`` are (keys, as_of) pairs; ``logs`` has valid rows of the sources
    that are looked up."""
    logs = {**(logs or {}), view.source.name: (schema, rows)}
    plan = _plan(view, logs)
    held, index = _held(plan, logs)
    # One entity more, without facts: that of the keys that no row has.
    given = [
        pa.array([keys[i] for keys, _ in asked], dtype.arrow) for i, dtype in enumerate(plan.entity.dtypes)
    ]
    found = index.find(given)
    times = np.array([0 if as_of is None else as_of for _, as_of in asked], np.int64)
    timed = np.array([as_of is not None for _, as_of in asked])
    sorted_questions = questions(
        np.where(found < 0, index.entities, found), times, index.entities + 1, timed=timed
    )
    answers, _ = ask(
        plan.features,
        held.table,
        held.codes,
        index.entities + 1,
        held.roles,
        known_at,
        sorted_questions,
        lookups=held.lookups,
        latest=True,
    )
    out: list[dict[str, KernelValue]] = [{} for _ in asked]
    for one in answers.answers:
        values = python_values(one.values)
        for i, value in enumerate(values):
            assert one.latest is not None
            latest = int(one.latest[i])
            out[i][one.feature.name] = KernelValue(
                value,
                bool(one.flagged is not None and one.flagged[i]),
                None if latest == NO_EVENT else latest,
            )
    return out


def _plan(of: FeatureView | TableSource, logs: Logs) -> ViewPlan:
    source = of if isinstance(of, TableSource) else of.source
    schema, _ = logs[source.name]
    if isinstance(source, TableSource):
        assert source.changed_at is not None
        made = table_plan(source, schema, source.changed_at, source.positions)
        return rows_view(made) if isinstance(of, TableSource) else view_plan(of, made)
    assert isinstance(of, FeatureView)
    made = source_plan(source, schema)
    return view_plan(of, made, lookup_plans(of, made, source.lookups, lambda inner: _plan(inner, logs)))


def _held(plan: ViewPlan, logs: Logs) -> tuple[Held, KeyIndex]:
    schema, rows = logs[plan.source.name]
    if isinstance(plan.source.roles, ChangeRoles):
        schema = {**schema, OPERATION_COLUMN: INT64}
    else:
        rows = [row for row in rows if all(row.get(key) is not None for key in plan.entity.keys)]
    table = versions_table(schema, rows)
    index, codes = key_index([table.column(key).combine_chunks() for key in plan.entity.keys])
    lookups = []
    for lookup in plan.lookups:
        inner, inner_index = _held(lookup.view, logs)
        keys = inner_index.find([table.column(name).combine_chunks() for name in lookup.on])
        lookups.append(HeldLookup(inner, keys, lookup.columns))
    return Held(table, codes, index.entities, plan.source.roles, tuple(lookups)), index


def versions_table(schema: Mapping[str, DType], rows: Sequence[Mapping[str, object]]) -> pa.Table:
    """Rows of canonical Python values as a versions table."""
    return pa.table(
        {name: pa.array([row.get(name) for row in rows], dtype.arrow) for name, dtype in schema.items()}
    )


def python_values(array: pa.Array) -> list[object]:
    """An array as Python values, timestamps as int microseconds and maps as dicts."""
    if pa.types.is_timestamp(array.type):
        return list(array.cast(pa.int64()).to_pylist())
    if pa.types.is_map(array.type):
        keys = python_values(array.keys)
        counts = array.items.to_pylist()
        offsets = array.offsets.to_pylist()
        valid = array.is_valid().to_pylist()
        return [
            dict(zip(keys[offsets[i] : offsets[i + 1]], counts[offsets[i] : offsets[i + 1]], strict=True))
            if valid[i]
            else None
            for i in range(len(array))
        ]
    if pa.types.is_list(array.type):
        items = python_values(array.values)
        offsets = array.offsets.to_pylist()
        valid = array.is_valid().to_pylist()
        return [items[offsets[i] : offsets[i + 1]] if valid[i] else None for i in range(len(array))]
    return list(array.to_pylist())
