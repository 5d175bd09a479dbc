"""The registry: what was applied, which versions there are, and what an apply would change.

A view's version is a fingerprint of its features over a timeline version; a changed meaning makes a new
version, filled beside the old one and switched in one transaction. A feature over columns that are stored
already needs no backfill.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Literal

from featurestore.dsl.entity import Entity
from featurestore.dsl.feature_view import FeatureService, FeatureView
from featurestore.dsl.source import EventSource
from featurestore.dsl.table_source import TableSource
from featurestore.errors import RequestError, UnknownNameError, suggestion
from featurestore.kernel.roles import ChangeRoles, Roles
from featurestore.plan.nodes import (
    HIDDEN,
    ServicePlan,
    SourcePlan,
    ViewPlan,
    feature_fingerprint,
    fingerprint,
)
from featurestore.plan.spec import decode, encode
from featurestore.store.commit import Commit
from featurestore.store.forgotten import Forgotten, read_forgotten
from featurestore.store.reach import names_of
from featurestore.store.records import Definition, TimelineVersion, ViewVersion
from featurestore.store.snapshot import Snapshot

Action = Literal["added", "changed", "removed", "unchanged"]


@dataclass(frozen=True)
class AppliedView:
    """One version of a view, with the timelines that it reads."""

    version: ViewVersion
    timeline: TimelineVersion
    plan: ViewPlan

    @property
    def label(self) -> str:
        return f"{self.plan.name}@{self.version.version}"


@dataclass(frozen=True)
class Registry:
    """What one state of the store knows by name: each view's current version, every readable version by
    ``view@version``, the timelines that are written, services, the applied definitions, and what is
    forgotten."""

    commit_number: int
    current: Mapping[str, AppliedView]
    versions: Mapping[str, AppliedView]
    timelines: tuple[TimelineVersion, ...]
    services: Mapping[str, ServicePlan]
    sources: Mapping[str, SourcePlan]
    definitions: Mapping[tuple[str, str], Definition]
    forgotten: Forgotten = field(default_factory=Forgotten)

    def view(self, name: str) -> AppliedView:
        """The view that ``view`` or ``view@version`` names; an error says what there is, or that it isn't
        filled yet."""
        asked = not name.startswith(HIDDEN)
        found = self.versions.get(name) if "@" in name else self.current.get(name)
        if found is not None and asked:
            return found
        kept = [view for view in self.versions.values() if view.plan.name == name and asked]
        if any(view.version.state == "filling" for view in kept):
            raise RequestError(f'feature view "{name}" is not filled yet', hint='run "featurestore backfill"')
        if kept:
            raise UnknownNameError(
                f'feature view "{name}" is no longer declared',
                hint=f"versions that are kept: {', '.join(view.label for view in kept)}",
            )
        known = self.versions if "@" in name else self.current
        shown = [one for one in known if not one.startswith(HIDDEN)]
        raise UnknownNameError(
            f'no feature view "{name}"', hint=suggestion(name, shown, what="feature views")
        )

    def inner_timeline(self, plan: ViewPlan) -> TimelineVersion:
        """The timelines of a view that is looked up; an error says that they aren't filled yet."""
        found = covering_timeline(self, plan, looked_up=True)
        if found is None or found.state != "current":
            raise RequestError(f"{plan.label} is not filled yet", hint='run "featurestore backfill"')
        return found


def read_registry(snapshot: Snapshot) -> Registry:
    """The registry as one snapshot has it."""
    timelines = {timeline.id: timeline for timeline in snapshot.timeline_versions()}
    versions: dict[str, AppliedView] = {}
    current: dict[str, AppliedView] = {}
    for version in snapshot.view_versions():
        if version.state == "dropped":
            continue
        view = AppliedView(version, timelines[version.timeline_version_id], decode(version.spec))
        versions[view.label] = view
        if version.state == "current":
            current[version.view] = view
    definitions = {(one.kind, one.name): one for one in snapshot.definitions()}
    services = {
        name: decode(json.loads(one.payload)["plan"])
        for (kind, name), one in definitions.items()
        if kind == "feature_service"
    }
    sources = {
        name: decode(json.loads(one.payload)["plan"])
        for (kind, name), one in definitions.items()
        if kind == "source"
    }
    written = tuple(timeline for timeline in timelines.values() if timeline.state != "retired")
    return Registry(
        snapshot.registry_commit,
        current,
        versions,
        written,
        services,
        sources,
        definitions,
        read_forgotten(snapshot, timelines.values()),
    )


@dataclass(frozen=True)
class Change:
    """What an apply does to one declaration. ``backfill``: its new version has to be filled first."""

    kind: str
    name: str
    action: Action
    reason: str
    backfill: bool = False


@dataclass(frozen=True)
class Desired:
    """A project's declarations and their plans: what the registry should hold."""

    entities: Mapping[str, Entity]
    sources: Mapping[str, tuple[EventSource | TableSource, SourcePlan]]
    views: Mapping[str, tuple[FeatureView, ViewPlan]]
    services: Mapping[str, tuple[FeatureService, ServicePlan]]
    rows: Mapping[str, ViewPlan] = field(default_factory=dict)
    """Views that nobody declares: rows of tables that are looked up."""

    @property
    def view_plans(self) -> dict[str, ViewPlan]:
        return {**self.rows, **{name: plan for name, (_, plan) in self.views.items()}}


@dataclass(frozen=True)
class _Undeclared:
    """What stands for the declaration of a view that has none."""

    name: str
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    owner: str = ""


def wanted_definitions(desired: Desired) -> list[Definition]:
    """The definitions to keep: their meaning with its fingerprint, and what is cosmetic beside it."""

    def definition(
        kind: str,
        declared: Entity | EventSource | TableSource | FeatureView | FeatureService | _Undeclared,
        plan: object,
        meaning: str,
    ) -> Definition:
        payload = {
            "plan": plan,
            "description": declared.description,
            "tags": dict(declared.tags),
            "owner": declared.owner,
        }
        return Definition(kind, declared.name, json.dumps(payload, ensure_ascii=False), meaning)

    made = [
        definition("entity", entity, list(entity.keys), fingerprint([entity.name, entity.keys]))
        for entity in desired.entities.values()
    ]
    for source, source_plan in desired.sources.values():
        made.append(definition("source", source, encode(source_plan), fingerprint(encode(source_plan))))
    for name, rows in desired.rows.items():
        made.append(definition("feature_view", _Undeclared(name), encode(rows), rows.fingerprint))
    for view, view_plan in desired.views.values():
        made.append(definition("feature_view", view, encode(view_plan), view_plan.fingerprint))
    for service, service_plan in desired.services.values():
        made.append(definition("feature_service", service, encode(service_plan), service_plan.fingerprint))
    return made


def _parts(definition: Definition) -> Mapping[str, str]:
    """The named parts of a definition, as text, for saying what changed."""
    plan = json.loads(definition.payload)["plan"]
    if isinstance(plan, list):
        return {"key": ", ".join(plan)}
    decoded = decode(plan)
    if isinstance(decoded, ViewPlan):
        parts = {f'feature "{feature.name}"': feature_fingerprint(feature) for feature in decoded.features}
        looked_up = {
            f'looked-up "{name}"': fingerprint(one.of([name]).meaning)  # type: ignore[union-attr]
            for one in decoded.lookups
            for name, _ in one.columns
        }
        return {**parts, "entity": decoded.entity.name, "source": decoded.source.name,
                "facts": decoded.timeline_fingerprint, **looked_up}  # fmt: skip
    if isinstance(decoded, ServicePlan):
        return {f'feature "{reference}"': "" for reference in decoded.features}
    assert isinstance(decoded, SourcePlan)
    columns = {f'column "{name}"': str(dtype) for name, dtype in decoded.columns}
    roles = {part: str(value) for part, value in _named_roles(decoded.roles).items()}
    others = {
        "operations": repr(decoded.changes),
        "table": "" if decoded.changes is None else str(decoded.changes.declared.table),
        "log": repr(decoded.log),
        "timezone": decoded.timezone,
        "time_unit": str(decoded.time_unit),
    }
    return {**columns, **roles, **others}


def _reason(old: Definition, new: Definition) -> str:
    before, after = _parts(old), _parts(new)
    added = [part for part in after if part not in before]
    removed = [part for part in before if part not in after]
    changed = [part for part in after if part in before and before[part] != after[part]]
    texts = [
        f"{', '.join(parts)} {verb}"
        for parts, verb in ((added, "added"), (removed, "removed"), (changed, "changed"))
        if parts
    ]
    if not texts and list(before) != list(after):
        return "its order changed"
    return "; ".join(texts) or "the types it reads changed"


def changes(registry: Registry, desired: Desired) -> list[Change]:
    """What an apply of ``desired`` would change, declaration by declaration."""
    wanted = {(one.kind, one.name): one for one in wanted_definitions(desired)}
    made: list[Change] = []
    plans = desired.view_plans
    for key, new in wanted.items():
        old = registry.definitions.get(key)
        backfill = False
        if new.kind == "feature_view":
            plan = plans[new.name]
            found = matching_version(registry, plan)
            timeline = found.timeline if found is not None else covering_timeline(registry, plan)
            backfill = timeline is None or timeline.state == "filling" or not is_ready(registry, plan)
        if old is None:
            made.append(Change(*key, "added", "new", backfill))
        elif old.fingerprint != new.fingerprint:
            made.append(Change(*key, "changed", _reason(old, new), backfill))
        elif old.payload != new.payload:
            made.append(Change(*key, "unchanged", "edited, but means the same: the version stays", backfill))
        else:
            made.append(Change(*key, "unchanged", "", backfill))
    made.extend(
        Change(*key, "removed", "no longer declared") for key in registry.definitions if key not in wanted
    )
    return made


def matching_version(registry: Registry, plan: ViewPlan) -> AppliedView | None:
    """The view's version that means what ``plan`` means: the current one, or else the newest, filled before
    filling."""
    same = [
        view
        for view in registry.versions.values()
        if view.plan.name == plan.name
        and view.version.fingerprint == plan.fingerprint
        and view.timeline.state != "retired"
    ]
    rank = {"current": 0, "pinned": 1, "filling": 2}
    return min(same, key=lambda view: (rank[view.version.state], -view.version.version), default=None)


def _whole_version(registry: Registry, plan: ViewPlan) -> AppliedView | None:
    """A version of a view that means what ``plan`` means and lacks nothing, filled or not."""
    for view in registry.versions.values():
        same = view.plan.name == plan.name and view.version.fingerprint == plan.fingerprint
        if same and view.timeline.state != "retired" and reaches(view.timeline, None):
            return view
    return None


def covering_timeline(
    registry: Registry, plan: ViewPlan, *, looked_up: bool = False
) -> TimelineVersion | None:
    """A timeline version that holds the facts and all columns that ``plan`` reads, a filled one first. Who is
    ``looked_up`` may be asked about any time."""
    schema = plan.source.schema
    needed = {name: str(schema[name]) for name in plan.used_columns() | set(_structural(plan))}
    found = [
        timeline
        for timeline in registry.timelines
        if timeline.fingerprint == plan.timeline_fingerprint
        and all(timeline.columns.get(name) == dtype for name, dtype in needed.items())
        and reaches(timeline, None if looked_up else plan.reach_us)
    ]
    return min(found, key=lambda timeline: (timeline.state != "current", -timeline.id), default=None)


def reaches(timeline: TimelineVersion, reach_us: int | None) -> bool:
    """Whether a timeline version still holds all events that its questions need of the last ``reach_us``
    before them; None for all events."""
    if timeline.horizon_us is None or timeline.floor_us is None:
        return True
    return reach_us is not None and timeline.horizon_us - reach_us >= timeline.floor_us


def inner_timelines(registry: Registry, plan: ViewPlan) -> list[TimelineVersion | None]:
    """The timelines that a view's lookups read, at any depth; None for one that is not there."""
    return [covering_timeline(registry, view, looked_up=True) for view in plan.inner()]


def is_ready(registry: Registry, plan: ViewPlan) -> bool:
    """Whether all that a view looks up is filled."""
    return all(one is not None and one.state == "current" for one in inner_timelines(registry, plan))


def _structural(plan: ViewPlan) -> Iterable[str]:
    return (*plan.source.roles.structural, *plan.entity.keys)


def _named_roles(roles: Roles | ChangeRoles) -> dict[str, str | tuple[str, ...] | None]:
    return {part.name: getattr(roles, part.name) for part in fields(roles) if part.name != "content"}


def new_timeline(commit: Commit, plan: ViewPlan) -> int:
    """A new timeline version for the facts that ``plan`` reads, holding all declared columns, to be filled;
    returns its id."""
    roles = plan.source.roles
    return commit.add_timeline_version(
        source=plan.source.name,
        entity=plan.entity.name,
        fingerprint=plan.timeline_fingerprint,
        columns={name: str(dtype) for name, dtype in plan.source.columns},
        roles={"keys": plan.entity.keys, **_named_roles(roles)},
        state="filling",
    )


def apply(commit: Commit, registry: Registry, desired: Desired) -> None:
    """Make the registry hold ``desired``, inside one write transaction.

    A view whose timelines are filled, those that it looks up too, is switched at once; another becomes
    current when a backfill has filled them.
    """
    wanted = {(one.kind, one.name): one for one in wanted_definitions(desired)}
    for key, new in wanted.items():
        old = registry.definitions.get(key)
        if old is None or (old.payload, old.fingerprint) != (new.payload, new.fingerprint):
            commit.define(new)
    for key in registry.definitions:
        if key not in wanted:
            commit.undefine(*key)
            if key[0] == "feature_view" and key[1] in registry.current:
                commit.set_view_state(registry.current[key[1]].version.id, "pinned")
    made: dict[str, int] = {}
    looked_up = {one.timeline_fingerprint for plan in desired.view_plans.values() for one in plan.inner()}
    for name, plan in desired.view_plans.items():
        found = matching_version(registry, plan)
        if found is not None and plan.timeline_fingerprint in looked_up and not reaches(found.timeline, None):
            # What it once dropped is looked up now: a new version is filled beside it.
            found = _whole_version(registry, plan)
        if found is not None:
            filled = found.timeline.state == "current" and is_ready(registry, plan)
            if found.version.state != "current" and filled:
                commit.switch_view(found.version.id)
            continue
        timeline = covering_timeline(registry, plan, looked_up=plan.timeline_fingerprint in looked_up)
        timeline_id = made.get(plan.timeline_fingerprint) if timeline is None else timeline.id
        if timeline_id is None:
            timeline_id = made[plan.timeline_fingerprint] = new_timeline(commit, plan)
        version_id = commit.add_view_version(
            view=name, fingerprint=plan.fingerprint, spec=encode(plan), timeline_version_id=timeline_id
        )
        if timeline is not None and timeline.state == "current" and is_ready(registry, plan):
            commit.switch_view(version_id)
    if registry.forgotten.keys:
        before = registry.forgotten.reach
        for source, scopes in before.joined(desired.view_plans.values()).scopes.items():
            for names in {names_of(scope) for scope in scopes - before.scopes.get(source, frozenset())}:
                commit.forget_more(names)
