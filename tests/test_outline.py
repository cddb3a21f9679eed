"""How deeply a document is nested, told by its brackets alone, wherever its blocks end."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.outline import is_deeper
from tests.bounded import bounded

TEXTS = st.text(alphabet='[]{},:"\\ aé', max_size=8)
VALUES = st.recursive(
    st.one_of(TEXTS, st.integers(-9, 9), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=20,
)
ARRAYS = st.lists(VALUES, max_size=8)
BLOCKS = st.one_of(st.integers(1, 40), st.just(1 << 20))


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        value = [*value.values()]
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0


@pytest.mark.slow
@bounded(500)
@given(ARRAYS, st.integers(0, 6), st.integers(4, 12), BLOCKS)
def test_depth_is_measured_as_by_pythons_reader(array: list[Any], more: int, most: int, block: int) -> None:
    """Of arrays and objects alike, wherever a block ends."""
    value: Any = array
    for level in range(more):
        value = [value, "]"] if level % 2 else {"[": value}
    assert is_deeper(json.dumps(value, ensure_ascii=False).encode(), most, block) == (_depth(value) > most)


def test_many_strings_with_brackets_are_not_pieces_at_once() -> None:
    """What is needed beside a document is little more than its brackets."""
    body = b"[" + b",".join([b'["["]'] * (1 << 18)) + b"]"
    tracemalloc.start()
    try:
        assert not is_deeper(body, 128, 1 << 14)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * len(body)
