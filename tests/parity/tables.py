"""Generated histories of mutable tables in real projects: their logs, their stores, and what the oracle says
of them.

Time: pushes happen at instants that their steps name; a question is asked on, just before or just after what
can change an answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from featurestore.batch.training_set import TrainingSet
from featurestore.dsl.aggregation import agg
from featurestore.dsl.feature_view import FeatureView
from featurestore.dsl.log import Parquet
from featurestore.kernel.roles import KnownAt
from featurestore.testing.reference import Row
from featurestore.testing.reference_tables import TableOracle
from tests.parity.answers import in_training_set, in_vectors
from tests.parity.projects import ROTATIONS, VIEW, Project, Step, Template, features
from tests.strategies import DELAY, MINUTE, START, Question
from tests.strategies_tables import TableHistory, boundaries

Source = Mapping[str, Any]

EDGES = [
    agg.count(name="edge_count"),
    agg.last("n", name="edge_last"),
    agg.max("n", name="edge_max", delay=DELAY),
    agg.sum("n", windows="5m", name="edge_sum"),
]
"""What is asked on every boundary: lifetimes, a delay, and where rows have a time of their own a window."""


def rotation_of(history: TableHistory) -> int:
    """Which variants of every operation a schema is asked for: over all schemas, all of them."""
    return sum(map(ord, "".join(history.source))) % ROTATIONS


def view_of(history: TableHistory) -> FeatureView:
    """The view ``card_activity`` over a log of several files, with every operation."""
    asked = [*features(rotation_of(history)), *EDGES]
    if not history.has_event_time:
        asked = [replace(one, windows=()) for one in asked]
    view = history.view(asked)
    return replace(view, name=VIEW, source=replace(view.source, log=Parquet("log")))


class Tables:
    """Projects of table histories: a schema is applied once, its store copied for each history."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._made: dict[tuple[Any, ...], Template] = {}

    def project(self, history: TableHistory, steps: Sequence[Step] = ()) -> Project:
        key = (tuple(history.columns), *((part, str(name)) for part, name in history.source.items()))
        if key not in self._made:
            number = len(self._made)
            directory = self._directory / f"table-{number}"
            self._made[key] = Template(directory, view_of(history), threads=number % 2 + 1)
        project = self._made[key].project()
        project.take(steps)
        return project


@st.composite
def table_deliveries(draw: st.DrawFn, history: TableHistory) -> list[Step]:
    """The changes of a history in files and pushes, some of them twice, with backfills in between."""
    kinds = draw(st.sampled_from([["file"], ["file", "push"], ["file", "push"], ["push"]]))
    rows = list(history.rows)
    rows += draw(st.lists(st.sampled_from(rows), max_size=3)) if rows else []
    steps: list[Step] = []
    parts = draw(st.integers(1, 4))
    for part in range(parts):
        now_us = START + draw(st.integers(0, 12)) * MINUTE
        steps.append(Step(draw(st.sampled_from(kinds)), rows[part::parts], now_us))
        if draw(st.sampled_from([False, False, True])):
            steps.append(Step("backfill"))
    return [*steps, Step("backfill")]


@st.composite
def table_futures(draw: st.DrawFn, history: TableHistory, as_of: int, known_at: KnownAt) -> list[Row]:
    """Changes that (as_of, known_at) must not see: committed at or after it, or known at or after it. They
    create, update, delete, truncate and give rows another key, at positions before, among and after those
    that are there."""
    horizon = as_of if known_at == "as_of" else known_at
    made = []
    for _ in range(draw(st.integers(1, 6))):
        # Any row of the history in another guise: its row, or a new one, or another entity.
        row = dict(draw(st.sampled_from(history.rows)))
        row["op"] = draw(st.sampled_from(["c", "u", "u", "d", "t", "r"]))
        row["id"] = draw(st.sampled_from([row["id"], "r1", "r2", "new"]))
        row["card"] = None if row["op"] in "dt" else draw(st.sampled_from([row["card"], "c1", "c2", None]))
        row["lsn"] = draw(st.sampled_from([row["lsn"], 0, 99])) if row["lsn"] is not None else 99
        beside = draw(st.sampled_from([0, 0, 1, MINUTE]))
        known = "available_at" in history.source
        if horizon is None or draw(st.booleans()):
            row["changed"] = as_of + beside
            if known:
                row["available_at"] = draw(st.sampled_from([START - MINUTE, as_of + beside]))
        elif known:
            row["changed"] = draw(st.sampled_from([row["changed"] or START, START - MINUTE]))
            row["available_at"] = draw(st.sampled_from([horizon + beside, horizon + beside, None]))
        else:
            row["changed"] = horizon + beside  # known when it is committed
        made.append(row)
    return made


def on_every_boundary(history: TableHistory) -> list[Question]:
    """Each card on, just before and just after each instant at which an answer can change; the cards by
    turns."""
    instants = [at + beside for at in boundaries(history) for beside in (-1, 0, 1)]
    return [Question((("c1", "c1", "c2")[i // 3 % 3],), at) for i, at in enumerate(instants)]


def oracle_of(project: Project, history: TableHistory, rows: Sequence[Row]) -> TableOracle:
    """The oracle over what the log holds after all deliveries."""
    return TableOracle(project.view, project.schema, replace(history, rows=rows).changes)


def has_row(oracle: TableOracle, question: Question, known_at: KnownAt) -> bool:
    """Whether the entity has a live row before T, for any of the view's delays."""
    if None in question.keys or question.as_of is None:
        return False
    horizon = question.as_of if known_at == "as_of" else known_at
    for delay in {feature.aggregation.delay_us for feature in oracle.features}:
        facts = oracle.facts(question.keys, as_of=question.as_of - delay, known_at=horizon)
        if oracle.source.event_time is None and facts:
            return True
        if any(fact.time is not None and fact.time < question.as_of for fact in facts):
            return True
    return False


def table_mismatches(
    made: TrainingSet,
    project: Project,
    oracle: TableOracle,
    edges: TableOracle,
    asked: Sequence[Question],
    on_edges: Sequence[Question],
    known_at: KnownAt,
) -> Iterator[str]:
    """What a training set and a request answer otherwise than the oracle, a line each: every operation for
    the questions ``asked``, ``EDGES`` for those ``on_edges``; the set is of both, in this order."""
    every = [*asked, *on_edges]
    timed = [i for i, question in enumerate(every) if question.as_of is not None]
    vectors = project.online([every[i] for i in timed], known_at)
    for one, first, questions in ((oracle, 0, asked), (edges, len(asked), on_edges)):
        expected = [
            one.answer(question.keys, as_of=question.as_of, known_at=known_at) for question in questions
        ]
        names = set(expected[0]) if expected else set()
        if not names:
            continue
        table = made.table.slice(first, len(questions))
        # The counts of the manifest are those of all questions: they are looked at by themselves.
        yield from in_training_set(replace(made, table=table), expected, questions, counts=False)
        chosen = [at for at, i in enumerate(timed) if first <= i < first + len(questions)]
        part = [
            replace(
                vector,
                values=vector.values.take(chosen),
                found=vector.found[chosen],
                flagged=None if vector.flagged is None else vector.flagged[chosen],
                latest=vector.latest[chosen],
            )
            for vector in vectors.vectors
            if vector.feature.name in names
        ]
        wanted = [expected[timed[at] - first] for at in chosen]
        found = [has_row(oracle, every[timed[at]], known_at) for at in chosen]
        yield from in_vectors(replace(vectors, vectors=part), wanted, found)
