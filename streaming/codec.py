"""Codecs: a message's value as the JSON text of its row or envelope, whatever it is encoded in.

A codec is all that a new encoding needs: what follows (types, dead letters, envelopes) works on JSON text,
whose numbers keep their digits. Time: none is interpreted here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from featurestore.dsl.source import KafkaTopic


class UndecodableError(Exception):
    """A value that its codec can't read; the text is the reason that its dead letter carries."""


class Codec(Protocol):
    """Reads values of one encoding."""

    def text(self, value: bytes) -> bytes:
        """The value as JSON in UTF-8; UndecodableError where it is none."""
        ...


class JsonCodec:
    """JSON in UTF-8, as it is."""

    def text(self, value: bytes) -> bytes:
        if not value.isascii():
            try:
                value.decode("utf-8")
            except UnicodeDecodeError as error:
                raise UndecodableError(f"no UTF-8: {error.reason} at byte {error.start}") from None
        return value


CODECS: Mapping[str, type[JsonCodec]] = {"json": JsonCodec, "debezium": JsonCodec}


def codec_of(topic: KafkaTopic) -> Codec:
    """The codec of a topic's values."""
    return CODECS[topic.format]()
