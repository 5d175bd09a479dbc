"""A schema registry for tests: a real HTTP server that answers as Confluent's does, as far as it is asked
(``GET /schemas/ids/{id}``, ``GET`` of a subject's version, ``POST`` of a schema to a subject).

Confluent's own and Karapace are a JVM's distribution and a service with a Kafka topic of its own; neither is
a package that a test could start. What they answer is written in their API's reference: the status, and
``error_code`` in the body.
"""

from __future__ import annotations

import base64
import json
import re
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, unquote

NO_SUBJECT, NO_VERSION, NO_SCHEMA, UNAUTHORIZED = 40401, 40402, 40403, 40101


class Registry:
    """``url`` is where clients ask; it stays the same over restarts, which forget nothing. ``asked`` are the
    paths that were, in order."""

    def __init__(self, user: str | None = None, password: str = "") -> None:
        self._credentials = None
        if user is not None:
            self._credentials = f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"
        self.schemas: list[dict[str, Any]] = []
        self.subjects: dict[str, list[int]] = {}
        self.asked: list[str] = []
        self.broken = 0
        self._port = 0
        self._server: ThreadingHTTPServer | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                registry._answer(self, None)

            def do_POST(self) -> None:
                registry._answer(self, self.rfile.read(int(self.headers["Content-Length"])))

            def log_message(self, *_: object) -> None:
                pass

        ThreadingHTTPServer.allow_reuse_address = True
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def register(
        self, subject: str, schema: object, *, references: list[dict[str, Any]] | None = None
    ) -> int:
        """Register a schema over HTTP, as a producer does; its id."""
        body = {"schema": json.dumps(schema), "schemaType": "AVRO", "references": references or []}
        request = urllib.request.Request(
            f"{self.url}/subjects/{quote(subject, safe='')}/versions",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/vnd.schemaregistry.v1+json"},
        )
        if self._credentials is not None:
            request.add_header("Authorization", self._credentials)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(json.load(answer)["id"])

    def _answer(self, request: BaseHTTPRequestHandler, body: bytes | None) -> None:
        self.asked.append(request.path)
        if self._credentials is not None and request.headers.get("Authorization") != self._credentials:
            self._say(request, 401, {"error_code": UNAUTHORIZED, "message": "Unauthorized"})
        elif self.broken:
            self._say(request, self.broken, {"error_code": self.broken * 100 + 1, "message": "no luck"})
        elif body is not None and (found := re.fullmatch(r"/subjects/([^/]+)/versions", request.path)):
            self._say(request, 200, {"id": self._registered(unquote(found[1]), json.loads(body))})
        elif found := re.fullmatch(r"/schemas/ids/(\d+)", request.path):
            number = int(found[1])
            if not 1 <= number <= len(self.schemas):
                self._say(request, 404, {"error_code": NO_SCHEMA, "message": f"Schema {number} not found"})
            else:
                self._say(request, 200, self.schemas[number - 1])
        elif found := re.fullmatch(r"/subjects/([^/]+)/versions/(\d+)", request.path):
            self._version(request, unquote(found[1]), int(found[2]))
        else:
            self._say(request, 404, {"error_code": 404, "message": "HTTP 404 Not Found"})

    def _registered(self, subject: str, asked: dict[str, Any]) -> int:
        kept = {name: asked[name] for name in ("schema", "references") if asked.get(name)}
        if asked.get("schemaType", "AVRO") != "AVRO":
            kept["schemaType"] = asked["schemaType"]
        if kept not in self.schemas:
            self.schemas.append(kept)
        number = self.schemas.index(kept) + 1
        versions = self.subjects.setdefault(subject, [])
        if number not in versions:
            versions.append(number)
        return number

    def _version(self, request: BaseHTTPRequestHandler, subject: str, version: int) -> None:
        numbers = self.subjects.get(subject)
        if numbers is None:
            self._say(request, 404, {"error_code": NO_SUBJECT, "message": "Subject not found"})
        elif not 1 <= version <= len(numbers):
            self._say(request, 404, {"error_code": NO_VERSION, "message": "Version not found"})
        else:
            number = numbers[version - 1]
            said = {"subject": subject, "version": version, "id": number, **self.schemas[number - 1]}
            self._say(request, 200, said)

    def _say(self, request: BaseHTTPRequestHandler, status: int, said: dict[str, Any]) -> None:
        body = json.dumps(said).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)
