"""Lookups: columns that an event takes from elsewhere on the way, a table's row or another view's features.

Time: a looked-up column of event e is the value at (T' = e.event_time, K' = the question's K): what was
strictly before the event, as known to whoever asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from featurestore.dsl.names import column_names
from featurestore.dsl.table_source import TableSource
from featurestore.errors import DefinitionError, suggestion

if TYPE_CHECKING:
    from featurestore.dsl.feature_view import FeatureView
    from featurestore.dsl.source import EventSource

Of: TypeAlias = "TableSource | FeatureView"
Names = str | Sequence[str]


@dataclass(frozen=True)
class Lookup:
    """``columns`` of ``of`` where its key is what the event has in ``on``: (new name, column or feature)
    pairs."""

    of: Of
    on: tuple[str, ...]
    columns: tuple[tuple[str, str], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names that the columns have on the event."""
        return tuple(name for name, _ in self.columns)

    @property
    def label(self) -> str:
        return f'lookup of "{self.of.name}"'


def looked_up(source: EventSource, of: Of, on: Names, columns: Names | Mapping[str, str]) -> EventSource:
    """``source`` with one lookup more; whatever can be said without its log is checked here."""
    from featurestore.dsl.feature_view import FeatureView

    if not isinstance(of, TableSource | FeatureView):
        raise DefinitionError(
            f'source "{source.name}": {of!r} can\'t be looked up',
            hint="pass a TableSource or a FeatureView itself",
        )
    label = f'source "{source.name}", lookup of "{of.name}"'
    keys = of.primary_keys if isinstance(of, TableSource) else of.entity.keys
    whose = "the primary key" if isinstance(of, TableSource) else f'the keys of entity "{of.entity.name}"'
    by = column_names(on, f"{label}, on")
    if len(by) != len(keys):
        raise DefinitionError(
            f"{label}: on names {len(by)} column{'' if len(by) == 1 else 's'}, {whose} {len(keys)}",
            hint=f"name the source's columns that hold {', '.join(keys)}, in this order",
        )
    earlier = {name for one in source.lookups for name in one.names}
    for name in by:
        if name in earlier:
            raise DefinitionError(
                f'{label}: on="{name}" is looked up itself',
                hint="on takes the event's own columns; look both up in one table or view",
            )
    pairs = _pairs(of, columns, label)
    for name, _ in pairs:
        if name in source.structural:
            raise DefinitionError(
                f'{label}: "{name}" plays a part in source "{source.name}", and a looked-up column can\'t',
                hint=f'name it, as columns={{"{of.name}_{name}": ...}}',
            )
        if name in earlier:
            raise DefinitionError(
                f'{label}: two looked-up columns are named "{name}"',
                hint=f'name it, as columns={{"{of.name}_{name}": ...}}',
            )
        earlier.add(name)
    return replace(source, lookups=(*source.lookups, Lookup(of, by, pairs)))


def _pairs(of: Of, columns: Names | Mapping[str, str], label: str) -> tuple[tuple[str, str], ...]:
    is_table = isinstance(of, TableSource)
    if isinstance(columns, Mapping):
        pairs = tuple(columns.items())
        if not all(isinstance(text, str) and text for pair in pairs for text in pair):
            raise DefinitionError(
                f"{label}: columns={columns!r} are not names with columns",
                hint='write columns={"user_country": "country"}',
            )
    else:
        named = column_names(columns, f"{label}, columns")
        pairs = tuple((name if is_table else f"{of.name}__{name}", name) for name in named)
    if not pairs:
        raise DefinitionError(
            f"{label} names no columns",
            hint='write columns=["country"]' if is_table else 'name features, as columns=["count_1h"]',
        )
    for name, column in pairs:
        if name.startswith("__"):
            raise DefinitionError(
                f'{label}: column "{name}" begins with __', hint="such names are the store's own"
            )
        if not isinstance(of, TableSource) and column not in of.feature_names():
            raise DefinitionError(
                f'{label}: feature view "{of.name}" has no feature "{column}"',
                hint=suggestion(column, of.feature_names(), what="features"),
            )
    return pairs
