"""Messages that travel together, and the truth about each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import pytest
from nats.aio.client import Client

from proxy.brokers import groups
from proxy.brokers.groups import OWN_GROUP, TOO_MANY_BATCHES, Batch, Group, Portion, _groups
from proxy.brokers.publishing import Delivery
from proxy.brokers.session import Session
from proxy.errors import BatchFailed
from proxy.messages import station_named
from proxy.producer import Producer
from tests.brokers.fakes import Recorder
from tests.brokers.tools import ROOT, USERS, Operator, outcomes, settings
from tests.servers import NatsServer, eventually

ORDERS = station_named("orders")
SMALL, LARGE = b"s" * 10, b"L" * 2000
LIMITED = {"allow_batched": True, "max_msg_size": 1000}

Start = Callable[..., NatsServer]


@pytest.fixture
def server(nats_server: Start) -> NatsServer:
    """A server that knows batches."""
    return nats_server(users=USERS)


@pytest.fixture
def producer(server: NatsServer) -> Iterator[Producer]:
    """A producer to that server."""
    producer = Producer(settings(server.url))
    producer.start()
    yield producer
    producer.stop(1)


def produce(producer: Producer, payloads: list[bytes]) -> list[tuple[int, int, str]]:
    """Produces a batch as a group; index, status and `stored` of what failed."""
    try:
        producer.batch(ROOT, ORDERS, payloads, (), manner="together")
    except BatchFailed as error:
        return outcomes(error)
    return []


def test_a_batch_is_stored_in_order(server: NatsServer, producer: Producer) -> None:
    """All messages of a group are in the stream, in their order, each with an id of its own."""
    operator = Operator(server)
    operator.add("orders", allow_batched=True)
    payloads = [b"%d" % n for n in range(500)]
    assert produce(producer, payloads) == []
    stored = operator.stored("orders")
    assert [message.payload for message in stored] == payloads
    assert len({message.headers["Nats-Msg-Id"] for message in stored}) == 500


@pytest.mark.parametrize("place", [0, 1, 4])
def test_a_message_that_the_stream_refuses_fails_alone(server: NatsServer, producer: Producer, place: int) -> None:
    """First, in the middle or last: the refused one has its own answer, all others are stored, once."""
    operator = Operator(server)
    operator.add("orders", **LIMITED)
    payloads = [b"%d" % n for n in range(5)]
    payloads[place] = LARGE
    assert produce(producer, payloads) == [(place, 413, "no")]
    assert sorted(operator.payloads("orders")) == sorted(p for p in payloads if p != LARGE)


def test_several_refused_messages_fail_alone(server: NatsServer, producer: Producer) -> None:
    """A group that breaks more than once still tells the truth about each message."""
    operator = Operator(server)
    operator.add("orders", **LIMITED)
    payloads = [LARGE if n % 3 == 0 else b"%d" % n for n in range(20)]
    assert produce(producer, payloads) == [(n, 413, "no") for n in range(0, 20, 3)]
    assert sorted(operator.payloads("orders")) == sorted(p for p in payloads if p != LARGE)


def test_a_stream_that_becomes_full_takes_what_fits(server: NatsServer, producer: Producer) -> None:
    """Messages before the limit are stored, those after it are refused and known not to be."""
    operator = Operator(server)
    operator.add("orders", allow_batched=True, discard="new", max_msgs=7)
    failed = produce(producer, [b"%d" % n for n in range(10)])
    assert failed == [(7, 503, "no"), (8, 503, "no"), (9, 503, "no")]
    assert operator.payloads("orders") == [b"%d" % n for n in range(7)]


def test_a_stream_without_batches_takes_messages_one_by_one(server: NatsServer, producer: Producer) -> None:
    """Where `allow_batched` is off the messages are stored all the same."""
    operator = Operator(server)
    operator.add("orders")
    payloads = [b"%d" % n for n in range(50)]
    assert produce(producer, payloads) == []
    assert produce(producer, payloads) == []
    assert operator.payloads("orders") == payloads * 2


def test_singles_that_wait_together_are_all_stored(server: NatsServer, producer: Producer) -> None:
    """Single messages of many callers, in groups as chance has it, are each stored once."""
    operator = Operator(server)
    operator.add("orders", allow_batched=True)
    payloads = [b"%d" % n for n in range(400)]

    def send(payload: bytes) -> None:
        producer.single(ROOT, ORDERS, payload, (), manner="together")

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(send, payloads))
    assert sorted(operator.payloads("orders")) == sorted(payloads)


def test_a_repeated_batch_with_the_same_key_is_stored_once(server: NatsServer, producer: Producer) -> None:
    """Duplicates inside a group count as stored, and are not stored again."""
    operator = Operator(server)
    operator.add("orders", allow_batched=True)
    payloads = [b"%d" % n for n in range(20)]
    for _ in range(2):
        producer.batch(ROOT, ORDERS, payloads, (), key="k1", manner="together")
    assert operator.payloads("orders") == payloads


def test_a_group_for_an_absent_station_says_so_for_each(producer: Producer) -> None:
    """No stream listens: every message is not stored, with 404."""
    assert produce(producer, [SMALL] * 3) == [(n, 404, "no") for n in range(3)]


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("count", [1, 3])
def test_nothing_is_kept_of_what_was_answered(
    server: NatsServer, producer: Producer, batched: bool, count: int
) -> None:
    """Alone or in a group, with batches or without: a message that is settled is waited for no longer."""
    Operator(server).add("orders", allow_batched=batched)
    for _ in range(3):
        assert produce(producer, [SMALL] * count) == []
    (link,) = producer._pool._links.values()
    session = cast(Session, link.session)
    eventually(lambda: session.connection.waiting == 0)


def test_nothing_is_kept_of_what_was_refused(server: NatsServer, producer: Producer) -> None:
    """The stream says no last word about a batch of which it refuses messages, and nobody waits for one."""
    Operator(server).add("orders", allow_batched=True, discard="new", max_msgs=7)
    for place in range(3):
        assert len(produce(producer, [b"%d" % n for n in range(10)])) == (10 if place else 3)
    (link,) = producer._pool._links.values()
    session = cast(Session, link.session)
    eventually(lambda: session.connection.waiting == 0, 2)


def test_nothing_is_kept_of_what_was_sent_alone_and_then_in_a_group(server: NatsServer) -> None:
    """Messages that came one by one while the station was being created are sent again together."""
    producer = Producer(settings(server.url, AUTO_CREATE_STATIONS="true"))
    producer.start()
    try:
        with ThreadPoolExecutor(16) as pool:
            for number in range(5):
                station = station_named(f"new{number}")
                sends = [pool.submit(producer.single, ROOT, station, SMALL, (), manner="together") for _ in range(32)]
                assert all(send.result().duplicate is False for send in sends)
        (link,) = producer._pool._links.values()
        session = cast(Session, link.session)
        eventually(lambda: session.connection.waiting == 0)
    finally:
        producer.stop(1)


class Asked:
    """A batch that writes down what it is asked for."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def close(self, group: Group, last: int) -> None:
        """To be ended."""
        self.calls.append("close")

    def rest(self) -> None:
        """No batches for a while."""
        self.calls.append("no batches")

    def acked(self) -> None:
        """Stored."""

    def forget(self) -> None:
        """Nothing more to learn."""
        self.calls.append("forget")


class Alike:
    """Gives each batch the same name, as other gateways do."""

    NAME = 0xABCDEF

    def take(self, _: int) -> int:
        """That name."""
        return self.NAME


def group_of(count: int) -> tuple[Group, Recorder, list[str]]:
    """A group, the delivery all its messages are of, and what it asks for."""
    recorder, asked = Recorder(), Asked()
    portion = Portion(cast(Delivery, recorder), list(range(count)), [(0, b"")] * count)
    return Group([portion], cast(Batch, asked)), recorder, asked.calls


def test_too_many_open_batches_sends_messages_alone() -> None:
    """The stream has too many batches open: nothing is stored yet, and groups rest for a while."""
    group, recorder, asked = group_of(2)
    for n in (1, 2):
        group.answered(n, b'{"error":{"code":429,"err_code":%d},"stream":"s","seq":0}' % TOO_MANY_BATCHES, None)
    assert recorder.told == [("again", 0), ("again", 1)]
    assert set(asked) == {"no batches", "forget"}


def test_a_batch_ended_early_sends_the_rest_again() -> None:
    """A leader that leaves in the middle commits what it has: what is not in the count is sent again."""
    group, recorder, asked = group_of(3)
    group.answered(2, b'{"type":"gap","last_seq":2,"seq":3}', None)
    group.answered(3, b'{"stream":"s","seq":9,"batch":"b","count":1}', None)
    assert recorder.told == [("stored", 0), ("again", 1), ("again", 2)]
    assert asked == ["forget"]


def test_a_count_of_known_ids_alone_is_not_believed() -> None:
    """The batch has stored nothing, and whether others have is told of each message alone."""
    group, recorder, asked = group_of(2)
    group.answered(2, b'{"stream":"s","seq":0,"batch":"b","count":2}', None)
    assert recorder.told == [("doubted", 0), ("doubted", 1)]
    assert asked == ["forget"]


def test_what_is_not_counted_is_known_not_to_be_stored() -> None:
    """Though what is counted is not believed."""
    group, recorder, _ = group_of(2)
    group.answered(2, b'{"stream":"s","seq":0,"batch":"b","count":1}', None)
    assert recorder.told == [("doubted", 0), ("again", 1)]


def test_what_is_counted_of_another_batch_of_the_same_name_is_not_believed() -> None:
    """The first of ours was not the first that the stream has seen: nothing is known, and it is repeated in time."""
    group, recorder, asked = group_of(3)
    group.answered(1, b'{"type":"gap","last_seq":3,"seq":1}', None)
    group.answered(1, b'{"stream":"s","seq":2,"batch":"b","count":2}', None)
    assert recorder.told == []
    assert asked == ["forget"]


@pytest.mark.slow
def test_two_gateways_that_name_a_batch_alike_lose_nothing(
    server: NatsServer, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream takes both for one batch, and counts what the other has sent as ours."""
    operator = Operator(server)
    operator.add("orders", allow_batched=True)

    async def begin_another(client: Client) -> None:
        for n, operation in ((1, 0), (2, 1)):
            reply = f"_INBOX.other.{Alike.NAME:x}.500.fail.{n}.{operation}.$FI"
            await client.publish("orders.final", b"other %d" % n, reply)
        await client.flush()

    operator.ask(begin_another)
    eventually(lambda: operator.count("orders") == 2)
    monkeypatch.setattr(groups, "tokens", Alike())
    assert produce(producer, [b"%d" % n for n in range(4)]) == []
    assert sorted(operator.payloads("orders")) == [b"0", b"1", b"2", b"3", b"other 1", b"other 2"]


def test_flow_acks_and_strangers_settle_nothing() -> None:
    """Neither news about the flow nor the answer of a core subscriber is an ack."""
    group, recorder, _ = group_of(2)
    group.answered(1, b'{"type":"ack","seq":0,"msgs":500}', None)
    group.answered(1, b"hello", None)
    group.answered(1, b"{}", None)
    assert recorder.told == []


def test_no_responders_in_the_middle_is_told_to_that_message() -> None:
    """A leaderless stream answers 503 to each message; the others wait on."""
    group, recorder, _ = group_of(2)
    group.answered(2, b"", "503")
    assert recorder.told == [("503", 1)]


def test_a_server_that_knows_no_batches_answers_each_message() -> None:
    """An ordinary ack on a message's reply subject is that message's."""
    group, recorder, asked = group_of(2)
    group.answered(1, b'{"stream":"s","seq":1}', None)
    group.answered(2, b'{"stream":"s","seq":2}', None)
    assert recorder.told == [("answered", 0), ("answered", 1)]
    assert asked == ["forget"]


def test_the_refused_last_message_closes_the_batch_once() -> None:
    """Its batch would stay open for seconds: it is closed, and the first word about a message counts."""
    group, recorder, asked = group_of(2)
    refusal = b'{"error":{"code":400,"err_code":10054},"stream":"s","seq":0}'
    group.answered(2, refusal, None)
    group.answered(2, refusal, None)
    group.answered(2, b'{"stream":"s","seq":1,"batch":"b","count":1}', None)
    assert recorder.told == [("refused", 1), ("stored", 0)]
    assert asked.count("close") == 1


def test_a_lost_connection_loses_all() -> None:
    """Nothing is known of any message of the group."""
    group, recorder, _ = group_of(2)
    group.lost(0)
    assert recorder.told == [("lost", 0), ("lost", 1)]


def test_a_group_of_several_deliveries_tells_each() -> None:
    """Each delivery is told of its own messages, whether the batch is stored whole or ends early."""
    for count, told in ((5, [("stored", 0), ("stored", 1)]), (4, [("stored", 0), ("again", 1)])):
        first, second = Recorder(), Recorder()
        portions = [
            Portion(cast(Delivery, first), [0, 2, 3], [(0, b"")] * 3),
            Portion(cast(Delivery, second), [0, 1], [(0, b"")] * 2),
        ]
        group = Group(portions, cast(Batch, Asked()))
        group.answered(5, b'{"stream":"s","seq":5,"batch":"b","count":%d}' % count, None)
        assert first.told == [("stored", 0), ("stored", 2), ("stored", 3)]
        assert second.told == told


def test_a_group_is_forgotten_when_its_last_delivery_has_ended() -> None:
    """However its messages were settled: by a repeat alone, or as time was up."""
    asked = Asked()
    portions = [Portion(cast(Delivery, Recorder()), [0], [(0, b"")]) for _ in range(2)]
    group = Group(portions, cast(Batch, asked))
    group.left()
    assert not asked.calls
    group.left()
    assert asked.calls == ["forget"]


def test_a_large_portion_is_a_group_of_its_own() -> None:
    """Small portions share a group; nobody waits for a large one but its sender."""
    small = [Portion(cast(Delivery, None), [0], [(0, b"")]) for _ in range(2)]
    large = Portion(cast(Delivery, None), list(range(OWN_GROUP)), [(0, b"")] * OWN_GROUP)
    assert _groups([small[0], large, small[1]]) == [[large], small]
    assert _groups([large]) == [[large]]


def test_a_group_that_nobody_takes_is_listed_once() -> None:
    """Each message of a large group is told in turn; listing all of them each time would hold up the loop."""
    group, recorder, _ = group_of(10_000)
    listed = group._members
    for n in range(1, 10_001):
        group.answered(n, b"", "503")
    assert group._members is listed
    assert recorder.told == [("503", index) for index in range(10_000)]
