"""The hot read: all payloads of some entities in one timeline version, segments and deltas together.

The payloads of an entity come in the order (level, start, commit). That order means nothing for a value: a
timeline's order is that of the versions inside.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from featurestore.store.sqlite import MOST_KEYS, READ_SEGMENTS


def read_segments(
    raw: sqlite3.Connection, timeline_version_id: int, entity_keys: Sequence[bytes]
) -> dict[bytes, list[bytes]]:
    """Entity key -> its payloads; an entity without any is absent. Keys may repeat."""
    if len(entity_keys) == 1:
        rows = raw.execute(READ_SEGMENTS[1], (timeline_version_id, entity_keys[0])).fetchall()
        return {entity_keys[0]: [payload for _, payload in rows]} if rows else {}
    found: dict[bytes, list[bytes]] = {}
    keys = list(dict.fromkeys(entity_keys))
    for first in range(0, len(keys), MOST_KEYS):
        some = keys[first : first + MOST_KEYS]
        places = 1 << (len(some) - 1).bit_length()
        some += [some[-1]] * (places - len(some))
        for key, payload in raw.execute(READ_SEGMENTS[places], (timeline_version_id, *some)):
            if (payloads := found.get(key)) is None:
                found[key] = [payload]
            else:
                payloads.append(payload)
    return found
