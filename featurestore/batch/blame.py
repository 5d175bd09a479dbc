"""Which facts are responsible for an answer that comes out otherwise.

Time: the answer's own. It is computed with what the store has lost, and with what had not entered: what makes
the logged bits appear explains them.
"""

from __future__ import annotations

import numpy as np
import orjson
from numpy.typing import NDArray

from featurestore.batch.answered import Bits, Questions, vectors
from featurestore.batch.entered_facts import EnteredFacts
from featurestore.batch.responsible import Side
from featurestore.batch.standing_facts import FactsFound, lost_truncates, named, not_entered
from featurestore.batch.verification import (
    DAMAGED,
    LOST,
    MISSING,
    NAMED,
    NOT_ENTERED,
    TAKEN,
    NamedFact,
)
from featurestore.kernel.feature import Feature
from featurestore.kernel.questions import questions
from featurestore.kernel.roles import KnownAt
from featurestore.kernel.timelines import ask
from featurestore.serving.faces import json_values

I64 = NDArray[np.int64]

BY_LOST = "the store has lost facts that it was made of"
BY_LATER = "it was made with facts that had not entered by its commit"
BY_DAMAGE = "the store holds facts with other content than the log"
BESIDE_LOST = "the store has lost facts of the entity, which alone do not explain it"
BY_LOOKED_UP = "the store has lost facts that it looks up"
BY_NOTHING = "no fact explains it: the answer, or the record of it, is not what these facts make"


def blame(facts: EnteredFacts, asked: Questions, row: int, found: FactsFound) -> tuple[str, list[NamedFact]]:
    """Why the answer in ``row`` differs, and the facts responsible, the first ``NAMED`` of them."""
    answers = asked.answers
    feature = asked.features[int(answers.feature[row])]
    assert feature is not None
    entity, commit = int(answers.entity[row]), int(answers.commit[row])
    if entity < 0:
        return BY_NOTHING, []
    one = _Question(
        facts, feature, entity, commit, int(answers.as_of[row]), asked.horizon(int(answers.known_at[row]))
    )
    lost, later = _not_entered(facts, entity, commit)
    logged = asked.logged(row)
    base = one.seen(np.empty(0, np.int64))
    for because, more, what in ((BY_LOST, lost, LOST), (BY_LATER, np.union1d(lost, later), NOT_ENTERED)):
        if len(more) and one.bits(more) == logged:
            responsible = sorted((one.seen(more) ^ base) & set(more.tolist())) or more.tolist()
            told = [
                named(facts, each, LOST if each in set(lost.tolist()) else what, "log")
                for each in responsible[:NAMED]
            ]
            return because, told
    damaged = sorted(facts.damaged & base) or sorted(facts.damaged & set(one.rows().tolist()))
    if damaged:
        return BY_DAMAGE, [named(facts, each, DAMAGED, "both") for each in damaged[:NAMED]]
    if len(lost):
        return BESIDE_LOST, [named(facts, each, LOST, "log") for each in lost[:NAMED].tolist()]
    if any(found.has_lost(looked_up.facts) for looked_up in facts.lookups):
        return BY_LOOKED_UP, []
    return BY_NOTHING, [
        named(facts, each, TAKEN, "both") if each < facts.logged else named(facts, each, MISSING, "store")
        for each in sorted(base)[:NAMED]
    ]


def _not_entered(facts: EnteredFacts, entity: int, commit: int) -> tuple[I64, I64]:
    since = np.full(facts.logged, -1, np.int64)
    lost: list[I64] = [lost_truncates(facts, commit)]
    later: list[I64] = [np.empty(0, np.int64)]
    for pairs in not_entered(facts, np.array([entity]), np.array([commit]), since):
        lost.append(pairs.row[pairs.lost])
        later.append(pairs.row[~pairs.lost])
    return np.unique(np.concatenate(lost)), np.unique(np.concatenate(later))


class _Question:
    """One question about one feature, over different facts."""

    def __init__(
        self, facts: EnteredFacts, feature: Feature, entity: int, commit: int, as_of: int, known_at: KnownAt
    ) -> None:
        self._facts = facts
        self._feature = feature
        self._entity = np.array([entity])
        self._commit = commit
        self._known_at = known_at
        self._put = questions(np.zeros(1, np.int64), np.array([as_of]), 1)

    def rows(self) -> I64:
        """The facts that had entered, those too that the log does not have."""
        return self._facts.held(self._entity, self._commit, absent=True)[1]

    def bits(self, more: I64) -> Bits:
        """The answer with some facts more."""
        held, _ = self._facts.held(self._entity, self._commit, absent=True, more=more)
        found, _ = ask(
            [self._feature], held.table, held.codes, 1, held.roles, self._known_at, self._put,
            lookups=held.lookups, latest=True,
        )  # fmt: skip
        [vector] = vectors([self._feature], found)
        value = orjson.dumps(json_values(vector.values, self._feature.dtype)[0]).decode()
        return value, vector.statuses()[0], int(vector.latest_instants()[0])

    def seen(self, more: I64) -> set[int]:
        """The facts in the feature's set then, as rows of all."""
        held, rows = self._facts.held(self._entity, self._commit, absent=True, more=more)
        side = Side(
            self._known_at,
            self._feature.delay_us,
            held.table,
            held.codes.astype(np.int64),
            1,
            held.roles,
            self._put,
            held.lookups,
        )
        return {int(rows[each]) for each in side.seen(self._feature, 0, 0).rows}
