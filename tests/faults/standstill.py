"""The gateway with two more routes, for `gunicorn tests.faults.standstill:app`: its asyncio thread stops, or ends."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from gevent import monkey

from proxy.app import create_app
from proxy.bridge import GaveUp, Reply

app = create_app()
_SECONDS = 60


def _block(reply: Reply) -> None:
    monkey.get_original("time", "sleep")(_SECONDS)


def _end(reply: Reply) -> None:
    raise SystemExit


def _spin(reply: Reply) -> None:
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end:
        pass


_JOBS: dict[str, Any] = {"block": _block, "end": _end, "spin": _spin}


@app.post("/standstill/<kind>")
def standstill(kind: str) -> str:
    """Has the asyncio thread sleep, end, or run in circles."""
    bridge = app.extensions["stations"].producer._bridge
    with contextlib.suppress(GaveUp):
        bridge.call(_JOBS[kind], timeout=0.1)
    return "done"
