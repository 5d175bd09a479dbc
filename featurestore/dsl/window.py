"""Windows: half-open spans of event time, ``[T - delay - window, T - delay)``, exact to the microsecond."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta

from featurestore.errors import DefinitionError

UNITS_US = {
    "us": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
    "w": 604_800_000_000,
}

# An instant is an int64: a span of more than half of that range can't be added to one.
LONGEST_US = 2**62


@dataclass(frozen=True)
class Window:
    """A continuously sliding window of ``window_us`` microseconds; ``text`` is how its author wrote it."""

    text: str
    window_us: int

    def __str__(self) -> str:
        return self.text


def span_us(value: str | timedelta, *, what: str) -> tuple[str, int]:
    """The text and the microseconds of a span: ``"5m"``, ``"90d"``, or a timedelta. Zero and less are refused
    by callers."""
    if isinstance(value, timedelta):
        us = (value.days * 86_400 + value.seconds) * 1_000_000 + value.microseconds
        if us > LONGEST_US:
            raise _too_long(what, str(value))
        for unit in ("w", "d", "h", "m", "s", "ms", "us"):
            if us % UNITS_US[unit] == 0 and us:
                return f"{us // UNITS_US[unit]}{unit}", us
        return "0s", 0
    hint = f'a {what} is a whole number and one of {", ".join(UNITS_US)}, as "5m" or "90d"'
    if not isinstance(value, str):
        raise DefinitionError(f"{what} {value!r} is not a span of time", hint=hint)
    match = re.fullmatch(r"\s*([0-9]+)\s*(us|ms|s|m|h|d|w)\s*", value)
    if match is None:
        raise DefinitionError(f'{what} "{value}" is not a span of time', hint=hint)
    # 20 digits are beyond the limit in any unit, and Python reads no integer of thousands of them.
    us = LONGEST_US + 1 if len(match[1]) > 20 else int(match[1]) * UNITS_US[match[2]]
    if us > LONGEST_US:
        raise _too_long(what, value if len(value) < 40 else f"{value[:40]}...")
    return f"{int(match[1])}{match[2]}", us


def _too_long(what: str, value: str) -> DefinitionError:
    return DefinitionError(f'{what} "{value}" is longer than time itself', hint="146,000 years are the limit")


def window(value: str | timedelta | Window) -> Window:
    """A sliding window from its author's words."""
    if isinstance(value, Window):
        return value
    text, us = span_us(value, what="window")
    if us <= 0:
        raise DefinitionError(f'window "{text}" is empty', hint='a window is at least "1us" long')
    return Window(text, us)
