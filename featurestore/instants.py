"""Instants from what people write: ISO 8601 text with an offset, or aware datetimes; naive ones are
refused."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Literal

from featurestore.errors import RequestError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ISO = re.compile(
    r"(\d{4}-\d{2}-\d{2})[T ](\d{2}:\d{2}(?::\d{2})?)(?:[.,](\d+))?\s*(Z|z|[+-]\d{2}(?::?\d{2})?)", re.ASCII
)


def instant(value: object, *, what: str) -> int:
    """Microseconds since 1970, UTC, finer ones floored; RequestError names ``what`` otherwise."""
    if isinstance(value, str):
        match = _ISO.fullmatch(value.strip())
        if match is None:
            raise RequestError(
                f'{what} "{value}" is not an instant',
                hint='write ISO 8601 with an offset: "2026-01-01T00:00:00Z"',
            )
        day, clock, fraction, offset = match.groups()
        try:
            whole = datetime.fromisoformat(f"{day}T{clock}{'+00:00' if offset in 'Zz' else offset}")
        except ValueError as error:
            raise RequestError(f'{what} "{value}" is not an instant: {error}', hint="mend the date") from None
        return _microseconds(whole) + int((fraction or "0")[:6].ljust(6, "0"))
    if isinstance(value, datetime):
        if value.tzinfo is None or value.utcoffset() is None:
            raise RequestError(
                f"{what} {value.isoformat()} has no timezone", hint="make it aware: datetime(..., tzinfo=UTC)"
            )
        return _microseconds(value)
    raise RequestError(f"{what} {value!r} is not an instant", hint="pass an aware datetime or ISO 8601 text")


def _microseconds(value: datetime) -> int:
    # A pandas Timestamp is a datetime too, with nanoseconds that plain arithmetic leaves out.
    delta = value - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def horizon(value: object) -> int | Literal["as_of"] | None:
    """A ``known_at``: None, "as_of" or an instant."""
    if value is None:
        return None
    if value == "as_of":
        return "as_of"
    try:
        return instant(value, what="known_at")
    except RequestError as error:
        raise RequestError(error.fact, hint=f'{error.hint}; or "as_of", each row\'s own') from None
