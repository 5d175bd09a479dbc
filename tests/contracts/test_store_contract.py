"""What every store promises on every database: whole commits, consistent snapshots, nothing lost."""

from __future__ import annotations

import random

import pytest

from featurestore.errors import StoreError
from featurestore.store import (
    DELTA_LEVEL,
    SEGMENT_LEVEL,
    Arrival,
    CounterKey,
    Definition,
    LoadedFile,
    Progress,
    Sizes,
    Store,
    StoredRow,
)
from tests.contracts.store_rows import delta, new_timeline, segment


def test_an_empty_store_answers_with_nothing(store: Store):
    with store.snapshot() as snapshot:
        assert (snapshot.commit_number, snapshot.last_arrival, snapshot.registry_commit) == (0, 0, 0)
        assert snapshot.read(1, [b"k"]) == {}
        assert snapshot.arrivals("transactions") == []
        assert snapshot.timeline_versions() == snapshot.view_versions() == snapshot.definitions() == []
        assert (
            snapshot.counters() == snapshot.sizes() == snapshot.loaded_files(1) == snapshot.progress(1) == {}
        )


def test_commit_numbers_rise_and_a_failed_commit_leaves_no_trace(store: Store):
    with store.commit("first", now_us=1) as first:
        pass

    def fail_after_writing() -> None:
        with store.commit("second", now_us=2) as second:
            second.add_arrivals("transactions", b"x", rows=1, arrived_at_us=2)
            second.append(1, [segment(b"k", b"x")])
            second.count("transactions", "", {"accepted": 1})
            second.define(Definition("view", "v", "{}", "f"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_after_writing()
    with store.snapshot() as snapshot:
        assert snapshot.commit_number == first.number
        assert snapshot.read(1, [b"k"]) == {} and snapshot.arrivals("transactions") == []
        assert snapshot.counters() == {} and snapshot.definitions() == []
    with store.commit("third", now_us=3) as third:
        assert third.number > first.number


def test_an_entity_has_its_segments_and_deltas_and_nobody_elses(store: Store):
    timeline, other = new_timeline(store), new_timeline(store)
    with store.commit("backfill", now_us=1) as commit:
        commit.append(timeline, [segment(b"a", b"a0", 0), segment(b"a", b"a7", 7), segment(b"ab", b"ab")])
        commit.append(other, [segment(b"a", b"other")])
    with store.commit("ingest", now_us=2) as commit:
        assert commit.read(timeline, [b"a", b"zz"]) == {b"a": [b"a0", b"a7"]}
        commit.append(timeline, [delta(b"a", b"late", 3)])
        assert sorted(commit.read(timeline, [b"a"])[b"a"]) == [b"a0", b"a7", b"late"]
    with store.snapshot() as snapshot:
        found = snapshot.read(timeline, [b"a", b"b", b"ab", b"a"])
        assert {key: sorted(payloads) for key, payloads in found.items()} == {
            b"a": [b"a0", b"a7", b"late"],
            b"ab": [b"ab"],
        }
        assert snapshot.read(other, [b"a"]) == {b"a": [b"other"]}
        assert snapshot.read(timeline, []) == {}
        assert snapshot.entity_keys(timeline, limit=10) == [b"a", b"ab"]
        assert snapshot.entity_keys(timeline, after=b"a", limit=10) == [b"ab"]
        assert snapshot.sizes() == {timeline: Sizes(4, 4, 10), other: Sizes(1, 1, 5)}


def test_what_is_newer_than_a_commit_is_told_row_by_row(store: Store):
    timeline, other = new_timeline(store), new_timeline(store)
    with store.commit("backfill", now_us=1) as first:
        first.append(timeline, [segment(b"a", b"a0", 0), segment(b"a", b"a7", 7), segment(b"b", b"b0")])
        first.append(other, [segment(b"a", b"other")])
    with store.commit("ingest", now_us=2) as second:
        assert second.newer(timeline, [b"a", b"b"], after=first.number) == []
        second.append(timeline, [delta(b"a", b"a-3", -3), delta(b"c", b"c0")])
    late = StoredRow(b"a", DELTA_LEVEL, -3, second.number, 1, b"a-3")
    with store.snapshot() as snapshot:
        newer = snapshot.newer
        assert newer(timeline, [], after=0) == newer(timeline, [b"a", b"b"], after=second.number) == []
        assert newer(timeline, [b"zz", b"a", b"b"], after=first.number) == [late]
        assert newer(other, [b"a"], after=-1) == [
            StoredRow(b"a", SEGMENT_LEVEL, 0, first.number, 1, b"other")
        ]
        # Each entity with a commit of its own.
        assert newer(timeline, [b"c", b"a", b"b"], after=[second.number, first.number, 0]) == [
            late,
            StoredRow(b"b", SEGMENT_LEVEL, 0, first.number, 1, b"b0"),
        ]
        everything = sorted(newer(timeline, [b"a", b"b"], after=-1))
        assert [(one.entity_key, one.start) for one in everything] == [
            (b"a", -3), (b"a", 0), (b"a", 7), (b"b", 0),
        ]  # fmt: skip


@pytest.mark.parametrize("asked", [1, 2, 3, 127, 128, 129, 511, 512, 513, 1500])
def test_any_number_of_keys_is_read_at_once(store: Store, asked: int):
    timeline = new_timeline(store)
    rows = {b"%05d" % n: b"payload %d" % n for n in range(1600)}
    with store.commit("backfill", now_us=1) as commit:
        commit.append(timeline, [segment(key, payload) for key, payload in rows.items()])
    keys = random.Random(asked).sample(sorted(rows), asked)
    with store.snapshot() as snapshot:
        assert snapshot.read(timeline, [*keys, b"unknown"]) == {key: [rows[key]] for key in keys}
        assert {one.entity_key: one.payload for one in snapshot.newer(timeline, keys, after=0)} == {
            key: rows[key] for key in keys
        }


def test_keys_and_payloads_are_bytes_of_any_value(store: Store):
    timeline = new_timeline(store)
    everything = bytes(range(256))
    keys = [b"\x00", b"\x00\x00", b"\xff", everything, b"'; drop table segments; --"]
    with store.commit("backfill", now_us=1) as commit:
        commit.append(timeline, [segment(key, everything + key, start=-(2**63)) for key in keys])
    with store.snapshot() as snapshot:
        assert snapshot.read(timeline, keys) == {key: [everything + key] for key in keys}
        assert snapshot.entity_keys(timeline, limit=9) == sorted(keys)


def test_law_5_a_snapshot_sees_one_commit_however_long_it_lasts(store: Store):
    timeline = new_timeline(store)
    with store.commit("ingest", now_us=1) as before:
        before.append(timeline, [delta(b"k", b"before")])
    with store.snapshot() as snapshot:
        with store.commit("ingest", now_us=2) as after:
            after.append(timeline, [delta(b"k", b"after")])
            after.count("transactions", "", {"accepted": 1})
        assert snapshot.commit_number == before.number
        assert snapshot.read(timeline, [b"k"]) == {b"k": [b"before"]} and snapshot.counters() == {}
        with store.snapshot() as newer:
            assert newer.commit_number == after.number
            assert newer.read(timeline, [b"k"]) == {b"k": [b"before", b"after"]}


def test_arrivals_are_numbered_without_a_gap_and_read_up_to_a_number(store: Store):
    with store.commit("ingest", now_us=10) as commit:
        assert commit.add_arrivals("transactions", b"one", rows=3, arrived_at_us=10) == 1
        assert commit.add_arrivals("refunds", b"two", rows=1, arrived_at_us=10) == 4

    def fail_after_arrivals() -> None:
        with store.commit("ingest", now_us=11) as commit:
            assert commit.add_arrivals("transactions", b"lost", rows=9, arrived_at_us=11) == 5
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_after_arrivals()
    with store.commit("ingest", now_us=12) as commit:
        assert commit.add_arrivals("transactions", b"three", rows=2, arrived_at_us=12) == 5
    one, three = Arrival(1, 3, 10, b"one"), Arrival(5, 2, 12, b"three")
    with store.snapshot() as snapshot:
        assert snapshot.last_arrival == 6
        assert snapshot.arrivals("transactions") == [one, three]
        # Rows 1 to 3 and 5 to 6: by their numbers, or by the push that they begin.
        assert snapshot.arrivals("transactions", up_to=5) == [one]
        assert snapshot.arrivals("transactions", before=5) == [one]
        assert snapshot.arrivals("transactions", before=6) == [one, three]
        assert snapshot.arrivals("transactions", after=3, before=6) == [three]
        assert snapshot.arrivals("transactions", up_to=6) == [one, three]
        assert snapshot.arrivals("transactions", up_to=4) == [one]
        assert snapshot.arrivals("transactions", after=3) == [three]
        assert snapshot.arrivals("nothing") == []


def test_law_6_counters_add_up_and_move_with_their_data(store: Store):
    for _ in range(2):
        with store.commit("ingest", now_us=1) as commit:
            commit.count("transactions", "0", {"delivered": 3, "accepted": 2, "duplicate": 1, "late": 0})
            commit.count("transactions", "1", {"accepted": 1})
    with store.snapshot() as snapshot:
        assert snapshot.counters() == {
            CounterKey("transactions", "0", "accepted"): 4,
            CounterKey("transactions", "0", "delivered"): 6,
            CounterKey("transactions", "0", "duplicate"): 2,
            CounterKey("transactions", "1", "accepted"): 2,
        }


def test_a_definition_replaces_the_one_before_it(store: Store):
    with store.commit("apply", now_us=1) as first:
        first.define(Definition("view", "spend", '{"a": 1}', "f1"))
        first.define(Definition("entity", "card", "{}", "e"))
    with store.commit("apply", now_us=2) as second:
        second.define(Definition("view", "spend", '{"a": 2}', "f2"))
        second.undefine("entity", "card")
    with store.snapshot() as snapshot:
        assert snapshot.definitions() == [Definition("view", "spend", '{"a": 2}', "f2", second.number)]
        assert snapshot.registry_commit == second.number


def test_a_timeline_version_comes_back_as_it_was_made(store: Store):
    columns = {"ts": "timestamp", "a b'\"c": "decimal(18, 2)", "é": "list<float64>"}
    with store.commit("apply", now_us=1) as commit:
        made = commit.add_timeline_version(
            source="s",
            entity="e",
            fingerprint="f",
            columns=columns,
            roles={"id": ["x", "y"], "version": None},
        )
    with store.commit("backfill", now_us=2) as later:
        later.set_timeline_state(made, "current")
    with store.snapshot() as snapshot:
        (timeline,) = snapshot.timeline_versions()
        assert timeline.id == made and timeline.state == "current" and timeline.horizon_us is None
        assert list(timeline.columns.items()) == list(columns.items())
        assert timeline.roles == {"id": ["x", "y"], "version": None}
        assert timeline.created_commit == commit.number and snapshot.registry_commit == later.number


def test_switching_a_view_pins_the_version_before_it(store: Store):
    timeline = new_timeline(store)
    with store.commit("apply", now_us=1) as commit:
        first = commit.add_view_version(view="v", fingerprint="1", spec="one", timeline_version_id=timeline)
        other = commit.add_view_version(view="w", fingerprint="1", spec="w", timeline_version_id=timeline)
        commit.switch_view(first)
        commit.switch_view(other)
    with store.commit("apply", now_us=2) as commit:
        second = commit.add_view_version(view="v", fingerprint="2", spec="two", timeline_version_id=timeline)
    with store.snapshot() as before:
        with store.commit("switch", now_us=3) as switch:
            switch.switch_view(second)
        assert [(v.view, v.version, v.state) for v in before.view_versions()] == [
            ("v", 1, "current"),
            ("v", 2, "filling"),
            ("w", 1, "current"),
        ]
    with store.commit("drop", now_us=4) as commit:
        commit.set_view_state(first, "dropped")
    with store.snapshot() as snapshot:
        assert [(v.view, v.version, v.state) for v in snapshot.view_versions()] == [
            ("v", 1, "dropped"),
            ("v", 2, "current"),
            ("w", 1, "current"),
        ]
        assert snapshot.view_versions()[1].switched_commit == switch.number


def test_what_changes_no_registry_leaves_its_commit_alone(store: Store):
    timeline = new_timeline(store)
    with store.snapshot() as snapshot:
        registry = snapshot.registry_commit
    with store.commit("ingest", now_us=2) as commit:
        commit.append(timeline, [delta(b"k", b"x")])
        commit.add_arrivals("transactions", b"x", rows=1, arrived_at_us=2)
    with store.snapshot() as snapshot:
        assert snapshot.registry_commit == registry and snapshot.commit_number == commit.number


def test_progress_and_loaded_files_are_kept_per_timeline_version(store: Store):
    timeline, other = new_timeline(store), new_timeline(store)
    with store.commit("backfill", now_us=1) as commit:
        commit.progress(timeline, "part", done=10, total=30)
        commit.file_loaded(timeline, LoadedFile("a.parquet", "h1", 5, 2))
    with store.commit("backfill", now_us=2) as second:
        second.progress(timeline, "part", done=20, total=30)
        second.file_loaded(timeline, LoadedFile("a.parquet", "h2", 6, 3))
    with store.snapshot() as snapshot:
        assert snapshot.progress(timeline) == {"part": Progress(20, 30)}
        assert snapshot.loaded_files(timeline) == {
            "a.parquet": LoadedFile("a.parquet", "h2", 6, 3, second.number)
        }
        assert snapshot.progress(other) == snapshot.loaded_files(other) == {}
    with store.commit("backfill", now_us=3) as commit:
        commit.finish_part(timeline, "part")
    with store.snapshot() as snapshot:
        assert snapshot.progress(timeline) == {}


def test_a_dropped_timeline_is_removed_in_short_steps(store: Store):
    timeline, other = new_timeline(store), new_timeline(store)
    with store.commit("backfill", now_us=1) as commit:
        for version in (timeline, other):
            rows = [segment(b"%d" % n, b"x", start) for n in range(5) for start in (0, 1)]
            commit.append(version, rows)
    steps = []
    while True:
        with store.commit("drop", now_us=2) as commit:
            steps.append(commit.remove_segments(timeline, entities=2))
        if not steps[-1]:
            break
    assert steps == [4, 4, 2, 0]
    with store.snapshot() as snapshot:
        assert list(snapshot.sizes()) == [other]


def test_a_store_is_opened_again_with_everything_in_it(url: str):
    with Store.open(url, migrate=True) as store:
        name = store.store_id()
        timeline = new_timeline(store)
        with store.commit("ingest", now_us=1) as commit:
            commit.append(timeline, [delta(b"k", b"x")])
    with Store.open(url, migrate=False) as again, again.snapshot() as snapshot:
        assert snapshot.read(timeline, [b"k"]) == {b"k": [b"x"]} and snapshot.commit_number == commit.number
        assert again.store_id() == name


def test_a_commit_inside_a_commit_is_a_mistake_and_not_a_deadlock(store: Store):
    with (
        store.commit("outer", now_us=1),
        pytest.raises(RuntimeError, match="inside a commit"),
        store.commit("inner", now_us=1),
    ):
        pass


def test_a_closed_store_says_so(store: Store):
    store.close()
    with pytest.raises(StoreError, match="is closed"), store.snapshot():
        pass
    with pytest.raises(StoreError, match="is closed"), store.commit("ingest", now_us=1):
        pass
