"""What becomes of messages: acks, and refusals."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from proxy.config import Config
from proxy.errors import TooLarge
from proxy.messages import Ack, station_named
from proxy.producer import Producer
from tests.brokers.tools import (
    MONITOR,
    ROOT,
    USERS,
    Operator,
    connections,
    facts,
    failure,
    flushed,
    outcomes,
    sessions,
    settings,
)
from tests.servers import NatsServer, eventually

ORDERS = station_named("orders")
MANNERS = ("apart", "together")
NO_ACKS = (b"OK", b"", b"\xff", b"[]", b"null", b"7", b'{"seq":7}', b'{"stream":"","seq":7}', b'{"stream":7,"seq":7}')

Servers = Callable[..., NatsServer]
Producers = Callable[[Config], Producer]


@pytest.fixture
def server(nats_server: Servers) -> NatsServer:
    """A nats-server with the user `root`, which takes small messages only."""
    return nats_server(f"{MONITOR}\nmax_payload: 4096", users=USERS)


# ---- acks --------------------------------------------------------------------------------------------------------


def test_an_ack_tells_the_place_in_the_stream(started: Producer) -> None:
    """Sequences count up from 1."""
    assert [started.single(ROOT, ORDERS, b"x", ()) for _ in range(3)] == [Ack(n, False) for n in (1, 2, 3)]


def test_a_batch_has_an_ack_for_each_message_in_order(started: Producer, operator: Operator) -> None:
    """The places are those of the messages that they are told for."""
    payloads = [b"%d" % n for n in range(100)]
    assert started.batch(ROOT, ORDERS, payloads, ()) == [Ack(n, False) for n in range(1, 101)]
    assert operator.payloads("orders") == payloads


@pytest.mark.slow
@pytest.mark.parametrize("manner", MANNERS)
def test_ten_thousand_messages_are_stored_in_order(started: Producer, operator: Operator, manner: str) -> None:
    """One burst, within the deadline of two seconds."""
    payloads = [b"%d" % n for n in range(10_000)]
    assert len(started.batch(ROOT, ORDERS, payloads, (), manner=manner)) == 10_000
    assert operator.payloads("orders") == payloads


def test_payload_and_headers_are_stored_as_they_are(started: Producer, operator: Operator) -> None:
    """Byte for byte; the id is the only header that is added."""
    payload = bytes(range(256))
    started.single(ROOT, ORDERS, payload, (("content-type", "image/png"), ("x-a", "b: c")))
    (message,) = operator.stored("orders")
    assert message.payload == payload
    assert set(message.headers.items()) >= {("content-type", "image/png"), ("x-a", "b: c")}
    assert set(message.headers) == {"content-type", "x-a", "Nats-Msg-Id"}


def test_an_empty_payload_is_a_message(started: Producer, operator: Operator) -> None:
    """It has its place."""
    assert started.single(ROOT, ORDERS, b"", ()).sequence == 1
    assert operator.payloads("orders") == [b""]


class Subscriber:
    """A service that answers whatever comes on the subject of `orders`."""

    def __init__(self, server: NatsServer, *answers: bytes) -> None:
        self.answered = 0
        self._answers = answers
        self._ready, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=Operator(server).ask, args=(self._serve,), name="subscriber")

    def __enter__(self) -> Subscriber:
        self._thread.start()
        assert self._ready.wait(5)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(5)

    async def _serve(self, client: Client) -> None:
        await client.subscribe("orders.final", cb=self._respond)
        await flushed(client)
        self._ready.set()
        while not self._stop.is_set():
            await flushed(client)

    async def _respond(self, message: Msg) -> None:
        for answer in self._answers:
            await message.respond(answer)
        self.answered += 1


@pytest.mark.slow
def test_only_the_word_of_a_stream_is_an_ack(server: NatsServer, producer: Producers) -> None:
    """A subscriber that answers does not store: without a stream the message is not acknowledged."""
    started = producer(settings(server.url, PRODUCE_TIMEOUT_SECONDS="1"))
    with Subscriber(server, *NO_ACKS) as subscriber:
        error = failure(started.single, ROOT, ORDERS, b"x", ())
        eventually(lambda: subscriber.answered)
    assert facts(error) == ("AckTimeout", "unknown", "with-key")


@pytest.mark.parametrize("manner", MANNERS)
def test_the_streams_word_counts_whoever_answers_too(
    server: NatsServer, started: Producer, operator: Operator, manner: str
) -> None:
    """A subscriber that is faster changes nothing."""
    with Subscriber(server, b"thanks") as subscriber:
        acks = started.batch(ROOT, ORDERS, [b"1", b"2", b"3"], (), manner=manner)
        eventually(lambda: subscriber.answered >= 3)
    assert [ack.duplicate for ack in acks] == [False] * 3
    assert operator.payloads("orders") == [b"1", b"2", b"3"]


# ---- what is refused ---------------------------------------------------------------------------------------------


def connection(server: NatsServer) -> int:
    """The number of the one connection that `root` has, once the operator's is gone."""
    eventually(lambda: sessions(server) == 1)
    (number,) = [found["cid"] for found in connections(server) if found["authorized_user"] == "root"]
    return int(number)


@pytest.mark.parametrize("manner", MANNERS)
def test_what_is_too_large_for_the_broker_fails_alone(
    server: NatsServer, started: Producer, operator: Operator, manner: str
) -> None:
    """It never reaches the broker, which would end the session; the others of the batch are stored."""
    started.single(ROOT, ORDERS, b"before", ())
    before = connection(server)
    error = failure(lambda: started.batch(ROOT, ORDERS, [b"1", b"L" * 5000, b"3"], (), manner=manner))
    assert outcomes(error) == [(1, 413, "no")]
    assert "4096 bytes" in error.fields["errors"][0]
    assert operator.payloads("orders") == [b"before", b"1", b"3"]
    assert connection(server) == before


@pytest.mark.parametrize("manner", MANNERS)
def test_a_batch_of_which_nothing_fits_fails(started: Producer, operator: Operator, manner: str) -> None:
    """Each of its messages for itself."""
    error = failure(lambda: started.batch(ROOT, ORDERS, [b"L" * 5000] * 3, (), manner=manner))
    assert outcomes(error) == [(n, 413, "no") for n in range(3)]
    assert operator.count("orders") == 0


def test_headers_count_for_the_brokers_limit(server: NatsServer, started: Producer) -> None:
    """The largest message that fits is stored; with one byte more it is refused here, not by the broker."""
    headers = (("x-pad", "p" * 1000),)
    block = len("NATS/1.0\r\nNats-Msg-Id:" + "i" * 22 + "\r\nx-pad: " + "p" * 1000 + "\r\n\r\n")
    assert started.single(ROOT, ORDERS, b"x" * (4096 - block), headers).sequence == 1
    before = connection(server)
    error = failure(started.single, ROOT, ORDERS, b"x" * (4097 - block), headers)
    assert facts(error) == ("TooLarge", "no", "never")
    assert connection(server) == before


@pytest.mark.parametrize("manner", MANNERS)
def test_what_is_too_large_for_the_station_fails_alone(
    server: NatsServer, operator: Operator, producer: Producers, manner: str
) -> None:
    """The stream says so."""
    operator.add("orders", max_msg_size=200, allow_batched=True)
    started = producer(settings(server.url))
    error = failure(lambda: started.batch(ROOT, ORDERS, [b"1", b"L" * 300, b"3"], (), manner=manner))
    assert outcomes(error) == [(1, 413, "no")]
    assert operator.payloads("orders") == [b"1", b"3"]


@pytest.mark.parametrize("manner", MANNERS)
def test_a_full_station_refuses(server: NatsServer, operator: Operator, producer: Producers, manner: str) -> None:
    """What does not fit is not stored, and repeating may help; the broker's reason is told."""
    operator.add("orders", max_msgs=2, discard="new", allow_batched=True)
    started = producer(settings(server.url))
    error = failure(lambda: started.batch(ROOT, ORDERS, [b"1", b"2", b"3", b"4"], (), manner=manner))
    assert outcomes(error) == [(2, 503, "no"), (3, 503, "no")]
    assert "maximum messages exceeded" in error.fields["errors"][0]
    assert (error.stored, error.repeat) == ("partly", "with-key")
    single = failure(lambda: started.single(ROOT, ORDERS, b"5", (), manner=manner))
    assert facts(single) == ("BrokerRefused", "no", "safe")
    assert operator.payloads("orders") == [b"1", b"2"]


def test_a_sealed_station_refuses(server: NatsServer, operator: Operator, producer: Producers) -> None:
    """A stream that takes nothing any more says why."""
    operator.add("orders")
    operator.api("STREAM.UPDATE.orders", **{**operator.config("orders"), "sealed": True})
    error = failure(producer(settings(server.url)).single, ROOT, ORDERS, b"x", ())
    assert facts(error) == ("BrokerRefused", "no", "safe")
    assert "sealed" in error.message


def sessions_of_root(server: NatsServer) -> list[int]:
    """The numbers of the connections that `root` has."""
    return [connection["cid"] for connection in connections(server) if connection["authorized_user"] == "root"]


@pytest.mark.slow
def test_a_limit_that_is_raised_meanwhile_counts(server: NatsServer, started: Producer, operator: Operator) -> None:
    """The broker tells new connections alone; the gateway asks by one, and keeps the session that it has."""
    big = b"L" * 5000
    assert facts(failure(started.single, ROOT, ORDERS, big, ())) == ("TooLarge", "no", "never")
    server.config(f"{MONITOR}\nmax_payload: 8192")
    server.reload()
    before = sessions_of_root(server)

    def stored() -> bool:
        with contextlib.suppress(TooLarge):
            return isinstance(started.single(ROOT, ORDERS, big, ()), Ack)
        return False

    eventually(stored, 10)
    eventually(lambda: before == sessions_of_root(server))
    assert operator.payloads("orders") == [big]


def test_a_limit_that_is_lowered_meanwhile_counts(server: NatsServer, started: Producer, operator: Operator) -> None:
    """The broker ends the session of who exceeds it. The attempt was not answered, so it is open what became of it;
    those beside it are stored, and a repeat is refused.
    """
    started.single(ROOT, ORDERS, b"before", ())
    server.config(f"{MONITOR}\nmax_payload: 512")
    server.reload()
    error = failure(lambda: started.batch(ROOT, ORDERS, [b"1", b"L" * 1000, b"3"], ()))
    assert outcomes(error) == [(1, 504, "unknown")]
    assert facts(failure(started.single, ROOT, ORDERS, b"L" * 1000, ())) == ("TooLarge", "no", "never")
    assert operator.payloads("orders") == [b"before", b"1", b"3"]
