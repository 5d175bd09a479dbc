"""``explain``: a compiled plan as text, from the scan to each feature's kernel steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from featurestore.kernel.expression import canonical
from featurestore.kernel.feature import Feature
from featurestore.kernel.roles import ChangeRoles, Roles
from featurestore.plan.nodes import LookupPlan, SourcePlan, ViewPlan


def explain(view: ViewPlan, features: Sequence[Feature] | None = None) -> str:
    """One view's plan, or that of some of its features."""
    source, roles = view.source, view.source.roles
    features = view.features if features is None else features
    used = sorted({*view.used_columns(), *view.entity.keys, *roles.structural})
    keys = ", ".join(
        f"{key} {dtype}" for key, dtype in zip(view.entity.keys, view.entity.dtypes, strict=True)
    )
    lines = [
        f"feature view {view.name}  fingerprint {view.fingerprint[:12]}",
        f"  entity {view.entity.name} ({keys})",
        f"  scan    {'pushed rows only' if source.log is None else source.log} + arrivals",
        f"          reads {', '.join(f'{name} {source.schema[name]}' for name in used)}",
        *(_events(roles, source.timezone) if isinstance(roles, Roles) else _changes(roles, source)),
    ]
    for lookup in view.lookups_for(features):
        lines.extend(_lookup(lookup, roles.event_time or "", "  look up "))
    for (where, window_us, delay_us, window), group in _edges(features).items():
        span = "lifetime" if window_us is None else f"window {window}"
        delay = f", delay {delay_us} us" if delay_us else ""
        predicate = f", where {where}" if where else ""
        lines.append(f"  edges   {span}{delay}{predicate}")
        lines.extend(f"    {_step(feature)}" for feature in group)
    return "\n".join(lines)


def _lookup(lookup: LookupPlan, event_time: str, margin: str) -> Iterator[str]:
    """A lookup in words, and those that the looked-up view's own facts make, one step in."""
    view = lookup.view
    of = f"rows of {view.source.name}" if view.hidden else view.name
    by = " and ".join(f"{key} = {on}" for key, on in zip(view.entity.keys, lookup.on, strict=True))
    what = ", ".join(f"{name} = {feature.name}" for name, feature in lookup.columns)
    yield f"{margin}{what}: of {of} where {by}, at {event_time}, as known at the question's known_at"
    for one in view.lookups:
        yield from _lookup(one, view.source.roles.event_time or "", f"    {margin}")


def _events(roles: Roles, timezone: str) -> list[str]:
    by = "".join(f", {name}" for name in (roles.order_by, *roles.id) if name)
    return [
        f"  cast    event_time {roles.event_time} in {timezone}; "
        f"available_at {roles.available_at or f'= {roles.event_time}'}",
        "  reject  rows without event time"
        + (f" or id ({', '.join(roles.id)})" if roles.id else "")
        + ", or with a value that its type can't hold; count rows without a key",
        f"  shuffle rows to their entity's block, sort each block by event time{by}, content hash",
        "  choose  " + _choice(roles),
    ]


def _changes(roles: ChangeRoles, source: SourcePlan) -> list[str]:
    key, position = ", ".join(roles.primary_key), ", ".join(roles.position)
    kind = "" if source.changes is None else f"{source.changes.format} changes; "
    return [
        f"  cast    {kind}changed_at {roles.changed_at} in {source.timezone}; "
        f"available_at {roles.available_at or f'= {roles.changed_at}'}",
        f"  reject  changes without primary key ({key}), {roles.changed_at} or position ({position}), "
        "or with a value that its type can't hold",
        f"  follow  each row's changes by {position}, content hash: one is live until a later one, "
        "a delete or a truncate takes effect",
        "  shuffle live spans to their entity's block, sort each block by "
        f"{roles.event_time or f'{roles.changed_at}, {position}'}, {key}",
    ]


def _choice(roles: Roles) -> str:
    if not roles.id:
        return "every row is a fact"
    rank = [name for name in (roles.version, roles.available_at or roles.event_time, "content hash") if name]
    retract = f"; {roles.deleted} retracts" if roles.deleted else ""
    ids, by = ", ".join(roles.id), ", ".join(rank)
    return f"of each ({ids}) the version that known_at knows and that ranks last by {by}{retract}"


def _edges(features: Sequence[Feature]) -> dict[tuple[str, int | None, int, str], list[Feature]]:
    groups: dict[tuple[str, int | None, int, str], list[Feature]] = {}
    for feature in features:
        where = "" if feature.where is None else canonical(feature.where)
        text = feature.name.rsplit("_", 1)[-1] if feature.window_us is not None else ""
        groups.setdefault((where, feature.window_us, feature.delay_us, text), []).append(feature)
    return groups


def _step(feature: Feature) -> str:
    what = "facts" if feature.input is None else canonical(feature.input)
    if feature.explode:
        what = f"elements of {what}"
    order = "" if feature.order is None else f" by {canonical(feature.order)}"
    parameters = "".join(f", {key}={value}" for key, value in feature.parameters if key != "order")
    default = "" if feature.default is None else f", default {feature.default!r}"
    call = f"{feature.op}({what}{order}{parameters}){default}"
    return f"{feature.name} {feature.dtype} = {call}: {feature.operation.doc}"
