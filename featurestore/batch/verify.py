"""Verifying: what the server has answered is computed once more from the sources' logs, over exactly the
facts that had entered the store by the answer's commit, and compared bit for bit.

Time: the same ``as_of`` and ``known_at`` as then. The facts are those that the store says had entered, with
the content that the log has; which of them count, and what they make, is the kernel's business, as in a
training set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.batch.answered import Questions, questions_of, recompute
from featurestore.batch.blame import blame
from featurestore.batch.entered_facts import EnteredFacts, entered_facts
from featurestore.batch.facts import Reader
from featurestore.batch.logged import Chosen, is_of_types, view_answers
from featurestore.batch.logs import Logs
from featurestore.batch.standing_facts import FactsFound
from featurestore.batch.verification import Difference, Verification
from featurestore.errors import StoreError
from featurestore.kernel.versions import single
from featurestore.store import Snapshot, Store
from featurestore.store.registry import AppliedView, Registry, read_registry

I64 = NDArray[np.int64]
Progress = Callable[[int, int, str], None]

OTHER_STORE = "of another store"
DROPPED = "of a version of a view that was dropped since"
OTHER_KEYS = "asked by other key columns than the view has"
REBUILT = "what they look up was filled anew since"
FORGOTTEN = "from before a key was forgotten, and other since"
RETAINED = "as of an instant before what the store retains now"


def verify(
    store: Store,
    root: Path,
    chosen: Chosen,
    *,
    limit: int = 100,
    progress: Progress | None = None,
    threads: ThreadPoolExecutor | None = None,
) -> Verification:
    """Compute ``chosen`` answers of the request log once more. All that differs is counted; the first
    ``limit`` answers and facts of each kind are named."""
    found = Verification()
    named = FactsFound(found, limit)
    total = chosen.total() if progress is not None else 0
    for answers in chosen.batches():
        # Opened after the answers were read, so that it has every commit that they are of.
        with store.snapshot() as snapshot:
            batch = _Batch(snapshot, root, found, named, limit, threads)
            for rows in batch.parts(answers):
                batch.verify(answers.take(pa.array(rows)))
                if progress is not None:
                    progress(found.answers, max(total, found.answers), "answers")
    return found


class _Batch:
    """Answers that are compared with one state of the store."""

    def __init__(
        self,
        snapshot: Snapshot,
        root: Path,
        found: Verification,
        named: FactsFound,
        limit: int,
        threads: ThreadPoolExecutor | None,
    ) -> None:
        self._snapshot = snapshot
        self._root = root
        self._found = found
        self._named = named
        self._limit = limit
        self._threads = threads
        self._store_id = snapshot.meta()["store_id"]
        self._registry: Registry = read_registry(snapshot)
        self._reader = Reader(Logs(root, snapshot))
        if any(one.state == "erasing" for one in snapshot.forgotten()):
            raise StoreError("a key is being forgotten", hint='run "featurestore forget" for it once more')

    def parts(self, answers: pa.Table) -> list[I64]:
        """The rows of each version of a view, the first that was asked first."""
        view, version = single(answers, "view").dictionary_encode(), single(answers, "version")
        both = view.indices.to_numpy(zero_copy_only=False).astype(np.int64) << 32
        both += version.to_numpy(zero_copy_only=False)
        order = np.argsort(both, kind="stable")
        return np.split(order, np.flatnonzero(np.diff(both[order])) + 1) if len(order) else []

    def verify(self, answers: pa.Table) -> None:
        """Verify answers of one version of a view."""
        self._found.answers += answers.num_rows
        name = f"{answers['view'][0].as_py()}@{answers['version'][0].as_py()}"
        of_store = np.array(single(answers, "store_id").to_pylist()) == self._store_id
        answers = self._kept(answers, of_store, OTHER_STORE)
        ahead = single(answers, "store_commit").to_numpy(zero_copy_only=False) > self._snapshot.commit_number
        self._found.ahead += int(ahead.sum())
        answers = answers.filter(pa.array(~ahead))
        view = self._registry.versions.get(name)
        if view is None or view.timeline.state == "retired":
            self._kept(answers, np.zeros(answers.num_rows, np.bool_), DROPPED)
            return
        if not answers.num_rows:
            return
        entity = view.plan.entity
        answers = self._kept(answers, is_of_types(answers, entity.keys, entity.dtypes), OTHER_KEYS)
        commit = single(answers, "store_commit").to_numpy(zero_copy_only=False)
        answers = self._kept(answers, commit >= self._looked_up_since(view), REBUILT)
        horizon = view.timeline.horizon_us
        if horizon is not None:
            as_of = single(answers, "as_of").cast(pa.int64()).to_numpy(zero_copy_only=False)
            answers = self._kept(answers, as_of >= horizon, RETAINED)
        if answers.num_rows:
            self._compare(view, answers)

    def _kept(self, answers: pa.Table, stays: NDArray[np.bool_], reason: str) -> pa.Table:
        if stays.all():
            return answers
        self._found.skipped[reason] += int((~stays).sum())
        return answers.filter(pa.array(stays))

    def _looked_up_since(self, view: AppliedView) -> int:
        """The commit since which what a view looks up is read from the timelines that are read now."""
        made = 0
        for inner in view.plan.inner():
            timeline = self._registry.inner_timeline(inner)
            made = max(made, timeline.created_commit, timeline.filled_commit or 0)
        return made

    def _compare(self, view: AppliedView, table: pa.Table) -> None:
        plan = view.plan
        answers = view_answers(table, plan.entity.keys, plan.entity.dtypes)
        facts = entered_facts(
            plan, view.timeline, answers.keys, self._reader, self._registry, self._snapshot, self._root
        )
        asked = questions_of(answers, plan)
        made = recompute(facts, asked, threads=self._threads)
        found = self._found
        found.compared += len(answers)
        differing = made.differing(asked.answers)
        found.equal += len(answers) - len(differing)
        self._named.look(facts, asked)
        if not len(differing):
            return
        computed = made.of(differing)
        differing = self._without_missing(facts, asked, differing)
        before = answers.commit[differing] < self._forgotten_at(view)
        if before.any():
            found.skipped[FORGOTTEN] += int(before.sum())
            found.compared -= int(before.sum())
            differing = differing[~before]
        found.differing += len(differing)
        for row in differing[: max(0, self._limit - len(found.differences))].tolist():
            found.differences.append(self._difference(view, facts, asked, row, computed[row]))

    def _without_missing(self, facts: EnteredFacts, asked: Questions, differing: I64) -> I64:
        """The answers that differ even where what is missing from the log is taken from the store."""
        answers = asked.answers
        entity, commit = answers.entity[differing], answers.commit[differing]
        doubtful = facts.absent_by(np.maximum(entity, 0), commit) & ((entity >= 0) | bool(facts.lookups))
        if not doubtful.any():
            return differing
        rows = differing[doubtful]
        again = recompute(
            facts, asked, only=np.unique(asked.question[rows]), absent=True, threads=self._threads
        )
        still = np.isin(rows, again.differing(answers))
        self._found.unverified += int((~still).sum())
        return np.sort(np.concatenate([differing[~doubtful], rows[still]]))

    def _forgotten_at(self, view: AppliedView) -> int:
        """The last commit that forgot a key which facts of a view, or what they look up, may have."""
        sources = {view.plan.source.name, *(inner.source.name for inner in view.plan.inner())}
        keys = self._registry.forgotten.in_sources(sources)
        return max((one.commit_number for one in keys), default=0)

    def _difference(
        self,
        view: AppliedView,
        facts: EnteredFacts,
        asked: Questions,
        row: int,
        computed: tuple[str, str, int],
    ) -> Difference:
        answers = asked.answers
        because, responsible = blame(facts, asked, row, self._named)
        one: Mapping[str, object] = answers.table.slice(row, 1).to_pylist()[0]
        return Difference(
            request_id=str(one["request_id"]),
            feature=f"{view.label}:{one['feature']}",
            keys=str(one["keys"]),
            as_of=int(answers.as_of[row]),
            known_at=answers.horizons[answers.known_at[row]],
            store_commit=int(answers.commit[row]),
            answered_at=int(answers.answered_at[row]),
            logged=asked.logged(row),
            computed=computed,
            because=because,
            facts=responsible,
        )
