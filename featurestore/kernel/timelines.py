"""Timelines of either kind of source: events whose versions are chosen, table rows whose changes are
followed.

Time: a delay shifts when a table's change takes effect, so features over a table share a timeline with those
of their own delay only; a timeline of events serves every delay.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from featurestore.kernel.blocks import Codes
from featurestore.kernel.changes import change_timeline
from featurestore.kernel.evaluate import Answer, Answers, answer
from featurestore.kernel.feature import Feature
from featurestore.kernel.questions import Questions
from featurestore.kernel.roles import ChangeRoles, KnownAt, Roles
from featurestore.kernel.versions import Counts, Timeline, timeline


def delay_groups(roles: Roles | ChangeRoles, features: Sequence[Feature]) -> list[tuple[int, list[Feature]]]:
    """The features that can share a timeline, and the delay of each group."""
    if isinstance(roles, Roles):
        return [(0, list(features))]
    groups: dict[int, list[Feature]] = {}
    for feature in features:
        groups.setdefault(feature.delay_us, []).append(feature)
    return list(groups.items())


def timelines(
    table: pa.Table,
    codes: Codes,
    entities: int,
    roles: Roles | ChangeRoles,
    known_at: KnownAt,
    *,
    delay_us: int,
    threads: ThreadPoolExecutor | None = None,
) -> tuple[Timeline, Counts]:
    """The timelines of a versions or changes table as known at ``known_at``, for one of ``delay_groups``."""
    if isinstance(roles, Roles):
        return timeline(table, codes, entities, roles, known_at, threads=threads)
    return change_timeline(table, codes, entities, roles, known_at, delay_us=delay_us, threads=threads)


def ask(
    features: Sequence[Feature],
    table: pa.Table,
    codes: Codes,
    entities: int,
    roles: Roles | ChangeRoles,
    known_at: KnownAt,
    questions: Questions,
    *,
    latest: bool = False,
    threads: ThreadPoolExecutor | None = None,
) -> tuple[Answers, Counts]:
    """Every feature's value for every question, over a versions or changes table; and what choosing facts
    met."""
    made: dict[str, Answer] = {}
    found = np.zeros(len(questions.answers), np.bool_)
    flagged = 0
    counts: Counts | None = None
    for delay_us, group in delay_groups(roles, features):
        line, counted = timelines(table, codes, entities, roles, known_at, delay_us=delay_us, threads=threads)
        counts = counts or counted
        answered = answer(group, line, table, questions, latest=latest, threads=threads)
        made |= {one.feature.reference: one for one in answered.answers}
        found |= answered.found
        flagged = max(flagged, answered.flagged_expressions)
    assert counts is not None
    return Answers(tuple(made[feature.reference] for feature in features), found, flagged), counts
