"""What filling a timeline version takes, whatever its source holds: short commits, and care for what others
commit in between.

Time: no value depends on the moment of loading; the clock is read for commit times and to pace commits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from featurestore.batch.filled import SHOWN, Filled
from featurestore.batch.parts import Rejected
from featurestore.errors import BackfillError
from featurestore.log.archive import archived
from featurestore.plan.nodes import ViewPlan
from featurestore.store import Commit, Snapshot, Store, TimelineVersion

# A commit aims at half of the 100 ms that a writer may hold the store.
COMMIT_S = 0.05
LEAST_CHUNK_ROWS, FIRST_CHUNK_ROWS = 1_000, 20_000
MOST_CHUNK_ROWS = 400_000
# Pushed rows are read back in windows of their numbers.
ARRIVALS_ROWS = 500_000


class ForgottenMeanwhileError(Exception):
    """An entity was forgotten while a timeline version was being filled: what was read has to be read
    anew."""


class TimelineFill(ABC):
    """One timeline version being filled from its source's log and from what was pushed before it existed."""

    def __init__(
        self,
        store: Store,
        root: Path,
        timeline: TimelineVersion,
        plan: ViewPlan,
        *,
        now: Callable[[], int],
        progress: Callable[[int, int, str], None] | None,
        threads: ThreadPoolExecutor | None,
        strict: bool = False,
    ) -> None:
        self._store = store
        self._root = root
        self._timeline = timeline
        self._plan = replace(plan, source=archived(plan.source, root))
        self._now = now
        self._tell = progress or (lambda done, total, what: None)
        self._threads = threads
        self._strict = strict
        self._forgetting = (0, 0, 0)
        self._chunk_rows = FIRST_CHUNK_ROWS
        self._done_rows = self._total_rows = 0
        self._what = f"{plan.source.name} by {plan.entity.name}"
        self.report = Filled(plan.source.name, plan.entity.name, timeline.id)

    @abstractmethod
    def run(self) -> Filled:
        """Load what is missing; raises BackfillError where that can't be done without losing or doubling a
        fact."""

    def _attempts(self) -> Iterator[AbstractContextManager[Commit]]:
        return self._store.attempts("backfill", now_us=self._now(), detail=self._plan.source.name)

    def _partition(self, what: str) -> str:
        return f"{what}/{self._timeline.entity}@{self._timeline.id}"

    def _pace(self, rows: int, took_s: float) -> None:
        """The next chunk's rows, so that its commit takes as long as one may."""
        factor = min(2.0, max(0.25, COMMIT_S / max(took_s, 1e-4)))
        self._chunk_rows = int(min(MOST_CHUNK_ROWS, max(LEAST_CHUNK_ROWS, rows * factor)))

    def _count(
        self, counts: Counter[str], rejected: Sequence[Rejected], loaded: Sequence[str], *, is_first: bool
    ) -> None:
        """Report a chunk: the rejected rows of its part with the first, the files that are whole with it."""
        self.report.counts.update(counts)
        if is_first:
            self.report.rejected += rejected[: SHOWN - len(self.report.rejected)]
        self.report.loaded += loaded

    def _check_forgotten(self, commit: Commit) -> None:
        if commit.forgetting() != self._forgetting:
            raise ForgottenMeanwhileError

    def _check_state(self, snapshot: Snapshot) -> None:
        state = next(one.state for one in snapshot.timeline_versions() if one.id == self._timeline.id)
        if state == "retired":
            raise BackfillError(
                f'source "{self._plan.source.name}": the version that is being filled was dropped',
                hint='run "featurestore apply", then the backfill again',
            )
