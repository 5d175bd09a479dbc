"""The answers of the oracle, of a training set and of a request, compared bit for bit.

Time: a question without a time is asked of the training set alone; its features are null.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from featurestore.batch.training_set import TrainingSet
from featurestore.dtypes import instant_text
from featurestore.kernel.roles import KnownAt
from featurestore.serving.vectors import EPOCH_TEXT, FeatureVectors
from featurestore.testing.bits import bits
from featurestore.testing.hosts import KernelValue, python_values
from featurestore.testing.reference import Oracle, Value
from tests.parity.projects import VIEW, Project, spine_of
from tests.strategies import Question

Expected = Sequence[Mapping[str, Value]]
"""The oracle's values by feature name, a question each."""


def expected_answers(oracle: Oracle, asked: Sequence[Question], known_at: KnownAt) -> Expected:
    return [oracle.answer(one.keys, as_of=one.as_of, known_at=known_at) for one in asked]


def mismatches(
    project: Project, oracle: Oracle, asked: Sequence[Question], known_at: KnownAt
) -> Iterator[str]:
    """What one training set and one request answer otherwise than the oracle, a line each."""
    expected = expected_answers(oracle, asked, known_at)
    made = project.training_set(asked, known_at)
    spine = spine_of(asked, project.view.entity.keys, project.schema)
    if not made.table.select(spine.column_names).equals(spine):
        yield "training set: the spine's columns are not as they were given"
    yield from in_training_set(made, expected, asked)
    timed = [i for i, question in enumerate(asked) if question.as_of is not None]
    if timed:
        online_asked = [asked[i] for i in timed]
        vectors = project.online(online_asked, known_at)
        found = [has_fact(oracle, question, known_at) for question in online_asked]
        yield from in_vectors(vectors, [expected[i] for i in timed], found)


def in_training_set(
    made: TrainingSet, expected: Expected, asked: Sequence[Question], *, counts: bool = True
) -> Iterator[str]:
    """``counts``: whether the manifest's are those of these questions alone."""
    if counts:
        yield from _in_manifest(made, expected, asked)
    for name in expected[0]:
        column = made.table.column(f"{VIEW}__{name}").combine_chunks()
        yield from _column("training set", name, column, expected)


def _in_manifest(made: TrainingSet, expected: Expected, asked: Sequence[Question]) -> Iterator[str]:
    manifest = made.manifest
    nulls = sum(None in question.keys for question in asked)
    untimed = sum(question.as_of is None for question in asked)
    counts = manifest["counts"]
    if (manifest["rows"], counts["rows_without_key"], counts["rows_without_time"]) != (
        len(asked),
        nulls,
        untimed,
    ):
        yield f"training set: the manifest counts {manifest['rows']} rows, {counts}"
    for name in expected[0]:
        flagged = sum(one[name].flagged for one in expected)
        if manifest["flagged"].get(f"{VIEW}:{name}", 0) != flagged:
            yield f"training set, {name}: {manifest['flagged']} flagged, expected {flagged}"


def in_kernel(
    answers: Sequence[Mapping[str, KernelValue]], expected: Expected, asked: Sequence[Question]
) -> Iterator[str]:
    """What the kernel alone answers otherwise than the oracle."""
    for question, answer, wanted in zip(asked, answers, expected, strict=True):
        for name, value in wanted.items():
            found = answer[name]
            if (bits(found.value), found.flagged, found.latest) != (
                bits(value.value),
                value.flagged,
                value.latest,
            ):
                yield f"kernel, {name}, {question}: {found}, expected {value}"


def in_vectors(vectors: FeatureVectors, expected: Expected, found: Sequence[bool]) -> Iterator[str]:
    """``found``: whether the entity has a known fact before each question's time."""
    if [vector.feature.name for vector in vectors.vectors] != list(expected[0]):
        yield "request: the features are not those of the view, in order"
    for vector in vectors.vectors:
        name = vector.feature.name
        yield from _column("request", name, vector.values, expected)
        wanted = [one[name] for one in expected]
        statuses = [status(value, is_found) for value, is_found in zip(wanted, found, strict=True)]
        if vector.statuses() != statuses:
            yield f"request, {name}: statuses {vector.statuses()}, expected {statuses}"
        latest = [EPOCH_TEXT if value.latest is None else instant_text(value.latest) for value in wanted]
        if vector.event_timestamps() != latest:
            yield f"request, {name}: event_timestamps {vector.event_timestamps()}, expected {latest}"


def status(value: Value, found: bool) -> str:
    if not found:
        return "NOT_FOUND"
    if value.flagged:
        return "INVALID"
    return "NULL_VALUE" if value.value is None else "PRESENT"


def has_fact(oracle: Oracle, question: Question, known_at: KnownAt) -> bool:
    if None in question.keys or question.as_of is None:
        return False
    horizon = question.as_of if known_at == "as_of" else known_at
    facts = oracle.facts(question.keys, known_at=horizon)
    return any(fact.event_time is not None and fact.event_time < question.as_of for fact in facts)


def _column(host: str, name: str, column: pa.Array, expected: Expected) -> Iterator[str]:
    for i, value in enumerate(python_values(column)):
        wanted: Any = expected[i][name].value
        if bits(value) != bits(wanted):
            yield f"{host}, {name}, question {i}: {value!r}, expected {wanted!r}"
