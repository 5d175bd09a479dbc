"""Retention: how far back questions to the store reach, and what no such question can see any more.

Time: the horizon H of a timeline version is now minus the longest retention of the views over it; it moves
forward only. Every question with ``as_of >= H``, with ``known_at`` absent, "as_of" or ``>= H``, is answered
exactly, older ones are refused. Such a question sees events from H minus the longest window and delay on:
that is the floor. An event before it, all of whose versions are, can be dropped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from featurestore.plan.nodes import ViewPlan
from featurestore.plan.spec import decode
from featurestore.store.changes import is_table
from featurestore.store.records import Definition, TimelineVersion
from featurestore.store.registry import AppliedView, Registry, inner_timelines, read_registry
from featurestore.store.store import Store

# A move is told to every host and worker: beside writers, not for less than a twentieth of the retention.
STEADY_PART = 20


@dataclass(frozen=True)
class Span:
    """What the views over a timeline version need: questions of ``retention_us``, which look ``reach_us``
    further back."""

    retention_us: int
    reach_us: int


def spans(registry: Registry) -> dict[int, tuple[TimelineVersion, Span]]:
    """The timeline versions whose horizon may move. A table's does not; nor where a view has no retention or
    a lifetime feature, or an event of any time looks something up; nor before it is filled."""
    readers: dict[int, list[AppliedView]] = {}
    pinned: set[int] = set()
    for view in registry.versions.values():
        readers.setdefault(view.timeline.id, []).append(view)
        pinned.update(one.id for one in inner_timelines(registry, view.plan) if one is not None)
    found: dict[int, tuple[TimelineVersion, Span]] = {}
    for timeline in registry.timelines:
        if timeline.state != "current" or timeline.id in pinned or is_table(timeline):
            continue
        views = readers.get(timeline.id, [])
        retentions = [_retention_us(view, registry.definitions) for view in views]
        reaches = [view.plan.reach_us for view in views]
        if views and None not in retentions and None not in reaches:
            span = Span(max(_known(retentions)), max(_known(reaches)))
            found[timeline.id] = (timeline, span)
    return found


def _known(values: list[int | None]) -> Iterator[int]:
    return (value for value in values if value is not None)


def _retention_us(view: AppliedView, definitions: Mapping[tuple[str, str], Definition]) -> int | None:
    """What is declared now counts for all versions of a view; of one that is no longer declared, its own."""
    applied = definitions.get(("feature_view", view.plan.name))
    if applied is None:
        return view.plan.retention_us
    plan = decode(json.loads(applied.payload)["plan"])
    assert isinstance(plan, ViewPlan)
    return plan.retention_us


def advance(store: Store, *, now: Callable[[], int], steady: bool = False) -> list[int]:
    """Move the horizons that may move, all in one commit; returns the timeline versions that have moved.
    ``steady``: only those that would move far."""
    if not store.read(lambda snapshot: _moves(read_registry(snapshot), now(), steady=steady)):
        return []
    now_us = now()
    with store.commit("retention", now_us=now_us) as commit:
        with store.snapshot() as snapshot:
            moves = _moves(read_registry(snapshot), now_us, steady=steady)
        for timeline_id, (horizon_us, floor_us) in moves.items():
            commit.set_horizon(timeline_id, horizon_us=horizon_us, floor_us=floor_us)
    return list(moves)


def _moves(registry: Registry, now_us: int, *, steady: bool) -> dict[int, tuple[int, int]]:
    """Timeline version -> its new horizon and floor."""
    made: dict[int, tuple[int, int]] = {}
    for timeline_id, (timeline, span) in spans(registry).items():
        horizon_us = now_us - span.retention_us
        least = span.retention_us // STEADY_PART if steady else 0
        if timeline.horizon_us is not None and horizon_us <= timeline.horizon_us + least:
            continue
        floor_us = horizon_us - span.reach_us
        # What was dropped does not come back, whatever reads it now.
        made[timeline_id] = (horizon_us, max(floor_us, timeline.floor_us or floor_us))
    return made
