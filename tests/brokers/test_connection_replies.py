"""A connection at work: whose reply is whose, what is denied, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from tests.brokers.fakes import FakeNats, reply
from tests.brokers.tools import USERS, client, connected, eventually_on_loop, flushed, run
from tests.servers import NatsServer

Servers = Callable[..., NatsServer]


class Listener:
    """An owner that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def answered(self, index: int, data: bytes, status: str | None) -> None:
        """Notes a reply."""
        self.told.append((index, data, status))

    def denied(self, index: int, maybe_stored: bool) -> None:
        """Notes a denial."""
        self.told.append((index, "denied", maybe_stored))

    def lost(self, index: int) -> None:
        """Notes the end."""
        self.told.append((index, "lost"))


@pytest.fixture
def server(nats_server: Servers) -> NatsServer:
    """A nats-server with the user `root`."""
    return nats_server(users=USERS)


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sign of life is waited for one second in place of three."""
    monkeypatch.setattr("proxy.brokers.connection.CHECK_SECONDS", 1.0)


# ---- what is sent, and what comes back ---------------------------------------------------------------------------


def test_a_reply_reaches_its_owner(server: NatsServer) -> None:
    """Nobody listens to that subject, and the server says so; the index is the owner's own."""

    async def work() -> None:
        async with connected(server.url) as connection:
            listener = Listener()
            frame = f"PUB nobody {connection.reply_subject(7)} 0\r\n\r\n".encode()
            connection.send(listener, 3, 7, "nobody", frame)
            await eventually_on_loop(lambda: listener.told)
            assert listener.told == [(3, b"", "503")]

    run(work())


def test_a_forgotten_reply_reaches_nobody(server: NatsServer) -> None:
    """After `forget` nothing is waited for."""

    async def work() -> None:
        async with connected(server.url) as connection:
            forgotten, listener = Listener(), Listener()
            for token, owner in ((1, forgotten), (2, listener)):
                frame = f"PUB nobody {connection.reply_subject(token)} 0\r\n\r\n".encode()
                connection.send(owner, 0, token, "nobody", frame)
            connection.forget(1)
            assert connection.waiting == 1
            await eventually_on_loop(lambda: listener.told)
            assert forgotten.told == []

    run(work())


@pytest.mark.parametrize("tail", ["x", "1.a", "1.a.b", "1.a.b.x.c.$FI", "1.a.b.99999999999999999999.c", "f" * 3000])
def test_a_reply_to_a_mangled_subject_disturbs_nobody(server: NatsServer, tail: str) -> None:
    """Whoever listens to a station may answer to anything; the connection goes on reading."""

    async def work() -> None:
        async with connected(server.url) as connection:
            silent, listener = Listener(), Listener()
            inbox = connection.reply_subject(1)[:-1]
            async with client(server) as other:
                received = await other.subscribe("somebody")
                await flushed(other)
                connection.send(silent, 0, 1, "somebody", f"PUB somebody {inbox}1 0\r\n\r\n".encode())
                await received.next_msg(2)
                await other.publish(inbox + tail, b"{}")
            connection.send(listener, 0, 2, "nobody", f"PUB nobody {inbox}2 0\r\n\r\n".encode())
            await eventually_on_loop(lambda: listener.told)

    run(work())


def test_acks_of_deliveries_leave_no_doubt_about_denials(nats_server: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many were confirmed: what is denied on a subject without replies was certainly not stored."""
    monkeypatch.setattr("proxy.brokers.connection.MAX_ACKED_SUBJECTS", 2)
    root = "{ user: root, password: memphis, permissions: { publish: { deny: ['secrets'] } } }"
    server = nats_server(f"authorization {{ users: [{root}] }}")

    async def work() -> None:
        async with connected(server.url) as connection, client(server) as consumer:
            acked, denied = Listener(), Listener()
            received = await consumer.subscribe("$JS.ACK.orders.group.>")
            await flushed(consumer)
            for token, subject in enumerate(f"$JS.ACK.orders.group.1.{n}.{n}.0.0" for n in range(4)):
                frame = f"PUB {subject} {connection.reply_subject(token)} 0\r\n\r\n".encode()
                connection.send(acked, token, token, subject, frame)
                await (await received.next_msg(2)).respond(b"")
            await eventually_on_loop(lambda: len(acked.told) == 4)
            assert {status for _, _, status in acked.told} == {None}
            connection.send(denied, 0, 9, "secrets", f"PUB secrets {connection.reply_subject(9)} 0\r\n\r\n".encode())
            await eventually_on_loop(lambda: denied.told)
            assert denied.told == [(0, "denied", False)]

    run(work())


def test_a_batch_that_was_begun_may_be_stored_when_it_is_denied() -> None:
    """The stream's first word about it shows that the user was let publish a moment ago."""
    denial = b"-ERR 'Permissions Violation for Publish to \"orders\"'\r\n"

    async def work(server: FakeNats) -> None:
        async with connected(server.url) as connection:
            listener = Listener()
            replies = [f"{connection.reply_subject(1)}.500.fail.{n}.$FI" for n in ("1.0", "2.2")]
            frame = "".join([f"PUB orders {reply} 0\r\n\r\n" for reply in replies]).encode()
            connection.send(listener, 0, 1, "orders", frame, 2)
            await eventually_on_loop(lambda: (0, "denied", True) in listener.told)

    begun = b'{"type":"ack","seq":0,"msgs":500}'
    with contextlib.closing(FakeNats(lambda _, sent: reply(sent, begun) if sent.number == 1 else denial)) as server:
        run(work(server))


def test_the_answer_to_a_question_may_look_like_a_word_about_a_batch(server: NatsServer) -> None:
    """What is kept in a bucket comes as it is."""

    async def work() -> None:
        async with connected(server.url) as connection, client(server) as other:
            listener = Listener()
            received = await other.subscribe("somebody")
            await flushed(other)
            connection.send(
                listener, 0, 1, "somebody", f"PUB somebody {connection.reply_subject(1)} 0\r\n\r\n".encode()
            )
            await (await received.next_msg(2)).respond(b'{"type":"ack","of":"a sender"}')
            await eventually_on_loop(lambda: listener.told)

    run(work())


# ---- the end -----------------------------------------------------------------------------------------------------


def test_the_end_is_told_once_to_everyone(server: NatsServer) -> None:
    """A server that dies ends the connection: owners that wait are told, then `on_end`, once."""

    async def work() -> None:
        async with connected(server.url) as connection:
            listener, ends = Listener(), []
            connection.on_end = lambda: ends.append(connection.alive)
            async with client(server) as silent:
                received = await silent.subscribe("somebody")
                await flushed(silent)
                frame = f"PUB somebody {connection.reply_subject(1)} 0\r\n\r\n".encode()
                connection.send(listener, 5, 1, "somebody", frame)
                await received.next_msg(2)
                server.kill()
                await eventually_on_loop(lambda: ends)
                assert (listener.told, ends) == ([(5, "lost")], [False])
        assert ends == [False]

    run(work())


def test_what_is_sent_after_the_end_is_lost(server: NatsServer) -> None:
    """The owner is told in a later turn, not while it sends."""

    async def work() -> None:
        async with connected(server.url) as connection:
            await connection.close()
            listener = Listener()
            connection.send(listener, 4, 1, "orders", b"PUB orders 0\r\n\r\n")
            assert listener.told == []
            await eventually_on_loop(lambda: listener.told == [(4, "lost")])

    run(work())


def test_a_check_proves_a_living_server(server: NatsServer) -> None:
    """`proved_at` moves to when the server gave its sign of life."""

    async def work() -> None:
        async with connected(server.url) as connection:
            before = asyncio.get_running_loop().time()
            connection.check()
            await eventually_on_loop(lambda: connection.proved_at >= before)

    run(work())


@pytest.mark.slow
@pytest.mark.usefixtures("_impatient")
def test_a_check_ends_a_connection_that_gives_no_sign_of_life(server: NatsServer) -> None:
    """A server that does not answer in time is as good as gone."""

    async def work() -> None:
        async with connected(server.url) as connection:
            server.pause()
            connection.check()
            await eventually_on_loop(lambda: not connection.alive)
            server.resume()

    run(work())


def test_a_check_ends_with_its_connection(server: NatsServer) -> None:
    """At once: a task that is left when the loop ends complains."""

    async def work() -> None:
        async with connected(server.url) as connection:
            server.pause()
            try:
                connection.check()
                check = connection._checking
                await asyncio.sleep(0)
                await connection.close()
            finally:
                server.resume()
            assert check is not None
            await eventually_on_loop(check.done, 1)

    run(work())


@pytest.mark.slow
@pytest.mark.usefixtures("_impatient")
def test_a_check_sees_that_nobody_reads_any_more() -> None:
    """nats-py ends its reading at a line it does not understand and says nothing; the check notices."""
    notices: list[str] = []

    async def work(server: FakeNats) -> None:
        async with connected(server.url, notice=lambda event, **_: notices.append(event)) as connection:
            connection.send(Listener(), 0, 1, "orders", b"PUB orders x 0\r\n\r\n")
            await eventually_on_loop(lambda: server.published)
            connection.check()
            await eventually_on_loop(lambda: not connection.alive)
        assert notices == ["broker_silent"]

    with contextlib.closing(FakeNats(lambda server, published: b"-ERR  \r\n")) as server:
        run(work(server))
