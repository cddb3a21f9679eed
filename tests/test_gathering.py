"""Messages of one turn cross the bridge together, and each sender is told its own result."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from proxy.bridge import Bridge
from proxy.credentials import Credentials
from proxy.errors import AckTimeout, BatchFailed, BrokerAway, GatewayError, Overloaded, Stopping, TooLarge
from proxy.gathering import MOST_BYTES_TOGETHER, MOST_TOGETHER, Consignment, Gathering, Order
from proxy.messages import Ack, Message, Station
from proxy.replies import GaveUp
from proxy.waiters import GeventWaiter
from tests.uncollected import Payload, uncollected

ANN, BOB = Credentials("ann", "x"), Credentials("bob", "x")
ORDERS, BILLS = Station("orders", "orders"), Station("bills", "bills")
Told = list[tuple[str, Any]]


async def nothing() -> None:
    """No set-up."""


@pytest.fixture
def bridge() -> Iterator[Bridge]:
    """A bridge whose callers are greenlets, and which takes a thousand messages at once."""
    bridge = Bridge(nothing, nothing, waiter=GeventWaiter(), limit=1000)
    bridge.start()
    yield bridge
    bridge.stop(0.1)


class Broker:
    """A job of the bridge that writes down what it gets, and answers as it is told to."""

    def __init__(self, answer: Any = None) -> None:
        self.calls: list[tuple[str, str, list[bytes]]] = []
        self.answer = answer or (lambda reply, messages: reply.set([Ack(None, False)] * len(messages)))

    def __call__(
        self, reply: Any, credentials: Credentials, station: Station, messages: list[Message], *rest: Any
    ) -> None:
        """The job."""
        assert rest == (10.0, "together")
        self.calls.append((credentials.user, station.name, [message.payload for message in messages]))
        self.answer(reply, messages)


def order(text: str, told: Told, size: int = 1) -> Order:
    """An order for a message that is named by its payload."""
    message = Message(text.encode(), (), f"namespace012.{text}")
    return Order(message, size, lambda tag, result: told.append((tag, result)), text)


def wait_for(told: Told, count: int) -> Told:
    """Lets the event loop run until so many have been told; their results in order of their names."""
    with gevent.Timeout(10):
        while len(told) < count:
            gevent.sleep(0.001)
    return sorted(told, key=lambda one: one[0])


def test_messages_of_a_turn_go_together(bridge: Bridge) -> None:
    """Those for the same station and user are one job, in order; others are jobs of their own."""
    broker, told = Broker(), list[tuple[str, Any]]()
    gathering = Gathering(bridge, broker, 10.0, 1.0)
    for credentials, station, text in ((ANN, ORDERS, "a"), (BOB, ORDERS, "b"), (ANN, BILLS, "c"), (ANN, ORDERS, "d")):
        gathering.add(credentials, station, order(text, told))
    assert wait_for(told, 4) == [(text, Ack(None, False)) for text in "abcd"]
    assert broker.calls == [("ann", "orders", [b"a", b"d"]), ("bob", "orders", [b"b"]), ("ann", "bills", [b"c"])]


def test_the_next_turn_is_another_job(bridge: Bridge) -> None:
    """Nothing is kept back for later, nor sent twice."""
    broker, told = Broker(), list[tuple[str, Any]]()
    gathering = Gathering(bridge, broker, 10.0, 1.0)
    for text in "ab":
        gathering.add(ANN, ORDERS, order(text, told))
        wait_for(told, 1 if text == "a" else 2)
    assert [payloads for _, _, payloads in broker.calls] == [[b"a"], [b"b"]]


def test_greenlets_that_wait_share_a_job_too(bridge: Bridge) -> None:
    """Each gets its own result, be it an error."""
    results = [Ack(None, False), TooLarge("too large"), Ack(None, True)]
    broker = Broker(lambda reply, messages: reply.set(results))
    gathering = Gathering(bridge, broker, 10.0, 1.0)
    messages = [Message(text.encode(), (), f"namespace012.{text}") for text in "abc"]
    greenlets = [gevent.spawn(gathering.store, ANN, ORDERS, message, 1) for message in messages]
    assert [greenlet.get(timeout=10) for greenlet in greenlets] == results
    assert broker.calls == [("ann", "orders", [b"a", b"b", b"c"])]


def test_a_greenlet_that_is_killed_while_it_waits_keeps_nothing_from_the_others(bridge: Bridge) -> None:
    """Its message is stored all the same, and nobody is told."""
    replies: list[Any] = []
    broker = Broker(lambda reply, messages: replies.append(reply))
    gathering = Gathering(bridge, broker, 10.0, 1.0)
    killed, other = (gevent.spawn(gathering.store, ANN, ORDERS, Message(b"x", (), "n.x"), 1) for _ in range(2))
    with gevent.Timeout(10):
        while not replies:
            gevent.sleep(0.001)
    killed.kill()
    bridge.call(lambda reply: (replies[0].set([Ack(1, False), Ack(2, False)]), reply.set(None)), timeout=5)
    assert other.get(timeout=10) == Ack(2, False)


def test_a_greenlet_that_waits_is_told_when_time_is_up(bridge: Bridge) -> None:
    """The deadline is that of the job which they share."""
    gathering = Gathering(bridge, lambda *args: None, 0.05, 0.05)
    assert isinstance(
        gevent.spawn(gathering.store, ANN, ORDERS, Message(b"x", (), "n.x"), 1).get(timeout=10), AckTimeout
    )


def test_nobody_waits_at_a_bridge_that_takes_nothing(bridge: Bridge) -> None:
    """It has stopped, or holds as much as it may."""
    gathering = Gathering(bridge, Broker(), 10.0, 1.0)
    bridge.stop(0.1)
    assert isinstance(gevent.spawn(gathering.store, ANN, ORDERS, Message(b"x", (), "n.x"), 1).get(timeout=10), Stopping)


@pytest.mark.parametrize("batch", [False, True])
def test_what_a_job_refuses_is_gone_without_the_garbage_collector(bridge: Bridge, batch: bool) -> None:
    """A payload may have megabytes, and many repeat while the broker is away."""

    def refuse(*_: Any) -> None:
        raise BrokerAway

    told: list[tuple[Any, Any]] = []
    gathering = Gathering(bridge, refuse, 10.0, 1.0)
    message = Message(Payload(b"x"), (), "namespace012.x")
    with uncollected():
        if batch:
            receiver = Consignment(1, "k", lambda tag, result: told.append((tag, result)), None)
            gathering.send(ANN, ORDERS, [message], 1, receiver)
            del receiver
        else:
            gathering.add(ANN, ORDERS, Order(message, 1, lambda tag, result: told.append((tag, result)), None))
        del message
        assert wait_for(told, 1)[0][1].status == 503
        with gevent.Timeout(10):
            while any(isinstance(one, Payload) for one in gc.get_objects()):
                gevent.sleep(0.01)


def test_many_are_several_jobs(bridge: Bridge) -> None:
    """A turn with more messages than one job should have makes more jobs."""
    broker, told = Broker(), list[tuple[str, Any]]()
    gathering = Gathering(bridge, broker, 10.0, 1.0)
    for number in range(MOST_TOGETHER + 1):
        gathering.add(ANN, ORDERS, order(str(number), told))
    wait_for(told, MOST_TOGETHER + 1)
    assert sorted(len(payloads) for _, _, payloads in broker.calls) == [1, MOST_TOGETHER]


@pytest.mark.parametrize(
    ("sixteenths", "jobs"),
    [
        ([8, 8, 1], ["ab", "c"]),
        ([1, 16, 1, 1], ["a", "b", "cd"]),
        ([40, 1, 40, 40], ["a", "b", "c", "d"]),
        ([17], ["a"]),
    ],
)
def test_large_ones_are_several_jobs(bridge: Bridge, sixteenths: list[int], jobs: list[str]) -> None:
    """A job has no more bytes than go together, or is a single message; their order stays."""
    broker, told = Broker(), list[tuple[str, Any]]()
    gathering = Gathering(bridge, broker, 10.0, 1.0)
    for text, size in zip("abcd", sixteenths, strict=False):
        gathering.add(ANN, ORDERS, order(text, told, size * MOST_BYTES_TOGETHER // 16))
    wait_for(told, len(sixteenths))
    assert [b"".join(payloads).decode() for _, _, payloads in broker.calls] == jobs


def test_large_ones_are_refused_one_by_one() -> None:
    """Those that the bridge has room for are taken, although others of their turn are refused; none beyond that is."""
    bridge, told = Bridge(nothing, nothing, waiter=GeventWaiter(), limit_bytes=2 * MOST_BYTES_TOGETHER), list[Any]()
    bridge.start()
    gathering = Gathering(bridge, Broker(lambda reply, messages: None), 10.0, 1.0)
    for text in "abcd":
        gathering.add(ANN, ORDERS, order(text, told, MOST_BYTES_TOGETHER))
    refused = wait_for(told, 2)
    bridge.stop(0)
    assert [(text, type(result)) for text, result in refused] == [("c", Overloaded), ("d", Overloaded)]


def test_each_is_told_its_own_result(bridge: Bridge) -> None:
    """One of a job may fail while others are stored."""
    broker = Broker(lambda reply, messages: reply.set([Ack(None, False), TooLarge("x")]))
    told: Told = []
    gathering = Gathering(bridge, broker, 10.0, 1.0)
    for text in "ab":
        gathering.add(ANN, ORDERS, order(text, told))
    (_, first), (_, second) = wait_for(told, 2)
    assert first == Ack(None, False)
    assert isinstance(second, TooLarge)


def test_nobody_waits_for_another(bridge: Bridge) -> None:
    """A result that is there is told, although the job has not ended; and it is told once."""
    replies: list[Any] = []

    def answer(reply: Any, messages: list[Message]) -> None:
        reply.tell([(1, Ack(None, False))])
        replies.append(reply)

    told: Told = []
    gathering = Gathering(bridge, Broker(answer), 10.0, 1.0)
    for text in "ab":
        gathering.add(ANN, ORDERS, order(text, told))
    assert wait_for(told, 1) == [("b", Ack(None, False))]
    bridge.call(lambda own: (replies[0].set([Ack(None, True), Ack(None, True)]), own.set(1)), timeout=5)
    assert wait_for(told, 2) == [("a", Ack(None, True)), ("b", Ack(None, False))]


def test_what_fails_as_a_whole_is_told_to_each(bridge: Bridge) -> None:
    """Each gets an error of its own, with the key by which it may repeat."""

    def answer(reply: Any, messages: list[Message]) -> None:
        reply.fail(BrokerAway())

    told: Told = []
    gathering = Gathering(bridge, Broker(answer), 10.0, 1.0)
    for text in "ab":
        gathering.add(ANN, ORDERS, order(text, told))
    (_, first), (_, second) = wait_for(told, 2)
    assert isinstance(first, BrokerAway)
    assert first is not second
    assert [first.fields, second.fields] == [{"idempotency_key": "a"}, {"idempotency_key": "b"}]


def test_too_much_at_once_is_refused(bridge: Bridge) -> None:
    """What the bridge does not take is told at once; nothing of it was sent."""
    broker, told = Broker(lambda reply, messages: None), list[tuple[str, Any]]()
    gathering = Gathering(bridge, broker, 10.0, 1.0)
    for number in range(1001):
        gathering.add(ANN, ORDERS, order(str(number), told))
    refused = [result for _, result in wait_for(told, 1001 - MOST_TOGETHER)]
    assert all(isinstance(result, Overloaded) for result in refused)
    assert all("idempotency_key" in result.fields for result in refused)


@pytest.mark.parametrize(("begins", "error"), [(True, AckTimeout), (False, Overloaded)])
def test_time_is_up(begins: bool, error: type[GatewayError]) -> None:
    """A message that was handed over may be stored; one that never was is not, and never will be."""
    bridge, told = Bridge(nothing, nothing, waiter=GeventWaiter()), list[tuple[str, Any]]()
    bridge.start()
    broker = Broker(lambda reply, messages: None)
    if not begins:
        bridge._wake = lambda: None  # type: ignore[method-assign]  # as if the loop stood still
    Gathering(bridge, broker, 10.0, -9.9).add(ANN, ORDERS, order("a", told))
    ((_, result),) = wait_for(told, 1)
    bridge.__dict__.pop("_wake", None)
    bridge.stop(0)
    assert type(result) is error
    assert bool(broker.calls) == begins


def test_a_stopping_bridge_tells_so() -> None:
    """What comes after the stop is refused."""
    bridge, told = Bridge(nothing, nothing, waiter=GeventWaiter()), list[tuple[str, Any]]()
    bridge.start()
    gathering = Gathering(bridge, Broker(), 10.0, 1.0)
    gathering.add(ANN, ORDERS, order("a", told))
    bridge.stop()
    wait_for(told, 1)
    gathering.add(ANN, ORDERS, order("b", told))
    (_, (_, result)) = wait_for(told, 2)
    assert isinstance(result, Stopping)


def test_one_that_cannot_be_told_keeps_no_other_waiting(bridge: Bridge) -> None:
    """A fault in telling one sender is reported, and the rest of the parcel is told."""
    told: Told = []

    def fail(tag: Any, result: Any) -> None:
        raise ZeroDivisionError

    gathering = Gathering(bridge, Broker(), 10.0, 1.0)
    gathering.add(ANN, ORDERS, order("a", told)._replace(done=fail))
    gathering.add(ANN, ORDERS, order("b", told))
    assert wait_for(told, 1) == [("b", Ack(None, False))]


def consignment(told: Told) -> Consignment:
    """A batch of two with the key `k`."""
    return Consignment(2, "k", lambda tag, result: told.append((tag, result)), "batch")


def test_a_batch_is_told_one_result(bridge: Bridge) -> None:
    """The first ack, when all are there; it crosses the bridge at once, alone."""
    broker, told = Broker(), list[tuple[str, Any]]()
    messages = [Message(b"a", (), "1"), Message(b"b", (), "2")]
    Gathering(bridge, broker, 10.0, 1.0).send(ANN, ORDERS, messages, 2, consignment(told))
    assert wait_for(told, 1) == [("batch", Ack(None, False))]
    assert broker.calls == [("ann", "orders", [b"a", b"b"])]


def test_a_batch_of_which_some_have_failed_is_told_which(bridge: Bridge) -> None:
    """With the key by which it may be repeated."""
    told: Told = []
    consignment(told).heard([(0, Ack(None, False))])  # of no use to one who waits for all
    consignment(told).ended([Ack(None, False), AckTimeout()], None)
    ((_, failed),) = told
    assert isinstance(failed, BatchFailed)
    assert [one["index"] for one in failed.fields["failed"]] == [1]
    assert (failed.stored, failed.fields["idempotency_key"]) == ("partly", "k")


@pytest.mark.parametrize(
    ("error", "status", "stored"),
    [(BrokerAway(), 503, "no"), (GaveUp(started=True), 504, "unknown"), (GaveUp(started=False), 503, "no")],
)
def test_what_fails_a_batch_as_a_whole_is_told_of_each_message(error: Exception, status: int, stored: str) -> None:
    """All of it may be repeated with the key."""
    told: Told = []
    consignment(told).ended(None, error)
    ((_, failed),) = told
    assert (failed.status, failed.stored, failed.fields["fail"]) == (status, stored, 2)
    assert failed.fields["idempotency_key"] == "k"


def test_a_fault_of_ours_is_told_as_it_is() -> None:
    """It is for the application to answer, and to log."""
    told: Told = []
    consignment(told).ended(None, ZeroDivisionError())
    assert isinstance(told[0][1], ZeroDivisionError)
