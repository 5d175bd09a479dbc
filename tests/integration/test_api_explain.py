"""The facts that explain a value are those that it was made of: the oracle's operation over them gives it."""

from __future__ import annotations

import base64
import math
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import every_operation, histories, horizons, questions

from featurestore.batch.keys import key_index
from featurestore.dtypes import DType
from featurestore.instants import instant
from featurestore.kernel.evaluate import answer
from featurestore.kernel.feature import Feature
from featurestore.kernel.questions import questions as sorted_questions
from featurestore.kernel.versions import timeline
from featurestore.log.cast import cast_table
from featurestore.log.versions import event_versions
from featurestore.plan.compile import source_plan, view_plan
from featurestore.serving.entity_facts import EntityFacts
from featurestore.serving.explain_value import ExplainedFact, explained_facts
from featurestore.serving.faces import json_values
from featurestore.testing.bits import bits
from featurestore.testing.hosts import python_values, versions_table
from featurestore.testing.reference_operations import OPERATIONS, Asked, Item, Overflow, tidy

FEATURES = every_operation()


def from_json(face: Any, dtype: DType) -> Any:
    """A value from its JSON face: no bit may be missing."""
    match dtype.kind, face:
        case _, None:
            return None
        case "float64", str():
            return {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}[face]
        case "float64", _:
            return float(face)
        case "decimal", str():
            return Decimal(face)
        case "timestamp", str():
            return instant(face, what="face")
        case "date", str():
            return date.fromisoformat(face)
        case "binary", str():
            return base64.b64decode(face)
        case "list", list():
            assert dtype.item is not None
            return [from_json(item, dtype.item) for item in face]
    return face


def recomputed(
    feature: Feature, facts: tuple[ExplainedFact, ...], as_of: int, schema: dict[str, DType]
) -> Any:
    """The oracle's operation over explained facts; None where it overflows."""
    items = []
    for fact in facts:
        inputs = fact.input if feature.explode else [fact.input]
        assert isinstance(inputs, list)
        order = None
        if feature.order is not None:
            order = from_json(fact.order, schema[dict(feature.parameters)["order"]])  # type: ignore[index]
        items += [Item(from_json(one, feature.input_type), fact.event_time, order) for one in inputs]
    if not items:
        return 0 if feature.operation.zero_when_empty else feature.default
    try:
        asked = Asked(as_of, dict(feature.parameters), feature.input_type)
        return tidy(OPERATIONS[feature.op](items, asked))
    except Overflow:
        return None


@settings(max_examples=60)
@given(st.data())
def test_the_explained_facts_give_the_value_and_lie_in_the_window(data: st.DataObject) -> None:
    history = data.draw(histories())
    some = data.draw(st.lists(st.sampled_from(FEATURES), min_size=1, max_size=6, unique_by=lambda f: f.name))
    view = history.view(some)
    plan = view_plan(view, source_plan(view.source, history.schema))
    [asked] = data.draw(questions(history, at_most=1))
    as_of = 0 if asked.as_of is None else asked.as_of
    known_at = data.draw(horizons(history))

    raw = versions_table(history.schema, history.rows)
    cast = cast_table(raw, history.schema, timezone="UTC", time_unit=None)
    table = event_versions(cast, plan.source, plan.entity.keys).table.combine_chunks()
    index, codes = key_index([table.column(key).combine_chunks() for key in plan.entity.keys])
    made, _ = timeline(table, codes, index.entities + 1, plan.source.roles, known_at)
    facts = EntityFacts(table, made)
    code = index.entities
    if table.num_rows and asked.keys[0] is not None:
        found = np.flatnonzero(np.array(table.column("card").to_pylist(), object) == asked.keys[0])
        code = int(codes[found[0]]) if len(found) else code
    question = sorted_questions(np.array([code]), np.array([as_of]), index.entities + 1)

    for one in answer(plan.features, made, table, question).answers:
        feature = one.feature
        explained = explained_facts(feature, plan.source.roles, history.schema, facts, question)
        end = as_of - feature.delay_us
        begin = -math.inf if feature.window_us is None else end - feature.window_us
        assert all(begin <= fact.event_time < end for fact in explained)
        assert [fact.event_time for fact in explained] == sorted(fact.event_time for fact in explained)
        value = python_values(one.values)[0]
        face = json_values(one.values, feature.dtype)[0]
        if feature.dtype.kind != "map":
            assert bits(from_json(face, feature.dtype)) == bits(value)
        wanted = recomputed(feature, explained, as_of, history.schema)
        if feature.default is not None and not explained:
            assert value is not None
        else:
            assert bits(value) == bits(wanted), (feature.name, feature.op, explained)
