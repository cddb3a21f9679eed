"""Who may do what, with real brokers: users and their permissions, tokens among replicas, TLS to the broker."""

from __future__ import annotations

import contextlib
import signal
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.brokers.tools import Operator
from tests.certificates import Authority
from tests.clients import STORED, Sender, logged_on, with_tokens_of
from tests.servers import Gateway, NatsServer, eventually

pytestmark = pytest.mark.slow

_SECRET, _OTHER = "one secret, thirty-two bytes long", "another secret of thirty-two bytes"
_USERS = """
authorization { users: [
  { user: root, password: memphis }
  { user: shop, password: "shop-token", permissions: {
      publish: ["orders.final", "$JS.API.>"], subscribe: ["_INBOX.>", "$KV.station-schemas.>"] } }
  { user: depot, password: "depot-token", permissions: {
      publish: ["stock.final", "$JS.API.STREAM.MSG.GET.KV_station-schemas"]
      subscribe: ["_INBOX.>", "$KV.station-schemas.>"] } }
  { user: mute, password: "mute-token", permissions: { publish: "orders.final", subscribe: "elsewhere" } }
] }
"""


def _settings(broker: NatsServer, **env: str) -> dict[str, str]:
    return {"BROKER_URL": broker.url, "HTTP_HOST": "127.0.0.1", "JWT_SECRET": _SECRET, "WEB_CONCURRENCY": "2", **env}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A broker with four users and three stations."""
    server = NatsServer(tmp_path_factory.mktemp("broker"), _USERS).start()
    for station in ("orders", "stock", "shared"):
        Operator(server).add(station)
    yield server
    server.stop()


class Gateways(NamedTuple):
    """Four gateways at one broker."""

    first: Gateway
    same_secrets: Gateway
    other_secrets: Gateway
    changed_secrets: Gateway


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory, broker: NatsServer) -> Iterator[Gateways]:
    """They run for all tests of this file."""
    one = {"WEB_CONCURRENCY": "1"}
    other = {**one, "JWT_SECRET": _OTHER}
    changed = {**other, "JWT_SECRET_PREVIOUS": _SECRET}
    with contextlib.ExitStack() as stack:
        started = []
        for env in ({}, one, other, changed):
            gateway = Gateway(tmp_path_factory.mktemp("gateway"), _settings(broker, **env))
            stack.callback(gateway.stop, signal.SIGINT)
            started.append(gateway.start())
        yield Gateways(*started)


def test_a_replica_with_the_same_secrets_takes_the_tokens(gateways: Gateways, broker: NatsServer) -> None:
    """Access and refresh token, although this replica has never seen the user."""
    with logged_on(gateways.first.host) as sender, with_tokens_of(sender, gateways.same_secrets.host) as moved:
        assert moved.single("shared", b'"from the second"').json == STORED
        assert moved.refresh().status == 200
    assert b'"from the second"' in Operator(broker).payloads("shared")


def test_a_gateway_with_other_secrets_refuses_the_tokens(gateways: Gateways, broker: NatsServer) -> None:
    """Both of them, although it has the same broker, where the user exists."""
    with logged_on(gateways.first.host) as sender, with_tokens_of(sender, gateways.other_secrets.host) as moved:
        answers = moved.single("shared", b'"from elsewhere"'), moved.refresh()
    assert [(answer.status, answer.json["message"]) for answer in answers] == [(401, "Unauthorized")] * 2
    assert b'"from elsewhere"' not in Operator(broker).payloads("shared")


def test_a_secret_can_be_changed_without_logging_anybody_off(gateways: Gateways) -> None:
    """The former secret verifies, the new one signs."""
    with logged_on(gateways.first.host) as sender, with_tokens_of(sender, gateways.changed_secrets.host) as moved:
        assert moved.single("shared", b"{}").json == STORED
        sender.token = moved.refresh().json["jwt"]
        assert sender.single("shared", b"{}").status == 401


def test_a_message_of_a_user_who_may_not_is_refused_at_once(gateways: Gateways, broker: NatsServer) -> None:
    """403 as soon as the broker says so, single and batch; the session stays good for what the user may do."""
    with logged_on(gateways.first.host, "shop", "shop-token") as shop:
        began = time.monotonic()
        single, batch = shop.single("stock", b"{}"), shop.batch("stock", b"[1, 2]")
        assert time.monotonic() - began < 1
        assert [(a.status, a.json["stored"], a.json["repeat"]) for a in (single, batch)] == [(403, "no", "never")] * 2
        assert shop.single("orders", b'"after the refusal"').json == STORED
    assert b'"after the refusal"' in Operator(broker).payloads("orders")


def test_a_user_who_cannot_receive_acks_is_told_at_log_on(gateways: Gateways) -> None:
    """Not by a time-out at the first message."""
    with contextlib.closing(Sender(gateways.first.host, "mute", "mute-token")) as mute:
        answer = mute.log_on()
    assert answer.status == 403
    assert "_INBOX" in answer.json["error"]


def test_two_users_at_once_produce_under_their_own_permissions(gateways: Gateways, broker: NatsServer) -> None:
    """Mixed on the same workers: each message is judged by the permissions of its own sender."""
    rounds, answers = range(40), dict[tuple[str, str, int], int]()

    def produce(host: str, user: str, client: int) -> None:
        with logged_on(host, user, f"{user}-token") as sender:
            for n in rounds:
                for station in ("orders", "stock"):
                    payload = f'"{user} {client} {n}"'.encode()
                    answers[user, station, client * len(rounds) + n] = sender.single(station, payload).status

    hosts = gateways.first.host, gateways.same_secrets.host
    users = [(host, user, c) for c, host in enumerate(hosts) for user in ("shop", "depot")]
    threads = [threading.Thread(target=produce, args=arguments) for arguments in users]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    own = {("shop", "orders"), ("depot", "stock")}
    assert len(answers) == len(users) * len(rounds) * 2
    assert {(u, s, status == 200) for (u, s, _), status in answers.items()} == {
        (user, station, (user, station) in own) for user in ("shop", "depot") for station in ("orders", "stock")
    }
    assert set(answers.values()) == {200, 403}
    for user, station in own:
        sent = {f'"{user} {client} {n}"'.encode() for client in (0, 1) for n in rounds}
        there = [p for p in Operator(broker).payloads(station) if p.split()[0] in (b'"shop', b'"depot')]
        assert sorted(there) == sorted(sent)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who signs the certificates of broker and gateway."""
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def tls_broker(nats_server: Callable[..., NatsServer], authority: Authority) -> Callable[..., NatsServer]:
    """Starts brokers that demand TLS, and with `verify` a client certificate."""

    def start(files: tuple[Path, Path], *, verify: bool = False) -> NatsServer:
        tls = f"cert_file: {str(files[0])!r}, key_file: {str(files[1])!r}, ca_file: {str(authority.ca)!r}"
        return nats_server(f"tls {{ {tls}, verify: {str(verify).lower()} }}", users={"root": "memphis"})

    return start


def _over_tls(broker: NatsServer, **env: str | Path) -> dict[str, str]:
    url = broker.url.replace("nats://", "tls://")
    more = {"AUTO_CREATE_STATIONS": "on", "WEB_CONCURRENCY": "1", **env}
    return _settings(broker, BROKER_URL=url, **{name: str(value) for name, value in more.items()})


def _client(files: tuple[Path, Path]) -> dict[str, str | Path]:
    return {"CLIENT_CERT_PATH": files[0], "CLIENT_KEY_PATH": files[1]}


@pytest.mark.parametrize("verify", [False, True])
def test_messages_go_to_the_broker_over_tls(
    tls_broker: Callable[..., NatsServer], gateway: Callable[..., Gateway], authority: Authority, verify: bool
) -> None:
    """Without a client certificate, and with one where the broker demands it."""
    broker, own = tls_broker(authority.sign("server"), verify=verify), authority.sign("gateway")
    running = gateway(_over_tls(broker, ROOT_CA_PATH=authority.ca, **(_client(own) if verify else {}))).start()
    with logged_on(running.host) as sender:
        assert sender.single("private", b'"over TLS"').json == STORED
    context = ssl.create_default_context(cafile=authority.ca)
    context.load_cert_chain(*own)
    assert Operator(broker, tls=context).payloads("private") == [b'"over TLS"']


def _refusing(running: Gateway) -> None:
    """The gateway is alive, not ready, and tells senders that the broker is away."""
    assert running.get("/monitoring/status")[0] == 200
    assert eventually(lambda: running.get("/monitoring/ready")[0]) == 503
    with contextlib.closing(Sender(running.host)) as sender:
        answer = sender.log_on()
    assert (answer.status, answer.json["stored"], answer.json["repeat"]) == (503, "no", "safe")


def test_a_broker_that_demands_a_client_certificate_gets_nothing_without_one(
    tls_broker: Callable[..., NatsServer], gateway: Callable[..., Gateway], authority: Authority
) -> None:
    """Nor is it taken for a broker that is open to everyone."""
    broker = tls_broker(authority.sign("server"), verify=True)
    _refusing(gateway(_over_tls(broker, ROOT_CA_PATH=authority.ca)).start())


@pytest.mark.parametrize("fault", ["another authority", "another host"])
def test_a_broker_that_cannot_prove_who_it_is_gets_no_password(
    tls_broker: Callable[..., NatsServer], gateway: Callable[..., Gateway], authority: Authority, fault: str
) -> None:
    """A certificate of an authority that is not trusted, or for another address."""
    broker = tls_broker(authority.sign("server", address="192.0.2.1" if fault == "another host" else "127.0.0.1"))
    trusted = {} if fault == "another authority" else {"ROOT_CA_PATH": authority.ca}
    _refusing(gateway(_over_tls(broker, **trusted)).start())
    assert "authorization" not in broker.log().lower(), "somebody has tried to log on"


def test_a_tls_url_never_falls_back_to_a_connection_in_clear(
    nats_server: Callable[..., NatsServer], gateway: Callable[..., Gateway]
) -> None:
    """A broker without TLS, or somebody in between who hides it, is refused before the password is sent."""
    broker = nats_server(users={"root": "memphis"})
    _refusing(gateway(_over_tls(broker)).start())
    assert "authorization" not in broker.log().lower(), "somebody has tried to log on"
