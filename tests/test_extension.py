"""`current_app.extensions["stations"]` in a route of a team's own."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask, current_app, request
from flask_jwt_extended import get_jwt, get_jwt_identity, jwt_required

from proxy.credentials import Credentials
from proxy.errors import GatewayError, OpenBroker, Stopping
from proxy.extension import Stations
from tests.application import Api, payloads, running, settings, stored
from tests.servers import NatsServer, eventually, free_port
from tests.uncollected import Payload, no_payloads, uncollected


@pytest.fixture(scope="module")
def app(broker: NatsServer) -> Iterator[Flask]:
    """An application with a route that produces what its body asks for."""
    with running(settings(broker.url)) as app:
        app.extensions["stations"].start()

        @app.post("/team/<path:name>")
        def send(name: str) -> Any:
            asked = request.get_json()
            message = asked.pop("message")
            asked["headers"] = tuple(map(tuple, asked.get("headers", ())))
            if asked.pop("binary", False):
                message = bytes(message)
            ack = current_app.extensions["stations"].produce(name, message, **asked)
            return {"sequence": ack.sequence, "duplicate": ack.duplicate}

        @app.get("/team/who")
        @jwt_required()
        def who() -> Any:
            return {"claims": get_jwt(), "identity": get_jwt_identity()}

        yield app


def _send(api: Api, station: str, message: Any = "x", **asked: Any) -> Any:
    return api.post(f"/team/{station}", {"message": message, **asked})


def test_a_route_produces_as_its_caller(api: Api, broker: NatsServer, station: str) -> None:
    """Stored as given; the ack tells where."""
    answer = _send(api, station, "é")
    assert answer.get_json() == {"sequence": 1, "duplicate": False}
    (message,) = stored(broker, station)
    assert message.payload == "é".encode()
    assert [name for name, _ in message.headers] == [b"Nats-Msg-Id"]


def test_bytes_are_stored_as_they_are(api: Api, broker: NatsServer, station: str) -> None:
    """Any of them."""
    assert _send(api, station, list(range(256)), binary=True).status_code == 200
    assert payloads(broker, station) == [bytes(range(256))]


def test_headers_are_stored_as_given(api: Api, broker: NatsServer, station: str) -> None:
    """In the order and with the names that the team chose."""
    headers = [["content-type", "text/plain"], ["x-one", "é"], ["x-one", "2"]]
    assert _send(api, station, headers=headers).status_code == 200
    assert stored(broker, station)[0].headers[1:] == [(n.encode(), v.encode()) for n, v in headers]


def test_a_key_is_recognised(api: Api, broker: NatsServer, station: str) -> None:
    """As an `Idempotency-Key` of a sender is, and it is the same."""
    answers = [_send(api, station, key="k").get_json() for _ in range(2)]
    assert answers == [{"sequence": 1, "duplicate": False}, {"sequence": 1, "duplicate": True}]
    assert api.single(station, b"other", None, Idempotency_Key="k").status_code == 422
    assert payloads(broker, station) == [b"x"]


def test_the_callers_own_permissions_apply(app: Flask, station: str, nothing_stored: None) -> None:
    """403 becomes the answer of the route."""
    answer = _send(Api(app, "limited", "Passw0rd!"), station)
    assert (answer.status_code, answer.get_json()["stored"]) == (403, "no")


@pytest.mark.parametrize("header", [None, "Bearer x.y.z", "Basic x"])
def test_without_a_token_nothing_is_produced(
    app: Flask, station: str, nothing_stored: None, header: str | None
) -> None:
    """401 becomes the answer, although the route asks for nothing itself."""
    answer = Api(app).post(f"/team/{station}", {"message": "x"}, headers={"Authorization": header})
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"key": "a b"}, "visible ASCII"),
        ({"key": "k\r\nNats-Rollup:all"}, "visible ASCII"),
        ({"key": "x" * 201}, "1 to 200"),
        ({"headers": [["x-one", "a\r\nnats-rollup: all"]]}, "x-one"),
        ({"headers": [["x-one\r\nnats-rollup", "all"]]}, "no name of a header"),
        ({"headers": [["", "v"]]}, "no name of a header"),
        ({"headers": [["x one", "v"]]}, "no name of a header"),
        ({"headers": [["x:one", "v"]]}, "no name of a header"),
        ({"message": "\ud800"}, "surrogate"),
    ],
)
def test_what_a_team_hands_on_from_outside_is_checked(
    api: Api, station: str, nothing_stored: None, asked: dict[str, Any], words: str
) -> None:
    """400 says what is wrong; a line break in a key or header is not another header."""
    answer = _send(api, station, **asked)
    assert answer.status_code == 400
    assert words in answer.get_json()["error"]


def test_a_bad_name_is_refused(api: Api, nothing_stored: None) -> None:
    """As in the routes of ours."""
    assert _send(api, "a*").status_code == 400


def test_claims_and_identity_are_those_of_the_token(app: Flask) -> None:
    """flask-jwt-extended works as its documents say, with a scheme in any case, or a token in the query."""
    api = Api(app, "app1", "Passw0rd!")
    answers = [
        api.request("GET", "/team/who", headers={"Authorization": f"Bearer {api.token}"}),
        api.request("GET", "/team/who", headers={"Authorization": f"bearer {api.token}"}),
        api.request("GET", f"/team/who?authorization={api.token}"),
    ]
    for answer in answers:
        body = json.loads(answer.data)
        assert (body["identity"], body["claims"]["sub"], body["claims"]["type"]) == ("app1", "app1", "access")


def test_a_route_may_be_for_refresh_tokens(make_app: Callable[..., Flask]) -> None:
    """`@jwt_required(refresh=True)` takes those, and those alone."""
    app = make_app()
    app.add_url_rule("/team/refresh", view_func=jwt_required(refresh=True)(lambda: "x"), endpoint="refresh_only")
    issued = app.extensions["stations"].tokens.issue(Credentials("root", "memphis"))
    for token, status in ((issued.refresh, 200), (issued.access, 401)):
        answer = Api(app).request("GET", "/team/refresh", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == status


# ---- start and stop ------------------------------------------------------------------------------------------------


def test_starting_and_stopping_twice_is_harmless(broker: NatsServer) -> None:
    """Servers may call more than once."""
    stations = Stations(settings(broker.url))
    for step in (stations.start, stations.start, stations.stop, stations.stop):
        step()


def test_a_stopped_application_says_so(broker: NatsServer, make_app: Callable[..., Flask], station: str) -> None:
    """503: another worker takes the request."""
    app = make_app(broker.url)
    assert Api(app).single(station).status_code == 200
    app.extensions["stations"].stop()
    answer = Api(app).single(station)
    assert (answer.status_code, answer.get_json()["error"]) == (503, Stopping.default)
    assert (answer.get_json()["stored"], answer.headers["Retry-After"]) == ("no", "1")


def test_it_starts_although_the_broker_is_away() -> None:
    """Readiness tells; producing waits for the broker."""
    stations = Stations(settings())
    try:
        stations.start()
        with pytest.raises(GatewayError):
            stations.producer.check()
    finally:
        stations.stop()


def test_it_does_not_start_at_an_open_broker(nats_server: Callable[..., NatsServer]) -> None:
    """Its tokens would prove nothing, unless that is wanted."""
    url = nats_server().url
    with pytest.raises(OpenBroker):
        Stations(settings(url)).start()
    willing = Stations(settings(url, ALLOW_OPEN_BROKER="true"))
    willing.start()
    willing.stop()


@pytest.mark.parametrize("end", ["absent", "away"])
def test_a_route_that_lives_with_a_failure_leaves_no_payload(broker: NatsServer, end: str) -> None:
    """They may have megabytes, of which the garbage collector, which counts objects, knows nothing."""
    url = broker.url if end == "absent" else f"nats://127.0.0.1:{free_port()}"
    with running(settings(url, AUTO_CREATE_STATIONS="false", PRODUCE_TIMEOUT_SECONDS="1")) as app:
        stations = app.extensions["stations"]
        stations.start()
        caller = {"HTTP_AUTHORIZATION": f"Bearer {stations.tokens.issue(Credentials('root', 'memphis')).access}"}
        with uncollected():
            with app.test_request_context("/", environ_overrides=caller), contextlib.suppress(GatewayError):
                stations.produce("nowhere", Payload(b"x"))
            eventually(no_payloads)
