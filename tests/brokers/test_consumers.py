"""The durable consumers that groups read from."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from proxy.brokers.consumers import ConsumerConfig, _delivers
from proxy.config import Config
from proxy.messages import station_named
from proxy.producer import Producer
from tests.brokers.consuming_tools import Reader
from tests.brokers.tools import ROOT, USERS, Operator, facts, failure, settings
from tests.servers import NatsServer


def test_a_group_reads_no_other_station_of_its_stream(
    nats_server: Callable[..., NatsServer], producer: Callable[[Config], Producer]
) -> None:
    """A consumer belongs to the stream: under the same name there is only one, which has the first one's messages."""
    server = nats_server(users=USERS)
    Operator(server).api("STREAM.CREATE.all", name="all", subjects=["stations.*"])
    config = settings(server.url, SUBJECT_TEMPLATE="stations.{station}")
    started = producer(config)
    orders, bills = (Reader(ROOT, started, config, station_named(name)) for name in ("orders", "bills"))
    orders.send(b"order")
    bills.send(b"bill")
    assert orders.read(1) == [b"order"]
    orders.send(b"order 2")
    assert facts(failure(bills.read)) == ("Conflict", "no", "never")
    assert bills.read(group="bills") == [b"bill"]
    assert orders.read() == [b"order 2"]


@pytest.mark.parametrize(
    ("filters", "delivers"),
    [
        ([], True),
        (["stations.orders"], True),
        (["stations.bills", "stations.orders"], True),
        (["stations.*"], True),
        (["stations.>"], True),
        ([">"], True),
        (["stations.bills"], False),
        (["stations"], False),
        (["stations.orders.*"], False),
        (["*.bills", "other.>"], False),
    ],
)
def test_a_consumer_delivers_what_its_filters_cover(filters: list[str], delivers: bool) -> None:
    """As subjects and wildcards are understood by the broker."""
    several = ConsumerConfig(filter_subjects=filters)
    assert _delivers(several, "stations.orders") == delivers
    if len(filters) == 1:
        assert _delivers(ConsumerConfig(filter_subject=filters[0]), "stations.orders") == delivers
