"""Compaction beside the workers of a command, in the process that started them.

Time: the clock is read for commit times; between looks passes at least PERIOD_S, and ten times what a look
takes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

from featurestore import FeatureStore, clock
from featurestore.errors import FeatureStoreError
from featurestore.store.compaction import CompactionReport, Compactor, retain
from featurestore.store.folding import STEADY

logger = logging.getLogger("featurestore.stream")

PERIOD_S = 5.0
LOOKS = 10.0
# After a commit of 50 ms others have the store for 150 ms.
RESTS = 3.0


@contextmanager
def compacting(project: FeatureStore) -> Iterator[None]:
    """Fold what the workers leave, until the block ends; nothing where ``[streaming] compact`` is off."""
    if not project.settings.streaming.compact:
        yield
        return
    beside = _Beside(project)
    thread = Thread(target=beside.run, name="compaction", daemon=True)
    thread.start()
    try:
        yield
    finally:
        beside.stop.set()
        thread.join()


class _Beside:
    """Looks again and again for what is worth folding."""

    def __init__(self, project: FeatureStore) -> None:
        self._root = project.root
        self.stop = Event()
        self._rested_s = 0.0

    def run(self) -> None:
        # A store of its own, whose commits take turns with those of others.
        with FeatureStore(self._root) as project:
            pause_s = PERIOD_S
            while not self.stop.wait(pause_s):
                began_s, self._rested_s = time.monotonic(), 0.0
                try:
                    retain(project.store, now=clock.now, steady=True, rest=self._rest)
                    self._tell(Compactor(project.store, STEADY, now=clock.now, rest=self._rest).run())
                except FeatureStoreError as error:
                    # What is wrong the workers tell, and wait for a store that is still to come; what is not
                    # folded now is folded later.
                    logger.info("compaction waits: %s", error.fact)
                pause_s = max(PERIOD_S, LOOKS * (time.monotonic() - began_s - self._rested_s))

    def _rest(self, took_s: float) -> bool:
        self._rested_s += RESTS * took_s
        return not self.stop.wait(RESTS * took_s)

    def _tell(self, report: CompactionReport) -> None:
        if report.commits:
            logger.info("compaction: %d rows are %d now, in %d commits", *report.rows(), report.commits)
