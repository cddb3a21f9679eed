"""JSON documents against Avro types: the JSON encoding of the specification, and plain JSON as well.

They differ in unions, where the encoding names the branch, `{"string": "x"}`, and plain JSON has just the value. A
field that has a default may be left out. Types become functions once; then a check walks the document with them, within
limits of depth and work that do not depend on the schema.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Iterable
from typing import Any

from proxy.validators import MAX_MESSAGE_CHARACTERS, MAX_VIOLATIONS, Violation
from proxy.validators.avro_schema import Field, Type

MAX_DEPTH = 128
# A step is a value, or a field that a record could have; a branch that is tried costs as much as a few.
MAX_STEPS = 200_000
TRIAL_STEPS = 5
MAX_FOUND = 5 * MAX_VIOLATIONS
MAX_LISTED = 20

# How deep it is, the key or index there, and the place around it. Only a violation needs it as text.
Place = tuple[int, Any, Any]
Check = Callable[[Any, Place, "Report"], None]

ROOT: Place = (0, "", None)
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
_NOT_A_BYTE = re.compile(r"[^\x00-\xff]")
RANGES = {
    "int": (-(2**31), 2**31 - 1),
    "long": (-(2**63), 2**63 - 1),
    "time-millis": (0, 86_400_000 - 1),
    "time-micros": (0, 86_400_000_000 - 1),
}
MAX_FLOAT = 3.4028235677973366e38  # what is beyond rounds to infinity in 32 bits
MAX_DOUBLE = 1.7976931348623157e308
_KINDS = {
    type(None): "null",
    bool: "a boolean",
    int: "an integer",
    float: "a fraction",
    str: "a string",
    list: "an array",
}


class Enough(Exception):
    """So many violations are known that nobody reads more, or so much was done that it has to end."""


class Report:
    """What a walk has found, and how much it may still do."""

    __slots__ = ("found", "is_trial", "steps")

    def __init__(self, steps: int = MAX_STEPS, *, is_trial: bool = False) -> None:
        self.found: list[Violation] = []
        self.is_trial = is_trial
        self.steps = steps

    def add(self, place: Place, keyword: str, message: str) -> None:
        """Notes a violation. Raises `Enough` when there are as many as wanted: one, where a branch is tried."""
        self.found.append(Violation("" if self.is_trial else pointer(place), keyword, message))
        if self.is_trial or len(self.found) >= MAX_FOUND:
            raise Enough

    def spend(self, steps: int, place: Place) -> None:
        """Counts work before it is done, and depth. Raises `Enough` when it is too much, with a violation."""
        self.steps -= steps
        if self.steps < 0:
            self.give_up("size", f"takes more than {MAX_STEPS} steps to check")
        if place[0] > MAX_DEPTH:
            self.give_up("depth", f"is nested too deeply (at most {MAX_DEPTH} levels)")

    def give_up(self, keyword: str, message: str) -> None:
        """Ends the walk whatever is tried: of the whole document it is not known whether it is valid."""
        self.steps = -1
        self.found = [Violation("", keyword, message)]
        raise Enough


def pointer(place: Place) -> str:
    """The place as a JSON Pointer (RFC 6901); keys longer than any message are cut."""
    parts: list[str] = []
    while place[2] is not None:
        parts.append(str(place[1])[: MAX_MESSAGE_CHARACTERS + 1].replace("~", "~0").replace("/", "~1"))
        place = place[2]
    return "".join(f"/{part}" for part in reversed(parts))


def violations(check: Check, document: Any) -> list[Violation]:
    """What is wrong with a document, in the order of the schema's fields; not more than 100 of them."""
    report = Report()
    with contextlib.suppress(Enough):
        check(document, ROOT, report)
    return report.found


def compiled(root: Type, strict: bool) -> tuple[Check, Callable[[Type], Check]]:
    """The check for a type, and how to get those of the types it holds; `strict` refuses unknown fields."""
    compiler = _Compiler(strict)
    return compiler.check_of(root), compiler.check_of


class _Compiler:
    """Makes each type a function, once: a record that holds itself finds its own."""

    def __init__(self, strict: bool) -> None:
        self._strict = strict
        self._known: dict[int, Check] = {}

    def check_of(self, one: Type) -> Check:
        """The check for a type."""
        found = self._known.get(id(one))
        if found is None:
            found = self._record(one) if one.kind == "record" else _MAKERS[one.kind](self, one)
            self._known[id(one)] = found
        return found

    def _record(self, one: Type) -> Check:
        checks: list[tuple[str, Check, bool]] = []
        names = frozenset(field.name for field in one.fields)
        cost, strict = len(one.fields) + 1, self._strict

        def record(value: Any, place: Place, report: Report) -> None:
            if type(value) is not dict:
                _mismatch(one, value, place, report)
                return
            report.spend(cost, place)
            depth = place[0] + 1
            missing = False
            for name, check, optional in checks:
                if name in value:
                    check(value[name], (depth, name, place), report)
                elif not optional:
                    missing = True
            if missing:
                _report_missing(value, checks, place, report)
            if strict and not value.keys() <= names:
                _report_unknown(value, names, place, report)

        self._known[id(one)] = record
        checks.extend((field.name, self.check_of(field.type), field.optional) for field in one.fields)
        return record

    def _many(self, one: Type) -> Check:
        item = self.check_of(one.parts[0])
        kind: type[list[Any] | dict[Any, Any]] = list if one.kind == "array" else dict
        places: Callable[[Any], Iterable[tuple[Any, Any]]] = enumerate if kind is list else dict.items

        def many(value: Any, place: Place, report: Report) -> None:
            if type(value) is not kind:
                _mismatch(one, value, place, report)
                return
            report.spend(len(value) + 1, place)
            depth = place[0] + 1
            for key, element in places(value):
                item(element, (depth, key, place), report)

        return many

    def _union(self, one: Type) -> Check:
        tags = {branch.name: self.check_of(branch) for branch in one.parts if branch.kind != "null"}
        plain: dict[type, list[Check]] = {}
        for branch in one.parts:
            for kind in _TAKES[branch.kind]:
                plain.setdefault(kind, []).append(self.check_of(branch))
        names = _listed([branch.name for branch in one.parts])

        def union(value: Any, place: Place, report: Report) -> None:
            candidates = plain.get(type(value), _NOTHING)
            tagged = _tagged(value, tags)
            if tagged is None and len(candidates) == 1:
                candidates[0](value, place, report)
                return
            inner = (place[0] + 1, tagged, place)
            if tagged is not None and _fits(tags[tagged], value[tagged], inner, report):
                return
            if any(_fits(check, value, place, report) for check in candidates):
                return
            if tagged is not None and not report.is_trial:
                tags[tagged](value[tagged], inner, report)
            else:
                report.add(place, "union", f"{_found(value)} that is none of {names}")

        return union

    def _enum(self, one: Type) -> Check:
        symbols, listed = frozenset(one.symbols), _listed(one.symbols)

        def enum(value: Any, place: Place, report: Report) -> None:
            if type(value) is not str:
                _mismatch(one, value, place, report)
            elif value not in symbols:
                report.add(place, "enum", f"{_quoted(value)} is none of {listed}")

        return enum

    def _integer(self, one: Type) -> Check:
        least, most = RANGES[one.logical or one.kind]
        keyword = "logicalType" if one.logical else "type"

        def integer(value: Any, place: Place, report: Report) -> None:
            if type(value) is not int:
                _mismatch(one, value, place, report)
            elif not least <= value <= most:
                report.add(place, keyword, f"must be from {least} to {most}")

        return integer

    def _number(self, one: Type) -> Check:
        most = MAX_FLOAT if one.kind == "float" else MAX_DOUBLE

        def number(value: Any, place: Place, report: Report) -> None:
            if type(value) is not float and type(value) is not int:
                _mismatch(one, value, place, report)
            elif not -most <= value <= most:
                report.add(place, "type", f"is too large for {one.kind}")

        return number

    def _string(self, one: Type) -> Check:
        uuid = one.logical == "uuid"

        def string(value: Any, place: Place, report: Report) -> None:
            if type(value) is not str:
                _mismatch(one, value, place, report)
            elif uuid and not UUID.fullmatch(value):
                report.add(place, "logicalType", "must be a UUID, as in 123e4567-e89b-12d3-a456-426614174000")

        return string

    def _bytes(self, one: Type) -> Check:
        limit, size = 10**one.precision if one.precision else 0, one.size if one.kind == "fixed" else None

        def binary(value: Any, place: Place, report: Report) -> None:
            if type(value) is not str:
                _mismatch(one, value, place, report)
            elif not value.isascii() and _NOT_A_BYTE.search(value):
                report.add(place, "type", f"is {one.name}, one character a byte: those above U+00FF are none")
            elif size is not None and len(value) != size:
                report.add(place, "size", f"must have {size} bytes, not {len(value)}")
            elif limit and not is_decimal(value.encode("latin-1"), limit):
                report.add(place, "logicalType", f"has more digits than the precision, {one.precision}")

        return binary

    def _exactly(self, one: Type) -> Check:
        kind = type(None) if one.kind == "null" else bool

        def exactly(value: Any, place: Place, report: Report) -> None:
            if type(value) is not kind:
                _mismatch(one, value, place, report)

        return exactly


_MAKERS: dict[str, Callable[[_Compiler, Type], Check]] = {
    "null": _Compiler._exactly,
    "boolean": _Compiler._exactly,
    "int": _Compiler._integer,
    "long": _Compiler._integer,
    "float": _Compiler._number,
    "double": _Compiler._number,
    "string": _Compiler._string,
    "bytes": _Compiler._bytes,
    "fixed": _Compiler._bytes,
    "enum": _Compiler._enum,
    "array": _Compiler._many,
    "map": _Compiler._many,
    "union": _Compiler._union,
}
# Which values of JSON a branch of a union may be written as, without its name.
_TAKES: dict[str, tuple[type, ...]] = {
    "null": (type(None),),
    "boolean": (bool,),
    "int": (int,),
    "long": (int,),
    "float": (int, float),
    "double": (int, float),
    "string": (str,),
    "bytes": (str,),
    "fixed": (str,),
    "enum": (str,),
    "array": (list,),
    "map": (dict,),
    "record": (dict,),
}
_NOTHING: list[Check] = []


def is_decimal(encoded: bytes, limit: int) -> bool:
    """Whether a decimal's unscaled value, big-endian in two's complement, is below `limit` either way."""
    return -limit < int.from_bytes(encoded, "big", signed=True) < limit


def _fits(check: Check, value: Any, place: Place, report: Report) -> bool:
    """Whether a value satisfies a branch; the work counts, or branches within branches would double it each time."""
    report.spend(TRIAL_STEPS, place)
    trial = Report(report.steps, is_trial=True)
    try:
        check(value, place, trial)
    except Enough:
        if trial.steps < 0:
            report.found, report.steps = trial.found, -1
            raise
    report.steps = trial.steps
    return not trial.found


def _tagged(value: Any, tags: dict[str, Check]) -> str | None:
    """The branch that an object names, if it is one in the JSON encoding of a union."""
    if type(value) is not dict or len(value) != 1:
        return None
    (tag,) = value
    return tag if tag in tags else None


def _mismatch(one: Type, value: Any, place: Place, report: Report) -> None:
    report.add(place, "type", f"must be {one.name}, not {_found(value)}")


def _report_missing(value: Any, checks: list[tuple[str, Check, bool]], place: Place, report: Report) -> None:
    missing = [name for name, _, optional in checks if not optional and name not in value]
    report.add(place, "required", f"missing fields: {_listed([repr(name) for name in missing])}")


def _report_unknown(value: Any, names: frozenset[str], place: Place, report: Report) -> None:
    unknown = itertools.islice((name for name in value if name not in names), MAX_LISTED + 1)
    report.add(place, "unknown", f"unknown fields: {_listed([_quoted(name) for name in unknown])}")


def _found(value: Any) -> str:
    return _KINDS.get(type(value), "an object")


def _quoted(value: str) -> str:
    return repr(value if len(value) <= 40 else f"{value[:39]}…")


def _listed(names: tuple[str, ...] | list[str]) -> str:
    """The names in a row, not more of them than fit into a message."""
    return ", ".join([*names[:MAX_LISTED], *(["..."] if len(names) > MAX_LISTED else [])])


def wrong_default(fields: list[Field], check_of: Callable[[Type], Check]) -> tuple[Field, Violation] | None:
    """The first field whose default is not valid for its type, with what is wrong; None when all are."""
    report = Report()
    for field in fields:
        with contextlib.suppress(Enough):
            check_of(field.type)(field.default, ROOT, report)
        if report.found:
            return field, report.found[0]
    return None
