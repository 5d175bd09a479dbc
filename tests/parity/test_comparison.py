"""Two horizons compared over generated histories: what is reported is what differs between the two training
sets, bit for bit, and every difference has a fact that is its reason.

Time: the horizons stand among the instants at which something was learnt.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st

import tests.strategies as events
import tests.strategies_tables as tables
from featurestore.dsl.aggregation import agg
from featurestore.dsl.feature_view import FeatureView
from featurestore.dtypes import instant_text
from featurestore.kernel.roles import KnownAt
from featurestore.testing.bits import bits
from featurestore.testing.reference import Row
from tests.parity.projects import spine_of
from tests.parity.rounds import run_until
from tests.parity.test_reproduction import VALUES, Templates, at_log, features

WHATS = {
    "events": {"arrived", "not known yet", "corrected", "retracted", "reinstated"},
    "tables": {"arrived", "not known yet", "changed", "deleted"},
}


def check(
    templates: Templates, view: FeatureView, rows: Sequence[Row], asked: Sequence[events.Question],
    horizons: tuple[KnownAt, KnownAt],
) -> set[str]:  # fmt: skip
    """What happened, over all differences."""
    project = templates.project(view)
    pq.write_table(project.table(rows), project.directory / "log" / "1.parquet")
    spine = spine_of(asked, view.entity.keys, project.schema)
    texts = tuple(instant_text(one) if isinstance(one, int) else one for one in horizons)
    made = project.store.compare_knowledge(spine, view.name, known_at=texts, limit=10_000)
    before, after = (project.store.training_set(spine, view.name, known_at=one).to_arrow() for one in texts)
    wanted = {
        (row, name.replace("__", ":", 1)): (one, other)
        for name in before.column_names[spine.num_columns :]
        for row, (one, other) in enumerate(
            zip(before[name].to_pylist(), after[name].to_pylist(), strict=True)
        )
        if bits(one) != bits(other)
    }
    found = [(one.row, one.feature) for one in made.differences]
    assert set(found) == wanted.keys() and len(found) == len(wanted)
    assert [row for row, _ in found] == sorted(row for row, _ in found)
    assert made.differing_rows == len({row for row, _ in found})
    assert {name: count for name, count in made.features.items() if count} == {
        name: sum(feature == name for _, feature in found) for _, name in found
    }
    for one in made.differences:
        assert one.facts >= 1 and len(one.why) == min(one.facts, 10)
    project.store.close()
    shutil.rmtree(project.directory)
    return {reason.what for one in made.differences for reason in one.why}


@pytest.mark.parametrize("what", ["events", "tables"])
def test_what_is_reported_is_what_differs(tmp_path: Path, what: str):
    least = {"arrived", "not known yet"}
    assert least < run(tmp_path, what, examples=40, least=least) <= WHATS[what]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["events", "tables"])
def test_what_is_reported_is_what_differs_in_thousands_of_histories(tmp_path: Path, what: str):
    assert run(tmp_path, what, examples=1_000, least=WHATS[what]) == WHATS[what]


def run(directory: Path, what: str, *, examples: int, least: set[str]) -> set[str]:
    """What happened, over ``examples`` histories, and as many more as it takes to meet the ``least``."""
    templates = Templates(directory)
    seen: set[str] = set()

    def one(data: st.DataObject) -> None:
        # Lists and maps, too, and an operation that only the order of ties decides.
        more = [agg.histogram("s"), agg.last_k("x", k=2), agg.min_by("s", order="n"), agg.time_since_last()]
        if what == "events":
            history = data.draw(events.histories(columns=VALUES))
            view = history.view([*features(windows=True), *more])
            asked, horizons = events.questions(history), events.horizons(history)
        else:
            history = data.draw(tables.histories(columns=VALUES))
            view = history.view([*features(windows=history.has_event_time), *more])
            asked, horizons = tables.questions(history), tables.horizons(history)
        pair, drawn = data.draw(st.tuples(horizons, horizons)), data.draw(asked)
        seen.update(check(templates, at_log(view), history.rows, drawn, pair))

    run_until(one, examples, lambda: least <= seen)
    return seen
