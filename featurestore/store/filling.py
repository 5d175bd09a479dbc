"""When a timeline version that was being filled is served: it holds all of its log, and stands in its
source's topic where the version before it stands.

Time: a version is switched in one commit; no request sees half of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from featurestore.errors import BackfillError
from featurestore.plan.nodes import ViewPlan
from featurestore.store.commit import Commit
from featurestore.store.positions import Position, committed_positions, read_positions
from featurestore.store.records import TimelineVersion
from featurestore.store.registry import AppliedView, Registry, inner_timelines, read_registry
from featurestore.store.store import Store


@dataclass(frozen=True)
class Finished:
    """The views that were switched, with their versions; or what the timeline version still ``waits`` for."""

    switched: list[str] = field(default_factory=list)
    waits: str | None = None


def filling_version(registry: Registry, plan: ViewPlan) -> AppliedView | None:
    """The newest version of a view that means what is declared and is not filled yet."""
    found = [
        view
        for view in registry.versions.values()
        if view.plan.name == plan.name
        and view.version.state == "filling"
        and view.version.fingerprint == plan.fingerprint
        and view.timeline.state != "retired"
    ]
    return max(found, key=lambda view: view.version.version, default=None)


def finish(
    store: Store, timeline: TimelineVersion, now: Callable[[], int], *, log_is_whole: bool
) -> Finished:
    """Switch the views that wait for a timeline version, all at once, where nothing is missing in it.

    ``log_is_whole``: all that its source's log holds is there now, which is kept.
    """
    with store.snapshot() as snapshot:
        registry = read_registry(snapshot)
        stands = read_positions(snapshot, _of_source(registry, timeline.source))
        waits = behind(registry, timeline, stands)
        known = timeline.filled_commit is not None or not log_is_whole
    if known and (waits or (timeline.state == "current" and not _waiting(registry, timeline))):
        return Finished(waits=waits)
    with store.commit("switch", now_us=now(), detail=timeline.source) as commit:
        with store.snapshot() as snapshot:
            registry = read_registry(snapshot)
        if timeline.id not in {one.id for one in registry.timelines}:
            raise BackfillError(
                f'source "{timeline.source}": the version that was filled was dropped',
                hint='run "featurestore apply"',
            )
        if log_is_whole:
            commit.log_is_whole(timeline.id)
        waits = behind(registry, timeline, committed_positions(commit, _of_source(registry, timeline.source)))
        switched = [] if waits else _switch(commit, registry, timeline)
    return Finished(switched, waits)


def behind(registry: Registry, timeline: TimelineVersion, stands: list[Position]) -> str | None:
    """What a timeline version has yet to read of its source's topic before it may be served: what was there
    when it began, and what a served version of its source has read. None for nothing."""
    plan = registry.sources.get(timeline.source)
    if plan is None or plan.topic is None or timeline.state == "current":
        return None
    stands = [one for one in stands if one.topic == plan.topic.name]
    mine = {one.partition: one for one in stands if one.timeline_version_id == timeline.id}
    served = {one.id for one in registry.timelines if one.state == "current"}
    wanted = {number: one.target_offset for number, one in mine.items()}
    for one in stands:
        if one.timeline_version_id in served:
            wanted[one.partition] = max(wanted.get(one.partition, 0), one.next_offset)
    missing = sum(
        max(0, offset - (mine[number].next_offset if number in mine else 0))
        for number, offset in wanted.items()
    )
    if any(number not in mine for number in wanted) or missing:
        return f'{missing:,} messages of topic "{plan.topic.name}": a stream worker reads them'
    return None


def _of_source(registry: Registry, source: str) -> list[int]:
    return [one.id for one in registry.timelines if one.source == source]


def _switch(commit: Commit, registry: Registry, timeline: TimelineVersion) -> list[str]:
    switched = []
    commit.set_timeline_state(timeline.id, "current")
    for view in _waiting(registry, timeline):
        applied = registry.definitions.get(("feature_view", view.plan.name))
        newest = filling_version(registry, view.plan)
        if applied is not None and applied.fingerprint == view.version.fingerprint and newest == view:
            commit.switch_view(view.version.id)
            if not view.plan.hidden:
                switched.append(view.label)
        else:
            # Filled, but no longer what is declared: readable by its version's name.
            commit.set_view_state(view.version.id, "pinned")
    return switched


def _waiting(registry: Registry, timeline: TimelineVersion) -> list[AppliedView]:
    """The views that have waited for a timeline version, to read it or to look something up in it, and for no
    other any more."""
    found = []
    for view in registry.versions.values():
        if view.version.state != "filling":
            continue
        read = [view.timeline, *inner_timelines(registry, view.plan)]
        ids = {one.id for one in read if one is not None}
        others = {one.id for one in read if one is not None and one.state != "current"} - {timeline.id}
        if None not in read and not others and timeline.id in ids:
            found.append(view)
    return found
