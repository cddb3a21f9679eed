"""What schemas cost: `python -m benchmarks.validators [language ...]`.

Compiles each case's schema and checks its payload, first once, then the best of several rounds: ordinary messages, and
what somebody might send to keep a worker busy. All times are CPU time. The limits in `proxy/validators` come from it.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from benchmarks import validators_avro, validators_graphql, validators_json, validators_protobuf
from proxy.errors import BadSchema, SchemaViolation
from proxy.messages import Schema
from proxy.validators import check, forget, validator_of

ROUND_SECONDS = 0.1
ROUNDS = 5


class Measured(NamedTuple):
    """Seconds to compile, for the first check and for a later one, and what came of it."""

    compiling: float
    first: float
    again: float
    result: str


#: By language and name, what makes a case: schema and payload.
CASES: dict[str, dict[str, Callable[[], tuple[Schema, bytes]]]] = {
    "avro": validators_avro.CASES,
    "graphql": validators_graphql.CASES,
    "json": validators_json.CASES,
    "protobuf": validators_protobuf.CASES,
}


def main(languages: list[str]) -> int:
    """Measures and prints a table."""
    if unknown := set(languages) - set(CASES):
        print(f"benchmarks.validators: no such language: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    for language in languages or CASES:
        print(f"\n| {language} | bytes | compiling | first check | check | result |")
        print("| --- | ---: | ---: | ---: | ---: | --- |")
        for name, make in CASES[language].items():
            schema, payload = make()
            measured = measure(schema, payload)
            times = " | ".join(map(_shown, (measured.compiling, measured.first, measured.again)))
            print(f"| {name} | {len(payload):,} | {times} | {measured.result[:120]} |", flush=True)
    return 0


def measure(schema: Schema, payload: bytes) -> Measured:
    """Compiles once, then checks again and again; a check that takes long once a round."""
    forget()
    gc.collect()
    began = time.process_time()
    try:
        validator_of(schema)
    except BadSchema as error:
        return Measured(time.process_time() - began, 0, 0, f"refused: {error}")
    compiled = time.process_time()
    result = _checked(schema, payload)
    first = time.process_time() - compiled
    return Measured(compiled - began, first, min(_timed(schema, payload) for _ in range(ROUNDS)), result)


def _timed(schema: Schema, payload: bytes) -> float:
    count, began, spent = 0, time.process_time(), 0.0
    while spent < ROUND_SECONDS:
        for _ in range(100 if len(payload) < 200 else 1):
            _checked(schema, payload)
            count += 1
        spent = time.process_time() - began
    return spent / count


def _checked(schema: Schema, payload: bytes) -> str:
    try:
        check(schema, payload)
    except SchemaViolation as error:
        return str(error).removeprefix("Schema validation has failed: ").replace("\n", " ")
    return "valid"


def _shown(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} us" if seconds < 1e-3 else f"{seconds * 1e3:.1f} ms"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
