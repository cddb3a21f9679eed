"""Keys that have been used before: a repeat is stored once, another message is not taken for one."""

from __future__ import annotations

import string
from collections.abc import Callable

import pytest

from proxy.config import Config
from proxy.credentials import Credentials
from proxy.messages import Ack, station_named
from proxy.producer import Producer
from tests.brokers.tools import ROOT, Operator, facts, failure, settings
from tests.servers import NatsServer, eventually
from tests.uncollected import Payload, no_payloads, uncollected

ORDERS = station_named("orders")
ALICE = Credentials("alice", "a")
DIGITS = string.ascii_letters + string.digits + "-_"

Servers = Callable[..., NatsServer]
Producers = Callable[[Config], Producer]


@pytest.fixture
def server(nats_server: Servers) -> NatsServer:
    """A nats-server with the user `root`, and alice, who may not read."""
    alice = "{ user: alice, password: a, permissions: { publish: { deny: '$JS.API.STREAM.MSG.>' } } }"
    return nats_server(f"authorization {{ users: [{{ user: root, password: memphis }}, {alice}] }}")


def test_a_repeated_key_is_a_duplicate(started: Producer, operator: Operator) -> None:
    """The ack is that of the message that is stored."""
    acks = [started.single(ROOT, ORDERS, b"x", (), key="k") for _ in range(3)]
    assert acks == [Ack(1, False), Ack(1, True), Ack(1, True)]
    assert operator.count("orders") == 1


def test_a_key_of_other_bytes_is_refused(started: Producer, operator: Operator) -> None:
    """The other message is not stored, and no repeat will change that."""
    started.single(ROOT, ORDERS, b"first", (), key="k")
    error = failure(lambda: started.single(ROOT, ORDERS, b"second", (), key="k"))
    assert facts(error) == ("KeyReused", "no", "never")
    assert operator.payloads("orders") == [b"first"]


def test_other_headers_are_no_other_bytes(started: Producer) -> None:
    """A repeat may come with another trace id: the payload is what counts."""
    started.single(ROOT, ORDERS, b"x", (("x-trace", "1"),), key="k")
    assert started.single(ROOT, ORDERS, b"x", (("x-trace", "2"),), key="k") == Ack(1, True)


def test_a_key_cannot_be_compared_by_who_may_not_read(started: Producer, operator: Operator) -> None:
    """The broker's word stands: a duplicate."""
    started.single(ALICE, ORDERS, b"first", (), key="k")
    assert started.single(ALICE, ORDERS, b"second", (), key="k") == Ack(1, True)
    assert operator.payloads("orders") == [b"first"]


def test_what_cannot_be_compared_is_gone_without_the_garbage_collector(started: Producer) -> None:
    """A payload may have megabytes, and whoever may not read may repeat a thousand times."""
    started.single(ALICE, ORDERS, b"x", (), key="k")
    with uncollected():
        assert started.single(ALICE, ORDERS, Payload(b"x"), (), key="k") == Ack(1, True)
        eventually(no_payloads)


def test_a_key_whose_message_is_gone_is_a_duplicate(started: Producer, operator: Operator) -> None:
    """The stream remembers the id longer than the message."""
    started.single(ROOT, ORDERS, b"first", (), key="k")
    operator.api("STREAM.PURGE.orders")
    assert started.single(ROOT, ORDERS, b"second", (), key="k") == Ack(1, True)


def test_a_key_is_free_again_when_the_station_has_forgotten_it(
    server: NatsServer, operator: Operator, producer: Producers
) -> None:
    """After the station's duplicate window."""
    operator.add("orders", duplicate_window=100_000_000)
    started = producer(settings(server.url))
    acks = [started.single(ROOT, ORDERS, b"x", (), key="k")]
    while acks[-1].sequence == 1:
        acks.append(started.single(ROOT, ORDERS, b"x", (), key="k"))
    assert acks[0] == Ack(1, False)
    assert acks[-1] == Ack(2, False)


def test_a_key_counts_in_its_station_alone_where_several_share_a_stream(
    server: NatsServer, operator: Operator, producer: Producers
) -> None:
    """The stream knows ids whatever the subject of their messages."""
    operator.api("STREAM.CREATE.all", name="all", subjects=["stations.*"], allow_batched=True)
    started = producer(settings(server.url, SUBJECT_TEMPLATE="stations.{station}"))
    for station in (ORDERS, station_named("bills")):
        assert started.single(ROOT, station, b"x", (), key="k").duplicate is False
        started.batch(ROOT, station, [b"y", b"z"], (), key="b", manner="together")
    assert operator.payloads("all") == [b"x", b"y", b"z"] * 2


def test_a_key_counts_in_its_station_alone(started: Producer, operator: Operator) -> None:
    """The same key is free in another one."""
    operator.add("bills")
    started.single(ROOT, ORDERS, b"x", (), key="k")
    assert started.single(ROOT, station_named("bills"), b"y", (), key="k") == Ack(1, False)


@pytest.mark.parametrize("manner", ["apart", "together"])
def test_a_repeated_batch_is_stored_once(started: Producer, operator: Operator, manner: str) -> None:
    """Each message is known again by key, place and content."""
    for _ in range(2):
        assert len(started.batch(ROOT, ORDERS, [b"1", b"2", b"2"], (), key="k", manner=manner)) == 3
    assert operator.payloads("orders") == [b"1", b"2", b"2"]


def test_a_repeated_batch_tells_its_duplicates(started: Producer) -> None:
    """Messages that are new in it are stored."""
    started.batch(ROOT, ORDERS, [b"1", b"2"], (), key="k")
    acks = started.batch(ROOT, ORDERS, [b"1", b"other", b"3"], (), key="k")
    assert acks == [Ack(1, True), Ack(3, False), Ack(4, False)]


def test_the_rest_of_a_batch_can_be_repeated_with_its_key(
    server: NatsServer, operator: Operator, producer: Producers
) -> None:
    """What a full station refused is stored by the repeat; what it took is not doubled."""
    operator.add("orders", max_msgs=2, discard="new")
    started = producer(settings(server.url))
    assert failure(lambda: started.batch(ROOT, ORDERS, [b"1", b"2", b"3"], (), key="k")).stored == "partly"
    operator.api("STREAM.UPDATE.orders", **{**operator.config("orders"), "max_msgs": -1})
    started.batch(ROOT, ORDERS, [b"1", b"2", b"3"], (), key="k")
    assert operator.payloads("orders") == [b"1", b"2", b"3"]


def test_the_key_that_an_error_tells_makes_a_repeat_safe(
    server: NatsServer, operator: Operator, producer: Producers
) -> None:
    """The same for a batch that was sent without a key."""
    operator.add("orders", max_msgs=2, discard="new")
    started = producer(settings(server.url))
    error = failure(lambda: started.batch(ROOT, ORDERS, [b"1", b"2", b"3"], ()))
    operator.api("STREAM.UPDATE.orders", **{**operator.config("orders"), "max_msgs": -1})
    started.batch(ROOT, ORDERS, [b"1", b"2", b"3"], (), key=error.fields["idempotency_key"])
    assert operator.payloads("orders") == [b"1", b"2", b"3"]


def test_a_key_of_our_own_that_is_in_use_stores_nothing(started: Producer, operator: Operator) -> None:
    """Two processes may draw the same key; the sender is asked to repeat, and gets another one."""
    started.single(ROOT, ORDERS, b"first", ())
    (message,) = operator.stored("orders")
    taken = after(message.headers["Nats-Msg-Id"])
    operator.ask(lambda client: client.jetstream().publish("orders.final", b"other", headers={"Nats-Msg-Id": taken}))
    assert facts(failure(started.single, ROOT, ORDERS, b"second", ())) == ("BrokerRefused", "no", "safe")
    assert started.single(ROOT, ORDERS, b"second", ()) == Ack(3, False)
    assert operator.payloads("orders") == [b"first", b"other", b"second"]


def after(own: str) -> str:
    """The id that follows this one: its last nine characters are a number that counts up."""
    number = 0
    for letter in own[-9:]:
        number = number * 64 + DIGITS.index(letter)
    number = (number + 1) % 64**9
    return own[:-9] + "".join(DIGITS[number >> 6 * place & 63] for place in reversed(range(9)))


def test_replicas_know_each_others_keys(server: NatsServer, started: Producer, producer: Producers) -> None:
    """A sender may repeat elsewhere."""
    assert started.single(ROOT, ORDERS, b"x", (), key="k") == Ack(1, False)
    assert producer(settings(server.url)).single(ROOT, ORDERS, b"x", (), key="k") == Ack(1, True)
