"""The programs that are measured: a broker, the gateway in its variants, and peers."""

from __future__ import annotations

import contextlib
import json
import secrets
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks import client, measure
from benchmarks.cases import MANY
from benchmarks.load import Request
from benchmarks.streams import TOKEN, USER
from proxy.messages import Schema
from tests.servers import Gateway, NatsServer, eventually, free_port

_START_SECONDS = 20.0
_END_SECONDS = 10.0
_TOKEN_MINUTES = 24 * 60
_USERS = {f"{USER}-{number}": f"{TOKEN}-{number}" for number in range(MANY)}

_LLHTTP = {"GUNICORN_WORKER_CLASS": "proxy.server.Worker"}
_STOCK = {"GUNICORN_WORKER_CLASS": "gevent"}
VARIANTS = {
    f"{name}-{workers}w{suffix}": {**server, "WEB_CONCURRENCY": str(workers), **settings}
    for name, server in (("llhttp", _LLHTTP), ("stock", _STOCK))
    for suffix, settings in (("", {}), ("-flask", {"LANE": "false"}))
    for workers in (1, 2)
}
VARIANTS["llhttp-1w-log"] = {**VARIANTS["llhttp-1w"], "LOG_LEVEL": "info"}
VARIANTS["stock-1w-log"] = {**VARIANTS["stock-1w"], "LOG_LEVEL": "info"}
VARIANTS["llhttp-1w-cores"] = {**VARIANTS["llhttp-1w"], "WORKER_CPU_AFFINITY": "false"}
MAIN = ("llhttp-1w", "llhttp-2w", "stock-1w")


class CannotStart(Exception):
    """A program does not start, or does not do what it must; says why."""


@dataclass(frozen=True)
class Contestant:
    """A server that runs. Without `pids` nothing is known of its processes; `ours` tells that it takes tokens.

    `checked`: it stores its messages in our broker, so they can be counted.
    """

    name: str
    url: str
    pids: Callable[[], set[int]]
    ours: bool = False
    checked: bool = True


@contextlib.contextmanager
def broker(directory: Path) -> Iterator[NatsServer]:
    """A nats-server with the users that the cases need."""
    server = NatsServer(directory, "max_payload: 8MB", users={USER: TOKEN, **_USERS})
    try:
        yield server.start()
    finally:
        server.stop()


@contextlib.contextmanager
def gateway(directory: Path, name: str, settings: dict[str, str], app: str = "wsgi:app") -> Iterator[Contestant]:
    """The gateway in one variant. Raises `CannotStart`."""
    running = Gateway(directory, {**_settings(), **VARIANTS[name], **settings}, app=app)
    try:
        try:
            running.start()
        except AssertionError as error:
            raise CannotStart(f"{name}: {last_line(running.output()) or error}") from None
        yield Contestant(name, running.url, lambda: measure.descendants(running.pid), ours=True)
    finally:
        running.stop()


def start_all(stack: contextlib.ExitStack, directory: Path, names: Sequence[str], nats_url: str) -> list[Contestant]:
    """Starts the variants, which take each other's tokens; says which do not start, and goes on without them."""
    settings = {"BROKER_URL": nats_url, "JWT_SECRET": secrets.token_urlsafe(32)}
    running = []
    for name in names:
        try:
            running.append(stack.enter_context(gateway(directory / name, name, settings)))
        except CannotStart as error:
            print(f"skipped, does not start: {error}", file=sys.stderr, flush=True)
    return running


def started(directory: Path, settings: dict[str, str]) -> Gateway:
    """A gateway with a broker of its own that has only just been started; the caller waits for it, and stops it."""
    embedded = {**_settings(), **settings, "HTTP_PORT": str(free_port()), "DATA_DIR": str(directory / "data")}
    running = Gateway(directory, embedded)
    running.start(ready=False)
    running.url = f"http://127.0.0.1:{embedded['HTTP_PORT']}"
    return running


def _settings() -> dict[str, str]:
    """For speed as in production: compiled modules are kept, no warning is looked for, no access log."""
    return {
        "PYTHONWARNINGS": "",
        "PYTHONDONTWRITEBYTECODE": "",
        "HTTP_HOST": "127.0.0.1",
        "LOG_LEVEL": "warning",
    }


@contextlib.contextmanager
def peer(directory: Path, name: str, where: str, nats_url: str) -> Iterator[Contestant]:
    """A peer: an URL, or a command with `{port}` and `{nats}` in it. Raises `CannotStart`."""
    if where.startswith(("http://", "https://")):
        yield Contestant(name, where.rstrip("/"), set, checked=False)
        return
    port = free_port()
    words = [word.replace("{port}", str(port)).replace("{nats}", nats_url) for word in shlex.split(where)]
    with (directory / f"{name}.log").open("wb") as output:
        try:
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        except OSError as error:
            raise CannotStart(str(error)) from None
    try:
        _await_port(process, port)
        yield Contestant(name, f"http://127.0.0.1:{port}", lambda: measure.descendants(process.pid))
    finally:
        _end(process)


def _await_port(process: subprocess.Popen[bytes], port: int) -> None:
    def answers() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return process.poll() is not None

    with contextlib.suppress(AssertionError):
        eventually(answers, _START_SECONDS)
    if process.poll() is not None:
        raise CannotStart(f"it has ended with status {process.returncode}")


def _end(process: subprocess.Popen[bytes]) -> None:
    with process:
        process.terminate()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()


def token(url: str, user: str = USER, connection_token: str = TOKEN) -> str:
    """An access token that lasts for a day. Raises `CannotStart`, `OSError`."""
    body = {"username": user, "connection_token": connection_token, "token_expiry_in_minutes": _TOKEN_MINUTES}
    request = Request("/auth/authenticate", {"Content-Type": "application/json"}, json.dumps(body).encode())
    status, answer = client.send(url, request)
    if status != 200:
        raise CannotStart(f"no token for {user}: {status} {answer.decode(errors='replace')}")
    return str(json.loads(answer)["jwt"])


def tokens(url: str, count: int) -> Sequence[str]:
    """Access tokens of so many users; one means `root`."""
    if count == 1:
        return [token(url)]
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda user: token(url, *user), list(_USERS.items())[:count]))


def demand(url: str, token: str, station: str, schema: Schema) -> None:
    """Has the station demand the schema, which is registered under the station's name. Raises `CannotStart`."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    shape = {"type": schema.type, "definition": schema.definition, "message_struct_name": schema.message_struct_name}
    for path, body in ((f"/schemas/{station}", shape), (f"/stations/{station}/schema", {"schema": station})):
        status, answer = client.send(url, Request(path, headers, json.dumps(body).encode(), "PUT"))
        if status not in (200, 201):
            raise CannotStart(f"no schema for {station}: {status} {answer.decode(errors='replace')}")


def last_line(text: str) -> str:
    """The last line that is not empty; empty when there is none."""
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""
