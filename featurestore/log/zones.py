"""Local time to UTC, vectorised, by the rules of the pinned ``tzdata`` package and of nothing else on the
machine.

Time: an ambiguous local time is the earlier instant; a nonexistent one uses the offset before the gap (both
are what ``fold=0`` means in ``datetime``). Instants are int64 microseconds; the rules hold for all of them,
not to year 9999 only.
"""

from __future__ import annotations

import functools
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import DefinitionError, suggestion
from featurestore.kernel.compiled import compiled

I64 = NDArray[np.int64]

US = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_2038_S = 2_145_916_800
# The Gregorian calendar, weekdays included, repeats every 400 years = 146,097 days = 20,871 weeks; so do
# zones' last rules.
_CYCLE_S = 146_097 * 86_400
# Rules of a zone switch at most a few times a year and never for less than a week.
_STEP_S = 7 * 86_400


@dataclass(frozen=True)
class Zone:
    """A zone's offsets from UTC as steps. Before ``utc[0]`` the offset is ``offsets[0]``, from ``utc[i]`` on
    it is ``offsets[i + 1]``; local times from ``wall[i]`` on are read with ``offsets[i + 1]``. All in
    microseconds. From ``cycle_from`` on, steps repeat every 400 years."""

    name: str
    utc: I64
    wall: I64
    offsets: I64
    cycle_from: int

    @property
    def is_utc(self) -> bool:
        return len(self.utc) == 0 and int(self.offsets[0]) == 0

    def to_utc(self, local: I64) -> I64:
        """The instants of ``local`` wall times (microseconds since 1970-01-01T00:00 on the wall)."""
        if self.is_utc:
            return local
        out = np.empty_like(local)
        _to_utc(local, self.wall, self.offsets, self.cycle_from, _CYCLE_S * US, out)
        return out


@functools.cache
def zone_names() -> frozenset[str]:
    """The zones that the pinned ``tzdata`` has."""
    return frozenset(files("tzdata").joinpath("zones").read_text("utf-8").split())


@functools.cache
def zone_info(name: str) -> ZoneInfo:
    """The zone as Python's ``ZoneInfo``, read from the ``tzdata`` package whatever the system has."""
    if name not in zone_names():
        near = suggestion(name, zone_names(), what="zones").rpartition("; ")[2]
        hint = near if near.startswith("did you mean") else 'zones are named like "Europe/Berlin" or "UTC"'
        raise DefinitionError(f'"{name}" is not a time zone', hint=hint)
    with files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, key=name)


@functools.cache
def zone(name: str) -> Zone:
    """The steps of a zone, ready for arrays."""
    info = zone_info(name)
    explicit = _explicit_steps(name)
    start = max(explicit[-1] if explicit else 0, _2038_S)
    steps = explicit + _rule_steps(info, (explicit[-1] if explicit else start) + 1, start + _CYCLE_S)
    before = [_offset_s(info, step - 1) for step in steps]
    after = [_offset_s(info, step) for step in steps]
    kept = [i for i in range(len(steps)) if before[i] != after[i]]
    utc = np.array([steps[i] for i in kept], dtype=np.int64) * US
    was = np.array([before[i] for i in kept], dtype=np.int64) * US
    now_on = np.array([after[i] for i in kept], dtype=np.int64) * US
    first = was[:1] if kept else np.array([_offset_s(info, 0)], dtype=np.int64) * US
    return Zone(
        name, utc, utc + np.maximum(was, now_on), np.concatenate([first, now_on]), (start + 86_400 * 2) * US
    )


def _explicit_steps(name: str) -> list[int]:
    """The steps that a TZif file (RFC 8536) lists, in seconds UTC, from its second, 64-bit block."""
    data = files("tzdata").joinpath("zoneinfo", *name.split("/")).read_bytes()
    isutc, isstd, leap, times, types, chars = struct.unpack(">6l", data[20:44])
    second = 44 + times * 5 + types * 6 + chars + leap * 8 + isstd + isutc
    (count,) = struct.unpack(">l", data[second + 32 : second + 36])
    return list(struct.unpack(f">{count}q", data[second + 44 : second + 44 + 8 * count]))


def _rule_steps(info: ZoneInfo, start_s: int, end_s: int) -> list[int]:
    """The steps of a zone's last rule in ``[start_s, end_s)``, found by bisection between weekly looks."""
    found = []
    low, low_offset = start_s, _offset_s(info, start_s)
    while low < end_s:
        high = low + _STEP_S
        high_offset = _offset_s(info, high)
        if high_offset != low_offset:
            left, right = low, high
            while right - left > 1:
                middle = (left + right) // 2
                left, right = (middle, right) if _offset_s(info, middle) == low_offset else (left, middle)
            found.append(right)
        low, low_offset = high, high_offset
    return found


def _offset_s(info: ZoneInfo, instant_s: int) -> int:
    offset = (_EPOCH + timedelta(seconds=instant_s)).astimezone(info).utcoffset()
    assert offset is not None
    return round(offset.total_seconds())


@compiled("void(Array(int64, 1, 'C', True), int64[::1], int64[::1], int64, int64, int64[::1])")
def _to_utc(local: I64, wall: I64, offsets: I64, cycle_from: int, cycle: int, out: I64) -> None:
    # Neighbours mostly lie between the same two steps: [low, high) is where the last one lay.
    low, high, offset = 1, 0, 0
    for i in range(len(local)):
        at = local[i]
        if at >= cycle_from + cycle:
            at = cycle_from + (at - cycle_from) % cycle
        if not low <= at < high:
            k = np.searchsorted(wall, at, side="right")
            low = wall[k - 1] if k > 0 else np.iinfo(np.int64).min
            high = wall[k] if k < len(wall) else np.iinfo(np.int64).max
            offset = offsets[k]
        out[i] = local[i] - offset
