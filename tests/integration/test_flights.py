"""The flights example on six days around a change of clocks: the same bits online and offline, and no leak.

Times: a flight is an event of its scheduled departure, T; what it sees had been reported before T.
"""

from __future__ import annotations

import math
import random
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from examples.flights import parity, prepare
from featurestore import FeatureStore
from featurestore.testing.bits import bits

EXAMPLE = Path(prepare.__file__).parent
HOUR = pd.Timedelta(hours=1)
WINDOWS = {"1h": HOUR, "3h": 3 * HOUR, "24h": 24 * HOUR, "7d": 168 * HOUR, "30d": 720 * HOUR}


@dataclass(frozen=True)
class Example:
    """A project in `root`, its training set as known at each row's time, and the reports that made it."""

    root: Path
    training: pa.Table
    manifest: dict
    reports: pd.DataFrame

    def remade(self, root: Path, reports: pd.DataFrame) -> pa.Table:
        """The training set of another log, for the same spine."""
        return training_set(project(root, reports, self.root / "data" / "spine.parquet"))[0]


@cache
def year() -> pd.DataFrame:
    return prepare.with_instants(prepare.read_package("flights.csv.zip"), prepare.zones())


def six_days() -> pd.DataFrame:
    """The clocks went forward on 10 March 2013."""
    flights = prepare.read_package("flights.csv.zip")
    return flights[(flights["month"] == 3) & flights["day"].between(7, 12)]


def project(root: Path, reports: pd.DataFrame, spine: Path) -> Path:
    (root / "data" / "flights").mkdir(parents=True)
    shutil.copy(EXAMPLE / "features.py", root)
    shutil.copy(spine, root / "data" / "spine.parquet")
    table = pa.Table.from_pandas(reports, schema=prepare.REPORTS, preserve_index=False)
    pq.write_table(table, root / "data" / "flights" / "2013-03.parquet")
    return root


def training_set(root: Path, known_at: str | None = "as_of") -> tuple[pa.Table, dict]:
    with FeatureStore(root) as store:
        made = store.training_set(
            "data/spine.parquet", features="arrival_delay", time="scheduled_at", known_at=known_at
        )
    return made.to_arrow(), dict(made.manifest)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Example:
    root = tmp_path_factory.mktemp("flights")
    shutil.copy(EXAMPLE / "features.py", root)
    prepare.prepare(root / "data", six_days())
    table, manifest = training_set(root)
    reports = pq.read_table(root / "data" / "flights" / "2013-03.parquet").to_pandas()
    return Example(root, table, manifest, reports)


def features(table: pa.Table) -> list[str]:
    return [name for name in table.column_names if "__" in name]


def differing_rows(one: pa.Table, other: pa.Table) -> set[int]:
    """Rows in which any feature has other bits."""
    found: set[int] = set()
    for name in features(one):
        pairs = zip(one.column(name).to_pylist(), other.column(name).to_pylist(), strict=True)
        found.update(i for i, (a, b) in enumerate(pairs) if bits(a) != bits(b))
    return found


def flight(month: int, day: int, carrier: str, number: int) -> pd.Series:
    flights = year()
    at = (flights["month"] == month) & (flights["day"] == day)
    found = flights[at & (flights["carrier"] == carrier) & (flights["flight"] == number)]
    assert len(found) == 1
    return found.iloc[0]


# The data as instants


def test_a_flight_is_identified_by_carrier_number_origin_and_scheduled_departure():
    flights = year()
    assert len(flights) == 336_776
    assert not flights.duplicated(prepare.FLIGHT_ID).any()
    assert flights.duplicated(["year", "month", "day", "carrier", "flight"]).any()


def test_every_landing_agrees_with_the_airlines_own_delay():
    flights = year()
    told = flights["arr_delay"].notna()
    due = flights["due_at"] + pd.to_timedelta(flights["arr_delay"], unit="min")
    assert told.sum() == 327_346
    assert (flights["landed_at"] == due)[told].all()


def test_a_landing_is_read_on_the_clock_of_its_destination():
    honolulu = flight(1, 1, "HA", 51)
    assert (honolulu["dest"], honolulu["arr_time"]) == ("HNL", 1516)
    assert honolulu["landed_at"] == pd.Timestamp("2013-01-02T01:16Z")


def test_a_landing_in_the_repeated_hour_is_the_earlier_one():
    los_angeles = flight(11, 2, "VX", 413)
    assert (los_angeles["dest"], los_angeles["arr_time"]) == ("LAX", 114)
    assert los_angeles["landed_at"] == pd.Timestamp("2013-11-03T08:14Z")


def test_a_landing_in_the_skipped_hour_has_the_offset_before_the_gap():
    palm_beach = flight(3, 9, "B6", 35)
    assert (palm_beach["dest"], palm_beach["arr_time"]) == ("PBI", 203)
    assert palm_beach["landed_at"] == pd.Timestamp("2013-03-10T07:03Z")


@pytest.mark.parametrize("dest", sorted(prepare.ZONES_OF_MISSING_AIRPORTS))
def test_a_destination_that_the_airports_lack_keeps_atlantic_time_all_year(dest: str):
    flights = year()
    there = flights[(flights["dest"] == dest) & flights["air_time"].notna()]
    # From gate to gate takes minutes of taxiing longer than the time in the air: an hour off would show.
    taxiing_minutes = (there["landed_at"] - there["departed_at"]) / pd.Timedelta(minutes=1) - there[
        "air_time"
    ]
    assert taxiing_minutes.groupby(there["month"]).median().between(15, 40).all()


def test_prepared_twice_the_files_are_equal_bytes(example: Example, tmp_path: Path):
    again = prepare.prepare(tmp_path, six_days())
    for path in [*again.log, again.spine]:
        assert path.read_bytes() == (example.root / "data" / path.relative_to(tmp_path)).read_bytes()


# The training set


def test_every_flight_is_kept_and_what_is_left_out_is_counted(example: Example):
    assert example.training.num_rows == len(six_days())
    without_aircraft = int(six_days()["tailnum"].isna().sum())
    assert without_aircraft > 0
    assert example.manifest["counts"]["rows_without_key"] == without_aircraft
    assert example.manifest["sources"]["flights"]["entities"]["aircraft"]["keyless"] == without_aircraft


def known_before(reports: pd.DataFrame, as_of: pd.Timestamp) -> pd.DataFrame:
    """Each flight's last report before `as_of`."""
    known = reports[reports["reported_at"] < as_of].sort_values("reported_at", kind="stable")
    return known.drop_duplicates(prepare.FLIGHT_ID, keep="last")


def mean(values: pd.Series) -> float | None:
    numbers = values.dropna().tolist()
    return math.fsum(numbers) / len(numbers) if numbers else None


def p90(values: pd.Series) -> float | None:
    numbers = values.dropna().to_numpy()
    return float(np.quantile(numbers, 0.9)) if len(numbers) else None


def expected(facts: pd.DataFrame, window: str) -> dict[str, object]:
    late = (facts["dep_delay"] >= 60) | (facts["arr_delay"] >= 60)
    made: dict[str, object] = {
        f"count_{window}": len(facts),
        f"dep_delay_mean_{window}": mean(facts["dep_delay"]),
        f"arr_delay_mean_{window}": mean(facts["arr_delay"]),
        f"late_share_{window}": mean((facts["dep_delay"] >= 15).astype(float)),
        f"dep_delay_max_{window}": None if facts.empty else float(facts["dep_delay"].max()),
        f"very_late_{window}": int(late.sum()),
    }
    if window != "1h":
        made[f"arr_delay_p90_{window}"] = p90(facts["arr_delay"])
    return made


def test_values_are_those_of_a_plain_search_in_pandas(example: Example):
    table = example.training.to_pandas()
    compared = found = 0
    for i in random.Random(1).sample(range(len(table)), 60):
        row = table.iloc[i]
        as_of = row["scheduled_at"]
        known = known_before(example.reports, as_of)
        for view, key in (("origin", "origin"), ("carrier", "carrier"), ("aircraft", "tailnum")):
            own = known[known[key] == row[key]]
            for window, span in WINDOWS.items():
                facts = own[(own["scheduled_at"] < as_of) & (own["scheduled_at"] >= as_of - span)]
                for name, value in expected(facts, window).items():
                    column = f"{view}_delays__{name}"
                    if column in table:
                        given = example.training.column(column)[i].as_py()
                        assert bits(given) == bits(value), (column, row["flight"], as_of)
                        compared += 1
                        found += value is not None
    assert compared > 4_000
    assert found > 2_000


def test_no_arrival_delay_is_seen_at_or_before_the_landing(example: Example, tmp_path: Path):
    landed = example.reports[example.reports["status"] == "landed"]
    chosen = random.Random(2).sample(list(landed.index), 5)
    times = example.training.column("scheduled_at").to_pandas()
    for index in chosen:
        changed = example.reports.copy()
        changed.loc[index, "arr_delay"] += 1_000
        other = example.remade(tmp_path / str(index), changed)
        differing = differing_rows(example.training, other)
        assert differing, "somebody sees it later"
        assert all(times[i] > changed.loc[index, "reported_at"] for i in differing)


def test_what_is_reported_later_changes_nothing_before(example: Example, tmp_path: Path):
    horizon = pd.Timestamp("2013-03-10T15:00Z")
    changed = example.reports.copy()
    later = ~(changed["reported_at"] < horizon)  # the cancelled flights too, whose report has no time
    changed.loc[later, ["dep_delay", "arr_delay"]] = 777.0
    other = example.remade(tmp_path / "later", changed)
    times = example.training.column("scheduled_at").to_pandas()
    differing = differing_rows(example.training, other)
    assert differing
    assert all(times[i] > horizon for i in differing)


def test_with_everything_known_a_flight_sees_delays_that_nobody_knew(example: Example):
    leaky, _ = training_set(example.root, known_at=None)
    differing = differing_rows(example.training, leaky)
    assert len(differing) > 0.9 * leaky.num_rows
    assert all(
        leaked >= known
        for leaked, known in zip(
            leaky.column("origin_delays__count_3h").to_pylist(),
            example.training.column("origin_delays__count_3h").to_pylist(),
            strict=True,
        )
    )


# Online


def test_online_and_offline_are_the_same_bits(example: Example):
    rows = random.Random(3).sample(range(example.training.num_rows), 200)
    part = example.training.take(rows)
    with FeatureStore(example.root) as store:
        store.apply()
        store.backfill()
        answer = store.online_features(
            features="arrival_delay",
            entities={key: part.column(key).to_pylist() for key in parity.KEYS},
            as_of=part.column("scheduled_at").to_pylist(),
            known_at="as_of",
        ).to_arrow()
    names = features(part)
    assert [name for name in answer.column_names if "__" in name] == names
    assert part.column("tailnum").null_count < 200
    assert not differing_rows(part, answer)


def test_the_demo_compares_by_bits():
    double = pa.float64()
    assert parity.bits(0.1 + 0.2, double) != parity.bits(0.3, double)
    assert parity.bits(0.0, double) != parity.bits(-0.0, double)
    assert parity.bits(None, double) != parity.bits(math.nan, double)
    assert parity.bits(math.nan, double) == parity.bits(parity.decoded("NaN", double), double)
    assert parity.bits(1, pa.int64()) != parity.bits(True, pa.int64())
