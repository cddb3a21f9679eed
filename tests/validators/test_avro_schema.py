"""Which Avro definitions are taken, and how the others are refused."""

from __future__ import annotations

import json
from typing import Any

import fastavro
import pytest
from fastavro.schema import fingerprint, to_parsing_canonical_form

from proxy.errors import BadSchema
from proxy.messages import Schema
from proxy.validators import avro_schema
from proxy.validators.avro import Avro
from tests.validators.tools import avro

ORDER = {"type": "record", "name": "Order", "namespace": "peers", "fields": [{"name": "id", "type": "int"}]}


def _record(*fields: Any, **more: Any) -> dict[str, Any]:
    return {"type": "record", "name": "R", "fields": list(fields), **more}


@pytest.mark.parametrize(
    "definition",
    [
        "string",
        {"type": "string"},
        ["null", "string"],
        ORDER,
        {"type": "array", "items": ORDER},
        {"type": "map", "values": ["null", "long"]},
        {"type": "enum", "name": "E", "symbols": ["A", "B"], "default": "A"},
        {"type": "fixed", "name": "F", "size": 0},
        _record({"name": "next", "type": ["null", "R"], "default": None}),
        _record({"name": "d", "type": "double", "default": 0}, {"name": "b", "type": "bytes", "default": "\u00ff"}),
        _record({"name": "a", "type": ORDER}, {"name": "b", "type": "peers.Order"}, namespace="other"),
        _record({"name": "a", "type": {**ORDER, "namespace": ""}}, {"name": "b", "type": ["null", "Order"]}),
        _record({"name": "a", "type": {"type": "int", "logicalType": "of-nobody"}, "doc": "", "aliases": ["b"]}),
        _record({"name": "a", "type": "string", "default": "x", "order": "ignore", "more": {"any": [1]}}),
        {"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2},
        {"type": "error", "name": "Failed", "fields": []},
    ],
)
def test_valid_definitions_are_taken(definition: Any) -> None:
    """All kinds of types; `prepare` gives the schema back as it is."""
    schema = Schema(type="avro", definition=json.dumps(definition))
    assert Avro.prepare(schema) is schema


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ("{", "the definition is not JSON: line 1, column 2: Input data was truncated"),
        ('{"type":\n "record",\n  nope}', "line 3, column 3: "),
        ('{"type":"\ud800"}', "lone surrogate"),
        ('{"type":\n "\\ud800"}', "line 2, column 3: lone surrogate"),
        ("[" * 5_000, "nested too deeply"),
        ("5", "the definition: must be a type"),
        ({}, "/type: must be the name of a type"),
        ({"type": ["null"]}, "/type: must be the name of a type"),
        ({"type": "nope"}, "/type: 'nope' is not the name of a type"),
        ({"type": "array"}, "array needs 'items'"),
        ({"type": "map", "values": "Nope"}, "/values: 'Nope' is not the name of a type"),
        ([], "a union needs at least one type"),
        (["int", "int"], "/1: a union may not hold 'int' twice"),
        (["int", ["null"]], "/1: a union may not hold another union"),
        ({"type": "enum", "name": "E"}, "/symbols: must be an array"),
        ({"type": "enum", "name": "E", "symbols": ["A", "A"]}, "/symbols: names a symbol twice"),
        ({"type": "enum", "name": "E", "symbols": ["a b"]}, "/symbols: must be names"),
        ({"type": "enum", "name": "E", "symbols": ["A"], "default": ["B"]}, "/default: is none of the symbols"),
        ({"type": "fixed", "name": "F", "size": -1}, "/size: must be an integer from 0"),
        ({"type": "fixed", "name": "F", "size": True}, "/size: must be an integer from 0"),
        ({"type": "fixed", "name": "F", "size": 2**40}, "/size: must be an integer from 0"),
        ({"type": "fixed", "name": "1F", "size": 1}, "/name: must be a name"),
        ({"type": "fixed", "name": "int", "size": 1}, "/name: there is a type 'int' already"),
        ({"type": "fixed", "name": "F", "namespace": "a..b", "size": 1}, "/namespace: must be names"),
        ({"type": "record", "name": "R"}, "/fields: must be an array"),
        ({"type": "fixed", "name": "F", "namespace": "n" * 255, "size": 1}, "/name: is longer than 256 characters"),
        (_record("a"), "/fields/0: a field must be an object"),
        (_record({"type": "int"}), "/fields/0/name: must be a name"),
        (_record({"name": "a"}), "/fields/0: field 'a' needs a 'type'"),
        (_record({"name": "a", "type": "int"}, {"name": "a", "type": "int"}), "/fields/1: the record has a field 'a'"),
        (_record({"name": "a", "type": "B"}, {"name": "b", "type": {**ORDER, "name": "B"}}), "before it is defined"),
        (_record({"name": "a", "type": {**ORDER, "name": "R", "namespace": ""}}), "there is a type 'R' already"),
        (_record({"name": "a", "type": "int", "default": "x"}), "/fields/0/default: must be int, not a string"),
        (_record({"name": "a", "type": {"type": "array", "items": "int"}, "default": [1, ""]}), "/default/1: must be"),
        (_record({"name": "a", "type": ["null", "int"], "default": "x"}), "/fields/0/default: a string that is none"),
        ({"type": "bytes", "logicalType": "decimal"}, "/precision: must be an integer"),
        ({"type": "bytes", "logicalType": "decimal", "precision": 10**9}, "/precision: must be an integer"),
        ({"type": "bytes", "logicalType": "decimal", "precision": 2, "scale": 3}, "/scale: must be an integer"),
        ({"type": "fixed", "name": "F", "size": 2, "logicalType": "decimal", "precision": 5}, "does not fit"),
    ],
)
def test_bad_definitions_are_refused_with_place_and_reason(definition: Any, message: str) -> None:
    """Line and column where the JSON is broken, a JSON Pointer where its content is."""
    text = definition if isinstance(definition, str) else json.dumps(definition)
    with pytest.raises(BadSchema) as caught:
        Avro(Schema(type="avro", definition=text))
    assert message in str(caught.value)


@pytest.mark.parametrize("key", ["__fastavro_parsed", "__named_schemas"])
def test_the_marks_of_fastavro_mean_nothing(key: str) -> None:
    """A definition cannot say that it was checked already, nor bring types that way."""
    definition = {**ORDER, key: {"Nope": {"type": "int"}}, "fields": [{"name": "id", "type": "Nope"}]}
    with pytest.raises(BadSchema, match="'Nope' is not the name of a type"):
        avro(definition)


def test_a_name_of_another_file_is_not_looked_up(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where fastavro would find a file of that name."""
    (tmp_path / "Other.avsc").write_text('{"type": "fixed", "name": "Other", "size": 1}')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadSchema, match="'Other' is not the name of a type"):
        avro(["null", "Other"])


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ('{"type":"array","items":' * 70 + '"int"' + "}" * 70, "nested too deeply"),
        (
            '[{"type":"enum","name":"E","symbols":[' + ",".join(f'"S{i}"' for i in range(5_001)) + "]}]",
            "more than 5000",
        ),
        ('["' + '","'.join("x" * 300_000 for _ in range(1)) + '"]', "larger than"),
    ],
)
def test_definitions_have_limits(definition: str, message: str) -> None:
    """Depth, number of types, fields and symbols, bytes."""
    with pytest.raises(BadSchema, match=message):
        Avro(Schema(type="avro", definition=definition))


@pytest.mark.parametrize(
    "definition",
    [
        "int",
        ["null", {"type": "map", "values": "bytes"}],
        {"type": "enum", "name": "a.E", "symbols": ["A"], "doc": "x"},
        _record(
            {"name": "a", "type": ORDER, "default": {"id": 1}}, {"name": "b", "type": "peers.Order"}, namespace="n"
        ),
    ],
)
def test_the_canonical_form_is_that_of_fastavro(definition: Any) -> None:
    """The fingerprint of the single-object encoding hangs on it."""
    root, _ = avro_schema.read(json.dumps(definition))
    ours = to_parsing_canonical_form(avro_schema.canonical(root))
    assert ours == to_parsing_canonical_form(fastavro.parse_schema(definition))


def test_fingerprints_are_as_the_specification_has_them() -> None:
    """CRC-64-AVRO of "null", its bytes in little-endian order as the single-object encoding writes them."""
    assert fingerprint('"null"', "CRC-64-AVRO") == (0x63DD24E7CC258F8A).to_bytes(8, "little").hex()
