"""What jobs of the bridge see of those who call them."""

from __future__ import annotations

import contextvars
from collections.abc import Iterator

import pytest

from proxy.bridge import Bridge
from proxy.waiters import ThreadWaiter


async def nothing() -> None:
    """A set-up or teardown that has nothing to do."""


@pytest.fixture
def bridge() -> Iterator[Bridge]:
    """A running bridge."""
    bridge = Bridge(nothing, nothing, waiter=ThreadWaiter())
    bridge.start()
    yield bridge
    bridge.stop(0.1)


def test_a_job_has_nothing_of_its_callers_context(bridge: Bridge) -> None:
    """What it begins may live long, and would keep the caller's request."""
    theirs = contextvars.ContextVar("theirs", default="nothing")
    theirs.set("a request")
    assert bridge.call(lambda reply: reply.set(theirs.get()), timeout=5) == "nothing"
