"""A registry that three servers keep, workers at different ones, and the loss of its leader."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import msgspec
import pytest

from proxy.config import Config
from proxy.errors import GatewayError
from proxy.messages import Demand, Schema, station_named
from tests.brokers.replicas import Replica
from tests.brokers.tools import ROOT, Operator, settings
from tests.servers import NatsServer, eventually

ORDERS = station_named("orders")
ANY = Schema(type="json", definition="{}")

Replicas = Callable[[Config], Replica]

pytestmark = pytest.mark.slow


def version(found: object) -> int | None:
    """The version that is demanded, if any is known to be."""
    return found.version if isinstance(found, Demand) else None


def schema(number: int) -> Schema:
    """One that differs from those of other numbers."""
    return msgspec.structs.replace(ANY, definition=f"{number}")


def test_a_change_is_seen_at_all_servers_within_a_second(cluster: list[NatsServer], replica: Replicas) -> None:
    """A hint comes before the change is stored, and replicas are not all as quick."""
    one, *others = (replica(settings(server.url, STATION_REPLICAS="3")) for server in cluster)
    for other in others:
        assert other.demand(ROOT, ORDERS) is None
    one.registry(ROOT, "put_schema", "order", schema(1))
    one.registry(ROOT, "attach", ORDERS, "order")
    for number in range(2, 30):
        for other in others:
            eventually(lambda other=other, number=number: version(other.known(ROOT, ORDERS)) == number - 1, 1)
        assert one.registry(ROOT, "put_schema", "order", schema(number)) == (number, True)
        assert version(one.demand(ROOT, ORDERS)) == number


def test_the_registry_survives_the_loss_of_its_leader(cluster: list[NatsServer], replica: Replicas) -> None:
    """A worker at another server goes on with what it knows, and sees what is changed when there is a new leader."""
    first = replica(settings(cluster[0].url, STATION_REPLICAS="3"))
    first.registry(ROOT, "put_schema", "order", schema(1))
    first.registry(ROOT, "attach", ORDERS, "order")
    leader = Operator(cluster[0]).api("STREAM.INFO.KV_station-schemas")["cluster"]["leader"]
    left = [server for number, server in enumerate(cluster) if f"n{number}" != leader]
    one, other = (replica(settings(server.url, STATION_REPLICAS="3", PRODUCE_TIMEOUT_SECONDS="20")) for server in left)
    assert version(one.demand(ROOT, ORDERS)) == version(other.demand(ROOT, ORDERS)) == 1
    cluster[int(leader[1:])].kill()
    assert version(one.demand(ROOT, ORDERS, 20.0)) == 1
    assert one.demand(ROOT, station_named("stock"), 20.0) is None
    eventually(lambda: _put(one, schema(2)) == 2, 20)
    eventually(lambda: version(other.known(ROOT, ORDERS)) == 2, 1)


def _put(replica: Replica, schema: Schema) -> int:
    """The number of the version; 0 when it could not be made now."""
    with contextlib.suppress(GatewayError):
        number: int = replica.registry(ROOT, "put_schema", "order", schema)[0]
        return number
    return 0
