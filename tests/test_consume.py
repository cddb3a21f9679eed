"""`/stations/<station>/consume`: what is taken, what is answered, and who may."""

from __future__ import annotations

import base64
import contextlib
import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask
from werkzeug.wrappers import Response

from proxy.consume import _headers
from tests.application import STORED, Api, running, settings
from tests.brokers.tools import Operator
from tests.servers import ROOT, NatsServer, eventually


def consume(api: Api, station: str, wait: int = 200, **fields: Any) -> Response:
    """Reads messages; those of group "" without one."""
    body = {"consumer_name": "c1", "batch_max_wait_time_ms": wait, **fields}
    return api.post(f"/stations/{station}/consume/batch", {k: v for k, v in body.items() if v is not None})


def error(answer: Response, status: int) -> str:
    """What is wrong."""
    assert answer.status_code == status, answer.data
    body = answer.get_json()
    assert (body["success"], body["stored"]) == (False, "no")
    return str(body["error"])


# ---- answers -----------------------------------------------------------------------------------------------------


def test_messages_and_headers_are_shown(api: Api, station: str) -> None:
    """As a list, in the order and form of Memphis' gateway."""
    api.single(station, '{"n": "é <&>"}'.encode(), X_N="1", msg_color="red")
    answer = consume(api, station)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.get_data().startswith(b'[{"message":"')
    (row,) = answer.get_json()
    assert set(row) == {"message", "headers"}
    assert row["message"] == '{"n": "é <&>"}'
    assert {"x-n": "1", "color": "red", "content-type": "application/json"}.items() <= row["headers"].items()


def test_others_are_read_from_while_many_messages_are_written(
    api: Api, station: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty answers of 5,000 messages kept them waiting for more than half a second."""
    pauses: list[float] = []
    api.batch(station, b"[" + b"1," * 299 + b"1]")
    monkeypatch.setattr("proxy.breathing.time", SimpleNamespace(sleep=pauses.append))
    assert len(consume(api, station, batch_size=300).get_json()) == 300
    assert len(pauses) == 3


def test_what_is_not_utf_8_comes_in_base64(api: Api, station: str) -> None:
    """And says so; every byte of it."""
    payload = bytes(range(256))
    api.single(station, payload, "application/x-protobuf")
    (row,) = consume(api, station).get_json()
    assert row["encoding"] == "base64"
    assert base64.b64decode(row["message"]) == payload


def test_an_empty_list_when_there_is_nothing(api: Api, station: str) -> None:
    """After the wait; the station is made by it, where a produce would make it."""
    answer = consume(api, station)
    assert (answer.status_code, answer.get_json()) == (200, [])


def test_broker_marks_are_not_shown() -> None:
    """Nor what has not the form of a header; of a repeated one the first value counts."""
    head = b"NATS/1.0\r\n$memphis_producedBy: x\r\nA: 1\r\nA: 2\r\n b : \xff \r\nnonsense\r\n\r\n"
    assert _headers(head) == {"A": "1", "b": "\ufffd"}
    assert _headers(b"") == {}


def test_zeros_are_defaults(api: Api, station: str) -> None:
    """Ten messages; a negative wait is the shortest."""
    api.batch(station, json.dumps(list(range(12))).encode())
    assert len(consume(api, station, wait=0, batch_size=0).get_json()) == 10
    assert len(consume(api, station, wait=-1, batch_size=10).get_json()) == 2


def test_names_have_no_case(api: Api, station: str) -> None:
    """Those of groups, too."""
    api.batch(station, b"[1, 2]")
    assert len(consume(api, station, batch_size=1, consumer_group="A.b").get_json()) == 1
    assert len(consume(api, station.upper(), batch_size=1, consumer_group="a.B").get_json()) == 1
    assert len(consume(api, station, consumer_group="").get_json()) == 2


# ---- what is not taken -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"consumer_name": None}, "Consumer name is required"),
        ({"consumer_name": ""}, "characters are allowed in Consumer"),
        ({"consumer_name": "_c!"}, "characters are allowed in Consumer"),
        ({"consumer_name": "a" * 129}, "at most 128"),
        ({"consumer_name": "a\n"}, "characters are allowed in Consumer"),
        ({"consumer_name": 5}, "consumer_name"),
        ({"consumer_group": "a b"}, "characters are allowed in consumer_group"),
        ({"consumer_group": ">"}, "characters are allowed in consumer_group"),
        ({"consumer_group": "g" * 116}, "at most 115"),
        ({"batch_size": -1}, "Batch size can not be greater than 5000 or less than 1"),
        ({"batch_size": 5001}, "Batch size can not be greater than 5000 or less than 1"),
        ({"batch_size": "2"}, "batch_size"),
        ({"batch_size": 1.5}, "batch_size"),
        ({"batch_size": True}, "batch_size"),
        ({"batch_size": 10**30}, "Batch size"),
        ({"batch_max_wait_time_ms": "x"}, "batch_max_wait_time_ms"),
        ({"batch_max_wait_time_ms": 300_001}, "must be at most 300000 (CONSUME_MAX_WAIT_SECONDS)"),
        ({"batch_max_wait_time_ms": 10**400}, "batch_max_wait_time_ms"),
        ({"ack": "later"}, "ack"),
        ({"zzz": 1}, "zzz: Unknown field"),
    ],
)
def test_a_wrong_field_is_named(api: Api, fields: dict[str, Any], wrong: str) -> None:
    """Nothing reaches the broker."""
    assert wrong in error(consume(api, "wrong", **fields), 400)


@pytest.mark.parametrize("body", [b"", b"{nope", b"[]", b"null", b'"x"', b"[" * 200 + b"]" * 200, b"\xff"])
def test_a_body_that_is_no_object_is_refused(api: Api, body: bytes) -> None:
    """By every route."""
    for route in ("batch", "ack", "nack"):
        error(api.post(f"/stations/wrong/consume/{route}", body), 400)


def test_another_content_type_is_refused(api: Api) -> None:
    """As everywhere."""
    for route in ("batch", "ack", "nack"):
        error(api.post(f"/stations/wrong/consume/{route}", b"{}", "text/plain"), 415)
        error(api.post(f"/stations/wrong/consume/{route}", b"{}", None), 415)


def test_a_large_body_is_refused(api: Api) -> None:
    """Before it is read."""
    error(api.post("/stations/wrong/consume/batch", b" " * (65 << 10)), 413)


def test_a_bad_station_name_is_refused(api: Api) -> None:
    """By every route."""
    for route in ("batch", "ack", "nack"):
        error(api.post(f"/stations/a!b/consume/{route}", {"consumer_name": "c1"}), 400)


def test_no_token_reads_nothing(api: Api) -> None:
    """Whatever the body."""
    for route in ("batch", "ack", "nack"):
        answer = api.post(f"/stations/a/consume/{route}", b"x", headers={"Authorization": None})
        assert (answer.status_code, answer.get_json()["message"]) == (401, "Unauthorized")


def test_only_posts_are_taken(api: Api) -> None:
    """GET would be repeated by whoever stands between."""
    assert api.get("/stations/a/consume/batch").status_code == 405


# ---- manual acks -------------------------------------------------------------------------------------------------


def test_messages_are_acked_by_their_ids(api: Api, station: str) -> None:
    """One or several; with any token of the user."""
    api.batch(station, b"[1, 2, 3]")
    rows = consume(api, station, ack="manual").get_json()
    assert [row["message"] for row in rows] == ["1", "2", "3"]
    ids = [row["ack_id"] for row in rows]
    assert api.post(f"/stations/{station}/consume/ack", {"ack_id": ids[0]}).get_json() == STORED
    assert api.post(f"/stations/{station}/consume/ack", {"ack_ids": ids[1:]}).get_json() == STORED
    assert api.post(f"/stations/{station}/consume/ack", {"ack_ids": ids}).get_json() == STORED  # again does no harm


def test_messages_are_given_back_by_their_ids(api: Api, station: str) -> None:
    """At once, or after a delay."""
    api.batch(station, b"[1, 2]")
    first, second = (row["ack_id"] for row in consume(api, station, ack="manual").get_json())
    path = f"/stations/{station}/consume/nack"
    assert api.post(path, {"ack_id": first}).get_json() == STORED
    assert api.post(path, {"ack_ids": [second], "delay_ms": 500}).get_json() == STORED
    assert [row["message"] for row in consume(api, station, 1, batch_size=1).get_json()] == ["1"]
    assert consume(api, station, 1).get_json() == []
    assert [row["message"] for row in consume(api, station, 5000, batch_size=1).get_json()] == ["2"]


def test_ids_of_another_user_or_station_are_refused(app: Flask, api: Api, station: str) -> None:
    """By their place; good ones count all the same."""
    api.single(station, b"1")
    (row,) = consume(api, station, ack="manual").get_json()
    other = Api(app, "app1", "Passw0rd!")
    for who, where in ((other, station), (api, "elsewhere")):
        answer = who.post(f"/stations/{where}/consume/ack", {"ack_ids": [row["ack_id"]]})
        assert error(answer, 400) == "1 of 1 acks failed"
    answer = api.post(f"/stations/{station}/consume/ack", {"ack_ids": ["x", row["ack_id"], "y" * 3000]})
    body = answer.get_json()
    assert (answer.status_code, body["error"], body["sent"]) == (400, "2 of 3 acks failed", 1)
    assert [entry["index"] for entry in body["failed"]] == [0, 2]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"ack_ids": []},
        {"ack_ids": ["x"], "ack_id": "x"},
        {"ack_ids": "x"},
        {"ack_ids": [1]},
        {"ack_ids": [None]},
        {"ack_ids": ["x"] * 5001},
        {"ack_id": "x", "zzz": 1},
        {"ack_id": "x", "delay_ms": -1},
        {"ack_id": "x", "delay_ms": 86_400_001},
    ],
)
def test_wrong_acks_are_refused(api: Api, fields: dict[str, Any]) -> None:
    """Named as fields are."""
    error(api.post("/stations/a/consume/nack", fields), 400)


# ---- limits and rights -------------------------------------------------------------------------------------------


def test_more_consumes_than_the_gateway_takes_are_503(broker: NatsServer, station: str) -> None:
    """And there is room again when others have ended."""
    with running(settings(broker.url, MAX_CONSUMES="2")) as app, ThreadPoolExecutor() as threads:
        api, consumer = Api(app), app.extensions["stations"].consumer
        waiting = [threads.submit(consume, api, station, 3000) for _ in range(2)]
        eventually(lambda: len(consumer._turns) == 2)
        answer = consume(api, station, 1)
        assert "MAX_CONSUMES" in error(answer, 503)
        assert answer.headers["Retry-After"] == "1"
        app.extensions["stations"].leaving = lambda: True
        assert [turn.result(10).get_json() for turn in waiting] == [[], []]
        assert consume(api, station, 1).status_code == 200
        assert not consumer._turns


def test_a_token_revoked_in_mid_wait_reads_nothing(app: Flask, broker: NatsServer, station: str) -> None:
    """What has come goes back, for others."""
    first, second = Api(app), Api(app)
    assert consume(first, station, 1).get_json() == []
    tokens = app.extensions["stations"].tokens
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(consume, first, station, 20_000, batch_size=1)
        eventually(lambda: Operator(broker).api(f"CONSUMER.INFO.{station}.rest-gateway")["num_waiting"] == 1)
        with app.app_context():
            family = tokens.verify(first.token).family
        tokens.revoke({family: 2**40})
        second.single(station, b"1")
        assert error(waiting.result(10), 401) == "Unauthorized"
    assert len(consume(second, station, 5000, batch_size=1).get_json()) == 1


def test_who_reads_an_answer_on_its_way_does_not_ack_it(make_app: Callable[..., Flask], broker: NatsServer) -> None:
    """A hook of a team's own, say: what was read by it was not written to the client."""
    app, api = make_app(broker.url), Api(make_app(broker.url))
    app.after_request(lambda response: response.get_data() and response)
    api.single("hooked", b"1")
    assert consume(Api(app), "hooked", 1).status_code == 500
    assert Operator(broker).api("CONSUMER.INFO.hooked.rest-gateway")["num_ack_pending"] == 1


def test_rates_count_a_consume_as_one_request(make_app: Callable[..., Flask], broker: NatsServer, station: str) -> None:
    """With those to other routes."""
    api = Api(make_app(broker.url, RATE_LIMIT_PER_USER="2/minute"))
    assert [consume(api, station, 1).status_code for _ in range(3)] == [200, 200, 429]
    assert api.single(station).status_code == 429


def test_a_failure_takes_no_room(broker: NatsServer) -> None:
    """Of an absent station here."""
    with running(settings(broker.url, MAX_CONSUMES="1", AUTO_CREATE_STATIONS="false")) as app:
        for _ in range(3):
            assert "no station nowhere" in error(consume(Api(app), "nowhere", 1), 404)


@pytest.mark.slow
def test_no_broker_is_503(make_app: Callable[..., Flask]) -> None:
    """Not an empty list."""
    error(consume(Api(make_app()), "a", 100), 503)


_RIGHTS = """
authorization {{ users: [
  {{ user: root, password: memphis }}
  {{ user: reader, password: r, permissions: {{
      publish: [{publish}]
      subscribe: ["_INBOX.>"] }} }}
] }}
"""
_DOCUMENT = (ROOT / "docs" / "consuming.md").read_text()
_NEEDED = re.findall(r'"(\$[^"]+)"', re.findall(r"^```conf\n(.*?)^```$", _DOCUMENT, re.M | re.S)[0])


@pytest.fixture
def limited(nats_server: Callable[..., NatsServer]) -> Iterator[Callable[..., Api]]:
    """Requests of a user who has some of the rights, at a broker with messages in `orders`."""
    with contextlib.ExitStack() as stack:

        def start(rights: list[str]) -> Api:
            server = nats_server(_RIGHTS.format(publish=", ".join(json.dumps(right) for right in rights)))
            Operator(server).add("orders")
            app = stack.enter_context(running(settings(server.url, AUTO_CREATE_STATIONS="false")))
            assert Api(app).single("orders", b"1").status_code == 200
            return Api(app, "reader", "r")

        yield start


def test_the_documented_rights_are_enough(limited: Callable[..., Api]) -> None:
    """To read and ack in one group of one station."""
    api = limited(_NEEDED)
    assert len(consume(api, "orders", consumer_group="billing").get_json()) == 1
    assert consume(api, "orders", consumer_group="billing").get_json() == []
    error(consume(api, "orders", consumer_group="other"), 403)


def test_without_stream_names_the_streams_name_is_the_stations(limited: Callable[..., Api]) -> None:
    """Which is how the gateway names those it makes."""
    assert len(consume(limited(_NEEDED[1:]), "orders", consumer_group="billing").get_json()) == 1


@pytest.mark.parametrize("right", [1, 2, 3])
def test_a_missing_right_is_named(limited: Callable[..., Api], right: int) -> None:
    """With 403."""
    api = limited([one for one in _NEEDED if one != _NEEDED[right]])
    assert _NEEDED[right] in error(consume(api, "orders", consumer_group="billing"), 403)


def test_who_may_not_ack_is_told_so_at_the_next_read(limited: Callable[..., Api]) -> None:
    """The first answer was on its way by then; the same messages again and again would help nobody."""
    api = limited(_NEEDED[:-1])
    assert len(consume(api, "orders", consumer_group="billing").get_json()) == 1
    answer = eventually(lambda: (one := consume(api, "orders", consumer_group="billing")).status_code == 403 and one)
    assert "$JS.ACK.orders.billing." in error(answer, 403)


def test_a_consumer_that_loses_messages_is_not_used(limited: Callable[..., Api], api: Api, broker: NatsServer) -> None:
    """One that an operator has made without acks."""
    Operator(broker).add("loses")
    config = {"durable_name": "g", "ack_policy": "none"}
    Operator(broker).api("CONSUMER.DURABLE.CREATE.loses.g", stream_name="loses", config=config)
    assert "no pull consumer with explicit acks" in error(consume(api, "loses", consumer_group="g"), 409)


def test_a_group_that_was_deleted_is_made_again(api: Api, broker: NatsServer, station: str) -> None:
    """It reads from the beginning, as any new one."""
    api.single(station, b"1")
    assert len(consume(api, station).get_json()) == 1
    Operator(broker).api(f"CONSUMER.DELETE.{station}.rest-gateway")
    assert len(consume(api, station).get_json()) == 1
