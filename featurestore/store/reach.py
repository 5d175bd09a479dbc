"""How far forgetting a key reaches: in which columns of which sources an entity's key stands.

Time: none, and nothing is unlearned: whatever a view has once said about a source since the store was made
goes on to hold, so that what was left out once is never taken in again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeAlias

from featurestore.plan.nodes import PRIMARY_KEY, ViewPlan
from featurestore.plan.spec import decode
from featurestore.store.records import TimelineVersion
from featurestore.store.snapshot import Snapshot

Scope: TypeAlias = tuple[tuple[str, str], ...]
"""(column of an entity's key, column of a source that holds it) pairs, by the key's columns."""


class Read(NamedTuple):
    """A source is read by an entity, or, of a table that is looked up, by its primary key."""

    source: str
    entity: str
    keys: tuple[str, ...]


class Step(NamedTuple):
    """Facts of ``source`` look up what ``inner`` reads: their ``on`` hold its keys."""

    source: str
    on: tuple[str, ...]
    inner: Read


@dataclass(frozen=True)
class Reach:
    """What views have said about sources."""

    reads: frozenset[Read] = frozenset()
    steps: frozenset[Step] = frozenset()

    def joined(self, views: Iterable[ViewPlan]) -> Reach:
        """The same with what more views say."""
        views = list(views)
        plans = [*views, *(inner for view in views for inner in view.inner())]
        reads = {_read(plan) for plan in plans}
        steps = {Step(plan.source.name, one.on, _read(one.view)) for plan in plans for one in plan.lookups}
        return Reach(self.reads | reads, self.steps | steps)

    @cached_property
    def scopes(self) -> Mapping[str, frozenset[Scope]]:
        """By source, the columns where keys stand.

        A view's key columns are its entity's; a table's primary key is the entity of these columns where it
        is looked up. What is looked up by some columns has their key for its own, and so has, where an
        entity is looked up, each source that this entity reads.
        """
        held: dict[str, set[Scope]] = {}
        for read in self.reads:
            held.setdefault(read.source, set()).add(_scope(read.keys, read.keys))
        for step in self.steps:
            for source in self._sources(step.inner):
                held.setdefault(source, set()).add(_scope(step.on, step.inner.keys))
        while found := set(self._further(held)):
            for source, scope in found:
                held.setdefault(source, set()).add(scope)
        return {source: frozenset(some) for source, some in held.items()}

    def _further(self, held: Mapping[str, set[Scope]]) -> Iterator[tuple[str, Scope]]:
        """What looks something up by columns that hold a key hands this key on."""
        for step in self.steps:
            handed = dict(zip(step.on, step.inner.keys, strict=True))
            for scope in held.get(step.source, ()):
                if {column for _, column in scope} == set(step.on):
                    further = tuple((name, handed[column]) for name, column in scope)
                    for source in self._sources(step.inner):
                        if further not in held.get(source, ()):
                            yield source, further

    def _sources(self, inner: Read) -> set[str]:
        if inner.entity == PRIMARY_KEY:
            return {inner.source}
        of_entity = (inner.entity, sorted(inner.keys))
        return {one.source for one in self.reads if (one.entity, sorted(one.keys)) == of_entity} | {
            inner.source
        }

    def of(self, columns: Sequence[str]) -> list[tuple[str, Scope]]:
        """The sources, and where in them, that hold keys of ``columns``, sorted names."""
        names = tuple(columns)
        return [
            (source, scope)
            for source, some in sorted(self.scopes.items())
            for scope in sorted(some)
            if names_of(scope) == names
        ]


def names_of(scope: Scope) -> tuple[str, ...]:
    """The key's columns, sorted."""
    return tuple(name for name, _ in scope)


def columns_of(scope: Scope) -> tuple[str, ...]:
    """The source's columns, in the order of the key's."""
    return tuple(column for _, column in scope)


def _scope(names: Sequence[str], columns: Sequence[str]) -> Scope:
    return tuple(sorted(zip(names, columns, strict=True)))


def _read(plan: ViewPlan) -> Read:
    return Read(plan.source.name, plan.entity.name, plan.entity.keys)


def own_keys(timeline: TimelineVersion) -> tuple[str, ...]:
    """The key columns of a timeline version's entity."""
    keys = timeline.roles["keys"]
    return (keys,) if isinstance(keys, str) else tuple(keys or ())


def read_reach(snapshot: Snapshot, timelines: Iterable[TimelineVersion]) -> tuple[Reach, int]:
    """What all views have said that ever were, and the number of the newest version of one."""
    versions = snapshot.view_versions()
    reads = frozenset(Read(one.source, one.entity, own_keys(one)) for one in timelines)
    # A definition without lookups says no more than its timeline.
    looking_up = [decode(one.spec) for one in versions if "LookupPlan" in one.spec]
    return Reach(reads).joined(looking_up), max((one.id for one in versions), default=0)
