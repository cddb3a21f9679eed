"""Avro schemas and payloads for `benchmarks.validators`: an ordinary message, and what might keep a worker busy."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import fastavro

from proxy.messages import Schema

LARGE = 8 * 1024 * 1024

FIVE = {
    "type": "record",
    "name": "Order",
    "fields": [
        {"name": "id", "type": "long"},
        {"name": "name", "type": "string"},
        {"name": "quantity", "type": ["null", "int"]},
        {"name": "price", "type": "double"},
        {"name": "paid", "type": "boolean"},
    ],
}
ORDER = {"id": 1234567, "name": "forty-two bytes of text, more or less, ok", "quantity": 3, "price": 12.5, "paid": True}
LIST = {"type": "record", "name": "List", "fields": [{"name": "next", "type": ["null", "List"]}]}
TREE = {"type": "record", "name": "Tree", "fields": [{"name": "parts", "type": {"type": "array", "items": "Tree"}}]}
#: Two records that plain JSON cannot tell apart until their innermost value.
TWINS = {
    "type": "record",
    "name": "Twin0",
    "fields": [
        {
            "name": "a",
            "type": ["int", "Twin0", {"type": "record", "name": "Twin1", "fields": [{"name": "a", "type": "Twin0"}]}],
        }
    ],
}
MANY = {"type": "record", "name": "Many", "fields": [{"name": f"f{i}", "type": ["null", "int"]} for i in range(1_200)]}
NOTHING = {"type": "record", "name": "Nothing", "fields": [{"name": f"f{i}", "type": "null"} for i in range(1_200)]}
ENUMS = [{"type": "enum", "name": f"E{i}", "symbols": ["A"]} for i in range(1_600)]


def _chain() -> dict[str, Any]:
    """Records in records for one byte."""
    inner: Any = "boolean"
    for level in range(60):
        inner = {"type": "record", "name": f"R{level}", "fields": [{"name": "a", "type": inner}]}
    return {"type": "array", "items": inner}


def _array(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _long(value: int) -> bytes:
    data = io.BytesIO()
    fastavro.schemaless_writer(data, "long", value)
    return data.getvalue()


def _binary(schema: Any, value: Any) -> bytes:
    data = io.BytesIO()
    fastavro.schemaless_writer(data, fastavro.parse_schema(schema), value)
    return data.getvalue()


def _block(count: int, item: bytes) -> bytes:
    return _long(count) + item * count + b"\0"


def _case(definition: Any, payload: Callable[[], bytes]) -> Callable[[], tuple[Schema, bytes]]:
    return lambda: (Schema(type="avro", definition=json.dumps(definition)), payload())


def _nested(depth: int) -> bytes:
    return b'{"a":' * depth + b'"x"' + b"}" * depth


CASES: dict[str, Callable[[], tuple[Schema, bytes]]] = {
    "five fields, JSON": _case(FIVE, lambda: json.dumps(ORDER).encode()),
    "five fields, binary": _case(FIVE, lambda: _binary(FIVE, ORDER)),
    "five fields, JSON, all wrong": _case(FIVE, lambda: b'{"id":"","name":1,"quantity":"","price":[],"paid":0}'),
    "60,000 orders, JSON": _case(_array(FIVE), lambda: json.dumps([ORDER] * 60_000).encode()),
    "80,000 orders, binary": _case(_array(FIVE), lambda: _block(80_000, _binary(FIVE, ORDER))),
    "integers, JSON": _case(_array("int"), lambda: b"[" + b"1," * 499_998 + b"1]"),
    "integers, JSON, wrong": _case(_array("int"), lambda: b"[" + b'"",' * 400_000 + b"1]"),
    "8 MiB of integers, JSON": _case(_array("int"), lambda: b"[" + b"1," * (LARGE // 2 - 2) + b"1]"),
    "integers, binary": _case(_array("long"), lambda: _block(49_900, _long(-(2**63)))),
    "8 MiB of integers, binary": _case(_array("long"), lambda: _block(LARGE - 10, b"\0")),
    "8 MiB of doubles, binary": _case(_array("double"), lambda: _block(LARGE // 8 - 2, b"12345678")),
    "8 MiB of empty arrays, JSON": _case(_array("null"), lambda: b"[" + b"[]," * (LARGE // 3) + b"1]"),
    "8 MiB of one string, JSON": _case("string", lambda: b'"' + b"x" * LARGE + b'"'),
    "8 MiB of one string, binary": _case("string", lambda: _long(LARGE) + b"x" * LARGE),
    "8 MiB of a decimal, binary": _case(
        {"type": "bytes", "logicalType": "decimal", "precision": 9}, lambda: _long(LARGE) + b"\0" * LARGE
    ),
    "8 MiB of blocks of one": _case(_array("int"), lambda: b"\2\0" * (LARGE // 2)),
    "2**62 values of no bytes": _case(_array("null"), lambda: _long(2**62) + b"\0"),
    "records in records, JSON": _case(LIST, lambda: b'{"next":' * 10_000),
    "records in records, binary": _case(LIST, lambda: b"\2" * LARGE),
    "trees, binary": _case(TREE, lambda: b"\2" * LARGE),
    "many trees, binary": _case(TREE, lambda: _long(LARGE // 2) + b"\0" * LARGE),
    "60 records for a byte": _case(_chain(), lambda: _block(LARGE - 10, b"\1")),
    "1,200 fields of no bytes": _case(_array(NOTHING), lambda: _long(2**40) + b"\0"),
    "1,200 fields missing": _case(_array(MANY), lambda: b"[" + b"{}," * 400 + b"{}]"),
    "branches that look alike": _case(TWINS, lambda: _nested(120)),
    "1,600 branches": _case(_array(ENUMS), lambda: b"[" + b'"B",' * 400_000 + b'"B"]'),
    "no JSON after all": _case(_array("int"), lambda: b"[" + b"1," * (LARGE // 2)),
    "definition: 1,200 fields": _case(MANY, lambda: b"{}"),
    "definition: 4,900 symbols": _case(
        {"type": "enum", "name": "E", "symbols": [f"S{i:040}" for i in range(4_900)]}, lambda: b'"S"'
    ),
    "definition: 1,200 defaults": _case(
        {
            "type": "record",
            "name": "R",
            "fields": [{"name": f"f{i}", "type": _array("int"), "default": [1] * 20} for i in range(1_200)],
        },
        lambda: b"{}",
    ),
    "definition: 256 KiB of brackets": lambda: (Schema(type="avro", definition="[" * 256 * 1024), b""),
}
