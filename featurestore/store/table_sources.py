"""A table source's declaration again, from its plan: what reads its log, or rows that are pushed.

Time: none.
"""

from __future__ import annotations

from featurestore.dsl.source import KafkaTopic
from featurestore.dsl.table_source import TableSource
from featurestore.kernel.roles import ChangeRoles
from featurestore.plan.nodes import SourcePlan

RESERVED = "__"


def declared(plan: SourcePlan, *, format: str | None = None) -> TableSource:
    """The declaration of a table source, in the format of its log or in another one."""
    roles, changes = plan.roles, plan.changes
    assert isinstance(roles, ChangeRoles) and changes is not None
    format = changes.format if format is None else format
    # The format's own names are no columns of the log, so the declaration leaves them to the format.
    own = format != "flat"
    position = tuple(name for name in roles.position if not (own and name.startswith(RESERVED)))
    return TableSource(
        plan.name,
        log=plan.log,
        # A declaration has a log or a topic; this one is opened by nobody.
        topic=KafkaTopic(plan.name) if plan.log is None else None,
        primary_key=roles.primary_key,
        changed_at=None if own and roles.changed_at.startswith(RESERVED) else roles.changed_at,
        position=position if len(position) == len(roles.position) else None,
        event_time=roles.event_time,
        format=format,
        op=changes.op,
        operations=dict(changes.operations),
        available_at=roles.available_at,
        order_by=roles.order_by,
        columns={name: str(dtype) for name, dtype in plan.columns if not (own and name.startswith(RESERVED))},
        timezone=plan.timezone,
        time_unit=plan.time_unit,
    )
