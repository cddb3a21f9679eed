"""What the `/stations` routes take beside the message itself, and what they answer."""

from __future__ import annotations

from marshmallow import Schema, fields, validate


class Key(Schema):
    """The sender's de-duplication id."""

    key = fields.String(
        required=True,
        validate=validate.Regexp(r"[\x21-\x7e]{1,200}\Z", error="must be 1 to 200 visible ASCII characters"),
    )


class AckOf(Schema):
    """`ack` in the answer to a single produce: where the message is."""

    station = fields.String()
    sequence = fields.Integer()
    duplicate = fields.Boolean(allow_none=True)


class AckAt(AckOf):
    """One of `acks` in the answer to a batch: which message is where."""

    index = fields.Integer()
