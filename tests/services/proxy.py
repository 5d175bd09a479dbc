"""A wire to PostgreSQL that can be cut at the worst moment: around a COMMIT, before or after the server has
it."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Literal

COMMIT = b"Q" + (4 + len(b"COMMIT\0")).to_bytes(4, "big") + b"COMMIT\0"


class Proxy:
    """Listens on ``port`` (0: a free one) and passes everything on; ``cut`` ends the connection that commits
    next, once."""

    def __init__(self, server_port: int, port: int = 0) -> None:
        self._server_port = server_port
        self._cut: Literal["before", "after"] | None = None
        self.cuts = 0
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, when: Literal["before", "after"]) -> None:
        """``before`` the server gets the next COMMIT, or ``after`` it has done it and answers."""
        self._cut = when

    def refuse(self) -> None:
        """Let nobody in any more."""
        # shutdown wakes the thread that accepts; close alone does not.
        _end(self._listener)
        self._listener.close()

    def close(self) -> None:
        self.refuse()
        for one in self._open:
            _end(one)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server_port))
                self._open += [client, server]
                for target, arguments in ((self._up, (client, server)), (self._down, (server, client))):
                    threading.Thread(target=target, args=arguments, daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if self._cut and COMMIT in data:
                    if self._cut == "after":
                        # The answer is swallowed here: the client is gone before it comes.
                        _end(client)
                        server.sendall(data)
                    self._cut = None
                    self.cuts += 1
                    break
                server.sendall(data)
        _end(client)
        _end(server)

    def _down(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                client.sendall(data)
        _end(client)


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
