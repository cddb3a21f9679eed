"""`/auth`: credentials become tokens, a refresh token becomes new ones."""

from __future__ import annotations

import json
import re
from typing import Any

from flask import Blueprint, Response, request

import schemas
from proxy.credentials import Credentials
from proxy.errors import DATA_ONLY, BadBody, Overloaded, Unauthorized, UnsupportedMediaType, encode
from proxy.extension import the_stations
from proxy.inflating import is_gzip
from proxy.shaping import check_json
from proxy.tokens import Caller, Issued
from schemas.auth import Authenticate, Refresh, Tokens

bp = Blueprint("auth", __name__, url_prefix="/auth")

COOKIE = "jwt-refresh-token"
_AUTHENTICATE, _REFRESH, _TOKENS = Authenticate(), Refresh(), Tokens()
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")
# Nobody has proved anything yet: what they send must be cheap to read.
MAX_BODY_BYTES = 64 << 10
_NUMBERS = ("account_id", "token_expiry_in_minutes", "refresh_token_expiry_in_minutes")


@bp.post("/authenticate")
def authenticate() -> Response:
    """Proves a user's credentials to the broker, and issues tokens."""
    _judge_body()
    fields = schemas.load(_AUTHENTICATE, _fields() | _account_in_query())
    credentials = _credentials(fields)
    request.environ["stations.user"] = credentials.user
    extension = the_stations()
    with extension.limits.log_on(request.environ.get("REMOTE_ADDR", ""), credentials):
        extension.producer.log_on(credentials)
    lifetimes = fields["token_expiry_in_minutes"], fields["refresh_token_expiry_in_minutes"]
    return _answer(extension.tokens.issue(credentials, *lifetimes))


@bp.post("/refreshtoken")  # the edge writes paths of ours in lower case
def refresh() -> Response:
    """Issues new tokens for a refresh token, whose credentials the broker must still take."""
    _judge_body()
    fields = schemas.load(_REFRESH, _fields() if request.get_data() else {})
    extension = the_stations()
    # Not counted for the user: whoever guesses at a user's token must not keep out those who have logged on.
    with extension.limits.log_on(request.environ.get("REMOTE_ADDR", "")):
        caller = _refresher(fields["jwt_refresh_token"] or "")
        request.environ["stations.user"] = caller.credentials.user
        extension.producer.check_revocations()  # else a family that was logged out could go on here
        extension.producer.log_on(caller.credentials)
    lifetimes = fields["token_expiry_in_minutes"], fields["refresh_token_expiry_in_minutes"]
    return _answer(extension.tokens.issue(caller.credentials, *lifetimes, family=caller.family))


@bp.delete("/tokens")
def log_out() -> Response:
    """Revokes the family of the token: neither it nor any made from it is taken any more, by whatever replica."""
    _judge_body()
    fields = schemas.load(_REFRESH, _fields() if request.get_data() else {})
    caller = _leaver(fields["jwt_refresh_token"] or "")
    extension = the_stations()
    extension.admit(request.environ, caller)
    if not extension.tokens.can_revoke:
        raise Overloaded("as many log-outs are remembered as there is room for; this token ends by itself")
    extension.producer.revoke(caller.family, extension.tokens.end_of(caller))
    response = Response(encode({"error": None, "success": True}), headers=DATA_ONLY, mimetype="application/json")
    response.delete_cookie(COOKIE, path="/auth", secure=request.is_secure, httponly=True, samesite="Strict")
    return response


def _leaver(in_body: str) -> Caller:
    """The first of header, body and cookie that is a token of ours, access or refresh."""
    tokens = the_stations().tokens
    header = request.environ.get("HTTP_AUTHORIZATION", "").partition(" ")[2].strip()
    for token in (header, in_body, _in_cookie()):
        if token and (caller := tokens.verify_any(token)):
            return caller
    raise Unauthorized


def _judge_body() -> None:
    """Sets what a body may have, and sees that it is as it was before anyone compressed it."""
    if is_gzip(request.environ.get("HTTP_CONTENT_ENCODING", "")) is not False:
        raise UnsupportedMediaType("send the body as it is, without Content-Encoding")
    request.max_content_length = min(MAX_BODY_BYTES, the_stations().config.max_body_bytes)


def _refresher(in_body: str) -> Caller:
    """The first of body, cookie and header that is a refresh token: old clients send an access token in the header."""
    header = request.environ.get("HTTP_AUTHORIZATION", "").partition(" ")[2].strip()
    for token in (in_body, _in_cookie(), header):
        if token and (caller := the_stations().tokens.verify_refresh(token)):
            return caller
    raise Unauthorized


def _in_cookie() -> str:
    """The cookie, unless a page sends it that may not use it: one from elsewhere whose origin is not listed."""
    origin, listed = request.environ.get("HTTP_ORIGIN"), the_stations().config.cors_origins
    own = origin is None or origin.partition("://")[2] == request.host
    if own or (origin in listed and "*" not in listed):
        return request.cookies.get(COOKIE, "")
    return ""


def _fields() -> dict[str, Any]:
    """The body: a JSON object, or a form, whose numbers are text."""
    if request.mimetype in _FORMS:
        return {name: _number(value) if name in _NUMBERS else value for name, value in request.form.items()}
    if not request.is_json:
        raise UnsupportedMediaType("send application/json or application/x-www-form-urlencoded")
    check_json(request.get_data())
    body = json.loads(request.get_data(), parse_int=_whole)
    if not isinstance(body, dict):
        raise BadBody("the body must be a JSON object")
    return body


def _account_in_query() -> dict[str, Any]:
    account = request.args.get("accountId")
    return {} if account is None else {"account_id": _number(account)}


def _number(text: str) -> int | str:
    """A number in a form or query; what is none stays text, which no field takes for one."""
    return int(text) if re.fullmatch(r"-?[0-9]{1,19}", text) else text


def _whole(digits: str) -> int | float:
    """A whole number in JSON; one that is too long for 64 bits is of no use, and as an `int` too dear to read."""
    return int(digits) if len(digits) <= 20 else float(digits)


def _credentials(fields: dict[str, Any]) -> Credentials:
    """A user may name its account behind a `$`; a field of its own wins over that."""
    account = str(fields.get("account_id", "") or re.search(r"\$([0-9]+)\Z|\Z", fields["username"])[1] or "")  # type: ignore[index]
    config = the_stations().config
    secret = config.secret_of(fields["connection_token"], fields["password"])
    return Credentials(fields["username"], secret, account, tenants=config.at_memphis)


def _answer(issued: Issued) -> Response:
    response = Response(encode(_TOKENS.dump(issued)), headers=DATA_ONLY, mimetype="application/json")
    response.set_cookie(
        COOKIE,
        issued.refresh,
        max_age=issued.refresh_seconds,
        path="/auth",
        secure=request.is_secure,
        httponly=True,
        samesite="Strict",
    )
    return response
