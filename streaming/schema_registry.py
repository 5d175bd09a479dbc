"""A schema registry over HTTP, as Confluent's and those that speak like it (Karapace, Apicurio's ccompat).

What is asked for never changes: an id means one schema, a version of a subject one text. So both are kept for
as long as the process lives. Time: none.
"""

from __future__ import annotations

import base64
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from featurestore.errors import SchemasUnavailableError, StreamError
from featurestore.settings import StreamingSettings
from streaming.codec import UndecodableError

# A registry answers from memory; one that takes so long is asked again, while the group hears of us.
TIMEOUT_S = 10.0
# What such a registry says beside 404: no schema of this id, subject or version. Any other 404 is of a
# server that is no registry.
NOT_FOUND = (40401, 40402, 40403)
AGAIN = (408, 425, 429)


@dataclass(frozen=True)
class Registered:
    """An Avro schema as its author wrote it, and those that it refers to, before it."""

    schema: object
    references: tuple[Registered, ...] = ()


class SchemaRegistry:
    """The schemas of one registry."""

    def __init__(self, settings: StreamingSettings) -> None:
        assert settings.schema_registry is not None
        self.url = settings.schema_registry.rstrip("/")
        self._authorization: str | None = None
        if settings.schema_registry_user is not None:
            password = settings.schema_registry_password
            pair = f"{settings.schema_registry_user}:{password.get_secret_value() if password else ''}"
            self._authorization = f"Basic {base64.b64encode(pair.encode()).decode()}"
        self._known: dict[str, Registered] = {}

    def schema(self, number: int) -> Registered:
        """The schema of an id.

        UndecodableError where the registry knows none, or it is not Avro; SchemasUnavailableError where it
        doesn't answer; StreamError where it never will as it is set.
        """
        return self._schema(f"/schemas/ids/{number}", f"schema {number}")

    def _schema(self, path: str, shown: str) -> Registered:
        if path not in self._known:
            answer = self._asked(path, shown)
            kind = answer.get("schemaType", "AVRO")
            if kind != "AVRO":
                raise UndecodableError(f"{shown} is {kind}, not Avro")
            try:
                schema = json.loads(answer["schema"])
                references = [
                    (str(one["subject"]), int(one["version"])) for one in answer.get("references") or ()
                ]
            except (KeyError, TypeError, ValueError, RecursionError):
                raise self._no_registry(path, "an answer that holds no schema") from None
            self._known[path] = Registered(schema, tuple(self._version(*one) for one in references))
        return self._known[path]

    def _version(self, subject: str, version: int) -> Registered:
        path = f"/subjects/{quote(subject, safe='')}/versions/{version}"
        return self._schema(path, f'version {version} of subject "{subject}"')

    def _asked(self, path: str, shown: str) -> Mapping[str, Any]:
        request = urllib.request.Request(self.url + path)
        request.add_header("Accept", "application/vnd.schemaregistry.v1+json, application/json")
        if self._authorization is not None:
            # Not to another host that this one may send us to.
            request.add_unredirected_header("Authorization", self._authorization)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                return _object(answer.read()) or self._fail(path, "an answer that is no JSON object")
        except urllib.error.HTTPError as error:
            with error:
                said = _object(_body(error)) or {}
            if error.code == 404 and said.get("error_code") in NOT_FOUND:
                raise UndecodableError(f"{shown} is unknown to the schema registry") from None
            if error.code >= 500 or error.code in AGAIN:
                raise self._away(f"HTTP status {error.code}") from None
            raise self._no_registry(path, f"HTTP status {error.code}") from None
        except (OSError, http.client.HTTPException) as error:
            # URLError is an OSError; so are time-outs and connections that end in the middle.
            raise self._away(str(getattr(error, "reason", None) or error or type(error).__name__)) from None

    def _away(self, why: str) -> SchemasUnavailableError:
        return SchemasUnavailableError(
            f"the schema registry at {self.url} doesn't answer: {why}",
            hint="look at the registry, and at schema_registry in [streaming]",
        )

    def _no_registry(self, path: str, what: str) -> StreamError:
        return StreamError(
            f"the schema registry at {self.url} can't be used: GET {path} gave {what}",
            hint="look at schema_registry, schema_registry_user and schema_registry_password in [streaming]",
        )

    def _fail(self, path: str, what: str) -> Mapping[str, Any]:
        raise self._no_registry(path, what)


def _body(error: urllib.error.HTTPError) -> bytes:
    try:
        return error.read()
    except (OSError, http.client.HTTPException):
        return b""


def _object(body: bytes) -> Mapping[str, Any] | None:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
