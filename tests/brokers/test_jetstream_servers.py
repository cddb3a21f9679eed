"""The NATS servers of a list, and those that would let everyone in."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from proxy.brokers.jetstream import JetStream
from proxy.config import Config
from proxy.credentials import Credentials
from proxy.errors import BrokerAway, GatewayError, OpenBroker, Unauthorized
from proxy.messages import station_named
from proxy.producer import Producer
from tests.brokers.fakes import FakeNats, FakeServer
from tests.brokers.tools import MONITOR, ROOT, USERS, Operator, facts, failure, run, sessions, settings
from tests.servers import NatsServer, eventually, free_port

ORDERS = station_named("orders")

Servers = Callable[..., NatsServer]
Producers = Callable[[Config], Producer]


@pytest.fixture
def server(nats_server: Servers) -> NatsServer:
    """A nats-server with the user `root`."""
    return nats_server(MONITOR, users=USERS)


def log_on(config: Config, credentials: Credentials = ROOT, times: int = 1) -> list[tuple[str, dict[str, Any]]]:
    """Logs on, through the same broker each time; what the log is told."""
    notices: list[tuple[str, dict[str, Any]]] = []

    async def work() -> None:
        broker = JetStream(config, lambda event, **fields: notices.append((event, fields)))
        for _ in range(times):
            session = await broker.connect(credentials)
            assert session.alive
            await session.close()

    run(work())
    return notices


def dead() -> str:
    """An address where nobody listens."""
    return f"nats://127.0.0.1:{free_port()}"


# ---- which server ------------------------------------------------------------------------------------------------


def test_dead_servers_in_the_list_are_passed_over(server: NatsServer) -> None:
    """Whatever the order, the one that answers is taken; the others are told to the log."""
    notices = log_on(settings(dead(), dead(), server.url), times=4)
    assert {event for event, _ in notices} <= {"broker_away"}


def test_a_dead_server_is_told_to_the_log_without_the_secret() -> None:
    """The notice has the address and the cause."""
    url = dead()
    notices: list[tuple[str, dict[str, Any]]] = []

    async def work() -> None:
        broker = JetStream(settings(url), lambda event, **fields: notices.append((event, fields)))
        with pytest.raises(BrokerAway):
            await broker.connect(Credentials("root", "open sesame"))

    run(work())
    ((event, fields),) = notices
    assert (event, fields["url"]) == ("broker_away", url)
    assert fields["error"]
    assert "sesame" not in str(fields)


def test_a_refusal_is_not_tried_elsewhere(server: NatsServer) -> None:
    """All servers of a list have the same users: one word about the credentials is enough."""
    started = server.log().count("authentication error")
    with pytest.raises(Unauthorized):
        log_on(settings(*[server.url] * 3), Credentials("root", "wrong"))
    assert server.log().count("authentication error") == started + 1


def test_a_server_that_cannot_be_proved_closed_is_passed_over(server: NatsServer) -> None:
    """It takes the user, then goes away before a stranger has been refused."""

    def only_root(number: int) -> None:
        if number % 2 == 0:
            raise ConnectionError

    with contextlib.closing(FakeNats(lambda *_: b"", greet=only_root)) as fake:
        for _ in range(4):
            log_on(settings(fake.url, fake.url, server.url))
            eventually(lambda: fake.open == 0)


@pytest.mark.slow
def test_a_silent_server_in_the_list_is_passed_over_in_time_for_readiness(
    monkeypatch: pytest.MonkeyPatch, server: NatsServer, producer: Producers
) -> None:
    """One that accepts and says nothing, as behind a broken network, is not waited for until readiness gives up."""
    monkeypatch.setattr("random.shuffle", lambda urls: None)
    with contextlib.closing(FakeServer()) as silent:
        started = producer(settings(silent.url, server.url))
        started.check()
        assert silent.accepted > 0


def test_a_list_without_any_server_is_a_broker_away(producer: Producers) -> None:
    """The start waits for them; readiness and log-on tell."""
    started = producer(settings(dead(), dead()))
    assert facts(failure(started.check)) == ("BrokerAway", "no", "safe")
    assert facts(failure(started.log_on, ROOT)) == ("BrokerAway", "no", "safe")


# ---- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["root$1", "root$42"])
def test_the_account_number_of_a_user_name_is_not_part_of_it(
    server: NatsServer, producer: Producers, name: str
) -> None:
    """`user$<digits>` logs on as `user`."""
    started = producer(settings(server.url))
    started.log_on(Credentials(name, "memphis", "1"))
    assert sessions(server, "root") == 1


@pytest.mark.parametrize("name", ["root$", "root$x", "$1", "root$1$", "root$1 "])
def test_other_names_with_a_dollar_are_names(server: NatsServer, name: str) -> None:
    """Only digits after the last dollar sign are an account."""
    with pytest.raises(Unauthorized):
        log_on(settings(server.url), Credentials(name, "memphis"))


# ---- brokers that let everyone in --------------------------------------------------------------------------------


def test_a_broker_that_takes_anyone_stops_the_start(nats_server: Servers, producer: Producers) -> None:
    """Tokens would prove nothing."""
    with pytest.raises(OpenBroker, match="ALLOW_OPEN_BROKER"):
        producer(settings(nats_server().url))


@pytest.mark.slow
def test_a_start_that_was_stopped_may_be_tried_again(nats_server: Servers) -> None:
    """Once the broker has users."""
    server = nats_server()
    producer = Producer(settings(server.url))
    with pytest.raises(OpenBroker):
        producer.start()
    server.config("authorization { users: [{ user: root, password: memphis }] }")
    server.restart()
    try:
        eventually(lambda: _starts(producer))
        producer.log_on(ROOT)
    finally:
        producer.stop()


def _starts(producer: Producer) -> bool:
    try:
        producer.start()
    except OpenBroker:
        return False
    return True


def test_a_broker_that_takes_anyone_is_taken_when_asked_for(nats_server: Servers, producer: Producers) -> None:
    """`ALLOW_OPEN_BROKER` is for trying things out."""
    server = nats_server()
    started = producer(settings(server.url, ALLOW_OPEN_BROKER="true", AUTO_CREATE_STATIONS="true"))
    started.check()
    started.log_on(Credentials("anyone", "anything"))
    assert started.single(Credentials("anyone", "anything"), ORDERS, b"x", ()).sequence == 1


@pytest.mark.parametrize("act", ["log_on", "single"])
def test_a_broker_that_opens_later_is_refused_at_the_first_connection(
    server: NatsServer, producer: Producers, act: str
) -> None:
    """It was away when the gateway started, or has been replaced by one without users."""
    server.stop()
    started = producer(settings(server.url, PRODUCE_TIMEOUT_SECONDS=2))
    (server.directory / "nats.conf").write_text(f"host: 127.0.0.1\nport: {server.port}\njetstream {{}}\n")
    server.start()
    error = failure(started.log_on, ROOT) if act == "log_on" else failure(started.single, ROOT, ORDERS, b"x", ())
    assert facts(error) == ("OpenBroker", "no", "safe")


def test_each_server_is_proved_closed_once(server: NatsServer) -> None:
    """Later log-ons cost no stranger's attempt; a restarted server is another one."""
    broker = settings(server.url)

    async def work() -> None:
        jetstream = JetStream(broker, lambda event, **fields: None)
        for strangers in (1, 1, 1):
            await (await jetstream.connect(ROOT)).close()
            assert server.log().count("stranger-") == strangers
        server.restart()
        await (await jetstream.connect(ROOT)).close()
        assert server.log().count("stranger-") == 2

    run(work())


def test_a_broker_with_a_user_for_those_without_credentials_is_closed(nats_server: Servers) -> None:
    """`no_auth_user` lets in who sends nothing; a stranger's credentials are refused."""
    log_on(settings(nats_server("no_auth_user: root", users=USERS).url))


# ---- readiness ---------------------------------------------------------------------------------------------------


def test_readiness_logs_on_as_the_user_that_is_set(server: NatsServer, producer: Producers) -> None:
    """A wrong secret is told."""
    producer(settings(server.url, ROOT_USER="root", CONNECTION_TOKEN="memphis")).check()
    wrong = producer(settings(server.url, ROOT_USER="root", ROOT_PASSWORD="wrong"))
    assert facts(failure(wrong.check))[0] == "Unauthorized"


@pytest.mark.slow
def test_readiness_without_a_user_is_a_broker_that_answers(server: NatsServer, producer: Producers) -> None:
    """Ready while it runs, and again when it has come back; the answer of the last second is believed."""
    started = producer(settings(server.url))
    started.check()
    server.stop()
    eventually(lambda: _is_away(started))
    server.start()
    eventually(lambda: not _is_away(started))


def _is_away(producer: Producer) -> bool:
    try:
        producer.check()
    except GatewayError as error:
        return isinstance(error, BrokerAway)
    return False


def test_readiness_leaves_no_connection(server: NatsServer, producer: Producers) -> None:
    """What readiness opens, it closes; the one that hears of log-outs stays."""
    started = producer(settings(server.url, ROOT_USER="root", CONNECTION_TOKEN="memphis"))
    for _ in range(3):
        started._checked = (0.0, None)
        started.check()
    eventually(lambda: sessions(server) == 1)


def test_the_operators_view_is_left_alone(server: NatsServer, producer: Producers) -> None:
    """Nothing is created by starting, checking and logging on."""
    started = producer(settings(server.url, AUTO_CREATE_STATIONS="true"))
    started.check()
    started.log_on(ROOT)
    assert Operator(server).streams() == []
