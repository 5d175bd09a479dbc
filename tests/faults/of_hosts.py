"""Faults of what brings facts and questions to the kernel: keys, the store, the log, backfills, counters.

Time: which rows were there when, in the store; the kernel is sound here.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.compute as pc

import featurestore.batch.fill
import featurestore.batch.keys
import featurestore.batch.logs
import featurestore.batch.spine
import featurestore.serving.lookup
import featurestore.store.additions
from featurestore.log.versions import event_versions
from featurestore.store import LoadedFile, Snapshot
from featurestore.store.novelty import Novelty, all_new
from tests.faults.fault import Patch, breaks


@breaks(1)
def a_null_key_is_served(patch: Patch) -> None:
    """Both hosts take a null for the first entity's key."""
    real = featurestore.serving.lookup.canonical_keys

    def canonical_keys(*given: Any) -> Any:
        return {name: (pc.fill_null(array, "c1"), dtype) for name, (array, dtype) in real(*given).items()}

    patch.setattr(featurestore.serving.lookup, "canonical_keys", canonical_keys)
    spine = featurestore.batch.spine.Spine
    keys = spine.keys
    patch.setattr(spine, "keys", lambda *given: [pc.fill_null(key, "c1") for key in keys(*given)])


@breaks(1)
def an_unknown_key_is_the_first_entity(patch: Patch) -> None:
    index = featurestore.batch.keys.KeyIndex
    find = index.find
    patch.setattr(index, "find", lambda *given: np.maximum(find(*given), 0))


@breaks(1)
def the_store_is_read_without_its_deltas(patch: Patch) -> None:
    read = Snapshot.read
    patch.setattr(
        Snapshot, "read", lambda *given: {key: payloads[:1] for key, payloads in read(*given).items()}
    )


@breaks(1)
def a_training_set_does_not_read_arrivals(patch: Patch) -> None:
    patch.setattr(featurestore.batch.logs.Logs, "arrivals", lambda *_: [])


@breaks(4)
def a_file_is_said_to_be_loaded_before_it_is(patch: Patch) -> None:
    """The position is saved outside the transaction of what it stands for."""
    fill = featurestore.batch.fill.Fill
    write = fill._write

    def write_late(self: Any, part: Any, *rest: Any) -> None:
        with self._store.commit("backfill", now_us=0, detail="too early") as commit:
            for span in part.spans:
                if span.path:
                    file = LoadedFile(span.path, span.sha256, 0, span.end, commit.number)
                    commit.file_loaded(self._timeline.id, file)
                    self._loaded[span.path] = file
        self._seen = commit.number
        write(self, part, *rest)

    patch.setattr(fill, "_write", write_late)


@breaks(4)
def a_loaded_file_is_forgotten(patch: Patch) -> None:
    patch.setattr(featurestore.batch.fill.Fill, "_files_loaded", lambda *_: {})


@breaks(4)
def what_is_pushed_again_is_kept_again(patch: Patch) -> None:
    patch.setattr(featurestore.store.additions, "novelty", lambda facts, codes, *_, **__: all_new(len(codes)))


@breaks(5)
def each_timeline_is_read_from_a_state_of_its_own(patch: Patch) -> None:
    lookup = featurestore.serving.lookup.Lookup
    facts = lookup.facts

    def facts_of_now(self: Any, snapshot: Any, *given: Any, **rest: Any) -> Any:
        with self._store.snapshot() as newest:
            return facts(self, newest, *given, **rest)

    patch.setattr(lookup, "facts", facts_of_now)


@breaks(6)
def duplicates_are_counted_nowhere(patch: Patch) -> None:
    counts = Novelty.counts
    patch.setattr(
        Novelty,
        "counts",
        lambda *given: {kind: n for kind, n in counts(*given).items() if kind != "duplicate"},
    )


@breaks(6)
def a_rejected_row_is_left_out_in_silence(patch: Patch) -> None:
    def silent(*given: Any, **rest: Any) -> Any:
        return replace(event_versions(*given, **rest), rejected=(), reasons={})

    for module in [module for name, module in sys.modules.items() if name.startswith("featurestore.")]:
        if getattr(module, "event_versions", None) is event_versions:
            patch.setattr(module, "event_versions", silent)
