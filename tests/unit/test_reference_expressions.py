"""The oracle's expressions and the kernel's: the same bits of every row."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

import tests.strategies as generated
from featurestore.dsl.aggregation import agg
from featurestore.testing.bits import bits
from featurestore.testing.builders import schema_of, view_of
from featurestore.testing.hosts import kernel_answer
from featurestore.testing.reference import Oracle
from featurestore.testing.reference_functions import FUNCTIONS

COLUMNS = {"card": "string", "ts": "timestamp", **generated.VALUES}

OVER_ROWS = """
n * n; n + 1; -n; n - n * 2; n % 3; n % 0; n / 0; n * 0.1; d + n; d * d; d / 3; d % 0.07; d * 1.25
d - big; big * d; big + big; -big; x / n; x % 0.3; x % n; x * 0.1; -x; 1 / (x * 0); 1 / (-1 * x * 0)
x - x; n > x; n = d; x = x; x >= 0; d < n; n = x; d = 0.1; x = 0.1; 9223372036854775807 = x
b and x > 1; b or n = 1; not b; s like 'a%'; s like '_'; s like '%b'; s like '!_%' escape '!'
s in ('a', 'Z'); n in (1, null); x between -1 and 1; xs is null; n is not null
case when b then n else d end; case n when 1 then 'one' end; coalesce(x, n); coalesce(d, n, big)
seen - ts; day - date '2026-01-01'; seen > '2026-03-02T08:59:00Z'; day < '2026-03-02'
cast(x as int); cast(x as decimal(10, 2)); cast(n as float64); cast(big as float64)
cast(big as int); cast(d as int); cast(d as decimal(5, 1)); cast(b as int); cast(n as decimal(5, 1))
cast(n as bool); cast(seen as date); cast(day as timestamp); cast(d as string); cast(n as string)
cast(b as string); cast(s as int); cast(s as bool); cast(s || '1' as decimal(3, 1)); abs(n); abs(d)
abs(x); ceil(x); ceil(d); floor(x); floor(big); round(x); round(d); round(n); round(x * 0.1)
sign(x); sign(d); sqrt(x); sqrt(n); sqrt(-x); greatest(n, x); greatest(d, n); least(x, 1)
least(x, -0.0); nullif(n, 1); nullif(x, 0); upper(s); lower(s); length(s); s || s; concat(s, 'x', s)
contains(s, 'a'); starts_with(s, 'a'); ends_with(s, 'b'); substr(s, 1); substr(s, 2, 1)
substr(s, 1, 0); trim(s); ltrim(s); rtrim(s); year(seen); month(day); day(seen); day_of_week(day)
hour(seen); minute(ts); second(seen); epoch_us(seen); is_nan(x)
"""

CASTS_OF_TEXT = """
' 1e5 ' float64; '-inf' float64; 'Infinity' float64; '1e400' float64; '5.' float64
'infinit' float64; '+5' int; '1_0' int; '99999999999999999999' int; '+.5' decimal(3, 2)
'0.125' decimal(3, 2); '1e2' decimal(3, 0); '1e999999' decimal(3, 0); 'TRUE' bool; 't' bool
'2026-03-02' timestamp; '2026-03-02 09:00' timestamp; '2026-03-02T09:00:00.1234567+0130' timestamp
'2026-03-02T09:00:00-05' timestamp; '2026-03-02T09:00Z' timestamp
'1969-12-31T23:59:59.9999999' timestamp; '2026-03-02T24:00' timestamp
'2026-03-02T09:00:00UTC' timestamp; '0001-01-01T00:00+01' timestamp; '2026-02-30' date
'2026-3-2' date; '{0000000000000000000000000000000A}' uuid
'urn:uuid:0000000000000000000000000000000A' uuid; '{urn:uuid:0000000000000000000000000000000A}' uuid
"""


def listed(text: str) -> list[str]:
    return [one.strip() for line in text.strip().splitlines() for one in line.split(";") if one.strip()]


def text_casts() -> list[str]:
    quoted = [one.rpartition("' ") for one in listed(CASTS_OF_TEXT)]
    # Inside a case nothing can be settled before the row is read.
    return [f"cast(case when true then {value}' end as {dtype})" for value, _, dtype in quoted]


EXPRESSIONS = [*listed(OVER_ROWS), *text_casts()]
VIEW = view_of([agg.first(text, name=f"e{i}") for i, text in enumerate(EXPRESSIONS)], columns=COLUMNS)


def test_every_function_is_asked():
    joined = " ".join(EXPRESSIONS)
    assert [name for name in FUNCTIONS if f"{name}(" not in joined] == []


@settings(max_examples=10)
@given(st.data())
def test_kernel_and_oracle_agree_on_every_row(data: st.DataObject):
    def row(number: int) -> dict[str, Any]:
        values = {name: data.draw(generated.value_of(name, text)) for name, text in generated.VALUES.items()}
        return {"card": f"c{number}", "ts": generated.START, **values}

    rows = [row(number) for number in range(10)]
    oracle = Oracle(VIEW, schema_of(COLUMNS), rows)
    asked = [((f"c{number}",), generated.START + 1) for number in range(10)]
    answers = kernel_answer(VIEW, oracle.schema, [v.row for v in oracle.versions], asked, None)
    for (keys, as_of), answer in zip(asked, answers, strict=True):
        expected = oracle.answer(keys, as_of=as_of, known_at=None)
        found = {text: bits(answer[f"e{i}"].value) for i, text in enumerate(EXPRESSIONS)}
        assert found == {text: bits(expected[f"e{i}"].value) for i, text in enumerate(EXPRESSIONS)}
