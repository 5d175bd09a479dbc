"""Retention: what a question inside it can see stays, bit for bit; an older question is refused; what nobody
can see any more leaves the store, and does not come back.

Times count days from 2026-01-01; "now" is told to each compaction.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore import Entity, EventSource, FeatureStore, FeatureView, Parquet, TableSource, agg
from featurestore.dtypes import instant_text
from featurestore.errors import DefinitionError, OutsideRetentionError
from featurestore.kernel.roles import KnownAt
from featurestore.store.compaction import compact
from featurestore.store.records import TimelineVersion
from featurestore.testing.bits import bits
from featurestore.testing.builders import schema_of
from featurestore.testing.hosts import python_values
from featurestore.testing.reference import Oracle, Row

BEGIN_US = 1_767_225_600_000_000  # 2026-01-01
DAY_US = 86_400_000_000
CARDS = ["c1", "c2", "c3"]
COLUMNS = {
    "id": "int64", "card": "string", "ts": "timestamp", "known": "timestamp", "amount": "float64",
    "gone": "bool",
}  # fmt: skip

VIEW = """FeatureView("spend", card, events, retention="20d", features=[
    agg.count(windows=["1d", "10d"]), agg.sum("amount", windows=["10d"]), agg.min("amount", windows=["4d"]),
    agg.last_k("amount", k=3, windows=["10d"], delay="2d", name="before"),
])"""
DECLARED = f"""
from featurestore import Entity, EventSource, FeatureView, Parquet, agg

card = Entity("card", key="card")
events = EventSource(
    "events", log=Parquet("log"), event_time="ts", id="id", available_at="known", deleted="gone",
    columns={COLUMNS!r},
)
spend = {VIEW}
"""


def day(number: float) -> int:
    return BEGIN_US + int(number * DAY_US)


def event(id: int, at: float, card: str = "c1", amount: float = 1.0, known: float | None = None) -> Row:
    return {"id": id, "card": card, "ts": day(at), "known": day(at if known is None else known),
            "amount": amount, "gone": False}  # fmt: skip


def table(rows: Sequence[Row]) -> pa.Table:
    return pa.table(
        {
            name: pa.array([row[name] for row in rows], dtype.arrow)
            for name, dtype in schema_of(COLUMNS).items()
        }
    )


class Project:
    def __init__(self, root: Path, url: str, declared: str = DECLARED) -> None:
        self.root = root
        (root / "log").mkdir(parents=True)
        pq.write_table(table([]), root / "log" / "0.parquet")
        (root / "featurestore.toml").write_text(f'[store]\nurl = "{url}"\n')
        self.declare(declared)

    def declare(self, declared: str) -> FeatureStore:
        (self.root / "features.py").write_text(declared)
        with FeatureStore(self.root) as store:
            store.apply()
            store.backfill()
        return FeatureStore(self.root)

    def write(self, rows: Sequence[Row]) -> None:
        number = len(list((self.root / "log").iterdir()))
        pq.write_table(table(rows), self.root / "log" / f"{number}.parquet")


@pytest.fixture
def project(tmp_path: Path, empty_store_url: str) -> Project:
    return Project(tmp_path / "project", empty_store_url)


def compacted(store: FeatureStore, now: float) -> int:
    """Compact as of a day; returns how many versions were dropped."""
    report = compact(store.store, now=lambda: day(now))
    return sum(one.dropped for one in report.timelines)


def timelines(store: FeatureStore) -> list[TimelineVersion]:
    with store.store.snapshot() as snapshot:
        return snapshot.timeline_versions()


def versions(store: FeatureStore) -> int:
    with store.store.snapshot() as snapshot:
        return sum(one.versions for one in snapshot.sizes().values())


def asked(store: FeatureStore, as_of: float, known_at: KnownAt = None) -> Any:
    return store.lookup.vectors(
        features=["spend"],
        feature_service=None,
        entities={"card": CARDS},
        as_of=day(as_of),
        known_at=known_at,
    )


def answers(store: FeatureStore, as_of: float, known_at: KnownAt = None) -> list[list[object]]:
    """Bits, statuses and event times of every feature."""
    return [
        [[bits(value) for value in python_values(one.values)], one.statuses(), one.event_timestamps()]
        for one in asked(store, as_of, known_at).vectors
    ]


def test_what_no_question_inside_the_retention_sees_is_dropped_and_nothing_else(project: Project):
    with FeatureStore(project.root) as store:
        for number in range(80):
            store.ingest("events", table([event(number, number + 0.5, CARDS[number % 3], number)]))
        inside = [answers(store, at, known) for at in (60, 65.5, 80) for known in (None, "as_of", day(60))]
        # H is day 60; the longest delay and window are 12 days: 48 events are older, one of each card stays.
        assert compacted(store, now=80) == 45
        (timeline,) = timelines(store)
        assert (timeline.horizon_us, timeline.floor_us) == (day(60), day(48))
        assert versions(store) == 80 - 45
        assert inside == [
            answers(store, at, known) for at in (60, 65.5, 80) for known in (None, "as_of", day(60))
        ]
        assert compacted(store, now=80) == 0
        # It moves forward only.
        assert compacted(store, now=70) == 0 and timelines(store) == [timeline]


def test_an_older_question_is_refused_in_process_and_has_a_status_over_http(project: Project):
    with FeatureStore(project.root) as store:
        store.ingest("events", table([event(number, number) for number in range(80)]))
        compacted(store, now=80)
        found = asked(store, 59.9)
        assert all(one.statuses() == ["OUTSIDE_RETENTION"] * 3 for one in found.vectors)
        assert all(one.values.null_count == 3 for one in found.vectors)
        response = found.to_response(full_feature_names=False)
        assert response["results"][1] == {
            "values": [None] * 3, "statuses": ["OUTSIDE_RETENTION"] * 3,
            "event_timestamps": ["1970-01-01T00:00:00Z"] * 3,
        }  # fmt: skip
        times = (
            {"as_of": instant_text(day(60) - 1)},
            {"as_of": instant_text(day(70)), "known_at": instant_text(day(59))},
        )
        for given in times:
            with pytest.raises(OutsideRetentionError, match="answers questions from 2026-03-02") as error:
                store.online_features(["spend"], {"card": ["c1"]}, **given)
            assert error.value.hint is not None and "training sets" in error.value.hint
            with pytest.raises(OutsideRetentionError):
                store.explain_value("spend:count_1d", {"card": "c1"}, **given)
        store.online_features(
            ["spend"], {"card": ["c1"]}, as_of=instant_text(day(60)), known_at=instant_text(day(60))
        )
        # Of a request for several times those inside are answered.
        both = store.lookup.vectors(
            features=["spend:count_1d"], feature_service=None, entities={"card": ["c1", "c1"]},
            as_of=[day(59), day(60)], known_at=None,
        )  # fmt: skip
        assert both.vectors[0].statuses() == ["OUTSIDE_RETENTION", "PRESENT"]
        assert both.vectors[0].values.to_pylist() == [None, 1]


def test_what_comes_too_late_is_counted_and_not_kept_but_a_late_correction_is(project: Project):
    with FeatureStore(project.root) as store:
        store.ingest("events", table([event(number, number) for number in range(80)]))
        assert compacted(store, now=80) == 47
        kept = versions(store)
        # Dropped ones come again, a new one is as old, one is a correction of what is there, one is new.
        pushed = [event(3, 3), event(100, 20), event(79, 79, amount=5.0, known=79.5), event(101, 50)]
        report = store.ingest("events", table(pushed))
        assert (report.late, report.corrected, report.accepted, report.duplicate) == (2, 1, 1, 0)
        assert "2 too late to be of use" in report.text() and report.to_dict()["late"] == 2
        assert versions(store) == kept + 2
        with store.store.snapshot() as snapshot:
            counters = {key.kind: n for key, n in snapshot.counters().items() if key.partition == "arrivals"}
            assert snapshot.last_arrival == 82
        assert counters["late"] == 2
        assert counters["delivered"] == sum(n for kind, n in counters.items() if kind != "delivered")
        # The one event that stays of the older ones is still known.
        assert store.ingest("events", table([event(47, 47)])).duplicate == 1
        project.write([event(5, 5), event(200, 60)])
        counts = store.backfill().counts
        assert (counts["late"], counts["accepted"]) == (1, 1)
        # A training set reads the log and knows no retention.
        spine = pa.table({"card": ["c1"], "ts": [instant_text(day(5.5))]})
        assert store.training_set(spine, "spend:count_1d").to_arrow()["spend__count_1d"].to_pylist() == [1]


def test_a_view_that_looks_further_back_gets_a_version_of_its_own(project: Project):
    rows = [event(number, number) for number in range(80)]
    project.write(rows)
    with FeatureStore(project.root) as store:
        store.backfill()
        compacted(store, now=80)
    longer = DECLARED + (
        'far = FeatureView("far", card, events, retention="20d", features=[agg.count(windows=["40d"])])\n'
        'near = FeatureView("near", card, events, retention="20d", features=[agg.count(windows=["9d"])])\n'
    )
    with project.declare(longer) as store:
        of_view = {one["view"]: one["timeline_version"] for one in store.versions()}
        assert of_view["near"] == of_view["spend"] != of_view["far"]
        found = store.online_features(
            ["far", "near"], {"card": ["c1"]}, as_of=instant_text(day(70))
        ).to_dict()
        assert (found["far__count_40d"], found["near__count_9d"]) == ([40], [9])
    # So does a lifetime.
    with project.declare(
        DECLARED + 'all = FeatureView("all", card, events, features=[agg.count()])\n'
    ) as store:
        found = store.online_features(["all"], {"card": ["c1"]}, as_of=instant_text(day(70))).to_dict()
        assert found["all__count"] == [70]


@pytest.mark.parametrize(
    "pinning",
    [
        'other = FeatureView("other", card, events, features=[agg.count(windows=["1d"])])\n',
        'other = FeatureView("other", card, events, retention="9d", features=[agg.last("amount")])\n',
    ],
    ids=["a view without retention", "a lifetime feature"],
)
def test_a_view_that_may_ask_about_anything_pins_the_timeline(tmp_path: Path, pinning: str):
    project = Project(tmp_path / "project", "store.db", DECLARED + pinning)
    with FeatureStore(project.root) as store:
        store.ingest("events", table([event(number, number) for number in range(80)]))
        assert compacted(store, now=80) == 0
        assert timelines(store)[0].horizon_us is None and versions(store) == 80


def test_the_longest_retention_of_the_views_over_a_timeline_counts(tmp_path: Path):
    longer = (
        'other = FeatureView("other", card, events, retention="40d", features=[agg.count(windows=["1d"])])\n'
    )
    project = Project(tmp_path / "project", "store.db", DECLARED + longer)
    with FeatureStore(project.root) as store:
        store.ingest("events", table([event(number, number) for number in range(80)]))
        compacted(store, now=80)
        assert (timelines(store)[0].horizon_us, timelines(store)[0].floor_us) == (day(40), day(28))


def test_a_retention_that_is_declared_later_makes_no_new_version(tmp_path: Path):
    project = Project(tmp_path / "project", "store.db", DECLARED.replace('retention="20d", ', ""))
    with FeatureStore(project.root) as store:
        store.ingest("events", table([event(number, number) for number in range(80)]))
        assert compacted(store, now=80) == 0
        before = store.versions()
    with project.declare(DECLARED) as store:
        assert store.versions() == before
        assert compacted(store, now=80) == 47


def test_where_a_retention_makes_no_sense_it_is_refused():
    card = Entity("card", key="card")
    events = EventSource("events", log=Parquet("log"), event_time="ts", id="id")
    rows = TableSource("rows", log=Parquet("log"), primary_key="id", changed_at="ts", position="lsn")
    with pytest.raises(DefinitionError, match="its source is a table"):
        FeatureView("v", card, rows, features=[agg.count()], retention="20d")
    with pytest.raises(DefinitionError, match="retention is empty"):
        FeatureView("v", card, events, features=[agg.count()], retention="0d")
    with pytest.raises(DefinitionError, match='retention "soon" is not a span'):
        FeatureView("v", card, events, features=[agg.count()], retention="soon")


def test_what_is_looked_up_has_no_retention(tmp_path: Path):
    looking = """
more = EventSource(
    "more", log=Parquet("log"), event_time="ts", id="id", columns=COLUMNS
).lookup(spend, on="card", columns=["count_1d"])
other = FeatureView("other", card, more, features=[agg.sum("count_1d", windows=["1d"])])
""".replace("COLUMNS", repr(COLUMNS))
    with pytest.raises(DefinitionError, match="which has a retention"):
        Project(tmp_path / "project", "store.db", DECLARED + looking)


# --- a property


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[list[tuple[float, list[Row]]], list[Row]]:
    """Days, with what is pushed on them; and all rows. Late ones, duplicates, corrections, retractions."""
    seed = random.Random(draw(st.integers(0, 10_000)))
    rows: list[Row] = []
    for number in range(draw(st.integers(20, 60))):
        at = seed.randrange(90 * 8) / 8
        one = event(
            number,
            at,
            seed.choice(CARDS),
            seed.choice([1.5, 2.0, float(seed.randrange(50))]),
            at + seed.choice([0, 0, 0.01, 9]),
        )
        rows.append(one)
        for _ in range(seed.choice([0, 0, 0, 1, 1, 2])):
            known = one["known"] + seed.choice([0, 0, 1, DAY_US, 30 * DAY_US])  # type: ignore[operator]
            change = seed.choice([{}, {"amount": 7.25}, {"gone": True}])
            rows.append({**one, **change, "known": known})
    seed.shuffle(rows)
    days = sorted(seed.sample(range(30, 140), 5))
    # Most are pushed soon after they are known, some long after.
    pushes: list[list[Row]] = [[] for _ in days]
    for row in rows:
        due = [i for i, at in enumerate(days) if day(at) >= row["known"]]  # type: ignore[operator]
        pushes[seed.choice([*(due[:1] * 4), *due, len(days) - 1])].append(row)
    return list(zip(map(float, days), pushes, strict=True)), rows


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("retention") / "project", "store.db")


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(deliveries(), st.randoms(use_true_random=False))
def test_law_1_a_question_inside_the_retention_is_answered_as_if_nothing_was_ever_dropped(
    template: Project, made: tuple[list[tuple[float, list[Row]]], list[Row]], draw: random.Random
):
    pushes, _ = made
    root = template.root.with_name("copy")
    shutil.copytree(template.root, root)
    try:
        with FeatureStore(root) as store:
            view, schema = store.declarations.views["spend"], schema_of(COLUMNS)
            rows: list[Row] = []
            for at, some in pushes:
                if some:
                    store.ingest("events", table(some))
                rows += some
                oracle = Oracle(view, schema, rows)
                before = compacted(store, now=at) if draw.random() < 0.7 else 0
                assert before >= 0
                (timeline,) = timelines(store)
                horizon = timeline.horizon_us or day(0)
                for as_of in (horizon, horizon + 1, horizon + DAY_US, day(at), day(at + 5)):
                    for known_at in (None, "as_of", max(horizon, as_of - DAY_US), horizon):
                        found = asked(store, (as_of - BEGIN_US) / DAY_US, known_at)
                        for i, card in enumerate(CARDS):
                            wanted = oracle.answer((card,), as_of=found.as_of, known_at=known_at)
                            for one in found.vectors:
                                value = python_values(one.values)[i]
                                assert bits(value) == bits(wanted[one.feature.name].value), one.feature.name
    finally:
        shutil.rmtree(root)
