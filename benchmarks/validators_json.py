"""JSON Schema for `benchmarks.validators`: an ordinary message, and what is made to take long."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from proxy.messages import Schema

Make = Callable[[], tuple[Schema, bytes]]
Case = tuple[str, Make]

PATTERNS = (
    *("^(a+)+$", "^[ab]{8}-[ab]{4}$", "(a{30}){30}$", "^(?:a?){200}a{200}c", "(.*a){12}$", "a" * 2000),
    *("[ab]*a[ab]{700}c", r"\b\w*a\w{50}\bc", r"(\S*\b){10}c", r"(a)\1", "(?=a)"),
)
DRAFT_7 = "http://json-schema.org/draft-07/schema#"
FIVE = {
    "type": "object",
    "properties": {
        "id": {"type": "integer", "minimum": 0},
        "name": {"type": "string", "maxLength": 100},
        "price": {"type": "number"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "ok": {"type": "boolean"},
    },
    "required": ["id", "name", "price"],
}


def _cases() -> Iterator[Case]:
    message = {"id": 12345, "name": "some name", "price": 12.5, "tags": ["a", "b"], "ok": True, "pad": "x" * 20}
    yield _json("100 bytes, five fields", FIVE, message)
    yield _json("the same, not valid", FIVE, {"id": "x"})
    yield _json("1 MB of five fields", {"items": FIVE}, [message] * 10_000)
    yield _json("1 MB, every element wrong", {"items": FIVE}, [{"id": "x"}] * 100_000)
    yield _json("1 MB, every element wrong, anyOf", {"items": {"anyOf": [FIVE, FIVE]}}, [{"id": "x"}] * 100_000)
    yield _json("10,000 errors", {"items": {"type": "string"}}, [0] * 1_500)
    yield from _json_growth()
    yield from _json_numbers()
    yield from _json_strings()


def _json_growth() -> Iterator[Case]:
    for keyword in ("allOf", "anyOf", "oneOf"):
        for levels in (8, 12, 30):
            yield _json(f"{keyword} of references, {levels} levels", _ladder(keyword, levels, "type"), "x")
    yield _json("30 levels of items", _ladder("allOf", 30, "items"), _nested(30))
    yield _json("tree", {"properties": {"a": {"$ref": "#"}}, "required": ["b"]}, _nested(100, "a"))
    twice = {"properties": {"a": {"$ref": "#"}}}
    doubled = {"anyOf": [{**twice, "required": ["b"]}, {**twice, "required": ["c"]}]}
    yield _json("recursion that doubles", doubled, _nested(100, "a"))
    yield _json("the same, wide", {"items": doubled}, [_nested(100, "a")] * 500)
    for levels in (4, 8, 14):
        unevaluated: Any = {"properties": {"a": True}}
        for _ in range(levels):
            unevaluated = {"unevaluatedProperties": False, "anyOf": [unevaluated, {"properties": {"c": True}}]}
        yield _json(f"unevaluatedProperties, {levels} levels", unevaluated, {"a": 1})
    chain = {"$defs": {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}]} for i in range(40)}, "$ref": "#/$defs/d0"}
    chain["$defs"]["d40"] = {"properties": {"a": {"$ref": "#"}}}
    yield _json("deep recursion over a chain", chain, _nested(120, "a"))
    yield _json("2000 schemas", {"anyOf": [{"properties": {"a": {"type": "null"}}}] * 990}, {"a": 1})
    yield _json("required of 10,000 names", {"items": {"required": _names(10_000)}}, [{}] * 100_000)
    yield _json(
        "300 patterns for names", {"patternProperties": dict.fromkeys(_names(300), True)}, dict.fromkeys(_names(20_000))
    )
    yield _json(
        "dependentRequired",
        {"items": {"dependentRequired": {name: ["p"] for name in _names(1000)}}},
        [{"n5": 1, "p": 1}] * 20_000,
    )


def _json_numbers() -> Iterator[Case]:
    numbers = list(range(1000))
    for name, values in {
        "small": 7,
        "float": 0.30000000000000004,
        "1e-300": 1e-300,
        "1e300": 1e300,
        "long": 10**40,
    }.items():
        for keyword, value in {"enum": numbers[:10], "multipleOf": 0.01, "const": 0.5, "minimum": 1}.items():
            yield _json(f"20,000 {name} numbers, {keyword}", {"items": {"not": {keyword: value}}}, [values] * 20_000)
    yield _json("20,000 small numbers, enum of 1000", {"items": {"not": {"enum": numbers}}}, [-7] * 20_000)
    yield _json("200 fractions, enum of 1000", {"items": {"not": {"enum": numbers}}}, [0.7] * 200)
    yield _json("20,000 fractions, enum of 1000", {"items": {"not": {"enum": numbers}}}, [0.7] * 20_000)
    yield _json("enum of 1000 arrays", {"items": {"enum": [[i, [i]] for i in numbers]}}, [[-1, [-1]]] * 20_000)
    yield "1 MB of 1e300", lambda: (Schema(type="json", definition="{}"), b"[" + b"1e300," * 170_000 + b"1e300]")
    yield _json("4300 digits", {"items": {"minimum": 1}}, [10**4299] * 500)
    yield _json("uniqueItems, 1 MB of numbers", {"uniqueItems": True}, list(range(150_000)))
    for name, item in {"fractions": 0.05, "small fractions": 1e-300}.items():
        for count in (30, 3000):
            few = [[item * (1 + number / 64) for number in range(15)]] * count
            yield _json(f"uniqueItems, {count} times 15 {name}", {"items": {"uniqueItems": True}}, few)
    yield _json("uniqueItems, 500 long numbers", {"uniqueItems": True}, [10**25 + i for i in range(500)])
    yield _json("uniqueItems, 100,000 long numbers", {"uniqueItems": True}, [10**25 + i for i in range(100_000)])


def _json_strings() -> Iterator[Case]:
    mixed = "".join(random.Random(1).choices("ab", k=1_000_000))
    for pattern in PATTERNS:
        for size in (10_000, 100_000, 1_000_000):
            yield _json(f"pattern {pattern[:24]}, {size} bytes", {"pattern": pattern}, mixed[:size])
    yield _json("format regex, many", {"items": {"format": "regex"}}, [r"(\w{100}){100}"] * 20_000)
    for name in ("date-time", "email", "idn-hostname", "uri", "uri-template", "regex", "json-pointer", "ipv6"):
        yield _json(f"format {name}, 1 MB", {"format": name}, "é." * 350_000)
    yield _json(
        "contentMediaType, 1 MB", {"$schema": DRAFT_7, "contentMediaType": "application/json"}, str([1] * 300_000)
    )
    yield _json("lengths, 1 MB", {"allOf": [{"maxLength": 2_000_000 + length} for length in range(200)]}, "é" * 500_000)
    yield _json("names of 1 MB, unexpected", {"allOf": [{"additionalProperties": False}] * 100}, {"a" * 1_000_000: 1})


def _json(name: str, schema: Any, document: Any) -> Case:
    return name, lambda: (Schema(type="json", definition=json.dumps(schema)), json.dumps(document).encode())


def _ladder(keyword: str, levels: int, leaf: str) -> dict[str, Any]:
    """Each level refers twice to the one below, at the same value or (`items`) at its items."""
    steps: dict[str, Any] = {"d0": {"type": "integer"}}
    for level in range(1, levels):
        step: Any = {"$ref": f"#/$defs/d{level - 1}"}
        step = {"items": step} if leaf == "items" else step
        steps[f"d{level}"] = {keyword: [step, dict(step)]}
    return {"$defs": steps, "$ref": f"#/$defs/d{levels - 1}"}


def _nested(levels: int, name: str = "") -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {name: value} if name else [value]
    return value


def _names(count: int) -> list[str]:
    return [f"n{number}" for number in range(count)]


#: By name, what makes schema and payload.
CASES: dict[str, Make] = dict(_cases())
