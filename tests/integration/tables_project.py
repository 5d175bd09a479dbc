"""Projects for the tests of tables in the store: a view over a table, its log in files, its answers.

Times are those of the rows; ``NOW_US`` is long after all of them.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.batch.backfill import BackfillReport, backfill
from featurestore.dsl.feature_view import FeatureView
from featurestore.dsl.table_source import TableSource
from featurestore.dtypes import DType
from featurestore.kernel.evaluate import NO_EVENT
from featurestore.kernel.roles import KnownAt
from featurestore.log.changes import flat_changes
from featurestore.plan.compile import table_plan, view_plan
from featurestore.plan.nodes import ViewPlan
from featurestore.serving.lookup import Lookup
from featurestore.store import Store
from featurestore.store.ingest import IngestReport, ingest
from featurestore.store.registry import Desired, apply, read_registry
from featurestore.testing.bits import bits
from featurestore.testing.hosts import kernel_answer, python_values
from featurestore.testing.reference import Row
from tests.strategies import Question

NOW_US = 1_900_000_000_000_000


class Project:
    """A view over one table, its log in a directory of files, and its store."""

    def __init__(self, root: Path, view: FeatureView, schema: dict[str, DType], store: Store) -> None:
        self.root, self.view, self.schema, self.store = root, view, schema, store
        source = view.source
        assert isinstance(source, TableSource) and source.changed_at is not None
        self.source = source
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
            {"rows": (self.source, self.source_plan)},
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

    def backfill(self, *, rebuild: bool = False, now: Callable[[], int] = lambda: NOW_US) -> BackfillReport:
        with ThreadPoolExecutor(2) as threads:
            return backfill(self.store, self.root, self.plans, None, rebuild=rebuild, progress=None,
                            now=now, threads=threads)  # fmt: skip

    def push(self, rows: Sequence[Row]) -> IngestReport:
        self.log += rows
        return ingest(self.store, self.root, "rows", self.table(rows), atomic=False, now_us=NOW_US)

    def canonical(self) -> list[Row]:
        """The good changes of the whole log, as the kernel takes them."""
        table = flat_changes(self.table(self.log), self.source, ("card",), self.schema).table
        columns = {name: python_values(table.column(name).combine_chunks()) for name in table.column_names}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def online(self, asked: Sequence[Question], known_at: KnownAt) -> list[dict[str, Any]]:
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

    def offline(self, asked: Sequence[Question], known_at: KnownAt) -> list[dict[str, Any]]:
        pairs = [(question.keys, question.as_of) for question in asked]
        return [
            {name: (bits(one.value), one.flagged, one.latest) for name, one in answer.items()}
            for answer in kernel_answer(self.view, self.schema, self.canonical(), pairs, known_at)
        ]


@contextmanager
def project(empty_store: Path, view: FeatureView, schema: dict[str, DType]) -> Iterator[Project]:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        shutil.copy(empty_store, root / "store.db")
        with Store.open(root / "store.db", migrate=False) as store:
            yield Project(root, view, schema, store)
