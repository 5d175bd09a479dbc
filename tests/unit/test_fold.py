"""Which rows are worth folding, and what a folded row keeps: all versions, and when each entered."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.kernel.versions import HASH_COLUMN, NEVER
from featurestore.store import SEGMENT_LEVEL, TimelineVersion
from featurestore.store.delivery import RUN_VERSIONS
from featurestore.store.folding import STEADY, THOROUGH, WHOLE, Folder, Tiers, by_bound, folded_below
from featurestore.store.payload import decode, encode_runs, entry_commits, is_folded
from featurestore.store.records import StoredRow

TIMELINE = TimelineVersion(
    1, "events", "card", "f", {"card": "string", "ts": "timestamp", "id": "int64"},
    {"keys": ["card"], "id": ["id"], "event_time": "ts", "available_at": None, "version": None,
     "deleted": None, "order_by": None},
    "current", None, 1,
)  # fmt: skip
FOLDER = Folder.of(TIMELINE)

Version = tuple[int | None, int]
"""Event time and id."""


def stored(
    key: bytes, commit: int, versions: Sequence[Version], entered: Sequence[int] | None = None
) -> StoredRow:
    table = pa.table(
        {
            "ts": pa.array([ts for ts, _ in versions], pa.timestamp("us", "UTC")),
            "id": pa.array([id for _, id in versions], pa.int64()),
            HASH_COLUMN: pa.array([id.to_bytes(16, "big", signed=True) for _, id in versions], pa.binary(16)),
        }
    )
    commits = None if entered is None else np.array(entered, np.int64)
    (payload,) = encode_runs(table, np.array([0, len(versions)]), commits)
    return StoredRow(
        key,
        -1,
        min((ts for ts, _ in versions if ts is not None), default=NEVER),
        commit,
        len(versions),
        payload,
    )


def versions_in(rows: Sequence[StoredRow]) -> list[tuple[bytes, int | None, int, int]]:
    """(key, event time, id, the commit at which it entered) of all versions."""
    payloads = [row.payload for row in rows]
    table = decode(payloads, FOLDER.stored)
    counts = np.array([row.versions for row in rows], np.int64)
    entered = entry_commits(payloads, counts, np.array([row.commit_number for row in rows], np.int64))
    keys = [row.entity_key for row in rows for _ in range(row.versions)]
    instants = table.column("ts").cast(pa.int64()).to_pylist()
    return sorted(
        zip(keys, instants, table.column("id").to_pylist(), entered.tolist(), strict=True), key=repr
    )


def folded(rows: Sequence[StoredRow], commit: int = 99) -> list[StoredRow]:
    return [
        StoredRow(row.entity_key, row.level, row.start, commit, row.versions, row.payload)
        for row in FOLDER.fold(rows)
    ]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"", b"a", b"b"]),
            st.integers(1, 300),
            st.lists(
                st.tuples(st.none() | st.integers(-5, 5), st.integers(-(2**62), 2**62)),
                min_size=1,
                max_size=4,
            ),
        ),
        min_size=1,
        max_size=8,
    ),
    st.integers(0, 8),
)
def test_a_fold_keeps_every_version_and_the_commit_at_which_it_entered(
    given_rows: list[tuple[bytes, int, list[Version]]], first: int
):
    rows = [stored(key, commit, versions) for key, commit, versions in given_rows]
    before = versions_in(rows)
    made = folded(rows)
    assert versions_in(made) == before
    assert [row.entity_key for row in made] == sorted({row.entity_key for row in rows})
    assert all(is_folded(row.payload) and row.level == SEGMENT_LEVEL for row in made)
    # In two steps, too: what was folded before is folded again.
    some, others = rows[:first], rows[first:]
    assert versions_in(folded([*(folded(some) if some else []), *others])) == before


def test_a_fold_lies_by_event_time_in_runs_of_the_usual_length():
    versions: list[Version] = [(i * 7919 % 25_000, i) for i in range(25_000)]
    rows = [stored(b"a", 1 + i // 1_000, versions[i : i + 1_000]) for i in range(0, 25_000, 1_000)]
    made = folded(rows)
    assert [row.versions for row in made] == [RUN_VERSIONS, RUN_VERSIONS, 5_000]
    assert [row.start for row in made] == [0, RUN_VERSIONS, 2 * RUN_VERSIONS]
    times = decode([row.payload for row in made], FOLDER.stored).column("ts").cast(pa.int64()).to_pylist()
    assert times == sorted(times)


def test_when_the_versions_of_a_fold_entered_takes_few_bytes():
    versions: list[Version] = [(i, i) for i in range(1_000)]
    plain = stored(b"a", 7, versions)
    of_one = stored(b"a", 9, versions, [7] * 1_000)
    of_many = stored(b"a", 9, versions, [i * 31 % 200 for i in range(1_000)])
    assert len(of_one.payload) == len(plain.payload) + 9
    assert len(of_many.payload) == len(plain.payload) + 9 + 8 + 1_000
    assert not is_folded(plain.payload)


@pytest.mark.parametrize(
    ("sizes", "tiers", "chosen"),
    [
        ([], THOROUGH, []),
        ([1], WHOLE, []),
        ([1, 1], THOROUGH, [1, 1]),
        ([1, 8], THOROUGH, [1, 8]),
        # Longer than eight times the other: not worth writing it anew.
        ([1, 9], THOROUGH, []),
        ([1, 1, 9_000], THOROUGH, [1, 1]),
        ([1, 9_000], WHOLE, [1, 9_000]),
        # A full run stays what it is.
        ([1, 1, RUN_VERSIONS], WHOLE, [1, 1]),
        ([1, RUN_VERSIONS, RUN_VERSIONS], WHOLE, []),
        ([1] * 7, STEADY, []),
        ([1] * 8, STEADY, [1] * 8),
        ([*[1] * 8, 32], STEADY, [*[1] * 8, 32]),
        ([*[1] * 8, 33], STEADY, [1] * 8),
    ],
)
def test_what_is_folded(sizes: list[int], tiers: Tiers, chosen: list[int]):
    bound = folded_below(sizes, tiers)
    assert [size for size in sizes if size < bound] == chosen
    assert by_bound([(b"a", size) for size in sizes], tiers) == ({bound: [b"a"]} if chosen else {})


@pytest.mark.parametrize(("tiers", "times"), [(STEADY, 12), (THOROUGH, 25)])
def test_a_version_is_written_a_few_times_however_long_its_timeline_gets(tiers: Tiers, times: int):
    sizes: list[int] = []
    written = most = 0
    for _ in range(11_000):
        sizes.append(1)
        if bound := folded_below(sizes, tiers):
            small = sum(size for size in sizes if size < bound)
            written += small
            runs = [RUN_VERSIONS] * (small // RUN_VERSIONS) + [small % RUN_VERSIONS]
            sizes = [size for size in sizes if size >= bound] + [run for run in runs if run]
        most = max(most, len(sizes))
    assert written <= times * 11_000
    assert most <= 3 + 8 * math.log2(RUN_VERSIONS)
