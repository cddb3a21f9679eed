"""JSON Schema: every keyword of every draft, what a sender is told, what is refused at registration."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy import validators
from proxy.errors import BadSchema, SchemaViolation
from proxy.messages import Schema
from proxy.validators.json_definition import DRAFTS
from proxy.validators.json_schema import JsonSchema

D4, D6, D7, D2019, D2020 = DRAFTS
_ALL = list(DRAFTS)
_FROM_6 = _ALL[1:]
_FROM_7 = _ALL[2:]
_FROM_2019 = _ALL[3:]
_TO_2019 = _ALL[:4]
FIVE = {
    "type": "object",
    "properties": {
        "id": {"type": "integer", "minimum": 0},
        "name": {"type": "string"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "a/b~c": {"type": "null"},
    },
    "required": ["id", "name"],
}

# Keyword, drafts, schema, a valid document, one that is not.
KEYWORDS: list[tuple[str, list[str], Any, Any, Any]] = [
    ("type", _ALL, {"type": ["integer", "null"]}, 1, "1"),
    ("enum", _ALL, {"enum": [1, [2], {"a": 3}]}, {"a": 3}, True),
    ("const", _FROM_6, {"const": {"a": [1]}}, {"a": [1.0]}, {"a": []}),
    ("multipleOf", _ALL, {"multipleOf": 0.01}, 19.99, 0.015),
    ("minimum", _ALL, {"minimum": 2}, 2, 1.5),
    ("maximum", _ALL, {"maximum": 2}, 2, 2.5),
    ("exclusiveMinimum", [D4], {"minimum": 2, "exclusiveMinimum": True}, 3, 2),
    ("exclusiveMaximum", [D4], {"maximum": 2, "exclusiveMaximum": True}, 1, 2),
    ("exclusiveMinimum", _FROM_6, {"exclusiveMinimum": 2}, 3, 2),
    ("exclusiveMaximum", _FROM_6, {"exclusiveMaximum": 2}, 1, 2),
    ("minLength", _ALL, {"minLength": 2}, "é😀", "😀"),
    ("maxLength", _ALL, {"maxLength": 1}, "😀", "é😀"),
    ("pattern", _ALL, {"pattern": "^[a-z]+$"}, "abc", "aBc"),
    ("format", _ALL, {"format": "ipv4"}, "127.0.0.1", "127.0.0.256"),
    ("contentEncoding", [D6, D7], {"contentEncoding": "base64"}, "YQ==", "%"),
    ("contentMediaType", [D6, D7], {"contentMediaType": "application/json"}, "{}", "{"),
    ("items", _ALL, {"items": {"type": "null"}}, [None], [1]),
    ("items as a list", _TO_2019, {"items": [{"type": "null"}]}, [None, 1], [1]),
    ("additionalItems", _TO_2019, {"items": [{}], "additionalItems": {"type": "null"}}, [1, None], [1, 1]),
    ("prefixItems", [D2020], {"prefixItems": [{"type": "null"}]}, [None, 1], [1]),
    ("contains", _FROM_6, {"contains": {"type": "null"}}, [1, None], [1]),
    ("minContains", _FROM_2019, {"contains": {"type": "null"}, "minContains": 2}, [None, None], [None]),
    ("maxContains", _FROM_2019, {"contains": {"type": "null"}, "maxContains": 1}, [None], [None, None]),
    ("minItems", _ALL, {"minItems": 1}, [1], []),
    ("maxItems", _ALL, {"maxItems": 1}, [1], [1, 2]),
    ("uniqueItems", _ALL, {"uniqueItems": True}, [1, True, "1"], [{"a": 1}, {"a": 1.0}]),
    ("unevaluatedItems", [D2019], {"items": [{}], "unevaluatedItems": False}, [1], [1, 2]),
    ("unevaluatedItems", [D2020], {"prefixItems": [{}], "unevaluatedItems": False}, [1], [1, 2]),
    ("properties", _ALL, {"properties": {"a": {"type": "null"}}}, {"a": None}, {"a": 1}),
    ("patternProperties", _ALL, {"patternProperties": {"^a": {"type": "null"}}}, {"b": 1}, {"ab": 1}),
    ("additionalProperties", _ALL, {"properties": {"a": {}}, "additionalProperties": False}, {"a": 1}, {"b": 1}),
    ("propertyNames", _FROM_6, {"propertyNames": {"maxLength": 1}}, {"a": 1}, {"ab": 1}),
    ("required", _ALL, {"required": ["a"]}, {"a": 1}, {}),
    ("minProperties", _ALL, {"minProperties": 1}, {"a": 1}, {}),
    ("maxProperties", _ALL, {"maxProperties": 1}, {"a": 1}, {"a": 1, "b": 1}),
    ("dependencies", _ALL, {"dependencies": {"a": ["b"]}}, {"a": 1, "b": 1}, {"a": 1}),
    ("dependencies on schemas", _ALL, {"dependencies": {"a": {"required": ["b"]}}}, {"a": 1, "b": 1}, {"a": 1}),
    ("dependentRequired", _FROM_2019, {"dependentRequired": {"a": ["b"]}}, {"b": 1}, {"a": 1}),
    ("dependentSchemas", _FROM_2019, {"dependentSchemas": {"a": {"maxProperties": 1}}}, {"a": 1}, {"a": 1, "b": 1}),
    (
        "unevaluatedProperties",
        _FROM_2019,
        {"allOf": [{"properties": {"a": {}}}], "unevaluatedProperties": False},
        {"a": 1},
        {"b": 1},
    ),
    ("allOf", _ALL, {"allOf": [{"minimum": 1}, {"maximum": 2}]}, 1, 3),
    ("anyOf", _ALL, {"anyOf": [{"minimum": 2}, {"maximum": 1}]}, 1, 1.5),
    ("oneOf", _ALL, {"oneOf": [{"minimum": 1}, {"maximum": 2}]}, 0, 1),
    ("not", _ALL, {"not": {"type": "null"}}, 1, None),
    ("if, then", _FROM_7, {"if": {"type": "string"}, "then": {"minLength": 1}}, 1, ""),
    ("if, else", _FROM_7, {"if": {"type": "string"}, "else": {"minimum": 1}}, "", 0),
    ("false", _FROM_6, {"properties": {"a": False}}, {}, {"a": 1}),
    (
        "$ref",
        _ALL,
        {"properties": {"a": {"$ref": "#/definitions/x~1y%25"}}, "definitions": {"x/y%": {"enum": [1]}}},
        {},
        {"a": 2},
    ),
    ("$ref to the root", _ALL, {"type": "object", "additionalProperties": {"$ref": "#"}}, {"a": {}}, {"a": {"b": 1}}),
    ("$ref beside others", _FROM_2019, {"$ref": "#/$defs/a", "minimum": 1, "$defs": {"a": {"maximum": 3}}}, 1, 0),
    ("$ref to an unknown place", _ALL, {"items": {"$ref": "#/of/0"}, "of": [{"type": "null"}]}, [None], [1]),
    ("id", [D4], {"items": {"$ref": "b.json"}, "definitions": {"b": {"id": "b.json", "type": "null"}}}, [None], [1]),
    (
        "$id",
        _FROM_6,
        {
            "$id": "http://example.com/a/b",
            "items": {"$ref": "../c#/definitions/d"},
            "definitions": {
                "c": {"$id": "/c", "definitions": {"d": {"$ref": "#/definitions/e"}, "e": {"type": "null"}}}
            },
        },
        [None],
        [1],
    ),
    (
        "$id as an anchor",
        [D6, D7],
        {"items": {"$ref": "#x"}, "definitions": {"a": {"$id": "#x", "type": "null"}}},
        [None],
        [1],
    ),
    ("$anchor", _FROM_2019, {"items": {"$ref": "#x"}, "$defs": {"a": {"$anchor": "x", "type": "null"}}}, [None], [1]),
    ("$recursiveRef", [D2019], {"$recursiveAnchor": True, "type": "array", "items": {"$recursiveRef": "#"}}, [[]], [1]),
    ("$dynamicRef", [D2020], {"$dynamicAnchor": "n", "type": "array", "items": {"$dynamicRef": "#n"}}, [[]], [1]),
    (
        "$ref and $dynamicRef",
        [D2020],
        {
            "items": {"$ref": "#/$defs/a", "$dynamicRef": "#n"},
            "$defs": {"a": {"minimum": 1}, "b": {"$dynamicAnchor": "n", "maximum": 3}},
        },
        [2],
        [4],
    ),
    ("annotations", _ALL, {"title": "t", "description": "d", "default": 1, "minimum": 1}, 1, 0),
    ("annotations of 7", _FROM_7, {"$comment": "c", "examples": [1], "readOnly": True, "minimum": 1}, 1, 0),
    ("contentSchema", _FROM_2019, {"contentSchema": {"type": "null"}, "type": "string"}, "1", 1),
]
FORMATS = [
    ("date", "2024-02-29", "2023-02-29"),
    ("time", "12:00:00Z", "12:00"),
    ("date-time", "2024-02-29T12:00:00+01:00", "2024-02-29 12:00"),
    ("duration", "P1DT2H", "1D"),
    ("email", "a@example.com", "a@"),
    ("idn-email", "é@example.com", "é"),
    ("hostname", "a.example.com", "-a"),
    ("idn-hostname", "é.example.com", "〮"),
    ("ipv4", "1.2.3.4", "1.2.3"),
    ("ipv6", "::1", ":::"),
    ("uri", "http://a/b?c#d", "//a"),
    ("uri-reference", "../a", "\\"),
    ("iri", "http://é/", "é"),
    ("iri-reference", "é", "\\"),
    ("uri-template", "/{a}", "/{a"),
    ("uuid", "f81d4fae-7dec-11d0-a765-00a0c91e6bf6", "f81d4fae"),
    ("json-pointer", "/a~0", "a"),
    ("relative-json-pointer", "1/a", "/a"),
    ("regex", "^a$", "("),
]


def _schema(definition: Any) -> Schema:
    return Schema(type="json", definition=definition if isinstance(definition, str) else json.dumps(definition))


def _told(definition: Any, payload: bytes) -> list[tuple[str, str, str]]:
    return [(v.pointer, v.keyword, v.message) for v in JsonSchema(_schema(definition)).violations(payload)]


@pytest.mark.parametrize(
    ("uri", "schema", "valid", "invalid"),
    [
        pytest.param(uri, schema, valid, invalid, id=f"{keyword}-{DRAFTS[uri].name}")
        for keyword, uris, schema, valid, invalid in KEYWORDS
        for uri in uris
    ],
)
def test_keyword(uri: str, schema: Any, valid: Any, invalid: Any) -> None:
    """Each keyword takes what satisfies it and refuses what does not, in every draft that has it."""
    kept = JsonSchema.prepare(_schema({"$schema": uri, **schema}))
    validator = JsonSchema(kept)
    assert validator.violations(json.dumps(valid).encode()) == []
    assert validator.violations(json.dumps(invalid).encode())


@pytest.mark.parametrize(("name", "valid", "invalid"), FORMATS)
def test_format(name: str, valid: str, invalid: str) -> None:
    """`format` is asserted, in the newest draft too."""
    validator = JsonSchema(_schema({"format": name}))
    assert validator.violations(json.dumps(valid).encode()) == []
    assert [v.keyword for v in validator.violations(json.dumps(invalid).encode())] == ["format"]


def test_draft_without_a_name() -> None:
    """Without `$schema` it is 2020-12; a `#` behind the name of a draft makes no difference."""
    assert _told({"prefixItems": [{"type": "null"}]}, b"[1]")
    assert _told({"$schema": f"{D7}#", "prefixItems": [{"type": "null"}]}, b"[1]") == []


@pytest.mark.parametrize("definition", [True, {}])
def test_everything_allowed(definition: Any) -> None:
    """`true` and `{}` take any JSON."""
    assert _told(definition, b'{"a": [1]}') == []


def test_missing_properties_are_one_violation() -> None:
    """Those of one object together, in the order of the schema; those of another object apart."""
    definition = {"required": ["field1", "field2"], "properties": {"in": {"required": ["a"]}}}
    assert _told(definition, b'{"in": {}}') == [
        ("", "required", "missing properties: 'field1', 'field2'"),
        ("/in", "required", "missing properties: 'a'"),
    ]


def test_every_violation_has_its_place() -> None:
    """Pointers as in RFC 6901; values of the payload are not repeated."""
    assert _told(FIVE, b'{"id": -1, "name": "n", "tags": ["secret", 7], "a/b~c": 1}') == [
        ("/id", "minimum", "the value is less than the minimum of 0"),
        ("/tags/1", "type", 'the value is not of type "string"'),
        ("/a~1b~0c", "type", 'the value is not of type "null"'),
    ]


def test_the_whole_text() -> None:
    """What old clients know."""
    with pytest.raises(SchemaViolation) as caught:
        validators.check(_schema({"required": ["field1", "field2"]}), b"{}")
    assert str(caught.value) == "Schema validation has failed: jsonschema: missing properties: 'field1', 'field2'"
    assert caught.value.fields["violations"] == [
        {"pointer": "", "keyword": "required", "message": "missing properties: 'field1', 'field2'"}
    ]


@pytest.mark.parametrize(
    "payload", [b"hello", b"", b"\xff", b'"\xff"', b"\xef\xbb\xbf{}", b"NaN", b"[1] 2", b'"\\ud800"', b'{"\\udc00":1}']
)
def test_no_json(payload: bytes) -> None:
    """A text that is not JSON is one violation."""
    (found,) = _told({}, payload)
    assert found[:2] == ("", "json")


def test_of_a_key_that_comes_twice_the_last_counts() -> None:
    """As nearly every parser of consumers has it."""
    assert _told(FIVE, b'{"id": "x", "id": 1, "name": "n"}') == []
    assert _told(FIVE, b'{"id": 1, "id": "x", "name": "n"}')


@pytest.mark.parametrize(
    ("definition", "payload", "valid"),
    [
        ({"type": "integer", "minimum": 10}, b"1e400", True),
        ({"type": "integer", "maximum": 10}, b"1e400", False),
        ({"maximum": 10}, b"-1e400", True),
        ({"type": "integer"}, b"1" + b"0" * 4000, True),
        ({"multipleOf": 3}, b"1" + b"0" * 4000, False),
        ({"multipleOf": 3}, b"3" + b"0" * 4000, True),
        ({"multipleOf": 7}, b"1e400", False),
        ({"multipleOf": 5}, b"1e400", True),
        ({"enum": [0]}, b"-0", True),
        ({"enum": [0]}, b"-0.0", True),
        ({"type": "integer"}, b"1.0", True),
        ({"const": 9007199254740993}, b"9007199254740993", True),
        ({"const": 9007199254740993}, b"9007199254740992", False),
        ({"uniqueItems": True}, b"[9007199254740993, 9007199254740992, 1e400, 1e399]", True),
        ({"uniqueItems": True}, b"[1e400, 1" + b"0" * 400 + b"]", False),
        ({"minimum": 0.1}, b"0." + b"1" * 5000, True),
        ({"exclusiveMinimum": 0}, b"1e-400", False),
    ],
)
def test_numbers_of_any_size(definition: Any, payload: bytes, *, valid: bool) -> None:
    """Integers are judged as written, other numbers as the nearest double."""
    assert (_told(definition, payload) == []) == valid


@pytest.mark.parametrize("payload", [b"1" * 5000, b"1e401", b"-1e99999999999999999999", b"1" * 400 + b".5e9"])
def test_numbers_beyond_judging(payload: bytes) -> None:
    """They are refused for what they are, rather than judged by something else."""
    assert [found[:2] for found in _told({}, payload)] == [("", "number")]


@pytest.mark.parametrize("name", [D7, f"{D7}#"])
def test_the_draft_may_be_named_again_further_below(name: str) -> None:
    """As bundled schemas do; with or without the empty fragment it is the same one."""
    definition = {"$schema": f"{D7}#", "properties": {"a": {"$schema": name, "type": "null"}}}
    assert _told(definition, b'{"a": null}') == []
    assert [found[0] for found in _told(definition, b'{"a": 1}')] == ["/a"]
    newest = {"properties": {"a": {"$schema": D2020, "type": "null"}}}
    assert [found[0] for found in _told(newest, b'{"a": 1}')] == ["/a"]


@pytest.mark.parametrize(
    ("definition", "reason"),
    [
        ('{\n "type": }', "not JSON: Expecting value, line 2, column 10"),
        ('{"a": NaN}', "not JSON"),
        ('{"a": "\\ud800"}', "not JSON: lone surrogate (byte 7)"),
        ("\ud800", "not JSON: it has a lone surrogate in it"),
        ("[]", "must be an object, true or false"),
        ({"properties": {"a/b": {"type": "strin"}}}, "/properties/a~1b/type: "),
        ({"$schema": D4, "required": []}, "/required: "),
        ({"$schema": "http://json-schema.org/draft-03/schema#"}, "/$schema: unknown"),
        ({"$schema": 7}, "/$schema: unknown"),
        ({"items": {"$schema": D7}}, "/items/$schema: a definition has one draft"),
        (
            {"properties": {"a": {"pattern": "(?=a)"}}},
            "/properties/a/pattern: no regular expression that runs",
        ),
        ({"pattern": "(a)\\1"}, "/pattern: no regular expression"),
        ({"pattern": "("}, "/pattern: no regular expression"),
        ({"patternProperties": {"(?<!a)": {}}}, "no regular expression"),
        ({"items": {"$ref": "#/nowhere"}}, "#/nowhere leads nowhere"),
        ({"items": {"$ref": "#/a"}, "a": [1]}, "#/a is no schema"),
        ({"items": {"$ref": "#/a/-1"}, "a": [{}]}, "#/a/-1 leads nowhere"),
        ({"items": {"$ref": "#nowhere"}}, "/items/$ref: #nowhere is not in this definition"),
        ({"items": {"$ref": "http://["}, "$id": "http://a"}, "is no address"),
        ({"items": {"$ref": 7}}, "/items/$ref: "),
        ({"$defs": {"a": {"$anchor": "x"}, "b": {"$anchor": "x"}}}, "/$defs/b: #x is the name of another schema"),
        ({"$ref": "#"}, "refers to itself"),
        ({"$defs": {"a": {"not": {"$ref": "#/$defs/a"}}}}, "refers to itself"),
    ],
)
def test_a_definition_is_refused_with_place_and_reason(definition: Any, reason: str) -> None:
    """Line and column where it is no JSON, else a pointer."""
    with pytest.raises(BadSchema) as caught:
        validators.prepare(_schema(definition))
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("uri", _ALL)
@pytest.mark.parametrize("size", [0, 10_000], ids=["small", "large"])
def test_a_reference_need_be_no_address_by_the_letter(uri: str, size: int) -> None:
    """Programs write names of types into them, as `List[int]`, whatever the definition's size."""
    definitions = {name: {"type": "string"} for name in ("List[int]", "Page<Item>", "Größe in cm")}
    properties = {f"p{number}": {"$ref": f"#/definitions/{name}"} for number, name in enumerate(definitions)}
    definition = {"$schema": uri, "definitions": definitions, "properties": properties, "description": "x" * size}
    validators.prepare(_schema(definition))


def test_a_definition_is_judged_by_the_same_rules_whatever_its_size() -> None:
    """Those of its draft, of which draft 4 has no empty `enum`."""
    for size in (0, 10_000):
        with pytest.raises(BadSchema, match="/enum"):
            validators.prepare(_schema({"$schema": D4, "enum": [], "description": "x" * size}))


def test_dynamic_references_between_documents_are_refused() -> None:
    """Which anchor is meant would depend on the way there."""
    inner = {"$id": "b", "$dynamicAnchor": "x"}
    with pytest.raises(BadSchema, match="dynamic anchors of the same name"):
        validators.prepare(_schema({"$id": "http://a/", "$dynamicAnchor": "x", "$defs": {"b": inner}}))


def test_the_registry_is_not_trusted() -> None:
    """What never went through `prepare` is refused all the same."""
    for definition in ({"type": "strin"}, {"$ref": "http://127.0.0.1:1/"}, {"pattern": "(?=a)"}, "{"):
        with pytest.raises(BadSchema):
            validators.validator_of(_schema(definition))
