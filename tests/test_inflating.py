"""Inflating: the limit is kept, in memory too."""

from __future__ import annotations

import gzip
import os
import tracemalloc

import pytest

from proxy.errors import BadBody, Overloaded, TooLarge
from proxy.inflating import MAX_MEMBERS, Inflating, gunzip, is_gzip

LIMIT = 8 << 20


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, LIMIT - 1, LIMIT])
def test_content_up_to_the_limit_comes_back(size: int) -> None:
    """Whatever the sizes of its pieces are, and whether it could be made smaller or not."""
    for content in (b"x" * size, os.urandom(size)):
        assert gunzip(gzip.compress(content, 1), LIMIT) == content


@pytest.mark.parametrize("size", [LIMIT + 1, LIMIT * 2])
def test_content_above_the_limit_is_refused(size: int) -> None:
    """By a byte or by more."""
    with pytest.raises(TooLarge):
        gunzip(gzip.compress(b"x" * size, 1), LIMIT)


def test_members_follow_one_another() -> None:
    """As many as are allowed, each of its own size, also of nothing."""
    pieces = [b"x" * (n % 7) for n in range(MAX_MEMBERS)]
    assert gunzip(b"".join(map(gzip.compress, pieces)), LIMIT) == b"".join(pieces)
    with pytest.raises(BadBody):
        gunzip(b"".join(map(gzip.compress, [*pieces, b""])), LIMIT)


@pytest.mark.parametrize("size", [n << 17 for n in range(1, 9)])
def test_members_may_end_where_a_step_does(size: int) -> None:
    """Others follow in the same piece of the body."""
    member = gzip.compress(b"0" * size)
    assert len(gunzip(member * 3, LIMIT)) == 3 * size


@pytest.mark.parametrize("size", [LIMIT, 10 * LIMIT])
def test_memory_is_that_of_the_limit(size: int) -> None:
    """And a little: for a body that is just small enough, and for a bomb."""
    body = gzip.compress(b"0" * size)
    tracemalloc.start()
    try:
        if size > LIMIT:
            with pytest.raises(TooLarge):
                gunzip(body, LIMIT)
        else:
            assert len(gunzip(body, LIMIT)) == LIMIT
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < LIMIT * 1.5


@pytest.mark.parametrize(
    ("coding", "verdict"),
    [("", False), (" Identity", False), ("gzip", True), ("X-GZip ", True), ("br", None), ("gzip,gzip", None)],
)
def test_encodings_are_told_apart(coding: str, verdict: bool | None) -> None:
    """In any case of letters; more than one at once is none that is known."""
    assert is_gzip(coding) is verdict


def test_contents_have_a_bound_together() -> None:
    """Whoever comes when there is no room is refused, until others have gone; one that is alone may have any size."""
    inflating, body = Inflating(most=2500), gzip.compress(b"x" * 1000)
    held = [inflating.content(body, LIMIT) for _ in range(2)]
    with pytest.raises(Overloaded):
        inflating.content(body, LIMIT)
    held.pop()
    assert inflating.content(body, LIMIT)[0] == b"x" * 1000
    held.clear()
    assert len(inflating.content(gzip.compress(b"x" * 3000), LIMIT)[0]) == 3000


def test_bodies_are_inflated_one_after_the_other() -> None:
    """Whoever waits for its turn does so for a while, and no longer; one that fails gives its turn back."""
    inflating = Inflating(patience=0.01)
    with pytest.raises(BadBody):
        inflating.content(b"x", LIMIT)
    with inflating._turn, pytest.raises(Overloaded):
        inflating.content(gzip.compress(b"x"), LIMIT)
    assert inflating.content(gzip.compress(b"x"), LIMIT)[0] == b"x"
