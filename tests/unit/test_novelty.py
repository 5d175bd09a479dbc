"""Which delivered versions are new: against a slow oracle, and however they are cut into chunks.

Time: ``available_at`` in small integers; None is a version that is never known under a horizon.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from featurestore.kernel.content import content_hash
from featurestore.kernel.versions import NEVER
from featurestore.store import SEGMENT_LEVEL, Store, TimelineVersion
from featurestore.store.additions import additions, entity_keys, prepare
from featurestore.store.delivery import Delivery, Facts, Layout, deliver
from featurestore.store.novelty import ACCEPTED, CORRECTED, DUPLICATE, novelty

Version = tuple[int, int, int, int | None]  # entity, id, content, available_at

VERSIONS = st.lists(
    st.tuples(
        st.integers(0, 2), st.integers(0, 3), st.integers(0, 2), st.one_of(st.none(), st.integers(0, 4))
    ),
    max_size=25,
)


def facts(versions: Sequence[Version]) -> tuple[Facts, np.ndarray]:
    return (
        Facts(
            np.array([one[1] for one in versions], np.uint64),
            np.array([[one[1], one[2]] for one in versions], np.uint64).reshape(-1, 2),
            np.array([NEVER if one[3] is None else one[3] for one in versions], np.int64),
        ),
        np.array([one[0] for one in versions], np.int64),
    )


def slow(there: Sequence[Version], delivered: Sequence[Version]) -> tuple[list[int], list[bool]]:
    """The rule, row by row: a content is new where it is not there; the identity's first is accepted."""
    status, kept = [], []
    for i, (entity, key, content, available) in enumerate(delivered):
        same = [one for one in there if one[:3] == (entity, key, content)]
        rivals = [
            (NEVER if one[3] is None else one[3], j)
            for j, one in enumerate(delivered)
            if one[:3] == (entity, key, content)
        ]
        known = NEVER if available is None else available
        is_least = min(rivals) == (known, i)
        earlier = all(known < (NEVER if one[3] is None else one[3]) for one in same)
        kept.append(is_least and earlier)
        if not is_least or same:
            status.append(DUPLICATE)
            continue
        first = next(one for one in [*there, *delivered] if one[:2] == (entity, key))
        is_first = first[2] == content and not any(one[:2] == (entity, key) for one in there)
        status.append(ACCEPTED if is_first else CORRECTED)
    return status, kept


@given(VERSIONS, VERSIONS)
def test_what_is_new_is_what_the_rule_says(there: list[Version], delivered: list[Version]):
    new, codes = facts(delivered)
    old, old_codes = facts(there)
    found = novelty(new, codes, 3, old, old_codes) if there else novelty(new, codes, 3)
    assert (found.status.tolist(), found.kept.tolist()) == slow(there, delivered)


SCHEMA = pa.schema(
    [("k", pa.int64()), ("id", pa.int64()), ("ts", pa.timestamp("us", "UTC")), ("x", pa.int64()),
     ("av", pa.timestamp("us", "UTC"))]
)  # fmt: skip
TIMELINE = TimelineVersion(
    id=1,
    source="s",
    entity="k",
    fingerprint="",
    columns={"k": "int64", "id": "int64", "ts": "timestamp", "x": "int64", "av": "timestamp"},
    roles={"keys": ["k"], "event_time": "ts", "id": ["id"], "available_at": "av"},
    state="filling",
    horizon_us=None,
    created_commit=1,
)


def delivery(versions: Sequence[Version], run_versions: int = 10_000) -> Delivery:
    """An event's time follows from its content, so that contents of one identity lie at different times."""
    columns = list(zip(*versions, strict=True)) or [(), (), (), ()]
    entity, key, content, available = columns
    table = pa.Table.from_arrays(
        [
            pa.array(entity, pa.int64()),
            pa.array(key, pa.int64()),
            pa.array(content, pa.int64()).cast(pa.timestamp("us", "UTC")),
            pa.array(content, pa.int64()),
            pa.array(available, pa.int64()).cast(pa.timestamp("us", "UTC")),
        ],
        schema=SCHEMA,
    )
    keys = sorted(set(entity))
    codes = np.array([keys.index(one) for one in entity], np.int64)
    return deliver(
        table,
        content_hash(table, ["k", "id", "ts", "x"]),
        codes,
        [str(one).encode() for one in keys],
        Layout.of(TIMELINE),
        run_versions=run_versions,
    )


@given(VERSIONS, st.lists(st.integers(0, 25), max_size=6))
def test_chunks_of_runs_count_and_keep_what_the_whole_does(versions: list[Version], cuts: list[int]):
    made = delivery(versions, run_versions=1)
    whole = additions(made, 0, made.runs, 0, {}, 1)
    bounds = sorted({0, made.runs, *(cut for cut in cuts if cut < made.runs)})
    there: dict[bytes, list[bytes]] = {}
    counts = dict.fromkeys(whole.novelty.counts(), 0)
    for first, end in pairwise(bounds):
        some = {key: there[key] for key in entity_keys(made, first, end) if key in there}
        part = additions(made, first, end, 0, some, 1)
        for row in part.rows:
            there.setdefault(row.entity_key, []).append(row.payload)
        counts = {kind: n + part.novelty.counts()[kind] for kind, n in counts.items()}
    assert counts == whole.novelty.counts()
    wanted: dict[bytes, list[bytes]] = {}
    for row in whole.rows:
        wanted.setdefault(row.entity_key, []).append(row.payload)
    assert there == wanted


@given(VERSIONS)
def test_a_delivery_that_is_repeated_adds_nothing(versions: list[Version]):
    made = delivery(versions)
    there: dict[bytes, list[bytes]] = {}
    for row in additions(made, 0, made.runs, 0, {}, 1).rows:
        there.setdefault(row.entity_key, []).append(row.payload)
    again = additions(made, 0, made.runs, 0, there, 2)
    assert not again.rows
    counts = again.novelty.counts()
    assert counts.pop("duplicate") == len(versions) and not any(counts.values())


def test_what_others_wrote_meanwhile_is_seen_though_rows_were_folded_into_as_many(tmp_path: Path):
    held = [delivery([(0, key, 0, None)]) for key in (1, 2)]
    pushed = delivery([(0, 3, 0, None)])
    with Store.open(tmp_path / "store.db", migrate=True) as store:
        for one in held:
            with store.commit("ingest", now_us=1) as commit:
                commit.append(1, additions(one, 0, 1, -1, {}, 0).rows)
        with store.snapshot() as snapshot:
            made = prepare(pushed, 0, 1, -1, 1, snapshot)
            before = snapshot.stored_rows(1, [b"0"])
        with store.commit("other", now_us=1) as commit:
            assert made.still_hold(commit, 1) is made
        with store.commit("compact", now_us=1) as commit:
            for row in before:
                assert commit.rewrite(1, row, None)
            both = delivery([(0, key, 0, None) for key in (1, 2)])
            (folded,) = additions(both, 0, 1, SEGMENT_LEVEL, {}, 0).rows
            commit.append(1, [folded, *made.rows])
        with store.commit("ingest", now_us=1) as commit:
            assert len(commit.read(1, [b"0"])[b"0"]) == len(before)
            again = made.still_hold(commit, 1)
            assert not again.rows and again.novelty.counts()["duplicate"] == 1
            assert again.still_hold(commit, 1) is again


def test_a_delivery_lies_in_key_order_and_then_by_event_time():
    made = delivery([(2, 1, 5, 0), (0, 1, 9, 0), (2, 2, 3, 0), (0, 2, 9, 0)])
    assert made.keys == [b"0", b"2"]
    assert made.table.column("x").to_pylist() == [9, 9, 3, 5]
    assert made.row.tolist() == [1, 3, 2, 0]
    assert made.bounds.tolist() == [0, 2, 4] and made.run_entity.tolist() == [0, 1]
