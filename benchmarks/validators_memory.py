"""How much memory a compiled schema takes for each byte of its definition, for definitions that take much.

    python -m benchmarks.validators_memory

`proxy.validators.MEMORY` is set to what this shows, rounded up.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path

from proxy import validators
from proxy.messages import Schema

COUNT = 60


def _graphql(number: int) -> Schema:
    fields = " ".join(f"a{number}_{field}(x:Int=1):Int" for field in range(400))
    return Schema(type="graphql", definition=f"type Query{{{fields}}}")


def _avro(number: int) -> Schema:
    fields = [{"name": f"f{field}", "type": ["null", "string"]} for field in range(400)]
    return Schema(type="avro", definition=json.dumps({"type": "record", "name": f"R{number}", "fields": fields}))


def _json(number: int) -> Schema:
    properties = {f"f{field}": {"type": "string", "minLength": 1} for field in range(400)}
    return Schema(type="json", definition=json.dumps({"title": str(number), "properties": properties}))


def _protobuf(number: int) -> Schema:
    fields = "".join(f"string f{field}={field};" for field in range(1, 400))
    definition = f'syntax="proto3";message M{number}{{{fields}}}'
    return validators.prepare(Schema(type="protobuf", definition=definition))


MAKERS: dict[str, Callable[[int], Schema]] = {
    "graphql": _graphql,
    "avro": _avro,
    "json": _json,
    "protobuf": _protobuf,
}


def resident() -> int:
    """Bytes of memory that this process has, as Linux counts them."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def main() -> int:
    """Prints a table."""
    print("| language | bytes of a definition | KiB of memory | memory for a byte |\n| --- | --- | --- | --- |")
    for language, make in MAKERS.items():
        schemas = [make(number) for number in range(COUNT)]
        kept = [validators.validator_of(schemas[0])]  # what the language itself takes does not count
        before = resident()
        kept += [validators.validator_of(schema) for schema in schemas[1:]]
        taken = (resident() - before) / (COUNT - 1)
        size = len(schemas[-1].definition) + len(schemas[-1].compiled)
        print(f"| {language} | {size:,} | {taken / 1024:,.0f} | {taken / size:.0f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
