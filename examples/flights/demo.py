"""`make demo`: the whole job on a year of flights, as a user would type it. Exits 1 if a value differs.

Time: the training set is made with `known_at="as_of"`: each flight sees what had been reported before its own
scheduled departure. A second one, of everything known today, shows what a leak would have promised.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from examples.flights import model, parity, plot
from examples.flights.prepare import prepare

HERE = Path(__file__).resolve().parent
OUTPUT = HERE / "output"
TRAINING = OUTPUT / "training.parquet"
LEAKY = OUTPUT / "training_leaky.parquet"
LINE = 116
READY_TIMEOUT_S = 180.0  # the first start on a machine compiles the kernel's loops
COMPARED_ROWS = 1_000

# A bad summer evening: two aircraft that flew that morning, and one that nobody knows.
QUESTION: dict[str, object] = {
    "features": [
        "origin_delays:count_3h",
        "origin_delays:dep_delay_mean_3h",
        "carrier_delays:late_share_24h",
        "aircraft_delays:arr_delay_last_24h",
    ],
    "entities": {
        "origin": ["JFK", "LGA", "EWR"],
        "carrier": ["B6", "B6", "UA"],
        "tailnum": ["N789JB", "N613JB", "N00000"],
    },
    "as_of": "2013-07-01T20:49:00-04:00",
    "known_at": "as_of",
}


def main() -> int:
    began = time.monotonic()
    timings: dict[str, float] = {}
    for left_over in (HERE / "data", HERE / ".featurestore", OUTPUT):
        shutil.rmtree(left_over, ignore_errors=True)
    OUTPUT.mkdir()

    with _step(timings, "The data: a year of flights as a log of reports, and a spine"):
        made = prepare(HERE / "data")
        print(f"{made.flights:,} flights, {made.reports:,} reports in {len(made.log)} Parquet files")
    with _step(timings, "Declare: what features.py adds to an empty store"):
        _run("featurestore plan")
        _run("featurestore apply")
    with _step(timings, "Backfill: all history into the store"):
        _run("featurestore backfill")
    with _step(timings, "Training set: every flight, as known at its own scheduled departure"):
        _run(f"{_training_set(TRAINING)} --known-at as_of")
    with _step(timings, "The same with everything known today: a leak, to compare with"):
        _run(_training_set(LEAKY))
    with _served(timings) as url:
        with _step(timings, "Ask online, at an instant of the past"):
            _curl(f"{url}/get-online-features", QUESTION)
        with _step(timings, f"Compare {COMPARED_ROWS:,} random flights, online with offline, bit for bit"):
            compared = parity.compare(TRAINING, url, rows=COMPARED_ROWS)
            print(compared.text())
    with _step(timings, "Train on January to September, predict the delays of October to December"):
        trained = model.evaluate(TRAINING, LEAKY)
        print(trained.text())
    with _step(timings, "Plot"):
        plot.draw(trained, OUTPUT / "delays.png")
        print(f"wrote {_shown(OUTPUT / 'delays.png')}")

    print(f"\nDone in {time.monotonic() - began:.0f} s")
    for title, seconds in timings.items():
        print(f"  {seconds:6.1f} s  {title}")
    equal = compared.rows - compared.differing_rows
    print(f"\nonline = offline: {equal:,} of {compared.rows:,} rows are the same bits")
    return 1 if compared.differing_rows else 0


def _training_set(path: Path) -> str:
    out = path.relative_to(HERE)
    return f"featurestore training-set data/spine.parquet -f arrival_delay --time scheduled_at -o {out}"


@contextmanager
def _step(timings: dict[str, float], title: str) -> Iterator[None]:
    print(f"\n== {title}", flush=True)
    began = time.monotonic()
    yield
    timings[title] = time.monotonic() - began


def _run(command: str) -> None:
    """Run a command in the example's directory and show what it says, long lines cut; exits if it fails."""
    print(f"$ {command}", flush=True)
    with subprocess.Popen(
        shlex.split(command), cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            text = line.rstrip()
            print(text if len(text) <= LINE else text[: LINE - 1] + "…", flush=True)
    if process.returncode:
        raise SystemExit(f"{command} ended with exit code {process.returncode}")


@contextmanager
def _served(timings: dict[str, float]) -> Iterator[str]:
    """`featurestore serve` on a free port while the block runs; yields its URL once it is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url, log = f"http://127.0.0.1:{port}", OUTPUT / "serve.log"
    command = f"featurestore serve --port {port}"
    with log.open("w") as said, _step(timings, "Serve"):
        print(f"$ {command} &", flush=True)
        process = subprocess.Popen(shlex.split(command), cwd=HERE, stdout=said, stderr=subprocess.STDOUT)
        try:
            _wait_until_ready(url, process, log)
        except BaseException:
            _stop(process)
            raise
        print(f"ready at {url}, its log is {_shown(log)}")
    try:
        yield url
    finally:
        _stop(process)


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < until and process.poll() is None:
        try:
            with urlopen(f"{url}/ready", timeout=5):
                return
        except (HTTPError, URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise SystemExit(f"the service did not become ready:\n{log.read_text()}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _curl(url: str, question: dict[str, object]) -> None:
    """Ask with curl, and show both; without curl on the machine the same request is made here."""
    body = json.dumps(question)
    told = ",\n     ".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in question.items())
    print(f"$ curl -s {url} -H 'Content-Type: application/json' -d '\n    {{{told}}}'", flush=True)
    headers = {"Content-Type": "application/json"}
    if shutil.which("curl"):
        command = ["curl", "-s", url, "-H", "Content-Type: application/json", "-d", body]
        answer = subprocess.run(command, check=True, capture_output=True).stdout
    else:
        print("(there is no curl here: Python asks)")
        with urlopen(Request(url, body.encode(), headers), timeout=60) as response:
            answer = response.read()
    made = json.loads(answer)
    if "results" not in made:
        raise SystemExit(f"the service answered {answer.decode()}")
    results = ",\n  ".join(json.dumps(column) for column in made["results"])
    print(f'{{"metadata": {json.dumps(made["metadata"])},\n "results": [\n  {results}]}}')


def _shown(path: Path) -> str:
    return os.path.relpath(path)


if __name__ == "__main__":
    sys.exit(main())
