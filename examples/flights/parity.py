"""Online against offline: the service's answers for rows of a training set, compared by their bits.

Time: each row is asked for at its own scheduled departure with `known_at="as_of"`, as the training set
was made.
"""

from __future__ import annotations

import json
import random
import struct
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pyarrow as pa
import pyarrow.parquet as pq

SERVICE = "arrival_delay"
KEYS = ["origin", "carrier", "tailnum"]
TIME = "scheduled_at"


@dataclass(frozen=True)
class Comparison:
    """How many rows and values were compared, and which differ; `nulls` values are null on both sides."""

    rows: int
    differing_rows: int
    values: int
    nulls: int
    differences: list[str]

    def text(self) -> str:
        lines = [
            f"{self.rows:,} rows, {self.values:,} values, {self.nulls:,} of them null: "
            f"{len(self.differences):,} values differ, in {self.differing_rows:,} rows"
        ]
        return "\n".join([*lines, *self.differences[:10]])


def compare(training: Path, url: str, *, rows: int, seed: int = 2013, batch: int = 250) -> Comparison:
    """Ask the service at `url` for `rows` random rows of the training set, `batch` a request."""
    table = pq.read_table(training)
    chosen = sorted(random.Random(seed).sample(range(table.num_rows), rows))
    differences: list[str] = []
    differing: set[int] = set()
    values = nulls = 0
    for start in range(0, rows, batch):
        part = table.take(chosen[start : start + batch])
        online = _ask(url, part)
        features = [name for name in part.column_names if "__" in name]
        if sorted(features) != sorted(online):
            raise SystemExit(f"only one side has {sorted(set(features) ^ set(online))}")
        for name in features:
            field = part.schema.field(name)
            offline = part.column(name).to_pylist()
            for i, (asked, answered) in enumerate(zip(offline, online[name], strict=True)):
                values += 1
                nulls += asked is None and answered is None
                if bits(asked, field.type) != bits(decoded(answered, field.type), field.type):
                    differing.add(start + i)
                    differences.append(
                        f"  row {chosen[start + i]}, {name}: offline {asked!r}, online {answered!r}"
                    )
    return Comparison(rows, len(differing), values, nulls, differences)


def _ask(url: str, part: pa.Table) -> dict[str, list[object]]:
    """The service's values for each row of `part`, by feature."""
    asked = {
        "feature_service": SERVICE,
        "full_feature_names": True,
        "entities": {key: part.column(key).to_pylist() for key in KEYS},
        "as_of": [_text(instant) for instant in part.column(TIME).to_pylist()],
        "known_at": "as_of",
    }
    request = Request(
        f"{url}/get-online-features", json.dumps(asked).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urlopen(request, timeout=120) as response:
            made = json.load(response)
    except HTTPError as error:
        raise SystemExit(f"the service answered {error.code}: {error.read().decode()}") from None
    names = made["metadata"]["feature_names"]
    columns = {name: result["values"] for name, result in zip(names, made["results"], strict=True)}
    return {name: values for name, values in columns.items() if name not in KEYS}


def _text(instant: datetime) -> str:
    return instant.isoformat().replace("+00:00", "Z")


def decoded(value: object, kind: pa.DataType) -> object:
    """A JSON value as the feature's type: floats that JSON has no number for come as text."""
    if pa.types.is_floating(kind) and isinstance(value, str):
        return {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}[value]
    return value


def bits(value: object, kind: pa.DataType) -> object:
    """What equal values have in common: a float's eight bytes, else the value with its type; null is null."""
    if pa.types.is_floating(kind) and value is not None:
        assert isinstance(value, float), f"{value!r} is no float"
        return struct.pack("<d", value)
    return type(value), value
