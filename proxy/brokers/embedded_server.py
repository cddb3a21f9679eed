"""The supervisor of the embedded nats-server: `python -m proxy.brokers.embedded_server`, started by gunicorn's master.

Its standard input is a pipe from the master: one line of JSON, the `Plan`, and then nothing until the master is gone.
Until that end of file it runs nats-server, and starts it again whenever it ends by itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TypedDict, cast

from proxy.brokers import embedded_files as files

_END_SECONDS = 10.0
_SETTLED_SECONDS = 5.0
_PAUSES = (0.0, 0.1, 0.5, 2.0, 5.0)
_CONFIG = """\
# Written at each start; changes are lost.
server_name: "stations"
host: "127.0.0.1"
port: {port}
max_payload: 8MB
ports_file_dir: {data_dir}
log_file: {log_file}
logfile_size_limit: 10MB
logfile_max_num: 4
jetstream {{ store_dir: {data_dir}, sync_interval: {sync} }}
authorization {{ user: {user}, password: {password} }}
"""


class Plan(TypedDict):
    """What the master says: the program, absolute data directory, port (0: any), log-on, the lock's descriptor.

    `sync_seconds` is how often messages are synced to the disk; 0: each before its ack.
    """

    program: str
    data_dir: str
    port: int
    user: str
    password: str
    lock: int
    sync_seconds: float


def main() -> None:
    """Reads the plan, and runs nats-server until standard input ends."""
    os.umask(0o077)
    # The pipe alone ends us: systemd and others signal all processes at once, and the broker must outlast the workers.
    # Handlers that do nothing, since nats-server would inherit SIG_IGN.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    line = sys.stdin.buffer.readline()
    if line:
        supervise(json.loads(line), sys.stdin.buffer)


def supervise(plan: Plan, master: IO[bytes]) -> None:
    """Runs nats-server until `master` is at its end; after failures in a row it pauses, 5 seconds at most."""
    failures = 0
    while not _any_readable(master, within=_PAUSES[min(failures, len(_PAUSES) - 1)]):
        began = time.monotonic()
        what = _run(plan, master)
        if not _any_readable(master, within=0):
            failures = failures + 1 if time.monotonic() - began < _SETTLED_SECONDS else 0
            _say(f"{what}; see {plan['data_dir']}/nats-server.log")


def _run(plan: Plan, master: IO[bytes]) -> str:
    """Runs nats-server once, until it or `master` is at its end; what became of it."""
    try:
        with _nats_server(plan) as server:
            _await_end(plan, server, master)
    except OSError as error:  # no room for its files, no process to be had, no program for the moment
        return f"nats-server cannot be started ({error}), which is tried again"
    return f"nats-server ended (status {server.returncode}) and is started again"


@contextlib.contextmanager
def _nats_server(plan: Plan) -> Iterator[subprocess.Popen[bytes]]:
    """Starts nats-server, and at the end of the block makes sure that it is gone. It inherits the lock."""
    data_dir = Path(plan["data_dir"])
    _remove_ports_files(data_dir)
    files.write_private(data_dir / "nats-server.conf", configuration(plan))
    server = subprocess.Popen(  # noqa: S603 - the program that the master found
        [plan["program"], "--config", data_dir / "nats-server.conf"],
        env={name: value for name, value in os.environ.items() if re.match(r"PATH$|HOME$|TZ$|GO[A-Z]+$", name)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,  # nothing comes, but its end tells at once that nats-server has ended
        pass_fds=(plan["lock"],),
    )
    try:
        yield server
    finally:
        _end(server)
        files.remove_running(data_dir)
        _remove_ports_files(data_dir)


def _await_end(plan: Plan, server: subprocess.Popen[bytes], master: IO[bytes]) -> None:
    """Returns when nats-server or the master has ended; writes `broker.json` once nats-server accepts connections.

    Without a deadline: reading a large store at the start takes as long as it takes.
    """
    data_dir = Path(plan["data_dir"])
    ended = cast(IO[bytes], server.stdout)
    url = None
    while url is None:
        if _any_readable(master, ended, within=0.02):
            return
        url = _read_url(data_dir / f"{Path(plan['program']).name}_{server.pid}.ports")
    files.write_running(data_dir, files.Running(url, server.pid))
    _any_readable(master, ended, within=None)


def _read_url(ports_file: Path) -> str | None:
    """The address in the file that nats-server writes when it accepts connections; None while it is not (all) there."""
    try:
        return str(json.loads(ports_file.read_bytes())["nats"][0])
    except (OSError, ValueError):
        return None


def _end(server: subprocess.Popen[bytes]) -> None:
    """Asks nats-server to end, and kills it when it does not within 10 seconds. Waits for it in any case."""
    with server:  # closes its standard output
        server.terminate()
        try:
            server.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()


def configuration(plan: Plan) -> str:
    """The configuration file of nats-server: JetStream, this machine only, one user and nobody else."""
    data_dir = plan["data_dir"]
    return _CONFIG.format(
        port=_usable_port(plan["port"]) or -1,  # -1: any that is free
        data_dir=_quoted(data_dir),
        log_file=_quoted(f"{data_dir}/nats-server.log"),
        user=_quoted(plan["user"]),
        password=_quoted(plan["password"]),
        sync=f'"{plan["sync_seconds"]:.3f}s"' if plan["sync_seconds"] else "always",
    )


def _quoted(text: str) -> str:
    r"""A string of nats-server's configuration language, which knows `\"`, `\\` and `\xXX`, and not JSON's `\u00XX`."""
    return '"' + re.sub(r'["\\\x00-\x1f\x7f]', lambda match: f"\\x{ord(match[0]):02x}", text) + '"'


def _usable_port(port: int) -> int:
    """The port, or 0 when something else listens on it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
    return port


def _remove_ports_files(data_dir: Path) -> None:
    for left_over in data_dir.glob("*.ports"):
        left_over.unlink(missing_ok=True)


def _any_readable(*files: IO[bytes], within: float | None) -> bool:
    """Whether one of the files is at its end, waiting `within` seconds for it (None: for ever)."""
    return bool(select.select(files, [], [], within)[0])


def _say(line: str) -> None:
    """Tells the operator; where nobody can hear (any more) it goes on all the same."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"stations: {line}\n")
        sys.stderr.flush()


if __name__ == "__main__":
    main()
