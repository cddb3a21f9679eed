"""What every kind of broker must do, whatever it is behind its address. See `kinds` for adding one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from proxy.config import Config
from proxy.credentials import Credentials
from proxy.messages import Ack, Station, station_named
from proxy.producer import Producer
from tests.brokers.kinds import KINDS, Broker
from tests.brokers.tools import facts, failure, outcomes

LARGE = b"L" * (9 << 20)  # more than any of the brokers takes

Producers = Callable[[Config], Producer]


@pytest.fixture(scope="module", params=KINDS)
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A running broker of each kind; each test has a station of its own."""
    broker = KINDS[request.param](tmp_path_factory.mktemp("broker"))
    yield broker
    broker.stop()


@pytest.fixture(params=KINDS)
def mortal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    """A broker that may be killed and stopped."""
    broker = KINDS[request.param](tmp_path / "broker")
    yield broker
    broker.stop()


@pytest.fixture
def orders(request: pytest.FixtureRequest) -> Station:
    """A station that nobody has used."""
    return station_named("orders-" + "".join(c if c.isalnum() else "-" for c in request.node.name).strip("-"))


@pytest.fixture
def started(broker: Broker, producer: Producers) -> Producer:
    """A producer that creates stations."""
    return producer(broker.settings(AUTO_CREATE_STATIONS="true"))


def payloads(broker: Broker, station: Station) -> list[bytes]:
    """The payloads that the station has, in order."""
    return [message.payload for message in broker.stored(station.name)]


# ---- users -------------------------------------------------------------------------------------------------------


def test_the_right_credentials_log_on(broker: Broker, started: Producer) -> None:
    """Again and again."""
    for _ in range(3):
        started.log_on(broker.user)
    started.check()


@pytest.mark.parametrize("change", ["user", "secret"])
def test_wrong_credentials_are_unauthorized(broker: Broker, started: Producer, change: str) -> None:
    """An unknown user and a wrong secret are the same, and take half a second; a live session proves nothing."""
    started.log_on(broker.user)
    wrong = {"user": ("nobody", broker.user.secret), "secret": (broker.user.user, "wrong")}[change]
    before = time.monotonic()
    error = failure(started.log_on, Credentials(*wrong))
    assert (facts(error), error.message) == (("Unauthorized", "no", "never"), "Unauthorized")
    assert time.monotonic() - before >= 0.5


def test_wrong_credentials_produce_nothing(broker: Broker, started: Producer, orders: Station) -> None:
    """Also where a session of the user is open."""
    started.single(broker.user, orders, b"x", ())
    error = failure(started.single, Credentials(broker.user.user, "wrong"), orders, b"y", ())
    assert facts(error) == ("Unauthorized", "no", "never")
    assert payloads(broker, orders) == [b"x"]


# ---- messages ----------------------------------------------------------------------------------------------------


def test_a_message_is_stored_as_it_was_sent(broker: Broker, started: Producer, orders: Station) -> None:
    """Every byte of the payload, and the headers."""
    payload, headers = bytes(range(256)) * 40, (("content-type", "text/plain"), ("x-a", "caf\u00e9"))
    assert started.single(broker.user, orders, payload, headers).duplicate is False
    (message,) = broker.stored(orders.name)
    assert message.payload == payload
    assert set(headers) <= set(message.headers.items())


@pytest.mark.parametrize("manner", ["apart", "together"])
def test_a_batch_is_stored_in_order(broker: Broker, started: Producer, manner: str, orders: Station) -> None:
    """Each message once, into a station that is there."""
    batch = [b"%d" % n for n in range(1000)]
    started.single(broker.user, orders, b"first", ())
    assert len(started.batch(broker.user, orders, batch, (), manner=manner)) == 1000
    assert payloads(broker, orders) == [b"first", *batch]


def test_acks_tell_places_that_count_up(broker: Broker, started: Producer, orders: Station) -> None:
    """From one message to the next."""
    places = [ack.sequence or 0 for ack in started.batch(broker.user, orders, [b"x"] * 20, ())]
    places.append(started.single(broker.user, orders, b"x", ()).sequence or 0)
    assert places == list(range(places[0], places[0] + 21))


def test_a_key_stores_a_message_once(broker: Broker, started: Producer, orders: Station) -> None:
    """A repeat is a duplicate with the same place; other bytes under the same key are refused."""
    first = started.single(broker.user, orders, b"x", (), key="k")
    assert started.single(broker.user, orders, b"x", (), key="k") == Ack(first.sequence, True)
    error = failure(lambda: started.single(broker.user, orders, b"y", (), key="k"))
    assert facts(error) == ("KeyReused", "no", "never")
    assert payloads(broker, orders) == [b"x"]


@pytest.mark.parametrize("manner", ["apart", "together"])
def test_a_key_stores_a_batch_once(broker: Broker, started: Producer, manner: str, orders: Station) -> None:
    """Equal messages in it are messages of their own."""
    for _ in range(2):
        started.batch(broker.user, orders, [b"x", b"x", b"y"], (), key="k", manner=manner)
    assert sorted(payloads(broker, orders)) == [b"x", b"x", b"y"]


def test_what_is_too_large_fails_alone(broker: Broker, started: Producer, orders: Station) -> None:
    """The others are stored."""
    error = failure(started.batch, broker.user, orders, [b"1", LARGE, b"3"], ())
    assert outcomes(error) == [(1, 413, "no")]
    assert payloads(broker, orders) == [b"1", b"3"]


# ---- stations ----------------------------------------------------------------------------------------------------


def test_an_absent_station_is_not_found(broker: Broker, producer: Producers, orders: Station) -> None:
    """Where stations are not created by producing to them."""
    started = producer(broker.settings(AUTO_CREATE_STATIONS="false"))
    error = failure(started.single, broker.user, orders, b"x", ())
    assert facts(error) == ("StationNotFound", "no", "never")


def test_stations_are_apart(broker: Broker, started: Producer) -> None:
    """Also those whose names differ by little."""
    stations = [station_named(name) for name in ("bills", "bills.eu", "bills-eu", "bills_eu")]
    for station in stations:
        started.single(broker.user, station, station.name.encode(), ())
    assert [payloads(broker, station) for station in stations] == [[station.name.encode()] for station in stations]


# ---- faults ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_broker_that_dies_loses_and_doubles_nothing(mortal: Broker, producer: Producers, orders: Station) -> None:
    """Eight senders, of which none sees an error."""
    started = producer(mortal.settings(AUTO_CREATE_STATIONS="true"))

    def send(sender: int) -> list[bytes]:
        sent = [b"%d %d" % (sender, n) for n in range(200)]
        for payload in sent:
            started.single(mortal.user, orders, payload, ())
        return sent

    started.single(mortal.user, orders, b"first", ())
    with ThreadPoolExecutor(8) as pool:
        senders = [pool.submit(send, n) for n in range(8)]
        mortal.kill()
        sent = [payload for sender in senders for payload in sender.result(20)]
    assert sorted(payloads(mortal, orders)) == sorted([b"first", *sent])


@pytest.mark.slow
def test_a_silent_broker_leaves_it_open_whether_a_message_is_stored(
    mortal: Broker, producer: Producers, orders: Station
) -> None:
    """The answer comes at the deadline, and the key in it makes repeating safe."""
    started = producer(mortal.settings(AUTO_CREATE_STATIONS="true", PRODUCE_TIMEOUT_SECONDS="1"))
    started.single(mortal.user, orders, b"first", ())
    mortal.pause()
    before = time.monotonic()
    error = failure(started.single, mortal.user, orders, b"x", ())
    assert facts(error) == ("AckTimeout", "unknown", "with-key")
    assert time.monotonic() - before < 2
    mortal.resume()
    started.single(mortal.user, orders, b"x", (), key=error.fields["idempotency_key"])
    assert payloads(mortal, orders) == [b"first", b"x"]


@pytest.mark.slow
def test_a_broker_that_is_gone_is_told_and_nothing_is_stored(
    mortal: Broker, producer: Producers, orders: Station
) -> None:
    """To senders and log-ons."""
    started = producer(mortal.settings(PRODUCE_TIMEOUT_SECONDS="1"))
    mortal.stop()
    for act in (lambda: started.single(mortal.user, orders, b"x", ()), lambda: started.log_on(mortal.user)):
        assert facts(failure(act)) == ("BrokerAway", "no", "safe")


def test_a_stopped_gateway_takes_nothing(broker: Broker, started: Producer, orders: Station) -> None:
    """Whatever the broker is."""
    started.single(broker.user, orders, b"x", ())
    started.stop()
    assert facts(failure(started.single, broker.user, orders, b"y", ())) == ("Stopping", "no", "safe")
    assert payloads(broker, orders) == [b"x"]
