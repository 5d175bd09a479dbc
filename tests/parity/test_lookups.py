"""Lookups: training set = online = oracle, and the kernel alone = oracle, bit for bit, over generated
histories on every side.

Every project looks up rows of a table, features of a view over events whose own events look up rows, and
features of a view over the table, with late, corrected, deleted, moved and conflicting changes among all of
them. Through the public interface all three logs are delivered by files and pushes, and asked at and just
after every instant, with ``known_at`` absent, an instant and "as_of". What such a run has met is printed, and
must not be less than ``AT_LEAST``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from featurestore.testing.bits import bits
from featurestore.testing.hosts import kernel_answer
from featurestore.testing.reference import Oracle
from tests.parity.answers import expected_answers, in_kernel, mismatches
from tests.parity.lookups import (
    Deliveries,
    LookupProject,
    delivered,
    lookup_deliveries,
    on_every_instant,
    oracle_of,
)
from tests.parity.projects import discard
from tests.strategies import Question
from tests.strategies_lookups import SEEN, Looking, horizons, met, projects, questions

ANY_HEALTH = list(HealthCheck)
stable = settings(
    derandomize=True, database=None, deadline=None, suppress_health_check=ANY_HEALTH, phases=[Phase.generate]
)

AT_LEAST = 3
"""How many questions must meet each of ``SEEN``, in a run of any size."""


def check(data: st.DataObject) -> None:
    project = data.draw(projects())
    asked = data.draw(questions(project))
    known_at = data.draw(horizons(project))
    oracle = Oracle(project.view, project.outer.schema, project.outer.rows, project.logs)
    good = project.good
    schema, rows = good["events"]
    pairs = [(question.keys, question.as_of) for question in asked]
    answers = kernel_answer(project.view, schema, rows, pairs, known_at, good)
    assert not list(in_kernel(answers, expected_answers(oracle, asked, known_at), asked)), known_at


@settings(max_examples=60, deadline=None, suppress_health_check=ANY_HEALTH)
@given(st.data())
def test_lookups_answer_as_the_oracle_does(data: st.DataObject):
    check(data)


@pytest.mark.slow
@settings(max_examples=2_000, deadline=None, suppress_health_check=ANY_HEALTH)
@given(st.data())
def test_lookups_answer_as_the_oracle_does_in_thousands_of_histories(data: st.DataObject):
    check(data)


# --- through the public interface


class Seen:
    """What a run has met."""

    def __init__(self) -> None:
        self.histories = self.questions = self.values = 0
        self.met: Counter[str] = Counter()
        self.ways: Counter[tuple[str, str]] = Counter()
        self.sources: Counter[str] = Counter()
        # Values that late knowledge changed.
        self.corrected = 0

    def add(self, project: Looking, asked: Sequence[Question], steps: Deliveries) -> None:
        self.histories += 1
        self.questions += len(asked)
        self.met.update(name for seen in met(project, asked) for name in seen)
        self.ways.update(
            {(source, step.what) for source, some in steps.items() for step in some if step.rows}
        )
        self.sources.update(f"table's {part}" for part in project.table.source)
        self.sources.update(f"events' {part}" for part in project.outer.source)

    def text(self) -> str:
        found = ", ".join(f"{name} {self.met[name]:,}" for name in SEEN)
        ways = ", ".join(f"{source} by {way} {count}" for (source, way), count in sorted(self.ways.items()))
        parts = ", ".join(f"{part} {count}" for part, count in sorted(self.sources.items()))
        return (
            f"\nlookups: {self.histories:,} histories, {self.questions:,} questions, each with three "
            f"horizons, {self.values:,} values of each host, {self.corrected:,} of them otherwise under "
            f'"as_of"\n  questions with: {found}\n  {ways}; {parts}'
        )

    @property
    def missing(self) -> set[str]:
        return {name for name in SEEN if self.met[name] < AT_LEAST}

    def check(self) -> None:
        assert not self.missing
        assert self.corrected >= 10 * AT_LEAST
        assert all(
            self.ways[source, way] for source in ("events", "others", "rows") for way in ("file", "push")
        )
        for part in ("table's event_time", "table's available_at", "events' available_at", "events' id"):
            assert 0 < self.sources[part] < self.histories, part


def check_hosts(data: st.DataObject, directory: Path, seen: Seen, *, every: int) -> None:
    """One project, delivered; with each horizon one training set and one request."""
    drawn = data.draw(
        projects(most=8, changes=18).filter(lambda one: len(one.outer.rows) > 2 and len(one.table.rows) > 3)
    )
    steps = data.draw(lookup_deliveries(drawn))
    there = delivered(drawn, steps)
    asked = [*data.draw(questions(there)), *on_every_instant(there)]
    instant = data.draw(horizons(there).filter(lambda known_at: isinstance(known_at, int)))
    # Drawing is cheap, delivering is not: after the first ones only what adds something that is rare.
    if seen.histories >= every and not seen.missing & set().union(*met(there, asked)):
        return
    project = LookupProject(directory / f"project-{seen.histories}", drawn)
    try:
        project.deliver(steps)
        oracle = oracle_of(there)
        for known_at in (None, "as_of", instant):
            wrong = list(islice(mismatches(project, oracle, asked, known_at), 10))
            assert not wrong, f"known_at {known_at}:\n" + "\n".join(wrong)
        seen.corrected += otherwise(oracle, asked)
    finally:
        discard(project)
    seen.add(there, asked, steps)
    seen.values += 3 * len(asked) * len(oracle.features)


def otherwise(oracle: Oracle, asked: Sequence[Question]) -> int:
    """Values that "as_of" and everything known say differently."""
    then, now = (expected_answers(oracle, asked, known_at) for known_at in ("as_of", None))
    return sum(
        bits(one[name].value) != bits(other[name].value)
        for one, other in zip(then, now, strict=True)
        for name in one
    )


def run(directory: Path, count: int, *, more: int = 0) -> Seen:
    """``count`` histories, and of ``more`` those that add what is rare."""
    seen = Seen()

    @settings(stable, max_examples=count + more)
    @given(st.data())
    def parity(data: st.DataObject) -> None:
        check_hosts(data, directory, seen, every=count)

    parity()
    return seen


@pytest.mark.timeout(1200)
def test_lookups_answer_alike_offline_online_and_in_the_oracle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    seen = run(tmp_path, 16, more=60)
    with capsys.disabled():
        print(seen.text())  # noqa: T201 - what a run has met is part of its result
    seen.check()


@pytest.mark.slow
@pytest.mark.timeout(6 * 3600)
def test_lookups_answer_alike_in_1000_histories(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    seen = run(tmp_path, 1_000)
    with capsys.disabled():
        print(seen.text())  # noqa: T201 - what a run has met is part of its result
    seen.check()
