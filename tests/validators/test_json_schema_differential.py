"""jsonschema-rs behind our definitions agrees with the `jsonschema` package, on generated schemas and documents.

Where they do not, docs/decisions/0014 has the reason, `DISAGREEMENTS` an example, and what is generated stays clear of
it: fractions that are exact in binary, patterns and strings that ECMA 262 and Python read alike, formats both know.
"""

from __future__ import annotations

import functools
import json
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.errors import BadSchema
from proxy.messages import Schema
from proxy.validators.json_schema import JsonSchema
from tests.servers import ROOT

DRAFTS: dict[int, Any] = {
    4: jsonschema.Draft4Validator,
    6: jsonschema.Draft6Validator,
    7: jsonschema.Draft7Validator,
    2019: jsonschema.Draft201909Validator,
    2020: jsonschema.Draft202012Validator,
}
_NAMES = st.sampled_from(["a", "b", "ab", "c"])
_TYPE = st.sampled_from(["null", "boolean", "integer", "number", "string", "array", "object"])
_PATTERNS = st.sampled_from(["^a", "b$", "[0-9]+", "^[ab]*$", "^(a|b)c?$", "^.{2}$", "", r"^\w{1,2}$", "[^a]"])
_FORMATS = st.sampled_from(["ipv4", "ipv6", "unheard-of"])
_NUMBERS = st.one_of(st.integers(-4, 4), st.integers(-16, 16).map(lambda number: number / 4), st.just(2**70))
_TEXTS = st.one_of(
    st.text("ab01", max_size=3),
    st.sampled_from(["2024-02-29", "2023-02-29", "127.0.0.1", "1.2.3", "::1", "é", "\U0001f600"]),
)
_SCALARS = st.one_of(st.none(), st.booleans(), _NUMBERS, _TEXTS)
DOCUMENTS = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(_NAMES, inner, max_size=4)),
    max_leaves=10,
)


@functools.cache
def _schemas(draft: int, levels: int = 3) -> st.SearchStrategy[Any]:
    """Schemas of a draft: up to four of its keywords, references to the root and to two definitions included."""
    keywords = _assertions(draft) | (_applicators(draft, _schemas(draft, levels - 1)) if levels else {})
    some = st.lists(st.sampled_from(sorted(keywords)), max_size=4, unique=True)
    found = some.flatmap(lambda names: st.fixed_dictionaries({name: keywords[name] for name in names}))
    references = [{"$ref": name} for name in ("#", "#/definitions/one", "#/definitions/two")]
    return st.one_of(found, found, st.sampled_from([{}, *references, *([True, False] if draft > 4 else [])]))


def _assertions(draft: int) -> dict[str, Any]:
    count = st.integers(0, 3)
    found: dict[str, Any] = {
        "type": st.one_of(_TYPE, st.lists(_TYPE, min_size=1, max_size=3, unique=True)),
        "enum": st.lists(DOCUMENTS, min_size=1, max_size=4, unique_by=lambda value: json.dumps(value, sort_keys=True)),
        "multipleOf": st.sampled_from([1, 2, 0.25, 0.5, 3]),
        "minimum": _NUMBERS,
        "maximum": _NUMBERS,
        **dict.fromkeys(("maxLength", "minLength", "maxItems", "minItems", "maxProperties", "minProperties"), count),
        "pattern": _PATTERNS,
        "format": _FORMATS,
        "uniqueItems": st.booleans(),
        "required": st.lists(_NAMES, min_size=1, max_size=2, unique=True),
    }
    if draft > 4:
        found |= {"const": DOCUMENTS, "exclusiveMinimum": _NUMBERS, "exclusiveMaximum": _NUMBERS}
    if draft >= 2019:
        found["dependentRequired"] = st.dictionaries(_NAMES, st.lists(_NAMES, max_size=2, unique=True), max_size=2)
    return found


def _applicators(draft: int, inner: Any) -> dict[str, Any]:
    some = st.lists(inner, min_size=1, max_size=3)
    named = st.dictionaries(_NAMES, inner, max_size=3)
    found = {
        **dict.fromkeys(("allOf", "anyOf", "oneOf"), some),
        **dict.fromkeys(("not", "items", "additionalProperties"), inner),
        "properties": named,
        "patternProperties": st.dictionaries(_PATTERNS, inner, max_size=2),
    }
    if draft < 2019:
        found["dependencies"] = st.dictionaries(
            _NAMES, st.one_of(inner, st.lists(_NAMES, min_size=1, max_size=2, unique=True))
        )
    else:
        found |= {"dependentSchemas": named, "unevaluatedProperties": inner, "unevaluatedItems": inner}
        found |= {"minContains": st.integers(0, 2), "maxContains": st.integers(0, 2)}
    if draft < 2020:
        found |= {"items": st.one_of(inner, some), "additionalItems": inner}
    else:
        found["prefixItems"] = some
    if draft > 4:
        found |= {"contains": inner, "propertyNames": inner}
    if draft > 6:
        found |= {"if": inner, "then": inner, "else": inner}
    return found


@pytest.mark.slow
@pytest.mark.parametrize("draft", DRAFTS)
def test_both_libraries_agree(draft: int) -> None:
    """On schemas with all keywords of a draft, and documents that come near them."""
    cls = DRAFTS[draft]
    judged = {True: 0, False: 0}

    @settings(max_examples=120, suppress_health_check=list(HealthCheck))
    @given(_schemas(draft), _schemas(draft), _schemas(draft), st.lists(DOCUMENTS, min_size=4, max_size=8))
    def agree(schema: Any, one: Any, two: Any, documents: list[Any]) -> None:
        if not isinstance(schema, dict):
            return
        whole = {"$schema": cls.META_SCHEMA["$schema"], **schema, "definitions": {"one": one, "two": two}}
        try:
            ours = JsonSchema.prepare(Schema(type="json", definition=json.dumps(whole)))
        except BadSchema as error:
            if "without end" not in str(error):
                raise
            return
        validator, reference = JsonSchema(ours), cls(whole, format_checker=cls.FORMAT_CHECKER)
        for document in documents:
            expected = reference.is_valid(document)
            judged[expected] += 1
            found = validator.violations(json.dumps(document).encode())
            assert (not found) == expected, (
                whole,
                document,
                found,
                [e.message for e in reference.iter_errors(document)],
            )

    agree()
    assert min(judged.values()) > 30, judged


# Where the libraries differ: rule of docs/decisions/0014, draft, schema, document, and what we say.
DISAGREEMENTS: list[tuple[str, int, dict[str, Any], str, bool]] = [
    ("decimal-fractions", 7, {"multipleOf": 0.01}, "19.99", True),
    ("beyond-doubles", 7, {"type": "integer"}, "1e400", True),
    ("ecma-classes", 7, {"pattern": r"^\d$"}, '"\u0663"', False),
    ("ecma-classes", 7, {"pattern": r"^\w$"}, '"é"', False),
    ("ecma-classes", 7, {"pattern": r"^\s$"}, '"\ufeff"', True),
    ("ecma-line-ends", 7, {"pattern": "^.$"}, '"\\u2028"', False),
    ("ecma-line-ends", 7, {"pattern": "a$"}, '"a\\n"', False),
    ("content-asserted", 7, {"contentMediaType": "application/json"}, '"{"', False),
    ("content-asserted", 7, {"contentEncoding": "base64"}, '"%%"', False),
    ("formats-asserted", 7, {"format": "email"}, '"a@"', False),
    ("formats-asserted", 7, {"format": "date-time"}, '"x"', False),
    ("formats-asserted", 2020, {"format": "duration"}, '"x"', False),
    ("formats-of-later-drafts", 4, {"format": "date"}, '"x"', False),
    ("dependencies-kept", 2019, {"dependencies": {"a": ["b"]}}, '{"a":1}', False),
    ("dependencies-kept", 2020, {"dependencies": {"a": ["b"]}}, '{"a":1}', False),
]


@pytest.mark.parametrize(("rule", "draft", "schema", "document", "ours"), DISAGREEMENTS)
def test_a_disagreement_is_as_described(
    rule: str, draft: int, schema: dict[str, Any], document: str, *, ours: bool
) -> None:
    """Each rule still holds, and has its paragraph; one that no longer does may be dropped."""
    cls = DRAFTS[draft]
    whole = {"$schema": cls.META_SCHEMA["$schema"], **schema}
    reference = cls(whole, format_checker=cls.FORMAT_CHECKER)
    validator = JsonSchema(Schema(type="json", definition=json.dumps(whole)))
    assert (not validator.violations(document.encode())) == ours
    assert reference.is_valid(json.loads(document)) != ours
    assert f"**{rule}**" in (ROOT / "docs/decisions/0014-json-schema.md").read_text()
