"""Anything at all, sent to a gateway as it is deployed: never a 500, never a traceback, never a dead worker."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import signal
import socket
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.app import create_app
from tests.application import settings
from tests.bounded import bounded
from tests.clients import logged_on
from tests.servers import Gateway, NatsServer

pytestmark = pytest.mark.slow

ANSWER = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n]+\r\n((?:[^\r\n]+\r\n)*)\r\n")
UNEXPECTED = ('"unexpected"', "Traceback", "Error handling", "Error in a connection", "loop_error")


class Victim(NamedTuple):
    """A gateway, and a token that it takes."""

    gateway: Gateway
    token: str
    workers: set[int]


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory, broker: NatsServer) -> Iterator[Victim]:
    """One worker; it must be the same one at the end, and have nothing unexpected in its log."""
    env = {"BROKER_URL": broker.url, "JWT_SECRET": "s" * 32, "WEB_CONCURRENCY": "1", "AUTO_CREATE_STATIONS": "true"}
    many = {"AUTH_FAILURES_PER_MINUTE": "100000", "LOG_LEVEL": "info", "MAX_BODY_BYTES": "100000"}
    gateway = Gateway(tmp_path_factory.mktemp("victim"), {**env, **many})
    try:
        gateway.start()
        with logged_on(gateway.host) as sender:
            yield Victim(gateway, sender.token, gateway.worker_pids())
    finally:
        gateway.stop(signal.SIGINT)


def _exchange(victim: Victim, data: bytes) -> bytes:
    """Sends the bytes and nothing more; what comes back until the gateway hangs up."""
    host, _, port = victim.gateway.host.rpartition(":")
    received = []
    connection = socket.create_connection((host, int(port)), timeout=10)
    with connection, contextlib.suppress(ConnectionError):  # it may have heard enough before the end
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        while piece := connection.recv(65_536):
            received.append(piece)
    return b"".join(received)


def _assert_unharmed(victim: Victim, sent: bytes, received: bytes) -> list[int]:
    """Whatever it has answered is HTTP, and none of it a fault of its own. Returns the statuses."""
    assert not received or ANSWER.match(received), received[:200]
    statuses = [int(match[1]) for match in ANSWER.finditer(received)]
    assert not {500, 502} & set(statuses), sent
    assert victim.gateway.worker_pids() == victim.workers, sent
    log = victim.gateway.output()
    assert not [word for word in UNEXPECTED if word in log], sent
    return statuses


# ---- bytes ---------------------------------------------------------------------------------------------------------

_PIECES = st.sampled_from(
    [
        *(b"GET ", b"POST ", b"OPTIONS ", b"HEAD ", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"/", b"*", b"http://a/"),
        *(b"/stations/orders/produce/single", b"/auth/authenticate", b"?authorization=x", b"%00", b"%0d%0a", b"\xff"),
        *(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b" HTTP/0.9\r\n", b"\r\n", b"\n", b"\r", b"\0", b": ", b" ", b"\t"),
        *(b"Host: a\r\n", b"Content-Length: 3\r\n", b"Content-Length: 99999999999\r\n", b"Content-Length: -1\r\n"),
        *(
            b"Transfer-Encoding: chunked\r\n",
            b"Expect: 100-continue\r\n",
            b"Connection: close\r\n",
            b"Upgrade: h2c\r\n",
        ),
        *(
            b"Content-Encoding: gzip\r\n",
            b"Content-Type: application/json\r\n",
            b"X: " + b"a" * 9000,
            b"Cookie: a=b\r\n",
        ),
        *(
            b"3\r\nabc\r\n",
            b"0\r\n\r\n",
            b"ffffffffffffffff\r\n",
            b"3;a=b\r\n",
            b"[1,2]",
            b"{",
            b"\x16\x03\x01\x02\x00",
        ),
        *(
            b"POST /stations/orders/produce/batch HTTP/1.1\r\nHost: a\r\n",
            b"GET /monitoring/status HTTP/1.1\r\nHost: a\r\n",
        ),
    ]
)
_BYTES = st.lists(_PIECES | st.binary(max_size=40), max_size=20).map(b"".join)


@bounded(300)
@given(_BYTES)
@example(b"")
@example(b"\0" * 70_000)
@example(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 200)
def test_arbitrary_bytes(victim: Victim, data: bytes) -> None:
    """They are answered as HTTP or not at all."""
    _assert_unharmed(victim, data, _exchange(victim, data))


def test_it_is_as_well_as_before(victim: Victim) -> None:
    """After all that, a good request is answered."""
    assert b'{"error":null,"success":true}' in _exchange(victim, _request(victim, "POST", PRODUCE, [], b"[1]"))


# ---- requests ------------------------------------------------------------------------------------------------------

PRODUCE = "/stations/orders/produce/batch"


def _routes() -> dict[str, list[str]]:
    """The paths of all routes, `{}` where something may stand, and the methods of each."""
    routes: dict[str, set[str]] = {path: {"GET"} for path in ("/nowhere", "//", "/x/{}")}
    for rule in create_app(settings()).url_map.iter_rules():
        routes.setdefault(re.sub(r"<[^>]*>", "{}", rule.rule), set()).update(rule.methods or ())
    return {path: sorted(routes[path]) for path in sorted(routes)}


_ROUTES = _routes()


def _request(victim: Victim, method: str, target: str, headers: list[tuple[str, str]], body: bytes) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: gateway", "Connection: close", f"Content-Length: {len(body)}"]
    if not any(name == "Authorization" for name, _ in headers):
        lines.append(f"Authorization: Bearer {victim.token}")
    if not any(name == "Content-Type" for name, _ in headers):
        lines.append("Content-Type: application/json")
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


_QUOTED = st.binary(max_size=12).map(lambda raw: "".join(f"%{byte:02x}" for byte in raw))
_ARGUMENT = st.sampled_from(["orders", "a.b", "..", "%2e%2e", "%24JS", "a%0d%0ab", "x" * 300, "*", ""]) | _QUOTED
_QUERY = st.sampled_from(["", "?", "?authorization=%ff", "?accountId=9e9", "?a=b&a=c", "?%00", "?" + "a=&" * 500]) | (
    _QUOTED.map("?authorization={}".format)
)
_METHOD = st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "PROPFIND"])
_TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=30)
_TYPE = st.sampled_from(
    [
        *(
            "application/json",
            "application/x-ndjson",
            "text/plain; charset=utf-16",
            "application/x-www-form-urlencoded",
        ),
        *("multipart/form-data; boundary=x", "multipart/form-data", "application/x-protobuf", ";", ""),
    ]
)
_HEADERS = st.dictionaries(
    st.sampled_from(
        [
            *(
                "Content-Encoding",
                "Prefer",
                "Idempotency-Key",
                "msg-id",
                "Accept",
                "Accept-Encoding",
                "Origin",
                "Cookie",
            ),
            *("X-Forwarded-For", "X-Forwarded-Proto", "X-Request-Id", "Authorization", "If-Match", "Range", "X-A"),
            *("Access-Control-Request-Method", "Access-Control-Request-Headers", "msg-x", "Forwarded", "Content-Type"),
        ]
    ),
    _TEXT
    | _TYPE
    | st.sampled_from(
        ["gzip", "return=representation", "atomic", "Bearer x.y.z", "*", "jwt-refresh-token=x", "null", "0"]
    ),
    max_size=5,
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_names := st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_FIELDS = st.dictionaries(
    st.sampled_from(
        [
            *("username", "connection_token", "password", "account_id", "token_expiry_in_minutes", "jwt_refresh_token"),
            *("name", "type", "definition", "schema", "version", "message_struct_name"),
        ]
    ),
    _JSON,
    max_size=5,
)
_BODY = (
    st.binary(max_size=100)
    | (_JSON | _FIELDS).map(lambda value: json.dumps(value).encode())
    | st.binary(max_size=50).map(gzip.compress)
    | st.sampled_from(
        [b"[" * 60_000, b"[1,2]", b"1\n2\nx\n", gzip.compress(b"0" * 10_000_000), b"a=b&c", b"--x\r\n\r\n"]
    )
)


@pytest.mark.parametrize("route", _ROUTES)
def test_arbitrary_requests(victim: Victim, route: str) -> None:
    """To each route: an answer that is JSON or empty, and names its request. Half of them have a method it takes."""

    @bounded(40)
    @given(_METHOD | st.sampled_from(_ROUTES[route]), _ARGUMENT, _QUERY, _HEADERS, _BODY)
    def send(method: str, argument: str, query: str, headers: dict[str, str], body: bytes) -> None:
        target = route.replace("{}", argument) + query
        sent = _request(victim, method, target, list(headers.items()), body)
        received = _exchange(victim, sent)
        assert len(_assert_unharmed(victim, sent, received)) == 1, sent
        head, _, content = received.partition(b"\r\n\r\n")
        assert b"\r\nX-Request-Id: " in head
        assert not content or json.loads(content) is not None, sent

    send()
