"""The gateway under real gunicorn: its start, its end, what it says, and that no process outlives it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.brokers import embedded
from proxy.brokers import embedded_files as files
from proxy.errors import BrokerAway
from tests.clients import logged_on, with_tokens_of
from tests.servers import ROOT, Gateway, NatsServer, alive, children, command, eventually

pytestmark = pytest.mark.slow

_STANDIN = "tests.standin:app"
_OWN = "a-connection-token-of-my-own"


@pytest.fixture
def standin(gateway: Callable[..., Gateway]) -> Callable[..., Gateway]:
    """Makes gateways whose application is the stand-in."""

    def make(env: dict[str, str] | None = None, **options: Any) -> Gateway:
        return gateway(env, app=_STANDIN, **options)

    return make


@pytest.fixture
def running(standin: Callable[..., Gateway]) -> Gateway:
    """A gateway with the embedded broker."""
    return standin().start()


def _refused(gateway: Gateway) -> str:
    """The whole output of a gateway that must not start."""
    assert gateway.start(ready=False).wait() != 0
    assert "Traceback" not in gateway.output()
    return gateway.output().strip()


def _broker_url(gateway: Gateway) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(gateway.directory)
        return embedded.address(Path("data"))


def _broker_pid(gateway: Gateway) -> int:
    running = files.read_running(gateway.directory / "data")
    return running.pid if running else 0


def _descendants(pid: int) -> set[int]:
    below = children(pid)
    return below.union(*(_descendants(child) for child in below))


def _ask(gateway: Gateway, path: str = "/", headers: dict[str, str] | None = None) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(gateway.get(path, headers)[1])
    return answer


def test_the_start_says_where_it_is_and_how_to_try_it(running: Gateway) -> None:
    """The address with its real port, the data, and curl lines with the default credentials."""
    output = running.output()
    assert re.search(r"^Stations listens on http://127\.0\.0\.1:\d+$", output, re.M)
    assert f"Messages are kept in {running.directory}/data\n" in output
    assert f"curl -s {running.url}/auth/authenticate" in output
    assert '{"username": "root", "connection_token": "memphis"}' in output
    assert f"curl {running.url}/stations/orders/produce/single" in output


def test_the_lines_to_try_it_work(gateway: Callable[..., Gateway]) -> None:
    """Pasted into a shell they log on and produce, with the real application."""
    lines = gateway().start().output().partition("Try it:\n")[2].partition("\n{")[0]
    done = subprocess.run(["sh", "-c", lines], capture_output=True, text=True, timeout=20)
    assert done.stdout == '{"error":null,"success":true}'


def test_workers_find_the_broker_when_they_start(running: Gateway) -> None:
    """It accepts connections before the first worker is there."""
    assert _ask(running)["broker"] == _broker_url(running)


def test_the_broker_port_gives_way_to_another_program(standin: Callable[..., Gateway]) -> None:
    """The gateway starts all the same."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert not _broker_url(standin({"EMBEDDED_PORT": str(port)}).start()).endswith(f":{port}")


def test_the_lines_to_try_it_name_no_user_that_is_not_there(standin: Callable[..., Gateway]) -> None:
    """`root` is the user only where ROOT_USER says nothing else."""
    output = standin({"ROOT_USER": "somebody"}).start().output()
    assert '{"username": "<user>", "connection_token": "<connection token>"}' in output


def test_own_credentials_are_never_shown(standin: Callable[..., Gateway]) -> None:
    """Neither in the output nor on a command line; the curl lines have a gap to fill in."""
    gateway = standin({"CONNECTION_TOKEN": _OWN, "ROOT_USER": "somebody", "LOG_LEVEL": "debug"}).start()
    commands = "".join(command(pid) for pid in {gateway.pid, *_descendants(gateway.pid)})
    gateway.stop()
    assert "<connection token>" in gateway.output()
    assert _OWN not in gateway.output() + commands


@pytest.mark.parametrize(
    ("number", "group"),
    [
        (signal.SIGINT, True),
        (signal.SIGINT, False),
        (signal.SIGTERM, False),
        (signal.SIGTERM, True),
        (signal.SIGQUIT, False),
    ],
)
def test_a_signal_ends_all_of_it(standin: Callable[..., Gateway], number: int, group: bool) -> None:
    """Ctrl-C reaches the whole process group, SIGTERM often the master alone: within seconds nothing is left."""
    gateway = standin({"WEB_CONCURRENCY": "2"}).start()
    eventually(lambda: gateway.output().count("start 10\n") == 2)
    processes = {gateway.pid, *_descendants(gateway.pid)}
    assert len(processes) == 5
    gateway.send(number, group=group)
    assert gateway.wait(5) == 0
    assert not [pid for pid in processes if alive(pid)]
    assert gateway.output().count("stop 2\n") == 2
    assert "Traceback" not in gateway.output()
    assert "Error" not in gateway.output()
    with pytest.raises(BrokerAway):
        _broker_url(gateway)


def test_workers_that_are_still_starting_end_too(standin: Callable[..., Gateway]) -> None:
    """A signal that comes before gunicorn has prepared the worker for it is not lost."""
    gateway = standin({"WEB_CONCURRENCY": "3"}).start(ready=False)
    eventually(lambda: len(children(gateway.pid)) == 4)
    gateway.send(signal.SIGTERM)
    assert gateway.wait(5) == 0


def test_a_killed_master_leaves_nothing(standin: Callable[..., Gateway]) -> None:
    """SIGKILL leaves it no time to tell anybody."""
    gateway = standin({"WEB_CONCURRENCY": "2"}).start()
    processes = _descendants(gateway.pid)
    gateway.stop(signal.SIGKILL)
    eventually(lambda: not any(alive(pid) for pid in processes), 10)


def test_a_killed_broker_is_replaced(running: Gateway) -> None:
    """Workers find the new one."""
    killed = _broker_pid(running)
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: _broker_pid(running) not in (0, killed))
    assert _ask(running)["broker"] == _broker_url(running)


def test_a_killed_worker_is_replaced(running: Gateway) -> None:
    """The broker is not touched by that."""
    broker = _broker_pid(running)
    killed = running.kill_worker()
    assert eventually(lambda: _ask(running)["pid"]) != killed
    assert _broker_pid(running) == broker


def test_the_threads_of_a_worker_share_a_core(gateway: Callable[..., Gateway]) -> None:
    """They take turns in any case. The broker may use all cores."""
    shared = gateway().start()
    (worker,) = shared.worker_pids()
    eventually(lambda: [len(cores) for cores in _cores(worker)] == [1, 1] and len(set(map(min, _cores(worker)))) == 1)
    eventually(lambda: _cores(worker) == [os.sched_getaffinity(0)] * 2, 30)  # for a moment every second
    assert os.sched_getaffinity(_broker_pid(shared)) == os.sched_getaffinity(0)


@pytest.mark.parametrize(
    ("app", "env", "shared"),
    [
        ("wsgi:app", {"WORKER_CPU_AFFINITY": "off"}, False),
        ("docs.examples.own_route:app", {}, False),
        ("docs.examples.own_route:app", {"WORKER_CPU_AFFINITY": "on"}, True),
    ],
)
def test_code_of_a_teams_own_may_use_all_cores(
    gateway: Callable[..., Gateway], app: str, env: dict[str, str], shared: bool
) -> None:
    """What it starts would be kept to one; unless that is wanted."""
    started = gateway(env, app=app).start()
    (worker,) = started.worker_pids()
    if shared:
        eventually(lambda: _cores(worker) == [min(_cores(worker), key=len)] * 2 and len(_cores(worker)[0]) == 1)
    else:
        with pytest.raises(AssertionError, match="not within"):  # who shares does so nearly all the time
            eventually(lambda: _cores(worker) != [os.sched_getaffinity(0)] * 2, 1.5)


def _cores(pid: int) -> list[set[int]]:
    """The cores that each thread of a process may use."""
    return [os.sched_getaffinity(int(task.name)) for task in Path(f"/proc/{pid}/task").iterdir()]


def test_a_second_gateway_on_the_same_data_is_refused(
    standin: Callable[..., Gateway], running: Gateway, tmp_path: Path
) -> None:
    """In one line; the first goes on."""
    second = standin({"DATA_DIR": str(running.directory / "data")}, directory=tmp_path / "second")
    output = _refused(second)
    assert output.startswith("stations: DATA_DIR must be a directory that no other gateway uses; ")
    assert str(_broker_pid(running)) in output
    assert _ask(running)["status"] == "ok"


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"HTTP_HOST": "0.0.0.0"}, "CONNECTION_TOKEN must be set to one of your own"),
        ({"PORT": "8080"}, "BROKER_URL must be set to your broker, or DATA_DIR to a disk that is kept"),
        ({"BROKER_URL": "nats://127.0.0.1:1"}, "JWT_SECRET must be set"),
        ({"HTTP_PORT": "all"}, "HTTP_PORT must be a whole number from 0 to 65535"),
        ({"DATA_DIR": "/proc/none"}, "DATA_DIR must be a directory that can be written; /proc/none: "),
    ],
)
def test_a_bad_setting_stops_the_start(standin: Callable[..., Gateway], env: dict[str, str], says: str) -> None:
    """In one line that begins with the variable's name."""
    output = _refused(standin(env))
    assert output.startswith(f"stations: {says}")
    assert "\n" not in output


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0"])
def test_the_default_credentials_stay_on_this_machine(standin: Callable[..., Gateway], address: str) -> None:
    """Also where the address comes from gunicorn's command line, or from its GUNICORN_CMD_ARGS."""
    output = _refused(standin(args=("--bind", address)))
    assert output == "stations: CONNECTION_TOKEN must be set to one of your own when the address is not 127.0.0.1"
    standin({"CONNECTION_TOKEN": _OWN}, args=("--bind", address)).start()


def test_a_worker_that_refuses_to_start_stops_the_gateway(standin: Callable[..., Gateway]) -> None:
    """With its reason, without a traceback, and the broker goes too."""
    gateway = standin({"REFUSE": "1"})
    assert "stations: the broker takes any credentials" in _refused(gateway)
    with pytest.raises(BrokerAway):
        _broker_url(gateway)


def test_a_taken_port_stops_the_start_and_the_broker(standin: Callable[..., Gateway]) -> None:
    """gunicorn tries for some seconds, then says so."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        gateway = standin({"HTTP_PORT": str(other.getsockname()[1])}).start(ready=False)
        broker = eventually(lambda: _broker_pid(gateway))
        assert gateway.wait(10) != 0
    assert "in use" in gateway.output()
    eventually(lambda: not alive(broker))


def test_a_reload_replaces_the_workers_and_keeps_the_broker(running: Gateway) -> None:
    """SIGHUP; and the broker still ends with the gateway."""
    broker, before = _broker_pid(running), running.worker_pids()
    running.send(signal.SIGHUP)
    eventually(lambda: len(running.worker_pids()) == 1 and not running.worker_pids() & before, 10)
    assert _broker_pid(running) == broker
    running.stop()
    assert not alive(broker)


def test_a_reload_ends_the_tokens_of_a_secret_that_has_changed(gateway: Callable[..., Gateway], tmp_path: Path) -> None:
    """No worker is left that remembers one."""
    secret = tmp_path / "secret"
    secret.write_text("a" * 32)
    running = gateway({"JWT_SECRET_FILE": str(secret)}).start()
    with logged_on(running.host) as sender:
        assert [sender.single("orders", b"1").status for _ in range(3)] == [200] * 3
        secret.write_text("b" * 32)
        before = running.worker_pids()
        running.send(signal.SIGHUP)
        eventually(lambda: len(running.worker_pids()) == 1 and not running.worker_pids() & before, 10)
        with with_tokens_of(sender, running.host) as moved:
            assert moved.single("orders", b"2").status == 401


def test_a_second_master_is_refused_beside_the_embedded_broker(running: Gateway) -> None:
    """SIGUSR2: the data has one owner; the first master and its broker go on."""
    broker = _broker_pid(running)
    running.send(signal.SIGUSR2)
    eventually(lambda: "stations: DATA_DIR must be a directory that no other gateway uses" in running.output(), 10)
    eventually(lambda: len(children(running.pid)) == 2)
    assert _ask(running)["status"] == "ok"
    assert _broker_pid(running) == broker


def test_the_master_has_no_module_that_gevent_patches_too_late(standin: Callable[..., Gateway], tmp_path: Path) -> None:
    """asyncio and what uses it are imported in the workers, after patching; the master runs no thread."""
    conf = tmp_path / "conf.py"
    conf.write_text(
        "import runpy, sys, threading\n"
        f"globals().update(runpy.run_path({str(ROOT / 'gunicorn.conf.py')!r}))\n"
        "ready = when_ready\n"
        "def when_ready(server):\n"
        "    print('modules', *sys.modules)\n"
        "    print('threads', threading.active_count())\n"
        "    ready(server)\n"
    )
    gateway = standin(args=["-c", str(conf)]).start()
    modules = set(re.findall(r"^modules (.*)$", gateway.output(), re.M)[0].split())
    assert not modules & {"asyncio", "flask", "nats", "structlog", "uvloop", "jwt", "wsgi"}
    assert "threads 1\n" in gateway.output()
    assert "Warning" not in gateway.output()


def _send(gateway: Gateway, request: bytes) -> bytes:
    host, _, port = gateway.host.rpartition(":")
    with socket.create_connection((host, int(port)), 5) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(4096), b""))


@pytest.mark.parametrize("worker", ["proxy.server.Worker", "gevent", "gthread"])
def test_no_token_is_in_the_log(standin: Callable[..., Gateway], worker: str) -> None:
    """gunicorn quotes requests that it or the application cannot handle."""
    gateway = standin({"GUNICORN_WORKER_CLASS": worker, "LOG_LEVEL": "debug"}).start()
    assert gateway.get("/fail?authorization=the-token")[0] == 500
    end = b"\r\nHost: a\r\nConnection: close\r\n\r\n"
    for request in (
        b"GET /fail?a=b&authorization=the-token HTTP/1.1" + end,
        b"GET /?authorization=the-token HTTP/1.1 x" + end,
        b"GET /?authorization=the-token HTTP/9.z" + end,
        b"GET /?authorization=the-token" + b"x" * 10_000 + b" HTTP/1.1" + end,
        b"G=T /?authorization=the-token HTTP/1.1" + end,
        b"GET / HTTP/1.1\r\nAuthorization : Bearer the-token" + end,
        b"GET / HTTP/1.1\r\nAuthorization: Bearer the-token\0" + end,
        b"GET / HTTP/1.1\r\nCookie: jwt-refresh-token=the-token\r\n folded the-token" + end,
        b"GET / HTTP/1.1\r\nX: eyJhbGciOiJIUzI1NiJ9.the-token\0" + end,
    ):
        _send(gateway, request)
    gateway.stop()
    assert "RuntimeError: failed with ?..." in gateway.output()
    assert "the-token" not in gateway.output()


def test_the_largest_body_is_that_of_the_settings(standin: Callable[..., Gateway]) -> None:
    """A larger one is refused by its length, before any of it has come."""
    gateway = standin({"MAX_BODY_BYTES": "1000"}).start()
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
    assert b" 413 " in _send(gateway, head % 1001)
    assert b" 200 " in _send(gateway, head % 1000 + b"x" * 1000)


def test_forwarded_headers_are_left_to_the_application(running: Gateway) -> None:
    """gunicorn believes nobody, not even 127.0.0.1."""
    answer = _ask(running, headers={"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.1"})
    assert (answer["scheme"], answer["client"]) == ("http", "127.0.0.1")


def test_it_listens_on_ipv6(standin: Callable[..., Gateway]) -> None:
    """An address with colons, in brackets where a port follows."""
    gateway = standin({"HTTP_HOST": "::1"})
    gateway.start(ready=False)
    eventually(lambda: "Stations listens on http://[::1]:" in gateway.output(), 10)


@pytest.mark.parametrize("worker", ["proxy.server.Worker", "gevent", "gthread"])
def test_each_kind_of_worker_starts_and_stops(standin: Callable[..., Gateway], worker: str) -> None:
    """The application is started and stopped once in each."""
    gateway = standin({"GUNICORN_WORKER_CLASS": worker}).start()
    gateway.stop()
    assert re.findall(r"^(?:start|stop)\b", gateway.output(), re.M) == ["start", "stop"]


@pytest.mark.parametrize("worker", ["proxy.server.Worker", "gevent", "gthread"])
def test_a_worker_that_can_produce_no_more_is_replaced(standin: Callable[..., Gateway], worker: str) -> None:
    """The application says so when it is asked; the worker ends as if it had been told to."""
    gateway = standin({"GUNICORN_WORKER_CLASS": worker}).start()
    before = _ask(gateway, "/useless")["pid"]
    eventually(lambda: not alive(before) and _ask(gateway)["pid"] != before, 15)
    assert f"worker {before} can produce no more, and is replaced" in gateway.output()
    gateway.stop()
    assert re.findall(r"^(?:start|stop)\b", gateway.output(), re.M) == ["start", "stop"] * 2


@pytest.fixture
def unwritable() -> Iterator[Path]:
    """A directory where the gateway's user may read and not write."""
    with tempfile.TemporaryDirectory() as path:
        os.chmod(path, 0o555)
        yield Path(path)


def test_with_an_external_broker_it_writes_nowhere(
    standin: Callable[..., Gateway], nats_server: Callable[..., NatsServer], unwritable: Path
) -> None:
    """As in the image on a read-only file system: a working directory that its user cannot write, and no HOME."""
    broker = nats_server(users={"root": "memphis"})
    # root may write anywhere; without this capability it is a user like others
    through = ["setpriv", "--bounding-set=-dac_override"] if os.geteuid() == 0 else []
    gateway = standin({"BROKER_URL": broker.url, "JWT_SECRET": "s" * 32, "HTTP_HOST": "127.0.0.1"}, through=through)
    gateway.start(cwd=unwritable)
    assert f"Broker: {broker.url}\n" in gateway.output()
    assert not list(unwritable.iterdir())
    assert len(children(gateway.pid)) == 1
    gateway.stop()
    assert "Error" not in gateway.output()
