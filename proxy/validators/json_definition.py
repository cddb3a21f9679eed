"""Reads a definition in JSON Schema, and ties its references to places inside it.

Every `$ref`, `$dynamicRef` and `$recursiveRef` is resolved here (JSON Schema Core, section 8; RFC 3986 for the bases
that `$id` makes) and written as a JSON Pointer; then all that names a document is taken out: `$id`, `$schema`, anchors.
What is compiled afterwards holds no address, so none can lead to a file or a host, and `json_cost` knows each target.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urldefrag, urljoin

import msgspec

from proxy.errors import BadSchema
from proxy.shaping import reason
from proxy.validators import MAX_DEFINITION_BYTES

MAX_DEPTH = 64
MAX_SUBSCHEMAS = 2000
MAX_REFERENCES = 1000
MAX_DIGITS = 40


class Draft(NamedTuple):
    """A version of JSON Schema: its name, the keyword that names documents, those that refer, and whether `$ref`
    makes the keywords beside it void.
    """

    name: str
    id: str = "$id"
    references: tuple[str, ...] = ("$ref",)
    ref_alone: bool = True


_NEWEST = Draft("2020-12", references=("$ref", "$dynamicRef"), ref_alone=False)
DRAFTS = {
    "http://json-schema.org/draft-04/schema": Draft("4", id="id"),
    "http://json-schema.org/draft-06/schema": Draft("6"),
    "http://json-schema.org/draft-07/schema": Draft("7"),
    "https://json-schema.org/draft/2019-09/schema": Draft(
        "2019-09", references=("$ref", "$recursiveRef"), ref_alone=False
    ),
    "https://json-schema.org/draft/2020-12/schema": _NEWEST,
}

_ONE = frozenset(["not", "if", "then", "else", "items", "additionalItems", "unevaluatedItems", "contains"]) | {
    *("additionalProperties", "unevaluatedProperties", "propertyNames", "contentSchema")
}
_LISTS = frozenset(["allOf", "anyOf", "oneOf", "prefixItems", "items"])
_NAMED = frozenset(
    ["properties", "patternProperties", "dependentSchemas", "dependencies", "$defs", "definitions"],
)


class Definition(NamedTuple):
    """A schema without addresses; `targets` has what each value of `$ref` in it leads to."""

    draft: Draft
    schema: Any
    targets: dict[str, Any]


def parsed(text: str) -> Any:
    """The definition as JSON, within the limits. Raises `BadSchema` with line and column, or a pointer."""
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        raise BadSchema("the definition is not JSON: it has a lone surrogate in it") from None
    if len(encoded) > MAX_DEFINITION_BYTES:
        raise BadSchema(f"the definition is larger than {MAX_DEFINITION_BYTES} bytes")
    try:
        document = msgspec.json.decode(encoded)
    except RecursionError:
        raise BadSchema(f"the definition is nested too deeply (at most {MAX_DEPTH} levels)") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadSchema(f"the definition is not JSON: {_where(text) or reason(encoded, error)}") from None
    if not isinstance(document, dict | bool):
        raise BadSchema("the definition must be an object, true or false")
    _check_values(document)
    return document


def _where(text: str) -> str:
    """Line and column of what breaks JSON; empty when only msgspec sees it (NaN, lone surrogates, huge numbers)."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return f"{error.msg}, line {error.lineno}, column {error.colno}"
    except (ValueError, RecursionError):
        return ""
    return ""


def _check_values(document: Any) -> None:
    """Comparing with numbers of many digits is slow, so a definition has none."""
    level, depth = [document], 1
    while level:
        if depth > MAX_DEPTH:
            raise BadSchema(f"the definition is nested too deeply (at most {MAX_DEPTH} levels)")
        deeper: list[Any] = []
        for value in level:
            if isinstance(value, int) and abs(value) >= 10**MAX_DIGITS:
                raise BadSchema(f"the definition has a number of more than {MAX_DIGITS} digits")
            if isinstance(value, dict):
                deeper += value.values()
            elif isinstance(value, list):
                deeper += value
        level, depth = deeper, depth + 1


def draft_of(document: Any) -> Draft:
    """The draft that `$schema` names; the newest where nothing does. Raises `BadSchema` for one not known."""
    name = document.get("$schema") if isinstance(document, dict) else None
    if name is None:
        return _NEWEST
    draft = _draft_named(name)
    if draft is None:
        raise BadSchema(f"/$schema: unknown; use one of {', '.join(DRAFTS)}")
    return draft


def _draft_named(name: Any) -> Draft | None:
    return DRAFTS.get(name.removesuffix("#")) if isinstance(name, str) else None


def define(text: str) -> Definition:
    """The definition, ready to be compiled. Raises `BadSchema`."""
    document = parsed(text)
    draft = draft_of(document)
    walk = _Walk(draft, document)
    return Definition(draft, document, walk.tied())


def subschemas(schema: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """The schemas directly inside of one: keyword, place below it (empty for the keyword's own value), schema."""
    for keyword, value in schema.items():
        if keyword in _ONE and isinstance(value, dict | bool):
            yield keyword, "", value
        elif keyword in _LISTS and isinstance(value, list):
            yield from ((keyword, str(index), child) for index, child in enumerate(value))
        elif keyword in _NAMED and isinstance(value, dict):
            yield from ((keyword, name, child) for name, child in value.items() if isinstance(child, dict | bool))


class _Walk:
    """One pass over a definition: collects what has a name, takes the names out, then ties the references."""

    def __init__(self, draft: Draft, document: Any) -> None:
        self._draft = draft
        self._document = document
        self._named: dict[tuple[str, str], str] = {("", ""): ""}  # (document, anchor) -> place
        self._dynamic: dict[str, str] = {}  # anchor -> the document that has it
        self._references: list[tuple[dict[str, Any], str, str]] = []  # schema, place, base
        self._seen: set[int] = set()
        self._visit(document, "", "")

    def tied(self) -> dict[str, Any]:
        """Writes every reference as a pointer; what each of them leads to."""
        targets: dict[str, Any] = {}
        for schema, place, base in self._references:  # grows while it runs: a target may be a schema not met before
            for keyword in self._draft.references:
                if isinstance(schema.get(keyword), str):
                    target = self._place(keyword, schema.pop(keyword), base, f"{place}/{keyword}")
                    reference = "#" + quote(target, safe="/~$")
                    targets[reference] = self._at(target)
                    self._visit(targets[reference], target, base)
                    _put(schema, reference)
        return targets

    def _visit(self, schema: Any, place: str, base: str) -> None:
        if not isinstance(schema, dict) or id(schema) in self._seen:
            return
        self._seen.add(id(schema))
        if len(self._seen) > MAX_SUBSCHEMAS:
            raise BadSchema(f"the definition has more than {MAX_SUBSCHEMAS} schemas in it")
        _check_items(schema, place)
        base = self._identify(schema, place, base)
        if any(keyword in schema for keyword in self._draft.references):
            self._references.append((schema, place, base))
            if len(self._references) > MAX_REFERENCES:
                raise BadSchema(f"the definition has more than {MAX_REFERENCES} references")
        for keyword, name, child in subschemas(schema):
            below = f"/{_escaped(name)}" if name or keyword in _NAMED else ""
            self._visit(child, f"{place}/{keyword}{below}", base)

    def _identify(self, schema: dict[str, Any], place: str, base: str) -> str:
        """Notes the names that a schema has, and takes them out; the base of the references in it."""
        dialect = schema.pop("$schema", None)
        if dialect is not None and _draft_named(dialect) is not self._draft:
            raise BadSchema(f"{place}/$schema: a definition has one draft for all of it")
        name = schema.pop(self._draft.id, None)
        if isinstance(name, str) and not (self._draft.ref_alone and "$ref" in schema):
            document, anchor = _joined(base, name, place)
            base = document
            if not name.startswith("#"):
                self._name((document, ""), place)
            if anchor:
                self._name((document, anchor), place)
        if not self._draft.ref_alone:
            self._note_anchors(schema, place, base)
        return base

    def _note_anchors(self, schema: dict[str, Any], place: str, base: str) -> None:
        anchor, dynamic = schema.pop("$anchor", None), schema.pop("$dynamicAnchor", None)
        if isinstance(anchor, str):
            self._name((base, anchor), place)
        if isinstance(dynamic, str):
            self._name((base, dynamic), place)
        else:
            dynamic = "" if schema.pop("$recursiveAnchor", None) is True else None
        if dynamic is not None and self._dynamic.setdefault(dynamic, base) != base:
            raise BadSchema(f"{place}: dynamic anchors of the same name in several documents are not supported")

    def _name(self, key: tuple[str, str], place: str) -> None:
        if self._named.setdefault(key, place) != place:
            raise BadSchema(f"{place}: {'#'.join(key).rstrip('#')} is the name of another schema here")

    def _place(self, keyword: str, reference: str, base: str, place: str) -> str:
        document, anchor = _joined(base, "#" if keyword == "$recursiveRef" else reference, place)
        inside = anchor if anchor.startswith("/") else ""
        found = self._named.get((document, "" if inside else anchor))
        if found is None:
            raise BadSchema(f"{place}: {reference} is not in this definition, and nothing outside of it is read")
        return found + inside

    def _at(self, place: str) -> Any:
        """What a pointer leads to (RFC 6901)."""
        value = self._document
        for token in place.split("/")[1:]:
            token = token.replace("~1", "/").replace("~0", "~")
            try:
                value = value[int(token) if isinstance(value, list) and token.isdecimal() else token]
            except (LookupError, TypeError, ValueError):
                raise BadSchema(f"#{place} leads nowhere in this definition") from None
        if not isinstance(value, dict | bool):
            raise BadSchema(f"#{place} is no schema")
        return value


def _check_items(schema: dict[str, Any], place: str) -> None:
    """Refuses a list of items that are no schemas: whoever looks for what is wrong finds something in each of them."""
    items = schema.get("items")
    if isinstance(items, list) and not all(isinstance(item, dict | bool) for item in items):
        raise BadSchema(f"{place}/items: must be a schema, or an array of schemas")


def _joined(base: str, reference: str, place: str) -> tuple[str, str]:
    """The document and the anchor (or pointer) that a reference names."""
    try:
        document, anchor = urldefrag(reference if not base else urljoin(base, reference))
    except ValueError:
        raise BadSchema(f"{place}: {reference} is no address") from None
    return base if reference.startswith("#") else document, unquote(anchor)


def _put(schema: dict[str, Any], reference: str) -> None:
    if "$ref" in schema:
        others = schema.get("allOf", [])
        schema["allOf"] = [*(others if isinstance(others, list) else [others]), {"$ref": reference}]
    else:
        schema["$ref"] = reference


def pointer(path: Iterable[str | int]) -> str:
    """A path as a JSON Pointer (RFC 6901)."""
    return "".join(f"/{_escaped(str(step))}" for step in path)


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
