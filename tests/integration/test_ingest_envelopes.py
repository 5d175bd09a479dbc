"""Debezium's envelopes, pushed by file, by list and over HTTP: what the log's own reader makes of them.

Times: commits are on 2026-01-01, T is long after.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from api_project import served

from examples.marketplace import generate
from featurestore import FeatureStore
from featurestore.errors import RowError

DECLARED = """
from featurestore import Entity, FeatureView, JSONLines, TableSource, agg

orders = TableSource(
    "orders", log=JSONLines("orders.jsonl"), format="debezium", primary_key="id",
    available_at="envelope.ts_ms", columns={"id": "int64", "user": "string", "amount": "decimal(38, 2)"},
)
by_user = FeatureView("by_user", Entity("user", key="user"), orders, features=[
    agg.sum("amount"), agg.count(), agg.last("id"),
])
"""
FEATURES = ["by_user:count", "by_user:amount_sum"]
COMMITTED_MS = 1_767_225_600_000


def envelope(
    op: str, lsn: int, after: object = None, before: object = None, **more: object
) -> dict[str, Any]:
    source = {"connector": "postgresql", "ts_ms": COMMITTED_MS + lsn, "lsn": lsn}
    return {"before": before, "after": after, "source": source, "op": op,
            "ts_ms": COMMITTED_MS + lsn + 5} | more  # fmt: skip


def order(key: int, user: str = "a", amount: object = "1.00") -> dict[str, object]:
    return {"id": key, "user": user, "amount": amount}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "features.py").write_text(DECLARED)
    (tmp_path / "orders.jsonl").write_text(json.dumps(envelope("c", 1, order(1))) + "\n")
    with FeatureStore(tmp_path) as store:
        store.apply()
        store.backfill()
    return tmp_path


def answer(store: FeatureStore, user: str = "a", **more: object) -> list[object]:
    vectors = store.online_features(FEATURES, {"user": [user]}, **more)  # type: ignore[arg-type]
    return [column["values"][0] for column in vectors.to_response(full_feature_names=True)["results"]][1:]


def written(project: Path, *lines: object) -> Path:
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    path = project / "pushed.jsonl"
    path.write_text("".join(f"{text}\n" for text in texts))
    return path


def test_envelopes_of_a_file_are_what_they_are_in_the_log(project: Path):
    wrapped = {"schema": None, "payload": envelope("u", 3, order(1, amount="4.00"), order(1))}
    path = written(
        project, envelope("c", 2, order(2, "b")), wrapped, {"value": json.dumps(envelope("c", 4, order(3)))},
        envelope("d", 5, None, order(2, "b")), None, "", envelope("c", 1, order(1)),
    )  # fmt: skip
    with FeatureStore(project) as store:
        report = store.ingest("orders", path)
        assert (report.accepted, report.duplicate, report.ignored, report.rejected) == (4, 1, 1, [])
        assert answer(store) == [2, "5.00"]
        assert answer(store, "b") == [0, None]
        again = store.ingest("orders", path)
        assert (again.accepted, again.duplicate, again.ignored) == (0, 5, 1)


def test_a_pushed_change_is_known_when_its_connector_saw_it_and_without_that_when_it_came(project: Path):
    with FeatureStore(project) as store:
        store.ingest("orders", [envelope("c", 2, order(2)), envelope("c", 3, order(3), ts_ms=None)])
        assert answer(store) == [3, "3.00"]
        assert answer(store, known_at="2026-01-01T00:00:00.007Z") == [1, "1.00"]
        assert answer(store, known_at="2026-01-01T00:00:00.007001Z") == [2, "2.00"]
        assert answer(store, known_at="2026-01-02T00:00:00Z") == [2, "2.00"]


def test_a_bad_envelope_is_refused_with_its_line_and_the_others_go_on(project: Path):
    bad = [
        '{"before": null, "aft',
        [1, 2],
        envelope("c", 3) | {"after": 7},
        envelope("x", 3, order(3)),
        envelope("c", 3, {"user": "a"}),
        envelope("c", 3, order(3)) | {"source": None},
        envelope("c", 3, order(3, amount="much")),
        {"id": 3, "user": "a", "op": "c"},
    ]
    path = written(project, *bad, envelope("c", 2, order(2)))
    with FeatureStore(project) as store:
        report = store.ingest("orders", path)
        assert report.accepted == 1
        assert [line for line, _ in report.rejected] == [1, 2, 3, 4, 5, 6, 7, 8]
        reasons = [reason for _, reason in report.rejected]
        for reason, said in zip(reasons, (
            "no Debezium envelope: ", "no Debezium envelope", "no Debezium envelope",
            "unknown", 'no primary key: column "id" is null', "no changed_at",
            'column "amount" holds no decimal(38, 2)', "no changed_at",
        ), strict=True):  # fmt: skip
            assert said in reason
        assert answer(store) == [2, "2.00"]
        with pytest.raises(RowError, match="nothing is written, 8 rows are refused"):
            store.ingest("orders", written(project, *bad, envelope("c", 9, order(9))), atomic=True)
        assert answer(store) == [2, "2.00"]


def test_one_envelope_that_nobody_can_read_refuses_itself_alone(project: Path):
    oracle = envelope("c", 3, order(3)) | {
        "source": {"connector": "oracle", "ts_ms": COMMITTED_MS, "scn": "3"}
    }
    broken = {"schema": {"fields": [7]}, "payload": envelope("c", 4, order(4))}
    with FeatureStore(project) as store:
        report = store.ingest("orders", [envelope("c", 2, order(2)), oracle, broken, envelope("m", 5)])
        assert (report.accepted, report.ignored) == (1, 1)
        assert [row for row, _ in report.rejected] == [2, 3]
        assert 'connector "oracle"' in report.rejected[0][1]
        assert "the schema of an envelope is none of Kafka Connect's" in report.rejected[1][1]


def test_flat_rows_may_stand_among_envelopes(project: Path):
    flat = {"op": "d", "id": 1, "__changed_at": "2026-01-01T01:00:00Z", "__position_0": 7, "__position_1": 7,
            "__position_2": 0, "__position_3": 0}  # fmt: skip
    with FeatureStore(project) as store:
        assert store.ingest("orders", [envelope("c", 2, order(2, amount="8.00")), flat]).accepted == 2
        assert answer(store) == [1, "8.00"]
        assert store.ingest("orders", written(project, envelope("t", 8), flat)).duplicate == 1
        assert answer(store) == [0, None]


def test_a_flat_row_needs_key_operation_commit_time_and_all_four_parts_of_the_position(project: Path):
    whole = {"op": "u", "id": 1, "user": "a", "amount": "3.00", "__changed_at": "2026-01-01T01:00:00Z",
             "__position_0": 7, "__position_1": 7, "__position_2": 0, "__position_3": 0}  # fmt: skip
    needed = [name for name in whole if name not in ("user", "amount")]
    with FeatureStore(project) as store:
        rows = [{name: value for name, value in whole.items() if name != left_out} for left_out in needed]
        report = store.ingest("orders", rows)
        assert [reason for _, reason in report.rejected] == [
            "no operation: it is null",
            'no primary key: column "id" is null',
            'no changed_at: column "__changed_at" is null',
            *(f'no position: column "__position_{i}" is null' for i in range(4)),
        ]
        assert store.ingest("orders", [whole]).accepted == 1
        # The position is that of the envelope whose LSN is 7: the same change is known already.
        assert store.ingest("orders", [envelope("u", 7, order(1, amount="3.00"))]).accepted == 0


def test_a_null_is_a_tombstone_in_a_list_and_over_http_as_in_a_file(project: Path):
    rows = [None, envelope("c", 2, order(2)), None]
    with FeatureStore(project) as store:
        report = store.ingest("orders", rows)
        assert (report.accepted, report.ignored, report.rejected) == (1, 2, [])
        from_file = store.ingest("orders", written(project, *rows))
        assert (from_file.duplicate, from_file.ignored, from_file.rejected) == (1, 2, [])
        assert store.ingest("orders", [None], atomic=True).ignored == 1
    with served(project) as serving:
        for kind, content in (
            ("application/json", json.dumps(rows)), ("application/json", "null"),
            ("application/x-ndjson", "null\n\n" + json.dumps(rows[1]) + "\nnull\n"),
        ):  # fmt: skip
            headers = {"content-type": kind}
            answer = serving.client.post("/ingest/orders?atomic=true", content=content, headers=headers)
            counts = answer.json()
            assert answer.status_code == 200, answer.text
            found = (counts["duplicate"], counts["ignored"], counts["rejected_count"])
            assert found == ((0, 1, 0) if content == "null" else (1, 2, 0))


def test_envelopes_are_pushed_over_http_and_keep_their_digits(project: Path):
    amount = "123456789012345678901234567890123456.78"
    body = json.dumps([envelope("c", 2, order(2, "c", "AMOUNT")), envelope("c", 3) | {"after": 7}])
    with served(project) as serving:
        response = serving.client.post(
            "/ingest/orders", content=body.replace('"AMOUNT"', amount),
            headers={"content-type": "application/json"},
        )  # fmt: skip
        made = response.json()
        assert (response.status_code, made["accepted"], made["rejected_count"]) == (200, 1, 1)
        assert made["rejected"][0]["line"] == 2
        assert "no Debezium envelope" in made["rejected"][0]["reason"]
        asked = {"features": FEATURES, "entities": {"user": ["c"]}}
        results = serving.client.post("/get-online-features", json=asked).json()["results"]
    assert [column["values"][0] for column in results][1:] == [1, amount]


def test_a_log_that_is_pushed_gives_the_same_answers_as_one_that_is_backfilled(tmp_path: Path):
    example = Path(generate.__file__).parent
    answers = []
    for how in ("backfilled", "pushed"):
        root = tmp_path / how
        generate.generate(root / "data")
        (root / "features.py").write_text((example / "features.py").read_text())
        if how == "pushed":
            for table in generate.KEYS:
                log = root / "data" / f"{table}.jsonl"
                lines = log.read_text().splitlines(keepends=True)
                log.write_text("".join(lines[:20]))
                (root / f"{table}.jsonl").write_text("".join(reversed(lines[20:])))
        with FeatureStore(root) as store:
            store.apply()
            store.backfill()
            if how == "pushed":
                for table in generate.KEYS:
                    assert store.ingest(table, root / f"{table}.jsonl").rejected == []
            for known_at in (None, "as_of", "2026-02-10T12:00:00Z"):
                made = store.training_set("data/spine.csv", "checkout", known_at=known_at).to_arrow()
                columns = {name: made[name].to_pylist() for name in ("user_id", "seller_id", "ts")}
                times = columns.pop("ts")[:200]
                entities = {name: values[:200] for name, values in columns.items()}
                online = store.online_features(["user_orders", "seller_record"], entities, times, known_at)
                answers.append((made, online.to_arrow()))
    for (one, served_one), (other, served_other) in zip(answers[:3], answers[3:], strict=True):
        assert one.equals(other)
        assert served_one.equals(served_other)
