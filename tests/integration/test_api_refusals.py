"""Nothing that a client sends gives a 500: each way of asking wrong is a 4xx, as a problem document."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from api_project import KINDS, MIDNIGHT, Served, ask, push, served, write_project
from hypothesis import given, settings
from hypothesis import strategies as st

JSON = {"content-type": "application/json"}
SETTINGS = """
[serving]
max_entities = 20
max_features = 40
max_body_bytes = 20000
body_timeout_s = 0.5
"""


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(write_project(tmp_path_factory.mktemp("refusals") / "project", settings=SETTINGS)) as serving:
        yield serving


@pytest.fixture(scope="module")
def client(serving: Served) -> httpx.Client:
    return serving.client


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["status"] == status and document["detail"] and document["title"]
    assert document["type"].startswith("urn:featurestore:problem:")
    return document


ONE = {"entities": {"card": ["c1"]}, "as_of": MIDNIGHT}
GOOD = {
    "/get-online-features": {"features": ["kinds", "spend"], **ONE},
    "/explain-value": {"feature": "spend:count_1d", **ONE},
}


def body(**more: Any) -> dict[str, Any]:
    return {"features": ["spend:count_1d"], "entities": {"card": ["c1"]}, "as_of": MIDNIGHT, **more}


@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [
        (body(features=["spent:count_1d"]), 404, 'no feature view "spent"'),
        (body(features=["spend:cuont_1d"]), 404, 'no feature "cuont_1d"'),
        (body(features=["spend:"]), 404, 'no feature ""'),
        (body(features=["spend@9:count_1d"]), 404, "spend@9"),
        (body(features=[":"]), 404, "no feature view"),
        (body(features=["\u0000"]), 404, "no feature view"),
        (body(features=[]), 422, "no feature"),
        (body(features=["spend:count_1d"], feature_service="model"), 422, "either"),
        ({"feature_service": "modle", "entities": {"card": ["c1"]}}, 404, "modle"),
        ({"entities": {"card": ["c1"]}}, 422, "either"),
        ({"features": ["spend:count_1d"]}, 422, "entities"),
        (body(entities={}), 422, "no entities"),
        (body(entities={"kard": ["c1"]}), 422, "card"),
        (body(entities={"card": ["c1"], "colour": ["red"]}), 422, "colour"),
        (body(entities={"card": "c1"}), 422, "entities"),
        (body(entities={"card": ["c1"] * 21}), 422, "of at most 20"),
        (body(features=["spend:count_1d"] * 41), 422, "of at most 40"),
        (body(features=["spend:count_1h", "twin:count_1h"]), 422, "count_1h"),
        (body(features=["delays:count"], entities={"line": ["a"], "run": [1, 2]}), 422, "length"),
        (body(features=["delays:count"], entities={"line": ["a"], "run": ["x"]}), 422, "int64"),
        (body(features=["delays:count"], entities={"line": ["a"], "run": [1.5]}), 422, "int64"),
        (body(features=["delays:count"], entities={"line": ["a"], "run": [2**63]}), 422, "int64"),
        (body(features=["delays:count"], entities={"line": ["a"], "run": [-(10**300)]}), 422, "int64"),
        (body(features=["delays:count"], entities={"line": ["a"], "run": [True]}), 422, "int64"),
        (body(features=["delays:count"], entities={"line": ["a"], "run": [{"a": [1]}]}), 422, "int64"),
        (body(entities={"card": [["c1"]]}), 422, "string"),
        (body(as_of="yesterday"), 422, "as_of"),
        (body(as_of="2026-03-03T00:00:00"), 422, "as_of"),
        (body(as_of="2026-02-30T00:00:00Z"), 422, "as_of"),
        (body(as_of=""), 422, "as_of"),
        (body(as_of=1), 422, "as_of"),
        (body(as_of=[]), 422, "as_of"),
        (body(as_of=[MIDNIGHT, MIDNIGHT]), 422, "as_of"),
        (body(as_of=[None]), 422, "as_of"),
        (body(known_at="never"), 422, "known_at"),
        (body(known_at=[MIDNIGHT]), 422, "known_at"),
        (body(full_feature_names="yes"), 422, "full_feature_names"),
        ([], 422, "object"),
        (None, 422, "object"),
        ("spend", 422, "object"),
    ],
)  # fmt: skip
def test_a_question_that_cannot_be_answered_says_why(
    client: httpx.Client, asked: Any, status: int, words: str
) -> None:
    content = json.dumps(asked).encode()
    document = problem(client.post("/get-online-features", content=content, headers=JSON), status)
    assert words in document["detail"]


@pytest.mark.parametrize(
    ("path", "more", "fact", "hint"),
    [
        ("/get-online-features", {"asof": MIDNIGHT}, 'no field "asof"', 'did you mean "as_of"?'),
        ("/get-online-features", {"knownAt": MIDNIGHT}, 'no field "knownAt"', 'did you mean "known_at"?'),
        ("/get-online-features", {"request_context": {}}, 'no field "request_context"', "fields are as_of, "),
        ("/get-online-features", {"`": 1}, 'no field "`"', "fields are as_of, "),
        ("/get-online-features", {"a\nb": 1}, 'no field "a\nb"', "fields are as_of, "),
        ("/get-online-features", {"\u0000" * 2_000: 1}, "no field", "fields are as_of, "),
        ("/explain-value", {"asof": MIDNIGHT}, 'no field "asof"', 'did you mean "as_of"?'),
        ("/explain-value", {"features": []}, 'no field "features"', 'did you mean "feature"?'),
    ],
)
def test_a_field_that_nobody_reads_is_refused_and_not_answered_as_if_it_were_absent(
    client: httpx.Client, path: str, more: dict[str, Any], fact: str, hint: str
) -> None:
    good = GOOD[path]
    assert client.post(path, json=good).status_code == 200
    document = problem(client.post(path, json=good | more), 422)
    assert fact in document["detail"] and hint in document["hint"]


def test_the_fields_that_feast_sends_are_taken(client: httpx.Client) -> None:
    for wanted in (True, False):
        asked = body(include_feature_view_version_metadata=wanted, full_feature_names=False)
        response = client.post("/get-online-features", json=asked)
        assert response.status_code == 200 and response.json()["metadata"]["view_versions"] == {"spend": 1}


def test_a_key_that_the_request_has_is_not_suggested_for_another(client: httpx.Client) -> None:
    def said(*names: str) -> tuple[str, str]:
        asked = {"features": ["delays:count"], "entities": {name: ["a"] for name in names}}
        document = problem(client.post("/get-online-features", json=asked), 422)
        return document["detail"], document["hint"]

    missing = 'no values for "run", a key of entity "trip"'
    assert said("line") == (missing, 'give "run" a value for each row')
    assert said("line", "rnu") == (
        missing,
        'the request\'s other entity columns are rnu; did you mean "rnu"?',
    )
    assert said("line", "run", "runs") == (
        'entity column "runs" is no key of the features asked for',
        "leave it out; their keys are line, run",
    )


def test_a_horizon_that_is_none_is_answered_with_both_kinds(client: httpx.Client) -> None:
    document = problem(client.post("/get-online-features", json=body(known_at="asof")), 422)
    assert document["detail"] == 'known_at "asof" is not an instant'
    assert '"2026-01-01T00:00:00Z"; or "as_of"' in document["hint"]


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"nonsense", b"\xff\xfe", b"[" * 15_000, b'{"a":' * 3_000, b'{"features": NaN}', b"NaN",
        b'{"features": ["\xed\xa0\x80"]}', b'{"features": ["\\ud800"], "entities": {}}', b"\xef\xbb\xbf{}",
        b'{"features": Infinity}', b"{} {}", b"\x00",
    ],
)  # fmt: skip
def test_what_is_no_json_is_a_400(client: httpx.Client, content: bytes) -> None:
    problem(client.post("/ingest/payments", content=content, headers=JSON), 400)
    for path in ("/get-online-features", "/explain-value"):
        # What has another shape already is not read to its end.
        response = client.post(path, content=content, headers=JSON)
        problem(response, 422 if response.status_code == 422 else 400)


@pytest.mark.parametrize("digits", [20, 400, 4_000, 15_000])
def test_a_huge_number_is_no_key(client: httpx.Client, digits: int) -> None:
    content = b'{"features": ["delays:count"], "entities": {"line": ["a"], "run": [%s]}}' % (b"9" * digits)
    problem(client.post("/get-online-features", content=content, headers=JSON), 422)


def test_instants_at_the_ends_of_the_calendar_are_instants(client: httpx.Client) -> None:
    for as_of in ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "1969-12-31T23:59:59.999999Z"):
        assert ask(client, "spend", as_of=as_of)["count_1d"] == [0]
    for as_of in ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59-23:59"):
        assert ask(client, "kinds:n_last", "spend:n_sum_1d", as_of=as_of) == {
            "card": ["c1"], "n_last": [20], "n_sum_1d": [None],
        }  # fmt: skip


def test_no_rows_a_repeated_feature_and_null_or_unknown_keys_are_no_errors(client: httpx.Client) -> None:
    assert ask(client, "spend:count_1d", cards=[]) == {"card": [], "count_1d": []}
    assert ask(client, "spend:count_1d", "spend:count_1d") == {"card": ["c1"], "count_1d": [2]}
    assert ask(client, "spend:count_1d", cards=[None, "", "\u0000", "\U0001f600", "c1"])["count_1d"] == [
        0, 0, 0, 0, 2,
    ]  # fmt: skip
    entities = {"line": ["a", None, "a"], "run": [None, 1, 1]}
    assert ask(client, "delays:count", entities=entities)["count"] == [0, 0, 2]


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None]
)
def test_a_body_of_another_type_is_not_read(client: httpx.Client, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    for path in ("/get-online-features", "/explain-value", "/ingest/payments"):
        problem(client.post(path, content=json.dumps(body()).encode(), headers=headers), 415)
    compressed = JSON | {"content-encoding": "gzip"}
    problem(client.post("/get-online-features", content=b"x", headers=compressed), 415)
    fine = {"content-type": "Application/JSON; charset=utf-8"}
    assert client.post("/get-online-features", content=json.dumps(body()).encode(), headers=fine).is_success


def test_another_method_is_a_405_that_names_the_right_one(client: httpx.Client) -> None:
    response = client.get("/get-online-features")
    problem(response, 405)
    assert response.headers["allow"] == "POST"
    problem(client.post("/feature-views", json={}), 405)
    problem(client.get("/nothing/here"), 404)
    problem(client.get("/feature-views/%00%ff"), 404)


# Size and time


def test_a_body_beyond_the_limit_is_refused_before_it_is_read(serving: Served) -> None:
    problem(serving.client.post("/ingest/payments", content=b" " * 20_001, headers=JSON), 413)
    head = b"POST /ingest/payments HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    for length in (b"1000000000000", b"9" * 18):
        answer = raw(serving.port, head + b"content-length: " + length + b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 413") and b"connection: close" in answer.lower()


def test_a_body_without_a_length_is_refused_where_it_passes_the_limit(serving: Served) -> None:
    head = b"POST /get-online-features HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    chunk = b"1000\r\n" + b" " * 0x1000 + b"\r\n"
    answer = raw(serving.port, head + b"transfer-encoding: chunked\r\n\r\n" + chunk * 6)
    assert answer.startswith(b"HTTP/1.1 413")


def test_a_body_that_comes_too_slowly_is_given_up(serving: Served) -> None:
    head = b"POST /get-online-features HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    begin_s = time.monotonic()
    answer = raw(serving.port, head + b"content-length: 100\r\n\r\n{")
    assert answer.startswith(b"HTTP/1.1 408") and time.monotonic() - begin_s < 10


def test_a_client_that_goes_away_leaves_the_service_well(serving: Served) -> None:
    head = b"POST /ingest/payments HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", serving.port)) as connection:
            connection.sendall(head + b"content-length: 100\r\n\r\n[")
    assert serving.client.get("/ready").status_code == 200


def raw(port: int, request: bytes) -> bytes:
    """What the server sends until it closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(request)
        parts = []
        try:
            while part := connection.recv(65_536):
                parts.append(part)
        except ConnectionResetError:
            pass
        return b"".join(parts)


def test_many_clients_at_once_get_their_own_answers(serving: Served) -> None:
    wrong: list[object] = []

    def read(card: str, count: int) -> None:
        with httpx.Client(base_url=serving.client.base_url, timeout=60) as mine:
            for _ in range(20):
                found = ask(mine, "spend:count_1d", cards=[card] * 15)["count_1d"]
                if found != [count] * 15:
                    wrong.append(found)

    def write(number: int) -> None:
        with httpx.Client(base_url=serving.client.base_url, timeout=60) as mine:
            for i in range(10):
                row = {"id": f"w{number}-{i}", "card": "c-many", "ts": "2026-03-02T12:00:00Z"}
                if push(mine, "payments", row)["accepted"] != 1:
                    wrong.append(row)

    threads = [threading.Thread(target=read, args=one) for one in (("c1", 2), ("c2", 1), ("c0", 0))]
    threads += [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert ask(serving.client, "spend:count_1d", cards=["c-many"])["count_1d"] == [30]


# Anything at all

PARTS = st.sampled_from(["card", "line", "run", "id", "ts", "n", "x", "d"])
ANYTHING = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.integers(-(10**30), 10**30),
        st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=5),
        st.sampled_from([MIDNIGHT, "as_of", "c1", "spend:count_1d", "kinds", "delays:count", "NaN", "1e400"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(PARTS, inner, max_size=4)),
    max_leaves=8,
)  # fmt: skip
NAMES = st.sampled_from(
    ["features", "feature", "entities", "as_of", "known_at", "full_feature_names", "feature_service"]
)


@settings(max_examples=300)
@given(
    changed=st.dictionaries(NAMES, ANYTHING, max_size=3),
    path=st.sampled_from(sorted(GOOD)),
)
def test_no_question_is_a_500(client: httpx.Client, changed: dict[str, Any], path: str) -> None:
    content = json.dumps(GOOD[path] | changed).encode("utf-8", "surrogatepass")
    response = client.post(path, content=content, headers=JSON)
    assert response.status_code in (200, 400, 404, 422), response.text


COLUMNS = st.sampled_from(["id", "card", "ts", "known", "?", *KINDS])
ROWS = st.lists(st.dictionaries(COLUMNS, ANYTHING), max_size=4)


@settings(max_examples=200)
@given(rows=st.one_of(ANYTHING, ROWS), atomic=st.booleans())
def test_no_row_is_a_500(client: httpx.Client, rows: Any, atomic: bool) -> None:
    content = json.dumps(rows).encode("utf-8", "surrogatepass")
    for kind in ("application/json", "application/x-ndjson"):
        response = client.post(
            f"/ingest/payments?atomic={atomic}", content=content, headers={"content-type": kind}
        )
        assert response.status_code in (200, 400, 422), response.text


@settings(max_examples=100)
@given(content=st.binary(max_size=60))
def test_no_bytes_are_a_500(client: httpx.Client, content: bytes) -> None:
    for path in ("/get-online-features", "/explain-value", "/ingest/payments"):
        for kind in ("application/json", "application/x-ndjson"):
            response = client.post(path, content=content, headers={"content-type": kind})
            assert 200 <= response.status_code < 500, response.text
