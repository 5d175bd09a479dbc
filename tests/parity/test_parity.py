"""Law 1, parity: training set = online = oracle, bit for bit, on generated histories."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import strategies as st

import tests.strategies as generated
from featurestore.kernel.operations import OPERATIONS
from featurestore.testing.reference import Oracle
from tests.parity.answers import mismatches
from tests.parity.projects import ROTATIONS, Project, Templates, deliveries, discard, features, known_rows
from tests.parity.rounds import run_until
from tests.services.postgres import Postgres

# The least share of questions that must meet each difficulty; a run that meets fewer shows less than it says.
LEAST = {
    "two or more facts in the window": 0.3,
    "a fact on an edge": 0.3,
    "a tie": 0.15,
    "a correction": 0.15,
    "a late fact": 0.15,
    "a NaN": 0.2,
}

WAYS = ("file", "file and push", "push")


class Seen:
    """What a run has met: shares of questions, and how histories reached the store."""

    def __init__(self) -> None:
        self.histories = self.questions = self.values = 0
        self.met: Counter[str] = Counter()
        self.horizons: Counter[str] = Counter()
        self.ways: Counter[str] = Counter()

    def add(
        self, history: generated.History, asked: list[generated.Question], known_at: object, ways: set[str]
    ) -> None:
        self.histories += 1
        self.questions += len(asked)
        self.met.update(
            {name: share * len(asked) for name, share in generated.statistics(history, asked).items()}
        )
        self.horizons[known_at if isinstance(known_at, str) else type(known_at).__name__] += 1
        self.ways[" and ".join(sorted(ways)) or "none"] += 1

    def text(self) -> str:
        shares = ", ".join(f"{name} {self.met[name] / self.questions:.0%}" for name in generated.SEEN)
        horizons = {"NoneType": "absent", "int": "an instant", "as_of": '"as_of"'}
        known = ", ".join(f"{what} {self.horizons[name]}" for name, what in horizons.items())
        ways = ", ".join(f"{way} {count}" for way, count in sorted(self.ways.items()))
        return (
            f"\nparity: {self.histories:,} histories, {self.questions:,} questions, "
            f"{self.values:,} values of each host"
            f"\n  questions with: {shares}\n  known_at: {known}; by way of: {ways}"
        )

    def check(self) -> None:
        for name, least in LEAST.items():
            assert self.met[name] / self.questions >= least, (name, self.met[name] / self.questions)
        assert all(self.horizons[name] >= self.histories / 10 for name in ("NoneType", "int", "as_of"))
        assert all(self.ways[way] >= self.histories / 20 for way in WAYS)


def on_the_edges(history: generated.History) -> list[generated.Question]:
    """At most nine questions: at facts, when they leave a window of five minutes, and after all."""
    happened = sorted({row["ts"] for row in history.rows if row["ts"] is not None})
    instants = [ts + later for ts in happened for later in (0, 5 * generated.MINUTE)]
    spread = instants[:: 1 + len(instants) // 7] + [ts + 1 for ts in happened[-1:]]
    return [generated.Question(("c1",), as_of) for as_of in spread]


def check_parity(data: st.DataObject, templates: Templates, seen: Seen, *, rotations: int) -> None:
    """One history, written, pushed and backfilled; one training set and one request for every operation."""
    history = data.draw(generated.histories())
    steps = data.draw(deliveries(history))
    rows = known_rows(history, steps)
    asked = [*data.draw(generated.questions(history)), *on_the_edges(history)]
    known_at = data.draw(generated.horizons(generated.History(history.columns, history.source, rows)))
    # Neighbouring schemas begin with different rotations, so that few rotations a schema are still all.
    first = sum(map(ord, "".join(history.source)))
    rotation = (first + data.draw(st.integers(0, rotations - 1))) % ROTATIONS
    project = templates.of(history, rotation).project()
    try:
        project.take(steps)
        oracle = Oracle(project.view, history.schema, rows)
        wrong = list(islice(mismatches(project, oracle, asked, known_at), 10))
        assert not wrong, "\n".join(wrong)
        _check_counts(project, oracle, asked, known_at, {step.what for step in steps})
    finally:
        discard(project, templates.server)
    seen.add(history, asked, known_at, {step.what for step in steps if step.rows})
    seen.values += len(asked) * len(oracle.features)


def _check_counts(
    project: Project, oracle: Oracle, asked: list[generated.Question], known_at: object, ways: set[str]
) -> None:
    """The manifest counts what the oracle counts, where every row was written to the log."""
    if "push" in ways or known_at is not None:
        return
    found = project.training_set(asked[:1], None).manifest["sources"]["events"]["entities"]["card"]
    counts = oracle.counts()
    for kind in ("rejected", "keyless", "duplicates", "corrections"):
        assert found[kind] == getattr(counts, kind), (kind, found)


def run(
    directory: Path, histories: int, *, rotations: int, server: Postgres | None = None, ways: int = 0
) -> Seen:
    """``histories``, and as many more as it takes until each way into the store was taken ``ways`` times."""
    seen = Seen()
    templates = Templates(directory, server)
    run_until(
        lambda data: check_parity(data, templates, seen, rotations=rotations),
        histories,
        lambda: all(seen.ways[way] >= ways for way in WAYS),
    )
    return seen


def test_every_history_is_asked_for_every_operation():
    asked = [features(rotation) for rotation in range(ROTATIONS)]
    assert all({one.op for one in some} == set(OPERATIONS) for some in asked)
    assert {one for some in asked for one in some} == set(generated.every_operation())


@pytest.mark.timeout(1200)
def test_law_1_parity_training_set_online_and_oracle_agree_bit_for_bit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    seen = run(tmp_path, 200, rotations=2)
    with capsys.disabled():
        print(seen.text())  # noqa: T201 - what a run has met is part of its result
    seen.check()


@pytest.mark.timeout(1200)
def test_law_1_parity_holds_on_a_store_in_postgresql(tmp_path: Path, postgres: Postgres):
    seen = run(tmp_path, 40, rotations=1, server=postgres, ways=2)
    assert all(seen.ways[way] >= 2 for way in WAYS)


@pytest.mark.slow
@pytest.mark.timeout(6 * 3600)
def test_law_1_parity_holds_on_5000_histories(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    seen = run(tmp_path, 5000, rotations=ROTATIONS)
    with capsys.disabled():
        print(seen.text())  # noqa: T201 - what a run has met is part of its result
    seen.check()
