"""JSON Schema: drafts 4, 6, 7, 2019-09 and 2020-12, `format` asserted, every reference inside the definition.

jsonschema-rs decides about payloads, with patterns in its engine that works in linear time, and without access to files
or the network. `jsonschema` checks definitions that are registered, and is the reference in the tests. What a payload
or a definition may cost is bounded by `json_cost`; docs/decisions/0014 has the reasons.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import sys
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import jsonschema_rs
import msgspec

from proxy.errors import BadBody, BadSchema
from proxy.messages import Schema
from proxy.shaping import MAX_DEPTH, check_json
from proxy.validators import Violation, json_cost
from proxy.validators.json_definition import Definition, define, draft_of, parsed, pointer

MAX_ERRORS = 100
MAX_NANOSECONDS = 1e9
MAX_ERRORS_POSSIBLE = 10_000
MAX_ERROR_BYTES = 32 * 1024 * 1024
QUICK_BYTES = 64 * 1024
MAX_HUGE = 1000
MAX_DIGITS = 4300  # what Python makes an integer of by default
MAX_EXPONENT = 400
MAX_PATTERN_BYTES = 64 * 1024

_ENGINES = {
    "4": jsonschema_rs.Draft4Validator,
    "6": jsonschema_rs.Draft6Validator,
    "7": jsonschema_rs.Draft7Validator,
    "2019-09": jsonschema_rs.Draft201909Validator,
    "2020-12": jsonschema_rs.Draft202012Validator,
}
_THE_VALUE = "the value"
_MESSAGES = {
    "contains": "too few or too many items match what must be contained",
    "falseSchema": "nothing is allowed here",
}
_FRACTION = re.compile(rb"\d\.\d")
_HARD = re.compile(rb"\d{17}|\d[eE][+-]?\d\d")
_HUGE = re.compile(rb"[eE][+-]?\d{3}")
_decode = msgspec.json.Decoder().decode


class JsonSchema:
    """A compiled JSON Schema. `JsonSchema(schema)` raises `BadSchema`; it takes well under a second for any text."""

    label = "jsonschema"

    def __init__(self, schema: Schema) -> None:
        definition = define(schema.definition)
        self._cost = json_cost.cost_of(definition)
        self._most_hard = json_cost.MAX_HARD_UNIQUE if json_cost.asks(definition, "uniqueItems") else sys.maxsize
        # An error of these holds all the errors of all their schemas, so not even the first one is cheap.
        self._first_is_cheap = self._cost.again <= 1 and not json_cost.asks(definition, "anyOf", "oneOf")
        self._quick_size = self._size_without_a_count()
        self._validator = _compiled(definition)
        self._is_valid = self._validator.is_valid

    @staticmethod
    def prepare(schema: Schema) -> Schema:
        """The schema, checked against the meta-schema of its draft too. Raises `BadSchema`."""
        from proxy.validators.json_meta import check_meta_schema  # the package is slow to import

        json_cost.cost_of(define(schema.definition))  # before the check that takes long
        document = parsed(schema.definition)
        check_meta_schema(draft_of(document), document, len(schema.definition.encode()))
        JsonSchema(schema)
        return schema

    def violations(self, payload: bytes) -> list[Violation]:
        """What is wrong with a payload: each place once for each keyword, at most 100.

        Numbers are judged as written if they are integers, else as the nearest IEEE 754 double; of a key that comes
        twice, the last one counts. A payload that would take too long to judge has one violation that says so.
        """
        if len(payload) > self._quick_size or payload.count(b"[") + payload.count(b"{") > MAX_DEPTH:
            return self._carefully(payload)
        try:
            document = _decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return self._carefully(payload)
        return [] if self._is_valid(document) else self._told(payload, document)

    def _size_without_a_count(self) -> int:
        """The size up to which no payload costs too much: its values have a byte and a separator each at least."""
        cost = self._cost
        size = MAX_NANOSECONDS / (cost.value / 2 + cost.fraction / 4 + cost.hard / 4 + cost.byte)
        return int(min(size, 4 * self._most_hard, QUICK_BYTES))

    def _carefully(self, payload: bytes) -> list[Violation]:
        """The violations of what is no JSON, has numbers beyond the quick parser's range, is deep, or is large."""
        try:
            check_json(payload, "the payload")
            if self._is_too_much(payload):
                return [Violation("", "size", "the payload is too large to be checked against this schema")]
            document = _document(payload)
        except BadBody as error:
            return [Violation("", "json", str(error))]
        except _TooLong:
            return [Violation("", "number", "a number in the payload has too many digits to be judged")]
        return [] if self._is_valid(document) else self._told(payload, document)

    def _is_too_much(self, payload: bytes) -> bool:
        """Whether checking may take too long. Numbers are looked for only where they matter."""
        cost = self._cost
        fractions = len(_FRACTION.findall(payload)) if cost.fraction else 0
        hard = len(_HARD.findall(payload)) if cost.hard else 0  # many digits, large exponents
        numbers = cost.fraction * fractions + cost.hard * hard
        return (
            cost.value * _values(payload) + numbers + cost.byte * len(payload) > MAX_NANOSECONDS
            or hard > self._most_hard
        )

    def _told(self, payload: bytes, document: Any) -> list[Violation]:
        """What is wrong with a document that is not valid, in as much detail as its size allows."""
        errors = self._cost.errors * _values(payload)
        if self._cost.again > 1:
            errors *= min(self._cost.again, 100.0) ** _depth(document)
        if errors > MAX_ERRORS_POSSIBLE or self._cost.errors * len(payload) > MAX_ERROR_BYTES:
            return self._first(document)
        return _violations(itertools.islice(self._validator.iter_errors(document), MAX_ERRORS))

    def _first(self, document: Any) -> list[Violation]:
        """The first violation, if it can be had; the library makes all others before it hands out one."""
        if not self._first_is_cheap:
            return [Violation("", "size", "the schema is not satisfied; the payload is too large to tell where")]
        try:
            self._validator.validate(document)
        except jsonschema_rs.ValidationError as error:
            rest = Violation("", "size", "the payload is too large to look for more that is wrong")
            return [*_violations([error]), rest]
        return []


def _compiled(definition: Definition) -> jsonschema_rs.Validator:
    try:
        return _ENGINES[definition.draft.name](
            definition.schema,
            validate_formats=True,
            offline=True,
            mask=_THE_VALUE,
            pattern_options=jsonschema_rs.RegexOptions(size_limit=MAX_PATTERN_BYTES),
        )
    except jsonschema_rs.ValidationError as error:
        raise BadSchema(_reason(error)) from None
    except ValueError as error:
        raise BadSchema(f"the definition cannot be used: {error}") from None


def _reason(error: jsonschema_rs.ValidationError) -> str:
    message = error.message.replace(_THE_VALUE, "it", 1)
    if error.kind.name == "format":
        message = "no regular expression that runs in linear time (no lookaround, no backreference, of moderate size)"
    return f"{pointer(error.instance_path) or 'the definition'}: {message}"


def _violations(errors: Iterable[jsonschema_rs.ValidationError]) -> list[Violation]:
    """Errors as violations; the missing properties of one object are one of them, where the first of them came."""
    found: dict[Any, Violation] = {}
    missing: dict[str, dict[str, None]] = {}
    for error in errors:
        place = pointer(error.instance_path)
        kind = error.kind
        if isinstance(kind, jsonschema_rs.ValidationErrorKind.Required):
            names = missing.setdefault(place, {})
            names[kind.property] = None
            text = "missing properties: " + ", ".join(f"'{name}'" for name in names)
            found["required", place] = Violation(place, "required", text)
        else:
            text = _MESSAGES.get(kind.name) or error.message
            violation = Violation(place, kind.name, text)
            found.setdefault(violation, violation)
    return list(found.values())


def _values(payload: bytes) -> int:
    """At least the number of values in a document: each one follows a comma or a bracket, but the first."""
    return payload.count(b",") + payload.count(b"[") + payload.count(b"{") + 1


def _depth(document: Any) -> int:
    level, depth = [document], 0
    while level := [one for one in level if isinstance(one, dict | list)]:
        level = [child for one in level for child in (one.values() if isinstance(one, dict) else one)]
        depth += 1
    return depth


def _document(payload: bytes) -> Any:
    """What JSON says. msgspec is the quicker parser, but slow with exponents of three digits, and takes none beyond."""
    if len(_HUGE.findall(payload)) <= MAX_HUGE:
        with contextlib.suppress(msgspec.DecodeError):
            return _decode(payload)
    return json.loads(payload, parse_int=_integer, parse_float=_number)


class _TooLong(Exception):
    """A number that cannot be judged exactly at a bounded cost."""


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise _TooLong
    return int(text)


def _number(text: str) -> float | int:
    """A number with a fraction or an exponent; beyond the doubles it is the integer that it is."""
    number = float(text)
    if abs(number) != float("inf"):
        return number
    if len(text) > MAX_EXPONENT:
        raise _TooLong
    exact = _decimal(text)
    if exact.adjusted() > MAX_EXPONENT or exact != exact.to_integral_value():
        raise _TooLong
    return int(exact)


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except ArithmeticError:
        raise _TooLong from None
