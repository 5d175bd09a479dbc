"""What the routes share: the project's store, the settings, and who may ask.

Reading and pushing have a token each; without one the service is open, which is why it listens on this
machine only.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, cast

from fastapi import Depends, Request
from pydantic import SecretStr
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from api.body import ClientGoneError, header
from api.errors import Problem
from api.metrics import Metrics
from featurestore.feature_store import FeatureStore
from featurestore.settings import ServingSettings
from featurestore.store import Store

if TYPE_CHECKING:
    from featurestore.serving.lookup import Lookup
    from featurestore.serving.request_log import RequestLog


@dataclass
class Service:
    """One project as it is served. ``warm`` turns true once the kernel has answered every operation."""

    project: FeatureStore
    metrics: Metrics
    readers: ThreadPoolExecutor
    writers: ThreadPoolExecutor
    requests: RequestLog
    warm: bool = False
    failed: str | None = field(default=None)

    @property
    def settings(self) -> ServingSettings:
        return self.project.settings.serving

    @property
    def store(self) -> Store:
        return self.project.store

    @property
    def lookup(self) -> Lookup:
        """The lookup, once it is warm: a Problem (503) before."""
        self.check_warm()
        return self.project.lookup

    def check_warm(self) -> None:
        if not self.warm:
            detail = "the kernel is still being warmed" if self.failed is None else self.failed
            raise Problem(503, "not-ready", "Not ready", detail, hint="/ready says when it is",
                          headers={"retry-after": "1"})  # fmt: skip

    def authorize_reading(self, scope: Scope) -> None:
        _authorize(scope, self.settings.read_token)

    def authorize_pushing(self, scope: Scope) -> None:
        _authorize(scope, self.settings.push_token or self.settings.read_token)


def _authorize(scope: Scope, token: SecretStr | None) -> None:
    if token is None:
        return
    scheme, _, given = (header(scope, b"authorization") or "").partition(" ")
    # Compared as bytes and in constant time; what is no Latin-1 came in no header.
    wanted = token.get_secret_value().encode()
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("latin-1"), wanted):
        raise Problem(
            401,
            "token",
            "Token",
            "the request has no token that this service knows",
            hint="send it as: Authorization: Bearer TOKEN",
            headers={"www-authenticate": "Bearer"},
        )


def service_of(request: Request) -> Service:
    return cast(Service, request.app.state.service)


def reading(request: Request) -> Service:
    """The service, for one who may read."""
    service = service_of(request)
    service.authorize_reading(request.scope)
    return service


ForReading = Annotated[Service, Depends(reading)]
Open = Annotated[Service, Depends(service_of)]

Answer = Callable[[Service, Scope, Receive], Awaitable[bytes]]


class PlainRoute(Route):
    """A POST route that answers JSON as plain ASGI: half the CPU of a handler with injected parameters.

    It is documented by hand, in ``openapi``.
    """

    def __init__(self, path: str, answer: Answer) -> None:
        async def plain(scope: Scope, receive: Receive, send: Send) -> None:
            scope["route"] = self
            try:
                body = await answer(scope["app"].state.service, scope, receive)
            except ClientGoneError:
                return
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})

        super().__init__(path, answer, methods=["POST"], name=answer.__name__)
        self.app = plain
