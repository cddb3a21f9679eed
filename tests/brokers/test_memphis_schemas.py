"""Schemas of a Memphis broker, what they refuse, and the news of both; against a stand-in."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from proxy.brokers import memphis_stations
from proxy.brokers.memphis import MemphisSession
from proxy.brokers.memphis_connection import MemphisConnection
from proxy.dead_letters import outcome
from proxy.errors import AckTimeout, BrokerAway
from proxy.messages import UNKNOWN, Demand, Message
from proxy.producer import Producer
from tests.brokers.memphis_standin import RECORDED, Standin
from tests.brokers.memphis_tools import CREATIONS, ORDERS, as_session, elsewhere
from tests.brokers.tools import ROOT, eventually_on_loop, settings
from tests.servers import eventually


@pytest.fixture
def started(standin: Standin) -> Iterator[Producer]:
    """A producer at the stand-in that asks for schemas."""
    producer = Producer(settings(standin.url))
    producer.start()
    yield producer
    producer.stop(0)


# ---- schemas ----------------------------------------------------------------------------------------------------


def test_schemas_come_and_go_while_a_session_is_open(standin: Standin) -> None:
    """Each kind is attached, and then none."""

    async def work(session: MemphisSession) -> None:
        assert await session.demands.read(ORDERS) is None
        for kind in ("json", "json-2", "protobuf", "avro", "graphql"):
            await elsewhere(standin.attach, "orders", kind)
            wanted = RECORDED["schemas"][kind]["active_version"]["schema_content"]
            await eventually_on_loop(lambda wanted=wanted: _definition(session) == wanted)  # type: ignore[misc]
        await elsewhere(standin.detach, "orders")
        await eventually_on_loop(lambda: session.demands.known["orders"] is None)
        assert len(standin.bodies(CREATIONS)) == 1

    as_session(standin, work)


def _definition(session: MemphisSession) -> str:
    demand: Demand | None = session.demands.known["orders"]
    return demand.schema.definition if demand is not None else ""


@pytest.mark.parametrize("on", [False, True])
def test_the_notice_of_the_dead_letter_switch_is_not_believed(standin: Standin, on: bool) -> None:
    """It holds the value before the change, so the broker is asked."""
    standin.schemas["orders"] = RECORDED["schemas"]["json"]
    standin.dead_letters["orders"] = not on

    async def work(session: MemphisSession) -> None:
        demand = await session.demands.read(ORDERS)
        assert demand is not None
        assert demand.dead_letter is not on
        await elsewhere(standin.keep_dead_letters, "orders", on)
        await eventually_on_loop(lambda: session.demands.known["orders"].dead_letter is on)

    as_session(standin, work)


def test_the_switch_is_looked_at_once_more_a_little_later(standin: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker may tell of a change before it has made it."""
    monkeypatch.setattr(memphis_stations, "SECOND_LOOK_SECONDS", 0.2)
    standin.schemas["orders"] = RECORDED["schemas"]["json"]

    async def work(session: MemphisSession) -> None:
        await session.demands.read(ORDERS)
        news = {**RECORDED["schemaverse_to_dls"], "station_name": "orders", "update": True}
        await elsewhere(standin.tell, "$memphis_sdk_clients_updates", news)
        await eventually_on_loop(lambda: len(standin.bodies(CREATIONS)) == 2)
        standin.dead_letters["orders"] = False
        await eventually_on_loop(lambda: not session.demands.known["orders"].dead_letter)
        assert len(standin.bodies(CREATIONS)) == 3

    as_session(standin, work)


def test_dead_letters_are_given_to_the_broker(standin: Standin) -> None:
    """With what was wrong; news of them go out only where the broker wants it."""

    async def work(session: MemphisSession) -> None:
        rejected = [(Message(b"nope", (("x-user", "u"),), "id"), "Schema validation has failed: why")]
        assert await session.dead_letter(ORDERS, rejected) == [None]
        await eventually_on_loop(lambda: standin.bodies("$memphis_schemaverse_dls"))
        (letter,) = standin.bodies("$memphis_schemaverse_dls")
        assert letter["message"]["data"] == b"nope".hex()
        assert letter["producer"] == {"name": "rest-gateway", "connection_id": session.client.connection_id}
        assert not standin.bodies("$memphis_notifications")

    as_session(standin, work)


def test_the_pool_gives_dead_letters_to_a_broker_that_keeps_them(standin: Standin, started: Producer) -> None:
    """As the user who sent them; NATS keeps none."""
    bridge, pool = started._running(), started._pool
    assert pool.keeps_letters
    rejected = [(Message(b"nope", (), "id"), "why")]
    assert bridge.run(pool.dead_letter, ROOT, ORDERS, rejected, 2.0, timeout=3) == [None]
    eventually(lambda: len(standin.bodies("$memphis_schemaverse_dls")) == 1)


def test_the_pool_does_not_say_that_a_letter_failed_which_may_be_on_its_way(
    started: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that does not come back in time may have sent it."""

    async def wait(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(MemphisSession, "dead_letter", wait)
    bridge, pool = started._running(), started._pool
    with pytest.raises(AckTimeout):
        bridge.run(pool.dead_letter, ROOT, ORDERS, [(Message(b"nope", (), "id"), "why")], 0.1, timeout=3)


def test_the_pool_knows_what_stations_demand(standin: Standin, started: Producer) -> None:
    """Unknown at first, then asked for, and looked up from any thread."""
    standin.schemas["orders"] = RECORDED["schemas"]["avro"]
    bridge, pool = started._running(), started._pool
    assert pool.known_demand(ROOT, ORDERS) is UNKNOWN
    demand = bridge.call(pool.demand, ROOT, ORDERS, 2.0, timeout=3, weight=1, size=0)
    assert demand.schema.type == "avro"
    assert pool.known_demand(ROOT, ORDERS) is demand


def test_notifications_are_sent_where_the_broker_wants_them(standin: Standin) -> None:
    """It says so in the answer, and by a notice when that changes."""
    standin.notify = True

    async def work(session: MemphisSession) -> None:
        rejected = [(Message(b'{"name": "y"}', (), "id"), "why")]
        await session.dead_letter(ORDERS, rejected)
        await eventually_on_loop(lambda: standin.bodies("$memphis_notifications"))
        (news,) = standin.bodies("$memphis_notifications")
        assert news["type"] == "schema_validation_fail_alert"
        assert news["code"] == '{"name": "y"}'
        assert "orders" in news["msg"]
        off = {"station_name": "", "type": "send_notification", "update": False}
        await elsewhere(standin.tell, "$memphis_sdk_clients_updates", off)
        await session._broker.settled()
        await session.dead_letter(ORDERS, rejected)
        await eventually_on_loop(lambda: len(standin.bodies("$memphis_schemaverse_dls")) == 2)
        assert len(standin.bodies("$memphis_notifications")) == 1

    as_session(standin, work)


def test_a_dead_letter_that_is_too_large_is_not_sent(standin: Standin) -> None:
    """Hex is twice as long; the broker would close the connection that all share."""

    async def work(session: MemphisSession) -> None:
        large, small = Message(b"L" * (5 << 20), (), "a"), Message(b"s", (), "b")
        too_large, sent = await session.dead_letter(ORDERS, [(large, "why"), (small, "why")])
        assert too_large is not None
        assert too_large.status == 413
        assert sent is None
        assert session.alive

    as_session(standin, work)


def test_a_dead_letter_that_the_broker_has_perhaps_not_read_is_unknown(
    standin: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was sent, and no word came whether it was read; one that was not sent stays what it is."""

    async def away(connection: MemphisConnection) -> None:
        connection.flush()
        raise BrokerAway

    async def work(session: MemphisSession) -> None:
        await session.demands.read(ORDERS)
        monkeypatch.setattr(MemphisConnection, "settled", away)
        large, small = Message(b"L" * (5 << 20), (), "a"), Message(b"s", (), "b")
        results = await session.dead_letter(ORDERS, [(large, "why"), (small, "why")])
        assert [type(result).__name__ for result in results] == ["TooLarge", "AckTimeout"]
        assert outcome(results[1]).startswith("unknown: ")
        await eventually_on_loop(lambda: standin.bodies("$memphis_schemaverse_dls"))
        monkeypatch.undo()

    as_session(standin, work)


@pytest.mark.parametrize("data", [b"not json", b"[]", b'{"type": 5}', b"\xff"])
def test_news_that_make_no_sense_end_nothing(standin: Standin, data: bytes) -> None:
    """Anyone of the account may publish there."""

    async def work(session: MemphisSession) -> None:
        await session.demands.read(ORDERS)

        async def tell() -> None:
            for subject in ("$memphis_sdk_clients_updates", "$memphis_schema_updates_orders"):
                await standin._client.publish(subject, data)
            await standin._client.flush()

        await elsewhere(standin._run, tell())
        await session._broker.settled()
        assert session.alive
        assert await session.demands.read(ORDERS) is None

    as_session(standin, work)
