"""Many clients at once, and a gateway that stops while they send: what was acknowledged is in the stream, once."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable

import pytest

from tests.brokers.tools import Operator
from tests.clients import STORED, embedded_broker, logged_on, with_tokens_of
from tests.load import Load
from tests.servers import Gateway, NatsServer

pytestmark = pytest.mark.slow

_GRACE = 8.0


@pytest.mark.parametrize("lane", ["true", "false"])
def test_64_clients_at_once(gateway: Callable[..., Gateway], lane: str) -> None:
    """Each has a connection of its own; all messages are stored once, those of a client in its order."""
    settings = {"WEB_CONCURRENCY": "2", "MAX_LOGONS": "64", "LANE": lane}
    running, clients, rounds = gateway(settings).start(), 64, 25
    answers = []

    def produce(client: int) -> None:
        with with_tokens_of(user, running.host) as sender:
            for n in range(rounds):
                answers.append(sender.single("crowd", json.dumps([client, n]).encode()).json)

    threads = [threading.Thread(target=produce, args=(client,)) for client in range(clients)]
    with logged_on(running.host) as user:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert answers == [STORED] * (clients * rounds)
    by_client = defaultdict(list)
    for payload in embedded_broker(running).payloads("crowd"):
        client, n = json.loads(payload)
        by_client[client].append(n)
    assert dict(by_client) == {client: list(range(rounds)) for client in range(clients)}


@pytest.mark.parametrize("worker", ["gevent", "gthread", "proxy.server.Worker"])
def test_sigterm_under_load_loses_no_acknowledged_message(
    nats_server: Callable[..., NatsServer], gateway: Callable[..., Gateway], worker: str
) -> None:
    """The gateway answers what it has begun, and ends within the grace time."""
    broker = nats_server(users={"root": "memphis"})
    settings = {"BROKER_URL": broker.url, "JWT_SECRET": "s" * 32, "AUTO_CREATE_STATIONS": "on", "WEB_CONCURRENCY": "2"}
    running = gateway({**settings, "GUNICORN_WORKER_CLASS": worker, "GRACEFUL_TIMEOUT_SECONDS": str(_GRACE)}).start()
    with Load(running.host, "stopping") as load:
        load.await_acks(1000)
        began = time.monotonic()
        running.send(signal.SIGTERM)
        assert running.wait(_GRACE + 2) == 0
        assert time.monotonic() - began < _GRACE
    assert load.faults(Operator(broker).payloads("stopping")) == {}
    assert set(load.statuses) <= {200, 503}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_under_load_leaves_the_embedded_broker_with_all_acknowledged_messages(
    gateway: Callable[..., Gateway], number: int
) -> None:
    """SIGTERM, or Ctrl-C, which reaches all processes at once: the broker goes last, and has what it acknowledged."""
    settings = {"WEB_CONCURRENCY": "2", "GRACEFUL_TIMEOUT_SECONDS": str(_GRACE)}
    running = gateway(settings).start()
    with Load(running.host, "stopping") as load:
        load.await_acks(1000)
        running.send(number, group=number == signal.SIGINT)
        assert running.wait(_GRACE) == 0
    assert load.faults(embedded_broker(running.start()).payloads("stopping")) == {}
    assert set(load.statuses) <= {200, 503}
