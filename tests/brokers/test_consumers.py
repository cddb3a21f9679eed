"""The durable consumers that groups read from."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from proxy.brokers import consumers
from proxy.brokers.consumers import ConsumerConfig, _delivers
from proxy.config import Config
from proxy.errors import Conflict
from proxy.messages import station_named
from proxy.producer import Producer
from tests.brokers.consuming_tools import Reader
from tests.brokers.tools import ROOT, USERS, Operator, facts, failure, settings
from tests.servers import NatsServer, eventually


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


def _update(operator: Operator, stream: str, consumer: str, **changes: object) -> None:
    """Changes a consumer, as `nats consumer edit` does."""
    config = operator.api(f"CONSUMER.INFO.{stream}.{consumer}")["config"] | changes
    verb = f"CONSUMER.CREATE.{stream}.{consumer}.{config['filter_subject']}"
    operator.api(verb, stream_name=stream, action="update", config=config)


def test_a_time_to_ack_that_an_operator_shortens_is_noticed(
    nats_server: Callable[..., NatsServer], producer: Callable[[Config], Producer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a message that is held for longer comes again and again in one answer."""
    monkeypatch.setattr(consumers, "GROUP_MEMORY_SECONDS", 0.0)
    server = nats_server(users=USERS)
    Operator(server).add("orders")
    config = settings(server.url)
    reader = Reader(ROOT, producer(config), config, station_named("orders"))
    assert reader.take(1).until > time.time() + 20
    _update(Operator(server), "orders", "rest-gateway", ack_wait=int(1e9))
    eventually(lambda: reader.take(1).until < time.time() + 2)


def test_a_group_that_reads_another_station_by_now_is_noticed(
    nats_server: Callable[..., NatsServer], producer: Callable[[Config], Producer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where stations share a stream, an operator can give a consumer to another one."""
    monkeypatch.setattr(consumers, "GROUP_MEMORY_SECONDS", 0.0)
    server = nats_server(users=USERS)
    Operator(server).api("STREAM.CREATE.all", name="all", subjects=["stations.*"])
    config = settings(server.url, SUBJECT_TEMPLATE="stations.{station}")
    reader = Reader(ROOT, producer(config), config, station_named("orders"))
    reader.take(1)
    _update(Operator(server), "all", "rest-gateway", filter_subject="stations.bills")
    eventually(lambda: _is_refused(reader))


def _is_refused(reader: Reader) -> bool:
    try:
        reader.take(1)
    except Conflict:
        return True
    return False


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
