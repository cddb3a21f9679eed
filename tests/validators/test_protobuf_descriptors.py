"""Compiled definitions from a registry that anyone may have written to."""

from __future__ import annotations

import gc
import random
import weakref

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

from proxy.errors import BadSchema
from proxy.messages import Schema
from proxy.validators import protobuf_files as bounds
from proxy.validators.protobuf import Protobuf
from proxy.validators.protobuf_descriptors import MAX_CHAIN
from tests.validators.protos import ORDER, PROTO2, nested, prepared

TIMES = 'syntax = "proto3"; import "google/protobuf/timestamp.proto"; message M { google.protobuf.Timestamp at = 1; }'
NESTED = "syntax = 'proto3'; package a.b; message Outer { message Inner { int32 x = 1; } map<string, Inner> m = 1; }"


def _made(*files: FileDescriptorProto, name: str = "", strict: bool = False) -> Protobuf:
    compiled = FileDescriptorSet(file=files).SerializeToString()
    return Protobuf(Schema(type="protobuf", definition="", message_struct_name=name, compiled=compiled, strict=strict))


def _file(*messages: DescriptorProto, name: str = "f.proto", **more: object) -> FileDescriptorProto:
    return FileDescriptorProto(name=name, message_type=messages, **more)  # type: ignore[arg-type]


def _chain(length: int) -> list[DescriptorProto]:
    """Messages each of which has a field of the next one's type."""
    messages = [DescriptorProto(name=f"M{number}") for number in range(length)]
    for number, one in enumerate(messages[:-1]):
        one.field.add(name="next", number=1, type=11, label=1, type_name=f".M{number + 1}")
    return messages


@pytest.mark.parametrize(
    ("name", "full_name"),
    [
        ("", "a.b.Outer"),
        ("Outer", "a.b.Outer"),
        ("a.b.Outer", "a.b.Outer"),
        ("Outer.Inner", "a.b.Outer.Inner"),
        ("a.b.Outer.Inner", "a.b.Outer.Inner"),
    ],
)
def test_a_message_is_named_with_or_without_its_package(name: str, full_name: str) -> None:
    """Nested ones with dots; without a name it is the first of the file."""
    (found,) = Protobuf(prepared(NESTED, name)).violations(b"\xff")
    assert f"expecting protobuf {full_name}:" in found.message


@pytest.mark.parametrize("name", ["Inner", "Nope", "Outer.MEntry", "b.Outer", ".a.b.Outer", "\udc80", "outer"])
def test_a_name_that_is_not_there_is_told_with_those_that_are(name: str) -> None:
    """When the schema is registered."""
    with pytest.raises(BadSchema, match=r"^message_struct_name: .* it has a\.b\.Outer, a\.b\.Outer\.Inner$"):
        prepared(NESTED, name)


def test_a_definition_without_messages_is_refused() -> None:
    """Nothing could be checked against it."""
    with pytest.raises(BadSchema, match="no message"):
        prepared("syntax = 'proto3'; enum E { A = 0; }")


def test_well_known_types_need_not_be_in_the_set() -> None:
    """As in what Memphis sends; with what these import."""
    files = FileDescriptorSet.FromString(prepared(TIMES).compiled).file
    payload = nested(b"\x0a", b"\x08\x01\x10\x01", 1)
    assert [file.name for file in files] == ["google/protobuf/timestamp.proto", "schema.proto"]
    assert _made(*files, strict=True).violations(payload) == []
    assert _made(files[-1], strict=True).violations(payload) == []
    assert _made(_file(DescriptorProto(name="M"), dependency=["google/protobuf/api.proto"])).violations(b"") == []


@pytest.mark.parametrize("path", ["nope.proto", "google/protobuf/nope.proto", "/etc/passwd", "../x.proto", ""])
def test_other_imports_that_are_not_in_the_set_are_refused(path: str) -> None:
    """They are looked for nowhere."""
    with pytest.raises(BadSchema, match=r"not valid: .*has not been loaded"):
        _made(_file(DescriptorProto(name="M"), dependency=[path]))


def test_a_set_may_redefine_well_known_types() -> None:
    """For itself; other schemas have pools of their own."""
    own = _file(DescriptorProto(name="Timestamp"), name="google/protobuf/timestamp.proto", package="google.protobuf")
    files = FileDescriptorSet.FromString(prepared(TIMES).compiled).file
    payload = nested(b"\x0a", b"\x08\x01", 1)
    assert _made(own, files[-1], strict=True).violations(payload)
    assert not _made(*files, strict=True).violations(payload)


@pytest.mark.parametrize(
    ("compiled", "reason"),
    [
        (b"\xff", "not valid"),
        (b"\x0a", "not valid"),
        (b"\x0a\x00" * (bounds.MAX_FILES + 1), "1 to 32 files"),
        (b"\x10\x01", "1 to 32 files"),
        (b"\x0a" * (bounds.MAX_BYTES + 1), "larger than 524288 bytes"),
        (nested(b"\x0a", b"\x22\x00" * (bounds.MAX_MESSAGES + 1), 1), "more than 1000 messages"),
        (nested(b"\x0a", nested(b"\x22", b"\x12\x00" * bounds.MAX_FIELDS, 1), 1), "more than 10000 fields"),
        (nested(b"\x0a", nested(b"\x2a", b"\x12\x00" * (bounds.MAX_FIELDS + 1), 1), 1), "more than 10000 fields"),
        (nested(b"\x0a", b"\x3a\x00" * (bounds.MAX_FIELDS + 1), 1), "more than 10000 fields"),
        (nested(b"\x0a", nested(b"\x22", nested(b"\x1a", b"", bounds.MAX_NESTING), 1), 1), "nest too deeply"),
        (nested(b"\x0a", nested(b"\x22", nested(b"\x0a", b"a" * 1_001, 1), 1), 1), "too long names"),
    ],
)
def test_sizes_are_bounded(compiled: bytes, reason: str) -> None:
    """Bytes, files, messages, fields, values, nesting, names."""
    with pytest.raises(BadSchema, match=reason):
        Protobuf(Schema(type="protobuf", definition="", compiled=compiled))


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([_file(DescriptorProto(name="M"), DescriptorProto(name="M"))], "duplicate symbol 'M'"),
        ([_file(name="a"), _file(DescriptorProto(name="M"), name="a")], "duplicate file name"),
        ([_file(DescriptorProto(name="M"), dependency=["f.proto"])], "has not been loaded"),
        ([_file(DescriptorProto(name="1 M"))], "not valid"),
        (
            [_file(DescriptorProto(name="M", field=[FieldDescriptorProto(name="x", number=0, type=5, label=1)]))],
            "not valid",
        ),
        (
            [
                _file(
                    DescriptorProto(name="M", field=[FieldDescriptorProto(name="x", number=1, type=11, type_name=".N")])
                )
            ],
            "couldn't resolve name '.N'",
        ),
        (
            [
                _file(
                    DescriptorProto(
                        name="M",
                        field=[FieldDescriptorProto(name=f"x{n}", number=n, type=9, label=1) for n in range(1, 5_000)],
                    )
                )
            ],
            "Message size exceeded",
        ),
        ([_file(*_chain(MAX_CHAIN + 1))], "chain of more than 150"),
    ],
)
def test_what_contradicts_itself_is_refused(files: list[FileDescriptorProto], reason: str) -> None:
    """Conflicts, dangling references, and what the library could not stand."""
    with pytest.raises(BadSchema, match=reason):
        _made(*files)


def _with_a_map(**changes: object) -> FileDescriptorProto:
    """A message with a map whose entry, or the field for it, is changed: `value_number=66`, `field_label=1`, ..."""
    entry = DescriptorProto(name="MEntry", options={"map_entry": True})
    parts = {
        "key": entry.field.add(name="key", number=1, type=9, label=1),
        "value": entry.field.add(name="value", number=2, type=11, label=1, type_name=".M"),
        "field": FieldDescriptorProto(name="m", number=1, type=11, label=3, type_name=".M.MEntry"),
    }
    for name, value in changes.items():
        part, _, attribute = name.partition("_")
        setattr(parts[part], attribute, value)
    return _file(DescriptorProto(name="M", field=[parts["field"]], nested_type=[entry]), DescriptorProto(name="N"))


def test_maps_are_as_protoc_makes_them() -> None:
    """One that is built by hand works."""
    assert _made(_with_a_map(), strict=True).violations(nested(b"\x0a", b"\x0a\x01k\x12\x00", 1)) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"value_number": 66},
        {"key_number": 2},
        {"key_name": "k"},
        {"key_type": 1},
        {"key_label": 3},
        {"value_label": 2},
        {"value_type": 10},
        {"value_oneof_index": 0},
        {"field_label": 1},
        {"field_type": 10},
        {"value_type_name": ".M.MEntry"},
        {"field_type_name": "M.MEntry"},
    ],
)
def test_maps_that_are_none_are_refused(changes: dict[str, object]) -> None:
    """The library believes that they are; the first of these ended the process."""
    with pytest.raises(BadSchema, match=r"entry of a map|complete|not valid"):
        _made(_with_a_map(**changes))


def test_entries_of_maps_of_others_are_refused() -> None:
    """Each message has its own."""
    file = _with_a_map()
    file.message_type[1].field.add(name="m", number=1, type=11, label=3, type_name=".M.MEntry")
    with pytest.raises(BadSchema, match="entry of a map"):
        _made(file)
    file = _with_a_map()
    file.message_type[0].extension_range.add(start=100, end=200)
    file.extension.add(name="e", number=100, type=11, label=3, type_name=".M.MEntry", extendee=".M")
    with pytest.raises(BadSchema, match="entry of a map"):
        _made(file)


def test_message_sets_are_refused() -> None:
    """A wire format of its own, which nobody has used for a long time."""
    with pytest.raises(BadSchema, match="M: message_set_wire_format is not supported"):
        _made(_file(DescriptorProto(name="M", options={"message_set_wire_format": True})))


def test_long_chains_of_messages_are_fine() -> None:
    """Up to the bound, also when the caller's stack is deep already."""

    def deep(levels: int) -> Protobuf:
        return deep(levels - 1) if levels else _made(_file(*_chain(MAX_CHAIN)), strict=True)

    assert deep(300).violations(b"\x0a\x00") == []


def test_strict_needs_a_name_for_itself() -> None:
    """A definition that takes it is refused rather than checked wrongly."""
    inner = DescriptorProto(name="Wrapper")
    inner.field.add(name="x", number=1, type=11, label=1, type_name=".stations.wrapper.Wrapper")
    file = _file(inner, package="stations.wrapper")
    assert _made(file).violations(b"") == []
    with pytest.raises(BadSchema, match="duplicate symbol"):
        _made(file, strict=True)


def test_damaged_descriptors_are_refused_or_work() -> None:
    """A thousand damaged ones: `BadSchema` or a validator, never anything else."""
    compiled = prepared(PROTO2).compiled
    chance = random.Random(5)
    made = 0
    for _ in range(1_000):
        damaged = bytearray(compiled)
        for _ in range(chance.choice([1, 1, 2, 8])):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        try:
            validator = Protobuf(Schema(type="protobuf", definition="", compiled=bytes(damaged), strict=True))
        except BadSchema:
            continue
        made += 1
        for payload in (b"", b"\x08\x01\x7a\x00", nested(b"\x12", b"\xf8\x7d\x01", 3), b"\xff"):
            validator.violations(payload)
    assert 0 < made < 1_000


def test_validators_do_not_know_each_other() -> None:
    """Two definitions of one name."""
    other = ORDER.replace("int64 id = 1", "string id = 1")
    first, second = Protobuf(prepared(ORDER, strict=True)), Protobuf(prepared(other, strict=True))
    assert first.violations(b"\x08\x01") == second.violations(b"\x0a\x01a") == []
    assert first.violations(b"\x0a\x01a")
    assert second.violations(b"\x08\x01")


def test_validators_go_when_they_are_dropped() -> None:
    """With their pools and classes, which refer to each other."""
    validator = Protobuf(prepared(PROTO2, strict=True))
    assert validator.violations(b"\x7a\x00")
    gone = [weakref.ref(validator), weakref.ref(validator._message)]
    del validator
    gc.collect()
    assert [reference() for reference in gone] == [None, None]
