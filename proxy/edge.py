"""What happens to every request and answer, around the application: a WSGI wrapper.

On the way in: the request id, the client behind trusted proxies, how much it may ask for, a token in the query moved to
the header before anyone can log it, paths in any letter case. On the way out: the request id, CORS and security
headers, and one log line. It is a wrapper and not hooks of the application, so that the short way past Flask gets the
same.
"""

from __future__ import annotations

import functools
import ipaddress
import itertools
import random
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import unquote_plus

import structlog

from proxy.config import Config
from proxy.errors import of_status, to_response
from proxy.http1_repeats import Asker
from proxy.http1_responses import head_of
from proxy.limits import Limits

Environ = dict[str, Any]
HeaderList = list[tuple[str, str]]
StartResponse = Callable[..., Any]

REQUEST_ID = "stations.request_id"
ROUTE = "stations.route"
USER = "stations.user"
OUTCOME = "stations.outcome"  # of a request that was admitted, and what became of it; only the answer is left to give
_HARMLESS_ID = re.compile(r"[\w.:/+=@-]{1,128}", re.ASCII)
_OURS = re.compile(r"/(?:auth|stations|monitoring|schemas)(?:/|\Z)", re.IGNORECASE)
_FREE = "/monitoring/"  # whoever watches over the gateway must not be kept from it
_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
_HEADER_NAMES = re.compile(r"[\w!#$%&'*+.^`|~, -]{0,2048}", re.ASCII)
_PREFLIGHT_SECONDS = "600"
_EXPOSED = "X-Request-Id, Retry-After"
OK_HEADERS = [("Content-Type", "application/json")]
MAX_FRAMES = 1024


class Offer(Protocol):
    """What serves requests with a certain head without WSGI. `head` is ours: it makes the head of an answer, and the
    line in the log, from the time at which the request came (`time.perf_counter`) and the lengths of both bodies.
    """

    head: Callable[[float, int, int], bytes]
    user: str
    route: tuple[str, str]

    def __call__(self, body: bytes, asker: Asker) -> bool:
        """Takes a body; false for one that has to go the whole way."""


class Edge:
    """Wraps a WSGI application."""

    def __init__(self, app: Callable[..., Iterable[bytes]], config: Config, limits: Limits | None = None) -> None:
        self._app = app
        self._offer: Callable[[Environ], Offer | None] | None = getattr(app, "offer", None)
        self._logger: Any = None
        self._frames: dict[str, tuple[bytes, bytes]] = {}
        self._limits = limits if limits is not None and limits.by_address else None
        self._trusts = functools.lru_cache(maxsize=1024)(functools.partial(_is_in, config.trusted_proxies))
        self._any_origin = "*" in config.cors_origins
        self._origins = frozenset(config.cors_origins)
        self._sample = config.access_log_sample if config.log_level in ("debug", "info") else 0.0
        self._numbers = itertools.count(1)
        self._prefix = ""

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """One request. What the application raises becomes an error of ours."""
        exchange = Exchange(self, environ, start_response)
        if environ["REQUEST_METHOD"] == "OPTIONS" and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ:
            exchange.start("204 No Content", self._preflight(environ))
            return exchange.carry([])
        try:
            if self._limits is not None and OUTCOME not in environ and not environ["PATH_INFO"].startswith(_FREE):
                self._limits.admit(environ.get("REMOTE_ADDR", ""))
            return exchange.carry(self._app(environ, exchange.start))
        except Exception as error:
            accept, path = environ.get("HTTP_ACCEPT", ""), environ.get("PATH_INFO", "")
            status, headers, body = to_response(error, accept=accept, request_id=environ[REQUEST_ID], path=path)
            exchange.start(f"{status} {HTTPStatus(status).phrase}", headers, sys.exc_info())
            return exchange.carry([body])

    def again_for(self, environ: Environ) -> Offer | None:
        """What serves requests with this head without WSGI, if the application does so; for our own server."""
        if environ["REQUEST_METHOD"] != "POST" or self._offer is None:
            return None
        self.prepare(environ)
        offer = self._offer(environ)
        if offer is not None:
            given = environ.get("HTTP_X_REQUEST_ID", "")
            kept = given if given == environ[REQUEST_ID] else ""
            frame = self._frame(environ.get("HTTP_ORIGIN", ""))
            # Not of the offer itself: a circle is left to the garbage collector, which stops the worker to look for it.
            offer.head = functools.partial(self._head, environ, (offer.user, offer.route), kept, frame)
        return offer

    def _head(
        self,
        environ: Environ,
        what: tuple[str, tuple[str, str]],
        given: str,
        frame: tuple[bytes, bytes],
        began: float,
        length: int,
        sent: int,
    ) -> bytes:
        """The head of one answer of an offer, around its request id; and its line in the log."""
        id = given or self._request_id("")
        if self._sample:
            user, route = what
            seen = {**environ, REQUEST_ID: id, USER: user, "CONTENT_LENGTH": str(length)}
            self.log(seen, route, 200, sent, time.perf_counter() - began)
        return b"%b%b%b" % (frame[0], id.encode(), frame[1])

    def _frame(self, origin: str) -> tuple[bytes, bytes]:
        """The head of a success before its request id and behind it; what it depends on is the page that asks."""
        frame = self._frames.get(origin)
        if frame is None:
            marked = {REQUEST_ID: "-", "HTTP_ORIGIN": origin}
            before, _, after = head_of("200 OK", self.dress(marked, OK_HEADERS)).partition(b"X-Request-Id: -")
            frame = before + b"X-Request-Id: ", after
            if len(self._frames) < MAX_FRAMES:
                self._frames[origin] = frame
        return frame

    def refuse(self, status: int, message: str, environ: Environ) -> tuple[HeaderList, bytes]:
        """Headers and body for a request that the server refuses, of which it may know little; logged as any other."""
        environ[REQUEST_ID] = self._request_id(environ.get("HTTP_X_REQUEST_ID", ""))
        accept, path = environ.get("HTTP_ACCEPT", ""), environ.get("PATH_INFO", "")
        error = of_status(status, message)
        _, headers, body = to_response(error, accept=accept, request_id=environ[REQUEST_ID], path=path)
        self.log(environ, (None, None), status, len(body), 0.0)
        return self.dress(environ, headers), body

    # ---- in ----------------------------------------------------------------------------------------------------

    def prepare(self, environ: Environ) -> None:
        """Makes the environment what the application should see."""
        environ[REQUEST_ID] = self._request_id(environ.get("HTTP_X_REQUEST_ID", ""))
        if self._trusts(environ.get("REMOTE_ADDR", "")):
            self._believe(environ)
        query = environ.get("QUERY_STRING", "")
        # Looked at as a whole first: there may be a thousand names, and they are looked at before any token is.
        if query and "authorization" in (unquote_plus(query) if "%" in query else query).lower():
            _move_token(environ)
        header = environ.get("HTTP_AUTHORIZATION", "")
        if header[:7] != "Bearer " and header[:7].lower() == "bearer ":
            environ["HTTP_AUTHORIZATION"] = "Bearer " + header[7:].strip()
        path = environ.get("PATH_INFO", "")
        if (path[-1:] == "/" or not path.islower()) and _OURS.match(path):
            environ["PATH_INFO"] = _fold(path)

    def _request_id(self, given: str) -> str:
        if given and _HARMLESS_ID.fullmatch(given):
            return given
        if not self._prefix:  # made by the first request, after the fork; two threads that make it differ harmlessly
            self._prefix = secrets.token_hex(5)
        return f"{self._prefix}-{next(self._numbers):x}"

    def _believe(self, environ: Environ) -> None:
        """The nearest address that no trusted proxy stands behind is the client's."""
        hops = [hop.strip() for hop in environ.get("HTTP_X_FORWARDED_FOR", "").split(",") if hop.strip()]
        while hops and self._trusts(environ["REMOTE_ADDR"]) and _is_address(hops[-1]) and "%" not in hops[-1]:
            environ["REMOTE_ADDR"] = hops.pop()
        scheme = environ.get("HTTP_X_FORWARDED_PROTO", "").rpartition(",")[2].strip().lower()
        if scheme in ("http", "https"):
            environ["wsgi.url_scheme"] = scheme

    # ---- out ---------------------------------------------------------------------------------------------------

    def dress(self, environ: Environ, headers: HeaderList) -> HeaderList:
        """The headers of an answer, with ours added."""
        ours = [("X-Request-Id", environ[REQUEST_ID]), ("X-Content-Type-Options", "nosniff")]
        return [*headers, *ours, *self._cors(environ.get("HTTP_ORIGIN", ""))]

    def _cors(self, origin: str) -> HeaderList:
        """Any origin without credentials, or the listed ones, which may use the refresh cookie."""
        if self._any_origin:
            return [("Access-Control-Allow-Origin", "*"), ("Access-Control-Expose-Headers", _EXPOSED)]
        if origin not in self._origins:
            return [("Vary", "Origin")]
        return [
            ("Access-Control-Allow-Origin", origin),
            ("Access-Control-Allow-Credentials", "true"),
            ("Access-Control-Expose-Headers", _EXPOSED),
            ("Vary", "Origin"),
        ]

    def _preflight(self, environ: Environ) -> HeaderList:
        """The answer to a browser that asks before it sends; needs no token."""
        if not self._any_origin and environ.get("HTTP_ORIGIN", "") not in self._origins:
            return []
        asked = environ.get("HTTP_ACCESS_CONTROL_REQUEST_HEADERS", "")
        headers = [
            ("Access-Control-Allow-Methods", _METHODS),
            ("Access-Control-Max-Age", _PREFLIGHT_SECONDS),
        ]
        if asked and _HEADER_NAMES.fullmatch(asked):
            headers.append(("Access-Control-Allow-Headers", asked))
        return headers

    def log(
        self, environ: Environ, route: tuple[str | None, str | None], status: int, sent: int, seconds: float
    ) -> None:
        """One line for one request; of successful ones a share."""
        if status < 400 and (self._sample == 0.0 or (self._sample < 1.0 and random.random() >= self._sample)):  # noqa: S311
            return
        rule, station = route
        if self._logger is None:  # found once: finding it costs more than a line
            self._logger = structlog.get_logger().bind()
        logger = self._logger
        (logger.warning if status >= 500 else logger.info)(
            "request",
            method=environ.get("REQUEST_METHOD"),
            route=rule,
            station=station,
            status=status,
            bytes_in=_length(environ.get("CONTENT_LENGTH") or ""),
            bytes_out=sent,
            ms=round(seconds * 1000, 3),
            request_id=environ[REQUEST_ID],
            user=environ.get(USER),
            client=environ.get("REMOTE_ADDR"),
        )


class Exchange:
    """One request and its answer. It is also the iterable that the server sends and closes."""

    __slots__ = ("_close", "_edge", "_environ", "_next", "_route", "_sent", "_start", "_started", "_status")

    def __init__(self, edge: Edge, environ: Environ, start_response: StartResponse) -> None:
        self._started = time.perf_counter()
        self._edge, self._environ, self._start = edge, environ, start_response
        self._status, self._sent, self._close = 500, 0, None
        self._route: tuple[str | None, str | None] = (None, None)
        if REQUEST_ID not in environ:  # `again_for` has not done it
            edge.prepare(environ)

    def start(self, status: str, headers: HeaderList, exc_info: Any = None) -> Any:
        """The application's `start_response`."""
        self._status = int(status[:3])
        self._route = _route(self._environ)  # Flask takes its request away before the answer is sent
        return self._start(status, self._edge.dress(self._environ, headers), *([exc_info] if exc_info else []))

    def carry(self, body: Iterable[bytes]) -> Iterable[bytes]:
        """What to send: the application's body; one that is not complete yet is watched to its end."""
        if isinstance(body, list):
            self._sent = sum(map(len, body))
            self.close()
            return body
        self._next = iter(body).__next__
        self._close = getattr(body, "close", None)
        return self

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        chunk = self._next()
        self._sent += len(chunk)
        return chunk

    def close(self) -> None:
        """Called by the server when all is sent, or the client is gone."""
        try:
            if self._close is not None:
                self._close()
        finally:
            seconds = time.perf_counter() - self._started
            self._edge.log(self._environ, self._route, self._status, self._sent, seconds)


def _move_token(environ: Environ) -> None:
    """Takes `authorization=` out of the query; it becomes the header, if there is none."""
    kept, token = [], ""
    for pair in environ["QUERY_STRING"].split("&"):
        name, _, value = pair.partition("=")
        if unquote_plus(name).lower() == "authorization":
            token = token or unquote_plus(value)
        else:
            kept.append(pair)
    query = environ["QUERY_STRING"] = "&".join(kept)
    for variable in ("RAW_URI", "REQUEST_URI"):
        if variable in environ:
            environ[variable] = environ[variable].partition("?")[0] + (f"?{query}" if query else "")
    if token and "HTTP_AUTHORIZATION" not in environ:
        token = token[7:].strip() if token[:7].lower() == "bearer " else token
        environ["HTTP_AUTHORIZATION"] = f"Bearer {token}"


def _fold(path: str) -> str:
    """Our own paths in the one way that the application knows them; a station's name has no case either."""
    return path.lower().rstrip("/")


def _route(environ: Environ) -> tuple[str | None, str | None]:
    """The pattern of the route that served the request, and its station: Flask leaves its request here."""
    if ROUTE in environ:
        route: tuple[str, str] = environ[ROUTE]
        return route
    request = environ.get("werkzeug.request")
    rule = getattr(request, "url_rule", None)
    arguments = getattr(request, "view_args", None) or {}
    return (rule.rule if rule is not None else None), arguments.get("station")


def _length(text: str) -> int | None:
    """The body's length as the client told it."""
    return int(text) if text.isdecimal() and len(text) < 20 else None


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_in(networks: Iterable[Any], address: str) -> bool:
    if not _is_address(address):
        return False
    ip = ipaddress.ip_address(address)
    ip = getattr(ip, "ipv4_mapped", None) or ip  # an IPv4 client of a socket for both
    return any(ip in network for network in networks)
