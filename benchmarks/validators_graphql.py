"""GraphQL schemas and documents for `benchmarks.validators`: ordinary ones, and what might keep a worker busy."""

from __future__ import annotations

from collections.abc import Callable

from proxy.messages import Schema
from proxy.validators.graphql import MAX_DEFINITION_TOKENS, MAX_DOCUMENT_BYTES, MAX_DOCUMENT_TOKENS

TOKENS = MAX_DOCUMENT_TOKENS - 10

FIVE = """type Mutation { order(id: Int!, name: String!, quantity: Int, price: Float, paid: Boolean): Order }
type Order { id: Int! name: String! quantity: Int price: Float paid: Boolean }
scalar Any
input In { in: In many: [In] i: Int }
type Query { a: Query b: Query order(id: Int): Order any(x: Any): Int input(x: In): Int }"""
ORDER = 'mutation { order(id: 1234567, name: "some name", quantity: 3, price: 12.5, paid: true) { id name } }'

_FIELDS = " ".join(f"f{i}: Int" for i in range(30))


def _case(document: str, definition: str = FIVE) -> Callable[[], tuple[Schema, bytes]]:
    return lambda: (Schema(type="graphql", definition=definition), document.encode())


def _query(selection: str, tokens: int) -> str:
    """A query of as many repetitions as the limit of tokens allows."""
    return "{" + f"{selection} " * (TOKENS // tokens) + "}"


def _spread_of_all() -> str:
    """A query that spreads fragments which each ask for the same."""
    count = TOKENS // 16
    fragments = "".join(f"fragment F{i} on Query {{a {{a {{__typename}}}}}} " for i in range(count))
    return "{" + "".join(f"...F{i} " for i in range(count)) + "}" + fragments


def _amplified() -> str:
    """Fragments that each spread the next twice."""
    count = TOKENS // 18
    fragments = "".join(f"fragment F{i} on Query {{a {{...F{i + 1}}} b {{...F{i + 1}}}}} " for i in range(count))
    return "{...F0} " + fragments + f"fragment F{count} on Query {{__typename}}"


def _spread_of_later(cyclic: bool = False) -> str:
    """Fragments that each spread all after them, or all there are."""
    count = int(TOKENS**0.5 * (0.6 if cyclic else 0.85))
    spreads = ["".join(f"...F{j} " for j in range(0 if cyclic else i + 1, count)) for i in range(count)]
    return "{...F0} " + "".join(f"fragment F{i} on Query {{{spreads[i]} a {{__typename}}}} " for i in range(count))


def _operations() -> str:
    """Many operations that use one chain of fragments with many variables."""
    count = TOKENS // 42
    operations = "".join(f"query O{i}($v: Int!) {{...F0}} " for i in range(count))
    chain = "".join(f"fragment F{i} on Query {{...F{i + 1} a {{order(id: $v) {{id}}}}}} " for i in range(count))
    return operations + chain + f"fragment F{count} on Query {{order(id: $v) {{id}}}}"


def _types(count: int, name: str) -> str:
    return "".join(f"type {name}{i} {{a: Int}} " for i in range(count))


CASES: dict[str, Callable[[], tuple[Schema, bytes]]] = {
    "five fields": _case(ORDER),
    "five fields, a string with an escape (not remembered)": _case(ORDER.replace("some", "s\\u006fme")),
    "five fields, not valid": _case(ORDER.replace("12.5", '"12.5"')),
    "the same field": _case(_query("a {__typename}", 4)),
    "the same field, deeper": _case(_query("a {a {a {a {__typename}}}}", 13)),
    "the same leaf": _case(_query("__typename", 1)),
    "the same arguments": _case(_query("order(id: 1) {id}", 9)),
    "an unknown field": _case(_query("nope", 1)),
    "unknown fields": _case("{" + " ".join(f"a{i}: nope" for i in range(TOKENS // 3)) + "}"),
    "fragments that ask for the same": _case(_spread_of_all()),
    "fragments that double": _case(_amplified()),
    "fragments that spread all later ones": _case(_spread_of_later()),
    "cycles of fragments": _case(_spread_of_later(cyclic=True)),
    "operations over a chain of fragments": _case(_operations()),
    "variables": _case("query(" + " ".join(f"$v{i}: Int" for i in range(TOKENS // 4)) + ") {a {__typename}}"),
    "directives": _case("{a " + "@skip(if: true) " * (TOKENS // 7) + "{__typename}}"),
    "a list": _case("{any(x: [" + "1 " * TOKENS + "])}"),
    "a list of objects": _case("{input(x: {many: [" + "{i: 1} " * (TOKENS // 5 - 4) + "]})}"),
    "an object in objects": _case("{input(x: " + "{in: " * 190 + "{i: 1}" + "}" * 190 + ")}"),
    "selections in selections": _case("{a" * 5_000),
    "a long string": _case('{any(x: "' + "x" * (MAX_DOCUMENT_BYTES - 20) + '")}'),
    "a long block string": _case('{any(x: """' + "x\n " * (MAX_DOCUMENT_BYTES // 3 - 20) + '""")}'),
    "a long name": _case("{" + "x" * (MAX_DOCUMENT_BYTES - 20) + "}"),
    "a long number": _case("{order(id: " + "9" * (MAX_DOCUMENT_BYTES - 20) + ") {id}}"),
    "too many tokens": _case("{" + "a " * 30_000 + "}"),
    "too large": _case("{" + "a " * MAX_DOCUMENT_BYTES + "}"),
    "definition: types": _case("{a}", _types(MAX_DEFINITION_TOKENS // 7 - 4, "T") + "type Query {a: Int}"),
    "definition: fields": _case(
        "{a0}", "type Query {" + " ".join(f"a{i}: Int" for i in range(MAX_DEFINITION_TOKENS // 3 - 4)) + "}"
    ),
    "definition: arguments": _case(
        "{a}", "type Query {a(" + " ".join(f"a{i}: Int" for i in range(MAX_DEFINITION_TOKENS // 3 - 4)) + "): Int}"
    ),
    "definition: values": _case(
        "{a}", "enum E {" + " ".join(f"E{i}" for i in range(MAX_DEFINITION_TOKENS - 20)) + "} type Query {a: E}"
    ),
    "definition: a chain of inputs": _case(
        "{a}",
        " ".join(f"input I{i} {{a: I{i + 1}!}}" for i in range(MAX_DEFINITION_TOKENS // 8 - 5))
        + f" input I{MAX_DEFINITION_TOKENS // 8 - 5} {{a: Int}} type Query {{a(a: I0): Int}}",
    ),
    "definition: cycles of inputs": _case(
        "{a}",
        " ".join(f"input I{i} {{{' '.join(f'a{j}: I{j}!' for j in range(33))}}}" for i in range(33))
        + " type Query {a(a: I0): Int}",
    ),
    "definition: interfaces": _case(
        "{f0}",
        " ".join(f"interface I{i} {{{_FIELDS}}}" for i in range(45))
        + f" type Query implements {'&'.join(f'I{i}' for i in range(45))} {{{_FIELDS}}}",
    ),
    "definition: unknown names like known ones": _case(
        "{a}",
        _types(400, "Nopx" * 15) + "type Query {" + " ".join(f"a{i}: {'Nope' * 15}{i}" for i in range(500)) + "}",
    ),
    "definition: wrong defaults like right ones": _case(
        "{a}",
        "enum E {"
        + " ".join(f"{'Nopx' * 15}{i}" for i in range(1_000))
        + "} type Query {"
        + " ".join(f"a{i}(x: E = {'Nope' * 15}{i}): Int" for i in range(300))
        + "}",
    ),
    "definition: a long description": _case("{a}", 'type Query {"""' + "x\n " * 80_000 + '""" a: Int}'),
}
