"""The OpenAPI document: FastAPI's routes as it knows them, the plain POST routes from their msgspec types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api.schemas import DOCUMENTED

_REF = "#/components/schemas/{name}"

_ONLINE = {
    "now": {
        "summary": "two cards, as of now",
        "value": {"features": ["card_activity:count_5m", "card_activity:amount_sum_7d"],
                  "entities": {"card_id": ["c1", "c2"]}},
    },
    "as of": {
        "summary": "a service's features as they were known at an instant",
        "value": {"feature_service": "fraud_model", "entities": {"card_id": ["c1"]},
                  "as_of": "2026-01-15T00:00:00Z", "known_at": "as_of", "full_feature_names": True},
    },
}  # fmt: skip
_EXPLAIN = {
    "a sum": {
        "summary": "what a card's sum is made of",
        "value": {"feature": "card_activity:amount_sum_7d", "entities": {"card_id": ["c1"]},
                  "as_of": "2026-01-15T00:00:00Z"},
    }
}  # fmt: skip
_ROW = {"transaction_id": "t9001", "card_id": "c1", "ts": "2026-01-14T12:00:00Z", "amount": 12.5}
_ROWS_SCHEMA: Mapping[str, Any] = {
    "oneOf": [{"type": "object"}, {"type": "array", "items": {"type": "object"}}]
}


def describe(app: FastAPI) -> dict[str, Any]:
    """The document, made once."""
    if app.openapi_schema:
        return app.openapi_schema
    made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    _, components = msgspec.json.schema_components(DOCUMENTED, ref_template=_REF)
    schemas = made.setdefault("components", {}).setdefault("schemas", {})
    schemas |= components
    made["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    paths = made["paths"]
    paths["/get-online-features"] = {"post": _operation(
        "get_online_features", "features", "Features of entities, now or as of an instant",
        "All values come from one state of the store. A value never depends on its status.",
        _json_body("OnlineRequest", _ONLINE), "OnlineResponse", (400, 401, 404, 408, 413, 415, 422, 503),
    )}  # fmt: skip
    paths["/explain-value"] = {"post": _operation(
        "explain_value", "features", "The facts behind a value",
        "The facts in the feature's set, in timeline order: those that the value was computed from.",
        _json_body("ExplainRequest", _EXPLAIN), "ExplainResponse", (400, 401, 404, 408, 413, 415, 422, 503),
    )}  # fmt: skip
    ingest = _operation(
        "ingest", "ingest", "Push rows into a source",
        "Rows are durable, served and part of the source's log when this answers; the same row again is a "
        "duplicate. A bad row is refused with its line and reason while good rows go on; when all are bad, "
        "or with `atomic=true` one is, nothing is kept and the answer is 422; with `strict=true` different "
        "changes of a row at one position are bad, too.",
        {
            "required": True,
            "content": {
                "application/json": {"schema": _ROWS_SCHEMA, "examples": {
                    "a row": {"value": _ROW}, "rows": {"value": [_ROW, _ROW | {"transaction_id": "t9002"}]}}},
                "application/x-ndjson": {"schema": {"type": "string", "description": "a JSON object a line"}},
            },
        },
        "IngestResponse", (400, 401, 404, 408, 413, 415, 422, 503),
    )  # fmt: skip
    ingest["parameters"] = [
        {"name": "source", "in": "path", "required": True, "schema": {"type": "string"}},
        {"name": "atomic", "in": "query", "required": False, "schema": {"type": "boolean", "default": False},
         "description": "all rows or none"},
        {"name": "strict", "in": "query", "required": False, "schema": {"type": "boolean", "default": False},
         "description": "all rows or none, and none where different changes of a row have one position"},
    ]  # fmt: skip
    paths["/ingest/{source}"] = {"post": ingest}
    for path, operations in paths.items():
        for operation in operations.values():
            _refine(path, operation)
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    app.openapi_schema = made
    return made


def _operation(
    name: str,
    tag: str,
    summary: str,
    description: str,
    body: Mapping[str, Any],
    answer: str,
    problems: tuple[int, ...],
) -> dict[str, Any]:
    return {
        "operationId": name,
        "tags": [tag],
        "summary": summary,
        "description": description,
        "requestBody": body,
        "responses": {
            "200": {
                "description": "OK",
                "content": {"application/json": {"schema": {"$ref": _REF.format(name=answer)}}},
            },
            **{str(status): _problem(status) for status in problems},
        },
    }


def _json_body(name: str, examples: Mapping[str, Any]) -> dict[str, Any]:
    schema = {"$ref": _REF.format(name=name)}
    return {"required": True, "content": {"application/json": {"schema": schema, "examples": examples}}}


_WORDS = {
    400: "the body can't be read",
    401: "no token, or one that isn't known",
    404: "an unknown name, with suggestions",
    408: "the body came too slowly",
    413: "the body is too long",
    415: "a content type that isn't taken",
    422: "the request can't be answered as asked",
    503: "not warm yet, or the store can't be used now",
}


def _problem(status: int) -> dict[str, Any]:
    schema = {"$ref": _REF.format(name="ProblemDocument")}
    return {"description": _WORDS[status], "content": {"application/problem+json": {"schema": schema}}}


def _refine(path: str, operation: dict[str, Any]) -> None:
    """What holds for every route: who may ask, and how errors look."""
    responses = operation["responses"]
    responses.pop("422", None) if "requestBody" not in operation else None
    if path not in ("/health", "/ready"):
        operation["security"] = [{}, {"bearer": []}]
        responses.setdefault("401", _problem(401))
    if path != "/health":
        responses.setdefault("503", _problem(503))
    if "{" in path:
        responses.setdefault("404", _problem(404))
    if path == "/metrics":
        responses["200"]["content"] = {"text/plain": {"schema": {"type": "string"}}}
