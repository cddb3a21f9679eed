"""Payloads of protobuf stations: what is valid, and where it is said to be wrong."""

from __future__ import annotations

import base64
import subprocess
import sys
import textwrap

import pytest
from google.protobuf.message import Message

from proxy.errors import BadSchema, SchemaViolation
from proxy.messages import Schema
from proxy.validators import MAX_VIOLATIONS, check, validator_of
from proxy.validators.protobuf import MAX_STRICT_DEPTH, Protobuf
from tests.servers import ROOT
from tests.validators.protos import (
    ORDER,
    PROTO2,
    PROTO3,
    message_class,
    nested,
    prepared,
    validator,
    violations,
)

EMPTY = "syntax = 'proto3'; message Empty {}"
REQUIRED = "p.Required"
GROUPS = "syntax = 'proto2'; message M { optional group G = 1 { optional int32 x = 1; } optional M m = 2; }"
EDITION = """edition = "2023";
message M { int32 x = 1 [features.field_presence = LEGACY_REQUIRED]; E e = 2; string s = 3;
  enum E { option features.enum_type = CLOSED; ZERO = 0; } }"""


def _order() -> bytes:
    order = message_class(ORDER, "shop.Order")
    made = order(id=7, name="a", price=1.5, tags=["x", "y"], address={"street": "s", "abroad": True})
    return bytes(made.SerializeToString())


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("payload", [_order(), b"", b"\x08\x07"])
def test_valid_messages_pass(payload: bytes, strict: bool) -> None:
    """Those that the library made; an empty payload is the message with nothing set."""
    assert violations(ORDER, payload, strict=strict) == []


@pytest.mark.parametrize("definition", [PROTO2, PROTO3])
def test_everything_at_once_is_valid(definition: str) -> None:
    """Each kind of field, set by the library, strictly."""
    all_ = message_class(definition, "p.All")
    inner = all_(i=-1, s="é", fixed=[1, 2], packed=[-1, 1 << 40], d=1.5, e=5, es=[0, 5, -1])
    message = all_(all=inner, many=[inner, inner], named={"a": inner}, numbered={1: 5, -2: 0}, b=b"\xff")
    assert violations(definition, message.SerializeToString(), strict=True) == []


@pytest.mark.parametrize(
    ("payload", "pointer", "reason"),
    [
        (b"\x08", "id", "a varint does not end, at byte 1"),
        (b"\x08" + b"\xff" * 10 + b"\x01", "id", "a varint does not end, at byte 12"),
        (b"\x12\x05abc", "name", "5 bytes should follow, 3 do, at byte 2"),
        (b"\x12\xff\xff\xff\xff\x0fa", "name", "4294967295 bytes should follow, 1 do, at byte 6"),
        (b"\x19\x00", "price", "8 bytes should follow, 1 do, at byte 1"),
        (b"\x2a\x05\x0a\x03ab", "address", "5 bytes should follow, 4 do"),
        (b"\x2a\x04\x0a\x03ab\x08\x01", "address.street", "3 bytes should follow, 2 do, at byte 4"),
        (b"\x22\x01a\x22\x01\xff", "tags[1]", "the string at byte 5 is not UTF-8"),
        (b"\x08\x01\x00", "", "there is no tag of a field, at byte 2"),
        (b"\x08\x01\x0f", "", "there is no tag of a field, at byte 2"),
        (b"\x0c", "", "group 1 ends that did not begin, at byte 0"),
        (b"\x0b\x08\x01", "id", "the group does not end, at byte 3"),
        (b"\x7b\x08\x01", "15", "the group does not end, at byte 3"),
        (_order()[:-1], "address", "bytes should follow"),
        (_order() + b"\xff", "", "a varint does not end"),
    ],
)
def test_what_is_no_message_is_refused_with_its_place(payload: bytes, pointer: str, reason: str) -> None:
    """The field, the byte, and why; truncated, overlong, followed by garbage."""
    (found,) = violations(ORDER, payload)
    assert found.pointer == pointer
    assert found.message.startswith("invalid message format, expecting protobuf shop.Order: ")
    assert reason in found.message


@pytest.mark.parametrize("payload", [b'{"id": 1, "name": "a"}', b'[{"id": 1}]', b'"text"'])
def test_json_is_no_protobuf(payload: bytes) -> None:
    """As for Memphis' gateway; the answer says what it looks like."""
    with pytest.raises(SchemaViolation, match=r"protobuf: .*invalid message format, expecting protobuf .*JSON"):
        check(prepared(ORDER), payload)


def test_bytes_that_are_not_utf8_are_fine_where_proto2_has_strings() -> None:
    """Its parsers take them; those of proto3 do not."""
    assert violations(PROTO2, b"\x32\x01\xff") == []
    assert violations(PROTO3, b"\x32\x01\xff")[0].keyword == "utf-8"


@pytest.mark.parametrize(
    ("payload", "pointer", "reason"),
    [
        (b"\x50\x01", "10", "field number 10 is not known, at byte 0"),
        (b"\x08\x01\x2a\x05\x0a\x01a\x50\x01", "address.10", "field number 10 is not known, at byte 7"),
        (b"\x0a\x01a", "id", "it is length-delimited, not varint, at byte 0"),
        (b"\x12\x00\x10\x07", "name", "it is varint, not length-delimited, at byte 2"),
        (b"\x7b\x08\x01\x7c", "15", "field number 15 is not known, at byte 0"),
        (b"\x7b\x00\x00\x7c", "15", "field number 15 is not known, at byte 0"),
    ],
)
def test_strict_refuses_what_is_unknown(payload: bytes, pointer: str, reason: str) -> None:
    """A number, another wire type than declared, a group; without strict it is kept, as protobuf means it."""
    assert violations(ORDER, payload) == []
    (found,) = violations(ORDER, payload, strict=True)
    assert (found.pointer, found.keyword, found.message) == (pointer, "unknown", reason)


@pytest.mark.parametrize(
    ("payload", "pointer"),
    [
        (nested(b"\x12", b"\xf8\x7d\x01", 3), "all.all.all.2015"),
        (nested(b"\x1a", b"", 1) + nested(b"\x1a", b"\xf8\x7d\x01", 1), "many[1].2015"),
        (nested(b"\x22", b"\x0a\x01k\x12\x03\xf8\x7d\x01", 1), "named[0].value.2015"),
        (nested(b"\x22", b"\x0a\x01k\x18\x01", 1), "named[0].3"),
        (nested(b"\xa2\x06", b"\xf8\x7d\x01", 1), "[p.extension].2015"),
        (b"\x73\x08\x01\x10\x01\x74", "group.2"),
        (nested(b"\x12", b"\xf8\x7d\x01", MAX_STRICT_DEPTH), ".".join(["all"] * MAX_STRICT_DEPTH) + ".2015"),
        (b"\xaa\x06\x01a", "101"),
    ],
)
def test_strict_looks_everywhere(payload: bytes, pointer: str) -> None:
    """In messages, lists, maps and their entries, extensions and groups, and as deep as it goes."""
    assert violations(PROTO2, payload, strict=True)[-1].pointer == pointer


@pytest.mark.parametrize(
    ("payload", "pointer", "value"),
    [
        (b"\x60\x07", "e", 7),
        (b"\x6a\x03\x00\x05\x07", "es", 7),
        (b"\x60\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01", "e", -2),
    ],
)
def test_closed_enums_have_no_unknown_values(payload: bytes, pointer: str, value: int) -> None:
    """Those of proto2 when strict; those of proto3 are open."""
    (found,) = violations(PROTO2, payload, strict=True)
    assert (found.pointer, found.message) == (pointer, f"p.All.E has no value {value}, at byte 0")
    assert violations(PROTO2, payload) == violations(PROTO3, payload, strict=True) == []


def test_what_is_replaced_does_not_count() -> None:
    """The last value of a oneof or map key is the one that the message has, for strict too."""
    entry = nested(b"\x22", b"\x0a\x01k\x12\x03\xf8\x7d\x01", 1)
    assert violations(PROTO2, entry + nested(b"\x22", b"\x0a\x01k\x12\x00", 1), strict=True) == []


@pytest.mark.parametrize(("depth", "valid"), [(MAX_STRICT_DEPTH, True), (MAX_STRICT_DEPTH + 1, False), (100, False)])
@pytest.mark.parametrize("tag", [b"\x12", b"\x1a"])
def test_strict_has_a_depth_that_it_sees_to(tag: bytes, depth: int, valid: bool) -> None:
    """Deeper messages are refused, since nobody would notice what is unknown in them."""
    found = violations(PROTO2, nested(tag, b"\x08\x01", depth), strict=True)
    assert [one.keyword for one in found] == ([] if valid else ["strict"])


def test_strict_is_not_led_astray_by_groups_that_do_not_match() -> None:
    """The depth is measured inside of groups, which a payload cannot end."""
    payload = b"\x14" + b"\x0c" * 37 + nested(b"\x12", b"", 80) + b"\x0b" * 37 + b"\x13"
    assert [one.keyword for one in violations(GROUPS, payload, strict=True)] == ["wire-format"]


def test_messages_nest_a_hundred_deep() -> None:
    """The library's limit, for messages and for groups that nobody knows."""
    assert violations(PROTO3, nested(b"\x12", b"\x08\x01", 100)) == []
    (found,) = violations(PROTO3, nested(b"\x12", b"\x08\x01", 101))
    assert "messages nest deeper than 100" in found.message
    (found,) = violations(PROTO3, b"\xa3\x06" * 101 + b"\xa4\x06" * 101)
    assert "messages nest deeper than 100" in found.message


@pytest.mark.parametrize(
    ("payload", "name", "pointers"),
    [
        (b"", "Required", ["x"]),
        (b"\x08\x00", "Required", []),
        (b"\x12\x00", "Required", ["x", "inner.x"]),
        (b"\x08\x01\x1a\x03\x0a\x01k", "Required", ['named["k"].x']),
        (b"\x7a\x02\x08\x01\x7a\x00\x7a\x02\x12\x00", "", ["required[1].x", "required[2].x", "required[2].inner.x"]),
        (b"\x73\x74", "", ["group.x"]),
        (nested(b"\xa2\x06", b"\x7a\x00", 1), "", ["[p.extension].required[0].x"]),
    ],
)
def test_required_fields_are_named(payload: bytes, name: str, pointers: list[str]) -> None:
    """All of them, with their places, in messages, lists, maps, groups and extensions."""
    found = violations(PROTO2, payload, name)
    assert [one.pointer for one in found] == pointers
    assert {(one.keyword, one.message) for one in found} <= {("required", "required field is missing")}


def test_a_required_field_below_a_key_that_is_not_text_is_missed() -> None:
    """proto2 lets such keys pass, and the library gives no access to their values: told without a place."""
    payload = b"\x08\x01\x1a\x05\x0a\x01\xff\x12\x00"
    assert violations(PROTO2, payload + b"\x12\x00", REQUIRED)[0].pointer == "inner.x"
    (found,) = violations(PROTO2, payload, REQUIRED)
    assert (found.pointer, found.keyword) == ("", "required")
    assert violations(PROTO2, b"\x08\x01\x1a\x07\x0a\x01\xff\x12\x02\x08\x01", REQUIRED) == []


def test_strict_tells_both() -> None:
    """What is missing, and what is unknown."""
    found = violations(PROTO2, b"\x50\x01", "Required", strict=True)
    assert [(one.pointer, one.keyword) for one in found] == [("x", "required"), ("10", "unknown")]


def test_editions_are_known() -> None:
    """Their features decide as the older syntaxes do."""
    assert [one.pointer for one in violations(EDITION, b"")] == ["x"]
    assert violations(EDITION, b"\x08\x01", strict=True) == []
    assert [one.pointer for one in violations(EDITION, b"\x08\x01\x10\x05", strict=True)] == ["e"]
    assert [one.pointer for one in violations(EDITION, b"\x08\x01\x1a\x01\xff")] == ["s"]


def test_imports_of_options_are_left_out() -> None:
    """The newest edition has them; what payloads are valid does not depend on options."""
    definition = """edition = "2024"; import option "google/protobuf/cpp_features.proto";
      message M { string s = 1 [features.(pb.cpp).string_type = VIEW]; }"""
    assert violations(definition, b"\x0a\x01a", strict=True) == []
    assert violations(definition, b"\x0a\x01\xff")[0].keyword == "utf-8"


@pytest.mark.parametrize(
    ("payload", "name", "strict"), [(b"\x7a\x00" * 1_000, "", False), (b"\xf8\x7d\x01" * 1_000, "", True)]
)
def test_answers_are_bounded(payload: bytes, name: str, strict: bool) -> None:
    """However much is wrong, little more is looked for than is shown."""
    assert len(violations(PROTO2, payload, name, strict=strict)) == MAX_VIOLATIONS + 1


@pytest.mark.parametrize(
    ("payload", "keyword"),
    [
        (b"\x7a\x02\x08\x01" * 30_000 + b"\x7a\x00", "required"),
        (b"\x08\x01" * 60_000 + b"\xf8\x7d\x01", "unknown"),
        (b"\x08\x01" * 60_000 + b"\x0c", "wire-format"),
    ],
)
def test_places_are_not_looked_for_without_end(payload: bytes, keyword: str) -> None:
    """A fault behind tens of thousands of fields is told without its place."""
    (found,) = violations(PROTO2, payload, strict=True)
    assert (found.pointer, found.keyword) == ("", keyword)


def test_names_of_methods_are_good_names_of_fields() -> None:
    """A definition cannot hide from us what we call."""
    names = sorted({name for name in dir(Message) if name[0].isupper()} - {"DESCRIPTOR", "FromString"})
    assert {"ParseFromString", "SerializePartialToString", "DiscardUnknownFields", "IsInitialized"} <= set(names)
    definition = "syntax = 'proto2'; message M { message DESCRIPTOR {} message FromString {} enum E { MERGE = 0; }"
    definition += "".join(f"optional M {name} = {number};" for number, name in enumerate(names, 1))
    definition += "required int32 x = 100; }"
    assert violations(definition, b"\xa0\x06\x01", strict=True) == []
    found = violations(definition, b"\x0a\x03\xf8\x7d\x01", strict=True)
    assert [one.pointer for one in found] == ["x", f"{names[0]}.x", f"{names[0]}.2015"]


def test_memphis_descriptors_are_taken() -> None:
    """As the broker sends them, without imports; `definition` is the text that it sends besides."""
    descriptor = (
        "Ck4KEHBiLW9yZGVyXzEucHJvdG8SBXBlZXJzIisKBU9yZGVyEg4KAmlkGAEgASgFUgJpZBISCgRuYW1lGAIgASgJUgRuYW1lYgZwcm90bzM="
    )
    schema = Schema(
        type="protobuf", definition="...", message_struct_name="Order", compiled=base64.b64decode(descriptor)
    )
    check(schema, b"\x08\x01\x12\x01a")
    check(schema, b"\x0a\x01a")  # recorded: another wire type than declared passes
    with pytest.raises(SchemaViolation, match="invalid message format, expecting protobuf"):
        check(schema, b"\xff\xff\xff")


def test_a_definition_is_not_compiled_in_requests() -> None:
    """One that was never compiled is refused."""
    with pytest.raises(BadSchema, match="not compiled"):
        validator_of(Schema(type="protobuf", definition=EMPTY))


def test_the_slow_parser_is_not_used() -> None:
    """Where the package has no other, checks are refused: neither our bounds nor our speed hold for it."""
    script = """
        from proxy.errors import Unavailable
        from proxy.messages import Schema
        from proxy.validators import validator_of
        try:
            validator_of(Schema(type="protobuf", definition="", compiled=b"x"))
        except Unavailable as error:
            print(error)
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT,
        env={"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "without its parser in C" in ran.stdout


def test_a_message_without_fields_is_one() -> None:
    """Only the empty payload is strictly one."""
    assert violations(EMPTY, b"", strict=True) == violations(EMPTY, b"\x08\x01") == []
    assert violations(EMPTY, b"\x08\x01", strict=True)[0].pointer == "1"


def test_the_label_is_in_the_answer() -> None:
    """`Schema validation has failed: protobuf: <place>: <reason>`."""
    with pytest.raises(SchemaViolation) as caught:
        check(prepared(PROTO2, "Required"), b"")
    assert caught.value.message == "Schema validation has failed: protobuf: x: required field is missing"
    assert caught.value.fields["violations"] == [
        {"pointer": "x", "keyword": "required", "message": "required field is missing"}
    ]


def test_validators_are_told_apart_by_name() -> None:
    """Two messages of one definition."""
    assert isinstance(validator(ORDER, "Refund"), Protobuf)
    assert violations(ORDER, b"\x12\x01a", "Refund", strict=True)
    assert not violations(ORDER, b"\x12\x01a", "Order", strict=True)
