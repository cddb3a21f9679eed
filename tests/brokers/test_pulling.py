"""What a NATS server says of pulls, and what becomes of reads then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from proxy.brokers import pulling
from proxy.brokers.pulling import Fetch, Room, Source, Stock
from proxy.config import Config
from proxy.errors import Overloaded
from proxy.messages import station_named
from proxy.producer import Producer
from tests.brokers.consuming_tools import Reader, payloads
from tests.brokers.tools import ROOT, USERS, Operator, facts, failure, run, settings
from tests.servers import NatsServer, eventually

GROUP = "rest-gateway"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A nats-server; each test has a station of its own."""
    server = NatsServer(tmp_path_factory.mktemp("pulling"), users=USERS).start()
    yield server
    server.stop()


@pytest.fixture
def reader(server: NatsServer, operator: Operator, producer: Callable[[Config], Producer], request: Any) -> Reader:
    """Who reads from a station that is there and empty."""
    name = request.node.name.replace("_", "-")
    operator.add(name)
    config = settings(server.url)
    return Reader(ROOT, producer(config), config, station_named(name))


def info(operator: Operator, reader: Reader) -> dict[str, Any]:
    """What the server tells of the group."""
    return operator.api(f"CONSUMER.INFO.{reader.station.name}.{GROUP}")


def test_a_group_is_made_as_documented(reader: Reader, operator: Operator) -> None:
    """By the settings."""
    assert reader.read() == []
    config = info(operator, reader)["config"]
    wanted = {
        "durable_name": GROUP,
        "ack_policy": "explicit",
        "ack_wait": 30_000_000_000,
        "deliver_policy": "all",
        "filter_subject": f"{reader.station.name}.final",
        "max_ack_pending": -1,
        "max_deliver": -1,
    }
    assert wanted.items() <= config.items()
    assert "inactive_threshold" not in config


def test_a_group_deleted_in_mid_wait_is_made_again(reader: Reader, operator: Operator) -> None:
    """The wait goes on."""
    assert reader.read() == []
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(reader.read, 1, 20)
        eventually(lambda: info(operator, reader)["num_waiting"] == 1)
        operator.api(f"CONSUMER.DELETE.{reader.station.name}.{GROUP}")
        reader.send(b"1")
        assert waiting.result(10) == [b"1"]


def test_a_station_deleted_in_mid_wait_is_not_found(reader: Reader, operator: Operator) -> None:
    """None may be made here."""
    assert reader.read() == []
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(failure, reader.read, 1, 20)
        eventually(lambda: info(operator, reader)["num_waiting"] == 1)
        operator.api(f"STREAM.DELETE.{reader.station.name}")
        assert facts(waiting.result(15)) == ("StationNotFound", "no", "never")


def test_a_wait_is_many_pulls(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, so that a message waits for none of them."""
    monkeypatch.setattr(pulling, "TURN_SECONDS", 0.03)
    assert reader.read(1, 0.5) == []
    with ThreadPoolExecutor() as threads:
        for payload in (b"1", b"2", b"3"):
            waiting = threads.submit(reader.read, 1, 20)
            reader.send(payload)
            assert waiting.result(5) == [payload]


@pytest.mark.slow
def test_more_waits_than_a_group_takes_are_503(reader: Reader, operator: Operator) -> None:
    """One that an operator has made so. For a while the read asks again and again, in case a wait has ended."""
    config = {"durable_name": GROUP, "ack_policy": "explicit", "max_waiting": 1, "ack_wait": 4_000_000_000}
    operator.api(
        f"CONSUMER.DURABLE.CREATE.{reader.station.name}.{GROUP}", stream_name=reader.station.name, config=config
    )
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(reader.read, 1, 20)
        eventually(lambda: info(operator, reader)["num_waiting"] == 1)
        error = failure(reader.read, 1, 15)
        reader.send(b"1")
        assert waiting.result(10) == [b"1"]
    assert facts(error) == ("BrokerRefused", "no", "safe")
    assert "exceeded maxwaiting" in error.message


@pytest.mark.slow
def test_a_message_is_delivered_as_often_as_the_setting_says(
    server: NatsServer, operator: Operator, producer: Any
) -> None:
    """Then the group goes on without it."""
    operator.add("poison")
    config = settings(server.url, CONSUME_MAX_DELIVERIES=2, CONSUME_ACK_WAIT_SECONDS=1)
    reader = Reader(ROOT, producer(config), config, station_named("poison"))
    reader.send(b"1")
    for _ in range(2):
        turn = reader.take(1, 5)
        assert len(turn.messages) == 1
        turn.end(True, False)
    assert reader.read(1, 2.5) == []


def test_what_came_too_late_goes_back(reader: Reader, operator: Operator) -> None:
    """What the server sends to a read that has ended is there for the next, long before the time to ack is over."""
    assert reader.read() == []
    sent = [b"%d" % n for n in range(200)]
    read: list[bytes] = []
    with ThreadPoolExecutor() as threads:
        sending = threads.submit(reader.send, *sent)
        while not sending.done() or len(set(read)) < len(sent):
            read += reader.read(1000, 0.01)
    assert sorted(set(read)) == sorted(sent)
    assert info(operator, reader)["num_ack_pending"] == 0


def test_a_group_with_as_many_in_hand_as_it_may_has_nothing(reader: Reader, operator: Operator) -> None:
    """Such a limit is that of a consumer that somebody else has made: no message is delivered until one is acked."""
    config = {"durable_name": GROUP, "ack_policy": "explicit", "max_ack_pending": 1}
    operator.api(
        f"CONSUMER.DURABLE.CREATE.{reader.station.name}.{GROUP}", stream_name=reader.station.name, config=config
    )
    reader.send(b"1", b"2")
    turn = reader.take()
    assert payloads(turn) == [b"1"]
    assert reader.read() == []
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(reader.read, 1, 20)
        eventually(lambda: info(operator, reader)["num_waiting"] == 1)
        turn.end(True, True)
        assert waiting.result(10) == [b"2"]


class Unequal:
    """A connection to a broker that has no messages in two partitions, and changes the leader of the first in mid-wait.

    The end of the second one's wait comes when the time is over, and has been on its way for a moment.
    """

    def __init__(self) -> None:
        self.delivered: list[Any] = []

    def open_inbox(self, delivered: Any) -> tuple[int, str]:
        """Notes the inbox."""
        self.delivered.append(delivered)
        return len(self.delivered), "inbox"

    def close_inbox(self, sid: int) -> None:
        """What is on its way is still delivered."""

    def forget(self, token: int) -> None:
        """No replies come."""

    def check(self) -> None:
        """It lives."""

    def send(self, owner: Any, index: int, token: int, subject: str, frame: bytes) -> None:
        """Answers the pull that the newest inbox is for."""
        seconds, status = 0.0, b"404 No Messages"
        if b"expires" in frame:
            seconds, status = (0.1, b"409 Leadership Change") if "first" in subject else (0.4, b"408 Request Timeout")
        head = b"NATS/1.0 " + status + b"\r\n\r\n"
        asyncio.get_running_loop().call_later(seconds, self.delivered[-1], b"", b"", head)


def test_a_wait_that_one_partition_ended_early_is_no_failure() -> None:
    """That the other one's end is on its way is no sign of a broker that does not answer."""

    async def work() -> None:
        fetch = Fetch(Unequal(), [Source("first", "g"), Source("second", "g")], Room(5, 1000), 15.0, Stock(1000))  # type: ignore[arg-type]
        await fetch.run(asyncio.get_running_loop().time() + 0.3)
        assert fetch.taken == []

    run(work())


class Forgetful(Unequal):
    """Says that a pull is complete whose message never comes, as when the group gets another leader."""

    def send(self, owner: Any, index: int, token: int, subject: str, frame: bytes) -> None:
        """The first pull finds nothing, the second brings nothing, the third the message."""
        loop, delivered, number = asyncio.get_running_loop(), self.delivered[-1], len(self.delivered)
        if number == 1:
            loop.call_soon(delivered, b"", b"", b"NATS/1.0 404 No Messages\r\n\r\n")
        elif number == 2:
            head = b"NATS/1.0 409 Batch Completed\r\nNats-Pending-Messages: 0\r\nNats-Pending-Bytes: 9\r\n\r\n"
            loop.call_soon(delivered, b"", b"", head)
        else:
            loop.call_soon(delivered, b"$JS.ACK.first.g.1.1.1.1.0", b"1", None)


def test_a_message_that_was_announced_and_does_not_come_is_pulled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A moment later; not when the wait is over, or the time for which other messages may be in hand."""
    monkeypatch.setattr(pulling, "ANSWER_SECONDS", 0.1)

    async def work() -> None:
        fetch = Fetch(Forgetful(), [Source("first", "g")], Room(1, 1000), 15.0, Stock(1000))  # type: ignore[arg-type]
        await asyncio.wait_for(fetch.run(asyncio.get_running_loop().time() + 60), 5)
        assert [message.payload for message in fetch.taken] == [b"1"]

    run(work())


@pytest.fixture
def narrow(server: NatsServer, reader: Reader, producer: Callable[[Config], Producer]) -> Reader:
    """Who reads from a station with two messages of 900 bytes, where consumes hold 3,000 at most."""
    reader.send(b"a" * 900, b"b" * 900)
    config = settings(server.url, MAX_PENDING_BYTES="3000")
    return Reader(ROOT, producer(config), config, reader.station)


def test_what_was_read_has_a_bound_together(narrow: Reader) -> None:
    """Answers are made of it, and their clients may be slow; who gets none may have all of it later."""
    first = narrow.take(2, group="first")
    with pytest.raises(Overloaded, match="MAX_PENDING_BYTES"):
        narrow.take(2, group="second")
    first.shed()
    assert len(narrow.read(2, group="second")) == 2


def test_what_is_being_read_has_a_bound_together(narrow: Reader, submit: Callable[..., Future[Any]]) -> None:
    """Each read may wait for more with many messages in hand."""
    waiting = [submit(narrow.take, 3, 3.0, group) for group in ("first", "second")]
    stock = narrow.producer._pool.consuming._stock
    eventually(lambda: stock.full)
    with pytest.raises(Overloaded, match="MAX_PENDING_BYTES"):
        narrow.take(3, group="third")
    assert [future.exception() is None for future in waiting].count(True) == 1
    assert stock.bytes == 0
