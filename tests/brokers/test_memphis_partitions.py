"""Reading stations of several partitions from a Memphis broker."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from proxy.brokers import memphis_consumers
from proxy.brokers.api import Api
from proxy.brokers.connection import Connection
from proxy.brokers.memphis import MemphisSession
from proxy.brokers.memphis_stations import Stations
from proxy.brokers.owners import Owner
from proxy.messages import Message, station_named
from tests.brokers.memphis_standin import Standin
from tests.brokers.test_memphis_consuming import Producers, Reader, wanted
from tests.brokers.tools import ROOT, Operator, eventually_on_loop, run
from tests.servers import eventually
from tests.uncollected import Payload, no_payloads, uncollected


@pytest.mark.slow
def test_readers_that_wait_for_one_message_each_are_given_one_each(
    standin: Standin, producer: Producers, submit: Any
) -> None:
    """Though the first of them waits at all partitions: what is delivered ten times is delivered no more."""
    standin.make("many", 16)
    reader, station = Reader(standin, producer), station_named("many")
    assert reader.read("many") == []
    turns = [submit(reader.take, ROOT, station, wanted(1, 20)) for _ in range(16)]
    operator = Operator(standin.server, "standin", "standin")
    info = "CONSUMER.INFO.many${}.rest-gateway"
    eventually(lambda: all(operator.api(info.format(n))["num_waiting"] == 16 for n in range(1, 17)))
    reader.producer.batch(ROOT, station, [b"%d" % n for n in range(16)], ())
    messages = [message for turn in turns for message in turn.result(30).messages]
    assert sorted(message.payload for message in messages) == sorted(b"%d" % n for n in range(16))


@pytest.mark.slow
def test_partitions_of_a_station_made_anew_are_read(
    standin: Standin, producer: Producers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the group was registered there by others first, so that the partition that is known answers."""
    monkeypatch.setattr(memphis_consumers, "REFRESH_SECONDS", 0.0)
    standin.make("anew", 1)
    reader, other = Reader(standin, producer), Reader(standin, producer)
    assert reader.read("anew") == []
    standin.remove("anew", notice=False)
    standin.make("anew", 3)
    assert other.read("anew") == []
    other.producer.batch(ROOT, station_named("anew"), [b"%d" % n for n in range(9)], ())
    found: list[bytes] = []
    eventually(lambda: len(found) == 9 or found.extend(reader.read("anew")))


def test_acks_that_one_partition_does_not_take_are_told(
    standin: Standin, producer: Producers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the log, with their number, whichever partition was read last."""
    standin.make("parts", 3)
    reader = Reader(standin, producer)
    reader.producer.batch(ROOT, station_named("parts"), [b"%d" % n for n in range(9)], ())
    turn = reader.take(ROOT, station_named("parts"), wanted())
    told: list[Any] = []
    monkeypatch.setattr(
        reader.producer._pool.consuming, "_notice", lambda event, **fields: told.append(fields["count"])
    )
    gone = turn.messages[0].ack.split(".")[2]
    assert turn.messages[-1].ack.split(".")[2] != gone
    Operator(standin.server, "standin", "standin").api(f"STREAM.DELETE.{gone}")
    turn.end(True, True)
    assert told == [3]


class Denying:
    """A connection on which nothing may be asked."""

    def reply_subject(self, token: int) -> str:
        """Nobody will answer there."""
        return "r"

    def send(self, owner: Owner, index: int, *_: Any) -> None:
        """Denied at once."""
        owner.denied(index, False)

    def forget(self, token: int) -> None:
        """Nothing is waited for."""


def test_what_may_not_be_compared_is_gone_without_the_garbage_collector() -> None:
    """A payload may have megabytes, and whoever may not read may repeat a thousand times."""

    async def compared() -> None:
        session = object.__new__(MemphisSession)
        session._stations = cast(Stations, SimpleNamespace(found=lambda station: None))
        session._api = Api(cast(Connection, Denying()))
        assert await session.stored(station_named("many"), Message(Payload(b"x"), (), "id"), 1) is None
        await eventually_on_loop(no_payloads)

    with uncollected():
        run(compared())
