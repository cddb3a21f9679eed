"""What fastavro writes and says, broken variants of it, and what is refused though fastavro reads it."""

from __future__ import annotations

import io
import json
from typing import Any

import fastavro
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.validators.tools import FUZZ, avro, told

INTS = {"type": "array", "items": "int"}
NAMED = {"type": "map", "values": "long"}


def _long(value: int) -> bytes:
    data = io.BytesIO()
    fastavro.schemaless_writer(data, "long", value)
    return data.getvalue()


def _value_of(*kinds: tuple[Any, st.SearchStrategy[Any]]) -> st.SearchStrategy[tuple[Any, Any]]:
    return st.sampled_from(kinds).flatmap(lambda kind: st.tuples(st.just(kind[0]), kind[1]))


PRIMITIVES = _value_of(
    ("null", st.none()),
    ("boolean", st.booleans()),
    ("int", st.integers(-(2**31), 2**31 - 1)),
    ("long", st.integers(-(2**63), 2**63 - 1)),
    ("float", st.floats(width=32)),
    ("double", st.floats()),
    ("bytes", st.binary(max_size=20)),
    ("string", st.text(max_size=10)),
)
Pair = tuple[Any, Any]


def _array(pair: Pair) -> Pair:
    return {"type": "array", "items": pair[0]}, [pair[1]] * 3


def _map(pair: Pair) -> Pair:
    return {"type": "map", "values": pair[0]}, {"a": pair[1], "ß": pair[1]}


def _union(pair: Pair) -> Pair:
    if isinstance(pair[0], list) or pair[0] == "null":
        return pair
    return ["null", pair[0]], pair[1]


def _record(pairs: list[Pair]) -> Pair:
    fields = [{"name": f"f{i}", "type": kind} for i, (kind, _) in enumerate(pairs)]
    return {"type": "record", "name": "R", "fields": fields}, {f"f{i}": value for i, (_, value) in enumerate(pairs)}


PARTS = st.recursive(
    PRIMITIVES, lambda inner: st.one_of(inner.map(_array), inner.map(_map), inner.map(_union)), max_leaves=3
)
PAIRS = st.lists(PARTS, min_size=1, max_size=5).map(_record)


PLAIN = _value_of(
    ("null", st.none()),
    ("boolean", st.booleans()),
    ("int", st.integers(-(2**32), 2**32)),
    ("long", st.integers(-(2**64), 2**64)),
    ("double", st.floats(allow_nan=False, allow_infinity=False)),
    ("string", st.text(max_size=5)),
    ({"type": "enum", "name": "E", "symbols": ["A", "B"]}, st.sampled_from(["A", "B", "C"])),
).flatmap(lambda pair: st.sampled_from([pair, _array(pair), _map(pair), _union(pair)]))


def _encoded(pair: Pair) -> bytes:
    data = io.BytesIO()
    fastavro.schemaless_writer(data, fastavro.parse_schema(pair[0]), pair[1])
    return data.getvalue()


def _is_read_to_its_end(definition: Any, payload: bytes) -> bool:
    data = io.BytesIO(payload)
    fastavro.schemaless_reader(data, fastavro.parse_schema(definition), None)
    return data.tell() == len(payload)


@pytest.mark.slow
@FUZZ
@given(PAIRS)
def test_what_fastavro_writes_is_valid_to_its_last_byte(pair: Pair) -> None:
    """And nothing shorter or longer is; marked as a single object, it is whatever it looks like."""
    validator, payload = avro(pair[0]), _encoded(pair)
    assert validator._as_binary(payload) is None
    assert validator.violations(validator._header + payload) == []
    assert validator._as_binary(payload + b"\0") is not None
    for end in range(len(payload)):
        assert validator._as_binary(payload[:end]) is not None


@pytest.mark.slow
@FUZZ
@given(PAIRS, st.data())
def test_whatever_is_valid_fastavro_reads_to_the_last_byte(pair: Pair, data: st.DataObject) -> None:
    """Bits are flipped, bytes put in and taken out; what we let pass is what a consumer can read."""
    payload = bytearray(_encoded(pair))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, max(0, len(payload) - 1)))
        match data.draw(st.sampled_from(["flip", "insert", "remove"])):
            case "flip" if payload:
                payload[place] ^= 1 << data.draw(st.integers(0, 7))
            case "insert":
                payload.insert(place, data.draw(st.integers(0, 255)))
            case "remove" if payload:
                del payload[place]
    validator = avro(pair[0])
    if validator._as_binary(bytes(payload)) is None:
        assert _is_read_to_its_end(pair[0], bytes(payload))


@pytest.mark.slow
@FUZZ
@given(PAIRS, st.binary(max_size=60))
def test_any_bytes_have_a_verdict(pair: Pair, payload: bytes) -> None:
    """`violations` never raises, and what passes is JSON or what fastavro reads."""
    if not avro(pair[0]).violations(payload) and payload[:1] not in (b"{", b"["):
        assert _is_read_to_its_end(pair[0], payload)


@pytest.mark.slow
@FUZZ
@given(PAIRS)
def test_the_json_that_fastavro_writes_is_valid(pair: Pair) -> None:
    """The JSON encoding of the specification; what is no number in JSON is none here."""
    text = io.StringIO()
    fastavro.json_writer(text, fastavro.parse_schema(pair[0]), [pair[1]])
    assume("NaN" not in text.getvalue() and "Infinity" not in text.getvalue())
    assert avro(pair[0]).violations(text.getvalue().encode()) == []


@pytest.mark.slow
@FUZZ
@given(PLAIN, PLAIN)
def test_plain_json_is_judged_as_by_fastavro(pair: Pair, other: Pair) -> None:
    """Values of the schema's type, near it and of another one."""
    definition = {"type": "record", "name": "R", "fields": [{"name": "a", "type": pair[0]}]}
    for value in (pair[1], other[1]):
        valid = fastavro.validate({"a": value}, fastavro.parse_schema(definition), raise_errors=False)
        assert (avro(definition).violations(json.dumps({"a": value}).encode()) == []) == valid


@pytest.mark.parametrize(
    ("definition", "payload"),
    [
        ("boolean", b"\x02"),
        ("int", _long(2**31)),
        ("long", b"\xff" * 10 + b"\x01"),
        ("long", b"\xff" * 9 + b"\x02"),
        ("string", _long(-1) + b"rest"),
        ("string", _long(2) + b"\xc3\x28"),
        ("bytes", _long(2**62)),
        ({"type": "enum", "name": "E", "symbols": ["A", "B"]}, _long(-1)),
        ({"type": "enum", "name": "E", "symbols": ["A", "B"]}, _long(2)),
        (["null", "int"], _long(-2)),
        (["null", "int"], _long(2)),
        ({"type": "fixed", "name": "F", "size": 3}, b"ab"),
        (INTS, _long(1) + b"\0"),
        (INTS, _long(-1) + _long(2) + b"\0\0"),
        (INTS, _long(-1) + _long(-1) + b"\0\0"),
        (INTS, _long(-(2**63)) + _long(1) + b"\0\0"),
        (INTS, _long(2**62) + b"\0\0"),
        ({"type": "array", "items": "double"}, _long(2**60) + b"\0" * 8),
        (NAMED, _long(1) + _long(1) + b"\xff" + b"\0\0"),
        ({"type": "int", "logicalType": "time-millis"}, _long(86_400_000)),
        ({"type": "string", "logicalType": "uuid"}, _long(3) + b"abc"),
        ({"type": "bytes", "logicalType": "decimal", "precision": 2}, _long(1) + b"\x64"),
        ({"type": "fixed", "name": "F", "size": 1, "logicalType": "decimal", "precision": 2}, b"\x9c"),
    ],
)
def test_wrong_encodings_are_refused(definition: Any, payload: bytes) -> None:
    """Several of them fastavro reads: as something else, to the end of the data, or counted from the end."""
    fields = [{"name": "a", "type": definition}]
    (found,) = avro({"type": "record", "name": "R", "fields": fields}).violations(payload)
    assert found.pointer.startswith("/a")
    assert "(byte " in found.message


def test_blocks_may_tell_their_size() -> None:
    """Negative counts are followed by the size in bytes, for readers that skip."""
    validator = avro(INTS)
    assert validator.violations(_long(-2) + _long(2) + _long(1) + _long(2) + _long(1) + _long(3) + b"\0") == []


def test_a_violation_tells_its_place() -> None:
    """Names of fields, indices that count over blocks, and keys."""
    lines = {"type": "array", "items": {"type": "map", "values": "boolean"}}
    definition = {"type": "record", "name": "R", "fields": [{"name": "lines", "type": lines}]}
    payload = _long(1) + b"\0" + _long(1) + _long(1) + _long(3) + b"a/b" + b"\x07"
    assert told(avro(definition).violations(payload)) == [("/lines/1/a~1b", "encoding")]
