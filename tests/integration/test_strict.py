"""Different changes of one row at one position, and updates of rows never seen: told by every host, with
``strict`` refused.

Times are those of the rows; nothing here depends on when it runs.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest

from featurestore import FeatureStore
from featurestore.errors import RowError
from tests.integration import api_project, bad_input_project
from tests.integration.bad_input_project import command, succeeds

DECLARED = """
user = Entity("user", key="user")
shop = Entity("shop", key="shop")
orders = TableSource(
    "orders", log=JSONLines("log/*.jsonl"), primary_key=["id", "part"], changed_at="at", position="lsn",
    columns={"id": "string", "part": "int64", "user": "string", "shop": "string", "at": "timestamp",
             "lsn": "int64", "amount": "float64"},
)
v = FeatureView("v", user, orders, [agg.sum("amount"), agg.count()])
"""
BY_SHOP = 'w = FeatureView("w", shop, orders, [agg.sum("amount")])\n'


def change(op: str = "c", id: str = "r1", lsn: int = 1, **parts: Any) -> dict[str, Any]:
    row = {"op": op, "id": id, "part": 1, "at": f"2026-01-01T{lsn:02}:00:00Z", "lsn": lsn}
    return row | ({} if op in "dt" else {"user": "u1", "shop": "s1", "amount": 1.0}) | parts


def lines(path: Path, *rows: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    bad_input_project.declare(tmp_path, DECLARED)
    lines(tmp_path / "log/1.jsonl", change("c", "r0"), change("c", "r1", amount=1.0))
    return tmp_path


@pytest.fixture
def store(root: Path) -> Iterator[FeatureStore]:
    with FeatureStore(root) as made:
        made.apply()
        yield made


def refused(root: Path, *arguments: str) -> str:
    """All that a command that fails with 1 says."""
    code, out, err = command(root, *arguments)
    assert (code, out) == (1, ""), (code, out, err)
    assert err.startswith("error: ") and "\nhint: " in err and "Traceback" not in err
    return err.removeprefix("error: ")


SPINE = {"user": ["u1"], "ts": ["2026-02-01T00:00:00Z"]}


def total(store: FeatureStore) -> object:
    """The sum of u1's rows, the same offline and online."""
    online = store.online_features(["v:amount_sum"], {"user": ["u1"]}, as_of=SPINE["ts"][0])
    offline = store.training_set(pa.table(SPINE), "v:amount_sum").to_arrow()
    assert online.to_arrow()["v__amount_sum"].to_pylist() == offline["v__amount_sum"].to_pylist()
    return offline["v__amount_sum"].to_pylist()[0]


def test_both_changes_at_one_position_are_named_by_backfill_and_training_set(root: Path) -> None:
    lines(root / "log/2.jsonl", change("c", "r9", lsn=5), change("u", "r1", amount=2.0))
    succeeds(root, "apply")
    said = succeeds(root, "backfill")
    first, second = "log/1.jsonl, row 2", "log/2.jsonl, row 2"
    told = [f"in conflict: row r1, 1 at position 1: {one} counts, not {other}"
            for one, other in itertools.permutations((first, second))]  # fmt: skip
    assert sum(one in said for one in told) == 1
    with FeatureStore(root) as store:
        made = store.training_set(pa.table(SPINE), "v")
        counts = made.manifest["sources"]["orders"]["entities"]["user"]
        [conflict] = counts["conflicts"]
        counted, other = conflict["counts"]["path"], conflict["others"][0]["path"]
        assert {counted, other} == {"log/1.jsonl", "log/2.jsonl"} and counts["corrections"] == 1
        assert f"    in conflict: row r1, 1 at position 1: {counted}, row 2 counts, not" in made.text()
        assert f"{counted}, row 2 counts" in said
        assert total(store) == {"log/1.jsonl": 1.0, "log/2.jsonl": 2.0}[counted] + 2.0


def test_which_change_counts_does_not_depend_on_their_order(root: Path) -> None:
    sums = set()
    contents = [change("u", "r1", amount=amount) for amount in (1.0, 2.0, 4.0)]
    for number, order in enumerate(itertools.permutations(contents)):
        project = root / str(number)
        project.mkdir()
        bad_input_project.declare(project, DECLARED)
        lines(project / "log/1.jsonl", *order[:2])
        with FeatureStore(project) as store:
            store.apply()
            store.backfill()
            report = store.ingest("orders", [order[2]])
            sums.add(total(store))
        assert report.corrected == 1
        counted = {place.path or f"row {place.row}" for place in (report.conflicts[0].counts,)}
        assert counted <= {"the store", "row 1"} and len(report.conflicts[0].others) == 2
    assert len(sums) == 1


def test_a_push_names_the_rows_that_are_in_conflict_with_one_another_and_with_the_store(
    store: FeatureStore,
) -> None:
    store.backfill()
    report = store.ingest(
        "orders", [change("c", "r5"), change("u", "r1", amount=7.0), change("u", "r5", amount=8.0)]
    )
    assert (report.accepted, report.corrected) == (1, 2)
    told = {one.row: {place.text() for place in (one.counts, *one.others)} for one in report.conflicts}
    assert told == {"r1, 1": {"row 2", "the store"}, "r5, 1": {"row 1", "row 3"}}
    assert "in conflict: row r1, 1 at position 1: " in report.text()
    assert len(report.to_dict()["conflicts"]) == 2
    # What is known already is no news.
    assert store.ingest("orders", [change("u", "r1", amount=7.0)], strict=True).duplicate == 1
    counts = store.training_set(pa.table(SPINE), "v").manifest["sources"]["orders"]["entities"]["user"]
    places = [place for one in counts["conflicts"] for place in (one["counts"], *one["others"])]
    assert {"path": "pushed rows", "row": 2} in places and {"path": "log/1.jsonl", "row": 2} in places


def test_a_conflict_that_k_does_not_know_is_in_no_count(root: Path, store: FeatureStore) -> None:
    late = {**change("u", "r1", amount=2.0), "at": "2026-01-03T00:00:00Z"}
    lines(root / "log/2.jsonl", late)
    for known_at, count in ((None, 1), ("as_of", 1), ("2026-01-02T00:00:00Z", 0)):
        made = store.training_set(pa.table(SPINE), "v", known_at=known_at, strict=count == 0)
        counts = made.manifest["sources"]["orders"]["entities"]["user"]
        assert (len(counts["conflicts"]), counts["corrections"]) == (count, count)
        if count:
            with pytest.raises(RowError):
                store.training_set(pa.table(SPINE), "v", known_at=known_at, strict=True)


# --- strict


@pytest.mark.parametrize(
    ("bad", "fact"),
    [
        (change("u", "r1", amount=2.0), 'source "orders", strict: 1 row in conflict'),
        (change("u", "r1", lsn=2, at=None), 'source "orders", strict: 1 row rejected'),
    ],
)
def test_strict_refuses_conflicts_and_rejected_rows_and_writes_nothing(
    root: Path, bad: dict[str, Any], fact: str
) -> None:
    lines(root / "log/2.jsonl", change("c", "r9", lsn=5), bad)
    bad_input_project.write(root / "spine.parquet", pa.table(SPINE))
    succeeds(root, "apply")
    for arguments in (
        ("backfill",),
        ("training-set", "spine.parquet", "-f", "v", "-o", "train.parquet"),
    ):
        said = refused(root, *arguments, "--strict")
        assert said.startswith(fact) and "log/2.jsonl, row 2" in said, said
    assert not (root / "train.parquet").exists()
    with FeatureStore(root) as store, store.store.snapshot() as snapshot:
        assert snapshot.is_empty(1) and not snapshot.loaded_files(1)
    # What was refused is loaded, counted and told without it; the next strict run has nothing new to refuse.
    succeeds(root, "backfill")
    succeeds(root, "backfill", "--strict")


def test_a_strict_backfill_keeps_the_parts_before_and_says_which(
    root: Path, store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featurestore.batch.change_fill.PART_ROWS", 1)
    lines(root / "log/2.jsonl", change("u", "r1", amount=2.0))
    with pytest.raises(RowError, match=r"2 rows before them stay, with 1 file that is loaded whole") as error:
        store.backfill(strict=True)
    assert "log/2.jsonl, row 1" in error.value.fact and "the store" in error.value.fact
    with store.store.snapshot() as snapshot:
        assert list(snapshot.loaded_files(1)) == ["log/1.jsonl"]
        # Not served: the view is filled when all of the log is there.
        assert [one.state for one in snapshot.view_versions()] == ["filling"]


def test_a_strict_backfill_names_what_was_filled_before_it(root: Path) -> None:
    other = 'aside = TableSource("aside", log=JSONLines("aside.jsonl"), primary_key="id", changed_at="at",'
    other += ' position="lsn")\n'
    view = 'a = FeatureView("a", Entity("one", key="id"), aside, [agg.count()])\n'
    bad_input_project.declare(root, other + view + DECLARED)
    lines(root / "aside.jsonl", change("c", "r0"))
    lines(root / "log/2.jsonl", change("u", "r1", amount=2.0))
    succeeds(root, "apply")
    said = refused(root, "backfill", "--strict")
    assert "nothing of this backfill of orders by user is written" in said
    assert "filled before it: aside by one" in said


def test_a_conflict_pushed_while_a_strict_backfill_runs_is_refused_too(
    root: Path, store: FeatureStore
) -> None:
    from featurestore import clock
    from featurestore.batch.backfill import backfill

    pushed: list[bool] = []

    def now() -> int:
        if not pushed:
            pushed.append(True)
            store.ingest("orders", [change("u", "r1", amount=9.0)])
        return clock.now()

    with pytest.raises(RowError, match="1 row in conflict; nothing of this backfill"):
        backfill(store.store, root, store.plans.views, None, rebuild=False, progress=None, now=now,
                 threads=None, strict=True)  # fmt: skip


@pytest.mark.parametrize(
    "bad",
    [
        change("u", "r1", amount=2.0),
        change("u", "r7", user="u1") | {"lsn": None},
        change("u", "r3", lsn=3, amount=5.0),
    ],
)
def test_a_strict_push_is_all_or_nothing(store: FeatureStore, bad: dict[str, Any]) -> None:
    store.backfill()
    with store.store.snapshot() as snapshot:
        before = (snapshot.commit_number, snapshot.last_arrival, snapshot.sizes(), snapshot.counters())
    rows = [change("c", "r8", lsn=3), change("c", "r3", lsn=3), bad]
    with pytest.raises(RowError) as error:
        store.ingest("orders", rows, strict=True)
    assert 3 in [number for number, _ in error.value.rows]
    with store.store.snapshot() as snapshot:
        assert (
            snapshot.commit_number, snapshot.last_arrival, snapshot.sizes(), snapshot.counters()
        ) == before  # fmt: skip
    assert store.ingest("orders", rows[:2], strict=True).accepted == 2


def test_a_strict_push_of_a_file_exits_with_1_and_names_the_rows(root: Path, store: FeatureStore) -> None:
    store.backfill()
    store.close()
    lines(root / "new.jsonl", change("c", "r8", lsn=3), change("u", "r1", amount=2.0))
    said = refused(root, "ingest", "orders", "new.jsonl", "--strict")
    assert said.startswith('source "orders", strict: 1 row in conflict; nothing is written')
    assert "row 2" in said and "the store" in said


def test_strict_is_about_rejected_rows_of_events_and_not_about_corrections(tmp_path: Path) -> None:
    corrected = bad_input_project.events(id=["a", "a", "b"])
    root = bad_input_project.project(tmp_path, log=corrected.set_column(1, "card", [["c1"] * 3]))
    bad_input_project.write(root / "spine.parquet", bad_input_project.spine())
    succeeds(root, "apply")
    succeeds(root, "backfill", "--strict")
    succeeds(root, "training-set", "spine.parquet", "-f", "v", "-o", "train.parquet", "--strict")
    bad_input_project.write(root / "data/more.parquet", bad_input_project.events(id=["c", None, "d"]))
    for arguments in (
        ("backfill",),
        ("training-set", "spine.parquet", "-f", "v", "-o", "t.parquet"),
        ("ingest", "tx", "data/more.parquet"),
    ):
        said = refused(root, *arguments, "--strict")
        assert "row 2" in said and "no id" in said, said


# --- updates of rows never seen


UNSEEN = [
    change("u", "r1", lsn=2),  # seen: its create is in the log, further down
    change("u", "r2", lsn=2),
    change("u", "r2", lsn=3),
    change("d", "r3", lsn=2),
    change("u", "r4", lsn=2, user=None),
    change("r", "r5", lsn=2), change("u", "r5", lsn=2),  # one change, called by two names: it was there
    change("t", "r6", lsn=9),
    change("u", "r0", lsn=10),  # truncated, not unseen
    change("c", "r1", lsn=1), change("c", "r0", lsn=1),
]  # fmt: skip
"""r2, r3 and r4 begin with an update or a delete."""


def test_updates_of_rows_never_seen_are_accepted_and_counted_in_any_order(root: Path) -> None:
    (root / "log/1.jsonl").unlink()
    for number, order in enumerate((UNSEEN, UNSEEN[::-1], UNSEEN[5:] + UNSEEN[:5])):
        project = root / str(number)
        project.mkdir()
        bad_input_project.declare(project, DECLARED)
        lines(project / "log/1.jsonl", *order[:6])
        lines(project / "log/2.jsonl", *order[6:])
        with FeatureStore(project) as store:
            store.apply()
            report = store.backfill()
            assert report.timelines[0].updates_of_unseen_rows == 3
            assert "rows never seen before that begin with an update: 3" in report.text()
            made = store.training_set(pa.table(SPINE), "v", strict=True)
            assert made.manifest["sources"]["orders"]["entities"]["user"]["updates_of_unseen_rows"] == 3
            assert "3 updates of unseen rows" in made.text()
            assert store.backfill().timelines[0].updates_of_unseen_rows == 0


def test_pushed_updates_of_rows_never_seen_are_accepted_counted_and_remembered(
    root: Path, store: FeatureStore
) -> None:
    store.backfill()
    report = store.ingest("orders", UNSEEN)
    assert report.updates_of_unseen_rows == 3 and report.rejected == []
    assert "rows never seen before that begin with an update: 3" in report.text()
    assert report.to_dict()["updates_of_unseen_rows"] == 3
    assert store.ingest("orders", UNSEEN).updates_of_unseen_rows == 0
    # Offline the log and what was pushed are one.
    made = store.training_set(pa.table(SPINE), "v")
    assert made.manifest["sources"]["orders"]["entities"]["user"]["updates_of_unseen_rows"] == 3
    bad_input_project.declare(root, DECLARED + BY_SHOP)
    with FeatureStore(root) as again:
        again.apply()
        assert again.backfill().timelines[-1].updates_of_unseen_rows == 3


# --- every pushed row is in one count


def test_the_counts_of_a_push_of_changes_add_up(store: FeatureStore) -> None:
    store.backfill()
    rows: list[dict[str, Any]] = [
        change("c", "r5"), change("c", "r1"), change("u", "r1", amount=2.0), change("c", "r6", user=None),
        change("m", "r2"), change("m", "r1"), change("d", "r5", lsn=2), change("t", "r5", lsn=3), change("x"),
    ]  # fmt: skip
    report = store.ingest("orders", rows)
    assert (report.accepted, report.corrected, report.duplicate, report.keyless) == (3, 1, 1, 1)
    assert (report.ignored, len(report.rejected)) == (2, 1)
    assert "2 ignored" in report.text() and report.to_dict()["ignored"] == 2
    told = [report.accepted, report.corrected, report.duplicate, report.keyless, report.ignored]
    assert sum(told) + len(report.rejected) == len(rows)
    with store.store.snapshot() as snapshot:
        kinds = {key.kind: n for key, n in snapshot.counters().items() if key.partition == "arrivals"}
    assert kinds.pop("delivered") == sum(kinds.values()) == len(rows)


def test_the_service_tells_and_refuses_the_same(root: Path, store: FeatureStore) -> None:
    store.backfill()
    store.close()
    with api_project.served(root) as running:
        client: httpx.Client = running.client
        rows = [change("c", "r8", lsn=3), change("u", "r1", amount=2.0)]
        body = "\n\n".join(json.dumps(row) for row in rows)
        kind = {"content-type": "application/x-ndjson"}
        answer = client.post("/ingest/orders?strict=true", content=body, headers=kind)
        assert answer.status_code == 422
        assert [one["line"] for one in answer.json()["rejected"]] == [3]
        answer = client.post("/ingest/orders", content=body, headers=kind).json()
        assert (answer["accepted"], answer["corrected"], answer["ignored"]) == (1, 1, 0)
        [conflict] = answer["conflicts"]
        assert (conflict["row"], conflict["position"]) == ("r1, 1", "1")
        assert {conflict["counts"], *conflict["others"]} == {3, None}
        assert client.post("/ingest/orders?strict=perhaps", json=rows).status_code == 422
        unseen = client.post("/ingest/orders", json=[change("u", "new", lsn=4), change("m", "r1")]).json()
        assert (unseen["updates_of_unseen_rows"], unseen["ignored"]) == (1, 1)
