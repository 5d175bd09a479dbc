"""Which timelines a row is in, and what is rewritten or removed, on every database."""

from __future__ import annotations

from featurestore.store import (
    ForgottenKey,
    SegmentRow,
    Store,
    Truncate,
)
from tests.contracts.store_rows import new_timeline


def test_a_row_is_in_the_timelines_that_it_was_put_in_and_in_nobody_elses(store: Store):
    timeline, other = new_timeline(store), new_timeline(store)
    with store.commit("ingest", now_us=1) as commit:
        commit.add_identities(timeline, [(b"r1", b"c2"), (b"r1", b""), (b"r2", b"c1")])
        commit.add_identities(other, [(b"r1", b"c9")])
        assert commit.identities(timeline, [b"r1"]) == {b"r1": [b"", b"c2"]}
    rows = [b"r%d" % number for number in range(2000)]
    with store.snapshot() as snapshot:
        assert snapshot.identities(timeline, rows) == {b"r1": [b"", b"c2"], b"r2": [b"c1"]}
        assert snapshot.identities(timeline, []) == {}
    with store.commit("sweep", now_us=2) as commit:
        assert commit.remove_identities(timeline, rows=2) == 2
        assert commit.remove_identities(timeline, rows=2) == 1
        assert commit.remove_identities(timeline, rows=2) == 0
    with store.snapshot() as snapshot:
        assert snapshot.is_empty(timeline) and not snapshot.is_empty(other)


def test_truncates_are_those_of_one_timeline_version_and_go_with_it(store: Store):
    timeline, other = new_timeline(store), new_timeline(store)
    truncates = [Truncate((1, 2**62), 5, None), Truncate((0, -1), 3, 4)]
    with store.commit("ingest", now_us=1) as commit:
        commit.add_truncates(timeline, truncates)
        commit.add_truncates(other, [])
        assert commit.truncates(timeline) == truncates
    with store.snapshot() as snapshot:
        assert snapshot.truncates(timeline) == truncates and snapshot.truncates(other) == []
    with store.commit("sweep", now_us=2) as commit:
        commit.remove_identities(timeline, rows=1)
    with store.snapshot() as snapshot:
        assert snapshot.truncates(timeline) == []


def test_what_is_stored_is_rewritten_or_removed_only_where_it_is_as_it_was_read(store: Store):
    timeline = new_timeline(store)
    with store.commit("backfill", now_us=1) as commit:
        commit.append(timeline, [SegmentRow(b"a", 0, 10, 2, b"two"), SegmentRow(b"b", 0, 10, 1, b"one")])
        commit.add_identities(timeline, [(b"r" * 16, b"a"), (b"r" * 16, b"b"), (b"s" * 16, b"a")])
    with store.snapshot() as snapshot:
        two, one = snapshot.stored_rows(timeline, [b"a", b"b", b"c"])
        assert (two.versions, one.payload, snapshot.entity_count(timeline)) == (2, b"one", 2)
    with store.commit("forget", now_us=2) as commit:
        assert commit.rewrite(timeline, two, SegmentRow(b"a", 0, 11, 1, b"other"))
        assert not commit.rewrite(timeline, two, None)
        assert commit.rewrite(timeline, one, None)
        commit.leave_timelines(timeline, [b"r" * 16], b"a")
    with store.snapshot() as snapshot:
        assert snapshot.read(timeline, [b"a", b"b"]) == {b"a": [b"other"]}
        (row,) = snapshot.stored_rows(timeline, [b"a"])
        assert (row.start, row.versions) == (11, 1)
        assert snapshot.rows_in(timeline, b"a") == [b"s" * 16]
        assert snapshot.rows_in(timeline, b"b") == [b"r" * 16]
    with store.commit("forget", now_us=3) as commit:
        assert commit.remove_entity(timeline, b"a") == 1
        commit.leave_timelines(timeline, [b"r" * 16, b"s" * 16])
    assert store.purge(now_us=4)
    with store.snapshot() as snapshot:
        assert snapshot.is_empty(timeline)


def test_a_forgotten_key_is_listed_with_what_was_erased_and_a_push_keeps_its_numbers(store: Store):
    new_timeline(store)
    with store.commit("ingest", now_us=1) as commit:
        commit.add_arrivals("transactions", b"before", rows=3, arrived_at_us=1)
        assert commit.forgetting() == (0, 0, 0)
    with store.commit("forget", now_us=5) as commit:
        commit.add_forgotten(("a", "b"), "digest")
        number = commit.number
    with store.commit("forget", now_us=6) as commit:
        assert commit.forgetting() == (number, 1, 0)
        commit.rewrite_arrival(1, b"after")
        (key,) = _forgotten(store)
        commit.count_forgotten(key, {"facts": 2}, "erasing")
        commit.count_forgotten(key, {"facts": 1, "pushed_rows": 1}, "done")
    assert _forgotten(store) == [
        ForgottenKey(("a", "b"), "digest", "done", {"facts": 3, "pushed_rows": 1}, number, 5)
    ]
    with store.snapshot() as snapshot:
        (arrival,) = snapshot.arrivals("transactions")
        assert (arrival.first_number, arrival.rows, arrival.payload) == (1, 3, b"after")
        before = snapshot.registry_commit
    with store.commit("apply", now_us=7) as commit:
        commit.forget_more(("a", "b"))
    assert [one.state for one in _forgotten(store)] == ["erasing"]
    assert before == number + 1  # a host that keeps the registry looks at the list again


def _forgotten(store: Store) -> list[ForgottenKey]:
    with store.snapshot() as snapshot:
        return snapshot.forgotten()
