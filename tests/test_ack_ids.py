"""Ack ids open for the user and station they were made for, in time, and nowhere else."""

from __future__ import annotations

import contextlib
import gc
from types import SimpleNamespace

import pytest

from proxy.ack_ids import AckIds
from proxy.breathing import breathe
from proxy.consumer import Consumer
from proxy.credentials import Credentials
from proxy.errors import AcksFailed, BadBody
from proxy.messages import station_named
from proxy.producer import Producer
from proxy.sealing import derive, seal
from tests.application import settings
from tests.uncollected import uncollected

SECRET, OTHER = "s" * 32, "t" * 32
USER, STATION = Credentials("root", "memphis"), station_named("orders")
SUBJECT = "$JS.ACK.orders.rest-gateway.1.42.42.1795450987912722619.0"
IDS = AckIds(SECRET)


def made(ids: AckIds = IDS, expires: float = 100.0) -> str:
    """An id for the subject."""
    return ids.make(USER, STATION, SUBJECT, expires)


@pytest.mark.parametrize("reads", [AckIds(SECRET), AckIds(OTHER, SECRET), AckIds("", SECRET)])
def test_any_replica_takes_it(reads: AckIds) -> None:
    """Also one whose secret was changed since; the secret of the user does not matter."""
    assert reads.read(Credentials("root", "changed"), STATION, made(), 99.9) == SUBJECT


def test_it_tells_nothing() -> None:
    """And no two are the same."""
    assert made() != made()
    assert "orders" not in made()


@pytest.mark.parametrize(
    ("user", "station"),
    [
        (Credentials("app1", "memphis"), STATION),
        (Credentials("root", "memphis", "2"), STATION),
        (USER, station_named("orders2")),
    ],
)
def test_it_is_bound_to_user_account_and_station(user: Credentials, station: object) -> None:
    """Nobody else can use it, nor its user elsewhere."""
    with pytest.raises(BadBody):
        IDS.read(user, station, made(), 0)  # type: ignore[arg-type]


def test_it_is_the_users_whatever_account_is_named() -> None:
    """Where the broker knows no accounts."""
    maker, reader = (
        Credentials(user, "memphis", account, tenants=False) for user, account in (("root$7", "7"), ("root", ""))
    )
    ids = AckIds(SECRET)
    assert ids.read(reader, STATION, ids.make(maker, STATION, SUBJECT, 100.0), 99.9) == SUBJECT


def test_its_time_ends() -> None:
    """When the broker gives the message to others."""
    with pytest.raises(BadBody, match="time is over"):
        IDS.read(USER, STATION, made(), 100.0)


@pytest.mark.parametrize(
    "text", ["", "x", "é", "=" * 40, "A" * 100, "\ud800", made()[:-1], made() + "A", made().swapcase()]
)
def test_anything_else_is_no_ack_id(text: str) -> None:
    """Whatever its form."""
    with pytest.raises(BadBody):
        IDS.read(USER, STATION, text, 0)


def test_an_id_of_another_secret_is_none() -> None:
    """Nor one of another purpose."""
    for other in (made(AckIds(OTHER)), seal(derive(SECRET, "cred/access"), b"100 $JS.ACK.x", "jti")):
        with pytest.raises(BadBody):
            IDS.read(USER, STATION, other, 0)


def test_nothing_but_acks_is_published_to() -> None:
    """Although nobody else can seal: what is sealed is looked at once more."""
    for subject in ("$JS.API.STREAM.DELETE.orders", "orders.final", ""):
        with pytest.raises(BadBody):
            IDS.read(USER, STATION, IDS.make(USER, STATION, subject, 100), 0)


def test_many_wrong_ids_leave_nothing_and_hold_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is told of each goes with the answer, without the garbage collector; and others run meanwhile."""
    pauses: list[float] = []
    monkeypatch.setattr("proxy.breathing.time", SimpleNamespace(sleep=pauses.append))
    consumer = Consumer(settings(), Producer(settings()))
    with uncollected():
        with contextlib.suppress(AcksFailed):
            consumer.ack(USER, STATION, ["x"] * 5000)
        assert sum(isinstance(one, BadBody) for one in gc.get_objects()) < 10
    assert len(pauses) >= 20


def test_whoever_lets_others_run_sleeps_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing at all gevent would go on with others that do the same, and read no request meanwhile."""
    pauses: list[float] = []
    monkeypatch.setattr("proxy.breathing.time", SimpleNamespace(sleep=pauses.append))
    breathe()
    assert [0 < pause < 0.01 for pause in pauses] == [True]
