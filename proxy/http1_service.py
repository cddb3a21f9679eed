"""What the HTTP/1 connections of a worker share: options, the greenlets that serve requests, deadlines, the date."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import gevent

from proxy.http1_repeats import AgainFor
from proxy.http1_requests import Limits, Request
from proxy.http1_responses import Application, ErrorAnswer, Response, error_answer

if TYPE_CHECKING:
    from proxy.http1 import Connection

# Greenlets kept for later requests; more than this many at once are rare, and made when needed.
_MAX_PARKED = 256


@dataclass
class Options:
    """What connections of a service have in common. Times are in seconds.

    `linger_seconds` are how long a stopping service waits for requests that may be on their way on idle connections.
    `max_buffered_bytes` is for all requests that are incomplete or being worked on, heads and bodies, those aside that
    came in one piece.
    `before` and `after` are called around each request, if given; `after` also gets the time it began. `again_for` is
    what the application has for serving requests without WSGI, see `proxy.http1_repeats`.
    """

    limits: Limits = field(default_factory=Limits)
    header_seconds: float = 10.0
    body_seconds: float = 60.0
    keepalive_seconds: float = 2.0
    linger_seconds: float = 0.5
    max_buffered_bytes: int = 256 * 1024 * 1024
    max_requests: int = 0
    error_answer: ErrorAnswer = error_answer
    again_for: AgainFor | None = None
    sweep_seconds: float = 1.0
    before: Callable[[Request], None] | None = None
    after: Callable[[Request, Response, float], None] | None = None
    log: logging.Logger | Any = field(default_factory=lambda: logging.getLogger(__name__))


class Service:
    """All connections of a worker; everything happens in one thread, and all but `serve` in its event loop.

    It has to be made where that loop runs, after gevent's patching. `retire` is called once, with the last request of
    `max_requests`.
    """

    def __init__(self, application: Application, options: Options, retire: Callable[[], None] = lambda: None) -> None:
        self.application = application
        self.options = options
        self.connections: set[Connection] = set()
        self.requests = 0
        self.buffered = 0
        self.keeps_alive = options.keepalive_seconds > 0
        self.winds_up = False
        #: Whether requests may be served without WSGI; hooks and gunicorn's access log want to see each.
        self.asks = options.before is None and options.after is None
        self.on_close: Callable[[], None] = lambda: None
        self.loop = gevent.get_hub().loop
        self._retire = retire
        self._parked: list[Any] = []
        self._timer = self.loop.timer(options.sweep_seconds, options.sweep_seconds)
        self._timer.start(self._sweep)
        self._linger = self.loop.timer(options.linger_seconds)
        self._sweep()

    def dispatch(self, connection: Connection) -> None:
        """Serve what a connection has ready, in a greenlet. For the event loop only."""
        if self._parked:
            self._parked.pop().switch(connection)
        else:
            gevent.spawn_raw(self._serve, connection)

    def count(self) -> None:
        """Count a request, and retire with the last one."""
        self.requests += 1
        if self.requests == self.options.max_requests:
            self.keeps_alive = False
            self._retire()

    def ends(self) -> bool:
        """Whether each answer is the last on its connection by now."""
        return not self.keeps_alive

    def forget(self, connection: Connection) -> None:
        """A connection was closed."""
        self.connections.discard(connection)
        self.on_close()

    def stop(self) -> None:
        """Serve the requests that have arrived or arrive within `linger_seconds`, and close each connection after that
        or at the end of that time; returns at once.

        A client that has not been told of the end may be sending the next request just now.
        """
        self.keeps_alive = False
        self._linger.start(self._wind_up)

    def _wind_up(self) -> None:
        self.winds_up = True
        for connection in self.connections:
            self.loop.run_callback(connection.wind_up)

    def abort(self) -> int:
        """Close every connection whatever it does; returns how many there were."""
        connections = list(self.connections)
        for connection in connections:
            connection.abort()
        self._timer.close()
        self._linger.close()
        return len(connections)

    def _serve(self, connection: Connection) -> None:
        hub, me = gevent.get_hub(), gevent.getcurrent()
        while True:
            connection.serve(me)
            if len(self._parked) >= _MAX_PARKED:
                return
            self._parked.append(me)
            connection = hub.switch()

    def _sweep(self) -> None:
        """Keep the date right, and end what is past its deadline."""
        self.date = f"Date: {formatdate(usegmt=True)}\r\n\r\n".encode()
        now = time.monotonic()
        for connection in list(self.connections):
            connection.tidy()
            if connection.deadline < now and not connection.busy:
                # Not now: after the loop has stood still, what came in time is yet to be read, and that comes first.
                self.loop.run_callback(self._expire, connection)

    def _expire(self, connection: Connection) -> None:
        if connection.deadline < time.monotonic() and not connection.busy:
            connection.expire()
