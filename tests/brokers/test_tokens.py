"""Numbers for reply subjects."""

from __future__ import annotations

import copy

from proxy.brokers.tokens import Tokens


def test_each_process_numbers_its_replies_from_somewhere_else() -> None:
    """Also where several were forked from one: a stream tells batches apart by the number alone."""
    loaded = Tokens()
    first = [copy.copy(loaded).take(2) for _ in range(20)]
    assert len(set(first)) == 20


def test_no_number_is_given_twice() -> None:
    """Whoever takes several has them all for itself."""
    tokens = Tokens()
    first = tokens.take(3)
    assert tokens.take(1) == first + 3
