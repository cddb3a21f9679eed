"""What the routes for consuming take."""

from __future__ import annotations

import re
from typing import Any

from marshmallow import Schema, ValidationError, fields, post_load, validate, validates_schema

MOST_MESSAGES = 5000  # as Memphis' gateway had it
LEAST_WAIT_MS = 100  # what a negative wait is, likewise
MAX_DELAY_MS = 86_400_000

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9_.-]{0,126}[a-z0-9])?\Z", re.ASCII | re.IGNORECASE)
_GROUP_CHARACTERS = 115  # a Memphis broker knows it by a name that is 13 longer, of 128 at most
_BAD_NAME = (
    "Only alphanumeric and the '_', '-', '.' characters are allowed in {what}, at most {most} of them, "
    "the first and the last alphanumeric"
)


def _named(what: str, most: int) -> list[Any]:
    error = _BAD_NAME.format(what=what, most=most)
    return [validate.Regexp(_NAME, error=error), validate.Length(max=most, error=error)]


class Consume(Schema):
    """A consume. A size or wait of 0 is the default, as ever."""

    consumer_name = fields.String(
        required=True,
        validate=_named("Consumer", 128),
        error_messages={"required": "Consumer name is required"},
    )
    consumer_group = fields.String(load_default="")
    batch_size = fields.Integer(strict=True, load_default=0)
    batch_max_wait_time_ms = fields.Integer(strict=True, load_default=0)
    ack = fields.String(load_default="auto", validate=validate.OneOf(["auto", "manual"]))

    @validates_schema
    def check(self, data: dict[str, Any], **_: Any) -> None:
        """What is more than the form of a field: empty names and zeros stand for defaults."""
        if data["consumer_group"]:
            for rule in _named("consumer_group", _GROUP_CHARACTERS):
                rule(data["consumer_group"])
        if not 0 <= data["batch_size"] <= MOST_MESSAGES:
            raise ValidationError(
                f"Batch size can not be greater than {MOST_MESSAGES} or less than 1", field_name="batch_size"
            )

    @post_load
    def settle(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Fills in the defaults; names have no case."""
        wait = data["batch_max_wait_time_ms"] or 5000
        return {
            **data,
            "consumer_name": data["consumer_name"].lower(),
            "consumer_group": data["consumer_group"].lower(),
            "batch_size": data["batch_size"] or 10,
            "batch_max_wait_time_ms": wait if wait > 0 else LEAST_WAIT_MS,
        }


class _Ids(fields.List[str]):
    """Not too many ids. A list that is too long is not looked into: each thing in it that is no id would be told."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[Any]:
        if isinstance(value, list) and not 1 <= len(value) <= MOST_MESSAGES:
            raise ValidationError(f"must have 1 to {MOST_MESSAGES} ids")
        return super()._deserialize(value, attr, data, **kwargs)


class Acks(Schema):
    """Ids of messages to ack."""

    ack_ids = _Ids(fields.String(), load_default=None)
    ack_id = fields.String(load_default=None)

    @validates_schema
    def check(self, data: dict[str, Any], **_: Any) -> None:
        """One of the two."""
        if (data["ack_ids"] is None) == (data["ack_id"] is None):
            raise ValidationError("must be there, or else ack_id", field_name="ack_ids")

    @post_load
    def settle(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        """One id is a list of one."""
        return {**data, "ack_ids": [data["ack_id"]] if data["ack_ids"] is None else data["ack_ids"]}


class Nacks(Acks):
    """Ids of messages to deliver again."""

    delay_ms = fields.Integer(strict=True, load_default=0, validate=validate.Range(0, MAX_DELAY_MS))
