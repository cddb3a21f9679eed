"""Sessions by identity: one a user, a bounded number of them, replaced when lost, closed when idle."""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from nats.aio.client import Client

from proxy.config import Config
from proxy.credentials import Credentials
from proxy.errors import Overloaded
from proxy.messages import Ack, station_named
from proxy.producer import Producer
from tests.brokers.fakes import FakeNats, Published, reply
from tests.brokers.tools import (
    MONITOR,
    ROOT,
    Operator,
    connections,
    facts,
    failure,
    flushed,
    monitor,
    sessions,
    settings,
    unread,
)
from tests.servers import NatsServer, eventually

ORDERS = station_named("orders")
ALICE, BOB, CAROL = (Credentials(name, name) for name in ("alice", "bob", "carol"))
USERS = {"root": "memphis", "alice": "alice", "bob": "bob", "carol": "carol"}
UNAUTHORIZED = ("Unauthorized", "no", "never")

Servers = Callable[..., NatsServer]
Producers = Callable[[Config], Producer]
Submit = Callable[..., "Future[Any]"]


@pytest.fixture
def server(nats_server: Servers) -> NatsServer:
    """A server with four users and the station `orders`."""
    server = nats_server(MONITOR, users=USERS)
    Operator(server).add("orders", allow_batched=True)
    return server


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What connections to a fake server wait for; open at the end of the test."""
    gate = threading.Event()
    yield gate
    gate.set()


def numbers(server: NatsServer, user: str) -> list[int]:
    """The numbers of the connections that a user has."""
    return [found["cid"] for found in connections(server) if found["authorized_user"] == user]


def store(server: FakeNats, message: Published) -> bytes:
    """The answer of a stream that stores everything."""
    return reply(message, b'{"stream":"orders","seq":%d}' % message.number)


# ---- one session a user ------------------------------------------------------------------------------------------


def test_messages_of_a_user_share_a_session(server: NatsServer, producer: Producers, submit: Submit) -> None:
    """Sixty-four senders at once, one connection."""
    started = producer(settings(server.url))
    results = [submit(started.single, ROOT, ORDERS, b"%d" % n, ()) for n in range(64)]
    assert {result.result(5).sequence for result in results} == set(range(1, 65))
    assert sessions(server) == 1


def test_each_user_has_a_session_of_its_own(server: NatsServer, producer: Producers) -> None:
    """What a user may do is the broker's to say, so nobody sends as somebody else."""
    started = producer(settings(server.url))
    for user in (ALICE, BOB, ALICE, BOB):
        started.single(user, ORDERS, b"x", ())
    assert (sessions(server, "alice"), sessions(server, "bob")) == (1, 1)


def test_a_log_on_leaves_its_connection_to_be_used(server: NatsServer, producer: Producers) -> None:
    """The first produce finds it."""
    started = producer(settings(server.url))
    started.log_on(ALICE)
    before = numbers(server, "alice")
    started.single(ALICE, ORDERS, b"x", ())
    assert numbers(server, "alice") == before
    assert len(before) == 1


def test_a_log_on_is_proved_by_a_fresh_connection(server: NatsServer, producer: Producers) -> None:
    """Each time; the one that was there stays, the new one goes."""
    started = producer(settings(server.url))
    started.log_on(ALICE)
    (first,) = numbers(server, "alice")
    before = monitor(server, "/varz")["total_connections"]
    started.log_on(ALICE)
    assert monitor(server, "/varz")["total_connections"] == before + 1
    eventually(lambda: numbers(server, "alice") == [first])


def test_a_log_on_while_a_session_is_being_opened_leaves_one_connection(
    producer: Producers, submit: Submit, gate: threading.Event
) -> None:
    """Whichever is ready first."""
    hold = {2}  # connection 1 is the start's, 2 that of the produce, 3 that of the log-on

    with contextlib.closing(FakeNats(store, greet=lambda number: number in hold and gate.wait(5))) as fake:
        started = producer(settings(fake.url, ALLOW_OPEN_BROKER="true"))
        result = submit(started.single, ROOT, ORDERS, b"x", ())
        eventually(lambda: fake.accepted == 2)
        started.log_on(ROOT)
        assert result.result(5).sequence == 1
        gate.set()
        eventually(lambda: fake.open == 1)
        assert started.single(ROOT, ORDERS, b"x", ()).sequence == 2


# ---- log-ons -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("credentials", [("alice", "wrong"), ("nobody", "alice"), ("alice$7", "wrong")])
def test_wrong_credentials_are_told_after_half_a_second(
    server: NatsServer, producer: Producers, credentials: tuple[str, str]
) -> None:
    """A wrong secret and an unknown user look the same, in words and in time."""
    started = producer(settings(server.url))
    before = time.monotonic()
    error = failure(started.log_on, Credentials(*credentials))
    assert (facts(error), error.message) == (UNAUTHORIZED, "Unauthorized")
    assert 0.5 <= time.monotonic() - before < 0.8


@pytest.mark.slow
def test_a_user_who_was_refused_costs_no_connection_each_time(server: NatsServer, producer: Producers) -> None:
    """A token outlives its user; for some seconds the broker's word is remembered, then it is asked again."""
    started = producer(settings(server.url))
    gone = Credentials("gone", "x")
    assert facts(failure(started.single, gone, ORDERS, b"x", ())) == ("Unauthorized", "no", "never")
    before = monitor(server, "/varz")["total_connections"]
    for _ in range(20):
        assert facts(failure(started.single, gone, ORDERS, b"x", ())) == ("Unauthorized", "no", "never")
        assert failure(started.batch, gone, ORDERS, [b"x"], ()).status == 401
    assert monitor(server, "/varz")["total_connections"] == before
    eventually(lambda: failure(started.single, gone, ORDERS, b"x", ()) and _asked_again(server, before), 10)


def _asked_again(server: NatsServer, before: int) -> bool:
    return bool(monitor(server, "/varz")["total_connections"] > before)


def test_a_log_on_ends_the_memory_of_a_refusal(nats_server: Servers, producer: Producers) -> None:
    """A user who is let in again, and logs on, can produce at once."""
    allowed = "authorization { users: [%s] }"
    root, late = "{ user: root, password: memphis }", Credentials("late", "x")
    server = nats_server(allowed % root)
    Operator(server).add("orders")
    started = producer(settings(server.url))
    assert failure(started.single, late, ORDERS, b"x", ()).status == 401
    server.config(allowed % (root + ", { user: late, password: x }"))
    server.reload()
    started.log_on(late)
    assert started.single(late, ORDERS, b"x", ()).sequence == 1


def test_the_memory_of_refusals_is_bounded(server: NatsServer, producer: Producers) -> None:
    """No more of them than sessions; the oldest is asked for again."""
    started = producer(settings(server.url, MAX_SESSIONS=2))
    for number in range(5):
        assert failure(started.single, Credentials(f"gone-{number}", "x"), ORDERS, b"x", ()).status == 401
    assert len(started._pool._refused) == 2


def test_refused_log_ons_do_not_hold_up_others(server: NatsServer, producer: Producers, submit: Submit) -> None:
    """Who waits for the half second to pass takes nobody's place."""
    started = producer(settings(server.url, MAX_LOGONS="1"))
    refused = submit(failure, started.log_on, Credentials("alice", "wrong"))
    eventually(lambda: server.log().count("alice") > 0)
    eventually(lambda: _logs_on(started))
    assert not refused.done()
    assert facts(refused.result(2)) == UNAUTHORIZED


def _logs_on(producer: Producer) -> bool:
    try:
        producer.log_on(BOB)
    except Overloaded:
        return False
    return True


def test_no_more_log_ons_at_once_than_allowed(producer: Producers, submit: Submit, gate: threading.Event) -> None:
    """Those above are told at once; there is room again when one has ended."""
    with contextlib.closing(FakeNats(store, greet=lambda number: number == 1 or gate.wait(5))) as fake:
        started = producer(settings(fake.url, ALLOW_OPEN_BROKER="true", MAX_LOGONS="2"))
        under_way = [submit(started.log_on, user) for user in (ALICE, BOB)]
        eventually(lambda: fake.accepted == 3)
        error = failure(started.log_on, CAROL)
        assert facts(error) == ("Overloaded", "no", "safe")
        assert error.status == 503
        gate.set()
        for result in under_way:
            result.result(5)
        started.log_on(CAROL)


# ---- a bounded number of them ------------------------------------------------------------------------------------


def test_the_session_unused_longest_gives_way(server: NatsServer, producer: Producers) -> None:
    """To that of another user, when there are as many as allowed."""
    started = producer(settings(server.url, MAX_SESSIONS="2"))
    for user in (ALICE, BOB, ALICE, CAROL):
        started.single(user, ORDERS, b"x", ())
    eventually(lambda: sessions(server, "bob") == 0)
    assert (sessions(server, "alice"), sessions(server, "carol")) == (1, 1)
    assert started.single(BOB, ORDERS, b"x", ()).sequence == 5


def test_sessions_in_use_do_not_give_way(server: NatsServer, producer: Producers, submit: Submit) -> None:
    """Who finds all of them busy is told at once, and nothing is stored."""
    started = producer(settings(server.url, MAX_SESSIONS="2"))
    for user in (ALICE, BOB):
        started.log_on(user)
    server.pause()
    busy = [submit(started.single, user, ORDERS, b"x", ()) for user in (ALICE, BOB)]
    eventually(lambda: unread(server) == 2)
    error = failure(started.single, CAROL, ORDERS, b"x", ())
    server.resume()
    assert facts(error) == ("Overloaded", "no", "safe")
    assert "MAX_SESSIONS" in error.message
    assert {result.result(5).sequence for result in busy} == {1, 2}
    assert started.single(CAROL, ORDERS, b"x", ()).sequence == 3


def test_a_log_on_succeeds_where_no_session_is_left(server: NatsServer, producer: Producers, submit: Submit) -> None:
    """The credentials are proved; the connection is not kept."""
    started = producer(settings(server.url, MAX_SESSIONS="1"))
    with _busy(server, started, submit):
        started.log_on(CAROL)
        eventually(lambda: sessions(server, "carol") == 0)


@contextlib.contextmanager
def _busy(server: NatsServer, producer: Producer, submit: Submit) -> Iterator[None]:
    """Alice's session is in use: her message goes to somebody who never answers."""
    listening, stop = threading.Event(), threading.Event()

    async def listen(client: Client) -> None:
        await client.subscribe("silence.final")
        await flushed(client)
        listening.set()
        while not stop.is_set():
            await flushed(client)

    listener = submit(Operator(server).ask, listen)
    assert listening.wait(5)
    message = submit(failure, producer.single, ALICE, station_named("silence"), b"x", ())
    eventually(lambda: sessions(server, "alice") == 1)
    yield
    assert not message.done()
    producer.stop(0)
    stop.set()
    message.result(5)
    listener.result(5)


@pytest.mark.slow
def test_an_idle_session_is_closed(server: NatsServer, producer: Producers) -> None:
    """And another one opened when it is needed."""
    started = producer(settings(server.url, SESSION_IDLE_SECONDS="1"))
    started.single(ALICE, ORDERS, b"x", ())
    eventually(lambda: sessions(server, "alice") == 0)
    assert started.single(ALICE, ORDERS, b"x", ()) == Ack(2, False)


@pytest.mark.slow
def test_a_session_that_is_ready_too_late_is_not_forgotten(producer: Producers, gate: threading.Event) -> None:
    """Its message has given up, and it would be idle: it is used by the next one, or closed."""
    with contextlib.closing(FakeNats(store, greet=lambda number: number == 2 and gate.wait(5))) as fake:
        env = {"ALLOW_OPEN_BROKER": "true", "PRODUCE_TIMEOUT_SECONDS": "1", "SESSION_IDLE_SECONDS": "1"}
        started = producer(settings(fake.url, **env))
        assert facts(failure(started.single, ROOT, ORDERS, b"x", ())) == ("BrokerAway", "no", "safe")
        eventually(lambda: _overdue(fake))
        gate.set()
        eventually(lambda: fake.open == 0)


def _overdue(fake: FakeNats) -> bool:
    """Whether a second connection has been waiting for so long that its place is idle."""
    return time.monotonic() - fake.accepted_at > 1.6


# ---- brokers that refuse -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_user_with_too_many_connections_does_not_make_the_broker_away_for_others(
    nats_server: Servers, producer: Producers
) -> None:
    """The one is told the broker's reason at the deadline; the others are served."""
    server = nats_server(
        "accounts {\n"
        "  A { jetstream: enabled, users: [{ user: alice, password: alice }], limits { max_connections: 1 } }\n"
        "  B { jetstream: enabled, users: [{ user: bob, password: bob }] }\n"
        "}"
    )
    Operator(server, "bob", "bob").add("orders")
    other = producer(settings(server.url))
    other.log_on(ALICE)
    started = producer(settings(server.url, PRODUCE_TIMEOUT_SECONDS="1"))
    for _ in range(2):
        error = failure(started.single, ALICE, ORDERS, b"x", ())
        assert facts(error) == ("BrokerRefused", "no", "safe")
        assert "no more connections" in error.message
    assert started.single(BOB, ORDERS, b"x", ()).sequence == 1


# ---- the end -----------------------------------------------------------------------------------------------------


def test_stopping_ends_what_waits_for_a_session(server: NatsServer, producer: Producers, submit: Submit) -> None:
    """Nothing was sent, so nothing is stored."""
    server.stop()
    started = producer(settings(server.url))
    result = submit(failure, started.single, ROOT, ORDERS, b"x", ())
    with pytest.raises(concurrent.futures.TimeoutError):
        result.result(0.2)
    started.stop(0.1)
    assert facts(result.result(5)) == ("Stopping", "no", "safe")


def test_stopping_ends_what_is_in_flight(server: NatsServer, producer: Producers, submit: Submit) -> None:
    """It may be stored."""
    started = producer(settings(server.url))
    started.log_on(ROOT)
    server.pause()
    result = submit(failure, started.single, ROOT, ORDERS, b"x", ())
    eventually(lambda: unread(server) > 0)
    started.stop(0.1)
    server.resume()
    assert facts(result.result(5)) == ("AckTimeout", "unknown", "with-key")


def test_stopping_waits_for_what_is_in_flight(server: NatsServer, producer: Producers, submit: Submit) -> None:
    """As long as it is told to."""
    started = producer(settings(server.url))
    started.log_on(ROOT)
    server.pause()
    result = submit(started.single, ROOT, ORDERS, b"x", ())
    eventually(lambda: unread(server) > 0)
    stopping = submit(started.stop, 5)
    server.resume()
    stopping.result(5)
    assert result.result(1) == Ack(1, False)


def test_nothing_is_taken_and_no_connection_left_after_the_stop(server: NatsServer, producer: Producers) -> None:
    """Senders are told to try elsewhere."""
    started = producer(settings(server.url))
    for user in (ALICE, BOB):
        started.single(user, ORDERS, b"x", ())
    started.stop()
    eventually(lambda: connections(server) == [])
    assert facts(failure(started.single, ALICE, ORDERS, b"x", ())) == ("Stopping", "no", "safe")
    assert facts(failure(started.log_on, ALICE)) == ("Stopping", "no", "safe")
