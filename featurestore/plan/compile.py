"""From declarations to plans: expressions parsed and bound, types checked, names resolved.

A source's columns are handed in, so that a plan is made without touching a log. Everything that an author can
get wrong is reported here with the name of its view.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import UUID

from featurestore.dsl.aggregation import Aggregation
from featurestore.dsl.entity import Entity
from featurestore.dsl.expression import parse
from featurestore.dsl.feature_view import FeatureService, FeatureView
from featurestore.dsl.source import EventSource
from featurestore.dsl.table_source import TableSource
from featurestore.dtypes import BOOL, INT64, DType
from featurestore.errors import DefinitionError, UnknownNameError, suggestion
from featurestore.kernel.expression import Node
from featurestore.kernel.expression_types import bind, infer
from featurestore.kernel.feature import Feature
from featurestore.kernel.operations import ORDERED
from featurestore.kernel.roles import ChangeRoles, Roles
from featurestore.plan.nodes import ChangeFormat, EntityPlan, LookupPlan, ServicePlan, SourcePlan, ViewPlan

KEY_KINDS = ("int64", "string", "uuid", "bool", "date", "timestamp", "decimal", "binary")
RESERVED = "__"
OPERATION = "__op"


def source_plan(source: EventSource, columns: Mapping[str, DType]) -> SourcePlan:
    """An event source over the declared ``columns``; checks that each column that plays a part exists and can
    play it."""
    label = f'source "{source.name}"'
    _no_reserved(columns, label)
    _check_parts(source, columns, label, source.structural)
    for name in source.ids:
        _check_scalar(name, columns, f'{label}: id "{name}"', "an id is a scalar")
    # What is known when it happens is known without a column that says so.
    available_at = None if source.available_at == source.event_time else source.available_at
    roles = Roles(
        event_time=source.event_time,
        id=source.ids,
        available_at=available_at,
        version=source.version,
        deleted=source.deleted,
        order_by=source.order_by,
        content=tuple(name for name in columns if name != available_at),
    )
    return SourcePlan(
        source.name,
        source.log,
        tuple(columns.items()),
        roles,
        source.timezone,
        source.time_unit,
        topic=source.topic,
    )


def table_plan(
    source: TableSource, columns: Mapping[str, DType], changed_at: str, position: tuple[str, ...]
) -> SourcePlan:
    """A table source over the declared ``columns``; ``changed_at`` and ``position`` are its own or its
    format's."""
    label = f'source "{source.name}"'
    _no_reserved([name for name in columns if name not in (changed_at, *position)], label)
    _check_parts(source, columns, label, (*source.structural, changed_at, *position))
    for name in source.primary_keys:
        _check_scalar(name, columns, f'{label}: primary key "{name}"', "a primary key is a scalar")
    for name in position:
        if columns[name].kind != "int64":
            raise DefinitionError(
                f'{label}: position "{name}" is {columns[name]}', hint="positions are compared as integers"
            )
    if columns[changed_at].kind != "timestamp":
        raise DefinitionError(
            f'{label}: changed_at "{changed_at}" is {columns[changed_at]}', hint="changed_at takes timestamp"
        )
    available_at = None if source.available_at == changed_at else source.available_at
    roles = ChangeRoles(
        primary_key=source.primary_keys,
        changed_at=changed_at,
        position=position,
        event_time=source.event_time,
        available_at=available_at,
        order_by=source.order_by,
        content=(*(name for name in columns if name != available_at), OPERATION),
    )
    operations = tuple(sorted((source.operations or {}).items()))
    return SourcePlan(
        source.name,
        source.log,
        tuple(columns.items()),
        roles,
        source.timezone,
        source.time_unit,
        ChangeFormat(
            source.format,
            source.op,
            operations,
            # What is cosmetic is no part of a plan.
            replace(source, description="", tags={}, owner=""),
        ),
        source.topic,
    )


def _no_reserved(columns: Iterable[str], label: str) -> None:
    for name in columns:
        if name.startswith(RESERVED):
            raise DefinitionError(
                f'{label}: column "{name}" begins with {RESERVED}',
                hint="such names are the store's own: leave it out with columns=[...]",
            )


def _check_parts(
    source: EventSource | TableSource, columns: Mapping[str, DType], label: str, structural: Iterable[str]
) -> None:
    for named in structural:
        if named not in columns:
            raise DefinitionError(
                f'{label}: no column "{named}"', hint=suggestion(named, columns, what="columns")
            )
    stamped = None if source.topic is None else source.topic.timestamp_column
    if stamped is not None and columns[stamped].kind != "timestamp":
        raise DefinitionError(
            f'{label}: timestamp_column="{stamped}" is {columns[stamped]}', hint="it takes timestamp"
        )
    for part, allowed in (
        ("event_time", ("timestamp",)),
        ("available_at", ("timestamp",)),
        ("deleted", ("bool",)),
        ("version", ORDERED),
        ("order_by", ORDERED),
    ):
        name: str | None = getattr(source, part, None)
        if name is not None and columns[name].kind not in allowed:
            raise DefinitionError(
                f'{label}: {part}="{name}" is {columns[name]}', hint=f"{part} takes {' or '.join(allowed)}"
            )


def _check_scalar(name: str, columns: Mapping[str, DType], what: str, hint: str) -> None:
    if columns[name].kind not in ORDERED:
        raise DefinitionError(f"{what} is {columns[name]}", hint=hint)


def entity_plan(entity: Entity, source: SourcePlan, label: str) -> EntityPlan:
    """An entity's keys as columns of a source."""
    schema = source.schema
    for key in entity.keys:
        if key not in schema:
            raise DefinitionError(
                f'{label}: no column "{key}", the key of entity "{entity.name}", in source "{source.name}"',
                hint=suggestion(key, schema, what="columns"),
            )
        if schema[key].kind not in KEY_KINDS:
            raise DefinitionError(
                f'{label}: key "{key}" of entity "{entity.name}" is {schema[key]}',
                hint=f"keys are {', '.join(KEY_KINDS)}: declare the column's type with columns={{...}}",
            )
    return EntityPlan(entity.name, entity.keys, tuple(schema[key] for key in entity.keys))


def view_plan(view: FeatureView, source: SourcePlan, lookups: Sequence[LookupPlan] = ()) -> ViewPlan:
    """A feature view over its source's plan, with the lookups that its features read of those that the source
    declares."""
    label = f'feature view "{view.name}"'
    for one in lookups:
        if one.view.retention_us is not None:
            raise DefinitionError(
                f"{label} looks something up in {one.view.label}, which has a retention",
                hint=f"leave retention out of {one.view.name}: an event may be of any time",
            )
    plan = ViewPlan(
        view.name, entity_plan(view.entity, source, label), source, (), tuple(lookups), view.retention_us
    )
    features = tuple(
        feature for aggregation in view.features for feature in _features(aggregation, plan, label)
    )
    return replace(plan, features=features, lookups=plan.lookups_for(features))


def _bound(text: str, view: ViewPlan, label: str) -> tuple[Node, DType]:
    schema, source = view.schema, view.source
    try:
        node = bind(parse(text), schema)
        return node, infer(node, schema)
    except DefinitionError as error:
        where = f' in source "{source.name}"' if error.fact.startswith("no column") else ""
        raise type(error)(f"{label}: {error.fact}{where}", hint=error.hint) from None


def _features(aggregation: Aggregation, view: ViewPlan, label: str) -> Iterable[Feature]:
    operation = aggregation.operation
    node: Node | None = None
    dtype = INT64
    explode = False
    what = f"{label}: agg.{aggregation.op}"
    if aggregation.column is not None:
        node, dtype = _bound(aggregation.column, view, label)
        if dtype.kind == "list" and not operation.whole_lists:
            assert dtype.item is not None
            explode, dtype = True, dtype.item
        if operation.takes and dtype.kind not in operation.takes:
            raise DefinitionError(
                f'{what} can\'t take "{aggregation.column}": it is {dtype}',
                hint=f"{aggregation.op} takes {', '.join(operation.takes)}",
            )
    where: Node | None = None
    if aggregation.where is not None:
        where, kind = _bound(aggregation.where, view, label)
        if kind != BOOL:
            raise DefinitionError(
                f'{label}: where="{aggregation.where}" is {kind}, not a predicate',
                hint="a predicate is true or false, as \"status = 'declined'\"",
            )
    parameters = dict(aggregation.parameters)
    order: Node | None = None
    if isinstance(text := parameters.get("order"), str):
        order, kind = _bound(text, view, label)
        if kind.kind not in ORDERED:
            raise DefinitionError(
                f'{what}: order="{text}" is {kind}', hint=f"order takes {', '.join(ORDERED)}"
            )
    result = operation.result(dtype, parameters)
    default = checked_default(aggregation.default, result, what)
    for name, window in aggregation.feature_names():
        if window is not None and view.source.roles.event_time is None:
            raise DefinitionError(
                f'{what}: a window over source "{view.source.name}", which has no event_time',
                hint="name the row's own time with event_time=, or leave the windows out: a lifetime feature",
            )
        yield Feature(
            view=view.name,
            name=name,
            op=aggregation.op,
            input=node,
            input_type=dtype,
            where=where,
            order=order,
            window_us=None if window is None else window.window_us,
            delay_us=aggregation.delay_us,
            explode=explode,
            dtype=result,
            default=default,
            parameters=aggregation.parameters,
        )


def checked_default(value: object, dtype: DType, what: str) -> object:
    """A ``default=`` as the Python value that Arrow holds for ``dtype``; DefinitionError where it can't hold
    it."""
    if value is None:
        return None
    match dtype.kind:
        case "int64" if isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63:
            return value
        case "float64" if isinstance(value, int | float) and not isinstance(value, bool):
            return math.nan if value != value else float(value) + 0.0
        case "bool" if isinstance(value, bool):
            return value
        case "string" if isinstance(value, str) and _has_utf8(value):
            return value
        case "uuid" if isinstance(value, str):
            with contextlib.suppress(ValueError):
                return str(UUID(value))
        case "binary" if isinstance(value, bytes):
            return value
        case "date" if isinstance(value, date) and not isinstance(value, datetime):
            return value
        case "timestamp" if isinstance(value, datetime) and value.tzinfo is not None:
            return value.astimezone(UTC)
        case "decimal" if isinstance(value, int | Decimal) and not isinstance(value, bool):
            number = Decimal(value)
            exact = number.is_finite() and number == round(number, dtype.scale)
            if exact and abs(number).scaleb(dtype.scale) < 10**dtype.precision:
                return round(number, dtype.scale)
        case "list" if isinstance(value, list | tuple):
            assert dtype.item is not None
            return [checked_default(item, dtype.item, what) for item in value]
        case "map" if isinstance(value, Mapping):
            assert dtype.item is not None and dtype.key is not None
            if None not in value:
                pairs = [
                    (checked_default(key, dtype.key, what), checked_default(item, dtype.item, what))
                    for key, item in value.items()
                ]
                # Keys of one type now, so they can be compared.
                return sorted(pairs, key=lambda pair: pair[0])  # type: ignore[arg-type,return-value]
    raise DefinitionError(f"{what}: default={value!r} is no {dtype}", hint=f"the feature is {dtype}")


def _has_utf8(text: str) -> bool:
    """Whether ``text`` can be stored: lone surrogates can't."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def service_plan(service: FeatureService, views: Mapping[str, ViewPlan]) -> ServicePlan:
    """A service's features, each resolved to ``view:feature``."""
    label = f'feature service "{service.name}"'
    try:
        found = resolve(service.references(), views)
    except UnknownNameError as error:
        raise DefinitionError(f"{label}: {error.fact}", hint=error.hint) from None
    return ServicePlan(service.name, tuple(feature.reference for feature in found))


def resolve(references: Iterable[str], views: Mapping[str, ViewPlan]) -> list[Feature]:
    """The features that ``view:feature`` references, or bare view names, stand for, in order, each once."""
    found: dict[str, Feature] = {}
    for reference in references:
        name, colon, feature_name = reference.partition(":")
        view = views.get(name)
        if view is None:
            raise UnknownNameError(
                f'no feature view "{name}"', hint=suggestion(name, views, what="feature views")
            )
        chosen = view.features if not colon else (view.feature(feature_name),)
        for feature in chosen:
            if feature is None:
                known = [feature.name for feature in view.features]
                raise UnknownNameError(
                    f'feature view "{name}" has no feature "{feature_name}"',
                    hint=suggestion(feature_name, known, what="features"),
                )
            found[feature.reference] = feature
    return list(found.values())
