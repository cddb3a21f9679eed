"""The NATS servers of a list, and those that would let everyone in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from proxy.brokers.jetstream import JetStream
from proxy.credentials import Credentials
from proxy.errors import BrokerAway, Unauthorized
from tests.brokers.tools import MONITOR, ROOT, USERS, run, sessions, settings
from tests.servers import NatsServer, free_port

Servers = Callable[..., NatsServer]


@pytest.fixture
def server(nats_server: Servers) -> NatsServer:
    """A nats-server with the user `root`."""
    return nats_server(MONITOR, users=USERS)


# ---- the servers of a list ---------------------------------------------------------------------------------------


def test_a_dead_server_in_the_list_is_passed_over(server: NatsServer) -> None:
    """Whatever the order, the one that answers is taken."""
    dead = [f"nats://127.0.0.1:{free_port()}" for _ in range(3)]
    config = settings(*dead, server.url)

    async def work() -> None:
        broker = JetStream(config, lambda event, **fields: None)
        session = await broker.connect(ROOT)
        assert session.alive
        await session.close()

    run(work())


def test_each_dead_server_is_told_to_the_log() -> None:
    """The notice has the address and the cause, and no secret."""
    url = f"nats://127.0.0.1:{free_port()}"
    notices: list[tuple[str, dict[str, Any]]] = []

    async def work() -> None:
        broker = JetStream(settings(url), lambda event, **fields: notices.append((event, fields)))
        with pytest.raises(BrokerAway):
            await broker.connect(ROOT)

    run(work())
    ((event, fields),) = notices
    assert (event, fields["url"]) == ("broker_away", url)
    assert "memphis" not in str(fields)


@pytest.mark.parametrize("name", ["root$1", "root$42"])
def test_the_account_number_of_a_user_name_is_not_part_of_it(server: NatsServer, name: str) -> None:
    """`user$<digits>` logs on as `user`."""

    async def work() -> None:
        session = await JetStream(settings(server.url), lambda event, **fields: None).connect(
            Credentials(name, "memphis")
        )
        assert sessions(server) == 1
        await session.close()

    run(work())


@pytest.mark.parametrize("name", ["root$", "root$x", "$1", "root$1$"])
def test_other_names_with_a_dollar_are_names(server: NatsServer, name: str) -> None:
    """Only digits after the last dollar sign are an account."""

    async def work() -> None:
        with pytest.raises(Unauthorized):
            await JetStream(settings(server.url), lambda event, **fields: None).connect(Credentials(name, "memphis"))

    run(work())
