"""One Arrow array to the canonical array of a type, and which of its values that type can't hold.

Time: see ``cast``. Floored to microseconds, naive times read in the zone, integers in the time unit.
"""

from __future__ import annotations

import base64
import binascii
import decimal
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.dtypes import DType
from featurestore.log import literals
from featurestore.log.cells import BOOLEAN, CELL, LIST, NULL, NUMBER, TEXT, cells_of, parse_json
from featurestore.log.zones import Zone

Bools = NDArray[np.bool_]
I64 = NDArray[np.int64]
Converted: TypeAlias = tuple[pa.Array, Bools | None]
Fixed = TypeVar("Fixed", bound=np.generic)

_I64_MIN, _I64_MAX = -(2**63), 2**63 - 1
_UNIT_US = {"s": 1_000_000, "ms": 1_000, "us": 1}
# Local times nearer than this to the ends of int64 have no instant in it; no offset reaches two days.
_MARGIN_US = 2 * 86_400 * 1_000_000
_PARSED = decimal.Context(prec=decimal.MAX_PREC, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)

# What each type can be made of, by the family of what the log holds.
CASTS: dict[str, frozenset[str]] = {
    "int64": frozenset({"int", "float", "decimal", "text"}),
    "float64": frozenset({"int", "float", "decimal", "text"}),
    "decimal": frozenset({"int", "float", "decimal", "text"}),
    "bool": frozenset({"bool", "text"}),
    "string": frozenset({"text", "int", "decimal", "binary", "uuid"}),
    "timestamp": frozenset({"timestamp", "date", "text", "int"}),
    "date": frozenset({"date", "text"}),
    "binary": frozenset({"binary", "text"}),
    "uuid": frozenset({"uuid", "text", "binary"}),
    "list": frozenset({"list", "text"}),
}


def family(arrow: pa.DataType) -> str | None:
    """The name under which ``CASTS`` knows an Arrow type; None where no type can be made of it."""
    t = pa.types
    if isinstance(arrow, pa.BaseExtensionType):
        return "uuid" if arrow.extension_name == "arrow.uuid" else family(arrow.storage_type)
    if t.is_dictionary(arrow) or t.is_run_end_encoded(arrow):
        return family(arrow.value_type)
    tests: list[tuple[Callable[[pa.DataType], bool], str]] = [
        (t.is_null, "null"), (t.is_integer, "int"), (t.is_floating, "float"), (t.is_boolean, "bool"),
        (t.is_string, "text"), (t.is_large_string, "text"), (t.is_string_view, "text"), (t.is_timestamp,
        "timestamp"), (t.is_date, "date"), (t.is_binary, "binary"), (t.is_large_binary, "binary"),
        (t.is_binary_view, "binary"), (t.is_fixed_size_binary, "binary"), (t.is_decimal, "decimal"),
        (t.is_list, "list"), (t.is_large_list, "list"), (t.is_fixed_size_list, "list"), (t.is_list_view,
        "list"),
    ]  # fmt: skip
    return next((name for test, name in tests if test(arrow)), None)


def converted(raw: pa.Array, dtype: DType, zone: Zone, time_unit: str | None) -> Converted:
    """``raw`` as the canonical array of ``dtype``, and a mask of the values that it can't hold (null in the
    array)."""
    if raw.type == CELL:
        values, good = _from_cells(raw.storage, dtype, zone, time_unit)
    else:
        values, good = _from_array(_plain(raw), dtype, zone, time_unit)
    if good is None:
        return values, None
    bad = ~good & _valid(raw)
    if not bad.any():
        return values, None
    nothing = pa.scalar(None, values.type)
    return pc.if_else(pa.array(bad), nothing, values), bad


def _plain(raw: pa.Array) -> pa.Array:
    """``raw`` without dictionaries, views and wide offsets."""
    t = pa.types
    if isinstance(raw.type, pa.BaseExtensionType) and raw.type.extension_name != "arrow.uuid":
        return _plain(raw.storage)
    if t.is_dictionary(raw.type):
        return _plain(pc.cast(raw, raw.type.value_type))
    if t.is_run_end_encoded(raw.type):
        return _plain(pc.run_end_decode(raw))
    if t.is_large_string(raw.type) or t.is_string_view(raw.type):
        return pc.cast(raw, pa.string())
    if t.is_large_binary(raw.type) or t.is_binary_view(raw.type):
        return pc.cast(raw, pa.binary())
    if t.is_fixed_size_binary(raw.type):
        return pc.cast(raw, pa.binary())
    return raw


def _from_array(raw: pa.Array, dtype: DType, zone: Zone, time_unit: str | None) -> Converted:
    """As ``converted``, but the mask says which values are held; None for all. Nulls may have any mark."""
    of = family(raw.type)
    if of == "null":
        return pa.nulls(len(raw), dtype.arrow), None
    if of not in CASTS[dtype.kind]:
        return pa.nulls(len(raw), dtype.arrow), np.zeros(len(raw), np.bool_)
    if of == "text":
        text, fits = _utf8(raw)
        values, good = _from_text(text, np.full(len(raw), TEXT, np.uint8), dtype, zone, time_unit)
        return values, _both(good, fits)
    match dtype.kind:
        case "int64" if of == "int":
            return _int64(raw)
        case "float64" if of in ("int", "float"):
            return _float64(raw), None
        case "int64" if of == "float":
            return _int64_of_floats(raw)
        case "int64" | "float64" | "decimal":
            return _from_numbers(raw, dtype, zone)
        case "bool":
            return raw, None
        case "string" if of == "binary":
            return _utf8(raw)
        case "string" if of == "uuid":
            return _uuid(raw.storage)
        case "string":
            return pc.cast(raw, pa.string()), None
        case "timestamp":
            return _timestamp(raw, zone, time_unit)
        case "date":
            return _date(raw)
        case "binary":
            return raw, None
        case "uuid":
            return _uuid(raw.storage if of == "uuid" else raw)
        case "list":
            return _list(raw, dtype, zone, time_unit)
    raise AssertionError(dtype.kind)


def _from_numbers(raw: pa.Array, dtype: DType, zone: Zone) -> Converted:
    """Decimals, and what becomes one, by way of their digits."""
    if dtype.kind == "decimal" and pa.types.is_decimal128(raw.type) and raw.type.scale >= 0:
        try:
            return _rescaled(raw, dtype), None
        except pa.ArrowInvalid:
            pass  # some value doesn't fit: find out which
    if pa.types.is_float16(raw.type) or pa.types.is_float32(raw.type):
        raw = pc.cast(raw, pa.float64())
    kinds = np.full(len(raw), NUMBER, np.uint8)
    return _from_text(pc.cast(raw, pa.string()), kinds, dtype, zone, None)


def _from_cells(storage: pa.StructArray, dtype: DType, zone: Zone, time_unit: str | None) -> Converted:
    kinds = np.asarray(storage.field(0)).copy()
    kinds[~_valid(storage)] = NULL
    text, fits = _utf8(pc.if_else(pa.array(kinds == NULL), pa.scalar(None, pa.string()), storage.field(1)))
    values, good = _from_text(text, kinds, dtype, zone, time_unit)
    good = _both(good, fits)
    allowed = {
        "int64": (TEXT, NUMBER), "float64": (TEXT, NUMBER), "decimal": (TEXT, NUMBER), "string": (TEXT,
        NUMBER), "timestamp": (TEXT, NUMBER), "bool": (BOOLEAN, TEXT), "list": (LIST, TEXT),
    }.get(dtype.kind, (TEXT,))  # fmt: skip
    of_kind = np.isin(kinds, allowed)
    if dtype.kind == "string":  # an integer's digits are text enough; those of 1.50 depend on who wrote them
        of_kind &= (kinds == TEXT) | np.asarray(
            pc.fill_null(pc.match_substring_regex(text, "^-?[0-9]+$"), False)
        )
    if dtype.kind == "timestamp":
        of_kind &= (kinds == TEXT) | (time_unit is not None)
    return values, of_kind if good is None else of_kind & good


def _from_text(
    text: pa.Array, kinds: NDArray[np.uint8], dtype: DType, zone: Zone, time_unit: str | None
) -> Converted:
    match dtype.kind:
        case "int64":
            return _int64_of_text(text, kinds)
        case "float64":
            return _float64_of_text(text)
        case "decimal":
            return _decimal_of_text(text, dtype)
        case "bool":
            word = pc.ascii_lower(pc.ascii_trim_whitespace(text))
            values = pc.equal(word, "true")
            return values, np.asarray(pc.fill_null(pc.or_(values, pc.equal(word, "false")), False))
        case "string":
            return text, None
        case "timestamp":
            return _timestamp_of_text(text, zone, time_unit)
        case "date":
            days, ok = literals.dates(text)
            return _rebuilt(pa.array(days).view(pa.date32()), text), ok
        case "uuid":
            return _uuid(text)
        case "binary":
            return _from_python(text, _base64, dtype.arrow)
        case "list":
            return _list_of_text(text, dtype, zone, time_unit)
    raise AssertionError(dtype.kind)


def _int64(raw: pa.Array) -> Converted:
    if not pa.types.is_uint64(raw.type):
        return (raw if raw.type == pa.int64() else pc.cast(raw, pa.int64())), None
    values = _numbers(raw, np.uint64)
    good = values <= np.uint64(_I64_MAX)
    return _rebuilt(pa.array(values.view(np.int64)), raw), None if good.all() else good


def _int64_of_floats(raw: pa.Array) -> Converted:
    floats = _numbers(_float64(raw), np.float64)
    good = (floats == np.floor(floats)) & (floats >= -(2.0**63)) & (floats < 2.0**63)
    return _rebuilt(pa.array(np.where(good, floats, 0).astype(np.int64)), raw), None if good.all() else good


def _float64(raw: pa.Array) -> pa.Array:
    if raw.type != pa.float64():
        raw = pc.cast(raw, pa.float64(), safe=False)
    values = _numbers(raw, np.float64)
    canonical = literals.canonical_floats(values)
    return raw if canonical is values else _rebuilt(pa.array(canonical), raw)


def _int64_of_text(text: pa.Array, kinds: NDArray[np.uint8]) -> Converted:
    values, ok = literals.integers(text)
    for i in np.flatnonzero(~ok & (kinds == NUMBER)).tolist():  # 12.0 and 12e1 are integers where 1.5 is none
        digits = text[i].as_py()
        if digits is not None and literals.number_kinds(text[i : i + 1])[0] == literals.NUMBER:
            number = _PARSED.create_decimal(digits)
            small = number.adjusted() < 20 and number == number.to_integral_value(context=_PARSED)
            if small and _I64_MIN <= int(number) <= _I64_MAX:
                values[i], ok[i] = int(number), True
    return _rebuilt(pa.array(values), text), None if ok.all() else ok


def _float64_of_text(text: pa.Array) -> Converted:
    kinds = literals.number_kinds(text)
    is_number = kinds == literals.NUMBER
    trimmed = pc.ascii_ltrim(pc.ascii_trim_whitespace(text), "+")
    digits = pc.if_else(pa.array(is_number), trimmed, pa.scalar(None, pa.string()))
    values = _numbers(pc.cast(digits, pa.float64()), np.float64).copy()
    values[kinds == literals.NAN] = np.nan
    values[kinds == literals.INFINITY] = np.inf
    values[kinds == literals.MINUS_INFINITY] = -np.inf
    good = kinds != literals.NOT_A_NUMBER_LITERAL
    return _rebuilt(pa.array(literals.canonical_floats(values)), text), None if good.all() else good


def _decimal_of_text(text: pa.Array, dtype: DType) -> Converted:
    ok = literals.number_kinds(text) == literals.NUMBER
    digits = pc.if_else(pa.array(ok), pc.ascii_trim_whitespace(text), pa.scalar(None, pa.string()))
    # Arrow reads 9.9999999999999999990E-20 as 0, and 8589934593 as some decimal(38, 38), without a word. It
    # gets literals that a decimal(38, 18) always holds; its cast from there on is checked.
    short = pc.match_substring_regex(digits, r"^[+-]?[0-9]{0,18}\.?[0-9]{0,18}$")
    if pc.all(short, min_count=0).as_py():
        try:
            return _rescaled(pc.cast(digits, pa.decimal128(38, 18)), dtype), None if ok.all() else ok
        except pa.ArrowInvalid:
            pass  # some value doesn't fit: find out which
    values, fits = _from_python(digits, lambda literal: _exact(literal, dtype), dtype.arrow)
    return values, ok if fits is None else ok & fits


def _rescaled(raw: pa.Array, dtype: DType) -> pa.Array:
    """A decimal128 array in the type's scale; ArrowInvalid when a value doesn't fit. Arrow multiplies without
    a look at the width, so it does so where 38 digits and 38 zeros have room."""
    if raw.type == dtype.arrow:
        return raw
    wide = pc.cast(pc.cast(raw, pa.decimal256(76, raw.type.scale)), pa.decimal256(76, dtype.scale))
    return pc.cast(wide, dtype.arrow)


def _exact(literal: str, dtype: DType) -> decimal.Decimal:
    """The literal as a decimal of the type's scale; ValueError when it has other digits or too many of
    them."""
    number = _PARSED.create_decimal(literal)
    if not number:
        return decimal.Decimal(0)
    if number.adjusted() >= dtype.precision - dtype.scale:
        raise ValueError(literal)
    sign, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    surplus = -exponent - dtype.scale
    if surplus > 0 and any(digits[-surplus:]):
        raise ValueError(literal)
    kept = digits[:-surplus] if surplus > 0 else digits
    return decimal.Decimal((sign, kept, exponent + max(surplus, 0)))


def _timestamp(raw: pa.Array, zone: Zone, time_unit: str | None) -> Converted:
    if pa.types.is_date(raw.type):
        days = _numbers(pc.cast(_date(raw)[0], pa.int32()), np.int32).astype(np.int64)
        micros, good = _in_us(days, 86_400 * 1_000_000)
        return _instants(micros, good, raw, zone)
    if pa.types.is_integer(raw.type):
        if time_unit is None:
            return pa.nulls(len(raw), pa.timestamp("us", "UTC")), np.zeros(len(raw), np.bool_)
        values, fits = _int64(raw)
        micros, good = _of_unit(_numbers(values, np.int64), time_unit)
        return _instants(micros, _both(good, fits), raw, None)
    local = raw.type.tz is None and not zone.is_utc
    if raw.type.unit == "us" and not local:
        return (raw if raw.type.tz == "UTC" else raw.view(pa.timestamp("us", "UTC"))), None
    micros, good = _of_unit(_numbers(raw, np.int64), raw.type.unit)
    return _instants(micros, good, raw, zone if local else None)


def _timestamp_of_text(text: pa.Array, zone: Zone, time_unit: str | None) -> Converted:
    values, kinds = literals.instants(text)
    good = kinds != literals.NOT_A_TIME
    local = kinds == literals.LOCAL
    values[local] = zone.to_utc(values[local])
    if time_unit is not None and not good.all():
        numbers, ok = literals.integers(text)
        micros, fits = _of_unit(numbers, time_unit)
        ok = ok if fits is None else ok & fits
        values, good = np.where(ok, micros, values), good | ok
    return _rebuilt(_as_instants(values), text), None if good.all() else good


def _of_unit(values: I64, unit: str) -> tuple[I64, Bools | None]:
    if unit == "ns":
        return np.floor_divide(values, 1000), None
    return _in_us(values, _UNIT_US[unit])


def _in_us(values: I64, us: int) -> tuple[I64, Bools | None]:
    if us == 1:
        return values, None
    good = (values >= -(_I64_MAX // us)) & (values <= _I64_MAX // us)
    return (values * us, None) if good.all() else (np.where(good, values, 0) * us, good)


def _instants(micros: I64, good: Bools | None, raw: pa.Array, zone: Zone | None) -> Converted:
    if zone is not None:
        near = (micros > _I64_MIN + _MARGIN_US) & (micros < _I64_MAX - _MARGIN_US)
        if not near.all():
            micros, good = np.where(near, micros, 0), _both(good, near)
        micros = zone.to_utc(np.ascontiguousarray(micros))
    return _rebuilt(_as_instants(micros), raw), good


def _as_instants(micros: I64) -> pa.Array:
    return pa.array(micros).view(pa.timestamp("us", "UTC"))


def _date(raw: pa.Array) -> Converted:
    if pa.types.is_date32(raw.type):
        return raw, None
    days = np.floor_divide(_numbers(raw, np.int64), 86_400_000)
    good = (days >= -(2**31)) & (days < 2**31)
    return _rebuilt(pa.array(np.where(good, days, 0).astype(np.int32)).view(pa.date32()), raw), good


def _uuid(raw: pa.Array) -> Converted:
    if pa.types.is_fixed_size_binary(raw.type):
        raw = pc.cast(raw, pa.binary())
    values, ok = literals.uuids(raw) if pa.types.is_string(raw.type) else literals.uuids_of_bytes(raw)
    return _rebuilt(values, raw), None if ok.all() else ok


def _utf8(raw: pa.Array) -> Converted:
    text = raw if pa.types.is_string(raw.type) else raw.view(pa.string())
    try:
        text.validate(full=True)
        return text, None
    except pa.ArrowInvalid:
        return _from_python(raw.view(pa.binary()), lambda data: data.decode("utf-8"), pa.string())


def _list(raw: pa.Array, dtype: DType, zone: Zone, time_unit: str | None) -> Converted:
    assert dtype.item is not None
    if not pa.types.is_list(raw.type):
        raw = pc.cast(raw, pa.list_(raw.type.value_type))
    offsets = np.asarray(raw.offsets)
    first, last = int(offsets[0]), int(offsets[-1])
    items, bad = converted(raw.values.slice(first, last - first), dtype.item, zone, time_unit)
    return _listed(items, bad, offsets - first, _valid(raw), dtype)


def _list_of_text(text: pa.Array, dtype: DType, zone: Zone, time_unit: str | None) -> Converted:
    assert dtype.item is not None
    rows: list[list[object] | None] = [_json_list(value) for value in text.to_pylist()]
    good = np.array([row is not None for row in rows], np.bool_)
    offsets = np.zeros(len(rows) + 1, np.int32)
    np.cumsum([0 if row is None else len(row) for row in rows], out=offsets[1:])
    flat = [item for row in rows if row is not None for item in row]
    items, bad = converted(cells_of(flat), dtype.item, zone, time_unit)
    values, fits = _listed(items, bad, offsets, good, dtype)
    return values, _both(good, fits)


def _listed(
    items: pa.Array, bad: Bools | None, offsets: NDArray[np.int32], valid: Bools, dtype: DType
) -> Converted:
    mask = None if valid.all() else pa.array(~valid)
    values = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), items, mask=mask)
    values = pc.cast(values, dtype.arrow) if values.type != dtype.arrow else values
    if bad is None:
        return values, None
    before = np.concatenate([[0], np.cumsum(bad)])
    return values, before[offsets[1:]] == before[offsets[:-1]]


def _json_list(text: str | None) -> list[object] | None:
    if text is None:
        return None
    try:
        value = parse_json(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, list) else None


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text.strip().encode("ascii"), validate=True)
    except binascii.Error as error:
        raise ValueError(text) from error


def _from_python(raw: pa.Array, make: Callable[[Any], object], arrow: pa.DataType) -> Converted:
    """Value by value, for what no loop over the array does: ``make`` raises ValueError for a value it can't
    make."""
    out: list[object] = []
    good = np.ones(len(raw), np.bool_)
    for i, value in enumerate(raw.to_pylist()):
        try:
            out.append(None if value is None else make(value))
        except ValueError:
            out.append(None)
            good[i] = False
    return pa.array(out, arrow), None if good.all() else good


def _both(one: Bools | None, other: Bools | None) -> Bools | None:
    return other if one is None else one if other is None else one & other


def _valid(array: pa.Array) -> Bools:
    return np.ones(len(array), np.bool_) if array.null_count == 0 else np.asarray(array.is_valid())


def _rebuilt(values: pa.Array, raw: pa.Array) -> pa.Array:
    """``values`` with the nulls of ``raw``."""
    if raw.null_count == 0:
        return values
    return pc.if_else(raw.is_valid(), values, pa.scalar(None, values.type))


def _numbers(array: pa.Array, dtype: type[Fixed]) -> NDArray[Fixed]:
    """The fixed-width values of an array without a copy; a null's slot may hold anything."""
    data = array.buffers()[1]
    if data is None or len(array) == 0:
        return np.zeros(len(array), dtype)
    return np.frombuffer(data, dtype)[array.offset : array.offset + len(array)]
