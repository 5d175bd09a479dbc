"""What a worker writes: here, through a store of its own, or in the process that started it.

On SQLite one process commits. There, workers read, decode and ask; the process that started them writes for
all, one thing at a time. Epochs and positions are looked at where it is written, so a worker that was stopped
for long, and whose partitions others have, is refused as any other. What is read, the worker reads itself.
Time: a commit's is the asking worker's.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from threading import Lock
from typing import Any, Protocol

from featurestore.errors import FeatureStoreError, StoreUnavailableError, StreamError
from featurestore.store import Store, TimelineVersion
from featurestore.store.dead_letters import LetterKey, mark_published
from featurestore.store.filling import Finished, finish
from featurestore.store.positions import Span
from featurestore.store.stream import StreamBatch, StreamCommit, commit_batch
from streaming.assignment import Held, Partition, Streamed, take

logger = logging.getLogger("featurestore.stream")


class Writer(Protocol):
    """The four things that a worker writes, each one commit."""

    def take(
        self,
        sources: Iterable[Streamed],
        spans: Mapping[Partition, Span],
        *,
        worker: str,
        accept_gap: bool,
        now_us: int,
        topic_ids: Mapping[str, str] | None = None,
    ) -> dict[Partition, Held]: ...

    def commit(self, batch: StreamBatch, now_us: int) -> StreamCommit: ...

    def mark_published(self, source: str, keys: Collection[LetterKey], now_us: int) -> None: ...

    def finish(self, timeline: TimelineVersion, now_us: int) -> Finished: ...


class StoreWriter:
    """Writes through a store that this process has open."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def take(
        self,
        sources: Iterable[Streamed],
        spans: Mapping[Partition, Span],
        *,
        worker: str,
        accept_gap: bool,
        now_us: int,
        topic_ids: Mapping[str, str] | None = None,
    ) -> dict[Partition, Held]:
        return take(
            self._store, sources, spans,
            worker=worker, accept_gap=accept_gap, now_us=now_us, topic_ids=topic_ids,
        )  # fmt: skip

    def commit(self, batch: StreamBatch, now_us: int) -> StreamCommit:
        return commit_batch(self._store, batch, now_us)

    def mark_published(self, source: str, keys: Collection[LetterKey], now_us: int) -> None:
        for attempt in self._store.attempts("dead letters", now_us=now_us, detail=source):
            with attempt as commit:
                mark_published(commit, keys)

    def finish(self, timeline: TimelineVersion, now_us: int) -> Finished:
        return finish(self._store, timeline, lambda: now_us, log_is_whole=False)


class WriterGoneError(StreamError):
    """The process that writes for a worker has ended."""


class PipedWriter:
    """Asks the process at the other end of a pipe; see ``serve``."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def take(
        self,
        sources: Iterable[Streamed],
        spans: Mapping[Partition, Span],
        *,
        worker: str,
        accept_gap: bool,
        now_us: int,
        topic_ids: Mapping[str, str] | None = None,
    ) -> dict[Partition, Held]:
        made: dict[Partition, Held] = self._ask(
            "take", list(sources), dict(spans),
            worker=worker, accept_gap=accept_gap, now_us=now_us, topic_ids=topic_ids,
        )  # fmt: skip
        return made

    def commit(self, batch: StreamBatch, now_us: int) -> StreamCommit:
        made: StreamCommit = self._ask("commit", batch, now_us)
        return made

    def mark_published(self, source: str, keys: Collection[LetterKey], now_us: int) -> None:
        self._ask("mark_published", source, list(keys), now_us)

    def finish(self, timeline: TimelineVersion, now_us: int) -> Finished:
        made: Finished = self._ask("finish", timeline, now_us)
        return made

    def _ask(self, what: str, *given: object, **named: object) -> Any:
        try:
            self._pipe.send((what, given, named))
            answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise WriterGoneError(
                "the process that writes for this worker is gone",
                hint="start `featurestore stream` again; nothing is lost",
            ) from error
        if isinstance(answer, FeatureStoreError):
            raise answer
        return answer


_ASKED = frozenset({"take", "commit", "mark_published", "finish"})


def serve(writer: Writer, pipe: Connection, turn: Lock) -> None:
    """Write what one worker asks for, until it has ended, however it does; ``turn`` is had while writing.

    What a worker has not asked for in whole is not written at all. An error is the worker's to deal with.
    """
    with pipe, suppress(EOFError, OSError):
        while True:
            what, given, named = pipe.recv()
            assert what in _ASKED, what
            try:
                with turn:
                    answer = getattr(writer, what)(*given, **named)
            except FeatureStoreError as error:
                answer = error
            except Exception as error:  # a process edge: a fault of ours ends the worker, not all of them
                logger.exception("what a worker asked for can't be written")
                answer = StoreUnavailableError(f"it can't be written: {type(error).__name__}: {error}")
            pipe.send(answer)
