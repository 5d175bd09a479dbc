"""Switching and dropping versions of views, and removing the timelines that nothing reads any more.

Time: which version is served changes between two commits, never within a request.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from featurestore.errors import RequestError, UnknownNameError, suggestion
from featurestore.store.commit import Commit
from featurestore.store.positions import forget_positions
from featurestore.store.records import ViewVersion
from featurestore.store.registry import Registry, inner_timelines, read_registry
from featurestore.store.store import Store

# Removing 500 entities' rows takes some 20 ms.
SWEPT_ENTITIES = 500
SWEPT_ROWS = 20_000


def switch_version(store: Store, view: str, version: int | str, now_us: int) -> None:
    """Serve another filled version of a view, from the next commit on."""
    with store.commit("switch", now_us=now_us, detail=f"{view}@{version}") as commit:
        with store.snapshot() as snapshot:
            registry = read_registry(snapshot)
        found = _version(registry, view, version)
        if found.state == "filling":
            raise RequestError(
                f'version {found.version} of feature view "{view}" is not filled yet',
                hint='run "featurestore backfill"',
            )
        if found.state != "current":
            commit.switch_view(found.id)


def drop_version(store: Store, view: str, version: int | str, now: Callable[[], int]) -> None:
    """Remove a version of a view that is not served, and the timelines that no version reads any more."""
    with store.commit("drop", now_us=now(), detail=f"{view}@{version}") as commit:
        with store.snapshot() as snapshot:
            registry = read_registry(snapshot)
        found = _version(registry, view, version)
        if found.state == "current":
            raise RequestError(
                f'version {found.version} of feature view "{view}" is being served',
                hint=f'run "featurestore versions switch {view} N" first; {_known(registry, view)}',
            )
        commit.set_view_state(found.id, "dropped")
        retire_unread(commit, registry, {found.id})
    sweep(store, now)


def retire_unread(commit: Commit, registry: Registry, dropped: Collection[int]) -> None:
    """Retire the timelines that only the ``dropped`` view versions read, themselves or to look up columns:
    nothing is written to them any more."""
    stay: set[int] = set()
    left: set[int] = set()
    for one in registry.versions.values():
        read = [one.timeline, *inner_timelines(registry, one.plan)]
        (left if one.version.id in dropped else stay).update(each.id for each in read if each is not None)
    for timeline_id in left - stay:
        commit.set_timeline_state(timeline_id, "retired")
        forget_positions(commit, timeline_id)


def sweep(store: Store, now: Callable[[], int]) -> None:
    """Remove what retired timelines still hold, some entities a commit; what a killed sweep left is
    removed by the next."""
    with store.snapshot() as snapshot:
        retired = [one.id for one in snapshot.timeline_versions() if one.state == "retired"]
        held = [one for one in retired if not snapshot.is_empty(one)]
    for timeline_id in held:
        removed = 1
        while removed:
            with store.commit("sweep", now_us=now()) as commit:
                removed = commit.remove_segments(timeline_id, entities=SWEPT_ENTITIES)
                removed += commit.remove_identities(timeline_id, rows=SWEPT_ROWS)


def _version(registry: Registry, view: str, version: int | str) -> ViewVersion:
    views = {one.plan.name for one in registry.versions.values()}
    if view not in views:
        raise UnknownNameError(
            f'no feature view "{view}"', hint=suggestion(view, views, what="feature views")
        )
    found = registry.versions.get(f"{view}@{str(version).removeprefix(view + '@')}")
    if found is None:
        raise UnknownNameError(f'feature view "{view}" has no version {version}', hint=_known(registry, view))
    return found.version


def _known(registry: Registry, view: str) -> str:
    told = [
        f"{one.version.version} ({one.version.state})"
        for one in registry.versions.values()
        if one.plan.name == view
    ]
    return f"versions are {', '.join(told)}"
