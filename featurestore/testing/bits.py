"""Values as their bits: two values are the same only when their types, orders and every bit are.

No rule about time: an instant is an int like any other.
"""

from __future__ import annotations

import datetime
import struct
from collections.abc import Mapping
from decimal import Decimal
from typing import Any


def bits(value: Any) -> tuple[Any, ...]:
    """What ``==`` should compare: NaN is NaN, 0.0 is not -0.0, and 1, 1.0 and Decimal(1) are three values."""
    match value:
        case None:
            return ("null",)
        case bool():
            return ("bool", value)
        case float():
            return ("float64", struct.pack("<d", value).hex())
        case Decimal():
            return ("decimal", value.as_tuple())
        case Mapping():
            return ("map", *((bits(key), bits(of)) for key, of in value.items()))
        case list() | tuple():
            return ("list", *map(bits, value))
        case int() | str() | bytes() | datetime.date():
            return (type(value).__name__, value)
    raise AssertionError(f"no value of a feature is a {type(value).__name__}")
