"""Servers that die, fall silent, and come back, with messages on their way."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from proxy.config import Config
from proxy.errors import BrokerAway, GatewayError
from proxy.messages import Ack, station_named
from proxy.producer import Producer
from tests.brokers.tools import (
    MONITOR,
    ROOT,
    USERS,
    Operator,
    facts,
    failure,
    has_no_session,
    outcomes,
    sessions,
    settings,
    unread,
)
from tests.servers import NatsServer, eventually

ORDERS = station_named("orders")
BATCH = [b"1", b"2", b"3"]
UNKNOWN = ("AckTimeout", "unknown", "with-key")
MANNERS = ("apart", "together")

Servers = Callable[..., NatsServer]
Producers = Callable[[Config], Producer]
Submit = Callable[..., "Future[Any]"]


@pytest.fixture
def server(nats_server: Servers) -> NatsServer:
    """A server with the user `root` and the station `orders`."""
    server = nats_server(MONITOR, users=USERS)
    Operator(server).add("orders", allow_batched=True)
    return server


def ready(producer: Producer) -> Producer:
    """The same, with a session."""
    producer.log_on(ROOT)
    return producer


def in_flight(server: NatsServer, submit: Submit, function: Callable[[], Any]) -> Future[Any]:
    """Runs a function that produces, and returns when its messages are on their way to a server that is paused."""
    server.pause()
    result = submit(function)
    eventually(lambda: unread(server) > 0)
    return result


# ---- servers that die --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("manner", MANNERS)
def test_messages_in_flight_to_a_server_that_dies_are_stored_once(
    server: NatsServer, producer: Producers, submit: Submit, manner: str
) -> None:
    """They are repeated with the same ids when it is back; whether they are duplicates cannot be told."""
    started = ready(producer(settings(server.url)))
    result = in_flight(server, submit, lambda: started.batch(ROOT, ORDERS, BATCH, (), manner=manner))
    server.kill()
    server.start()
    assert [ack.duplicate for ack in result.result(5)] == [None] * 3
    assert Operator(server).payloads("orders") == BATCH


@pytest.mark.slow
def test_under_load_no_message_is_lost_or_doubled_by_a_server_that_dies(
    server: NatsServer, producer: Producers, submit: Submit
) -> None:
    """Sixteen senders, of which none sees an error."""
    started = ready(producer(settings(server.url)))
    stop: list[bool] = []

    def send(sender: int) -> list[bytes]:
        sent: list[bytes] = []
        while not stop:
            payload = b"%d %d" % (sender, len(sent))
            manner: Any = MANNERS[len(sent) % 2]
            started.single(ROOT, ORDERS, payload, (), manner=manner)
            sent.append(payload)
        return sent

    senders = [submit(send, n) for n in range(16)]
    operator = Operator(server)
    try:
        for _ in range(2):
            before = operator.count("orders")
            eventually(lambda before=before: operator.count("orders") > before + 200)
            server.kill()
            server.start()
    finally:
        stop.append(True)
    sent = [payload for sender in senders for payload in sender.result(10)]
    assert sorted(operator.payloads("orders")) == sorted(sent)


def test_a_session_that_was_lost_unused_is_replaced_at_the_next_use(server: NatsServer, producer: Producers) -> None:
    """The message is sent once, so its ack is as usual."""
    started = producer(settings(server.url))
    assert started.single(ROOT, ORDERS, b"1", ()) == Ack(1, False)
    server.stop()
    eventually(lambda: has_no_session(started))
    server.start()
    assert started.single(ROOT, ORDERS, b"2", ()) == Ack(2, False)


def test_what_comes_while_the_server_is_away_waits_for_it(
    server: NatsServer, producer: Producers, submit: Submit
) -> None:
    """Messages of many senders, sent when it is back, once, so their acks are as usual."""
    started = ready(producer(settings(server.url)))
    server.stop()
    eventually(lambda: has_no_session(started))
    results = [submit(started.single, ROOT, ORDERS, b"%d" % n, ()) for n in range(30)]
    server.start()
    assert [result.result(5).duplicate for result in results] == [False] * 30
    assert sorted(Operator(server).payloads("orders")) == sorted(b"%d" % n for n in range(30))


# ---- servers that are away ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_server_that_is_away_is_waited_for_until_the_deadline_and_then_not_at_all(
    server: NatsServer, producer: Producers
) -> None:
    """Nothing is stored; once it has been away for longer than a deadline, senders are told at once."""
    server.stop()
    started = producer(settings(server.url, PRODUCE_TIMEOUT_SECONDS="1"))
    first, seconds = timed(lambda: started.single(ROOT, ORDERS, b"x", ()))
    assert facts(first) == ("BrokerAway", "no", "safe")
    assert 0.9 < seconds < 1.5
    eventually(lambda: timed(lambda: started.single(ROOT, ORDERS, b"x", ()))[1] < 0.2)
    again, seconds = timed(lambda: started.batch(ROOT, ORDERS, BATCH, ()))
    assert outcomes(again) == [(n, 503, "no") for n in range(3)]
    assert again.fields["idempotency_key"]
    assert seconds < 0.2


def timed(function: Callable[[], object]) -> tuple[GatewayError, float]:
    """The error, and how many seconds it took."""
    started = time.monotonic()
    error = failure(function)
    return error, time.monotonic() - started


@pytest.mark.slow
def test_a_server_that_is_back_is_used_within_seconds(server: NatsServer, producer: Producers) -> None:
    """Also by a user whose messages were turned away at once."""
    server.stop()
    started = producer(settings(server.url, PRODUCE_TIMEOUT_SECONDS="1"))
    for _ in range(3):
        failure(started.single, ROOT, ORDERS, b"x", ())
    server.start()
    eventually(lambda: _stores(started), 3)
    assert Operator(server).count("orders") == 1


def _stores(producer: Producer) -> bool:
    try:
        producer.single(ROOT, ORDERS, b"x", ())
    except BrokerAway:
        return False
    return True


# ---- servers that are silent -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_silence_until_the_deadline_leaves_it_open_and_the_key_makes_a_repeat_safe(
    server: NatsServer, producer: Producers, submit: Submit
) -> None:
    """The message was on its way, and is stored once whether the sender repeats it or not."""
    started = ready(producer(settings(server.url, PRODUCE_TIMEOUT_SECONDS="1")))
    result = in_flight(server, submit, lambda: failure(started.single, ROOT, ORDERS, b"x", ()))
    error = result.result(3)
    assert facts(error) == UNKNOWN
    server.resume()
    assert started.single(ROOT, ORDERS, b"x", (), key=error.fields["idempotency_key"]).sequence == 1
    assert Operator(server).payloads("orders") == [b"x"]


@pytest.mark.slow
def test_a_short_silence_is_sat_out(server: NatsServer, producer: Producers, submit: Submit) -> None:
    """No new connection is made, and the message is stored once."""
    started = ready(producer(settings(server.url)))
    result = in_flight(server, submit, lambda: started.batch(ROOT, ORDERS, BATCH, ()))
    with pytest.raises(concurrent.futures.TimeoutError):
        result.result(1.5)
    server.resume()
    assert len(result.result(3)) == 3
    assert Operator(server).payloads("orders") == BATCH
    eventually(lambda: sessions(server) == 1)


# ---- stations that forget ids sooner -----------------------------------------------------------------------------


@pytest.mark.slow
def test_what_may_be_stored_is_not_repeated_when_the_station_has_forgotten_its_id(
    server: NatsServer, producer: Producers, submit: Submit
) -> None:
    """The repeat could be stored beside the first attempt."""
    operator = Operator(server)
    operator.api("STREAM.UPDATE.orders", **{**operator.config("orders"), "duplicate_window": 100_000_000})
    started = ready(producer(settings(server.url, PRODUCE_TIMEOUT_SECONDS="1.5")))
    result = in_flight(server, submit, lambda: failure(started.batch, ROOT, ORDERS, BATCH, ()))
    server.kill()
    server.start()
    assert outcomes(result.result(5)) == [(n, 504, "unknown") for n in range(3)]
    assert operator.count("orders") == 0


@pytest.mark.slow
def test_the_settings_window_counts_for_users_who_may_not_look(
    nats_server: Servers, producer: Producers, submit: Submit
) -> None:
    """Nothing else is known of the station."""
    who = "user: root, password: memphis"
    server = nats_server(f"authorization {{ users: [{{ {who}, permissions: {{ publish: 'orders.final' }} }}] }}")
    started = ready(producer(settings(server.url, PRODUCE_TIMEOUT_SECONDS="1.5", DUPLICATE_WINDOW_SECONDS="0.1")))
    result = in_flight(server, submit, lambda: failure(started.single, ROOT, ORDERS, b"x", ()))
    server.kill()
    server.start()
    assert facts(result.result(5)) == UNKNOWN
