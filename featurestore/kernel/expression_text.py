"""What a string says when it is cast: all of it, trimmed of ASCII white space, is the literal of the type.

A timestamp without offset is UTC; digits finer than a microsecond are floored. Nothing here knows what day it
is. The literals are those of text in logs.
"""

from __future__ import annotations

import datetime
import decimal
import re

from featurestore.dtypes import DType

WHITE_SPACE = " \t\n\v\f\r"

SHAPES = {
    "int64": "-42",
    "float64": "-4.2e1, NaN, Infinity",
    "decimal": "-4.20",
    "bool": "true or false",
    "timestamp": "2026-01-31, 2026-01-31T12:00:00.5 (UTC) or 2026-01-31 12:00:00+01:00",
    "date": "2026-01-31",
    "uuid": "123e4567-e89b-12d3-a456-426614174000",
}

_INT = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE]([+-]?[0-9]+))?")
_WORD = re.compile(r"([+-]?)(?:(nan)|inf(?:inity)?)", re.IGNORECASE | re.ASCII)
_DATE = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})")
_TIMESTAMP = re.compile(
    _DATE.pattern
    + r"(?:[Tt ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]+))?)?"
    + r"(?:[Zz]| ?(?:[Uu][Tt][Cc]|([+-])([0-9]{2})(?::?([0-9]{2}))?))?)?"
)
_UUID = re.compile(
    r"(?:urn:uuid:|(\{)?)([0-9a-f]{8}(-?)(?:[0-9a-f]{4}\3){3}[0-9a-f]{12})(?(1)\})", re.IGNORECASE | re.ASCII
)
_EPOCH_DAY = datetime.date(1970, 1, 1).toordinal()
_EXACT = decimal.Context(
    prec=120, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN, rounding=decimal.ROUND_HALF_EVEN
)


def read(text: str, dtype: DType) -> bool | int | float | decimal.Decimal | str | None:
    """``text`` as a value of ``dtype`` (timestamp: microseconds, date: days since 1970), or None."""
    text = text.strip(WHITE_SPACE)
    match dtype.kind:
        case "int64":
            return _int64(text)
        case "float64":
            return _float64(text)
        case "decimal":
            return _decimal(text, dtype)
        case "bool":
            return {"true": True, "false": False}.get(text.lower()) if text.isascii() else None
        case "timestamp":
            return _timestamp_us(text)
        case "date":
            return _days(_DATE.fullmatch(text))
        case "uuid":
            return _uuid(text)
    raise AssertionError(dtype)


def _int64(text: str) -> int | None:
    if not _INT.fullmatch(text):
        return None
    digits = text.lstrip("+-").lstrip("0") or "0"
    if len(digits) > 19:
        return None
    value = -int(digits) if text[0] == "-" else int(digits)
    return value if -(2**63) <= value < 2**63 else None


def _float64(text: str) -> float | None:
    if _NUMBER.fullmatch(text):
        return float(text) + 0.0  # correctly rounded; beyond float64 an infinity
    if m := _WORD.fullmatch(text):
        return float("nan") if m[2] else float(f"{m[1]}inf")
    return None


def _decimal(text: str, dtype: DType) -> decimal.Decimal | None:
    """Halves beyond the scale go to the even neighbour."""
    m = _NUMBER.fullmatch(text)
    if m is None:
        return None
    if m[1] and len(m[1].lstrip("+-").lstrip("0")) > 9:
        # Beyond what Decimal's exponents and any text in memory can make up for.
        zero = m[1][0] == "-" or not re.search("[1-9]", text[: m.start(1)])
        return decimal.Decimal(0).scaleb(-dtype.scale) if zero else None
    value = decimal.Decimal(text)
    if value and value.adjusted() > dtype.precision - dtype.scale:
        return None
    value = value.quantize(decimal.Decimal(1).scaleb(-dtype.scale), context=_EXACT)
    if len(value.as_tuple().digits) > dtype.precision:
        return None
    return value if value else abs(value)


def _days(m: re.Match[str] | None) -> int | None:
    if m is None:
        return None
    try:
        return datetime.date(int(m[1]), int(m[2]), int(m[3])).toordinal() - _EPOCH_DAY
    except ValueError:
        return None


def _timestamp_us(text: str) -> int | None:
    m = _TIMESTAMP.fullmatch(text)
    days = _days(m)
    if m is None or days is None:
        return None
    hour, minute, second = (int(part or 0) for part in m.group(4, 5, 6))
    offset_hour, offset_minute = (int(part or 0) for part in m.group(9, 10))
    if hour > 23 or minute > 59 or second > 59 or offset_hour > 23 or offset_minute > 59:
        return None
    offset_s = (offset_hour * 60 + offset_minute) * 60 * (-1 if m[8] == "-" else 1)
    micros = int(((m[7] or "") + "000000")[:6])
    return (days * 86_400 + hour * 3600 + minute * 60 + second - offset_s) * 1_000_000 + micros


def _uuid(text: str) -> str | None:
    m = _UUID.fullmatch(text)
    if m is None:
        return None
    digits = m[2].replace("-", "").lower()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
