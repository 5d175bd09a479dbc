"""From raw values to canonical ones: every type against Python's own parsers, and what a type can't hold."""

from __future__ import annotations

import datetime
import decimal
import math
import struct
import uuid
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from featurestore import dtypes
from featurestore.dtypes import BINARY, BOOL, DATE, FLOAT64, INT64, STRING, TIMESTAMP, UUID, DType
from featurestore.errors import DefinitionError
from featurestore.log.cast import Cast, cast_table
from featurestore.log.zones import zone, zone_info, zone_names


def wall(*parts: int) -> datetime.datetime:
    """A time on the wall, of no zone."""
    return datetime.datetime(*parts)  # noqa: DTZ001


EPOCH = wall(1970, 1, 1)
INSTANT = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
DAY_US = 86_400_000_000
ZONES = [
    "UTC", "Europe/Berlin", "America/New_York", "Europe/Dublin", "Africa/Casablanca", "Australia/Lord_Howe",
    "Asia/Kathmandu", "Pacific/Apia", "America/Caracas", "Antarctica/Troll", "Asia/Tehran",
    "America/Sao_Paulo",
]  # fmt: skip


def cast_one(array: pa.Array, dtype: DType, *, timezone: str = "UTC", time_unit: str | None = None) -> Cast:
    return cast_table(pa.table({"x": array}), {"x": dtype}, timezone=timezone, time_unit=time_unit)


def held(array: pa.Array, dtype: DType, **how: str) -> list[object]:
    """The canonical values, with "bad" for those that the type can't hold."""
    cast = cast_one(array, dtype, **how)
    column = cast.table.column("x")
    assert column.type == dtype.arrow
    column.validate(full=True)
    values = column.cast(pa.int64()).to_pylist() if dtype == TIMESTAMP else column.to_pylist()
    bad = np.zeros(len(array), bool) if cast.bad is None else cast.bad
    assert all(values[row] is None for row in np.flatnonzero(bad))
    return ["bad" if is_bad else value for is_bad, value in zip(bad.tolist(), values, strict=True)]


def us(moment: datetime.datetime) -> int:
    return (moment.replace(tzinfo=None) - EPOCH) // datetime.timedelta(microseconds=1)


def bits(value: float) -> bytes:
    return struct.pack("<d", value)


def wall_to_utc(local_us: int, info: ZoneInfo) -> int:
    """The rule by Python's own hands: fold=0 is the earlier instant, and the offset before a gap."""
    local = EPOCH + datetime.timedelta(microseconds=local_us)
    offset = local.replace(tzinfo=info, fold=0).utcoffset()
    assert offset is not None
    return local_us - offset // datetime.timedelta(microseconds=1)


@given(st.sampled_from(ZONES), st.lists(st.datetimes(), min_size=1, max_size=20))
def test_a_naive_time_is_read_in_its_zone_as_python_reads_it(name, moments):
    local = [us(moment) for moment in moments if 2 <= moment.year <= 9998]
    raw = pa.array(local, pa.timestamp("us"))
    assert held(raw, TIMESTAMP, timezone=name) == [wall_to_utc(one, zone_info(name)) for one in local]


@given(st.sampled_from(ZONES), st.integers(0, 10_000), st.integers(-2 * 3600 * 10**6, 2 * 3600 * 10**6))
def test_times_around_a_clock_change_are_read_as_python_reads_them(name, step, off_us):
    steps = zone(name).wall
    steps = steps[steps < us(wall(9990, 1, 1))]
    assume(len(steps) > 0)
    local = int(steps[step % len(steps)]) + off_us
    expected = [wall_to_utc(local, zone_info(name))]
    assert held(pa.array([local], pa.timestamp("us")), TIMESTAMP, timezone=name) == expected


def test_an_ambiguous_time_is_the_earlier_instant_and_a_missing_one_uses_the_offset_before_the_gap():
    texts = pa.array(
        ["2026-10-25 02:30:00", "2026-03-29 02:30:00", "2226-10-26 02:30:00", "9998-07-01 12:00:00"]
    )
    assert held(texts, TIMESTAMP, timezone="Europe/Berlin") == [
        us(wall(2026, 10, 25, 0, 30)),
        us(wall(2026, 3, 29, 1, 30)),
        us(wall(2226, 10, 26, 0, 30)),
        us(wall(9998, 7, 1, 10)),
    ]


def test_zone_rules_repeat_beyond_the_calendar_of_python():
    cycle = 146_097 * DAY_US
    local = us(wall(2050, 7, 1, 12))
    raw = pa.array([local + cycle * k for k in (0, 1, 30, 500)], pa.timestamp("us"))
    assert held(raw, TIMESTAMP, timezone="Europe/Berlin") == [
        local + cycle * k - 2 * 3600 * 10**6 for k in (0, 1, 30, 500)
    ]


def test_every_zone_of_the_pinned_data_can_be_read():
    midsummer = [us(wall(year, 7, 1, 12)) for year in (1850, 1950, 2026, 2300)]
    for name in sorted(zone_names())[::25]:
        expected = [wall_to_utc(local, zone_info(name)) for local in midsummer]
        assert held(pa.array(midsummer, pa.timestamp("us")), TIMESTAMP, timezone=name) == expected


def test_an_unknown_zone_is_refused_with_the_nearest_name():
    with pytest.raises(DefinitionError, match='did you mean "Europe/Berlin"'):
        zone("Europe/Berlim")
    with pytest.raises(DefinitionError):
        zone("../../etc/passwd")


@given(st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), max_size=20), st.booleans())
def test_nanoseconds_are_floored_before_1970_too(values, aware):
    raw = pa.array(values, pa.timestamp("ns", "Europe/Berlin" if aware else None))
    assert held(raw, TIMESTAMP) == [None if value is None else value // 1000 for value in values]
    ints = pa.array(values, pa.int64())
    assert held(ints, TIMESTAMP, time_unit="ns") == [
        None if value is None else value // 1000 for value in values
    ]


@given(
    st.sampled_from([("s", 10**6), ("ms", 1000), ("us", 1)]),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20),
)
@example(("s", 10**6), [2**63 // 10**6, 2**63 // 10**6 + 1, -(2**63 // 10**6) - 1, 7_258_118_400, -1])
def test_a_time_beyond_int64_microseconds_is_bad_in_any_unit(unit, values):
    name, factor = unit
    expected = [value * factor if abs(value * factor) < 2**63 or factor == 1 else "bad" for value in values]
    assert held(pa.array(values, pa.int64()), TIMESTAMP, time_unit=name) == expected
    assert held(pa.array(values, pa.timestamp(name, "UTC")), TIMESTAMP) == expected
    assert (
        held(pa.array([str(value) for value in values], pa.string()), TIMESTAMP, time_unit=name) == expected
    )


def test_an_instant_in_another_zone_is_the_same_instant():
    assert held(pa.array([5], pa.timestamp("us", "Asia/Tokyo")), TIMESTAMP, timezone="Europe/Berlin") == [5]


def test_a_date_becomes_its_midnight_in_the_source_s_zone():
    day = pa.array([datetime.date(2026, 7, 1), None, datetime.date(1969, 12, 31)])
    assert held(day, TIMESTAMP, timezone="Europe/Berlin") == [
        us(wall(2026, 6, 30, 22)), None, us(wall(1969, 12, 30, 23)),
    ]  # fmt: skip
    assert held(pa.array([-1], pa.date64()), DATE) == [datetime.date(1969, 12, 31)]
    assert held(pa.array([2**31 - 1], pa.date32()), TIMESTAMP) == ["bad"]


@given(st.datetimes(), st.sampled_from("T t"), st.sampled_from(["", "Z", "+02:00", "-0330", "+05", " UTC"]))
def test_iso_text_is_the_instant_that_python_reads(moment, between, behind):
    text = moment.isoformat(sep=between) + behind
    expected = datetime.datetime.fromisoformat(text.replace("t", "T").replace(" UTC", "Z"))
    offset = expected.utcoffset() or datetime.timedelta()
    assert held(pa.array([f" {text}\n"]), TIMESTAMP) == [
        us(expected) - offset // datetime.timedelta(microseconds=1)
    ]


def test_digits_beyond_the_microsecond_are_floored_and_a_date_or_minutes_are_enough():
    texts = ["1969-12-31T23:59:59.9999999Z", "1970-01-01", "1970-01-01 00:01", "1970-01-01T00:00:00.5", None]
    assert held(pa.array(texts), TIMESTAMP) == [-1, 0, 60_000_000, 500_000, None]


def test_text_that_is_no_time_is_bad():
    texts = [
        "", "now", "2026-02-29", "2026-13-01", "2026-01-01T24:00:00", "2026-01-01T00:00:60", "2026-1-1",
        "0000-01-01",
        "2026-01-01T", "2026-01-01T00", "2026-01-01T00:00:00.", "2026-01-01T00:00:00 CET",
        "2026-01-01T00:00:00+2",
        "12345", "2026-01-01T00:00:00+24:00", "20260101", "2026-01-01x00:00:00",
    ]  # fmt: skip
    assert held(pa.array(texts), TIMESTAMP) == ["bad"] * len(texts)
    assert held(pa.array(["2026-01-01T00:00:00", "x"]), DATE) == ["bad", "bad"]


def test_times_before_1970_and_after_2200_survive_every_way_in():
    moments = [
        wall(1, 1, 2),
        wall(1600, 2, 29, 1),
        wall(9999, 12, 30, 23),
    ]
    expected = [us(moment) for moment in moments]
    assert held(pa.array(moments, pa.timestamp("s")), TIMESTAMP) == expected
    assert held(pa.array([moment.isoformat() for moment in moments]), TIMESTAMP) == expected
    assert held(pa.array([value // 1000 for value in expected]), TIMESTAMP, time_unit="ms") == expected


@given(
    st.one_of(
        st.integers(-(2**65), 2**65), st.sampled_from(["+7", " 7 ", "-0", "1.0", "", "-", "1e3", "0x1", "٣"])
    )
)
def test_an_integer_s_text_is_all_of_its_digits_within_int64(value):
    text = str(value)
    plain = text.strip().lstrip("+-").isascii() and text.strip().lstrip("+-").isdigit()
    expected = int(text) if plain and -(2**63) <= int(text) < 2**63 else "bad"
    assert held(pa.array([text]), INT64) == [expected]


@given(st.one_of(st.floats(), st.floats(width=32), st.decimals(allow_nan=False, allow_infinity=False)))
def test_a_float_s_text_is_the_nearest_float(value):
    (read,) = held(pa.array([f" {value} "]), FLOAT64)
    expected = float(str(value))
    assert bits(read) == bits(math.nan if math.isnan(expected) else expected + 0.0)


def test_a_float_s_text_may_be_a_word_and_nothing_else():
    words = [
        "NaN",
        "-nan",
        "Infinity",
        "-inf",
        "+INF",
        "1e400",
        ".5",
        "5.",
        "+2",
        "1_0",
        "0x1p3",
        "one",
        "",
        "1 2",
    ]
    read = held(pa.array(words), FLOAT64)
    assert math.isnan(read[0])
    assert math.isnan(read[1])
    assert read[2:9] == [math.inf, -math.inf, math.inf, math.inf, 0.5, 5.0, 2.0]
    assert read[9:] == ["bad"] * 5


@given(st.lists(st.one_of(st.none(), st.floats()), max_size=20), st.integers(0, 3))
def test_a_float_is_canonical_minus_zero_is_zero_and_there_is_one_nan(values, skipped):
    strange = struct.unpack("<d", struct.pack("<Q", 0xFFF0_0000_DEAD_BEEF))[0]
    values = [strange, -0.0, *values]
    read = held(pa.array(values, pa.float64(), from_pandas=False).slice(skipped % 3), FLOAT64)
    for value, given_value in zip(read, values[skipped % 3 :], strict=True):
        if given_value is None:
            assert value is None
        else:
            assert bits(value) == bits(math.nan if math.isnan(given_value) else given_value + 0.0)


def test_narrow_numbers_widen_exactly_and_uint64_beyond_int64_is_bad():
    third = struct.unpack("<f", struct.pack("<f", 1 / 3))[0]
    assert held(pa.array([1 / 3, -0.0, None], pa.float32()), FLOAT64) == [third, 0.0, None]
    assert held(pa.array([1.5], pa.float16()), FLOAT64) == [1.5]
    for narrow in (pa.int8(), pa.int16(), pa.int32(), pa.uint8(), pa.uint16(), pa.uint32()):
        assert held(pa.array([1, None, 7], narrow), INT64) == [1, None, 7]
    assert held(pa.array([2**63 - 1, 2**63, None, 2**64 - 1], pa.uint64()), INT64) == [
        2**63 - 1,
        "bad",
        None,
        "bad",
    ]
    assert held(pa.array([2**64 - 1], pa.uint64()), FLOAT64) == [float(2**64 - 1)]


def test_a_float_becomes_an_integer_only_when_it_is_one():
    values = [1.0, -2.0, 0.5, 1e18, 2.0**63, -(2.0**63), math.nan, math.inf, None]
    assert held(pa.array(values, pa.float64(), from_pandas=False), INT64) == [
        1, -2, "bad", 10**18, "bad", -(2**63), "bad", "bad", None,
    ]  # fmt: skip


@given(st.decimals(allow_nan=False, allow_infinity=False), st.integers(1, 38), st.data())
@example(decimal.Decimal("9.9999999999999999990E-20"), 1, None)
@example(decimal.Decimal("8589934593"), 38, None)
def test_a_decimal_is_rescaled_only_when_it_loses_nothing(value, precision, data):
    scale = precision // 2 * 2 if data is None else data.draw(st.integers(0, precision))
    unscaled = decimal.Context(prec=60_000, Emax=10**9, Emin=-(10**9)).scaleb(value, scale)
    exact = abs(value.adjusted()) < 100 and unscaled == unscaled.to_integral_value()
    fits = not value or (exact and abs(unscaled) < 10**precision)
    dtype = dtypes.decimal(precision, scale)
    assert held(pa.array(["0", str(value)]), dtype)[1] == (value if fits else "bad")
    assert held(pa.array(["x", str(value)]), dtype) == ["bad", value if fits else "bad"]


@given(st.integers(-(10**38) + 1, 10**38 - 1), st.integers(0, 38), st.integers(1, 38), st.data())
def test_a_decimal_column_is_rescaled_only_where_it_loses_nothing(unscaled, scale, precision, data):
    to_scale = data.draw(st.integers(0, precision))
    value = decimal.Decimal((int(unscaled < 0), tuple(map(int, str(abs(unscaled)))), -scale))
    shifted = unscaled * 10 ** max(to_scale - scale, 0)
    whole, lost = divmod(abs(shifted), 10 ** max(scale - to_scale, 0))
    expected = value if not lost and whole < 10**precision else "bad"
    raw = pa.array([value], pa.decimal128(38, scale))
    assert held(raw, dtypes.decimal(precision, to_scale)) == [expected]
    assert held(raw.cast(pa.decimal256(50, scale)), dtypes.decimal(precision, to_scale)) == [expected]


def test_decimals_come_from_decimals_integers_and_the_shortest_digits_of_floats():
    money = dtypes.decimal(5, 2)
    d = decimal.Decimal
    assert held(pa.array([d("1.500"), d("1.501"), d("1000.000"), None]), money) == [
        d("1.50"),
        "bad",
        "bad",
        None,
    ]
    assert held(pa.array([5, 1000, None]), money) == [d("5.00"), "bad", None]
    floats = pa.array([0.1, 1e2, 0.125, math.nan, None], pa.float64(), from_pandas=False)
    assert held(floats, money) == [d("0.10"), d("100.00"), "bad", "bad", None]
    assert held(pa.array([d("2.00"), d("2.50")]), INT64) == [2, "bad"]
    assert held(pa.array([d("0.1"), d("-12345678901234567890.123456789")]), FLOAT64) == [
        0.1,
        -12345678901234567890.123,
    ]


@given(st.uuids(), st.sampled_from(["{}", "{{{}}}", "urn:uuid:{}", " {}"]), st.booleans(), st.booleans())
def test_a_uuid_is_read_in_any_dress_and_kept_as_lower_case_text(value, dress, upper, bare):
    text = dress.format(value.hex if bare else str(value))
    assert held(pa.array([text.upper() if upper else text, None]), UUID) == [str(value), None]
    assert held(pa.array([value.bytes, b"short"], pa.binary()), UUID) == [str(value), "bad"]
    assert held(pa.array([value.bytes], pa.binary(16)), UUID) == [str(value)]
    extension = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([value.bytes, None], pa.binary(16)))
    assert held(extension, UUID) == [str(value), None]


def test_text_that_is_no_uuid_is_bad():
    whole = str(uuid.UUID(int=7))
    texts = [whole[:-1], whole + "0", whole.replace("-", "", 1) + "-", whole[:-1] + "g", "{" + whole, ""]
    assert held(pa.array(texts), UUID) == ["bad"] * len(texts)


def test_other_encodings_of_a_column_are_the_same_values():
    for arrow in (pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())):
        assert held(pa.array(["a", None, "b", "a"]).cast(arrow), STRING) == ["a", None, "b", "a"]
    assert held(pa.array([b"a", None], pa.large_binary()), BINARY) == [b"a", None]
    assert held(pa.array([b"ab"], pa.binary(2)), BINARY) == [b"ab"]
    assert held(pa.array([1.5, None]).dictionary_encode(), FLOAT64) == [1.5, None]
    assert held(pa.nulls(2), INT64) == [None, None]


def test_bytes_become_text_only_as_utf8_and_damaged_text_is_bad():
    data = pa.array(["ä".encode(), b"\xff", None], pa.binary())
    assert held(data, STRING) == ["ä", "bad", None]
    assert held(data.view(pa.string()), STRING) == ["ä", "bad", None]
    assert held(data.view(pa.string()), INT64) == ["bad", "bad", None]
    assert held(pa.array(["aGk=", "a"]), BINARY) == [b"hi", "bad"]


def test_booleans_are_true_and_false_in_any_case():
    assert held(pa.array(["true", " FALSE ", "1", "yes", None]), BOOL) == [True, False, "bad", "bad", None]
    assert held(pa.array([True, None]), BOOL) == [True, None]


def test_a_list_with_an_element_that_its_type_cannot_hold_is_bad():
    floats = dtypes.list_of(FLOAT64)
    raw = pa.array([[1, 2], None, [], [None]], pa.list_(pa.int32()))
    assert held(raw, floats) == [[1.0, 2.0], None, [], [None]]
    assert held(raw.slice(1), floats) == [None, [], [None]]
    assert held(pa.array([["1", "x"], ["2"]]), dtypes.list_of(INT64)) == ["bad", [2]]
    assert held(pa.array([[-0.0, 1.0]], pa.list_(pa.float32(), 2)), floats) == [[0.0, 1.0]]
    assert held(pa.array([[1]], pa.large_list(pa.int64())), floats) == [[1.0]]
    assert held(pa.array(["[1, null]", "{}", "[", None]), floats) == [[1.0, None], "bad", "bad", None]
    nested = dtypes.list_of(dtypes.list_of(INT64))
    assert held(pa.array([[[1], []], [None]], pa.list_(pa.list_(pa.int8()))), nested) == [[[1], []], [None]]


def test_what_is_canonical_already_is_passed_on_without_a_copy():
    for array, dtype in (
        (pa.array([1, 2]), INT64), (pa.array([1.5]), FLOAT64),
        (pa.array([1], pa.timestamp("us", "UTC")), TIMESTAMP),
        (pa.array([1], pa.timestamp("us")), TIMESTAMP), (pa.array(["a"]), STRING),
    ):  # fmt: skip
        values = cast_one(array, dtype).table.column("x").chunk(0)
        assert [part and part.address for part in values.buffers()] == [
            part and part.address for part in array.buffers()
        ]


def test_a_fault_names_the_row_the_column_and_the_value():
    cast = cast_table(
        pa.table({"a": ["1", "x", None], "b": ["true", "no", "maybe"]}), {"a": INT64, "b": BOOL, "c": STRING},
        timezone="UTC", time_unit=None,
    )  # fmt: skip
    assert cast.table.column("c").null_count == 3
    assert cast.bad.tolist() == [False, True, True]
    assert cast.reasons == [
        (1, "column \"a\" holds no int64: 'x'"),
        (1, "column \"b\" holds no bool: 'no'"),
        (2, "column \"b\" holds no bool: 'maybe'"),
    ]
