"""The order of a batch in a station that must be created first."""

from __future__ import annotations

import threading
from collections.abc import Callable

from proxy.config import Config
from proxy.messages import Ack, station_named
from proxy.producer import Producer
from tests.brokers.fakes import FakeNats, Published, no_responders, reply
from tests.brokers.tools import ROOT, settings


def test_the_order_is_kept_while_a_slow_broker_creates_the_station(producer: Callable[[Config], Producer]) -> None:
    """The refusals of a batch come one by one: none is repeated before the station is there, then all are, in order."""
    refused: list[Published] = []
    created: list[Published] = []

    def answer(server: FakeNats, message: Published) -> bytes:
        if message.subject == "$JS.API.STREAM.NAMES":
            threading.Event().wait(0.6)  # a broker with much to do: time enough to repeat too early
            return no_responders(refused[1]) + reply(message, b'{"streams":[]}')
        if message.subject.startswith("$JS.API"):
            created.append(message)
            return reply(message, b'{"config":{}}')
        if created:
            return reply(message, b'{"stream":"orders","seq":1}')
        refused.append(message)
        return no_responders(message) if len(refused) != 2 else b""

    server = FakeNats(answer)
    try:
        config = settings(server.url, ALLOW_OPEN_BROKER="true", AUTO_CREATE_STATIONS="true")
        acks = producer(config).batch(ROOT, station_named("orders"), [b"a", b"b"], ())
    finally:
        server.close()
    assert acks == [Ack(1, False)] * 2
    sent = [message.content[-1:] for message in server.published if message.subject == "orders.final"]
    assert sent == [b"a", b"b", b"a", b"b"]
