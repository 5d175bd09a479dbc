"""A PostgreSQL server of the tests' own: Debian's package, a temporary directory, a port of its own.

It is installed where it is missing and we may (root, apt-get). It ends with the process that started it, and
leaves nothing behind. ``fsync`` is off: what is lost with the machine is lost, what is lost with a killed
server is not, because the system's page cache outlives it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql

GUARD = Path(__file__).with_name("guard.py")
PACKAGE = "postgresql"
MAJOR = "15"
"""The version that is taken where there are several: Debian 12's, and that of docker-compose.yml."""
PASSWORD = "a password, p@ss:word"  # needs quoting in a URL
USER = "postgres"
STARTS_WITHIN_S = 60.0
IMMEDIATE, FAST = signal.SIGQUIT, signal.SIGINT  # as PostgreSQL takes them

SETTINGS: Mapping[str, str] = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "on",
    "shared_buffers": "128MB",
    "max_connections": "100",
    "timezone": "Asia/Kolkata",  # nothing may depend on it
    "unix_socket_directories": "",
    "logging_collector": "off",
    "min_wal_size": "64MB",
    "max_wal_size": "256MB",
}


class ServiceError(Exception):
    """A service that the tests need can't be had; the message says what to do."""


def binaries() -> Path:
    """Where initdb and postgres are; installs Debian's package where there are none."""
    found = _found()
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        _install()
        found = _found()
    if found is None:
        raise ServiceError(
            f"the tests need PostgreSQL and find none: install it (apt-get install {PACKAGE}), "
            "or put initdb and postgres on the PATH"
        )
    return found


def _found() -> Path | None:
    found = {path.parts[-3]: path for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")}
    packaged = sorted(found, key=lambda version: (version == MAJOR, float(version)), reverse=True)
    on_path = shutil.which("initdb")
    candidates = [*(found[version] for version in packaged), *([Path(on_path).resolve()] if on_path else [])]
    return next((path.parent for path in candidates if (path.parent / "postgres").exists()), None)


def _install() -> None:
    """One process at a time; the package's own cluster is neither made nor started."""
    with (Path(tempfile.gettempdir()) / "featurestore-apt.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _found() is not None:
            return
        cluster = Path("/etc/postgresql-common/createcluster.conf")
        if not cluster.exists():
            cluster.parent.mkdir(parents=True, exist_ok=True)
            cluster.write_text("create_main_cluster = false\n")
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        options = ["-qq", "-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Options::=--force-confold"]
        for arguments in (["update"], ["install", "--yes", "--no-install-recommends", PACKAGE]):
            done = subprocess.run(
                ["apt-get", *options, *arguments], env=quiet, capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise ServiceError(f"apt-get {' '.join(arguments)} failed: {done.stderr.strip()[-2000:]}")


class Postgres:
    """A running server; ``database()`` makes databases in it."""

    def __init__(self, settings: Mapping[str, str] = SETTINGS, *, place: Path | None = None) -> None:
        self._settings = settings
        self._binaries = binaries()
        self._directory = Path(tempfile.mkdtemp(prefix="featurestore-postgres-", dir=place or _place()))
        self._owner = self._server_user()
        self._databases = 0
        self.pid = self.port = 0
        self._guard = subprocess.Popen(
            [sys.executable, "-I", GUARD, self._directory, str(int(IMMEDIATE))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the tests; the guard sees them end
        )
        try:
            self._initialize()
            self.start()
        except BaseException:
            self.close()
            raise

    def url(self, database: str) -> str:
        """What goes into ``[store] url``."""
        return f"postgresql://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/{database}"

    def database(self, *, template: str = "template0") -> str:
        """The URL of a new database."""
        self._databases += 1
        name = f"test_{self._databases}"
        self.create(name, template=template)
        return self.url(name)

    def create(self, name: str, *, template: str = "template0") -> None:
        names = sql.Identifier(name), sql.Identifier(template)
        made = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(*names)
        with self.connect() as connection:
            connection.execute(made)

    def drop(self, url: str) -> None:
        """Drop a database of ``database()``, whoever is connected."""
        name = sql.Identifier(url.rpartition("/")[2])
        with self.connect() as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        return psycopg.connect(self.url(database), autocommit=True)

    # Its life

    def start(self) -> None:
        """Start it, on the port that it had or else on a free one."""
        again = self.port != 0
        for _ in range(20):
            if not again:
                self.port = _free_port()
            self._spawn()
            if self._answers():
                return
            said = self._log()[-500:]
            # Another process has taken the port; backends of a server that was killed are still ending.
            if not ("still in use" in said or ("could not bind" in said and not again)):
                break
            time.sleep(0.1)
        raise ServiceError(f"PostgreSQL does not start: {self._log()[-2000:]}")

    def kill(self) -> None:
        """kill -9 of the server; its backends notice and end."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it as an operator's restart does: sessions are ended, nothing is lost."""
        self._end(FAST)

    def kill_backends(self, database: str) -> int:
        """kill -9 of every backend of a database: the server then recovers, and all sessions end."""
        with self.connect() as connection:
            found = connection.execute("SELECT pid FROM pg_stat_activity WHERE datname = %s", [database])
            pids = [pid for (pid,) in found.fetchall()]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(pids)

    def terminate_backends(self, database: str) -> int:
        """End every session of a database, and no other."""
        ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = %s"
        with self.connect() as connection:
            row = connection.execute(ended, [database]).fetchone()
        assert row is not None
        return int(row[0])

    def close(self) -> None:
        assert self._guard.stdin is not None and self._guard.stdout is not None
        self._guard.stdin.close()
        self._guard.wait()
        self._guard.stdout.close()

    def __enter__(self) -> Postgres:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Inside

    def _server_user(self) -> pwd.struct_passwd | None:
        """PostgreSQL refuses root: then it is the user that Debian's package makes."""
        if os.geteuid() != 0:
            return None
        try:
            owner = pwd.getpwnam("postgres")
        except KeyError:
            raise ServiceError("PostgreSQL does not run as root, and there is no user postgres") from None
        os.chown(self._directory, owner.pw_uid, owner.pw_gid)
        return owner

    def _initialize(self) -> None:
        password = self._directory / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        done = subprocess.run(
            [self._binaries / "initdb", "--pgdata", self._directory / "data", "--username", USER,
             "--pwfile", password, "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8",
             "--no-sync"],
            cwd=self._directory,
            user=self._owner.pw_uid if self._owner else None,
            group=self._owner.pw_gid if self._owner else None,
            extra_groups=[] if self._owner else None,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise ServiceError(f"initdb failed: {done.stderr.strip()[-2000:]}")

    def _spawn(self) -> None:
        settings = {**self._settings, "port": str(self.port), "listen_addresses": "127.0.0.1"}
        chosen = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = [str(self._binaries / "postgres"), "-D", str(self._directory / "data"), *chosen]
        assert self._guard.stdin is not None and self._guard.stdout is not None
        self._guard.stdin.write(json.dumps(command) + "\n")
        self._guard.stdin.flush()
        self.pid = int(self._guard.stdout.readline())

    def _end(self, how: signal.Signals) -> None:
        os.kill(self.pid, how)
        while _lives(self.pid):
            time.sleep(0.005)

    def _answers(self) -> bool:
        until_s = time.monotonic() + STARTS_WITHIN_S
        while time.monotonic() < until_s and _lives(self.pid):
            try:
                self.connect().close()
                return True
            except psycopg.OperationalError:
                time.sleep(0.02)
        return False

    def _log(self) -> str:
        log = self._directory / "log"
        return log.read_text(errors="replace") if log.exists() else ""


def _place() -> Path | None:
    """In memory where there is room: hundreds of databases are made and dropped."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 4e9
    return memory if roomy else None


def _lives(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its guard does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
