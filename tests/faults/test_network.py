"""The TCP proxy of the faults: what passes, and what does not."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

from tests.brokers.fakes import FakeServer
from tests.faults.network import TcpProxy
from tests.servers import eventually


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """A server that greets, and keeps what comes."""
    server = FakeServer(b"hello")
    yield server
    server.close()


@pytest.fixture
def proxy(server: FakeServer) -> Iterator[TcpProxy]:
    """A proxy before it."""
    with TcpProxy(server.port) as proxy:
        yield proxy


@contextlib.contextmanager
def _client(proxy: TcpProxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), 5) as client:
        yield client


def test_everything_passes(server: FakeServer, proxy: TcpProxy) -> None:
    """Both ways, and the end of a connection too."""
    with _client(proxy) as client:
        assert client.recv(5) == b"hello"
        client.sendall(b"x" * 100_000)
        eventually(lambda: len(server.received) == 100_000)
    eventually(lambda: not server.open)


def test_silence_holds_back_and_keeps_connections(server: FakeServer, proxy: TcpProxy) -> None:
    """What was sent meanwhile comes afterwards."""
    proxy.silent = True
    with _client(proxy) as client:
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.recv(5)
        proxy.heal()
        client.settimeout(5)
        assert client.recv(5) == b"hello"


def test_a_delay_is_one(proxy: TcpProxy) -> None:
    """Each way."""
    proxy.delay = 0.3
    began = time.monotonic()
    with _client(proxy) as client:
        assert client.recv(5) == b"hello"
    assert time.monotonic() - began > 0.29


def test_a_rate_is_one(server: FakeServer, proxy: TcpProxy) -> None:
    """3 MB at 4 MB a second."""
    proxy.rate = 4e6
    began = time.monotonic()
    with _client(proxy) as client:
        client.sendall(b"x" * 3_000_000)
        eventually(lambda: len(server.received) == 3_000_000, 10)
    assert time.monotonic() - began > 0.5


def test_a_reset_ends_all_connections(proxy: TcpProxy) -> None:
    """With an error rather than an end."""
    with _client(proxy) as client:
        assert client.recv(5) == b"hello"
        assert proxy.reset() == 2
        with pytest.raises(ConnectionResetError):
            client.recv(5)


def test_a_truncated_connection_ends_in_the_middle(server: FakeServer, proxy: TcpProxy) -> None:
    """What was let through arrives, and nothing behind it."""
    with _client(proxy) as client:
        assert client.recv(5) == b"hello"
        proxy.truncate(3)
        client.sendall(b"abcdef")
        eventually(lambda: not server.open)
    assert server.received == b"abc"


def test_a_closed_proxy_lets_nobody_through(server: FakeServer, proxy: TcpProxy) -> None:
    """Until it is healed."""
    proxy.closed = True
    with contextlib.suppress(ConnectionResetError), _client(proxy) as client:
        assert client.recv(5) == b""
    assert server.accepted == 0
    proxy.heal()
    with _client(proxy) as client:
        assert client.recv(5) == b"hello"


def test_many_servers_are_taken_in_turn(server: FakeServer) -> None:
    """As a load balancer does."""
    other = FakeServer(b"there")
    with TcpProxy(server.port, other.port) as proxy:
        greetings = []
        for _ in range(4):
            with _client(proxy) as client:
                greetings.append(client.recv(5))
    other.close()
    assert greetings == [b"hello", b"there"] * 2
