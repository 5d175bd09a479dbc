"""Faults in how a table's changes are followed, each of which the comparison of both hosts with the oracle
must notice.

Time: each is about which change of a row is its last, or about who knew what when.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import featurestore.kernel.timelines
from featurestore.kernel.changes import DELETE, OPERATION_COLUMN, TRUNCATE, UPSERT
from featurestore.kernel.roles import KnownAt
from featurestore.kernel.versions import instants, single
from featurestore.testing.builders import change, instant
from featurestore.testing.reference import Row
from tests.parity.answers import in_training_set, in_vectors
from tests.parity.projects import Project, Step, discard
from tests.parity.tables import Tables, has_row, on_every_boundary, oracle_of
from tests.strategies_tables import TableHistory

COLUMNS = {
    "card": "string", "id": "string", "lsn": "int64", "changed": "timestamp", "available_at": "timestamp",
    "n": "int64", "x": "float64", "s": "string", "b": "bool",
}  # fmt: skip


def row(op: str, id: str, lsn: int, at: str, **parts: Any) -> Row:
    made = change(op, id, lsn=lsn, at=at, **({"n": lsn, "x": 1.0, "s": op, "b": True} | parts))
    return {
        "op": op,
        **dict.fromkeys(COLUMNS),
        **{name: made[name] for name in made if name != OPERATION_COLUMN},
    }


HISTORY = TableHistory(
    COLUMNS | {"d": "decimal(20, 3)", "big": "int64", "seen": "timestamp", "day": "date", "raw": "binary",
               "xs": "list<float64>", "ns": "list<int64>", "ss": "list<string>", "bs": "list<bool>"},
    {"available_at": "available_at"},
    [
        row("c", "a", 1, "09:00"), row("u", "a", 4, "09:10"),
        row("c", "late", 2, "09:00"), row("d", "late", 5, "09:05", available="09:30"),
        row("c", "moves", 2, "09:01"), row("u", "moves", 6, "09:12", card="c2"),
        # Its position says that this one came first, its clock that it came last.
        row("u", "clock", 8, "09:02"), row("u", "clock", 7, "09:14", n=70),
        row("t", "", 3, "09:20"), row("c", "tie", 9, "09:00", s="one"), row("c", "tie", 9, "09:00", s="two"),
    ],
)  # fmt: skip
HORIZONS: tuple[KnownAt, ...] = (None, "as_of", instant("09:25"))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    steps = [Step("file", HISTORY.rows[::2]), Step("backfill"), Step("push", HISTORY.rows[1::2])]
    made = Tables(tmp_path_factory.mktemp("tables")).project(HISTORY, steps)
    yield made
    discard(made)


def wrong(project: Project) -> list[str]:
    """What both hosts answer otherwise than the oracle."""
    oracle, asked = oracle_of(project, HISTORY, HISTORY.rows), on_every_boundary(HISTORY)
    found: list[str] = []
    for known_at in HORIZONS:
        expected = [oracle.answer(one.keys, as_of=one.as_of, known_at=known_at) for one in asked]
        found += in_training_set(project.training_set(asked, known_at), expected, asked)
        there = [has_row(oracle, one, known_at) for one in asked]
        found += in_vectors(project.online(asked, known_at), expected, there)
    return found


Changed = Callable[[pa.Table, Any], tuple[pa.Table, Any]]


def _with(table: pa.Table, name: str, values: Any) -> pa.Table:
    at = table.schema.get_field_index(name)
    return table.set_column(at, name, pa.array(values).cast(table.schema.field(name).type))


def _operations(table: pa.Table) -> Any:
    return instants(single(table, OPERATION_COLUMN), null=UPSERT)


def k_is_ignored_for_deletes(table: pa.Table, roles: Any) -> tuple[pa.Table, Any]:
    known = instants(single(table, "available_at"), null=2**62)
    return _with(table, "available_at", np.where(_operations(table) == DELETE, 0, known)), roles


def a_truncate_ends_every_change_whatever_its_position(table: pa.Table, roles: Any) -> tuple[pa.Table, Any]:
    position = instants(single(table, "lsn"), null=0)
    return _with(table, "lsn", np.where(_operations(table) == TRUNCATE, 2**60, position)), roles


def a_truncate_ends_nothing(table: pa.Table, roles: Any) -> tuple[pa.Table, Any]:
    return table.filter(pa.array(_operations(table) != TRUNCATE)), roles


def a_delete_ends_nothing(table: pa.Table, roles: Any) -> tuple[pa.Table, Any]:
    return _with(table, "id", np.where(_operations(table) == DELETE, "none", single(table, "id"))), roles


def a_row_that_moves_stays_where_it_was(table: pa.Table, roles: Any) -> tuple[pa.Table, Any]:
    moved = np.array([name == "moves" and n == 6 for name, n in zip(
        single(table, "id").to_pylist(), single(table, "lsn").to_pylist(), strict=True)])  # fmt: skip
    return _with(table, "id", np.where(moved, "moved", single(table, "id"))), roles


def clocks_decide_what_came_last(table: pa.Table, roles: Any) -> tuple[pa.Table, Any]:
    return table, replace(roles, position=(roles.changed_at,))


def a_change_at_exactly_t_is_seen(table: pa.Table, roles: Any) -> tuple[pa.Table, Any]:
    return _with(table, "changed", instants(single(table, "changed"), null=0) - 1), roles


FAULTS: list[Changed] = [
    k_is_ignored_for_deletes, a_truncate_ends_every_change_whatever_its_position, a_truncate_ends_nothing,
    a_delete_ends_nothing, a_row_that_moves_stays_where_it_was, clocks_decide_what_came_last,
    a_change_at_exactly_t_is_seen,
]  # fmt: skip


def test_without_a_fault_both_hosts_answer_as_the_oracle_does(project: Project):
    assert wrong(project) == []


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_seeded_fault_is_noticed_in_both_hosts(
    project: Project, fault: Changed, monkeypatch: pytest.MonkeyPatch
):
    real = featurestore.kernel.timelines.change_timeline

    def change_timeline(table: Any, codes: Any, entities: int, roles: Any, *rest: Any, **more: Any) -> Any:
        changed, roles = fault(table, roles)
        if changed.num_rows < table.num_rows:
            codes = codes[_operations(table) != TRUNCATE]
        return real(changed, codes, entities, roles, *rest, **more)

    monkeypatch.setattr(featurestore.kernel.timelines, "change_timeline", change_timeline)
    noticed = {line.partition(",")[0].partition(":")[0] for line in wrong(project)}
    assert noticed == {"training set", "request"}
