"""Batches that are stored as a whole, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from proxy.errors import GatewayError
from proxy.messages import Ack, station_named
from proxy.producer import Producer
from tests.brokers.tools import ROOT, USERS, Operator, facts, failure, settings
from tests.servers import NatsServer

ORDERS = station_named("orders")
PAYLOADS = [b"%d" % n for n in range(10)]


@pytest.fixture
def server(nats_server: Callable[..., NatsServer]) -> NatsServer:
    """A server that knows atomic batches."""
    return nats_server(users=USERS)


@pytest.fixture
def producer(server: NatsServer) -> Iterator[Producer]:
    """A producer that creates stations."""
    producer = Producer(settings(server.url, AUTO_CREATE_STATIONS="true"))
    producer.start()
    yield producer
    producer.stop(1)


def produce(producer: Producer, payloads: list[bytes], key: str = "") -> list[Ack]:
    """Produces an atomic batch."""
    return producer.batch(ROOT, ORDERS, payloads, (), key=key, manner="atomic")


def refusal(producer: Producer, payloads: list[bytes], key: str = "") -> GatewayError:
    """What an atomic batch fails with."""
    return failure(lambda: produce(producer, payloads, key))


def test_all_messages_are_stored_in_a_row(server: NatsServer, producer: Producer) -> None:
    """The acks name the sequences of all messages, which stand in the stream without others between them."""
    acks = produce(producer, PAYLOADS)
    assert [ack.sequence for ack in acks] == list(range(1, 11))
    assert Operator(server).payloads("orders") == PAYLOADS


def test_a_thousand_messages_are_one_batch(server: NatsServer, producer: Producer) -> None:
    """As many as brokers take."""
    produce(producer, [b"x"] * 1000)
    assert Operator(server).count("orders") == 1000


def test_one_message_is_a_batch_too(server: NatsServer, producer: Producer) -> None:
    """The smallest batch."""
    assert produce(producer, [b"x"]) == [Ack(1, False)]


def test_one_refused_message_refuses_all(server: NatsServer, producer: Producer) -> None:
    """Nothing of the batch is stored when the stream takes one of them not."""
    operator = Operator(server)
    operator.add("orders", allow_atomic=True, max_msg_size=500)
    error = refusal(producer, [b"a", b"L" * 1000, b"c"])
    assert facts(error) == ("TooLarge", "no", "never")
    assert operator.count("orders") == 0


def test_a_message_too_large_for_the_broker_refuses_all(server: NatsServer, producer: Producer) -> None:
    """Nothing is sent, and the message is named by its index."""
    produce(producer, [b"x"])
    error = refusal(producer, [b"a", b"b" * (9 << 20)])
    assert facts(error) == ("TooLarge", "no", "never")
    assert "message 1 " in error.message
    assert Operator(server).count("orders") == 1


def test_a_limit_that_is_lowered_meanwhile_leaves_it_open(server: NatsServer, producer: Producer) -> None:
    """The broker ends the session of who exceeds it, and so answers no attempt; a repeat is refused, and not sent."""
    produce(producer, [b"x"])
    server.config("max_payload: 512")
    server.reload()
    batch = [b"a", b"L" * 1000]
    assert facts(refusal(producer, batch)) == ("AckTimeout", "unknown", "with-key")
    assert facts(refusal(producer, batch)) == ("TooLarge", "no", "never")
    assert Operator(server).count("orders") == 1


def test_a_stream_without_atomic_batches_is_named_as_the_reason(server: NatsServer, producer: Producer) -> None:
    """400, and nothing is stored one by one."""
    operator = Operator(server)
    operator.add("orders")
    error = refusal(producer, PAYLOADS)
    assert (error.status, *facts(error)) == (400, "BadRequest", "no", "never")
    assert operator.count("orders") == 0


def test_the_same_batch_again_is_a_duplicate(server: NatsServer, producer: Producer) -> None:
    """With the sender's key it is stored once, and the second answer says so."""
    produce(producer, PAYLOADS, key="k1")
    assert {ack.duplicate for ack in produce(producer, PAYLOADS, key="k1")} == {True}
    assert Operator(server).payloads("orders") == PAYLOADS


def test_another_batch_with_the_same_key_is_another_batch(server: NatsServer, producer: Producer) -> None:
    """All ids depend on all payloads, so one different element makes a different batch."""
    produce(producer, PAYLOADS, key="k1")
    produce(producer, [*PAYLOADS[:-1], b"other"], key="k1")
    assert Operator(server).count("orders") == 20


def test_an_absent_station_is_created(server: NatsServer, producer: Producer) -> None:
    """The first attempt finds no stream; the batch is sent again once there is one."""
    produce(producer, PAYLOADS)
    config = Operator(server).config("orders")
    assert config["allow_atomic"]
    assert config["allow_batched"]
