"""What payloads are checked against: one module for each language of schemas, found by the schema's type.

No language is imported before a schema of its type is met. Definitions come from users, and from a registry that users
write to, so nothing in these modules trusts them: what is costly or dangerous is refused, by limits named there.
"""

from __future__ import annotations

import codecs
import importlib
from typing import Any, BinaryIO, Protocol

import msgspec

from proxy.errors import BadSchema, SchemaViolation, let_go
from proxy.messages import Schema
from proxy.remembering import Remembered

VALIDATORS = {
    "json": "proxy.validators.json_schema:JsonSchema",
    "protobuf": "proxy.validators.protobuf:Protobuf",
    "avro": "proxy.validators.avro:Avro",
    "graphql": "proxy.validators.graphql:GraphQL",
}
MAX_DEFINITION_BYTES = 256 * 1024
MAX_COMPILED = 512
MAX_COMPILED_BYTES = 128 * 1024 * 1024
# Bytes of memory for a byte of a compiled definition, at most about: `python -m benchmarks.validators_memory`.
MEMORY = {"json": 25, "protobuf": 5, "avro": 80, "graphql": 110}
MAX_VIOLATIONS = 20
MAX_MESSAGE_CHARACTERS = 300


class Violation(msgspec.Struct, frozen=True):
    """One thing that is wrong with a payload.

    `pointer` is its place: a JSON Pointer (RFC 6901), a field path, or line and column; empty for the whole.
    `keyword` is the demand that is not met, as the language calls it; `message` says it to the sender.
    """

    pointer: str
    keyword: str
    message: str


class Validator(Protocol):
    """A compiled schema. `Validator(schema)` raises `BadSchema`; it runs in requests, so it must be quick."""

    #: How the language is called in answers, as in "Schema validation has failed: jsonschema: ...".
    label: str

    def __init__(self, schema: Schema) -> None:
        """Compiles it."""

    @staticmethod
    def prepare(schema: Schema) -> Schema:
        """The schema as it is to be kept, checked in full; may take seconds. Raises `BadSchema`."""

    def violations(self, payload: bytes) -> list[Violation]:
        """What is wrong with a payload; empty for a valid one. Never raises for what the payload holds."""


def read_definition(file: BinaryIO) -> str:
    """The text of a file, without a byte order mark; of one that is too large so much that this is seen.

    Raises `UnicodeDecodeError`.
    """
    most = MAX_DEFINITION_BYTES + 8  # with room for the mark, and for a character that is cut off
    content = file.read(most)
    return codecs.getincrementaldecoder("utf-8-sig")().decode(content, len(content) < most)


def prepare(schema: Schema) -> Schema:
    """Checks a definition that is to be registered, and compiles what no request should have to.

    May take seconds, and may start a process: for greenlets and threads, never for the loop. Raises `BadSchema`.
    """
    if len(schema.definition.encode(errors="surrogatepass")) > MAX_DEFINITION_BYTES:
        raise BadSchema(f"the definition is larger than {MAX_DEFINITION_BYTES} bytes")
    prepared: Schema = _kind(schema.type).prepare(schema)
    return prepared


def validator_of(schema: Schema) -> Validator:
    """The validator of a schema, compiled once for the same content. Raises `BadSchema`."""
    compiled = compiled_or_not(schema)
    if isinstance(compiled, BadSchema):
        raise BadSchema(compiled.message)
    return compiled


def compiled_or_not(schema: Schema) -> Validator | BadSchema:
    """The validator of a schema, or why it has none; else senders would have a bad one compiled again and again."""
    compiled = _compiled.get(schema)
    if compiled is None:
        try:
            compiled = _kind(schema.type)(schema)
        except BadSchema as error:
            let_go(error)  # else what it came from has this call, and the payload
            compiled = error
        _compiled.put(schema, compiled)
    return compiled


def forget() -> None:
    """Has every schema compiled anew."""
    _compiled.clear()


def _memory(schema: Schema) -> int:
    """About how much memory it takes; nothing is made of a definition that is too large, but its text is kept."""
    size = len(schema.definition) + len(schema.compiled)
    return size if len(schema.definition) > MAX_DEFINITION_BYTES else size * MEMORY.get(schema.type, 1)


_compiled: Remembered[Schema, Validator | BadSchema] = Remembered(MAX_COMPILED, MAX_COMPILED_BYTES, _memory)


def check(schema: Schema, payload: bytes) -> None:
    """Sees that a payload satisfies a schema. Raises `SchemaViolation`, which tells every violation within bounds."""
    validator = validator_of(schema)
    found = validator.violations(payload)
    if found:
        raise violation(validator.label, found)


def violation(label: str, found: list[Violation]) -> SchemaViolation:
    """The error that tells a sender what is wrong."""
    shown = [_bounded(one) for one in found[:MAX_VIOLATIONS]]
    text = "; ".join(f"{one.pointer}: {one.message}" if one.pointer else one.message for one in shown)
    if len(found) > len(shown):
        text += f"; and {len(found) - len(shown)} more"
    return SchemaViolation(
        f"Schema validation has failed: {label}: {text}", violations=[msgspec.structs.asdict(one) for one in shown]
    )


def _bounded(one: Violation) -> Violation:
    """A violation whose texts are of bounded size, whatever the payload held."""
    if max(len(one.pointer), len(one.message)) <= MAX_MESSAGE_CHARACTERS:
        return one
    return Violation(_cut(one.pointer), one.keyword, _cut(one.message))


def _cut(text: str) -> str:
    return text if len(text) <= MAX_MESSAGE_CHARACTERS else text[: MAX_MESSAGE_CHARACTERS - 1] + "…"


def _kind(name: str) -> Any:
    if name not in VALIDATORS:
        raise BadSchema(f"type must be one of {', '.join(VALIDATORS)}")
    module, _, attribute = VALIDATORS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
