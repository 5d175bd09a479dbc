"""One worker process: ``python -m streaming --project DIR``.

Ends with code 0 when it is told to stop (SIGTERM, SIGINT) or has read to the ends, 1 with a message.
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
from threading import Event, Thread
from typing import TYPE_CHECKING

from featurestore import FeatureStore
from featurestore.errors import FeatureStoreError, StreamError
from streaming.settings import WorkerOptions

if TYPE_CHECKING:
    from streaming.report import StreamReport

PARENT_PERIOD_S = 1.0


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
        number=asked.number, until_end=asked.until_end, archive=asked.archive, accept_gap=asked.accept_gap
    )
    try:
        report = run(asked.project, options, stop)
    except FeatureStoreError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - a process edge, like the command's
        return 1
    sys.stdout.write((json.dumps(report.to_dict()) if asked.json else report.text()) + "\n")
    return 0


def run(project: str, options: WorkerOptions, stop: Event) -> StreamReport:
    """A worker over a project's store; returns its report."""
    try:
        from streaming.metrics import Metrics
        from streaming.worker import Worker
    except ModuleNotFoundError as error:
        raise StreamError(
            f"streams need {error.name}", hint='pip install "featurestore[streaming]"'
        ) from error
    with FeatureStore(project) as store:
        settings = store.settings.streaming
        if settings.metrics_port is None:
            return Worker(store.store, store.root, settings, options, stop=stop).run()
        metrics = Metrics()
        metrics.serve(settings.metrics_host, settings.metrics_port + options.number)
        try:
            return Worker(store.store, store.root, settings, options, metrics=metrics, stop=stop).run()
        finally:
            metrics.close()


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
    for flag in ("until-end", "archive", "accept-gap", "json"):
        parser.add_argument(f"--{flag}", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main())
