"""`POST /auth/authenticate`: what it takes, what it answers, and whom it refuses."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import pytest
from flask import Flask
from werkzeug.wrappers import Response

from tests.application import JSON, Api, unreadable
from tests.brokers.tools import MONITOR, sessions
from tests.servers import NatsServer, eventually

PATH = "/auth/authenticate"
FORM = "application/x-www-form-urlencoded"
GOOD = {"username": "root", "connection_token": "memphis"}
CAPPED = 43_200 * 60_000


def _caller(api: Api, answer: Response) -> dict[str, Any]:
    """The user and account that the answer's access token speaks for."""
    assert answer.status_code == 200, answer.data
    headers = {"Authorization": f"Bearer {answer.get_json()['jwt']}"}
    caller: dict[str, Any] = api.request("GET", "/team/caller", headers=headers).get_json()
    return caller


@pytest.fixture
def lonely(make_app: Callable[..., Flask]) -> Api:
    """An application whose broker is away: whoever asks it anything gets 503."""
    return Api(make_app())


# ---- what it answers -----------------------------------------------------------------------------------------------


def test_the_answer_is_the_one_that_clients_know(api: Api) -> None:
    """Two tokens and their lifetimes in milliseconds, written as ever, not to be cached."""
    answer = api.authenticate(GOOD)
    body = answer.get_json()
    assert list(body) == ["expires_in", "jwt", "jwt_refresh_token", "refresh_token_expires_in"]
    assert (body["expires_in"], body["refresh_token_expires_in"]) == (900_000, 18_000_000)
    assert b" " not in answer.data
    assert (answer.headers["Content-Type"], answer.headers["Cache-Control"]) == (JSON, "no-store")


def test_the_tokens_work(api: Api, station: str) -> None:
    """The access token produces, the refresh token refreshes."""
    body = api.authenticate(GOOD).get_json()
    assert api.single(station, Authorization=f"Bearer {body['jwt']}").status_code == 200
    refreshed = api.request("POST", "/auth/refreshToken", json={"jwt_refresh_token": body["jwt_refresh_token"]})
    assert refreshed.status_code == 200


def _cookie(answer: Response) -> dict[str, str]:
    """The attributes of the one cookie that the answer sets; its name and value too."""
    (cookie,) = answer.headers.getlist("Set-Cookie")
    first, *rest = [part.strip() for part in cookie.split(";")]
    name, _, value = first.partition("=")
    return {"name": name, "value": value} | {key: value for key, _, value in (part.partition("=") for part in rest)}


def test_the_refresh_token_is_also_a_cookie(api: Api) -> None:
    """For `/auth` alone, unreadable by scripts, for this site alone, as long as the token lives."""
    answer = api.authenticate(GOOD)
    cookie = _cookie(answer)
    cookie.pop("Expires", None)
    assert cookie == {
        "name": "jwt-refresh-token",
        "value": answer.get_json()["jwt_refresh_token"],
        "Max-Age": "18000",
        "HttpOnly": "",
        "SameSite": "Strict",
        "Path": "/auth",
    }


@pytest.mark.parametrize(
    ("trusted", "options", "secure"),
    [
        ("", {"base_url": "https://localhost"}, True),
        ("", {"headers": {"X-Forwarded-Proto": "https"}}, False),
        ("127.0.0.0/8", {"headers": {"X-Forwarded-Proto": "https"}}, True),
        ("127.0.0.0/8", {"headers": {"X-Forwarded-Proto": "http"}, "base_url": "https://localhost"}, False),
        ("10.0.0.0/8", {"headers": {"X-Forwarded-Proto": "https"}}, False),
    ],
)
def test_the_cookie_is_secure_behind_tls_alone(
    broker: NatsServer, make_app: Callable[..., Flask], trusted: str, options: dict[str, Any], secure: bool
) -> None:
    """TLS that ends here, or at a proxy that is trusted to say so."""
    answer = Api(make_app(broker.url, TRUSTED_PROXIES=trusted)).authenticate(GOOD, **options)
    assert ("Secure" in _cookie(answer)) == secure


def test_configured_lifetimes_count(broker: NatsServer, make_app: Callable[..., Flask]) -> None:
    """The settings say how long tokens live where nobody asks."""
    env = {"JWT_EXPIRES_IN_MINUTES": "2", "REFRESH_JWT_EXPIRES_IN_MINUTES": "3", "MAX_TOKEN_EXPIRY_IN_MINUTES": "4"}
    api = Api(make_app(broker.url, **env))
    body = api.authenticate(GOOD).get_json()
    assert (body["expires_in"], body["refresh_token_expires_in"]) == (120_000, 180_000)
    assert api.authenticate({**GOOD, "token_expiry_in_minutes": 5}).get_json()["expires_in"] == 240_000


@pytest.mark.parametrize(
    ("asked", "milliseconds"),
    [(60, 3_600_000), (0, None), (-5, None), (-(2**63), None), (10**12, CAPPED), (2**53, CAPPED), (2**63 - 1, CAPPED)],
)
@pytest.mark.parametrize(
    ("field", "answer", "default"),
    [
        ("token_expiry_in_minutes", "expires_in", 900_000),
        ("refresh_token_expiry_in_minutes", "refresh_token_expires_in", 18_000_000),
    ],
)
def test_lifetimes_may_be_asked_for(
    api: Api, field: str, answer: str, default: int, asked: int, milliseconds: int | None
) -> None:
    """Each on its own; 0 and below mean the default; long ones are capped, as JSON and as a form."""
    expected = milliseconds or default
    assert api.authenticate({**GOOD, field: asked}).get_json()[answer] == expected
    form = api.request("POST", PATH, data={**GOOD, field: str(asked)})
    assert form.get_json()[answer] == expected


# ---- what it takes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "query", "caller"),
    [
        (GOOD, "", ("root", "")),
        ({"username": "root", "password": "memphis"}, "", ("root", "")),
        ({**GOOD, "password": "wrong"}, "", ("root", "")),
        ({**GOOD, "password": ""}, "", ("root", "")),
        ({"username": "root", "password": "memphis", "connection_token": ""}, "", ("root", "")),
        ({"username": "app1", "password": "Passw0rd!"}, "", ("app1", "")),
        ({**GOOD, "account_id": 1}, "", ("root", "1")),
        ({**GOOD, "account_id": 0}, "", ("root", "")),
        (GOOD, "?accountId=7", ("root", "7")),
        ({**GOOD, "username": "root$12"}, "", ("root$12", "12")),
        ({**GOOD, "username": "root$12", "account_id": 3}, "", ("root$12", "3")),
        ({**GOOD, "zzz": 1, "another": {"a": []}}, "", ("root", "")),
        ({**GOOD, "zzz": 10**18}, "", ("root", "")),
    ],
)
def test_credentials_are_taken_in_each_form(
    api: Api, fields: dict[str, Any], query: str, caller: tuple[str, str]
) -> None:
    """Connection token or password, an account in any of three places, and fields that mean nothing here."""
    answer = api.authenticate(fields, PATH + query)
    assert _caller(api, answer) == {"user": caller[0], "account": caller[1]}


@pytest.mark.parametrize("content_type", [FORM, "multipart/form-data", FORM + "; charset=utf-8"])
def test_credentials_are_taken_from_a_form(api: Api, content_type: str) -> None:
    """As a web page sends them; numbers are text there."""
    data = {**GOOD, "account_id": "7", "token_expiry_in_minutes": "60"}
    if content_type.startswith(FORM):
        body = "&".join(f"{name}={value}" for name, value in data.items())
        answer = api.request("POST", PATH, data=body, content_type=content_type)
    else:
        answer = api.request("POST", PATH, data=data, content_type=content_type)
    assert _caller(api, answer) == {"user": "root", "account": "7"}
    assert answer.get_json()["expires_in"] == 3_600_000


@pytest.mark.parametrize(
    "content_type", [JSON, "application/json; charset=utf-8", "APPLICATION/JSON", "application/x+json"]
)
def test_json_is_taken_by_any_of_its_names(api: Api, content_type: str) -> None:
    """With parameters, in any letter case, or as a type built on JSON."""
    assert api.request("POST", PATH, data=json.dumps(GOOD), content_type=content_type).status_code == 200


@pytest.mark.parametrize("path", ["/AUTH/Authenticate", "/auth/authenticate/", "/Auth/AUTHENTICATE//"])
def test_the_path_is_taken_in_any_case_and_with_a_slash(api: Api, path: str) -> None:
    """As old clients may write it."""
    assert api.authenticate(GOOD, path).status_code == 200


def test_a_number_of_any_length_in_a_field_that_means_nothing_is_ignored(api: Api) -> None:
    """JSON has no limit on digits."""
    body = json.dumps(GOOD)[:-1].encode() + b', "zzz": ' + b"9" * 20_000 + b"}"
    assert api.request("POST", PATH, data=body, content_type=JSON).status_code == 200


# ---- what it refuses without asking the broker ---------------------------------------------------------------------

WRONG: dict[str, list[Any]] = {
    "username": [None, 7, 10**30, 1.5, True, [], {}, "", "x" * 1025],
    "connection_token": [None, 7, True, [], {}, "", "x" * 1025],
    "password": [None, 7, True, [], {}, "x" * 1025],
    "account_id": [None, "1", 1.5, True, [], {}, -1, 10**10],
    "token_expiry_in_minutes": [None, "60", 1.5, True, [], {}, 10**20],
    "refresh_token_expiry_in_minutes": [None, "60", 1.5, True, [], {}, -(10**20)],
}


def _assert_bad(answer: Response, *words: str) -> None:
    body = answer.get_json()
    assert answer.status_code == 400
    assert body["message"] == body["error"]
    assert (body["stored"], body["repeat"], body["success"]) == ("no", "never", False)
    assert all(word in body["error"] for word in words), body["error"]


@pytest.mark.parametrize(("field", "value"), [(field, value) for field in WRONG for value in WRONG[field]])
def test_a_wrong_field_is_named(lonely: Api, field: str, value: Any) -> None:
    """Null and other types are refused with the field's name, before anyone asks the broker."""
    _assert_bad(lonely.authenticate({**GOOD, field: value}), field)


@pytest.mark.parametrize("field", ["username", "connection_token"])
def test_a_missing_field_is_named(lonely: Api, field: str) -> None:
    """A user, and one of token and password, must be there, in JSON and in a form."""
    fields = {name: value for name, value in GOOD.items() if name != field}
    _assert_bad(lonely.authenticate(fields), field)
    _assert_bad(lonely.request("POST", PATH, data=fields or {"x": "y"}), field)


def test_all_wrong_fields_are_named_at_once(lonely: Api) -> None:
    """One answer is enough to mend the request."""
    _assert_bad(lonely.authenticate({**GOOD, "username": 7, "account_id": "x"}), "username", "account_id")


def test_a_wrong_account_in_the_query_is_named(lonely: Api) -> None:
    """`?accountId=` must be a number."""
    _assert_bad(lonely.authenticate(GOOD, PATH + "?accountId=x"), "account_id")


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "JSON"),
        (b"{nope", "JSON"),
        (b"[]", "object"),
        (b'"root"', "object"),
        (b"7", "object"),
        (b"null", "object"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b'{"username": "\xff"}', "UTF-8"),
        (b'{"username": NaN}', "JSON"),
        (b'{"username": "\\ud800"}', "JSON"),
        (b'{"zzz": ' + b"[" * 128 + b"]" * 128 + b"}", "nested"),
        (b'{"username": ' + b"[" * 60_000, "nested"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(lonely: Api, body: bytes, word: str) -> None:
    """The answer says what is wrong with it."""
    _assert_bad(lonely.request("POST", PATH, data=body, content_type=JSON), word)


@pytest.mark.parametrize("path", [PATH, "/auth/refreshToken"])
@pytest.mark.parametrize("content_type", [JSON, FORM])
def test_a_long_body_is_refused_unread(lonely: Api, content_type: str, path: str) -> None:
    """Who has proved nothing yet must not cost much: 413 above 64 KiB, judged by its length."""
    answer = lonely.request("POST", path, content_type=content_type, environ_overrides=unreadable(65_537))
    assert answer.status_code == 413
    assert "65536 bytes" in answer.get_json()["message"]


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/xml", "application/jsonx", "json"])
def test_another_content_type_is_refused(lonely: Api, content_type: str | None) -> None:
    """415 names what is taken."""
    answer = lonely.request("POST", PATH, data=json.dumps(GOOD), content_type=content_type)
    assert answer.status_code == 415
    assert JSON in answer.get_json()["message"]
    assert FORM in answer.get_json()["error"]


@pytest.mark.parametrize(
    ("method", "path"), [("POST", PATH), ("POST", "/auth/refreshToken"), ("DELETE", "/auth/tokens")]
)
@pytest.mark.parametrize("coding", ["gzip", "br", "gzip, gzip"])
def test_a_body_with_an_encoding_is_refused(lonely: Api, method: str, path: str, coding: str) -> None:
    """415, and not a complaint about bytes that the sender knows nothing of; nobody is asked to inflate anything."""
    headers = {"Content-Encoding": coding}
    answer = lonely.request(method, path, data=b"\x1f\x8b", content_type=JSON, headers=headers)
    assert answer.status_code == 415
    assert "Content-Encoding" in answer.get_json()["error"]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_another_method_is_refused(lonely: Api, method: str) -> None:
    """405, with `Allow` and the message that old clients read."""
    answer = lonely.request(method, PATH)
    assert answer.status_code == 405
    assert "POST" in answer.headers["Allow"]
    assert answer.get_json()["message"]


# ---- whom the broker refuses ---------------------------------------------------------------------------------------


def test_an_unknown_user_and_a_wrong_token_look_the_same(api: Api) -> None:
    """The same 401, apart from its request id, and not before half a second: nobody can find out who exists."""
    tries = [
        {"username": "root", "connection_token": "wrong"},
        {"username": "nobody", "connection_token": "memphis"},
        {"username": "ROOT", "connection_token": "memphis"},
        {"username": "root", "connection_token": "memphis\0"},
        {"username": "root", "connection_token": "\u00e9" * 1024},  # more than the broker reads
        {"username": "\0" * 1024, "connection_token": "memphis"},
    ]
    started = time.monotonic()
    with ThreadPoolExecutor(len(tries)) as threads:
        answers = [answer.result() for answer in as_completed([threads.submit(api.authenticate, t) for t in tries])]
        assert time.monotonic() - started >= 0.5
    bodies = [answer.get_json() for answer in answers]
    headers = [dict(answer.headers) for answer in answers]
    assert len({body.pop("request_id") for body in bodies}) == len(tries)
    assert len({header.pop("X-Request-Id") for header in headers}) == len(tries)
    for header in headers:
        header.pop("Content-Length")  # that of a request id may differ
    assert all(body == bodies[0] for body in bodies)
    assert all(header == headers[0] for header in headers)
    assert (answers[0].status_code, bodies[0]["message"]) == (401, "Unauthorized")
    assert headers[0]["WWW-Authenticate"] == "Bearer"


def test_a_refusal_takes_half_a_second(api: Api) -> None:
    """A single one too, so that guessing is slow."""
    started = time.monotonic()
    assert api.authenticate({**GOOD, "connection_token": "wrong"}).status_code == 401
    assert time.monotonic() - started >= 0.5


def test_a_live_session_is_no_proof(api: Api, station: str) -> None:
    """Whoever does not know the token is refused although its user is connected."""
    assert api.single(station).status_code == 200
    assert api.authenticate({**GOOD, "connection_token": "wrong"}).status_code == 401


def test_a_user_has_one_session_whatever_accounts_are_named(
    nats_server: Callable[..., NatsServer], make_app: Callable[..., Flask]
) -> None:
    """To a broker without accounts all of these are one: naming them must not use up the sessions of others."""
    server = nats_server(MONITOR, users={"root": "memphis"})
    api = Api(make_app(server.url))
    for body in (GOOD, {**GOOD, "account_id": 7}, {**GOOD, "username": "root$8"}):
        token = api.authenticate(body).get_json()["jwt"]
        assert api.single("orders", Authorization=f"Bearer {token}").status_code == 200
    eventually(lambda: sessions(server) == 1)


def test_a_broker_that_is_away_is_no_refusal(lonely: Api) -> None:
    """503, nothing stored, come back later."""
    answer = lonely.authenticate(GOOD)
    body = answer.get_json()
    assert (answer.status_code, body["stored"], body["repeat"]) == (503, "no", "safe")
    assert int(answer.headers["Retry-After"]) > 0
    assert body["message"] == body["error"]


def test_an_open_broker_lets_nobody_in(nats_server: Callable[..., NatsServer], make_app: Callable[..., Flask]) -> None:
    """Where the broker takes any credentials, tokens would prove nothing, unless that is wanted."""
    url = nats_server().url
    refused = Api(make_app(url)).authenticate(GOOD)
    assert refused.status_code == 503
    assert "ALLOW_OPEN_BROKER" in refused.get_json()["error"]
    assert Api(make_app(url, ALLOW_OPEN_BROKER="true")).authenticate(GOOD).status_code == 200


def test_log_ons_at_once_are_limited(nats_server: Callable[..., NatsServer], make_app: Callable[..., Flask]) -> None:
    """Above `MAX_LOGONS` the answer is 503 at once; those under way are answered when the broker does."""
    server = nats_server(users={"root": "memphis"})
    api = Api(make_app(server.url, MAX_LOGONS="1"))
    assert api.authenticate(GOOD).status_code == 200
    with ThreadPoolExecutor(3) as threads:
        server.pause()
        answers = as_completed([threads.submit(api.authenticate, GOOD) for _ in range(3)], timeout=5)
        refused = [next(answers).result() for _ in range(2)]
        server.resume()
        assert next(answers).result().status_code == 200
    assert [answer.status_code for answer in refused] == [503, 503]
    assert all("log-ons" in answer.get_json()["error"] for answer in refused)
