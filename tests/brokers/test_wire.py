"""What a connection has beside nats-py's client: here, what has not left yet, and what that is good for."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest

from tests.brokers.tools import USERS, connected, eventually_on_loop, run
from tests.faults import network
from tests.servers import NatsServer

MESSAGE = bytes(6 << 20)


class Silent:
    """An owner that is told nothing: nobody listens to what it sends."""

    def answered(self, index: int, data: bytes, status: str | None) -> None:
        """Word that nobody listens."""

    def denied(self, index: int, maybe_stored: bool) -> None:
        """Never."""

    def lost(self, index: int) -> None:
        """The end of the test, or of the connection."""


@pytest.fixture
def narrow(nats_server: Callable[..., NatsServer], monkeypatch: pytest.MonkeyPatch) -> Iterator[network.TcpProxy]:
    """A way to a nats-server that holds little of what is under way; a sign of life is waited for one second."""
    monkeypatch.setattr("proxy.brokers.connection.CHECK_SECONDS", 1.0)
    monkeypatch.setattr(network, "_AHEAD", 1)
    port = urlsplit(nats_server("max_payload: 8MB", users=USERS).url).port
    assert port is not None
    with network.TcpProxy(port) as proxy:
        proxy._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        yield proxy


async def _check_behind(url: str, spoil: Callable[[], None]) -> tuple[bool, list[str]]:
    """Sends much, asks for a sign of life, and tells whether the connection is alive then, and what was noted."""
    notices: list[str] = []
    async with connected(url, notice=lambda event, **_: notices.append(event)) as connection:
        frame = b"PUB nobody %b %d\r\n%b\r\n" % (connection.reply_subject(1).encode(), len(MESSAGE), MESSAGE)
        spoil()
        connection.send(Silent(), 0, 1, "nobody", frame * 2, 2)
        connection.flush()
        assert connection._client.backlog > len(MESSAGE)
        connection.check()
        await eventually_on_loop(lambda: connection._checking is None, 30)
        alive = connection.alive
    await eventually_on_loop(lambda: connection._client.backlog == 0)
    return alive, notices


@pytest.mark.slow
def test_a_server_that_takes_a_backlog_slowly_is_there(narrow: network.TcpProxy) -> None:
    """Its answer comes behind all of it, seconds later; ending the connection would send it all again, and again."""

    def spoil() -> None:
        narrow.rate = 4e6

    assert run(_check_behind(f"nats://127.0.0.1:{narrow.port}", spoil)) == (True, [])


@pytest.mark.slow
def test_a_server_that_takes_nothing_of_a_backlog_is_not(narrow: network.TcpProxy) -> None:
    """However much waits for it, which is dropped with the connection."""

    def spoil() -> None:
        narrow.silent = True

    assert run(_check_behind(f"nats://127.0.0.1:{narrow.port}", spoil)) == (False, ["broker_silent"])
