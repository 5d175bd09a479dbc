"""Lookup: keys and a time go in, feature vectors come out, all of one state of the store.

A question at ``as_of`` is about what was strictly before it. The values come from the kernel that makes
training sets, over the timelines that backfill and push have written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.dtypes import DType, instant_text
from featurestore.errors import OutsideRetentionError, RequestError, UnknownNameError, suggestion
from featurestore.kernel.evaluate import NO_EVENT, Answers
from featurestore.kernel.feature import Feature
from featurestore.kernel.questions import Questions, questions
from featurestore.kernel.roles import KnownAt
from featurestore.kernel.timelines import Held, HeldLookup, ask
from featurestore.kernel.versions import single
from featurestore.log.cast import cast_rows
from featurestore.plan.nodes import EntityPlan, LookupPlan, ViewPlan
from featurestore.serving.entity_facts import StoredFacts, StoredTimeline
from featurestore.serving.vectors import FeatureVector, FeatureVectors
from featurestore.store import Snapshot, Store
from featurestore.store.entity_key import encode_keys
from featurestore.store.records import TimelineVersion
from featurestore.store.registry import AppliedView, Registry, read_registry

I64 = NDArray[np.int64]


@dataclass(frozen=True)
class Chosen:
    """A feature that a request asks for: its view, as named in the request, and the feature."""

    asked: str
    view: AppliedView
    feature: Feature


class Lookup:
    """Answers requests from a store. Holds nothing that a commit could make stale: the registry is kept under
    the number of the commit that changed it last."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._registry: Registry | None = None
        self._timelines: dict[int, StoredTimeline] = {}

    def registry(self, snapshot: Snapshot) -> Registry:
        """The registry as ``snapshot`` has it."""
        known = self._registry
        if known is None or known.commit_number != snapshot.registry_commit:
            known = self._registry = read_registry(snapshot)
        return known

    def vectors(
        self,
        *,
        features: Sequence[str] | None,
        feature_service: str | None,
        entities: Mapping[str, Sequence[object]],
        as_of: int | Sequence[int],
        known_at: KnownAt,
    ) -> FeatureVectors:
        """The features of each entity row at ``as_of``, one instant or one a row, in microseconds."""
        rows = _rows(entities)
        times = np.asarray([as_of] * rows if isinstance(as_of, int) else as_of, np.int64)
        if len(times) != rows:
            raise RequestError(
                f"as_of has {len(times)} instants for {rows} entity rows",
                hint="give one instant, or one a row",
            )
        with self._store.snapshot() as snapshot:
            registry = self.registry(snapshot)
            chosen = choose(registry, features, feature_service)
            keys = canonical_keys(chosen, entities)
            found: dict[tuple[str, str], FeatureVector] = {}
            for group in groups(chosen):
                facts, asked = self.facts(snapshot, group, keys, times)
                horizon_us = group[0].view.timeline.horizon_us
                outside = outside_of(horizon_us, times, known_at)
                plan, wanted = group[0].view.plan, [one.feature for one in group]
                answers, _ = ask(
                    wanted, facts.table, facts.codes, facts.entities, plan.source.roles, known_at, asked,
                    lookups=self.held(snapshot, plan.lookups_for(wanted), facts), latest=True,
                )  # fmt: skip
                found |= _vectors(group, answers, outside, horizon_us)
            commit_number = snapshot.commit_number
        return FeatureVectors(
            keys=keys,
            vectors=[found[one.asked, one.feature.name] for one in chosen],
            as_of=as_of,
            known_at=known_at,
            store_commit=commit_number,
            view_versions={one.asked: one.view.version.version for one in chosen},
        )

    def facts(
        self,
        snapshot: Snapshot,
        group: Sequence[Chosen],
        keys: Mapping[str, tuple[pa.Array, DType]],
        times: I64,
        *,
        whole: bool = False,
    ) -> tuple[StoredFacts, Questions]:
        """What is stored of the entities asked for, in the timelines that all of ``group`` read, and the
        questions.

        ``whole``: with every key column, whether a feature reads it or not.
        """
        view = group[0].view
        entity = view.plan.entity
        columns = [keys[name][0] for name in entity.keys]
        encoded = _encoded(columns, entity.dtypes)
        numbers: dict[bytes, int] = {}
        codes = np.array([numbers.setdefault(key, len(numbers)) for key in encoded], np.int64)
        values = {}
        features = [one.feature for one in group]
        if read := entity.keys if whole else _key_columns(view.plan, features):
            first = pa.array(np.unique(codes, return_index=True)[1])
            values = {name: keys[name][0].take(first) for name in read}
        stored = self._read(snapshot, view.timeline, view.plan, numbers, values)
        return stored, questions(codes, times, len(numbers))

    def held(
        self, snapshot: Snapshot, lookups: Sequence[LookupPlan], facts: StoredFacts
    ) -> tuple[HeldLookup, ...]:
        """What is stored, in the same state, of the entities whose features ``facts`` look up."""
        return tuple(self._held(snapshot, one, facts) for one in lookups)

    def _held(self, snapshot: Snapshot, one: LookupPlan, facts: StoredFacts) -> HeldLookup:
        view = one.view
        timeline = self.registry(snapshot).inner_timeline(view)
        columns = [single(facts.table, name) for name in one.on]
        numbers: dict[bytes, int] = {}
        encoded = _encoded(columns, view.entity.dtypes)
        codes = np.array([numbers.setdefault(key, len(numbers)) for key in encoded], np.int64)
        first = pa.array(np.unique(codes, return_index=True)[1])
        values = {
            name: column.take(first)
            for name, column in zip(view.entity.keys, columns, strict=True)
            if name in _key_columns(view, view.features)
        }
        found = self._read(snapshot, timeline, view, numbers, values)
        inner = self.held(snapshot, view.lookups, found)
        held = Held(found.table, found.codes, found.entities, view.source.roles, inner)
        return HeldLookup(held, codes, one.columns)

    def _read(
        self,
        snapshot: Snapshot,
        timeline: TimelineVersion,
        plan: ViewPlan,
        numbers: Mapping[bytes, int],
        values: Mapping[str, pa.Array],
    ) -> StoredFacts:
        stored = self._timelines.get(timeline.id)
        if stored is None:
            stored = self._timelines[timeline.id] = StoredTimeline(timeline)
        source = plan.source
        primary_key = () if source.changes is None else source.identity
        gone = self.registry(snapshot).forgotten.of(source.name, primary_key, pending=True)
        return stored.read(snapshot, numbers, values, gone)


def outside_of(horizon_us: int | None, times: I64, known_at: KnownAt) -> NDArray[np.bool_] | None:
    """Which questions are about a time, or a horizon of knowledge, that the store no longer answers; None for
    none of them."""
    if horizon_us is None:
        return None
    outside = times < horizon_us
    if isinstance(known_at, int) and known_at < horizon_us:
        outside = np.ones(len(times), np.bool_)
    return outside if outside.any() else None


def outside_retention(view: str, horizon_us: int) -> OutsideRetentionError:
    return OutsideRetentionError(
        f'feature view "{view}" answers questions from {instant_text(horizon_us)} on: as_of and known_at',
        hint="training sets answer any time; a longer retention holds for what is rebuilt under it",
    )


def choose(registry: Registry, features: Sequence[str] | None, feature_service: str | None) -> list[Chosen]:
    """The features that references, or a service, name, in order, each once."""
    if (features is None) == (feature_service is None):
        raise RequestError(
            "a request names either features or a feature_service",
            hint='as "features": ["card_activity:count_5m"]',
        )
    if feature_service is not None:
        service = registry.services.get(feature_service)
        if service is None:
            raise UnknownNameError(
                f'no feature service "{feature_service}"',
                hint=suggestion(feature_service, registry.services, what="feature services"),
            )
        features = service.features
    assert features is not None
    made: dict[tuple[str, str], Chosen] = {}
    for reference in features:
        name, colon, feature_name = reference.partition(":")
        view = registry.view(name)
        wanted = view.plan.features if not colon else (view.plan.feature(feature_name),)
        for feature in wanted:
            if feature is None:
                known = [one.name for one in view.plan.features]
                raise UnknownNameError(
                    f'feature view "{name}" has no feature "{feature_name}"',
                    hint=suggestion(feature_name, known, what="features"),
                )
            made[name, feature.name] = Chosen(name, view, feature)
    if not made:
        raise RequestError("a request names no feature", hint='as "features": ["card_activity:count_5m"]')
    return list(made.values())


def _rows(entities: Mapping[str, Sequence[object]]) -> int:
    if not entities:
        raise RequestError("a request names no entities", hint='as "entities": {"card_id": ["c1", "c2"]}')
    lengths = {name: len(values) for name, values in entities.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise RequestError(
            f"entity columns differ in length: {shown}", hint="give each column one value a row"
        )
    return next(iter(lengths.values()))


def canonical_keys(
    chosen: Sequence[Chosen], entities: Mapping[str, Sequence[object]]
) -> dict[str, tuple[pa.Array, DType]]:
    """Every key column of the request as its canonical type, in the order given."""
    wanted: dict[str, DType] = {}
    used = {name for one in chosen for name in one.view.plan.entity.keys}
    for one in chosen:
        plan = one.view.plan.entity
        for name, dtype in zip(plan.keys, plan.dtypes, strict=True):
            if wanted.setdefault(name, dtype) != dtype:
                raise RequestError(
                    f'key "{name}" is {wanted[name]} in one of the views and {dtype} in another',
                    hint="ask for them one by one",
                )
            if name not in entities:
                others = [given for given in entities if given not in used]
                raise RequestError(
                    f'no values for "{name}", {_key_of(plan)}',
                    hint=suggestion(name, others, what="the request's other entity columns")
                    if others
                    else f'give "{name}" a value for each row',
                )
    for name in entities:
        if name not in wanted:
            raise RequestError(
                f'entity column "{name}" is no key of the features asked for',
                hint=f"leave it out; their keys are {', '.join(wanted)}",
            )
    return {name: (_canonical(name, values, wanted[name]), wanted[name]) for name, values in entities.items()}


def _key_of(entity: EntityPlan) -> str:
    part = "the key" if len(entity.keys) == 1 else "a key"
    return f'{part} of entity "{entity.name}"'


def _canonical(name: str, values: Sequence[object], dtype: DType) -> pa.Array:
    kind = {"int64": int, "string": str}.get(dtype.kind)
    if kind is not None and all(type(value) is kind for value in values):
        try:
            return pa.array(values, dtype.arrow)
        except (pa.ArrowInvalid, OverflowError, UnicodeEncodeError):
            pass  # The slow way says which value it is.
    cast = cast_rows([{name: value} for value in values], {name: dtype}, timezone="UTC", time_unit=None)
    if cast.bad is not None:
        row, reason = cast.reasons[0]
        raise RequestError(f"entity row {row + 1}: {reason}", hint=f'"{name}" is {dtype}')
    return cast.table.column(name).combine_chunks()


def groups(chosen: Sequence[Chosen]) -> list[list[Chosen]]:
    """Features that read the same timelines and look up the same columns: they share one read and one
    sort."""
    made: dict[tuple[int, tuple[str, ...]], list[tuple[tuple[LookupPlan, ...], list[Chosen]]]] = {}
    for one in chosen:
        plan = one.view.plan
        lookups: tuple[LookupPlan, ...] = ()
        if plan.lookups:
            lookups = plan.lookups_for([other.feature for other in chosen if other.view is one.view])
        alike = made.setdefault((one.view.timeline.id, plan.entity.keys), [])
        for known, group in alike:
            if known == lookups:
                group.append(one)
                break
        else:
            alike.append((lookups, [one]))
    return [group for alike in made.values() for _, group in alike]


def _encoded(columns: Sequence[pa.Array], dtypes: Sequence[DType]) -> list[bytes]:
    """Each row's key as bytes; empty for one with a null, which belongs to no timeline."""
    if not any(column.null_count for column in columns):
        return encode_keys(columns, dtypes)
    whole = np.logical_and.reduce([column.is_valid().to_numpy(zero_copy_only=False) for column in columns])
    mask = pa.array(whole)
    found = iter(encode_keys([column.filter(mask) for column in columns], dtypes))
    return [next(found) if there else b"" for there in whole.tolist()]


def _key_columns(plan: ViewPlan, features: Sequence[Feature]) -> list[str]:
    """The entity's keys that a feature, a lookup, or the order of facts reads like any other column."""
    used = plan.columns_for(features) | set(plan.source.roles.structural)
    return [name for name in plan.entity.keys if name in used]


def _vectors(
    group: Sequence[Chosen], answers: Answers, outside: NDArray[np.bool_] | None, horizon_us: int | None
) -> dict[tuple[str, str], FeatureVector]:
    made = {}
    for one, given in zip(group, answers.answers, strict=True):
        assert given.latest is not None
        values, latest = given.values, given.latest
        if outside is not None:
            values = values.take(pa.array(np.arange(len(values)), mask=outside))
            latest = np.where(outside, NO_EVENT, latest)
        made[one.asked, one.feature.name] = FeatureVector(
            view=one.asked,
            keys=one.view.plan.entity.keys,
            feature=one.feature,
            values=values,
            found=answers.found,
            flagged=given.flagged,
            latest=latest,
            outside=outside,
            horizon_us=horizon_us,
        )
    return made
