"""The same application under other servers: Flask's own and gunicorn's threads; and what each of them prints."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.brokers.tools import Operator
from tests.clients import STORED, Sender, embedded_broker, logged_on, with_tokens_of
from tests.servers import ROOT, Gateway, NatsServer, eventually, free_port

pytestmark = pytest.mark.slow


class FlaskServer:
    """`flask --app wsgi run` on a free port, each request in a thread of its own."""

    def __init__(self, directory: Path, env: Mapping[str, str]) -> None:
        self.host = f"127.0.0.1:{free_port()}"
        self._output = directory / "flask.log"
        self._env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", **env}

    def __enter__(self) -> FlaskServer:
        command = [sys.executable, "-m", "flask", "--app", "wsgi", "run", "--port", self.host.rpartition(":")[2]]
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                command, cwd=self._output.parent, env=self._env, stdout=output, stderr=output, stdin=subprocess.DEVNULL
            )
        eventually(self._answers, 15)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.wait(10)

    def output(self) -> str:
        """What it has printed."""
        return self._output.read_text()

    def _answers(self) -> bool:
        assert self._process.poll() is None, self.output()
        with contextlib.suppress(OSError), contextlib.closing(Sender(self.host)) as sender:
            return sender.request("GET", "/monitoring/status", None, {}).status == 200
        return False


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A broker for all tests of this file; each takes a station of its own."""
    server = NatsServer(tmp_path_factory.mktemp("broker"), users={"root": "memphis"}).start()
    yield server
    server.stop()


@pytest.fixture
def settings(broker: NatsServer) -> dict[str, str]:
    """Those of a gateway at this broker."""
    secret = {"JWT_SECRET": "a secret of thirty-two characters"}
    return {"BROKER_URL": broker.url, "AUTO_CREATE_STATIONS": "on", "LOG_LEVEL": "debug", **secret}


def _crowd(host: str, station: str, clients: int = 16, rounds: int = 5) -> list[bytes]:
    """Has many clients produce at once, singles and batches; all are acknowledged. Returns what they sent."""
    answers = []
    payloads = [[json.dumps([client, n]).encode() for n in range(3 * rounds)] for client in range(clients)]

    def produce(own: list[bytes]) -> None:
        with logged_on(host) as sender:
            for n in range(0, len(own), 3):
                answers.append(sender.single(station, own[n]).json)
                answers.append(sender.batch(station, b"[%b,%b]" % (own[n + 1], own[n + 2])).json)

    threads = [threading.Thread(target=produce, args=(own,)) for own in payloads]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert answers == [STORED] * (2 * clients * rounds)
    return [payload for own in payloads for payload in own]


def test_flask_run_serves_the_gateway_with_plain_threads(
    tmp_path: Path, settings: dict[str, str], broker: NatsServer
) -> None:
    """No gevent: threads wait for the same bridge."""
    with FlaskServer(tmp_path, settings) as flask:
        sent = _crowd(flask.host, "flask")
    assert sorted(Operator(broker).payloads("flask")) == sorted(sent)
    assert "Traceback" not in flask.output()


def test_flask_run_finds_the_embedded_broker_of_a_running_gateway(
    tmp_path: Path, gateway: Callable[..., Gateway]
) -> None:
    """It shares the data directory, so it knows where the broker is, and takes the gateway's tokens."""
    running = gateway({"DATA_DIR": str(tmp_path / "data")}).start()
    flask = FlaskServer(tmp_path, {"DATA_DIR": str(tmp_path / "data")})
    with logged_on(running.host) as sender, flask, with_tokens_of(sender, flask.host) as beside:
        assert beside.single("beside", b"{}").json == STORED
    assert embedded_broker(running).payloads("beside") == [b"{}"]


def test_flask_run_without_a_broker_says_what_to_do(tmp_path: Path) -> None:
    """It starts none itself."""
    with (
        FlaskServer(tmp_path, {"DATA_DIR": str(tmp_path / "data")}) as flask,
        contextlib.closing(Sender(flask.host)) as sender,
    ):
        answer = sender.log_on()
    assert (answer.status, answer.json["stored"]) == (503, "no")
    assert "BROKER_URL" in answer.json["error"]


def test_threads_of_gunicorn_serve_the_gateway(
    gateway: Callable[..., Gateway], settings: dict[str, str], broker: NatsServer
) -> None:
    """The gthread worker: the same application, no gevent in it."""
    running = gateway({**settings, "GUNICORN_WORKER_CLASS": "gthread", "WEB_CONCURRENCY": "2"}).start()
    sent = _crowd(running.host, "threads")
    assert sorted(Operator(broker).payloads("threads")) == sorted(sent)
    running.stop()
    assert "Traceback" not in running.output()


def test_with_a_broker_elsewhere_nothing_is_written(
    gateway: Callable[..., Gateway], settings: dict[str, str], broker: NatsServer
) -> None:
    """Working directory and HOME are where nobody can write."""
    running = gateway({**settings, "HOME": "/proc"}).start(cwd="/proc")
    with logged_on(running.host) as sender:
        assert sender.single("read-only", b"{}").json == STORED
    assert Operator(broker).payloads("read-only") == [b"{}"]


def test_an_unknown_kind_of_broker_stops_the_start(gateway: Callable[..., Gateway], settings: dict[str, str]) -> None:
    """With one line that names the setting."""
    running = gateway({**settings, "BROKER_URL": "kafka://127.0.0.1:9092"}).start(ready=False)
    assert running.wait() == 1
    assert "stations: BROKER_URL must be" in running.output()
    assert "Traceback" not in running.output()


def _use_tokens_everywhere(host: str) -> set[str]:
    """Sends good and bad requests with tokens wherever one can stand. Returns what nobody may print."""
    with logged_on(host) as sender:
        access, refresh = sender.token, sender.refresh_token
        cookie = {"Cookie": f"jwt-refresh-token={refresh}"}
        good, bad = "/stations/printed/produce/single?", "/stations/-bad-/produce/single?a=b&"
        for path in (good, bad):
            for query in (
                "authorization=",
                "Authorization=",
                "%61uthorization=",
                "authorization=Bearer%20",
                "authorization=%22",
            ):
                sender.request("POST", path + query + access, b"{}", {"Content-Type": "application/json"})
                sender.request("POST", path + query + access[:-3], b"{}", {"Content-Type": "application/json"})
                sender.request("GET", path + query + quote(access, safe=""), None, {})
        sender.request("POST", f"/nowhere?authorization={access}", b"{}", {"Content-Type": "application/json"})
        sender.request("POST", "/auth/refreshToken", None, cookie)
        sender.post("/auth/refreshToken", json.dumps({"jwt_refresh_token": refresh}).encode(), "application/json")
        sender.post("/auth/refreshToken", json.dumps({"jwt_refresh_token": refresh}).encode()[:-1], "application/json")
        assert sender.single("printed", b"{}", Cookie=cookie["Cookie"]).json == STORED
        assert sender.single("printed", b"{", X_Api_Key=access).status == 400
    return {*access.split(".")[1:], *refresh.split(".")[1:]}


def test_gunicorn_prints_no_token(gateway: Callable[..., Gateway], settings: dict[str, str]) -> None:
    """At the most talkative level, whatever comes in."""
    running = gateway(settings).start()
    secrets = _use_tokens_everywhere(running.host)
    running.stop()
    assert running.output().count('"event":"request"') > 25
    assert not [secret for secret in secrets if secret in running.output()]
    assert settings["JWT_SECRET"] not in running.output()


def test_flask_prints_no_token(tmp_path: Path, settings: dict[str, str]) -> None:
    """Its development server quotes each request line."""
    with FlaskServer(tmp_path, settings) as flask:
        secrets = _use_tokens_everywhere(flask.host)
    assert flask.output().count('"event":"request"') > 25
    assert not [secret for secret in secrets if secret in flask.output()]
    assert settings["JWT_SECRET"] not in flask.output()
