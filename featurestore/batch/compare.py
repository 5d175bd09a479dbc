"""Two horizons of knowledge compared: which values of a training set differ between them, and because of
which facts.

Time: both answers are about the same rows and instants; only what was known differs. A fact is known at an
instant when it was available strictly before it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.batch.facts import Facts, Reader
from featurestore.batch.lookups import Lookups, looking_up
from featurestore.batch.responsible import Asked, Reason, Reasons, reasons
from featurestore.batch.spine import Spine
from featurestore.batch.training_set import feature_groups, known_by
from featurestore.dtypes import TIMESTAMP, instant_text
from featurestore.kernel.feature import Feature
from featurestore.kernel.questions import questions
from featurestore.kernel.roles import KnownAt
from featurestore.kernel.timelines import HeldLookup, ask
from featurestore.plan.nodes import LookupPlan, ViewPlan
from featurestore.serving.faces import json_values

Bools = NDArray[np.bool_]

LIMIT = 1_000
"""Differences that are explained, if nothing else is asked for."""

_SHOWN = 10

_WHY = pa.list_(
    pa.struct(
        [
            ("what", pa.string()),
            ("id", pa.string()),
            ("event_time", TIMESTAMP.arrow),
            ("changed_at", TIMESTAMP.arrow),
            ("available_at", TIMESTAMP.arrow),
        ]
    )
)


@dataclass(frozen=True)
class Difference:
    """One value that differs. ``row`` is the spine's, from 0; ``key`` the entity's, ``before`` and ``after``
    the values in their JSON face; ``facts`` is how many facts are responsible, ``why`` names the first of
    them."""

    row: int
    key: Mapping[str, object]
    as_of: int
    feature: str
    before: object
    after: object
    facts: int
    why: tuple[Reason, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "row": self.row,
            "key": dict(self.key),
            "time": instant_text(self.as_of),
            "feature": self.feature,
            "before": self.before,
            "after": self.after,
            "facts": self.facts,
            "why": [reason.to_dict() for reason in self.why],
        }


@dataclass(frozen=True)
class KnowledgeComparison:
    """What differs between two horizons, ``known_at`` (before, after), over a spine of ``rows`` rows.

    ``differing_rows`` and ``features`` (differing rows by feature) count all; ``differences`` are the first
    of them, by row and then as the features were named, each with its reasons.
    """

    known_at: tuple[KnownAt, KnownAt]
    rows: int
    differing_rows: int
    features: Mapping[str, int]
    differences: tuple[Difference, ...]

    @property
    def differing_values(self) -> int:
        return sum(self.features.values())

    def to_arrow(self) -> pa.Table:
        """One row a difference: ``row``, ``key`` (a struct), ``time``, ``feature``, ``before`` and ``after``
        as JSON text (null for null), ``facts`` and ``why``."""
        made = self.differences
        keys = list(dict.fromkeys(name for one in made for name in one.key))
        columns = [
            ("row", pa.int64(), [one.row for one in made]),
            (
                "key",
                pa.struct([(name, pa.string()) for name in keys]),
                [{name: _text(one.key.get(name)) for name in keys} for one in made],
            ),
            ("time", TIMESTAMP.arrow, [one.as_of for one in made]),
            ("feature", pa.string(), [one.feature for one in made]),
            ("before", pa.string(), [_json(one.before) for one in made]),
            ("after", pa.string(), [_json(one.after) for one in made]),
            ("facts", pa.int64(), [one.facts for one in made]),
            ("why", _WHY, [[_struct(reason) for reason in one.why] for one in made]),
        ]
        return pa.table({name: pa.array(values, kind) for name, kind, values in columns})

    def to_pandas(self) -> Any:
        return self.to_arrow().to_pandas()

    def to_dict(self) -> dict[str, Any]:
        before, after = (
            instant_text(known_at) if isinstance(known_at, int) else known_at for known_at in self.known_at
        )
        return {
            "before": before,
            "after": after,
            "rows": self.rows,
            "differing_rows": self.differing_rows,
            "features": dict(self.features),
            "differences": [one.to_dict() for one in self.differences],
        }

    def text(self) -> str:
        """A few lines for a person: how many rows differ, and examples with their reasons."""
        before, after = map(_horizon, self.known_at)
        told = {name: count for name, count in self.features.items() if count}
        if not told:
            return f"none of {self.rows:,} rows differ between {before} and {after}"
        rows = "row" if self.rows == 1 else "rows"
        differ = "differs" if self.differing_rows == 1 else "differ"
        names = "1 feature" if len(told) == 1 else f"{len(told)} features"
        lines = [
            f"{self.differing_rows:,} of {self.rows:,} {rows} {differ} in {names} "
            f"between {before} and {after}",
            *(f"  {name}: {count:,}" for name, count in told.items()),
        ]
        for one in self.differences[:_SHOWN]:
            key = ", ".join(f"{name}={_text(value)}" for name, value in one.key.items())
            lines.append(
                f"row {one.row:,}, {key} at {instant_text(one.as_of)}: {one.feature} "
                f"{json.dumps(one.before, ensure_ascii=False)} -> {json.dumps(one.after, ensure_ascii=False)}"
            )
            lines.extend(f"  {reason.text()}" for reason in one.why)
            if one.facts > len(one.why):
                lines.append(f"  and {one.facts - len(one.why):,} facts more")
        more = self.differing_values - min(_SHOWN, len(self.differences))
        if more:
            lines.append(f"and {more:,} values more" if self.differences else f"{more:,} values in all")
        return "\n".join(lines)


def compare_knowledge(
    spine: Spine,
    features: Sequence[Feature],
    views: Mapping[str, ViewPlan],
    reader: Reader,
    known_at: tuple[KnownAt, KnownAt],
    *,
    limit: int = LIMIT,
    threads: ThreadPoolExecutor | None = None,
) -> KnowledgeComparison:
    """Each feature for each row of ``spine`` at both horizons, over one reading of the logs; the first
    ``limit`` values that differ are explained."""
    reader.ask([views[feature.view] for feature in features])
    compared = [
        _compare(spine, some, lookups, views, reader, known_at, threads)
        for group in feature_groups(features, views)
        for lookups, some in looking_up(group, views)
    ]
    differing = {name: differs for one in compared for name, differs in one.differs.items()}
    counts = {feature.reference: int(differing[feature.reference].sum()) for feature in features}
    rows = np.zeros(spine.rows, np.bool_)
    for differs in differing.values():
        rows |= differs
    first = _first(differing, [feature.reference for feature in features], limit)
    made: dict[tuple[int, str], Difference] = {}
    for one in compared:
        made |= one.explained([pair for pair in first if pair[1] in one.differs], spine, known_at)
    return KnowledgeComparison(
        known_at, spine.rows, int(rows.sum()), counts, tuple(made[pair] for pair in first)
    )


def _first(differing: Mapping[str, Bools], order: Sequence[str], limit: int) -> list[tuple[int, str]]:
    """The first differences, by row and then in the order of the features."""
    places = [
        np.stack([np.flatnonzero(differing[name])[:limit], np.full(min(limit, differing[name].sum()), i)])
        for i, name in enumerate(order)
    ]
    rows, which = np.concatenate(places, axis=1) if places else np.zeros((2, 0), np.int64)
    by = np.lexsort((which, rows))[:limit]
    return [(row, order[i]) for row, i in zip(rows[by].tolist(), which[by].tolist(), strict=True)]


@dataclass(frozen=True)
class _Compared:
    """A group of features over one source and entity, answered at both horizons."""

    view: ViewPlan
    features: Mapping[str, Feature]
    facts: Facts
    lookups: tuple[HeldLookup, ...]
    found: NDArray[np.int64]
    keys: Mapping[str, pa.Array]
    values: Mapping[str, tuple[pa.Array, pa.Array]]
    differs: Mapping[str, Bools]

    def explained(
        self, pairs: Sequence[tuple[int, str]], spine: Spine, known_at: tuple[KnownAt, KnownAt]
    ) -> dict[tuple[int, str], Difference]:
        asked = [
            Asked(self.features[name], int(self.found[row]), int(spine.as_of[row])) for row, name in pairs
        ]
        why = reasons(self.facts, self.view.source.schema, asked, known_at, self.lookups)
        return {pair: self._difference(*pair, spine, of) for pair, of in zip(pairs, why, strict=True)}

    def _difference(self, row: int, name: str, spine: Spine, why: Reasons) -> Difference:
        dtype = self.features[name].dtype
        before, after = (json_values(values.slice(row, 1), dtype)[0] for values in self.values[name])
        entity = self.view.entity
        key = {
            part: json_values(self.keys[part].slice(row, 1), kind)[0]
            for part, kind in zip(entity.keys, entity.dtypes, strict=True)
        }
        return Difference(row, key, int(spine.as_of[row]), name, before, after, why.facts, why.named)


def _compare(
    spine: Spine,
    features: Sequence[Feature],
    lookups: Sequence[LookupPlan],
    views: Mapping[str, ViewPlan],
    reader: Reader,
    known_at: tuple[KnownAt, KnownAt],
    threads: ThreadPoolExecutor | None,
) -> _Compared:
    view = views[features[0].view]
    keys = spine.keys(view.entity.keys, view.entity.dtypes, view.entity.name)
    read = frozenset().union(*(views[feature.view].columns_for([feature]) for feature in features))
    facts = reader.facts(view, features, read)
    held = Lookups(reader).held(lookups, facts.table)
    found, entities = known_by(facts, keys)
    asked = questions(found, spine.as_of, entities, timed=spine.timed, threads=threads)
    before, after = (
        ask(
            features, facts.table, facts.codes, entities, facts.roles, one, asked,
            lookups=held, threads=threads,
        )[0]
        for one in known_at
    )  # fmt: skip
    values = {
        one.feature.reference: (one.values, other.values)
        for one, other in zip(before.answers, after.answers, strict=True)
    }
    return _Compared(
        view,
        {feature.reference: feature for feature in features},
        facts,
        held,
        found,
        dict(zip(view.entity.keys, keys, strict=True)),
        values,
        {name: differing(*pair) for name, pair in values.items()},
    )


def differing(one: pa.Array, other: pa.Array) -> Bools:
    """Where two arrays of one type differ: two nulls are equal, and so are two NaN."""
    valid = _valid(one)
    differs: Bools = valid != _valid(other)
    both = np.flatnonzero(valid & ~differs)
    if len(both):
        place = pa.array(both)
        differs[both] = _of_values(one.take(place), other.take(place))
    return differs


def _of_values(one: pa.Array, other: pa.Array) -> Bools:
    t = pa.types
    if t.is_map(one.type):
        return _of_lists(one, other, lambda part: (part.keys, part.items))
    if t.is_list(one.type):
        return _of_lists(one, other, lambda part: (part.values,))
    unequal: Bools = pc.not_equal(one, other).to_numpy(zero_copy_only=False)
    if t.is_floating(one.type):
        unequal &= ~np.asarray(pc.and_(pc.is_nan(one), pc.is_nan(other)))
    return unequal


def _of_lists(one: pa.Array, other: pa.Array, parts: Any) -> Bools:
    """Lists, or maps as lists of keys and of items: of other lengths, or with an element that differs."""
    lengths = np.diff(one.offsets.to_numpy())
    differs: Bools = lengths != np.diff(other.offsets.to_numpy())
    same = np.flatnonzero(~differs)
    for part, another in zip(parts(one.take(pa.array(same))), parts(other.take(pa.array(same))), strict=True):
        owner = np.repeat(same, lengths[same])
        differs[owner[differing(part, another)]] = True
    return differs


def _valid(array: pa.Array) -> Bools:
    made: Bools = array.is_valid().to_numpy(zero_copy_only=False).copy()
    return made


def _horizon(known_at: KnownAt) -> str:
    if known_at is None:
        return "everything known now"
    return "each row's own time" if known_at == "as_of" else f"known_at {instant_text(int(known_at))}"


def _struct(reason: Reason) -> dict[str, object]:
    return {
        "what": reason.what,
        "id": json.dumps(dict(reason.id), ensure_ascii=False),
        "event_time": reason.event_time,
        "changed_at": reason.changed_at,
        "available_at": reason.available_at,
    }


def _json(value: object) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) or value is None else json.dumps(value, ensure_ascii=False)
