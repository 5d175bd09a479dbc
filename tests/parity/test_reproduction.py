"""The manifest of a training set makes it again to the byte after the log grew by half: over generated
histories of events and of tables.

Time: what is written later happens, and is known, among what was there before: it would change most answers.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st

import tests.strategies as events
import tests.strategies_tables as tables
from featurestore.dsl.aggregation import Aggregation, agg
from featurestore.dsl.feature_view import FeatureView
from featurestore.dsl.log import Parquet
from featurestore.dtypes import instant_text
from featurestore.feature_store import FeatureStore
from featurestore.kernel.roles import KnownAt
from featurestore.project import collect
from featurestore.store.ingest import ingest
from featurestore.testing.builders import schema_of
from featurestore.testing.reference import Row
from tests.parity.projects import spine_of
from tests.parity.rounds import run_until

VALUES: Mapping[str, str] = {"n": "int64", "x": "float64", "s": "string"}
NOW_US = 1_900_000_000_000_000


def features(*, windows: bool) -> list[Aggregation]:
    made = [
        agg.count(windows=["5m"]), agg.sum("n"), agg.sum("x", windows=["5m"]), agg.last("s"),
        agg.percentile("x", q=0.5), agg.count_distinct("s", windows=["5m"]), agg.first_k("n", k=2),
    ]  # fmt: skip
    return made if windows else [replace(one, windows=()) for one in made]


class Seen:
    """How many histories a run has made again, and how many of them what came later would have changed."""

    def __init__(self) -> None:
        self.histories = self.before = self.after = self.changed = self.pushed = 0

    def is_enough(self, examples: int) -> bool:
        """Whether a run of ``examples`` has met enough that shows something."""
        return self.changed >= examples / 6 and self.pushed >= examples / 20

    def check(self, what: str, examples: int, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.after >= 1.5 * self.before
        assert self.is_enough(examples), (self.changed, self.pushed, self.histories)
        with capsys.disabled():
            print(  # noqa: T201
                f"\nreproduction, {what}: {self.histories:,} histories, {self.before:,} rows grew to "
                f"{self.after:,}; later rows would have changed {self.changed:,} training sets; "
                f"{self.pushed:,} had pushes"
            )


class Grown:
    """A project's directory whose log grows by files and pushes."""

    def __init__(self, template: Path, number: int, view: FeatureView) -> None:
        self.directory = template.with_name(f"{template.name}-{number}")
        shutil.copytree(template, self.directory)
        self.view = view
        self.store = FeatureStore(self.directory)
        self.store.declarations = collect({"view": view})  # type: ignore[misc]
        self.schema = schema_of(view.source.columns)  # type: ignore[arg-type]
        self.files = self.rows = self.pushed = 0

    def table(self, rows: Sequence[Row]) -> pa.Table:
        return rows_of(rows, self.view)

    def grow(self, data: st.DataObject, rows: Sequence[Row], *, pushes: bool) -> None:
        parts = data.draw(st.integers(1, 3))
        for part in range(parts):
            dealt = rows[part::parts]
            if pushes and dealt and data.draw(st.sampled_from([True, True, False])):
                # A pushed row that breaks the rules is refused: it doesn't come into the log.
                ingest(self.store.store, self.directory, self.view.source.name, self.table(dealt),
                       atomic=False, now_us=NOW_US)  # fmt: skip
                self.pushed += len(dealt)
            else:
                self.files += 1
                pq.write_table(self.table(dealt), self.directory / "log" / f"{self.files}.parquet")
            self.rows += len(dealt)
        if data.draw(st.sampled_from([False, False, True])):
            self.store.backfill()

    def bytes(self, name: str) -> bytes:
        ends = (".parquet", ".manifest.json")
        return b"".join((self.directory / f"{name}{end}").read_bytes() for end in ends)


def rows_of(rows: Sequence[Row], view: FeatureView) -> pa.Table:
    columns: Mapping[str, str] = view.source.columns  # type: ignore[assignment]
    kinds = {name: dtype.arrow for name, dtype in schema_of(columns).items()}
    if hasattr(view.source, "primary_key"):
        kinds["op"] = pa.string()
    return pa.table({name: pa.array([row.get(name) for row in rows], kind) for name, kind in kinds.items()})


class Templates:
    """Applied, empty projects, one a schema."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._made: dict[str, Path] = {}
        self._projects = 0

    def project(self, view: FeatureView) -> Grown:
        self._projects += 1
        key = repr((view.source, view.features))
        if key not in self._made:
            self._made[key] = self._apply(view)
        return Grown(self._made[key], self._projects, view)

    def _apply(self, view: FeatureView) -> Path:
        directory = self._directory / f"schema-{len(self._made)}"
        (directory / "log").mkdir(parents=True)
        (directory / "features.py").write_text("raise AssertionError('declared by the test')\n")
        pq.write_table(rows_of([], view), directory / "log" / "0.parquet")
        with FeatureStore(directory) as store:
            store.declarations = collect({"view": view})  # type: ignore[misc]
            store.apply()
        return directory


def check(
    data: st.DataObject, templates: Templates, seen: Seen, view: FeatureView, rows: Sequence[Row],
    asked: Sequence[events.Question], known_at: KnownAt, *, pushes: bool,
) -> None:  # fmt: skip
    project = templates.project(view)
    # A draw may end the example in the middle.
    with project.store:
        _check(data, project, seen, rows, asked, known_at, pushes=pushes)
    shutil.rmtree(project.directory)


def _check(
    data: st.DataObject, project: Grown, seen: Seen, rows: Sequence[Row],
    asked: Sequence[events.Question], known_at: KnownAt, *, pushes: bool,
) -> None:  # fmt: skip
    view = project.view
    cut = 2 * len(rows) // 3
    project.grow(data, rows[:cut], pushes=pushes)
    before = project.rows
    spine = spine_of(asked, view.entity.keys, project.schema)
    given: Any = spine
    if data.draw(st.booleans()):
        pq.write_table(spine, project.directory / "spine.parquet")
        given = "spine.parquet"
    horizon = instant_text(known_at) if isinstance(known_at, int) else known_at
    made = project.store.training_set(given, view.name, known_at=horizon)
    made.write_parquet(project.directory / "train.parquet")
    project.grow(data, rows[cut:], pushes=pushes)
    assert project.rows >= 1.5 * before
    with FeatureStore(project.directory) as another:
        again = another.reproduce(
            project.directory / "train.manifest.json", spine=spine if given is spine else None
        )
    again.write_parquet(project.directory / "again.parquet")
    assert project.bytes("again") == project.bytes("train")
    now = project.store.training_set(given, view.name, known_at=horizon).manifest
    seen.histories += 1
    seen.before += before
    seen.after += project.rows
    seen.changed += now["content"] != made.manifest["content"]
    seen.pushed += bool(project.pushed)


def check_events(data: st.DataObject, templates: Templates, seen: Seen) -> None:
    history = data.draw(events.histories(columns=VALUES))
    view = at_log(history.view(features(windows=True)))
    asked = data.draw(events.questions(history))
    known_at = data.draw(events.horizons(history))
    check(data, templates, seen, view, history.rows, asked, known_at, pushes="id" in history.source)


def check_tables(data: st.DataObject, templates: Templates, seen: Seen) -> None:
    history = data.draw(tables.histories(columns=VALUES))
    view = at_log(history.view(features(windows=history.has_event_time)))
    asked = data.draw(tables.questions(history))
    known_at = data.draw(tables.horizons(history))
    check(data, templates, seen, view, history.rows, asked, known_at, pushes=True)


def at_log(view: FeatureView) -> FeatureView:
    """The view over a source whose log is the directory ``log``."""
    return replace(view, source=replace(view.source, log=Parquet("log")))


@pytest.mark.parametrize("what", ["events", "tables"])
def test_the_manifest_makes_a_training_set_again_after_the_log_grew_by_half(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
):
    run(tmp_path, capsys, what, examples=40)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["events", "tables"])
def test_the_manifest_makes_training_sets_of_thousands_of_histories_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
):
    run(tmp_path, capsys, what, examples=1_000)


def run(directory: Path, capsys: pytest.CaptureFixture[str], what: str, *, examples: int) -> None:
    """``examples`` histories, and as many more as it takes to meet enough that show something."""
    templates, seen = Templates(directory), Seen()
    one = check_events if what == "events" else check_tables
    run_until(lambda data: one(data, templates, seen), examples, lambda: seen.is_enough(examples))
    seen.check(what, examples, capsys)
