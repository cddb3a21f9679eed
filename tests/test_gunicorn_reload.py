"""SIGHUP while what the workers would read anew cannot be used: nothing is replaced."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.servers import Gateway, eventually

pytestmark = pytest.mark.slow

_STANDIN = "tests.standin:app"
_TOKEN = "a-connection-token-of-my-own"


def _answering(gateway: Gateway) -> int:
    """The process id of the worker that answers."""
    return int(json.loads(gateway.get("/")[1])["pid"])


def test_a_reload_with_a_bad_setting_replaces_nothing(gateway: Callable[..., Gateway], tmp_path: Path) -> None:
    """It is said, and the workers go on until a reload finds the setting good again."""
    secret = tmp_path / "secret"
    secret.write_text("a" * 32)
    running = gateway({"JWT_SECRET_FILE": str(secret)}, app=_STANDIN).start()
    before = running.worker_pids()
    secret.unlink()
    running.send(signal.SIGHUP)
    eventually(lambda: "stations: the workers stay as they are: JWT_SECRET_FILE must be" in running.output(), 10)
    assert _answering(running) in before
    secret.write_text("b" * 32)
    running.send(signal.SIGHUP)
    eventually(lambda: len(running.worker_pids()) == 1 and not running.worker_pids() & before, 10)


def test_a_reload_with_another_token_for_its_own_broker_replaces_nothing(
    gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    """The broker goes on with the one it has, and would not let new workers in."""
    token = tmp_path / "token"
    token.write_text(_TOKEN)
    running = gateway({"CONNECTION_TOKEN_FILE": str(token)}, app=_STANDIN).start()
    before = running.worker_pids()
    token.write_text("another")
    running.send(signal.SIGHUP)
    eventually(lambda: "stations: the workers stay as they are: CONNECTION_TOKEN must be that" in running.output(), 10)
    assert _answering(running) in before
