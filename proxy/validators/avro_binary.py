"""Binary data against Avro types: whether it is their encoding, from the first byte to the last.

A walk over the bytes that makes no objects. Libraries that read Avro trust it: counts of 2^62 items that take no bytes,
lengths below zero, indices from the end and records in records by the million loop, allocate, pass or crash there. Here
each step uses up bytes or is counted, and depth is limited. Encoding: "Binary encoding" in the specification.
"""

from __future__ import annotations

from collections.abc import Callable

from proxy.validators import Violation
from proxy.validators.avro_json import MAX_DEPTH, MAX_STEPS, RANGES, UUID, is_decimal
from proxy.validators.avro_schema import Type

BLOCK_STEPS = 3


class Walk:
    """The bytes that are walked over, and how many steps may still be made."""

    __slots__ = ("data", "end", "steps")

    def __init__(self, data: bytes, steps: int = MAX_STEPS) -> None:
        self.data = data
        self.end = len(data)
        self.steps = steps


# From a position in the data, at a depth, to the position behind the value.
Skip = Callable[[Walk, int, int], int]
# The same for many values in a row; the last two are how many, and the index of the first.
SkipMany = Callable[[Walk, int, int, int, int], int]


class Broken(Exception):
    """The data is not the encoding of the type. `path` grows on the way out, the innermost name first."""

    def __init__(self, message: str, at: int, keyword: str = "encoding") -> None:
        super().__init__(message)
        self.message = message
        self.at = at
        self.keyword = keyword
        self.path: list[str] = []


def violation(skip: Skip, data: bytes) -> Violation | None:
    """What is wrong with the data first; None if it is one value of the type, to its last byte."""
    walk = Walk(data)
    try:
        at = skip(walk, 0, 0)
        if at != walk.end:
            raise Broken(f"{walk.end - at} bytes follow the value", at)
    except Broken as error:
        pointer = "".join(f"/{name}" for name in reversed(error.path))
        return Violation(pointer, error.keyword, f"{error.message} (byte {error.at})")
    return None


def compiled(root: Type) -> Skip:
    """The function that walks over a value of the type."""
    return _Compiler().skip_of(root)


class _Compiler:
    """Makes each type a function, once: a record that holds itself finds its own."""

    def __init__(self) -> None:
        self._known: dict[int, Skip] = {}

    def skip_of(self, one: Type) -> Skip:
        """The function for a type."""
        found = self._known.get(id(one))
        if found is None:
            make = _MAKERS.get(one.kind)
            found = make(self, one) if make else _SIMPLE[one.logical or one.kind]
            self._known[id(one)] = found
        return found

    def _record(self, one: Type) -> Skip:
        skips: list[tuple[str, Skip]] = []
        cost = len(one.fields) + 1

        def record(walk: Walk, at: int, depth: int) -> int:
            _spend(walk, cost, at, depth)
            field = ""
            try:
                for name, skip in skips:
                    field = name
                    at = skip(walk, at, depth + 1)
            except Broken as error:
                error.path.append(field)
                raise
            return at

        self._known[id(one)] = record
        skips.extend((field.name, self.skip_of(field.type)) for field in one.fields)
        return record

    def _array(self, one: Type) -> Skip:
        return self._blocks(one.parts[0], has_keys=False)

    def _map(self, one: Type) -> Skip:
        return self._blocks(one.parts[0], has_keys=True)

    def _blocks(self, part: Type, has_keys: bool) -> Skip:
        skip_items = self._pairs(part) if has_keys else self._items(part)
        takes_bytes = has_keys or not part.empty

        def blocks(walk: Walk, at: int, depth: int) -> int:
            index = 0
            while True:
                start = at
                count, size, at = _block(walk, at)
                if count == 0:
                    return at
                if takes_bytes and count > walk.end - at:
                    raise Broken(f"a block of {count} items, with {walk.end - at} bytes left", start)
                _spend(walk, BLOCK_STEPS, start, depth)
                after = skip_items(walk, at, depth + 1, count, index)
                if size is not None and after - at != size:
                    raise Broken(f"a block says that it has {size} bytes, and has {after - at}", start)
                index, at = index + count, after

        return blocks

    def _items(self, part: Type) -> SkipMany:
        width = _WIDTHS.get(part.kind)
        if width is not None:
            return _even(width)
        item = self.skip_of(part)
        if part.empty:
            return _nothing

        def items(walk: Walk, at: int, depth: int, count: int, index: int) -> int:
            _spend(walk, count, at, depth)
            last = index + count
            try:
                while index < last:
                    at = item(walk, at, depth)
                    index += 1
            except Broken as error:
                error.path.append(str(index))
                raise
            return at

        return items

    def _pairs(self, part: Type) -> SkipMany:
        item = self.skip_of(part)

        def pairs(walk: Walk, at: int, depth: int, count: int, _index: int) -> int:
            _spend(walk, count, at, depth)
            start = end = at
            try:
                for _ in range(count):
                    start, end = _span(walk, at)
                    _text(walk, start, end)
                    at = item(walk, end, depth)
            except Broken as error:
                error.path.append(_key(walk, start, end))
                raise
            return at

        return pairs

    def _union(self, one: Type) -> Skip:
        branches = [(branch.name, self.skip_of(branch)) for branch in one.parts]

        def union(walk: Walk, at: int, depth: int) -> int:
            start = at
            index, at = read_long(walk, at)
            if not 0 <= index < len(branches):
                raise Broken(f"branch {index} of a union of {len(branches)}", start)
            return branches[index][1](walk, at, depth)

        return union

    def _enum(self, one: Type) -> Skip:
        count = len(one.symbols)

        def enum(walk: Walk, at: int, _depth: int) -> int:
            index, after = read_long(walk, at)
            if not 0 <= index < count:
                raise Broken(f"symbol {index} of an enum of {count}", at, "enum")
            return after

        return enum

    def _fixed(self, one: Type) -> Skip:
        return _sized(one.size, one.precision)

    def _bytes(self, one: Type) -> Skip:
        if not one.precision:
            return _skip_bytes
        limit = 10**one.precision

        def decimal(walk: Walk, at: int, depth: int) -> int:
            start, after = _span(walk, at)
            if not is_decimal(walk.data[start:after], limit):
                raise Broken(f"has more digits than the precision, {one.precision}", at, "logicalType")
            return after

        return decimal


def _spend(walk: Walk, steps: int, at: int, depth: int) -> None:
    """Counts work before it is done, and depth: values that take no bytes, and records of records of one byte."""
    walk.steps -= steps
    if walk.steps < 0:
        raise Broken(f"takes more than {MAX_STEPS} steps to check", at, "size")
    if depth > MAX_DEPTH:
        raise Broken(f"is nested too deeply (at most {MAX_DEPTH} levels)", at, "depth")


def read_long(walk: Walk, at: int) -> tuple[int, int]:
    """A zigzag number of at most ten bytes and 64 bits, and the position behind it."""
    value = shift = 0
    for position in range(at, min(at + 10, walk.end)):
        byte = walk.data[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >= 1 << 64:
                break
            return (value >> 1) ^ -(value & 1), position + 1
        shift += 7
    raise Broken(_ENDS if walk.end < at + 10 else "a number of more than 64 bits", at)


def _block(walk: Walk, at: int) -> tuple[int, int | None, int]:
    """How many items a block has, how many bytes it says it has, if it does, and where they begin."""
    count, at = read_long(walk, at)
    if count >= 0:
        return count, None, at
    size, at = read_long(walk, at)
    return -count, size, at


def _ranged(least: int, most: int, kind: str, keyword: str) -> Skip:
    def number(walk: Walk, at: int, _depth: int) -> int:
        value, after = read_long(walk, at)
        if not least <= value <= most:
            raise Broken(f"{value} is no {kind}, which is from {least} to {most}", at, keyword)
        return after

    return number


def _skip_long(walk: Walk, at: int, _depth: int) -> int:
    return read_long(walk, at)[1]


def _skip_boolean(walk: Walk, at: int, _depth: int) -> int:
    if at >= walk.end:
        raise Broken(_ENDS, at)
    if walk.data[at] > 1:
        raise Broken(f"{walk.data[at]} is no boolean, which is 0 or 1", at)
    return at + 1


def _skip_null(_walk: Walk, at: int, _depth: int) -> int:
    return at


def _span(walk: Walk, at: int) -> tuple[int, int]:
    """Where bytes begin and end that their length precedes."""
    size, start = read_long(walk, at)
    if not 0 <= size <= walk.end - start:
        raise Broken(f"a length of {size}, with {walk.end - start} bytes left", at)
    return start, start + size


def _text(walk: Walk, start: int, end: int) -> str:
    try:
        return walk.data[start:end].decode()
    except UnicodeDecodeError as error:
        raise Broken("is not UTF-8", start + error.start) from None


def _key(walk: Walk, start: int, end: int) -> str:
    """The key of a map as a part of a JSON Pointer, as much of it as a message has room for."""
    return walk.data[start : min(end, start + 300)].decode(errors="replace").replace("~", "~0").replace("/", "~1")


def _skip_bytes(walk: Walk, at: int, _depth: int) -> int:
    return _span(walk, at)[1]


def _skip_string(walk: Walk, at: int, _depth: int) -> int:
    start, end = _span(walk, at)
    _text(walk, start, end)
    return end


def _skip_uuid(walk: Walk, at: int, _depth: int) -> int:
    start, end = _span(walk, at)
    if end - start != 36 or not UUID.fullmatch(_text(walk, start, end)):
        raise Broken("must be a UUID, as in 123e4567-e89b-12d3-a456-426614174000", at, "logicalType")
    return end


def _sized(size: int, precision: int = 0) -> Skip:
    limit = 10**precision if precision else 0

    def sized(walk: Walk, at: int, _depth: int) -> int:
        if size > walk.end - at:
            raise Broken(_ENDS, at)
        if limit and not is_decimal(walk.data[at : at + size], limit):
            raise Broken(f"has more digits than the precision, {precision}", at, "logicalType")
        return at + size

    return sized


def _even(width: int) -> SkipMany:
    """Skips many values of one width, whatever their bytes are, without a look at each."""

    def even(walk: Walk, at: int, _depth: int, count: int, _index: int) -> int:
        if width * count > walk.end - at:
            raise Broken(_ENDS, at)
        return at + width * count

    return even


def _nothing(walk: Walk, at: int, depth: int, count: int, _index: int) -> int:
    """Skips values that take no bytes. Who reads them makes as many objects, so they count."""
    _spend(walk, count, at, depth)
    return at


_ENDS = "the data ends too early"
_WIDTHS = {"float": 4, "double": 8}
_MAKERS: dict[str, Callable[[_Compiler, Type], Skip]] = {
    "record": _Compiler._record,
    "array": _Compiler._array,
    "map": _Compiler._map,
    "union": _Compiler._union,
    "enum": _Compiler._enum,
    "fixed": _Compiler._fixed,
    "bytes": _Compiler._bytes,
}
_SIMPLE: dict[str, Skip] = {
    "null": _skip_null,
    "boolean": _skip_boolean,
    "int": _ranged(*RANGES["int"], "int", "type"),
    "long": _skip_long,
    "time-millis": _ranged(*RANGES["time-millis"], "time of a day", "logicalType"),
    "time-micros": _ranged(*RANGES["time-micros"], "time of a day", "logicalType"),
    "float": _sized(4),
    "double": _sized(8),
    "string": _skip_string,
    "uuid": _skip_uuid,
}
