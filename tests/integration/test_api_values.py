"""JSON carries the bits: what is pushed as JSON comes back as JSON, value for value, of every type."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from decimal import Decimal
from itertools import count
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from api_project import Served, ask, served, write_project
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.dtypes import TIMESTAMP, instant_text
from featurestore.serving.faces import instant_texts, json_values

numbers = count()


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(write_project(tmp_path_factory.mktemp("values") / "project")) as serving:
        yield serving


@pytest.fixture(scope="module")
def client(serving: Served) -> httpx.Client:
    return serving.client


def back(client: httpx.Client, column: str, literal: str, feature: str | None = None) -> Any:
    """The value that comes back for ``column`` pushed as a JSON literal, its floats as their text."""
    card = f"v{next(numbers)}"
    row = f'{{"id": "{card}", "card": "{card}", "ts": "2026-03-02T09:00:00Z", "{column}": {literal}}}'
    headers = {"content-type": "application/json"}
    pushed = client.post("/ingest/payments", content=row.encode(), headers=headers)
    assert pushed.status_code == 200, pushed.text
    body = {"features": [f"kinds:{feature or f'{column}_last'}"], "entities": {"card": [card]}}
    answer = client.post("/get-online-features", json=body | {"as_of": "2026-03-03T00:00:00Z"})
    assert answer.status_code == 200, answer.text
    return json.loads(answer.text, parse_float=lambda text: f"float {text}")["results"][1]["values"][0]


@pytest.mark.parametrize(
    ("column", "literal", "face"),
    [
        ("n", "9223372036854775807", 2**63 - 1),
        ("n", "-9223372036854775808", -(2**63)),
        ("n", "0", 0),
        ("n", "null", None),
        ("x", "0.1", "float 0.1"),
        ("x", "1e23", "float 1e+23"),
        ("x", "5e-324", "float 5e-324"),
        ("x", "1.7976931348623157e308", "float 1.7976931348623157e+308"),
        ("x", "0.30000000000000004", "float 0.30000000000000004"),
        ("x", "-0.0", "float 0.0"),
        ("x", "1", "float 1.0"),
        ("x", '"NaN"', "NaN"),
        ("x", '"Infinity"', "Infinity"),
        ("x", '"-Infinity"', "-Infinity"),
        ("d", "1.100", "1.100"),
        ("d", "0.1", "0.100"),
        ("d", "12345678901234567890123456789012345.678", "12345678901234567890123456789012345.678"),
        ("d", '"-99999999999999999999999999999999999.999"', "-99999999999999999999999999999999999.999"),
        ("d", "1e3", "1000.000"),
        ("b", "true", True),
        ("b", "false", False),
        ("s", '""', ""),
        ("s", '"a\\u0000\\ud83d\\ude00\\uffff\\"\\n"', 'a\x00\U0001f600\uffff"\n'),
        ("u", '"6BA7B810-9DAD-11D1-80B4-00C04FD430C8"', "6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
        ("seen", '"1969-12-31T23:59:59.999999Z"', "1969-12-31T23:59:59.999999Z"),
        ("seen", '"2026-03-02T10:00:00+05:30"', "2026-03-02T04:30:00Z"),
        ("seen", '"9999-12-31T23:59:59.999999Z"', "9999-12-31T23:59:59.999999Z"),
        ("day", '"0001-01-01"', "0001-01-01"),
        ("raw", '"AP8B"', "AP8B"),
        ("xs", '[1, 0.5, "NaN", null]', ["float 1.0", "float 0.5", "NaN", None]),
        ("xs", "[]", []),
        ("ds", "[123456789012345678.91, 1]", ["123456789012345678.91", "1.00"]),
    ],
)  # fmt: skip
def test_a_value_comes_back_with_every_bit(
    client: httpx.Client, column: str, literal: str, face: Any
) -> None:
    found = back(client, column, literal)
    assert found == face and type(found) is type(face)


@pytest.mark.parametrize(
    ("column", "literal", "key"),
    [
        ("s", '"a"', "a"), ("n", "-5", "-5"), ("x", "0.1", "0.1"), ("x", '"NaN"', "NaN"),
        ("d", "1.5", "1.500"), ("b", "true", "true"),
        ("seen", '"2026-03-02T10:00:00Z"', "2026-03-02T10:00:00Z"),
    ],
)  # fmt: skip
def test_the_keys_of_a_map_are_text(client: httpx.Client, column: str, literal: str, key: str) -> None:
    assert back(client, column, literal, f"{column}_histogram") == {key: 1}


@settings(max_examples=100)
@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_comes_back_by_its_shortest_digits(client: httpx.Client, value: float) -> None:
    text = back(client, "x", json.dumps(value)).removeprefix("float ")
    assert struct.pack("<d", float(text)) == struct.pack("<d", value + 0.0)
    assert len(text) <= len(repr(value + 0.0)) + 1


@settings(max_examples=100)
@given(units=st.integers(-(10**38) + 1, 10**38 - 1), as_text=st.booleans())
def test_a_decimal_is_read_from_its_digits(client: httpx.Client, units: int, as_text: bool) -> None:
    sign, digits = ("-" if units < 0 else ""), f"{abs(units):04}"
    literal = f"{sign}{digits[:-3]}.{digits[-3:]}"
    found = back(client, "d", f'"{literal}"' if as_text else literal)
    assert Decimal(found) == Decimal(literal) and found.split(".")[1] == literal.split(".")[1]


@settings(max_examples=60)
@given(value=st.text(st.characters(codec="utf-8"), max_size=20))
def test_text_comes_back_as_it_was(client: httpx.Client, value: str) -> None:
    assert back(client, "s", json.dumps(value)) == value


def test_instants_beyond_the_calendar_have_a_sign_and_all_their_digits() -> None:
    instants = pa.array([400_000_000_000_000_000, -70_000_000_000_000_001]).cast(TIMESTAMP.arrow)
    assert json_values(instants, TIMESTAMP) == ["+14645-06-30T15:06:40Z", "-0249-10-15T19:33:19.999999Z"]


@settings(max_examples=200)
@given(st.lists(st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-(10**16), 10**16)), max_size=8))
def test_many_instants_are_written_as_each_one_is(instants: list[int]) -> None:
    assert instant_texts(np.array(instants, np.int64)) == [instant_text(us) for us in instants]


def test_keys_come_back_as_canonical_values(client: httpx.Client) -> None:
    found = ask(client, "delays:count", entities={"line": ["a", "b"], "run": ["1", 1.0]})
    assert found == {"line": ["a", "b"], "run": [1, 1], "count": [2, 1]}
