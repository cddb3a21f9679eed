"""A WSGI application of a few lines with the interface that `gunicorn.conf.py` asks of ours."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from proxy.brokers import embedded
from proxy.errors import BrokerAway, OpenBroker


class Edge:
    """What answers requests that the server refuses."""

    def refuse(self, status: int, message: str, environ: dict[str, Any]) -> tuple[list[tuple[str, str]], bytes]:
        """Headers and body."""
        return [], message.encode()

    def again_for(self, environ: dict[str, Any]) -> None:
        """Nothing is served without WSGI."""


class Stations:
    """What stands in `extensions["stations"]`; it tells its calls on standard output."""

    edge = Edge()
    useless = False

    def start(self, timeout: float) -> None:
        """Starts, or refuses to when `REFUSE` is set."""
        sys.stdout.write(f"start {timeout:g}\n")
        sys.stdout.flush()
        if os.environ.get("REFUSE"):
            raise OpenBroker

    def plain(self) -> bool:
        """Nobody has added anything to it."""
        return True

    def alive(self) -> bool:
        """Until a request to `/useless`."""
        return not self.useless

    def stop(self, timeout: float) -> None:
        """Stops."""
        sys.stdout.write(f"stop {timeout:g}\n")
        sys.stdout.flush()


class Application:
    """Answers with what a test wants to know of the worker."""

    def __init__(self) -> None:
        self.extensions = {"stations": Stations()}

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Tells where the broker is and what the server makes of the request; `/fail` raises, `/useless` ends us."""
        if environ["PATH_INFO"] == "/fail":
            raise RuntimeError("failed with ?authorization=the-token in its message")
        self.extensions["stations"].useless |= environ["PATH_INFO"] == "/useless"
        body = {"status": "ok", "broker": _broker(), "scheme": environ["wsgi.url_scheme"], "pid": os.getpid()}
        body["client"] = environ["REMOTE_ADDR"]
        body["modules"] = sorted(sys.modules)
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(body).encode()]


def _broker() -> str:
    try:
        return embedded.address(Path(os.environ.get("DATA_DIR", "data")))
    except BrokerAway as error:
        return str(error)


app = Application()
