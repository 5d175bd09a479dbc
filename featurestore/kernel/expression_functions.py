"""The functions of the expression language: how each is written, and its rule, said once.

None of them knows a clock, a locale, the platform's libm or a Unicode version.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Function:
    """How a function is written, how many arguments it takes (``most`` None: any number), and its rule."""

    usage: str
    least: int
    most: int | None
    rule: str


FUNCTIONS: dict[str, Function] = {
    "abs": Function("abs(x)", 1, 1, "absolute value, of x's type; int64's least value gives null, flagged"),
    "ceil": Function("ceil(x)", 1, 1, "least whole number >= x, of x's kind (decimal: scale 0)"),
    "concat": Function("concat(s, ...)", 2, None, "the strings joined; null if one is null"),
    "contains": Function("contains(s, 'text')", 2, 2, "whether the text occurs in s; the text is a literal"),
    "day": Function("day(t)", 1, 1, "day of the month of a timestamp (UTC) or date, 1 to 31, int64"),
    "day_of_week": Function(
        "day_of_week(t)", 1, 1, "Monday 1 to Sunday 7 of a timestamp (UTC) or date, int64"
    ),
    "ends_with": Function(
        "ends_with(s, 'text')", 2, 2, "whether s ends with the text; the text is a literal"
    ),
    "epoch_us": Function(
        "epoch_us(t)", 1, 1, "microseconds since 1970-01-01T00:00:00Z of a timestamp, int64"
    ),
    "floor": Function("floor(x)", 1, 1, "greatest whole number <= x, of x's kind (decimal: scale 0)"),
    "greatest": Function(
        "greatest(a, b, ...)", 2, None, "the largest non-null argument, NaN above every number"
    ),
    "hour": Function("hour(t)", 1, 1, "hour of the day of a timestamp (UTC), 0 to 23, int64"),
    "is_nan": Function("is_nan(x)", 1, 1, "whether a float64 is NaN"),
    "least": Function("least(a, b, ...)", 2, None, "the smallest non-null argument, NaN above every number"),
    "length": Function("length(s)", 1, 1, "number of code points of a string, int64"),
    "lower": Function("lower(s)", 1, 1, "A to Z made a to z; every other character stays"),
    "ltrim": Function("ltrim(s)", 1, 1, "s without ASCII white space at its start"),
    "minute": Function("minute(t)", 1, 1, "minute of the hour of a timestamp (UTC), 0 to 59, int64"),
    "month": Function("month(t)", 1, 1, "month of a timestamp (UTC) or date, 1 to 12, int64"),
    "nullif": Function("nullif(a, b)", 2, 2, "null where a = b, else a, of a's type"),
    "round": Function(
        "round(x)", 1, 1, "nearest whole number, halves to even, of x's kind (decimal: scale 0)"
    ),
    "rtrim": Function("rtrim(s)", 1, 1, "s without ASCII white space at its end"),
    "second": Function("second(t)", 1, 1, "second of the minute of a timestamp (UTC), 0 to 59, int64"),
    "sign": Function("sign(x)", 1, 1, "-1, 0 or 1, int64; of a float64 a float64, NaN of NaN"),
    "sqrt": Function("sqrt(x)", 1, 1, "IEEE 754 square root in float64; NaN below 0"),
    "starts_with": Function(
        "starts_with(s, 'text')", 2, 2, "whether s starts with the text; the text is a literal"
    ),
    "substr": Function(
        "substr(s, start[, length])",
        2,
        3,
        "code points from the start-th (1 is the first); whole-number literals",
    ),
    "trim": Function(
        "trim(s)", 1, 1, "s without ASCII white space (space, \\t \\n \\v \\f \\r) at both ends"
    ),
    "upper": Function("upper(s)", 1, 1, "a to z made A to Z; every other character stays"),
    "year": Function("year(t)", 1, 1, "year of a timestamp (UTC) or date, proleptic Gregorian, int64"),
}
