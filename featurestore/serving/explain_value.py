"""The facts behind one value: what the question at ``as_of`` sees of the entity's timeline, in its order.

The set is the kernel's own: the same items and edges that the value is computed from. Facts at or after the
window's end are not in it, facts at exactly its beginning are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from featurestore.dtypes import DType, instant_text, parse
from featurestore.errors import RequestError
from featurestore.kernel.blocks import I64
from featurestore.kernel.edges import Edges
from featurestore.kernel.evaluate import Evaluation, answer
from featurestore.kernel.expression_types import infer
from featurestore.kernel.feature import Feature
from featurestore.kernel.items import Items, ItemsKey
from featurestore.kernel.questions import Questions
from featurestore.kernel.roles import ChangeRoles, KnownAt, Roles
from featurestore.kernel.versions import single
from featurestore.serving.entity_facts import EntityFacts
from featurestore.serving.faces import json_values
from featurestore.serving.lookup import Lookup, canonical_keys, choose, groups, outside_of, outside_retention
from featurestore.serving.vectors import FeatureVector
from featurestore.store import Store


@dataclass(frozen=True)
class ExplainedFact:
    """A fact in the set. ``id`` by column; ``input`` is what the operation took of it (the list of elements
    where it takes a list apart), ``order`` what ``order=`` gave; instants are microseconds,
    ``available_at`` None for null. A table's row is named by its primary key and has the ``changed_at`` of
    the change that is live; without event time of its own, that is its ``event_time``, too."""

    id: Mapping[str, object]
    event_time: int
    available_at: int | None
    input: object
    order: object
    changed_at: int | None = None

    def to_dict(self) -> dict[str, object]:
        changed = {} if self.changed_at is None else {"changed_at": instant_text(self.changed_at)}
        return {
            "id": dict(self.id),
            "event_time": instant_text(self.event_time),
            **changed,
            "available_at": None if self.available_at is None else instant_text(self.available_at),
            "input": self.input,
            "order": self.order,
        }


@dataclass(frozen=True)
class ExplainedValue:
    """One value and its facts. ``value``, keys, ids and inputs are in their JSON face; the facts' event times
    lie in ``[begin_us, end_us)``, without a beginning for a lifetime."""

    feature: str
    entity: Mapping[str, object]
    as_of: int
    known_at: KnownAt
    value: object
    status: str
    dtype: str
    begin_us: int | None
    end_us: int
    view_version: int
    store_commit: int
    facts: tuple[ExplainedFact, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "feature": self.feature,
            "entity": dict(self.entity),
            "as_of": instant_text(self.as_of),
            "known_at": instant_text(self.known_at) if isinstance(self.known_at, int) else self.known_at,
            "value": self.value,
            "status": self.status,
            "dtype": self.dtype,
            "window": {
                "begin": None if self.begin_us is None else instant_text(self.begin_us),
                "end": instant_text(self.end_us),
            },
            "view_version": self.view_version,
            "store_commit": self.store_commit,
            "facts": [fact.to_dict() for fact in self.facts],
        }

    def text(self) -> str:
        """The same for a person: a line a fact."""
        made = self.to_dict()
        entity = ", ".join(f"{name}={_cell(value)}" for name, value in self.entity.items())
        known_at = "everything known now" if made["known_at"] is None else f"known_at {made['known_at']}"
        window = made["window"]
        lines = [
            f"{self.feature} of {entity} = {_cell(self.value)}  ({self.dtype}, {self.status})",
            f"  as of {made['as_of']}, {known_at}",
            f"  view version {self.view_version}, store commit {self.store_commit}",
            f"  event times from {window['begin'] or 'the first'} until before {window['end']}",
            f"  {len(self.facts)} fact{'' if len(self.facts) == 1 else 's'}",
        ]
        rows = [["id", "event_time", "changed_at", "available_at", "input", "order"]]
        for fact in made["facts"]:
            ids = ", ".join(_cell(value) for value in fact["id"].values()) or "-"
            rows.append(
                [
                    ids,
                    fact["event_time"],
                    _cell(fact.get("changed_at")),
                    _cell(fact["available_at"]),
                    _cell(fact["input"]),
                    _cell(fact["order"]),
                ]
            )
        shown = [i for i in range(6) if i in (0, 1, 3) or any(row[i] != "-" for row in rows[1:])]
        widths = [max(len(row[i]) for row in rows) for i in range(6)]
        if self.facts:
            lines += ["    " + "  ".join(row[i].ljust(widths[i]) for i in shown).rstrip() for row in rows]
        return "\n".join(lines)


def explain_value(
    lookup: Lookup, store: Store, feature: str, entity: Mapping[str, object], *, as_of: int, known_at: KnownAt
) -> ExplainedValue:
    """The value of ``view:feature`` for one entity at ``as_of``, with the facts that it is made of."""
    with store.snapshot() as snapshot:
        chosen = choose(lookup.registry(snapshot), [feature], None)
        if len(chosen) != 1 or ":" not in feature:
            raise RequestError(
                f'"{feature}" is more than one feature', hint=f"name one, like {chosen[0].feature.reference}"
            )
        one = chosen[0]
        keys = canonical_keys(chosen, {name: [value] for name, value in entity.items()})
        horizon_us = one.view.timeline.horizon_us
        if horizon_us is not None and outside_of(horizon_us, np.array([as_of]), known_at) is not None:
            raise outside_retention(one.asked, horizon_us)
        group = groups(chosen)[0]
        stored, asked = lookup.facts(snapshot, group, keys, np.array([as_of], np.int64), whole=True)
        plan = one.view.plan
        lookups = lookup.held(snapshot, plan.lookups_for([one.feature]), stored)
        commit_number = snapshot.commit_number
    facts = stored.known(plan.source.roles, known_at, delay_us=one.feature.delay_us, lookups=lookups)
    answers = answer([one.feature], facts.timeline, facts.table, asked, latest=True)
    given = answers.answers[0]
    assert given.latest is not None
    keys_of = plan.entity.keys
    vector = FeatureVector(
        one.asked, keys_of, one.feature, given.values, answers.found, given.flagged, given.latest
    )
    brought = {name: feature.dtype for each in plan.lookups for name, feature in each.columns}
    schema = {name: parse(dtype) for name, dtype in one.view.timeline.columns.items()} | brought
    end_us = as_of - one.feature.delay_us
    window_us = one.feature.window_us
    return ExplainedValue(
        feature=f"{one.asked}:{one.feature.name}",
        entity={name: json_values(array, dtype)[0] for name, (array, dtype) in keys.items()},
        as_of=as_of,
        known_at=known_at,
        value=json_values(given.values, one.feature.dtype)[0],
        status=vector.statuses()[0],
        dtype=str(one.feature.dtype),
        begin_us=None if window_us is None else end_us - window_us,
        end_us=end_us,
        view_version=one.view.version.version,
        store_commit=commit_number,
        facts=explained_facts(one.feature, plan.source.roles, schema, facts, asked),
    )


def seen(edges: Edges) -> I64:
    """The items that the only question sees, in timeline order."""
    if edges.ordered:
        return np.arange(edges.lo[0], edges.hi[0])
    first = edges.offsets[np.flatnonzero(np.diff(edges.questions))[0]]
    return np.setdiff1d(edges.enter[first : edges.hi[0]], edges.leave[first : edges.lo[0]])


def explained_facts(
    feature: Feature,
    roles: Roles | ChangeRoles,
    schema: Mapping[str, DType],
    facts: EntityFacts,
    asked: Questions,
) -> tuple[ExplainedFact, ...]:
    """The facts that the only question of ``asked`` sees of a feature; ``schema`` are the table's types."""
    evaluation = Evaluation(facts.timeline, facts.table, asked, None)
    of = evaluation.items(ItemsKey.of(feature))
    items = seen(evaluation.item_edges(of, feature.window_us, feature.delay_us))
    # Timeline order of items is timeline order of facts; a list's elements stand together.
    fact, first = np.unique(of.fact_of(items), return_index=True)
    rows = facts.table.take(pa.array(facts.timeline.row[fact]))
    is_table = isinstance(roles, ChangeRoles)
    identity = roles.primary_key if isinstance(roles, ChangeRoles) else roles.id
    ids = {name: json_values(single(rows, name), schema[name]) for name in identity}
    event_times = facts.timeline.event_time[fact].tolist()
    changed = _instants(rows, roles.changed_at) if isinstance(roles, ChangeRoles) else event_times
    available = changed if roles.available_at is None else _instants(rows, roles.available_at)
    bounds = [*first.tolist(), len(items)]
    inputs = _inputs(of, items, feature.input_type, bounds, explode=feature.explode)
    orders: list[object] = [None] * len(fact)
    if of.order is not None and feature.order is not None:
        orders = json_values(of.order.at(items), infer(feature.order, schema))
    return tuple(
        ExplainedFact(
            {name: values[i] for name, values in ids.items()},
            event_times[i],
            available[i],
            inputs[i],
            orders[i],
            changed[i] if is_table else None,
        )
        for i in range(len(fact))
    )


def _instants(rows: pa.Table, name: str) -> list[int | None]:
    made: list[int | None] = single(rows, name).cast(pa.int64()).to_pylist()
    return made


def _inputs(of: Items, items: I64, dtype: DType, bounds: list[int], *, explode: bool) -> list[object]:
    if of.values is None:
        return [None] * (len(bounds) - 1)
    faces = json_values(of.values.at(items), dtype)
    if not explode:
        return faces
    return [faces[begin:end] for begin, end in pairwise(bounds)]


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else repr(value)
