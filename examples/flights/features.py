"""What is known about delays at an airport, of a carrier and of an aircraft when a flight is to leave.

Time: windows count back over scheduled departures. A delay is seen from the instant it was reported, so a
flight in the air has a departure delay and no arrival delay yet, and no flight ever sees itself.
"""

from featurestore import Entity, EventSource, FeatureService, FeatureView, Parquet, agg

WINDOWS = ["1h", "3h", "24h", "7d", "30d"]

origin = Entity("origin", key="origin", description="the airport that flights leave: EWR, JFK, LGA")
carrier = Entity("carrier", key="carrier", description="the airline")
aircraft = Entity("aircraft", key="tailnum", description="one airframe, by its tail number")

flights = EventSource(
    "flights",
    log=Parquet("data/flights/*.parquet"),
    event_time="scheduled_at",
    id=["carrier", "flight", "origin", "scheduled_at"],
    available_at="reported_at",
    description="a flight's row when it departed, and its correction when it landed",
)

delays = [
    agg.count(windows=WINDOWS),
    agg.mean("dep_delay", windows=WINDOWS),
    agg.mean("arr_delay", windows=WINDOWS),
    agg.mean("cast(dep_delay >= 15 as bigint)", windows=WINDOWS, name="late_share"),
]

# An airport or an airline has hundreds of flights a day: enough to tell a bad day from one bad flight.
spread = [
    agg.count(windows=["3h", "24h"], where="dep_delay >= 60 or arr_delay >= 60", name="very_late"),
    agg.max("dep_delay", windows=["1h", "3h", "24h"]),
    agg.percentile("arr_delay", q=0.9, windows=["3h", "24h", "7d", "30d"]),
    agg.stddev("arr_delay", windows=["24h", "7d", "30d"]),
]

origin_delays = FeatureView("origin_delays", entity=origin, source=flights, features=[*delays, *spread])

carrier_delays = FeatureView("carrier_delays", entity=carrier, source=flights, features=[*delays, *spread])

aircraft_delays = FeatureView(
    "aircraft_delays",
    entity=aircraft,
    source=flights,
    features=[
        *delays,
        agg.max("arr_delay", windows=["30d"]),
        agg.last("dep_delay", windows=["24h"]),
        agg.last("arr_delay", windows=["24h"]),
        agg.last("status"),
        agg.time_since_last(),
    ],
)

arrival_delay = FeatureService("arrival_delay", features=[origin_delays, carrier_delays, aircraft_delays])
