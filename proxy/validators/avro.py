"""Avro: a payload is a value of the schema, as JSON or as binary data.

Which of the two it is nobody says, so its form does: what is JSON, and an object or an array, is judged as JSON alone;
what is not must be binary. See docs/decisions/0016.
"""

from __future__ import annotations

import functools
import re

import msgspec
from fastavro.schema import fingerprint, to_parsing_canonical_form

from proxy.errors import BadSchema
from proxy.messages import Schema
from proxy.shaping import reason
from proxy.validators import Violation, avro_binary, avro_json, avro_schema

_LOOKS_LIKE_JSON = re.compile(rb"[ \t\r\n]*[\[{]")
# Single-object encoding: this, eight bytes that say which schema, and the value.
_MARK = b"\xc3\x01"
MAX_BRACKETS = avro_json.MAX_STEPS // 2
_decode = msgspec.json.Decoder().decode
_element = msgspec.json.Decoder(msgspec.Raw).decode


class Avro:
    """A compiled Avro schema. `strict` refuses the fields of JSON that a record does not have."""

    label = "avro"

    def __init__(self, schema: Schema) -> None:
        self._root, defaults = avro_schema.read(schema.definition)
        self._check, check_of = avro_json.compiled(self._root, schema.strict)
        self._skip = avro_binary.compiled(self._root)
        if wrong := avro_json.wrong_default(defaults, check_of):
            field, found = wrong
            raise BadSchema(f"{field.place}/default{found.pointer}: {found.message}")

    @staticmethod
    def prepare(schema: Schema) -> Schema:
        """The schema as it is, checked in full; fastavro has to understand it too. Raises `BadSchema`."""
        Avro(schema)._header  # noqa: B018 - made by fastavro
        return schema

    def violations(self, payload: bytes) -> list[Violation]:
        """What is wrong with a payload, with JSON Pointers: all of it for JSON, the first thing for binary data."""
        if _LOOKS_LIKE_JSON.match(payload):
            return self._as_json(payload)
        wrong = self._as_binary(payload)
        return [] if wrong is None or self._is_scalar(payload) else [wrong]

    def _as_json(self, payload: bytes) -> list[Violation]:
        # Brackets in strings are counted too. So many objects take long to make, and more than all steps to check.
        if payload.count(b"[") + payload.count(b"{") > MAX_BRACKETS:
            return self._beyond(payload, f"has more than {MAX_BRACKETS} brackets that open")
        try:
            document = _decode(payload)
        except msgspec.ValidationError:
            return self._beyond(payload, "has a number that is out of the range of all types")
        except RecursionError:
            return [Violation("", "depth", f"is nested too deeply (at most {avro_json.MAX_DEPTH} levels)")]
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            if self._as_binary(payload) is None:
                return []
            return [Violation("", "encoding", f"is neither Avro's binary encoding nor JSON: {reason(payload, error)}")]
        return avro_json.violations(self._check, document)

    def _beyond(self, payload: bytes, message: str) -> list[Violation]:
        """What is wrong with JSON that is not looked at; what is none after all is binary."""
        wrong = Violation("", "size", message) if _is_json(payload) else self._as_binary(payload)
        return [] if wrong is None else [wrong]

    def _is_scalar(self, payload: bytes) -> bool:
        """Whether it is a string, a number, true, false or null in JSON, and valid."""
        try:
            return not avro_json.violations(self._check, _decode(payload))
        except (msgspec.DecodeError, UnicodeDecodeError):
            return False

    def _as_binary(self, payload: bytes) -> Violation | None:
        if payload.startswith(_MARK) and payload.startswith(self._header):
            payload = payload[len(self._header) :]
        return avro_binary.violation(self._skip, payload)

    @functools.cached_property
    def _header(self) -> bytes:
        """What begins the single-object encoding of this schema's values."""
        form = to_parsing_canonical_form(avro_schema.canonical(self._root))
        return _MARK + bytes.fromhex(fingerprint(form, "CRC-64-AVRO"))


def _is_json(payload: bytes) -> bool:
    """Whether it is well-formed; makes no objects."""
    try:
        payload.decode()
        _element(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    except RecursionError:  # which is told as such
        return True
    return True
