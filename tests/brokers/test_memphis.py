"""What a careful client of a Memphis broker does: registering, stations, partitions; against a stand-in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from proxy.brokers import memphis_stations
from proxy.brokers.memphis import MemphisSession
from proxy.config import Config
from proxy.errors import BrokerAway
from proxy.messages import Demand, station_named
from proxy.producer import Producer
from tests.brokers.memphis_standin import RECORDED, Asked, Standin
from tests.brokers.memphis_tools import CREATIONS, DESTRUCTIONS, LIMITED, MADE, ORDERS, as_session, elsewhere
from tests.brokers.tools import ROOT, eventually_on_loop, facts, failure, settings
from tests.servers import eventually

Producers = Callable[[Config], Producer]


@pytest.fixture
def started(standin: Standin, producer: Producers) -> Producer:
    """A producer at the stand-in."""
    return producer(settings(standin.url))


# ---- registering ----------------------------------------------------------------------------------------------------


def test_a_producer_is_registered_once(standin: Standin, started: Producer) -> None:
    """However many messages follow."""
    for _ in range(3):
        started.single(ROOT, ORDERS, b"x", ())
    (body,) = standin.bodies(CREATIONS)
    assert body == {
        "name": "rest-gateway",
        "station_name": "orders",
        "connection_id": standin.names[-1].partition("::")[0],
        "producer_type": "application",
        "req_version": 4,
        "username": "root",
        "app_id": body["app_id"],
        "sdk_lang": "python",
    }


def test_those_who_ask_at_once_share_one_registration(standin: Standin) -> None:
    """Each asking costs the broker's database queries."""

    async def work(session: MemphisSession) -> None:
        await asyncio.gather(*(session.demands.read(ORDERS) for _ in range(20)))
        assert len(standin.bodies(CREATIONS)) == 1

    as_session(standin, work)


def test_the_producer_is_destroyed_when_the_session_closes(standin: Standin, started: Producer) -> None:
    """With the fields that the protocol asks for."""
    started.single(ROOT, ORDERS, b"x", ())
    started.stop()
    (body,) = standin.bodies(DESTRUCTIONS)
    created = standin.bodies(CREATIONS)[0]
    same = ("name", "station_name", "username", "connection_id")
    assert body == {**{name: created[name] for name in same}, "req_version": 1}


@pytest.mark.slow
def test_another_connection_registers_again(standin: Standin, started: Producer) -> None:
    """News sent meanwhile are lost, and the broker knows the former one as disconnected."""
    started.single(ROOT, ORDERS, b"x", ())
    standin.server.kill()
    standin.server.start()
    started.single(ROOT, ORDERS, b"y", ())
    first, *_, last = standin.bodies(CREATIONS)
    assert first["connection_id"] != last["connection_id"]


def test_messages_have_the_headers_that_consumers_expect(standin: Standin, started: Producer) -> None:
    """Who produced them, through which connection, beside the sender's own."""
    started.single(ROOT, ORDERS, b"x", (("x-a", "1"),), key="k")
    (message,) = standin.stored("orders$1")
    connection_id, _, user = standin.names[-1].partition("::")
    assert user == "root"
    assert message.headers.pop("Nats-Msg-Id").endswith(".k")
    assert message.headers == {
        "x-a": "1",
        "$memphis_producedBy": "rest-gateway",
        "$memphis_connectionId": connection_id,
    }


def test_the_subscription_comes_before_the_question(standin: Standin, started: Producer) -> None:
    """Else news in between would be lost."""
    started.single(ROOT, ORDERS, b"x", ())
    lines = standin.lines
    assert lines.index("SUB $memphis_schema_updates_orders") < lines.index(f"PUB {CREATIONS}")
    assert lines.index("SUB $memphis_sdk_clients_updates") < lines.index(f"PUB {CREATIONS}")


def test_news_between_the_question_and_the_answer_count(standin: Standin) -> None:
    """The answer was made before the schema was attached, and comes after the news of it."""
    update = {"UpdateType": 1, "init": RECORDED["schemas"]["json"]}
    standin.between.append(Asked("$memphis_schema_updates_orders", update))

    async def work(session: MemphisSession) -> None:
        demand = await session.demands.read(ORDERS)
        assert demand is not None
        assert demand.name == "sc-json"

    as_session(standin, work)


def test_a_lost_race_is_asked_again(standin: Standin, started: Producer) -> None:
    """Several clients make the same station at once: "already exists" is no refusal."""
    standin.races = 2
    started.single(ROOT, ORDERS, b"x", ())
    assert len(standin.bodies(CREATIONS)) == 3


def test_an_unanswered_question_is_asked_again(
    standin: Standin, started: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker may have lost it."""
    monkeypatch.setattr(memphis_stations, "CONTROL_SECONDS", 0.2)
    standin.silent.add(CREATIONS)

    async def answer_the_second(session: MemphisSession) -> None:
        reading = asyncio.ensure_future(session.demands.read(ORDERS))
        await eventually_on_loop(lambda: len(standin.bodies(CREATIONS)) >= 2)
        standin.silent.clear()
        assert await reading is None

    as_session(standin, answer_the_second)


@pytest.mark.slow
def test_a_control_plane_that_never_answers_is_told_as_busy(standin: Standin, producer: Producers) -> None:
    """503 at the deadline, and nothing is stored: the message was never sent."""
    started = producer(settings(standin.url, PRODUCE_TIMEOUT_SECONDS=1))
    standin.silent.add(CREATIONS)
    error = failure(started.single, ROOT, ORDERS, b"x", ())
    assert facts(error) == ("BrokerRefused", "no", "safe")
    assert not standin.stored("orders$1")


# ---- stations ----------------------------------------------------------------------------------------------------


def test_an_absent_station_is_made_by_the_settings(standin: Standin, producer: Producers) -> None:
    """By itself: that is what a Memphis broker's clients are used to."""
    started = producer(settings(standin.url, STATION_MAX_AGE_SECONDS=7200))
    started.single(ROOT, station_named("St.Dotted.Name"), b"x", ())
    (body,) = standin.bodies(MADE)
    assert (body["name"], body["retention_value"]) == ("st.dotted.name", 7200)
    assert len(standin.stored("st#dotted#name$1")) == 1


def test_an_absent_station_is_not_found_where_none_may_be_made(standin: Standin, producer: Producers) -> None:
    """And no producer is asked for, which would make it."""
    started = producer(settings(standin.url, AUTO_CREATE_STATIONS="false"))
    error = failure(started.single, ROOT, station_named("nowhere"), b"x", ())
    assert facts(error) == ("StationNotFound", "no", "never")
    assert not standin.bodies(CREATIONS)
    assert "nowhere" not in standin.stations


def test_a_user_makes_only_so_many_stations_in_a_minute(standin: Standin, producer: Producers) -> None:
    """Nothing is asked of the broker for one too many; those that exist, and other users, are not concerned."""
    started = producer(settings(standin.url, AUTO_CREATE_STATIONS="true", MAX_STATIONS_CREATED_PER_MINUTE="2"))
    first, second, third = (station_named(f"rb-made-{n}") for n in range(3))
    assert all(started.single(ROOT, station, b"x", ()).sequence == 1 for station in (first, second))
    refused = failure(started.single, ROOT, third, b"x", ())
    assert (facts(refused), refused.status) == (("TooManyStations", "no", "safe"), 429)
    assert dict(refused.headers()) == {"Retry-After": "60"}
    assert third.name not in str([*standin.bodies(MADE), *standin.bodies(CREATIONS)])
    assert started.single(ROOT, first, b"y", ()).sequence == 2
    assert started.single(LIMITED, station_named("rb-allowed-9"), b"x", ()).sequence == 1
    assert third.name not in standin.stations


def test_a_station_removed_without_notice_is_registered_again_once(standin: Standin, started: Producer) -> None:
    """The broker's 503 is the first that we hear of it."""
    started.single(ROOT, ORDERS, b"x", ())
    standin.remove("orders", notice=False)
    assert started.single(ROOT, ORDERS, b"y", ()).duplicate is False
    assert len(standin.bodies(CREATIONS)) == 2
    assert [message.payload for message in standin.stored("orders$1")] == [b"y"]


def test_a_station_that_is_there_is_not_registered_again_for_each_message(standin: Standin) -> None:
    """Its stream may have no leader for a while, which asking does not mend; many messages meet that at once."""

    async def work(session: MemphisSession) -> None:
        await session._stations.register(ORDERS)
        assert [await session.ensure(ORDERS) for _ in range(3)] == [False] * 3
        assert len(standin.bodies(CREATIONS)) == 1

    as_session(standin, work)


def test_a_station_removed_with_a_notice_is_registered_again(standin: Standin) -> None:
    """Before the next message is sent."""

    async def work(session: MemphisSession) -> None:
        await session.demands.read(ORDERS)
        await elsewhere(standin.remove, "orders", True)
        await eventually_on_loop(lambda: session._stations.current(ORDERS) is None)
        await session._stations.register(ORDERS)
        assert len(standin.bodies(CREATIONS)) == 2

    as_session(standin, work)


def test_asking_what_a_station_demands_makes_none(standin: Standin) -> None:
    """An absent one demands nothing; its first message makes it."""

    async def work(session: MemphisSession) -> None:
        assert await session.demands.read(station_named("nowhere")) is None
        assert "nowhere" not in standin.stations
        assert not standin.bodies(MADE)
        assert not standin.bodies(CREATIONS)

    as_session(standin, work)


def test_a_removed_station_is_not_made_anew_by_a_refresh(standin: Standin) -> None:
    """A producer's creation would: so it is looked first whether the station is there."""

    async def work(session: MemphisSession) -> None:
        await session.demands.read(ORDERS)
        await elsewhere(standin.remove, "orders", False)
        await elsewhere(standin.keep_dead_letters, "orders", False)  # a reason to ask again
        await eventually_on_loop(lambda: "orders" not in session.demands.known)
        assert len(standin.bodies(CREATIONS)) == 1

    as_session(standin, work)


def test_what_is_known_is_asked_for_again_after_a_while(standin: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another active version of a schema is not announced."""
    monkeypatch.setattr(memphis_stations, "BELIEF_SECONDS", 0.05)
    standin.schemas["orders"] = RECORDED["schemas"]["json"]

    async def work(session: MemphisSession) -> None:
        assert _version(await session.demands.read(ORDERS)) == 1
        standin.schemas["orders"] = RECORDED["schemas"]["json-2"]
        await eventually_on_loop(lambda: "orders" not in session.demands.known)
        assert _version(await session.demands.read(ORDERS)) == 2

    as_session(standin, work)


def test_a_station_in_use_is_asked_for_again_without_a_wait(
    standin: Standin, started: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is known holds until the answer is there, which may take long."""
    monkeypatch.setattr(memphis_stations, "REFRESH_SECONDS", -1.0)
    started.single(ROOT, ORDERS, b"x", ())
    standin.silent.add(CREATIONS)
    for _ in range(3):
        started.single(ROOT, ORDERS, b"x", ())
    eventually(lambda: len(standin.bodies(CREATIONS)) == 2)


def test_what_is_known_of_a_station_in_use_is_believed_until_it_is_asked_for_again() -> None:
    """Else the messages of one moment would wait for the answer each time."""
    slowest = memphis_stations.CONTROL_SECONDS * memphis_stations.CONTROL_TRIES
    assert memphis_stations.REFRESH_SECONDS + slowest < memphis_stations.BELIEF_SECONDS


def test_a_station_that_could_not_be_asked_for_is_soon_asked_for_again(
    standin: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only after another minute."""
    monkeypatch.setattr(memphis_stations, "REFRESH_AGAIN_SECONDS", -1.0)  # the loop's clock may stand at the answer's

    async def work(session: MemphisSession) -> None:
        known = await session._stations.register(ORDERS)
        monkeypatch.setattr(memphis_stations, "CONTROL_SECONDS", 0.05)  # from here on no answer is waited for
        standin.silent.add(CREATIONS)
        session._stations.ask_again(known)
        await eventually_on_loop(lambda: not session._stations._refreshing)
        standin.silent.clear()
        count = len(standin.bodies(CREATIONS))
        session._stations.current(ORDERS)
        await eventually_on_loop(lambda: len(standin.bodies(CREATIONS)) > count)

    as_session(standin, work)


def test_who_asks_while_a_session_ends_is_told_that_the_broker_is_away(standin: Standin) -> None:
    """And asks the next session: nobody has taken the question back."""
    standin.silent.add(CREATIONS)

    async def work(session: MemphisSession) -> None:
        asking = asyncio.ensure_future(session.demands.read(ORDERS))
        await eventually_on_loop(lambda: standin.bodies(CREATIONS))
        session._stations.close()
        with pytest.raises(BrokerAway):
            await asking

    as_session(standin, work)


def _version(demand: Demand | None) -> int:
    return demand.version if demand is not None else 0


# ---- partitions ----------------------------------------------------------------------------------------------------


def test_messages_take_turns_over_partitions(standin: Standin, started: Producer) -> None:
    """Six messages, two for each of three partitions; a batch too."""
    standin.make("parts", 3)
    parts = station_named("parts")
    for _ in range(6):
        started.single(ROOT, parts, b"x", ())
    assert [len(standin.stored(f"parts${number}")) for number in (1, 2, 3)] == [2, 2, 2]
    started.batch(ROOT, parts, [b"y"] * 6, ())
    assert [len(standin.stored(f"parts${number}")) for number in (1, 2, 3)] == [4, 4, 4]


@pytest.mark.parametrize(("key", "partition"), [("a", 1), ("é", 2), ("", 3)])
def test_a_partition_key_chooses(standin: Standin, started: Producer, key: str, partition: int) -> None:
    """For all messages with it."""
    standin.make("parts", 3)
    parts = station_named("parts")._replace(partition_key=key)
    for _ in range(3):
        started.single(ROOT, parts, b"x", ())
    assert [len(standin.stored(f"parts${number}")) for number in (1, 2, 3)] == [
        3 * (number == partition) for number in (1, 2, 3)
    ]


def test_a_key_stores_a_message_once_whatever_the_partitions(standin: Standin, started: Producer) -> None:
    """Each partition knows its own ids, so a repeat goes where the first went; other bytes are found there."""
    standin.make("parts", 3)
    parts = station_named("parts")
    for n in range(6):
        started.single(ROOT, parts, b"%d" % n, (), key=f"k{n}")
    for n in range(6):
        assert started.single(ROOT, parts, b"%d" % n, (), key=f"k{n}").duplicate is True
        assert facts(failure(lambda n=n: started.single(ROOT, parts, b"other", (), key=f"k{n}")))[0] == "KeyReused"
    assert sum(len(standin.stored(f"parts${number}")) for number in (1, 2, 3)) == 6


def test_a_station_made_anew_with_other_partitions_is_learnt(standin: Standin, started: Producer) -> None:
    """Its former partitions are gone, which nobody announces."""
    standin.make("parts", 3)
    parts = station_named("parts")._replace(partition_key="")  # the third of three
    started.single(ROOT, parts, b"x", ())
    standin.remove("parts", notice=False)
    standin.make("parts", 1)
    started.single(ROOT, parts, b"y", ())
    assert [message.payload for message in standin.stored("parts$1")] == [b"y"]
