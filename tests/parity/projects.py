"""Projects for generated histories: a real directory, a real Parquet log, a real store; some rows are pushed.

A schema is declared, compiled and applied once, then its empty store is copied for each history. Time: a push
happens at the instant that its step names, never at the machine's.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from featurestore.dsl.aggregation import Aggregation
from featurestore.dsl.entity import Entity
from featurestore.dsl.feature_view import FeatureView
from featurestore.dsl.log import Parquet
from featurestore.dsl.source import EventSource
from featurestore.dsl.table_source import TableSource
from featurestore.dtypes import TIMESTAMP, DType, instant_text
from featurestore.feature_store import FeatureStore
from featurestore.kernel.operations import OPERATIONS
from featurestore.kernel.roles import KnownAt
from featurestore.project import collect
from featurestore.serving.vectors import FeatureVectors
from featurestore.store.ingest import IngestReport, ingest
from featurestore.testing.builders import schema_of
from featurestore.testing.hosts import versions_table
from featurestore.testing.reference import Row
from tests.services.postgres import Postgres
from tests.strategies import MINUTE, START, History, Question, every_operation

VIEW = "card_activity"
ROTATIONS = 9
"""All variants of every operation take seconds a history; a ninth of them has every operation too."""


@cache
def features(rotation: int) -> tuple[Aggregation, ...]:
    """Every operation at least once; over all rotations, every variant of each."""
    every = every_operation()
    chosen = every[rotation::ROTATIONS]
    found = {one.op for one in chosen}
    for op in OPERATIONS:
        if op not in found:
            variants = [one for one in every if one.op == op]
            chosen.append(variants[rotation % len(variants)])
    return tuple(chosen)


def declared(
    columns: Mapping[str, str],
    source: Mapping[str, Any],
    asked: Sequence[Aggregation],
    keys: Sequence[str] = ("card",),
) -> FeatureView:
    """The view of a history over a log of several files."""
    parts = {"event_time": "ts", **source}
    events = EventSource("events", log=Parquet("log"), columns=dict(columns), **parts)
    return FeatureView(VIEW, entity=Entity("card", key=list(keys)), source=events, features=list(asked))


# --- how a history reaches the store


@dataclass(frozen=True)
class Step:
    """``rows`` go to a new ``"file"`` of the log, or are a ``"push"`` at ``now_us``; a ``"backfill"`` has
    none."""

    what: str
    rows: Sequence[Row] = ()
    now_us: int = 0


def known_rows(history: History, steps: Sequence[Step]) -> list[Row]:
    """What the log holds after the steps: a pushed row without ``available_at`` is known from its push on."""
    rows: list[Row] = []
    for step in steps:
        for row in step.rows:
            stamp = (
                step.what == "push" and "available_at" in history.source and row.get("available_at") is None
            )
            rows.append({**row, "available_at": step.now_us} if stamp else dict(row))
    return rows


@st.composite
def deliveries(draw: st.DrawFn, history: History) -> list[Step]:
    """The rows of a history in some files and pushes, some of them twice, with backfills in between."""
    rows = list(history.rows)
    kinds = ["file"]
    if "id" in history.source:
        kinds = draw(st.sampled_from([["file"], ["file", "push"], ["file", "push"], ["push"]]))
        rows += draw(st.lists(st.sampled_from(rows), max_size=3)) if rows else []
    steps: list[Step] = []
    parts = draw(st.integers(1, 4))
    for part in range(parts):
        now_us = START + draw(st.integers(0, 12)) * MINUTE
        # Dealt out rather than cut: a fact's versions meet from several files and pushes.
        steps.append(Step(draw(st.sampled_from(kinds)), rows[part::parts], now_us))
        if draw(st.sampled_from([False, False, True])):
            steps.append(Step("backfill"))
    return [*steps, Step("backfill")]


# --- projects


class Project:
    """A project's directory that is open, with the log and the store that its steps have made."""

    def __init__(self, directory: Path, view: FeatureView) -> None:
        self.directory = directory
        self.store = FeatureStore(directory)
        self.view = view
        self.schema: dict[str, DType] = schema_of(view.source.columns)  # type: ignore[arg-type]
        self._files = 0

    def add_file(self, rows: Sequence[Row]) -> Path:
        self._files += 1
        path = self.directory / "log" / f"{self._files:04}.parquet"
        pq.write_table(log_table(self.view, self.schema, rows), path)
        return path

    def push(self, rows: Sequence[Row], now_us: int) -> IngestReport:
        table = log_table(self.view, self.schema, rows)
        # Arrow and dicts by turns: both are ways in.
        given = table if len(rows) % 2 else table.to_pylist()
        return ingest(
            self.store.store, self.directory, self.view.source.name, given, atomic=False, now_us=now_us
        )

    def take(self, steps: Sequence[Step]) -> None:
        for step in steps:
            if step.what == "file":
                self.add_file(step.rows)
            elif step.what == "push":
                self.push(step.rows, step.now_us)
            else:
                self.store.backfill()

    def training_set(self, asked: Sequence[Question], known_at: KnownAt) -> Any:
        spine = spine_of(asked, self.view.entity.keys, self.schema)
        return self.store.training_set(spine, VIEW, time="ts", known_at=_text(known_at))

    def online(self, asked: Sequence[Question], known_at: KnownAt) -> FeatureVectors:
        """One request; every question must have a time."""
        times = [question.as_of for question in asked]
        assert all(as_of is not None for as_of in times)
        return self.store.online_features(
            VIEW,
            {key: [question.keys[i] for question in asked] for i, key in enumerate(self.view.entity.keys)},
            as_of=[_text(as_of) for as_of in times],
            known_at=_text(known_at),
        )


def log_table(view: FeatureView, schema: Mapping[str, DType], rows: Sequence[Row]) -> pa.Table:
    """Rows as the source's log has them: those of a table with their operations."""
    table = versions_table(schema, rows)
    if isinstance(view.source, TableSource):
        table = table.append_column("op", pa.array([row["op"] for row in rows], pa.string()))
    return table


def spine_of(asked: Sequence[Question], keys: Sequence[str], schema: Mapping[str, DType]) -> pa.Table:
    columns = {"row": pa.array(range(len(asked)), pa.int32())}
    for i, key in enumerate(keys):
        columns[key] = pa.array([question.keys[i] for question in asked], schema[key].arrow)
    columns["ts"] = pa.array([question.as_of for question in asked], TIMESTAMP.arrow)
    return pa.table(columns)


def _text(known_at: KnownAt) -> str | None:
    return instant_text(known_at) if isinstance(known_at, int) else known_at


@dataclass
class Template:
    """One schema, applied to an empty store: in the directory, or in a database of ``server``. ``threads`` of
    the kernel, 0 for one a core; ``others`` are further views over the same source."""

    directory: Path
    view: FeatureView
    threads: int = 0
    others: Sequence[FeatureView] = ()
    server: Postgres | None = None
    made: int = field(default=0)

    @cached_property
    def _applied(self) -> FeatureStore:
        log = self.directory / "log"
        log.mkdir(parents=True)
        # A log has a file, be it without rows: some histories are all pushed.
        empty = log_table(self.view, schema_of(self.view.source.columns), [])  # type: ignore[arg-type]
        pq.write_table(empty, log / "0000.parquet")
        (self.directory / "features.py").write_text("raise AssertionError('declared by the test')\n")
        self._write_settings(self.directory, None)
        store = FeatureStore(self.directory)
        store.declarations = collect({"views": [self.view, *self.others]})  # type: ignore[misc]
        store.apply()
        store.close()
        return store

    def project(self) -> Project:
        """A new directory beside the template's, with a copy of its store."""
        applied = self._applied
        self.made += 1
        directory = self.directory.with_name(f"{self.directory.name}-{self.made}")
        shutil.copytree(self.directory, directory)
        self._write_settings(directory, applied.settings.store.url)
        project = Project(directory, self.view)
        project.store.declarations = applied.declarations  # type: ignore[misc]
        project.store.plans = applied.plans  # type: ignore[misc]
        return project

    def _write_settings(self, directory: Path, template: str | None) -> None:
        text = f"[engine]\nthreads = {self.threads}\n"
        if self.server is not None:
            url = self.server.database(template=(template or "template0").rpartition("/")[2])
            text += f'[store]\nurl = "{url}"\n'
        (directory / "featurestore.toml").write_text(text)


class Templates:
    """The templates of a run, each made when a history first asks for it."""

    def __init__(self, directory: Path, server: Postgres | None = None) -> None:
        self._directory = directory
        self.server = server
        self._made: dict[tuple[tuple[str, ...], int], Template] = {}

    def of(self, history: History, rotation: int) -> Template:
        key = (tuple(history.source), rotation)
        if key not in self._made:
            number = len(self._made)
            self._made[key] = Template(
                self._directory / f"schema-{number}",
                declared(history.columns, history.source, features(rotation)),
                threads=number % 2 + 1,
                server=self.server,
            )
        return self._made[key]


def discard(project: Project, server: Postgres | None = None) -> None:
    project.store.close()
    if server is not None:
        server.drop(project.store.settings.store.url)
    shutil.rmtree(project.directory)
