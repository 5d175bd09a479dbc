"""Schemas from a registry: each is asked for once; what it doesn't know is not what it can't say now."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydantic import ValidationError

from featurestore.errors import SchemasUnavailableError, StreamError
from featurestore.settings import StreamingSettings
from streaming.codec import UndecodableError
from streaming.schema_registry import Registered, SchemaRegistry
from tests.services.schema_registry import Registry


@pytest.fixture
def registry() -> Iterator[Registry]:
    running = Registry()
    yield running
    running.stop()


def client(registry: Registry, **settings: str) -> SchemaRegistry:
    return SchemaRegistry(StreamingSettings(schema_registry=registry.url + "/", **settings))


def test_a_schema_is_asked_for_once(registry: Registry):
    number = registry.register("events-value", {"type": "long"})
    asked = client(registry)
    assert asked.schema(number) is asked.schema(number)
    assert asked.schema(number) == Registered({"type": "long"})
    assert registry.asked.count(f"/schemas/ids/{number}") == 1


def test_an_id_that_is_unknown_is_asked_for_again(registry: Registry):
    asked = client(registry)
    for _ in range(2):
        with pytest.raises(UndecodableError, match="schema 1 is unknown to the schema registry"):
            asked.schema(1)
    registry.register("events-value", "string")
    assert asked.schema(1) == Registered("string")


def test_what_a_schema_refers_to_comes_with_it(registry: Registry):
    registry.register("money/eur", {"type": "fixed", "name": "money", "size": 8})
    inner = [{"name": "money", "subject": "money/eur", "version": 1}]
    registry.register("line", {"type": "record", "name": "line", "fields": []}, references=inner)
    number = registry.register("row", "line", references=[{"name": "line", "subject": "line", "version": 1}])
    found = client(registry).schema(number)
    assert [one.schema["name"] for one in found.references] == ["line"]
    assert [one.schema["name"] for one in found.references[0].references] == ["money"]


def test_a_schema_of_another_kind_is_not_avro(registry: Registry):
    registry.schemas.append({"schema": 'syntax = "proto3";', "schemaType": "PROTOBUF"})
    with pytest.raises(UndecodableError, match="schema 1 is PROTOBUF, not Avro"):
        client(registry).schema(1)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_registry_that_fails_may_be_asked_again(registry: Registry, status: int):
    registry.broken = status
    asked = client(registry)
    with pytest.raises(SchemasUnavailableError, match=f"{registry.url} doesn't answer: HTTP status {status}"):
        asked.schema(1)
    registry.broken = 0
    registry.register("events-value", "string")
    assert asked.schema(1) == Registered("string")


def test_a_registry_that_is_not_there_may_come_back(registry: Registry):
    number = registry.register("events-value", "string")
    registry.stop()
    asked = client(registry)
    with pytest.raises(SchemasUnavailableError, match="refused"):
        asked.schema(number)
    registry.start()
    assert asked.schema(number) == Registered("string")


def test_a_server_that_is_no_registry_is_not_waited_for(registry: Registry):
    # It says 404, but not that it knows no such schema.
    elsewhere = SchemaRegistry(StreamingSettings(schema_registry=f"{registry.url}/elsewhere"))
    with pytest.raises(StreamError, match="can't be used: GET /schemas/ids/1 gave HTTP status 404"):
        elsewhere.schema(1)
    registry.schemas.append({"id": 1})
    with pytest.raises(StreamError, match="an answer that holds no schema"):
        client(registry).schema(1)


def test_a_registry_with_users_is_told_who_asks_and_no_error_tells_the_password():
    registry = Registry(user="reader", password="s3cret:ü")
    try:
        number = registry.register("events-value", "string")
        named = {"schema_registry_user": "reader", "schema_registry_password": "s3cret:ü"}
        assert client(registry, **named).schema(number) == Registered("string")
        with pytest.raises(StreamError, match="HTTP status 401") as raised:
            client(registry, schema_registry_user="reader", schema_registry_password="other").schema(number)
        assert "schema_registry_password" in str(raised.value) and "other" not in str(raised.value)
        with pytest.raises(StreamError, match="HTTP status 401"):
            client(registry).schema(number)
    finally:
        registry.stop()


@pytest.mark.parametrize("url", ["localhost:8081", "http://", "http://user:password@host", "http://host?a=b"])
def test_a_url_is_one_of_http_without_a_user(url: str):
    with pytest.raises(ValidationError):
        StreamingSettings(schema_registry=url)
