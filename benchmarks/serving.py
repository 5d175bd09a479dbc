"""How fast ``featurestore serve`` answers, beside a bare ASGI app that sends the same bytes in the same run.

    python -m benchmarks.serving [DIRECTORY] [--events 10000000] [--entities 100000] [--seconds 5]

A store of 10M events of 100k entities (0.1 % delivered again, 0.1 % corrected; made and filled once, kept
in DIRECTORY), asked over HTTP for 5 features of 1 and of 100 random entities as of one instant, over 1 and
16 connections: requests a second, and the median and 99th percentile of their latency, medians of three
rounds; and the same of a server that logs every answer (``request_log.sample = 1``). The load is made by
wrk where it is installed, else by this process. Before that, answers are compared with sums by ``math.fsum``
over the events.

Last numbers (November 2026, two cores shared with the load only): 10M events applied and filled in 10.4
s, 0.37 GB. One entity: 1,068 requests/s, p50 0.90 ms, 0.10 of bare ASGI; over 16 connections 1,104/s. 100
entities: 287/s, p50 3.4 ms, 0.03 of bare ASGI; over 16 connections 189/s.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.data import DAY_US, DAYS, START_US, make
from featurestore.dtypes import instant_text

AS_OF_US = START_US + (DAYS - 10) * DAY_US
FEATURES = ("count_1h", "amount_sum_1d", "amount_sum_30d", "amount_mean_30d", "amount_last")
BODIES = 500
ROUNDS = 3

FEATURES_PY = '''
"""Five features of an entity."""
from featurestore import Entity, EventSource, FeatureView, Parquet, agg

entity = Entity("entity", key="entity_id")
events = EventSource("events", log=Parquet("corrected.parquet"), event_time="ts", id="id")
activity = FeatureView("activity", entity=entity, source=events, features=[
    agg.count(windows=["1h"]), agg.sum("amount", windows=["1d", "30d"]), agg.mean("amount", windows=["30d"]),
    agg.last("amount"),
])
'''


@dataclass(frozen=True)
class Round:
    requests_s: float
    p50_ms: float
    p99_ms: float
    failed: int


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument(
        "directory", type=Path, nargs="?", default=Path(tempfile.gettempdir()) / "featurestore-benchmarks"
    )
    arguments.add_argument("--events", type=int, default=10_000_000)
    arguments.add_argument("--entities", type=int, default=100_000)
    arguments.add_argument("--seconds", type=float, default=5.0)
    options = arguments.parse_args()
    project = filled(options.directory, options.events, options.entities)
    check(project, options.entities)
    for line in measured(project, options.entities, options.seconds):
        print(line, flush=True)


def filled(directory: Path, events: int, entities: int) -> Path:
    """The project, applied and filled."""
    project = make(directory.resolve(), events=events, entities=entities)
    (project / "features.py").write_text(FEATURES_PY)
    begin_s = time.perf_counter()
    for command in ("apply", "backfill"):
        subprocess.run([*featurestore(project), command], check=True, stdout=subprocess.DEVNULL)
    size = (project / ".featurestore" / "store.db").stat().st_size
    print(f"apply and backfill: {time.perf_counter() - begin_s:.1f} s, store {size / 1e9:.2f} GB", flush=True)
    return project


def featurestore(project: Path) -> list[str]:
    code = "import sys; from featurestore.cli import main; sys.exit(main())"
    return [sys.executable, "-c", code, "-C", str(project)]


def measured(project: Path, entities: int, seconds: float) -> Iterator[str]:
    """A line for each load."""
    yield f"{'entities':>8} {'connections':>11} {'server':>12} {'requests/s':>11} {'p50 ms':>8} {'p99 ms':>8}"
    draw = random.Random(1)
    for count in (1, 100):
        bodies = [body(draw, count, entities) for _ in range(BODIES)]
        with serving(project) as port:
            answer = post(port, bodies[0])
            ours = {c: rounds(port, bodies, c, seconds) for c in (1, 16)}
        with serving(project, log=True) as port:
            logging = {c: rounds(port, bodies, c, seconds) for c in (1, 16)}
        with bare(answer) as port:
            theirs = {c: rounds(port, bodies, c, seconds) for c in (1, 16)}
        for connections in (1, 16):
            mine, least = ours[connections], theirs[connections]
            logs = logging[connections]
            for name, found in (("featurestore", mine), ("which logs", logs), ("bare ASGI", least)):
                yield (
                    f"{count:8} {connections:11} {name:>12} {found.requests_s:11.0f} {found.p50_ms:8.2f} "
                    f"{found.p99_ms:8.2f}" + (f"  {found.failed} FAILED" if found.failed else "")
                )
            yield f"{'':20} {'ratio':>12} {mine.requests_s / least.requests_s:11.3f}"
            yield f"{'':20} {'logging':>12} {logs.requests_s / mine.requests_s:11.3f}"


def body(draw: random.Random, count: int, entities: int) -> bytes:
    keys = [draw.randrange(entities) for _ in range(count)]
    asked = {
        "features": [f"activity:{name}" for name in FEATURES],
        "entities": {"entity_id": keys},
        "as_of": instant_text(AS_OF_US),
    }
    return json.dumps(asked, separators=(",", ":")).encode()


def check(project: Path, entities: int) -> None:
    """Answers against the events themselves: 1,000 entities."""
    table = pq.read_table(project / "corrected.parquet")
    entity, amount = table["entity_id"].to_numpy(), table["amount"].to_numpy()
    ts, ids = table["ts"].cast("int64").to_numpy(), table["id"].to_numpy()
    draw = random.Random(2)
    keys = draw.sample(range(entities), min(1000, entities))
    order = np.argsort(entity, kind="stable")
    first = np.searchsorted(entity[order], keys, "left")
    end = np.searchsorted(entity[order], keys, "right")
    asked = {"features": ["activity:amount_sum_30d"], "entities": {"entity_id": keys}}
    with serving(project) as port:
        content = json.dumps(asked | {"as_of": instant_text(AS_OF_US)}).encode()
        values = json.loads(post(port, content))["results"][1]["values"]
    corrected = 0
    for i, value in enumerate(values):
        rows = order[first[i] : end[i]]
        rows = rows[(ts[rows] < AS_OF_US) & (ts[rows] >= AS_OF_US - 30 * DAY_US)]
        amounts: dict[int, set[float]] = {}
        for row in rows.tolist():
            amounts.setdefault(int(ids[row]), set()).add(float(amount[row]))
        if any(len(of_one) > 1 for of_one in amounts.values()):
            corrected += 1  # which version counts is the content hash's choice
            continue
        wanted = math.fsum(next(iter(of_one)) for of_one in amounts.values()) if amounts else None
        assert value == wanted, (keys[i], value, wanted)
    print(f"checked {len(keys) - corrected} sums against math.fsum ({corrected} with corrections left out)")


def post(port: int, content: bytes) -> bytes:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/get-online-features", content, {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request) as response:
        made: bytes = response.read()
        return made


@contextmanager
def serving(project: Path, *, log: bool = False) -> Iterator[int]:
    """The service; ``log``: it logs every answer."""
    port = free_port()
    environment = {"FEATURESTORE_REQUEST_LOG__SAMPLE": "1" if log else "0"}
    with process([*featurestore(project), "serve", "--port", str(port)], port, "/ready", **environment):
        yield port


@contextmanager
def bare(answer: bytes) -> Iterator[int]:
    """An ASGI app that reads the body and sends ``answer``."""
    port = free_port()
    code = f"""
import sys, uvicorn
answer = sys.stdin.buffer.read()
headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await send({{"type": "http.response.start", "status": 200, "headers": headers}})
    await send({{"type": "http.response.body", "body": answer}})
uvicorn.run(app, port={port}, access_log=False, log_level="error", lifespan="off")
"""
    with process([sys.executable, "-c", code], port, "/", answer):
        yield port


@contextmanager
def process(
    command: list[str], port: int, ready: str, stdin: bytes = b"", **environment: str
) -> Iterator[None]:
    with subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as running:
        assert running.stdin is not None
        running.stdin.write(stdin)
        running.stdin.close()
        try:
            while True:
                assert running.poll() is None, "the server has ended"
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}{ready}").read()
                    break
                except OSError:
                    time.sleep(0.1)
            yield
        finally:
            running.terminate()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


# Load


def rounds(port: int, bodies: list[bytes], connections: int, seconds: float) -> Round:
    load = by_wrk if shutil.which("wrk") else by_asyncio
    load(port, bodies, connections, min(1.0, seconds))
    found = [load(port, bodies, connections, seconds) for _ in range(ROUNDS)]
    return Round(
        statistics.median(one.requests_s for one in found),
        statistics.median(one.p50_ms for one in found),
        statistics.median(one.p99_ms for one in found),
        sum(one.failed for one in found),
    )


WRK = """
local bodies, k = {}, 0
for line in io.lines(os.getenv("BODIES")) do
  local headers = {["Content-Type"] = "application/json"}
  bodies[#bodies + 1] = wrk.format("POST", "/get-online-features", headers, line)
end
request = function() k = k % #bodies + 1; return bodies[k] end
function done(s, l, r)
  local bad = s.errors.status + s.errors.connect + s.errors.read + s.errors.write + s.errors.timeout
  io.write(string.format("RESULT %f %f %f %d\\n", s.requests / (s.duration / 1e6), l:percentile(50) / 1000,
    l:percentile(99) / 1000, bad))
end
"""


def by_wrk(port: int, bodies: list[bytes], connections: int, seconds: float) -> Round:
    directory = Path(os.environ.get("TMPDIR", "/tmp")) / f"featurestore-wrk-{os.getpid()}"
    directory.mkdir(exist_ok=True)
    try:
        (directory / "load.lua").write_text(WRK)
        (directory / "bodies").write_bytes(b"\n".join(bodies))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s"]
        made = subprocess.run(
            [*command, str(directory / "load.lua"), f"http://127.0.0.1:{port}"],
            env=os.environ | {"BODIES": str(directory / "bodies")},
            check=True, capture_output=True, text=True,
        )  # fmt: skip
    finally:
        shutil.rmtree(directory)
    found = re.search(r"RESULT (\S+) (\S+) (\S+) (\d+)", made.stdout)
    assert found is not None, made.stdout
    return Round(float(found[1]), float(found[2]), float(found[3]), int(found[4]))


def by_asyncio(port: int, bodies: list[bytes], connections: int, seconds: float) -> Round:
    taken: list[float] = []
    failed = 0

    async def one(number: int) -> None:
        nonlocal failed
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        draw = random.Random(number)
        while time.perf_counter() < end_s:
            content = draw.choice(bodies)
            begin_s = time.perf_counter()
            head = f"POST /get-online-features HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}"
            writer.write(f"{head}\r\ncontent-type: application/json\r\n\r\n".encode() + content)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", answer)
            assert length is not None
            await reader.readexactly(int(length[1]))
            taken.append(time.perf_counter() - begin_s)
            failed += not answer.startswith(b"HTTP/1.1 200")
        writer.close()

    async def all_of_them() -> None:
        await asyncio.gather(*(one(number) for number in range(connections)))

    end_s = time.perf_counter() + seconds
    asyncio.run(all_of_them())
    p50_s, p99_s = np.percentile(taken, [50, 99]).tolist()
    return Round(len(taken) / seconds, p50_s * 1000, p99_s * 1000, failed)


if __name__ == "__main__":
    main()
