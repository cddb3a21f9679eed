"""Storing the messages of a request; most of it is shown through the producer and the routes."""

from __future__ import annotations

from proxy.messages import Message
from proxy.storing import size_of


def test_headers_count_for_the_bytes_under_way() -> None:
    """A batch of many small messages with large headers is as large as it will be on its way."""
    message = Message(b"1", (("x-a", "v" * 997),), "id")
    assert size_of([message] * 3) == 3 * (1 + 1000)
