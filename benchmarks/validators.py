"""What schemas cost: `python -m benchmarks.validators protobuf` compiles and checks ordinary and hostile cases.

A case is a name, a schema and a payload; the table tells how long compiling and checking took, and what came of it. The
limits in `proxy/validators` were set from it. A language is a function that makes cases and a line in `LANGUAGES`.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from benchmarks import validators_protobuf
from proxy.errors import BadSchema, SchemaViolation
from proxy.messages import Schema
from proxy.validators import check, validator_of

REPEAT_SECONDS = 0.05


class Case(NamedTuple):
    """One schema and one payload to check against it."""

    name: str
    schema: Schema
    payload: bytes


class Measured(NamedTuple):
    """Milliseconds of CPU time to compile, microseconds to check (the best of several), and the result."""

    compile_ms: float
    check_us: float
    result: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a table for each language named, or for all of them."""
    names = sys.argv[1:] if arguments is None else list(arguments)
    if unknown := set(names) - set(LANGUAGES):
        print(f"not one of {', '.join(LANGUAGES)}: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    for name in names or LANGUAGES:
        print(f"\n| {name} | compile, ms | check, us | result |\n| --- | ---: | ---: | --- |")
        for case in LANGUAGES[name]():
            measured = measure(case)
            print(
                f"| {case.name} | {measured.compile_ms:.2f} | {measured.check_us:.1f} | {measured.result} |", flush=True
            )
    return 0


def measure(case: Case) -> Measured:
    """Compiles once, then checks again and again for a moment."""
    validator_of.cache_clear()
    started = time.process_time()
    try:
        validator_of(case.schema)
    except BadSchema as error:
        return Measured((time.process_time() - started) * 1e3, 0.0, f"refused: {error}"[:100])
    compiled = time.process_time() - started
    best, result, until = float("inf"), "", time.process_time() + REPEAT_SECONDS
    while not result or time.process_time() < until:
        began = time.process_time()
        result = _checked(case)
        best = min(best, time.process_time() - began)
    return Measured(compiled * 1e3, best * 1e6, result[:100])


def _checked(case: Case) -> str:
    try:
        check(case.schema, case.payload)
    except SchemaViolation as error:
        return str(error).removeprefix("Schema validation has failed: ")
    return "valid"


LANGUAGES: dict[str, Callable[[], Iterable[Case]]] = {
    "protobuf": lambda: itertools.starmap(Case, validators_protobuf.cases()),
}


if __name__ == "__main__":
    sys.exit(main())
