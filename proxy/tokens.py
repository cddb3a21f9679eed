"""Access and refresh tokens: issue, verify once, remember until they expire.

flask-jwt-extended does the verifying, configured so that it is strict: one key loader picks the key by `kid` and
`type` and refuses a token in which any claim is absent or of another type; whatever is wrong, the answer is the same
401. Tokens are signed by PyJWT and carry the broker's credentials sealed (see `sealing`), so that any replica with the
same secrets can take them, and nobody can read them.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jwt
from flask import Flask
from flask_jwt_extended import JWTManager, decode_token
from flask_jwt_extended.exceptions import JWTExtendedException
from jwt.exceptions import InvalidTokenError, PyJWTError

from proxy.config import Config
from proxy.credentials import Credentials
from proxy.errors import Unauthorized
from proxy.sealing import derive, key_id, seal, signing_key, unseal

Kind = Literal["access", "refresh"]

ALGORITHM = "HS256"
PARTY = "stations"  # issuer and audience
FAMILY_SECONDS = 30 * 86_400
MAX_TOKEN_BYTES = 8190  # no longer one fits a request header
LEEWAY_SECONDS = 5  # by which the clock of the replica that issued a token may be ahead of ours
MAX_REMEMBERED = 8192
MAX_REVOKED = 100_000
SWEEP_SECONDS = 60.0

_FAMILY = re.compile(r"[\w-]{1,64}\.\d{1,12}", re.ASCII)
_CLAIMS = {
    "iss": str,
    "aud": str,
    "sub": str,
    "exp": int,
    "iat": int,
    "nbf": int,
    "jti": str,
    "type": str,
    "fam": str,
    "cred": str,
}


class Key(NamedTuple):
    """The keys that come from one secret for one kind of token: to sign with, and to seal with."""

    id: str
    signing: bytes
    sealing: bytes

    def __repr__(self) -> str:
        return f"Key(id={self.id!r})"


class Caller(NamedTuple):
    """Who a token speaks for, until when (Unix time), and the family of tokens it belongs to."""

    credentials: Credentials
    expires: int
    family: str


class Issued(NamedTuple):
    """A pair of new tokens and their lifetimes in seconds."""

    access: str
    access_seconds: int
    refresh: str
    refresh_seconds: int

    def __repr__(self) -> str:
        return f"Issued(access_seconds={self.access_seconds}, refresh_seconds={self.refresh_seconds})"


class Tokens:
    """Issues and verifies the tokens of one gateway. Replicas with the same secrets take each other's."""

    def __init__(self, config: Config) -> None:
        self._config = config
        access = [config.jwt_secret, config.jwt_secret_previous]
        refresh = [config.refresh_jwt_secret, config.refresh_jwt_secret_previous]
        if not config.refresh_jwt_secret:
            refresh = [derive(secret, "refresh").hex() if secret else "" for secret in access] + refresh
        # Memphis' own gateway, which may have the same secret, takes much that is signed with it for a token of root's.
        sign = _apart if config.at_memphis else signing_key
        self._keys = {"access": _keys("access", access, sign), "refresh": _keys("refresh", refresh, sign)}
        self._remembered: dict[str, Caller] = {}
        self._revoked: dict[str, int] = {}  # families, and when their last tokens expire
        self._swept = 0.0
        #: Called before a token is taken; raises while it is not known which were revoked before this process began.
        self.prepare: Callable[[], None] = lambda: None

    def init_app(self, app: Flask, refuse: Callable[..., Any]) -> None:
        """Makes `@jwt_required()` and `get_jwt()` work in the application, by our rules.

        `refuse` makes the 401 answer to whatever is wrong with a token.
        """
        app.config.update(
            JWT_ALGORITHM=ALGORITHM,
            JWT_DECODE_ALGORITHMS=[ALGORITHM],
            JWT_DECODE_AUDIENCE=PARTY,
            JWT_DECODE_ISSUER=PARTY,
            JWT_DECODE_LEEWAY=LEEWAY_SECONDS,
            JWT_TOKEN_LOCATION=["headers"],
        )
        manager = JWTManager(app)
        manager.decode_key_loader(self._decoding_key)
        manager.token_in_blocklist_loader(lambda header, claims: self._is_revoked(claims["fam"]))
        for loader in (
            manager.expired_token_loader,
            manager.invalid_token_loader,
            manager.needs_fresh_token_loader,
            manager.revoked_token_loader,
            manager.token_verification_failed_loader,
            manager.unauthorized_loader,
            manager.user_lookup_error_loader,
        ):
            loader(lambda *_: refuse())

    def issue(
        self, credentials: Credentials, access_minutes: int = 0, refresh_minutes: int = 0, family: str = ""
    ) -> Issued:
        """New tokens for proved credentials. Lifetimes of 0 and below are the configured ones; all are capped.

        `family` is that of the refresh token they are made from; all its tokens end 30 days after it began.
        """
        now = int(time.time())
        family = family or f"{secrets.token_urlsafe(9)}.{now}"
        config = self._config
        left = _family_end(family) - now
        access_seconds = min(left, self._lifetime(access_minutes, config.jwt_expires_in_minutes))
        refresh_seconds = min(left, self._lifetime(refresh_minutes, config.refresh_jwt_expires_in_minutes))
        return Issued(
            self._sign("access", credentials, now, access_seconds, family),
            access_seconds,
            self._sign("refresh", credentials, now, refresh_seconds, family),
            refresh_seconds,
        )

    def verify(self, token: str, kind: Kind = "access") -> Caller:
        """The caller that a token speaks for. Raises `Unauthorized`. Needs the application context."""
        caller = self.remembered(token) if kind == "access" else None
        if caller is None:
            caller = self._verify(token, kind)
            if kind == "access":
                self._remember(token, caller)
        # Looked at after it is remembered: whoever revokes notes the family first, and then forgets its tokens.
        if caller.family in self._revoked:
            self._remembered.pop(token, None)
            raise Unauthorized
        return caller

    def verify_refresh(self, token: str) -> Caller | None:
        """The caller of a refresh token; None for anything else. Needs the application context."""
        try:
            return self.verify(token, "refresh")
        except Unauthorized:
            return None

    def verify_any(self, token: str) -> Caller | None:
        """The caller of an access or a refresh token; None for anything else. Needs the application context."""
        try:
            return self.verify(token)
        except Unauthorized:
            return self.verify_refresh(token)

    def remembered(self, token: str) -> Caller | None:
        """The caller of an access token that was verified before and has not expired. Needs no context."""
        caller = self._remembered.get(token)
        if caller is not None and caller.expires <= time.time():
            self._remembered.pop(token, None)
            return None
        return caller

    def check(self, caller: Caller) -> None:
        """Sees that who was verified a while ago has not been logged out since. Raises `Unauthorized`."""
        if caller.family in self._revoked:
            raise Unauthorized

    def end_of(self, caller: Caller) -> int:
        """When the last token of this caller's family expires at the latest (Unix time)."""
        longest = 60 * self._config.max_token_expiry_in_minutes
        return min(_family_end(caller.family), int(time.time()) + LEEWAY_SECONDS + longest)

    @property
    def can_revoke(self) -> bool:
        """Whether there is room to remember another revoked family."""
        return len(self._revoked) < MAX_REVOKED

    def revoke(self, ends: Mapping[str, int]) -> None:
        """Refuses all tokens of these families from now on; each is remembered until its end (Unix time).

        May be called on any thread, by one at a time. Above `MAX_REVOKED` the one known longest is forgotten; before
        that `can_revoke` is false.
        """
        self._sweep(time.time())
        new = {family: end for family, end in ends.items() if family not in self._revoked}
        self._revoked.update(new)
        while len(self._revoked) > MAX_REVOKED:
            del self._revoked[next(iter(self._revoked))]
        if new:  # `list` copies at once, while others may remember more
            for token, caller in list(self._remembered.items()):
                if caller.family in new:
                    self._remembered.pop(token, None)

    def _is_revoked(self, family: str) -> bool:
        self.prepare()
        return family in self._revoked

    def _sweep(self, now: float) -> None:
        """Forgets families of which no token lives any more; once a minute is enough."""
        if now - self._swept >= SWEEP_SECONDS:
            self._swept = now
            for family in [family for family, end in self._revoked.items() if end <= now]:
                del self._revoked[family]

    def _verify(self, token: str, kind: Kind) -> Caller:
        if not token or len(token) > MAX_TOKEN_BYTES or not token.isascii():
            raise Unauthorized
        try:
            claims = decode_token(token)
            key = self._key(jwt.get_unverified_header(token).get("kid"), kind)
        except (PyJWTError, JWTExtendedException, ValueError, RecursionError):
            raise Unauthorized from None
        if claims["type"] != kind:
            raise Unauthorized
        self.prepare()
        user, secret, account = json.loads(unseal(key.sealing, claims["cred"], claims["jti"]))
        credentials = Credentials(user, secret, account, tenants=self._config.at_memphis)
        return Caller(credentials, self._end(claims), claims["fam"])

    def _decoding_key(self, header: dict[str, Any], claims: dict[str, Any]) -> bytes:
        """flask-jwt-extended asks for the key of a token that it has not verified yet."""
        for name, kind in _CLAIMS.items():
            if type(claims.get(name)) is not kind:
                raise InvalidTokenError(f"claim {name} is absent or of another type")
        if not _FAMILY.fullmatch(claims["fam"]):
            raise InvalidTokenError("claim fam is of another form")
        if self._end(claims) <= time.time():  # PyJWT's leeway is for `iat` and `nbf`, and would count here too
            raise InvalidTokenError("expired")
        return self._key(header.get("kid"), claims["type"]).signing

    def _end(self, claims: dict[str, Any]) -> int:
        """When a token expires; one that was issued for longer than is allowed by now would outlive its log-out."""
        return int(min(claims["exp"], claims["iat"] + 60 * self._config.max_token_expiry_in_minutes))

    def _key(self, key_id: Any, kind: str) -> Key:
        for key in self._keys.get(kind, ()):
            if key.id == key_id:
                return key
        raise InvalidTokenError("no such key")

    def _remember(self, token: str, caller: Caller) -> None:
        """Keeps the table bounded: the oldest goes. Greenlets do not switch in here; threads at worst drop two."""
        if len(self._remembered) >= MAX_REMEMBERED:
            self._remembered.pop(next(iter(self._remembered)), None)
        self._remembered[token] = caller

    def _lifetime(self, minutes: int, default: int) -> int:
        return 60 * min(minutes if minutes > 0 else default, self._config.max_token_expiry_in_minutes)

    def _sign(self, kind: Kind, credentials: Credentials, now: int, seconds: int, family: str) -> str:
        key = self._keys[kind][0]
        jti = secrets.token_urlsafe(12)
        content = json.dumps([credentials.user, credentials.secret, credentials.account]).encode()
        claims = {
            "iss": PARTY,
            "aud": PARTY,
            "sub": credentials.user,
            "exp": now + seconds,
            "iat": now,
            "nbf": now,
            "jti": jti,
            "type": kind,
            "fam": family,
            "cred": seal(key.sealing, content, jti),
        }
        return jwt.encode(claims, key.signing, ALGORITHM, headers={"kid": key.id})


def _keys(kind: Kind, known: list[str], sign: Callable[[str], bytes]) -> list[Key]:
    """The keys of the secrets that are set, the current one first."""
    return [Key(key_id(secret), sign(secret), derive(secret, f"cred/{kind}")) for secret in known if secret]


def _apart(secret: str) -> bytes:
    """A key to sign with that is never the secret itself."""
    return derive(secret, "sign")


def _family_end(family: str) -> int:
    return int(family.rpartition(".")[2]) + FAMILY_SECONDS
