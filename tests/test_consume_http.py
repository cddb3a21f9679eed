"""Consuming through real servers: what was written in full is acked, what was not goes back at once."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.clients import JSON, STORED, Answer, Sender, embedded_broker, logged_on, with_tokens_of
from tests.servers import Gateway, eventually

WORKERS = ["proxy.server.Worker", "gevent", "gthread"]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=WORKERS)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with a broker of its own; what is not acked comes again after 30 s."""
    gateway = Gateway(tmp_path_factory.mktemp("consume"), {"GUNICORN_WORKER_CLASS": request.param}).start()
    yield gateway
    gateway.stop(signal.SIGINT)


@pytest.fixture
def lasting(running: Gateway) -> Callable[[], set[int]]:
    """The gateway outlives each test."""
    return lambda: {running.pid}


@pytest.fixture
def sender(running: Gateway) -> Iterator[Sender]:
    """A user with tokens."""
    with logged_on(running.host) as sender:
        yield sender


def consume(sender: Sender, station: str, size: int = 10, wait: int = 300, **fields: Any) -> Answer:
    """Reads messages."""
    body = {"consumer_name": "c1", "batch_size": size, "batch_max_wait_time_ms": wait, **fields}
    path = f"/stations/{station}/consume/batch"
    return sender.post(path, json.dumps(body).encode(), JSON, Authorization=f"Bearer {sender.token}")


def texts(answer: Answer) -> list[str]:
    """The messages in an answer."""
    assert answer.status == 200, answer.body
    return [row["message"] for row in answer.json]


def ask(sender: Sender, host: str, station: str, wait: int, size: int = 10, **fields: str) -> socket.socket:
    """Sends the request for messages on a connection of its own, and reads nothing."""
    name, port = host.split(":")
    sock = socket.create_connection((name, int(port)), timeout=20)
    body = json.dumps({"consumer_name": "c1", "batch_size": size, "batch_max_wait_time_ms": wait, **fields})
    head = (
        f"POST /stations/{station}/consume/batch HTTP/1.1\r\nHost: {host}\r\nContent-Type: {JSON}\r\n"
        f"Authorization: Bearer {sender.token}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    sock.sendall(head.encode() + body.encode())
    return sock


def reset(sock: socket.socket) -> None:
    """Ends a connection with RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def waits(gateway: Gateway, station: str) -> None:
    """Waits until the broker has a pull of the station's group that waits for messages."""
    info = f"CONSUMER.INFO.{station}.rest-gateway"
    eventually(lambda: embedded_broker(gateway).api(info)["num_waiting"] > 0)


def comes_again(sender: Sender, station: str, count: int) -> None:
    """All messages come again, long before the time to ack is over."""
    before = time.monotonic()
    found: set[str] = set()
    while len(found) < count:
        assert time.monotonic() - before < 15
        found |= set(texts(consume(sender, station, count - len(found), 1000)))
    assert time.monotonic() - before < 15


def test_what_was_read_does_not_come_again(sender: Sender) -> None:
    """On a connection that is kept; the answer says how long it is."""
    sender.batch("kept", b'[{"n": 1}, {"n": 2}, {"n": 3}]')
    first = consume(sender, "kept", 2)
    assert texts(first) == ['{"n": 1}', '{"n": 2}']
    assert int(first.headers["content-length"]) == len(first.body)
    assert first.headers["content-type"] == JSON
    assert texts(consume(sender, "kept")) == ['{"n": 3}']
    assert texts(consume(sender, "kept")) == []


def test_a_client_that_resets_in_mid_answer_loses_nothing(sender: Sender, running: Gateway) -> None:
    """It has read the beginning of several MiB."""
    large = json.dumps(["x" * 700_000]).encode()
    for _ in range(10):
        assert sender.single("reset", large[:-1] + b', "%d"]' % _).status == 200
    sock = ask(sender, running.host, "reset", 5000)
    assert sock.recv(4096).startswith(b"HTTP/1.1 200 OK")
    reset(sock)
    comes_again(sender, "reset", 10)


def test_a_client_that_reads_nothing_and_resets_loses_nothing(sender: Sender, running: Gateway) -> None:
    """It is gone before there is anything to read."""
    sender.single("nothing", b"{}")
    assert texts(consume(sender, "nothing")) == ["{}"]
    sock = ask(sender, running.host, "nothing", 3000, 1)
    waits(running, "nothing")
    reset(sock)
    sender.single("nothing", b'{"n": 1}')
    comes_again(sender, "nothing", 1)


def test_a_client_that_hangs_up_while_it_waits_loses_nothing(sender: Sender, running: Gateway) -> None:
    """Politely, so that the first bytes sent to it meet no error."""
    assert texts(consume(sender, "polite")) == []
    sock = ask(sender, running.host, "polite", 3000, 1)
    waits(running, "polite")
    sock.close()
    sender.single("polite", b'{"n": 1}')
    comes_again(sender, "polite", 1)


def test_manual_acks_of_a_client_that_is_gone_go_back_too(sender: Sender, running: Gateway) -> None:
    """It never had the ids."""
    assert texts(consume(sender, "manual")) == []
    sock = ask(sender, running.host, "manual", 3000, 1, ack="manual")
    waits(running, "manual")
    sock.close()
    sender.single("manual", b'{"n": 1}')
    comes_again(sender, "manual", 1)


def test_an_ack_in_time_is_taken(sender: Sender) -> None:
    """By any worker that has the secret; what was given back comes again."""
    sender.batch("acked", b"[1, 2]")
    first, second = (row["ack_id"] for row in consume(sender, "acked", 2, 3000, ack="manual").json)
    for verb, id in (("ack", first), ("nack", second)):
        body, path = json.dumps({"ack_ids": [id]}).encode(), f"/stations/acked/consume/{verb}"
        assert sender.post(path, body, JSON, Authorization=f"Bearer {sender.token}").json == STORED
    assert texts(consume(sender, "acked", 2, 500)) == ["2"]


def test_waits_hold_nobody_up(sender: Sender, running: Gateway) -> None:
    """Some hundred of them, or of threads as many as there are; messages are produced beside, each gets its answer."""
    consume(sender, "crowd", 1, 1)
    count = 40 if running.env["GUNICORN_WORKER_CLASS"] == "gthread" else 400
    socks = [ask(sender, running.host, "crowd", 4000) for _ in range(count)]
    before = time.monotonic()
    for _ in range(100):
        assert sender.single("beside", b"{}").status == 200
    assert time.monotonic() - before < 8
    for sock in socks:
        with contextlib.closing(sock):
            assert sock.recv(65536).startswith(b"HTTP/1.1 200 OK")


def test_a_revoked_token_reads_nothing(sender: Sender, running: Gateway) -> None:
    """As soon as its user has logged out."""
    with logged_on(running.host) as other:
        assert texts(consume(other, "revoked", 1, 1)) == []
        assert other.request("DELETE", "/auth/tokens", None, {"Authorization": f"Bearer {other.token}"}).status == 200
        eventually(lambda: consume(other, "revoked", 1, 1).status == 401)


def test_a_worker_that_stops_ends_the_waits(running: Gateway, gateway: Callable[..., Gateway]) -> None:
    """With what there is, long before the wait is over."""
    stopping = gateway({"GUNICORN_WORKER_CLASS": running.env["GUNICORN_WORKER_CLASS"]}).start()
    with (
        logged_on(stopping.host) as sender,
        with_tokens_of(sender, stopping.host) as other,
        ThreadPoolExecutor() as pool,
    ):
        assert texts(consume(sender, "stop", 10, 1)) == []
        sender.single("stop", b'{"n": 1}')
        waiting = pool.submit(consume, other, "stop", 10, 60_000)
        waits(stopping, "stop")
        before = time.monotonic()
        stopping.send(signal.SIGTERM)
        assert texts(waiting.result(25)) == ['{"n": 1}']
        assert time.monotonic() - before < 10
    assert stopping.wait(30) == 0


def test_who_hung_up_in_mid_wait_is_delivered_nothing(running: Gateway, gateway: Callable[..., Gateway]) -> None:
    """Each delivery counts, and after the last one nobody is given the message."""
    worker = running.env["GUNICORN_WORKER_CLASS"]
    counting = gateway({"GUNICORN_WORKER_CLASS": worker, "CONSUME_MAX_DELIVERIES": "3"}).start()
    with logged_on(counting.host) as sender:
        assert texts(consume(sender, "counted", 1, 1)) == []
        socks = [ask(sender, counting.host, "counted", 60_000, 1) for _ in range(6)]
        info, broker = "CONSUMER.INFO.counted.rest-gateway", embedded_broker(counting)
        eventually(lambda: broker.api(info)["num_waiting"] == len(socks))
        for sock in socks:
            sock.close()
        sender.single("counted", b'{"n": 1}')
        assert texts(consume(sender, "counted", 1, 10_000)) == ['{"n": 1}']
