"""Daily snapshots that come late: the store answers as a training set over the whole log does, in whatever
order the files came.

Times: a snapshot's differences are at the end of its day.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pytest

from featurestore import FeatureStore
from featurestore.batch import change_fill, timeline_fill
from featurestore.batch.filled import Filled

CSVS = 'CSV("t/*/*.csv")'
LINES = 'JSONLines("t.jsonl")'
PROJECT = """from featurestore import *
user = Entity("user", key="user_id")
t = TableSource("t", log={log}, primary_key="id", format="snapshots")
v = FeatureView("v", user, t, features=[agg.count(name="n"), agg.sum("x", name="s"), agg.last("x", name="l")])
"""
LOOKED_UP = """ev = EventSource("ev", log=CSV("e.csv"), event_time="ts", id="i")
w = FeatureView("w", user, ev.lookup(t, on="i", columns=["x"]), features=[agg.sum("x", name="s")])
"""
DAYS = [f"2026-03-{day:02}T12:00:00Z" for day in range(1, 8)]


class Declare(Protocol):
    def __call__(self, log: str = CSVS, more: str = "") -> FeatureStore: ...


@pytest.fixture
def declare(tmp_path: Path) -> Iterator[Declare]:
    with ExitStack() as stack:

        def declared(log: str = CSVS, more: str = "") -> FeatureStore:
            (tmp_path / "features.py").write_text(PROJECT.format(log=log) + more)
            store = FeatureStore(tmp_path)
            stack.callback(store.close)
            store.apply()
            return store

        yield declared


def put(root: Path, day: int, *rows: str, name: str = "a") -> None:
    path = root / f"t/ds=2026-03-{day:02}/{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(("id,user_id,x", *rows)) + "\n")


def loaded(store: FeatureStore) -> Filled:
    [filled] = store.backfill().timelines
    return filled


def same_answers(store: FeatureStore, view: str = "v") -> list[object]:
    """The values of a view's features on each day, which are the same in both hosts."""
    spine = pa.table({"user_id": ["u1"] * len(DAYS), "ts": DAYS})
    offline = store.training_set(spine, view).to_arrow()
    online = store.online_features([view], {"user_id": ["u1"] * len(DAYS)}, as_of=DAYS).to_dict()
    names = [name for name in offline.column_names if name.startswith(f"{view}__")]
    assert names
    for name in names:
        assert offline.column(name).to_pylist() == online[name]
    return list(online[f"{view}__s"])


def test_a_second_file_of_a_day_that_is_loaded_rebuilds(tmp_path: Path, declare: Declare) -> None:
    put(tmp_path, 1, "1,u1,5", "2,u1,6")
    put(tmp_path, 2, "1,u1,5")
    store = declare()
    assert loaded(store).rebuilt is None
    assert same_answers(store)[-1] == 5
    put(tmp_path, 2, "2,u1,6", name="b")
    filled = loaded(store)
    assert filled.rebuilt == "snapshots up to ds=2026-03-02 changed"
    assert "rebuilt: snapshots up to ds=2026-03-02 changed" in filled.text()
    assert filled.switched
    assert same_answers(store)[-1] == 11


def test_a_missing_day_that_comes_late_rebuilds(tmp_path: Path, declare: Declare) -> None:
    put(tmp_path, 1, "2,u1,5")
    put(tmp_path, 3, "1,u1,1", "2,u1,6")
    store = declare()
    loaded(store)
    put(tmp_path, 2, "2,u1,6")
    assert loaded(store).rebuilt == "snapshots up to ds=2026-03-03 changed"
    assert same_answers(store)[-1] == 7


def test_newer_days_are_added_to_what_is_there(tmp_path: Path, declare: Declare) -> None:
    put(tmp_path, 1, "1,u1,5", "2,u1,6")
    store = declare()
    first = loaded(store)
    put(tmp_path, 2, "1,u1,7")
    put(tmp_path, 4, "1,u1,8", "3,u1,1")
    second = loaded(store)
    assert second.rebuilt is None and second.timeline_version == first.timeline_version
    assert same_answers(store)[-1] == 9
    assert loaded(store).timeline_version == first.timeline_version


@pytest.mark.parametrize("change", ["changed", "removed"])
def test_a_loaded_file_that_was_written_anew_or_removed_is_reported_and_takes_no_fact_away(
    tmp_path: Path, declare: Declare, change: str
) -> None:
    put(tmp_path, 1, "1,u1,5")
    put(tmp_path, 2, "1,u1,6")
    store = declare()
    loaded(store)
    if change == "changed":
        put(tmp_path, 1, "1,u1,7")
    else:
        (tmp_path / "t/ds=2026-03-01/a.csv").unlink()
    filled = loaded(store)
    assert filled.rebuilt is None and getattr(filled, change) == ["t/ds=2026-03-01/a.csv"]
    if change == "removed":
        served = store.online_features(["v:s"], {"user_id": ["u1"]}, as_of="2026-03-02T12:00:00Z")
        assert list(served.to_dict().values())[-1] == [5]
    store.backfill(rebuild=True)
    assert same_answers(store)[-1] == 6


def test_rows_appended_to_a_day_that_was_half_there_rebuild(tmp_path: Path, declare: Declare) -> None:
    def line(day: int, id_: int, x: int) -> str:
        return f'{{"ds": "2026-03-{day:02}", "id": {id_}, "user_id": "u1", "x": {x}}}\n'

    log = tmp_path / "t.jsonl"
    log.write_text(line(1, 1, 5) + line(1, 2, 6) + line(2, 1, 5))
    store = declare(LINES)
    loaded(store)
    assert same_answers(store)[-1] == 5
    with log.open("a") as file:
        file.write(line(2, 2, 6) + line(3, 2, 6))
    assert loaded(store).rebuilt == "t.jsonl has grown since it was loaded"
    assert same_answers(store)[-1] == 6


def test_a_backfill_that_was_cut_off_begins_anew_where_the_snapshots_changed(
    tmp_path: Path, declare: Declare, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, 1, "1,u1,5", "2,u1,6")
    put(tmp_path, 2, "1,u1,5")
    store = declare()
    for name in ("FIRST_CHUNK_ROWS", "LEAST_CHUNK_ROWS", "MOST_CHUNK_ROWS"):
        monkeypatch.setattr(timeline_fill, name, 1)
    for changed in (False, True):
        with monkeypatch.context() as patched:
            patched.setattr(change_fill.ChangeFill, "_count", lambda *_, **__: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                store.backfill()  # after the commit of its first chunk
        if changed:
            put(tmp_path, 3, "1,u1,5", "2,u1,6", name="b")
            assert loaded(store).rebuilt == "snapshots changed since a backfill of them was cut off"
        else:
            filled = loaded(store)
            assert filled.rebuilt is None and filled.counts["duplicate"]
            put(tmp_path, 3, "1,u1,7")
            put(tmp_path, 4, "2,u1,9")
    assert same_answers(store)[-1] == 9


def test_a_late_snapshot_reaches_the_views_that_look_its_table_up(tmp_path: Path, declare: Declare) -> None:
    put(tmp_path, 1, "1,u1,5", "2,u1,6")
    put(tmp_path, 2, "1,u1,5")
    (tmp_path / "e.csv").write_text("i,user_id,ts\n2,u1,2026-03-04T00:00:00Z\n")
    store = declare(more=LOOKED_UP)
    store.backfill()
    assert same_answers(store, "w")[-1] is None
    put(tmp_path, 2, "2,u1,6", name="b")
    assert sum(one.rebuilt is not None for one in store.backfill(["w"]).timelines) == 1
    assert same_answers(store, "w")[-1] == 6
    store.backfill()
    same_answers(store)
