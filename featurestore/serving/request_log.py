"""The request log: a sample of what the server answers, for ``verify`` to compute once more.

Time: an answer is logged with the instant at which it was given. Nothing here may slow or fail an answer: it
is handed over in memory and written by a thread of its own; what the queue has no room for is dropped and
counted. A file is whole or not there; killed, a server loses what waited for the next one.

What is chosen depends on a request's id alone, never on what it asks: the same share of all questions.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.dtypes import instant_text
from featurestore.log.request_files import SCHEMA, remove_leftovers, write_answers
from featurestore.serving.faces import json_values
from featurestore.serving.vectors import FeatureVectors
from featurestore.settings import RequestLogSettings
from featurestore.store import Store
from featurestore.store.forgotten_answers import (
    answers_about,
    digest_key,
    forget_answers,
    forgotten_keys,
)

I64 = NDArray[np.int64]

logger = logging.getLogger("featurestore.request_log")

_CLOSING_S = 10.0


@dataclass(frozen=True)
class Answered:
    """One answer: the vectors and the body that was made of them."""

    request_id: str
    answered_at: int
    vectors: FeatureVectors
    response: Mapping[str, Any]
    size_bytes: int

    @property
    def rows(self) -> int:
        """Its values, a row of the log each."""
        return self.vectors.rows * len(self.vectors.vectors)


@dataclass
class Logged:
    """Values that were written, that were dropped, and files that could not be written, since the start."""

    logged: int = 0
    dropped: int = 0
    errors: int = 0


@dataclass
class _Waiting:
    """What waits for its file; rows and bytes count until they are written."""

    answers: deque[Answered] = field(default_factory=deque)
    rows: int = 0
    bytes: int = 0
    since_s: float = 0.0


def is_chosen(request_id: str, sample: float) -> bool:
    """Whether a request is in the sample: the same for one id, whatever it asks."""
    if sample <= 0.0 or sample >= 1.0:
        return sample >= 1.0
    mark = int.from_bytes(blake2b(request_id.encode("utf-8", "replace"), digest_size=8).digest(), "big")
    return mark < sample * 2.0**64


class RequestLog:
    """Writes answers below ``directory``; ``now`` tells the time of its files' names."""

    def __init__(
        self, store: Store, directory: Path, settings: RequestLogSettings, now: Callable[[], int]
    ) -> None:
        self.counts = Logged()
        self._store = store
        self._directory = directory
        self._settings = settings
        self._now = now
        self._waiting = _Waiting()
        self._changed = threading.Condition()
        self._closing = False
        self._files = 0
        self._ids: tuple[str, bytes] | None = None
        # Some of the queue stays free while a file is written.
        self._file_rows = min(settings.rows_per_file, max(1, settings.queue_rows // 2))
        self._file_bytes = max(1, settings.queue_bytes // 2)
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to write; nothing is started where nothing is to be logged."""
        if self._settings.sample > 0.0:
            self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)
            self._thread.start()

    def wants(self, request_id: str) -> bool:
        """Whether a request's answer is to be logged."""
        return is_chosen(request_id, self._settings.sample)

    def offer(self, answered: Answered) -> None:
        """Take an answer over, or drop it where there is no room; returns at once."""
        rows, settings = answered.rows, self._settings
        with self._changed:
            waiting = self._waiting
            full = (
                waiting.rows + rows > settings.queue_rows
                or waiting.bytes + answered.size_bytes > settings.queue_bytes
            )
            if full or self._closing:
                self.counts.dropped += rows
                return
            if not waiting.rows:
                waiting.since_s = time.monotonic()
            waiting.answers.append(answered)
            waiting.rows += rows
            waiting.bytes += answered.size_bytes
            if waiting.rows == rows or self._is_due():
                self._changed.notify()

    def close(self) -> None:
        """Write what waits, and end."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(_CLOSING_S)

    # The thread

    def _is_due(self) -> bool:
        waiting, settings = self._waiting, self._settings
        return bool(waiting.answers) and (
            self._closing
            or waiting.rows >= self._file_rows
            or waiting.bytes >= self._file_bytes
            or time.monotonic() - waiting.since_s >= settings.seconds_per_file
        )

    def _run(self) -> None:
        remove_leftovers(self._directory, self._now())
        while True:
            with self._changed:
                while not self._is_due():
                    if self._closing:
                        return
                    left_s = None
                    if self._waiting.answers:
                        waited_s = time.monotonic() - self._waiting.since_s
                        left_s = max(0.0, self._settings.seconds_per_file - waited_s)
                    self._changed.wait(left_s)
                taken = self._take()
            rows = sum(one.rows for one in taken)
            try:
                written = self._write(taken)
            # The edge of a thread: a disk that is full, or a store that is away, must not end the log, and
            # nobody else would tell.
            except Exception:
                with self._changed:
                    self.counts.errors += 1
                    self.counts.dropped += rows
                logger.exception("%d values can't be logged", rows)
            else:
                with self._changed:
                    self.counts.logged += written
                    self.counts.dropped += rows - written
            with self._changed:
                self._waiting.rows -= rows
                self._waiting.bytes -= sum(one.size_bytes for one in taken)

    def _take(self) -> list[Answered]:
        """The answers of the next file, which stay counted until they are written."""
        waiting, taken, rows = self._waiting, [], 0
        while waiting.answers and rows < self._file_rows:
            taken.append(waiting.answers.popleft())
            rows += taken[-1].rows
        waiting.since_s = time.monotonic()
        return taken

    def _write(self, taken: list[Answered]) -> int:
        with self._store.snapshot() as snapshot:
            if self._ids is None:
                self._ids = snapshot.meta()["store_id"], digest_key(snapshot)
            known = forgotten_keys(snapshot)
        store_id, secret = self._ids
        answers = answers_table(taken, store_id)
        answers = answers.filter(pa.array(~answers_about(answers, known, secret)))
        if not answers.num_rows:
            return 0
        self._files += 1
        at = instant_text(self._now()).translate(str.maketrans("", "", "-:."))
        name = f"{at}-{os.getpid()}-{os.urandom(3).hex()}-{self._files:06}.parquet"
        file = write_answers(self._directory, name, answers)
        with self._store.snapshot() as snapshot:
            now_forgotten = forgotten_keys(snapshot)
        # A key was forgotten while this was written, and who forgot it may not have seen the file.
        if now_forgotten - known:
            return int(answers.num_rows) - forget_answers(file, now_forgotten, secret)
        return int(answers.num_rows)


def answers_table(taken: Sequence[Answered], store_id: str) -> pa.Table:
    """Answers as rows of the log."""
    made = _Rows()
    for one in taken:
        made.add(one)
    return made.table(store_id)


class _Rows:
    """Rows of the log, a feature of an answer at a time: what they have in common is kept once, so that
    little more than the values' JSON costs time that answers could use."""

    def __init__(self) -> None:
        self._rows: list[int] = []
        self._common: dict[str, list[object]] = {}
        self._keys: list[str] = []
        self._key: list[I64] = []
        self._as_of: list[I64] = []
        self._values: list[str] = []
        self._statuses: list[str] = []
        self._stamps: list[I64] = []

    def add(self, one: Answered) -> None:
        vectors = one.vectors
        rows = vectors.rows
        as_of = np.broadcast_to(np.asarray(vectors.as_of, np.int64), rows)
        known_at = instant_text(vectors.known_at) if isinstance(vectors.known_at, int) else vectors.known_at
        faces = {name: json_values(array, dtype) for name, (array, dtype) in vectors.keys.items()}
        keys: dict[tuple[str, ...], tuple[I64, str]] = {}
        results = one.response["results"][len(vectors.keys) :]
        for vector, result in zip(vectors.vectors, results, strict=True):
            names = vector.keys
            if names not in keys:
                numbers = np.arange(len(self._keys), len(self._keys) + rows)
                values = zip(*(faces[name] for name in names), strict=True)
                self._keys += [_json(dict(zip(names, key, strict=True))) for key in values]
                keys[names] = numbers, _json({name: str(vectors.keys[name][1]) for name in names})
            key, key_types = keys[names]
            common = {
                "answered_at": one.answered_at,
                "request_id": one.request_id,
                "store_commit": vectors.store_commit,
                "view": vector.view.partition("@")[0],
                "version": vectors.view_versions[vector.view],
                "feature": vector.feature.name,
                "type": str(vector.feature.dtype),
                "key_types": key_types,
                "known_at": known_at,
            }
            for name, value in common.items():
                self._common.setdefault(name, []).append(value)
            self._rows.append(rows)
            self._key.append(key)
            self._as_of.append(as_of)
            self._values += map(_json, result["values"])
            self._statuses += result["statuses"]
            self._stamps.append(vector.latest_instants())

    def table(self, store_id: str) -> pa.Table:
        index = pa.array(np.repeat(np.arange(len(self._rows)), self._rows))
        types = {field.name: field.type for field in SCHEMA}
        columns = {name: pa.array(some, types[name]).take(index) for name, some in self._common.items()}
        columns["store_id"] = pa.repeat(pa.scalar(store_id), len(index))
        columns["keys"] = pa.array(self._keys, pa.string()).take(pa.array(_joined(self._key)))
        columns["as_of"] = pa.array(_joined(self._as_of)).cast(types["as_of"])
        columns["value"] = pa.array(self._values, pa.string())
        columns["status"] = pa.array(self._statuses, pa.string())
        columns["event_timestamp"] = pa.array(_joined(self._stamps)).cast(types["event_timestamp"])
        return pa.table([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def _joined(parts: Sequence[I64]) -> I64:
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
