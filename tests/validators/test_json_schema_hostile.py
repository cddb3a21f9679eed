"""Schemas and payloads made to hurt: nothing leaves the document, and nothing takes long."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from benchmarks.validators_json import CASES
from proxy import validators
from proxy.errors import BadSchema, SchemaViolation
from proxy.messages import Schema
from proxy.validators import json_cost, json_definition
from proxy.validators.json_schema import JsonSchema

_LONG = 10.0  # seconds, several times of what the worst case took


_KEYWORDS = st.sampled_from([*json_cost._KEYWORDS, *json_definition._ONE, *json_definition._LISTS, "$ref", "$id", "a"])


def _schema(definition: Any) -> Schema:
    return Schema(type="json", definition=definition if isinstance(definition, str) else json.dumps(definition))


def _outside(host: str, file: Path) -> list[dict[str, Any]]:
    """Ways of naming something outside of the document."""
    draft = "https://json-schema.org/draft/2019-09/schema"
    found: list[dict[str, Any]] = []
    for url in (f"{host}/a.json", file.as_uri(), str(file), f"//{host.partition('//')[2]}/a", "a.json", f"{host}/a#/x"):
        found += [{"$ref": url}, {"$dynamicRef": url}, {"$id": url, "$ref": "b.json"}, {"$schema": url}]
        found += [{"items": {"$schema": url}}, {"$id": url, "items": {"$id": "c/", "$ref": "d"}}]
        found += [{"items": {"$id": url, "$ref": "x#y"}}, {"$schema": draft, "$id": url, "items": {"$ref": "?x"}}]
        found += [{"$schema": "http://json-schema.org/draft-04/schema#", "id": url, "items": {"$ref": "x"}}]
    return found


def test_no_reference_leaves_the_document(tmp_path: Path) -> None:
    """Whatever `$ref`, `$id` and `$schema` say: no connection, no file read, and a clear refusal."""
    file = tmp_path / "a.json"
    file.write_text("{}")
    os.utime(file, (1, 1))
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        for definition in _outside(f"http://127.0.0.1:{server.getsockname()[1]}", file):
            for use in (validators.prepare, JsonSchema):
                with pytest.raises(BadSchema):
                    use(_schema(definition))
        with pytest.raises(BlockingIOError):
            server.accept()
    assert file.stat().st_atime == 1


def test_names_of_documents_without_references_are_harmless(tmp_path: Path) -> None:
    """`$id` and `$vocabulary` name, and nothing is looked up for it."""
    file = tmp_path / "a.json"
    file.write_text("{")
    for url in (file.as_uri(), "http://127.0.0.1:1/a.json"):
        definition = {"$id": url, "items": {"$id": "b", "type": "null"}, "$vocabulary": {url: True}}
        assert JsonSchema(_schema(definition)).violations(b"[1]")


def test_meta_schemas_are_outside_too() -> None:
    """One rule for all addresses, also those that the libraries know."""
    with pytest.raises(BadSchema, match="not in this definition"):
        JsonSchema(_schema({"$ref": "https://json-schema.org/draft/2020-12/schema"}))


@pytest.mark.slow
@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
def test_no_case_of_the_benchmark_takes_long(make: Callable[[], tuple[Schema, bytes]]) -> None:
    """All its hostile cases are refused, or done in a bounded time."""
    schema, payload = make()
    started = time.monotonic()
    with contextlib.suppress(BadSchema, SchemaViolation):
        validators.check(schema, payload)
    assert time.monotonic() - started < _LONG


def _deep(levels: int) -> str:
    return '{"not":' * levels + "{}" + "}" * levels


_2019 = {"$schema": "https://json-schema.org/draft/2019-09/schema"}
_4 = {"$schema": "http://json-schema.org/draft-04/schema#"}
_NUMBERS = [str(number) for number in range(15_000)]


@pytest.mark.parametrize(
    "definition",
    [
        {**_2019, "items": [1] * 80_000},
        {"properties": dict.fromkeys(_NUMBERS, 1)},
        {"type": [1, *_NUMBERS]},
        {"required": [1, *_NUMBERS]},
        {**_4, "enum": [None, *_NUMBERS]},
        {"dependencies": {name: ["a"] for name in _NUMBERS[:8000]}},
    ],
    ids=["items", "properties", "type", "required", "enum", "dependencies"],
)
def test_no_definition_takes_long_to_register(definition: Any) -> None:
    """Good or bad: a worker does nothing else meanwhile, and one that does nothing else for a minute is killed."""
    validators.prepare(_schema({}))  # the packages are slow to import
    started = time.process_time()
    with contextlib.suppress(BadSchema):
        validators.prepare(_schema(definition))
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    ("definition", "reason"),
    [
        (_deep(100), "nested too deeply"),
        (_deep(20_000), "nested too deeply"),
        ({"anyOf": [{}] * (json_definition.MAX_SUBSCHEMAS + 1)}, "schemas in it"),
        ({"$defs": {"a": {}}, "items": {"anyOf": [{"$ref": "#/$defs/a"}] * 1001}}, "more than 1000 references"),
        ({"$defs": {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(500)} | {"d500": {}}}, "levels"),
        ({"maximum": 10**json_definition.MAX_DIGITS}, "digits"),
        ('{"maximum": 1e400}', "not JSON"),
        ({"enum": [[number] for number in range(5000)]}, "too long"),
        ({"pattern": "a" * (json_cost.MAX_PATTERN_CHARACTERS + 1)}, "patterns, of"),
        ({"allOf": [{"pattern": "a"}] * (json_cost.MAX_PATTERNS + 1)}, "at most 500 patterns"),
        ({"pattern": "^(a{100}){100}"}, "/pattern: "),
        ({"pattern": "(a{999}){999}"}, "states of patterns"),
        ({"pattern": "a{999999999}{999999999}{999999999}" * 20}, ""),
    ],
)
def test_a_schema_beyond_the_limits_is_refused(definition: Any, reason: str) -> None:
    """At once, when registered and when it comes out of a registry."""
    for use in (validators.prepare, validators.validator_of):
        started = time.monotonic()
        with pytest.raises(BadSchema) as caught:
            use(_schema(definition))
        assert time.monotonic() - started < _LONG
        assert reason in str(caught.value)


_ANY = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from(["", "#", "#/a", "a", "^a*$"])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_KEYWORDS, inner, max_size=3)),
    max_leaves=15,
)


@hypothesis_settings(max_examples=500)
@given(_ANY)
def test_whatever_is_in_the_registry_is_refused_or_compiled(definition: Any) -> None:
    """JSON that nobody checked ends in no other error."""
    with contextlib.suppress(BadSchema):
        assert isinstance(JsonSchema(_schema(definition)).violations(b'{"a": [1, "b"]}'), list)


@pytest.mark.parametrize("payload", [b"[" * 129 + b"]" * 129, b"[" * 100_000, b'{"a":' * 5000 + b"1" + b"}" * 5000])
def test_a_deep_payload_is_refused(payload: bytes) -> None:
    """Its depth was not checked where it came as text."""
    (found,) = JsonSchema(_schema({})).violations(payload)
    assert found.keyword == "json"


def test_deep_recursion_fits_the_stack() -> None:
    """The deepest payload, against references as long as they may be, as errors and without."""
    definition: dict[str, Any] = {
        "$defs": {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}]} for i in range(47)},
        "$ref": "#/$defs/d0",
    }
    definition["$defs"]["d47"] = {"properties": {"a": {"$ref": "#"}}, "unevaluatedProperties": False}
    validator = JsonSchema(_schema(definition))
    for leaf, valid in ((b"1", True), (b'{"b":1}', False)):
        payload = b'{"a":' * 127 + leaf + b"}" * 127
        assert (validator.violations(payload) == []) == valid


def test_errors_are_bounded() -> None:
    """A payload with very many errors has the first hundred told, a larger one the first."""
    validator = JsonSchema(_schema({"items": {"type": "string"}}))
    assert len(validator.violations(b"[" + b"0," * 999 + b"0]")) == 100
    found = validator.violations(b"[" + b"0," * 99_999 + b"0]")
    assert [(one.pointer, one.keyword) for one in found] == [("/0", "type"), ("", "size")]


def test_long_names_are_not_repeated_at_length() -> None:
    """What a sender is told is bounded, whatever the payload holds."""
    schema = _schema({"additionalProperties": False})
    error = validators.violation("jsonschema", JsonSchema(schema).violations(json.dumps({"a" * 100_000: 1}).encode()))
    assert len(str(error)) < 1000


def test_a_payload_too_large_for_its_schema_says_so() -> None:
    """It is refused unseen, since nothing could stop the check."""
    validator = JsonSchema(_schema({"items": {"enum": [[number] for number in range(100)]}}))
    assert validator.violations(b"[" + b"[1]," * 100 + b"[1]]") == []
    (found,) = validator.violations(b"[" + b"[1]," * 200_000 + b"[1]]")
    assert (found.keyword, found.message) == ("size", "the payload is too large to be checked against this schema")


def test_large_ordinary_payloads_are_checked() -> None:
    """The limits leave room: 8 MiB against a schema with patterns and bounds."""
    item = {"id": 123456, "name": "some name of some length", "at": "2024-02-29", "text": "x" * 100}
    definition = {
        "items": {
            "properties": {
                "id": {"type": "integer", "minimum": 0},
                "name": {"type": "string", "maxLength": 100},
                "at": {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"},
            },
            "required": ["id", "name", "at"],
        }
    }
    payload = json.dumps([item] * 45_000).encode()
    assert 8 * 2**20 > len(payload) > 7 * 2**20
    assert JsonSchema(_schema(definition)).violations(payload) == []


def test_long_numbers_are_few_where_items_must_be_unique() -> None:
    """The library compares each of them with every other."""
    validator = JsonSchema(_schema({"uniqueItems": True}))
    numbers = [str(10**25 + number) for number in range(json_cost.MAX_HARD_UNIQUE + 1)]
    assert validator.violations(f"[{','.join(numbers[1:])}]".encode()) == []
    (found,) = validator.violations(f"[{','.join(numbers)}]".encode())
    assert found.keyword == "size"


def test_many_large_exponents_are_judged_alike() -> None:
    """However many there are, and whichever parser reads them."""
    validator = JsonSchema(_schema({"items": {"maximum": 1e300}}))
    for count in (10, 2_000):
        assert validator.violations(b"[" + b"1e300," * count + b"1e300]") == []
        assert validator.violations(b"[" + b"1e300," * count + b"1e301]")


def test_a_definition_that_no_route_would_take_is_not_compiled_either() -> None:
    """Whoever may write to the registry's bucket can put one there that is as large as the broker's messages."""
    large = _schema({"const": [[]] * validators.MAX_DEFINITION_BYTES})
    with pytest.raises(BadSchema, match="larger than"):
        JsonSchema(large)


def test_a_definition_that_is_too_large_drives_out_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stations whose schemas are good do not have them compiled again for each message."""
    compiled: list[Schema] = []
    compile_ = JsonSchema.__init__

    def count(self: JsonSchema, schema: Schema) -> None:
        compiled.append(schema)
        compile_(self, schema)

    monkeypatch.setattr(JsonSchema, "__init__", count)
    large = _schema("x" * (8 << 20))
    good = [_schema({"title": f"station {number}"}) for number in range(3)]
    validators.forget()
    for schema in [large, *good] * 3:
        validators.compiled_or_not(schema)
    assert len(compiled) == 4
