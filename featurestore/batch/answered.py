"""Questions that were answered, asked once more: over the facts that had entered by each one's commit.

Time: each question has its own ``as_of``, horizon and commit. Events of one entity that had entered by
different commits are told apart as if they were different entities, so one pass over all of them answers
many; tables and lookups, whose facts concern several entities, are asked commit by commit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.batch.entered_facts import EnteredFacts
from featurestore.batch.logged import ViewAnswers
from featurestore.batch.matching import grouped, ranges
from featurestore.instants import instant
from featurestore.kernel.evaluate import Answers
from featurestore.kernel.feature import Feature
from featurestore.kernel.questions import questions
from featurestore.kernel.roles import KnownAt
from featurestore.kernel.timelines import ask
from featurestore.kernel.versions import instants, single
from featurestore.plan.nodes import ViewPlan
from featurestore.serving.faces import json_values
from featurestore.serving.vectors import FeatureVector

I64 = NDArray[np.int64]

# Facts that are handed to the kernel at once: some hundred bytes each.
FACTS_AT_ONCE = 2_000_000

Bits = tuple[str, str, int]
"""An answer: its value as JSON, its status, its event timestamp in microseconds."""


@dataclass(frozen=True)
class Questions:
    """The distinct questions of some answers: ``question`` int64[answers] numbers each one's; entity, commit,
    as_of, known_at int64[questions]. ``groups`` are questions of one horizon that ask for the same features,
    with the rows of their answers."""

    answers: ViewAnswers
    question: I64
    entity: I64
    commit: I64
    as_of: I64
    known_at: I64
    answered_at: I64
    groups: Sequence[tuple[KnownAt, tuple[Feature, ...], I64, I64]]
    features: Sequence[Feature | None]
    values: Sequence[str]
    statuses: Sequence[str]
    stamps: I64

    def logged(self, row: int) -> Bits:
        return self.values[row], self.statuses[row], int(self.stamps[row])

    def horizon(self, number: int) -> KnownAt:
        return _horizon(self.answers.horizons[number])


def _horizon(text: str | None) -> KnownAt:
    return text if text is None or text == "as_of" else instant(text, what="known_at")  # type: ignore[return-value]


def questions_of(answers: ViewAnswers, plan: ViewPlan) -> Questions:
    """What some answers were asked. A feature that the plan does not have is asked of nobody."""
    columns = [answers.entity, answers.commit, answers.as_of, answers.known_at]
    question = grouped([column.view(np.uint64) for column in columns])
    first = np.unique(question, return_index=True)[1]
    answered_at = np.zeros(len(first), np.int64)
    np.maximum.at(answered_at, question, answers.answered_at)
    features = [plan.feature(name) for name in answers.features]
    return Questions(
        answers,
        question,
        answers.entity[first],
        answers.commit[first],
        answers.as_of[first],
        answers.known_at[first],
        answered_at,
        _groups(answers, question, first, features),
        features,
        single(answers.table, "value").to_pylist(),
        single(answers.table, "status").to_pylist(),
        instants(single(answers.table, "event_timestamp"), null=0),
    )


def _groups(
    answers: ViewAnswers, question: I64, first: I64, features: Sequence[Feature | None]
) -> list[tuple[KnownAt, tuple[Feature, ...], I64, I64]]:
    order = np.lexsort((answers.feature, question))
    bounds = np.searchsorted(question[order], np.arange(len(first) + 1))
    asked = answers.feature[order].tolist()
    found: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    known = answers.known_at[first].tolist()
    ends = bounds.tolist()
    for i, horizon in enumerate(known):
        some = tuple(dict.fromkeys(asked[ends[i] : ends[i + 1]]))
        found.setdefault((horizon, some), []).append(i)
    made = []
    for (horizon, some), numbers in found.items():
        those = np.array(numbers, np.int64)
        rows = order[ranges(bounds[those], bounds[those + 1])]
        wanted = tuple(one for one in (features[i] for i in some) if one is not None)
        made.append((_horizon(answers.horizons[horizon]), wanted, those, rows))
    return made


class Recomputed:
    """Answers that were computed once more, beside those that were logged."""

    def __init__(self, asked: Questions) -> None:
        self._asked = asked
        self._differing: list[int] = []
        self._bits: dict[int, Bits] = {}

    def add(self, feature: int, rows: I64, place: I64, vector: FeatureVector) -> None:
        """Compare: the answer in ``rows[i]`` is that of ``vector`` at ``place[i]``."""
        asked = self._asked
        values = [orjson.dumps(face).decode() for face in json_values(vector.values, vector.feature.dtype)]
        statuses, stamps = vector.statuses(), vector.latest_instants().tolist()
        for row, at in zip(rows.tolist(), place.tolist(), strict=True):
            bits = (values[at], statuses[at], stamps[at])
            if bits != asked.logged(row):
                self._differing.append(row)
                self._bits[row] = bits

    def differing(self, answers: ViewAnswers) -> I64:
        """The rows of answers that have other bits."""
        return np.array(sorted(self._differing), np.int64)

    def of(self, rows: I64) -> dict[int, Bits]:
        return {row: self._bits[row] for row in rows.tolist()}


def recompute(
    facts: EnteredFacts,
    asked: Questions,
    *,
    only: I64 | None = None,
    absent: bool = False,
    threads: ThreadPoolExecutor | None = None,
) -> Recomputed:
    """All questions, or ``only`` some, over what had entered. ``absent``: with what the log does not have."""
    made = Recomputed(asked)
    answers = asked.answers
    for known_at, features, numbers, rows in asked.groups:
        if only is not None:
            numbers = numbers[np.isin(numbers, only)]
            rows = rows[np.isin(asked.question[rows], only)]
        if not features or not len(numbers):
            continue
        slices = _by_entity if not facts.is_table and not facts.lookups else _by_commit
        for some, found in slices(facts, asked, numbers, features, known_at, absent=absent, threads=threads):
            place = np.full(len(asked.commit), -1, np.int64)
            place[some] = np.arange(len(some))
            mine = rows[place[asked.question[rows]] >= 0]
            for vector in vectors(features, found):
                number = answers.features.index(vector.feature.name)
                of_feature = mine[answers.feature[mine] == number]
                made.add(number, of_feature, place[asked.question[of_feature]], vector)
    return made


def vectors(features: Sequence[Feature], found: Answers) -> Iterator[FeatureVector]:
    """The kernel's answers with their statuses, as serving has them."""
    for feature, given in zip(features, found.answers, strict=True):
        assert given.latest is not None
        yield FeatureVector(feature.view, (), feature, given.values, found.found, given.flagged, given.latest)


def _by_entity(
    facts: EnteredFacts,
    asked: Questions,
    numbers: I64,
    features: Sequence[Feature],
    known_at: KnownAt,
    *,
    absent: bool,
    threads: ThreadPoolExecutor | None,
) -> Iterator[tuple[I64, Answers]]:
    """Of events: questions whose entity had the same facts by their commits are about one, many at once."""
    entity, commit = asked.entity[numbers], asked.commit[numbers]
    first, end = facts.until(np.maximum(entity, 0), commit)
    end = np.where(entity < 0, first, end)
    spans, of = np.unique(np.stack([first, end]), axis=1, return_inverse=True)
    of = of.reshape(-1)
    sizes = np.cumsum(spans[1] - spans[0])
    parts = sizes // FACTS_AT_ONCE
    for part in np.unique(parts).tolist():
        chosen = np.flatnonzero(parts == part)
        mine = np.flatnonzero((of >= chosen[0]) & (of <= chosen[-1]))
        begin, until = spans[0][chosen], spans[1][chosen]
        rows = facts.row[ranges(begin, until)]
        codes = np.repeat(np.arange(len(chosen)), until - begin)
        if not absent:
            there = rows < facts.logged
            rows, codes = rows[there], codes[there]
        put = questions(of[mine] - chosen[0], asked.as_of[numbers[mine]], len(chosen), threads=threads)
        table = facts.table.take(pa.array(rows))
        found, _ = ask(
            features, table, codes, len(chosen), facts.roles, known_at, put, latest=True, threads=threads
        )
        yield numbers[mine], found


def _by_commit(
    facts: EnteredFacts,
    asked: Questions,
    numbers: I64,
    features: Sequence[Feature],
    known_at: KnownAt,
    *,
    absent: bool,
    threads: ThreadPoolExecutor | None,
) -> Iterator[tuple[I64, Answers]]:
    """Of tables, and of events that look something up: commits between which nothing entered are one."""
    commits = np.concatenate([np.array([-1]), facts.commits()])
    state = np.searchsorted(commits, asked.commit[numbers], side="right") - 1
    order = np.argsort(state, kind="stable")
    bounds = np.flatnonzero(np.diff(state[order])) + 1
    for mine in np.split(order, bounds):
        some = numbers[mine]
        entity = asked.entity[some]
        entities = np.unique(entity[entity >= 0])
        held, _ = facts.held(entities, int(commits[state[mine[0]]]), absent=absent)
        # One entity more, without facts: that of a null key.
        codes = np.where(entity < 0, len(entities), np.searchsorted(entities, entity))
        put = questions(codes, asked.as_of[some], len(entities) + 1, threads=threads)
        found, _ = ask(
            features, held.table, held.codes, len(entities) + 1, held.roles, known_at, put,
            lookups=held.lookups, latest=True, threads=threads,
        )  # fmt: skip
        yield some, found
