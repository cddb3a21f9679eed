"""The short way past Flask: it answers as Flask does, and never where the application has anything of its own."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import flask
import pytest
import structlog
from flask import Flask, signals
from flask.sessions import SessionInterface
from werkzeug.test import EnvironBuilder

from proxy.app import create_app
from proxy.application import Application
from proxy.config import Config
from proxy.errors import AckTimeout, KeyReused
from proxy.extension import MAX_PROVED
from proxy.lane import Lane
from tests.servers import NatsServer

SINGLE, BATCH = "/stations/orders/produce/single", "/stations/orders/produce/batch"
JSON, TEXT, NDJSON = "application/json", "text/plain", "application/x-ndjson"


class Answered(NamedTuple):
    """An answer, and whether it came by the lane."""

    status: str
    headers: list[tuple[str, str]]
    body: bytes
    by_lane: bool


class Site:
    """An application on a real broker, and a token for it."""

    def __init__(self, url: str, **env: str) -> None:
        settings = {"BROKER_URL": url, "JWT_SECRET": "s" * 32, "AUTO_CREATE_STATIONS": "true", "MAX_BODY_BYTES": "5000"}
        self.app = create_app(Config.from_environ({**settings, "LOG_LEVEL": "error", **env}))
        self.token = ""

    def log_on(self) -> Site:
        """Gets a token."""
        answer = self.app.test_client().post("/auth/authenticate", json={"username": "root", "password": "memphis"})
        self.token = answer.json["jwt"]
        return self

    def post(
        self,
        path: str,
        body: bytes,
        content_type: str = TEXT,
        *,
        environ: Mapping[str, Any] | None = None,
        **headers: str,
    ) -> Answered:
        """Sends a request with the token; `environ` replaces parts of what the server hands over."""
        given = {"Authorization": f"Bearer {self.token}", "X-Request-Id": "r1"}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        builder = EnvironBuilder(path, method="POST", data=body, content_type=content_type, headers=given)
        environ = {**builder.get_environ(), **(environ or {})}
        begun: list[Any] = []
        chunks: Any = self.app.wsgi_app(environ, lambda *args: begun.extend(args))
        content = b"".join(chunks)
        getattr(chunks, "close", lambda: None)()
        return Answered(begun[0], begun[1], content, "stations.route" in environ)

    def second(self, path: str = SINGLE, body: bytes = b"x", content_type: str = TEXT, **headers: str) -> Answered:
        """Sends a request twice and returns the second answer: by the lane, if it may."""
        self.post(path, body, content_type, **headers)
        return self.post(path, body, content_type, **headers)


@pytest.fixture
def url(nats_server: Callable[..., NatsServer]) -> str:
    """The address of a broker."""
    return nats_server(users={"root": "memphis"}).url


@pytest.fixture
def make(url: str) -> Iterator[Callable[..., Site]]:
    """Makes sites; they are stopped afterwards."""
    sites, configured = [], structlog.is_configured()

    def make_site(**env: str) -> Site:
        sites.append(Site(url, **env))
        return sites[-1].log_on()

    yield make_site
    for site in sites:
        site.app.extensions["stations"].stop(1)
    if not configured:
        structlog.reset_defaults()  # other tests look at what is logged at other levels


@pytest.fixture
def site(make: Callable[..., Site]) -> Site:
    """A site with the lane."""
    return make()


@pytest.mark.parametrize(("path", "content_type", "body"), [(SINGLE, TEXT, b"x"), (BATCH, JSON, b"[1,2]")])
def test_the_second_request_takes_the_lane(site: Site, path: str, content_type: str, body: bytes) -> None:
    """Flask serves the first request for a path, the lane the ones like it."""
    assert not site.post(path, body, content_type).by_lane
    assert site.post(path, body, content_type).by_lane


REQUESTS: dict[str, tuple[str, bytes, str, dict[str, str]]] = {
    "text": (SINGLE, b"hello", TEXT, {}),
    "json": (SINGLE, b'{"a":1}', JSON, {}),
    "protobuf": (SINGLE, b"\x08\x01", "application/x-protobuf", {}),
    "batch": (BATCH, b'[{"a":1},2]', JSON, {}),
    "ndjson": (BATCH, b"1\n2\n", NDJSON, {}),
    "atomic batch": (BATCH, b"[1,2]", JSON, {"Prefer": "atomic"}),
    "upper case": (SINGLE.upper(), b"hello", TEXT, {}),
    "trailing slash": (SINGLE + "/", b"hello", TEXT, {}),
    "headers to store": (SINGLE, b"hello", TEXT, {"X-Shop": "7", "Cookie": "secret"}),
    "not JSON": (SINGLE, b"{nope", JSON, {}),
    "not UTF-8": (SINGLE, b'"\xff"', JSON, {}),
    "empty": (SINGLE, b"", TEXT, {}),
    "unknown type": (SINGLE, b"x", "image/png", {}),
    "too large": (SINGLE, b"x" * 5001, TEXT, {}),
    "compressed": (SINGLE, b"x", TEXT, {"Content-Encoding": "gzip"}),
    "bad key": (SINGLE, b"x", TEXT, {"Idempotency-Key": "a b"}),
    "empty batch": (BATCH, b"[]", JSON, {}),
    "wrong token": (SINGLE, b"x", TEXT, {"Authorization": "Bearer nope"}),
    "no token": (SINGLE, b"x", TEXT, {"Authorization": ""}),
    "another scheme": (SINGLE, b"x", TEXT, {"Authorization": "Basic cm9vdDptZW1waGlz"}),
    "absent station": ("/stations/-x/produce/single", b"x", TEXT, {}),
    "problem+json": (SINGLE, b"{nope", JSON, {"Accept": "application/problem+json"}),
    "with an origin": (SINGLE, b"x", TEXT, {"Origin": "https://shop.example"}),
}


def test_answers_are_equal_byte_for_byte(make: Callable[..., Site]) -> None:
    """Whatever is sent, status, headers and body are the same with the lane and without it."""
    sites = [make(), make(LANE="false")]
    for site in sites:
        site.post(SINGLE, b"x"), site.post(BATCH, b"[1]", JSON)
    for name, (path, body, content_type, headers) in REQUESTS.items():
        fast, slow = (site.second(path, body, content_type, **headers) for site in sites)
        assert fast[:3] == slow[:3], name
        assert (fast.by_lane, slow.by_lane) == (fast.status == "200 OK", False), name


def test_representations_are_equal(make: Callable[..., Site]) -> None:
    """The ack in the answer is the same but for its sequence."""
    for site in (make(), make(LANE="false")):
        site.post(SINGLE, b"x")
        answer = site.post(SINGLE, b"x", Prefer="return=representation", Idempotency_Key="k9")
        assert b'"station":"orders"' in answer.body
        assert answer.by_lane == (site.app.extensions["stations"].config.lane)


def test_a_failure_on_the_way_is_answered_by_flask_and_not_produced_again(site: Site) -> None:
    """The key belongs to another message: the lane has asked the broker, Flask gives the answer."""
    site.post(SINGLE, b"one", Idempotency_Key="k1")
    calls: list[int] = []
    single = site.app.extensions["stations"].producer.single
    site.app.extensions["stations"].producer.single = lambda *args: (calls.append(1), single(*args))[1]
    answer = site.post(SINGLE, b"two", Idempotency_Key="k1")
    assert answer.status == "422 UNPROCESSABLE ENTITY"
    assert len(calls) == 1
    assert not answer.by_lane


def test_a_token_that_expires_on_the_way_hides_no_outcome(site: Site) -> None:
    """What became of the message is told, although its sender's token has expired meanwhile."""
    extension = site.app.extensions["stations"]

    def late(*args: Any) -> Any:
        extension.tokens._remembered.clear()
        extension.tokens._keys["access"].clear()
        raise AckTimeout

    site.post(SINGLE, b"x")
    extension.producer.single = late
    answer = site.post(SINGLE, b"x")
    assert answer.status == "504 GATEWAY TIMEOUT"
    assert b'"stored":"unknown"' in answer.body


@pytest.mark.parametrize("lane", ["true", "false"])
def test_a_body_that_ends_early_is_not_stored(make: Callable[..., Site], lane: str) -> None:
    """A server that hands over what has come of a body when its sender goes away makes no message of it."""
    site = make(LANE=lane)
    site.post(SINGLE, b"x")
    cut = {"wsgi.input": io.BytesIO(b"half"), "wsgi.input_terminated": True, "CONTENT_LENGTH": "100"}
    answer = site.post(SINGLE, b"", environ=cut)
    assert answer.status == "400 BAD REQUEST"
    assert b"Content-Length" in answer.body


def test_an_error_handler_of_the_application_sees_failures_of_the_lane(site: Site) -> None:
    """A handler of a team's own answers, although the lane met the error."""
    site.app._got_first_request = False
    site.app.register_error_handler(KeyReused, lambda error: ("ours", 422))
    site.post(SINGLE, b"one", Idempotency_Key="k2")
    assert site.post(SINGLE, b"two", Idempotency_Key="k2").body == b"ours"


def test_an_error_handler_may_read_the_body_that_the_lane_has_read(site: Site) -> None:
    """Flask gets it rewound."""
    site.app._got_first_request = False
    site.app.register_error_handler(KeyReused, lambda error: (flask.request.get_data(), 422))
    site.post(SINGLE, b"one", Idempotency_Key="k3")
    assert site.post(SINGLE, b"two", Idempotency_Key="k3").body == b"two"


def _hook(name: str) -> Callable[[Site, list[int]], object]:
    def install(site: Site, seen: list[int]) -> None:
        def hook(*args: Any) -> Any:
            seen.append(1)
            return args[0] if name == "after_request" else None

        getattr(site.app, name)(hook)

    return install


def _blueprint_hook(site: Site, seen: list[int]) -> None:
    site.app.before_request_funcs.setdefault("stations", []).append(lambda: seen.append(1))


def _view(site: Site, seen: list[int]) -> None:
    view = site.app.view_functions["stations.produce_single"]
    site.app.view_functions["stations.produce_single"] = lambda **args: (seen.append(1), view(**args))[1]


def _preprocessor(site: Site, seen: list[int]) -> None:
    site.app.url_value_preprocessor(lambda endpoint, values: seen.append(1))


def _request_class(site: Site, seen: list[int]) -> None:
    class Request(flask.Request):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            seen.append(1)
            super().__init__(*args, **kwargs)

    site.app.request_class = Request


def _response_class(site: Site, seen: list[int]) -> None:
    class Response(flask.Response):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            seen.append(1)
            super().__init__(*args, **kwargs)

    site.app.response_class = Response


def _sessions(site: Site, seen: list[int]) -> None:
    class Sessions(SessionInterface):
        def open_session(self, app: Flask, request: flask.Request) -> None:
            seen.append(1)

    site.app.session_interface = Sessions()


EXTENSIONS: dict[str, Callable[[Site, list[int]], object]] = {
    **{name: _hook(name) for name in ("before_request", "after_request", "teardown_request", "teardown_appcontext")},
    "hook of the blueprint": _blueprint_hook,
    "replaced view": _view,
    "url_value_preprocessor": _preprocessor,
    "request class": _request_class,
    "session interface": _sessions,
}


@pytest.mark.parametrize("extend", EXTENSIONS.values(), ids=list(EXTENSIONS))
def test_an_extension_is_never_bypassed(make: Callable[..., Site], extend: Callable[[Site, list[int]], object]) -> None:
    """Added before the first request, it sees every request."""
    site, seen = make(), []
    site.app._got_first_request = False
    extend(site, seen)
    for count in (1, 2, 3):
        answer = site.post(SINGLE, b"x")
        assert answer.status == "200 OK"
        assert not answer.by_lane
        assert len(seen) >= count


def test_a_response_class_is_never_bypassed(site: Site) -> None:
    """A class of the team's own makes the lane step aside, whatever makes its answers."""
    _response_class(site, [])
    assert not site.second().by_lane


SIGNALS = (
    "request_started",
    "request_finished",
    "request_tearing_down",
    "appcontext_pushed",
    "appcontext_tearing_down",
    "appcontext_popped",
)


@pytest.mark.parametrize("name", SIGNALS)
def test_a_receiver_of_signals_is_never_bypassed(site: Site, name: str) -> None:
    """Connected while requests are served, it sees all that follow; when it goes, the lane is back."""
    seen: list[int] = []
    assert site.second().by_lane

    def receive(*args: Any, **kwargs: Any) -> None:
        seen.append(1)

    with getattr(signals, name).connected_to(receive, site.app):
        assert not site.second().by_lane
        assert len(seen) == 2
    assert site.second().by_lane


@pytest.mark.parametrize("base", [Flask, Application])
def test_a_subclass_of_flask_is_never_bypassed(site: Site, base: type[Flask]) -> None:
    """An application class of the team's own may do anything."""

    class Ours(base):  # type: ignore[misc,valid-type]
        pass

    extension = site.app.extensions["stations"]
    site.post(SINGLE, b"x")
    ours = Ours("ours")
    ours.view_functions = site.app.view_functions
    lane = Lane(lambda environ, start_response: [b"flask"], ours, extension)
    builder = EnvironBuilder(SINGLE, method="POST", data=b"x", headers={"Authorization": f"Bearer {site.token}"})
    assert lane(builder.get_environ(), lambda *args: None) == [b"flask"]


def test_a_route_that_shadows_ours_is_never_bypassed(make: Callable[..., Site]) -> None:
    """A more specific route of the team's own gets its requests, the lane serves the other stations."""
    site = make()
    site.app._got_first_request = False
    site.app.add_url_rule("/stations/special/produce/single", "special", lambda: "ours", methods=["POST"])
    site.post(SINGLE, b"x")
    assert site.second("/stations/special/produce/single").body == b"ours"
    assert site.second().by_lane


def test_middleware_around_the_application_stays_outermost(site: Site) -> None:
    """What a team wraps around `wsgi_app` later sees every request."""
    inner, seen = site.app.wsgi_app, []
    site.app.wsgi_app = lambda *args: (seen.append(1), inner(*args))[1]  # type: ignore[method-assign]
    site.second()
    assert len(seen) == 2


def test_the_lane_takes_no_expired_token(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that was verified once is for Flask to judge when its time is over."""
    assert site.second().by_lane
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600)
    assert not site.post(SINGLE, b"x").by_lane


def test_the_memory_of_paths_is_bounded(site: Site) -> None:
    """Ten thousand stations fill it; then it begins anew."""
    site.post(SINGLE, b"x")
    extension = site.app.extensions["stations"]
    proved = extension.proved[SINGLE]
    for n in range(MAX_PROVED + 10):
        extension.prove(f"/{n}", proved)
    assert len(extension.proved) <= MAX_PROVED


def test_routes_that_do_not_exist_are_not_proved(site: Site) -> None:
    """Only what Flask has served well is remembered."""
    site.second("/stations/orders/produce/other")
    assert site.app.extensions["stations"].proved == {}
