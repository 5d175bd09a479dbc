"""The oracle's casts: a value as another type, or null where it can't be held.

A timestamp without offset is UTC; nothing here knows today's date.
"""

from __future__ import annotations

import datetime
import math
import re
import uuid
from decimal import Decimal
from fractions import Fraction
from typing import Any

from featurestore.dtypes import DType
from featurestore.testing.reference_content import decimal_of
from featurestore.testing.reference_operations import INT64_MAX, INT64_MIN, nearest

WHITE_SPACE = " \t\n\v\f\r"
DAY_US = 86_400_000_000
EPOCH = datetime.date(1970, 1, 1)

_INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_TIMESTAMP = re.compile(
    r"(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"([T ](?P<minute>[0-9]{2}:[0-9]{2})(:(?P<second>[0-9]{2})([.](?P<fraction>[0-9]+))?)?"
    r"(?P<offset>Z|UTC|[+-][0-9]{2}(:?[0-9]{2})?)?)?"
)
_UUID = re.compile("[0-9a-fA-F]{32}|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_NAMED_FLOATS = {"nan": math.nan, "inf": math.inf, "infinity": math.inf}


def date_of_days(days: int) -> datetime.date:
    """The date so many days after 1970-01-01."""
    return EPOCH + datetime.timedelta(days=days)


def fitted(exact: Any, dtype: DType) -> Any:
    """A number as ``dtype`` holds it, halves to even; None beyond it."""
    match dtype.kind:
        case "float64":
            return exact if isinstance(exact, float) else nearest(Fraction(exact))
        case "decimal":
            units = round(Fraction(exact) * 10**dtype.scale)
            return decimal_of(units, dtype.scale) if abs(units) < 10**dtype.precision else None
    whole = round(Fraction(exact))
    return whole if INT64_MIN <= whole <= INT64_MAX else None


def cast(value: Any, given: DType, wanted: DType) -> Any:
    """``value`` of type ``given`` as ``wanted``."""
    if given.kind == "string":
        return _from_string(value.strip(WHITE_SPACE), wanted) if wanted.kind != "string" else value
    match given.kind, wanted.kind:
        case "bool", "int64":
            return int(value)
        case "bool", "string":
            return "true" if value else "false"
        case "int64", "bool":
            return value != 0
        case (("int64" | "decimal"), "string"):
            return format(value, "f") if isinstance(value, Decimal) else str(value)
        case "timestamp", "date":
            return date_of_days(value // DAY_US)
        case "date", "timestamp":
            return (value - EPOCH).days * DAY_US
        case (("int64" | "float64" | "decimal"), ("int64" | "float64" | "decimal")):
            if isinstance(value, float) and not math.isfinite(value):
                return value if wanted.kind == "float64" else None
            return fitted(value, wanted)
    return value


def _from_string(text: str, wanted: DType) -> Any:
    match wanted.kind:
        case "int64":
            return fitted(Decimal(text), wanted) if _INTEGER.fullmatch(text) else None
        case "float64":
            return _float(text)
        case "decimal":
            return _decimal(text, wanted)
        case "bool":
            return {"true": True, "false": False}.get(text.lower())
        case "uuid":
            return _uuid(text)
        case "date":
            return _date(text)
        case "timestamp":
            return _timestamp(text)
    raise AssertionError(wanted.kind)


def _float(text: str) -> float | None:
    unsigned = text.lstrip("+-").lower()
    if unsigned in _NAMED_FLOATS and len(text) - len(unsigned) <= 1:
        return -_NAMED_FLOATS[unsigned] if text[0] == "-" else _NAMED_FLOATS[unsigned]
    return float(text) if _NUMBER.fullmatch(text) else None


def _decimal(text: str, wanted: DType) -> Decimal | None:
    if not _NUMBER.fullmatch(text):
        return None
    value = Decimal(text)
    # Out of any decimal's reach: spare the arithmetic a number of a million digits.
    if value and value.adjusted() > 50:
        return None
    held = fitted(0 if value.adjusted() < -50 else value, wanted)
    assert held is None or isinstance(held, Decimal)
    return held


def _uuid(text: str) -> str | None:
    in_braces = text[:1] == "{" and text[-1:] == "}"
    digits = text[1:-1] if in_braces else text.removeprefix("urn:uuid:")
    return str(uuid.UUID(digits)) if _UUID.fullmatch(digits) else None


def _date(text: str) -> datetime.date | None:
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text, re.ASCII):
        return None
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        return None


def _timestamp(text: str) -> int | None:
    found = _TIMESTAMP.fullmatch(text)
    if found is None:
        return None
    # Digits finer than a microsecond are cut off, which within a second is flooring.
    fraction = (found["fraction"] or "").ljust(6, "0")[:6]
    offset = (found["offset"] or "Z").replace("UTC", "Z")
    clock = f"{found['minute'] or '00:00'}:{found['second'] or '00'}.{fraction}{offset}"
    try:
        moment = datetime.datetime.fromisoformat(f"{found['date']}T{clock}")
    except ValueError:
        return None
    return (moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)) // datetime.timedelta(microseconds=1)
