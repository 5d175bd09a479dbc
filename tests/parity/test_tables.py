"""Mutable tables: the kernel answers as the oracle does, bit for bit, over generated mutation histories.

Every history is asked for every operation, at instants on, just before and just after every boundary, with
``known_at`` absent, an instant and "as_of".
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore.testing.bits import bits
from featurestore.testing.hosts import kernel_answer
from featurestore.testing.reference_tables import TableOracle
from tests.strategies_tables import histories, horizons, questions

ANY_HEALTH = list(HealthCheck)


def check(data: st.DataObject) -> None:
    history = data.draw(histories())
    asked = data.draw(questions(history))
    known_at = data.draw(horizons(history))
    view = history.view(history.every_operation())
    oracle = TableOracle(view, history.schema, history.changes)
    good = [change.row for change in oracle.changes]
    answers = kernel_answer(
        view, history.schema, good, [(question.keys, question.as_of) for question in asked], known_at
    )
    for question, answer in zip(asked, answers, strict=True):
        wanted = oracle.answer(question.keys, as_of=question.as_of, known_at=known_at)
        for name, value in wanted.items():
            found = answer[name]
            assert (bits(found.value), found.flagged, found.latest) == (
                bits(value.value),
                value.flagged,
                value.latest,
            ), (name, question, known_at)


@settings(max_examples=40, deadline=None, suppress_health_check=ANY_HEALTH)
@given(st.data())
def test_tables_answer_as_the_oracle_does(data: st.DataObject):
    check(data)


@pytest.mark.slow
@settings(max_examples=2_000, deadline=None, suppress_health_check=ANY_HEALTH)
@given(st.data())
def test_tables_answer_as_the_oracle_does_in_thousands_of_histories(data: st.DataObject):
    check(data)
