"""How long checking a document against a JSON Schema can take, estimated from above before it is tried.

The library that checks cannot be stopped, so what would take long is not begun. A schema costs some nanoseconds for
each value of a document, more for numbers of many digits, and some for each byte of its strings; the figures come from
`python -m benchmarks.validators json`, rounded up. Where several schemas apply to a value their costs add up, so the
sum also sees what grows exponentially: `allOf` of references to `allOf` of references.

Recursion: jsonschema-rs remembers, within one document, which container satisfied which target of a recursive
reference, so each target counts once for a value, whichever way leads to it. It does not remember errors: `again` is
how often one value is met by a target, and the number of errors grows by that factor with each level of the document.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from proxy.errors import BadSchema
from proxy.validators.json_definition import Definition, subschemas

MAX_LEVELS = 100
MAX_NANOSECONDS_A_VALUE = 1e6
MAX_NANOSECONDS_A_BYTE = 50_000.0
MAX_PATTERN_CHARACTERS = 2000
MAX_PATTERNS = 500

_LOOK = 60.0  # one schema, one keyword
_NUMBER = 5_000.0  # comparing numbers that are no integers for equality
_HARD = 15_000.0  # the same where one has many digits or a large exponent
_UNIQUE = 1_200.0  # up to 15 items are compared each with every other, more of them are sorted by their hashes
_UNIQUE_FRACTION = 20_000.0
_UNIQUE_HARD = 500_000.0  # these are compared each with every other however many there are, see MAX_HARD_UNIQUE
_EVALUATED = 3.0  # `unevaluated...` looks at what is beside it a second time
_PATTERN = 30.0
_FLAT_STATE = 2.0
_LOOPED_STATE = 45.0
_FORMAT = 300.0
_LENGTH = 3.0
_CONTENT = 400.0
_TOKEN = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]|\{(\d{1,9})(,?)(\d{0,9})\}|.", re.DOTALL)

MAX_HARD_UNIQUE = 500

_IN_PLACE = frozenset(
    ["allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas", "dependencies"],
)
_EACH = frozenset(["patternProperties", "unevaluatedProperties", "propertyNames"])
_EACH_ITEM = frozenset(["contains", "unevaluatedItems"])
_ONE_OF_PROPERTIES = frozenset(["properties", "additionalProperties"])
_ONE_OF_ITEMS = frozenset(["items", "prefixItems", "additionalItems"])
_BOUNDS = frozenset(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"])


class Cost(NamedTuple):
    """Nanoseconds for each value, for each number with a fraction and each hard one beside that, for each byte; errors;
    recursions.
    """

    value: float = 0
    fraction: float = 0
    hard: float = 0
    byte: float = 0
    errors: float = 0
    again: float = 0

    def plus(self, *others: Cost) -> Cost:
        """The cost of doing this and the others."""
        return Cost(*map(sum, zip(self, *others, strict=True)))

    def times(self, factor: float) -> Cost:
        """The cost of doing this several times."""
        return Cost(*(one * factor for one in self))


class _Costs(NamedTuple):
    """What a schema costs at the value it applies to, and at the worst of the values below that."""

    here: Cost
    below: Cost

    @property
    def worst(self) -> Cost:
        """At whichever value is the worst. Recursions that begin here and further below may meet at one value."""
        return _worst([self.here, self.below])._replace(again=self.here.again + self.below.again)


_NOTHING = _Costs(Cost(), Cost())


def cost_of(definition: Definition) -> Cost:
    """The cost of checking with this schema, for the worst of all values. Raises `BadSchema` where it is too much."""
    _check_patterns(definition)
    _refuse_loops(definition)
    first = _Estimate(definition, {})
    first.of(definition.schema)
    # What a recursive target costs at a value is known now, so the second time counts it where it is met again.
    met_again = {key: costs._replace(below=Cost(), here=costs.worst._replace(again=1)) for key, costs in first.loops()}
    second = _Estimate(definition, met_again)
    total = second.of(definition.schema).worst
    loops = [costs for _, costs in second.loops()]
    total = total.plus(*(costs.worst for costs in loops))._replace(
        again=max((costs.below.again for costs in loops), default=0)
    )
    if not (total.value <= MAX_NANOSECONDS_A_VALUE and total.byte <= MAX_NANOSECONDS_A_BYTE):
        raise BadSchema(
            "checking a value would take too long: too many schemas, members of enum or states of patterns apply to it"
        )
    return total


def asks(definition: Definition, *keywords: str) -> bool:
    """Whether one of these keywords is anywhere in it."""
    return any(keyword in schema for schema in _all(definition) for keyword in keywords)


def _all(definition: Definition) -> Iterator[dict[str, Any]]:
    """Every schema of a definition, those too which only a reference makes one."""
    waiting, seen = [definition.schema, *definition.targets.values()], set()
    while waiting:
        schema = waiting.pop()
        if isinstance(schema, dict) and id(schema) not in seen:
            seen.add(id(schema))
            waiting += [child for _, _, child in subschemas(schema)]
            yield schema


def _check_patterns(definition: Definition) -> None:
    """Each pattern is a program to compile, of a size that its length bounds."""
    found: list[str] = []
    for schema in _all(definition):
        named = schema.get("patternProperties")
        found += [schema["pattern"]] if isinstance(schema.get("pattern"), str) else []
        found += named if isinstance(named, dict) else []
    if len(found) > MAX_PATTERNS or any(len(pattern) > MAX_PATTERN_CHARACTERS for pattern in found):
        raise BadSchema(f"at most {MAX_PATTERNS} patterns, of {MAX_PATTERN_CHARACTERS} characters each")


class _Estimate:
    """One pass over the schemas of a definition; `met_again` has what is taken for a target inside of itself."""

    def __init__(self, definition: Definition, met_again: dict[int, _Costs]) -> None:
        self._definition = definition
        self._met_again = met_again
        self._known: dict[int, _Costs] = {}
        self._open: set[int] = set()
        self._loops: set[int] = set()

    def loops(self) -> Iterable[tuple[int, _Costs]]:
        """The targets of recursive references, and what they cost."""
        return [(key, self._known[key]) for key in self._loops]

    def of(self, schema: Any) -> _Costs:
        """What a schema costs."""
        key = id(schema)
        if not isinstance(schema, dict):
            return _Costs(Cost(_LOOK, errors=1), Cost())
        if key in self._open:
            self._loops.add(key)
            return self._met_again.get(key, _NOTHING)
        if key not in self._known:
            if len(self._open) >= MAX_LEVELS:
                raise BadSchema(f"schemas refer to each other over more than {MAX_LEVELS} levels")
            self._open.add(key)
            self._known[key] = self._sum(schema)
            self._open.discard(key)
        return self._known[key]

    def _sum(self, schema: dict[str, Any]) -> _Costs:
        places = [self.of(child) for child in _in_place(schema, self._definition)]
        factor = _EVALUATED if "unevaluatedProperties" in schema or "unevaluatedItems" in schema else 1
        here, below = _keywords(schema), Cost()
        for costs in places:
            here, below = here.plus(costs.here.times(factor)), below.plus(costs.below.times(factor))
        if not _alone(schema, self._definition):
            below = below.plus(self._children(schema))
        return _Costs(here, below)

    def _children(self, schema: dict[str, Any]) -> Cost:
        """A member meets one schema of `properties` and each pattern; an item meets one of `items` and `contains`."""
        costs: dict[str, list[Cost]] = {}
        for keyword, _, child in subschemas(schema):
            if keyword not in _IN_PLACE:
                costs.setdefault(keyword, []).append(self.of(child).worst)
        return _worst(
            [
                _worst(_of(costs, _ONE_OF_PROPERTIES)).plus(*_of(costs, _EACH)),
                _worst(_of(costs, _ONE_OF_ITEMS)).plus(*_of(costs, _EACH_ITEM)),
            ]
        )


def _of(costs: dict[str, list[Cost]], keywords: frozenset[str]) -> list[Cost]:
    return [cost for keyword in keywords for cost in costs.get(keyword, ())]


def _worst(costs: Iterable[Cost]) -> Cost:
    return Cost(*map(max, zip(Cost(), *costs, strict=True)))


def _alone(schema: dict[str, Any], definition: Definition) -> bool:
    return definition.draft.ref_alone and "$ref" in schema


def _in_place(schema: dict[str, Any], definition: Definition) -> list[Any]:
    """The schemas that apply to the same value."""
    found = []
    if isinstance(schema.get("$ref"), str):
        found.append(definition.targets[schema["$ref"]])
    if not _alone(schema, definition):
        found += [child for keyword, _, child in subschemas(schema) if keyword in _IN_PLACE]
    return [child for child in found if isinstance(child, dict)]


def _refuse_loops(definition: Definition) -> None:
    """Refuses schemas that lead back to themselves at the same value: whether it satisfies them has no answer."""
    done: set[int] = set()
    for start in _all(definition):
        open_, stack = {id(start)}, [(start, iter(_in_place(start, definition)))]
        while stack and id(start) not in done:
            schema, children = stack[-1]
            child = next((child for child in children if id(child) not in done), None)
            if child is None:
                stack.pop()
                open_.discard(id(schema))
                done.add(id(schema))
            elif id(child) in open_:
                raise BadSchema("a schema refers to itself for the same value, without end")
            else:
                open_.add(id(child))
                stack.append((child, iter(_in_place(child, definition))))


def _keywords(schema: dict[str, Any]) -> Cost:
    """What the keywords of one schema cost at a value, without schemas inside of them."""
    cost = Cost(_LOOK * (1 + len(schema)), errors=len(schema))
    return cost.plus(*(_KEYWORDS[keyword](value) for keyword, value in schema.items() if keyword in _KEYWORDS))


def _members(value: Any) -> Cost:
    """Each member of an enum is compared; an error about it holds a copy of them all."""
    members = value if isinstance(value, list) else [value]
    size = len(msgspec.json.encode(members))
    return Cost(errors=size / 500).plus(*(_KINDS.get(type(member), _CONTAINER) for member in members))


def _named_lists(value: Any) -> Cost:
    names = sum(len(one) for one in value.values() if isinstance(one, list)) if isinstance(value, dict) else 0
    return Cost(_LOOK * (len(value) + names) if isinstance(value, dict) else 0, errors=names)


def _patterns(value: Any) -> Cost:
    return Cost(value=_LOOK).plus(*map(_pattern, value)) if isinstance(value, dict) else Cost()


def _pattern(pattern: Any) -> Cost:
    """The engine follows all states of a pattern at once where it cannot keep them in a table.

    It can for one that begins at `^` and has no loop, whose states follow each other.
    """
    if not isinstance(pattern, str):
        return Cost()
    states, flat = _states(pattern)
    each = _FLAT_STATE if flat and pattern.startswith("^") else _LOOPED_STATE
    return Cost(_LOOK, byte=_PATTERN + each * states)


def _states(pattern: str) -> tuple[float, bool]:
    """About how many states a pattern has, its repetitions written out, and whether it is without loops."""
    groups, last, flat = [0.0], 0.0, True
    for token in _TOKEN.finditer(pattern):
        text = token[0]
        if token[1]:
            times = max(float(token[1]), float(token[3] or 0), 1.0)
            groups[-1] += last * (times - 1)
            last *= times
            flat = flat and not (token[2] and not token[3])
        elif text == "(":
            groups.append(0.0)
        elif text == ")" and len(groups) > 1:
            last = groups.pop()
            groups[-1] += last
        elif text in "*+|":
            flat = flat and text == "|" and len(groups) > 1
        else:
            last = 1.0
            groups[-1] += last
    return sum(groups), flat


# What comparing with one member of an enum costs: where a number has a fraction, exact fractions are made of both.
_PLAIN = Cost(_LOOK)
_INTEGER = Cost(_LOOK, _NUMBER, _HARD)
_CONTAINER = _FRACTION = Cost(_NUMBER, _NUMBER, _HARD)
_KINDS = {str: _PLAIN, bool: _PLAIN, type(None): _PLAIN, int: _INTEGER, float: _FRACTION}

_bounds = Cost(_NUMBER / 10, hard=_HARD)
_length = Cost(byte=_LENGTH)
_content = Cost(byte=_CONTENT)
_KEYWORDS: dict[str, Callable[[Any], Cost]] = {
    "enum": _members,
    "const": lambda value: _members([value]),
    "not": lambda value: Cost(errors=len(msgspec.json.encode(value)) / 500),
    "multipleOf": lambda value: Cost(_LOOK if isinstance(value, int) else _NUMBER, _NUMBER, 3 * _HARD),
    "uniqueItems": lambda _: Cost(_UNIQUE, _UNIQUE_FRACTION, _UNIQUE_HARD),
    "required": lambda value: Cost(_LOOK * len(value), errors=len(value)) if isinstance(value, list) else Cost(),
    "properties": lambda value: Cost(_LOOK * min(len(value), 20) if isinstance(value, dict) else 0),
    "dependentRequired": _named_lists,
    "dependencies": _named_lists,
    "pattern": _pattern,
    "patternProperties": _patterns,
    "format": lambda _: Cost(byte=_FORMAT),
    **dict.fromkeys(["minLength", "maxLength"], lambda _: _length),
    **dict.fromkeys(["contentEncoding", "contentMediaType"], lambda _: _content),
    **dict.fromkeys(_BOUNDS, lambda _: _bounds),
}
