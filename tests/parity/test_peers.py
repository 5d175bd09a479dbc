"""Other engines agree with a training set wherever they define the same thing: pandas, DuckDB, ``math.fsum``.

Time: each event asks at its own instant, which sees what was strictly before it; no two events of a card are
at one instant, where the peers would differ.
"""

from __future__ import annotations

import math
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore.dsl.aggregation import agg
from featurestore.feature_store import FeatureStore
from featurestore.testing.bits import bits
from tests.parity.projects import VIEW, Template, declared
from tests.strategies import MINUTE, START

COLUMNS = {
    "card": "string",
    "ts": "timestamp",
    "id": "int64",
    "n": "int64",
    "whole": "float64",
    "x": "float64",
}
WINDOWS = ["1m", "5m", "1h"]
FEATURES = [
    agg.count(windows=WINDOWS),
    *(
        getattr(agg, op)(column, windows=WINDOWS)
        for op in ("sum", "min", "max", "mean")
        for column in ("n", "whole", "x")
    ),
]


@pytest.fixture(scope="module")
def events() -> pa.Table:
    random = np.random.default_rng(11)
    cards, each = 20, 60
    # Half-minutes, each once: many events are exactly one window apart.
    happened = np.concatenate([random.choice(400, each, replace=False) for _ in range(cards)])
    count = cards * each
    return pa.table(
        {
            "card": np.repeat([f"c{card}" for card in range(cards)], each),
            "ts": pa.array(START + happened * (MINUTE // 2), pa.timestamp("us", "UTC")),
            "id": np.arange(count),
            "n": random.integers(-(2**40), 2**40, count),
            "whole": random.integers(-1000, 1000, count).astype(float),
            "x": random.standard_normal(count) * 10.0 ** random.integers(-12, 13, count),
        }
    )


@pytest.fixture(scope="module")
def training(events: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    directory = tmp_path_factory.mktemp("peers")
    view = declared(COLUMNS, {"id": "id"}, FEATURES)
    project = Template(directory / "peers", view).project()
    pq.write_table(events, project.directory / "log" / "events.parquet")
    store: FeatureStore = project.store
    made = store.training_set(events.select(["card", "ts", "id"]), VIEW, time="ts").to_pandas()
    store.close()
    return made.sort_values(["card", "ts"]).reset_index(drop=True)


def same(found: Any, expected: Any) -> None:
    """Equal bits; what a peer writes as NaN for an empty window is null here."""
    tidy = [None if value is None or value != value else float(value) + 0.0 for value in found]
    wanted = [None if value is None or value != value else float(value) + 0.0 for value in expected]
    assert [bits(value) for value in tidy] == [bits(value) for value in wanted]


@pytest.mark.parametrize("window", WINDOWS)
def test_pandas_rolling_closed_on_the_left_agrees(events: pa.Table, training: pd.DataFrame, window: str):
    frame = events.to_pandas().sort_values(["card", "ts"]).set_index("ts")
    rolling = frame.groupby("card")[["whole", "n"]].rolling(window.replace("m", "min"), closed="left")
    for op in ("sum", "min", "max"):
        same(training[f"{VIEW}__whole_{op}_{window}"], getattr(rolling, op)()["whole"])
    same(training[f"{VIEW}__count_{window}"], rolling.count()["whole"].fillna(0))


@pytest.mark.parametrize("window", WINDOWS)
def test_duckdb_range_windows_agree(events: pa.Table, training: pd.DataFrame, window: str):
    length = {"1m": "1 minute", "5m": "5 minutes", "1h": "1 hour"}[window]
    with duckdb.connect() as connection:
        found = connection.execute(
            f"""
            select count(*) over w, sum(n) over w, min(n) over w, max(n) over w, min(x) over w, max(x) over w
            from events window w as (
                partition by card order by ts
                range between interval {length} preceding and interval 1 microsecond preceding)
            order by card, ts
            """
        ).fetchall()
    names = ("count", "n_sum", "n_min", "n_max", "x_min", "x_max")
    for column, name in enumerate(names):
        expected = [row[column] for row in found]
        values = training[f"{VIEW}__{name}_{window}"]
        assert [None if pd.isna(value) else value for value in values] == expected


def test_sums_of_floats_are_those_of_fsum(events: pa.Table, training: pd.DataFrame):
    frame = events.to_pandas()
    for card, asked in training.groupby("card"):
        mine = frame[frame["card"] == card]
        for window, minutes in (("1m", 1), ("5m", 5), ("1h", 60)):
            expected = []
            for at in asked["ts"]:
                inside = mine[(mine["ts"] >= at - pd.Timedelta(minutes=minutes)) & (mine["ts"] < at)]
                expected.append(math.fsum(inside["x"]) if len(inside) else None)
            same(asked[f"{VIEW}__x_sum_{window}"], expected)
            counts = asked[f"{VIEW}__count_{window}"]
            means = [None if one is None else one / n for one, n in zip(expected, counts, strict=True)]
            same(asked[f"{VIEW}__x_mean_{window}"], means)
