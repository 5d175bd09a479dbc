"""Edges from intervals, and what each question sees by them: the plain reading that tests compare with."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featurestore.kernel.edges import Edges


@dataclass(frozen=True)
class Entity:
    """Items as (value, start, end), live for the questions T in (start, end]; and the questions."""

    items: Sequence[tuple[Any, int, int]]
    asked: Sequence[int]


@dataclass(frozen=True)
class History:
    """The values by item, the edges, and by question the values that are live."""

    values: list[Any]
    edges: Edges
    seen: list[list[Any]]


def history(entities: Sequence[Entity], *, ordered: bool) -> History:
    """``ordered`` keeps the items in order, and needs starts and ends that rise together; else they mix."""
    values: list[Any] = []
    enter: list[int] = []
    leave: list[int] = []
    offsets, questions = [0], [0]
    hi: list[int] = []
    lo: list[int] = []
    seen: list[list[Any]] = []
    shuffler = random.Random(0)
    for entity in entities:
        items = sorted(entity.items, key=lambda item: item[1:])
        if not ordered:
            shuffler.shuffle(items)
        base = len(values)
        values += [value for value, _, _ in items]
        starts = sorted(range(len(items)), key=lambda i: items[i][1])
        ends = sorted(range(len(items)), key=lambda i: items[i][2])
        assert not ordered or starts == ends == list(range(len(items)))
        enter += [base + i for i in starts]
        leave += [base + i for i in ends]
        for asked in sorted(entity.asked):
            hi.append(base + sum(start < asked for _, start, _ in items))
            lo.append(base + sum(end < asked for _, _, end in items))
            seen.append([value for value, start, end in items if start < asked <= end])
        offsets.append(len(values))
        questions.append(len(hi))
    arrays = [np.array(positions, np.int64) for positions in (enter, leave, offsets, questions, hi, lo)]
    return History(values, Edges(*arrays, ordered), seen)


def histories(draw: Callable[[Any], Any], values: Any) -> History:
    """For ``st.composite``: a few entities, either with one sliding window or with arbitrary intervals."""
    from hypothesis import strategies as st

    times = st.integers(0, 12)
    if draw(st.booleans()):
        window = draw(st.integers(1, 14))
        items = st.builds(lambda value, time: (value, time, time + window), values, times)
        entities = st.builds(Entity, st.lists(items, max_size=12), st.lists(st.integers(0, 26), max_size=6))
        return history(draw(st.lists(entities, max_size=3)), ordered=True)
    items = st.builds(
        lambda value, time, length: (value, time, time + length), values, times, st.integers(1, 14)
    )
    entities = st.builds(Entity, st.lists(items, max_size=12), st.lists(st.integers(0, 26), max_size=6))
    return history(draw(st.lists(entities, max_size=3)), ordered=False)


def bits(value: float) -> bytes:
    return struct.pack("<d", value)


def words(unscaled: Sequence[int]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Integers as the two words of a decimal128, low word first."""
    data = b"".join(number.to_bytes(16, "little", signed=True) for number in unscaled)
    return np.frombuffer(data, np.int64).reshape(-1, 2)


def number(pair: Any) -> int:
    return int.from_bytes(pair.tobytes(), "little", signed=True)
