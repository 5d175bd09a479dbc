"""What a writing process has seen of the timelines that it writes to, so that it need not read them again.

To tell what is new in a batch, the facts of its entities are needed. A row is never changed once it is
written (save by forgetting), and whatever a timeline gains is a row of a newer commit; so what was read or
written up to a commit stays true, and only newer rows of other writers have to be looked for. Time decides
nothing, nor does anything else here: the facts are those that a reading of the whole timelines would give
(docs/design/0010-what-a-writer-has-seen.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple, Protocol
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from featurestore.store.delivery import Facts, Layout, facts_of
from featurestore.store.payload import reader
from featurestore.store.records import DELTA_LEVEL, StoredRow
from featurestore.store.seen_table import SeenTable

if TYPE_CHECKING:
    from featurestore.store.store import Store

I64 = NDArray[np.int64]

# Commits that leave every fact that there is: they add rows, or fold some into others.
HARMLESS = frozenset({"stream", "ingest", "backfill", "dead letters", "take over", "compact"})

MOST_OWN = 10_000


class Reader(Protocol):
    """What is asked of a snapshot, or of a commit that has written nothing yet."""

    def read(self, timeline_version_id: int, entity_keys: Sequence[bytes]) -> dict[bytes, list[bytes]]: ...

    def newer(
        self, timeline_version_id: int, entity_keys: Sequence[bytes], *, after: Sequence[int]
    ) -> list[StoredRow]: ...

    def kinds(self, *, after: int) -> set[str]: ...


class Written(NamedTuple):
    """What a commit has added to a timeline version: ``codes`` int64[facts] number the ``keys``. It was
    prepared as of commit ``base``, and nobody has added to these entities between that and the commit."""

    timeline_version_id: int
    keys: Sequence[bytes]
    codes: I64
    facts: Facts
    base: int


class Seen:
    """The facts of some entities, of at most ``size`` bytes; safe to share by threads.

    An entity is held whole up to its ``as_of``, and up to the last commit looked at, unless somebody else has
    committed since: then its newer rows are read when it is next asked for.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = Lock()
        self._tables: dict[int, SeenTable] = {}
        self._asked = 0
        # The last commit looked at, the last one that is not ours, ours that are newer than the last look.
        self._looked = self._foreign = 0
        self._own: set[int] = set()
        # Before that, something was removed: older snapshots still show it.
        self._since = 0

    def existing(
        self, source: Reader, upto: int, timeline_version_id: int, layout: Layout,
        keys: Sequence[bytes], codes: I64, facts: Facts,
    ) -> tuple[Facts, I64] | None:  # fmt: skip
        """The versions in the timelines of ``keys`` that share an identity with one of ``facts``, whose
        entities are ``codes``, and the entity of each; as ``source`` shows them, which stands at ``upto``.
        None where that is not to be had from here: read them."""
        with self._lock:
            if not self._follow(source, upto):
                return None
            self._asked += 1
            table = self._tables.get(timeline_version_id)
            if table is None:
                table = self._tables[timeline_version_id] = SeenTable(self._size)
            numbers = self._refresh(table, source, upto, timeline_version_id, layout, keys)
            table.used[numbers] = self._asked
            found, asked = table.find(numbers[codes], facts.identity)
            self._keep_within()
            return found, codes[asked]

    def wrote(self, number: int, parts: Iterable[Written]) -> None:
        """A commit of this process is kept: all that it has added to timelines."""
        with self._lock:
            for part in parts:
                table = self._tables.get(part.timeline_version_id)
                if table is None:
                    continue
                numbers = table.numbers(part.keys)
                held = numbers >= 0
                as_of = np.where(held, table.as_of[numbers], 0)
                # Held by another thread meanwhile, and from before: what lies between is not known.
                gap = held & (as_of < part.base)
                table.drop([part.keys[i] for i in np.flatnonzero(gap).tolist()])
                fresh = held & ~gap & (as_of < number)
                new = fresh[part.codes]
                table.add(numbers[part.codes[new]], part.facts.those(new))
                table.as_of[numbers[fresh]] = number
            if not self._tables or len(self._own) == MOST_OWN:
                self._own.clear()  # They count as others' then: newer rows are looked for.
            else:
                self._own.add(number)
            self._keep_within()

    def _follow(self, source: Reader, upto: int) -> bool:
        """Learn whose the commits are up to the one that ``source`` stands at; False for one that is too old
        to be of use."""
        if upto > self._looked:
            mine = sum(self._looked < number <= upto for number in self._own)
            if mine < upto - self._looked:
                if not self._tables or not source.kinds(after=self._looked) <= HARMLESS:
                    self._tables.clear()
                    self._since = upto
                self._foreign = upto
            self._looked = upto
            self._own = {number for number in self._own if number > upto}
        return upto >= self._since

    def _refresh(
        self, table: SeenTable, source: Reader, upto: int, timeline_version_id: int, layout: Layout,
        keys: Sequence[bytes],
    ) -> I64:  # fmt: skip
        """Hold all of ``keys``, up to ``upto`` at least; returns their numbers."""
        numbers = table.numbers(keys)
        stale = np.flatnonzero((numbers >= 0) & (table.as_of[numbers] < self._foreign))
        if len(stale):
            changed = [keys[i] for i in stale.tolist()]
            rows = source.newer(timeline_version_id, changed, after=table.as_of[numbers[stale]].tolist())
            # Other rows than deltas are in the place of older ones, or many: read it all.
            table.drop(list({one.entity_key for one in rows if one.level != DELTA_LEVEL}))
            numbers = table.numbers(keys)
            rows = [one for one in rows if one.level == DELTA_LEVEL]
            of_rows = table.numbers([one.entity_key for one in rows])
            self._add(table, layout, of_rows, [one.payload for one in rows])
        absent = np.flatnonzero(numbers < 0)
        if len(absent):
            missing = [keys[i] for i in absent.tolist()]
            there = source.read(timeline_version_id, missing)
            numbers[absent] = table.hold(missing, as_of=upto)
            given = dict(zip(missing, numbers[absent].tolist(), strict=True))
            owners = [given[key] for key, payloads in there.items() for _ in payloads]
            payloads = [one for payloads in there.values() for one in payloads]
            self._add(table, layout, np.array(owners, np.int64), payloads)
        table.as_of[numbers] = np.maximum(table.as_of[numbers], upto)
        return numbers

    def _add(self, table: SeenTable, layout: Layout, numbers: I64, payloads: Sequence[bytes]) -> None:
        if not payloads:
            return
        versions, counts = reader(layout.stored).read(payloads)
        owners, facts = np.repeat(numbers, counts), facts_of(versions, layout)
        held = owners >= 0
        table.add(owners[held], facts.those(held))

    def _keep_within(self) -> None:
        while sum(table.size for table in self._tables.values()) > self._size:
            timeline, largest = max(self._tables.items(), key=lambda one: one[1].size)
            before = largest.size
            others = sum(table.size for table in self._tables.values()) - before
            largest.shrink(max(0, min(before, self._size - others) * 3 // 4))
            if largest.size >= before:
                del self._tables[timeline]


_all: WeakKeyDictionary[Store, Seen] = WeakKeyDictionary()
_making = Lock()


def seen_by(store: Store) -> Seen | None:
    """What this process has seen of a store; None where it is to keep nothing."""
    if not store.writer_memory:
        return None
    with _making:
        if store not in _all:
            _all[store] = Seen(store.writer_memory)
        return _all[store]
