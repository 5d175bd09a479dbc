"""Every operation, defined once: its parameters, what it takes, what it gives.

Names, the docs' table, validation and result types are derived from ``OPERATIONS``. Importing this module is
cheap: the loops that compute are elsewhere in the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from featurestore.dtypes import BOOL, FLOAT64, INT64, DType, decimal, list_of, map_of

Parameters = Mapping[str, object]

ORDERED = ("int64", "float64", "decimal", "bool", "string", "uuid", "timestamp", "date", "binary")


@dataclass(frozen=True)
class Operation:
    """One operation.

    ``takes`` are the kinds of input (after lists are exploded, unless ``whole_lists``); empty = any.
    ``column`` is "none", "optional" or "required". ``result`` maps (input type, parameters) to the result's
    type. ``zero_when_empty``: the empty set gives 0 instead of null. ``label`` is the operation's part of a
    feature's name.
    """

    name: str
    doc: str
    result: Callable[[DType, Parameters], DType]
    column: str = "required"
    takes: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    zero_when_empty: bool = False
    whole_lists: bool = False
    label: Callable[[Parameters], str] | None = None

    def label_of(self, parameters: Parameters) -> str:
        return self.name if self.label is None else self.label(parameters)


def _same(dtype: DType, _: Parameters) -> DType:
    return dtype


def _fixed(dtype: DType) -> Callable[[DType, Parameters], DType]:
    return lambda _dtype, _parameters: dtype


def _list(dtype: DType, _: Parameters) -> DType:
    return list_of(dtype)


def _sum(dtype: DType, _: Parameters) -> DType:
    return decimal(38, dtype.scale) if dtype.kind == "decimal" else dtype


def _with_k(prefix: str) -> Callable[[Parameters], str]:
    return lambda parameters: f"{prefix}_{parameters['k']}"


def _percentile_label(parameters: Parameters) -> str:
    from decimal import Decimal

    percent = Decimal(str(parameters["q"])) * 100
    text = format(percent.normalize(), "f").replace(".", "_")
    return f"p{text}"


def _sample_label(name: str) -> Callable[[Parameters], str]:
    return lambda parameters: f"{name}_sample" if parameters.get("sample") else name


def _histogram_label(parameters: Parameters) -> str:
    return "histogram" if parameters.get("k") is None else f"histogram_{parameters['k']}"


_NUMERIC = ("int64", "float64", "decimal")

_ALL = (
    Operation(
        "count", "facts, or non-null inputs; 0 for none", _fixed(INT64),
        column="optional", zero_when_empty=True, whole_lists=True,
    ),
    Operation("sum", "the exact sum, rounded once", _sum, takes=_NUMERIC),
    Operation("mean", "the exact sum rounded once to float64, divided by n", _fixed(FLOAT64), takes=_NUMERIC),
    Operation(
        "variance", "the exact central moment, rounded once; sample=True divides by n - 1", _fixed(FLOAT64),
        takes=_NUMERIC, parameters=("sample",), label=_sample_label("variance"),
    ),
    Operation(
        "stddev", "the square root of the variance", _fixed(FLOAT64),
        takes=_NUMERIC, parameters=("sample",), label=_sample_label("stddev"),
    ),
    Operation("skew", "m3 / (m2 * sqrt(m2)); null when n < 3 or m2 = 0", _fixed(FLOAT64), takes=_NUMERIC),
    Operation("kurtosis", "m4 / (m2 * m2) - 3; null when n < 4 or m2 = 0", _fixed(FLOAT64), takes=_NUMERIC),
    Operation("min", "the smallest; NaN only when all are NaN", _same, takes=ORDERED),
    Operation("max", "the largest; NaN only when all are NaN", _same, takes=ORDERED),
    Operation("first", "the earliest by timeline order", _same, whole_lists=True),
    Operation("last", "the latest by timeline order", _same, whole_lists=True),
    Operation(
        "first_k", "the k earliest, oldest first", _list,
        parameters=("k",), required=("k",), whole_lists=True, label=_with_k("first"),
    ),
    Operation(
        "last_k", "the k latest, newest first", _list,
        parameters=("k",), required=("k",), whole_lists=True, label=_with_k("last"),
    ),
    Operation(
        "min_by", "the column's value where `order` is smallest; ties: the latest fact", _same,
        parameters=("order",), required=("order",), whole_lists=True,
        label=lambda parameters: f"min_by_{parameters['order']}",
    ),
    Operation(
        "max_by", "the column's value where `order` is largest; ties: the latest fact", _same,
        parameters=("order",), required=("order",), whole_lists=True,
        label=lambda parameters: f"max_by_{parameters['order']}",
    ),
    Operation(
        "top_k", "the k largest, largest first, duplicates kept", _list,
        takes=ORDERED, parameters=("k",), required=("k",), label=_with_k("top"),
    ),
    Operation(
        "bottom_k", "the k smallest, smallest first, duplicates kept", _list,
        takes=ORDERED, parameters=("k",), required=("k",), label=_with_k("bottom"),
    ),
    Operation(
        "count_distinct", "the number of distinct values; 0 for none", _fixed(INT64),
        takes=ORDERED, zero_when_empty=True,
    ),
    Operation(
        "distinct_k", "the last k distinct values, newest first", _list,
        takes=ORDERED, parameters=("k",), required=("k",), label=_with_k("distinct"),
    ),
    Operation("mode", "the most frequent value; ties: the smallest", _same, takes=ORDERED),
    Operation(
        "histogram", "value -> count; k= keeps the most frequent (ties: the smallest)",
        lambda dtype, _: map_of(dtype, INT64), takes=ORDERED, parameters=("k",), label=_histogram_label,
    ),
    Operation(
        "percentile", 'numpy.quantile(..., method="linear") at q, 0 to 1', _fixed(FLOAT64),
        takes=_NUMERIC, parameters=("q",), required=("q",), label=_percentile_label,
    ),
    Operation(
        "time_since_first", "seconds since the earliest fact", _fixed(FLOAT64),
        column="optional", whole_lists=True,
    ),
    Operation(
        "time_since_last", "seconds since the latest fact", _fixed(FLOAT64),
        column="optional", whole_lists=True,
    ),
    Operation("bool_any", "true when any is true", _fixed(BOOL), takes=("bool",)),
    Operation("bool_all", "true when all are true", _fixed(BOOL), takes=("bool",)),
)  # fmt: skip

OPERATIONS: Mapping[str, Operation] = {operation.name: operation for operation in _ALL}
