"""Dead letters of a forgotten key: those whose messages can be parsed are found by their key columns, like
any row; in the others the key's text is looked for among the bytes.

Time: none. A message that could not become a row may still say whose it was.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from featurestore.dtypes import STRING
from featurestore.log.cast import cast_table
from featurestore.log.cells import Number, cells_of, parse_json
from featurestore.plan.nodes import SourcePlan
from featurestore.store.dead_letters import DeadLetter
from featurestore.store.forgotten import Gone
from featurestore.store.reach import Scope, columns_of

# Envelopes in "payload", their rows, text of JSON in them: none nests deeper.
MOST_NESTED = 5


@dataclass
class Letters:
    """Dead letters of a key, each as TOPIC/PARTITION/OFFSET: ``erased`` are gone, ``suspected`` could not be
    read but may hold it. ``copied_to`` are the topics that have copies of what was erased."""

    erased: dict[str, None] = field(default_factory=dict)
    suspected: dict[str, None] = field(default_factory=dict)
    copied_to: dict[str, None] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        suspected = [one for one in self.suspected if one not in self.erased]
        return {"erased": list(self.erased), "suspected": suspected, "copied_to": list(self.copied_to)}

    def lines(self) -> Iterator[str]:
        """What a person has to know: no key is in it."""
        if self.erased:
            topics = " and ".join(self.copied_to)
            yield f"  dead letters erased: {_listed(self.erased)}"
            yield f"  the brokers still have the messages, and copies in {topics}: delete them there"
        suspected = [one for one in self.suspected if one not in self.erased]
        if suspected:
            are = "dead letter" if len(suspected) == 1 else "dead letters"
            yield f"  {len(suspected):,} {are} that can't be read may hold the key: {_listed(suspected)}"
            yield '  "featurestore dead-letters list --json" shows them, "dead-letters discard" removes them'


def _listed(names: Collection[str]) -> str:
    shown = list(names)[:20]
    return ", ".join(shown) + (f", ... ({len(names):,} in all)" if len(names) > len(shown) else "")


def letter_name(letter: DeadLetter) -> str:
    return f"{letter.topic}/{letter.partition}/{letter.offset}"


def search(
    letters: Sequence[DeadLetter], gone: Gone, plan: SourcePlan | None, texts: Sequence[Mapping[str, str]]
) -> tuple[list[DeadLetter], list[DeadLetter]]:
    """Which dead letters of a source are the key's, and which may be.

    ``plan`` is the source as it is applied. ``texts`` are the ways to write the key, by column of the entity;
    none where nobody has it any more.
    """
    theirs, maybe = [], []
    scopes = [*gone.dropping, *gone.marking]
    for letter in letters:
        found = [_holds(letter, scope, gone, plan) for scope in scopes]
        if any(found):
            theirs.append(letter)
            continue
        unread = [scope for scope, holds in zip(scopes, found, strict=True) if holds is None]
        if any(_may_hold(letter, _legible(scope, plan), key) for scope in unread for key in texts):
            maybe.append(letter)
    return theirs, maybe


def _holds(letter: DeadLetter, scope: Scope, gone: Gone, plan: SourcePlan | None) -> bool | None:
    """Whether some row in the message has the forgotten key; None where no row says whose it is."""
    columns = columns_of(scope)
    rows = [row for row in _rows(letter, plan) if all(row.get(name) is not None for name in columns)]
    if not rows:
        return None
    raw = pa.table({name: cells_of([row[name] for row in rows]) for name in columns})
    # As text, too: a value that its column's type can't hold, or could not before, is still a key's text.
    said = {name: raw.column(name).combine_chunks().storage.field(1) for name in columns}
    known = [said]
    readable = np.ones(len(rows), np.bool_)
    if plan is not None and all(name in plan.schema for name in columns):
        types = {name: plan.schema[name] for name in columns}
        cast = cast_table(raw, types, timezone=plan.timezone, time_unit=plan.time_unit)
        known.append({name: cast.table.column(name) for name in columns})
        readable = readable if cast.bad is None else ~cast.bad
    for one in known:
        if (gone.dropped(one, len(rows)) | gone.marked(one, len(rows))).any():
            return True
    return False if readable.any() else None


def _rows(letter: DeadLetter, plan: SourcePlan | None) -> Iterator[Mapping[str, object]]:
    """Every object in a message's value and key; a key that is one value is the primary key."""
    yield from _objects(_parsed(letter.value), 0)
    key = _parsed(letter.key)
    yield from _objects(key, 0)
    if plan is not None and plan.changes is not None and len(plan.identity) == 1:
        if key is None and letter.key is not None:
            key = letter.key.decode("utf-8", "replace")
        if isinstance(key, str):
            yield {plan.identity[0]: key}


def _parsed(data: bytes | None) -> object:
    try:
        return None if data is None else parse_json(data.decode("utf-8"))
    except (ValueError, RecursionError):
        return None


def _objects(found: object, depth: int) -> Iterator[Mapping[str, object]]:
    if depth > MOST_NESTED:
        return
    if isinstance(found, Mapping):
        yield found
        for part in found.values():
            yield from _objects(part, depth + 1)
    elif isinstance(found, list):
        for part in found:
            yield from _objects(part, depth + 1)
    elif isinstance(found, str) and not isinstance(found, Number) and found[:1] == "{":
        yield from _objects(_parsed(found.encode("utf-8", "replace")), depth + 1)


def _legible(scope: Scope, plan: SourcePlan | None) -> Scope:
    """The parts of a key that stand as text among a message's bytes: in Avro, numbers and times don't."""
    if plan is None or plan.topic is None or plan.topic.encoding == "json":
        return scope
    return tuple(one for one in scope if plan.schema.get(one[1], STRING) == STRING)


def _may_hold(letter: DeadLetter, scope: Scope, key: Mapping[str, str]) -> bool:
    """Whether the text of each part of a key is among the bytes of a message."""
    data = b"\n".join(part for part in (letter.key, letter.value) if part is not None)
    return all(
        any(way in data for way in (key[name].encode(), json.dumps(key[name])[1:-1].encode()))
        for name, _ in scope
    )
