"""`POST /auth/refreshToken`: where the refresh token may stand, and whom it still speaks for."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from flask import Flask
from werkzeug.wrappers import Response

from proxy.credentials import Credentials
from proxy.tokens import Issued
from tests.application import JSON, Api
from tests.servers import NatsServer, eventually

PATH = "/auth/refreshToken"


def _issued(app: Flask, user: str = "root", secret: str = "memphis", **options: Any) -> Issued:
    issued: Issued = app.extensions["stations"].tokens.issue(Credentials(user, secret), **options)
    return issued


def _claims(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


def _refresh(app: Flask, body: Any = None, cookie: str = "", header: str = "", **options: Any) -> Response:
    """A refresh with a token in each of the places named."""
    headers = ({"Authorization": f"Bearer {header}"} if header else {}) | (
        {"Cookie": f"other=1; jwt-refresh-token={cookie}"} if cookie else {}
    )
    if body is not None:
        options["json"] = {"jwt_refresh_token": body} if isinstance(body, str) else body
    return Api(app).request("POST", PATH, headers=headers, **options)


# Where the refresh token (R), an access token (A), garbage (x) or nothing stands: body, cookie, header.
TAKEN = ["R..", ".R.", "..R", "RRR", ".RA", "ARx", "xR.", "xAR", "AAR", "x.R", "R.A", "RxA", "R.x"]
REFUSED = ["...", "x..", ".x.", "..x", "A..", ".A.", "..A", "AAA", "xxx"]


def _placed(app: Flask, places: str) -> Response:
    issued = _issued(app)
    body, cookie, header = ({"R": issued.refresh, "A": issued.access, "x": "garbage", ".": ""}[p] for p in places)
    return _refresh(app, body or None, cookie, header)


@pytest.mark.parametrize("places", TAKEN)
def test_the_first_refresh_token_wins(app: Flask, places: str) -> None:
    """In the body, the cookie or the header, whatever stands in the other places."""
    assert _placed(app, places).status_code == 200


SHOP = "https://shop.example"
LISTED, ANYONE, BOTH = SHOP, "*", f"{SHOP},*"


@pytest.mark.parametrize(
    ("origins", "origin", "status"),
    [
        (LISTED, None, 200),
        (LISTED, SHOP, 200),
        (LISTED, "http://gateway.example", 200),
        (LISTED, "https://gateway.example", 200),
        (LISTED, "https://evil.example", 401),
        (LISTED, "https://shop.example.evil.example", 401),
        (LISTED, "https://x.gateway.example", 401),
        (LISTED, "null", 401),
        (LISTED, "", 401),
        (ANYONE, SHOP, 401),
        (ANYONE, "*", 401),
        (ANYONE, "null", 401),
        (ANYONE, None, 200),
        (BOTH, SHOP, 401),
    ],
)
def test_the_cookie_is_for_pages_that_may_use_it(
    make_app: Callable[..., Flask], broker: NatsServer, origins: str, origin: str | None, status: int
) -> None:
    """Those of the gateway's own host, and those that are listed; a token that a page has is its own."""
    app = make_app(broker.url, CORS_ORIGINS=origins)
    token = app.extensions["stations"].tokens.issue(Credentials("root", "memphis")).refresh
    headers = {"Host": "gateway.example"} | ({"Origin": origin} if origin is not None else {})
    cookie = {**headers, "Cookie": f"jwt-refresh-token={token}"}
    assert Api(app).request("POST", PATH, headers=cookie).status_code == status
    bearer = {**headers, "Authorization": f"Bearer {token}"}
    assert Api(app).request("POST", PATH, headers=bearer).status_code == 200


@pytest.mark.parametrize("places", REFUSED)
def test_without_a_refresh_token_nothing_is_issued(app: Flask, places: str) -> None:
    """An access token is none, wherever it stands; the answer is the same 401 as ever, and sets no cookie."""
    answer = _placed(app, places)
    body = answer.get_json()
    assert (answer.status_code, body["error"], body["message"]) == (401, "Unauthorized", "Unauthorized")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert "Set-Cookie" not in answer.headers


def test_the_body_goes_before_the_cookie(app: Flask) -> None:
    """With two refresh tokens the one in the body counts."""
    first, second = _issued(app), _issued(app)
    answer = _refresh(app, first.refresh, second.refresh)
    assert _claims(answer.get_json()["jwt"])["fam"] == _claims(first.refresh)["fam"]


def test_the_answer_is_like_that_of_a_log_on(app: Flask) -> None:
    """New tokens of the same family, their lifetimes, and the cookie anew."""
    issued = _issued(app)
    answer = _refresh(app, issued.refresh)
    body = answer.get_json()
    assert list(body) == ["expires_in", "jwt", "jwt_refresh_token", "refresh_token_expires_in"]
    assert (body["expires_in"], body["refresh_token_expires_in"]) == (900_000, 18_000_000)
    assert {body["jwt"], body["jwt_refresh_token"]}.isdisjoint({issued.access, issued.refresh})
    families = {_claims(token)["fam"] for token in (issued.refresh, body["jwt"], body["jwt_refresh_token"])}
    assert len(families) == 1
    assert f"jwt-refresh-token={body['jwt_refresh_token']};" in answer.headers["Set-Cookie"]


def test_the_new_tokens_work(app: Flask, station: str) -> None:
    """The access token produces, the refresh token refreshes again."""
    body = _refresh(app, _issued(app).refresh).get_json()
    assert Api(app).single(station, Authorization=f"Bearer {body['jwt']}").status_code == 200
    assert _refresh(app, body["jwt_refresh_token"]).status_code == 200


def test_a_refresh_token_may_be_used_again(app: Flask) -> None:
    """As old clients do."""
    token = _issued(app).refresh
    assert [_refresh(app, token).status_code for _ in range(3)] == [200, 200, 200]


def test_user_and_account_stay(app: Flask) -> None:
    """The new tokens speak for whom the old one did."""
    issued = app.extensions["stations"].tokens.issue(Credentials("app1", "Passw0rd!", "7"))
    token = _refresh(app, issued.refresh).get_json()["jwt"]
    caller = Api(app).request("GET", "/team/caller", headers={"Authorization": f"Bearer {token}"})
    assert caller.get_json() == {"user": "app1", "account": "7"}


def test_lifetimes_may_be_asked_for(app: Flask) -> None:
    """Both fields count here too, wherever the token stands."""
    fields = {"token_expiry_in_minutes": 60, "refresh_token_expiry_in_minutes": 120, "zzz": 1}
    body = _refresh(app, fields, cookie=_issued(app).refresh).get_json()
    assert (body["expires_in"], body["refresh_token_expires_in"]) == (3_600_000, 7_200_000)


def test_a_form_is_taken(app: Flask) -> None:
    """As at the log-on."""
    data = {"jwt_refresh_token": _issued(app).refresh, "token_expiry_in_minutes": "60"}
    assert Api(app).request("POST", PATH, data=data).get_json()["expires_in"] == 3_600_000


@pytest.mark.parametrize("content_type", [None, JSON, "text/plain"])
def test_an_empty_body_is_fine_with_a_cookie(app: Flask, content_type: str | None) -> None:
    """Browsers and libraries name a content type although there is nothing in the body."""
    assert _refresh(app, cookie=_issued(app).refresh, content_type=content_type).status_code == 200


@pytest.mark.parametrize("path", ["/auth/refreshtoken", "/AUTH/REFRESHTOKEN/", "/auth/refreshToken/"])
def test_the_path_is_taken_in_any_case_and_with_a_slash(app: Flask, path: str) -> None:
    """As old clients may write it."""
    body = {"jwt_refresh_token": _issued(app).refresh}
    assert Api(app).request("POST", path, json=body).status_code == 200


# ---- what ends -----------------------------------------------------------------------------------------------------


def test_a_family_ends_after_30_days(app: Flask) -> None:
    """However often it is refreshed and whatever is asked for, no token of it lives longer."""
    began = int(time.time()) - 30 * 86_400 + 100
    token = _issued(app, family=f"abc.{began}").refresh
    answer = _refresh(app, {"jwt_refresh_token": token, "token_expiry_in_minutes": 60})
    body = answer.get_json()
    assert 0 < body["expires_in"] <= 100_000
    assert 0 < body["refresh_token_expires_in"] <= 100_000
    assert _claims(body["jwt_refresh_token"])["exp"] <= began + 30 * 86_400


def _users(*names: str) -> str:
    users = ", ".join(f"{{ user: {name}, password: secret }}" for name in names)
    return f"authorization {{ users: [{users}] }}"


def test_a_removed_user_cannot_refresh(
    nats_server: Callable[..., NatsServer], make_app: Callable[..., Flask], station: str
) -> None:
    """The broker is asked every time, although the user has a session that was live until then."""
    server = nats_server(_users("root", "leaver"))
    app = make_app(server.url)
    token = _issued(app, "leaver", "secret").refresh
    assert Api(app, "leaver", "secret").single(station).status_code == 200
    assert _refresh(app, token).status_code == 200
    server.config(_users("root"))
    os.kill(server.pid, signal.SIGHUP)
    eventually(lambda: _refresh(app, token).status_code == 401)
    assert _refresh(app, _issued(app, "root", "secret").refresh).status_code == 200


def test_a_broker_that_is_away_is_no_refusal(make_app: Callable[..., Flask]) -> None:
    """A good refresh token stays good: 503, come back later."""
    app = make_app()
    answer = _refresh(app, _issued(app).refresh)
    assert (answer.status_code, answer.get_json()["repeat"]) == (503, "safe")


# ---- what is refused without asking the broker ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [("jwt_refresh_token", value) for value in (7, True, [], {})]
    + [
        (field, value)
        for field in ("token_expiry_in_minutes", "refresh_token_expiry_in_minutes")
        for value in (None, "60", 1.5, True, [], {})
    ],
)
def test_a_wrong_field_is_named(make_app: Callable[..., Flask], field: str, value: Any) -> None:
    """Other types are refused with the field's name."""
    app = make_app()
    answer = _refresh(app, {"jwt_refresh_token": _issued(app).refresh, field: value})
    assert answer.status_code == 400
    assert field in answer.get_json()["message"]


def test_a_null_token_is_none(app: Flask) -> None:
    """A client that has none in its body may have it in the cookie."""
    assert _refresh(app, {"jwt_refresh_token": None}, cookie=_issued(app).refresh).status_code == 200


@pytest.mark.parametrize("body", [b"{nope", b"[]", b"null", b'"x"', b"\xff"])
def test_a_body_that_is_no_json_object_is_refused(make_app: Callable[..., Flask], body: bytes) -> None:
    """400, although the cookie holds a good token: the sender meant something else."""
    app = make_app()
    assert _refresh(app, cookie=_issued(app).refresh, data=body, content_type=JSON).status_code == 400


def test_another_content_type_is_refused(make_app: Callable[..., Flask]) -> None:
    """415 for a body that is neither JSON nor a form."""
    app = make_app()
    assert _refresh(app, data=b"x", content_type="text/plain").status_code == 415
