"""Protobuf payloads for `benchmarks.validators`: an ordinary message, and what might keep a worker busy."""

from __future__ import annotations

import functools
from collections.abc import Callable

import msgspec

from proxy.messages import Schema
from proxy.validators import prepare

LARGE = 8 * 1024 * 1024

FIVE = """syntax = "proto3";
message Event { int64 id = 1; string name = 2; double value = 3; repeated string tags = 4; Origin origin = 5;
  message Origin { string host = 1; bool test = 2; } }"""
ORDINARY = (
    b"\x08\xc0\xc4\x07\x12\x1etemperature of the first boiler\x19\x00\x00\x00\x00\x00\x80\x50\x40"
    b"\x22\x05plant\x22\x09basement1\x2a\x1b\x0a\x17sensor-17.north.example\x10\x01"
).replace(b"\x12\x1e", b"\x12\x1f")

MIXED = """syntax = "proto2";
message Mixed { optional int32 i = 1; optional Mixed one = 2; repeated Mixed many = 3; map<int32, Mixed> named = 4;
  map<int32, int32> numbers = 5; optional string s = 6; repeated Needs needs = 7; optional group G = 9 {} }
message Needs { required int32 x = 1; }
message Point { optional int32 x = 1; optional int32 y = 2; }
message Points { repeated Point points = 1; }"""
WIDE = "syntax = 'proto3'; message Wide { repeated Wide many = 1; "
WIDE += "".join(f"string s{number} = {number};" for number in range(2, 4_000)) + "}"


def _filled(unit: bytes, before: bytes = b"", after: bytes = b"") -> Callable[[], bytes]:
    """A payload of 8 MiB of one thing."""
    return lambda: before + unit * ((LARGE - len(before) - len(after)) // len(unit)) + after


def _deep() -> bytes:
    payload = b""
    for _ in range(62):
        length, prefix = len(payload), b""
        while length > 127:
            length, prefix = length >> 7, prefix + bytes([length & 127 | 128])
        payload = b"\x12" + prefix + bytes([length]) + payload
    return payload


LARGEST = "syntax = 'proto3'; " + "".join(
    f"message M{one} {{ " + "".join(f"M{(one + step) % 95} f{step} = {step};" for step in range(1, 101)) + "}"
    for one in range(95)
)


# Name: definition, message, payload.
_CASES: dict[str, tuple[str, str, Callable[[], bytes]]] = {
    "ordinary, five fields": (FIVE, "", lambda: ORDINARY),
    "a definition near the limits": (LARGEST, "", lambda: b"\x0a\x00"),
    "62 deep": (MIXED, "", _deep),
    "numbers": (MIXED, "", _filled(b"\x08\x01")),
    "strings": (MIXED, "", _filled(b"\x32\x01a")),
    "points": (MIXED, "Points", _filled(b"\x0a\x04\x08\x01\x10\x02")),
    "empty messages": (MIXED, "", _filled(b"\x1a\x00")),
    "empty messages, few types": (MIXED, "Points", _filled(b"\x0a\x00")),
    "empty messages of 4,000 fields": (WIDE, "", _filled(b"\x0a\x00")),
    "2,000 messages of 4,000 fields": (WIDE, "", lambda: b"\x0a\x00" * 2_000),
    "entries of a map": (MIXED, "", _filled(b"\x2a\x04\x08\x01\x10\x01")),
    "required fields missing": (MIXED, "", _filled(b"\x3a\x00")),
    "300,000 complete, one not": (MIXED, "", lambda: b"\x3a\x02\x08\x01" * 300_000 + b"\x3a\x00"),
    "unknown fields": (MIXED, "", _filled(b"\x78\x01")),
    "every other one unknown": (MIXED, "", _filled(b"\x78\x01\x08\x01")),
    "the last one unknown": (MIXED, "", _filled(b"\x08\x01", after=b"\x78\x01")),
    "messages that do not end": (MIXED, "", _filled(b"\x12")),
    "groups that do not end": (MIXED, "", _filled(b"\x4b")),
    "cut at the end": (MIXED, "", _filled(b"\x08\x01", after=b"\x08")),
    "a bad string at the end": (FIVE, "", _filled(b"\x22\x01a", after=b"\x22\x01\xff")),
    "one text of new lines": (WIDE, "", _filled(b"\n", before=b"\x12\xfb\xff\xff\x03")),
}


def _made(name: str, strict: bool) -> tuple[Schema, bytes]:
    definition, message, payload = _CASES[name]
    schema = prepare(Schema(type="protobuf", definition=definition, message_struct_name=message))
    return msgspec.structs.replace(schema, strict=strict), payload()


#: What makes the schema and the payload of each case, first as it is, then strictly.
CASES: dict[str, Callable[[], tuple[Schema, bytes]]] = {
    f"{name}{', strict' if strict else ''}": functools.partial(_made, name, strict)
    for name in _CASES
    for strict in (False, True)
}
