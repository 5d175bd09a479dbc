"""Ingest: what is pushed is durable, served and part of the source's log; pushed again, it adds nothing.

Times are days after 2026-01-01; a row without ``recorded_at`` is known from the moment of the push.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from featurestore import FeatureStore, clock
from featurestore.batch import timeline_fill
from featurestore.errors import RequestError, RowError, UnknownNameError
from featurestore.store.ingest import IngestReport, ingest
from tests.integration.backfill_project import (
    AS_OF,
    SCHEMA,
    WITHOUT_ID,
    Row,
    assert_parity,
    counters,
    messy_rows,
    project,
    pushed,
    row,
    write,
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    root = project(tmp_path)
    write(root, "a.parquet", [row(1), row(2, card="c2")])
    with FeatureStore(root) as store:
        store.apply()
        store.backfill()
        yield store


def push(store: FeatureStore, *rows: Row, atomic: bool = False) -> IngestReport:
    return store.ingest("transactions", [pushed(one) for one in rows], atomic=atomic)


def became(report: IngestReport) -> tuple[int, int, int, int, int]:
    """Accepted, corrected, duplicate, keyless, rejected."""
    return report.accepted, report.corrected, report.duplicate, report.keyless, len(report.rejected)


def value(store: FeatureStore, feature: str, card: str = "c1", known_at: object = None) -> object:
    given = store.online_features(
        features=[feature], entities={"card_id": [card]}, as_of=AS_OF, known_at=known_at
    )
    return given.to_arrow().column(1)[0].as_py()


def test_a_pushed_row_is_served_and_in_the_next_training_set(store: FeatureStore):
    assert became(push(store, row(3), row(4, card="c3"))) == (2, 0, 0, 0, 0)
    assert (value(store, "activity:n"), value(store, "activity:n", "c3")) == (2, 1)
    assert_parity(store, 4)


def test_a_push_that_is_repeated_adds_nothing(store: FeatureStore):
    push(store, row(3), row(1))
    with store.store.snapshot() as snapshot:
        before = snapshot.sizes(), snapshot.last_arrival
    assert before[1] == 1
    assert became(push(store, row(3), row(1))) == (0, 0, 2, 0, 0)
    with store.store.snapshot() as snapshot:
        assert (snapshot.sizes(), snapshot.last_arrival) == before


def test_a_row_twice_in_one_push_is_one_fact(store: FeatureStore):
    assert became(push(store, row(3), row(3), row(3, amount=7))) == (1, 1, 1, 0, 0)
    assert value(store, "activity:n") == 2


def test_other_content_under_a_known_id_is_a_correction(store: FeatureStore):
    assert became(push(store, row(1, amount=50, late_s=9))) == (0, 1, 0, 0, 0)
    assert value(store, "activity:amount_sum") == 50
    assert_parity(store, 3)


def test_an_earlier_delivery_of_the_same_content_moves_when_it_was_known(store: FeatureStore):
    push(store, row(3, day=1, late_s=10 * 86_400))
    assert value(store, "activity:n", known_at="2026-01-05T00:00:00Z") == 1
    assert became(push(store, row(3, day=1, late_s=86_400))) == (0, 0, 1, 0, 0)
    assert value(store, "activity:n", known_at="2026-01-05T00:00:00Z") == 2
    assert_parity(store, 3)


def test_a_retraction_needs_id_and_key_only(store: FeatureStore):
    report = store.ingest("transactions", [{"transaction_id": "t1", "card_id": "c1", "gone": True}])
    assert became(report) == (0, 1, 0, 0, 0)
    assert value(store, "activity:n") == 0
    assert_parity(store, 3)
    again = store.ingest("transactions", [{"transaction_id": "t1", "card_id": "c1", "gone": True}])
    assert became(again) == (0, 0, 1, 0, 0)


def test_a_missing_available_at_is_the_moment_of_the_push(store: FeatureStore):
    late = pushed(row(3)) | {"recorded_at": None}
    ingest(store.store, store.root, "transactions", [late], atomic=False, now_us=row(0, day=50)["ts"])
    assert value(store, "activity:n", known_at="2026-02-20T00:00:00Z") == 1
    assert value(store, "activity:n", known_at="2026-02-20T00:00:00.000001Z") == 2
    again = ingest(store.store, store.root, "transactions", [late], atomic=False, now_us=row(0, day=60)["ts"])
    assert became(again) == (0, 0, 1, 0, 0)


def test_a_row_without_entity_key_is_counted_and_kept_in_the_log(store: FeatureStore):
    assert became(push(store, row(3, card=None))) == (0, 0, 0, 1, 0)
    assert counters(store)["arrivals"] == {"keyless": 1, "delivered": 1}
    assert_parity(store, 3)


def test_a_bad_row_is_refused_with_its_reason_and_the_others_go_on(store: FeatureStore):
    report = push(
        store, row(3), row(4) | {"ts": None}, row(5) | {"amount": "x"}, row(6) | {"typo": 1}, row(7)
    )
    assert became(report) == (2, 0, 0, 0, 3)
    assert report.rejected[0] == (2, 'no event time: column "ts" is null')
    assert report.rejected[1] == (3, "column \"amount\" holds no float64: 'x'")
    assert report.rejected[2][0] == 4 and 'no column "typo"' in report.rejected[2][1]
    assert "row 2" in report.text() and report.to_dict()["rejected"][0]["row"] == 2
    assert counters(store)["arrivals"] == {"accepted": 2, "rejected": 3, "delivered": 5}


def test_every_refused_row_is_named(store: FeatureStore):
    report = push(store, *[row(number) | {"ts": None} for number in range(2_500)])
    assert [number for number, _ in report.rejected] == list(range(1, 2_501))


def test_atomic_writes_all_rows_or_none(store: FeatureStore):
    with pytest.raises(RowError) as refused:
        push(store, row(3), row(4) | {"ts": None}, atomic=True)
    assert refused.value.rows == ((2, 'no event time: column "ts" is null'),)
    assert value(store, "activity:n") == 1 and "arrivals" not in counters(store)
    assert became(push(store, row(3), row(4), atomic=True)) == (2, 0, 0, 0, 0)


def test_nothing_pushed_is_nothing_written(store: FeatureStore):
    with store.store.snapshot() as snapshot:
        before = snapshot.commit_number
    report = store.ingest("transactions", [])
    assert became(report) == (0, 0, 0, 0, 0) and report.store_commit == before


def test_what_can_not_be_pushed_is_refused_with_the_way_out(tmp_path: Path, store: FeatureStore):
    with pytest.raises(UnknownNameError, match='did you mean "transactions"'):
        store.ingest("transaction", [])
    with pytest.raises(RequestError, match="does not exist"):
        store.ingest("transactions", "none.jsonl")
    (tmp_path / "rows.xlsx").write_bytes(b"")
    with pytest.raises(RequestError, match=r"\.jsonl, \.csv, \.parquet"):
        store.ingest("transactions", "rows.xlsx")
    with pytest.raises(RequestError, match='no column "typo"'):
        store.ingest("transactions", pa.table({"typo": [1]}))
    with pytest.raises(RequestError, match="list of dicts"):
        store.ingest("transactions", {"transaction_id": "t1"})
    (tmp_path / "features.py").write_text(
        (tmp_path / "features.py").read_text().split("activity = ")[0]
        + 'clicks = EventSource("clicks", log=Parquet("data/*.parquet"), '
        'event_time="ts", id="transaction_id")\n'
    )
    with FeatureStore(tmp_path) as again:
        again.apply()
        with pytest.raises(RequestError, match="no applied feature view reads"):
            again.ingest("clicks", [])


def test_a_source_without_id_can_not_be_pushed(tmp_path: Path):
    root = project(tmp_path, WITHOUT_ID)
    write(root, "a.parquet", [row(1)])
    with FeatureStore(root) as store:
        store.apply()
        with pytest.raises(RequestError, match=r"each of its rows is its own fact(.|\n)*id=") as refused:
            store.ingest("transactions", [pushed(row(2))])
    assert refused.value.hint is not None


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "arrow"])
def test_files_of_every_kind_are_pushed_alike(tmp_path: Path, kind: str):
    rows = [one for one in messy_rows(4, 7_000, cards=20) if one["transaction_id"] and one["ts"]]
    root = project(tmp_path)
    write(root, "a.parquet", rows[:10])
    table = pa.Table.from_pylist(rows, SCHEMA)
    with FeatureStore(root) as store:
        store.apply()
        store.backfill()
        path: object = tmp_path / f"new.{kind}"
        if kind == "jsonl":
            Path(str(path)).write_text("".join(json.dumps(pushed(one)) + "\n" for one in rows))
        elif kind == "csv":
            pyarrow.csv.write_csv(table, path)
        elif kind == "parquet":
            pq.write_table(table, path)
        else:
            path = table
        report = store.ingest("transactions", path)
        assert report.rejected == [] and report.keyless > 5 and report.corrected > 50
        assert sum(became(report)) == len(rows)
        assert_parity(store, 20)
        again = store.ingest("transactions", path)
        assert (again.accepted, again.corrected, again.keyless) == (0, 0, report.keyless)
        counters(store)


def test_a_broken_line_of_a_file_keeps_out_itself_only(tmp_path: Path, store: FeatureStore):
    lines = [json.dumps(pushed(row(3))), "", "{broken", json.dumps(pushed(row(4)) | {"amount": "x"}), "[1]"]
    (tmp_path / "new.jsonl").write_text("\n".join(lines))
    report = store.ingest("transactions", "new.jsonl")
    assert report.accepted == 1
    assert [number for number, _ in report.rejected] == [3, 4, 5]


def test_rows_pushed_while_a_timeline_is_filled_are_in_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root = project(tmp_path)
    rows = [one for one in messy_rows(6, 12_000, cards=50) if one["transaction_id"] and one["ts"]]
    write(root, "a.parquet", rows)
    with FeatureStore(root) as store, FeatureStore(root) as other:
        store.apply()
        pushes = 0

        def meanwhile(done: int, total: int, what: str) -> None:
            nonlocal pushes
            pushes += 1
            at = 97 * pushes
            other.ingest("transactions", [pushed(one) for one in (*rows[at : at + 5], row(900_000 + at))])

        for size in ("LEAST_CHUNK_ROWS", "FIRST_CHUNK_ROWS", "MOST_CHUNK_ROWS"):
            monkeypatch.setattr(timeline_fill, size, 400)
        store.backfill(progress=meanwhile)
        counts = counters(store)
        assert counts["log/card@1"]["delivered"] == len(rows)
        assert counts["arrivals"]["accepted"] > 20
        assert_parity(store, 50)
        # Every distinct version is in the store once, whoever brought it.
        distinct = {
            (one["card_id"], one["transaction_id"], one["ts"], one["amount"], one["gone"])
            for one in rows
            if one["card_id"] is not None
        }
        new = sum(counts[part].get(kind, 0) for part in counts for kind in ("accepted", "corrected"))
        # One row of each push was in no file.
        assert new == len(distinct) + pushes


def test_pushes_from_many_threads_count_each_row_once(store: FeatureStore):
    reports: list[IngestReport] = []

    def client(number: int) -> None:
        reports.extend(push(store, row(100 + at), row(1_000 + 10 * number + at)) for at in range(10))

    clients = [threading.Thread(target=client, args=(number,)) for number in range(6)]
    for one in clients:
        one.start()
    for one in clients:
        one.join()
    total = Counter[str]()
    for report in reports:
        total.update(accepted=report.accepted, duplicate=report.duplicate)
    assert total == {"accepted": 10 + 60, "duplicate": 50}
    assert value(store, "activity:n") == 71
    with store.store.snapshot() as snapshot:
        assert snapshot.last_arrival == 70


def test_the_time_of_a_push_is_passed_in(store: FeatureStore):
    report = ingest(
        store.store, store.root, "transactions", [pushed(row(3))], atomic=False, now_us=clock.now()
    )
    with store.store.snapshot() as snapshot:
        assert snapshot.commit_number == report.store_commit
