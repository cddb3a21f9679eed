"""Groups that wait until the stream has room for them."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import pytest

from proxy.brokers import Session
from proxy.brokers.connection import Connection
from proxy.brokers.groups import Gatherer, Group, Portion
from proxy.brokers.publishing import Delivery
from proxy.brokers.windows import LEAST_MESSAGES
from proxy.config import Config
from proxy.messages import Message, station_named
from proxy.producer import Producer
from tests.brokers.fakes import FakeNats, Published, Recorder, reply, station
from tests.brokers.test_pool_sessions import Answer
from tests.brokers.tools import ROOT, USERS, Operator, settings
from tests.servers import NatsServer

ORDERS = station_named("orders")


class Wire:
    """A connection that keeps what it is given to send."""

    server_version = (2, 14)

    def __init__(self) -> None:
        self.alive = True
        self.sent: list[Group] = []

    def reply_subject(self, token: int) -> str:
        """Where answers go."""
        return f"r.{token}"

    def send(self, owner: Group, *rest: object) -> None:
        """To be sent."""
        self.sent.append(owner)

    def forget(self, token: int) -> None:
        """No answer is of interest."""

    def flush(self) -> None:
        """Nothing is kept back."""


class Recipient(Recorder):
    """A delivery as its groups see it."""

    session = object()

    def __init__(self) -> None:
        super().__init__()
        self.on_end: list[Callable[[], None]] = []
        self.repeated_at = 0.0


FULL = LEAST_MESSAGES
COMMIT = b'{"stream":"s","seq":5,"batch":"b","count":%d}' % FULL


async def sent_in_a_turn(wire: Wire, recipients: list[Recipient]) -> None:
    """Has each send as many messages as fill a window, through one gatherer."""
    gatherer = Gatherer(cast(Connection, wire), 5.0)
    for recipient in recipients:
        portion = Portion(cast(Delivery, recipient), list(range(FULL)), [(0, b"")] * FULL)
        gatherer.add("s.final", portion)
    await asyncio.sleep(0)


def test_groups_that_have_no_room_are_sent_when_others_are_stored() -> None:
    """Two are under way, the others wait in their order; an ack makes room for the next."""
    wire, recipients = Wire(), [Recipient() for _ in range(4)]
    asyncio.run(sent_in_a_turn(wire, recipients))
    assert len(wire.sent) == 2
    wire.sent[0].answered(FULL, COMMIT, None)
    assert len(wire.sent) == 3
    wire.sent[2].answered(FULL, COMMIT, None)
    assert len(wire.sent) == 4
    assert [recipient.told[:1] for recipient in recipients] == [[("stored", 0)], [], [("stored", 0)], []]


def test_a_denial_is_told_to_those_that_wait() -> None:
    """What was sent may be stored, if so is said; what waits is not, and is not sent to hear the same. Room is made."""
    wire, recipients = Wire(), [Recipient() for _ in range(5)]

    async def send() -> None:
        gatherer = Gatherer(cast(Connection, wire), 5.0)
        for number, recipient in enumerate(recipients):
            if number == 4:
                await asyncio.sleep(0)
                wire.sent[0].denied(0, True)
            gatherer.add("s.final", Portion(cast(Delivery, recipient), list(range(FULL)), [(0, b"")] * FULL))
        await asyncio.sleep(0)

    asyncio.run(send())
    assert len(wire.sent) == 3
    told = [recipient.told[:1] for recipient in recipients]
    assert told == [[("maybe denied", 0)], [], [("denied", 0)], [("denied", 0)], []]
    assert [len(recipient.told) for recipient in recipients] == [FULL, 0, FULL, FULL, 0]


def test_what_nobody_waits_for_any_more_is_not_sent() -> None:
    """Its sender has been told that it may be stored, and may have repeated it."""
    wire, recipients = Wire(), [Recipient() for _ in range(4)]
    asyncio.run(sent_in_a_turn(wire, recipients))
    for function in recipients[2].on_end:
        function()
    wire.sent[0].answered(FULL, COMMIT, None)
    wire.sent[2].answered(FULL, COMMIT, None)
    assert (recipients[2].told, recipients[3].told[:1]) == ([], [("stored", 0)])


class Taker:
    """A session that gives messages to a gatherer."""

    def __init__(self, gatherer: Gatherer) -> None:
        self._gatherer = gatherer

    def publish(self, delivery: Delivery, indexes: list[int], grouped: bool) -> list[int]:
        """To be sent at the end of the turn."""
        self._gatherer.add("s.final", Portion(delivery, indexes, [(0, b"")] * len(indexes)))
        return []


@pytest.mark.parametrize("count", [1, 2])
def test_what_has_ended_before_the_end_of_its_turn_is_not_sent(count: int) -> None:
    """Its time was up when the broker came back: its messages would be kept until the connection ends."""

    async def send(wire: Wire) -> Answer:
        answer, now = Answer(), asyncio.get_running_loop().time()
        delivery = Delivery(answer, ORDERS, [Message(b"x", (), "id")] * count, now, lambda delivery: None, True)
        delivery.begin(cast(Session, Taker(Gatherer(cast(Connection, wire), 5.0))))
        delivery.tick(now)
        await asyncio.sleep(0)
        return answer

    wire = Wire()
    answer = asyncio.run(send(wire))
    assert [error.stored for error in answer.value] == ["unknown"] * count
    assert not wire.sent


def test_what_was_repeated_while_it_waited_is_not_sent_after_its_repeat() -> None:
    """The stream could have forgotten its id by then; what shares its group and was not repeated is sent alone."""
    wire, recipients = Wire(), [Recipient() for _ in range(5)]

    async def send() -> None:
        gatherer = Gatherer(cast(Connection, wire), 5.0)
        for recipient, size in zip(recipients, (FULL, FULL, 2, 2, FULL), strict=True):
            gatherer.add("s.final", Portion(cast(Delivery, recipient), list(range(size)), [(0, b"")] * size))
        await asyncio.sleep(0)
        recipients[2].repeated_at = recipients[4].repeated_at = asyncio.get_running_loop().time() + 1
        for group in wire.sent[:2]:
            group.answered(FULL, COMMIT, None)

    asyncio.run(send())
    assert len(wire.sent) == 2
    assert [recipient.told for recipient in recipients[2:]] == [[], [("again", 0), ("again", 1)], []]


def test_a_connection_that_ends_has_not_stored_what_waits() -> None:
    """What is under way may be stored; what was not sent is not."""
    wire, recipients = Wire(), [Recipient() for _ in range(4)]
    asyncio.run(sent_in_a_turn(wire, recipients))
    wire.alive = False
    for group in wire.sent:
        group.lost(0)
    assert [recipient.told[0] for recipient in recipients] == [("lost", 0)] * 2 + [("again", 0)] * 2
    assert [len(recipient.told) for recipient in recipients] == [FULL] * 4


@pytest.mark.slow
def test_what_waited_behind_batches_without_an_answer_is_sent_once(producer: Callable[[Config], Producer]) -> None:
    """All are repeated alone after a while, those that waited too, which are not sent as a group besides."""

    def answer(server: FakeNats, message: Published) -> bytes:
        return b"" if ".fail." in message.reply else reply(message, b'{"stream":"orders","seq":1}')

    server = FakeNats(station(answer))
    try:
        started = producer(settings(server.url, ALLOW_OPEN_BROKER="true"))
        store = functools.partial(started.batch, ROOT, ORDERS, [b"x"] * FULL, (), manner="together")
        with ThreadPoolExecutor(4) as pool:
            acks = [pool.submit(store) for _ in range(4)]
            assert [len(of_a_batch.result()) for of_a_batch in acks] == [FULL] * 4
    finally:
        server.close()
    assert len([message for message in server.published if ".fail." in message.reply]) == 2 * FULL


def test_groups_of_different_stations_do_not_wait_for_each_other() -> None:
    """Each stream has work of its own."""

    async def sent(wire: Wire) -> None:
        gatherer = Gatherer(cast(Connection, wire), 5.0)
        for place in range(6):
            portion = Portion(cast(Delivery, Recipient()), list(range(FULL)), [(0, b"")] * FULL)
            gatherer.add(f"s{place // 3}.final", portion)
        await asyncio.sleep(0)

    wire = Wire()
    asyncio.run(sent(wire))
    assert len(wire.sent) == 4


def test_many_large_batches_at_once_are_stored_once_each(
    nats_server: Callable[..., NatsServer], producer: Callable[[Config], Producer]
) -> None:
    """More than are let under way together: each is whole, in its order, and none is stored twice."""
    server = nats_server(users=USERS)
    started = producer(settings(server.url))
    operator = Operator(server)
    operator.add("orders", allow_batched=True)
    batches = [[b"%d.%d" % (batch, n) for n in range(300)] for batch in range(12)]
    store = functools.partial(started.batch, ROOT, ORDERS, headers=(), manner="together")
    with ThreadPoolExecutor(12) as pool:
        acks = pool.map(lambda payloads: store(payloads=payloads), batches)
        assert [len(of_a_batch) for of_a_batch in acks] == [300] * 12
    stored = operator.payloads("orders")
    assert len(stored) == 12 * 300
    for number, payloads in enumerate(batches):
        assert [payload for payload in stored if payload.startswith(b"%d." % number)] == payloads
