"""Which payloads an Avro schema takes as JSON, which as binary data, and how it tells them apart."""

from __future__ import annotations

import io
import json
import time
from typing import Any

import fastavro
import pytest

from proxy.errors import SchemaViolation
from proxy.messages import Schema
from proxy.validators import check
from tests.validators.tools import avro, told

ORDER = {
    "type": "record",
    "name": "Order",
    "namespace": "peers",
    "fields": [{"name": "id", "type": "int"}, {"name": "name", "type": "string"}],
}
EVERYTHING = {
    "type": "record",
    "name": "Everything",
    "fields": [
        {"name": "n", "type": "null"},
        {"name": "b", "type": "boolean"},
        {"name": "i", "type": "int"},
        {"name": "l", "type": "long"},
        {"name": "f", "type": "float"},
        {"name": "d", "type": "double"},
        {"name": "y", "type": "bytes"},
        {"name": "s", "type": "string"},
        {"name": "e", "type": {"type": "enum", "name": "E", "symbols": ["A", "B"]}},
        {"name": "x", "type": {"type": "fixed", "name": "X", "size": 2}},
        {"name": "a", "type": {"type": "array", "items": "int"}},
        {"name": "m", "type": {"type": "map", "values": "string"}},
        {"name": "u", "type": ["null", "string", "Everything"]},
    ],
}
VALUE = {
    "n": None,
    "b": True,
    "i": -5,
    "l": 2**40,
    "f": 0.5,
    "d": 1e300,
    "y": b"\x00\xff",
    "s": "Grüße",
    "e": "B",
    "x": b"\x01\xfe",
    "a": [1, 2, 3],
    "m": {"k": "v"},
    "u": "text",
}


def _binary(schema: Any, value: Any) -> bytes:
    data = io.BytesIO()
    fastavro.schemaless_writer(data, fastavro.parse_schema(schema), value)
    return data.getvalue()


def _as_json(schema: Any, value: Any) -> bytes:
    """The JSON encoding of the specification, by fastavro."""
    text = io.StringIO()
    fastavro.json_writer(text, fastavro.parse_schema(schema), [value])
    return text.getvalue().encode()


def test_what_fastavro_writes_is_valid() -> None:
    """Binary data and the JSON encoding, with a value of every type."""
    assert avro(EVERYTHING).violations(_binary(EVERYTHING, {**VALUE, "u": VALUE})) == []
    for value in (VALUE, {**VALUE, "u": None}):
        assert avro(EVERYTHING).violations(_binary(EVERYTHING, value)) == []
        assert avro(EVERYTHING).violations(_as_json(EVERYTHING, value)) == []


@pytest.mark.parametrize("u", ["null", '"x"', '{"string": "x"}', '{"u": null, "i": 1}'])
def test_unions_are_plain_or_name_their_branch(u: str) -> None:
    """As clients of Memphis send them, and as the specification's JSON encoding has them."""
    fields = [{"name": "u", "type": ["null", "string", "R"]}, {"name": "i", "type": "int", "default": 0}]
    definition = {"type": "record", "name": "R", "fields": fields}
    assert avro(definition).violations(f'{{"u": {u}}}'.encode()) == []


def test_plain_json_with_integers_is_valid() -> None:
    """Memphis' own gateway refuses every int and long of JSON; that is not worth keeping."""
    assert avro(ORDER).violations(b'{"id": 1, "name": "x"}') == []


def test_a_field_with_a_default_may_be_left_out() -> None:
    """And one without may not, even where it may be null."""
    fields = [{"name": "a", "type": "int", "default": 1}, {"name": "b", "type": ["null", "int"]}]
    definition = {"type": "record", "name": "R", "fields": fields}
    assert avro(definition).violations(b'{"b": null}') == []
    assert [one.message for one in avro(definition).violations(b'{"a": 2}')] == ["missing fields: 'b'"]


def test_unknown_fields_are_refused_by_strict_schemas_alone() -> None:
    """As both SDKs of Memphis pass over them."""
    body = b'{"id": 1, "name": "x", "z": 1}'
    assert avro(ORDER).violations(body) == []
    assert [one.message for one in avro(ORDER, strict=True).violations(body)] == ["unknown fields: 'z'"]


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("null", ["null"], ["0", "false", '""']),
        ("boolean", ["true", "false"], ["1", "null"]),
        ("int", ["0", "-2147483648", "2147483647"], ["1.0", "true", '"1"', "2147483648", "null", "1" + "0" * 40]),
        ("long", ["9223372036854775807", "-9223372036854775808"], ["9223372036854775808", "1e3", "1.5"]),
        ("float", ["1", "1.5", "-3.4e38"], ["3.5e38", "true", '"NaN"']),
        ("double", ["1", "1.5", "-1.7e308", "1" + "0" * 300], ["1" + "0" * 400, "null", "1e400"]),
        ("string", ['""', '"\\u00e9"'], ["1", '"\\ud800"']),
        ("bytes", ['"\\u0000\\u00ff"'], ['"\\u0100"', "1"]),
        ({"type": "fixed", "name": "F", "size": 2}, ['"\\u00ffa"'], ['"a"', '"abc"', '"\\u0100a"']),
        ({"type": "enum", "name": "E", "symbols": ["A"]}, ['"A"'], ['"B"', "0"]),
        ({"type": "array", "items": "int"}, ["[]", "[1]"], ["{}", '["x"]', "[1,]"]),
        ({"type": "map", "values": "int"}, ["{}", '{"a": 1}'], ["[]", '{"a": "x"}', '{"a": 1']),
        ({"type": "int", "logicalType": "time-millis"}, ["0", "86399999"], ["86400000", "-1"]),
        ({"type": "long", "logicalType": "time-micros"}, ["86399999999"], ["86400000000"]),
        ({"type": "long", "logicalType": "timestamp-millis"}, ["-1"], ['"2020-01-01"']),
        ({"type": "string", "logicalType": "uuid"}, ['"123E4567-e89b-12d3-a456-426614174000"'], ['"123e4567"']),
        ({"type": "bytes", "logicalType": "decimal", "precision": 2}, ['"\\u0063"', '""'], ['"\\u0000\\u0064"']),
        ({"type": "int", "logicalType": "decimal"}, ["1"], ['"a"']),
    ],
)
def test_values_of_each_type_in_json(kind: Any, good: list[str], bad: list[str]) -> None:
    """Within a record, so that no value can be meant as binary data."""
    validator = avro({"type": "record", "name": "R", "fields": [{"name": "a", "type": kind}]})
    for value in good:
        assert validator.violations(f'{{"a": {value}}}'.encode()) == [], value
    for value in bad:
        assert validator.violations(f'{{"a": {value}}}'.encode()), value


def test_all_violations_are_told_with_their_places() -> None:
    """Missing fields of one record together; keys are escaped as in JSON Pointer."""
    values = {"type": "array", "items": ["null", {**ORDER, "name": "Line"}]}
    definition = {"type": "map", "values": values}
    body = b'{"a/b~": [null, {}, {"id": "x", "name": 1}], "c": [1], "d": {}}'
    assert told(avro(definition).violations(body)) == [
        ("/a~1b~0/1", "required"),
        ("/a~1b~0/2/id", "type"),
        ("/a~1b~0/2/name", "type"),
        ("/c/0", "union"),
        ("/d", "type"),
    ]


def test_a_branch_that_is_named_is_the_one_that_is_judged() -> None:
    """What is wrong inside it is told, as far as plain JSON does not explain it."""
    validator = avro(["null", ORDER])
    assert told(validator.violations(b'{"peers.Order": {"id": "x", "name": "x"}}')) == [("/peers.Order/id", "type")]


def test_errors_are_bounded() -> None:
    """In number and in size, whatever the payload holds."""
    validator = avro({"type": "map", "values": "int"})
    found = validator.violations(json.dumps({"k" * 5_000 + str(i): "" for i in range(1_000)}).encode())
    assert len(found) == 100
    assert max(len(one.pointer) for one in found) < 310


def test_the_answer_tells_all_of_it() -> None:
    """As the contract has it: the language's name, then each violation with its place."""
    schema = Schema(type="avro", definition=json.dumps(ORDER))
    with pytest.raises(SchemaViolation) as caught:
        check(schema, b'{"id": "x"}')
    assert str(caught.value) == (
        "Schema validation has failed: avro: /id: must be int, not a string; missing fields: 'name'"
    )


def test_of_duplicate_keys_the_last_counts() -> None:
    """As the contract has it for all schemas."""
    assert avro(ORDER).violations(b'{"id": "x", "name": "x", "id": 1}') == []
    assert avro(ORDER).violations(b'{"id": 1, "name": "x", "id": "x"}')


@pytest.mark.parametrize("body", [b'{"id":"a","b":"cc"}', b'{"id":"12345678901}', b"{}", b"[]"])
def test_what_is_json_is_judged_as_json_alone(body: bytes) -> None:
    """An object of JSON with wrong content may well be the encoding of something, by chance."""
    try:
        json.loads(body)
    except ValueError:
        assert avro(ORDER).violations(body) == []
        assert fastavro.schemaless_reader(io.BytesIO(body), fastavro.parse_schema(ORDER))["id"] == -62
    else:
        assert avro(ORDER).violations(body)


def test_binary_data_that_is_a_number_in_json_is_taken() -> None:
    """Two small integers may look like `42`; the schema says that it is a record."""
    fields = [{"name": "a", "type": "int"}, {"name": "b", "type": "int"}]
    assert avro({"type": "record", "name": "R", "fields": fields}).violations(b"42") == []


@pytest.mark.parametrize(
    "body", [b"nope", b"", b"\xef\xbb\xbf{}", b'{"id": 1, "name": "x"', b"{'id': 1}", b"<a/>", b"NaN", b"\xff" * 30]
)
def test_what_is_neither_is_refused(body: bytes) -> None:
    """With one violation that says so."""
    (found,) = avro(ORDER).violations(body)
    assert found.keyword == "encoding"


def test_the_single_object_encoding_is_taken_with_the_right_fingerprint() -> None:
    """It says which schema it is of, and leaves no doubt that it is binary."""
    marked = io.BytesIO()
    fastavro.schemaless_writer(marked, fastavro.parse_schema(ORDER), {"id": -62, "name": "x"})
    validator = avro(ORDER)
    form = fastavro.schema.to_parsing_canonical_form(ORDER)
    mark = b"\xc3\x01" + bytes.fromhex(fastavro.schema.fingerprint(form, "CRC-64-AVRO"))
    assert validator.violations(mark + marked.getvalue()) == []
    assert validator.violations(mark + marked.getvalue() + b"\0")
    assert validator.violations(mark[:-1] + b"\0" + marked.getvalue())


def test_a_valid_message_takes_microseconds() -> None:
    """The benchmark says how many; this notices when it is far more."""
    validator, body = avro(ORDER), b'{"id": 1, "name": "x"}'
    began = time.process_time()
    for _ in range(1_000):
        validator.violations(body)
    assert time.process_time() - began < 0.2


@pytest.mark.parametrize(
    "value",
    [
        {"id": -46, "name": "1e999"},  # begins with a bracket, white space and a number beyond all types
        {"id": -46, "name": "{" * 150_000},
    ],
)
def test_binary_data_that_begins_like_json_beyond_the_limits_is_binary(value: dict[str, Any]) -> None:
    """Only what is JSON to its end is judged as JSON, and refused where that has limits."""
    order = avro(ORDER)
    payload = _binary(ORDER, value)
    assert order.violations(payload) == []
    assert told(order.violations(payload + b"\0")) == [("", "encoding")]
    for document in (b'{"id": 1e999, "name": ""}', b'{"id": [' + b"[]," * 150_000 + b'1], "name": ""}'):
        assert told(order.violations(document)) == [("", "size")]
