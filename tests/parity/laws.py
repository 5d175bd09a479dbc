"""The laws as checks that raise AssertionError: what ``test_laws`` shows to hold, and what a seeded fault
must break.

Time: each check names the instants that it needs; none depends on when it runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from featurestore.dsl.aggregation import agg
from featurestore.dsl.entity import Entity
from featurestore.dsl.feature_view import FeatureView
from featurestore.dsl.log import Parquet
from featurestore.dsl.source import EventSource
from featurestore.feature_store import FeatureStore
from featurestore.kernel.roles import KnownAt
from featurestore.store import Commit, Snapshot
from featurestore.store.ingest import ingest
from featurestore.testing.bits import bits
from featurestore.testing.builders import correction, event, instant, retraction
from featurestore.testing.hosts import python_values
from featurestore.testing.reference import Oracle, Row
from tests.parity.answers import Expected, expected_answers, has_fact, in_training_set, in_vectors
from tests.parity.histories import Case, at_random, by_hand, features, history
from tests.parity.projects import Project, Step, Template, declared
from tests.strategies import History, Question

NOON = instant("12:00")
assert NOON is not None
COUNTED = ("accepted", "corrected", "duplicate", "keyless", "ignored", "late", "dead_lettered", "rejected")


class Bench:
    """Projects for the checks, made once: seeded faults in readers and in the kernel meet a sound store."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._templates: dict[tuple[str, ...], Template] = {}
        self._open: list[Project] = []

    def close(self) -> None:
        for project in self._open:
            project.store.close()

    def project(self, made: History, steps: Sequence[Step] = ()) -> Project:
        key = tuple(made.columns)
        if key not in self._templates:
            number = len(self._templates)
            self._templates[key] = Template(
                self._directory / f"bench-{number}",
                declared(made.columns, made.source, features()),
                threads=1,
            )
        project = self._templates[key].project()
        self._open.append(project)
        project.take(steps)
        return project

    @cached_property
    def prepared(self) -> list[Prepared]:
        """The cases, written, with what the oracle says of them."""
        made = []
        for one in (*by_hand(), *at_random()):
            project = self.project(one.history, one.steps)
            oracle = Oracle(project.view, one.history.schema, one.rows)
            expected = {known_at: expected_answers(oracle, one.asked, known_at) for known_at in one.known_at}
            made.append(Prepared(one, project, oracle, expected))
        return made

    @cached_property
    def reordered(self) -> list[tuple[Case, Project, Project]]:
        """Cases with an id, each written twice: as given, and in reverse with every second row repeated."""
        pairs = []
        for one in self.prepared:
            case, rows = one.case, one.case.rows
            if "id" not in case.history.source or len(rows) < 2:
                continue
            again = [Step("file", rows[::-1]), Step("file", rows[::2]), Step("backfill")]
            pairs.append((case, one.project, self.project(case.history, again)))
        return pairs

    @cached_property
    def futures(self) -> list[tuple[Question, KnownAt, Project, Project]]:
        """A question, and two projects that differ in what it must not see."""
        made = history(PAST)
        before = self.project(made, [Step("file", made.rows), Step("backfill")])
        found = []
        for known_at, future in _futures():
            rows = history([*PAST, *future]).rows
            after = self.project(made, [Step("file", rows[::-1]), Step("backfill")])
            found.append((Question(("c1",), instant("09:05")), known_at, before, after))
        return found


@dataclass(frozen=True)
class Prepared:
    case: Case
    project: Project
    oracle: Oracle
    expected: Mapping[KnownAt, Expected]

    def in_training_set(self, known_at: KnownAt, only: Callable[[str], bool]) -> Iterator[str]:
        """What a training set answers otherwise than the oracle, of the features that ``only`` takes."""
        made = self.project.training_set(self.case.asked, known_at)
        return in_training_set(made, self._expected(known_at, only), self.case.asked)

    def in_request(self, known_at: KnownAt, only: Callable[[str], bool]) -> Iterator[str]:
        """The same for one request."""
        expected = self._expected(known_at, only)
        timed = [i for i, question in enumerate(self.case.asked) if question.as_of is not None]
        asked = [self.case.asked[i] for i in timed]
        if not asked:
            return iter(())
        vectors = self.project.online(asked, known_at)
        vectors = replace(vectors, vectors=[one for one in vectors.vectors if only(one.feature.name)])
        found = [has_fact(self.oracle, question, known_at) for question in asked]
        return in_vectors(vectors, [expected[i] for i in timed], found)

    def _expected(self, known_at: KnownAt, only: Callable[[str], bool]) -> Expected:
        return [{name: value for name, value in one.items() if only(name)} for one in self.expected[known_at]]


# --- law 1


def check_parity(bench: Bench, only: Callable[[str], bool] = lambda _: True) -> None:
    """Training set = online = oracle, on every case."""
    for host in (Prepared.in_training_set, Prepared.in_request):
        for one in bench.prepared:
            for known_at in one.case.known_at:
                wrong = list(islice(host(one, known_at, only), 3))
                assert not wrong, f"{one.case.name}, known_at {known_at}: " + "\n".join(wrong)


# --- law 2


def check_determinism(bench: Bench) -> None:
    """Order, files and repetitions of the rows change no bit."""
    for one, as_given, otherwise in bench.reordered:
        for known_at in one.known_at:
            first, second = (project.training_set(one.asked, known_at) for project in (as_given, otherwise))
            assert values_of(first.table) == values_of(second.table), f"{one.name}, known_at {known_at}"


def values_of(table: Any) -> dict[str, list[Any]]:
    """Every column's values as bits."""
    return {
        name: [bits(value) for value in python_values(table.column(name).combine_chunks())]
        for name in table.column_names
    }


# --- law 3


def check_no_leakage(bench: Bench) -> None:
    """What happens at T or later, or is known at K or later, changes nothing at (T, K)."""
    for question, known_at, before, after in bench.futures:
        first, second = (project.training_set([question], known_at) for project in (before, after))
        assert values_of(first.table) == values_of(second.table), (question, known_at)
        if question.as_of is not None:
            first_online, second_online = (
                project.online([question], known_at).to_arrow() for project in (before, after)
            )
            assert values_of(first_online) == values_of(second_online), (question, known_at)


PAST = (
    event("a", at="09:00", n=1, x=1.0, s="a", b=True),
    event("b", at="09:03", n=2, x=2.0, s="b", available="09:04"),
    correction("a", at="09:00", available="09:04:30", n=5, x=5.0, s="e", b=True),
)


def _futures() -> Iterator[tuple[KnownAt, list[Row]]]:
    """Horizons, and rows that a question at 09:05 must not see under them."""
    happens = [
        event("f", at="09:05", available="08:00", n=100, x=100.0, s="f", b=True),
        event("g", at="09:05:00.000001", n=100, x=100.0, s="g", b=True),
    ]
    yield None, happens
    horizons: tuple[tuple[KnownAt, str], ...] = (
        ("as_of", "09:05"),
        (instant("09:10"), "09:10"),
        (instant("09:04"), "09:04"),
    )
    for known_at, text in horizons:
        learnt = [
            event("h", at="09:01", available=text, n=1000, x=1000.0, s="h", b=True),
            correction("a", at="09:01", available=text, n=1001, s="i", b=True),
            retraction("b", available=text),
            {**event("j", at="09:01", n=1002, s="j"), "available_at": None},
        ]
        yield known_at, [*happens, *learnt]


# --- law 4


def check_exactly_once(bench: Bench) -> None:
    """Repeated backfills and pushes, and a crash inside a commit, neither lose nor double a fact."""
    rows = [event(f"e{i}", at=f"09:0{i}", n=i, s=f"s{i}") for i in range(6)]
    with_id, without = history(rows), history(rows, ("available_at",))
    asked = [Question(("c1",), instant("10:00"))]
    for made in (with_id, without):
        project = bench.project(made, [Step("file", made.rows[:2]), Step("backfill")])
        project.add_file(made.rows[2:4])
        with crash_inside_the_next_append(), pytest.raises(Crash):
            project.store.backfill()
        project.take([Step("backfill"), Step("backfill")])
        if made is with_id:
            push = Step("push", made.rows[3:], NOON)
            project.take([push, push])
        else:
            project.take([Step("file", made.rows[4:]), Step("backfill"), Step("backfill")])
        oracle = Oracle(project.view, made.schema, made.rows)
        expected = expected_answers(oracle, asked, None)
        wrong = [*in_training_set(project.training_set(asked, None), expected, asked)]
        wrong += in_vectors(project.online(asked, None), expected, [True])
        assert not wrong, wrong[:3]
        with project.store.store.snapshot() as snapshot:
            kept = sum(size.versions for size in snapshot.sizes().values())
        assert kept == len(rows), f"{kept} versions are kept of {len(rows)} facts"


class Crash(Exception):
    """The process ends here, as far as the store can tell: nothing after this line is done."""


@contextmanager
def crash_inside_the_next_append() -> Iterator[None]:
    def append(*_: Any) -> None:
        raise Crash

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Commit, "append", append)
        yield


# --- law 5


def two_views(directory: Path) -> FeatureStore:
    """Two views over one source, by entities of two kinds: each push adds to both."""
    columns = {"card": "string", "shop": "string", "id": "string", "ts": "timestamp", "n": "int64"}
    directory.mkdir()
    source = EventSource("events", log=Parquet("log"), columns=columns, event_time="ts", id="id")
    views = [
        FeatureView(name, Entity(name, key=name), source, [agg.sum("n"), agg.count()])
        for name in ("card", "shop")
    ]
    store = Template(directory / "two", views[0], others=views[1:]).project().store
    store.backfill()
    return store


def one_purchase(number: int) -> Row:
    return {"card": "c1", "shop": "s1", "id": f"e{number}", "ts": "2026-03-02T09:00:00Z", "n": number + 1}


def push_one(store: FeatureStore, number: int) -> None:
    assert NOON is not None
    ingest(store.store, store.root, "events", [one_purchase(number)], atomic=False, now_us=NOON)


def sums_of_both(store: FeatureStore) -> tuple[Any, ...]:
    """(sum, count) of the card and of the shop, of one request."""
    answer = store.online_features(
        ["card:n_sum", "card:count", "shop:n_sum", "shop:count"],
        {"card": ["c1"], "shop": ["s1"]},
        as_of="2026-03-03T00:00:00Z",
    )
    made = answer.to_dict()
    return tuple((made[f"{view}__n_sum"][0], made[f"{view}__count"][0]) for view in ("card", "shop"))


def check_one_snapshot(bench: Bench) -> None:
    """A push between the two reads of one request is in neither of its answers."""
    directory = bench._directory / "snapshot"
    number = sum(1 for _ in bench._directory.glob("snapshot*"))
    store = two_views(directory.with_name(f"snapshot-{number}"))
    writer = FeatureStore(store.root)
    read = Snapshot.read
    pushed = 0

    def read_then_push(self: Snapshot, *args: Any) -> Any:
        nonlocal pushed
        found = read(self, *args)
        if not busy:
            busy.append(True)
            push_one(writer, pushed)
            pushed += 1
            busy.pop()
        return found

    busy: list[bool] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Snapshot, "read", read_then_push)
        try:
            for _ in range(3):
                before = pushed
                card, shop = sums_of_both(store)
                assert pushed > before
                assert card == shop, "the two views are of two states of the store"
        finally:
            writer.close()
            store.close()


# --- law 6


def check_nothing_silent(bench: Bench) -> None:
    """Every row that was handed in is in exactly one counter of its source and partition."""
    rows = [
        event("a", at="09:00", n=1, s="a"),
        event("a", at="09:00", n=1, s="a"),
        correction("a", at="09:00", available="10:00", n=2, s="b"),
        event("b", at="09:01", card=None, n=1),
        event("c", at=None, available="09:02", n=1),
        {**event("d", at="09:02", n=1), "id": None},
        event("e", at="09:03", n=1),
    ]
    made = history(rows)
    project = bench.project(made, [Step("file", made.rows), Step("file", made.rows[:3]), Step("backfill")])
    report = project.push(made.rows, NOON or 0)
    told = report.accepted + report.corrected + report.duplicate + report.keyless + len(report.rejected)
    assert told == len(rows)
    project.store.backfill()
    with project.store.store.snapshot() as snapshot:
        counters = snapshot.counters()
    delivered: dict[str, int] = {}
    for key, n in counters.items():
        if key.kind == "delivered":
            delivered[key.partition] = n
            parts = sum(counters.get(type(key)(key.source, key.partition, kind), 0) for kind in COUNTED)
            assert parts == n, (key, counters)
    pushed = delivered.pop("arrivals")
    assert (pushed, sum(delivered.values())) == (len(rows), len(rows) + 3), json.dumps(delivered)
    counts = project.training_set([Question(("c1",), NOON)], None).manifest["sources"]["events"]["entities"][
        "card"
    ]
    assert (counts["rejected"], counts["keyless"]) == (2, 2), counts


CHECKS: Mapping[int, Callable[[Bench], None]] = {
    1: check_parity,
    2: check_determinism,
    3: check_no_leakage,
    4: check_exactly_once,
    5: check_one_snapshot,
    6: check_nothing_silent,
}
