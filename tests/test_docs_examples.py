"""The programs in the documents run, and do what the documents say."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import pytest

from tests.brokers.tools import Operator
from tests.clients import STORED, Sender, embedded_broker, logged_on
from tests.servers import Gateway

pytestmark = pytest.mark.slow

_ORDER = {"id": "A-1", "total": 12}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The example under gunicorn, with the stations that its users were given."""
    settings = {"AUTO_CREATE_STATIONS": "off"}
    gateway = Gateway(tmp_path_factory.mktemp("example"), settings, app="docs.examples.own_route:app").start()
    for station in ("orders", "hooked"):
        embedded_broker(gateway).add(station)
    yield gateway
    gateway.stop(signal.SIGINT)


@pytest.fixture
def sender(running: Gateway) -> Iterator[Sender]:
    """A user of it."""
    with logged_on(running.host) as sender:
        yield sender


@pytest.fixture
def broker(running: Gateway) -> Operator:
    """What it has stored."""
    return embedded_broker(running)


def test_a_route_of_ones_own_produces_as_its_caller(sender: Sender, broker: Operator) -> None:
    """The message, its headers and the caller's name; the same order again is the same message."""
    body, bearer = json.dumps(_ORDER).encode(), {"Authorization": f"Bearer {sender.token}"}
    answers = [sender.post("/checkout", body, "application/json", **bearer) for _ in range(2)]
    assert [(answer.status, answer.json) for answer in answers] == [(201, {"order": "A-1", "place": 1})] * 2
    (message,) = broker.stored("orders")
    assert json.loads(message.payload) == {**_ORDER, "by": "root"}
    assert message.headers["content-type"] == "application/json"


@pytest.mark.parametrize("authorization", [{}, {"Authorization": "Bearer e.e.e"}])
def test_it_refuses_who_has_no_token(sender: Sender, authorization: dict[str, str]) -> None:
    """With the gateway's own answer."""
    answer = sender.post("/checkout", b"{}", "application/json", **authorization)
    assert (answer.status, answer.json["message"]) == (401, "Unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"


def test_an_error_that_it_raises_becomes_the_answer(sender: Sender) -> None:
    """A class of the gateway's hierarchy, its body."""
    answer = sender.post("/checkout", b"{}", "application/json", Authorization=f"Bearer {sender.token}")
    assert (answer.status, answer.json["error"]) == (400, "id: an order needs one, a text")
    assert (answer.json["stored"], answer.json["repeat"]) == ("no", "never")


def test_a_hook_runs_before_every_route(sender: Sender, broker: Operator) -> None:
    """Before the gateway's own too, the first time and later."""
    for _ in range(2):
        assert sender.single("hooked", b"{}").json == STORED
    assert sender.single("hooked", b"{}", X_Region="there").status == 421
    assert broker.payloads("hooked") == [b"{}"] * 2


def test_an_error_handler_answers_its_kind_of_error(sender: Sender) -> None:
    """For the gateway's own routes too; other errors keep their answers."""
    answer = sender.single("nowhere", b"{}")
    assert (answer.status, answer.json["stored"]) == (404, "no")
    assert answer.json["error"] == "there is no station nowhere; ask the platform team for it"
    assert sender.single("orders", b"{").json["repeat"] == "never"
