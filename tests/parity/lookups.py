"""Generated projects whose events look things up, as real ones: three logs, each of them also pushed,
one store, and what the oracle says of them.

Time: pushes happen at instants that their steps name; the logs are delivered by turns, so what is looked up
comes before, between and after the events that look it up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, zip_longest
from pathlib import Path

import pyarrow.parquet as pq
from hypothesis import strategies as st

from featurestore.dtypes import DType
from featurestore.project import collect
from featurestore.store.ingest import ingest
from featurestore.testing.builders import schema_of
from featurestore.testing.reference import Oracle
from tests.parity.projects import Project, Step, deliveries, known_rows, log_table
from tests.parity.tables import table_deliveries
from tests.strategies import Question
from tests.strategies_lookups import Looking, instants, looking

Deliveries = Mapping[str, Sequence[Step]]
"""The steps of each log, by its source's name."""


@st.composite
def lookup_deliveries(draw: st.DrawFn, project: Looking) -> Deliveries:
    return {
        "events": draw(deliveries(project.outer)),
        "others": draw(deliveries(project.inner)),
        "rows": draw(table_deliveries(project.table)),
    }


def delivered(project: Looking, steps: Deliveries) -> Looking:
    """The project with what its logs hold after all steps."""
    table = known_rows(project.table, steps["rows"])  # type: ignore[arg-type]
    return looking(
        replace(project.outer, rows=known_rows(project.outer, steps["events"])),
        replace(project.inner, rows=known_rows(project.inner, steps["others"])),
        replace(project.table, rows=table),
    )


def by_turns(steps: Deliveries) -> list[tuple[str, Step]]:
    """The steps of all logs, with their sources' names."""
    turns = zip_longest(*([(source, step) for step in some] for source, some in steps.items()))
    return [one for one in chain.from_iterable(turns) if one is not None]


def oracle_of(project: Looking) -> Oracle:
    return Oracle(project.view, project.outer.schema, project.outer.rows, project.logs)


def on_every_instant(project: Looking) -> list[Question]:
    """At and just after each instant at which something happens or becomes known; the cards by turns."""
    cards = ("c1", "c1", "c2")
    return [
        Question((cards[i % 3],), at + beside) for i, at in enumerate(instants(project)) for beside in (0, 1)
    ]


class LookupProject(Project):
    """A project's directory with three logs."""

    def __init__(self, directory: Path, project: Looking) -> None:
        directory.mkdir()
        (directory / "features.py").write_text("raise AssertionError('declared by the test')\n")
        (directory / "featurestore.toml").write_text("[engine]\nthreads = 1\n")
        super().__init__(directory, project.view)
        self._over = {view.source.name: view for view in (project.view, *project.views)}
        for source in self._over:
            (directory / source).mkdir()
            # A log has a file, be it without rows: some histories are all pushed.
            self._write(source, Step("file"))
        self.store.declarations = collect({"views": [project.view, *project.views]})  # type: ignore[misc]
        self.store.apply()

    def deliver(self, steps: Deliveries) -> None:
        """The logs' steps by turns."""
        done = by_turns(steps)
        for (source, step), (_, following) in zip(done, [*done[1:], done[-1]], strict=True):
            if step.what != "backfill" or following.what != "backfill":
                self.take_one(source, step)
        self.store.backfill()

    def take_one(self, source: str, step: Step) -> None:
        """One step of one log."""
        if step.what == "file":
            self._write(source, step)
        elif step.what == "push":
            table = log_table(self._over[source], self._schema(source), step.rows)
            ingest(self.store.store, self.directory, source, table, atomic=False, now_us=step.now_us)
        else:
            self.store.backfill()

    def _write(self, source: str, step: Step) -> None:
        self._files += 1
        table = log_table(self._over[source], self._schema(source), step.rows)
        pq.write_table(table, self.directory / source / f"{self._files:04}.parquet")

    def _schema(self, source: str) -> dict[str, DType]:
        return schema_of(self._over[source].source.columns)  # type: ignore[arg-type]
