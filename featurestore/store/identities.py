"""What the store knows of a table's rows besides their changes: the timelines that each has been in, and
truncates.

Time: a row never leaves the index. It has been in a timeline, whether it is still there at some instant or
not.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from featurestore.store.records import Truncate
from featurestore.store.sqlite import MOST_KEYS, READ_IDENTITIES, READ_TRUNCATES


def read_identities(
    raw: sqlite3.Connection, timeline_version_id: int, row_keys: Sequence[bytes]
) -> dict[bytes, list[bytes]]:
    """Row key -> the entities whose timelines it has been in, in key order; a row of none is absent."""
    found: dict[bytes, list[bytes]] = {}
    for first in range(0, len(row_keys), MOST_KEYS):
        some = list(row_keys[first : first + MOST_KEYS])
        places = 1 << (len(some) - 1).bit_length()
        some += [some[-1]] * (places - len(some))
        for row_key, entity_key in raw.execute(READ_IDENTITIES[places], (timeline_version_id, *some)):
            found.setdefault(row_key, []).append(entity_key)
    return found


def read_truncates(raw: sqlite3.Connection, timeline_version_id: int) -> list[Truncate]:
    """The truncates of a timeline version's table, as they came."""
    return [
        Truncate(tuple(json.loads(position)), changed_at, available_at)
        for position, changed_at, available_at in raw.execute(READ_TRUNCATES, (timeline_version_id,))
    ]
