"""Since which commit a timeline version should hold a row of its source's log: its file was loaded, its push
committed, its offset is below the position.

Time: commits alone. What can't be told, because a file is another one now, or the store has not written it
down, is never claimed.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import LogError
from featurestore.log.archive import archived
from featurestore.log.files import LogFile, list_files
from featurestore.log.origins import PUSHED, Origins
from featurestore.plan.nodes import SourcePlan
from featurestore.store.entered import NEVER, Taken
from featurestore.store.records import LoadedFile

I64 = NDArray[np.int64]

# An archive's file: topic, partition, offsets [first, next).
_ARCHIVED = re.compile(r"topic-(.+)/partition-(\d+)/(\d+)-(\d+)\.parquet$")


class SinceWhen:
    """Tells it of one timeline version; files are hashed only where that decides something."""

    def __init__(self, source: SourcePlan, root: Path, origins: Origins, taken: Taken) -> None:
        self._source = source
        self._root = root
        self._origins = origins
        self._taken = taken
        self._known: dict[int, tuple[int, int]] = {}

    def since(self, rows: I64) -> I64:
        """The commit since which each of some rows of the log should be held; NEVER where none is known."""
        piece, number = self._origins.pieces(rows)
        made = np.full(len(rows), NEVER, np.int64)
        for one in np.unique(piece).tolist():
            if one not in self._known:
                self._known[one] = self._of_piece(*self._origins.piece(one))
            commit, below = self._known[one]
            mine = (piece == one) & (number < below)
            made[mine] = commit
        return made

    def _of_piece(self, path: str, first_row: int) -> tuple[int, int]:
        """The commit, and the row from which on it holds no more."""
        if path == PUSHED:
            return self._taken.pushes.get(first_row + 1, NEVER), NEVER
        file = self._files.get(path)
        if file is None:
            return self._of_all()
        commit, below = self._of_file(file, self._taken.files.get(path))
        return min((commit, below), (self._of_archive(path), NEVER))

    def _of_file(self, file: LogFile, loaded: LoadedFile | None) -> tuple[int, int]:
        if loaded is None:
            return NEVER, 0
        try:
            if file.size == loaded.size and file.sha256() == loaded.sha256:
                return loaded.commit_number, NEVER
            # Rows of a text log that were appended since have not been loaded; of tables rows are counted
            # otherwise.
            grown = file.size > loaded.size and self._source.changes is None
            if grown and replace(file, size=loaded.size).sha256() == loaded.sha256:
                return loaded.commit_number, loaded.rows
        except LogError:
            pass
        return NEVER, 0

    def _of_archive(self, path: str) -> int:
        named = _ARCHIVED.search(PurePosixPath(path).as_posix())
        if named is None:
            return NEVER
        topic, partition, first, end = named[1], *(int(named[i]) for i in (2, 3, 4))
        for one in self._taken.positions:
            is_here = (one.topic, one.partition) == (topic, partition)
            if is_here and one.first_offset <= first and end <= one.next_offset:
                return one.commit_number
        return NEVER

    def _of_all(self) -> tuple[int, int]:
        """What is derived from several files was there when all of them were, if they are as they were."""
        commits = []
        for shown, file in self._files.items():
            commit, below = self._of_file(file, self._taken.files.get(shown))
            if below != NEVER:
                return NEVER, 0
            commits.append(commit)
        return (max(commits), NEVER) if commits else (NEVER, 0)

    @cached_property
    def _files(self) -> dict[str, LogFile]:
        log = archived(self._source, self._root).log
        return {} if log is None else {file.shown: file for file in list_files(log, self._root)}
