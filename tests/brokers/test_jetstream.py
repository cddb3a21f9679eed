"""Stations on NATS JetStream: which stream is which station, what is created, and accounts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from proxy.config import Config
from proxy.credentials import Credentials
from proxy.messages import station_named
from proxy.producer import Producer
from tests.brokers.tools import MONITOR, ROOT, USERS, Operator, facts, failure, monitor, outcomes, settings
from tests.servers import NatsServer

ORDERS = station_named("orders")
ALICE, BOB = Credentials("alice", "a"), Credentials("bob", "b")
ACCOUNTS = """
accounts {
  A { jetstream: enabled, users: [{ user: alice, password: a }] }
  B { jetstream: enabled, users: [{ user: bob, password: b }] }
  C { users: [{ user: root, password: memphis }] }
}
"""

Servers = Callable[..., NatsServer]
Producers = Callable[[Config], Producer]


@pytest.fixture
def server(nats_server: Servers) -> NatsServer:
    """A nats-server with the user `root`."""
    return nats_server(MONITOR, users=USERS)


@pytest.fixture
def operator(server: NatsServer) -> Operator:
    """Who looks into it."""
    return Operator(server)


# ---- stations that are there -------------------------------------------------------------------------------------


def test_a_station_is_the_stream_that_takes_its_subject(
    server: NatsServer, operator: Operator, producer: Producers
) -> None:
    """Whatever the stream is called."""
    operator.add("everything", subjects=["orders.final", "bills.final"])
    assert producer(settings(server.url)).single(ROOT, ORDERS, b"x", ()).sequence == 1
    assert operator.payloads("everything") == [b"x"]


def test_the_subject_of_a_station_can_be_set(server: NatsServer, operator: Operator, producer: Producers) -> None:
    """For streams that are laid out otherwise."""
    operator.add("events", subjects=["events.*.in"])
    started = producer(settings(server.url, SUBJECT_TEMPLATE="events.{station}.in"))
    assert started.single(ROOT, ORDERS, b"x", ()).sequence == 1
    assert operator.payloads("events") == [b"x"]


def test_dots_in_a_name_are_no_subject_tokens(server: NatsServer, operator: Operator, producer: Producers) -> None:
    """`shop.orders` is the station `shop#orders` of one token; nobody reaches another station by dots."""
    started = producer(settings(server.url, AUTO_CREATE_STATIONS="true"))
    started.single(ROOT, station_named("Shop.Orders"), b"x", ())
    assert operator.streams() == ["shop#orders"]
    assert operator.config("shop#orders")["subjects"] == ["shop#orders.final"]


# ---- stations that are not ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("manner", ["apart", "together"])
def test_an_absent_station_is_not_found(
    server: NatsServer, operator: Operator, producer: Producers, manner: str
) -> None:
    """The broker says so, so the answer comes long before the deadline, and nothing is created."""
    started = producer(settings(server.url))
    error = failure(lambda: started.single(ROOT, ORDERS, b"x", (), manner=manner))
    assert facts(error) == ("StationNotFound", "no", "never")
    assert "orders" in error.message
    assert operator.streams() == []


@pytest.mark.parametrize("manner", ["apart", "together"])
def test_no_message_of_a_batch_finds_an_absent_station(server: NatsServer, producer: Producers, manner: str) -> None:
    """All of them fail for the same reason, which is the whole request's."""
    started = producer(settings(server.url))
    error = failure(lambda: started.batch(ROOT, ORDERS, [b"1", b"2", b"3"], (), manner=manner))
    assert error.status == 404
    assert outcomes(error) == [(n, 404, "no") for n in range(3)]


def test_an_absent_station_is_created_as_the_settings_say(
    server: NatsServer, operator: Operator, producer: Producers
) -> None:
    """Each setting of created stations reaches the stream."""
    started = producer(
        settings(
            server.url,
            AUTO_CREATE_STATIONS="true",
            STATION_MAX_AGE_SECONDS=3600,
            STATION_MAX_BYTES=1_000_000,
            DUPLICATE_WINDOW_SECONDS=7.5,
        )
    )
    started.single(ROOT, ORDERS, b"x", ())
    config = operator.config("orders")
    expected = {
        "subjects": ["orders.final"],
        "storage": "file",
        "retention": "limits",
        "discard": "old",
        "max_age": 3600 * 10**9,
        "max_bytes": 1_000_000,
        "max_msgs": -1,
        "num_replicas": 1,
        "duplicate_window": 7_500_000_000,
        "allow_batched": True,
    }
    assert {name: config.get(name) for name in expected} == expected


def test_created_stations_are_kept_a_week_by_default(
    server: NatsServer, operator: Operator, producer: Producers
) -> None:
    """And know ids for two minutes, and have no limit of bytes."""
    producer(settings(server.url, AUTO_CREATE_STATIONS="true")).single(ROOT, ORDERS, b"x", ())
    config = operator.config("orders")
    found = (config["max_age"], config["duplicate_window"], config["max_bytes"])
    assert found == (604_800 * 10**9, 120 * 10**9, -1)


def test_created_stations_may_be_kept_forever(server: NatsServer, operator: Operator, producer: Producers) -> None:
    """An age of 0 is no limit."""
    env = {"AUTO_CREATE_STATIONS": "true", "STATION_MAX_AGE_SECONDS": "0"}
    producer(settings(server.url, **env)).single(ROOT, ORDERS, b"x", ())
    assert operator.config("orders").get("max_age", 0) == 0


def test_a_short_age_shortens_the_duplicate_window(server: NatsServer, operator: Operator, producer: Producers) -> None:
    """A stream cannot know ids for longer than it keeps messages; the broker would refuse the settings."""
    env = {"AUTO_CREATE_STATIONS": "true", "STATION_MAX_AGE_SECONDS": "10"}
    assert producer(settings(server.url, **env)).single(ROOT, ORDERS, b"x", ()).sequence == 1
    assert operator.config("orders")["duplicate_window"] == 10 * 10**9


def test_many_messages_at_once_create_a_station_once(
    server: NatsServer, operator: Operator, producer: Producers
) -> None:
    """Those that meet an absent station share the question and the creation."""
    started = producer(settings(server.url, AUTO_CREATE_STATIONS="true"))
    acks = started.batch(ROOT, ORDERS, [b"%d" % n for n in range(500)], ())
    assert len({ack.sequence for ack in acks}) == 500
    assert operator.count("orders") == 500
    assert monitor(server, "/jsz")["api"]["total"] == 3  # names, creation; the count is the operator's


@pytest.mark.parametrize("manner", ["apart", "together"])
def test_a_stream_of_that_name_for_other_subjects_is_no_station(
    server: NatsServer, operator: Operator, producer: Producers, manner: str
) -> None:
    """None can be created beside it, however often one tries; the answer names the stream, at once."""
    operator.add("orders", subjects=["bills.final"])
    started = producer(settings(server.url, AUTO_CREATE_STATIONS="true"))
    error = failure(lambda: started.single(ROOT, ORDERS, b"x", (), manner=manner))
    assert facts(error) == ("StationNotFound", "no", "never")
    assert "stream orders is in its place, and does not take orders.final" in error.message


def test_a_user_creates_only_so_many_stations_in_a_minute(nats_server: Servers, producer: Producers) -> None:
    """Under whatever account it says; those that exist, and other users, are not concerned."""
    server = nats_server(users={**USERS, "alice": "a"})
    env = {"AUTO_CREATE_STATIONS": "true", "MAX_STATIONS_CREATED_PER_MINUTE": "2"}
    started = producer(settings(server.url, **env))
    first, second, third, fourth = (station_named(f"orders-{n}") for n in range(4))
    for credentials, station in ((ALICE, first), (Credentials("alice$7", "a", "7"), second)):
        assert started.single(credentials, station, b"x", ()).sequence == 1
    refused = failure(started.single, ALICE, third, b"x", ())
    assert (facts(refused), refused.status) == (("TooManyStations", "no", "safe"), 429)
    refused = failure(started.batch, ALICE, third, [b"x", b"y"], ())
    assert (refused.status, refused.stored, dict(refused.headers())) == (429, "no", {"Retry-After": "60"})
    assert started.single(ALICE, first, b"y", ()).sequence == 2
    assert started.single(ROOT, fourth, b"x", ()).sequence == 1
    assert Operator(server).api("STREAM.NAMES")["streams"] == ["orders-0", "orders-1", "orders-3"]


@pytest.mark.slow
def test_what_the_broker_refuses_to_create_is_told(server: NatsServer, producer: Producers) -> None:
    """Three copies need three servers; the broker's reason is in the error."""
    env = {"AUTO_CREATE_STATIONS": "true", "STATION_REPLICAS": "3", "PRODUCE_TIMEOUT_SECONDS": "1"}
    error = failure(producer(settings(server.url, **env)).single, ROOT, ORDERS, b"x", ())
    assert facts(error) == ("BrokerRefused", "no", "safe")
    assert "replicas > 1 not supported in non-clustered mode" in error.message


# ---- accounts ----------------------------------------------------------------------------------------------------


def test_accounts_have_stations_of_the_same_name_apart(nats_server: Servers, producer: Producers) -> None:
    """A user reaches the stations of the own account alone."""
    server = nats_server(ACCOUNTS)
    started = producer(settings(server.url, AUTO_CREATE_STATIONS="true"))
    for user in (ALICE, BOB, ALICE):
        started.single(user, ORDERS, user.user.encode(), ())
    assert Operator(server, "alice", "a").payloads("orders") == [b"alice", b"alice"]
    assert Operator(server, "bob", "b").payloads("orders") == [b"bob"]


def test_a_station_of_another_account_is_not_found(nats_server: Servers, producer: Producers) -> None:
    """It is as absent as any other."""
    server = nats_server(ACCOUNTS)
    Operator(server, "alice", "a").add("orders")
    error = failure(producer(settings(server.url)).single, BOB, ORDERS, b"x", ())
    assert facts(error) == ("StationNotFound", "no", "never")


def test_the_same_key_of_two_users_is_not_the_same_id(
    server: NatsServer, nats_server: Servers, producer: Producers
) -> None:
    """Nobody finds out, or uses up, the keys of another user of the same station."""
    shared = nats_server(users={"alice": "a", "bob": "b"})
    Operator(shared, "alice", "a").add("orders")
    started = producer(settings(shared.url))
    acks = [started.single(user, ORDERS, b"x", (), key="the key") for user in (ALICE, BOB, ALICE)]
    assert [ack.duplicate for ack in acks] == [False, False, True]


@pytest.mark.slow
def test_an_account_without_jetstream_is_told_so(nats_server: Servers, producer: Producers) -> None:
    """The station is not called absent: nobody could know."""
    env = {"AUTO_CREATE_STATIONS": "true", "PRODUCE_TIMEOUT_SECONDS": "1"}
    error = failure(producer(settings(nats_server(ACCOUNTS).url, **env)).single, ROOT, ORDERS, b"x", ())
    assert facts(error) == ("BrokerRefused", "no", "safe")
    assert "JetStream" in error.message


@pytest.mark.slow
def test_a_server_without_jetstream_is_told_so(nats_server: Servers, producer: Producers) -> None:
    """The same for a whole server."""
    server = nats_server(users=USERS, jetstream=False)
    error = failure(producer(settings(server.url, PRODUCE_TIMEOUT_SECONDS="1")).single, ROOT, ORDERS, b"x", ())
    assert facts(error) == ("BrokerRefused", "no", "safe")
    assert "JetStream" in error.message
