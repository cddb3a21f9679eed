"""Connections of our own: a small client that makes load, and connections that stay open and silent."""

from __future__ import annotations

import contextlib
import http.client
import resource
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from benchmarks.load import TIMEOUT_SECONDS, Answers, Request

_FILES_OF_OURS = 512
_PROBE = b"GET /monitoring/status HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


class Builtin:
    """Load made by threads in this process: exact, every request is answered before it ends, but slow."""

    def run(self, url: str, requests: Sequence[Request], connections: int, seconds: int) -> Answers:
        """See `Load.run`."""
        began = time.monotonic()
        clients = [_Client(url, requests, at, began + seconds) for at in range(connections)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        took = sorted(one for client in clients for one in client.took) or [0.0]
        return Answers(
            completed=sum(len(client.took) for client in clients),
            refused=sum(client.refused for client in clients),
            broken=sum(client.broken for client in clients),
            seconds=time.monotonic() - began,
            p50_us=int(took[len(took) // 2] * 1e6),
            p99_us=int(took[len(took) * 99 // 100] * 1e6),
        )


class _Client(threading.Thread):
    """One keep-alive connection; `first` is the number of its first request. It stops when the connection fails."""

    def __init__(self, url: str, requests: Sequence[Request], first: int, end: float) -> None:
        super().__init__(daemon=True)
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT_SECONDS)
        self._requests, self._first, self._end = requests, first, end
        self.took: list[float] = []
        self.refused = self.broken = 0

    def run(self) -> None:
        with contextlib.closing(self._connection):
            while time.monotonic() < self._end and not self.broken:
                self._send(self._requests[(self._first + len(self.took)) % len(self._requests)])

    def _send(self, request: Request) -> None:
        began = time.monotonic()
        try:
            status, _ = exchange(self._connection, request)
        except (OSError, http.client.HTTPException):
            self.broken += 1
            return
        self.took.append(time.monotonic() - began)
        self.refused += status > 399


def exchange(connection: http.client.HTTPConnection, request: Request) -> tuple[int, bytes]:
    """Sends one request; status and body. Raises `OSError`, `HTTPException`."""
    connection.request(request.method, request.path, request.body, dict(request.headers))
    response = connection.getresponse()
    return response.status, response.read()


def send(url: str, request: Request) -> tuple[int, bytes]:
    """Sends one request on a connection of its own; status and body. Raises `OSError`, `HTTPException`."""
    with contextlib.closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT_SECONDS)) as connection:
        return exchange(connection, request)


def most_connections() -> int:
    """How many connections this process may hold open (RLIMIT_NOFILE, raised as far as allowed)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = 1 << 20 if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit - _FILES_OF_OURS


@contextlib.contextmanager
def idle_connections(url: str, count: int) -> Iterator[list[socket.socket]]:
    """Keep-alive connections, each of which has had one answer and then stays silent. Raises `OSError`."""
    address = urlsplit(url)
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(_used(address.hostname or "", address.port or 80)) for _ in range(count)]


def _used(host: str, port: int) -> socket.socket:
    connection = socket.create_connection((host, port), TIMEOUT_SECONDS)
    # Closing resets it, so that thousands of closed ones do not hold this machine's ports for a minute.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.sendall(_PROBE)
    connection.recv(1 << 16)
    connection.setblocking(False)
    return connection


def still_open(connections: Sequence[socket.socket]) -> int:
    """How many of the connections the server has not closed."""
    return sum(map(_is_open, connections))


def _is_open(connection: socket.socket) -> bool:
    try:
        while connection.recv(1 << 16):
            pass  # the rest of an answer
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False
