"""What a worker knows of stations' schemas: read once, true within a second, never guessed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import msgspec
import pytest
from nats.aio.client import Client

from proxy.brokers import demands
from proxy.brokers.api import API_SECONDS
from proxy.brokers.connection import CHECK_SECONDS
from proxy.config import Config
from proxy.credentials import Credentials
from proxy.errors import BadRegistry, BrokerAway, GatewayError, Overloaded, RegistryOff, Unauthorized
from proxy.messages import UNKNOWN, Demand, Schema, station_named
from tests.brokers.replicas import Replica
from tests.brokers.tools import MONITOR, ROOT, Operator, connections, failure, flushed, settings, unread
from tests.servers import NatsServer, eventually

ORDERS, STOCK = station_named("orders"), station_named("stock")
ALICE = Credentials("alice", "alice")
USERS = {"root": "memphis", "alice": "alice"}
ANY, NONE = (Schema(type="json", definition=text) for text in ("{}", "false"))

Servers = Callable[..., NatsServer]
Replicas = Callable[[Config], Replica]
Submit = Callable[..., "Future[Any]"]


@pytest.fixture
def server(nats_server: Servers) -> NatsServer:
    """A server with two users who may do everything."""
    return nats_server(MONITOR, users=USERS)


@pytest.fixture
def one(server: NatsServer, replica: Replicas) -> Replica:
    """A worker."""
    return replica(settings(server.url))


@pytest.fixture
def other(server: NatsServer, replica: Replicas) -> Replica:
    """Another one."""
    return replica(settings(server.url))


def version(found: object) -> int | None:
    """The version that is demanded, if any is known to be."""
    return found.version if isinstance(found, Demand) else None


def asked(server: NatsServer, user: str = "root") -> int:
    """How many messages the server has got from that user's connections."""
    return sum(found["in_msgs"] for found in connections(server) if found["authorized_user"] == user)


def put(server: NatsServer, key: str, value: bytes) -> None:
    """Writes to the registry with a tool of NATS'."""

    async def work(client: Client) -> None:
        await (await client.jetstream().key_value("station-schemas")).put(key, value)

    Operator(server).ask(work)


# ---- reading -----------------------------------------------------------------------------------------------------


def test_without_a_registry_nothing_is_demanded_and_that_is_known(
    one: Replica, server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One question for a station; then the worker knows, and asks nobody."""
    monkeypatch.setattr(demands, "AGAIN_SECONDS", ())
    assert one.known(ROOT, ORDERS) is UNKNOWN
    assert one.demand(ROOT, ORDERS) is None
    assert one.known(ROOT, ORDERS) is None
    assert one.known(ROOT, STOCK) is UNKNOWN
    before = asked(server)
    for _ in range(100):
        assert one.demand(ROOT, ORDERS) is None
    assert asked(server) == before
    assert Operator(server).streams() == []


def test_a_demand_is_the_version_that_the_station_is_attached_to(one: Replica) -> None:
    """With all that the registry has of it; the same object as long as nothing changes."""
    one.registry(ROOT, "put_schema", "order", ANY)
    one.registry(ROOT, "put_schema", "order", NONE)
    one.registry(ROOT, "attach", ORDERS, "order", 1, True)
    found = one.demand(ROOT, ORDERS)
    assert found == Demand(name="order", version=1, schema=ANY, dead_letter=True)
    assert one.known(ROOT, ORDERS) == found
    assert one.demand(ROOT, STOCK) is None
    one.registry(ROOT, "attach", ORDERS, "order")
    assert one.demand(ROOT, ORDERS) == Demand(name="order", version=2, schema=NONE)


@pytest.mark.slow
def test_all_users_share_what_their_stations_demand(one: Replica) -> None:
    """However many schemas there are: definitions are large, and a worker has a table for each user."""
    stations = [station_named(f"station-{number}") for number in range(300)]
    for station in stations:
        one.registry(ROOT, "put_schema", station.name, Schema(type="json", definition=f'{{"title": "{station.name}"}}'))
        one.registry(ROOT, "attach", station, station.name)
    found = [one.demand(ROOT, station).schema for station in stations]
    assert all(one.demand(ALICE, station).schema is schema for station, schema in zip(stations, found, strict=True))


def test_what_is_read_again_and_has_not_changed_is_the_same_object(one: Replica, server: NatsServer) -> None:
    """So that `is` is enough to see that nothing has changed."""
    one.registry(ROOT, "put_schema", "order", ANY)
    one.registry(ROOT, "attach", ORDERS, "order", 1)
    found = one.demand(ROOT, ORDERS)
    before = asked(server)
    put(server, "station.orders", b'{"schema": "order", "version": 1}')
    eventually(lambda: asked(server) > before and one.known(ROOT, ORDERS) is found)


def test_those_who_ask_at_once_share_one_reading(
    one: Replica, server: NatsServer, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many they are."""
    monkeypatch.setattr(demands, "AGAIN_SECONDS", ())
    one.demand(ROOT, STOCK)
    before = asked(server)
    results = [submit(one.demand, ROOT, ORDERS) for _ in range(60)]
    assert {result.result(5) for result in results} == {None}
    assert asked(server) - before <= 3


def test_more_stations_than_there_is_room_for_are_read_anew(one: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table is bounded."""
    monkeypatch.setattr(demands, "MAX_STATIONS", 3)
    stations = [station_named(f"s{n}") for n in range(10)]
    for station in stations:
        assert one.demand(ROOT, station) is None
    assert [one.known(ROOT, station) for station in stations] == [UNKNOWN] * 7 + [None] * 3


def test_without_the_registry_nobody_is_asked(server: NatsServer, replica: Replicas) -> None:
    """`SCHEMA_REGISTRY=false`: stations demand nothing, and nothing can be registered."""
    off = replica(settings(server.url, SCHEMA_REGISTRY="false"))
    assert off.known(ROOT, ORDERS) is None
    assert off.demand(ROOT, ORDERS) is None
    assert type(failure(off.registry, ROOT, "list_schemas")) is RegistryOff
    assert asked(server) == 0


def test_wrong_credentials_read_nothing(one: Replica) -> None:
    """Neither demands nor schemas."""
    stranger = Credentials("alice", "wrong")
    assert type(failure(one.demand, stranger, ORDERS)) is Unauthorized
    assert type(failure(one.registry, stranger, "list_schemas")) is Unauthorized
    assert one.known(stranger, ORDERS) is UNKNOWN


# ---- changes -----------------------------------------------------------------------------------------------------


def test_a_change_counts_at_once_in_the_worker_that_made_it(one: Replica) -> None:
    """For each user's session, as soon as it is answered."""
    one.registry(ROOT, "put_schema", "order", ANY)
    for turn in range(1, 30):
        one.registry(ROOT, "attach", ORDERS, "order")
        for user in (ROOT, ALICE):
            assert version(one.demand(user, ORDERS)) == turn
        one.registry(ROOT, "put_schema", "order", msgspec.structs.replace(ANY, definition=f"{turn}"))
        for user in (ALICE, ROOT):
            assert one.known(user, ORDERS) is UNKNOWN or version(one.known(user, ORDERS)) == turn + 1
            assert version(one.demand(user, ORDERS)) == turn + 1
        one.registry(ALICE, "detach", ORDERS)
        for user in (ROOT, ALICE):
            assert one.demand(user, ORDERS) is None


def test_a_change_counts_in_other_workers_within_a_second(one: Replica, other: Replica) -> None:
    """A new version, an attachment, its end; without a request that would make the worker look."""
    assert other.demand(ALICE, ORDERS) is None
    one.registry(ROOT, "put_schema", "order", ANY)
    for turn in range(1, 10):
        one.registry(ROOT, "attach", ORDERS, "order")
        eventually(lambda turn=turn: version(other.known(ALICE, ORDERS)) == turn, 1)
        one.registry(ROOT, "put_schema", "order", msgspec.structs.replace(ANY, definition=f"{turn}"))
        eventually(lambda turn=turn: version(other.known(ALICE, ORDERS)) == turn + 1, 1)
        one.registry(ROOT, "detach", ORDERS)
        eventually(lambda: other.known(ALICE, ORDERS) is None, 1)


def test_a_change_by_a_tool_of_nats_counts_too(one: Replica, server: NatsServer) -> None:
    """Within a second."""
    one.registry(ROOT, "put_schema", "order", ANY)
    assert one.demand(ROOT, ORDERS) is None
    put(server, "station.orders", b'{"schema": "order", "version": "newest"}')
    eventually(lambda: version(one.known(ROOT, ORDERS)) == 1, 1)


@pytest.mark.slow
def test_a_change_counts_after_the_broker_was_restarted(one: Replica, other: Replica, server: NatsServer) -> None:
    """What was known before is not known any more; what is changed then is seen within a second."""
    one.registry(ROOT, "put_schema", "order", ANY)
    one.registry(ROOT, "attach", ORDERS, "order")
    assert version(other.demand(ALICE, ORDERS)) == 1
    server.kill()
    eventually(lambda: other.known(ALICE, ORDERS) is UNKNOWN)
    server.start()
    assert version(other.demand(ALICE, ORDERS)) == 1
    one.registry(ROOT, "put_schema", "order", NONE)
    eventually(lambda: version(other.known(ALICE, ORDERS)) == 2, 1)


@pytest.mark.slow
def test_what_nobody_hints_at_is_read_again(one: Replica, server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bucket goes without a message to its subjects."""
    monkeypatch.setattr(demands, "KEEP_SECONDS", 0.3)
    monkeypatch.setattr(demands, "AGAIN_SECONDS", (0.0, 0.0, 0.0))
    one.registry(ROOT, "put_schema", "order", ANY)
    one.registry(ROOT, "attach", ORDERS, "order")
    assert version(one.demand(ROOT, ORDERS)) == 1
    Operator(server).api("STREAM.DELETE.KV_station-schemas")
    eventually(lambda: one.known(ROOT, ORDERS) is None, 2)


@pytest.mark.slow
def test_what_cannot_be_read_again_is_not_believed_for_long(
    one: Replica, server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while the session seems to live: a broker that is silent tells of no change either."""
    monkeypatch.setattr(demands, "KEEP_SECONDS", 0.1)
    monkeypatch.setattr(demands, "MARGIN_SECONDS", 0.0)
    assert one.demand(ROOT, ORDERS) is None
    server.pause()
    started = time.monotonic()
    eventually(lambda: one.known(ROOT, ORDERS) is UNKNOWN)
    ended = time.monotonic() - started
    server.resume()
    assert ended < API_SECONDS + CHECK_SECONDS  # when the session would have ended
    assert one.demand(ROOT, ORDERS) is None


def test_a_hint_that_comes_before_the_change_is_not_the_last_look(one: Replica, server: NatsServer) -> None:
    """It is sent when the change is, and that may take its time to be stored."""
    one.registry(ROOT, "put_schema", "order", ANY)
    one.registry(ROOT, "attach", ORDERS, "order")
    assert version(one.demand(ALICE, ORDERS)) == 1

    async def hint(client: Client) -> None:
        before = await asyncio.to_thread(asked, server, "alice")
        await client.publish("$KV.station-schemas.station.orders", b"", headers={"Nats-Expected-Last-Sequence": "99"})
        await flushed(client)
        await asyncio.to_thread(eventually, lambda: asked(server, "alice") >= before + 3)
        await client.jetstream().delete_stream("KV_station-schemas")  # which no message tells of

    Operator(server).ask(hint)
    eventually(lambda: one.known(ALICE, ORDERS) is None)


def test_a_flood_of_hints_costs_little(one: Replica, server: NatsServer) -> None:
    """Anyone with the right to may send something to the bucket's subjects: the worker reads on, and no faster."""
    one.registry(ROOT, "put_schema", "order", ANY)
    one.registry(ROOT, "attach", ORDERS, "order")
    assert version(one.demand(ALICE, ORDERS)) == 1
    before = asked(server, "alice")

    async def flood(client: Client) -> float:
        started = time.monotonic()
        for number in range(20_000):
            await client.publish(
                "$KV.station-schemas.station.orders", b"", headers={"Nats-Expected-Last-Sequence": "1"}
            )
            await client.publish(f"$KV.station-schemas.x.{number}", b"", headers={"Nats-Expected-Last-Sequence": "1"})
            if number % 1000 == 0:
                await asyncio.to_thread(one.demand, ALICE, ORDERS)
        await flushed(client)
        return time.monotonic() - started

    seconds = Operator(server).ask(flood)
    assert version(one.demand(ALICE, ORDERS)) == 1
    assert asked(server, "alice") - before < 60 + 400 * (seconds + 1)


# ---- what cannot be read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("station.orders", b"x", "station.orders"),
        ("station.orders", b'{"schema": "nowhere", "version": 1}', "schema.nowhere.1"),
        ("station.orders", b'{"schema": "nowhere", "version": "newest"}', "schema.nowhere"),
        ("station.orders", b'{"schema": "order", "version": 9}', "schema.order.9"),
        ("schema.order", b"[]", "schema.order"),
        ("schema.order.1", b'{"type": 1}', "schema.order.1"),
        ("schema.order.1", b'{"type": "json", "definition": "{}", "compiled": "?"}', "schema.order.1"),
    ],
)
def test_what_cannot_be_used_is_told_until_it_is_put_right(
    one: Replica, server: NatsServer, key: str, value: bytes, named: str
) -> None:
    """It is never taken for no schema, not even by a worker that knew the one before."""
    one.registry(ROOT, "put_schema", "order", ANY)
    one.registry(ROOT, "attach", ORDERS, "order")
    assert version(one.demand(ROOT, ORDERS)) == 1
    put(server, key, value)
    eventually(lambda: one.known(ROOT, ORDERS) is UNKNOWN, 1)
    error = failure(one.demand, ROOT, ORDERS)
    assert type(error) is BadRegistry
    assert named in error.message
    put(server, "station.orders", b'{"schema": "new", "version": 1}')
    put(server, "schema.new.1", b'{"type": "json", "definition": "{}"}')
    eventually(lambda: version(one.known(ROOT, ORDERS)) == 1, 1)


@pytest.mark.slow
def test_a_silent_broker_is_not_taken_for_no_schema(one: Replica, server: NatsServer) -> None:
    """The answer is that it cannot be told, within the time given."""
    assert one.demand(ROOT, STOCK) is None
    server.pause()
    started = time.monotonic()
    error = failure(one.demand, ROOT, ORDERS, 1.0)
    server.resume()
    assert (type(error), error.stored, error.repeat) == (BrokerAway, "no", "safe")
    assert time.monotonic() - started < 2
    assert one.known(ROOT, ORDERS) is UNKNOWN
    assert one.demand(ROOT, ORDERS) is None


@pytest.mark.slow
def test_a_broker_that_comes_back_in_time_is_waited_for(one: Replica, server: NatsServer, submit: Submit) -> None:
    """As a produce does."""
    one.registry(ROOT, "put_schema", "order", ANY)
    one.registry(ROOT, "attach", ORDERS, "order")
    server.stop()
    eventually(lambda: one.known(ROOT, ORDERS) is UNKNOWN)
    waiting = submit(one.demand, ROOT, ORDERS, 5.0)
    eventually(lambda: one.notices.count("broker_away") > 1)
    assert not waiting.done()
    server.start()
    assert version(waiting.result(6)) == 1


def test_a_worker_that_stops_answers_those_who_wait(server: NatsServer, replica: Replicas, submit: Submit) -> None:
    """And leaves nothing."""
    stopping = replica(settings(server.url))
    assert stopping.demand(ROOT, STOCK) is None
    server.pause()
    waiting = submit(_failure_of, stopping, ORDERS)
    eventually(lambda: unread(server))
    stopping.stop()
    server.resume()
    assert isinstance(waiting.result(5), GatewayError)


def _failure_of(replica: Replica, station: Any) -> BaseException | None:
    try:
        replica.demand(ROOT, station, 30.0)
    except Exception as error:
        return error
    return None


def test_a_full_pool_is_told_at_once(server: NatsServer, replica: Replicas, submit: Submit) -> None:
    """As a produce is."""
    small = replica(settings(server.url, MAX_SESSIONS="1"))
    server.stop()
    waiting = submit(_failure_of, small, ORDERS)
    eventually(lambda: small.notices)
    assert type(failure(small.demand, ALICE, ORDERS)) is Overloaded
    small.stop()
    assert isinstance(waiting.result(5), Exception)
