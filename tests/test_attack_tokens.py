"""Tokens that an attacker may make: headers that try to choose the key or the rules, forms other than ours."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import jwt
import pytest
from flask import Flask

from proxy.credentials import Credentials
from proxy.sealing import derive, key_id, signing_key
from proxy.tokens import Tokens
from tests.application import SECRET, Api, add_team_routes, settings

ROUTES = ["claims", "caller"]
ATTACKERS = "a" * 64
PUBLIC = """-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEEVs/o5+uQbTjL3chynL4wXgUg2R9
q9UU8I5mEovUf86QZ7kOBIjJwqnzD1omageEHWwHdBO6B+dFabmdT9POxg==
-----END PUBLIC KEY-----
"""


@pytest.fixture(scope="module")
def app() -> Flask:
    """An application with routes of a team, which needs no broker."""
    from proxy.app import create_app

    app = create_app(settings())
    add_team_routes(app)
    return app


@pytest.fixture(scope="module")
def keys_for_all() -> Iterator[tuple[str, socket.socket]]:
    """An address at which an attacker offers keys, and the socket that listens there."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        listener.setblocking(False)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/keys.json", listener


def _issued() -> tuple[str, str]:
    issued = Tokens(settings()).issue(Credentials("root", "memphis"))
    return issued.access, issued.refresh


def _claims(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


def _json64(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def _signed(header: Any, claims: Any, secret: bytes = SECRET.encode()) -> str:
    """A token with this header to the letter, signed by HS256 whatever it says."""
    signed = f"{_json64(header)}.{_json64(claims)}"
    signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(signed.encode(), secret)
    return f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def _status(app: Flask, route: str, token: str) -> int:
    return Api(app).request("GET", f"/team/{route}", headers={"Authorization": f"Bearer {token}"}).status_code


OURS = {"alg": "HS256", "typ": "JWT", "kid": key_id(SECRET)}

# Header fields (RFC 7515 4.1), all signed with our secret: each must be refused for what it says.
RULES: dict[str, dict[str, Any]] = {
    "critical: unknown": {"crit": ["stations"], "stations": True},
    "critical: a claim": {"crit": ["exp"], "exp": int(time.time()) + 500},
    "critical: empty": {"crit": []},
    "critical: no list": {"crit": "exp"},
    "payload not encoded": {"crit": ["b64"], "b64": False},
    "algorithm: lower case": {"alg": "hs256"},
    "algorithm: none": {"alg": "none"},
    "algorithm: NONE": {"alg": "NONE"},
    "algorithm: blank behind": {"alg": "HS256 "},
    "algorithm: empty": {"alg": ""},
    "algorithm: null": {"alg": None},
    "algorithm: a list": {"alg": ["HS256"]},
    "algorithm: RS256": {"alg": "RS256"},
    "algorithm: ES256": {"alg": "ES256"},
    "algorithm: EdDSA": {"alg": "EdDSA"},
    "algorithm: HS512": {"alg": "HS512"},
    "key: a path": {"kid": "../../../../dev/null"},
    "key: SQL": {"kid": "x' UNION SELECT 'k"},
    "key: a command": {"kid": "|id"},
    "key: with NUL": {"kid": key_id(SECRET) + "\0"},
    "key: in capitals": {"kid": key_id(SECRET).upper() + "A"},
    "key: that of refresh tokens": {"kid": key_id(derive(SECRET, "refresh").hex())},
    "key: null": {"kid": None},
    "key: a list": {"kid": [key_id(SECRET)]},
    "key: an object": {"kid": {"$ne": ""}},
}


@pytest.mark.parametrize("route", ROUTES)
def test_the_signature_of_these_tests_is_right(app: Flask, route: str) -> None:
    """The others would prove nothing otherwise; fields that mean nothing here do no harm."""
    claims = _claims(_issued()[0])
    assert _status(app, route, _signed(OURS, claims)) == 200
    assert _status(app, route, _signed({**OURS, "cty": "JWT", "x": 1}, claims)) == 200


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("what", RULES)
def test_a_header_changes_no_rule(app: Flask, what: str, route: str) -> None:
    """Not even where the signature is right."""
    assert _status(app, route, _signed({**OURS, **RULES[what]}, _claims(_issued()[0]))) == 401


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("field", ["jku", "x5u", "jwk", "x5c", "x5t", "x5t#S256"])
def test_a_header_brings_no_key(app: Flask, keys_for_all: tuple[str, socket.socket], field: str, route: str) -> None:
    """Nor is one fetched from where it says; a token that is signed by the attacker stays so."""
    url, listener = keys_for_all
    key = {"kty": "oct", "alg": "HS256", "kid": key_id(SECRET), "k": _json64(ATTACKERS)}
    value = {"jku": url, "x5u": url, "jwk": key}.get(field, [_json64(ATTACKERS)])
    for header in (
        {**OURS, field: value},
        {**OURS, field: value, "kid": key_id(ATTACKERS)},
        {"alg": "HS256", field: value},
    ):
        assert _status(app, route, _signed(header, _claims(_issued()[0]), ATTACKERS.encode())) == 401
    with pytest.raises(BlockingIOError):
        listener.accept()


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("secret", [b"", b"\0", b"0", key_id(SECRET).encode(), b"stations", PUBLIC.encode(), b"null"])
def test_nothing_that_can_be_guessed_is_the_key(app: Flask, secret: bytes, route: str) -> None:
    """Nor is something public, as where a server takes a public key for a shared secret."""
    for algorithm in ("HS256", "RS256"):
        header = {**OURS, "alg": algorithm}
        assert _status(app, route, _signed(header, _claims(_issued()[0]), secret or b"\0")) == 401


def _swapped() -> dict[str, Callable[[], str]]:
    """A token of one kind dressed up as the other."""

    def refresh_signed_as_access() -> str:
        return _signed(OURS, {**_claims(_issued()[1]), "type": "access"})

    def access_under_the_refresh_key() -> str:
        secret = derive(SECRET, "refresh").hex()
        return _signed({**OURS, "kid": key_id(secret)}, _claims(_issued()[0]), signing_key(secret))

    def refresh_under_its_own_key() -> str:
        secret = derive(SECRET, "refresh").hex()
        return _signed(
            {**OURS, "kid": key_id(secret)}, {**_claims(_issued()[1]), "type": "access"}, signing_key(secret)
        )

    return {function.__name__: function for function in (access_under_the_refresh_key, refresh_under_its_own_key)} | {
        "refresh_credential": refresh_signed_as_access
    }


@pytest.mark.parametrize("what", _swapped())
def test_no_token_passes_for_one_of_the_other_kind(app: Flask, what: str) -> None:
    """Each kind has keys of its own, to sign with and to seal with."""
    assert _status(app, "caller", _swapped()[what]()) == 401


FORMS: dict[str, Callable[[str], str]] = {
    "a JWE": lambda token: ".".join([*token.split("."), "x", "x"]),
    "the JSON form of a JWS": lambda token: json.dumps(
        dict(zip(("protected", "payload", "signature"), token.split("."), strict=True))
    ).replace(" ", ""),
    "compressed": lambda token: _signed({**OURS, "zip": "DEF"}, "x\x9c"),
    "no claims": lambda token: _signed(OURS, "null"),
    "claims that are a token": lambda token: _signed({**OURS, "cty": "JWT"}, json.dumps(token)),
    "claims of NaN": lambda token: _signed(OURS, json.dumps({**_claims(token), "exp": float("inf")})),
    "a huge number": lambda token: _signed(OURS, json.dumps(_claims(token)).replace('"exp": ', '"exp": 9999999999999')),
    "a number of 5,000 digits": lambda token: _signed(
        OURS, json.dumps(_claims(token))[:-1] + ', "x": ' + "9" * 5000 + "}"
    ),
    "8,191 bytes": lambda token: token + "A" * (8191 - len(token)),
    "a comma and another": lambda token: f"x,{token}",
    "two of them": lambda token: f"{token} {token}",
    "quoted": lambda token: f'"{token}"',
    "another alphabet": lambda token: token.replace(".", "+.", 1),
}


@pytest.mark.parametrize("what", FORMS)
def test_other_forms_are_no_tokens(app: Flask, what: str) -> None:
    """Whatever they are, the answer is 401, or the token itself is good and means what it says."""
    status = _status(app, "caller", FORMS[what](_issued()[0]))
    assert status == (200 if what == "a huge number" else 401)


def test_of_a_claim_that_is_there_twice_one_counts_for_all(app: Flask) -> None:
    """The part that checks and the part that uses read the same one."""
    claims = json.dumps(_claims(_issued()[0]))
    twice = claims[:-1] + ', "type": "refresh"}'
    assert _status(app, "caller", _signed(OURS, twice)) == 401
    first = '{"sub": "admin", ' + claims[1:]
    assert (
        Api(app)
        .request("GET", "/team/claims", headers={"Authorization": f"Bearer {_signed(OURS, first)}"})
        .get_json()["sub"]
        == "root"
    )
