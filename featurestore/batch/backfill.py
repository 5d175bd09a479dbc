"""Backfill: all history of the logs, and what was pushed, into the store's timelines; killed at any moment,
it goes on.

Time: none of its own. What a backfill loads, and in how many pieces, influences no value; a new version of a
view is served only when everything that its log held is there.

A view that is being filled anew is finished by the next backfill, with ``rebuild`` or without. With
``rebuild`` it begins once more where a file that was loaded has changed since; the version that was begun is
dropped.

Daily snapshots are told apart from each other, so one that comes late changes what was derived of those after
it: then the backfill does by itself what ``rebuild`` does, and the old version is served until it is done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featurestore.batch.change_fill import ChangeFill, SnapshotsChangedError
from featurestore.batch.fill import Fill
from featurestore.batch.filled import Filled
from featurestore.batch.spans import standing
from featurestore.batch.timeline_fill import ForgottenMeanwhileError
from featurestore.errors import BackfillError, RowError, UnknownNameError, suggestion
from featurestore.log.archive import archived
from featurestore.log.files import list_files
from featurestore.plan.nodes import HIDDEN, ViewPlan
from featurestore.plan.spec import encode
from featurestore.store import Snapshot, Store, TimelineVersion
from featurestore.store.changes import is_table
from featurestore.store.filling import filling_version, finish
from featurestore.store.registry import AppliedView, Registry, matching_version, new_timeline, read_registry
from featurestore.store.versions import retire_unread, sweep


@dataclass(frozen=True)
class BackfillReport:
    """What a backfill did, timeline by timeline."""

    timelines: Sequence[Filled]

    @property
    def counts(self) -> Counter[str]:
        """How many rows became what, in this run."""
        return sum((one.counts for one in self.timelines), Counter())

    def to_dict(self) -> dict[str, Any]:
        return {"timelines": [one.to_dict() for one in self.timelines]}

    def text(self) -> str:
        return (
            "\n".join(one.text() for one in self.timelines)
            or "there is nothing to backfill: no view is declared"
        )


def backfill(
    store: Store,
    root: Path,
    views: Mapping[str, ViewPlan],
    names: Sequence[str] | None,
    *,
    rebuild: bool,
    progress: Callable[[int, int, str], None] | None,
    now: Callable[[], int],
    threads: ThreadPoolExecutor | None,
    strict: bool = False,
) -> BackfillReport:
    """Load what the logs of ``views`` (``names``: of some of them) hold and the store does not.

    A file that was loaded is never read again while its hash is the same. A file that changed or is gone
    takes no fact away: it is reported, and what a changed one adds is loaded where the source has an id.
    Snapshots alone are loaded anew then.

    With ``strict`` a rejected row, or a change that is in conflict with another one at its row's position, is
    a RowError that names it. A part (files of up to four million rows) is looked through before anything of
    it is written; parts and timelines before it stay, and the error says so.
    """
    named = _chosen(views, names)
    # What the views look up is filled first: they are served when it is there.
    looked_up = {one.name: views[one.name] for view in named.values() for one in view.inner()}
    chosen = {**looked_up, **named}
    with store.snapshot() as snapshot:
        registry = read_registry(snapshot)
    for plan in chosen.values():
        _check_applied(registry, plan)
    if rebuild:
        _begin_rebuild(store, root, named, now)
    filled: list[Filled] = []
    for timeline, plan in _targets(store, chosen):
        try:
            timeline, report = _filled(
                store, root, views, timeline, plan, progress=progress, now=now, threads=threads, strict=strict
            )
        except RowError as error:
            if not filled:
                raise
            before = ", ".join(f"{one.source} by {one.entity}" for one in filled)
            raise RowError(f"{error.fact}\n  filled before it: {before}", hint=error.hint) from None
        done = finish(store, timeline, now, log_is_whole=True)
        report.switched, report.waits = done.switched, done.waits
        filled.append(report)
    if filled:
        store.checkpoint()
    return BackfillReport(filled)


def _filled(
    store: Store,
    root: Path,
    views: Mapping[str, ViewPlan],
    timeline: TimelineVersion,
    plan: ViewPlan,
    *,
    progress: Callable[[int, int, str], None] | None,
    now: Callable[[], int],
    threads: ThreadPoolExecutor | None,
    strict: bool,
) -> tuple[TimelineVersion, Filled]:
    """Fill one timeline version; where an entity is forgotten meanwhile, it goes on as after a kill. Where
    its snapshots are no longer what they were, a new one in its place."""
    kind = ChangeFill if is_table(timeline) else Fill
    before: Counter[str] = Counter()
    rebuilt: str | None = None
    while True:
        fill = kind(store, root, timeline, plan, now=now, progress=progress, threads=threads, strict=strict)
        try:
            report = fill.run()
        except ForgottenMeanwhileError:
            before.update(fill.report.counts)
            continue
        except SnapshotsChangedError as changed:
            before.clear()
            rebuilt = rebuilt or str(changed)
            timeline = _begin_anew(store, views, timeline, plan, now)
            continue
        report.counts.update(before)
        report.rebuilt = rebuilt
        return timeline, report


def _chosen(views: Mapping[str, ViewPlan], names: Sequence[str] | None) -> dict[str, ViewPlan]:
    if names is None:
        return dict(views)
    declared = [name for name in views if not name.startswith(HIDDEN)]
    for name in names:
        if name not in declared:
            raise UnknownNameError(
                f'no feature view "{name}"', hint=suggestion(name, declared, what="feature views")
            )
    return {name: views[name] for name in names}


def _check_applied(registry: Registry, plan: ViewPlan) -> None:
    applied = registry.definitions.get(("feature_view", plan.name))
    if applied is None:
        fact = "is not applied yet"
    elif applied.fingerprint != plan.fingerprint or matching_version(registry, plan) is None:
        fact = "is not applied as it is declared now"
    else:
        return
    raise BackfillError(f"{plan.label} {fact}", hint='run "featurestore apply"')


def _targets(store: Store, chosen: Mapping[str, ViewPlan]) -> list[tuple[TimelineVersion, ViewPlan]]:
    """The timeline versions to fill, each once, with a view that reads it."""
    with store.snapshot() as snapshot:
        registry = read_registry(snapshot)
    found: dict[int, tuple[TimelineVersion, ViewPlan]] = {}
    for plan in chosen.values():
        view = filling_version(registry, plan) or matching_version(registry, plan)
        assert view is not None
        found.setdefault(view.timeline.id, (view.timeline, plan))
    return list(found.values())


# Rebuilding


def _begin_rebuild(store: Store, root: Path, chosen: Mapping[str, ViewPlan], now: Callable[[], int]) -> None:
    """New timeline versions and new versions of the views over them, where none is begun that can go on."""
    with store.snapshot() as snapshot:
        registry = read_registry(snapshot)
        begun = {name: filling_version(registry, plan) for name, plan in chosen.items()}
        goes_on = {
            name: view is not None and _holds_what_the_log_has(snapshot, root, view.timeline, chosen[name])
            for name, view in begun.items()
        }
    anew = {name: plan for name, plan in chosen.items() if not goes_on[name]}
    abandoned = {name: view for name, view in begun.items() if not goes_on[name]}
    _begin_versions(store, registry, anew, abandoned, now)


def _begin_anew(
    store: Store,
    views: Mapping[str, ViewPlan],
    timeline: TimelineVersion,
    plan: ViewPlan,
    now: Callable[[], int],
) -> TimelineVersion:
    """A new timeline version in place of one, for all declared views that read that."""
    with store.snapshot() as snapshot:
        registry = read_registry(snapshot)
    reading: dict[str, ViewPlan] = {}
    for name, one in views.items():
        applied = registry.definitions.get(("feature_view", name))
        if applied is not None and applied.fingerprint == one.fingerprint:
            view = filling_version(registry, one) or matching_version(registry, one)
            if view is not None and view.timeline.id == timeline.id:
                reading[name] = one
    if plan.name not in reading:
        raise BackfillError(
            f'source "{plan.source.name}": the version that is being filled was dropped',
            hint='run "featurestore apply", then the backfill again',
        )
    begun = {name: filling_version(registry, one) for name, one in reading.items()}
    _begin_versions(store, registry, reading, begun, now)
    [(made, _)] = _targets(store, {plan.name: plan})
    return made


def _begin_versions(
    store: Store,
    registry: Registry,
    anew: Mapping[str, ViewPlan],
    abandoned: Mapping[str, AppliedView | None],
    now: Callable[[], int],
) -> None:
    """New timeline versions and new versions of views over them, in place of the ``abandoned`` ones."""
    if not anew:
        return
    with store.commit("rebuild", now_us=now(), detail=", ".join(anew)) as commit:
        made: dict[str, int] = {}
        for name, plan in anew.items():
            left = abandoned.get(name)
            if left is not None:
                commit.set_view_state(left.version.id, "dropped")
            timeline_id = made.get(plan.timeline_fingerprint)
            if timeline_id is None:
                timeline_id = made[plan.timeline_fingerprint] = new_timeline(commit, plan)
            commit.add_view_version(
                view=name, fingerprint=plan.fingerprint, spec=encode(plan), timeline_version_id=timeline_id
            )
        retire_unread(commit, registry, {view.version.id for view in abandoned.values() if view})
    sweep(store, now)


def _holds_what_the_log_has(
    snapshot: Snapshot, root: Path, timeline: TimelineVersion, plan: ViewPlan
) -> bool:
    """Whether every file that is loaded, by half too, is in the log as it was then, under the same types."""
    log = archived(plan.source, root).log
    now_in_log = {} if log is None else {file.shown: file for file in list_files(log, root)}
    hashes = {path: file.sha256 for path, file in snapshot.loaded_files(timeline.id).items()}
    stands = standing(snapshot.progress(timeline.id))
    for span in (*stands.spans, *((stands.rest,) if stands.rest else ())):
        if span.path:
            hashes[span.path] = span.sha256
    held = {name: str(dtype) for name, dtype in plan.source.columns}
    return all(held.get(name) == dtype for name, dtype in timeline.columns.items()) and all(
        path in now_in_log and now_in_log[path].sha256() == sha256 for path, sha256 in hashes.items()
    )
