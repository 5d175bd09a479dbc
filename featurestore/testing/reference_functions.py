"""The oracle's scalar functions: one row's arguments in, a value out, null for null unless said otherwise.

Parts of a timestamp are UTC's.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

from featurestore.testing.reference_casts import DAY_US, EPOCH, WHITE_SPACE, date_of_days
from featurestore.testing.reference_content import decimal_of
from featurestore.testing.reference_operations import INT64_MAX, NAN, rank

_LOWER = "abcdefghijklmnopqrstuvwxyz"
DAYS_OF_400_YEARS = 146_097
_TO_LOWER = str.maketrans(_LOWER.upper(), _LOWER)
_TO_UPPER = str.maketrans(_LOWER, _LOWER.upper())


def _of_all(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, null when any argument is."""
    return lambda *arguments: None if None in arguments else function(*arguments)


def _abs(x: Any) -> Any:
    if isinstance(x, Decimal):
        return x.copy_abs()
    return None if isinstance(x, int) and -x > INT64_MAX else abs(x)


def _to_whole(step: Callable[[Fraction], int]) -> Callable[[Any], Any]:
    def whole(x: Any) -> Any:
        if isinstance(x, int):
            return x
        if isinstance(x, Decimal):
            return decimal_of(step(Fraction(x)), 0)
        return float(step(Fraction(x))) if math.isfinite(x) else x

    return _of_all(whole)


def _sign(x: Any) -> Any:
    if isinstance(x, float):
        return NAN if math.isnan(x) else float((x > 0) - (x < 0))
    return (x > 0) - (x < 0)


def _greatest(*values: Any) -> Any:
    return max((value for value in values if value is not None), key=rank, default=None)


def _least(*values: Any) -> Any:
    return min((value for value in values if value is not None), key=rank, default=None)


def _sqrt(x: float) -> float:
    return math.sqrt(x) if x >= 0 else NAN


def _substr(text: str, start: int, length: int | None = None) -> str:
    end = len(text) + 1 if length is None else start + length
    return "".join(character for place, character in enumerate(text, 1) if start <= place < end)


def _date(t: Any) -> datetime.date:
    """The date, in the like year of the 400 from 1970 on: the calendar repeats itself, Python's ends."""
    days = (t - EPOCH).days if isinstance(t, datetime.date) else t // DAY_US
    return date_of_days(days % DAYS_OF_400_YEARS)


def _year(t: Any) -> int:
    days = (t - EPOCH).days if isinstance(t, datetime.date) else t // DAY_US
    return _date(t).year + days // DAYS_OF_400_YEARS * 400


def _part(of_day_us: int, within: int) -> Callable[[int], int]:
    return lambda t: t % DAY_US // of_day_us % within


def _nullif(a: Any, b: Any) -> Any:
    return None if a is not None and b is not None and rank(a) == rank(b) else a


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "abs": _of_all(_abs),
    "ceil": _to_whole(math.ceil),
    "concat": _of_all(lambda *texts: "".join(texts)),
    "contains": _of_all(lambda text, part: part in text),
    "day": _of_all(lambda t: _date(t).day),
    "day_of_week": _of_all(lambda t: _date(t).isoweekday()),
    "ends_with": _of_all(lambda text, part: text.endswith(part)),
    "epoch_us": _of_all(lambda t: t if isinstance(t, int) else (t - EPOCH).days * DAY_US),
    "floor": _to_whole(math.floor),
    "greatest": _greatest,
    "hour": _of_all(_part(3_600_000_000, 24)),
    "is_nan": _of_all(lambda x: math.isnan(x)),
    "least": _least,
    "length": _of_all(len),
    "lower": _of_all(lambda text: text.translate(_TO_LOWER)),
    "ltrim": _of_all(lambda text: text.lstrip(WHITE_SPACE)),
    "minute": _of_all(_part(60_000_000, 60)),
    "month": _of_all(lambda t: _date(t).month),
    "nullif": _nullif,
    "round": _to_whole(round),
    "rtrim": _of_all(lambda text: text.rstrip(WHITE_SPACE)),
    "second": _of_all(_part(1_000_000, 60)),
    "sign": _of_all(_sign),
    "sqrt": _of_all(_sqrt),
    "starts_with": _of_all(lambda text, part: text.startswith(part)),
    "substr": _of_all(_substr),
    "trim": _of_all(lambda text: text.strip(WHITE_SPACE)),
    "upper": _of_all(lambda text: text.translate(_TO_UPPER)),
    "year": _of_all(_year),
}
