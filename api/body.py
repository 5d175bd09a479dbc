"""Request bodies, read whole within limits of size and time.

uvicorn has neither: a body that is too long is refused before it is read, one that comes too slowly when its
time is up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from starlette.types import Receive, Scope

from api.errors import Problem, unreadable

# After such an answer the rest of the body is not wanted: the connection ends with it.
_CLOSE = {"connection": "close"}

JSON_TYPES = ("application/json",)
ROW_TYPES = ("application/json", "application/x-ndjson", "application/ndjson", "application/jsonl")


class ClientGoneError(Exception):
    """The client went away before its body was whole: there is nobody to answer."""


def header(scope: Scope, name: bytes) -> str | None:
    """A header's first value; ``name`` in lower case."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value.decode("latin-1"))
    return None


def content_type(scope: Scope, accepted: Collection[str]) -> str:
    """The body's declared type; a Problem (415) for one that isn't accepted.

    It must be declared: a page in a browser can send a body of an undeclared or a form's type anywhere, and
    this service may listen beside that browser.
    """
    given = header(scope, b"content-type") or ""
    kind = given.partition(";")[0].strip().lower()
    if kind not in accepted:
        shown = f"content type {kind[:100]}" if kind else "no content type"
        raise Problem(415, "content-type", "Content type", f"the body has {shown}",
                      hint=f"send it as {' or '.join(accepted)}", headers=_CLOSE)  # fmt: skip
    coding = (header(scope, b"content-encoding") or "identity").strip().lower()
    if coding != "identity":
        raise Problem(415, "content-encoding", "Content encoding", f"the body is encoded as {coding[:100]}",
                      hint="send it as it is", headers=_CLOSE)  # fmt: skip
    return kind


async def read_body(scope: Scope, receive: Receive, *, limit: int, timeout_s: float) -> bytes:
    """The whole body of at most ``limit`` bytes.

    A Problem beyond it (413), when it takes longer than ``timeout_s`` (408), and for no body (400).
    """
    declared = header(scope, b"content-length")
    # No limit admits a length of more than 18 digits, and Python makes no number of thousands of them.
    if declared is not None and declared.isdecimal() and (len(declared) > 18 or int(declared) > limit):
        raise _too_large(limit)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGoneError
                part = message.get("body", b"")
                size += len(part)
                if size > limit:
                    raise _too_large(limit)
                parts.append(part)
                if not message.get("more_body", False):
                    break
    except TimeoutError:
        raise Problem(408, "slow-body", "Slow body", f"the body took longer than {timeout_s:g} s to arrive",
                      hint="send less at a time", headers=_CLOSE) from None  # fmt: skip
    body = parts[0] if len(parts) == 1 else b"".join(parts)
    if not body:
        raise unreadable("the request has no body", hint="send a JSON document")
    return body


def _too_large(limit: int) -> Problem:
    return Problem(413, "body-too-large", "Body too large", f"the body is longer than {limit} bytes",
                   hint="send less at a time, or raise serving.max_body_bytes", headers=_CLOSE)  # fmt: skip
