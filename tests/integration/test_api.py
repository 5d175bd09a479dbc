"""The HTTP service over a real store: values, what explains them, what is pushed, and who may ask."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_project import MIDNIGHT, Served, ask, push, served, write_project

from api.errors import STATUSES
from api.routers import catalog, features, health, ingest
from featurestore import errors
from featurestore.settings import ServingSettings


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(write_project(tmp_path_factory.mktemp("served") / "project")) as serving:
        yield serving


@pytest.fixture
def client(serving: Served) -> httpx.Client:
    return serving.client


def post(client: httpx.Client, path: str, body: Any) -> Any:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


# Values


def test_an_answer_has_the_join_keys_first_and_says_what_it_is_about(client: httpx.Client) -> None:
    answer = post(
        client,
        "/get-online-features",
        {
            "features": ["spend:n_sum_1d", "spend:count_1d"],
            "entities": {"card": ["c1", "nobody", None]},
            "as_of": MIDNIGHT,
        },
    )
    metadata = answer["metadata"]
    assert metadata["feature_names"] == ["card", "n_sum_1d", "count_1d"]
    assert (metadata["as_of"], metadata["known_at"]) == (MIDNIGHT, None)
    assert metadata["view_versions"] == {"spend": 1} and metadata["store_commit"] >= 1
    cards, sums, counts = answer["results"]
    assert cards["values"] == ["c1", "nobody", None]
    assert sums["values"] == [30, None, None] and counts["values"] == [2, 0, 0]
    assert sums["statuses"] == counts["statuses"] == ["PRESENT", "NOT_FOUND", "NOT_FOUND"]
    assert sums["event_timestamps"] == [
        "2026-03-02T10:00:00Z",
        "1970-01-01T00:00:00Z",
        "1970-01-01T00:00:00Z",
    ]


def test_each_row_may_have_its_own_instant_and_its_own_knowledge(client: httpx.Client) -> None:
    times = ["2026-03-02T10:00:00Z", "2026-03-02T10:00:00.000001Z", "2026-03-02T12:00:00.000001Z"]
    asked = {"cards": ["c1"] * 3, "as_of": times}
    assert ask(client, "spend:count_1d", **asked)["count_1d"] == [1, 2, 2]
    assert ask(client, "spend:count_1d", known_at="as_of", **asked)["count_1d"] == [1, 1, 2]
    assert ask(client, "spend:count_1d", known_at="2026-03-02T09:00:01Z", **asked)["count_1d"] == [0, 0, 0]


def test_without_as_of_the_question_is_about_now(client: httpx.Client) -> None:
    body = {"features": ["spend:count_1h", "kinds:n_last"], "entities": {"card": ["c1"]}}
    answer = post(client, "/get-online-features", body)
    assert answer["metadata"]["as_of"] > "2026-03-03"
    assert [column["values"] for column in answer["results"][1:]] == [[0], [20]]


def test_a_service_names_its_features(client: httpx.Client) -> None:
    body = {
        "feature_service": "model",
        "entities": {"card": ["c1"]},
        "as_of": MIDNIGHT,
        "full_feature_names": True,
    }
    answer = post(client, "/get-online-features", body)
    names = ["card", "spend__n_sum_1d", "spend__count_1d", "twin__count_1h"]
    assert answer["metadata"]["feature_names"] == names


def test_the_library_and_the_service_answer_alike(serving: Served) -> None:
    store, client = serving.project, serving.client
    features, entities = ["spend", "kinds:x_histogram"], {"card": ["c2", "c1"]}
    vectors = store.online_features(features, entities, as_of=MIDNIGHT, known_at="as_of")
    body = {"features": features, "entities": entities, "as_of": MIDNIGHT, "known_at": "as_of"}
    assert vectors.to_response(full_feature_names=False) == post(client, "/get-online-features", body)


def test_composite_keys_and_keys_that_features_read_like_columns(client: httpx.Client) -> None:
    found = ask(
        client, "delays", entities={"line": ["a", "b", "a"], "run": [1, 1, 2]},
    )  # fmt: skip
    assert found["late_s_mean_1d"] == [75.0, 0.0, None]
    assert found["count"] == [2, 1, 0]
    assert ask(client, "spend:card_last", "spend:of_c1_1d", cards=["c1", "c2"]) == {
        "card": ["c1", "c2"],
        "card_last": ["c1", "c2"],
        "of_c1_1d": [2, 0],
    }


def test_a_version_can_be_pinned(client: httpx.Client) -> None:
    assert ask(client, "spend@1:count_1d")["count_1d"] == [2]


# What explains a value


def test_a_value_is_explained_by_its_facts(client: httpx.Client) -> None:
    body = {
        "feature": "spend:s_max_by_x_1d",
        "entities": {"card": ["c1"]},
        "as_of": "2026-03-02T10:00:00.000001Z",
    }
    explained = post(client, "/explain-value", body)
    assert explained["value"] == "b" and explained["status"] == "PRESENT"
    assert explained["window"] == {
        "begin": "2026-03-01T10:00:00.000001Z",
        "end": "2026-03-02T10:00:00.000001Z",
    }
    assert explained["facts"] == [
        {
            "id": {"id": "p1"},
            "event_time": "2026-03-02T09:00:00Z",
            "available_at": "2026-03-02T09:00:01Z",
            "input": "a",
            "order": 0.1,
        },
        {
            "id": {"id": "p2"},
            "event_time": "2026-03-02T10:00:00Z",
            "available_at": "2026-03-02T12:00:00Z",
            "input": "b",
            "order": 0.2,
        },
    ]
    known = post(client, "/explain-value", body | {"known_at": "as_of"})
    assert known["value"] == "a" and [fact["id"]["id"] for fact in known["facts"]] == ["p1"]


def test_an_explanation_names_ids_that_are_part_of_the_key(client: httpx.Client) -> None:
    body = {"feature": "delays:count", "entities": {"line": ["a"], "run": [1]}, "as_of": MIDNIGHT}
    explained = post(client, "/explain-value", body)
    assert explained["value"] == 2 and explained["window"]["begin"] is None
    assert [fact["id"] for fact in explained["facts"]] == [{"run": 1, "seq": 1}, {"run": 1, "seq": 2}]


def test_an_explanation_is_text_for_a_person(serving: Served) -> None:
    store = serving.project
    text = store.explain_value("spend:n_sum_1d", {"card": "c1"}, as_of=MIDNIGHT).text()
    assert "spend:n_sum_1d of card=c1 = 30  (int64, PRESENT)" in text
    assert "p2  2026-03-02T10:00:00Z  2026-03-02T12:00:00Z  20" in text


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"feature": "spend", "entities": {"card": ["c1"]}}, "more than one feature"),
        ({"feature": "spend:count_1d", "entities": {"card": ["c1", "c2"]}}, "2 values"),
        ({"feature": "spend:count_1d", "entities": {"card": ["c1"]}, "as_of": ["2026-03-02"]}, "as_of"),
    ],
)
def test_what_cannot_be_explained_is_said(client: httpx.Client, body: Any, words: str) -> None:
    response = client.post("/explain-value", json=body)
    assert response.status_code == 422 and words in response.json()["detail"]


# What is pushed


def row(id: str, card: str | None = "c9", **more: Any) -> dict[str, Any]:
    return {"id": id, "card": card, "ts": "2026-03-02T11:00:00Z", "known": "2026-03-02T11:00:00Z", **more}


def test_pushed_rows_are_served_by_the_next_request_and_count_once(client: httpx.Client) -> None:
    first = push(client, "payments", row("i1", n=5), row("i2", n=6))
    assert (first["accepted"], first["duplicate"], first["rejected"]) == (2, 0, [])
    assert ask(client, "spend:n_sum_1d", cards=["c9"])["n_sum_1d"] == [11]
    again = push(client, "payments", row("i1", n=5), row("i2", n=7), row("i3", None))
    assert (again["accepted"], again["duplicate"], again["corrected"], again["keyless"]) == (0, 1, 1, 1)
    assert again["store_commit"] > first["store_commit"]
    answer = ask(client, "spend:n_sum_1d", "spend:count_1d", cards=["c9"])
    assert answer["count_1d"] == [2]


def test_one_object_is_one_row(client: httpx.Client) -> None:
    assert post(client, "/ingest/payments", row("o1", "c8"))["accepted"] == 1


def test_a_bad_row_is_refused_with_its_line_and_the_others_go_on(client: httpx.Client) -> None:
    lines = [
        json.dumps(row("l1", "c7", n=1)),
        "",
        '{"id": "l2", "n": ',
        json.dumps(row("l3", "c7", n="many")),
        "[1]",
        '{"id": "\udc80"}',
        json.dumps(row("l4", "c7", n=2)),
    ]
    body = "\n".join(lines).encode("utf-8", "surrogateescape")
    response = client.post("/ingest/payments", content=body, headers={"content-type": "application/x-ndjson"})
    answer = response.json()
    assert response.status_code == 200 and answer["accepted"] == 2 and answer["rejected_count"] == 4
    assert [one["line"] for one in answer["rejected"]] == [3, 4, 5, 6]
    assert "many" in answer["rejected"][1]["reason"] and "object" in answer["rejected"][2]["reason"]
    assert ask(client, "spend:n_sum_1d", cards=["c7"])["n_sum_1d"] == [3]


def test_an_atomic_push_is_all_or_nothing(client: httpx.Client) -> None:
    rows = [row("a1", "c6"), row("a2", "c6", n="many")]
    response = client.post("/ingest/payments?atomic=true", json=rows)
    problem = response.json()
    assert response.status_code == 422 and [one["line"] for one in problem["rejected"]] == [2]
    body = b'{"id": "a3", "card": "c6", "ts": "2026-03-02T11:00:00Z"}\n{'
    headers = {"content-type": "application/x-ndjson"}
    assert client.post("/ingest/payments?atomic=true", content=body, headers=headers).status_code == 422
    assert ask(client, "spend:count_1d", cards=["c6"])["count_1d"] == [0]


def test_a_push_without_a_good_row_is_a_problem_that_lists_why(client: httpx.Client) -> None:
    response = client.post("/ingest/payments", json=[{"id": None}, {"id": "b1", "colour": "red"}, 3, None])
    problem = response.json()
    assert response.status_code == 422
    assert [one["line"] for one in problem["rejected"]] == [1, 2, 3, 4]
    assert [one["reason"] for one in problem["rejected"][2:]] == ["it is not a JSON object"] * 2
    alone = client.post("/ingest/payments", content=b"null", headers={"content-type": "application/json"})
    assert alone.status_code == 422 and [one["line"] for one in alone.json()["rejected"]] == [1]


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/ingest/paymints", 404, 'did you mean "payments"'),
        ("/ingest/clicks", 422, "no id"),
        ("/ingest/payments?atomic=perhaps", 422, "neither true nor false"),
    ],
)
def test_a_source_that_cannot_take_rows_is_said(
    client: httpx.Client, path: str, status: int, words: str
) -> None:
    response = client.post(path, json=[row("z1")])
    assert response.status_code == status and words in response.text.replace('\\"', '"')


# The catalogue, health and metrics


def test_the_catalogue_is_what_was_applied(client: httpx.Client) -> None:
    views = {view["name"]: view for view in client.get("/feature-views").json()["feature_views"]}
    assert set(views) == {"delays", "kinds", "spend", "twin", "visits"}
    spend = client.get("/feature-views/spend").json()
    assert spend == views["spend"]
    assert (spend["version"], spend["owner"], spend["tags"]) == (1, "me", {"team": "risk"})
    assert spend["entity"] == {"name": "card", "keys": [{"name": "card", "dtype": "string"}]}
    last = next(one for one in spend["features"] if one["name"] == "of_c1_1d")
    assert last["window_us"] == 86_400_000_000 and "c1" in last["where"]
    [service] = client.get("/feature-services").json()["feature_services"]
    assert service["features"] == ["spend:n_sum_1d", "spend:count_1d", "twin:count_1h"]
    missing = client.get("/feature-views/spent")
    assert missing.status_code == 404 and 'did you mean "spend"?' in missing.json()["hint"]


def test_metrics_count_requests_by_route_and_rows_by_outcome(client: httpx.Client) -> None:
    push(client, "payments", row("m1", "c5"))
    client.get("/nowhere/at/all")
    text = client.get("/metrics").text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    route = 'featurestore_http_requests_total{method="POST",route="/ingest/{source}",status="200"}'
    assert float(lines[route]) >= 1
    assert float(lines['featurestore_ingested_rows_total{outcome="accepted",source="payments"}']) >= 1
    assert float(lines["featurestore_store_commit"]) >= 1
    assert float(lines['featurestore_http_request_seconds_count{route="/get-online-features"}']) >= 0
    assert "/nowhere" not in text


def test_health_and_ready(client: httpx.Client) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").json()["status"] == "ready"


def test_every_route_is_documented_with_every_status_it_gives(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    posted = {route.path for route in (*features.routes, *ingest.routes)}
    got = {route.path for route in (*catalog.router.routes, *health.router.routes)}
    assert posted | got == set(document["paths"])
    assert client.get("/docs").status_code == 200
    schemas = document["components"]["schemas"]
    text = json.dumps(document)
    assert all(f"#/components/schemas/{name}" in text for name in schemas)
    for path in ("/get-online-features", "/explain-value", "/ingest/{source}"):
        assert {"200", "400", "404", "408", "413", "415", "422", "503"} <= set(
            document["paths"][path]["post"]["responses"]
        )


def test_the_examples_of_the_documentation_are_bodies_that_are_understood(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    for path in ("/get-online-features", "/explain-value"):
        content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        for example in content["examples"].values():
            # The names are the sample project's: unknown here, but nothing else is wrong.
            assert client.post(path, json=example["value"]).status_code == 404


def test_every_error_of_the_library_has_a_status() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    known = [kind for kind in kinds if issubclass(kind, errors.FeatureStoreError)]
    for kind in known:
        if kind is not errors.FeatureStoreError:
            assert any(parent in STATUSES for parent in kind.__mro__), kind


def test_the_page_on_http_names_every_route_setting_and_status(client: httpx.Client) -> None:
    page = (Path(__file__).parents[2] / "docs" / "http.md").read_text()
    document = client.get("/openapi.json").json()
    statuses = {
        status
        for operations in document["paths"].values()
        for operation in operations.values()
        for status in operation["responses"]
    }
    wanted = [*document["paths"], *ServingSettings.model_fields]
    assert [
        name for name in wanted if f"`{name}`" not in page.replace("`POST ", "`").replace("`GET ", "`")
    ] == []
    assert [status for status in statuses - {"200"} if f"| {status} |" not in page] == []


# Tokens


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    settings = '[serving]\nread_token = "rrr"\npush_token = "ppp"\n'
    with served(write_project(tmp_path_factory.mktemp("guarded") / "project", settings=settings)) as serving:
        yield serving.client


def test_reading_and_pushing_have_a_token_each(guarded: httpx.Client) -> None:
    body = {"features": ["spend:count_1d"], "entities": {"card": ["c1"]}}

    def status(path: str, token: str | None, content: Any = None) -> int:
        headers = {} if token is None else {"authorization": token.encode("latin-1")}
        method = "GET" if content is None else "POST"
        return guarded.request(method, path, json=content, headers=headers).status_code

    for path, content in (("/get-online-features", body), ("/feature-views", None), ("/metrics", None)):
        assert status(path, "Bearer rrr", content) == 200
        for wrong in (None, "Bearer ppp", "Bearer rr", "Basic rrr", "rrr", "Bearer \u00e9"):
            assert status(path, wrong, content) == 401
    assert status("/ingest/payments", "bearer ppp", [row("g1")]) == 200
    assert status("/ingest/payments", "Bearer rrr", [row("g2")]) == 401
    assert status("/health", None) == status("/ready", None) == 200
    refused = guarded.get("/feature-views")
    assert refused.headers["www-authenticate"] == "Bearer"
    assert refused.headers["content-type"] == "application/problem+json"
