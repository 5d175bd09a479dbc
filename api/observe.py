"""Observes every request: its metrics, and on demand a line of JSON on stderr."""

from __future__ import annotations

import logging
import sys
import time

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.metrics import Metrics
from featurestore import clock
from featurestore.dtypes import instant_text

logger = logging.getLogger("featurestore.requests")

# A method is a label of a metric: whatever else a client makes up is one of them.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def log_to_stderr() -> None:
    """Send the lines to stderr as they are."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


class Observed:
    """Middleware, a plain ASGI one: the routes inside set ``scope["route"]``."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, log_requests: bool) -> None:
        self._app = app
        self._metrics = metrics
        self._log_requests = log_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin_s = time.perf_counter()
        status = 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            seconds = time.perf_counter() - begin_s
            method = scope["method"] if scope["method"] in _METHODS else "other"
            # The route's pattern, never the path: a metric has few labels.
            route = getattr(scope.get("route"), "path", None) or "none"
            self._metrics.request(method, route, status, seconds)
            if self._log_requests:
                self._log(scope, status=status, seconds=seconds)

    def _log(self, scope: Scope, *, status: int, seconds: float) -> None:
        line = {
            "time": instant_text(clock.now()),
            "method": scope["method"],
            "path": scope["path"].encode("utf-8", "backslashreplace").decode(),
            "status": status,
            "seconds": round(seconds, 6),
            "client": (scope.get("client") or [None])[0],
        }
        logger.info(orjson.dumps(line).decode())
