"""Bodies of the `/auth` routes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marshmallow import EXCLUDE, Schema, ValidationError, fields, validate, validates_schema

MAX_TEXT = 1024


class _Lifetimes(Schema):
    """What both routes take: lifetimes in minutes; 0 and below mean the default. Unknown fields are ignored."""

    class Meta:
        """Old clients send more than we need."""

        unknown = EXCLUDE

    token_expiry_in_minutes = fields.Integer(strict=True, load_default=0)
    refresh_token_expiry_in_minutes = fields.Integer(strict=True, load_default=0)


class Authenticate(_Lifetimes):
    """`POST /auth/authenticate`: a user, and a connection token, a password, or both.

    An empty one is as good as none, as old clients send both.
    """

    username = fields.String(required=True, validate=validate.Length(min=1, max=MAX_TEXT))
    connection_token = fields.String(load_default="", validate=validate.Length(max=MAX_TEXT))
    password = fields.String(load_default="", validate=validate.Length(max=MAX_TEXT))
    account_id = fields.Integer(strict=True, validate=validate.Range(0, 10**9))

    @validates_schema
    def _has_a_secret(self, data: Mapping[str, Any], **_: Any) -> None:
        if not data["connection_token"] and not data["password"]:
            raise ValidationError("Missing data for required field (or password).", "connection_token")


class Refresh(_Lifetimes):
    """`POST /auth/refreshToken`: a refresh token, if it is not in the cookie or header."""

    jwt_refresh_token = fields.String(load_default="", allow_none=True)


class Tokens(Schema):
    """The answer of both routes; lifetimes in milliseconds."""

    expires_in = fields.Function(lambda issued: issued.access_seconds * 1000)
    jwt = fields.String(attribute="access")
    jwt_refresh_token = fields.String(attribute="refresh")
    refresh_token_expires_in = fields.Function(lambda issued: issued.refresh_seconds * 1000)
