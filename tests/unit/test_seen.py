"""What a writer keeps of timelines: found as a dictionary would, and never taken for more than was seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.store.delivery import Facts
from featurestore.store.records import StoredRow
from featurestore.store.seen import Seen, Written
from featurestore.store.seen_table import SeenTable

KEYS = [b"%d" % n for n in range(5)]
ADDED = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(0, 9)), max_size=12)


def facts(versions: Sequence[tuple[int, int, int]]) -> Facts:
    """Of (entity, identity, content): available when its content says."""
    content = np.array([one[2] for one in versions], np.uint64)
    return Facts(
        np.array([one[1] for one in versions], np.uint64),
        np.stack([content, content + np.uint64(1)], axis=1),
        content.astype(np.int64),
    )


@given(st.lists(st.tuples(ADDED, st.sets(st.integers(0, 4)), st.booleans()), max_size=6))
def test_a_table_finds_what_a_dictionary_would(
    steps: list[tuple[list[tuple[int, int, int]], set[int], bool]],
):
    table, model = SeenTable(200), dict[int, list[tuple[int, int]]]()
    for added, dropped, shrinks in steps:
        new = sorted({one[0] for one in added} - model.keys())
        table.hold([KEYS[n] for n in new], as_of=1)
        model |= {n: [] for n in new}
        numbers = table.numbers(KEYS)
        table.add(numbers[[one[0] for one in added]] if added else np.zeros(0, np.int64), facts(added))
        for entity, identity, content in added:
            model[entity].append((identity, content))
        table.drop([KEYS[n] for n in dropped])
        for n in dropped:
            model.pop(n, None)
        if shrinks:
            table.shrink(1 << 20)
        asked = [(n, identity) for n in sorted(model) for identity in range(4)]
        numbers = table.numbers(KEYS)
        assert [n for n in range(5) if numbers[n] >= 0] == sorted(model)
        found, askers = table.find(
            numbers[[n for n, _ in asked]] if asked else np.zeros(0, np.int64),
            np.array([identity for _, identity in asked], np.uint64),
        )
        assert (found.hashes[:, 0] == found.available.astype(np.uint64)).all()
        got = sorted(
            (*asked[k], content) for k, content in zip(askers.tolist(), found.available.tolist(), strict=True)
        )
        assert got == sorted((n, *one) for n, versions in model.items() for one in versions)


def test_a_table_that_shrinks_keeps_what_was_asked_for_last():
    table = SeenTable(1 << 16)
    numbers = table.hold(KEYS, as_of=1)
    table.used[numbers] = [3, 1, 4, 2, 5]
    table.add(np.repeat(numbers, 10), facts([(0, n, 0) for n in range(50)]))
    table.shrink(3 * (480 + 200))
    assert (table.numbers(KEYS) >= 0).tolist() == [True, False, True, False, True]
    assert (table.versions, table.size) == (30, 3 * (480 + 200))


def test_an_entity_that_is_too_large_is_not_kept_at_the_cost_of_the_others():
    table = SeenTable(1 << 16)
    numbers = table.hold(KEYS, as_of=1)
    table.used[numbers] = [1, 1, 9, 1, 1]
    table.add(np.repeat(numbers, [10, 10, 100, 10, 10]), facts([(0, n, 0) for n in range(140)]))
    table.shrink(5 * (480 + 200))
    assert (table.numbers(KEYS) >= 0).tolist() == [True, True, False, True, True]


class Still:
    """A store at one commit, without rows; ``kinds`` are those of the commits since."""

    def __init__(self, *kinds: str) -> None:
        self._kinds = set(kinds)
        self.read_keys: list[bytes] = []

    def read(self, timeline_version_id: int, entity_keys: Sequence[bytes]) -> dict[bytes, list[bytes]]:
        self.read_keys += entity_keys
        return {}

    def newer(
        self, timeline_version_id: int, entity_keys: Sequence[bytes], *, after: Sequence[int]
    ) -> list[StoredRow]:
        return []

    def kinds(self, *, after: int) -> set[str]:
        return self._kinds


def look(seen: Seen, source: Still, upto: int, identity: int = 1) -> list[int] | None:
    """The contents of an identity of the first entity."""
    asked = facts([(0, identity, 0)])
    found = seen.existing(source, upto, 1, None, KEYS[:1], np.zeros(1, np.int64), asked)  # type: ignore[arg-type]
    return None if found is None else found[0].available.tolist()


def written(base: int, content: int = 7) -> Written:
    return Written(1, KEYS[:1], np.zeros(1, np.int64), facts([(0, 1, content)]), base)


def test_what_was_written_is_known_from_its_commit_on():
    seen = Seen(1 << 16)
    assert look(seen, Still(), 4) == []
    seen.wrote(5, [written(4)])
    assert look(seen, Still(), 5) == [7]


def test_a_writer_that_lags_behind_does_not_add_what_was_read_already():
    seen = Seen(1 << 16)
    assert look(seen, Still(), 4) == []
    # Another thread reads the entity after the commit, before the writer tells of it.
    assert look(seen, Still("stream"), 5) == []
    seen.wrote(5, [written(4)])
    assert look(seen, Still("stream"), 6) == []


def test_an_entity_that_was_read_before_the_preparation_is_not_whole():
    seen = Seen(1 << 16)
    assert look(seen, Still(), 3) == []
    # Prepared at 5 by somebody who had read it since: between 3 and 5 may lie what is not kept here.
    seen.wrote(6, [written(5)])
    source = Still("stream")
    look(seen, source, 6)
    assert source.read_keys == [KEYS[0]]


@pytest.mark.parametrize("kind", ["forget", "anything new"])
def test_a_commit_that_may_remove_drops_everything_and_older_snapshots_are_of_no_use(kind: str):
    seen = Seen(1 << 16)
    assert look(seen, Still(), 4) == []
    seen.wrote(5, [written(4)])
    source = Still(kind)
    assert look(seen, source, 6) == [] and source.read_keys == [KEYS[0]]
    assert look(seen, Still(), 5) is None
