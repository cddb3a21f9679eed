"""Processes that die under load: nothing acknowledged is lost, nothing is stored twice, and no answer lies."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from tests.brokers.tools import Operator
from tests.clients import embedded_broker, embedded_pid
from tests.load import Load
from tests.servers import Gateway, NatsServer, eventually

pytestmark = pytest.mark.slow


@pytest.fixture
def broker(nats_server: Callable[..., NatsServer]) -> NatsServer:
    """A broker of its own."""
    return nats_server(users={"root": "memphis"})


@pytest.fixture
def running(gateway: Callable[..., Gateway], broker: NatsServer) -> Gateway:
    """A gateway of two workers at that broker."""
    settings = {"BROKER_URL": broker.url, "JWT_SECRET": "s" * 32, "AUTO_CREATE_STATIONS": "on"}
    return gateway({**settings, "WEB_CONCURRENCY": "2", "HTTP_HOST": "127.0.0.1"}).start()


@pytest.fixture
def with_own_broker(gateway: Callable[..., Gateway]) -> Gateway:
    """A gateway of two workers with the embedded broker."""
    return gateway({"WEB_CONCURRENCY": "2"}).start()


@pytest.mark.parametrize("repeat", [False, True])
def test_a_killed_worker_is_replaced(running: Gateway, broker: NatsServer, repeat: bool) -> None:
    """Its clients are cut off and know nothing; those who repeat with their key get each message stored once."""
    with Load(running.host, "worker", repeat=repeat) as load:
        load.await_acks(1000)
        running.kill_worker()
        load.await_acks(1000)
    assert load.faults(Operator(broker).payloads("worker")) == {}
    assert set(load.statuses) == {200}


def test_a_killed_broker_that_comes_back_costs_no_message(running: Gateway, broker: NatsServer) -> None:
    """Messages under way wait for it, are repeated under the same ids, and are all acknowledged."""
    with Load(running.host, "broker") as load:
        load.await_acks(1000)
        broker.kill()
        broker.start()
        load.await_acks(1000)
    assert load.faults(Operator(broker).payloads("broker")) == {}
    assert set(load.statuses) == {200}


def test_a_killed_embedded_broker_is_replaced_at_the_cost_of_no_message(with_own_broker: Gateway) -> None:
    """The supervisor starts another on the same data; the workers find it."""
    with Load(with_own_broker.host, "broker") as load:
        load.await_acks(1000)
        former = embedded_pid(with_own_broker)
        os.kill(former, signal.SIGKILL)
        load.await_acks(1000)
        assert embedded_pid(with_own_broker) != former
    assert load.faults(embedded_broker(with_own_broker).payloads("broker")) == {}
    assert set(load.statuses) == {200}


def test_a_broker_that_falls_silent_for_a_while_costs_no_message(running: Gateway, broker: NatsServer) -> None:
    """Its connections stay open and nothing comes: the sessions end, and all is repeated when it wakes."""
    with Load(running.host, "silence") as load:
        load.await_acks(1000)
        broker.pause()
        eventually(lambda: "broker_silent" in running.output(), 10)
        broker.resume()
        load.await_acks(1000)
    assert load.faults(Operator(broker).payloads("silence")) == {}
    assert set(load.statuses) == {200}


@pytest.mark.parametrize("lane", ["true", "false"])
def test_while_the_broker_is_away_answers_are_in_time_and_true(
    gateway: Callable[..., Gateway], broker: NatsServer, lane: str
) -> None:
    """503 where nothing was sent, 504 where the answer did not come; afterwards the gateway produces again."""
    settings = {"BROKER_URL": broker.url, "JWT_SECRET": "s" * 32, "AUTO_CREATE_STATIONS": "on"}
    settings |= {"PRODUCE_TIMEOUT_SECONDS": "1.5", "HTTP_HOST": "127.0.0.1", "LANE": lane}
    running = gateway(settings).start()
    with Load(running.host, "away") as load:
        load.await_acks(1000)
        broker.kill()
        eventually(lambda: load.statuses[503] > 20, 10)
        broker.start()
        load.await_acks(1000)
    assert load.faults(Operator(broker).payloads("away")) == {}
    assert set(load.statuses) <= {200, 503, 504}
    assert load.slowest < 3.5
