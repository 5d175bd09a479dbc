"""Value types and their Arrow and JSON faces.

All integers are int64, all floats float64, all instants whole microseconds UTC. A type is a frozen ``DType``;
Arrow is imported only when a face is asked for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featurestore.errors import DefinitionError

if TYPE_CHECKING:
    import pyarrow as pa

SCALARS = ("int64", "float64", "bool", "string", "timestamp", "date", "binary", "uuid")
NUMERIC = ("int64", "float64", "decimal")

_ALIASES = {
    "int": "int64", "integer": "int64", "bigint": "int64", "int8": "int64", "int16": "int64",
    "int32": "int64", "uint8": "int64", "uint16": "int64", "uint32": "int64", "uint64": "int64",
    "smallint": "int64", "tinyint": "int64",
    "float": "float64", "double": "float64", "float32": "float64", "real": "float64",
    "boolean": "bool", "str": "string", "text": "string", "varchar": "string", "utf8": "string",
    "datetime": "timestamp", "bytes": "binary", "blob": "binary",
}  # fmt: skip


@dataclass(frozen=True)
class DType:
    """A value type: a scalar kind, ``decimal`` (with precision and scale), ``list`` (of ``item``) or ``map``
    (from ``key`` to ``item``; results only)."""

    kind: str
    precision: int = 0
    scale: int = 0
    item: DType | None = None
    key: DType | None = None

    def __str__(self) -> str:
        if self.kind == "decimal":
            return f"decimal({self.precision}, {self.scale})"
        if self.kind == "list":
            return f"list<{self.item}>"
        if self.kind == "map":
            return f"map<{self.key}, {self.item}>"
        return self.kind

    @property
    def is_numeric(self) -> bool:
        return self.kind in NUMERIC

    @property
    def arrow(self) -> pa.DataType:
        """The Arrow type that holds this type's values (uuid: canonical lower-case text)."""
        import pyarrow as pa

        match self.kind:
            case "int64":
                return pa.int64()
            case "float64":
                return pa.float64()
            case "bool":
                return pa.bool_()
            case "string" | "uuid":
                return pa.string()
            case "timestamp":
                return pa.timestamp("us", "UTC")
            case "date":
                return pa.date32()
            case "binary":
                return pa.binary()
            case "decimal":
                return pa.decimal128(self.precision, self.scale)
            case "list":
                assert self.item is not None
                return pa.list_(self.item.arrow)
            case "map":
                assert self.item is not None and self.key is not None
                return pa.map_(self.key.arrow, self.item.arrow)
        raise AssertionError(self.kind)


INT64 = DType("int64")
FLOAT64 = DType("float64")
BOOL = DType("bool")
STRING = DType("string")
TIMESTAMP = DType("timestamp")
DATE = DType("date")
BINARY = DType("binary")
UUID = DType("uuid")


def decimal(precision: int, scale: int) -> DType:
    """An exact decimal of 1 to 38 digits, ``scale`` of them behind the point."""
    if not (1 <= precision <= 38 and 0 <= scale <= precision):
        raise DefinitionError(
            f"decimal({precision}, {scale}) is not a type",
            hint="precision is 1 to 38, scale is 0 to precision",
        )
    return DType("decimal", precision=precision, scale=scale)


def list_of(item: DType) -> DType:
    return DType("list", item=item)


def map_of(key: DType, item: DType) -> DType:
    return DType("map", item=item, key=key)


def parse(text: str) -> DType:
    """``"int64"``, ``"decimal(18, 2)"``, ``"list<float64>"`` and the usual aliases, case-insensitive."""
    word = text.strip().lower()
    if m := re.fullmatch(r"(?:decimal|numeric)\s*\(\s*(\d+)\s*(?:,\s*(\d+)\s*)?\)", word):
        return decimal(int(m[1]), int(m[2] or 0))
    if m := re.fullmatch(r"list\s*<(.*)>", word):
        return list_of(parse(m[1]))
    kind = _ALIASES.get(word, word)
    if kind not in SCALARS:
        raise DefinitionError(
            f'"{text}" is not a type',
            hint=f"types are {', '.join(SCALARS)}, decimal(p, s), list<type>",
        )
    return DType(kind)


def from_arrow(arrow: pa.DataType) -> DType | None:
    """The type that holds what an Arrow column holds; None where there is none (struct, map, duration,
    ...)."""
    import pyarrow as pa

    t = pa.types
    if isinstance(arrow, pa.BaseExtensionType):
        return UUID if arrow.extension_name == "arrow.uuid" else from_arrow(arrow.storage_type)
    if t.is_dictionary(arrow):
        return from_arrow(arrow.value_type)
    if t.is_integer(arrow):
        return INT64
    if t.is_floating(arrow):
        return FLOAT64
    if t.is_boolean(arrow):
        return BOOL
    if t.is_string(arrow) or t.is_large_string(arrow) or t.is_string_view(arrow):
        return STRING
    if t.is_timestamp(arrow):
        return TIMESTAMP
    if t.is_date(arrow):
        return DATE
    if t.is_binary(arrow) or t.is_large_binary(arrow) or t.is_fixed_size_binary(arrow):
        return BINARY
    if t.is_decimal(arrow):
        return decimal(arrow.precision, arrow.scale) if arrow.precision <= 38 and arrow.scale >= 0 else None
    if t.is_list(arrow) or t.is_large_list(arrow) or t.is_fixed_size_list(arrow):
        item = from_arrow(arrow.value_type)
        return None if item is None else list_of(item)
    return None


# The proleptic Gregorian calendar in days since 1970, after H. Hinnant, "chrono-Compatible Low-Level Date
# Algorithms".
def _civil(days: int) -> tuple[int, int, int]:
    days += 719_468
    era, day_of_era = divmod(days, 146_097)
    year_of_era = (day_of_era - day_of_era // 1_460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * day_of_year + 2) // 153
    month = shifted + 3 if shifted < 10 else shifted - 9
    return year_of_era + era * 400 + (month <= 2), month, day_of_year - (153 * shifted + 2) // 5 + 1


def instant_text(us: int) -> str:
    """An instant as ISO 8601 with ``Z``; digits of a second only where there are any; years beyond 9999 with
    a sign."""
    days, rest = divmod(us, 86_400_000_000)
    seconds, fraction = divmod(rest, 1_000_000)
    text = f"{date_text(days)}T{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return f"{text}.{fraction:06}Z" if fraction else f"{text}Z"


def date_text(days: int) -> str:
    """A date, in days since 1970, as ISO 8601."""
    year, month, day = _civil(days)
    shown = f"{year:04}" if 0 <= year <= 9999 else f"{year:+05}"
    return f"{shown}-{month:02}-{day:02}"
