"""A slow interpreter of bound expressions, one row at a time, that says what flags the row.

Values are Python's: int, float, Decimal, bool, str, microseconds or days since 1970, lists. Nothing knows a
clock.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

from featurestore.dtypes import DType
from featurestore.kernel.expression import (
    And,
    Arithmetic,
    Between,
    Call,
    Case,
    Cast,
    Coalesce,
    Column,
    Compare,
    In,
    IsNull,
    Like,
    Literal,
    Negate,
    Node,
    Not,
    Or,
)
from featurestore.kernel.expression_types import infer

DAY_US = 86_400_000_000
EPOCH = datetime.date(1970, 1, 1)


class Interpreter:
    """Reads bound expressions over rows of ``schema``."""

    def __init__(self, schema: Mapping[str, DType]) -> None:
        self.schema = schema
        self.types: dict[int, DType] = {}

    def read(self, node: Node, row: Mapping[str, Any]) -> tuple[Any, bool]:
        """The value of ``node``, and whether the row is flagged."""
        reading = _Row(self, row)
        return reading.read(node), reading.flagged

    def dtype(self, node: Node) -> DType:
        if id(node) not in self.types:
            self.types[id(node)] = infer(node, self.schema)
        return self.types[id(node)]


class _Row:
    def __init__(self, interpreter: Interpreter, values: Mapping[str, Any]) -> None:
        self.dtype, self.values, self.flagged = interpreter.dtype, values, False

    def read(self, node: Node) -> Any:
        match node:
            case Column(name):
                return self.values[name]
            case Literal(value):
                return value
            case Negate(x):
                return self.fit(node, lambda v: -Fraction(v) if not isinstance(v, float) else -v, x)
            case Arithmetic(op, left, right):
                return self.fit(node, lambda a, b: arithmetic(op, a, b), left, right)
            case Compare(op, left, right):
                return compare(op, self.read(left), self.read(right))
            case And(operands):
                return self.until(False, operands)
            case Or(operands):
                return self.until(True, operands)
            case Not(x):
                return None if (v := self.read(x)) is None else not v
            case IsNull(x):
                return self.read(x) is None
            case In(x, items):
                v = self.read(x)
                return either([compare("=", v, w) for w in [self.read(item) for item in items]])
            case Between(x, low, high):
                v, a, b = self.read(x), self.read(low), self.read(high)
                found = either([compare("<", v, a), compare(">", v, b)])
                return None if found is None else not found
            case Like(x, pattern, escape):
                return None if (v := self.read(x)) is None else like(v, pattern, escape)
            case Case(branches, otherwise):
                for when, then in branches:
                    if self.read(when):
                        return self.read(then)
                return None if otherwise is None else self.read(otherwise)
            case Coalesce(operands):
                for x in operands:
                    if (v := self.read(x)) is not None:
                        return v
                return None
            case Cast(x, dtype):
                v = self.read(x)
                return None if v is None else self.held(cast(v, self.dtype(x), dtype), dtype)
            case Call(function, args):
                values = [self.read(x) for x in args]
                if function in ("greatest", "least"):
                    present = [v for v in values if v is not None]
                    return (max if function == "greatest" else min)(present, key=rank, default=None)
                if None in values:
                    return None
                if function in CALENDAR and self.dtype(args[0]).kind == "timestamp":
                    values = [values[0] // DAY_US]
                return self.held(call(function, *values), self.dtype(node))
        raise AssertionError(node)

    def fit(self, node: Node, function: Any, *operands: Node) -> Any:
        values = [self.read(x) for x in operands]
        if None in values or (result := function(*values)) is None:
            return None
        return self.held(result, self.dtype(node))

    def held(self, value: Any, dtype: DType) -> Any:
        """``value``, or null and a flag if it is FAILED or ``dtype`` does not hold it."""
        if dtype.kind == "decimal" and value is not FAILED:
            unscaled = round(Fraction(value) * 10**dtype.scale)
            value = FAILED if abs(unscaled) >= 10**dtype.precision else exact(unscaled, dtype.scale)
        if dtype.kind in ("int64", "timestamp") and value is not FAILED:
            value = int(value) if -(2**63) <= value < 2**63 else FAILED
        if value is FAILED:
            self.flagged = True
            return None
        return value

    def until(self, decisive: bool, operands: tuple[Node, ...]) -> bool | None:
        unknown = False
        for x in operands:
            if (v := self.read(x)) is decisive:
                return decisive
            unknown |= v is None
        return None if unknown else not decisive


FAILED = object()
CALENDAR = ("year", "month", "day", "day_of_week")


def exact(unscaled: int, scale: int) -> Decimal:
    return Decimal((int(unscaled < 0), tuple(map(int, str(abs(unscaled)))), -scale))


def rank(v: Any) -> Any:
    return (1, 0) if isinstance(v, float) and math.isnan(v) else (0, v)


def compare(op: str, a: Any, b: Any) -> bool | None:
    if a is None or b is None:
        return None
    x, y = rank(a), rank(b)
    return {"=": x == y, "<>": x != y, "<": x < y, "<=": x <= y, ">": x > y, ">=": x >= y}[op]


def either(found: list[bool | None]) -> bool | None:
    return True if True in found else None if None in found else False


def arithmetic(op: str, a: Any, b: Any) -> Any:
    if isinstance(a, float):
        return float_arithmetic(op, a, b)
    x, y = Fraction(a), Fraction(b)
    if op == "%":
        return None if y == 0 else x - y * math.trunc(x / y)
    return x + y if op == "+" else x - y if op == "-" else x * y


def float_arithmetic(op: str, a: float, b: float) -> float:
    if op == "%":
        return math.nan if math.isinf(a) or b == 0 else math.fmod(a, b)
    if op == "/" and b == 0:
        return math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a)
    return a + b if op == "+" else a - b if op == "-" else a * b if op == "*" else a / b


def like(text: str, pattern: str, escape: str | None) -> bool:
    """By hand: the pattern's first character against the text's, and so on."""
    if not pattern:
        return not text
    head, tail = pattern[0], pattern[1:]
    if head == escape:
        return text[:1] == tail[0] and like(text[1:], tail[1:], escape)
    if head == "%":
        return any(like(text[i:], tail, escape) for i in range(len(text) + 1))
    return text != "" and (head in ("_", text[0])) and like(text[1:], tail, escape)


def cast(v: Any, source: DType, target: DType) -> Any:
    match source.kind, target.kind:
        case "string", kind if kind != "string":
            return from_text(v.strip(" \t\n\v\f\r"), kind)
        case "float64", "int64" | "decimal":
            return Fraction(v) if target.kind == "decimal" and math.isfinite(v) else whole(v)
        case "int64" | "decimal", "float64":
            return int(v) / 1 if source.kind == "int64" else float(v)
        case "decimal", "int64":
            return round(Fraction(v))
        case "int64", "bool":
            return v != 0
        case "bool", "int64":
            return int(v)
        case "bool", "string":
            return str(v).lower()
        case "int64" | "decimal", "string":
            return format(v, "f") if isinstance(v, Decimal) else str(v)
        case "timestamp", "date":
            return v // DAY_US
        case "date", "timestamp":
            return v * DAY_US
    return v


def whole(v: float) -> Any:
    return round(v) if math.isfinite(v) else FAILED


def from_text(text: str, kind: str) -> Any:
    number = re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", text, re.ASCII | re.IGNORECASE)
    match kind:
        case "int64":
            return int(text) if re.fullmatch(r"[+-]?\d+", text, re.ASCII) else FAILED
        case "float64":
            word = re.fullmatch(r"[+-]?(nan|inf|infinity)", text, re.ASCII | re.IGNORECASE)
            return float(text) if number or word else FAILED
        case "decimal":
            return Fraction(text) if number else FAILED
        case "bool":
            return {"true": True, "false": False}.get(text.lower(), FAILED)
        case "date":
            return days(text) if re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII) else FAILED
        case "timestamp":
            try:
                moment = datetime.datetime.fromisoformat(text)
            except ValueError:
                return FAILED
            moment = moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
            return (moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)) // datetime.timedelta(
                microseconds=1
            )
    return (
        text.lower() if re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text.lower()) else FAILED
    )


def days(text: str) -> Any:
    try:
        return (datetime.date.fromisoformat(text) - EPOCH).days
    except ValueError:
        return FAILED


def call(name: str, v: Any, *rest: Any) -> Any:
    number = Fraction(v) if isinstance(v, int | Decimal) else v
    match name:
        case "abs":
            return abs(number)
        case "sign":
            return v if v != v else type(v if isinstance(v, float) else 0)((v > 0) - (v < 0))
        case "floor" | "ceil" | "round":
            function = {"floor": math.floor, "ceil": math.ceil, "round": round}[name]
            return v if isinstance(v, float) and not math.isfinite(v) else type(v)(function(number))
        case "sqrt":
            return math.sqrt(v) if v >= 0 else math.nan
        case "is_nan":
            return math.isnan(v)
        case "length":
            return len(v)
        case "lower" | "upper":
            return re.sub("[A-Z]" if name == "lower" else "[a-z]", lambda m: m[0].swapcase(), v)
        case "trim" | "ltrim" | "rtrim":
            return getattr(v, name.replace("trim", "strip"))(" \t\n\v\f\r")
        case "concat":
            return "".join((v, *rest))
        case "contains":
            return rest[0] in v
        case "starts_with" | "ends_with":
            return getattr(v, name.replace("_", ""))(rest[0])
        case "substr":
            return v[rest[0] - 1 :][: rest[1]] if len(rest) == 2 else v[rest[0] - 1 :]
        case "epoch_us":
            return v
        case "hour" | "minute" | "second":
            unit, count = {"hour": (3600, 24), "minute": (60, 60), "second": (1, 60)}[name]
            return v // (unit * 1_000_000) % count
    date = EPOCH + datetime.timedelta(v)
    return date.isoweekday() if name == "day_of_week" else getattr(date, name)
