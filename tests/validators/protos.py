"""Definitions, and messages that the protobuf library makes and reads itself."""

from __future__ import annotations

import functools
from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from proxy.messages import Schema
from proxy.validators import Violation, prepare
from proxy.validators.protobuf import Protobuf

ORDER = """syntax = "proto3";
package shop;
message Order {
  int64 id = 1;
  string name = 2;
  double price = 3;
  repeated string tags = 4;
  Address address = 5;
  message Address { string street = 1; bool abroad = 2; }
}
message Refund { int64 order_id = 1; }
"""

# All that proto2 and proto3 know: each kind of field, and what may go wrong with it.
ALL = """syntax = "%s";
package p;
message All {
  %s int32 i = 1;
  %s All all = 2;
  repeated All many = 3;
  map<string, All> named = 4;
  map<int32, E> numbered = 5;
  %s string s = 6;
  repeated fixed32 fixed = 7;
  repeated sint64 packed = 8 [packed = true];
  oneof one { double d = 9; bytes b = 10; bool t = 11; }
  %s E e = 12;
  repeated E es = 13;
  enum E { ZERO = 0; FIVE = 5; MINUS = -1; }
%s}
"""
PROTO3 = ALL % ("proto3", "", "", "", "", "")
PROTO2 = ALL % (
    "proto2",
    *["optional"] * 4,
    "optional group Group = 14 { required int32 x = 1; }\nrepeated Required required = 15;\nextensions 100 to 110;\n",
)
PROTO2 += "message Required { required int32 x = 1; optional Required inner = 2; map<string, Required> named = 3; }\n"
PROTO2 += "extend All { optional All extension = 100; }\n"


@functools.cache
def prepared(definition: str, name: str = "", *, strict: bool = False) -> Schema:
    """The schema as it is registered; each is compiled once."""
    return prepare(Schema(type="protobuf", definition=definition, message_struct_name=name, strict=strict))


@functools.cache
def validator(definition: str, name: str = "", *, strict: bool = False) -> Protobuf:
    """Its validator."""
    return Protobuf(prepared(definition, name, strict=strict))


def violations(definition: str, payload: bytes, name: str = "", *, strict: bool = False) -> list[Violation]:
    """What is wrong with a payload."""
    return validator(definition, name, strict=strict).violations(payload)


@functools.cache
def message_class(definition: str, full_name: str) -> Any:
    """The library's own class for a message, made without us."""
    pool = descriptor_pool.DescriptorPool()
    for file in FileDescriptorSet.FromString(prepared(definition).compiled).file:
        pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(full_name))


def nested(tag: bytes, payload: bytes, times: int) -> bytes:
    """A payload inside of so many messages, each the field with that tag of the one around it."""
    for _ in range(times):
        payload = tag + varint(len(payload)) + payload
    return payload


def varint(value: int) -> bytes:
    """A number in the wire format."""
    encoded = b""
    while value > 127:
        encoded, value = encoded + bytes([value & 127 | 128]), value >> 7
    return encoded + bytes([value])
