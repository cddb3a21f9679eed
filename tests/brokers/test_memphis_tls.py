"""TLS to a Memphis broker: certificates in the settings ask for it, as there is no URL that could."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxy.brokers.memphis import Memphis
from proxy.config import Config
from proxy.errors import BrokerAway
from tests.brokers.fakes import INFO, FakeServer
from tests.brokers.test_connection_tls import tls
from tests.brokers.tools import ROOT, connections, run, settings
from tests.certificates import Authority
from tests.servers import NatsServer

Servers = Callable[..., NatsServer]


def logged_on(config: Config, server: NatsServer) -> list[dict[str, Any]]:
    """Logs on; the server's view of the connection while it is open."""

    async def work() -> list[dict[str, Any]]:
        session = await Memphis(config, lambda event, **fields: None).connect(ROOT)
        try:
            return connections(server)
        finally:
            await session.close()

    return run(work())


def at(port: int, **env: Any) -> Config:
    """The settings of Memphis' gateway for a broker at this port."""
    return settings(MEMPHIS_HOST="127.0.0.1", MEMPHIS_PORT=port, **env)


def test_a_broker_is_spoken_to_over_tls(nats_server: Servers, tmp_path: Path) -> None:
    """With the client's certificate, as the old gateway did where all three paths were set."""
    authority = Authority(tmp_path)
    options = f"ca_file: {str(authority.ca)!r}, verify: true"
    server = nats_server(tls(authority.sign("server"), options), users={"root$1": ROOT.secret})
    mine = authority.sign("gateway")
    paths = {"CLIENT_CERT_PATH": mine.certificate, "CLIENT_KEY_PATH": mine.key, "ROOT_CA_PATH": authority.ca}
    (connection,) = logged_on(at(server.port, **paths), server)
    assert (connection["authorized_user"], connection["tls_version"]) == ("root$1", "1.3")


def test_no_password_goes_to_a_broker_without_tls(tmp_path: Path) -> None:
    """As soon as there is a certificate by which it is to be known."""
    with contextlib.closing(FakeServer(INFO)) as plain:
        with pytest.raises(BrokerAway):
            run(
                Memphis(at(plain.port, ROOT_CA_PATH=Authority(tmp_path).ca), lambda event, **fields: None).connect(ROOT)
            )
        assert plain.accepted > 0
        assert plain.received == b""
