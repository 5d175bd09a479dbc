"""Backfill: what is loaded, what is reported, and what a second run, a changed log and a rebuild do.

Times are days after 2026-01-01; questions are asked long after the last event unless they say otherwise.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from featurestore import FeatureStore
from featurestore.batch import parts, timeline_fill
from featurestore.batch.backfill import backfill
from featurestore.errors import BackfillError, RequestError, StoreUnavailableError, UnknownNameError
from tests.integration.backfill_project import (
    AS_OF,
    WITHOUT_ID,
    answers,
    assert_parity,
    counters,
    messy_rows,
    project,
    pushed,
    row,
    write,
)


def opened(root: Path) -> FeatureStore:
    store = FeatureStore(root)
    store.apply()
    return store


def value(store: FeatureStore, feature: str, card: str = "c1") -> object:
    given = store.online_features(features=[feature], entities={"card_id": [card]}, as_of=AS_OF)
    return given.to_arrow().column(1)[0].as_py()


@pytest.mark.parametrize("roles", ["id", "none"])
def test_the_store_answers_like_the_training_set(tmp_path: Path, roles: str, monkeypatch: pytest.MonkeyPatch):
    root = project(tmp_path) if roles == "id" else project(tmp_path, WITHOUT_ID)
    rows = messy_rows(1, 6_000, cards=40)
    write(root, "a.parquet", rows[:3_500])
    write(root, "b.parquet", rows[3_500:])
    monkeypatch.setattr(parts, "PART_ROWS", 1_500)
    monkeypatch.setattr(timeline_fill, "FIRST_CHUNK_ROWS", 300)
    with opened(root) as store:
        report = store.backfill()
        assert_parity(store, 40)
        counts = counters(store)["log/card@1"]
    assert report.counts == Counter(counts)
    assert counts["delivered"] == 6_000
    assert counts["rejected"] > 20 and counts["keyless"] > 10
    assert ("corrected" in counts) == ("duplicate" in counts) == (roles == "id")
    (one,) = report.timelines
    assert one.loaded == ["data/a.parquet", "data/b.parquet"] and one.switched == ["activity@1"]
    assert len(one.rejected) == 10 and one.rejected[0].path == "data/a.parquet"
    assert (len(one.corrections) == 10) == (roles == "id")


def test_rejected_rows_are_named_by_file_and_row(tmp_path: Path):
    root = project(tmp_path)
    write(root, "a.parquet", [row(1), row(2) | {"ts": None}, row(3, card=None)])
    with opened(root) as store:
        (report,) = store.backfill().timelines
    assert [one.text() for one in report.rejected] == [
        'data/a.parquet, row 2: no event time: column "ts" is null'
    ]
    assert report.counts == Counter({"accepted": 1, "rejected": 1, "keyless": 1, "delivered": 3})


def test_a_second_run_adds_only_new_files(tmp_path: Path):
    root = project(tmp_path)
    write(root, "a.parquet", [row(1), row(2)])
    with opened(root) as store:
        store.backfill()
        (again,) = store.backfill().timelines
        assert (again.counts.total(), again.loaded, again.unchanged) == (0, [], 1)
        write(root, "b.parquet", [row(2), row(3), row(1, amount=9)])
        (third,) = store.backfill().timelines
        assert third.loaded == ["data/b.parquet"] and third.corrections == ["t1"]
        assert third.counts == Counter({"accepted": 1, "corrected": 1, "duplicate": 1, "delivered": 3})
        assert value(store, "activity:n") == 3
        assert_parity(store, 3)


def test_a_changed_file_of_a_source_with_id_adds_what_is_new_and_takes_nothing_away(tmp_path: Path):
    root = project(tmp_path)
    write(root, "a.parquet", [row(1), row(2)])
    with opened(root) as store:
        store.backfill()
        write(root, "a.parquet", [row(2), row(3)])
        (report,) = store.backfill().timelines
        assert report.changed == report.loaded == ["data/a.parquet"]
        assert report.counts == Counter({"accepted": 1, "duplicate": 1, "delivered": 2})
        assert "--rebuild" in report.text()
        assert value(store, "activity:n") == 3
        (after,) = store.backfill().timelines
        assert after.changed == [] and after.unchanged == 1


def test_a_changed_file_of_a_source_without_id_is_only_reported(tmp_path: Path):
    root = project(tmp_path, WITHOUT_ID)
    write(root, "a.parquet", [row(1), row(1)])
    with opened(root) as store:
        store.backfill()
        assert value(store, "activity:n") == 2
        write(root, "a.parquet", [row(1), row(1), row(1)])
        write(root, "b.parquet", [row(1)])
        (report,) = store.backfill().timelines
        assert (report.changed, report.loaded) == (["data/a.parquet"], ["data/b.parquet"])
        assert value(store, "activity:n") == 3


def test_a_removed_file_takes_no_fact_away_until_a_rebuild(tmp_path: Path):
    root = project(tmp_path)
    gone = write(root, "a.parquet", [row(1), row(2)])
    write(root, "b.parquet", [row(3)])
    with opened(root) as store:
        store.backfill()
        gone.unlink()
        (report,) = store.backfill().timelines
        assert report.removed == ["data/a.parquet"] and "--rebuild" in report.text()
        assert value(store, "activity:n") == 3
        store.ingest("transactions", [pushed(row(9))])
        (rebuilt,) = store.backfill(rebuild=True).timelines
        assert rebuilt.switched == ["activity@2"]
        assert (value(store, "activity:n"), value(store, "activity@1:n")) == (2, 4)
        assert_parity(store, 3)


def test_equal_rows_without_id_are_as_many_facts(tmp_path: Path):
    root = project(tmp_path, WITHOUT_ID)
    write(root, "a.parquet", [row(1)] * 3 + [row(2, card="c2")])
    write(root, "b.parquet", [row(1)] * 2)
    with opened(root) as store:
        report = store.backfill()
        assert report.counts == Counter({"accepted": 6, "delivered": 6})
        assert (value(store, "activity:n"), value(store, "activity:n", "c2")) == (5, 1)


def test_a_late_duplicate_counts_from_its_earliest_delivery(tmp_path: Path):
    root = project(tmp_path)
    write(root, "a.parquet", [row(1, day=1, late_s=10 * 86_400)])
    with opened(root) as store:
        store.backfill()
        write(root, "b.parquet", [row(1, day=1, late_s=86_400), row(1, day=1, late_s=5 * 86_400)])
        (report,) = store.backfill().timelines
        assert report.counts == Counter({"duplicate": 2, "delivered": 2})
        given = store.online_features(
            features=["activity:n"],
            entities={"card_id": ["c1"]},
            as_of=AS_OF,
            known_at="2026-01-04T00:00:00Z",
        )
        assert given.to_arrow().column(1)[0].as_py() == 1


def test_a_hot_entity_is_cut_into_segments_and_may_share_one_instant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root = project(tmp_path)
    commit_each_run(monkeypatch)
    rows = [row(number, day=number // 15_000) for number in range(30_000)]
    write(root, "a.parquet", [*rows, *rows[:100]])
    with opened(root) as store:
        report = store.backfill()
        assert report.counts == Counter({"accepted": 30_000, "duplicate": 100, "delivered": 30_100})
        with store.store.snapshot() as snapshot:
            assert snapshot.sizes()[1].segments == 2
        assert value(store, "activity:n") == 30_000


def test_what_was_pushed_before_a_timeline_existed_is_loaded_once(tmp_path: Path):
    root = project(tmp_path)
    write(root, "a.parquet", [row(1), row(2, card="c2")])
    with opened(root) as store:
        store.ingest("transactions", [pushed(one) for one in (row(2, card="c2"), row(3), row(4, card=None))])
        declared = (root / "features.py").read_text()
        (root / "features.py").write_text(
            declared
            + 'kind = Entity("kind", key="gone")\n'
            + 'by_kind = FeatureView("by_kind", entity=kind, source=transactions, '
            + 'features=[agg.count(name="n")])\n'
        )
    with opened(root) as store:
        store.ingest("transactions", [pushed(row(5))])
        report = store.backfill()
        given = store.online_features(features=["by_kind"], entities={"gone": [False]}, as_of=AS_OF)
        assert given.to_arrow().column(1)[0].as_py() == 5
        counts = counters(store)
        assert counts["arrivals/kind@2"] == {"accepted": 2, "duplicate": 1, "delivered": 3}
        assert [one.timeline_version for one in report.timelines] == [1, 2]
        assert store.backfill().counts.total() == 0
        assert_parity(store, 3)


def test_a_view_that_is_not_applied_is_refused_with_the_way_out(tmp_path: Path):
    root = project(tmp_path)
    write(root, "a.parquet", [row(1)])
    with opened(root) as store:
        with pytest.raises(UnknownNameError, match="activity"):
            store.backfill(["activty"])
        declared = (root / "features.py").read_text()
        (root / "features.py").write_text(declared.replace('agg.sum("amount"),', 'agg.mean("amount"),'))
    with FeatureStore(root) as store, pytest.raises(BackfillError, match="featurestore apply"):
        store.backfill()


def test_a_feature_over_stored_columns_needs_no_backfill(tmp_path: Path):
    root = project(tmp_path)
    write(root, "a.parquet", [row(1)])
    with opened(root) as store:
        store.backfill()
        declared = (root / "features.py").read_text()
        (root / "features.py").write_text(declared.replace('agg.sum("amount"),', 'agg.mean("amount"),'))
    with opened(root) as store:
        assert value(store, "activity:amount_mean") == 1.0
        assert store.backfill().counts.total() == 0


def test_a_column_of_another_type_makes_a_new_version(tmp_path: Path):
    declared = """
from featurestore import CSV, Entity, EventSource, FeatureView, agg
columns = {"k": "string", "ts": "timestamp", "x": "X"}
source = EventSource("s", log=CSV("log.csv"), event_time="ts", columns=columns)
view = FeatureView("v", entity=Entity("k", key="k"), source=source, features=[agg.count(name="n")])
"""
    (tmp_path / "log.csv").write_text("k,ts,x\na,2026-01-01T00:00:00Z,1\n")
    (tmp_path / "features.py").write_text(declared.replace('"X"', '"int64"'))
    with opened(tmp_path) as store:
        store.backfill()
    (tmp_path / "features.py").write_text(declared.replace('"X"', '"float64"'))
    # Content hashes of one column in two types never agree: a duplicate would pass for a correction.
    with opened(tmp_path) as store:
        (report,) = store.backfill().timelines
        assert report.switched == ["v@2"]


def commit_each_run(patched: pytest.MonkeyPatch) -> None:
    for size in ("LEAST_CHUNK_ROWS", "FIRST_CHUNK_ROWS", "MOST_CHUNK_ROWS"):
        patched.setattr(timeline_fill, size, 1)


def interrupted(store: FeatureStore, monkeypatch: pytest.MonkeyPatch, *, rebuild: bool = False) -> None:
    """A backfill that ends after its second commit of runs."""
    commits = 0

    def stop(done: int, total: int, what: str) -> None:
        nonlocal commits
        commits += 1
        if commits == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        commit_each_run(patched)
        with pytest.raises(KeyboardInterrupt):
            store.backfill(rebuild=rebuild, progress=stop)


@pytest.mark.parametrize("rebuild", [True, False])
def test_an_interrupted_rebuild_is_finished_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rebuild: bool
):
    root = project(tmp_path)
    write(root, "a.parquet", [row(number, card=f"c{number}") for number in range(9)])
    with opened(root) as store:
        store.backfill()
        interrupted(store, monkeypatch, rebuild=True)
        assert value(store, "activity:n") == 1
        (report,) = store.backfill(rebuild=rebuild).timelines
        assert report.switched == ["activity@2"] and report.counts["accepted"] == 7
        assert [one["version"] for one in store.versions()] == [1, 2]


def test_a_rebuild_whose_log_has_changed_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = project(tmp_path, WITHOUT_ID)
    rows = [row(number, card=f"c{number}") for number in range(9)]
    write(root, "a.parquet", rows)
    with opened(root) as store:
        store.backfill()
        interrupted(store, monkeypatch, rebuild=True)
        write(root, "a.parquet", rows[:8])
        with pytest.raises(BackfillError, match=r"data/a.parquet.*\n.*--rebuild"):
            store.backfill()
        (report,) = store.backfill(rebuild=True).timelines
        assert report.switched == ["activity@3"] and report.counts["accepted"] == 8
        assert [(one["version"], one["state"]) for one in store.versions()] == [(1, "pinned"), (3, "current")]
        with store.store.snapshot() as snapshot:
            assert snapshot.entity_keys(2, limit=1) == []


def test_a_file_that_changed_under_a_half_loaded_part_is_loaded_again_where_there_is_an_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root = project(tmp_path)
    rows = [row(number, card=f"c{number}") for number in range(9)]
    write(root, "a.parquet", rows)
    with opened(root) as store:
        interrupted(store, monkeypatch)
        write(root, "a.parquet", [*rows, row(10, card="c1")])
        (report,) = store.backfill().timelines
        assert report.counts == Counter({"accepted": 8, "duplicate": 2, "delivered": 10})
        assert value(store, "activity:n") == 2
        counters(store)
        assert_parity(store, 9)


def test_a_half_loaded_part_is_begun_again_while_rows_are_pushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root = project(tmp_path)
    write(root, "a.parquet", [row(number, card=f"c{number}") for number in range(9)])
    with opened(root) as store, FeatureStore(root) as other:
        interrupted(store, monkeypatch)
        write(root, "a.parquet", [row(number, card=f"c{number}") for number in range(10)])
        pushes = 0

        def now() -> int:
            """Somebody else commits before every commit of the backfill."""
            nonlocal pushes
            pushes += 1
            other.ingest("transactions", [pushed(row(100 + pushes))])
            return 1

        plans = store.plans.views
        report = backfill(store.store, root, plans, None, rebuild=False, progress=None, now=now, threads=None)
        assert report.counts["accepted"] == 8
        counters(store)


def test_two_backfills_at_once_never_load_a_part_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = project(tmp_path, WITHOUT_ID)
    write(root, "a.parquet", [row(number, card=f"c{number}") for number in range(9)])
    with opened(root) as store, FeatureStore(root) as other:
        commits = 0

        def meanwhile(done: int, total: int, what: str) -> None:
            nonlocal commits
            commits += 1
            if commits == 2:
                other.backfill()

        commit_each_run(monkeypatch)
        with pytest.raises(BackfillError, match="another backfill"):
            store.backfill(progress=meanwhile)
        assert counters(store)["log/card@1"]["accepted"] == 9
        assert [value(store, "activity:n", f"c{number}") for number in range(9)] == [1] * 9


def test_versions_are_switched_and_dropped_with_their_timelines(tmp_path: Path):
    root = project(tmp_path)
    write(root, "a.parquet", [row(1)])
    with opened(root) as store:
        with pytest.raises(RequestError, match="not filled"):
            store.switch_version("activity", 1)
        store.backfill()
        write(root, "b.parquet", [row(2)])
        store.backfill(rebuild=True)
        store.switch_version("activity", "1")
        assert value(store, "activity:n") == 1
        with pytest.raises(RequestError, match="is being served"):
            store.drop_version("activity", 1)
        store.switch_version("activity", 2)
        with pytest.raises(UnknownNameError, match=r"versions are 1 \(pinned\), 2 \(current\)"):
            store.drop_version("activity", 3)
        store.drop_version("activity", 1)
        with store.store.snapshot() as snapshot:
            assert snapshot.entity_keys(1, limit=1) == []
            assert [one.state for one in snapshot.timeline_versions()] == ["retired", "current"]
        assert value(store, "activity:n") == 2


FULL_DISK = """
import resource, sys
from featurestore import FeatureStore
from featurestore.errors import StoreUnavailableError
with FeatureStore(sys.argv[1]) as store:
    store.store
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
    import signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        store.backfill()
    except StoreUnavailableError as error:
        print(error)
        sys.exit(7)
"""


def test_a_full_disk_loses_nothing_and_says_the_way_out(tmp_path: Path):
    root = project(tmp_path)
    rows = messy_rows(3, 30_000, cards=300)
    write(root, "a.parquet", rows)
    with opened(root):
        pass
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(root), "1000000"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 7, done.stderr
    assert "store" in done.stdout and "hint:" in done.stdout
    with opened(root) as store:
        begun = counters(store)["log/card@1"]["delivered"]
        store.backfill()
        interrupted_answers, interrupted_counts = answers(store, 30), counters(store)
    whole = project(tmp_path / "whole")
    write(whole, "a.parquet", rows)
    with opened(whole) as store:
        store.backfill()
        assert (interrupted_answers, interrupted_counts) == (answers(store, 30), counters(store))
    assert 0 < begun < 30_000


def test_a_read_only_store_is_refused(tmp_path: Path):
    if os.geteuid() == 0:
        pytest.skip("root may write everything")
    root = project(tmp_path)
    write(root, "a.parquet", [row(1)])
    with opened(root):
        pass
    directory = root / ".featurestore"
    for path in directory.iterdir():
        path.chmod(0o400)
    directory.chmod(0o500)
    try:
        with FeatureStore(root) as store, pytest.raises(StoreUnavailableError, match="can't be"):
            store.backfill()
    finally:
        directory.chmod(0o700)
