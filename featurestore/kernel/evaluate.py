"""Feature values: the one place where they are computed, for every host.

For each question (entity, T) a feature is its operation over the facts whose event time lies in
``[T - delay - window, T - delay)`` and that are live at T. Arrays in, arrays out: hosts bring timelines and
questions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.kernel.blocks import I64, Bools
from featurestore.kernel.edges import Edges
from featurestore.kernel.feature import Feature
from featurestore.kernel.finish import with_default
from featurestore.kernel.items import Items, ItemsKey, items
from featurestore.kernel.operators import OPERATORS, Work
from featurestore.kernel.questions import Questions
from featurestore.kernel.ranked import extreme
from featurestore.kernel.versions import Timeline, columns_in_order
from featurestore.kernel.windows import fact_edges, item_edges


@dataclass(frozen=True)
class Answer:
    """One feature's values in the order the questions were asked.

    ``values`` has the feature's Arrow type; ``flagged`` bool[n] marks sums that no value can hold (null);
    ``latest`` int64[n] is the latest event time in the feature's set, or ``NO_EVENT``; None unless asked for.
    """

    feature: Feature
    values: pa.Array
    flagged: Bools | None
    latest: I64 | None


@dataclass(frozen=True)
class Answers:
    """All features' answers; ``found`` bool[n]: the entity has a known fact before T (with ``latest``);
    ``flagged_expressions``: overflows and failed casts that gave null while expressions were evaluated."""

    answers: tuple[Answer, ...]
    found: Bools
    flagged_expressions: int


NO_EVENT = np.iinfo(np.int64).min


class Evaluation:
    """Shares what features have in common: columns, items, edges. Lives for one set of questions."""

    def __init__(
        self,
        timeline: Timeline,
        table: pa.Table,
        questions: Questions,
        threads: ThreadPoolExecutor | None,
    ) -> None:
        self.timeline = timeline
        self.table = table
        self.questions = questions
        self.threads = threads
        self.flagged_expressions = 0
        self._columns: dict[str, pa.Array] = {}
        self._items: dict[ItemsKey, Items] = {}
        self._edges: dict[tuple[int | None, int], Edges] = {}
        self._item_edges: dict[tuple[int, int | None, int], Edges] = {}

    def columns(self, names: frozenset[str]) -> Mapping[str, pa.Array]:
        missing = names - self._columns.keys()
        if missing:
            self._columns.update(columns_in_order(self.table, self.timeline.row, missing))
        return self._columns

    def items(self, key: ItemsKey) -> Items:
        made = self._items.get(key)
        if made is None:
            made = items(key, self.table, self.timeline, self.columns, self.threads)
            self._items[key] = made
            self.flagged_expressions += made.flagged
        return made

    def edges(self, window_us: int | None, delay_us: int) -> Edges:
        made = self._edges.get((window_us, delay_us))
        if made is None:
            alike = (edges for (_, delay), edges in self._edges.items() if delay == delay_us)
            made = fact_edges(
                self.timeline,
                self.questions,
                window_us=window_us,
                delay_us=delay_us,
                another=next(alike, None),
                threads=self.threads,
            )
            self._edges[window_us, delay_us] = made
        return made

    def item_edges(self, of: Items, window_us: int | None, delay_us: int) -> Edges:
        edges = self.edges(window_us, delay_us)
        if of.first is None:
            return edges
        key = (id(of), window_us, delay_us)
        made = self._item_edges.get(key)
        if made is None:
            made = item_edges(edges, of.first)
            self._item_edges[key] = made
        return made

    def latest(self, of: Items, edges: Edges) -> I64:
        """The latest event time among what each question sees of ``of``."""
        offsets = self.timeline.offsets
        blocks = offsets if of.first is None else of.first[offsets]
        fact = of.fact_of(extreme(None, edges, blocks, largest=True, threads=self.threads))
        if not self.timeline.facts:
            return np.full(len(fact), NO_EVENT)
        return np.where(fact < 0, NO_EVENT, self.timeline.event_time[fact])

    def drop(self, key: ItemsKey) -> None:
        """Forget a key's items and edges: no later feature needs them."""
        made = self._items.pop(key, None)
        if made is not None:
            for edges_key in [edges_key for edges_key in self._item_edges if edges_key[0] == id(made)]:
                del self._item_edges[edges_key]


def answer(
    features: Sequence[Feature],
    timeline: Timeline,
    table: pa.Table,
    questions: Questions,
    *,
    latest: bool = False,
    threads: ThreadPoolExecutor | None = None,
) -> Answers:
    """Every feature's value for every question.

    ``timeline`` holds the facts as known at the questions' horizon, ``table`` the versions table its rows
    point into. A question without a time has null values, and no ``default=`` replaces them.
    """
    evaluation = Evaluation(timeline, table, questions, threads)
    timed = questions.answers >= 0
    place = pa.array(np.where(timed, questions.answers, 0), mask=None if timed.all() else ~timed)
    in_order = bool(timed.all() and (questions.asked == np.arange(questions.count)).all())
    remaining = [ItemsKey.of(feature) for feature in features]
    made: dict[str, Answer] = {}
    # Features that share items come one after the other, so that at most one set of items is held at a time.
    for feature in sorted(features, key=lambda feature: remaining.index(ItemsKey.of(feature))):
        key = ItemsKey.of(feature)
        of = evaluation.items(key)
        edges = evaluation.item_edges(of, feature.window_us, feature.delay_us)
        result = OPERATORS[feature.op](Work(feature, of, edges, timeline, questions, threads))
        values = with_default(feature, result)
        seen = evaluation.latest(of, edges) if latest else None
        made[feature.reference] = Answer(
            feature,
            values,
            None if result.flagged is None else _asked(result.flagged, questions, False),
            None if seen is None else _asked(seen, questions, NO_EVENT),
        )
        remaining.remove(key)
        if key not in remaining:
            evaluation.drop(key)
    if not in_order:
        made = _in_asked_order(made, place, threads)
    found = np.zeros(len(questions.answers), np.bool_)
    if latest:
        facts = evaluation.edges(None, 0)
        found = _asked(facts.hi > facts.lo, questions, False)
    return Answers(
        tuple(made[feature.reference] for feature in features), found, evaluation.flagged_expressions
    )


def _in_asked_order(
    made: Mapping[str, Answer], place: pa.Array, threads: ThreadPoolExecutor | None
) -> dict[str, Answer]:
    values = [one.values for one in made.values()]
    taken = (threads.map if threads is not None else map)(lambda array: array.take(place), values)
    return {name: replace(one, values=array) for (name, one), array in zip(made.items(), taken, strict=True)}


def _asked(sorted_values: NDArray[Any], questions: Questions, missing: object) -> NDArray[Any]:
    """From the questions' sorted order to the order in which they were asked."""
    made = np.full(len(questions.answers), missing, sorted_values.dtype)
    made[questions.asked] = sorted_values
    return made
