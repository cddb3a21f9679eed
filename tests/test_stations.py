"""`POST /stations/<station>/produce/single`: what is stored, and what is answered."""

from __future__ import annotations

import gzip
import re
import time
from collections.abc import Callable

import pytest
from flask import Flask

from tests.application import IN_CHUNKS, JSON, Api, payloads, stored
from tests.servers import NatsServer
from tests.ways import api

__all__ = ["api"]  # a fixture

PROTOBUF = "application/x-protobuf"


# ---- what is stored ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/plain", b"plain text"),
        ("text/html; charset=utf-8", "<b>é</b>".encode()),
        ("text", bytes(range(256))),
        (None, b"\0anything\r\n"),
        (JSON, b' {"b": 1,\r\n "a": 9007199254740993, "b": 1.0, "u": "\\u00e9"} '),
        ("application/json; charset=utf-8", b"[1, 2]"),
        ("application/cloudevents+json", b'"text"'),
        (JSON, b"12345678901234567890123456789012345678901234567890.000"),
        (PROTOBUF, b"\x08\x01\xff\xfe"),
        ("application/protobuf; v=1", b"\0"),
        (PROTOBUF, b""),
    ],
)
def test_the_bytes_are_stored_as_sent(
    api: Api, broker: NatsServer, station: str, content_type: str | None, body: bytes
) -> None:
    """Whatever the type: payload and content type are those of the request, byte for byte."""
    assert api.single(station, body, content_type).status_code == 200
    (message,) = stored(broker, station)
    assert message.payload == body
    assert message.header("content-type") == (content_type.encode() if content_type else None)


def test_the_answer_is_the_one_that_clients_know(api: Api, station: str) -> None:
    """To the byte."""
    answer = api.single(station)
    assert (answer.status_code, answer.data) == (200, b'{"error":null,"success":true}')
    assert answer.headers["Content-Type"] == JSON


def test_a_message_has_an_id_and_nothing_else_of_ours(api: Api, broker: NatsServer, station: str) -> None:
    """12 characters for the user, 9 for the message: what the broker recognises a repeat by."""
    api.single(station, b"x", None)
    ((name, value),) = stored(broker, station)[0].headers
    assert name == b"Nats-Msg-Id"
    assert re.fullmatch(rb"[\w-]{12}\.[\w-]{9}", value)


def test_headers_are_stored_in_lower_case(api: Api, broker: NatsServer, station: str) -> None:
    """Those that the settings name, `msg-` taken off; no other, and no secret."""
    sent = {
        "X-One": "1",
        "msg-color": "red",
        "Ce-Id": "7",
        "Webhook-Id": "8",
        "User-Agent": "x",
        "Cookie": "a=b",
        "X-Forwarded-For": "192.0.2.1",
        "X-Csrf-Token": "t",
        "msg-Nats-Rollup": "all",
        "Nats-Expected-Stream": "other",
        "X-Request-Id": "r-1",
        "Accept": "*/*",
    }
    assert api.single(station, b"{}", **sent).status_code == 200
    (message,) = stored(broker, station)
    assert sorted(message.headers[1:]) == [
        (b"ce-id", b"7"),
        (b"color", b"red"),
        (b"content-type", b"application/json"),
        (b"webhook-id", b"8"),
        (b"x-one", b"1"),
    ]


def test_the_settings_choose_the_headers(make_app: Callable[..., Flask], broker: NatsServer, station: str) -> None:
    """`FORWARD_HEADERS` replaces the default list."""
    api = Api(make_app(broker.url, FORWARD_HEADERS="traceparent, msg-*"))
    api.single(station, b"{}", Traceparent="00-1", X_One="1", Msg_X_Two="2")
    (message,) = stored(broker, station)
    assert sorted(message.headers[1:]) == [(b"traceparent", b"00-1"), (b"x-two", b"2")]


@pytest.mark.parametrize("raw", ["é€😀".encode(), "é".encode("latin-1"), b"\xff\x80 \xc3"])
def test_the_bytes_of_a_header_are_stored_as_sent(api: Api, broker: NatsServer, station: str, raw: bytes) -> None:
    """UTF-8, Latin-1, or neither."""
    assert api.single(station, b"{}", X_One=raw.decode("latin-1")).status_code == 200
    assert stored(broker, station)[0].header("x-one") == raw


@pytest.mark.parametrize("coding", ["gzip", "GZIP", " x-gzip "])
@pytest.mark.parametrize("in_chunks", [False, True])
def test_a_gzip_body_is_stored_inflated(
    api: Api, broker: NatsServer, station: str, coding: str, in_chunks: bool
) -> None:
    """Single and batch, with a length or in chunks, of one member or several."""
    whole, parts = gzip.compress(b'["one",{"two":2}]'), gzip.compress(b'["one",') + gzip.compress(b'{"two":2}]')
    overrides = {"environ_overrides": IN_CHUNKS} if in_chunks else {}
    for route, body in (("single", whole), ("single", parts), ("batch", whole), ("batch", parts)):
        headers = {"Content-Encoding": coding}
        assert api.post(f"/stations/{station}/produce/{route}", body, headers=headers, **overrides).status_code == 200
    single = b'["one",{"two":2}]'
    assert payloads(broker, station) == [single, single, b'"one"', b'{"two":2}', b'"one"', b'{"two":2}']
    assert stored(broker, station)[0].header("content-encoding") is None


def test_a_repeat_may_be_encoded_otherwise(api: Api, broker: NatsServer, station: str) -> None:
    """A key stands for the message, not for how it came; the lane leaves encoded bodies to Flask."""
    for _ in range(2):
        for body, headers in ((b'{"id":1}', {}), (gzip.compress(b'{"id":1}'), {"Content_Encoding": "gzip"})):
            assert api.single(station, body, **headers, Idempotency_Key="mine").status_code == 200
    assert payloads(broker, station) == [b'{"id":1}']


def test_a_body_in_chunks_is_stored(api: Api, broker: NatsServer, station: str) -> None:
    """It has no length; the server says where it ends."""
    assert api.post(f"/stations/{station}/produce/single", b"[1]", environ_overrides=IN_CHUNKS).status_code == 200
    assert payloads(broker, station) == [b"[1]"]


# ---- where it is stored --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/stations/{}/produce/single",
        "/stations/{}/produce/single/",
        "/Stations/{}/Produce/SINGLE",
        "/STATIONS/{}/produce/single//",
        "/stations/{}/produce/single?x=1",
    ],
)
def test_the_path_is_taken_in_any_case_and_with_a_slash(api: Api, broker: NatsServer, station: str, path: str) -> None:
    """As old clients may write it."""
    assert api.post(path.format(station), b"[1]").data == b'{"error":null,"success":true}'
    assert payloads(broker, station) == [b"[1]"]


def test_the_case_of_a_stations_name_does_not_count(api: Api, broker: NatsServer, station: str) -> None:
    """One station, however it is written; percent-encoded letters too."""
    for name in (station, station.upper(), station.replace("s", "%73").replace("t", "%54")):
        assert api.single(name).status_code == 200
    assert len(stored(broker, station)) == 3


def test_a_station_may_have_dots_in_its_name(api: Api, broker: NatsServer, station: str) -> None:
    """They are `#` at the broker."""
    assert api.single(f"{station}.a.B").status_code == 200
    assert payloads(broker, f"{station}#a#b") == [b"{}"]


def test_a_station_that_does_not_exist_is_created_only_where_that_is_wanted(
    make_app: Callable[..., Flask], broker: NatsServer, station: str, nothing_stored: None
) -> None:
    """Without `AUTO_CREATE_STATIONS` it is 404, in words that name the station."""
    api = Api(make_app(broker.url, AUTO_CREATE_STATIONS="false"))
    for answer in (api.single(station), api.batch(station, b"[1]")):
        assert (answer.status_code, answer.get_json()["stored"]) == (404, "no")
    assert station in api.single(station).get_json()["error"]


# ---- who may -------------------------------------------------------------------------------------------------------


def test_the_brokers_permissions_apply(app: Flask, api: Api, broker: NatsServer) -> None:
    """A user produces where the broker lets it."""
    api.single("allowed")
    before = len(stored(broker, "allowed"))
    assert Api(app, "limited", "Passw0rd!").single("allowed").status_code == 200
    assert len(stored(broker, "allowed")) == before + 1


def test_a_denied_user_is_told_at_once_and_creates_nothing(app: Flask, station: str, nothing_stored: None) -> None:
    """403 for one message and for a batch, not a time-out."""
    limited = Api(app, "limited", "Passw0rd!")
    started = time.monotonic()
    for answer in (limited.single(station), limited.batch(station, b"[1, 2]")):
        assert (answer.status_code, answer.get_json()["stored"], answer.get_json()["repeat"]) == (403, "no", "never")
    assert time.monotonic() - started < 1


@pytest.mark.slow
def test_a_user_whom_the_broker_does_not_know_any_more_is_refused(app: Flask, station: str) -> None:
    """A token of ours is no proof to the broker: 401, with the challenge, for one message and for a batch."""
    gone = Api(app, "gone", "x")
    for answer in (gone.single(station), gone.batch(station, b"[1, 2]")):
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert answer.get_json()["message"] == "Unauthorized"


# ---- Prefer --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prefer",
    [
        "return=representation",
        "Return=Representation",
        'return="representation"',
        "return = representation",
        "wait=5, return=representation",
        "respond-async,return=representation;x=1",
    ],
)
def test_the_ack_is_told_to_whom_prefers_it(api: Api, station: str, prefer: str) -> None:
    """Station, sequence, and whether it was a duplicate."""
    api.single(station)
    answer = api.single(station, Prefer=prefer)
    assert answer.get_json() == {
        "ack": {"station": station, "sequence": 2, "duplicate": False},
        "error": None,
        "success": True,
    }


@pytest.mark.parametrize("prefer", ["", "return=minimal", "representation", "respond-async"])
def test_others_get_the_short_answer(api: Api, station: str, prefer: str) -> None:
    """Any other preference changes nothing."""
    assert api.single(station, Prefer=prefer).data == b'{"error":null,"success":true}'


def test_the_ack_names_the_station_as_clients_do(api: Api, station: str) -> None:
    """In lower case, dots as dots."""
    answer = api.single(f"{station}.A", Prefer="return=representation")
    assert answer.get_json()["ack"]["station"] == f"{station}.a"
