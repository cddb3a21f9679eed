"""docs/deploy/replicas.md, as it is written: its configuration files, its settings, its front, its requests."""

from __future__ import annotations

import contextlib
import http.client
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.clients import logged_on
from tests.faults.cluster import Cluster, end
from tests.faults.senders import Crew
from tests.servers import ROOT, Gateway, eventually, free_port

pytestmark = pytest.mark.slow

_PAGE = (ROOT / "docs" / "deploy" / "replicas.md").read_text()
_ADDRESS = "http://stations.example"
_TOKEN = "a connection token"


def _block(language: str) -> str:
    (block,) = re.findall(rf"^```{language}\n(.*?)^```$", _PAGE, re.M | re.S)
    return str(block)


class Documented(Cluster):
    """Three servers with the configuration of the page: names become addresses of this machine, ports are free ones."""

    operator = ("shop", _TOKEN)

    def __init__(self, directory: Path) -> None:
        self._ports = [free_port() for _ in range(3)]
        super().__init__(directory)

    def name(self, number: int) -> str:
        """As the page says."""
        return f"nats-{number + 1}"

    def configure(self, users: str = "", more: str = "") -> None:
        """Writes the files."""
        for number, server in enumerate(self.servers):
            text = _block("conf").replace("server_name: nats-1", f"server_name: {self.name(number)}")
            text = text.replace("port: 4222", f"host: 127.0.0.1\nport: {server.port}")
            text = text.replace("port: 6222", f"host: 127.0.0.1\n  port: {self._ports[number]}")
            text = text.replace("/var/lib/nats", str(server.directory))
            for at, port in enumerate(self._ports):
                text = text.replace(f"nats-{at + 1}:6222", f"127.0.0.1:{port}")
            (server.directory / "nats.conf").write_text(f"log_file: '{server.directory}/nats.log'\n{text}")


class Front:
    """Caddy with the Caddyfile of the page, before gateways on these ports."""

    def __init__(self, directory: Path, *ports: str) -> None:
        self.port = free_port()
        text = _block("caddyfile").replace(_ADDRESS, f"http://127.0.0.1:{self.port}")
        for number, port in enumerate(ports, 1):
            text = text.replace(f"gateway-{number}:4444", f"127.0.0.1:{port}")
        self._directory = directory
        directory.mkdir()
        (directory / "Caddyfile").write_text(f"{{\n\tadmin off\n}}\n{text}")

    def __enter__(self) -> Front:
        with (self._directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [Path(sys.executable).with_name("caddy"), "run", "--config", "Caddyfile"],
                cwd=self._directory,
                env={"HOME": str(self._directory)},
                stdout=log,
                stderr=log,
            )
        return self

    def __exit__(self, *_: object) -> None:
        with self._process as process:
            process.send_signal(signal.SIGKILL)


class Site(NamedTuple):
    """All of it."""

    brokers: Documented
    gateways: list[Gateway]
    host: str


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Everything on the page, running."""
    brokers = Documented(tmp_path / "nats")
    settings = dict(word.split("=", 1) for word in shlex.split(_block("sh")))
    settings |= {"TRUSTED_PROXIES": "127.0.0.1", "HTTP_HOST": "127.0.0.1"}
    for number, server in enumerate(brokers.servers, 1):
        settings["BROKER_URL"] = settings["BROKER_URL"].replace(f"nats-{number}:4222", f"127.0.0.1:{server.port}")
    with contextlib.ExitStack() as stack:
        stack.callback(brokers.stop)
        brokers.start()
        gateways = [Gateway(tmp_path / f"gateway-{number}", settings) for number in (1, 2)]
        for gateway in gateways:
            stack.callback(gateway.stop, signal.SIGINT)
            gateway.start()
        ports = [gateway.host.rpartition(":")[2] for gateway in gateways]
        front = stack.enter_context(Front(tmp_path / "front", *ports))
        yield Site(brokers, gateways, f"127.0.0.1:{front.port}")


def test_the_requests_are_answered_as_shown(site: Site) -> None:
    """By both gateways in turn, with one token."""
    console = _block("console")
    steps = [step.partition("\n{")[0] for step in re.split(r"^\$ ", console, flags=re.M)[1:]]
    script = "\n".join(steps).replace(_ADDRESS, f"http://{site.host}")
    _await_front(site)
    ran = subprocess.run(["bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.splitlines() == re.findall(r"^{.*$", console, re.M)
    assert sorted(site.brokers.payloads("orders")) == [b'{"id": %d}' % n for n in (1, 2, 3, 4)]
    assert [gateway.output().count('produce/single"') for gateway in site.gateways] == [2, 2]
    assert site.brokers.config("orders")["num_replicas"] == 3


def test_a_gateway_and_a_server_may_go(site: Site) -> None:
    """Both by kill -9 while messages are sent: the rest goes on, and nothing acknowledged is lost or doubled."""
    _await_front(site)
    with Crew(site.host, "orders", secret=_TOKEN) as crew:
        crew.await_stored()
        site.gateways[0].send(signal.SIGKILL, group=True)
        crew.await_all()
        end(site.brokers.leader("orders").pid)
        crew.await_all()
    site.gateways[0].wait()
    verdict = crew.ledger.compare(site.brokers.payloads("orders"))
    assert verdict.wrong == {}
    assert set(crew.ledger.statuses) <= {200, 502, 503}


def _await_front(site: Site) -> None:
    """Waits until the front sends requests to both gateways."""

    def both() -> bool:
        before = [gateway.output() for gateway in site.gateways]
        for _ in before:
            with contextlib.suppress(OSError, http.client.HTTPException), logged_on(site.host, "shop", _TOKEN):
                pass
        return all(
            gateway.output().count("/auth/authenticate") > text.count("/auth/authenticate")
            for gateway, text in zip(site.gateways, before, strict=True)
        )

    eventually(both, 20)
