"""Debezium's envelopes, pushed: into a source whose log holds them they go as they are.

Time: as in the log, ``changed_at`` and position are those of the commit at the origin. Envelopes and flat
rows may stand side by side in one push.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.errors import FeatureStoreError
from featurestore.log.change_rows import Changes, settled
from featurestore.log.debezium import changes_of
from featurestore.log.envelopes import Delivered, delivered
from featurestore.plan.nodes import SourcePlan

I64 = NDArray[np.int64]

_PARTS = frozenset(("value", "payload", "before", "after", "source"))


@dataclass
class EnvelopeChanges:
    """Changes tables with ``CLAIM_COLUMN`` and, beside each, the numbers of its rows' messages."""

    tables: list[pa.Table] = field(default_factory=list)
    numbers: list[I64] = field(default_factory=list)
    rejected: list[tuple[int, str]] = field(default_factory=list)
    ignored: int = 0


def takes_envelopes(plan: SourcePlan) -> bool:
    return plan.changes is not None and plan.changes.format == "debezium"


def is_envelope(row: Mapping[str, object], plan: SourcePlan) -> bool:
    """Whether a pushed row is an envelope. A flat row has the primary key beside its operation; an envelope
    has it further inside."""
    assert plan.changes is not None
    return not _PARTS.isdisjoint(row) and not any(name in row for name in plan.changes.declared.primary_keys)


def changes_of_envelopes(texts: Sequence[bytes], plan: SourcePlan, numbers: I64) -> EnvelopeChanges:
    """The good changes of messages, each the JSON of an envelope or null, a tombstone."""
    made = EnvelopeChanges()
    messages: list[Delivered] = []
    own: list[int] = []
    for number, text in zip(numbers.tolist(), texts, strict=True):
        try:
            messages.append(delivered(text))
            own.append(number)
        except (msgspec.DecodeError, RecursionError) as error:
            made.rejected.append((number, f"no Debezium envelope: {error}"))
    held = np.array(own, np.int64)
    try:
        _add(made, _settled(messages, plan), held)
    except FeatureStoreError:  # one message is at fault: it alone is refused
        for i, message in enumerate(messages):
            try:
                _add(made, _settled([message], plan), held[i : i + 1])
            except FeatureStoreError as error:
                made.rejected.append((own[i], error.fact))
    return made


def _settled(messages: Sequence[Delivered], plan: SourcePlan) -> list[tuple[Changes, I64]]:
    """The changes, by runs of one schema, with the numbers of the messages that each run is made of."""
    assert plan.changes is not None
    source, found = plan.changes.declared, []
    for raw in changes_of(messages, source, plan.schema):
        assert raw.rows is not None
        found.append((settled(raw, source, (), plan.schema), np.unique(raw.rows)))
    return found


def _add(made: EnvelopeChanges, found: Sequence[tuple[Changes, I64]], numbers: I64) -> None:
    """Add the changes of messages that have these numbers; what is in no run is a tombstone, or about another
    table."""
    made.ignored += len(numbers)
    for changes, run in found:
        assert changes.rows is not None
        made.ignored += changes.ignored - len(run)
        made.tables.append(changes.with_claims())
        made.numbers.append(numbers[changes.rows])
        made.rejected += [(int(numbers[row]), reason) for row, reason in changes.rejected]
