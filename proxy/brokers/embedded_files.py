"""The files in `DATA_DIR`: the lock, the generated secret, and `broker.json`, which tells where the broker is.

    lock             held (flock) by the supervisor and by nats-server, so that one gateway at a time uses the directory
    broker.json      {"url": "nats://127.0.0.1:4222", "pid": 123} while nats-server accepts connections
    jwt-secret       made at first use; every worker and every later start reads the same
    nats-server.*    its configuration (with the password) and its log
    jetstream/       the messages

A directory that we make has mode 700, every file of ours 600.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
from pathlib import Path
from typing import NamedTuple

from proxy.errors import BadSetting

_SECRET_BYTES = 32


class Running(NamedTuple):
    """What `broker.json` says: the URL, and the process id of nats-server."""

    url: str
    pid: int


def make_data_dir(data_dir: Path) -> Path:
    """Makes the directory if it is absent; returns its absolute path. Raises `BadSetting`."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(data_dir, os.W_OK | os.X_OK):
            raise PermissionError(None, "it cannot be written")
    except OSError as error:
        raise BadSetting("DATA_DIR", f"a directory that can be written; {data_dir}: {error.strerror}") from None
    return data_dir.resolve()


def lock(data_dir: Path) -> int:
    """Takes the directory for this gateway; the lock lasts until the last copy of the descriptor is closed.

    Raises `BadSetting` when another gateway has it, or a nats-server that outlived its gateway.
    """
    try:
        descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise BadSetting("DATA_DIR", f"a directory that can be written; {data_dir}: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise BadSetting("DATA_DIR", f"a directory that no other gateway uses; {_user_of(data_dir)}") from None
    return descriptor


def _user_of(data_dir: Path) -> str:
    running = read_running(data_dir)
    who = f"by nats-server, process {running.pid}" if running else "by another process"
    return f"{data_dir} is in use {who}"


def is_locked(data_dir: Path) -> bool:
    """Whether a gateway or its nats-server still uses the directory. For the one who knows that nobody else starts."""
    try:
        os.close(lock(data_dir))
    except BadSetting:
        return True
    return False


def read_running(data_dir: Path) -> Running | None:
    """Where the broker is, or None when there is none that runs."""
    try:
        record = json.loads((data_dir / "broker.json").read_bytes())
        running = Running(str(record["url"]), int(record["pid"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return running if _is_there(running.pid) else None


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:  # it runs as another user
        return True
    except (OSError, OverflowError):
        return False
    return True


def write_running(data_dir: Path, running: Running) -> None:
    """Tells workers and tools where the broker is; they never see half a file."""
    write_private(data_dir / "broker.json", json.dumps(running._asdict()) + "\n")


def remove_running(data_dir: Path) -> None:
    """Tells that there is no broker (any more)."""
    (data_dir / "broker.json").unlink(missing_ok=True)


def kept_secret(data_dir: Path) -> str:
    """The secret of this data directory: 43 characters, made at first use, the same for all who ask.

    Raises `BadSetting` when it can be neither read nor made.
    """
    path = data_dir / "jwt-secret"
    try:
        if not path.exists():
            _make_secret(make_data_dir(data_dir) / path.name)
        secret = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        secret = ""
    if not secret:
        raise BadSetting("DATA_DIR", f"a directory where secrets can be kept; {path} cannot be used")
    return secret


def _make_secret(path: Path) -> None:
    """Writes it whole, then gives it its name. Of processes that race, the first wins and the others use its secret."""
    draft = _write_draft(path, secrets.token_urlsafe(_SECRET_BYTES))
    with contextlib.suppress(FileExistsError):
        os.link(draft, path)
    draft.unlink()


def write_private(path: Path, text: str) -> None:
    """Writes or replaces a file that only its owner may read; readers see the old one or the new one."""
    _write_draft(path, text).replace(path)


def _write_draft(path: Path, text: str) -> Path:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    return draft
