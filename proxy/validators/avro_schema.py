"""An Avro definition becomes types: read, checked by the rules of the Avro specification (1.12), its names resolved.

Names stand for types of the same document alone; nothing is looked up anywhere else.
"""

from __future__ import annotations

import math
import re
from typing import Any

import msgspec

from proxy.errors import BadSchema
from proxy.shaping import reason
from proxy.validators import MAX_DEFINITION_BYTES

MAX_NESTING = 64
MAX_TYPES = 5_000
MAX_PRECISION = 1_000
MAX_NAME = 256
MAX_FIXED_BYTES = 8 * 1024 * 1024

PRIMITIVES = frozenset(("null", "boolean", "int", "long", "float", "double", "bytes", "string"))
# The logical types that narrow what is valid, and what they are made of; others change nothing, as the specification
# has it.
_LOGICAL = {
    "time-millis": ("int",),
    "time-micros": ("long",),
    "decimal": ("bytes", "fixed"),
    "uuid": ("string",),
}
_ABSENT = object()
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_FULL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*", re.ASCII)
_BYTE = re.compile(r"\(byte (\d+)\)")


class Field(msgspec.Struct, eq=False):
    """A field of a record; `place` is where the definition has it, as a JSON Pointer. JSON may omit an optional one."""

    name: str
    type: Type
    place: str
    optional: bool
    default: Any


class Type(msgspec.Struct, eq=False):
    """A type of a definition. A record may hold itself, so types may form a cycle.

    `kind` is "record", "enum", "fixed", "array", "map", "union" or the name of a primitive. `name` is what the JSON of
    a union calls it: the full name, or the kind of a type that has none. `parts` are an array's item, a map's value,
    or a union's branches. Values of an `empty` type take no byte in binary.
    """

    kind: str
    name: str
    logical: str = ""
    precision: int = 0
    size: int = 0
    symbols: tuple[str, ...] = ()
    parts: list[Type] = []
    fields: list[Field] = []
    empty: bool = False


def read(definition: str) -> tuple[Type, list[Field]]:
    """The type that a definition describes, and its fields with a default, which nobody has looked at yet.

    Raises `BadSchema` with the place: line and column where the JSON is broken, else a JSON Pointer.
    """
    reader = _Reader()
    root = reader.type(_document(definition), "", "", 0)
    return root, reader.defaults


def canonical(root: Type) -> Any:
    """The definition as JSON in the sense of the specification's parsing canonical form: full names, nothing else."""
    return _canonical(root, set())


def _canonical(one: Type, told: set[str]) -> Any:
    if one.kind == "union":
        return [_canonical(branch, told) for branch in one.parts]
    if one.kind in ("array", "map"):
        return {"type": one.kind, "items" if one.kind == "array" else "values": _canonical(one.parts[0], told)}
    if one.kind in PRIMITIVES or one.name in told:
        return one.name
    told.add(one.name)
    if one.kind == "enum":
        return {"name": one.name, "type": "enum", "symbols": list(one.symbols)}
    if one.kind == "fixed":
        return {"name": one.name, "type": "fixed", "size": one.size}
    fields = [{"name": field.name, "type": _canonical(field.type, told)} for field in one.fields]
    return {"name": one.name, "type": "record", "fields": fields}


def _document(definition: str) -> Any:
    try:
        text = definition.encode()
    except UnicodeEncodeError:
        raise BadSchema("the definition has a lone surrogate in it") from None
    if len(text) > MAX_DEFINITION_BYTES:
        raise BadSchema(f"the definition is larger than {MAX_DEFINITION_BYTES} bytes")
    try:
        return msgspec.json.decode(text)
    except msgspec.MsgspecError as error:
        raise BadSchema(f"the definition is not JSON: {_where(text, reason(text, error))}") from None
    except RecursionError:
        raise BadSchema("the definition is nested too deeply") from None


def _where(text: bytes, why: str) -> str:
    """The reason with line and column in place of msgspec's offset; JSON that ends too early is broken at its end."""
    found = _BYTE.search(why)
    before = text[: int(found[1])] if found else text
    line, column = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
    return f"line {line}, column {column}: {_BYTE.sub('', why).removeprefix('JSON is malformed: ').strip()}"


class _Reader:
    """Reads one definition; keeps the named types seen so far, and counts."""

    def __init__(self) -> None:
        self.named: dict[str, Type] = {}
        self.defaults: list[Field] = []
        self._left = MAX_TYPES

    def type(self, node: Any, namespace: str, place: str, depth: int) -> Type:
        """The type that a node describes. Raises `BadSchema`."""
        self._count(1, place)
        if depth > MAX_NESTING:
            raise BadSchema(f"the definition is nested too deeply (at most {MAX_NESTING} types in each other)")
        if isinstance(node, str):
            return self._reference(node, namespace, place)
        if isinstance(node, list):
            return self._union(node, namespace, place, depth)
        if not isinstance(node, dict):
            raise _bad(place, "must be a type: a name, an object or an array of types")
        kind = node.get("type")
        if not isinstance(kind, str):
            raise _bad(f"{place}/type", "must be the name of a type")
        make = _COMPLEX.get(kind)
        found = make(self, node, namespace, place, depth) if make else self._reference(kind, namespace, f"{place}/type")
        return _with_logical(found, node, place)

    def _count(self, number: int, place: str) -> None:
        self._left -= number
        if self._left < 0:
            raise _bad(place, f"the definition has more than {MAX_TYPES} types, fields and symbols")

    def _reference(self, name: str, namespace: str, place: str) -> Type:
        if name in PRIMITIVES:
            return Type(name, name, empty=name == "null")
        full = f"{namespace}.{name}" if namespace and "." not in name else name
        found = self.named.get(full)
        if found is None:
            raise _bad(place, f"{_shown(name)} is not the name of a type, or it is used before it is defined")
        return found

    def _union(self, node: list[Any], namespace: str, place: str, depth: int) -> Type:
        branches = [self.type(part, namespace, f"{place}/{i}", depth + 1) for i, part in enumerate(node)]
        if not branches:
            raise _bad(place, "a union needs at least one type")
        seen: set[str] = set()
        for i, branch in enumerate(branches):
            if branch.kind == "union":
                raise _bad(f"{place}/{i}", "a union may not hold another union directly")
            if branch.name in seen:
                raise _bad(f"{place}/{i}", f"a union may not hold {_shown(branch.name)} twice")
            seen.add(branch.name)
        return Type("union", "union", parts=branches)

    def _array(self, node: dict[str, Any], namespace: str, place: str, depth: int) -> Type:
        return Type("array", "array", parts=[self._part(node, "items", namespace, place, depth)])

    def _map(self, node: dict[str, Any], namespace: str, place: str, depth: int) -> Type:
        return Type("map", "map", parts=[self._part(node, "values", namespace, place, depth)])

    def _part(self, node: dict[str, Any], key: str, namespace: str, place: str, depth: int) -> Type:
        if key not in node:
            raise _bad(place, f"{node['type']} needs {key!r}")
        return self.type(node[key], namespace, f"{place}/{key}", depth + 1)

    def _enum(self, node: dict[str, Any], namespace: str, place: str, _depth: int) -> Type:
        found, _ = self._define("enum", node, namespace, place)
        symbols = self._list(node, "symbols", place)
        if not all(isinstance(one, str) and _NAME.fullmatch(one) for one in symbols):
            raise _bad(f"{place}/symbols", "must be names: letters, digits and _, no digit first")
        if len(set(symbols)) < len(symbols):
            raise _bad(f"{place}/symbols", "names a symbol twice")
        if node.get("default", _ABSENT) not in (_ABSENT, *symbols):
            raise _bad(f"{place}/default", "is none of the symbols")
        found.symbols = tuple(symbols)
        return found

    def _fixed(self, node: dict[str, Any], namespace: str, place: str, _depth: int) -> Type:
        found, _ = self._define("fixed", node, namespace, place)
        size = node.get("size")
        if type(size) is not int or not 0 <= size <= MAX_FIXED_BYTES:
            raise _bad(f"{place}/size", f"must be an integer from 0 to {MAX_FIXED_BYTES}")
        found.size, found.empty = size, size == 0
        return found

    def _record(self, node: dict[str, Any], namespace: str, place: str, depth: int) -> Type:
        found, namespace = self._define("record", node, namespace, place)
        nodes = enumerate(self._list(node, "fields", place))
        found.fields = [self._field(one, namespace, f"{place}/fields/{i}", depth) for i, one in nodes]
        seen: set[str] = set()
        for field in found.fields:
            if field.name in seen:
                raise _bad(field.place, f"the record has a field {_shown(field.name)} already")
            seen.add(field.name)
        found.empty = all(field.type.empty for field in found.fields)
        return found

    def _field(self, node: Any, namespace: str, place: str, depth: int) -> Field:
        if not isinstance(node, dict):
            raise _bad(place, "a field must be an object")
        name = node.get("name")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise _bad(f"{place}/name", "must be a name: letters, digits and _, no digit first")
        if "type" not in node:
            raise _bad(place, f"field {_shown(name)} needs a 'type'")
        found = self.type(node["type"], namespace, f"{place}/type", depth + 1)
        field = Field(name, found, place, "default" in node, node.get("default"))
        if field.optional:
            self.defaults.append(field)
        return field

    def _list(self, node: dict[str, Any], key: str, place: str) -> list[Any]:
        found = node.get(key)
        if not isinstance(found, list):
            raise _bad(f"{place}/{key}", "must be an array")
        self._count(len(found), place)
        return found

    def _define(self, kind: str, node: dict[str, Any], namespace: str, place: str) -> tuple[Type, str]:
        """A new named type, known by its name from now on, and the namespace of what it holds."""
        name, space = node.get("name"), node.get("namespace", namespace)
        if not isinstance(name, str) or not _FULL_NAME.fullmatch(name):
            raise _bad(f"{place}/name", "must be a name: letters, digits and _, no digit first")
        if not isinstance(space, str) or not (space == "" or _FULL_NAME.fullmatch(space)):
            raise _bad(f"{place}/namespace", "must be names with dots between them")
        full = f"{space}.{name}" if space and "." not in name else name
        # Types inherit namespaces, so long ones would be there many times.
        if len(full) > MAX_NAME:
            raise _bad(f"{place}/name", f"is longer than {MAX_NAME} characters, the namespace included")
        if full in PRIMITIVES or full in self.named:
            raise _bad(f"{place}/name", f"there is a type {_shown(full)} already")
        found = self.named[full] = Type(kind, full)
        return found, full.rpartition(".")[0]


_COMPLEX = {
    "record": _Reader._record,
    "error": _Reader._record,
    "enum": _Reader._enum,
    "fixed": _Reader._fixed,
    "array": _Reader._array,
    "map": _Reader._map,
}


def _with_logical(found: Type, node: dict[str, Any], place: str) -> Type:
    """The type with what its logical type demands; an unknown one, or one on another type, demands nothing."""
    logical = node.get("logicalType")
    if not isinstance(logical, str) or node["type"] not in _LOGICAL.get(logical, ()):
        return found
    if logical == "decimal":
        found.precision = _precision(found, node, place)
    found.logical = logical
    return found


def _precision(found: Type, node: dict[str, Any], place: str) -> int:
    precision, scale = node.get("precision"), node.get("scale", 0)
    if type(precision) is not int or not 1 <= precision <= MAX_PRECISION:
        raise _bad(f"{place}/precision", f"must be an integer from 1 to {MAX_PRECISION}")
    if type(scale) is not int or not 0 <= scale <= precision:
        raise _bad(f"{place}/scale", "must be an integer from 0 to the precision")
    if found.kind == "fixed" and precision > math.floor(math.log10(2) * (8 * found.size - 1)):
        raise _bad(f"{place}/precision", f"does not fit into {found.size} bytes")
    return precision


def _bad(place: str, message: str) -> BadSchema:
    return BadSchema(f"{place or 'the definition'}: {message}")


def _shown(name: str) -> str:
    return repr(name if len(name) <= 100 else f"{name[:99]}…")
