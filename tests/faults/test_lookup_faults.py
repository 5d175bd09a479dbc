"""Faults in what events look up, each of which the comparison of both hosts with the oracle must notice.

Time: each is about T', the event's own time, or about K', which is the question's and not the event's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import featurestore.kernel.timelines
import featurestore.kernel.versions
from featurestore.kernel.content import content_hash
from featurestore.kernel.roles import KnownAt
from featurestore.kernel.versions import NEVER
from featurestore.testing.builders import change, event, instant
from featurestore.testing.reference import Row
from tests.faults.fault import Patch
from tests.parity.answers import mismatches
from tests.parity.lookups import LookupProject, oracle_of
from tests.parity.projects import Step, discard
from tests.strategies import History, Question
from tests.strategies_lookups import COLUMNS, INNER, ROWS, instants, looking
from tests.strategies_tables import TableHistory

COMMON = {"card": "string", "ts": "timestamp", "id": "string", "available_at": "timestamp"}
PARTS = {"id": "id", "available_at": "available_at"}


def bought(
    id: str, at: str, uid: str, n: int = 1, *, seller: str = "c2", available: str | None = None
) -> Row:
    return event(id, at=at, available=available, uid=uid, seller=seller, n=n, s="s", part=1)


def rated(id: str, at: str, n: int, *, available: str | None = None) -> Row:
    return event(id, at=at, available=available, card="c2", uid="r1", n=n, x=1.0, part=1)


def changed(op: str, id: str, lsn: int, at: str, *, available: str | None = None) -> Row:
    made = change(op, id, lsn=lsn, at=at, available=available, n=lsn, s=f"{id} of {at}")
    return {"op": op, **{name: value for name, value in made.items() if name != "__op"}}


EVENTS = [
    bought("early", "09:01", "r1"), bought("at", "09:02", "r1"), bought("late", "09:04", "r1"),
    bought("other", "09:04", "r2"), bought("nobody", "09:04", "unknown", seller="unknown"),
    # Which of two versions that came at once counts, their contents decide.
    *[bought(f"either {n}", "09:06", f"r{uid}", uid) for n in range(8) for uid in (1, 2)],
]  # fmt: skip
RATINGS = [
    rated("first", "09:00", 5), rated("at", "09:02", 3), rated("late", "09:01", 1, available="09:10"),
    rated("first", "09:00", 4, available="09:12"),
]  # fmt: skip
CHANGES = [
    changed("c", "r1", 1, "09:00"), changed("u", "r1", 2, "09:02"),
    changed("u", "r1", 3, "09:03", available="09:08"), changed("d", "r2", 6, "09:03", available="09:09"),
    changed("c", "r2", 4, "09:01"), changed("u", "r1", 5, "09:03:30", available="09:11"),
]  # fmt: skip
TABLE = {
    "card": "string",
    "id": "string",
    "lsn": "int64",
    "changed": "timestamp",
    "available_at": "timestamp",
}
HISTORY = looking(
    History(COMMON | COLUMNS | {"part": "int64"}, PARTS, EVENTS),
    History(COMMON | INNER | {"part": "int64"}, PARTS, RATINGS),
    TableHistory(TABLE | ROWS, {"available_at": "available_at"}, CHANGES),
)
ASKED = [Question(("c1",), at + beside) for at in instants(HISTORY) for beside in (0, 1)]
HORIZONS: tuple[KnownAt, ...] = (None, "as_of", instant("09:10"))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LookupProject]:
    made = LookupProject(tmp_path_factory.mktemp("lookups") / "project", HISTORY)
    made.deliver({
        source: [Step("file", rows[::2]), Step("backfill"), Step("push", rows[1::2])]
        for source, rows in (("events", EVENTS), ("others", RATINGS), ("rows", CHANGES))
    })  # fmt: skip
    yield made
    discard(made)


def wrong(project: LookupProject, known_at: KnownAt) -> list[str]:
    """What both hosts answer otherwise than the oracle."""
    return list(mismatches(project, oracle_of(HISTORY), ASKED, known_at))


# --- the faults


def a_change_at_exactly_the_events_time_is_seen(patch: Patch) -> None:
    real = featurestore.kernel.timelines.questions

    def questions(codes: Any, as_of: Any, *rest: Any, **more: Any) -> Any:
        return real(codes, np.where(as_of == NEVER, as_of, as_of + 1), *rest, **more)

    patch.setattr(featurestore.kernel.timelines, "questions", questions)


def what_is_looked_up_is_known_before_it_was(patch: Patch) -> None:
    """K' is absent where the question's is "as_of"."""
    real = featurestore.kernel.timelines.enrich

    def enrich(table: Any, roles: Any, lookups: Any, known_at: KnownAt, **rest: Any) -> Any:
        return real(table, roles, lookups, None if known_at == "as_of" else known_at, **rest)

    patch.setattr(featurestore.kernel.timelines, "enrich", enrich)


def an_event_keeps_what_was_known_when_it_happened(patch: Patch) -> None:
    """K' is the event's time where the question's is "as_of": every piece is as the first one."""
    real = featurestore.kernel.timelines._in_pieces

    def in_pieces(one: Any, of: Any, late: Any, found: Any, times: Any, pieces: Any, *rest: Any) -> Any:
        made = real(one, of, late, found, times, pieces, *rest)
        first = pa.array(pieces.first[pieces.row])
        return {name: values.take(first) for name, values in made.items()}

    patch.setattr(featurestore.kernel.timelines, "_in_pieces", in_pieces)


def a_piece_has_the_value_of_its_beginning(patch: Patch) -> None:
    real = featurestore.kernel.timelines._in_pieces

    def in_pieces(one: Any, of: Any, late: Any, found: Any, times: Any, pieces: Any, *rest: Any) -> Any:
        return real(one, of, late, found, times, replace(pieces, end=pieces.begin), *rest)

    patch.setattr(featurestore.kernel.timelines, "_in_pieces", in_pieces)


def a_piece_ends_a_microsecond_early(patch: Patch) -> None:
    """What is available at exactly K is known to the events that look it up."""
    real = featurestore.kernel.timelines.split

    def split(timeline: Any, pieces: Any) -> Any:
        ends = np.where(pieces.end == NEVER, NEVER, pieces.end - 1)
        begins = np.where(np.isin(np.arange(len(ends)), pieces.first[:-1]), pieces.begin, pieces.begin - 1)
        return real(timeline, replace(pieces, begin=begins, end=ends))

    patch.setattr(featurestore.kernel.timelines, "split", split)


def looked_up_columns_are_content(patch: Patch) -> None:
    enriched: list[tuple[pa.Table, pa.Table, list[str]]] = []
    real_enrich = featurestore.kernel.timelines.enrich
    real_timelines = featurestore.kernel.timelines.timelines
    real_hashes = featurestore.kernel.versions.row_hashes

    def enrich(table: Any, roles: Any, lookups: Any, *rest: Any, **more: Any) -> Any:
        made = real_enrich(table, roles, lookups, *rest, **more)
        brought = [name for one in lookups for name, _ in one.columns]
        enriched.append((table, made.known_at_last(), brought))
        return made

    def timelines(table: Any, *rest: Any, **more: Any) -> Any:
        held = next((made for given, made, _ in enriched if given is table), table)
        return real_timelines(held, *rest, **more)

    def row_hashes(table: Any, rows: Any, roles: Any) -> Any:
        hashes = real_hashes(table, rows, roles)
        brought = next((names for _, made, names in enriched if made is table), [])
        return hashes ^ content_hash(table, tuple(brought))[rows] if brought else hashes

    patch.setattr(featurestore.kernel.timelines, "enrich", enrich)
    patch.setattr(featurestore.kernel.timelines, "timelines", timelines)
    patch.setattr(featurestore.kernel.versions, "row_hashes", row_hashes)


FAULTS: dict[Callable[[Patch], None], KnownAt] = {
    a_change_at_exactly_the_events_time_is_seen: None,
    what_is_looked_up_is_known_before_it_was: "as_of",
    an_event_keeps_what_was_known_when_it_happened: "as_of",
    a_piece_has_the_value_of_its_beginning: "as_of",
    a_piece_ends_a_microsecond_early: "as_of",
    looked_up_columns_are_content: None,
}
"""Each with a horizon at which it must be noticed."""


@pytest.mark.parametrize("known_at", HORIZONS)
def test_without_a_fault_both_hosts_answer_as_the_oracle_does(project: LookupProject, known_at: KnownAt):
    assert wrong(project, known_at) == []


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_seeded_fault_is_noticed_in_both_hosts(
    project: LookupProject, fault: Callable[[Patch], None], monkeypatch: pytest.MonkeyPatch
):
    fault(monkeypatch)
    noticed = {line.partition(",")[0].partition(":")[0] for line in wrong(project, FAULTS[fault])}
    assert noticed == {"training set", "request"}
