"""More than the gateway can do, and clients that are slow or silent, beside the senders."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

from benchmarks.client import idle_connections, most_connections, still_open
from tests.faults.scene import Fault, Scene

_IDLE_SHORT, _IDLE_LONG = 1_000, 10_000
_SLOW_SENDERS, _SLOW_READERS = 200, 20
_ELEMENTS, _BATCHES = 300, 24  # each element is named in the answer to a batch that fails
_RECEIVES, _SEGMENT = 4096, 1400  # with the segments of a local network the system would hold megabytes for a reader
_TICK_SECONDS = 0.2


def overload(scene: Scene) -> None:
    """Messages take 0.2 s to be stored and 20 may be under way, so 100 in a second; the senders have 1,000 and more."""
    for proxy in scene.proxies:
        proxy.delay = 0.1
    scene.felt = 0.2
    scene.crew.await_status(503)
    scene.hold(4, 60)
    scene.heal_network()


def crowd(scene: Scene) -> None:
    """640 senders that do not pause: the processors are what is short."""
    scene.back = time.monotonic()
    scene.hold(3, 60)


def idle(scene: Scene) -> None:
    """Connections that have been used once and then stay silent."""
    wanted = _IDLE_LONG if scene.long else _IDLE_SHORT
    assert wanted <= most_connections(), "this process may not hold so many connections"
    scene.back = time.monotonic()
    with idle_connections(scene.gateway.url, wanted) as connections:
        scene.hold(1, 20)
        scene.crew.await_all()
        assert still_open(connections) == wanted


def slow_senders(scene: Scene) -> None:
    """Connections on which a request comes byte by byte."""
    scene.back = time.monotonic()
    with _slow(scene, _SLOW_SENDERS, _head(scene, 10_000), lambda connection: connection.send(b"1")):
        scene.hold(2, 20)
        scene.crew.await_all()


def slow_readers(scene: Scene) -> None:
    """Connections on which large answers come that nobody reads."""
    body = b"[" + b",".join([b"1"] * _ELEMENTS) + b"]"
    request = _head(scene, len(body)) + body
    assert _BATCHES * _answered(scene, request) > 1.5 * _absorbed(), "the system takes all of it for them"
    scene.back = time.monotonic()
    with _slow(scene, _SLOW_READERS, request * _BATCHES, lambda connection: None):
        scene.hold(2, 20)
        scene.crew.await_all()


def _head(scene: Scene, length: int) -> bytes:
    """A batch for a station that does not exist."""
    lines = [
        "POST /stations/absent/produce/batch HTTP/1.1",
        f"Host: {scene.gateway.host}",
        f"Authorization: Bearer {scene.crew.token}",
        "Content-Type: application/json",
        f"Content-Length: {length}",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def _answered(scene: Scene, request: bytes) -> int:
    """Bytes of the answer to a request."""
    name, _, port = scene.gateway.host.rpartition(":")
    with socket.create_connection((name, int(port)), timeout=10) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return sum(map(len, iter(lambda: connection.recv(1 << 16), b"")))


def _far(address: tuple[str, int]) -> socket.socket:
    """A connection as from far away, for which the system holds back little."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVES)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT)
    connection.settimeout(5)
    connection.connect(address)
    return connection


def _absorbed() -> int:
    """Bytes that can be sent to somebody here who reads none of them."""
    with socket.create_server(("127.0.0.1", 0)) as listener, _far(listener.getsockname()):
        sender, _ = listener.accept()
        with sender, contextlib.suppress(TimeoutError):
            sender.settimeout(0.2)
            sent = 0
            while True:
                sent += sender.send(bytes(1 << 16))
        return sent


@contextlib.contextmanager
def _slow(scene: Scene, count: int, first: bytes, then: Callable[[socket.socket], object]) -> Iterator[None]:
    """Many connections that send `first`, and do `then` five times a second while the block runs."""
    name, _, port = scene.gateway.host.rpartition(":")
    done = threading.Event()
    with contextlib.ExitStack() as stack:
        connections = []
        for _ in range(count):
            connection = stack.enter_context(_far((name, int(port))))
            connection.sendall(first)
            connections.append(connection)

        def run() -> None:
            while not done.wait(_TICK_SECONDS):
                for connection in connections:
                    with contextlib.suppress(OSError):  # the gateway may hang up on it
                        then(connection)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


_FEW = {"MAX_PENDING_MESSAGES": "20"}

FAULTS = [
    Fault(
        *("load: ten times what it can do", overload, frozenset({503}), _FEW),
        proxied=True,
        refusal=1,
        latency=2,
        seconds=70,
    ),
    Fault("load: 640 senders without a pause", crowd, senders=640, pause=0.0, growth=128, seconds=70),
    Fault("load: idle connections (10,000)", idle, growth=128),
    Fault("load: 200 slow senders", slow_senders),
    Fault("load: 20 slow readers", slow_readers),
]
