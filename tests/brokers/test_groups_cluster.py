"""Messages that travel together to a stream on three servers, two of which are lost."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import nats.errors
import pytest

from proxy.config import Config
from proxy.errors import GatewayError
from proxy.messages import station_named
from proxy.producer import Producer
from tests.brokers.tools import ROOT, Operator, failure, outcomes, settings
from tests.servers import NatsServer, eventually

ORDERS = station_named("orders")
PAYLOADS = [b"0", b"1", b"2"]

Producers = Callable[[Config], Producer]

pytestmark = pytest.mark.slow


def repeated(producer: Producer) -> GatewayError:
    """What a batch with the sender's key fails with."""
    return failure(lambda: producer.batch(ROOT, ORDERS, PAYLOADS, (), key="k1", manner="together"))


def stored(server: NatsServer) -> list[bytes]:
    """What the station has; nothing while it has no leader."""
    with contextlib.suppress(nats.errors.Error, AssertionError):
        return Operator(server).payloads("orders")
    return []


@pytest.mark.parametrize("lost", [True, False])
def test_what_only_the_leader_has_is_not_stored_for_a_repeat(
    cluster: list[NatsServer], producer: Producers, lost: bool
) -> None:
    """It knows the ids of what it could not hand on, and counts a batch of them at once.

    All is gone if it is lost then, and stored if the others come back.
    """
    operator = Operator(cluster[0])
    operator.add("orders", num_replicas=3, allow_batched=True)
    leader = cluster.pop(int(operator.api("STREAM.INFO.orders")["cluster"]["leader"][1:]))
    started = producer(settings(leader.url, PRODUCE_TIMEOUT_SECONDS="2"))
    started.batch(ROOT, ORDERS, [b"a", b"b"], (), manner="together")
    for server in cluster:
        server.kill()
    for _ in range(2):
        assert outcomes(repeated(started)) == [(n, 504, "unknown") for n in range(3)]
    if lost:
        leader.kill()
    for server in cluster:
        server.start()
    there = [b"a", b"b"] if lost else [b"a", b"b", *PAYLOADS]
    eventually(lambda: stored(cluster[0]) == there, 20)
