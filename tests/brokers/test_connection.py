"""One connection to a NATS server: the parts of nats-py it leans on, logging on, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import time
from collections.abc import Callable, Iterator
from typing import Any

import nats
import pytest
from nats.aio.client import Client

from proxy.brokers.connection import connect
from proxy.credentials import Credentials
from proxy.errors import BrokerAway, BrokerRefused, Forbidden, GatewayError, Unauthorized
from tests.brokers.fakes import INFO, FakeServer
from tests.brokers.tools import (
    MONITOR,
    ROOT,
    USERS,
    Operator,
    connected,
    flushed,
    options,
    run,
    sessions,
)
from tests.servers import ROOT as PROJECT
from tests.servers import NatsServer, eventually, free_port

Servers = Callable[..., NatsServer]


def log_on(url: str, credentials: Credentials = ROOT, timeout: float = 5) -> None:
    """Connects and closes the connection; raises what `connect` raises."""

    async def work() -> None:
        await (await connect(url, credentials, options(), timeout)).close()

    run(work())


def log_on_failure(url: str, credentials: Credentials = ROOT, timeout: float = 5) -> GatewayError:
    """The error that logging on ends with."""
    with pytest.raises(GatewayError) as caught:
        log_on(url, credentials, timeout)
    return caught.value


@pytest.fixture
def server(nats_server: Servers) -> NatsServer:
    """A nats-server with the user `root`."""
    return nats_server(MONITOR, users=USERS)


@pytest.fixture
def fake() -> Iterator[Callable[[bytes], FakeServer]]:
    """Starts servers that say one thing."""
    with contextlib.ExitStack() as stack:

        def start(greeting: bytes) -> FakeServer:
            server = FakeServer(greeting)
            stack.callback(server.close)
            return server

        yield start


# ---- nats-py, as it is used --------------------------------------------------------------------------------------


def test_nats_py_is_the_one_that_was_looked_into() -> None:
    """Private parts of nats-py are used, so the installed version is the pinned one."""
    pinned = f"nats-py=={importlib.metadata.version('nats-py')}"
    assert pinned in (PROJECT / "requirements.txt").read_text().split()


def test_nats_py_writes_frames_given_to_its_transport(server: NatsServer) -> None:
    """`_transport.write` sends bytes as they are, at once."""

    async def work(client: Client) -> bytes:
        subscription = await client.subscribe("greeting")
        await flushed(client)
        assert client._transport is not None
        client._transport.write(b"PUB greeting 5\r\nhello\r\n")
        return (await subscription.next_msg(2)).data

    assert Operator(server).ask(work) == b"hello"


def test_nats_py_hands_over_each_message_through_one_method(server: NatsServer) -> None:
    """`_process_msg` is given all that a reply consists of, as bytes."""
    seen: list[Any] = []

    class Tapped(Client):
        async def _process_msg(self, *args: Any) -> None:
            seen.append(args)

    async def work() -> None:
        client = Tapped()
        await client.connect(server.url, user="root", password="memphis")
        subscription = await client.subscribe("greeting")
        await client.publish("greeting", b"hello", reply="back")
        await client.publish("greeting", b"", headers={"a": "b"})
        await flushed(client)
        await client.close()
        headers = b"NATS/1.0\r\na: b\r\n\r\n"
        assert seen == [
            (subscription._id, b"greeting", b"back", b"hello", None),
            (subscription._id, b"greeting", b"", b"", headers),
        ]

    asyncio.run(work())


def test_nats_py_keeps_what_the_server_says_of_itself(server: NatsServer) -> None:
    """`_server_info` has the id of the server."""

    async def work(client: Client) -> tuple[Any, str]:
        subscription = await client.subscribe("nothing")
        await subscription.unsubscribe()
        return client._server_info["server_id"], server.log()

    server_id, log = Operator(server).ask(work)
    assert f"ID:       {server_id}" in log


def test_nats_py_asks_before_it_sends_credentials(server: NatsServer) -> None:
    """`_process_info` is called with the first INFO before anything is written, and may refuse by raising."""
    asked: list[Any] = []

    class Refusing(Client):
        async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
            asked.append((info["server_name"], initial_connection, self._status))
            raise nats.errors.SecureConnRequiredError

    async def work() -> None:
        client = Refusing()
        with pytest.raises(nats.errors.SecureConnRequiredError):
            await client.connect(server.url, allow_reconnect=False, error_cb=_ignore)
        await client.close()

    asyncio.run(work())
    assert asked == [("test", True, Client.CONNECTING)]


async def _ignore(error: Exception) -> None:
    """Takes nats-py's report of an error."""


# ---- logging on --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("credentials", [("root", "wrong"), ("nobody", "memphis"), ("", ""), ("root", "")])
def test_wrong_credentials_are_unauthorized(server: NatsServer, credentials: tuple[str, str]) -> None:
    """A wrong password and an unknown user are the same."""
    error = log_on_failure(server.url, Credentials(*credentials))
    assert (type(error), error.message) == (Unauthorized, "Unauthorized")


def test_right_credentials_log_on(server: NatsServer) -> None:
    """The connection lives until it is closed."""

    async def work() -> None:
        async with connected(server.url) as connection:
            assert connection.alive
            assert sessions(server) == 1
        assert not connection.alive

    run(work())
    eventually(lambda: sessions(server) == 0)


def test_no_server_is_a_broker_away() -> None:
    """Nobody listens there."""
    assert isinstance(log_on_failure(f"nats://127.0.0.1:{free_port()}"), BrokerAway)


def test_a_server_that_accepts_and_stays_silent_is_away_at_the_deadline(fake: Callable[[bytes], FakeServer]) -> None:
    """The deadline counts for the whole log-on."""
    started = time.monotonic()
    assert isinstance(log_on_failure(fake(b"").url, timeout=0.3), BrokerAway)
    assert 0.3 <= time.monotonic() - started < 0.8


def test_a_server_that_falls_silent_after_its_greeting_is_away_at_the_deadline(
    fake: Callable[[bytes], FakeServer],
) -> None:
    """It says INFO and answers nothing."""
    server = fake(INFO)
    assert isinstance(log_on_failure(server.url, timeout=0.3), BrokerAway)
    eventually(lambda: server.open == 0)


@pytest.mark.parametrize(
    "greeting",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"INFO {\r\n", b"INFO 1\r\n", b"INFO\r\n", b"\r\n", b"\0" * 100_000],
    ids=["http", "half", "no object", "empty", "blank", "endless"],
)
def test_what_is_no_nats_server_is_a_broker_away(fake: Callable[[bytes], FakeServer], greeting: bytes) -> None:
    """Whatever the other side says, the answer is that there is no broker, and the connection is closed."""
    server = fake(greeting)
    assert isinstance(log_on_failure(server.url, timeout=0.5), BrokerAway)
    eventually(lambda: server.open == 0)


def test_a_full_account_refuses(nats_server: Servers) -> None:
    """That is no word about the credentials."""
    server = nats_server(
        "accounts { A { users: [{ user: root, password: memphis }], limits { max_connections: 1 } } }", jetstream=False
    )

    async def work() -> None:
        async with connected(server.url):
            with pytest.raises(BrokerRefused, match="no more connections"):
                await connect(server.url, ROOT, options(), 5)

    run(work())


def test_a_full_server_refuses(fake: Callable[[bytes], FakeServer]) -> None:
    """It says so in place of an answer to the log-on."""
    server = fake(INFO + b"-ERR 'maximum connections exceeded'\r\n")
    assert isinstance(log_on_failure(server.url), BrokerRefused)


def test_credentials_that_came_too_late_are_not_wrong(fake: Callable[[bytes], FakeServer]) -> None:
    """A server that lost patience says nothing about the credentials."""
    server = fake(INFO + b"-ERR 'Authentication Timeout'\r\n")
    assert isinstance(log_on_failure(server.url), BrokerAway)


@pytest.mark.parametrize("prefix", ["_INBOX", "acks.gateway"])
def test_a_user_who_may_not_receive_acks_is_told_so(nats_server: Servers, prefix: str) -> None:
    """The refusal comes at log-on and names the prefix."""
    server = nats_server(
        "authorization { users: [{ user: root, password: memphis, permissions: { subscribe: [orders] } }] }"
    )

    async def work() -> None:
        with pytest.raises(Forbidden) as caught:
            await connect(server.url, ROOT, options(prefix), 5)
        assert f"may not receive acks on {prefix}.> " in caught.value.message

    run(work())


def test_the_inbox_prefix_is_where_replies_go(nats_server: Servers) -> None:
    """A user who may receive on that prefix alone logs on with it."""
    server = nats_server(
        "authorization { users: [{ user: root, password: memphis, permissions: { subscribe: ['acks.>'] } }] }"
    )

    async def work() -> None:
        connection = await connect(server.url, ROOT, options("acks"), 5)
        assert connection.reply_subject(1).startswith("acks.")
        await connection.close()

    run(work())


# ---- a connection that has closed and has not said so ------------------------------------------------------------


class Told:
    """Whoever has sent something, and is told what became of it."""

    def __init__(self) -> None:
        self.lost_at: list[int] = []

    def answered(self, index: int, data: bytes, status: str | None) -> None:
        """Not here."""

    def denied(self, index: int, maybe_stored: bool) -> None:
        """Not here."""

    def lost(self, index: int) -> None:
        """The connection has ended."""
        self.lost_at.append(index)


def test_what_is_sent_when_the_transport_has_closed_is_lost(server: NatsServer) -> None:
    """The broker has reset it, and nobody reads any more. Who sends is not interrupted, and the connection ends."""

    async def work() -> None:
        told, ended = Told(), asyncio.Event()
        async with connected(server.url) as connection:
            connection.on_end = ended.set
            client: Any = connection._client
            client._reading_task.cancel()
            client._transport._io_writer.transport.abort()
            await asyncio.wait({client._reading_task})
            await client._transport.wait_closed()
            assert connection.alive
            connection.send(told, 7, 1, "a", b"PUB a 0\r\n\r\n")
            connection.flush()
            await asyncio.wait_for(ended.wait(), 5)
        assert told.lost_at == [7]

    run(work())
