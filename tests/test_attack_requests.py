"""Senders who reach for what is not theirs: the broker's headers and subjects, other users' ids, stations, sessions."""

from __future__ import annotations

import json
import re
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Flask
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.keys import KeyMaker
from tests.application import SECRET, Api, payloads, running, settings, stored
from tests.bounded import bounded
from tests.brokers.tools import MONITOR, Operator, connections
from tests.servers import NatsServer

ACCOUNTS = """
accounts {
  A { jetstream: enabled, users: [{ user: alice, password: a }] }
  B { jetstream: enabled, users: [{ user: bob, password: b }] }
}
"""


# ---- the broker's own headers --------------------------------------------------------------------------------------

_TOKEN = st.text("abXY019!#$%&'*+-.^`|~", min_size=1, max_size=20)
_BROKERS = st.sampled_from(
    ["Nats-Msg-Id", "Nats-Rollup", "Nats-Expected-Stream", "Nats-TTL", "Nats-Batch-Id", "Nats-Schedule", "Status"]
)
_PREFIX = st.sampled_from(["", "X-", "Msg-", "msg-msg-", "CE-", "Webhook-", "msg-X-"])
_NAMES = st.builds("{}{}".format, _PREFIX, _BROKERS | _TOKEN)
_VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=60).map(
    str.strip
)
_NEVER = re.compile(r"nats-|\$|msg-id$|authorization|cookie|proxy-")


@pytest.fixture(scope="module")
def open_handed(broker: NatsServer) -> Iterator[Api]:
    """An application that stores all headers it may."""
    with running(settings(broker.url, FORWARD_HEADERS="*")) as app:
        app.extensions["stations"].start()
        yield Api(app)


@pytest.mark.slow
@bounded(100)
@given(st.dictionaries(_NAMES, _VALUES, max_size=5))
@example({"msg-Nats-Msg-Id": "x", "Nats-Rollup": "all", "Msg-$Nats-Rollup": "sub"})
@example({"X-A": "1\u0085Nats-Rollup: all", "X-B": "NATS/1.0 503"})
def test_no_header_of_a_sender_becomes_one_of_the_brokers(
    open_handed: Api, broker: NatsServer, headers: dict[str, str]
) -> None:
    """What is stored has the sender's names in lower case and its values as sent, beside our id, and nothing else."""
    station = f"headers-{next(_numbers)}"
    environ = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers.items()}
    answer = open_handed.post(f"/stations/{station}/produce/single", b"x", "text/plain", environ_overrides=environ)
    assert answer.status_code in (200, 400)
    if answer.status_code == 400:
        return
    (message,) = stored(broker, station)
    sent = {value.strip().encode("latin-1") for value in headers.values()}
    ours = [(name, value) for name, value in message.headers if name == b"Nats-Msg-Id"]
    rest = [(name.decode(), value) for name, value in message.headers if name != b"Nats-Msg-Id"]
    assert len(ours) == 1
    assert ours[0][1].startswith(KeyMaker(SECRET).namespace("", "root", station).encode())
    for name, value in rest:
        assert name == name.lower()
        assert not _NEVER.match(name)
        assert value in sent | {b"text/plain", b"localhost"}


_numbers = iter(range(10**6))


@pytest.mark.parametrize("value", ["a\r\nNats-Rollup: all", "a\nb", "a\rb", "a\0b", "\r\n\r\nPUB x 1"])
@pytest.mark.parametrize("name", ["HTTP_X_A", "HTTP_MSG_A", "CONTENT_TYPE", "HTTP_IDEMPOTENCY_KEY", "HTTP_MSG_ID"])
def test_no_value_ends_its_line(api: Api, station: str, nothing_stored: None, name: str, value: str) -> None:
    """Where a server in front lets one through, it is refused here."""
    value = f"text/plain; a={value}" if name == "CONTENT_TYPE" else value
    answer = api.post(f"/stations/{station}/produce/single", b"x", "text/plain", environ_overrides={name: value})
    assert answer.status_code == 400


def test_no_value_of_a_request_makes_a_header_of_its_answer(api: Api) -> None:
    """What answers repeat of a request is harmless."""
    evil = "a\r\nSet-Cookie: jwt-refresh-token=x"
    headers = ("HTTP_X_REQUEST_ID", "HTTP_ORIGIN", "HTTP_ACCESS_CONTROL_REQUEST_HEADERS", "HTTP_ACCEPT", "HTTP_HOST")
    overrides = {**dict.fromkeys(headers, evil), "HTTP_ACCESS_CONTROL_REQUEST_METHOD": "POST"}
    for method in ("GET", "OPTIONS", "POST"):
        answer = api.request(method, "/nowhere", environ_overrides=overrides)
        assert not [value for pair in answer.headers for value in pair if "\r" in value or "\n" in value]
        assert "Set-Cookie" not in answer.headers


# ---- ids of others -------------------------------------------------------------------------------------------------


def test_nobody_reaches_into_another_users_ids(app: Flask, api: Api, broker: NatsServer, station: str) -> None:
    """A message cannot be kept from being stored by sending one with its id first, however the key is written."""
    keys, other = KeyMaker(SECRET), Api(app, "app1", "Passw0rd!")
    victims = keys.namespace("", "root", station)
    for key in ("order-1", f"{victims}.order-1", f".{victims}.order-1", f"../{victims}.order-1"):
        assert other.single(station, b'"bad"', Idempotency_Key=key).status_code == 200
    for key in ("order-1", "order-2"):
        assert api.single(station, b'"good"', Idempotency_Key=key).status_code == 200
    assert payloads(broker, station).count(b'"good"') == 2
    named = [message.header("Nats-Msg-Id") or b"" for message in stored(broker, station)]
    assert sum(name.startswith(victims.encode()) for name in named) == 2


def test_a_message_of_a_batch_cannot_be_kept_out_by_a_single_one(api: Api, broker: NatsServer, station: str) -> None:
    """Keys that look like ids of elements are other ids, so long as the bytes are others."""
    assert api.single(station, b'"first"', Idempotency_Key="k.0.00000000").status_code == 200
    assert api.batch(station, b'["second"]', Idempotency_Key="k").status_code == 200
    assert payloads(broker, station) == [b'"first"', b'"second"']


# ---- accounts ------------------------------------------------------------------------------------------------------


@pytest.fixture
def tenants(nats_server: Callable[..., NatsServer]) -> NatsServer:
    """A server with two accounts that know nothing of each other."""
    return nats_server(MONITOR + ACCOUNTS)


def test_an_account_is_a_world_of_its_own(tenants: NatsServer, make_app: Callable[..., Flask]) -> None:
    """Stations of the same name are two, whatever account a user says it is of."""
    app = make_app(tenants.url)
    alice, bob = Api(app, "alice", "a"), Api(app, "bob", "b")
    assert alice.single("orders", b'"of alice"', Idempotency_Key="1").status_code == 200
    assert bob.single("orders", b'"of bob"', Idempotency_Key="1").status_code == 200
    for name, account_id in (("bob$1", 1), ("bob", 7)):
        fields = {"username": name, "connection_token": "b", "account_id": account_id}
        token = bob.authenticate(fields).get_json()["jwt"]
        headers = {"Authorization": f"Bearer {token}"}
        assert bob.post("/stations/orders/produce/single", b'"of bob"', headers=headers).status_code == 200
    assert Operator(tenants, "alice", "a").payloads("orders") == [b'"of alice"']
    assert Operator(tenants, "bob", "b").payloads("orders") == [b'"of bob"'] * 3


def test_nobody_travels_on_the_connection_of_another(tenants: NatsServer, make_app: Callable[..., Flask]) -> None:
    """Not by a wrong password while the right one is connected, nor by a name that looks alike."""
    app = make_app(tenants.url)
    assert Api(app, "alice", "a").single("orders", b'"good"').status_code == 200
    for user, secret in (("alice", "b"), ("alice", ""), ("Alice", "a"), ("alice ", "a"), ("alice\0", "a"), ("$1", "a")):
        assert Api(app, user, secret).single("orders", b'"bad"').status_code == 401
    assert Operator(tenants, "alice", "a").payloads("orders") == [b'"good"']
    users = [found["authorized_user"] for found in connections(tenants) if found.get("name") == "stations"]
    assert users == ["alice"]


# ---- time ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_time_of_a_refusal_tells_nothing(api: Api) -> None:
    """Users who exist and users who do not are refused after the same time, half a second and what the network adds."""

    def seconds(user: str) -> float:
        started = time.perf_counter()
        assert api.authenticate({"username": user, "connection_token": "wrong"}).status_code == 401
        return time.perf_counter() - started

    with ThreadPoolExecutor(2) as threads:
        pairs = [list(threads.map(seconds, ["root", "nobody"][:: 1 if n % 2 else -1])) for n in range(6)]
    known = [pair[0 if n % 2 else 1] for n, pair in enumerate(pairs)]
    unknown = [pair[1 if n % 2 else 0] for n, pair in enumerate(pairs)]
    assert min(known + unknown) >= 0.5
    assert abs(statistics.median(known) - statistics.median(unknown)) < 0.1


def test_a_refusal_repeats_nothing_that_was_sent(api: Api) -> None:
    """Neither the user nor the secret."""
    answer = api.authenticate({"username": "who-is-this", "connection_token": "what-is-this"})
    assert "is-this" not in answer.get_data(as_text=True) + json.dumps(list(answer.headers))
