"""Storing the messages of a request; most of it is shown through the producer and the routes."""

from __future__ import annotations

from proxy.keys import elements
from proxy.messages import Message
from proxy.storing import payloads_of, size_of


def test_headers_count_for_the_bytes_under_way() -> None:
    """A batch of many small messages with large headers is as large as it will be on its way."""
    message = Message(b"1", (("x-a", "v" * 997),), "id")
    assert size_of([message] * 3) == 3 * (1 + 1000)


def test_a_batch_is_as_large_as_its_messages() -> None:
    """Those of a batch share their headers, and each has them on its way."""
    batch = elements("namespace", "key", [b"1", b"22"], (("x-a", "v" * 997),), named=True)
    assert size_of(batch) == size_of(list(batch)) == 3 + 2 * 1000
    assert payloads_of(batch) == payloads_of(list(batch)) == [b"1", b"22"]
