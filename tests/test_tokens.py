"""What tokens say, and that whatever is wrong with one, the answer is the same 401."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from flask import Flask

from proxy import tokens as tokens_module
from proxy.credentials import Credentials
from proxy.sealing import derive, key_id, seal, signing_key
from proxy.tokens import Issued, Tokens
from tests.application import SECRET, Api, add_team_routes, settings

ROOT = Credentials("root", "memphis", "7")
CLAIMS = {"iss", "aud", "sub", "exp", "iat", "nbf", "jti", "type", "fam", "cred"}
Change = Callable[[str], str]


def _issued(**options: Any) -> Issued:
    return Tokens(settings()).issue(ROOT, **options)


def _claims(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


def _signed(claims: dict[str, Any], secret: str = SECRET, algorithm: str = "HS256", **headers: Any) -> str:
    """A token with these claims, signed as ours are."""
    return jwt.encode(claims, secret, algorithm, headers={"kid": key_id(SECRET), **headers})


def _with(**changes: Any) -> Change:
    return lambda token: _signed({**_claims(token), **changes})


def _without(name: str) -> Change:
    return lambda token: _signed({key: value for key, value in _claims(token).items() if key != name})


def _json64(value: str) -> str:
    return base64.urlsafe_b64encode(value.encode()).rstrip(b"=").decode()


# ---- what they say -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["access", "refresh"])
def test_the_claims_are_those_of_the_contract(kind: str) -> None:
    """Issuer, audience, subject, times, id, type, family and sealed credential: these and no others."""
    before = int(time.time())
    claims = _claims(getattr(_issued(), kind))
    assert set(claims) == CLAIMS
    assert (claims["iss"], claims["aud"], claims["sub"], claims["type"]) == ("stations", "stations", "root", kind)
    assert before <= claims["iat"] == claims["nbf"] <= time.time()


def test_the_header_names_algorithm_and_key() -> None:
    """HS256, and the first 8 hex digits of the secret's SHA-256; refresh tokens have a key of their own."""
    issued = _issued()
    assert jwt.get_unverified_header(issued.access) == {"alg": "HS256", "typ": "JWT", "kid": key_id(SECRET)}
    assert jwt.get_unverified_header(issued.refresh)["kid"] != key_id(SECRET)


def test_no_readable_part_holds_the_secret() -> None:
    """Whoever holds a token cannot read the credential out of it."""
    for token in (_issued().access, _issued().refresh):
        header, payload, _ = token.split(".")
        readable = base64.urlsafe_b64decode(header + "==") + base64.urlsafe_b64decode(payload + "==")
        sealed = base64.urlsafe_b64decode(_claims(token)["cred"] + "==")
        assert b"memphis" not in readable + sealed


def test_no_two_tokens_are_the_same() -> None:
    """Each has an id of its own; two log-ons begin two families."""
    claims = [_claims(token) for _ in range(2) for token in (lambda pair: (pair.access, pair.refresh))(_issued())]
    assert len({claim["jti"] for claim in claims}) == 4
    assert len({claim["fam"] for claim in claims}) == 2


@pytest.mark.parametrize(
    ("asked", "minutes"), [(0, 15), (-1, 15), (-(10**12), 15), (1, 1), (60, 60), (43_200, 43_200), (10**18, 43_200)]
)
def test_lifetimes_are_those_asked_for_within_the_limit(asked: int, minutes: int) -> None:
    """0 and below mean the configured lifetime; long ones are capped."""
    issued = _issued(access_minutes=asked)
    assert issued.access_seconds == minutes * 60
    assert _claims(issued.access)["exp"] - _claims(issued.access)["iat"] == minutes * 60


@pytest.mark.parametrize(("asked", "minutes"), [(0, 300), (-5, 300), (120, 120), (10**18, 43_200)])
def test_refresh_lifetimes_are_apart(asked: int, minutes: int) -> None:
    """A refresh token has its own default, and the same limit."""
    issued = _issued(refresh_minutes=asked)
    assert (issued.refresh_seconds, issued.access_seconds) == (minutes * 60, 900)


def test_no_token_outlives_its_family() -> None:
    """A family ends 30 days after it began, whatever is asked for."""
    now = int(time.time())
    issued = _issued(access_minutes=60, refresh_minutes=60, family=f"abc.{now - 30 * 86_400 + 100}")
    assert issued.access_seconds <= 100
    assert issued.refresh_seconds <= 100
    assert _claims(issued.refresh)["fam"] == f"abc.{now - 30 * 86_400 + 100}"


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def app() -> Flask:
    """An application with routes of a team, which needs no broker."""
    from proxy.app import create_app

    app = create_app(settings())
    add_team_routes(app)
    return app


def _get(app: Flask, route: str, token: str) -> Any:
    return Api(app).request("GET", f"/team/{route}", headers={"Authorization": f"Bearer {token}"})


def _assert_refused(app: Flask, route: str, token: str) -> None:
    answer = _get(app, route, token)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    body = answer.get_json()
    assert body.pop("request_id") == answer.headers["X-Request-Id"]
    assert body == {
        "error": "Unauthorized",
        "message": "Unauthorized",
        "repeat": "never",
        "stored": "no",
        "success": False,
    }


@pytest.mark.parametrize("route", ["claims", "caller"])
def test_a_good_token_is_taken(app: Flask, route: str) -> None:
    """The other tests would prove nothing if none were."""
    assert _get(app, route, _issued().access).status_code == 200
    assert _get(app, route, _with()(_issued().access)).status_code == 200


def _absent_or_wrong() -> dict[str, Change]:
    """Each claim left out, and each with values of types that it does not have."""
    numbers = ("exp", "iat", "nbf")
    far = int(time.time()) + 500
    changes: dict[str, Change] = {f"no {name}": _without(name) for name in sorted(CLAIMS)}
    for name in sorted(CLAIMS):
        for value in [None, True, [], {}, ["stations"]] + ([float(far), str(far)] if name in numbers else [7, 7.0]):
            if _can_encode(name, value):
                same_in_every_run = repr(value).replace(str(far), "soon")
                changes[f"{name} is {same_in_every_run}"] = _with(**{name: value})
    return changes


def _can_encode(name: str, value: Any) -> bool:
    """PyJWT itself refuses to sign some."""
    try:
        _with(**{name: value})(_issued().access)
    except TypeError:
        return False
    return True


BAD: dict[str, Change] = {
    "expired": _with(exp=int(time.time()) - 1),
    "expired long ago": _with(exp=1),
    "not yet valid": _with(nbf=int(time.time()) + 86_400),
    "issued in the future": _with(iat=int(time.time()) + 86_400),
    "another audience": _with(aud="others"),
    "another issuer": _with(iss="others"),
    "another type": _with(type="other"),
    "refresh by type": _with(type="refresh"),
    "family without a beginning": _with(fam="abc"),
    "family of another form": _with(fam="a b.1"),
    "alg none": lambda token: jwt.encode(_claims(token), None, "none", headers={"kid": key_id(SECRET)}),
    "alg none, signed": lambda token: _json64(f'{{"alg":"none","kid":"{key_id(SECRET)}"}}') + token[token.index(".") :],
    "alg HS384": lambda token: _signed(_claims(token), algorithm="HS384"),
    "alg HS512": lambda token: _signed(_claims(token), algorithm="HS512"),
    "another secret": lambda token: _signed(_claims(token), "t" * 32),
    "another secret, its own kid": lambda token: _signed(_claims(token), "t" * 32, kid=key_id("t" * 32)),
    "no kid": lambda token: jwt.encode(_claims(token), SECRET, "HS256"),
    "unknown kid": lambda token: _signed(_claims(token), kid="00000000"),
    "kid of another type": lambda token: _json64('{"alg":"HS256","kid":7}') + token[token.index(".") :],
    "key in the token": lambda token: _signed(_claims(token), "t" * 32, jwk={"kty": "oct", "k": _json64("t" * 32)}),
    "key at an address": lambda token: _signed(_claims(token), "t" * 32, jku="http://127.0.0.1:1/keys"),
    "refresh token": lambda token: _issued().refresh,
    "signed as a refresh token": lambda token: _signed(_claims(token), derive(SECRET, "refresh").hex()),
    "a claim changed": lambda token: _tampered(token, sub="admin"),
    "no signature": lambda token: token[: token.rindex(".") + 1],
    "truncated": lambda token: token[:-2],
    "cut in the middle": lambda token: token[: len(token) // 2],
    "two parts": lambda token: token[: token.rindex(".")],
    "four parts": lambda token: token + ".x",
    "1 MB long": lambda token: token + "A" * (1 << 20),
    "only dots": lambda token: "..",
    "empty": lambda token: "",
    "garbage": lambda token: "abc",
    "not ASCII": lambda token: token + "é",
    "blank inside": lambda token: token.replace(".", ". ", 1),
    "header is no object": lambda token: _json64("[]") + token[token.index(".") :],
    "payload is no object": lambda token: ".".join([token.split(".")[0], _json64("[1]"), token.split(".")[2]]),
    "payload is nested deeply": lambda token: ".".join([token.split(".")[0], _json64("[" * 5000), token.split(".")[2]]),
    "header is nested deeply": lambda token: ".".join([_json64("[" * 5000), *token.split(".")[1:]]),
    **_absent_or_wrong(),
}

# Signed with the right secret, so only what opens the credential can see them.
BAD_CREDENTIALS: dict[str, Change] = {
    "tampered": lambda token: _with(cred=_flipped(_claims(token)["cred"]))(token),
    "empty": _with(cred=""),
    "garbage": _with(cred="a b"),
    "not ASCII": _with(cred="é" * 40),
    "of another token": lambda token: _with(cred=_claims(_issued().access)["cred"])(token),
    "of a refresh token": lambda token: _with(cred=_claims(_issued().refresh)["cred"])(token),
    "with another id": _with(jti="another"),
    "of another secret": lambda token: _with(
        cred=seal(derive("t" * 32, "cred/access"), b'["root","x",""]', _claims(token)["jti"])
    )(token),
}


def _tampered(token: str, **changes: Any) -> str:
    header, _, signature = token.split(".")
    return f"{header}.{_json64(json.dumps({**_claims(token), **changes}))}.{signature}"


def _flipped(text: str) -> str:
    return text[:20] + ("B" if text[20] == "A" else "A") + text[21:]


@pytest.mark.parametrize("route", ["claims", "caller"])
@pytest.mark.parametrize("what", BAD)
def test_a_bad_token_is_refused(app: Flask, what: str, route: str) -> None:
    """Whatever is wrong with it, in a route of ours or of a team, the answer is the same 401."""
    _assert_refused(app, route, BAD[what](_issued().access))


@pytest.mark.parametrize("what", BAD_CREDENTIALS)
def test_a_bad_credential_is_refused(app: Flask, what: str) -> None:
    """A token whose sealed credential does not open for it speaks for nobody."""
    _assert_refused(app, "caller", BAD_CREDENTIALS[what](_issued().access))


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Basic cm9vdDptZW1waGlz", "{token}", "Token {token}"]
)
@pytest.mark.parametrize("route", ["claims", "caller"])
def test_a_request_without_a_token_is_refused(app: Flask, header: str | None, route: str) -> None:
    """No header, an empty one, another scheme, a token without a scheme."""
    headers = {} if header is None else {"Authorization": header.format(token=_issued().access)}
    assert Api(app).request("GET", f"/team/{route}", headers=headers).status_code == 401


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
@pytest.mark.parametrize("route", ["claims", "caller"])
def test_the_scheme_is_taken_in_any_case(app: Flask, scheme: str, route: str) -> None:
    """As RFC 9110 says, also in a route of a team's own."""
    headers = {"Authorization": f"{scheme} {_issued().access}"}
    assert Api(app).request("GET", f"/team/{route}", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "query", ["authorization={}", "a=1&authorization={}&b=2", "Authorization={}", "AUTHORIZATION={}"]
)
@pytest.mark.parametrize("route", ["claims", "caller"])
def test_a_token_in_the_query_is_taken(app: Flask, query: str, route: str) -> None:
    """For senders that cannot set headers, also in a route of a team's own."""
    path = f"/team/{route}?{query.format(_issued().access)}"
    assert Api(app).request("GET", path).status_code == 200


def test_claims_are_those_of_the_token(app: Flask) -> None:
    """`get_jwt()` gives a team's route the claims."""
    claims = _get(app, "claims", _issued().access).get_json()
    assert (claims["sub"], claims["type"]) == ("root", "access")


@pytest.mark.parametrize("route", ["claims", "caller"])
@pytest.mark.parametrize("name", ["iat", "nbf"])
def test_a_replicas_clock_may_be_ahead(app: Flask, name: str, route: str) -> None:
    """A token that another replica has just issued is taken where the clock is some seconds behind."""
    assert _get(app, route, _with(**{name: int(time.time()) + 3})(_issued().access)).status_code == 200
    _assert_refused(app, route, _with(**{name: int(time.time()) + 30})(_issued().access))


@pytest.mark.parametrize("route", ["claims", "caller"])
def test_no_token_lives_longer_for_that(app: Flask, route: str) -> None:
    """Its end is exact, for access tokens and refresh tokens."""
    _assert_refused(app, route, _with(exp=int(time.time()))(_issued().access))
    tokens, refresh = app.extensions["stations"].tokens, _issued().refresh
    ended = jwt.encode(
        {**_claims(refresh), "exp": int(time.time())},
        signing_key(derive(SECRET, "refresh").hex()),
        "HS256",
        headers=jwt.get_unverified_header(refresh),
    )
    with app.app_context():
        assert tokens.verify_refresh(refresh) is not None
        assert tokens.verify_refresh(ended) is None


def test_the_caller_is_the_user_who_logged_on(app: Flask) -> None:
    """User and account come out of the sealed credential."""
    assert _get(app, "caller", _issued().access).get_json() == {"user": "root", "account": "7"}


# ---- verified once -------------------------------------------------------------------------------------------------


def test_a_token_is_verified_once(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Further requests find it remembered."""
    verified: list[str] = []
    verify = tokens_module.decode_token
    monkeypatch.setattr(tokens_module, "decode_token", lambda token: verified.append(token) or verify(token))
    token = _issued().access
    assert [_get(app, "caller", token).status_code for _ in range(3)] == [200] * 3
    assert verified == [token]


@pytest.mark.slow
def test_a_remembered_token_still_expires(app: Flask) -> None:
    """A token that was verified before is refused once its time is up."""
    token = _with(exp=int(time.time()) + 2)(_issued().access)
    assert _get(app, "caller", token).status_code == 200
    deadline = time.monotonic() + 5
    while _get(app, "caller", token).status_code == 200:
        assert time.monotonic() < deadline
    _assert_refused(app, "caller", token)


def test_a_lower_limit_on_lifetimes_counts_for_tokens_that_are_older(make_app: Callable[..., Flask]) -> None:
    """Else they would be taken again once their log-out, kept for as long as a token may live, is forgotten."""
    issued = _issued(access_minutes=600)
    app = make_app(MAX_TOKEN_EXPIRY_IN_MINUTES="10")
    add_team_routes(app)
    tokens: Tokens = app.extensions["stations"].tokens
    with app.app_context():
        caller = tokens.verify(issued.access)
    assert caller.expires <= tokens.end_of(caller) <= time.time() + 605
    now = int(time.time())
    for route in ("claims", "caller"):
        _assert_refused(app, route, _with(iat=now - 601, nbf=now - 601)(issued.access))


def test_the_memory_of_tokens_is_bounded(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """When it is full the oldest goes; a forgotten token is verified again."""
    monkeypatch.setattr(tokens_module, "MAX_REMEMBERED", 3)
    known: Tokens = app.extensions["stations"].tokens
    issued = [_issued().access for _ in range(20)]
    assert all(_get(app, "caller", token).status_code == 200 for token in issued)
    assert known.remembered(issued[-1]) is not None
    assert known.remembered(issued[0]) is None
    assert _get(app, "caller", issued[0]).status_code == 200


def test_a_refused_token_is_not_remembered(app: Flask) -> None:
    """Bad tokens cost no memory and are refused again."""
    known: Tokens = app.extensions["stations"].tokens
    token = _with(aud="others")(_issued().access)
    _assert_refused(app, "caller", token)
    assert known.remembered(token) is None
