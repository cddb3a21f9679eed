"""Says where a payload of a protobuf message is wrong, once it is known that it is.

Everything here is bounded: it reads so many fields of the payload and no more, and a fault behind them is told without
its place.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from proxy.validators import MAX_VIOLATIONS, Violation
from proxy.validators.protobuf_wire import LENGTH, VARINT, Malformed, Part, Walk, varint

MAX_FIELDS_READ = 50_000
MAX_MESSAGES_READ = 20_000
_ENOUGH = MAX_VIOLATIONS + 1

# A field may have the name of a method and hides it, so methods are taken from the class that all messages share.
_has_field = Empty.HasField
_is_initialized = Empty.IsInitialized
_list_fields = Empty.ListFields


def malformed(payload: bytes, root: Descriptor) -> Violation:
    """Why a payload that the library cannot read is none of that message."""
    expected = f"invalid message format, expecting protobuf {root.full_name}"
    walk = Walk(payload, root)
    try:
        for part in islice(walk, MAX_FIELDS_READ):
            if _is_text(part) and not _is_utf8(payload[part.start : part.end]):
                return Violation(walk.path(), "utf-8", f"{expected}: the string at byte {part.start} is not UTF-8")
    except Malformed as fault:
        hint = " (it looks like JSON)" if payload[:1] in (b"{", b"[", b'"') else ""
        return Violation(fault.path, "wire-format", f"{expected}: {fault.reason}, at byte {fault.at}{hint}")
    return Violation("", "wire-format", expected)


def unknown(payload: bytes, root: Descriptor) -> list[Violation]:
    """What a payload holds that the schema does not know; at least one."""
    walk = Walk(payload, root)
    found: list[Violation] = []
    with contextlib.suppress(Malformed):  # inside of an unknown group, where the library is less exact
        for part in islice(walk, MAX_FIELDS_READ):
            if reason := part.unknown or _unknown_value(payload, part):
                found.append(Violation(walk.path(), "unknown", f"{reason}, at byte {part.at}"))
            if len(found) == _ENOUGH:
                break
    return found or [Violation("", "unknown", "there are fields that are not known")]


def unset(message: Message) -> list[Violation]:
    """The required fields that are not set in a message, at any depth; at least one."""
    found = list(islice(_unset(message), _ENOUGH))
    return found or [Violation("", "required", "required fields are missing")]


def _is_text(part: Part) -> bool:
    return part.known is not None and part.known.text


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _unknown_value(payload: bytes, part: Part) -> str:
    """Names a value that a closed enum (proto2) does not have; readers treat it like an unknown field."""
    enum = part.known.enum if part.known is not None else None
    if enum is None or not enum.is_closed or part.wire not in (VARINT, LENGTH):
        return ""
    for value in islice(_numbers(payload, part.start, part.end), MAX_FIELDS_READ):
        if value not in enum.values_by_number:
            return f"{enum.full_name} has no value {value}"
    return ""


def _numbers(payload: bytes, at: int, end: int) -> Iterator[int]:
    """The values of varints, as 32 bits with a sign."""
    while 0 <= at < end:
        value, at = varint(payload, at, end)
        yield (value & 0xFFFF_FFFF ^ 0x8000_0000) - 0x8000_0000


def _unset(message: Message) -> Iterator[Violation]:
    waiting = [("", message)]
    for _ in range(MAX_MESSAGES_READ):
        if not waiting:
            return
        path, one = waiting.pop()
        for field in type(one).DESCRIPTOR.fields:
            if field.is_required and not _has_field(one, field.name):
                yield Violation(path + field.name, "required", "required field is missing")
        waiting += reversed([*islice(_incomplete(path, one), MAX_MESSAGES_READ - len(waiting))])


def _incomplete(path: str, message: Message) -> Iterator[tuple[str, Message]]:
    """The messages in a message that lack something, with their paths."""
    for field, value in _list_fields(message):
        if field.message_type is not None:
            name = f"[{field.full_name}]" if field.is_extension else field.name
            for label, inner in islice(_inner(field, field.message_type, value), MAX_MESSAGES_READ):
                if not _is_initialized(inner):
                    yield f"{path}{name}{label}.", inner


def _inner(field: FieldDescriptor, type_: Descriptor, value: Any) -> Iterator[tuple[str, Message]]:
    if not field.is_repeated:
        yield "", value
    elif not type_.GetOptions().map_entry:
        yield from ((f"[{index}]", one) for index, one in enumerate(value))
    elif type_.fields_by_name["value"].message_type is not None:
        # proto2 has keys that are not UTF-8; they come as bytes, and the library hands out no value for them.
        yield from ((f"[{json.dumps(key)}]", value[key]) for key in value if not isinstance(key, bytes))
