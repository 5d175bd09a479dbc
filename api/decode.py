"""JSON bodies as what they should be; whatever else a client sends is its own 4xx."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from api.errors import unfit, unreadable
from featurestore.errors import suggestion

T = TypeVar("T")

_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_LONGEST_NAME = 100


def decoded(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """A body as its type; a Problem says what it is instead: no JSON is 400, JSON of another shape 422."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        unknown = _UNKNOWN_FIELD.fullmatch(str(error))
        if unknown is None:
            raise unfit(f"body: {error}") from None
        name = unknown[1][:_LONGEST_NAME]
        raise unfit(
            f'body: no field "{name}"', hint=suggestion(name, fields_of(decoder.type), what="fields")
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        hint = 'JSON is UTF-8 text; what is no number is written as text: "NaN"'
        raise unreadable(f"the body is no JSON that can be read: {reason(error)}", hint=hint) from None


def fields_of(struct: Any) -> list[str]:
    """The fields that an object of a struct's type may have."""
    return [field.encode_name for field in msgspec.structs.fields(struct)]


def reason(error: Exception) -> str:
    """Why a text could not be decoded."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(error)
