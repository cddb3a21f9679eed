"""The real programs that tests run: nats-server and the gateway under gunicorn; and waiting for what they do."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from proxy.brokers.embedded import find_nats_server

ROOT = Path(__file__).parents[1]
_Value = TypeVar("_Value")


def eventually(condition: Callable[[], _Value], within: float = 5.0) -> _Value:
    """Asks until the answer is true and returns it; fails after `within` seconds."""
    deadline = time.monotonic() + within
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {within:g} s: {getattr(condition, '__qualname__', condition)}"
        time.sleep(0.01)
    return value


def free_port() -> int:
    """A port of 127.0.0.1 that nothing uses now. Where a program can choose its own (port 0), let it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def alive(pid: int) -> bool:
    """Whether the process runs; one that ended and that nobody has waited for does not."""
    with contextlib.suppress(OSError):
        return _state(pid) != "Z"
    return False


def pause(pid: int) -> None:
    """Stops a process, and waits until each of its threads stands still; SIGCONT wakes it."""
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: all(_stat_of(path)[0] == "T" for path in Path(f"/proc/{pid}/task").iterdir()))


def children(pid: int) -> set[int]:
    """The child processes that run; read from the kernel's own lists where it keeps them, which is much quicker."""
    lists = list(Path(f"/proc/{pid}/task").glob("*/children"))
    if lists:
        return {child for path in lists for child in map(int, _text(path).split()) if alive(child)}
    return {int(entry.name) for entry in Path("/proc").iterdir() if _is_child(entry, pid) and alive(int(entry.name))}


def command(pid: int) -> str:
    """The command line, a blank between the words."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def _text(path: Path) -> str:
    """The text of a file; empty when it is gone, as those of a thread are that has ended."""
    with contextlib.suppress(OSError):
        return path.read_text()
    return ""


def _state(pid: int) -> str:
    return _stat(pid)[0]


def _is_child(entry: Path, pid: int) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return int(_stat(int(entry.name))[1]) == pid
    return False


def _stat(pid: int) -> list[str]:
    return _stat_of(Path(f"/proc/{pid}"))


def _stat_of(path: Path) -> list[str]:
    """State, parent and so on; the name before them may hold blanks and parentheses."""
    return (path / "stat").read_text().rpartition(")")[2].split()


class NatsServer:
    """A nats-server on 127.0.0.1 with a configuration of one's own; its port stays over restarts.

    `config` is added to the configuration: `authorization {...}`, `accounts {...}`, `tls {...}`. `users` are names and
    passwords. With `jetstream` its messages are kept in `directory`.
    """

    def __init__(
        self, directory: Path, config: str = "", *, users: Mapping[str, str] | None = None, jetstream: bool = True
    ) -> None:
        self.directory = directory
        self.port = free_port()
        self._users = dict(users or {})
        self._jetstream = jetstream
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)
        self.config(config)

    @property
    def url(self) -> str:
        """Its address, without user and password."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None, "it has not been started"
        return self._process.pid

    def config(self, config: str) -> None:
        """Replaces what was added to the configuration; it counts from the next start (or SIGHUP) on."""
        lines = ["server_name: test", "host: 127.0.0.1", f"port: {self.port}", f"log_file: {_quoted(self._log)}"]
        if self._jetstream:
            lines.append(f"jetstream {{ store_dir: {_quoted(self.directory)} }}")
        if self._users:
            users = [f"{{ user: {json.dumps(u)}, password: {json.dumps(p)} }}" for u, p in self._users.items()]
            lines.append(f"authorization {{ users: [{', '.join(users)}] }}")
        (self.directory / "nats.conf").write_text("\n".join([*lines, config, ""]))

    def start(self) -> NatsServer:
        """Starts it and waits until it accepts connections."""
        self._process = subprocess.Popen([find_nats_server(), "-c", self.directory / "nats.conf"])
        eventually(lambda: self._accepts() or (self._process and self._process.poll() is not None), 10)
        assert self._process.poll() is None, f"nats-server has ended:\n{self.log()}"
        return self

    def stop(self) -> None:
        """Ends it as an operator would (SIGTERM); does nothing when it has ended."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it as a power cut would (SIGKILL)."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Ends it and starts it again on the same port, with the same data."""
        self.stop()
        self.start()

    def reload(self) -> None:
        """Makes it take its changed configuration while it runs."""
        done = "Reloaded server configuration"
        before = self.log().count(done)
        os.kill(self.pid, signal.SIGHUP)
        eventually(lambda: self.log().count(done) > before)

    def pause(self) -> None:
        """Makes it fall silent, its connections open; `resume` wakes it."""
        pause(self.pid)

    def resume(self) -> None:
        """Ends a pause."""
        os.kill(self.pid, signal.SIGCONT)

    def log(self) -> str:
        """What it has logged."""
        return self._log.read_text() if self._log.exists() else ""

    @property
    def _log(self) -> Path:
        return self.directory / "nats.log"

    def _accepts(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as connection:
            return connection.recv(4) == b"INFO"
        return False

    def _end(self, number: int) -> None:
        if self._process is None:
            return
        with self._process as process:
            for sent in (number, signal.SIGCONT):  # a paused one ends too
                process.send_signal(sent)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
        self._process = None


class Gateway:
    """gunicorn with the project's `gunicorn.conf.py`, running in `directory` on a free port.

    `env` are its settings, on top of nearly none; its broker is the embedded one unless `BROKER_URL` is among them.
    `through` is a program, with its arguments, that starts it.
    """

    def __init__(
        self,
        directory: Path,
        env: Mapping[str, str] | None = None,
        *,
        app: str = "wsgi:app",
        args: Sequence[str] = (),
        through: Sequence[str] = (),
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "error",
            "PYTHONDONTWRITEBYTECODE": "1",
            "HTTP_PORT": "0",
            "EMBEDDED_PORT": "0",
            **(env or {}),
        }
        self._command = [
            *through,
            str(Path(sys.executable).with_name("gunicorn")),
            "-c",
            str(ROOT / "gunicorn.conf.py"),
            *args,
            app,
        ]
        self._output = directory / "gateway.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def start(self, *, ready: bool = True, **options: Any) -> Gateway:
        """Starts it; unless `ready` is false, waits until it answers. `options` go to `subprocess.Popen`."""
        assert self._process is None, "it is running"
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                self._command,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                **{"cwd": self.directory, **options},
            )
        if ready:
            eventually(lambda: self._answers() or self._has_ended(), 20)
            assert not self._has_ended(), f"the gateway has ended:\n{self.output()}"
        return self

    @property
    def pid(self) -> int:
        """The master's process id."""
        assert self._process is not None, "it has not been started"
        return self._process.pid

    @property
    def host(self) -> str:
        """Host and port."""
        return self.url.removeprefix("http://")

    def output(self) -> str:
        """What it has written on standard output and standard error."""
        return self._output.read_text(errors="replace") if self._output.exists() else ""

    def worker_pids(self) -> set[int]:
        """The workers: all children of the master but the embedded broker's supervisor."""
        return {pid for pid in children(self.pid) if "embedded_server" not in command(pid)}

    def kill_worker(self) -> int:
        """Kills one worker (SIGKILL) and waits until another takes its place; returns the old process id."""
        before = self.worker_pids()
        victim = min(before)
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: not alive(victim) and len(self.worker_pids()) == len(before), 10)
        return victim

    def send(self, number: int, *, group: bool = False) -> None:
        """Sends a signal to the master, or to its whole process group as a terminal does."""
        (os.killpg if group else os.kill)(self.pid, number)

    def wait(self, within: float = 10.0) -> int:
        """Waits until it has ended; its exit status."""
        assert self._process is not None, "it has not been started"
        status = self._process.wait(within)
        self._process = None
        return status

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Ends it; does nothing when it has ended."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.send(number)
        try:
            self.wait(40)
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL, group=True)
            self.wait()
            raise

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
        """Sends a GET on a connection of its own; status and body."""
        with contextlib.closing(http.client.HTTPConnection(self.host, timeout=10)) as connection:
            connection.request("GET", path, headers={"Connection": "close", **(headers or {})})
            response = connection.getresponse()
            return response.status, response.read()

    def _answers(self) -> bool:
        found = re.search(r"listens on (http://\S+)\n", self.output())
        self.url = found[1] if found else ""
        with contextlib.suppress(OSError, http.client.HTTPException):
            return bool(found) and self.get("/monitoring/status")[0] == 200
        return False

    def _has_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None


def _quoted(path: Path) -> str:
    return json.dumps(str(path))
