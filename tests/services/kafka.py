"""A real Apache Kafka broker for tests: one node in KRaft mode, in a directory of its own, on ports of its
own.

Its jars come from Maven Central, each checked against the hash in ``kafka.jars`` (the one place where
versions are pinned), and are kept in the user's cache directory. The broker needs Java 17 and dies with the
process that started it.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

JARS = Path(__file__).with_name("kafka.jars")
REPOSITORY = os.environ.get("KAFKA_TEST_MAVEN_URL", "https://repo1.maven.org/maven2").rstrip("/")
CACHE = Path(
    os.environ.get("KAFKA_TEST_CACHE")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "featurestore-tests" / "kafka"
)
CLUSTER_ID = "ZmVhdHVyZXN0b3JlLXRlcw"
START_TIMEOUT_S = 60.0

# A small heap, one collector thread and no second compiler: a broker that starts in a second and lets the
# tests have the cores.
JVM = ("-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")
LOGGING = ("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true")

SETTINGS = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
log.dirs={directory}/logs
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
message.max.bytes=20000000
replica.fetch.max.bytes=20000000
socket.request.max.bytes=40000000
log.retention.check.interval.ms=500
log.initial.task.delay.ms=500
log.segment.delete.delay.ms=0
"""


class Broker:
    """One broker. ``bootstrap`` is where clients connect; it stays the same over restarts."""

    def __init__(self, directory: Path, more: str = "") -> None:
        self.directory = directory
        self.port, controller = _free_ports(2)
        self._settings = directory / "server.properties"
        self._settings.write_text(
            SETTINGS.format(port=self.port, controller=controller, directory=directory) + more,
            encoding="utf-8",
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._run("kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(self._settings))

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start, and return when clients are answered; whatever keeps it from starting is raised."""
        assert self._process is None
        with (self.directory / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*_java("kafka.Kafka"), str(self._settings)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                self.kill()
                raise RuntimeError(f"Kafka did not start:\n{self._last_lines()}")
            time.sleep(0.05)

    def kill(self) -> None:
        """As a power cut would: nothing is flushed or said."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Stop; the broker is given a few seconds for its own cleaning up."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)

    def _answers(self) -> bool:
        from kafka import KafkaAdminClient
        from kafka.errors import KafkaError

        with suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), 0.2).close()
            try:
                admin = KafkaAdminClient(bootstrap_servers=self.bootstrap, request_timeout_ms=5_000)
            except KafkaError:
                return False
            try:
                return bool(admin.describe_cluster())
            except KafkaError:
                return False
            finally:
                admin.close()
        return False

    def _run(self, *command: str) -> None:
        done = subprocess.run([*_java(command[0]), *command[1:]], capture_output=True, check=False)
        if done.returncode:
            said = (done.stdout + done.stderr).decode(errors="replace")
            raise RuntimeError(f"{command[0]} failed:\n{said[-2000:]}")

    def _last_lines(self) -> str:
        log = self.directory / "broker.log"
        return log.read_text(errors="replace")[-4000:] if log.exists() else ""


@contextmanager
def running_broker(more: str = "") -> Iterator[Broker]:
    """A broker while the block runs, with ``more`` settings; its directory is gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="kafka-"))
    try:
        broker = Broker(directory, more)
        broker.start()
        try:
            yield broker
        finally:
            broker.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def jars() -> list[Path]:
    """The pinned jars, downloaded where they aren't there yet."""
    wanted = [line.split() for line in JARS.read_text(encoding="utf-8").splitlines() if line.strip()]
    CACHE.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(8) as threads:
        return list(threads.map(lambda one: _jar(*one), wanted))


def _jar(name: str, sha256: str) -> Path:
    group, artifact, version = name.split(":")
    path = CACHE / f"{artifact}-{version}-{sha256[:12]}.jar"
    if path.exists():
        return path
    url = f"{REPOSITORY}/{group.replace('.', '/')}/{artifact}/{version}/{artifact}-{version}.jar"
    data = _downloaded(url)
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise RuntimeError(f"{name}: sha256 is {found}, pinned is {sha256}")
    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.write_bytes(data)
    part.rename(path)
    return path


def _downloaded(url: str, tries: int = 4) -> bytes:
    for left in reversed(range(tries)):
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                return bytes(answer.read())
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            if not left or (isinstance(error, urllib.error.HTTPError) and error.code in (401, 403, 404)):
                raise RuntimeError(
                    f"{url} can't be downloaded: {error} (KAFKA_TEST_MAVEN_URL names another repository)"
                ) from error
            time.sleep(tries - left)
    raise AssertionError("unreachable")


def _java(main: str) -> list[str]:
    java = shutil.which("java", path=f"{os.environ.get('JAVA_HOME', '')}/bin:{os.environ.get('PATH', '')}")
    if java is None:
        raise RuntimeError("Kafka needs Java 17 or later (on Debian: apt-get install default-jre-headless)")
    return [java, *JVM, *LOGGING, "-cp", ":".join(map(str, jars())), main]


def _free_ports(count: int) -> Sequence[int]:
    held = [socket.socket() for _ in range(count)]
    try:
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    assert _LIBC is not None
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
