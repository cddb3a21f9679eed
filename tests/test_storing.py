"""Storing the messages of a request; most of it is shown through the producer and the routes."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from proxy import storing as storing_module
from proxy.bridge import Bridge
from proxy.brokers.pool import Pool
from proxy.credentials import Credentials
from proxy.errors import BrokerAway, SchemaViolation
from proxy.keys import elements
from proxy.messages import Demand, Message, Schema, Station
from proxy.storing import Storing, payloads_of, size_of
from proxy.waiters import ThreadWaiter
from tests.servers import eventually
from tests.uncollected import Payload, no_payloads, uncollected


class Refusing:
    """A pool whose stations demand JSON Schema and have dead letters, of which it can keep none now."""

    def __init__(self, keeps_letters: bool) -> None:
        self.keeps_letters = keeps_letters

    def known_demand(self, *_: Any) -> Demand:
        """Objects."""
        return Demand(name="s", version=1, schema=Schema(type="json", definition='{"type":"object"}'), dead_letter=True)

    def publish(self, *_: Any) -> None:
        """The job."""
        raise BrokerAway

    async def dead_letter(self, *_: Any) -> None:
        """Gone meanwhile."""
        raise BrokerAway


async def nothing() -> None:
    """No set-up."""


@pytest.mark.parametrize("keeps_letters", [False, True])
def test_a_dead_letter_that_cannot_be_kept_is_gone_without_the_garbage_collector(keeps_letters: bool) -> None:
    """A payload may have megabytes, and many repeat while the broker is in trouble."""
    bridge = Bridge(nothing, nothing, waiter=ThreadWaiter())
    bridge.start()
    storing = Storing(bridge, cast(Pool, Refusing(keeps_letters)), 5.0)
    try:
        with uncollected():
            message = Message(Payload(b"[]"), (), "namespace012.x")
            (refusal,) = storing.store(Credentials("ann", "x"), Station("orders", "orders"), [message], "apart")
            assert isinstance(refusal, SchemaViolation)
            assert refusal.fields["dead_letter"].startswith("failed: ")
            del message
            eventually(no_payloads)
    finally:
        bridge.stop(0)


class Silent(Refusing):
    """A pool whose broker keeps dead letters, and does not say that it has read one."""

    async def dead_letter(self, *_: Any) -> None:
        """For ever."""
        await asyncio.Event().wait()


def test_a_dead_letter_without_an_answer_may_have_been_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows whether the broker has it, so the sender is not told that it failed."""
    for name in ("GRACE_SECONDS", "LETTER_SECONDS"):
        monkeypatch.setattr(storing_module, name, 0.05)
    bridge = Bridge(nothing, nothing, waiter=ThreadWaiter())
    bridge.start()
    try:
        storing = Storing(bridge, cast(Pool, Silent(True)), 0.1)
        message = Message(b"[]", (), "namespace012.x")
        (refusal,) = storing.store(Credentials("ann", "x"), Station("orders", "orders"), [message], "apart")
        assert isinstance(refusal, SchemaViolation)
        assert refusal.fields["dead_letter"].startswith("unknown: ")
    finally:
        bridge.stop(0)


def test_headers_count_for_the_bytes_under_way() -> None:
    """A batch of many small messages with large headers is as large as it will be on its way."""
    message = Message(b"1", (("x-a", "v" * 997),), "id")
    assert size_of([message] * 3) == 3 * (1 + 1000)


def test_a_batch_is_as_large_as_its_messages() -> None:
    """Those of a batch share their headers, and each has them on its way."""
    batch = elements("namespace", "key", [b"1", b"22"], (("x-a", "v" * 997),), named=True)
    assert size_of(batch) == size_of(list(batch)) == 3 + 2 * 1000
    assert payloads_of(batch) == payloads_of(list(batch)) == [b"1", b"22"]
