"""JSON bodies as what they should be; whatever else a client sends is its own 4xx."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from api.errors import unfit, unreadable

T = TypeVar("T")


def decoded(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """A body as its type; a Problem says what it is instead: no JSON is 400, JSON of another shape 422."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise unfit(f"body: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        hint = 'JSON is UTF-8 text; what is no number is written as text: "NaN"'
        raise unreadable(f"the body is no JSON that can be read: {reason(error)}", hint=hint) from None


def reason(error: Exception) -> str:
    """Why a text could not be decoded."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(error)
