"""Questions to the broker: one answer each, and the truth when none comes. And what a connection hears besides."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import msgspec
import pytest

from proxy.brokers.api import Api, hears
from proxy.brokers.connection import Connection, connect
from proxy.credentials import Credentials
from proxy.errors import BrokerAway, BrokerRefused, ChangeUnconfirmed, Forbidden, TooLarge
from tests.brokers.fakes import FakeNats, Published, reply
from tests.brokers.tools import USERS, Operator, client, connected, eventually_on_loop, flushed, options, run
from tests.servers import NatsServer

HEAD = b"NATS/1.0\r\n\r\n"
ACCOUNTS = """accounts {
  A: { jetstream: enabled, users: [
    { user: root, password: memphis }
    { user: alice, password: alice, permissions: { publish: [here, "$JS.API.STREAM.NAMES"], subscribe: "_INBOX.>" } }
  ] }
  B: { users: [{ user: root-b, password: memphis }] }
}"""

Servers = Callable[..., NatsServer]


class Names(msgspec.Struct):
    """A part of what `STREAM.NAMES` answers."""

    total: int


@pytest.fixture
def server(nats_server: Servers) -> NatsServer:
    """A server with two accounts; alice may hardly do anything."""
    return nats_server(ACCOUNTS)


@contextlib.asynccontextmanager
async def logged_on(server: NatsServer, user: str, password: str):  # type: ignore[no-untyped-def]
    """A connection of that user."""
    connection = await connect(server.url, Credentials(user, password), options(), 5)
    try:
        yield connection
    finally:
        await connection.close()


def test_the_api_answers_in_the_shape_asked_for(server: NatsServer) -> None:
    """One question, one answer."""

    async def work() -> int:
        async with connected(server.url) as connection:
            return (await Api(connection).ask("STREAM.NAMES", {}, Names)).total

    assert run(work()) == 0


def test_an_answer_that_has_not_the_shape_is_a_refusal(server: NatsServer) -> None:
    """Whoever answers the API may be anyone."""

    class Other(msgspec.Struct):
        total: str

    async def work() -> None:
        async with connected(server.url) as connection:
            with pytest.raises(BrokerRefused, match="cannot be understood"):
                await Api(connection).ask("STREAM.NAMES", {}, Other)

    run(work())


def test_without_jetstream_nobody_answers(nats_server: Servers) -> None:
    """The server says so at once."""
    server = nats_server(users=USERS, jetstream=False)

    async def work() -> None:
        async with connected(server.url) as connection:
            with pytest.raises(BrokerRefused, match="JetStream does not answer"):
                await Api(connection).ask("STREAM.NAMES", {}, Names)

    run(work())


def test_an_answer_comes_with_its_header_block(server: NatsServer) -> None:
    """Empty when it has none."""

    async def work() -> None:
        async with connected(server.url) as connection, client(server) as other:
            subscription = await other.subscribe("here")
            await flushed(other)
            answers = asyncio.gather(Api(connection).request("here", b"1"), Api(connection).request("here", b"2"))
            for headers in ({"a": "b"}, None):
                message = await subscription.next_msg(2)
                await other.publish(message.reply, b"got " + message.data, headers=headers)
            first, second = await answers
            assert first == (b"got 1", b"NATS/1.0\r\na: b\r\n\r\n", None)
            assert second == (b"got 2", b"", None)

    run(work())


def test_a_denied_question_or_change_is_told_at_once(server: NatsServer) -> None:
    """With the subject that is missing."""

    async def work() -> None:
        async with logged_on(server, "alice", "alice") as connection:
            with pytest.raises(Forbidden, match=r"publish to \$JS\.API\.INFO"):
                await Api(connection).ask("INFO", {}, Names)
            with pytest.raises(Forbidden, match="publish to there"):
                await Api(connection).publish("there", HEAD, b"x")

    run(work())


def test_a_change_that_is_too_large_is_not_sent(server: NatsServer) -> None:
    """It would end the connection."""

    async def work() -> None:
        async with connected(server.url) as connection:
            with pytest.raises(TooLarge, match="at most 1048576"):
                await Api(connection).publish("here", HEAD, b"x" * (1 << 20))
            assert connection.alive

    run(work())


def test_what_is_asked_of_an_ended_connection_is_not_sent(server: NatsServer) -> None:
    """So a change is known not to be made."""

    async def work() -> None:
        async with connected(server.url) as connection:
            await connection.close()
            with pytest.raises(BrokerAway):
                await Api(connection).publish("here", HEAD, b"x")
            with pytest.raises(BrokerAway):
                await Api(connection).request("here", b"x")

    run(work())


def test_a_change_that_is_cut_off_may_be_made() -> None:
    """A question has no effect, so nothing is unknown after it."""

    async def work(url: str) -> None:
        for ask, error in ((Api.request, BrokerAway), (_publish, ChangeUnconfirmed)):
            async with connected(url) as connection:
                waiting = asyncio.create_task(ask(Api(connection), "here", b"x"))  # type: ignore[operator]
                await eventually_on_loop(lambda connection=connection: connection.waiting == 1)
                await connection.close()
                with pytest.raises(error):
                    await waiting

    with contextlib.closing(FakeNats(lambda server, published: b"")) as fake:
        run(work(fake.url))


async def _publish(api: Api, subject: str, payload: bytes) -> object:
    return await api.publish(subject, HEAD, payload)


@pytest.mark.slow
def test_what_is_not_answered_is_told_after_two_seconds() -> None:
    """And nothing is waited for any more."""

    async def work(url: str) -> None:
        async with connected(url) as connection:
            api = Api(connection)
            asked = await asyncio.gather(api.request("here", b""), _publish(api, "here", b""), return_exceptions=True)
            assert [type(error) for error in asked] == [BrokerAway, ChangeUnconfirmed]
            assert connection.waiting == 0

    with contextlib.closing(FakeNats(lambda server, published: b"")) as fake:
        run(work(fake.url))


@pytest.mark.slow
def test_a_question_is_asked_again_until_it_is_answered_and_a_change_is_not() -> None:
    """What is asked while a cluster elects a leader is lost. What is created twice is said to be there too early."""

    def answer(server: FakeNats, published: Published) -> bytes:
        return reply(published, b"answer") if (published.subject, published.number) == ("question", 3) else b""

    async def work(url: str) -> None:
        async with connected(url) as connection:
            api = Api(connection)
            change = asyncio.create_task(_publish(api, "change", b""))
            creation = asyncio.create_task(api.ask("STREAM.CREATE.new", {}, Names))
            assert (await api.request("question", b"")).data == b"answer"
            with pytest.raises(ChangeUnconfirmed):
                await change
            with pytest.raises(BrokerAway):
                await creation

    with contextlib.closing(FakeNats(answer)) as fake:
        run(work(fake.url))
        sent = [published.subject for published in fake.published]
        assert (sent.count("question"), sent.count("change"), sent.count("$JS.API.STREAM.CREATE.new")) == (3, 1, 1)
        assert len({published.reply for published in fake.published if published.subject == "question"}) == 1


@pytest.mark.parametrize(
    ("listener", "speaker", "heard"),
    [
        (("alice", "alice"), ("root", "memphis"), True),
        (("alice", "alice"), ("root-b", "memphis"), False),
        (("root", "memphis"), ("alice", "alice"), False),  # of one account, but not allowed to say so
    ],
)
def test_only_those_of_one_account_hear_each_other(
    server: NatsServer, listener: tuple[str, str], speaker: tuple[str, str], heard: bool
) -> None:
    """What cannot be told is not believed."""

    async def work() -> None:
        async with logged_on(server, *listener) as one, logged_on(server, *speaker) as other:
            assert await hears(one, other) == heard
            assert (one.waiting, other.waiting) == (0, 0)

    run(work())


def test_nobody_hears_an_ended_connection(server: NatsServer) -> None:
    """Nor does it hear anybody."""

    async def work() -> None:
        async with connected(server.url) as one, connected(server.url) as other:
            await other.close()
            assert not await hears(one, other)
            assert not await hears(other, one)

    run(work())


def test_a_subscription_tells_the_subjects_of_messages(nats_server: Servers) -> None:
    """Replies go on as before."""
    server = nats_server(users=USERS)
    Operator(server).add("orders")
    heard: list[bytes] = []

    async def work() -> None:
        async with connected(server.url) as connection, client(server) as other:
            await connection.subscribe("news.>", heard.append)
            for number in range(3):
                await other.publish(f"news.{number}", b"x")
            await eventually_on_loop(lambda: len(heard) == 3)
            assert (await Api(connection).ask("STREAM.NAMES", {}, Names)).total == 1

    run(work())
    assert heard == [b"news.0", b"news.1", b"news.2"]


def test_a_denied_subscription_is_told(server: NatsServer) -> None:
    """Each time, while the connection serves on."""

    async def work(connection: Connection) -> None:
        for _ in range(2):
            with pytest.raises(Forbidden, match=r"subscribe to News\.>"):
                await connection.subscribe("News.>", lambda subject: None)
        await Api(connection).ask("STREAM.NAMES", {}, Names)

    async def logged() -> None:
        async with logged_on(server, "alice", "alice") as connection:
            await work(connection)

    run(logged())


def test_a_subscription_on_an_ended_connection_fails(server: NatsServer) -> None:
    """As everything does there."""

    async def work() -> None:
        async with connected(server.url) as connection:
            await connection.close()
            with pytest.raises(BrokerAway):
                await connection.subscribe("news", lambda subject: None)

    run(work())
