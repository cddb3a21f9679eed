"""Reads the wire format of protobuf field by field, to say where in a payload something is wrong.

The library decides whether a payload is valid; this tells places, which it does not. Source:
https://protobuf.dev/programming-guides/encoding/. Time is bounded by the number of fields that are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from proxy.validators.protobuf_descriptors import fields

MAX_DEPTH = 100
VARINT, FIXED64, LENGTH, START_GROUP, END_GROUP, FIXED32 = range(6)
_FIXED = {FIXED64: 8, FIXED32: 4}
_WIRE_NAMES = ("varint", "64-bit", "length-delimited", "group", "end of group", "32-bit")
_MAX_NUMBER = (1 << 29) - 1
_MAX_LENGTH = (1 << 31) - 1

_WIRE_TYPES = {
    FieldDescriptor.TYPE_DOUBLE: FIXED64,
    FieldDescriptor.TYPE_FIXED64: FIXED64,
    FieldDescriptor.TYPE_SFIXED64: FIXED64,
    FieldDescriptor.TYPE_FLOAT: FIXED32,
    FieldDescriptor.TYPE_FIXED32: FIXED32,
    FieldDescriptor.TYPE_SFIXED32: FIXED32,
    FieldDescriptor.TYPE_STRING: LENGTH,
    FieldDescriptor.TYPE_BYTES: LENGTH,
    FieldDescriptor.TYPE_MESSAGE: LENGTH,
    FieldDescriptor.TYPE_GROUP: START_GROUP,
}


class Malformed(Exception):
    """The payload is not in the wire format from byte `at` on; `path` is the field there, "" for the whole."""

    def __init__(self, path: str, at: int, reason: str) -> None:
        super().__init__(reason)
        self.path, self.at, self.reason = path, at, reason


class Known(NamedTuple):
    """A field that the schema knows, as far as the wire format goes.

    `name` is in brackets for an extension. `inner` is the type of the message in it, `enum` that of its values.
    """

    name: str
    wire: int
    repeated: bool
    text: bool
    inner: Descriptor | None
    enum: EnumDescriptor | None


class Part(NamedTuple):
    """A field as it is in the payload: its tag at byte `at`, its content from `start` to `end`.

    `known` is None for one that the schema does not know; `unknown` says why.
    """

    at: int
    start: int
    end: int
    number: int
    wire: int
    known: Known | None
    unknown: str = ""


@dataclass
class _Frame:
    """A message that is being read, to byte `end` or to the end of `group`. Without a type nothing in it is known."""

    type: Descriptor | None
    end: int
    label: str = ""
    group: int = 0
    counts: dict[int, int] = field(default_factory=dict)


class Walk:
    """Goes through a payload of a message type, iterating over `Part`s. Raises `Malformed` at the first fault.

    Parts inside of unknown ones are checked, and not told.
    """

    def __init__(self, payload: bytes, root: Descriptor) -> None:
        self._payload = payload
        self._at = 0
        self._frames = [_Frame(root, len(payload))]
        self._tables: dict[str, dict[int, Known]] = {}
        self._label = ""

    def path(self) -> str:
        """The field that was read last, as in `items[3].id`; an unknown one has its number for a name."""
        return ".".join(label for label in (*(frame.label for frame in self._frames), self._label) if label)

    def __iter__(self) -> Iterator[Part]:
        while self._frames:
            frame = self._frames[-1]
            self._label = ""
            if self._at < frame.end:
                yield from self._step(frame)
            elif frame.group:
                raise self._malformed(self._at, "the group does not end")
            else:
                self._frames.pop()

    def _step(self, frame: _Frame) -> Iterator[Part]:
        """Reads a field, and makes the message in it, if it holds one, the next to be read."""
        at = self._at
        tag = self._varint(frame.end)
        number, wire = tag >> 3, tag & 7
        if not 0 < number <= _MAX_NUMBER or wire > FIXED32:
            raise self._malformed(at, "there is no tag of a field")
        if wire == END_GROUP:
            self._leave(frame, number, at)
            return
        part = self._part(frame, at, number, wire)
        if frame.type is not None:
            yield part
        self._enter(frame, part)

    def _leave(self, frame: _Frame, number: int, at: int) -> None:
        if frame.group != number:
            raise self._malformed(at, f"group {number} ends that did not begin")
        self._frames.pop()

    def _part(self, frame: _Frame, at: int, number: int, wire: int) -> Part:
        known = self._table(frame.type).get(number) if frame.type is not None else None
        self._label = self._labelled(frame, number, wire, known)
        start, end = self._content(frame.end, wire)
        if known is None:
            return Part(at, start, end, number, wire, None, f"field number {number} is not known")
        if not _fits(known, wire):
            expected = _WIRE_NAMES[known.wire]
            return Part(at, start, end, number, wire, None, f"it is {_WIRE_NAMES[wire]}, not {expected}")
        if wire == LENGTH and known.wire != LENGTH:
            self._check_packed(start, end, known.wire)
        return Part(at, start, end, number, wire, known)

    def _check_packed(self, start: int, end: int, wire: int) -> None:
        if wire == VARINT and start < end and self._payload[end - 1] >= 0x80:
            raise self._malformed(end, "a varint does not end")
        if wire in _FIXED and (end - start) % _FIXED[wire]:
            raise self._malformed(start, f"{end - start} bytes are no whole number of {_WIRE_NAMES[wire]} values")

    def _labelled(self, frame: _Frame, number: int, wire: int, known: Known | None) -> str:
        if known is None:
            return str(number)
        if not known.repeated or wire != known.wire:
            return known.name
        index = frame.counts.get(number, 0)
        frame.counts[number] = index + 1
        return f"{known.name}[{index}]"

    def _content(self, end: int, wire: int) -> tuple[int, int]:
        """Where the content of a field begins and ends; of a group only where it begins."""
        start = self._at
        if wire == VARINT:
            self._varint(end)
            return start, self._at
        length = 0
        if wire == LENGTH:
            length = self._varint(end)
            start = self._at
        elif wire in _FIXED:
            length = _FIXED[wire]
        if length > min(end - start, _MAX_LENGTH):
            raise self._malformed(start, f"{length} bytes should follow, {end - start} do")
        return start, start + length

    def _enter(self, frame: _Frame, part: Part) -> None:
        inner = part.known.inner if part.known is not None else None
        if part.wire == START_GROUP:
            self._push(_Frame(inner, frame.end, self._label, group=part.number))
        elif inner is not None:
            self._push(_Frame(inner, part.end, self._label))
        self._at = part.end if inner is None else part.start

    def _push(self, frame: _Frame) -> None:
        if len(self._frames) > MAX_DEPTH:
            raise self._malformed(self._at, f"messages nest deeper than {MAX_DEPTH}")
        self._frames.append(frame)

    def _table(self, type_: Descriptor) -> dict[int, Known]:
        table = self._tables.get(type_.full_name)
        if table is None:
            table = self._tables[type_.full_name] = {one.number: _known(one) for one in fields(type_)}
        return table

    def _varint(self, end: int) -> int:
        at = self._at
        if at < end and (value := self._payload[at]) < 0x80:  # as most are
            self._at = at + 1
            return value
        value, self._at = varint(self._payload, at, end)
        if self._at < 0:
            raise self._malformed(end, "a varint does not end")
        return value

    def _malformed(self, at: int, reason: str) -> Malformed:
        return Malformed(self.path(), at, reason)


def varint(payload: bytes, at: int, end: int) -> tuple[int, int]:
    """The varint at byte `at`, 64 bits of it, and where it ends; -1 if it does not end within ten bytes or at `end`."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = payload[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
    return 0, -1


def _known(field: FieldDescriptor) -> Known:
    return Known(
        f"[{field.full_name}]" if field.is_extension else field.name,
        _WIRE_TYPES.get(field.type, VARINT),
        field.is_repeated,
        field.type == FieldDescriptor.TYPE_STRING,
        field.message_type,
        field.enum_type,
    )


def _fits(known: Known, wire: int) -> bool:
    """Whether a field is read from that wire type; repeated numbers may be packed, whatever is declared."""
    return wire == known.wire or (wire == LENGTH and known.repeated and known.wire != START_GROUP)
