"""Verifying finds nothing where nothing is wrong: answers that were logged at every state of a store's life,
over generated histories of events, tables and lookups, come out the same from the logs, to the bit.

Every history is delivered by files and pushes; between any two of its steps the store is asked, with
``known_at`` absent, an instant and "as_of", and at last it is compacted: what has been folded still says when
it entered. What a run has met is counted, and must be enough.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
from hypothesis import strategies as st

import tests.strategies as generated
import tests.strategies_lookups as lookups
import tests.strategies_tables as tables
from featurestore.kernel.roles import KnownAt
from tests.parity.logged import Logging
from tests.parity.lookups import LookupProject, by_turns, lookup_deliveries, on_every_instant
from tests.parity.projects import ROTATIONS, Project, Templates, deliveries, discard
from tests.parity.rounds import run_until
from tests.parity.tables import Tables, on_every_boundary, table_deliveries
from tests.services.postgres import Postgres
from tests.strategies import Question


class Run:
    """Histories that were asked at every step and verified."""

    def __init__(self) -> None:
        self.met: Counter[str] = Counter()

    def enough(self) -> bool:
        """Whether facts were met that had not entered, and rows that were folded."""
        return all(self.met[what] >= self.met["histories"] // 4 for what in ("not entered", "folded"))

    def check(
        self,
        project: Project,
        steps: Sequence[Callable[[], None]],
        asked: Sequence[Question],
        known_at: KnownAt,
    ) -> None:
        with Logging(project) as logging:
            for step in steps:
                step()
                for horizon in {None, "as_of", known_at}:
                    logging.ask(asked, horizon)
            folded = project.store.compact(full=True).timelines
            self.met["folded"] += sum(one.rows_before for one in folded)
            logging.ask(asked, known_at)
        found = project.store.verify()
        assert found.ok and not found.missing and not found.skipped, found.text()
        assert found.answers == found.compared == found.equal == logging.values, found.text()
        self.met["answers"] += found.answers
        self.met["histories"] += 1
        self.met["requests"] += logging.requests
        self.met["not entered"] += found.freshness.facts


def spread(asked: Sequence[Question], most: int) -> list[Question]:
    return list(asked[:: 1 + len(asked) // most])


def events(directory: Path, histories: int, server: Postgres | None = None) -> Run:
    run, templates = Run(), Templates(directory, server)

    def check(data: st.DataObject) -> None:
        history = data.draw(generated.histories())
        steps = data.draw(deliveries(history))
        asked = [*data.draw(generated.questions(history)), Question((None,), generated.START)]
        known_at = data.draw(generated.horizons(history))
        rotation = sum(map(ord, "".join(history.source))) % ROTATIONS
        project = templates.of(history, rotation).project()
        try:
            taken = [partial(project.take, [step]) for step in steps]
            run.check(project, taken, spread(asked, 12), known_at)
        finally:
            discard(project, server)

    run_until(check, histories, run.enough)
    return run


def of_tables(directory: Path, histories: int) -> Run:
    run, templates = Run(), Tables(directory)

    def check(data: st.DataObject) -> None:
        history = data.draw(tables.histories())
        steps = data.draw(table_deliveries(history))
        asked = spread([*data.draw(tables.questions(history)), *on_every_boundary(history)], 24)
        known_at = data.draw(tables.horizons(history))
        project = templates.project(history)
        try:
            run.check(project, [partial(project.take, [step]) for step in steps], asked, known_at)
        finally:
            discard(project)

    run_until(check, histories, run.enough)
    return run


def of_lookups(directory: Path, histories: int) -> Run:
    run = Run()

    def check(data: st.DataObject) -> None:
        looking = data.draw(lookups.projects())
        steps = by_turns(data.draw(lookup_deliveries(looking)))
        known_at = data.draw(lookups.horizons(looking))
        run.met["projects"] += 1
        project = LookupProject(directory / str(run.met["projects"]), looking)
        try:
            taken = [partial(project.take_one, source, step) for source, step in steps]
            run.check(project, taken, spread(on_every_instant(looking), 16), known_at)
        finally:
            discard(project)

    run_until(check, histories, run.enough)
    return run


def test_answers_over_events_come_out_the_same(tmp_path: Path) -> None:
    assert events(tmp_path, 8).met["answers"] > 1_000


def test_answers_over_events_of_a_store_in_postgresql_come_out_the_same(
    tmp_path: Path, postgres: Postgres
) -> None:
    assert events(tmp_path, 4, postgres).met["answers"] > 300


def test_answers_over_tables_come_out_the_same(tmp_path: Path) -> None:
    assert of_tables(tmp_path, 8).met["answers"] > 1_000


def test_answers_over_lookups_come_out_the_same(tmp_path: Path) -> None:
    assert of_lookups(tmp_path, 5).met["answers"] > 300


@pytest.mark.slow
def test_answers_come_out_the_same_in_thousands_of_histories(tmp_path: Path, postgres: Postgres) -> None:
    for name, run in (
        ("events", lambda at: events(at, 600)),
        ("postgresql", lambda at: events(at, 60, postgres)),
        ("tables", lambda at: of_tables(at, 600)),
        ("lookups", lambda at: of_lookups(at, 300)),
    ):
        (tmp_path / name).mkdir()
        run(tmp_path / name)
