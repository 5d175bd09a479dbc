"""Dead letters: messages of a stream that could not be read, kept as they were, with the reason.

``timestamp_us`` is the record's own, None where it has none. A dead letter is written in the transaction of
the position that goes past it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from sqlalchemy import ColumnElement, and_, delete, func, insert, literal, select, tuple_, update

from featurestore.store.commit import Commit
from featurestore.store.snapshot import Snapshot
from featurestore.store.tables import dead_letters


class LetterKey(NamedTuple):
    """Which message it is."""

    source: str
    topic: str
    partition: int
    offset: int


class DeadLetter(NamedTuple):
    """One message that could not be read."""

    source: str
    topic: str
    partition: int
    offset: int
    reason: str
    timestamp_us: int | None
    key: bytes | None
    value: bytes | None

    @property
    def letter_key(self) -> LetterKey:
        return LetterKey(self.source, self.topic, self.partition, self.offset)


_c = dead_letters.c
_COLUMNS = (
    _c.source, _c.topic, _c.partition, _c.message_offset, _c.reason, _c.timestamp_us, _c.key, _c.value
)  # fmt: skip


def read_dead_letters(
    snapshot: Snapshot,
    source: str | None = None,
    *,
    unpublished: bool = False,
    after: LetterKey | None = None,
    limit: int | None = None,
) -> list[DeadLetter]:
    """Dead letters by (source, topic, partition, offset); ``unpublished``: only those that the dead-letter
    topic has no copy of yet."""
    query = select(*_COLUMNS).order_by(*_COLUMNS[:4])
    if source is not None:
        query = query.where(_c.source == source)
    if unpublished:
        query = query.where(_c.published == 0)
    if after is not None:
        query = query.where(tuple_(*_COLUMNS[:4]) > tuple_(*(literal(part) for part in after)))
    if limit is not None:
        query = query.limit(limit)
    return [DeadLetter(*row) for row in snapshot._rows(query)]


def dead_letters_of(commit: Commit, source: str, topic: str, partitions: Collection[int]) -> int:
    """How many there are of some partitions of a topic."""
    of_these = (_c.source == source) & (_c.topic == topic) & _c.partition.in_(sorted(partitions))
    return int(commit._connection.execute(select(func.count()).where(of_these)).scalar_one())


def add_dead_letters(commit: Commit, letters: Sequence[DeadLetter]) -> None:
    """Keep dead letters. One that is there already, from a timeline version before, stays as it is."""
    for one in letters:
        there = select(_c.published).where(_is(one.letter_key))
        if commit._connection.execute(there).first() is None:
            values = dict(zip((column.name for column in _COLUMNS), one, strict=True))
            commit._connection.execute(
                insert(dead_letters).values(**values, published=0, commit_number=commit.number)
            )


def mark_published(commit: Commit, keys: Iterable[LetterKey]) -> None:
    """Say that the dead-letter topic has them."""
    for key in keys:
        commit._connection.execute(update(dead_letters).where(_is(key)).values(published=1))


def remove_dead_letter(commit: Commit, key: LetterKey) -> bool:
    """Remove one; False where it is gone already."""
    return bool(commit._connection.execute(delete(dead_letters).where(_is(key))).rowcount)


def _is(key: LetterKey) -> ColumnElement[bool]:
    return and_(
        _c.source == key.source,
        _c.topic == key.topic,
        _c.partition == key.partition,
        _c.message_offset == key.offset,
    )
