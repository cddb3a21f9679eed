"""Bodies of the `/schemas` routes, and of those for a station's schema. Unknown fields are an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marshmallow import Schema, ValidationError, fields, post_load, validate, validates_schema

MAX_DEFINITION = 256 << 10
MAX_NAME = 512
_IN_JSON = ("json", "avro")


class JsonText(str):
    """A definition that was sent as a JSON value, not as a text: the value's own characters."""

    __slots__ = ()


class _Flag(fields.Boolean):
    """`true` or `false`, and nothing that merely looks like them."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid")
        return value


class _Written(fields.String):
    """A text, or a JSON value as it was written."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        text = super()._deserialize(value, attr, data, **kwargs)
        return value if isinstance(value, JsonText) else text


class Definition(Schema):
    """`PUT /schemas/<name>`: what the schema is from now on."""

    type = fields.String(required=True)
    definition = _Written(required=True, validate=validate.Length(max=MAX_DEFINITION))
    message_struct_name = fields.String(load_default="", validate=validate.Length(max=MAX_NAME))
    strict = _Flag(load_default=False)

    @validates_schema
    def _is_text(self, data: Mapping[str, Any], **_: Any) -> None:
        if isinstance(data.get("definition"), JsonText) and data.get("type") not in _IN_JSON:
            raise ValidationError(f"Must be a text; only those of {' and '.join(_IN_JSON)} may be JSON.", "definition")

    @post_load
    def _plain(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {**data, "definition": str(data["definition"])}


class Demanded(Schema):
    """`PUT /stations/<station>/schema`: what the station demands from now on; without a version the newest one."""

    schema = fields.String(required=True, validate=validate.Length(min=1, max=MAX_NAME))
    version = fields.Integer(strict=True, load_default=None, allow_none=True, validate=validate.Range(1, 10**9))
    dead_letter = _Flag(load_default=False)


class SchemaOf(Schema):
    """`schema` in answers: one version of a schema."""

    name = fields.String()
    version = fields.Integer()
    type = fields.String()
    definition = fields.String()
    message_struct_name = fields.String()
    strict = fields.Boolean()


class SchemaIn(Schema):
    """One of `schemas` in the list of all: what there is, and its newest version."""

    name = fields.String()
    version = fields.Integer()
    type = fields.String()


class AttachmentOf(Schema):
    """`attachment` in answers: which schema a station demands; `version` is null where it follows the newest."""

    station = fields.String()
    schema = fields.String()
    version = fields.Integer(allow_none=True)
    dead_letter = fields.Boolean()
