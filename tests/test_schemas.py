"""Shapes of bodies: what they load, and that each fault is named with its place."""

from __future__ import annotations

from typing import Any

import pytest
from marshmallow import Schema, fields

import schemas
from proxy.errors import BadBody
from proxy.tokens import Issued
from schemas.auth import Authenticate, Refresh, Tokens
from schemas.consume import Acks
from schemas.stations import AckAt, AckOf, Key

GOOD = {"username": "root", "connection_token": "memphis"}
LIFETIMES = {"token_expiry_in_minutes": 0, "refresh_token_expiry_in_minutes": 0}


class _Inner(Schema):
    count = fields.Integer(required=True, strict=True)


class _Outer(Schema):
    inner = fields.Nested(_Inner, required=True)
    many = fields.List(fields.Nested(_Inner))


@pytest.mark.parametrize(
    ("body", "faults"),
    [
        ({}, "inner: Missing data for required field."),
        ({"inner": {}}, "inner.count: Missing data for required field."),
        ({"inner": {"count": "x"}}, "inner.count: Not a valid integer."),
        ({"inner": {"count": 1}, "zzz": 1}, "zzz: Unknown field."),
        ({"inner": {"count": 1, "zzz": 1}}, "inner.zzz: Unknown field."),
        ({"inner": {"count": 1}, "many": [{"count": 1}, {}]}, "many.1.count: Missing data for required field."),
        ({"inner": 7}, "inner: Invalid input type."),
        ([], "Invalid input type."),
        (None, "Invalid input type."),
    ],
)
def test_faults_have_their_place(body: Any, faults: str) -> None:
    """However deep it is; elsewhere than under `/auth` an unknown field is one."""
    with pytest.raises(BadBody) as caught:
        schemas.load(_Outer(), body)
    assert caught.value.message == faults


def test_all_faults_are_told() -> None:
    """One answer is enough to mend the body."""
    with pytest.raises(BadBody) as caught:
        schemas.load(_Outer(), {"inner": {"count": "x"}, "zzz": 1})
    assert sorted(caught.value.message.split("; ")) == ["inner.count: Not a valid integer.", "zzz: Unknown field."]


@pytest.mark.parametrize(
    ("body", "secrets"),
    [
        (GOOD, ("memphis", "")),
        ({"username": "root", "password": "pw"}, ("", "pw")),
        ({**GOOD, "password": "pw"}, ("memphis", "pw")),
        ({**GOOD, "password": ""}, ("memphis", "")),
        ({"username": "root", "password": "pw", "connection_token": ""}, ("", "pw")),
        ({**GOOD, "unknown": [1]}, ("memphis", "")),
    ],
)
def test_authenticate_loads_a_secret(body: dict[str, Any], secrets: tuple[str, str]) -> None:
    """Token, password or both; what old clients send besides is left out."""
    fields = {"username": "root", **dict(zip(("connection_token", "password"), secrets, strict=True)), **LIFETIMES}
    assert schemas.load(Authenticate(), body) == fields


@pytest.mark.parametrize("body", [{"username": "root"}, {"username": "root", "password": "", "connection_token": ""}])
def test_authenticate_asks_for_a_secret(body: dict[str, Any]) -> None:
    """Neither token nor password: the answer names both."""
    with pytest.raises(BadBody, match=r"^connection_token: Missing data for required field \(or password\)\.$"):
        schemas.load(Authenticate(), body)


def test_no_fault_repeats_what_was_sent() -> None:
    """A credential in the wrong place or of the wrong type is not in the error."""
    body = {
        "username": {"a": "s3cret"},
        "password": ["s3cret"],
        "account_id": "s3cret",
        "token_expiry_in_minutes": "s3cret",
    }
    with pytest.raises(BadBody) as caught:
        schemas.load(Authenticate(), body)
    assert "s3cret" not in caught.value.message


def test_refresh_needs_nothing() -> None:
    """The token may be elsewhere."""
    assert schemas.load(Refresh(), {}) == {"jwt_refresh_token": "", **LIFETIMES}


def test_tokens_are_shown_with_lifetimes_in_milliseconds() -> None:
    """As old clients know them."""
    assert Tokens().dump(Issued("A", 900, "R", 18_000)) == {
        "expires_in": 900_000,
        "jwt": "A",
        "jwt_refresh_token": "R",
        "refresh_token_expires_in": 18_000_000,
    }


@pytest.mark.parametrize("duplicate", [True, False, None])
def test_acks_tell_what_is_known(duplicate: bool | None) -> None:
    """Null where a retry makes it impossible to tell."""
    place = {"station": "orders", "sequence": 42, "duplicate": duplicate}
    assert AckOf().dump(place) == place
    assert AckAt().dump({**place, "index": 3}) == {**place, "index": 3}


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 201, "é", "a\n", "\x7f"])
def test_keys_are_visible_ascii(key: str) -> None:
    """1 to 200 characters of it, and no line break behind them."""
    with pytest.raises(BadBody, match="key: must be 1 to 200 visible ASCII characters"):
        schemas.load(Key(), {"key": key})


def test_fields_without_number_are_not_told_one_by_one() -> None:
    """To tell each of those that are not known would cost more than any good body does."""
    with pytest.raises(BadBody) as caught:
        schemas.load(_Outer(), {f"zzz{number}": 1 for number in range(1001)})
    assert caught.value.message == "the body has more than 1000 fields"


@pytest.mark.parametrize("ids", [[], [1] * 5001, ["x"] * 5001])
def test_a_list_of_too_many_ids_is_not_looked_into(ids: list[Any]) -> None:
    """Whatever stands in it, the one fault is its length."""
    with pytest.raises(BadBody) as caught:
        schemas.load(Acks(), {"ack_ids": ids})
    assert caught.value.message == "ack_ids: must have 1 to 5000 ids"
