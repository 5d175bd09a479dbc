"""Errors as RFC 9457 problem documents: one table says which error is which status.

A 500 is always a bug: whatever a request can hold has its own 4xx, a store that can't answer now is a 503.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from featurestore.errors import (
    DefinitionError,
    FeatureStoreError,
    LogError,
    ManifestError,
    OutsideRetentionError,
    RequestError,
    RowError,
    SettingsError,
    SpineError,
    StoreError,
    StoreUnavailableError,
    StoreVersionError,
    UnknownNameError,
)

PROBLEM_JSON = "application/problem+json"

# Error class -> (status, title). The nearest class in an error's ancestry counts.
STATUSES: Mapping[type[FeatureStoreError], tuple[int, str]] = {
    UnknownNameError: (404, "Unknown name"),
    OutsideRetentionError: (422, "Outside retention"),
    RequestError: (422, "Request can't be answered as asked"),
    RowError: (422, "Rows break the rules of their source"),
    DefinitionError: (422, "Expression or definition"),
    SpineError: (422, "Spine"),
    ManifestError: (422, "Manifest"),
    LogError: (503, "Log can't be read"),
    SettingsError: (503, "Settings"),
    StoreUnavailableError: (503, "Store unavailable"),
    StoreVersionError: (503, "Store of another version"),
    StoreError: (503, "Store"),
}

# What a message may repeat of a request: enough to find the place, not a whole body.
_LONGEST_DETAIL = 2_000
SHOWN_ROWS = 1_000

logger = logging.getLogger("featurestore.api")


class Problem(Exception):
    """A request that the service itself refuses, before the library sees it."""

    def __init__(
        self,
        status: int,
        name: str,
        title: str,
        detail: str,
        *,
        hint: str | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.name = name
        self.title = title
        self.detail = detail
        self.hint = hint
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})

    def response(self) -> Response:
        body: dict[str, Any] = {
            "type": f"urn:featurestore:problem:{self.name}",
            "title": self.title,
            "status": self.status,
            "detail": _shown(self.detail),
        }
        if self.hint is not None:
            body["hint"] = _shown(self.hint)
        return Response(orjson.dumps(body | self.extra), self.status, self.headers, PROBLEM_JSON)


def unreadable(detail: str, *, hint: str | None = None) -> Problem:
    """A body that is no JSON at all."""
    return Problem(400, "unreadable-body", "Unreadable body", detail, hint=hint)


def unfit(detail: str, *, hint: str | None = None) -> Problem:
    """A body that is JSON but not of the route's shape, or asks for too much."""
    return Problem(422, "request", STATUSES[RequestError][1], detail, hint=hint)


def problem_of(error: FeatureStoreError) -> Problem:
    """What the table says about an error of the library."""
    known = next((kind for kind in type(error).__mro__ if kind in STATUSES), None)
    status, title = (500, "Internal error") if known is None else STATUSES[known]
    extra: dict[str, Any] = {}
    if isinstance(error, RowError) and error.rows:
        extra["rejected"] = rejected_rows(error.rows)
    headers = {"retry-after": "1"} if status == 503 else None
    name = (known or FeatureStoreError).__name__.removesuffix("Error")
    slug = "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("-")
    return Problem(status, slug, title, error.fact, hint=error.hint, headers=headers, extra=extra)


def rejected_rows(rows: Any) -> list[dict[str, Any]]:
    """The first rejected rows as ``{"line", "reason"}``."""
    return [{"line": line, "reason": _shown(reason)} for line, reason in rows[:SHOWN_ROWS]]


def _shown(text: str) -> str:
    """Text that JSON can carry: no lone surrogates, no megabytes."""
    if len(text) > _LONGEST_DETAIL:
        text = f"{text[:_LONGEST_DETAIL]}..."
    return text.encode("utf-8", "backslashreplace").decode()


def install(app: FastAPI) -> None:
    """Make every error of ``app`` a problem document."""

    async def on_problem(_: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)
        return error.response()

    async def on_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, FeatureStoreError)
        problem = problem_of(error)
        if problem.status >= 500:
            logger.error("%s %s: %s", request.method, request.url.path, error)
        return problem.response()

    async def on_http(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        words = {404: ("no-route", "There is no such route"), 405: ("method", "Method not allowed")}
        name, title = words.get(error.status_code, ("http", str(error.detail)))
        hint = "the routes are listed at /docs" if error.status_code == 404 else None
        problem = Problem(error.status_code, name, title, str(error.detail), hint=hint, headers=error.headers)
        return problem.response()

    async def on_validation(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return unfit(f"{where}: {first['msg'].lower()}").response()

    async def on_bug(request: Request, error: Exception) -> Response:
        # The server logs the traceback; the caller learns nothing of the inside.
        return Problem(500, "bug", "Internal error", f"{request.method} {request.url.path} failed", hint=(
            "this is a bug: please report it with the server's log")).response()  # fmt: skip

    app.add_exception_handler(Problem, on_problem)
    app.add_exception_handler(FeatureStoreError, on_error)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(Exception, on_bug)
