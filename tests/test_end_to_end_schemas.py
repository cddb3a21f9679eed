"""Schemas in whole gateways: changes seen by all workers and replicas, under load, over restarts; rights; files."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.producer import MOST_CHECKED
from tests.brokers.tools import Operator
from tests.clients import JSON, STORED, Answer, Sender, logged_on, with_tokens_of
from tests.servers import Gateway, NatsServer, eventually

pytestmark = pytest.mark.slow

SECRET = {"JWT_SECRET": "a secret of thirty-two characters"}
ORDER = {"type": "object", "required": ["id"]}
OTHER = {"type": "object", "required": ["number"]}
PROTO = 'syntax = "proto3";\nmessage Order { int32 id = 1; }\n'

Gateways = Callable[..., Gateway]


def _send(sender: Sender, method: str, path: str, body: Any = None) -> Answer:
    headers = {"Authorization": f"Bearer {sender.token}", "Content-Type": JSON}
    return sender.request(method, path, None if body is None else json.dumps(body).encode(), headers)


def _put(sender: Sender, name: str, definition: Any, type: str = "json") -> None:
    answer = _send(sender, "PUT", f"/schemas/{name}", {"type": type, "definition": definition})
    assert answer.status in (200, 201), answer.body


def _demand(sender: Sender, station: str, definition: Any, **attachment: Any) -> None:
    _put(sender, station, definition)
    answer = _send(sender, "PUT", f"/stations/{station}/schema", {"schema": station, **attachment})
    assert answer.status == 200, answer.body


@pytest.fixture
def broker(nats_server: Callable[..., NatsServer]) -> NatsServer:
    """A broker with the station `orders`."""
    server = nats_server(users={"root": "memphis"})
    Operator(server).add("orders", allow_batched=True)
    return server


@pytest.fixture
def replicas(gateway: Gateways, broker: NatsServer, tmp_path: Path) -> list[Gateway]:
    """Two gateways of two workers each, started."""
    env = {"BROKER_URL": broker.url, "WEB_CONCURRENCY": "2", **SECRET}
    return [gateway(env, directory=tmp_path / name).start() for name in ("one", "two")]


@contextlib.contextmanager
def _connections(sender: Sender, gateways: list[Gateway], each: int = 8) -> Iterator[list[Sender]]:
    """Connections that are kept open, so many to each gateway that all its workers have some."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(with_tokens_of(sender, gateway.host)) for gateway in gateways for _ in range(each)]


def test_a_change_counts_at_once_where_it_was_made_and_soon_everywhere(
    replicas: list[Gateway], broker: NatsServer
) -> None:
    """At once on the connection, so in the worker, that made it; within a second in all others."""
    with logged_on(replicas[0].host) as maker, _connections(maker, replicas) as others:
        for other in others:
            assert other.single("orders", b"{}").json == STORED  # so that each worker knows that there is no schema
        changes: list[tuple[Callable[[], object], int]] = [
            (lambda: _demand(maker, "orders", ORDER), 400),
            (lambda: _put(maker, "orders", {}), 200),
            (lambda: _send(maker, "PUT", "/stations/orders/schema", {"schema": "orders", "version": 1}), 400),
            (lambda: _send(maker, "DELETE", "/stations/orders/schema"), 200),
        ]
        for change, status in changes:
            change()
            began = time.monotonic()
            assert maker.single("orders", b"{}").status == status
            eventually(lambda status=status: {o.single("orders", b"{}").status for o in others} == {status}, 5)  # type: ignore[misc]
            assert time.monotonic() - began < 1


def test_a_schema_that_changes_under_load_lets_through_what_it_should(
    replicas: list[Gateway], broker: NatsServer
) -> None:
    """What violates both versions is never stored, what satisfies both never refused, and no request sees a mixture."""
    both, neither = b'{"id": 1, "number": 1}', b'{"none": 1}'
    halves = b'[{"id": 1}, {"number": 1}]'  # each version lets through one of them
    answers: Counter[tuple[str, int, int]] = Counter()
    stop = threading.Event()

    def work(sender: Sender) -> None:
        while not stop.is_set():
            one, none = sender.single("orders", both), sender.single("orders", neither)
            half, many = sender.batch("orders", halves), sender.batch("orders", b"[%b, %b, %b]" % (both, neither, both))
            answers["both", one.status, 0] += 1
            answers["neither", none.status, 0] += 1
            answers["halves", half.status, half.json["fail"]] += 1
            answers["mixed", many.status, many.json["fail"]] += 1

    with logged_on(replicas[0].host) as maker, _connections(maker, replicas, 4) as senders:
        _demand(maker, "orders", ORDER)
        eventually(lambda: {sender.single("orders", neither).status for sender in senders} == {400})
        threads = [threading.Thread(target=work, args=(sender,)) for sender in senders]
        for thread in threads:
            thread.start()
        for number in range(20):
            _put(maker, "orders", (OTHER, ORDER)[number % 2])
            before = sum(answers.values())
            eventually(lambda before=before: sum(answers.values()) > before + 40, 20)  # type: ignore[misc]
        stop.set()
        for thread in threads:
            thread.join(30)
    assert set(answers) == {("both", 200, 0), ("neither", 400, 0), ("halves", 400, 1), ("mixed", 400, 1)}
    stored = Counter(Operator(broker).payloads("orders"))
    assert stored.pop(both) == answers["both", 200, 0] + 2 * answers["mixed", 400, 1]
    assert set(stored) == {b'{"id": 1}', b'{"number": 1}'}
    assert sum(stored.values()) == answers["halves", 400, 1]


def test_what_stations_demand_outlives_gateway_and_broker(gateway: Gateways, broker: NatsServer) -> None:
    """After a restart of either it is demanded as before."""
    running = gateway({"BROKER_URL": broker.url, **SECRET}).start()
    with logged_on(running.host) as sender:
        _demand(sender, "orders", ORDER)
        broker.restart()
        eventually(lambda: sender.single("orders", b'{"id": 1}').status == 200, 20)
        assert sender.single("orders", b"{}").status == 400
        _put(sender, "orders", OTHER)
        assert sender.single("orders", b'{"id": 1}').status == 400
    running.stop()
    running.start()
    with logged_on(running.host) as sender:
        assert sender.single("orders", b'{"id": 1}').status == 400
        assert sender.single("orders", b'{"number": 1}').status == 200


def test_while_the_broker_is_away_nothing_is_taken_for_valid(gateway: Gateways, broker: NatsServer) -> None:
    """A worker that does not know what is demanded answers 503, stored: no."""
    env = {"BROKER_URL": broker.url, "PRODUCE_TIMEOUT_SECONDS": "1", **SECRET}
    with logged_on(gateway(env).start().host) as sender:
        broker.stop()
        answer = sender.single("orders", b"{}")
        assert (answer.status, answer.json["stored"]) == (503, "no")
        assert "idempotency_key" in answer.json


def test_a_user_who_may_not_read_schemas_is_told_which_right_is_missing(
    nats_server: Callable[..., NatsServer], gateway: Gateways, tmp_path: Path
) -> None:
    """403 and nothing stored, until ROOT_USER reads for it; then the schema counts for it as for others."""
    users = '{ user: root, password: memphis }, { user: shop, password: shop, permissions: { publish: ["*.final"] } }'
    broker = nats_server(f"authorization {{ users: [{users}] }}")
    Operator(broker).add("orders")
    env = {"BROKER_URL": broker.url, **SECRET}
    alone = gateway(env, directory=tmp_path / "alone").start()
    with logged_on(alone.host) as root, logged_on(alone.host, "shop", "shop") as shop:
        _demand(root, "orders", ORDER)
        for answer in (
            shop.single("orders", b'{"id": 1}'),
            shop.batch("orders", b"[1]"),
            _send(shop, "GET", "/stations/orders/schema"),
            _send(shop, "PUT", "/schemas/x", {"type": "json", "definition": "{}"}),
        ):
            assert (answer.status, answer.json["stored"]) == (403, "no")
        assert "$JS.API.STREAM.MSG.GET.KV_station-schemas" in shop.single("orders", b'{"id": 1}').json["error"]
    assert Operator(broker).payloads("orders") == []
    env = {**env, "ROOT_USER": "root", "CONNECTION_TOKEN": "memphis"}
    helped = gateway(env, directory=tmp_path / "helped").start()
    with logged_on(helped.host, "shop", "shop") as shop:
        assert shop.single("orders", b'{"id": 1}').status == 200
        assert shop.single("orders", b"{}").status == 400
        assert _send(shop, "PUT", "/stations/orders/schema", {"schema": "orders", "version": 1}).status == 403


@pytest.mark.parametrize("worker", ["proxy.server.Worker", "gevent", "gthread"])
def test_definitions_are_compiled_in_each_kind_of_worker(gateway: Gateways, worker: str) -> None:
    """Protobuf, whose compiler is a program: its descriptor is kept, so that no other worker needs it."""
    running = gateway({"GUNICORN_WORKER_CLASS": worker, "WEB_CONCURRENCY": "2"}).start()
    with logged_on(running.host) as sender:
        _put(sender, "orders", PROTO, "protobuf")
        assert _send(sender, "PUT", "/stations/orders/schema", {"schema": "orders"}).status == 200
        with _connections(sender, [running]) as others:
            eventually(lambda: {o.single("orders", b"\xff", None).status for o in others} == {400})
            assert {o.single("orders", b"\x08\x01", "application/x-protobuf").status for o in others} == {200}
        bad = _send(sender, "PUT", "/schemas/orders", {"type": "protobuf", "definition": "syntax ="})
        assert (bad.status, "line 1" in bad.json["error"]) == (400, True)


# ---- SCHEMA_DIR ----------------------------------------------------------------------------------------------------


@pytest.fixture
def schemas(tmp_path: Path) -> Path:
    """A directory of schemas, in each language."""
    directory = tmp_path / "schemas"
    directory.mkdir()
    (directory / "orders.json").write_text(json.dumps(ORDER))
    (directory / "items.proto").write_text(PROTO)
    (directory / "clicks.avsc").write_text('{"type": "record", "name": "Click", "fields": []}')
    (directory / "queries.graphql").write_text("type Query { a: Int }")
    return directory


def test_workers_and_replicas_that_start_at_once_seed_once(
    gateway: Gateways, broker: NatsServer, schemas: Path, tmp_path: Path
) -> None:
    """Four workers of two gateways: one version of each file, which counts from the first request on."""
    root = {"ROOT_USER": "root", "CONNECTION_TOKEN": "memphis"}
    env = {"BROKER_URL": broker.url, "WEB_CONCURRENCY": "2", "SCHEMA_DIR": str(schemas), **root, **SECRET}
    gateways = [gateway(env, directory=tmp_path / name) for name in ("one", "two")]
    for one in gateways:
        one.start(ready=False)
    for one in gateways:
        eventually(one._answers, 20)
    with logged_on(gateways[0].host) as sender, _connections(sender, gateways, 4) as senders:
        for other in senders:
            assert other.single("orders", b"{}").status == 400
            assert _send(other, "GET", "/monitoring/ready").status == 200
        heads = _send(sender, "GET", "/schemas").json["schemas"]
        assert {head["name"]: head["version"] for head in heads} == {
            "clicks": 1,
            "items": 1,
            "orders": 1,
            "queries": 1,
        }


def test_a_file_that_does_not_compile_stops_the_gateway(gateway: Gateways, broker: NatsServer, schemas: Path) -> None:
    """With its name, the line and the reason."""
    (schemas / "items.proto").write_text('syntax = "proto3";\nmessage Order { int32 }\n')
    env = {"BROKER_URL": broker.url, "SCHEMA_DIR": str(schemas), "ROOT_USER": "root", "CONNECTION_TOKEN": "memphis"}
    running = gateway({**env, **SECRET}).start(ready=False)
    assert running.wait(20) == 3
    assert "SCHEMA_DIR must be a directory of schemas that can be used; items.proto: line 2" in running.output()
    assert "Traceback" not in running.output()


@pytest.mark.slow
def test_a_worker_that_cannot_be_replaced_leaves_the_others_alone(
    gateway: Gateways, broker: NatsServer, schemas: Path
) -> None:
    """It is tried again, until the file is mended; gunicorn would end the gateway.

    Both of the first have read the directory by then, which they tell by what they find there besides: one of them that
    cannot start ends the gateway.
    """
    (schemas / "notes.txt").touch()
    root = {"ROOT_USER": "root", "CONNECTION_TOKEN": "memphis"}
    env = {"BROKER_URL": broker.url, "WEB_CONCURRENCY": "2", "SCHEMA_DIR": str(schemas), **root, **SECRET}
    running = gateway(env).start()
    eventually(lambda: running.output().count("files_that_are_no_schemas") == 2, 20)
    eventually(lambda: running.get("/monitoring/ready")[0] == 200, 20)
    (schemas / "items.proto").write_text("no proto")
    running.kill_worker()
    eventually(lambda: running.output().count("items.proto: line 1") >= 2, 20)
    assert running.get("/monitoring/status")[0] == 200
    (schemas / "items.proto").write_text(PROTO)
    eventually(lambda: len(running.worker_pids()) == 2 and running.get("/monitoring/ready")[0] == 200, 20)


def test_a_gateway_without_its_broker_is_ready_once_the_schemas_are_there(
    gateway: Gateways, broker: NatsServer, schemas: Path
) -> None:
    """It starts, answers, is not ready; then the broker comes."""
    broker.stop()
    env = {"BROKER_URL": broker.url, "SCHEMA_DIR": str(schemas), "ROOT_USER": "root", "CONNECTION_TOKEN": "memphis"}
    running = gateway({**env, **SECRET}).start()
    assert running.get("/monitoring/ready")[0] == 503
    broker.start()
    eventually(lambda: running.get("/monitoring/ready")[0] == 200, 20)
    with logged_on(running.host) as sender:
        assert sender.single("orders", b"{}").status == 400


@contextlib.contextmanager
def _repeating(running: Gateway, token: str, path: str) -> Iterator[Callable[[bytes], tuple[int, Any]]]:
    """Sends bodies under one head, each request in one piece; returns the status and the answer's JSON."""
    host, _, port = running.host.partition(":")
    head = f"POST {path} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n".encode()
    with socket.create_connection((host, int(port)), 10) as connection, connection.makefile("rb") as answers:

        def send(body: bytes) -> tuple[int, Any]:
            length = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
            connection.sendall(head + length + body)
            status = int(answers.readline().split()[1])
            headers = dict(line.lower().split(b": ", 1) for line in iter(answers.readline, b"\r\n"))
            return status, json.loads(answers.read(int(headers[b"content-length"])))

        yield send


def test_a_head_that_repeats_has_each_body_checked(gateway: Gateways, broker: NatsServer) -> None:
    """Requests that go neither through Flask nor through WSGI are checked like all others."""
    running = gateway({"BROKER_URL": broker.url, **SECRET}).start()
    good, bad = [b'{"id": %d}' % number for number in range(20)], [b'{"di": %d}' % number for number in range(20)]
    with logged_on(running.host) as maker, _repeating(running, maker.token, "/stations/orders/produce/single") as send:
        assert [send(body)[0] for body in good] == [200] * 20
        _demand(maker, "orders", ORDER)
        answers = [(send(fine)[0], send(wrong)[0]) for fine, wrong in zip(good, bad, strict=True)]
    assert answers == [(200, 400)] * 20
    assert Operator(broker).payloads("orders") == good * 2


def test_what_is_refused_under_a_head_that_repeats_is_kept(gateway: Gateways, broker: NatsServer) -> None:
    """The shortest way keeps no dead letters, and so leaves them to the whole one."""
    running = gateway({"BROKER_URL": broker.url, "AUTO_CREATE_STATIONS": "on", **SECRET}).start()
    with logged_on(running.host) as maker, _repeating(running, maker.token, "/stations/orders/produce/single") as send:
        _demand(maker, "orders", ORDER, dead_letter=True)
        assert [send(b'{"id": 1}')[0] for _ in range(4)] == [200] * 4
        answers = [send(b'{"di": %d}' % number) for number in range(4)]
    assert [(status, body["stored"], body["dead_letter"]) for status, body in answers] == [(400, "no", "stored")] * 4
    assert Operator(broker).payloads("orders#dls") == [b'{"di": %d}' % number for number in range(4)]


@pytest.mark.parametrize("count", [3, MOST_CHECKED + 1])
def test_batches_under_a_head_that_repeats_are_checked(gateway: Gateways, broker: NatsServer, count: int) -> None:
    """Small ones are served without Flask, large ones with it: the good elements are stored, the bad ones named."""
    running = gateway({"BROKER_URL": broker.url, **SECRET}).start()
    good = [b'{"id": %d}' % number for number in range(count)]
    fine, mixed = b"[%b]" % b",".join(good), b"[%b]" % b",".join([*good[:-1], b"{}"])
    with logged_on(running.host) as maker, _repeating(running, maker.token, "/stations/orders/produce/batch") as send:
        assert [send(fine) for _ in range(3)] == [(200, STORED)] * 3
        _demand(maker, "orders", ORDER)
        assert [send(fine) for _ in range(3)] == [(200, STORED)] * 3
        status, failed = send(mixed)
        assert send(fine) == (200, STORED)
    assert (status, failed["stored"], failed["sent"]) == (400, "partly", count - 1)
    assert [one["index"] for one in failed["failed"]] == [count - 1]
    assert Operator(broker).payloads("orders") == good * 6 + good[:-1] + good
