"""A table's changes in the store answer as the whole log does, however they came: by backfill or push, in any
order, in any batches, again and again.

Times are those of ``tests.strategies_tables``; questions stand on, before and after what can change an answer.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tests.strategies_tables as generated
from featurestore.batch.backfill import BackfillReport, backfill
from featurestore.dsl.aggregation import agg
from featurestore.dsl.feature_view import FeatureView
from featurestore.dtypes import DType
from featurestore.kernel.evaluate import NO_EVENT
from featurestore.kernel.roles import KnownAt
from featurestore.log.changes import flat_changes
from featurestore.plan.compile import table_plan, view_plan
from featurestore.plan.nodes import ViewPlan
from featurestore.serving.explain_value import explain_value
from featurestore.serving.lookup import Lookup
from featurestore.store import Store
from featurestore.store.ingest import IngestReport, ingest
from featurestore.store.registry import Desired, apply, read_registry
from featurestore.testing.bits import bits
from featurestore.testing.builders import change, instant, schema_of, table_view_of
from featurestore.testing.hosts import kernel_answer, python_values
from featurestore.testing.reference import Row

NOW_US = 1_900_000_000_000_000


class Project:
    """A view over one table, its log in a directory of files, and its store."""

    def __init__(self, root: Path, view: FeatureView, schema: dict[str, DType], store: Store) -> None:
        self.root, self.view, self.schema, self.store = root, view, schema, store
        source = view.source
        self.source_plan = table_plan(source, schema, source.changed_at, source.positions)
        self.plan: ViewPlan = view_plan(view, self.source_plan)
        self.log: list[Row] = []
        self.files = 0
        (root / "rows.parquet").mkdir()
        self.write([])
        self.apply()

    def apply(self, *more: FeatureView) -> None:
        views = {view.name: (view, view_plan(view, self.source_plan)) for view in (self.view, *more)}
        desired = Desired(
            {view.entity.name: view.entity for view, _ in views.values()},
            {"rows": (self.view.source, self.source_plan)},
            views,
            {},
        )
        with self.store.commit("apply", now_us=NOW_US) as commit:
            with self.store.snapshot() as snapshot:
                registry = read_registry(snapshot)
            apply(commit, registry, desired)
        self.plans = {name: plan for name, (_, plan) in views.items()}

    def table(self, rows: Sequence[Row]) -> pa.Table:
        columns = {name: pa.array([row.get(name) for row in rows], dtype.arrow)
                   for name, dtype in self.schema.items()}  # fmt: skip
        return pa.table({**columns, "op": pa.array([row["op"] for row in rows], pa.string())})

    def write(self, rows: Sequence[Row]) -> None:
        self.files += 1
        self.log += rows
        pq.write_table(self.table(rows), self.root / "rows.parquet" / f"{self.files}.parquet")

    def backfill(self, *, rebuild: bool = False) -> BackfillReport:
        with ThreadPoolExecutor(2) as threads:
            return backfill(self.store, self.root, self.plans, None, rebuild=rebuild, progress=None,
                            now=lambda: NOW_US, threads=threads)  # fmt: skip

    def push(self, rows: Sequence[Row]) -> IngestReport:
        self.log += rows
        return ingest(self.store, self.root, "rows", self.table(rows), atomic=False, now_us=NOW_US)

    def canonical(self) -> list[Row]:
        """The good changes of the whole log, as the kernel takes them."""
        table = flat_changes(self.table(self.log), self.view.source, ("card",), self.schema).table
        columns = {name: python_values(table.column(name).combine_chunks()) for name in table.column_names}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def online(self, asked: Sequence[generated.Question], known_at: KnownAt) -> list[dict[str, Any]]:
        found = Lookup(self.store).vectors(
            features=[self.view.name],
            feature_service=None,
            entities={"card": [question.keys[0] for question in asked]},
            as_of=[question.as_of for question in asked],
            known_at=known_at,
        )
        out: list[dict[str, Any]] = [{} for _ in asked]
        for vector in found.vectors:
            for i, value in enumerate(python_values(vector.values)):
                flagged = bool(vector.flagged is not None and vector.flagged[i])
                latest = int(vector.latest[i])
                out[i][vector.feature.name] = (bits(value), flagged, None if latest == NO_EVENT else latest)
        return out

    def offline(self, asked: Sequence[generated.Question], known_at: KnownAt) -> list[dict[str, Any]]:
        pairs = [(question.keys, question.as_of) for question in asked]
        return [
            {name: (bits(one.value), one.flagged, one.latest) for name, one in answer.items()}
            for answer in kernel_answer(self.view, self.schema, self.canonical(), pairs, known_at)
        ]


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "store.db"
    Store.migrate(path)
    return path


@contextmanager
def project(empty_store: Path, view: FeatureView, schema: dict[str, DType]) -> Iterator[Project]:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        shutil.copy(empty_store, root / "store.db")
        with Store.open(root / "store.db", migrate=False) as store:
            yield Project(root, view, schema, store)


def deliver(data: st.DataObject, made: Project, history: generated.TableHistory) -> None:
    """All changes of a history in random batches, each by file or push, some of them twice."""
    left = list(history.rows)
    backfilled = False
    while left or not backfilled:
        size = data.draw(st.integers(1, max(1, len(left))))
        batch, left = left[:size], left[size:]
        # A push without available_at would be stamped.
        pushed = [
            row for row in batch if "available_at" not in made.schema or row["available_at"] is not None
        ]
        if data.draw(st.booleans()) and len(pushed) == len(batch):
            made.push(batch)
            if data.draw(st.integers(0, 3)) == 0:
                made.push(batch)
        else:
            made.write(batch)
        if data.draw(st.integers(0, 2)) == 0 or not left:
            made.backfill()
            backfilled = True


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_store_answers_as_the_whole_log_does(empty_store: Path, data: st.DataObject) -> None:
    history = data.draw(generated.histories(max_changes=24))
    every = history.every_operation()
    view = history.view(
        [
            every[i]
            for i in sorted(data.draw(st.sets(st.integers(0, len(every) - 1), max_size=12, min_size=1)))
        ]
    )
    asked = [one for one in data.draw(generated.questions(history)) if one.as_of is not None]
    with project(empty_store, view, history.schema) as made:
        deliver(data, made, history)
        if asked:
            for known_at in (None, "as_of", data.draw(generated.horizons(history))):
                assert made.online(asked, known_at) == made.offline(asked, known_at)
                # Alone, each entity's timeline gives the same: the others are not needed.
                assert made.online(asked[:1], known_at) == made.offline(asked[:1], known_at)
