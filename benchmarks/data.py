"""The benchmarks' data: made once from a seed, kept in a directory of the reader's choice.

events.parquet: 10M events of 100k entities over 100 days. corrected.parquet: the same with ids, 0.1 % of them
delivered again and 0.1 % corrected. features.parquet: 10M rows of five float columns, for latest-value joins.
spine.parquet: 1M rows, 2 % of unknown entities.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

START_US = 1_735_689_600_000_000  # 2025-01-01
DAYS = 100
DAY_US = 86_400_000_000


def make(
    directory: Path, *, events: int = 10_000_000, entities: int = 100_000, spine: int = 1_000_000
) -> Path:
    """The data for these sizes, made if it isn't there yet."""
    place = directory / f"{events}-{entities}-{spine}"
    if (place / "done").exists():
        return place
    place.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(7)
    us = pa.timestamp("us", "UTC")

    def write(name: str, columns: dict[str, object]) -> None:
        pq.write_table(pa.table(columns), place / name, row_group_size=1_000_000)

    def times(count: int) -> np.ndarray:  # type: ignore[type-arg]
        return START_US + draw.integers(0, DAYS * DAY_US, count)

    entity, happened, amount = (
        draw.integers(0, entities, events),
        times(events),
        draw.gamma(2.0, 30.0, events),
    )
    write("events.parquet", {"entity_id": entity, "ts": pa.array(happened).cast(us), "amount": amount})
    again = draw.integers(0, events, events // 1000)
    corrected = draw.integers(0, events, events // 1000)
    row = np.concatenate([np.arange(events), again, corrected])
    value = amount[row]
    value[-len(corrected) :] += 1.0
    mixed = draw.permutation(len(row))
    row, value = row[mixed], value[mixed]
    write(
        "corrected.parquet",
        {"id": row, "entity_id": entity[row], "ts": pa.array(happened[row]).cast(us), "amount": value},
    )
    happened = times(events)
    write(
        "features.parquet",
        {
            "entity_id": draw.integers(0, entities, events),
            "ts": pa.array(happened).cast(us),
            **{f"f{i}": draw.standard_normal(events).astype(np.float32) for i in range(5)},
        },
    )
    write(
        "spine.parquet",
        {"entity_id": draw.integers(0, int(entities * 1.02), spine), "time": pa.array(times(spine)).cast(us)},
    )
    (place / "done").touch()
    return place
