"""Parity under compaction: whatever is folded, and whenever, online = training set = oracle, bit for bit, for
every operation; and the store holds the same versions, each with the commit at which it entered.

A compaction happens between deliveries and between the preparation of a delivery and its commit; deliveries
happen between the preparation of a fold and its commit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import strategies as st

import tests.strategies as generated
from featurestore.testing.reference import Oracle
from featurestore.testing.reference_tables import TableOracle
from tests.integration.compaction_project import between, held
from tests.parity.answers import mismatches
from tests.parity.projects import (
    ROTATIONS,
    Project,
    Step,
    Templates,
    deliveries,
    discard,
    known_rows,
)
from tests.parity.rounds import run_until
from tests.parity.tables import (
    EDGES,
    Tables,
    on_every_boundary,
    oracle_of,
    table_deliveries,
    table_mismatches,
)
from tests.services.postgres import Postgres
from tests.strategies_tables import histories as table_histories
from tests.strategies_tables import instants as table_instants
from tests.strategies_tables import questions as table_questions

WAYS = ("folded", "folded again", "a push before a fold", "a fold before a push", "a fold before a backfill")
LEAST = 2


class Compacted:
    """Takes a history's steps with compactions between and inside of them, and counts what was met."""

    def __init__(self, project: Project, steps: Sequence[Step], draw: st.DataObject) -> None:
        self.project, self.draw = project, draw
        self.steps = list(steps)
        self.met: Counter[str] = Counter()

    def take(self) -> None:
        store = self.project.store.store
        with (
            between(store, "ingest", lambda: self._maybe("a fold before a push")),
            between(store, "backfill", lambda: self._maybe("a fold before a backfill")),
        ):
            while self.steps:
                self.project.take([self.steps.pop(0)])
                self._maybe("folded")
        self.met["folded again"] += self.compact()

    def _maybe(self, what: str) -> None:
        if self.draw.draw(st.booleans(), label=what):
            self.met[what] += self.compact()

    def compact(self) -> int:
        """A compaction, while which a push may come; returns how many rows it folded."""
        store = self.project.store.store
        pushed = 0

        def push() -> None:
            nonlocal pushed
            if self.steps and self.steps[0].what == "push" and not pushed:
                pushed += 1
                step = self.steps.pop(0)
                self.project.push(step.rows, step.now_us)

        before = None if self.steps else held(store)
        with between(store, "compact", push):
            report = self.project.store.compact(full=True)
        if before is not None:
            assert held(store) == before
        self.met["a push before a fold"] += pushed
        return sum(one.rows_before for one in report.timelines)


def check_events(data: st.DataObject, templates: Templates, met: Counter[str]) -> None:
    history = data.draw(generated.histories())
    steps = _in_small_pieces(data.draw(deliveries(history)), data)
    rows = known_rows(history, steps)
    asked = data.draw(generated.questions(history))
    known_at = data.draw(generated.horizons(generated.History(history.columns, history.source, rows)))
    rotation = sum(map(ord, "".join(history.source))) % ROTATIONS
    project = templates.of(history, rotation).project()
    try:
        taken = Compacted(project, steps, data)
        taken.take()
        oracle = Oracle(project.view, history.schema, rows)
        wrong = list(islice(mismatches(project, oracle, asked, known_at), 10))
        assert not wrong, "\n".join(wrong)
    finally:
        discard(project, templates.server)
    met.update(taken.met)


def _in_small_pieces(steps: Sequence[Step], data: st.DataObject) -> list[Step]:
    """The same, with pushes cut in two, so that entities lie in many rows."""
    made: list[Step] = []
    for step in steps:
        cut = len(step.rows) // 2 if step.what == "push" else 0
        made += [replace(step, rows=step.rows[:cut])] if cut else []
        made.append(replace(step, rows=step.rows[cut:]))
    return made


def check_tables(data: st.DataObject, tables: Tables, met: Counter[str]) -> None:
    history = data.draw(table_histories().filter(lambda one: len(one.rows) > 3))
    steps = _in_small_pieces(data.draw(table_deliveries(history)), data)
    rows = known_rows(history, steps)  # type: ignore[arg-type]
    delivered = replace(history, rows=rows)
    asked = data.draw(table_questions(history))
    edges = on_every_boundary(delivered)[::3]
    known_at = data.draw(st.sampled_from([None, "as_of", data.draw(table_instants(delivered))]))
    project = tables.project(history)
    try:
        taken = Compacted(project, steps, data)
        taken.take()
        oracle = oracle_of(project, history, rows)
        few = EDGES if history.has_event_time else [replace(one, windows=()) for one in EDGES]
        narrow = TableOracle(replace(project.view, features=few), project.schema, delivered.changes)
        made = project.training_set([*asked, *edges], known_at)
        wrong = list(islice(table_mismatches(made, project, oracle, narrow, asked, edges, known_at), 10))
        assert not wrong, f"known_at {known_at}:\n" + "\n".join(wrong)
    finally:
        discard(project)
    met.update(taken.met)


def run(check: object, examples: int, *, least: int = LEAST, ways: Sequence[str] = WAYS) -> None:
    """``examples`` histories, and as many more as it takes until each way was met."""
    met: Counter[str] = Counter()
    run_until(
        lambda data: check(data, met),  # type: ignore[operator]
        examples,
        lambda: all(met[way] >= least for way in ways),
    )
    assert all(met[way] >= least for way in ways), met


@pytest.mark.timeout(1200)
def test_events_answer_alike_whatever_is_folded_whenever(tmp_path: Path):
    templates = Templates(tmp_path)
    run(lambda data, met: check_events(data, templates, met), 12)


@pytest.mark.timeout(1200)
def test_tables_answer_alike_whatever_is_folded_whenever(tmp_path: Path):
    tables = Tables(tmp_path)
    run(lambda data, met: check_tables(data, tables, met), 8)


@pytest.mark.timeout(1200)
def test_folds_change_no_answer_of_a_store_in_postgresql(tmp_path: Path, postgres: Postgres):
    templates = Templates(tmp_path, postgres)
    run(lambda data, met: check_events(data, templates, met), 4, least=1, ways=WAYS[:2])


@pytest.mark.slow
@pytest.mark.timeout(6 * 3600)
def test_hundreds_of_histories_answer_alike_whatever_is_folded_whenever(tmp_path: Path):
    templates, tables = Templates(tmp_path / "events"), Tables(tmp_path / "tables")
    run(lambda data, met: check_events(data, templates, met), 600)
    run(lambda data, met: check_tables(data, tables, met), 300)
