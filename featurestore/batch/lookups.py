"""What a training set's events look up: the facts of the inner views, read from their own logs.

Time: none here; at which time and horizon an event's columns are asked for is the kernel's business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import pyarrow as pa

from featurestore.batch.facts import Facts, Reader
from featurestore.kernel.feature import Feature
from featurestore.kernel.timelines import Held, HeldLookup
from featurestore.kernel.versions import Counts, single
from featurestore.plan.nodes import LookupPlan, ViewPlan


def looking_up(
    features: Sequence[Feature], views: Mapping[str, ViewPlan]
) -> list[tuple[tuple[LookupPlan, ...], list[Feature]]]:
    """The features that can share a table with looked-up columns, and the lookups of each group: two views
    may use one name for different things."""
    by_view: dict[str, list[Feature]] = {}
    for feature in features:
        by_view.setdefault(feature.view, []).append(feature)
    made: list[tuple[tuple[LookupPlan, ...], list[Feature]]] = []
    for name, some in by_view.items():
        lookups = views[name].lookups_for(some)
        for known, group in made:
            if known == lookups:
                group.extend(some)
                break
        else:
            made.append((lookups, list(some)))
    return made


class Lookups:
    """Reads what lookups need, each log and entity once for the same features. ``tell`` is told of each view
    that is looked up, with its facts and what choosing them met."""

    def __init__(self, reader: Reader, tell: Callable[[ViewPlan, Facts, Counts], None] | None = None) -> None:
        self._reader = reader
        self._tell = tell
        self._facts: dict[tuple[str, tuple[str, ...]], Facts] = {}

    def held(self, lookups: Sequence[LookupPlan], table: pa.Table) -> tuple[HeldLookup, ...]:
        """What the rows of ``table`` look up, with the entity that each of them asks about."""
        return tuple(self._held(one, table) for one in lookups)

    def _held(self, one: LookupPlan, table: pa.Table) -> HeldLookup:
        view, features = one.view, one.features
        key = (view.timeline_fingerprint, tuple(feature.reference for feature in features))
        facts = self._facts.get(key)
        if facts is None:
            facts = self._facts[key] = self._reader.facts(view, features)
        inner = Held(
            facts.table,
            facts.codes,
            facts.index.entities,
            facts.roles,
            self.held(view.lookups_for(features), facts.table),
        )
        keys = facts.index.find([single(table, name) for name in one.on])
        tell = None if self._tell is None else partial(self._tell, view, facts)
        return HeldLookup(inner, keys, one.columns, tell)
