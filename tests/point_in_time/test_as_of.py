"""Values as of an instant, through everything that a user has: log, store, training set and request.

Time: each history is asked on, just before and just after every instant at which an answer can change; the
examples computed by hand in docs/semantics.md are asked as they stand there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from featurestore.testing.bits import bits
from featurestore.testing.hosts import python_values
from featurestore.testing.worked_examples import Example, read, value_of
from tests.parity.histories import at_random, by_hand
from tests.parity.laws import Bench
from tests.parity.projects import VIEW, Project, Step, Template, declared, discard
from tests.strategies import Question

EXAMPLES, _ = read(Path(__file__).parents[2] / "docs" / "semantics.md")
# Tables go through a store in tests/integration/test_tables_online.py.
HISTORIES = {one.history.line: one.history for one in EXAMPLES if not one.history.is_table}
CASES = [one.name for one in (*by_hand(), *at_random())]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    made = Bench(tmp_path_factory.mktemp("bench"))
    yield made
    made.close()


@pytest.mark.parametrize("name", CASES)
def test_a_small_history_is_answered_alike_by_training_set_request_and_oracle(bench: Bench, name: str):
    [one] = [one for one in bench.prepared if one.case.name == name]
    for known_at in one.case.known_at:
        assert [*one.in_training_set(known_at, lambda _: True)] == []
        assert [*one.in_request(known_at, lambda _: True)] == []


@pytest.mark.parametrize("line", HISTORIES, ids=lambda line: f"history of line {line}")
def test_training_sets_and_requests_answer_as_computed_by_hand(tmp_path: Path, line: int):
    history = HISTORIES[line]
    examples = [example for example in EXAMPLES if example.history is history]
    source = dict(history.source)
    keys = source.pop("key", "card").split(",")
    features = [replace(example.feature, name=f"value{i}") for i, example in enumerate(examples)]
    project = Template(tmp_path / "project", declared(history.columns, source, features, keys)).project()
    project.take([Step("file", history.rows), Step("backfill")])
    try:
        for i, example in enumerate(examples):
            _check(project, example, f"value{i}")
    finally:
        discard(project)


def _check(project: Project, example: Example, stem: str) -> None:
    [plan] = [one for one in project.store.plans.views[VIEW].features if one.name.split("_")[0] == stem]
    asked = [Question(example.keys, example.as_of)]
    wanted = bits(value_of(example.expected, plan.dtype))
    made = project.training_set(asked, example.known_at)
    [value] = python_values(made.table.column(plan.column).combine_chunks())
    assert bits(value) == wanted, example.line
    assert made.manifest["flagged"].get(plan.reference, 0) == example.flagged
    if example.as_of is not None:
        [vector] = [one for one in project.online(asked, example.known_at).vectors if one.feature == plan]
        assert bits(python_values(vector.values)[0]) == wanted, example.line
        assert (vector.statuses() == ["INVALID"]) == example.flagged
