"""Feature views: features of one entity over one source; feature services: the features that a model
takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from featurestore.dsl.aggregation import Aggregation
from featurestore.dsl.entity import Entity
from featurestore.dsl.names import check_cosmetics, checked
from featurestore.dsl.source import EventSource
from featurestore.dsl.table_source import TableSource
from featurestore.dsl.window import span_us
from featurestore.errors import DefinitionError, suggestion


@dataclass(frozen=True)
class FeatureView:
    """Features of ``entity`` over the facts of ``source``. ``description``, ``tags`` and ``owner`` are
    cosmetic.

    ``retention``, as ``"400d"``: how far back questions to the store may reach. Compaction then drops events
    that no question inside it can see; without it the store keeps everything. Training sets read the log and
    know no retention.
    """

    name: str
    entity: Entity
    source: EventSource | TableSource
    features: Sequence[Aggregation]
    description: str = ""
    tags: dict[str, str] = field(default_factory=dict, hash=False)
    owner: str = ""
    retention: str | timedelta | None = None

    def __post_init__(self) -> None:
        checked(self.name, "feature view")
        label = f'feature view "{self.name}"'
        if "__" in self.name:
            raise DefinitionError(
                f"{label} has __ in its name", hint="result columns are named view__feature: use one _"
            )
        if self.name.endswith("_"):
            # Or view "a_" with feature "b", and view "a" with feature "_b", would share a column.
            raise DefinitionError(
                f"{label} ends with _", hint="result columns are named view__feature: leave the last _ out"
            )
        if not isinstance(self.entity, Entity):
            raise DefinitionError(
                f"{label}: entity {self.entity!r} is not an Entity", hint="pass the Entity itself"
            )
        if not isinstance(self.source, EventSource | TableSource):
            raise DefinitionError(
                f"{label}: source {self.source!r} is not a source",
                hint="pass the EventSource or TableSource itself",
            )
        if isinstance(self.source, EventSource):
            looked_up = {name for lookup in self.source.lookups for name in lookup.names}
            for key in self.entity.keys:
                if key in looked_up:
                    raise DefinitionError(
                        f'{label}: "{key}", the key of entity "{self.entity.name}", is looked up',
                        hint="an event belongs to the entity that its own columns name",
                    )
        check_cosmetics(label, description=self.description, tags=self.tags, owner=self.owner)
        self._check_retention(label)
        if not isinstance(self.features, list | tuple):
            raise DefinitionError(
                f"{label}: features={self.features!r} is not a list", hint="write features=[agg.count()]"
            )
        object.__setattr__(self, "features", tuple(self.features))
        if not self.features:
            raise DefinitionError(f"{label} has no features", hint="add one, as agg.count(windows=['1h'])")
        seen: set[str] = set()
        for aggregation in self.features:
            if not isinstance(aggregation, Aggregation):
                raise DefinitionError(
                    f"{label}: {aggregation!r} is not a feature", hint="features are made by agg.*"
                )
            try:
                names = [name for name, _ in aggregation.feature_names()]
            except DefinitionError as error:
                raise DefinitionError(f"{label}: {error.fact}", hint=error.hint) from None
            for name in names:
                if name in seen:
                    raise DefinitionError(
                        f'{label} has two features named "{name}"', hint='tell them apart with name="..."'
                    )
                seen.add(name)

    def _check_retention(self, label: str) -> None:
        if self.retention is None:
            return
        if not isinstance(self.source, EventSource):
            raise DefinitionError(
                f"{label} has a retention, but its source is a table",
                hint="leave retention out: a row lives until it is deleted, however old its change is",
            )
        if self.retention_us == 0:
            raise DefinitionError(f"{label}: retention is empty", hint='write it like retention="400d"')

    @property
    def retention_us(self) -> int | None:
        return None if self.retention is None else span_us(self.retention, what="retention")[1]

    def feature_names(self) -> tuple[str, ...]:
        return tuple(name for aggregation in self.features for name, _ in aggregation.feature_names())

    def __getitem__(self, names: str | tuple[str, ...] | list[str]) -> tuple[str, ...]:
        """References to some of the view's features, for a FeatureService: ``card_activity["count_5m",
        "count_1h"]``."""
        wanted = tuple(names) if isinstance(names, list | tuple) else (names,)
        known = self.feature_names()
        for name in wanted:
            if name not in known:
                raise DefinitionError(
                    f'feature view "{self.name}" has no feature "{name}"',
                    hint=suggestion(str(name), known, what="features"),
                )
        return tuple(f"{self.name}:{name}" for name in wanted)


@dataclass(frozen=True)
class FeatureService:
    """The features that a model takes: whole views, ``view["a", "b"]``, or references ``"view:feature"``."""

    name: str
    features: Sequence[FeatureView | str | tuple[str, ...]]
    description: str = ""
    tags: dict[str, str] = field(default_factory=dict, hash=False)
    owner: str = ""

    def __post_init__(self) -> None:
        checked(self.name, "feature service")
        label = f'feature service "{self.name}"'
        check_cosmetics(label, description=self.description, tags=self.tags, owner=self.owner)
        listed = tuple(self.features) if isinstance(self.features, list | tuple) else (self.features,)
        object.__setattr__(self, "features", listed)
        if not listed:
            raise DefinitionError(f"{label} has no features", hint="name a view, or features as view:feature")
        for item in listed:
            names = item if isinstance(item, tuple) else ("",)
            if not isinstance(item, FeatureView | str | tuple) or not all(
                isinstance(name, str) for name in names
            ):
                raise DefinitionError(
                    f"{label}: {item!r} is not a feature", hint="name a view or view:feature"
                )

    def references(self) -> tuple[str, ...]:
        """Every feature as ``view:feature``, in the declared order, each once; a bare view name stands as it
        is."""
        found: list[str] = []
        for item in self.features:
            if isinstance(item, FeatureView):
                found.extend(f"{item.name}:{name}" for name in item.feature_names())
            elif isinstance(item, tuple):
                found.extend(item)
            else:
                found.append(item)
        return tuple(dict.fromkeys(found))
