"""Faults in which facts a value is made of: windows, delays, knowledge, versions and their order.

Time: each is about a boundary that is half-open, or about what was known when.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import featurestore.kernel.evaluate
import featurestore.kernel.timelines
import featurestore.kernel.versions
from featurestore.kernel.edges import Edges
from featurestore.kernel.questions import Questions
from featurestore.kernel.versions import NEVER, Timeline, instants, single
from tests.faults.fault import Patch, breaks

MINUTE = 60_000_000


# --- the edges of windows


def _edges(patch: Patch, change: Callable[..., Edges]) -> None:
    """``change(real, timeline, questions, window_us, delay_us)`` makes the edges of facts."""
    real = featurestore.kernel.evaluate.fact_edges

    def edges(
        timeline: Timeline, questions: Questions, *, window_us: Any, delay_us: int, **rest: Any
    ) -> Edges:
        def of(timeline: Timeline, questions: Questions, window_us: Any, delay_us: int) -> Edges:
            return real(timeline, questions, window_us=window_us, delay_us=delay_us, **rest)

        return change(of, timeline, questions, window_us, delay_us)

    patch.setattr(featurestore.kernel.evaluate, "fact_edges", edges)


def _later(questions: Questions, us: int = 1) -> Questions:
    return replace(questions, as_of=questions.as_of + us)


@breaks(3)
def a_fact_at_exactly_t_is_seen(patch: Patch) -> None:
    def change(of: Any, timeline: Any, questions: Any, window: Any, delay: int) -> Edges:
        edges = of(timeline, questions, window, delay)
        return replace(edges, hi=of(timeline, _later(questions), window, delay).hi)

    _edges(patch, change)


@breaks(1)
def a_fact_at_exactly_the_lower_edge_is_not_seen(patch: Patch) -> None:
    def change(of: Any, timeline: Any, questions: Any, window: Any, delay: int) -> Edges:
        edges = of(timeline, questions, window, delay)
        lo = of(timeline, _later(questions), window, delay).lo
        return edges if window is None else replace(edges, lo=np.minimum(lo, edges.hi))

    _edges(patch, change)


@breaks(3, only=lambda name: not name.endswith(("_1us", "_1m", "_5m", "_1h")))
def the_edge_of_a_lifetime_is_inclusive(patch: Patch) -> None:
    def change(of: Any, timeline: Any, questions: Any, window: Any, delay: int) -> Edges:
        return of(timeline, _later(questions) if window is None else questions, window, delay)

    _edges(patch, change)


@breaks(1)
def a_window_is_rounded_up_to_five_minutes(patch: Patch) -> None:
    def change(of: Any, timeline: Any, questions: Any, window: Any, delay: int) -> Edges:
        rounded = None if window is None else -(-window // (5 * MINUTE)) * 5 * MINUTE
        return of(timeline, questions, rounded, delay)

    _edges(patch, change)


@breaks(1)
def a_window_hops_by_the_minute(patch: Patch) -> None:
    def change(of: Any, timeline: Any, questions: Any, window: Any, delay: int) -> Edges:
        return of(timeline, replace(questions, as_of=questions.as_of // MINUTE * MINUTE), window, delay)

    _edges(patch, change)


@breaks(1)
def a_delay_shifts_knowledge_too(patch: Patch) -> None:
    def change(of: Any, timeline: Any, questions: Any, window: Any, delay: int) -> Edges:
        if timeline.start is not None:
            timeline = replace(timeline, start=timeline.start + delay)
        return of(timeline, questions, window, delay)

    _edges(patch, change)


@breaks(1)
def a_delay_is_forgotten(patch: Patch) -> None:
    _edges(patch, lambda of, timeline, questions, window, delay: of(timeline, questions, window, 0))


# --- versions and knowledge


def _timelines(patch: Patch, change: Callable[..., tuple[Any, ...]]) -> None:
    """``change(table, codes, roles, known_at)`` makes what the choice of versions is given, in both hosts."""
    real = featurestore.kernel.versions.timeline

    def timeline(table: Any, codes: Any, entities: int, roles: Any, known_at: Any, **rest: Any) -> Any:
        table, codes, roles, known_at = change(table, codes, roles, known_at)
        return real(table, codes, entities, roles, known_at, **rest)

    patch.setattr(featurestore.kernel.timelines, "timeline", timeline)


def _with(table: pa.Table, name: str, values: Any) -> pa.Table:
    index = table.schema.get_field_index(name)
    array = pa.array(values).cast(table.schema.field(index).type)
    return table.set_column(index, name, array)


@breaks(3)
def known_at_is_inclusive(patch: Patch) -> None:
    _timelines(
        patch,
        lambda table, codes, roles, known_at: (
            table, codes, roles, known_at + 1 if isinstance(known_at, int) else known_at,
        ),
    )  # fmt: skip


@breaks(3)
def known_at_is_ignored(patch: Patch) -> None:
    _timelines(patch, lambda table, codes, roles, known_at: (table, codes, roles, None))


@breaks(3)
def known_at_is_ignored_for_retractions(patch: Patch) -> None:
    def change(table: Any, codes: Any, roles: Any, known_at: Any) -> tuple[Any, ...]:
        if roles.deleted is not None and roles.available_at is not None:
            deleted = pc.fill_null(single(table, roles.deleted), False).to_numpy(zero_copy_only=False)
            available = instants(single(table, roles.available_at), null=NEVER)
            # What was always known still has to beat what it retracts: it is given a version of its own.
            table = _with(table, roles.available_at, np.where(deleted, 0, available))
            table = table.append_column("__rank", pa.array(deleted.astype(np.int64)))
            roles = replace(roles, version="__rank")
        return table, codes, roles, known_at

    _timelines(patch, change)


@breaks(3)
def a_null_available_at_is_known(patch: Patch) -> None:
    def change(table: Any, codes: Any, roles: Any, known_at: Any) -> tuple[Any, ...]:
        if roles.available_at is not None:
            table = _with(table, roles.available_at, instants(single(table, roles.available_at), null=0))
        return table, codes, roles, known_at

    _timelines(patch, change)


@breaks(3)
def a_correction_rewrites_the_past(patch: Patch) -> None:
    """ "as_of" looks at what is true now: the last version, from its event's time on."""

    def change(table: Any, codes: Any, roles: Any, known_at: Any) -> tuple[Any, ...]:
        return table, codes, roles, None if known_at == "as_of" else known_at

    _timelines(patch, change)


@breaks(1)
def duplicates_count_twice(patch: Patch) -> None:
    _timelines(patch, lambda table, codes, roles, known_at: (table, codes, replace(roles, id=()), known_at))


@breaks(2)
def the_version_that_was_written_last_counts(patch: Patch) -> None:
    def change(table: Any, codes: Any, roles: Any, known_at: Any) -> tuple[Any, ...]:
        table = table.append_column("__row", pa.array(np.arange(table.num_rows)))
        return table, codes, replace(roles, version="__row"), known_at

    _timelines(patch, change)


@breaks(1)
def a_declared_version_is_not_looked_at(patch: Patch) -> None:
    _timelines(
        patch, lambda table, codes, roles, known_at: (table, codes, replace(roles, version=None), known_at)
    )


@breaks(1)
def a_late_redelivery_renews_an_old_version(patch: Patch) -> None:
    def change(table: Any, codes: Any, roles: Any, known_at: Any) -> tuple[Any, ...]:
        if roles.available_at is None or not roles.id or not table.num_rows:
            return table, codes, roles, known_at
        available = instants(single(table, roles.available_at), null=NEVER)
        hashes = featurestore.kernel.versions.row_hashes(table, np.arange(table.num_rows), roles)
        contents = np.unique(
            np.column_stack([codes.astype(np.int64).view(np.uint64), hashes]), axis=0, return_inverse=True
        )[1]
        latest = np.full(table.num_rows, -NEVER)
        np.maximum.at(latest, contents.ravel(), available)
        return _with(table, roles.available_at, latest[contents.ravel()]), codes, roles, known_at

    _timelines(patch, change)


@breaks(1, only=lambda name: name.startswith("x_") or name.endswith("_x"))
def null_inputs_are_left_out_before_the_version_is_chosen(patch: Patch) -> None:
    def change(table: Any, codes: Any, roles: Any, known_at: Any) -> tuple[Any, ...]:
        if "x" in table.column_names:
            ids = single(table, roles.id[0]).to_pylist() if roles.id else [None] * table.num_rows
            # Of facts of one version alone it makes no difference when a null input is left out.
            again = np.array([id is not None and ids.count(id) > 1 for id in ids], np.bool_)
            null = single(table, "x").is_null().to_numpy(zero_copy_only=False)
            codes = np.where(null & again, -1, codes)
        return table, codes, roles, known_at

    _timelines(patch, change)


# --- order


@breaks(2)
def ties_stay_as_they_were_written(patch: Patch) -> None:
    patch.setattr(featurestore.kernel.versions, "_break_ties", lambda *_: None)


@breaks(1)
def order_by_is_not_looked_at(patch: Patch) -> None:
    _timelines(
        patch, lambda table, codes, roles, known_at: (table, codes, replace(roles, order_by=None), known_at)
    )
