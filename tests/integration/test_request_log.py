"""The request log: what a server has answered is in its files, to the bit; nothing that happens to the log
reaches an answer."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from api_project import MIDNIGHT, Served, served, write_project
from test_api_process import free_port, serve

from featurestore import FeatureStore, clock
from featurestore.dtypes import instant_text
from featurestore.errors import LogError
from featurestore.log.request_files import SCHEMA, read_answers, request_files, write_answers
from featurestore.serving import request_log as request_log_module
from featurestore.serving.request_log import Answered, RequestLog, is_chosen
from featurestore.serving.vectors import FeatureVectors
from featurestore.settings import RequestLogSettings
from featurestore.store.forgotten_answers import answers_about, digest_key, forgotten_keys

ALL = "[request_log]\nsample = 1.0\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose server logs everything."""
    return write_project(tmp_path_factory.mktemp("requests") / "project", settings=ALL)


@pytest.fixture
def empty(project: Path) -> Path:
    """The same, with an empty request log; its directory."""
    directory = project / ".featurestore" / "requests"
    for file in request_files(directory):
        file.unlink()
    return directory


def rows(directory: Path) -> list[dict[str, Any]]:
    tables = [read_answers(file) for file in request_files(directory)]
    return [row for table in tables for row in table.to_pylist()]


def post(server: Served, id: str | None = None, **body: Any) -> dict[str, Any]:
    headers = {} if id is None else {"x-request-id": id}
    response = server.client.post("/get-online-features", json=body, headers=headers)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_every_value_of_an_answer_is_a_row_with_its_question_and_its_bits(project: Path, empty: Path) -> None:
    with served(project) as server:
        cards = ["c1", None, "nobody"]
        answer = post(server, "r1", features=["kinds", "spend@1:x_sum_1d"],
                      entities={"card": cards}, as_of=MIDNIGHT, known_at="as_of")  # fmt: skip
        store_id = server.project.store.store_id()
    logged = rows(empty)
    names = answer["metadata"]["feature_names"][1:]
    assert [row["feature"] for row in logged[::3]] == names and len(logged) == 3 * len(names)
    for at, row in enumerate(logged):
        result = answer["results"][1 + at // 3]
        assert json.loads(row["value"]) == result["values"][at % 3]
        assert row["status"] == result["statuses"][at % 3]
        stamp = result["event_timestamps"][at % 3]
        assert instant_text(int(row["event_timestamp"].timestamp()) * 1_000_000) == stamp
        assert json.loads(row["keys"]) == {"card": cards[at % 3]}
        assert json.loads(row["key_types"]) == {"card": "string"}
        assert (row["request_id"], row["known_at"]) == ("r1", "as_of")
        assert row["as_of"].isoformat() == "2026-03-03T00:00:00+00:00"
        assert row["store_commit"] == answer["metadata"]["store_commit"] and row["version"] == 1
    assert {row["view"] for row in logged} == {"kinds", "spend"}
    assert {row["store_id"] for row in logged} == {store_id}


def test_now_is_logged_as_the_instant_that_it_was_and_each_view_has_its_own_key(
    project: Path, empty: Path
) -> None:
    with served(project) as server:
        before = clock.now()
        answer = post(server, features=["delays:count", "visits:count_1d"],
                      entities={"line": ["a"], "run": [1], "card": ["c1"]})  # fmt: skip
        after = clock.now()
        several = post(server, features=["visits:count_1d"], entities={"card": ["c1", "c1"]},
                       as_of=[MIDNIGHT, "2026-03-02T09:00:00Z"], known_at="2026-03-05T00:00:00Z")  # fmt: skip
    by_view = {row["view"]: row for row in rows(empty) if row["known_at"] is None}
    assert json.loads(by_view["delays"]["keys"]) == {"line": "a", "run": 1}
    assert json.loads(by_view["delays"]["key_types"]) == {"line": "string", "run": "int64"}
    assert json.loads(by_view["visits"]["keys"]) == {"card": "c1"}
    for row in by_view.values():
        assert row["as_of"] == row["answered_at"]
        assert before <= row["as_of"].timestamp() * 1e6 + 1 and row["as_of"].timestamp() * 1e6 - 1 <= after
    assert answer["metadata"]["as_of"] == instant_text(
        read_answers(request_files(empty)[0], ["as_of"]).column(0).cast(pa.int64())[0].as_py()
    )
    later = [row for row in rows(empty) if row["known_at"] is not None]
    assert [row["as_of"].hour for row in later] == [0, 9]
    assert {row["known_at"] for row in later} == {several["metadata"]["known_at"]}


def test_a_sample_is_chosen_by_the_requests_id_whatever_is_asked(tmp_path: Path) -> None:
    project = write_project(tmp_path / "project", settings="[request_log]\nsample = 0.3\n")
    ids = [f"request-{i}" for i in range(40)]
    with served(project) as server:
        for i, id in enumerate(ids):
            post(server, id, features=["visits"], entities={"card": [f"c{i}"]})
    logged = {row["request_id"] for row in rows(project / ".featurestore/requests")}
    assert logged == {id for id in ids if is_chosen(id, 0.3)} and 3 <= len(logged) <= 25
    assert not any(is_chosen(id, 0.0) for id in ids) and all(is_chosen(id, 1.0) for id in ids)


def test_nothing_is_written_unless_it_is_asked_for(tmp_path: Path) -> None:
    project = write_project(tmp_path / "project")
    with served(project) as server:
        post(server, features=["visits"], entities={"card": ["c1"]})
    assert not (project / ".featurestore/requests").exists()


def test_a_directory_that_can_not_be_written_is_counted_and_answers_go_on(tmp_path: Path) -> None:
    settings = f"{ALL}directory = 'features.py/none'\nseconds_per_file = 0.05\n"
    project = write_project(tmp_path / "project", settings=settings)
    with served(project) as server:
        post(server, features=["visits"], entities={"card": ["c1", "c2"]})
        deadline_s = time.monotonic() + 30
        while "featurestore_request_log_errors_total 1.0" not in server.client.get("/metrics").text:
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        post(server, features=["visits"], entities={"card": ["c1"]})
        assert "featurestore_request_log_dropped_values_total 2.0" in server.client.get("/metrics").text


def answered(store: FeatureStore, id: str, cards: Sequence[str], size_bytes: int = 1) -> Answered:
    vectors: FeatureVectors = store.online_features(["visits:count_1d"], {"card": cards}, as_of=MIDNIGHT)
    return Answered(id, clock.now(), vectors, vectors.to_response(full_feature_names=False), size_bytes)


def request_log(store: FeatureStore, directory: Path, **settings: Any) -> RequestLog:
    return RequestLog(store.store, directory, RequestLogSettings(sample=1.0, **settings), clock.now)


def test_what_a_full_queue_has_no_room_for_is_dropped_and_counted(project: Path, tmp_path: Path) -> None:
    with FeatureStore(project) as store:
        log = request_log(store, tmp_path / "log", queue_rows=5)
        log.offer(answered(store, "a", ["c1", "c2"]))
        log.offer(answered(store, "b", ["c1", "c2", "c3"]))
        log.offer(answered(store, "c", ["c1"]))
        assert (log.counts.logged, log.counts.dropped) == (0, 1)
        log.start()
        log.close()
        assert (log.counts.logged, log.counts.dropped, log.counts.errors) == (5, 1, 0)
        assert [row["request_id"] for row in rows(tmp_path / "log")] == ["a", "a", "b", "b", "b"]
        log.offer(answered(store, "d", ["c1"]))
        assert log.counts.dropped == 2

        small = request_log(store, tmp_path / "small", queue_bytes=10)
        for size in (6, 5, 4):
            small.offer(answered(store, str(size), ["c1"], size))
        small.start()
        small.close()
        assert [row["request_id"] for row in rows(tmp_path / "small")] == ["6", "4"]
        assert small.counts.dropped == 1


def test_a_file_ends_with_its_rows_or_its_seconds(project: Path, tmp_path: Path) -> None:
    with FeatureStore(project) as store:
        log = request_log(store, tmp_path / "log", rows_per_file=2)
        for id in "abcde":
            log.offer(answered(store, id, ["c1"]))
        log.start()
        log.close()
        assert [read_answers(file).num_rows for file in request_files(tmp_path / "log")] == [2, 2, 1]
        timed = request_log(store, tmp_path / "timed", seconds_per_file=0.05)
        timed.start()
        timed.offer(answered(store, "a", ["c1"]))
        deadline_s = time.monotonic() + 30
        while not request_files(tmp_path / "timed"):
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        timed.close()


def test_a_server_that_is_killed_leaves_whole_files_alone(tmp_path: Path) -> None:
    project = write_project(tmp_path / "project", settings=f"{ALL}rows_per_file = 3\n")
    directory, port = project / ".featurestore/requests", free_port()
    process = serve(project, "--port", str(port))
    url, answered_rows = f"http://127.0.0.1:{port}", 0
    try:
        deadline_s = time.monotonic() + 280
        while True:
            assert process.poll() is None and time.monotonic() < deadline_s
            try:
                if httpx.get(f"{url}/ready").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        with httpx.Client(base_url=url) as client:
            body = {"features": ["visits"], "entities": {"card": ["c1"]}, "as_of": MIDNIGHT}
            while len(request_files(directory)) < 4:
                assert client.post("/get-online-features", json=body).status_code == 200
                answered_rows += 1
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    logged = rows(directory)
    assert 12 <= len(logged) <= answered_rows
    assert all(row["value"] == "0" or row["value"] == "1" for row in logged)


def test_what_a_killed_writer_began_is_read_by_nobody_and_goes_in_time(project: Path, tmp_path: Path) -> None:
    directory = tmp_path / "log"
    with FeatureStore(project) as store:
        log = request_log(store, directory)
        log.start()
        log.offer(answered(store, "a", ["c1"]))
        log.close()
        left, begun = directory / ".1.parquet.77", directory / ".2.parquet.78"
        left.write_bytes(b"PAR1 and no more")
        begun.write_bytes(b"PAR1 and no more")
        os.utime(left, (0, 0))
        assert len(rows(directory)) == 1
        again = request_log(store, directory)
        again.start()
        again.close()
    assert not left.exists() and begun.exists()


def test_forgetting_a_key_takes_its_answers_out_of_the_log_and_no_new_one_comes_in(tmp_path: Path) -> None:
    project = write_project(tmp_path / "project", settings=f"{ALL}rows_per_file = 4\n")
    directory = project / ".featurestore/requests"
    trips = {"line": ["a", "b"], "run": [1, 1]}
    with served(project) as server:
        for _ in range(2):
            post(server, features=["visits", "twin"], entities={"card": ["c1", "c2"]})
            post(server, features=["delays:count"], entities=trips)
        deadline_s = time.monotonic() + 30
        while sum(read_answers(file).num_rows for file in request_files(directory)) < 8:
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        # What waits in the server's memory is left out when it is written.
        report = server.project.forget({"card": "c1"})
        server.project.forget({"run": "1", "line": "b"})
        post(server, features=["visits"], entities={"card": ["c1", "c2"]})
    assert 1 <= report.erased["logged_answers"] <= 4
    logged = rows(directory)
    assert {row["keys"] for row in logged} == {'{"card":"c2"}', '{"line":"a","run":1}'}
    assert sum(row["keys"] == '{"card":"c2"}' for row in logged) == 5
    assert all(b'"c1"' not in file.read_bytes() for file in request_files(directory))


def test_a_key_that_is_forgotten_while_a_file_is_written_is_not_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "log"
    with FeatureStore(write_project(tmp_path / "project")) as store:
        write = request_log_module.write_answers

        def forgetting(*arguments: Any) -> Path:
            # After the list of forgotten keys was read, and before forgetting can see the file.
            store.forget({"card": "c2"})
            return write(*arguments)

        monkeypatch.setattr(request_log_module, "write_answers", forgetting)
        log = request_log(store, directory)
        log.offer(answered(store, "a", ["c1", "c2"]))
        log.start()
        log.close()
    assert [row["keys"] for row in rows(directory)] == ['{"card":"c1"}']
    assert (log.counts.logged, log.counts.dropped) == (1, 1)


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("int64", 7, "7"),
        ("string", "é", "é"),
        ("bool", True, "true"),
        ("decimal(10, 3)", "1.500", "1.5"),
        ("binary", "AAE=", b"\x00\x01"),
        ("timestamp", "2026-03-02T09:00:00Z", "2026-03-02T09:00:00Z"),
        ("date", "2026-03-02", "2026-03-02"),
        ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123e4567-e89b-12d3-a456-426614174000"),
    ],
)
def test_a_forgotten_key_is_known_in_the_log_whatever_its_type(
    tmp_path: Path, kind: str, value: object, text: object
) -> None:
    row = dict.fromkeys(SCHEMA.names, None) | {
        "keys": json.dumps({"k": value}), "key_types": json.dumps({"k": kind}),
    }  # fmt: skip
    other = row | {"keys": '{"k": null}'}
    answers = pa.Table.from_pylist([row, other], schema=SCHEMA)
    write_answers(tmp_path, "1.parquet", answers)
    (tmp_path / "features.py").write_text(
        "from featurestore import Entity, EventSource, FeatureView, KafkaTopic, agg\n"
        f"columns = {{'k': {kind!r}, 'ts': 'timestamp'}}\n"
        "s = EventSource('s', topic=KafkaTopic('t'), event_time='ts', id='k', columns=columns)\n"
        "v = FeatureView('v', entity=Entity('e', key='k'), source=s, features=[agg.count()])\n"
    )
    with FeatureStore(tmp_path) as store:
        store.apply()
        store.forget({"k": text})
        with store.store.snapshot() as snapshot:
            keys, secret = forgotten_keys(snapshot), digest_key(snapshot)
    assert answers_about(answers, keys, secret).tolist() == [True, False]


def test_a_stranger_in_the_directory_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), tmp_path / "1.parquet")
    with pytest.raises(LogError, match="no file of a request log"):
        read_answers(tmp_path / "1.parquet")
