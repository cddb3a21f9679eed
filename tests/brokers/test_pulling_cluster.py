"""Reads from a group on three servers, whose messages wait until most of the servers know of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from proxy.brokers import consuming, pulling
from proxy.config import Config
from proxy.errors import GatewayError
from proxy.messages import station_named
from proxy.producer import Producer
from tests.brokers.consuming_tools import Reader, payloads
from tests.brokers.tools import ROOT, Operator, settings
from tests.servers import NatsServer, eventually

pytestmark = pytest.mark.slow


@pytest.fixture
def leader(cluster: list[NatsServer]) -> NatsServer:
    """The leader of the group of a station with three replicas; it is moved to the front of the cluster."""
    Operator(cluster[0]).add("orders", num_replicas=3)
    config = {"durable_name": "rest-gateway", "ack_policy": "explicit"}
    Operator(cluster[0]).api("CONSUMER.DURABLE.CREATE.orders.rest-gateway", stream_name="orders", config=config)
    number = int(info(cluster[0])["cluster"]["leader"][1:])
    cluster.insert(0, cluster.pop(number))
    return cluster[0]


@pytest.fixture
def reader(leader: NatsServer, producer: Callable[[Config], Producer]) -> Reader:
    """Who reads there."""
    config = settings(leader.url)
    return Reader(ROOT, producer(config), config, station_named("orders"))


def info(server: NatsServer) -> dict[str, Any]:
    """What the group's leader tells of it."""
    return Operator(server).api("CONSUMER.INFO.orders.rest-gateway")


@pytest.mark.parametrize(("messages", "size", "count"), [(3, 8 << 20, 3), (10, 130, 1)])
def test_messages_that_the_word_about_the_end_overtakes_are_read(
    cluster: list[NatsServer], reader: Reader, messages: int, size: int, count: int
) -> None:
    """The broker says at once that a pull is complete, or that it has no room for more; the messages come later."""
    assert reader.read() == []
    reader.send(b"1", b"2", b"3")
    with ThreadPoolExecutor() as threads:
        for server in cluster[1:]:
            server.pause()
        try:
            reading = threads.submit(reader.take, messages, 5, size=size)
            eventually(lambda: info(cluster[0])["num_pending"] <= 3 - count)
        finally:
            for server in cluster[1:]:
                server.resume()
        turn = reading.result(20)
    turn.end(True, True)
    assert payloads(turn) == [b"1", b"2", b"3"][:count]
    assert all(message.ack.startswith("$JS.ACK.orders.rest-gateway.1.") for message in turn.messages), "came once more"
    assert info(cluster[0])["num_ack_pending"] == 0


def sends(reader: Reader, payload: bytes) -> bool:
    """Whether a message was stored."""
    with contextlib.suppress(GatewayError):
        reader.send(payload)
        return True
    return False


def test_a_wait_that_its_server_has_forgotten_goes_on(
    cluster: list[NatsServer], producer: Callable[[Config], Producer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A consumer without replicas, behind another server than the gateway's, that starts again: nobody tells of it."""
    monkeypatch.setattr(pulling, "TURN_SECONDS", 1.0)
    monkeypatch.setattr(consuming, "TROUBLE_SECONDS", 30.0)  # the server may take long to start again
    Operator(cluster[0]).add("orders")
    home = cluster.pop(int(Operator(cluster[0]).api("STREAM.INFO.orders")["cluster"]["leader"][1:]))
    config = settings(cluster[0].url)
    reader = Reader(ROOT, producer(config), config, station_named("orders"))
    assert reader.read() == []
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(reader.read, 1, 60)
        eventually(lambda: info(cluster[0])["num_waiting"] == 1)
        home.kill()
        home.start()
        eventually(lambda: sends(reader, b"1"), 20)
        assert waiting.result(20) == [b"1"]
