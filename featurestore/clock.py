"""The only caller of now(): everything else is handed its instants.

An instant is an int: whole microseconds since 1970-01-01T00:00:00Z, finer ones floored.
"""

from __future__ import annotations

import time

Instant = int


def now() -> Instant:
    """This moment, in microseconds since the epoch, UTC."""
    return time.time_ns() // 1000
