"""Which columns of a versions table play which part in choosing and ordering facts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

KnownAt = int | Literal["as_of"] | None
"""The horizon of knowledge: None = everything, an instant = only what was available strictly before it,
"as_of" = for each question what was available strictly before its own time."""


@dataclass(frozen=True)
class Roles:
    """The columns of an event source's versions table that the kernel reads by their part.

    ``event_time``: when it happened. ``id``: what identifies the event within its entity, () for none.
    ``available_at``: when the platform could first have known the version; None = ``event_time``. ``version``
    ranks an event's versions before ``available_at``. ``deleted``: true retracts. ``order_by`` orders facts
    of one event time. ``content``: the columns that make two versions equal (all declared ones but
    ``available_at``); () where nothing asked for depends on the order of facts of one event time, and there
    is no ``id``.
    """

    event_time: str
    id: tuple[str, ...]
    available_at: str | None
    version: str | None
    deleted: str | None
    order_by: str | None
    content: tuple[str, ...]

    @property
    def structural(self) -> tuple[str, ...]:
        """The columns that play a part in every fact."""
        named = (self.event_time, *self.id, self.available_at, self.version, self.deleted, self.order_by)
        return tuple(dict.fromkeys(name for name in named if name is not None))


@dataclass(frozen=True)
class ChangeRoles:
    """The columns of a table source's changes table that the kernel reads by their part.

    ``primary_key`` names the row; ``changed_at``: when it was changed at its origin; ``position``: the total
    order of one row's changes, compared as integers, column by column. ``event_time``: the row's own time,
    None for a table without one. ``available_at``: when the platform could first have known the change; None
    = ``changed_at``. ``order_by`` orders facts of one event time. ``content``: the columns that make two
    changes equal (all declared ones but ``available_at``, and what the change does).
    """

    primary_key: tuple[str, ...]
    changed_at: str
    position: tuple[str, ...]
    event_time: str | None
    available_at: str | None
    order_by: str | None
    content: tuple[str, ...]

    @property
    def structural(self) -> tuple[str, ...]:
        """The columns that play a part in every change."""
        named = (
            *self.primary_key,
            self.changed_at,
            *self.position,
            self.event_time,
            self.available_at,
            self.order_by,
        )
        return tuple(dict.fromkeys(name for name in named if name is not None))
