"""`POST /stations/<station>/produce/batch`: what is stored, and what is told of those that are not."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
from flask import Flask

from tests.application import Api, payloads, running, settings, stored
from tests.servers import NatsServer
from tests.ways import api

__all__ = ["api"]  # a fixture

NDJSON = "application/x-ndjson"
MANY = 1000


@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        ("application/json", b'[{"a": 1},{"a":2}]', [b'{"a": 1}', b'{"a":2}']),
        ("application/json; charset=utf-8", b"[1]", [b"1"]),
        (
            "application/json",
            b' [null, true, "x", 1.50, [1 ,2], {}, 9007199254740993]\r\n',
            [b"null", b"true", b'"x"', b"1.50", b"[1 ,2]", b"{}", b"9007199254740993"],
        ),
        ("application/json", '[{"z":"é","a":1,"z":"<&>"}]'.encode(), ['{"z":"é","a":1,"z":"<&>"}'.encode()]),
        (NDJSON, b'{"a": 1}\r\n\r\n{"b": 2}\r\n', [b'{"a": 1}', b'{"b": 2}']),
        ("application/ndjson", b"1\n\n \t\n2", [b"1", b"2"]),
    ],
)
@pytest.mark.parametrize("prefer", ["", "return=representation"])
def test_each_element_is_stored_as_sent(
    api: Api, broker: NatsServer, station: str, content_type: str, body: bytes, expected: list[bytes], prefer: str
) -> None:
    """Any JSON value is a message: its own bytes, in order, as JSON, whether acks are asked for or not."""
    assert api.batch(station, body, content_type, Prefer=prefer).status_code == 200
    messages = stored(broker, station)
    assert [message.payload for message in messages] == expected
    assert {message.header("content-type") for message in messages} == {b"application/json"}


def test_others_run_while_many_places_are_written(api: Api, station: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The places of 10,000 messages took a quarter of a second at one go."""
    pauses: list[float] = []
    monkeypatch.setattr("proxy.breathing.time", SimpleNamespace(sleep=pauses.append))
    acks = api.batch(station, b"[" + b"1," * MANY + b"1]", Prefer="return=representation").get_json()["acks"]
    assert [ack["index"] for ack in acks] == [ack["sequence"] - 1 for ack in acks] == list(range(MANY + 1))
    assert len(pauses) >= 10


def test_the_answer_is_the_one_that_clients_know(api: Api, station: str) -> None:
    """To the byte."""
    answer = api.batch(station, b"[1,2]")
    assert (answer.status_code, answer.data) == (200, b'{"error":null,"success":true}')


def test_the_acks_are_told_to_whom_prefers_them(api: Api, station: str) -> None:
    """One for each element, with its index."""
    answer = api.batch(station, b"[1,2]", Prefer="return=representation")
    assert answer.get_json() == {
        "acks": [
            {"index": 0, "station": station, "sequence": 1, "duplicate": False},
            {"index": 1, "station": station, "sequence": 2, "duplicate": False},
        ],
        "error": None,
        "success": True,
    }


def test_headers_go_with_each_element(api: Api, broker: NatsServer, station: str) -> None:
    """The same as for a single message."""
    api.batch(station, b"[1,2]", X_One="1", msg_color="red", Cookie="a=b")
    for message in stored(broker, station):
        assert sorted(message.headers[1:]) == [
            (b"color", b"red"),
            (b"content-type", b"application/json"),
            (b"x-one", b"1"),
        ]


def test_many_are_stored_in_order(api: Api, broker: NatsServer, station: str) -> None:
    """A thousand go as one burst: the order stays, and no round trip is made for each."""
    expected = [b"%d" % number for number in range(MANY)]
    started = time.monotonic()
    assert api.batch(station, b"[" + b",".join(expected) + b"]").status_code == 200
    assert time.monotonic() - started < 1
    assert payloads(broker, station) == expected


@pytest.mark.parametrize("content_type", ["application/json", NDJSON])
def test_a_batch_has_a_largest_size(
    make_app: Callable[..., Flask], broker: NatsServer, station: str, content_type: str
) -> None:
    """413 above `MAX_BATCH_MESSAGES`, and nothing of it is stored."""
    api = Api(make_app(broker.url, MAX_BATCH_MESSAGES="3"))
    four, three = (b"[1,2,3,4]", b"[1,2,3]") if content_type != NDJSON else (b"1\n2\n3\n4", b"1\n2\n3\n\n")
    refused = api.batch(station, four, content_type)
    assert (refused.status_code, refused.get_json()["stored"]) == (413, "no")
    assert "3 messages" in refused.get_json()["error"]
    assert api.batch(station, three, content_type).status_code == 200
    assert len(stored(broker, station)) == 3


@pytest.mark.parametrize(("count", "status"), [(1000, 200), (1001, 413)])
def test_an_atomic_batch_has_a_largest_size(
    api: Api, broker: NatsServer, station: str, count: int, status: int
) -> None:
    """As many messages as brokers take in one; nothing of a larger one is stored."""
    answer = api.batch(station, b"[" + b",".join([b"1"] * count) + b"]", Prefer="atomic")
    assert answer.status_code == status
    assert len(stored(broker, station)) == (count if status == 200 else 0)


def test_ten_thousand_are_allowed_where_nothing_is_set(api: Api, station: str) -> None:
    """The default of `MAX_BATCH_MESSAGES`; one more is refused."""
    assert api.batch(station, b"[" + b",".join([b"1"] * 10_001) + b"]").status_code == 413


# ---- some fail -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A broker that takes messages of at most 1,000 bytes."""
    server = NatsServer(tmp_path_factory.mktemp("narrow"), "max_payload: 1000", users={"root": "memphis"})
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture(scope="module")
def cramped(narrow: NatsServer) -> Iterator[Api]:
    """An application at it."""
    with running(settings(narrow.url)) as app:
        app.extensions["stations"].start()
        yield Api(app)


LONG = '"' + "x" * 2000 + '"'


@pytest.mark.parametrize("prefer", ["", "return=representation"])
def test_the_good_ones_are_stored_although_others_fail(
    cramped: Api, narrow: NatsServer, station: str, prefer: str
) -> None:
    """Order is kept; the answer counts, and names each failure by its index."""
    answer = cramped.batch(station, f"[1,{LONG},3,{LONG},5]".encode(), Prefer=prefer)
    body = answer.get_json()
    assert payloads(narrow, station) == [b"1", b"3", b"5"]
    assert (answer.status_code, body["stored"], body["repeat"]) == (400, "partly", "never")
    assert (body["error"], body["fail"], body["sent"], body["success"]) == ("2 of 5 messages failed", 2, 3, False)
    assert [(entry["index"], entry["status"], entry["stored"]) for entry in body["failed"]] == [
        (1, 413, "no"),
        (3, 413, "no"),
    ]
    assert body["errors"] == [entry["error"] for entry in body["failed"]]
    assert all("1000 bytes" in error for error in body["errors"])


def test_a_mended_batch_may_be_repeated_with_its_key(cramped: Api, narrow: NatsServer, station: str) -> None:
    """What was stored is stored once, what was mended is added."""
    cramped.batch(station, f"[1,{LONG},3]".encode(), Idempotency_Key="k")
    assert cramped.batch(station, b'[1,"short",3]', Idempotency_Key="k").status_code == 200
    assert sorted(payloads(narrow, station)) == [b'"short"', b"1", b"3"]


def test_when_all_fail_nothing_is_stored(cramped: Api, narrow: NatsServer, station: str) -> None:
    """And so says the answer."""
    body = cramped.batch(station, f"[{LONG},{LONG}]".encode()).get_json()
    assert (body["fail"], body["sent"], body["stored"]) == (2, 0, "no")
    assert payloads(narrow, station) == []


def test_problem_details_tell_as_much(cramped: Api, station: str) -> None:
    """The same fields, in the form of RFC 9457."""
    answer = cramped.batch(station, f"[1,{LONG}]".encode(), Accept="application/problem+json")
    body = json.loads(answer.data)
    assert (body["status"], body["detail"], body["stored"]) == (400, "1 of 2 messages failed", "partly")
    assert [entry["index"] for entry in body["failed"]] == [1]


def test_a_single_message_over_the_brokers_limit_is_refused(cramped: Api, narrow: NatsServer, station: str) -> None:
    """413, by its payload and headers together; just below it is stored."""
    refused = cramped.single(station, LONG.encode())
    assert (refused.status_code, refused.get_json()["stored"]) == (413, "no")
    assert "1000 bytes" in refused.get_json()["error"]
    assert cramped.single(station, b"[1]", X_One="x" * 1000).status_code == 413
    assert cramped.single(station, b'"' + b"x" * 800 + b'"').status_code == 200
    assert len(stored(narrow, station)) == 1
