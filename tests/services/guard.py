"""Runs a server for as long as its caller lives: ``python guard.py DIRECTORY SIGNAL``.

Each line of standard input is a command, as a JSON list: once the server before it has ended it is started
in DIRECTORY, as the directory's owner, and its process id is printed. When the input closes, however the
caller ended, the server gets SIGNAL (a number) and the directory goes. A guard that is killed takes the
server with it.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1
ENDS_WITHIN_S = 20


def main() -> None:
    directory, ending = Path(sys.argv[1]), signal.Signals(int(sys.argv[2]))
    server: subprocess.Popen[bytes] | None = None
    try:
        for line in sys.stdin:
            if server is not None:
                server.wait()
            server = started(json.loads(line), directory, ending)
            sys.stdout.write(f"{server.pid}\n")
            sys.stdout.flush()
    finally:
        if server is not None:
            ended(server, ending)
        shutil.rmtree(directory, ignore_errors=True)


def started(command: list[str], directory: Path, ending: signal.Signals) -> subprocess.Popen[bytes]:
    owner = directory.stat() if os.geteuid() == 0 else None
    libc = ctypes.CDLL(None)

    def prepare() -> None:
        # Runs after the change of user, which would reset it.
        libc.prctl(PR_SET_PDEATHSIG, int(ending))

    return subprocess.Popen(
        command,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=(directory / "log").open("ab"),
        user=owner.st_uid if owner else None,
        group=owner.st_gid if owner else None,
        extra_groups=[] if owner else None,
        preexec_fn=prepare,
    )


def ended(server: subprocess.Popen[bytes], ending: signal.Signals) -> None:
    server.send_signal(ending)
    try:
        server.wait(ENDS_WITHIN_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


if __name__ == "__main__":
    main()
