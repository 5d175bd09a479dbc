"""The worker processes of one command: started, looked after, stopped. Where there are several and the store
is SQLite, this process writes for them.

Time: a worker that fails is started again after a pause, which doubles with each failure in a row.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

from featurestore import FeatureStore
from featurestore.errors import StreamError
from streaming.compacting import compacting
from streaming.settings import NEEDS_A_PERSON
from streaming.writer import StoreWriter, Writer, serve

logger = logging.getLogger("featurestore.stream")

# 1, 2, 4, 8, 16 s: what comes right within half a minute is waited for.
RESTARTS, FIRST_PAUSE_S = 5, 1.0
# A worker that has run for so long begins to count anew.
STEADY_S = 60.0
LOOK_S = 0.05
# Longer than a commit and a group's farewell take.
STOP_TIMEOUT_S = 30.0


def run(project: Path, workers: int, flags: Sequence[str]) -> list[dict[str, Any]]:
    """Run workers until a signal (SIGTERM, SIGINT) or until all have ended by themselves; their reports.

    A worker that fails or is killed is started again; the partitions that it had wait for it, or others take
    them. StreamError, and all end, where one fails again and again, or as no other try can mend.
    """
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(message)s", level=logging.WARNING)
    stop = Event()
    with ExitStack() as opened:
        for which in (signal.SIGTERM, signal.SIGINT):
            before = signal.signal(which, lambda *_: stop.set())
            opened.callback(signal.signal, which, before)
        store = opened.enter_context(FeatureStore(project))
        writer = None
        if workers > 1 and not store.settings.store.url.startswith("postgres"):
            writer = StoreWriter(store.store)
        opened.enter_context(compacting(store))
        turn = Lock()
        running = [WorkerProcess(project, number, flags, writer, turn) for number in range(workers)]
        try:
            for one in running:
                one.start()
            while not stop.is_set():
                looked = [one.look(alone=workers == 1) for one in running]
                if not any(looked):
                    break
                stop.wait(LOOK_S)
        finally:
            for one in running:
                one.tell_to_stop()
            for one in running:
                one.wait()
    for one in running:
        if one.failure is not None:
            raise one.failed(alone=workers == 1)
    return [one.report for one in running]


class WorkerProcess:
    """One worker of a command, through all its restarts."""

    def __init__(
        self, project: Path, number: int, flags: Sequence[str], writer: Writer | None, turn: Lock
    ) -> None:
        # -P: a directory of the project with the package's name is not it.
        self._command = [sys.executable, "-P", "-m", "streaming", "--project", str(project), *flags]
        self._command += ["--json", "--parent", str(os.getpid()), "--number", str(number)]
        self._number = number
        self._writer = writer
        self._turn = turn
        self._process: subprocess.Popen[bytes] | None = None
        self._answering: Thread | None = None
        self._said: Any = None
        self._failures = 0
        self._started_s = 0.0
        self._due_s: float | None = None
        self.report: dict[str, Any] = {"partitions": {}, "commits": 0, "switched": [], "restarts": 0}
        self.failure: tuple[str, str | None] | None = None
        """What the last run ended with, and the way out, where that was no good end."""

    def start(self) -> None:
        self._due_s, self.failure = None, None
        # In a file: a pipe that nobody reads would stop a worker that has much to say.
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the run is over
        if self._writer is None:
            self._process = subprocess.Popen(self._command, stdout=self._said)
        else:
            here, there = multiprocessing.Pipe()
            # Closed here once it is passed on: then each end sees the other one end.
            with there:
                descriptor = there.fileno()
                command = [*self._command, "--writer", str(descriptor)]
                self._process = subprocess.Popen(command, stdout=self._said, pass_fds=[descriptor])
            given = (self._writer, here, self._turn)
            self._answering = Thread(target=serve, args=given, name=f"writes for worker {self._number}")
            self._answering.start()
        self._started_s = time.monotonic()

    def look(self, *, alone: bool) -> bool:
        """Whether it runs or will again; StreamError where it has failed for good."""
        if self._due_s is not None:
            if time.monotonic() >= self._due_s:
                self.start()
            return True
        if self._process is None:
            return False
        if self._process.poll() is None:
            return True
        code = self._ended()
        if self.failure is None:
            return False
        if time.monotonic() - self._started_s > STEADY_S:
            self._failures = 0
        self._failures += 1
        if code == NEEDS_A_PERSON or self._failures > RESTARTS:
            raise self.failed(alone=alone)
        pause_s = FIRST_PAUSE_S * 2 ** (self._failures - 1)
        logger.warning(
            "worker %d ended (%s): it is started again in %g s", self._number, self.failure[0], pause_s
        )
        self.report["restarts"] += 1
        self._due_s = time.monotonic() + pause_s
        return True

    def tell_to_stop(self) -> None:
        if self._due_s is not None:
            # Between two runs: it was to be started again, and now is not.
            self._due_s, self.failure = None, None
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def wait(self) -> None:
        """Until it has ended; one that does not is killed."""
        if self._process is None:
            return
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._ended()

    def failed(self, *, alone: bool) -> StreamError:
        assert self.failure is not None
        fact, hint = self.failure
        if self._failures > 1:
            fact = f"{fact} (it has failed {self._failures} times in a row)"
        return StreamError(fact if alone else f"worker {self._number}: {fact}", hint=hint)

    def _ended(self) -> int:
        """Take in what a run that is over has left."""
        assert self._process is not None
        code, self._process = self._process.returncode, None
        if self._answering is not None:
            self._answering.join()
        self._said.seek(0)
        with self._said as file:
            said = file.read()
        if code == 0:
            self.report |= json.loads(said)
        elif code < 0:
            self.failure = (f"it was ended by {signal.Signals(-code).name}", None)
        elif said:
            told = json.loads(said)
            self.failure = (told["error"], told["hint"])
        else:
            self.failure = (f"it ended with code {code}", "what it has said stands above")
        return code
