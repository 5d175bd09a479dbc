"""Faults in how a stream is followed, each of which the check of its law must notice.

Time: most are about what is written first, the facts or how far they were read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import featurestore.store.positions
import featurestore.store.stream
import streaming.assignment
import streaming.batch
import streaming.worker
import streaming.writer
from featurestore.store.novelty import ACCEPTED, DUPLICATE
from featurestore.store.positions import Span
from featurestore.store.tables import positions
from streaming.worker import Worker
from tests.services.kafka import Broker
from tests.streaming.stream_laws import CHECKS, Bench

Patch = pytest.MonkeyPatch
FAULTS: list[tuple[str, Callable[[Patch], None]]] = []


def breaks(check: str) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    def noted(put: Callable[[Patch], None]) -> Callable[[Patch], None]:
        FAULTS.append((check, put))
        return put

    return noted


@breaks("exactly once")
def a_position_is_saved_before_its_facts(patch: Patch) -> None:
    commit_batch, move = streaming.writer.commit_batch, featurestore.store.stream.move

    def early(store: Any, batch: Any, now_us: int) -> Any:
        with store.commit("position", now_us=now_us) as commit:
            move(commit, batch.plan.name, batch.timelines, batch.slices)
        return commit_batch(store, batch, now_us)

    patch.setattr(streaming.writer, "commit_batch", early)
    patch.setattr(featurestore.store.stream, "move", lambda *_: None)


@breaks("exactly once")
def a_position_moves_from_wherever_it_stands(patch: Patch) -> None:
    def anywhere(commit: Any, source: str, timelines: Any, slices: Any) -> None:
        for one in slices:
            featurestore.store.positions._check_epoch(commit, source, one)
            moved = positions.update().where(positions.c.partition == one.partition)
            commit._connection.execute(moved.values(next_offset=one.next))

    patch.setattr(featurestore.store.stream, "move", anywhere)


@breaks("exactly once")
def an_old_epoch_may_commit(patch: Patch) -> None:
    patch.setattr(featurestore.store.positions, "_check_epoch", lambda *_: None)


@breaks("archive")
def what_is_committed_is_archived_afterwards(patch: Patch) -> None:
    commit_batch, archive = streaming.writer.commit_batch, streaming.worker.archive
    due: list[Callable[[], None]] = []

    def late(store: Any, batch: Any, now_us: int) -> Any:
        made = commit_batch(store, batch, now_us)
        due.pop()()
        return made

    patch.setattr(streaming.writer, "commit_batch", late)
    patch.setattr(streaming.worker, "archive", lambda *given: due.append(partial(archive, *given)))


@breaks("answers")
def a_new_version_begins_at_the_end(patch: Patch) -> None:
    take_over = streaming.assignment.take_over

    def at_the_end(commit: Any, source: str, topic: str, spans: Any, *rest: Any, **named: Any) -> Any:
        if rest[0] != frozenset({1}):
            spans = {number: Span(span.end, span.end) for number, span in spans.items()}
        return take_over(commit, source, topic, spans, *rest, **named)

    patch.setattr(streaming.assignment, "take_over", at_the_end)


@breaks("answers")
def a_message_is_stamped_with_the_time_of_its_reading(patch: Patch) -> None:
    decode = streaming.batch.decode

    def stamped(*given: Any, **named: Any) -> Any:
        made = decode(*given, **named)
        at = made.table.schema.get_field_index("recorded_at")
        now = pa.array([1_900_000_000_000_000] * made.table.num_rows, made.table.schema.field(at).type)
        return replace(made, table=made.table.set_column(at, "recorded_at", now))

    patch.setattr(streaming.batch, "decode", stamped)


@breaks("one snapshot")
def each_timeline_is_committed_on_its_own(patch: Patch) -> None:
    write = Worker._write

    def one_by_one(self: Any, source: Any, timelines: Any, *given: Any, **named: Any) -> None:
        for timeline in sorted(timelines):
            write(self, source, frozenset({timeline}), *given, **named)

    patch.setattr(Worker, "_write", one_by_one)


@breaks("counters")
def what_cannot_be_read_is_passed_over(patch: Patch) -> None:
    decode = streaming.batch.decode
    patch.setattr(
        streaming.batch, "decode", lambda *given, **named: replace(decode(*given, **named), dead={})
    )


@breaks("counters")
def a_duplicate_is_counted_as_new(patch: Patch) -> None:
    statuses = featurestore.store.stream._statuses

    def as_new(*given: Any) -> Any:
        found = statuses(*given)
        return np.where(found == DUPLICATE, np.int8(ACCEPTED), found)

    patch.setattr(featurestore.store.stream, "_statuses", as_new)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, broker: Broker) -> Bench:
    return Bench.made(tmp_path_factory.mktemp("streams"), broker)


@pytest.mark.parametrize("check", CHECKS)
def test_without_a_fault_the_check_passes(bench: Bench, check: str):
    CHECKS[check](bench)


@pytest.mark.parametrize(("check", "fault"), FAULTS, ids=[fault.__name__ for _, fault in FAULTS])
def test_a_seeded_fault_makes_its_check_fail(
    bench: Bench, check: str, fault: Callable[[Patch], None], monkeypatch: pytest.MonkeyPatch
):
    fault(monkeypatch)
    with pytest.raises(AssertionError) as noticed:
        CHECKS[check](bench)
    # The check noticed; the worker did not merely stumble over the fault.
    assert noticed.traceback[-1].path.name in ("stream_laws.py", "stream_project.py")


def test_faults_are_seeded_for_every_check():
    assert {check for check, _ in FAULTS} == set(CHECKS)
