"""Lookups: the kernel answers as the oracle does, bit for bit, over generated histories on every side.

Every project looks up rows of a table, features of a view over events whose own events look up rows, and
features of a view over the table, with late, corrected, deleted, moved and conflicting changes among all of
them.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore.testing.bits import bits
from featurestore.testing.hosts import kernel_answer
from featurestore.testing.reference import Oracle
from tests.strategies_lookups import horizons, projects, questions

ANY_HEALTH = list(HealthCheck)


def check(data: st.DataObject) -> None:
    project = data.draw(projects())
    asked = data.draw(questions(project))
    known_at = data.draw(horizons(project))
    oracle = Oracle(project.view, project.outer.schema, project.outer.rows, project.logs)
    good = project.good
    schema, rows = good["events"]
    pairs = [(question.keys, question.as_of) for question in asked]
    answers = kernel_answer(project.view, schema, rows, pairs, known_at, good)
    for question, answer in zip(asked, answers, strict=True):
        wanted = oracle.answer(question.keys, as_of=question.as_of, known_at=known_at)
        for name, value in wanted.items():
            found = answer[name]
            assert (bits(found.value), found.flagged, found.latest) == (
                bits(value.value),
                value.flagged,
                value.latest,
            ), (name, question, known_at)


@settings(max_examples=60, deadline=None, suppress_health_check=ANY_HEALTH)
@given(st.data())
def test_lookups_answer_as_the_oracle_does(data: st.DataObject):
    check(data)


@pytest.mark.slow
@settings(max_examples=2_000, deadline=None, suppress_health_check=ANY_HEALTH)
@given(st.data())
def test_lookups_answer_as_the_oracle_does_in_thousands_of_histories(data: st.DataObject):
    check(data)
