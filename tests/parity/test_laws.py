"""The laws of docs/semantics.md that hold by now, a test each that names it; law 1 has ``test_parity``.

Time: pushes happen at instants that the tests name; only the writers of law 5 race, and what they race for is
the same at every speed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import featurestore.batch.timeline_fill
import featurestore.store.delivery
import tests.strategies as generated
import tests.strategies_tables as generated_tables
from featurestore.feature_store import FeatureStore
from featurestore.kernel.roles import KnownAt
from featurestore.testing.reference import Row
from tests.parity import laws
from tests.parity.histories import VALUES, features
from tests.parity.laws import Bench, push_one, sums_of_both, two_views, values_of
from tests.parity.projects import VIEW, Project, Step, deliveries, discard
from tests.parity.tables import Tables, table_futures
from tests.strategies import MINUTE, START, History, Question

few = settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    made = Bench(tmp_path_factory.mktemp("bench"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return Tables(tmp_path_factory.mktemp("tables"))


# --- law 2


@few
@given(st.data())
def test_law_2_determinism_order_files_and_repetitions_of_a_log_change_no_bit(
    bench: Bench, data: st.DataObject
):
    history = data.draw(generated.histories(columns=VALUES))
    asked = data.draw(generated.questions(history))
    known_at = data.draw(generated.horizons(history))
    rows = list(history.rows)
    again = data.draw(st.permutations(rows))
    if "id" in history.source and rows:
        again += data.draw(st.lists(st.sampled_from(rows), max_size=4))
    parts = data.draw(st.integers(1, 4))
    one = bench.project(history, [Step("file", rows), Step("backfill")])
    other = bench.project(history, [Step("file", again[part::parts]) for part in range(parts)])
    other.store.backfill()
    try:
        _same_answers(one, other, asked, known_at)
    finally:
        discard(one)
        discard(other)


def _same_answers(one: Project, other: Project, asked: list[Question], known_at: KnownAt) -> None:
    first, second = (project.training_set(asked, known_at) for project in (one, other))
    assert values_of(first.table) == values_of(second.table)
    timed = [question for question in asked if question.as_of is not None]
    if timed:
        first_online, second_online = (
            values_of(project.online(timed, known_at).to_arrow()) for project in (one, other)
        )
        assert first_online == second_online


def test_law_2_determinism_the_size_of_commits_runs_and_row_groups_changes_no_bit(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    rows = [
        {"card": f"c{i % 3}", "ts": START + i % 40 * MINUTE, "id": f"e{i % 150}", "available_at": START + i,
         "n": i, "x": i / 7, "s": f"s{i % 5}", "b": i % 2 == 0, "xs": [i / 3]}
        for i in range(200)
    ]  # fmt: skip
    asked = [Question((f"c{i % 4}",), START + i * MINUTE // 3) for i in range(120)]
    made = laws.history(rows)
    one = bench.project(made, [Step("file", made.rows), Step("backfill")])
    monkeypatch.setattr(featurestore.batch.timeline_fill, "FIRST_CHUNK_ROWS", 7)
    monkeypatch.setattr(featurestore.batch.timeline_fill, "MOST_CHUNK_ROWS", 7)
    monkeypatch.setattr(featurestore.store.delivery, "RUN_VERSIONS", 5)
    other = bench.project(made)
    path = other.add_file(made.rows)
    pq.write_table(pq.read_table(path), path, row_group_size=9)
    other.store.backfill()
    horizons: tuple[KnownAt, ...] = (None, "as_of", START + 50)
    for known_at in horizons:
        _same_answers(one, other, asked, known_at)


def many_rows() -> list[Row]:
    """Enough of them that the kernel shares entities out over its threads."""
    random = np.random.default_rng(7)
    happened = START + random.integers(0, 600, 20_000) * MINUTE // 10
    return [
        {"card": f"c{card}", "ts": int(ts), "id": f"e{number}", "available_at": int(ts) + late,
         "n": number, "x": number / 7, "s": f"s{number % 11}", "b": number % 2 == 0, "xs": [float(number)]}
        for number, (card, ts, late) in enumerate(
            zip(
                random.integers(0, 500, 20_000).tolist(), happened.tolist(),
                random.integers(0, 2 * MINUTE, 20_000).tolist(), strict=True,
            )
        )
    ]  # fmt: skip


RUN = """
import sys
from tests.parity.laws import Bench
from tests.parity.test_laws import training_set_of
training_set_of(sys.argv[1], sys.argv[2])
"""


def training_set_of(directory: str, path: str) -> None:
    """Write the training set of a project's spine: what another process does, too."""
    with FeatureStore(directory) as store:
        made = store.training_set("spine.parquet", VIEW, time="ts", known_at="as_of")
        made.write_parquet(path)


def test_law_2_determinism_threads_processes_and_hash_seeds_change_no_byte(bench: Bench, tmp_path: Path):
    made = laws.history(many_rows())
    project = bench.project(made, [Step("file", made.rows)])
    directory = project.directory
    random = np.random.default_rng(8)
    spine = pa.table(
        {
            "card": [f"c{card}" for card in random.integers(0, 510, 3_000)],
            "ts": pa.array(START + random.integers(0, 60 * MINUTE, 3_000), pa.timestamp("us", "UTC")),
        }
    )
    pq.write_table(spine, directory / "spine.parquet")
    (directory / "features.py").write_text(
        "from tests.parity import laws\n"
        "from tests.parity.histories import features\n"
        "from tests.parity.projects import declared\n"
        "made = laws.history([])\n"
        "view = declared(made.columns, made.source, features())\n"
    )
    written = []
    for number, (threads, seed) in enumerate(((1, "0"), (2, "1"), (2, "4242"))):
        path = tmp_path / str(number) / "train.parquet"
        path.parent.mkdir()
        environment = {
            **os.environ, "PYTHONHASHSEED": seed, "FEATURESTORE_ENGINE__THREADS": str(threads),
        }  # fmt: skip
        subprocess.run(
            [sys.executable, "-c", RUN, str(directory), str(path)],
            check=True, env=environment, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        written.append((path.read_bytes(), path.with_name("train.manifest.json").read_bytes()))
    assert written[0] == written[1] == written[2]
    assert pq.read_table(path).num_rows == 3_000


# --- law 3


@st.composite
def futures(draw: st.DrawFn, history: History, as_of: int, known_at: KnownAt) -> list[Row]:
    """Rows that (as_of, known_at) must not see: new events at or after it, versions known at or after it."""
    seen = draw(generated.histories(columns=VALUES).filter(lambda one: one.rows))
    rows: list[Row] = []
    horizon = as_of if known_at == "as_of" else known_at
    for number, other in enumerate(seen.rows):
        row = {name: other.get(name) for name in history.columns}
        beside = draw(st.sampled_from([0, 0, 1, MINUTE]))
        happens = {"ts": as_of + beside, "id": f"new{number}"}
        if horizon is None or draw(st.booleans()):
            row |= {name: value for name, value in happens.items() if name in history.columns}
        else:
            ids = [one["id"] for one in history.rows if one.get("id") is not None] or ["e0"]
            learnt = {"id": draw(st.sampled_from(ids)), "available_at": horizon + beside}
            row |= {name: value for name, value in learnt.items() if name in history.columns}
            if "available_at" not in history.source:
                # Without a declared column a thing is known from when it happens.
                row["ts"] = horizon + beside
        rows.append(row)
    return rows


@few
@given(st.data())
def test_law_3_no_leakage_what_is_later_than_t_or_k_changes_nothing(bench: Bench, data: st.DataObject):
    history = data.draw(generated.histories(columns=VALUES))
    [question] = data.draw(generated.questions(history, at_most=1))
    if question.as_of is None:
        return
    known_at = data.draw(generated.horizons(history))
    future = data.draw(futures(history, question.as_of, known_at))
    before = bench.project(history, [Step("file", history.rows), Step("backfill")])
    after = bench.project(history, [Step("file", [*future, *history.rows]), Step("backfill")])
    try:
        _same_answers(before, after, [question], known_at)
    finally:
        discard(before)
        discard(after)


@settings(few, max_examples=12)
@given(st.data())
def test_law_3_no_leakage_what_a_table_learns_later_than_t_or_k_changes_no_byte(
    tables: Tables, data: st.DataObject
):
    history = data.draw(generated_tables.histories().filter(lambda one: one.rows))
    [question] = data.draw(generated_tables.questions(history, at_most=1))
    if question.as_of is None:
        return
    known_at = data.draw(generated_tables.horizons(history))
    future = data.draw(table_futures(history, question.as_of, known_at))
    before = tables.project(history, [Step("file", history.rows), Step("backfill")])
    after = tables.project(history, [Step("file", [*future[::2], *history.rows]), Step("backfill")])
    after.take([Step("file", future[1::2]), Step("backfill")])
    asked = [Question(("c1",), question.as_of), Question(("c2",), question.as_of), question]
    try:
        # Of a training set's table every byte: Parquet has them all.
        written = [
            project.training_set(asked, known_at).write_parquet(project.directory / "train.parquet")
            for project in (before, after)
        ]
        first, second = (path.with_name("train.parquet").read_bytes() for path in written)
        assert first == second
        _same_answers(before, after, asked, known_at)
    finally:
        discard(before)
        discard(after)


def test_law_3_no_leakage_at_the_edges_themselves(bench: Bench):
    laws.check_no_leakage(bench)


# --- law 4


def test_law_4_exactly_once_whatever_is_repeated_or_crashes(bench: Bench):
    laws.check_exactly_once(bench)


@few
@given(st.data())
def test_law_4_exactly_once_a_delivery_again_adds_nothing(bench: Bench, data: st.DataObject):
    history = data.draw(generated.histories(columns=VALUES).filter(lambda one: "id" in one.source))
    steps = data.draw(deliveries(history))
    project = bench.project(history, steps)
    try:
        kept = _kept(project)
        again = [row for step in steps for row in step.rows][::-1]
        project.take([Step("push", again, START + 60 * MINUTE), Step("file", again), Step("backfill")])
        assert _kept(project) == kept
    finally:
        discard(project)


def _kept(project: Project) -> int:
    """How many distinct versions the store holds: one a content."""
    with project.store.store.snapshot() as snapshot:
        counters = snapshot.counters()
    return sum(n for key, n in counters.items() if key.kind in ("accepted", "corrected"))


# --- law 5


def test_law_5_one_snapshot_a_push_between_two_reads_is_in_neither(bench: Bench):
    laws.check_one_snapshot(bench)


def test_law_5_one_snapshot_two_views_agree_while_others_push(tmp_path: Path):
    store = two_views(tmp_path / "project")
    pushes = 40

    def push_all() -> None:
        with FeatureStore(store.root) as writer:
            for number in range(pushes):
                push_one(writer, number)

    writer = threading.Thread(target=push_all)
    writer.start()
    answers = []
    while writer.is_alive():
        answers.append(sums_of_both(store))
    writer.join()
    answers.append(sums_of_both(store))
    store.close()
    assert all(card == shop for card, shop in answers)
    counts = [card[1] for card, _ in answers]
    assert counts == sorted(counts)
    assert answers[-1][0] == (pushes * (pushes + 1) // 2, pushes)
    assert len(set(counts)) > 2, "the reader saw nothing in between"


# --- law 6


def test_law_6_nothing_silent_every_row_is_in_one_counter(bench: Bench):
    laws.check_nothing_silent(bench)


@few
@given(st.data())
def test_law_6_nothing_silent_counters_add_up_to_what_was_delivered(bench: Bench, data: st.DataObject):
    history = data.draw(generated.histories(columns=VALUES))
    steps = data.draw(deliveries(history))
    project = bench.project(history, steps)
    try:
        with project.store.store.snapshot() as snapshot:
            counters = {(key.partition, key.kind): n for key, n in snapshot.counters().items()}
        for partition in {partition for partition, _ in counters}:
            told = sum(counters.get((partition, kind), 0) for kind in laws.COUNTED)
            assert told == counters[partition, "delivered"]
        written = sum(len(step.rows) for step in steps if step.what == "file")
        pushed = sum(len(step.rows) for step in steps if step.what == "push")
        delivered = [
            n for (partition, kind), n in counters.items() if kind == "delivered" and partition != "arrivals"
        ]
        assert sum(delivered) == written
        assert counters.get(("arrivals", "delivered"), 0) == pushed
    finally:
        discard(project)


def test_every_operation_is_among_the_features_of_these_histories():
    from featurestore.kernel.operations import OPERATIONS

    assert {one.op for one in features()} == set(OPERATIONS)
