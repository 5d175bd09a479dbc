"""Codecs: a message's value as the JSON text of its row or envelope, whatever it is encoded in.

A codec is all that a new encoding needs: what follows (types, dead letters, envelopes) works on JSON text,
whose numbers keep their digits. It is a pure function of the bytes, and of what is immutable: a message that
is read again is the same row. Time: none is interpreted here.

To add one (Protobuf, say): a class with the two methods of ``Codec`` that raises UndecodableError for what it
can't read and SchemasUnavailableError while it can't know, a format in ``dsl.source.TOPIC_FORMATS``, and a
line in ``Codecs.of``. What it writes as JSON: a decimal as a number, its digits; a float that is no number as
"NaN", "Infinity" or "-Infinity"; an instant as ISO 8601 with Z, a time on the wall without; bytes in base64.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from featurestore.dsl.source import KafkaTopic
from featurestore.errors import StreamError
from featurestore.plan.nodes import SourcePlan
from featurestore.settings import StreamingSettings


class UndecodableError(Exception):
    """A value that its codec can't read; the text is the reason that its dead letter carries."""


class Codec(Protocol):
    """Reads values of one encoding, and keys beside them. ``what`` it calls a row."""

    what: str

    def text(self, value: bytes) -> bytes:
        """The value as JSON in UTF-8; UndecodableError where it is none."""
        ...

    def key(self, key: bytes) -> bytes | None:
        """A record's key as JSON; None where it is nothing that has one."""
        ...


class JsonCodec:
    """JSON in UTF-8, as it is."""

    what = "JSON object"

    def text(self, value: bytes) -> bytes:
        if not value.isascii():
            try:
                value.decode("utf-8")
            except UnicodeDecodeError as error:
                raise UndecodableError(f"no UTF-8: {error.reason} at byte {error.start}") from None
        return value

    def key(self, key: bytes) -> bytes | None:
        """It is JSON, or its text is one value."""
        try:
            msgspec.json.decode(key)
            return key
        except (msgspec.DecodeError, RecursionError):
            pass
        try:
            return msgspec.json.encode(key.decode("utf-8"))
        except UnicodeDecodeError:
            return None


_JSON = JsonCodec()


class Codecs:
    """The codecs of the topics that a process reads; what they have learnt (schemas) is kept with them."""

    def __init__(self, settings: StreamingSettings) -> None:
        self._settings = settings
        # By whether values are envelopes.
        self._avro: dict[bool, Codec] = {}

    def of(self, plan: SourcePlan) -> Codec:
        """The codec of a source's topic. StreamError where something that it needs is not there."""
        topic = plan.topic
        assert topic is not None
        if topic.encoding == "json":
            return _JSON
        enveloped = topic.enveloped or (plan.changes is not None and plan.changes.format == "debezium")
        if enveloped not in self._avro:
            self._avro[enveloped] = self._avro_codec(topic, enveloped)
        return self._avro[enveloped]

    def _avro_codec(self, topic: KafkaTopic, enveloped: bool) -> Codec:
        from streaming.schema_registry import SchemaRegistry

        if self._settings.schema_registry is None:
            raise StreamError(
                f'topic "{topic.name}" is Avro, and no schema registry is named',
                hint='in featurestore.toml: [streaming] schema_registry = "http://localhost:8081"',
            )
        try:
            from streaming.avro import AvroCodec
        except ModuleNotFoundError as error:
            raise StreamError(
                f'topic "{topic.name}" is Avro, which needs {error.name}',
                hint='pip install "featurestore[avro]"',
            ) from error
        return AvroCodec(SchemaRegistry(self._settings), enveloped=enveloped)
