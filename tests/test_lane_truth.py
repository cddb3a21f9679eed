"""The short way past Flask when something goes wrong in the middle: the answer is still true."""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from flask import Flask

from proxy.errors import AckTimeout, BrokerAway
from proxy.extension import OUTCOME
from proxy.sealing import key_id
from tests.application import NOWHERE, SECRET, Api, payloads
from tests.servers import NatsServer, eventually
from tests.ways import ByFlask, ByLane


def test_a_body_that_ends_early_is_not_stored(api: Api, broker: NatsServer, station: str) -> None:
    """The client is gone: what came of the message is not the message, on a path that was served before too."""
    path = f"/stations/{station}/produce/single"
    assert api.post(path, b"whole", "text/plain").status_code == 200
    answer = api.post(path, b"12345", "text/plain", environ_overrides={"CONTENT_LENGTH": "10"})
    assert answer.status_code == 400
    assert payloads(broker, station) == [b"whole"]


@pytest.mark.slow
def test_a_token_that_expires_on_the_way_does_not_hide_what_became_of_the_message(
    make_app: Callable[..., Flask], broker: NatsServer, station: str
) -> None:
    """The message may be stored: 504 says so, while a 401 would say that it is not."""
    app = make_app(broker.url)
    api, expiry = Api(app), int(time.time()) + 2
    api.token = _until(expiry, api.token)
    assert api.single(station).status_code == 200

    def late(*_: Any) -> None:
        eventually(lambda: time.time() > expiry)
        raise AckTimeout

    app.extensions["stations"].producer.single = late
    answer = api.single(station)
    assert (answer.status_code, answer.get_json()["stored"]) == (504, "unknown")


@pytest.mark.parametrize(("way", "status"), [(ByFlask, 500), (ByLane, 200)])
def test_each_way_of_the_tests_is_another_one(
    make_app: Callable[..., Flask], broker: NatsServer, station: str, way: type[Api], status: int
) -> None:
    """Else those that go both ways would go the same one twice."""
    app = make_app(broker.url)
    api = way(app)
    assert api.single(station).status_code == api.batch(station, b"[1]").status_code == 200
    app.full_dispatch_request = None  # type: ignore[assignment,method-assign]
    assert api.single(station).status_code == api.batch(station, b"[1]").status_code == status


def test_a_message_that_was_sent_is_not_sent_once_more_for_its_answer(
    api: Api, broker: NatsServer, station: str
) -> None:
    """What became of it comes with the request, and Flask gives the answer."""
    assert api.single(station, b"1").status_code == 200
    path = f"/stations/{station}/produce/single"
    answer = api.post(path, b"2", environ_overrides={OUTCOME: AckTimeout()})
    assert (answer.status_code, answer.get_json()["stored"]) == (504, "unknown")
    assert payloads(broker, station) == [b"1"]


LARGE = 1_000_000  # bytes


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/stations/{}/produce/single", {"Idempotency-Key": "x" * 201}, 400),
        ("/stations/{}/produce/batch", {}, 400),
        ("/nowhere", {}, 404),
        ("/monitoring/status", {}, 405),
    ],
)
def test_a_refused_body_is_gone_with_its_answer(
    api: Api, station: str, path: str, headers: dict[str, str], status: int
) -> None:
    """As a good one is: the garbage collector, which counts objects, would come for a thousand of them at once."""
    assert api.single(station).status_code == api.batch(station, b"[1]").status_code == 200
    _assert_gone(lambda: api.post(path.format(station), b"x" * LARGE, headers=headers).status_code, status)


@pytest.mark.slow
@pytest.mark.parametrize("key", [{}, {"Idempotency_Key": "k"}])
@pytest.mark.parametrize("way", [Api.single, Api.batch])
def test_what_could_not_be_stored_is_gone_with_its_answer(
    make_app: Callable[..., Flask], way: Callable[..., Any], key: dict[str, str]
) -> None:
    """While the broker is away, which may be long, and many repeat."""
    api = Api(make_app(NOWHERE, PRODUCE_TIMEOUT_SECONDS="1"))
    _assert_gone(lambda: way(api, "orders", b'["%b"]' % (b"x" * LARGE), **key).status_code, 503)


@pytest.mark.slow
def test_what_a_teams_handler_answers_is_gone_too(make_app: Callable[..., Flask]) -> None:
    """Also where it takes the place of ours."""
    app = make_app(NOWHERE, PRODUCE_TIMEOUT_SECONDS="1")
    app.register_error_handler(BrokerAway, lambda error: ("later", 503))
    api = Api(app)
    _assert_gone(lambda: api.single("orders", b'["%b"]' % (b"x" * LARGE)).status_code, 503)


def _assert_gone(ask: Callable[[], int], status: int) -> None:
    """Asks some times, and looks at what stays in memory once the loop is done with the last one."""
    assert ask() == status
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        assert {ask() for _ in range(5)} == {status}
        eventually(lambda: tracemalloc.get_traced_memory()[0] < LARGE)
    finally:
        tracemalloc.stop()
        gc.enable()


def _until(expiry: int, token: str) -> str:
    claims = {**jwt.decode(token, options={"verify_signature": False}), "exp": expiry}
    return jwt.encode(claims, SECRET, "HS256", headers={"kid": key_id(SECRET)})


@pytest.mark.parametrize("length", ["", "x", "-1", "²"])
def test_a_length_that_is_none_is_for_flask_to_judge(api: Api, broker: NatsServer, station: str, length: str) -> None:
    """No such length makes the lane read what nobody promised."""
    path = f"/stations/{station}/produce/single"
    assert api.post(path, b"whole", "text/plain").status_code == 200
    assert api.post(path, b"12345", "text/plain", environ_overrides={"CONTENT_LENGTH": length}).status_code == 400
    assert payloads(broker, station) == [b"whole"]
