"""Streams: what a worker takes for a message beside polling and decoding alone, in one run.

    python -m benchmarks.stream [--directory DIR] [--messages 1000000] [--seconds 40] [--rate N]

100k entities by Zipf's law, a source with `id`, ten features over three windows, a broker and a PostgreSQL
server of the run's own (fsync on). Each store first holds a backfilled history of the same law; then a worker
reads all messages, with the default settings, each keyed by its entity. Measured, per store:

- the floor, a worker's own client and decoder without a store, before and after the worker's run;
- the worker, from its second commit on, and its last 200,000 messages alone, by clock and by the processor
  time of its process (a database server's is not in it);
- freshness at half the load that it took: a process of its own sends an event of a new entity and asks a
  serving process until an answer shows it;
- pushes over HTTP and a backfill of another view, beside the same load: none may fail;
- PostgreSQL: two workers' processor time for a message, beside one's.

Last numbers: benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from benchmarks import stream_data
from benchmarks.postgres import DURABLE
from benchmarks.serving import featurestore, serving
from benchmarks.stream_parts import Mark, ask_until_shown, poll_and_decode, push, work
from featurestore import FeatureStore
from featurestore.store.positions import read_positions
from tests.services.kafka import Broker, running_broker
from tests.services.postgres import Postgres

ENTITIES = 100_000
FIRST = 10_000_000
LAST_MESSAGES = 200_000
_SPAWN = multiprocessing.get_context("spawn")


class Part:
    """A function in a process of its own, which says one thing at its end."""

    def __init__(self, function: Callable[..., None], *arguments: object) -> None:
        self._here, there = _SPAWN.Pipe()
        self.process: BaseProcess = _SPAWN.Process(target=function, args=(*arguments, there))
        self.process.start()
        there.close()

    def stop(self) -> None:
        self._here.send(None)

    def result(self) -> Any:
        found = self._here.recv()
        self.process.join()
        assert self.process.exitcode == 0
        return found


class Run:
    """One store's project, with the messages of one topic."""

    def __init__(self, root: Path, broker: Broker, topic: str, url: str | None, options: Any) -> None:
        self.root, self.broker, self.topic, self.options = root, broker, topic, options
        settings = f'[streaming]\nbootstrap_servers = "{broker.bootstrap}"\ngroup = "{uuid.uuid4().hex}"\n'
        if url is not None:
            settings += f'[store]\nurl = "{url}"\n'
        sizes = {"history": options.history, "others": options.others, "entities": ENTITIES}
        stream_data.project(root, topic=topic, settings=settings, **sizes)
        with FeatureStore(root) as store:
            store.apply()
            store.backfill(["activity"])

    def floor(self, messages: int) -> list[Mark]:
        until = min(messages, LAST_MESSAGES)
        marks: list[Mark] = Part(poll_and_decode, self.root, self.topic, until).result()
        return marks

    def stands_at(self, store: FeatureStore) -> int:
        with store.store.snapshot() as snapshot:
            return sum(one.next_offset for one in read_positions(snapshot, [1]))

    def read_all(self, workers: int, messages: int) -> list[list[Mark]]:
        """Workers until all messages are read; their marks."""
        running = [Part(work, self.root, number) for number in range(workers)]
        with FeatureStore(self.root) as store:
            while self.stands_at(store) < messages:
                assert all(one.process.is_alive() for one in running)
                time.sleep(0.5)
        for one in running:
            one.stop()
        return [one.result()[0] for one in running]

    @contextmanager
    def load(self, rate: float, seconds: float, first: int) -> Any:
        """A worker and a server, and ``rate`` messages a second for so long; gives the server's port."""
        worker = Part(work, self.root, 0)
        with serving(self.root) as port:
            count = int(rate * seconds)
            arguments = (self.broker.bootstrap, self.topic, first, count, ENTITIES, rate)
            producer = _SPAWN.Process(target=stream_data.send, args=arguments)
            # The worker joins its group, and meets the entities that most events are of.
            time.sleep(5)
            producer.start()
            time.sleep(5)
            yield port
            producer.join()
            assert producer.exitcode == 0
        worker.stop()
        worker.result()


def taken(marks: list[Mark], first: int = 0, last: int | None = None) -> tuple[float, float]:
    """Microseconds a message between two marks: by clock, of the processor."""
    begin, end = marks[first], marks[-1] if last is None else marks[last]
    return tuple(1e6 * (end[i] - begin[i]) / (end[2] - begin[2]) for i in (0, 1))  # type: ignore[return-value]


def last_messages(marks: list[Mark]) -> int:
    """The mark from which the last messages are measured."""
    return next(i for i, one in enumerate(marks) if one[2] >= marks[-1][2] - LAST_MESSAGES)


def one_store(name: str, run: Run, sent: int) -> None:
    floors = [taken(run.floor(sent))]
    (marks,) = run.read_all(1, sent)
    floors.append(taken(run.floor(sent)))
    clock_us, cpu_us = (statistics.mean(found) for found in zip(*floors, strict=True))
    shown(
        f"{name}: polling and decoding alone",
        (clock_us, cpu_us),
        f"single: {floors[0][0]:.1f}, {floors[1][0]:.1f} us",
    )
    last = taken(marks, last_messages(marks))
    for what, found in ((f"worker, all {sent:,}", taken(marks)), (f"worker, last {LAST_MESSAGES:,}", last)):
        shown(
            f"{name}: {what}",
            found,
            f"of the floor: {clock_us / found[0]:.2f} by clock, {cpu_us / found[1]:.2f} by CPU",
        )
    rate = run.options.rate or 0.5e6 / last[0]
    first = FIRST + sent
    with run.load(rate, run.options.seconds + 5, first) as port:
        fresh = Part(
            ask_until_shown, port, run.broker.bootstrap, run.topic, 10**9, run.options.seconds
        ).result()
    print(f"{name}: freshness at {rate:,.0f} messages/s: {percentiles(fresh)}", flush=True)
    first += int(rate * (run.options.seconds + 5))
    with run.load(rate, run.options.seconds + 5, first) as port:
        pushing = Part(push, port, 2 * 10**9, run.options.seconds)
        began_s = time.perf_counter()
        subprocess.run(
            [*featurestore(run.root), "backfill", "elsewhere"], check=True, stdout=subprocess.DEVNULL
        )
        filled_s = time.perf_counter() - began_s
        pushes = pushing.result()
    print(
        f"{name}: pushes of ten rows beside the same load and a backfill: {percentiles(pushes)}, none failed"
    )
    print(
        f"{name}: the backfill of {run.options.others:,} other events beside it: {filled_s:.1f} s", flush=True
    )


def shown(what: str, found: tuple[float, float], more: str) -> None:
    print(f"{what:48} {found[0]:6.1f} us by clock, {found[1]:6.1f} us of CPU; {more}", flush=True)


def percentiles(taken_s: list[float]) -> str:
    cuts = statistics.quantiles(taken_s, n=100, method="inclusive")
    return (
        f"p50 {1000 * statistics.median(taken_s):.0f} ms, p99 {1000 * cuts[98]:.0f} ms, "
        f"worst {1000 * max(taken_s):.0f} ms of {len(taken_s)}"
    )


def two_workers(one: Run, two: Run, sent: int) -> None:
    """Processor time for a message, from each worker's second commit on."""
    found = []
    for run, workers in ((one, 1), (two, 2)):
        marks = run.read_all(workers, sent)
        cpu_s = sum(of_one[-1][1] - of_one[0][1] for of_one in marks)
        found.append(1e6 * cpu_s / sum(of_one[-1][2] - of_one[0][2] for of_one in marks))
    print(
        f"PostgreSQL: CPU of one worker {found[0]:.1f} us a message, of two {found[1]:.1f}: "
        f"{found[1] / found[0]:.2f} times", flush=True,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--history", type=int, default=1_000_000)
    parser.add_argument("--others", type=int, default=500_000)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--rate", type=float, help="messages a second of the load, else half of what it took")
    parser.add_argument("--only", choices=("sqlite", "postgresql", "two"))
    options = parser.parse_args()
    with ExitStack() as opened:
        broker = opened.enter_context(running_broker())
        server = opened.enter_context(Postgres(DURABLE, place=options.directory))
        directory = Path(opened.enter_context(tempfile.TemporaryDirectory(dir=options.directory)))

        def sent_to(topic: str, messages: int) -> int:
            stream_data.make_topic(broker.bootstrap, topic)
            stream_data.send(broker.bootstrap, topic, FIRST, messages, ENTITIES)
            return messages

        for name, of in (("SQLite", "sqlite"), ("PostgreSQL", "postgresql")):
            if options.only in (None, of):
                sent = sent_to(of, options.messages)
                url = server.database() if of == "postgresql" else None
                one_store(name, Run(directory / of, broker, of, url, options), sent)
        if options.only in (None, "two"):
            sent = sent_to("two", options.messages // 2)
            runs = [Run(directory / f"two-{n}", broker, "two", server.database(), options) for n in range(2)]
            two_workers(runs[0], runs[1], sent)


if __name__ == "__main__":
    main()
