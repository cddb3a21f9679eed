"""Protobuf: a payload is one message, in the wire format, of a type that a `.proto` definition declares.

Messages are read by the library's own parser (upb, in C). A definition is compiled when it is registered, never here.
"""

from __future__ import annotations

import msgspec
from google.protobuf import message_factory
from google.protobuf.empty_pb2 import Empty
from google.protobuf.internal import api_implementation
from google.protobuf.message import DecodeError

from proxy.errors import BadSchema, Unavailable
from proxy.messages import Schema
from proxy.validators import Violation, protoc
from proxy.validators import protobuf_faults as faults
from proxy.validators.protobuf_depth import Depth
from proxy.validators.protobuf_descriptors import fields, load, reachable
from proxy.validators.protobuf_weights import Weights

# A field may have the name of a method and hides it, so methods are taken from the class that all messages share.
_parse = Empty.ParseFromString
_is_initialized = Empty.IsInitialized
_serialize = Empty.SerializePartialToString
_discard_unknown = Empty.DiscardUnknownFields

# `_discard_unknown` goes 64 levels deep, and then stops without a word.
MAX_STRICT_DEPTH = 62


class Protobuf:
    """Checks payloads against the message that `message_struct_name` names, or the first one of the definition.

    The schema's `compiled` is a serialized `FileDescriptorSet` as protoc writes it, with or without the well-known
    types that it imports; `definition` is not looked at. Raises `BadSchema` for one that is not valid or too large.
    """

    label = "protobuf"

    def __init__(self, schema: Schema) -> None:
        if api_implementation.Type() != "upb":
            raise Unavailable("protobuf cannot be checked here: the package protobuf comes without its parser in C")
        if not schema.compiled:
            raise BadSchema("the protobuf definition is not compiled; register it again")
        try:
            self._build(schema)
        # What the library raises for descriptors that are none, contradict themselves, or hold names that are no text.
        except (DecodeError, TypeError, ValueError, KeyError, RecursionError) as error:
            raise BadSchema(f"the compiled definition is not valid: {str(error)[-300:]}") from None

    def _build(self, schema: Schema) -> None:
        self._root = load(schema.compiled, schema.message_struct_name)
        self._message = message_factory.GetMessageClass(self._root)
        self._weights = Weights(self._root)
        self._has_required = any(field.is_required for type_ in reachable(self._root) for field in fields(type_))
        self._depth = Depth(self._root, MAX_STRICT_DEPTH) if schema.strict else None

    @staticmethod
    def prepare(schema: Schema) -> Schema:
        """Compiles the definition, which takes a process and about a tenth of a second. Raises `BadSchema`."""
        prepared = msgspec.structs.replace(schema, compiled=protoc.compiled(schema.definition))
        Protobuf(prepared)
        return prepared

    def violations(self, payload: bytes) -> list[Violation]:
        """What is wrong with it: its format, required fields that are missing, and, if strict, what is unknown."""
        if len(payload) > self._weights.light and self._weights.too_heavy(payload):
            return [Violation("", "size", "it holds too many messages or fields to be checked")]
        try:
            found, all_known = self._read(payload)
        except DecodeError:
            return [faults.malformed(payload, self._root)]
        if not all_known:
            found += faults.unknown(payload, self._root)
        elif self._depth is not None and self._depth.exceeded(payload):
            found += [Violation("", "strict", f"messages nest deeper than {MAX_STRICT_DEPTH}, too deep for strict")]
        return found

    def _read(self, payload: bytes) -> tuple[list[Violation], bool]:
        """The required fields that a payload lacks, and whether the schema knows all that it holds, if that counts."""
        message = self._message()
        _parse(message, payload)
        found = faults.unset(message) if self._has_required and not _is_initialized(message) else []
        if self._depth is None:
            return found, True
        size = len(_serialize(message))
        _discard_unknown(message)
        return found, len(_serialize(message)) == size
