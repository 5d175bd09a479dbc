"""``featurestore serve`` as a process: it logs, drains when told to stop, and says why it can't start."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import httpx
from api_project import MIDNIGHT, write_project


def serve(directory: Path, *arguments: str, **settings: str) -> subprocess.Popen[str]:
    environment: Mapping[str, str] = os.environ | {
        f"FEATURESTORE_{name}": value for name, value in settings.items()
    }
    command = [
        sys.executable,
        "-c",
        "import sys; from featurestore.cli import main; sys.exit(main())",
        "-C",
        str(directory),
        "serve",
        *arguments,
    ]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def test_it_drains_when_it_is_told_to_stop_and_logs_each_request_as_json(tmp_path: Path) -> None:
    port = free_port()
    process = serve(
        write_project(tmp_path / "project"), "--port", str(port), SERVING__LOG_REQUESTS="true"
    )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        deadline_s = time.monotonic() + 280
        while True:
            assert process.poll() is None and time.monotonic() < deadline_s
            try:
                if httpx.get(f"{url}/ready").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        body = {"features": ["spend:n_sum_1d"], "entities": {"card": ["c1"]}, "as_of": MIDNIGHT}
        content = json.dumps(body).encode()
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            head = f"POST /get-online-features HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n"
            connection.sendall(f"{head}content-type: application/json\r\n\r\n".encode() + content[:10])
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            connection.sendall(content[10:])
            answer = b"".join(iter(lambda: connection.recv(65_536), b""))
        assert answer.startswith(b"HTTP/1.1 200") and b'"values":[30]' in answer
        _, logged = process.communicate(timeout=60)
        # The server drains, then lets the signal end it as it would have.
        assert process.returncode in (0, -signal.SIGTERM)
        lines = [json.loads(line) for line in logged.splitlines() if line.startswith("{")]
        last = next(line for line in lines if line["path"] == "/get-online-features")
        assert (last["method"], last["status"]) == ("POST", 200) and last["seconds"] > 0
    finally:
        process.kill()
        process.communicate()


def test_a_project_without_a_store_is_told_what_to_run(tmp_path: Path) -> None:
    (tmp_path / "features.py").write_text("")
    process = serve(tmp_path)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1 and 'run "featurestore apply"' in said and "Traceback" not in said
