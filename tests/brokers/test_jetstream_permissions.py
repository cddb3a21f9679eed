"""What users may do is the broker's to say, and its word is told at once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import pytest

from proxy.config import Config
from proxy.credentials import Credentials
from proxy.errors import GatewayError
from proxy.messages import station_named
from proxy.producer import Producer
from tests.brokers.fakes import FakeNats, Published, reply
from tests.brokers.tools import (
    MONITOR,
    ROOT,
    Operator,
    connections,
    facts,
    failure,
    has_no_session,
    outcomes,
    sessions,
    settings,
)
from tests.servers import NatsServer, eventually

ORDERS, SECRETS = station_named("orders"), station_named("secrets")
ALICE = Credentials("alice", "a")
ALLOW_ORDERS = "publish: { allow: ['orders.final', 'Events.orders', '$JS.API.>'] }"
FORBIDDEN = ("Forbidden", "no", "never")

Servers = Callable[..., NatsServer]
Producers = Callable[[Config], Producer]


def users(permissions: str, password: str = "a") -> str:
    """The part of the configuration that has `root`, and `alice` with these permissions."""
    alice = f"{{ user: alice, password: {password}, permissions: {{ {permissions} }} }}"
    return f"{MONITOR}\nauthorization {{ users: [{{ user: root, password: memphis }}, {alice}] }}"


def reload(server: NatsServer, config: str) -> None:
    """Gives the running server another configuration."""
    server.config(config)
    server.reload()


@pytest.fixture
def server(nats_server: Servers) -> NatsServer:
    """A server with the stations `orders` and `secrets`; alice may produce to `orders`."""
    server = nats_server(users(ALLOW_ORDERS))
    for station in ("orders", "secrets"):
        Operator(server).add(station)
    return server


def timed(function: Callable[[], object]) -> tuple[GatewayError, float]:
    """The error, and how many seconds it took."""
    started = time.monotonic()
    error = failure(function)
    return error, time.monotonic() - started


# ---- producing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("manner", ["apart", "together"])
def test_a_denied_produce_is_forbidden_at_once(server: NatsServer, producer: Producers, manner: str) -> None:
    """Not after a time-out; nothing is stored."""
    started = producer(settings(server.url))
    error, seconds = timed(lambda: started.single(ALICE, SECRETS, b"x", (), manner=manner))
    assert facts(error) == FORBIDDEN
    assert "secrets" in error.message
    assert seconds < 0.5
    assert Operator(server).count("secrets") == 0


@pytest.mark.parametrize("count", [1, 2, 300])
@pytest.mark.parametrize("manner", ["apart", "together"])
def test_each_message_of_a_denied_batch_is_forbidden_at_once(
    server: NatsServer, producer: Producers, manner: str, count: int
) -> None:
    """The server tells of each publish, without saying of which."""
    started = producer(settings(server.url))
    error, seconds = timed(lambda: started.batch(ALICE, SECRETS, [b"x"] * count, (), manner=manner))
    assert (error.status, error.stored) == (403, "no")
    assert outcomes(error) == [(n, 403, "no") for n in range(count)]
    assert seconds < 0.8


def test_denials_do_not_disturb_what_is_allowed(server: NatsServer, producer: Producers) -> None:
    """One session serves both, one after the other."""
    started = producer(settings(server.url))
    for n in range(1, 6):
        assert facts(failure(started.single, ALICE, SECRETS, b"x", ())) == FORBIDDEN
        failure(started.batch, ALICE, SECRETS, [b"x"] * 20, ())
        assert started.single(ALICE, ORDERS, b"x", ()).sequence == n
    assert sessions(server, "alice") == 1


def test_a_denial_is_recognised_in_subjects_with_capitals(nats_server: Servers, producer: Producers) -> None:
    """nats-py tells the server's word in lower case."""
    server = nats_server(users(ALLOW_ORDERS))
    started = producer(settings(server.url, SUBJECT_TEMPLATE="Events.{station}"))
    error, seconds = timed(lambda: started.single(ALICE, SECRETS, b"x", ()))
    assert facts(error) == FORBIDDEN
    assert seconds < 0.5


def test_a_denied_user_creates_nothing(nats_server: Servers, producer: Producers) -> None:
    """A user who may not produce to a station does not bring it into being by trying."""
    server = nats_server(users(ALLOW_ORDERS))
    started = producer(settings(server.url, AUTO_CREATE_STATIONS="true"))
    assert facts(failure(started.single, ALICE, SECRETS, b"x", ())) == FORBIDDEN
    assert Operator(server).streams() == []


def test_permissions_that_are_taken_away_count_at_the_next_produce(server: NatsServer, producer: Producers) -> None:
    """As the session has had acks, a denial does not prove that this very message is not stored."""
    started = producer(settings(server.url))
    started.single(ALICE, ORDERS, b"x", ())
    reload(server, users("publish: { allow: ['$JS.API.>'] }"))
    error, seconds = timed(lambda: started.single(ALICE, ORDERS, b"x", ()))
    assert facts(error) == ("Forbidden", "unknown", "with-key")
    assert seconds < 0.8
    assert Operator(server).count("orders") == 1


def test_ten_thousand_denials_after_an_ack_cost_little(server: NatsServer, producer: Producers) -> None:
    """The server tells of each of them; the loop, which serves everyone, goes on."""
    started = producer(settings(server.url))
    started.single(ALICE, ORDERS, b"x", ())
    reload(server, users("publish: { allow: ['$JS.API.>'] }"))
    error, seconds = timed(lambda: started.batch(ALICE, ORDERS, [b"x"] * 10_000, ()))
    assert (error.status, error.stored) == (403, "unknown")
    assert seconds < 2


def test_permissions_that_are_given_count_at_the_next_produce(server: NatsServer, producer: Producers) -> None:
    """Denials are not remembered."""
    started = producer(settings(server.url))
    failure(started.batch, ALICE, SECRETS, [b"x"] * 10, ())
    reload(server, users("publish: '>'"))
    assert started.single(ALICE, SECRETS, b"x", ()).sequence == 1


def test_a_denial_after_an_ack_does_not_say_that_nothing_is_stored() -> None:
    """What was allowed before may be denied for another message: acks are waited for, the rest is open."""

    def answer(server: FakeNats, published: Published) -> bytes:
        if published.number in (1, 3):
            return reply(published, b'{"stream":"orders","seq":%d}' % published.number)
        return b"-ERR 'Permissions Violation for Publish to \"orders.final\"'\r\n"

    with contextlib.closing(FakeNats(answer)) as fake:
        producer = Producer(settings(fake.url, ALLOW_OPEN_BROKER="true", SCHEMA_REGISTRY="false"))
        producer.start()
        try:
            assert producer.single(ROOT, ORDERS, b"1", ()).sequence == 1
            error, seconds = timed(lambda: producer.batch(ROOT, ORDERS, [b"2", b"3", b"4"], ()))
        finally:
            producer.stop(0)
    assert outcomes(error) == [(0, 403, "unknown"), (2, 403, "unknown")]
    assert 0.25 <= seconds < 0.8


@pytest.mark.parametrize("manner", ["apart", "together"])
def test_a_denied_reply_subject_is_a_denied_produce(nats_server: Servers, producer: Producers, manner: str) -> None:
    """Some reply subjects are the server's own, and need a permission to be asked for."""
    server = nats_server(users("publish: { allow: ['orders.final', '$JS.API.>'] }"))
    Operator(server).add("orders", allow_batched=True)
    started = producer(settings(server.url, BROKER_INBOX_PREFIX="_R_"))
    error, seconds = timed(lambda: started.batch(ALICE, ORDERS, [b"x"] * 5, (), manner=manner))
    assert outcomes(error) == [(n, 403, "no") for n in range(5)]
    assert seconds < 0.5


# ---- looking and creating ----------------------------------------------------------------------------------------


def test_a_user_who_may_not_look_produces_to_what_is_there(nats_server: Servers, producer: Producers) -> None:
    """The right to publish is all that is needed."""
    server = nats_server(users("publish: { allow: ['orders.final'] }"))
    Operator(server).add("orders")
    started = producer(settings(server.url))
    assert started.single(ALICE, ORDERS, b"x", ()).sequence == 1
    assert len(started.batch(ALICE, ORDERS, [b"x"] * 10, (), manner="together")) == 10


@pytest.mark.slow
def test_a_user_who_may_not_look_is_not_told_that_a_station_is_absent(
    nats_server: Servers, producer: Producers
) -> None:
    """It may be without a leader: the answer says what is known."""
    server = nats_server(users("publish: { allow: ['*.final'] }"))
    started = producer(settings(server.url, PRODUCE_TIMEOUT_SECONDS="1", AUTO_CREATE_STATIONS="true"))
    error = failure(started.single, ALICE, ORDERS, b"x", ())
    assert facts(error) == ("BrokerRefused", "no", "safe")
    assert error.message == "no stream takes orders.final, and this user may not look why"


@pytest.mark.parametrize("manner", ["apart", "together"])
def test_a_user_who_may_not_create_is_told_so(nats_server: Servers, producer: Producers, manner: str) -> None:
    """At once, and nothing is created."""
    server = nats_server(users("publish: { deny: '$JS.API.STREAM.CREATE.>' }"))
    started = producer(settings(server.url, AUTO_CREATE_STATIONS="true"))
    error, seconds = timed(lambda: started.batch(ALICE, ORDERS, [b"x"] * 3, (), manner=manner))
    assert outcomes(error) == [(n, 403, "no") for n in range(3)]
    assert "$JS.API.STREAM.CREATE.orders" in error.fields["errors"][0]
    assert seconds < 0.8
    assert Operator(server).streams() == []


def test_a_user_who_may_not_create_finds_no_station_where_nobody_creates(
    nats_server: Servers, producer: Producers
) -> None:
    """Without automatic creation an absent station is absent for this user too."""
    server = nats_server(users("publish: { deny: '$JS.API.STREAM.CREATE.>' }"))
    error = failure(producer(settings(server.url)).single, ALICE, ORDERS, b"x", ())
    assert facts(error) == ("StationNotFound", "no", "never")


# ---- users who come and go ---------------------------------------------------------------------------------------


def test_a_removed_user_is_unauthorized_at_the_next_produce(server: NatsServer, producer: Producers) -> None:
    """The server ends the connection, and lets no new one in."""
    started = producer(settings(server.url))
    started.single(ALICE, ORDERS, b"x", ())
    reload(server, f"{MONITOR}\nauthorization {{ users: [{{ user: root, password: memphis }}] }}")
    eventually(lambda: has_no_session(started))
    assert facts(failure(started.single, ALICE, ORDERS, b"x", ()))[:2] == ("Unauthorized", "no")
    assert facts(failure(started.log_on, ALICE))[:2] == ("Unauthorized", "no")
    assert Operator(server).count("orders") == 1


def test_a_changed_secret_ends_what_the_old_one_opened(server: NatsServer, producer: Producers) -> None:
    """Who has the old one is out, who has the new one is in."""
    started = producer(settings(server.url))
    started.single(ALICE, ORDERS, b"x", ())
    reload(server, users(ALLOW_ORDERS, password="b"))
    eventually(lambda: has_no_session(started))
    assert facts(failure(started.single, ALICE, ORDERS, b"x", ()))[0] == "Unauthorized"
    assert started.single(Credentials("alice", "b"), ORDERS, b"x", ()).sequence == 2


def test_who_may_hear_no_acks_for_a_while_hears_them_again(server: NatsServer, producer: Producers) -> None:
    """The server ends the subscription, and does not bring it back with the right."""
    started = producer(settings(server.url))
    started.single(ALICE, ORDERS, b"x", ())
    reload(server, users("subscribe: { allow: ['other'] }"))
    eventually(lambda: has_no_session(started))
    assert facts(failure(started.single, ALICE, ORDERS, b"x", ())) == FORBIDDEN
    reload(server, users(ALLOW_ORDERS))
    started.log_on(ALICE)
    assert started.single(ALICE, ORDERS, b"x", ()).sequence == 2


def test_a_wrong_secret_does_not_use_the_session_of_the_right_one(server: NatsServer, producer: Producers) -> None:
    """Sessions belong to a user and a secret."""
    started = producer(settings(server.url))
    started.single(ALICE, ORDERS, b"x", ())
    assert facts(failure(started.single, Credentials("alice", "wrong"), ORDERS, b"x", ()))[0] == "Unauthorized"
    assert Operator(server).count("orders") == 1


def test_a_user_who_was_refused_leaves_nothing_behind(server: NatsServer, producer: Producers) -> None:
    """No connection stays open."""
    started = producer(settings(server.url))
    failure(started.single, Credentials("alice", "wrong"), ORDERS, b"x", ())
    failure(started.log_on, Credentials("alice", "wrong"))
    eventually(lambda: connections(server) == [])
