"""Users of a Memphis broker, and what they may do; against a stand-in."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from proxy.brokers import memphis_control as control
from proxy.brokers import memphis_stations
from proxy.brokers.memphis import MemphisSession
from proxy.config import Config
from proxy.credentials import Credentials
from proxy.errors import let_go
from proxy.messages import Ack, Message, station_named
from proxy.producer import Producer
from tests.brokers.fakes import FakeServer
from tests.brokers.memphis_standin import Standin
from tests.brokers.memphis_tools import CREATIONS, LIMITED, ORDERS, as_session
from tests.brokers.tools import ROOT, facts, failure, settings
from tests.servers import eventually
from tests.uncollected import Payload, no_payloads, uncollected

DENIED, ALLOWED = station_named("rb-denied"), station_named("rb-allowed-1")

Producers = Callable[[Config], Producer]
Submit = Callable[..., "Future[Any]"]


@pytest.fixture
def started(standin: Standin, producer: Producers) -> Producer:
    """A producer at the stand-in."""
    return producer(settings(standin.url))


# ---- users ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "secret", "account"),
    [("root", "memphis", ""), ("root", "memphis", "1"), ("root$1", "memphis", "1"), ("root", "memphis", "7")],
)
def test_who_logs_on(standin: Standin, started: Producer, user: str, secret: str, account: str) -> None:
    """With the account, or without where there is no such account, as Memphis' own clients do."""
    started.log_on(Credentials(user, secret, account))
    assert standin.names[-1].partition("::")[2] == "root"


@pytest.mark.parametrize(
    "user",
    ["nobody", "ROOT", "a::root", "root::x", "MEMPHIS HTTP LOGGER", "$$memphis", "$1", "root$"],
)
def test_who_does_not(started: Producer, user: str) -> None:
    """Names that the broker would take for something else are not even tried."""
    assert failure(started.log_on, Credentials(user, "memphis")).status == 401


def test_a_token_broker_is_given_the_token(tmp_path: Path, producer: Producers) -> None:
    """And no user but in the name of the connection."""
    standin = Standin(tmp_path / "token", token="memphis")
    try:
        started = producer(settings(standin.url, USER_PASS_BASED_AUTH="false"))
        assert started.single(ROOT, ORDERS, b"x", ()).sequence == 1
        sent = next(sent for sent in standin.connects if sent["name"].endswith("::root"))
        assert (sent["auth_token"], sent["name"].partition("::")[2]) == ("memphis", "root")
        assert "user" not in sent
        assert "pass" not in sent
        for wrong in (Credentials("root", "nope"), Credentials("ghost", "memphis")):
            assert failure(started.log_on, wrong).status == 401
    finally:
        standin.stop()


def test_a_user_without_the_right_is_forbidden(standin: Standin, started: Producer) -> None:
    """The broker's own words say which station; nothing was sent there."""
    standin.make("rb-denied")
    error = failure(started.single, LIMITED, DENIED, b"x", ())
    assert facts(error) == ("Forbidden", "no", "never")
    assert error.message == "user app-rb is not allowed to access station rb-denied"
    assert not standin.stored("rb-denied$1")


def test_who_is_refused_again_and_again_costs_one_question(standin: Standin, started: Producer) -> None:
    """For a second."""
    standin.make("rb-denied")
    for _ in range(5):
        failure(started.single, LIMITED, DENIED, b"x", ())
    assert len(standin.bodies(CREATIONS)) <= 2


def test_what_is_remembered_of_a_refusal_has_no_payload(standin: Standin, started: Producer) -> None:
    """It may have megabytes, and there may be thousands of stations that a user may not use."""
    standin.make("rb-denied")
    with uncollected():
        let_go(failure(lambda: started.single(LIMITED, DENIED, Payload(b"x"), ())))
        eventually(no_payloads)


@pytest.mark.slow
def test_a_message_for_which_the_broker_was_too_busy_is_gone_without_the_garbage_collector(
    standin: Standin, producer: Producers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why it had to wait is remembered with it."""
    monkeypatch.setattr(memphis_stations, "CONTROL_SECONDS", 0.1)
    started = producer(settings(standin.url, PRODUCE_TIMEOUT_SECONDS="2"))
    standin.silent.add(CREATIONS)
    with uncollected():
        let_go(failure(lambda: started.single(ROOT, ORDERS, Payload(b"x"), ())))
        eventually(no_payloads)


def test_a_user_may_not_make_any_station(standin: Standin, started: Producer) -> None:
    """403, in the broker's words."""
    error = failure(started.single, LIMITED, station_named("rb-other"), b"x", ())
    assert facts(error) == ("Forbidden", "no", "never")
    assert error.message == "user app-rb is not allowed to create station rb-other"


def test_rights_that_come_late_are_waited_for(standin: Standin, started: Producer) -> None:
    """The broker refuses the subjects of a station that it has just made, for half a second."""
    assert started.single(LIMITED, ALLOWED, b"x", ()).duplicate is False
    subscribed = standin.lines.count("SUB $memphis_schema_updates_rb-allowed-1")
    assert subscribed > 1
    assert len(standin.bodies(CREATIONS)) == 2  # once more, as news may have been lost until then
    assert len(standin.stored("rb-allowed-1$1")) == 1


@pytest.mark.slow
def test_rights_that_do_not_come_are_looked_for_with_another_connection(standin: Standin, started: Producer) -> None:
    """It was recorded that they come when a producer makes the station, and that who logs on has them."""
    standin.reloads = False
    assert started.single(LIMITED, ALLOWED, b"x", ()).sequence == 1
    assert [name.partition("::")[2] for name in standin.names] == ["app-rb"] * 2
    standin.make("rb-allowed-2")
    session: Any = started._pool._links[LIMITED.identity].session
    session._stations._opened_at -= memphis_stations.SETTLING_SECONDS  # as if it had been open for a while
    assert started.single(LIMITED, station_named("rb-allowed-2"), b"x", ()).sequence == 1
    assert len(standin.names) == 3


@pytest.mark.slow
def test_rights_that_never_come_are_not_looked_for_for_ever(standin: Standin, started: Producer) -> None:
    """The station is not newer than the connection; what is refused is told."""
    standin.make("rb-allowed-1")
    standin.reloads = False
    standin._made_at["rb-allowed-1"] = float("inf")
    error = failure(started.single, LIMITED, ALLOWED, b"x", ())
    assert facts(error) == ("Forbidden", "unknown", "with-key")
    assert len(standin.names) == 1


def test_a_refused_first_publish_is_repeated(standin: Standin, started: Producer) -> None:
    """Also where the refusal comes when everything else has been let through."""
    standin.make("rb-allowed-1")
    started.single(LIMITED, ALLOWED, b"x", ())
    session = started._pool._links[LIMITED.identity].session
    known: Any = session._stations.found(ALLOWED)  # type: ignore[union-attr]
    known.made_at = float("inf")  # as if it had just been made
    standin._allowed_at["rb-allowed-1"] = standin._loop.time() + 0.4
    started.single(LIMITED, ALLOWED, b"y", ())
    assert [message.payload for message in standin.stored("rb-allowed-1$1")] == [b"x", b"y"]


def test_a_refusal_that_names_no_subject_is_told_in_time(standin: Standin, started: Producer) -> None:
    """What was in flight and has no answer is forbidden; whether it is stored is not known."""
    standin.make("rb-allowed-1")
    started.single(LIMITED, ALLOWED, b"x", ())
    standin.stations.pop("rb-allowed-1")  # from now on the relay refuses it
    error = failure(started.single, LIMITED, ALLOWED, b"y", ())
    assert facts(error) == ("Forbidden", "unknown", "with-key")


@pytest.fixture
def under_way(standin: Standin, started: Producer, submit: Submit) -> Future[Ack]:
    """A message of a limited user's that the broker takes a while to store."""
    for name in ("rb-denied", "rb-allowed-1"):
        standin.make(name)
    started.single(LIMITED, ALLOWED, b"x", ())
    standin.slow.add("rb-allowed-1$1.final")
    future = submit(started.single, LIMITED, ALLOWED, b"y", ())
    eventually(lambda: standin.lines.count("HPUB rb-allowed-1$1.final") == 2)
    return future


def test_a_refused_subscription_is_laid_to_no_message(
    standin: Standin, started: Producer, under_way: Future[Ack]
) -> None:
    """Those to the news of a station that has just been made are refused at first."""
    assert started.single(LIMITED, station_named("rb-allowed-2"), b"x", ()).sequence == 1
    assert standin.lines.count("SUB $memphis_schema_updates_rb-allowed-2") > 1
    assert under_way.result(5).sequence == 2


def test_a_refused_question_is_laid_to_no_message(started: Producer, under_way: Future[Ack]) -> None:
    """As recorded, the broker answers none about the streams of a station that is not for this user."""
    session: Any = started._pool._links[LIMITED.identity].session
    assert started._running().run(session.stored, DENIED, Message(b"", (), "id"), 1, timeout=3) is None
    assert under_way.result(5).sequence == 2


def test_readiness_logs_on_as_the_user_of_the_settings(standin: Standin, producer: Producers) -> None:
    """And tells when the broker does not take it."""
    producer(settings(standin.url, ROOT_USER="root", ROOT_PASSWORD="memphis")).check()
    other = producer(settings(standin.url, ROOT_USER="root", ROOT_PASSWORD="wrong"))
    assert failure(other.check).status == 401


def test_changing_schemas_is_for_the_broker(standin: Standin) -> None:
    """It keeps them itself, and the gateway says so."""

    async def work(session: MemphisSession) -> None:
        with pytest.raises(Exception, match="keeps schemas itself"):
            await session.registry.put_schema("a", json)

    as_session(standin, work)


@pytest.mark.slow
def test_a_broker_that_accepts_and_says_nothing_is_away(producer: Producers) -> None:
    """It hangs when it is told to stop, its port open: whoever logs on is told in time."""
    with contextlib.closing(FakeServer()) as hanging:
        url = hanging.url.replace("nats://", "memphis://")
        started = producer(settings(url, f"{url[:-1]}1", PRODUCE_TIMEOUT_SECONDS=1))
        before = time.monotonic()
        assert facts(failure(started.log_on, ROOT)) == ("BrokerAway", "no", "safe")
        assert facts(failure(started.single, ROOT, ORDERS, b"x", ())) == ("BrokerAway", "no", "safe")
        assert time.monotonic() - before < 12


def test_a_fault_of_ours_ends_the_wait(standin: Standin, started: Producer, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is told as one."""
    monkeypatch.setattr(control, "producer_creation", lambda client, station: {}["nothing"])
    error = failure(started.single, ROOT, ORDERS, b"x", ())
    assert error.status == 500
