"""Mutable tables: training set = online = oracle, bit for bit, over generated mutation histories.

Every history is delivered by files and pushes, and asked for every operation, at instants on, just before
and just after boundaries, for a few of them at every boundary, with ``known_at`` absent, an instant and
"as_of". What a run has met is printed, and must not be less than ``LEAST``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from featurestore.batch.training_set import TrainingSet
from featurestore.kernel.operations import OPERATIONS
from featurestore.testing.hosts import kernel_answer
from featurestore.testing.reference import Row
from featurestore.testing.reference_tables import TableOracle
from tests.parity.answers import expected_answers, in_kernel
from tests.parity.projects import Step, discard, known_rows
from tests.parity.tables import (
    EDGES,
    Tables,
    on_every_boundary,
    oracle_of,
    rotation_of,
    table_deliveries,
    table_mismatches,
)
from tests.strategies import Question, every_operation
from tests.strategies_tables import (
    SEEN,
    TableHistory,
    histories,
    horizons,
    instants,
    questions,
    statistics,
)

ANY_HEALTH = list(HealthCheck)
stable = settings(
    derandomize=True, database=None, deadline=None, suppress_health_check=ANY_HEALTH, phases=[Phase.generate]
)

# How many questions must meet each difficulty, in a run of any size.
AT_LEAST = 3
# The least share of questions that must meet each difficulty, of those with a time and a key.
LEAST = {
    "a live row": 0.3,
    "two or more live rows": 0.1,
    "an update": 0.15,
    "a row that moved here": 0.08,
    "a row that moved away": 0.15,
    "a row that came back": 0.03,
    "a deleted row": 0.04,
    "a re-insert after a delete": 0.05,
    "a truncated row": 0.05,
    "a row written again after a truncate": 0.04,
    "two rows changed at one instant": 0.15,
    "several changes of a row at one instant": 0.12,
    "position and changed_at disagree": 0.15,
    "a conflict at one position": 0.1,
    "a duplicate": 0.12,
    "a late change": 0.3,
    "a row with a null entity key": 0.12,
    "a row with a null event time": 0.15,
    "a row with a bad change": 0.03,
    "on a boundary": 0.25,
    "just before a boundary": 0.15,
    "just after a boundary": 0.3,
}
# The least share of all changes, by what they do.
LEAST_OPERATIONS = {"r": 0.15, "c": 0.08, "u": 0.25, "d": 0.06, "t": 0.015}


class Seen:
    """What a run has met."""

    def __init__(self) -> None:
        self.histories = self.questions = self.edges = self.values = 0
        self.met: Counter[str] = Counter()
        self.operations: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.ways: Counter[str] = Counter()
        self.sources: Counter[str] = Counter()

    def add(self, history: TableHistory, asked: Sequence[Question], steps: Sequence[Step]) -> None:
        self.histories += 1
        self.questions += len(asked)
        shares = statistics(history, asked)
        self.met.update({name: share * len(asked) for name, share in shares.items()})
        self.operations.update(row["op"] for row in history.rows)
        ways = {step.what for step in steps if step.rows}
        self.ways[" and ".join(sorted(ways)) or "none"] += 1
        self.sources.update(history.source.keys())

    def text(self) -> str:
        shares = ", ".join(f"{name} {self.met[name] / self.questions:.0%}" for name in SEEN)
        changes = self.operations.total()
        kinds = ", ".join(f"{op} {self.operations[op] / changes:.0%}" for op in LEAST_OPERATIONS)
        ways = ", ".join(f"{way} {count}" for way, count in sorted(self.ways.items()))
        return (
            f"\ntables: {self.histories:,} histories of {changes:,} changes ({kinds}), {self.questions:,} "
            f"questions for every operation, {self.edges:,} on and beside every boundary, each with three "
            f"horizons; {self.values:,} values of each host\n  questions with: {shares}\n  by way of: {ways}"
            f"; sources with {', '.join(f'{part} {n}' for part, n in sorted(self.sources.items()))}"
        )

    @property
    def missing(self) -> set[str]:
        """What fewer than ``AT_LEAST`` questions have met so far."""
        return {name for name in SEEN if round(self.met[name]) < AT_LEAST}

    def check(self, *, shares: bool) -> None:
        """``shares``: of a run of many histories the shares, too."""
        assert not self.missing
        assert all(self.operations[op] >= AT_LEAST for op in LEAST_OPERATIONS), self.operations
        if shares:
            for name, least in LEAST.items():
                assert self.met[name] / self.questions >= least / 2, (name, self.met[name] / self.questions)
            for op, least in LEAST_OPERATIONS.items():
                assert self.operations[op] / self.operations.total() >= least / 2, (op, self.operations)
        assert set(LEAST) == set(SEEN)
        assert all(self.ways[way] for way in ("file", "file and push", "push"))
        parts = ("event_time", "available_at", "order_by", "primary_key", "position")
        assert all(0 < self.sources[part] < self.histories for part in parts)
        assert set(self.asked) == set(OPERATIONS)


def check_hosts(data: st.DataObject, tables: Tables, seen: Seen, *, every: int) -> None:
    """One history, written, pushed and backfilled; with each horizon one training set and one request."""
    history = data.draw(histories().filter(lambda one: len(one.rows) > 3))
    steps = data.draw(table_deliveries(history))
    rows = known_rows(history, steps)  # type: ignore[arg-type]
    delivered = replace(history, rows=rows)
    asked = data.draw(questions(history))
    # Drawing is cheap, delivering is not: after the first ones only what adds something that is rare.
    if seen.histories >= every and not any(statistics(history, asked)[name] for name in seen.missing):
        return
    edges = on_every_boundary(delivered)
    instant = data.draw(instants(delivered))
    project = tables.project(history, steps)
    try:
        oracle = oracle_of(project, history, rows)
        few = EDGES if history.has_event_time else [replace(one, windows=()) for one in EDGES]
        narrow = TableOracle(replace(project.view, features=few), project.schema, delivered.changes)
        for known_at in (None, "as_of", instant):
            made = project.training_set([*asked, *edges], known_at)
            wrong = list(islice(table_mismatches(made, project, oracle, narrow, asked, edges, known_at), 10))
            assert not wrong, f"known_at {known_at}:\n" + "\n".join(wrong)
            if known_at is None:
                pushed = any(step.what == "push" for step in steps)
                check_counts(made, oracle, delivered, pushed=pushed)
    finally:
        discard(project)
    seen.add(history, asked, steps)
    seen.asked.update({feature.aggregation.op for feature in oracle.features})
    seen.edges += len(edges)
    seen.values += 3 * (len(asked) * len(oracle.features) + len(edges) * len(narrow.features))


def check_counts(made: TrainingSet, oracle: TableOracle, delivered: TableHistory, *, pushed: bool) -> None:
    """The manifest counts and names what the oracle counts; bad rows that were pushed are not in the log."""
    found = made.manifest["sources"]["rows"]["entities"]["card"]
    counts = oracle.counts()
    for kind, count in (
        ("rejected", counts.rejected),
        ("duplicates", counts.duplicates),
        ("corrections", counts.conflicts),
    ):
        # A change that was pushed twice is kept once.
        if not pushed or kind == "corrections":
            assert found[kind] == count, (kind, found, counts)
    assert bool(found["conflicts"]) == bool(counts.conflicts)
    if not pushed:  # nor is what the repetition of a change calls it
        assert found["updates_of_unseen_rows"] == unseen(oracle, delivered.rows)


def unseen(oracle: TableOracle, rows: Sequence[Row]) -> int:
    """Rows that begin with nothing but updates and deletes, counted from the letters of the log."""
    needed = [oracle.source.changed_at, *oracle.source.positions, *oracle.source.primary_keys]
    first: dict[object, list[Row]] = {}
    for row in rows:
        if row["op"] != "t" and all(row[name] is not None for name in needed if name):
            first.setdefault(tuple(row[name] for name in oracle.source.primary_keys), []).append(row)
    found = 0
    for changes in first.values():
        places = [tuple(row[name] for name in oracle.source.positions) for row in changes]
        begins = [row["op"] for row, place in zip(changes, places, strict=True) if place == min(places)]
        found += set(begins) <= {"u", "d"}
    return found


def run(directory: Path, count: int, *, more: int = 0) -> Seen:
    """``count`` histories, and of ``more`` those that add what is rare."""
    seen = Seen()
    tables = Tables(directory)

    @settings(stable, max_examples=count + more)
    @given(st.data())
    def parity(data: st.DataObject) -> None:
        check_hosts(data, tables, seen, every=count)

    parity()
    return seen


@pytest.mark.timeout(1200)
def test_tables_answer_alike_offline_online_and_in_the_oracle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    seen = run(tmp_path, 22, more=80)
    with capsys.disabled():
        print(seen.text())  # noqa: T201 - what a run has met is part of its result
    seen.check(shares=False)


@pytest.mark.slow
@pytest.mark.timeout(6 * 3600)
def test_tables_answer_alike_in_2000_histories(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    seen = run(tmp_path, 2_000)
    with capsys.disabled():
        print(seen.text())  # noqa: T201 - what a run has met is part of its result
    seen.check(shares=True)


def test_every_history_is_asked_for_every_operation_and_all_for_every_variant():
    asked: set[object] = set()
    schemas = [
        dict(zip(parts, parts, strict=True))
        for parts in ((), ("event_time",), ("available_at",), ("order_by",), ("primary_key",), ("position",))
    ]
    every = set(every_operation())
    for source in schemas:
        columns = {"card": "string", "id": "string", "lsn": "int64", "changed": "timestamp"}
        history = TableHistory(columns, source, [])
        asked.add(rotation_of(history))
    assert len(asked) > 3, "schemas share one rotation"
    assert {one.op for one in every} == set(OPERATIONS)


# --- the kernel alone, over all variants of every operation at once


def check_kernel(data: st.DataObject) -> None:
    history = data.draw(histories())
    asked = data.draw(questions(history))
    known_at = data.draw(horizons(history))
    view = history.view(history.every_operation())
    oracle = TableOracle(view, history.schema, history.changes)
    good = [change.row for change in oracle.changes]
    answers = kernel_answer(
        view, history.schema, good, [(question.keys, question.as_of) for question in asked], known_at
    )
    assert not list(in_kernel(answers, expected_answers(oracle, asked, known_at), asked)), known_at


@settings(max_examples=15, deadline=None, suppress_health_check=ANY_HEALTH)
@given(st.data())
def test_the_kernel_answers_as_the_oracle_does(data: st.DataObject):
    check_kernel(data)


@pytest.mark.slow
@settings(max_examples=2_000, deadline=None, suppress_health_check=ANY_HEALTH)
@given(st.data())
def test_the_kernel_answers_as_the_oracle_does_in_thousands_of_histories(data: st.DataObject):
    check_kernel(data)
