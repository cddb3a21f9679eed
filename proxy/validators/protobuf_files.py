"""Reads a serialized `FileDescriptorSet` that nobody vouches for.

The bytes come from a registry that users write to, and the library trusts descriptors: a map entry whose value has
another number than 2, for one, ends the process when such a map is read. So the set is bounded in size, everything is
taken out of it that has no influence on which payloads are valid (options, services, defaults, ...), and what the
library would take for granted is checked. Everything else its own pool checks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet
from google.protobuf.message import Message

from proxy.errors import BadSchema

MAX_BYTES = 512 * 1024
MAX_FILES = 32
MAX_MESSAGES = 1_000
MAX_FIELDS = 10_000
MAX_NESTING = 32
MAX_NAME_CHARACTERS = 1_000

_KEPT = {
    "FileDescriptorSet": {"file"},
    "FileDescriptorProto": {
        *("name", "package", "dependency", "message_type", "enum_type", "extension"),
        *("options", "syntax", "edition"),
    },
    "DescriptorProto": {
        *("name", "field", "nested_type", "enum_type", "extension_range", "extension"),
        *("oneof_decl", "options"),
    },
    "ExtensionRange": {"start", "end"},
    "FieldDescriptorProto": {
        *("name", "number", "label", "type", "type_name", "extendee"),
        *("oneof_index", "proto3_optional", "options"),
    },
    "OneofDescriptorProto": {"name"},
    "EnumDescriptorProto": {"name", "value", "options"},
    "EnumValueDescriptorProto": {"name", "number"},
    "FileOptions": {"features"},
    "MessageOptions": {"map_entry", "features"},
    "FieldOptions": {"packed", "features"},
    "EnumOptions": {"allow_alias", "features"},
    "FeatureSet": {
        *("field_presence", "enum_type", "repeated_field_encoding", "utf8_validation"),
        "message_encoding",
    },
}

_KEY_TYPES = {
    *(FieldDescriptorProto.TYPE_INT32, FieldDescriptorProto.TYPE_INT64),
    *(FieldDescriptorProto.TYPE_UINT32, FieldDescriptorProto.TYPE_UINT64),
    *(FieldDescriptorProto.TYPE_SINT32, FieldDescriptorProto.TYPE_SINT64),
    *(FieldDescriptorProto.TYPE_FIXED32, FieldDescriptorProto.TYPE_FIXED64),
    *(FieldDescriptorProto.TYPE_SFIXED32, FieldDescriptorProto.TYPE_SFIXED64),
    *(FieldDescriptorProto.TYPE_BOOL, FieldDescriptorProto.TYPE_STRING),
}


class Named(NamedTuple):
    """A message of a file, with its full name."""

    name: str
    proto: DescriptorProto
    nesting: int


def read(compiled: bytes) -> list[FileDescriptorProto]:
    """The files of a set. Raises `BadSchema`, and what the library raises for bytes or names that are none."""
    if len(compiled) > MAX_BYTES:
        raise BadSchema(f"the compiled definition is larger than {MAX_BYTES} bytes")
    parsed = FileDescriptorSet.FromString(compiled)
    files = list(parsed.file)
    if not 0 < len(files) <= MAX_FILES:
        raise BadSchema(f"the compiled definition must hold 1 to {MAX_FILES} files")
    _check_sizes(files)
    _check_maps(files)
    _trim(parsed)
    parsed.DiscardUnknownFields()
    return files


def messages(file: FileDescriptorProto) -> Iterator[Named]:
    """All messages of a file in the order of its text. Raises `BadSchema` for those that nest too deeply."""
    waiting = [Named(joined(file.package, one.name), one, 1) for one in reversed(file.message_type)]
    while waiting:
        one = waiting.pop()
        if one.nesting > MAX_NESTING or len(one.name) > MAX_NAME_CHARACTERS:
            raise BadSchema(f"{one.name[:100]}: messages nest too deeply, or have too long names")
        yield one
        inner = [(joined(one.name, proto.name), proto) for proto in reversed(one.proto.nested_type)]
        waiting += [Named(name, proto, one.nesting + 1) for name, proto in inner]


def joined(package: str, name: str) -> str:
    """The full name of what has that name there."""
    return f"{package}.{name}" if package else name


def _check_sizes(files: list[FileDescriptorProto]) -> None:
    count = values = 0
    for file in files:
        values += len(file.extension) + sum(len(enum.value) for enum in file.enum_type)
        for one in messages(file):
            count += 1
            values += 1 + len(one.proto.field) + len(one.proto.extension) + len(one.proto.oneof_decl)
            values += sum(len(enum.value) for enum in one.proto.enum_type)
            _check_size(count, values)
    _check_size(count, values)


def _check_size(count: int, values: int) -> None:
    if count > MAX_MESSAGES:
        raise BadSchema(f"the definition has more than {MAX_MESSAGES} messages")
    if values > MAX_FIELDS:
        raise BadSchema(f"the definition has more than {MAX_FIELDS} fields and enum values")


def _check_maps(files: list[FileDescriptorProto]) -> None:
    """Sees that map entries are as protoc makes them, and are used for maps alone, by the message that they are in."""
    named = [one for file in files for one in messages(file)]
    entries = {f".{one.name}" for one in named if one.proto.options.map_entry}
    for one in named:
        if one.proto.options.message_set_wire_format:
            raise BadSchema(f"{one.name}: message_set_wire_format is not supported")
        if f".{one.name}" in entries and not _is_entry(one.proto):
            raise BadSchema(f"{one.name} is not the entry of a map")
        _check_fields(one.proto.field, entries, f".{one.name}.")
        _check_fields(one.proto.extension, entries, "")
    for file in files:
        _check_fields(file.extension, entries, "")


def _is_entry(proto: DescriptorProto) -> bool:
    fields = [(field.name, field.number, field.label) for field in proto.field]
    optional = FieldDescriptorProto.LABEL_OPTIONAL
    return (
        fields == [("key", 1, optional), ("value", 2, optional)]
        and proto.field[0].type in _KEY_TYPES
        and proto.field[1].type != FieldDescriptorProto.TYPE_GROUP
        and not any(field.HasField("oneof_index") for field in proto.field)
        and not (proto.nested_type or proto.enum_type or proto.extension_range or proto.extension or proto.oneof_decl)
    )


def _check_fields(fields: Iterable[FieldDescriptorProto], entries: set[str], home: str) -> None:
    for field in fields:
        if field.type_name and not field.type_name.startswith("."):
            raise BadSchema(f"{field.name[:100]}: names of types must be complete in a compiled definition")
        if field.type_name in entries and not (
            home
            and field.type_name.rpartition(".")[0] + "." == home
            and field.type == FieldDescriptorProto.TYPE_MESSAGE
            and field.label == FieldDescriptorProto.LABEL_REPEATED
        ):
            raise BadSchema(f"{field.name[:100]}: the entry of a map is used for something else")


def _trim(message: Message) -> None:
    """Clears all fields but those that decide which payloads are valid."""
    kept = _KEPT[message.DESCRIPTOR.name]
    for field, value in message.ListFields():
        if field.name not in kept:
            message.ClearField(field.name)
        elif field.message_type is not None:
            for inner in value if field.is_repeated else [value]:
                _trim(inner)
