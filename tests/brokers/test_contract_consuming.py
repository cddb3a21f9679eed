"""What every kind of broker must do for those who consume. See `kinds` for adding one."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from proxy.messages import Station, station_named
from tests.brokers.consuming_tools import Reader, payloads
from tests.brokers.kinds import Broker
from tests.brokers.test_contract import Producers, broker, mortal, orders
from tests.brokers.tools import facts, failure
from tests.servers import eventually

__all__ = ["broker", "mortal", "orders"]  # fixtures


@pytest.fixture
def reader(broker: Broker, producer: Producers, orders: Station) -> Reader:
    """Who reads from it."""
    config = broker.settings(AUTO_CREATE_STATIONS="true", CONSUME_ACK_WAIT_SECONDS=2)
    return Reader(broker.user, producer(config), config, orders)


# ---- reading -----------------------------------------------------------------------------------------------------


def test_messages_come_as_they_were_stored(reader: Reader) -> None:
    """In order, every byte, with their headers."""
    reader.send(bytes(range(256)), b"2")
    turn = reader.take()
    turn.end(True, True)
    assert payloads(turn) == [bytes(range(256)), b"2"]
    assert b"x-a: b\r\n" in turn.messages[0].head


def test_as_many_come_as_are_wanted(reader: Reader) -> None:
    """At once, and the rest in the next read."""
    reader.send(b"1", b"2", b"3")
    before = time.monotonic()
    assert reader.read(2, 20) == [b"1", b"2"]
    assert time.monotonic() - before < 10
    assert reader.read() == [b"3"]
    assert reader.read() == []


def test_who_finds_less_waits_for_more(reader: Reader) -> None:
    """Until there is enough."""
    reader.send(b"1")
    with ThreadPoolExecutor() as threads:
        turn = threads.submit(reader.read, 3, 20)
        threads.submit(reader.send, b"2", b"3")
        assert sorted(turn.result(10)) == [b"1", b"2", b"3"]


@pytest.mark.slow
def test_who_has_messages_in_hand_does_not_wait_for_long(reader: Reader) -> None:
    """Half the time to ack at most: after all of it others would get them."""
    reader.send(b"1")
    before = time.monotonic()
    assert reader.read(2, 30) == [b"1"]
    assert 0.9 < time.monotonic() - before < 10
    assert reader.read(1, 2.5) == []


def test_a_message_larger_than_wanted_ends_a_wait(reader: Reader) -> None:
    """It is the only one in its answer."""
    with ThreadPoolExecutor() as threads:
        turn = threads.submit(reader.take, 10, 20, size=1000)
        reader.send(b"x" * 3000)
        reader.send(b"2")
        turn.result(10).end(True, True)
        assert payloads(turn.result()) == [b"x" * 3000]
    assert reader.read() == [b"2"]


def test_the_wait_of_each_read_counts(reader: Reader) -> None:
    """Also of later ones under the same name."""
    reader.send()
    for seconds in (0.6, 0.1):
        before = time.monotonic()
        assert reader.read(10, seconds) == []
        assert seconds - 0.1 < time.monotonic() - before < seconds + 3


def test_each_group_reads_everything(reader: Reader) -> None:
    """Under any name; readers of one group share."""
    reader.send(b"1", b"2")
    assert reader.read(group="g1") == [b"1", b"2"]
    assert reader.read(group="g.2", name="c2") == [b"1", b"2"]
    assert reader.read(1, group="g3") == [b"1"]
    assert reader.read(1, group="g3", name="c2") == [b"2"]


def test_who_names_no_group_shares(reader: Reader) -> None:
    """As with Memphis' gateway: readers of different names, too."""
    reader.send(b"1", b"2")
    assert reader.read(1) == [b"1"]
    assert reader.read(1, name="c2") == [b"2"]


def test_a_group_reads_on_in_another_worker(reader: Reader, broker: Broker, producer: Producers) -> None:
    """The broker keeps where it is; also when the first has ended."""
    reader.send(b"1", b"2")
    assert reader.read(1) == [b"1"]
    reader.producer.stop()
    config = broker.settings(AUTO_CREATE_STATIONS="true")
    assert Reader(broker.user, producer(config), config, reader.station).read() == [b"2"]


def test_the_bytes_of_an_answer_are_bounded(reader: Reader) -> None:
    """What does not fit is not touched; one message comes whatever its size."""
    large = b"x" * 3000
    reader.send(large, large, large, b"4")
    turn = reader.take(10, 5, size=7000)
    turn.end(True, True)
    assert payloads(turn) == [large, large]
    turn = reader.take(10, 5, size=1000)
    turn.end(True, True)
    assert payloads(turn) == [large]
    assert reader.read() == [b"4"]


# ---- acks --------------------------------------------------------------------------------------------------------


def test_what_is_given_back_comes_again_at_once(reader: Reader) -> None:
    """Long before the time to ack is over."""
    reader.send(b"1", b"2")
    turn = reader.take(2, 5)
    assert payloads(turn) == [b"1", b"2"]
    turn.end(False, True)
    before = time.monotonic()
    assert sorted(reader.read(2, 5)) == [b"1", b"2"]
    assert time.monotonic() - before < 1.5


@pytest.mark.slow
def test_what_nobody_acks_comes_again(reader: Reader) -> None:
    """When the time to ack is over."""
    reader.send(b"1")
    assert payloads(reader.take()) == [b"1"]
    assert reader.read(1, 0.1) == []
    assert reader.read(1, 8) == [b"1"]


@pytest.mark.slow
def test_an_ack_by_id_is_confirmed(reader: Reader) -> None:
    """Then the message does not come again."""
    reader.send(b"1", b"2")
    turn = reader.take(2)
    ids = [turn.ack_id(message) for message in turn.messages]
    turn.end(True, False)
    reader.consumer.ack(reader.user, reader.station, ids)
    assert reader.read(2, 3) == []


def test_a_nack_by_id_is_confirmed(reader: Reader) -> None:
    """The message comes again at once, or after the delay."""
    reader.send(b"1")
    for delay in (0.0, 0.7):
        turn = reader.take(1, 5)
        ids = [turn.ack_id(message) for message in turn.messages]
        turn.end(True, False)
        reader.consumer.give_back(reader.user, reader.station, ids, delay)
        if delay:
            assert reader.read(1, 0.1) == []
    assert reader.read(1, 5) == [b"1"]


@pytest.mark.slow
def test_ids_of_others_are_refused(reader: Reader) -> None:
    """And the rest counts; each refusal tells its place."""
    reader.send(b"1")
    turn = reader.take(1)
    (id,) = (turn.ack_id(message) for message in turn.messages)
    turn.end(True, False)
    other = station_named("other")
    for ids, station in ((["x", id, "y"], reader.station), ([id], other)):
        error = failure(reader.consumer.ack, reader.user, station, ids)
        assert (error.status, [(row["index"], row["status"]) for row in error.fields["failed"]]) in (
            (400, [(0, 400), (2, 400)]),
            (400, [(0, 400)]),
        )
    assert reader.read(1, 3) == []


@pytest.mark.slow
def test_many_acks_are_confirmed(reader: Reader) -> None:
    """Some hundred in one request."""
    reader.producer.batch(reader.user, reader.station, [b"%d" % n for n in range(1200)], ())
    turn = reader.take(1200, 10)
    assert len(turn.messages) == 1200
    ids = [turn.ack_id(message) for message in turn.messages]
    turn.end(True, False)
    reader.consumer.ack(reader.user, reader.station, ids)
    assert reader.read(10, 2.5) == []


# ---- stations and faults -----------------------------------------------------------------------------------------


def test_an_absent_station_is_made_or_not_found(broker: Broker, producer: Producers, orders: Station) -> None:
    """By the setting, as for a produce."""
    for make in ("false", "true"):
        config = broker.settings(AUTO_CREATE_STATIONS=make)
        reader = Reader(broker.user, producer(config), config, orders)
        if make == "true":
            assert reader.read() == []
            reader.send(b"1")
            assert reader.read() == [b"1"]
        else:
            assert facts(failure(reader.read)) == ("StationNotFound", "no", "never")


def test_waits_take_no_place_among_messages(broker: Broker, producer: Producers, orders: Station) -> None:
    """A hundred of them, where one message may be on its way."""
    config = broker.settings(AUTO_CREATE_STATIONS="true", MAX_PENDING_MESSAGES=1)
    reader = Reader(broker.user, producer(config), config, orders)
    reader.read()
    with ThreadPoolExecutor(100) as threads:
        turns = [threads.submit(reader.read, 10, 30, f"g{n % 5}") for n in range(100)]
        eventually(lambda: len(reader.consumer._turns) == 100)
        for number in range(20):
            reader.send(b"%d" % number)
        reader.producer.leaving = lambda: True
        read = [payload for turn in turns for payload in turn.result(10)]
    assert len(read) == 100
    assert len(set(read)) == 20


def test_waits_end_when_the_worker_is_about_to_stop(reader: Reader) -> None:
    """With what there is."""
    reader.send(b"1")
    with ThreadPoolExecutor() as threads:
        turn = threads.submit(reader.read, 5, 60)
        reader.producer.leaving = lambda: True
        assert turn.result(5) == [b"1"]


@pytest.mark.slow
def test_reads_outlive_a_broker_that_dies(mortal: Broker, producer: Producers, orders: Station) -> None:
    """Nothing is lost; what was in hand may come twice."""
    config = mortal.settings(AUTO_CREATE_STATIONS="true", CONSUME_ACK_WAIT_SECONDS=2)
    reader = Reader(mortal.user, producer(config), config, orders)
    sent = [b"%d" % n for n in range(50)]
    reader.send(*sent[:25])
    assert reader.read(5) == sent[:5]
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(reader.read, 100, 20, "other")
        mortal.kill()
        reader.send(*sent[25:])
        read = set(waiting.result(30))
    until = time.monotonic() + 20
    while read < set(sent) and time.monotonic() < until:
        read |= set(reader.read(100, 1, "other"))
    assert read == set(sent)


@pytest.mark.slow
def test_a_broker_that_does_not_answer_is_told(mortal: Broker, producer: Producers, orders: Station) -> None:
    """In seconds, and not with an empty answer."""
    config = mortal.settings(AUTO_CREATE_STATIONS="true")
    reader = Reader(mortal.user, producer(config), config, orders)
    reader.send(b"1")
    assert reader.read() == [b"1"]
    mortal.pause()
    try:
        before = time.monotonic()
        assert failure(reader.read, 1, 1.0).status == 503
        assert time.monotonic() - before < 15
    finally:
        mortal.resume()
