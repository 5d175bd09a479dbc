"""One worker process: ``python -m streaming --project DIR``.

Ends with code 0 when it is told to stop (SIGTERM, SIGINT) or has read to the ends; else with a message, and
code 1 where another try may do it, NEEDS_A_PERSON where none will.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection
from threading import Event, Thread
from typing import TYPE_CHECKING

from featurestore import FeatureStore
from featurestore.errors import (
    BrokersAwayError,
    FeatureStoreError,
    SchemasUnavailableError,
    StoreInterruptedError,
    StoreUnavailableError,
    StreamError,
)
from streaming.settings import NEEDS_A_PERSON, WorkerOptions

if TYPE_CHECKING:
    from featurestore.store import Store
    from streaming.report import StreamReport

logger = logging.getLogger("featurestore.stream")

PARENT_PERIOD_S = 1.0
# As long as a worker that has begun waits for its store.
STORE_AWAY_S, STORE_PAUSE_S = 30.0, 0.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a worker until it is told to stop."""
    asked = _parser().parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(message)s", level=logging.WARNING)
    logging.getLogger("featurestore").setLevel(logging.INFO)
    logging.getLogger("kafka").setLevel(logging.ERROR)
    stop = Event()
    for which in (signal.SIGTERM, signal.SIGINT):
        signal.signal(which, lambda *_: stop.set())
    if asked.parent is not None:
        Thread(target=_stop_without, args=(asked.parent, stop), daemon=True).start()
    options = WorkerOptions(
        number=asked.number,
        until_end=asked.until_end,
        archive=asked.archive,
        accept_gap=asked.accept_gap,
        wait=asked.wait,
    )
    try:
        report = run(asked.project, options, stop, asked.writer)
    except FeatureStoreError as error:
        if asked.json:
            # For the process that started this one, which tells it.
            sys.stdout.write(json.dumps({"error": error.fact, "hint": error.hint}) + "\n")
        else:
            sys.stderr.write(f"error: {error}\n")
        again = isinstance(error, StoreUnavailableError | BrokersAwayError | SchemasUnavailableError)
        return 1 if again else NEEDS_A_PERSON
    sys.stdout.write((json.dumps(report.to_dict()) if asked.json else report.text()) + "\n")
    return 0


def run(project: str, options: WorkerOptions, stop: Event, writer: int | None = None) -> StreamReport:
    """A worker over a project's store; returns its report. ``writer``: the descriptor of a pipe to the
    process that writes for it."""
    try:
        from streaming.metrics import Metrics
        from streaming.worker import Worker
        from streaming.writer import PipedWriter
    except ModuleNotFoundError as error:
        raise StreamError(
            f"streams need {error.name}", hint='pip install "featurestore[streaming]"'
        ) from error
    with ExitStack() as opened:
        project_store = opened.enter_context(FeatureStore(project))
        settings = project_store.settings.streaming
        metrics = None
        if settings.metrics_port is not None:
            metrics = Metrics()
            metrics.serve(settings.metrics_host, settings.metrics_port + options.number)
            opened.callback(metrics.close)
        piped = None if writer is None else PipedWriter(opened.enter_context(Connection(writer)))
        store = _opened(project_store, stop)
        worker = Worker(
            store, project_store.root, settings, options, metrics=metrics, stop=stop, writer=piped
        )
        return worker.run()


def _opened(project: FeatureStore, stop: Event) -> Store:
    """The project's store; one that can't be reached is waited for."""
    until_s = time.monotonic() + STORE_AWAY_S
    while True:
        try:
            return project.store
        except StoreInterruptedError as error:
            if stop.is_set() or time.monotonic() > until_s:
                raise
            logger.warning("the store was away, trying again: %s", error.fact)
            stop.wait(STORE_PAUSE_S)


def _stop_without(parent: int, stop: Event) -> None:
    """Stop when the process that started this one is gone."""
    while os.getppid() == parent:
        time.sleep(PARENT_PERIOD_S)
    stop.set()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m streaming", description=__doc__)
    parser.add_argument("--project", default=".")
    parser.add_argument("--number", type=int, default=0, help="the worker's number among this host's")
    parser.add_argument("--parent", type=int, help="stop when this process is no longer the parent")
    parser.add_argument("--writer", type=int, help="a pipe to the process that writes for this one")
    for flag in ("until-end", "archive", "accept-gap", "wait", "json"):
        parser.add_argument(f"--{flag}", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main())
