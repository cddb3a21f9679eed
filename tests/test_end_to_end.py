"""The whole gateway: gunicorn with two gevent workers, the embedded broker, and what its streams have stored."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.brokers.tools import Operator, Stored
from tests.clients import STORED, Sender, embedded_broker, logged_on
from tests.servers import Gateway

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway for all tests of this file; each takes a station of its own. Warnings are errors in all its processes,
    and none of the tests may make it print one.
    """
    gateway = Gateway(tmp_path_factory.mktemp("gateway"), {"WEB_CONCURRENCY": "2"}).start()
    yield gateway
    gateway.stop(signal.SIGINT)
    assert not re.findall(r".*(?:Warning|Traceback|Exception).*", gateway.output())


@pytest.fixture
def sender(running: Gateway) -> Iterator[Sender]:
    """The embedded broker's user."""
    with logged_on(running.host) as sender:
        yield sender


@pytest.fixture
def broker(running: Gateway) -> Operator:
    """What the embedded broker has stored."""
    return embedded_broker(running)


def _curl(*arguments: str) -> str:
    """What curl prints, and the status on a line of its own."""
    command = ["curl", "--silent", "--show-error", "--max-time", "10", "--write-out", "\n%{http_code}", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout


def test_the_four_requests_with_curl(running: Gateway, broker: Operator) -> None:
    """Authenticate, refresh, produce one message, produce a batch: the answers that existing clients know."""
    log_on = '{"username": "root", "connection_token": "memphis"}'
    body, status = _curl(f"{running.url}/auth/authenticate", "--json", log_on).splitlines()
    first = json.loads(body)
    assert (status, first["expires_in"], first["refresh_token_expires_in"]) == ("200", 900_000, 18_000_000)

    renewal = json.dumps({"jwt_refresh_token": first["jwt_refresh_token"]})
    body, status = _curl(f"{running.url}/auth/refreshToken", "--json", renewal).splitlines()
    second = json.loads(body)
    assert (status, second.keys()) == ("200", first.keys())
    assert {first["jwt"], first["jwt_refresh_token"]}.isdisjoint({second["jwt"], second["jwt_refresh_token"]})

    bearer = f"Authorization: Bearer {second['jwt']}"
    for path, sent in (("single", '{"message": "New Message"}'), ("batch", '[{"message": "x"}, {"message": "y"}]')):
        url = f"{running.url}/stations/curl/produce/{path}"
        assert _curl(url, "--header", bearer, "--json", sent).splitlines() == ['{"error":null,"success":true}', "200"]
    assert broker.payloads("curl") == [b'{"message": "New Message"}', b'{"message": "x"}', b'{"message": "y"}']


@pytest.mark.parametrize(
    ("content_type", "payload"),
    [
        ("application/json", b' {"b": 1.0, "a": 9007199254740993, "a": "\\u00e9<&>", "n": 1e400}\n'),
        ("application/json; charset=utf-8", '{"grüße": "😀"}'.encode()),
        ("application/vnd.api+json", b"[]"),
        ("text/plain", b"\xff\x00 not UTF-8 \r\n"),
        ("text", b"as old clients say it"),
        (None, b"{"),
        ("application/x-protobuf", bytes(range(256))),
        ("application/protobuf", b""),
    ],
)
def test_a_payload_is_stored_byte_for_byte(
    sender: Sender, broker: Operator, content_type: str | None, payload: bytes
) -> None:
    """Whatever the type: nothing is parsed into another form, sorted, trimmed or escaped."""
    station = "bytes-" + re.sub(r"\W", "-", str(content_type).lower())
    answer = sender.single(station, payload, content_type)
    assert (answer.status, answer.json) == (200, STORED)
    (message,) = broker.stored(station)
    assert message.payload == payload
    assert message.headers.get("content-type") == content_type


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b'\n[ {"z":1, "a" : 1.0},null ,"\\u00e9", [1, 2],12345678901234567890 ]'),
        ("application/x-ndjson", b'{"z":1, "a" : 1.0}\r\nnull\n\n "\\u00e9"\n[1, 2]\n12345678901234567890'),
    ],
)
def test_the_elements_of_a_batch_are_stored_byte_for_byte_in_order(
    sender: Sender, broker: Operator, content_type: str, body: bytes
) -> None:
    """An array or lines: each element is one message, its own bytes, said to be JSON."""
    station = content_type.replace("/", "-")
    answer = sender.batch(station, body, content_type)
    assert (answer.status, answer.json) == (200, STORED)
    messages = broker.stored(station)
    assert [m.payload for m in messages] == [
        b'{"z":1, "a" : 1.0}',
        b"null",
        b'"\\u00e9"',
        b"[1, 2]",
        b"12345678901234567890",
    ]
    assert {m.headers["content-type"] for m in messages} == {"application/json"}


def test_a_message_has_the_headers_that_belong_to_it_and_no_others(sender: Sender, broker: Operator) -> None:
    """Names in lower case, `msg-` taken off; what is the connection's, the broker's or secret stays behind."""
    kept = {"X_Source": "till 7", "Ce_Id": "a-1", "Webhook_Id": "w", "msg_color": "grün".encode().decode("latin-1")}
    left = {
        "Cookie": "a=b",
        "X_Api_Key": "k",
        "X_Request_Id": "r",
        "X_Forwarded_For": "192.0.2.1",
        "Nats_Rollup": "all",
        "msg_nats_rollup": "all",
        "Prefer": "return=minimal",
        "User_Agent": "test",
    }
    assert sender.single("headers", b"{}", **kept, **left).status == 200
    (message,) = broker.stored("headers")
    assert message.headers.pop("Nats-Msg-Id")
    assert message == Stored(
        b"{}",
        {"content-type": "application/json", "x-source": "till 7", "ce-id": "a-1", "webhook-id": "w", "color": "grün"},
    )


def test_a_key_is_good_for_one_message_in_all_workers(running: Gateway, broker: Operator) -> None:
    """The same request on many connections: stored once, and each answer tells which message it is."""
    acks = []
    for _ in range(6):
        with logged_on(running.host) as sender:
            answer = sender.single("keyed", b"{}", Idempotency_Key="k-1", Prefer="return=representation")
            acks.append(answer.json["ack"])
    assert acks[0] == {"station": "keyed", "sequence": 1, "duplicate": False}
    assert acks[1:] == [{"station": "keyed", "sequence": 1, "duplicate": True}] * 5
    assert broker.payloads("keyed") == [b"{}"]


def test_a_batch_of_ten_thousand(sender: Sender, broker: Operator) -> None:
    """As many as one request may have: all stored, in order, none twice."""
    elements = [f'{{"n": {n}, "text": "{"x" * 80}"}}'.encode() for n in range(10_000)]
    answer = sender.batch("ten-thousand", b"[" + b",".join(elements) + b"]")
    assert (answer.status, answer.json) == (200, STORED)
    assert broker.payloads("ten-thousand") == elements


def test_a_message_of_four_mebibytes(sender: Sender, broker: Operator) -> None:
    """The embedded broker takes up to 8 MiB."""
    payload = os.urandom(4 << 20)
    assert sender.single("large", payload, "application/x-protobuf").json == STORED
    assert broker.payloads("large") == [payload]


def test_the_good_messages_of_a_batch_are_stored_although_others_fail(sender: Sender, broker: Operator) -> None:
    """An element that is larger than the stream takes fails alone, and is named by its index."""
    broker.add("narrow", max_msg_size=1000)
    answer = sender.batch("narrow", b'[{"n": 0}, "' + b"x" * 2000 + b'", {"n": 2}]')
    assert (answer.status, answer.json["error"]) == (400, "1 of 3 messages failed")
    assert [(f["index"], f["stored"], f["status"]) for f in answer.json["failed"]] == [(1, "no", 413)]
    assert (answer.json["sent"], answer.json["fail"], answer.json["stored"]) == (2, 1, "partly")
    assert broker.payloads("narrow") == [b'{"n": 0}', b'{"n": 2}']


def test_a_token_in_the_query_will_do(sender: Sender, broker: Operator) -> None:
    """For senders that cannot set headers."""
    path = f"/stations/query/produce/single?authorization={sender.token}"
    assert sender.post(path, b"{}", "application/json").json == STORED
    assert broker.payloads("query") == [b"{}"]


def test_a_page_of_another_origin_may_produce(running: Gateway, sender: Sender, broker: Operator) -> None:
    """As a browser does it: it asks first, without a token, then sends, and may read the answer."""
    host, _, port = running.host.partition(":")
    ask = (
        f"OPTIONS /stations/browser/produce/single HTTP/1.1\r\nHost: {running.host}\r\nOrigin: https://shop.example\r\n"
        "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization,content-type\r\n\r\n"
    )
    send = (
        f"POST /stations/browser/produce/single HTTP/1.1\r\nHost: {running.host}\r\nOrigin: https://shop.example\r\n"
        f"Authorization: Bearer {sender.token}\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
        "Connection: close\r\n\r\n{}"
    )
    with socket.create_connection((host, int(port)), 10) as connection, connection.makefile("rb") as answers:
        connection.sendall(ask.encode())
        status = answers.readline()
        headers = dict(line.decode().rstrip().lower().split(": ", 1) for line in iter(answers.readline, b"\r\n"))
        connection.sendall(send.encode())
        answer = answers.read()
    assert status.startswith(b"HTTP/1.1 204")
    assert headers["access-control-allow-origin"] == "*"
    assert "POST" in headers["access-control-allow-methods"].upper()
    assert headers["access-control-allow-headers"] == "authorization,content-type"
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"\r\nAccess-Control-Allow-Origin: *\r\n" in answer
    assert broker.payloads("browser") == [b"{}"]


def test_messages_survive_a_restart_of_the_gateway(tmp_path: Path) -> None:
    """What was acknowledged is there, the tokens of before are good, and the station goes on where it was."""
    gateway = Gateway(tmp_path, {"WEB_CONCURRENCY": "2"})
    try:
        with logged_on(gateway.start().host) as before:
            assert before.single("kept", b"1").json == STORED
        gateway.stop(signal.SIGINT)
        with logged_on(gateway.start().host) as sender:
            sender.token = before.token
            answer = sender.single("kept", b"2", Prefer="return=representation")
        assert answer.json["ack"]["sequence"] == 2
        assert embedded_broker(gateway).payloads("kept") == [b"1", b"2"]
    finally:
        gateway.stop(signal.SIGINT)
