"""Lookups compiled: each is a chain over a view, that of a table's rows by primary key where a table is
looked up.

Time: the view of a table's rows has no event time, so a row's state at T' is that of its last change before
T'; the table's own event_time is about windows and plays no part in a lookup.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from featurestore.dsl.feature_view import FeatureView
from featurestore.dsl.lookup import Lookup
from featurestore.dsl.table_source import TableSource
from featurestore.dtypes import DType
from featurestore.errors import DefinitionError, suggestion
from featurestore.kernel.expression import Column
from featurestore.kernel.feature import Feature
from featurestore.kernel.roles import ChangeRoles
from featurestore.plan.compile import KEY_KINDS
from featurestore.plan.nodes import (
    BY_PRIMARY_KEY,
    HIDDEN,
    PRIMARY_KEY,
    EntityPlan,
    LookupPlan,
    SourcePlan,
    ViewPlan,
)


def rows_view(table: SourcePlan) -> ViewPlan:
    """A table's rows by primary key: each column as the row's last change left it."""
    assert isinstance(table.roles, ChangeRoles) and table.changes is not None
    roles = replace(table.roles, event_time=None, order_by=None)
    declared = replace(table.changes.declared, event_time=None, order_by=None)
    source = replace(table, roles=roles, changes=replace(table.changes, declared=declared))
    name = f"{HIDDEN}{table.name}{BY_PRIMARY_KEY}"
    for key in roles.primary_key:
        if source.schema[key].kind not in KEY_KINDS:
            raise DefinitionError(
                f'lookup of "{table.name}": its primary key "{key}" is {source.schema[key]}',
                hint=f"keys are {', '.join(KEY_KINDS)}: declare the column's type with columns={{...}}",
            )
    entity = EntityPlan(
        PRIMARY_KEY, roles.primary_key, tuple(source.schema[key] for key in roles.primary_key)
    )
    return ViewPlan(
        name, entity, source, tuple(_last(name, column, dtype) for column, dtype in source.columns)
    )


def _last(view: str, column: str, dtype: DType) -> Feature:
    return Feature(
        view=view,
        name=column,
        op="last",
        input=Column(column),
        input_type=dtype,
        where=None,
        order=None,
        window_us=None,
        delay_us=0,
        explode=False,
        dtype=dtype,
    )


def lookup_plans(
    view: FeatureView,
    source: SourcePlan,
    lookups: Sequence[Lookup],
    inner: Callable[[TableSource | FeatureView], ViewPlan],
) -> list[LookupPlan]:
    """The lookups that ``view``'s source declares; ``inner`` has the plan of what is looked up."""
    made = []
    for lookup in lookups:
        label = f'feature view "{view.name}": {lookup.label}'
        of = inner(lookup.of)
        _check_on(lookup, source, of, label)
        columns = []
        for name, wanted in lookup.columns:
            feature = of.feature(wanted)
            if feature is None:
                known = [one.name for one in of.features]
                raise DefinitionError(
                    f'{label}: no column "{wanted}" in source "{of.source.name}"',
                    hint=suggestion(wanted, known, what="columns"),
                )
            if name in source.schema:
                raise DefinitionError(
                    f'{label}: source "{source.name}" has a column "{name}" of its own',
                    hint=f'name the other one, as columns={{"{lookup.of.name}_{wanted}": "{wanted}"}}',
                )
            columns.append((name, feature))
        made.append(LookupPlan(of, lookup.on, tuple(columns)))
    return made


def _check_on(lookup: Lookup, source: SourcePlan, of: ViewPlan, label: str) -> None:
    for name, key, dtype in zip(lookup.on, of.entity.keys, of.entity.dtypes, strict=True):
        if name not in source.schema:
            raise DefinitionError(
                f'{label}: no column "{name}" in source "{source.name}" (on)',
                hint=suggestion(name, source.schema, what="columns"),
            )
        if source.schema[name] != dtype:
            raise DefinitionError(
                f'{label}: on="{name}" is {source.schema[name]}, the key "{key}" is {dtype}',
                hint=f'declare one type for both, as columns={{"{name}": "{dtype}", ...}}',
            )
