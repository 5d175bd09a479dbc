"""Writers take turns: whoever waits for the store goes before whoever has just written.

A backfill that commits and begins again at once would starve a server. So a writer first takes the turnstile
(a lock among threads; for SQLite, whose lock has no queue, a lock file beside the store as well), waits for
the store inside it, then lets the next one in. The writer before it, coming back, stands outside. A killed
process loses both locks.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

if sys.platform != "win32":
    import fcntl

# An attempt costs about 10 us, so asking every millisecond takes 1 % of a core and adds 0.5 ms on average.
POLL_S = 0.001


class BusyError(Exception):
    """The turn did not come in time; the store says so to its caller."""


class TurnstileError(Exception):
    """The lock file can't be made: the store's directory is not writable."""


class Turn:
    """The turnstile of one store in one process; ``path`` is its lock file, if processes need one."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._turnstile = threading.Lock()
        self._store = threading.Lock()
        self._holder: int | None = None

    @contextlib.contextmanager
    def taken(self, begin: Callable[[], None], *, timeout_s: float) -> Iterator[None]:
        """Wait for the turn, ``begin`` (again while it raises BusyError), hold it until the block ends."""
        if self._holder == threading.get_ident():
            raise RuntimeError("a commit inside a commit of the same store")
        deadline_s = time.monotonic() + timeout_s
        with self._through_turnstile(deadline_s):
            if not self._store.acquire(timeout=max(0.0, deadline_s - time.monotonic())):
                raise BusyError
            try:
                _retry(begin, deadline_s)
                self._holder = threading.get_ident()
            except BaseException:
                self._store.release()
                raise
        try:
            yield
        finally:
            self._holder = None
            self._store.release()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    @contextlib.contextmanager
    def _through_turnstile(self, deadline_s: float) -> Iterator[None]:
        if not self._turnstile.acquire(timeout=max(0.0, deadline_s - time.monotonic())):
            raise BusyError
        try:
            if sys.platform == "win32" or self._path is None:
                yield
                return
            if self._file is None:
                try:
                    self._file = self._path.open("ab")
                except OSError as error:
                    raise TurnstileError(error.strerror) from error
            _retry(self._lock_file, deadline_s)
            try:
                yield
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)
        finally:
            self._turnstile.release()

    def _lock_file(self) -> None:
        assert self._file is not None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError from error


def _retry(attempt: Callable[[], None], deadline_s: float) -> None:
    while True:
        try:
            return attempt()
        except BusyError:
            if time.monotonic() >= deadline_s:
                raise
        time.sleep(POLL_S)
