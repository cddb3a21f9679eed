"""What the application knows of the gateway: `current_app.extensions["stations"]`.

Routes of a team's own use it as ours do::

    ack = current_app.extensions["stations"].produce("orders", b"...")
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from flask import current_app, request

import schemas
from proxy import edge
from proxy.config import Config
from proxy.consumer import Consumer
from proxy.credentials import Credentials
from proxy.errors import BadBody, BadHeader, BadSetting, GatewayError, Unauthorized
from proxy.gathering import Done
from proxy.limits import Limits
from proxy.messages import Ack, Station, station_named
from proxy.producer import Producer
from proxy.registrar import Registrar
from proxy.seeding import Seeding
from proxy.shaping import HeaderFilter, HeaderPairs, check_headers
from proxy.tokens import Caller, Tokens
from schemas.stations import Key

OUTCOME = edge.OUTCOME  # what the lane met, for Flask to answer
MAX_PROVED = 10_000
_KEY = Key()


class Plan(Protocol):
    """A produce as the head of its request says it; whatever the body is, it stays the same."""

    @property
    def posts(self) -> bool:
        """Whether `post` may be used."""

    @property
    def posted(self) -> bytes:
        """The answer's body for what was posted."""

    def answer(self, body: bytes) -> bytes:
        """Produces and returns the answer's body. Raises what is wrong, or what became of it."""

    def post(self, body: bytes, done: Done, tag: Any) -> None:
        """The same without waiting, where it `posts`: `done(tag, ack or error)` is called in gevent's event loop."""


MakePlan = Callable[["Stations", Credentials, Station, Mapping[str, Any]], Plan]


class Proved(NamedTuple):
    """A path that Flask has served: its endpoint, what planned the answer, the station, the pattern of the route."""

    endpoint: str
    plan: MakePlan
    station: Station
    rule: str


class Stations:
    """The parts of the gateway, put together for one application."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.limits = Limits(config)
        self.tokens = Tokens(config)
        self.producer = Producer(config, self.tokens.revoke)
        self.tokens.prepare = functools.partial(self.producer.check_revocations, ever=True)
        #: Whether the worker is about to stop; for whoever runs it to set.
        self.leaving: Callable[[], bool] = lambda: False
        #: Whether nobody has added anything to the application; for whoever makes it to set.
        self.plain: Callable[[], bool] = lambda: False
        self.producer.leaving = lambda: self.leaving()
        self.consumer = Consumer(config, self.producer)
        self.registrar = Registrar(self.producer, config.produce_timeout_seconds)
        root = Credentials(config.root_user, config.root_secret)
        self._seeding = Seeding(config.schema_dir, root, self.producer, self.registrar)
        self.headers = HeaderFilter(config.forward_headers)
        self.edge: Any = None  # the wrapper around the application, for servers that refuse requests themselves
        self.proved: dict[str, Proved] = {}
        self.started_at = time.monotonic()

    def start(self, timeout: float = 10.0) -> None:
        """Starts what runs beside the requests; call it in the process that serves them.

        Raises `OpenBroker`, and `BadSetting` for a schema in `SCHEMA_DIR` that cannot be used.
        """
        self.producer.start(timeout)
        try:
            self._seeding.start()
        except BadSetting:
            self.stop(0)
            raise

    def alive(self) -> bool:
        """Whether this process is of any use; ask four times a second, and replace it when it is not."""
        return self.producer.alive()

    def stop(self, drain: float = 5.0) -> None:
        """Waits up to `drain` seconds for messages under way, and closes all connections."""
        self.producer.stop(drain)
        self._seeding.stop()

    def check(self) -> None:
        """Sees that this process can produce, and that its schemas are in the registry. Raises what is wrong."""
        self.producer.check()
        self._seeding.check()

    def prove(self, path: str, proved: Proved) -> None:
        """Remembers that Flask has served this path well. Bounded; two threads at worst forget once more.

        What says the same stays the same object, to which whoever was proved by it holds on.
        """
        if self.proved.get(path) == proved:
            return
        if len(self.proved) >= MAX_PROVED:
            self.proved.clear()
        self.proved[path] = proved

    def caller(self) -> Caller:
        """Who sent the current request, by its access token. Raises `Unauthorized` or `RateLimited`."""
        environ = request._get_current_object().environ  # type: ignore[attr-defined]  # looked up once
        scheme, _, token = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthorized
        caller = self.tokens.verify(token.strip())
        self.admit(environ, caller)
        return caller

    def admit(self, environ: dict[str, Any], caller: Caller) -> None:
        """Notes whose request this is, and counts it for that user, once. Raises `RateLimited`."""
        if environ.get(edge.USER) != caller.credentials.user:
            environ[edge.USER] = caller.credentials.user
            self.limits.admit(credentials=caller.credentials)

    def produce(self, station: str, message: bytes | str, *, headers: HeaderPairs = (), key: str = "") -> Ack:
        """Stores a message in a station as the caller of the current request, and returns the broker's ack.

        A `str` is stored as UTF-8. `headers` are (name, value) pairs; `key` is a de-duplication id. Raises a
        `GatewayError`, which becomes the answer if the route lets it pass.
        """
        check_headers(headers)
        _check_key(key)
        credentials = self.caller().credentials
        named, payload = station_named(station), _payload(message)
        try:
            return self.producer.single(credentials, named, payload, tuple(headers), key)
        except GatewayError as error:
            raise error.anew() from None  # a route may keep it from becoming the answer, which lets go of the payload


def _payload(message: bytes | str) -> bytes:
    try:
        return message.encode() if isinstance(message, str) else message
    except UnicodeEncodeError:
        raise BadBody("the message has half a surrogate pair in it, which UTF-8 cannot hold") from None


def _check_key(key: str) -> None:
    if key:
        try:
            schemas.load(_KEY, {"key": key})
        except BadBody as error:
            raise BadHeader(error.message) from None


def the_stations() -> Stations:
    """The extension of the current application."""
    extension: Stations = current_app._get_current_object().extensions["stations"]  # type: ignore[attr-defined]
    return extension
