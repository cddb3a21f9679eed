"""What happens to every request and answer around the application: ids, clients, tokens in the query, paths."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote_plus

import pytest
from flask import Flask
from structlog.testing import capture_logs
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Response

from proxy.edge import Edge
from proxy.errors import BrokerAway
from tests.application import Api, settings, through

ECHOED = ("PATH_INFO", "QUERY_STRING", "REMOTE_ADDR", "HTTP_AUTHORIZATION", "RAW_URI", "REQUEST_URI", "wsgi.url_scheme")


def _echo(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """An application that answers with what it was given."""
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({name: environ.get(name) for name in ECHOED}).encode()]


def _send(
    app: Callable[..., Any] = _echo, path: str = "/", env: dict[str, str] | None = None, **options: Any
) -> Response:
    overrides = {"REMOTE_ADDR": "127.0.0.1", **options.pop("environ_overrides", {})}
    environ = EnvironBuilder(path, **options).get_environ() | overrides
    return through(Edge(app, settings(**(env or {}))), environ)


def _seen(**options: Any) -> dict[str, Any]:
    """What the application is given."""
    seen: dict[str, Any] = _send(**options).get_json()
    return seen


# ---- request ids ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["a", "8e03978e-40d5-43e8-bc93-6894a57f9324", "A.b:c/d+e=f@g_h-1", "x" * 128])
def test_a_harmless_request_id_is_echoed(given: str) -> None:
    """So that a sender's own id finds its request in our log."""
    assert _send(headers={"X-Request-Id": given}).headers["X-Request-Id"] == given


@pytest.mark.parametrize("given", ["", "a b", "<script>", 'a"b', "a,b", "é", "x" * 129, "a;b", "{}", "a\tb", "a%0ab"])
def test_another_request_id_is_replaced(given: str) -> None:
    """What could do harm in a log or a page is not repeated."""
    made = _send(headers={"X-Request-Id": given}).headers["X-Request-Id"]
    assert made != given
    assert 0 < len(made) <= 128


def test_request_ids_of_ours_are_all_different() -> None:
    """Within one application and among several."""
    edges = [Edge(_echo, settings()) for _ in range(3)]
    environ = EnvironBuilder("/").get_environ()
    answers = [through(edge, dict(environ)) for edge in edges for _ in range(50)]
    assert len({answer.headers["X-Request-Id"] for answer in answers}) == 150


def test_errors_have_the_id_in_body_and_header(make_app: Callable[..., Flask]) -> None:
    """The same one, given or made."""
    api = Api(make_app())
    for headers in ({"X-Request-Id": "mine"}, {}):
        answer = api.request("GET", "/nowhere", headers=headers)
        assert answer.get_json()["request_id"] == answer.headers["X-Request-Id"]


# ---- trusted proxies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trusted", "peer", "forwarded", "client"),
    [
        ("", "192.0.2.1", "198.51.100.7", "192.0.2.1"),
        ("192.0.2.0/24", "192.0.2.1", "198.51.100.7", "198.51.100.7"),
        ("192.0.2.0/24", "203.0.113.9", "198.51.100.7", "203.0.113.9"),
        ("192.0.2.0/24", "192.0.2.1", "1.1.1.1, 198.51.100.7", "198.51.100.7"),
        ("192.0.2.0/24", "192.0.2.1", "1.1.1.1, 198.51.100.7, 192.0.2.2", "198.51.100.7"),
        ("192.0.2.0/24", "192.0.2.1", "", "192.0.2.1"),
        ("192.0.2.0/24", "192.0.2.1", "unknown", "192.0.2.1"),
        ("192.0.2.0/24", "192.0.2.1", "198.51.100.7, garbage", "192.0.2.1"),
        ("192.0.2.0/24", "192.0.2.1", "x, 198.51.100.7", "198.51.100.7"),
        ("*", "192.0.2.1", "fe80::1%a-zone-of-any-length, 198.51.100.7", "198.51.100.7"),
        ("192.0.2.0/24", "192.0.2.1", "192.0.2.3,192.0.2.2", "192.0.2.3"),
        ("*", "203.0.113.9", "1.1.1.1, 198.51.100.7", "1.1.1.1"),
        ("2001:db8::/32", "2001:db8::1", "2001:db8:1::2, 198.51.100.7", "198.51.100.7"),
        ("10.0.0.0/8", "::ffff:10.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("10.0.0.0/8", "", "198.51.100.7", ""),
    ],
)
def test_the_client_is_the_nearest_one_behind_trusted_proxies(
    trusted: str, peer: str, forwarded: str, client: str
) -> None:
    """What a client says of itself is not believed, only what a trusted proxy has added at the end."""
    seen = _seen(
        env={"TRUSTED_PROXIES": trusted},
        headers={"X-Forwarded-For": forwarded},
        environ_overrides={"REMOTE_ADDR": peer},
    )
    assert seen["REMOTE_ADDR"] == client


@pytest.mark.parametrize(
    ("trusted", "header", "scheme"),
    [
        ("", "https", "http"),
        ("127.0.0.1", "https", "https"),
        ("127.0.0.1", "HTTPS", "https"),
        ("127.0.0.1", "http, https", "https"),
        ("127.0.0.1", "https, http", "http"),
        ("127.0.0.1", "gopher", "http"),
        ("127.0.0.1", "", "http"),
        ("10.0.0.0/8", "https", "http"),
    ],
)
def test_the_scheme_is_that_of_the_trusted_proxy(trusted: str, header: str, scheme: str) -> None:
    """It decides whether cookies are Secure."""
    seen = _seen(env={"TRUSTED_PROXIES": trusted}, headers={"X-Forwarded-Proto": header})
    assert seen["wsgi.url_scheme"] == scheme


# ---- tokens in the query -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "rest", "header"),
    [
        ("authorization=T", "", "Bearer T"),
        ("a=1&authorization=T&b=2", "a=1&b=2", "Bearer T"),
        ("authorization=Bearer%20T", "", "Bearer T"),
        ("authorization=bearer+T", "", "Bearer T"),
        ("Authorization=T", "", "Bearer T"),
        ("AUTHORIZATION=T", "", "Bearer T"),
        ("%61uthorization=T", "", "Bearer T"),
        ("authorization=T&authorization=U", "", "Bearer T"),
        ("authorization=", "", None),
        ("authorization", "", None),
        ("xauthorization=T", "xauthorization=T", None),
        ("a=authorization", "a=authorization", None),
        ("a=%20&b", "a=%20&b", None),
    ],
)
def test_a_token_leaves_the_query_and_becomes_the_header(query: str, rest: str, header: str | None) -> None:
    """However it is written, nobody behind finds it in the query, or in what servers keep of the request line."""
    raw = {"QUERY_STRING": query, "RAW_URI": f"/x?{query}", "REQUEST_URI": f"/x?{query}"}
    seen = _seen(path="/x", environ_overrides=raw)
    assert (seen["QUERY_STRING"], seen["HTTP_AUTHORIZATION"]) == (rest, header)
    assert seen["RAW_URI"] == seen["REQUEST_URI"] == ("/x" + (f"?{rest}" if rest else ""))


def test_a_header_goes_before_the_query() -> None:
    """A token in the query is taken out even when it is not used."""
    seen = _seen(path="/x?authorization=T", headers={"Authorization": "Bearer H"})
    assert (seen["QUERY_STRING"], seen["HTTP_AUTHORIZATION"]) == ("", "Bearer H")


# ---- paths ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("/Stations/Orders/Produce/Single/", "/stations/orders/produce/single"),
        ("/AUTH/refreshToken", "/auth/refreshtoken"),
        ("/Monitoring/Status//", "/monitoring/status"),
        ("/stations", "/stations"),
        ("/Team/Report/", "/Team/Report/"),
        ("/authors/Ada", "/authors/Ada"),
        ("/", "/"),
    ],
)
def test_our_own_paths_have_no_case(path: str, seen: str) -> None:
    """Nor do slashes at the end count; a team's own routes are left as they are."""
    assert _seen(path=path)["PATH_INFO"] == seen


# ---- failures ------------------------------------------------------------------------------------------------------


def _raising(error: Exception) -> Callable[..., Any]:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        raise error

    return app


def test_what_an_application_raises_becomes_an_answer() -> None:
    """A wrapper of a team's own may fail too: the same body as ever, without detail; the log has it."""
    with capture_logs() as lines:
        answer = _send(_raising(RuntimeError("the inner secret")), headers={"X-Request-Id": "id-1"})
    assert answer.status == "500 Internal Server Error"
    assert "secret" not in answer.get_data(as_text=True)
    assert answer.get_json()["request_id"] == answer.headers["X-Request-Id"] == "id-1"
    (line,) = [line for line in lines if line["event"] == "unexpected"]
    assert (line["request_id"], str(line["exc_info"])) == ("id-1", "the inner secret")


def test_errors_of_ours_keep_their_status() -> None:
    """What a wrapper raises out of our hierarchy is answered as it says."""
    answer = _send(_raising(BrokerAway()))
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")


def test_every_answer_says_that_its_type_is_meant() -> None:
    """No browser guesses a type of its own."""
    assert _send().headers["X-Content-Type-Options"] == "nosniff"
    assert _send(_raising(RuntimeError())).headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/monitoring/status", 200),
        ("GET", "/nowhere", 404),
        ("POST", "/stations/orders/produce/single?authorization=x", 401),
        ("POST", "/auth/authenticate", 415),
    ],
)
def test_what_a_browser_may_show_is_no_page(
    make_app: Callable[..., Flask], method: str, path: str, status: int
) -> None:
    """It runs and loads nothing, is framed nowhere, kept by no cache, and its address told to nobody."""
    answer = Api(make_app()).request(method, path)
    assert answer.status_code == status
    assert {name: answer.headers.get(name) for name in SAFE} == SAFE


def test_answers_of_a_team_are_its_own(make_app: Callable[..., Flask]) -> None:
    """A page that a team adds may load what it likes; that its type is meant holds for all."""
    app = make_app()
    app.add_url_rule("/page", view_func=lambda: "<script src=x></script>")
    answer = Api(app).request("GET", "/page")
    assert answer.status_code == 200
    assert [name for name in SAFE if name in answer.headers] == ["X-Content-Type-Options"]


SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def test_the_body_of_an_answer_is_closed() -> None:
    """Also when the client goes before its end."""
    closed = []

    class Body:
        def __iter__(self) -> Any:
            return iter([b"x"])

        def close(self) -> None:
            closed.append(True)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [])
        return Body()

    answer: Any = Edge(app, settings())(EnvironBuilder("/").get_environ(), lambda *_: None)
    answer.close()
    assert closed == [True]


def test_a_query_of_many_names_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anyone may send one, without a token: each name on its own would cost more than all else that is done."""
    decoded: list[str] = []
    monkeypatch.setattr("proxy.edge.unquote_plus", lambda text: (decoded.append(text), unquote_plus(text))[1])
    query = "&%61=1" * 1000
    environ = {"QUERY_STRING": query, "PATH_INFO": "/"}
    Edge(lambda environ, start: [], settings()).prepare(environ)
    assert environ["QUERY_STRING"] == query
    assert len(decoded) == 1
