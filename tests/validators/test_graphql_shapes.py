"""Documents that differ in plain literals alone are judged once, and never otherwise than one by one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.messages import Schema
from proxy.validators.graphql import GraphQL
from proxy.validators.graphql_shapes import Shapes, shape_of
from tests.validators.tools import FUZZ

SDL = """scalar Any enum E { A } input In { i: Int f: Float s: String d: ID e: E many: [In] }
type Query { q(i: Int, f: Float, s: String, d: ID, b: Boolean, x: Any, in: In): Query n: Int }
directive @tag(label: String, count: Int) repeatable on FIELD"""

LITERALS = st.one_of(
    st.integers(-(2**33), 2**33).map(str),
    st.sampled_from(["0", "-0", "00", "01", "1.0", "1.00", "-1.5", "1e3", "1.e", "1.5.5", "2147483648", "1" * 400]),
    st.sampled_from(
        ["A", "true", "null", "$v", "[1 2]", "[1-2]", "{i: 1}", "1a", "- 1", ".5", "...5", "a1", "\x00s1\x00"]
    ),
    st.text(alphabet='ab1 #\\"\n\t\x00\x01é', max_size=6).map(lambda text: f'"{text}"'),
    st.sampled_from(['""', '"A"', '"\\u0041"', '"""A"""', '"""', '"', '"a""b"', '"#"']),
)
TEMPLATES = (
    "{q(i: %s f: %s)}",
    "{q(s: %s d: %s) {n}}",
    "{q(x: [%s %s]) {n}}",
    "{q(x: [%s%s]) {n}}",
    "{a: q(s: %s) {n} a: q(s: %s) {n}}",
    "{q(in: {i: %s many: [{d: %s}]}) {n}}",
    "query ($v: Int = %s) {q(i: $v x: %s) {n}}",
    '{n @tag(label: %s) @tag(label: "a" count: %s)}',
    "{n} # %s %s",
    "{q(s: %s) {n}} %s",
)


@pytest.mark.slow
@FUZZ
@given(st.sampled_from(TEMPLATES), st.lists(st.tuples(LITERALS, LITERALS), min_size=2, max_size=6))
def test_remembering_changes_no_verdict(template: str, pairs: list[tuple[str, str]]) -> None:
    """Whatever was found valid before, each document is judged as if it were the first."""
    validator = GraphQL(Schema(type="graphql", definition=SDL))
    for pair in pairs:
        text = template % pair
        assert bool(validator.violations(text.encode())) == bool(validator._judged(text)), text


def test_documents_with_other_values_have_one_shape() -> None:
    """Strings, integers, fractions; what is equal stays equal."""
    first, second = ('{q(i: 1 s: "a" f: 1.5) {n}}', '{q(i: 22 s: "ü {" f: 9.25) {n}}')
    assert shape_of(first) == shape_of(second) is not None


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("{q(i: 1)}", "{q(i: -1)}"),
        ("{q(i: 1)}", "{q(i: 1.0)}"),
        ("{q(i: 1)}", '{q(i: "1")}'),
        ("{q(i: 1)}", "{q(f: 1)}"),
        ("{q(i: 1 f: 1)}", "{q(i: 1 f: 2)}"),
        ("{a1}", "{a2}"),
        ("{q(s: A)}", '{q(s: "A")}'),
        ("{q(x: [1-1])}", "{q(x: [11])}"),
    ],
)
def test_what_may_matter_stays_in_the_shape(first: str, second: str) -> None:
    """Kinds, signs, names, and which literals are equal: fields that are asked for twice must agree in them."""
    assert shape_of(first) != shape_of(second)


@pytest.mark.parametrize(
    "text",
    [
        "{n} # comment",
        '{q(s: """a""")}',
        r'{q(s: "\n")}',
        '{q(s: "a\nb")}',
        '{q(s: "a)}',
        '{q(s: "\x01")}',
        "{q(i: 01)}",
        "{q(i: 1234567890)}",
        "{q(f: 1e5)}",
        "{q(f: 1." + "1" * 20 + ")}",
        "{n} \x00",
    ],
)
def test_other_documents_have_none(text: str) -> None:
    """They are judged each time."""
    assert shape_of(text) is None


def test_shapes_are_remembered_within_bounds() -> None:
    """What was met lately stays."""
    shapes = Shapes(most=8)
    keys = [shapes.key(b"schema", str(i)) for i in range(100)]
    for key in keys:
        shapes.add(key)
        assert keys[0] in shapes
    assert sum(key in shapes for key in keys) <= 8


def test_a_shape_is_remembered_for_its_schema_alone() -> None:
    """The same document may be wrong for another."""
    body = b"{a(i: 1)}"
    first, second = (
        GraphQL(Schema(type="graphql", definition=f"type Query {{a(i: {kind}): Int}}")) for kind in ("Int", "Boolean")
    )
    assert first.violations(body) == first.violations(body) == []
    assert second.violations(body)
