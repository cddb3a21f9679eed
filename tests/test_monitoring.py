"""Is it alive, can it produce, and what is it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest
from flask import Flask

from proxy.monitoring import VERSION
from tests.application import Api
from tests.servers import ROOT, NatsServer, eventually

CHECKED_EVERY = 1.0  # seconds for which readiness is remembered


def test_it_is_alive_whatever_the_broker_does(make_app: Callable[..., Flask]) -> None:
    """The status asks nobody: a broker that is away must not restart every replica."""
    api = Api(make_app())
    answer = api.request("GET", "/monitoring/status")
    assert (answer.status_code, answer.data) == (200, b'{"status":"ok"}')
    assert answer.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("path", ["/monitoring/status", "/monitoring/ready", "/"])
def test_head_is_answered_like_get(api: Api, path: str) -> None:
    """As load balancers ask, without a token; the body is left out."""
    answer = api.request("HEAD", path)
    assert (answer.status_code, answer.data) == (200, b"")


def test_it_is_ready_when_the_broker_answers(api: Api) -> None:
    """Without `ROOT_USER` nobody has to log on."""
    assert api.request("GET", "/monitoring/ready").get_json() == {"status": "ok"}


def test_it_is_ready_as_the_gateways_own_user(broker: NatsServer, make_app: Callable[..., Flask]) -> None:
    """With `ROOT_USER` that user must be let in."""
    api = Api(make_app(broker.url, ROOT_USER="root", CONNECTION_TOKEN="memphis"))
    assert api.request("GET", "/monitoring/ready").status_code == 200


@pytest.mark.parametrize(("user", "token"), [("root", "wrong"), ("nobody", "memphis")])
def test_it_is_not_ready_when_its_own_user_is_refused(
    broker: NatsServer, make_app: Callable[..., Flask], user: str, token: str
) -> None:
    """503, as whoever asks is not the one who is refused; the answer names the setting."""
    api = Api(make_app(broker.url, ROOT_USER=user, CONNECTION_TOKEN=token))
    answer = api.request("GET", "/monitoring/ready")
    assert answer.status_code == 503
    assert "ROOT_USER" in answer.get_json()["error"]
    assert token not in answer.get_data(as_text=True)


def test_it_is_not_ready_without_a_broker(make_app: Callable[..., Flask]) -> None:
    """503 says why, and when to ask again."""
    answer = Api(make_app()).request("GET", "/monitoring/ready")
    assert answer.status_code == 503
    assert "broker" in answer.get_json()["error"]
    assert int(answer.headers["Retry-After"]) > 0


@pytest.mark.slow
def test_readiness_follows_the_broker(nats_server: Callable[..., NatsServer], make_app: Callable[..., Flask]) -> None:
    """Away, and back again, each seen within seconds."""
    server = nats_server(users={"root": "memphis"})
    api = Api(make_app(server.url))

    def is_ready() -> bool:
        return api.request("GET", "/monitoring/ready").status_code == 200

    assert is_ready()
    server.stop()
    eventually(lambda: not is_ready())
    server.start()
    eventually(is_ready)


def test_readiness_costs_the_broker_little(broker: NatsServer, make_app: Callable[..., Flask]) -> None:
    """The answer of the last second is believed, so that frequent questions cost nothing."""
    api = Api(make_app(broker.url))
    api.request("GET", "/monitoring/ready")
    started = time.monotonic()
    for _ in range(100):
        assert api.request("GET", "/monitoring/ready").status_code == 200
    assert time.monotonic() - started < CHECKED_EVERY


def test_the_root_tells_what_this_is(make_app: Callable[..., Flask]) -> None:
    """Name, version, and links that exist, without a token."""
    api = Api(make_app())
    about = api.request("GET", "/").get_json()
    assert (about["name"], about["version"]) == ("stations", VERSION)
    for link in about["links"].values():
        assert api.request("GET", link.replace("<station>", "orders")).status_code != 404
    assert {"log_out", "produce", "consume", "ack", "nack", "schemas"} <= set(about["links"])


def test_the_version_is_that_of_the_project() -> None:
    """Told in `pyproject.toml`, and here."""
    assert re.findall(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE) == [VERSION]
