"""Which GraphQL definitions are taken, which documents satisfy them, and what keeps both from hurting."""

from __future__ import annotations

import time

import pytest
from graphql import parse
from graphql.validation import OverlappingFieldsCanBeMergedRule
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.validators_graphql import CASES
from proxy.errors import BadSchema, SchemaViolation
from proxy.messages import Schema
from proxy.validators import check, forget, graphql, validator_of
from proxy.validators.graphql import GraphQL
from tests.validators.tools import FUZZ

ORDERS = "type Query {\n  order(id: Int!): Order\n}\ntype Order {\n  id: Int!\n  name: String\n}\n"
SHOP = """
scalar Any
enum Size { SMALL LARGE }
input Line { sku: ID! size: Size = SMALL count: Int parts: [Line!] }
interface Node { id: ID! }
type Order implements Node { id: ID! total: Float paid: Boolean lines: [Entry!] }
type Entry implements Node { id: ID! sku: String }
union Found = Order | Entry
type Query { node(id: ID!): Node find(text: String): [Found] any(x: Any): Int }
type Mutation { order(lines: [Line!]!, note: String, total: Float, count: Int): Order }
extend type Query { more: Int @deprecated }
"""


def graphql_of(definition: str) -> GraphQL:
    """The validator of a definition."""
    return GraphQL(Schema(type="graphql", definition=definition))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("query { order(id: 1) { id name } }", None),
        ("query { order(id: 1) { nope } }", "line 1, column 24: Cannot query field 'nope' on type 'Order'."),
        ("query {", "line 1, column 8: Syntax Error: Expected Name, found <EOF>."),
    ],
)
def test_what_memphis_recorded_comes_out_alike(body: str, message: str | None) -> None:
    """Places are those that Memphis' gateway tells; texts are those of graphql-core."""
    schema = Schema(type="graphql", definition=ORDERS)
    if message is None:
        check(schema, body.encode())
        return
    with pytest.raises(SchemaViolation) as caught:
        check(schema, body.encode())
    assert str(caught.value) == f"Schema validation has failed: graphql: {message}"


@pytest.mark.parametrize(
    "body",
    [
        '{node(id: "1") {id ... on Order {total} ...Lines}} fragment Lines on Order {lines {sku}}',
        'mutation ($l: [Line!]!) {order(lines: $l, note: """block""") {id}}',
        "mutation Two {a: order(lines: [{sku: 1, size: LARGE, parts: []}], total: 1e3) {id} b: order(lines: []) {id}}",
        "{find(text: null) {__typename ... on Entry {sku}} any(x: {a: [1, {b: $v}]}) more}".replace("$v", "2.5"),
        "query Q($x: Boolean = true) {any @skip(if: $x)} # a comment",
        "{__schema {types {name}}}",
    ],
)
def test_valid_documents_pass(body: str) -> None:
    """Operations of all kinds, fragments, variables, directives, introspection."""
    assert graphql_of(SHOP).violations(body.encode()) == []


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (b"", "line 1, column 1"),
        (b"\xff", ""),
        (b'{"query": "{more}"}', "line 1, column 2"),
        (b"{more {id}}", "line 1, column 7"),
        (b"{node(id: 1) {}}", "line 1, column 15"),
        (b"{node {id}}", "line 1, column 2"),
        (b"subscription {a}", "line 1, column 1"),
        (b"type A {a: Int}", "line 1, column 1"),
        (b"mutation {order(lines: [{}]) {id}}", "line 1, column 25"),
        (b"mutation {order(lines: [{sku: 1, size: HUGE}]) {id}}", "line 1, column 40"),
        (b"mutation {order(lines: [], count: 2147483648) {id}}", "line 1, column 35"),
        (b"{more\n ...F} fragment F on Query {...F}", "line 2, column 29"),
        (b"query ($v: Int) {more}", "line 1, column 8"),
        (b"{more more: any}", "line 1, column 2"),
        (b"{more @nope}", "line 1, column 7"),
    ],
)
def test_invalid_documents_are_refused_with_line_and_column(body: bytes, place: str) -> None:
    """By the standard's rules; a document in JSON is no document."""
    assert [one.pointer for one in graphql_of(SHOP).violations(body)] == [place]


def test_all_violations_are_told_within_bounds() -> None:
    """Each with its own place; after twenty the rest is not looked for."""
    found = graphql_of(ORDERS).violations(b"{a\n b order(id: 1) {c}}")
    assert [one.pointer for one in found] == ["line 1, column 2", "line 2, column 2", "line 2, column 18"]
    many = "{" + " ".join(f"a{i}: nope" for i in range(100)) + "}"
    assert len(graphql_of(ORDERS).violations(many.encode())) == 21


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ("", "line 1, column 1: Syntax Error: Unexpected <EOF>."),
        ("type Query {\n a: Int\n b c}", "line 3, column 4: Syntax Error"),
        ("type A {a: Int}", "Query root type must be provided."),
        ("type Query {a: Nope}", "line 1, column 16: Unknown type 'Nope'."),
        ("type Query {a: Int} type Query {b: Int}", "There can be only one type named 'Query'."),
        ("type Query {a: Int} {a}", "line 1, column 21: A schema defines types"),
        ("type Query {a: Int} extend type B {b: Int}", "Cannot extend type 'B' because it is not defined."),
        ("interface I {i: Int} type Query implements I {a: Int}", "Interface field I.i expected"),
        ("enum E {A} type Query {a(e: E = B): Int}", "line 1, column 33: Value 'B' does not exist in 'E' enum."),
        ("input A {a: A!} type Query {a(a: A): Int}", "cannot be provided a finite value"),
        ("type Query {a: Int @d}", "Unknown directive '@d'."),
        ("type Query {__a: Int}", "must not begin with '__'"),
        ("type Query {a: \ud800}", "lone surrogate"),
        ("type Query {a: Int} #" + "x" * 300_000, "larger than 262144 bytes"),
        ("type Query {a: " + "[" * 2_000 + "Int" + "]" * 2_000 + "}", "nested too deeply"),
        ("type Query {" + " ".join(f"a{i}: Int" for i in range(2_000)) + "}", "more than 5000 tokens"),
        ("#\n" * 1_100 + "type Query {a: Int}", "more than 1000 comments"),
    ],
)
def test_bad_definitions_are_refused_with_line_and_reason(definition: str, message: str) -> None:
    """By `prepare`, and by a validator whose definition never went through it."""
    schema = Schema(type="graphql", definition=definition)
    for make in (GraphQL.prepare, GraphQL):
        with pytest.raises(BadSchema) as caught:
            make(schema)
        assert message in str(caught.value)
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{" + "more " * 2_000 + "}", "more than 1500 tokens"),
        ("{any(x: " + "[" * 300 + "]" * 300 + ")}", "nested too deeply"),
        ("#\n" * 300 + "{more}", "more than 200 comments"),
        ("{more}" + " " * 70_000, "larger than 65536 bytes"),
        ("{" + "more " * 1_400 + "}", "too many steps"),
    ],
)
def test_documents_have_limits(body: str, message: str) -> None:
    """Tokens, depth, comments, bytes, comparisons of fields: one violation that names it."""
    (found,) = graphql_of(SHOP).violations(body.encode())
    assert message in found.message


def test_the_overlap_rule_is_as_we_expect_it() -> None:
    """The seam through which its work is bounded, and its own bound of that name, so a new version is noticed."""
    assert graphql._RULES.count(graphql._BoundedOverlap) == 1
    assert OverlappingFieldsCanBeMergedRule not in graphql._RULES
    context = object.__new__(graphql.ValidationContext)
    assert OverlappingFieldsCanBeMergedRule(context).rule_context.remaining_complexity_budget > graphql.MAX_COMPARISONS
    assert graphql._BoundedOverlap(context).rule_context.remaining_complexity_budget == graphql.MAX_COMPARISONS


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_no_case_of_the_benchmark_keeps_a_worker_for_long(name: str) -> None:
    """The limit is many times what the benchmark shows, for slow machines; without limits some take minutes."""
    schema, payload = CASES[name]()
    forget()
    began = time.process_time()
    try:
        validator_of(schema)
        check(schema, payload)
    except (BadSchema, SchemaViolation):
        pass
    assert time.process_time() - began < 2


@pytest.mark.slow
@FUZZ
@given(st.text(alphabet='{}()[]:$@!.|&="#\\ \n\t01-eaqx', max_size=60), st.binary(max_size=40))
def test_any_bytes_have_a_verdict(text: str, noise: bytes) -> None:
    """`violations` never raises, whatever it is given, and passes nothing that does not parse."""
    validator = graphql_of(SHOP)
    for payload in (text.encode(), noise):
        if not validator.violations(payload):
            assert parse(payload.decode())
