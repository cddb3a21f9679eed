"""A worker whose asyncio thread does nothing: it says that it is not ready, answers what is known, and is replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.clients import Sender, logged_on
from tests.servers import Gateway, NatsServer, alive, eventually

pytestmark = pytest.mark.slow


@pytest.fixture(params=["proxy.server.Worker", "gevent", "gthread"])
def sender(
    request: pytest.FixtureRequest, gateway: Callable[..., Gateway], nats_server: Callable[..., NatsServer]
) -> Iterator[tuple[Gateway, Sender]]:
    """A gateway with each kind of worker, and somebody who sends."""
    broker = nats_server(users={"root": "memphis"})
    settings = {"BROKER_URL": broker.url, "JWT_SECRET": "s" * 32, "AUTO_CREATE_STATIONS": "on"}
    running = gateway(
        {**settings, "GUNICORN_WORKER_CLASS": request.param, "PRODUCE_TIMEOUT_SECONDS": "5"},
        app="tests.faults.standstill:app",
    ).start()
    with logged_on(running.host) as sender:
        yield running, sender


def test_a_worker_that_stands_still_is_not_ready_and_is_replaced(sender: tuple[Gateway, Sender]) -> None:
    """What was not handed over yet is not stored; the next worker produces."""
    gateway, user = sender
    assert user.single("orders", b"1").status == 200
    (worker,) = gateway.worker_pids()
    assert user.post("/standstill/block", b"", None).status == 200
    with ThreadPoolExecutor(1) as threads:
        refused = threads.submit(eventually, lambda: gateway.get("/monitoring/ready")[0] == 503)
        answer = user.single("orders", b"2")
        assert refused.result()
    assert (answer.status, answer.json["stored"], answer.json["repeat"]) == (503, "no", "safe")
    user.close()  # gunicorn's gevent worker waits for idle connections when it stops
    eventually(lambda: not alive(worker), 15)
    eventually(lambda: gateway.get("/monitoring/ready")[0] == 200, 15)
    assert user.single("orders", b"3").status == 200
