"""Avro definitions and payloads made to hurt: each has its limit, and none crashes the process or keeps it for long."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from benchmarks.validators_avro import CASES
from proxy.errors import BadSchema, SchemaViolation
from proxy.validators import check, validator_of
from tests.validators.tools import avro, run, told

LIST = {"type": "record", "name": "List", "fields": [{"name": "next", "type": ["null", "List"]}]}
BARE = {"type": "record", "name": "Bare", "fields": [{"name": "again", "type": "Bare"}]}

#: What is run in a process of its own, as a crash in C would end the tests' own.
PROGRAM = """
import json
from proxy.messages import Schema
from proxy.validators.avro import Avro
definition, payload = {definition!r}, {payload}
try:
    Avro.prepare(Schema(type="avro", definition=definition))
    print([one.keyword for one in Avro(Schema(type="avro", definition=definition)).violations(payload)])
except Exception as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize(
    ("definition", "payload", "printed"),
    [
        (json.dumps(LIST), "b'\\x02' * 8_000_000", "['depth']"),
        (json.dumps(LIST), 'b\'{"next":\' * 500_000 + b"null" + b"}" * 500_000', "['size']"),
        (json.dumps(LIST), 'b\'{"next":\' * 90_000 + b"null" + b"}" * 90_000', "['depth']"),
        (json.dumps(BARE), "b''", "['depth']"),
        (json.dumps(BARE), "b'{}'", "['required']"),
        (json.dumps(["null", {"type": "array", "items": "null"}]), "b'\\x02' + b'\\x80' * 9 + b'\\x01'", "['size']"),
        ("[" * 250_000, "b''", "BadSchema"),
        ('{"type":"array","items":' * 10_000 + '"int"' + "}" * 10_000, "b''", "BadSchema"),
        ('{"type":"map","values":' * 60 + '"int"' + "}" * 60, "b'{\"a\":' * 60 + b'1' + b'}' * 60", "[]"),
        ('{"type":"int","doc":' + "[" * 900 + "]" * 900 + "}", "b'\\x02'", "[]"),
    ],
)
def test_depth_crashes_nothing(definition: str, payload: str, printed: str) -> None:
    """Records in records, definitions in definitions: fastavro alone would go down with the worker."""
    assert run(PROGRAM.format(definition=definition, payload=payload)) == printed


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_no_case_of_the_benchmark_keeps_a_worker_for_long(name: str) -> None:
    """The limit is many times what the benchmark shows, for slow machines; without limits some take minutes."""
    schema, payload = CASES[name]()
    began = time.process_time()
    try:
        validator_of(schema)
        check(schema, payload)
    except (BadSchema, SchemaViolation):
        pass
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("definition", "payload", "keyword"),
    [
        ({"type": "array", "items": "int"}, b"[" + b"1," * 300_000 + b"1]", "size"),
        ({"type": "array", "items": "int"}, b"[" + b"[]," * 200_000 + b"1]", "size"),
        ("string", b"[" + b'"x",' * 10 + b"1" * 5_000 + b"]", "size"),
        (LIST, b'{"next":' * 130 + b"null" + b"}" * 130, "depth"),
    ],
)
def test_documents_have_limits(definition: Any, payload: bytes, keyword: str) -> None:
    """Values, brackets, digits, depth: refused as a whole with one violation."""
    (found,) = avro(definition).violations(payload)
    assert found.keyword == keyword


def test_what_is_within_the_limits_passes() -> None:
    """The limit of depth is that of the contract for JSON."""
    assert avro(LIST).violations(b'{"next":' * 120 + b"null" + b"}" * 120) == []
    assert avro(LIST).violations(b"\x02" * 120 + b"\0") == []
    assert avro({"type": "array", "items": "int"}).violations(b"[" + b"1," * 150_000 + b"1]") == []


def test_branches_within_branches_do_not_double_the_work() -> None:
    """A value that two records fit until its innermost is refused as too much, or told as wrong; at once either way."""
    schema, _ = CASES["branches that look alike"]()
    for depth in (5, 30, 120):
        found = validator_of(schema).violations(b'{"a":' * depth + b'"x"' + b"}" * depth)
        assert told(found) in ([("", "union")], [("/a", "union")], [("", "size")])
