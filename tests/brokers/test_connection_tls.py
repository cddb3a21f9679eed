"""TLS to a NATS server: who is believed, who is shown what, and that nothing secret goes in clear."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.brokers.jetstream import JetStream
from proxy.config import Config
from proxy.credentials import Credentials
from proxy.errors import BadSetting, BrokerAway, GatewayError
from proxy.messages import station_named
from proxy.producer import Producer
from tests.brokers.fakes import INFO, FakeServer
from tests.brokers.tools import MONITOR, ROOT, USERS, connections, run, settings
from tests.certificates import Authority, Files
from tests.servers import ROOT as PROJECT
from tests.servers import NatsServer, eventually

Servers = Callable[..., NatsServer]
Producers = Callable[[Config], Producer]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Who signs the server's certificate."""
    return Authority(tmp_path)


@pytest.fixture
def plain() -> Iterator[FakeServer]:
    """A NATS server that does not know TLS."""
    with contextlib.closing(FakeServer(INFO)) as server:
        yield server


def tls(files: Files, *options: str) -> str:
    """The part of the server's configuration that turns TLS on."""
    paths = f"cert_file: {str(files.certificate)!r}, key_file: {str(files.key)!r}"
    return f"tls {{ {', '.join([paths, *options])} }}\n{MONITOR}"


def over_tls(server: NatsServer) -> str:
    """The server's address, TLS asked for."""
    return server.url.replace("nats://", "tls://")


def logged_on(config: Config, server: NatsServer) -> list[dict[str, Any]]:
    """Logs on; the server's view of the connection while it is open."""

    async def work() -> list[dict[str, Any]]:
        session = await JetStream(config, lambda event, **fields: None).connect(ROOT)
        try:
            return connections(server)
        finally:
            await session.close()

    return run(work())


def refusal(config: Config, credentials: Credentials = ROOT) -> tuple[GatewayError, str]:
    """The error that logging on ends with, and the cause that the log is told."""
    causes: list[str] = []

    async def work() -> None:
        await JetStream(config, lambda event, **fields: causes.append(fields["error"])).connect(credentials)

    with pytest.raises(GatewayError) as caught:
        run(work())
    return caught.value, causes[0]


def test_no_credentials_go_to_a_server_without_tls(plain: FakeServer) -> None:
    """`tls://` means TLS: a server that does not offer it hears nothing at all."""
    error, cause = refusal(settings(f"tls://127.0.0.1:{plain.port}"), Credentials("alice", "open sesame"))
    assert isinstance(error, BrokerAway)
    assert "SecureConnRequired" in cause
    assert plain.accepted > 0
    assert plain.received == b""


def test_a_server_of_the_authority_is_believed(nats_server: Servers, authority: Authority, producer: Producers) -> None:
    """A produce over TLS, as in production."""
    server = nats_server(tls(authority.sign("server")), users=USERS)
    started = producer(settings(over_tls(server), ROOT_CA_PATH=authority.ca, AUTO_CREATE_STATIONS="true"))
    assert started.single(ROOT, station_named("orders"), b"hello", ()).sequence == 1
    assert {connection["tls_version"] for connection in connections(server)} == {"1.3"}


def test_a_large_batch_goes_over_tls(nats_server: Servers, authority: Authority, producer: Producers) -> None:
    """More than fits into one TLS record, and into the socket at once."""
    server = nats_server(tls(authority.sign("server")), users=USERS)
    started = producer(settings(over_tls(server), ROOT_CA_PATH=authority.ca, AUTO_CREATE_STATIONS="true"))
    acks = started.batch(ROOT, station_named("orders"), [b"x" * 500_000] * 12, ())
    assert [ack.sequence for ack in acks] == list(range(1, 13))


def test_a_server_that_can_do_both_is_spoken_to_over_tls(nats_server: Servers, authority: Authority) -> None:
    """`tls://` does not settle for less when the server would."""
    server = nats_server(tls(authority.sign("server")) + "\nallow_non_tls: true", users=USERS)
    config = settings(over_tls(server), ROOT_CA_PATH=authority.ca)
    assert [connection["tls_version"] for connection in logged_on(config, server)] == ["1.3"]


def test_a_server_that_asks_for_tls_gets_it(nats_server: Servers, authority: Authority) -> None:
    """Also where the address says `nats://`."""
    server = nats_server(tls(authority.sign("server")), users=USERS)
    config = settings(server.url, ROOT_CA_PATH=authority.ca)
    assert [connection["tls_version"] for connection in logged_on(config, server)] == ["1.3"]


@pytest.mark.parametrize("scheme", ["tls", "nats"])
def test_a_server_of_another_authority_is_refused(nats_server: Servers, tmp_path: Path, scheme: str) -> None:
    """The log is told why."""
    trusted, other = Authority(tmp_path, "trusted"), Authority(tmp_path, "other")
    server = nats_server(tls(other.sign("server")), users=USERS)
    url = server.url.replace("nats://", f"{scheme}://")
    error, cause = refusal(settings(url, ROOT_CA_PATH=trusted.ca))
    assert isinstance(error, BrokerAway)
    assert "CERTIFICATE_VERIFY_FAILED" in cause


def test_without_a_ca_of_ones_own_the_systems_count(nats_server: Servers, authority: Authority) -> None:
    """They have not signed ours."""
    server = nats_server(tls(authority.sign("server")), users=USERS)
    _, cause = refusal(settings(over_tls(server)))
    assert "CERTIFICATE_VERIFY_FAILED" in cause


def test_a_certificate_of_another_host_is_refused(nats_server: Servers, authority: Authority) -> None:
    """Signed by the right authority, for a server elsewhere."""
    server = nats_server(tls(authority.sign("server", "192.0.2.1")), users=USERS)
    error, cause = refusal(settings(over_tls(server), ROOT_CA_PATH=authority.ca))
    assert isinstance(error, BrokerAway)
    assert "CERTIFICATE_VERIFY_FAILED" in cause


def test_a_client_certificate_is_shown_where_it_is_asked_for(nats_server: Servers, authority: Authority) -> None:
    """Together with user and password."""
    server = nats_server(tls(authority.sign("server"), f"ca_file: {str(authority.ca)!r}", "verify: true"), users=USERS)
    client = authority.sign("client")
    config = settings(
        over_tls(server),
        ROOT_CA_PATH=authority.ca,
        CLIENT_CERT_PATH=client.certificate,
        CLIENT_KEY_PATH=client.key,
    )
    assert [connection["authorized_user"] for connection in logged_on(config, server)] == ["root"]


def test_without_the_client_certificate_that_is_asked_for_nobody_logs_on(
    nats_server: Servers, authority: Authority
) -> None:
    """The server ends the connection; that is no word about the credentials."""
    server = nats_server(tls(authority.sign("server"), f"ca_file: {str(authority.ca)!r}", "verify: true"), users=USERS)
    error, _ = refusal(settings(over_tls(server), ROOT_CA_PATH=authority.ca))
    assert isinstance(error, BrokerAway)


def test_a_ca_file_without_certificate_stops_the_start(tmp_path: Path, producer: Producers) -> None:
    """The error names the variable."""
    (tmp_path / "empty.pem").write_text("nothing\n")
    with pytest.raises(BadSetting, match=r"^ROOT_CA_PATH must be"):
        producer(settings("tls://127.0.0.1:1", ROOT_CA_PATH=tmp_path / "empty.pem"))


@pytest.mark.parametrize("fault", ["no certificate", "no key", "another key"])
def test_client_files_that_cannot_be_used_stop_the_start(
    tmp_path: Path, authority: Authority, producer: Producers, fault: str
) -> None:
    """The error names the variable."""
    client, other = authority.sign("client"), authority.sign("other")
    (tmp_path / "empty.pem").write_text("nothing\n")
    certificate, key = {
        "no certificate": (tmp_path / "empty.pem", client.key),
        "no key": (client.certificate, tmp_path / "empty.pem"),
        "another key": (client.certificate, other.key),
    }[fault]
    with pytest.raises(BadSetting, match=r"^CLIENT_CERT_PATH must be"):
        producer(settings("tls://127.0.0.1:1", CLIENT_CERT_PATH=certificate, CLIENT_KEY_PATH=key))


def test_a_sealed_client_key_stops_the_start_without_a_question(authority: Authority) -> None:
    """OpenSSL would ask for the passphrase on the terminal, or on standard input, and wait."""
    sealed = authority.sign("sealed", passphrase=b"sesame")
    env = {"CLIENT_CERT_PATH": str(sealed.certificate), "CLIENT_KEY_PATH": str(sealed.key), "BROKER_URL": "tls://a"}
    program = f"""
from proxy.brokers import open_broker
from proxy.config import Config
open_broker(Config.from_environ({env | {"JWT_SECRET": "s" * 32}}), print)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # so without a terminal
    ) as process:
        try:
            eventually(lambda: process.poll() is not None)
        finally:
            process.kill()
        assert process.stderr is not None
        assert b"BadSetting: CLIENT_CERT_PATH must be" in process.stderr.read()
