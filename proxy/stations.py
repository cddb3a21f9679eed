"""`/stations`: produce messages to a station."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs

from flask import Blueprint, Response

import schemas
from proxy import intake, shaping
from proxy.answers import Answer
from proxy.breathing import breathe
from proxy.credentials import Credentials
from proxy.errors import BadBody, BadHeader, encode
from proxy.extension import OUTCOME, MakePlan, Proved, Stations, the_stations
from proxy.gathering import Done
from proxy.messages import Ack, Manner, Station, station_named
from schemas.stations import AckAt, AckOf, Key

bp = Blueprint("stations", __name__, url_prefix="/stations")
bp.record_once(intake.add_converters)

REPRESENTATION, ATOMIC = "return=representation", "atomic"
_ANSWERED_APART = {REPRESENTATION, ATOMIC}
MOST_ROWS = 100  # places of messages that are written without letting others run
ATOMIC_MESSAGES = 1000  # as many as brokers take in one atomic batch
STORED = b'{"error":null,"success":true}'
_KEY, _ACK, _ACKS = Key(), AckOf(), AckAt(many=True)


@bp.post("/<station:station>/produce/single")
def produce_single(station: str) -> Response:
    """Stores the body as one message; answers once the broker has it."""
    return _produce(station, Single)


@bp.post("/<station:station>/produce/batch")
def produce_batch(station: str) -> Response:
    """Stores each element of the body as one message; answers once the broker has all of them."""
    return _produce(station, Batch)


def _produce(name: str, plan: MakePlan) -> Response:
    """What Flask adds: the route, the limit on the body, and the memory that this request was fine."""
    extension, own = the_stations(), intake.current()
    environ = own.environ
    if OUTCOME in environ:  # the lane has tried, and only the answer is left to give
        raise environ[OUTCOME]
    credentials, station, body = extension.caller().credentials, station_named(name), intake.body()
    content = plan(extension, credentials, station, environ).answer(body)
    if extension.config.lane:
        extension.prove(environ["PATH_INFO"], Proved(str(own.endpoint), plan, station, str(own.url_rule)))
    return Answer(content)


class _Plan:
    """A produce as the head of its request says it: whose, where to, with which headers, key and preferences.

    Raises what is wrong with the head.
    """

    __slots__ = ("_content_type", "_credentials", "_extension", "_headers", "_key", "_preferences", "_station")

    #: The content type that messages are stored with; None for the request's.
    stored_type: str | None = None
    #: What `answer` returns for what `post` produces.
    posted = STORED

    def __init__(
        self, extension: Stations, credentials: Credentials, station: Station, environ: Mapping[str, Any]
    ) -> None:
        self._extension, self._credentials, self._station = extension, credentials, _placed(station, environ)
        self._key, self._preferences = _key(environ), _preferences(environ)
        self._content_type = environ.get("CONTENT_TYPE", "")
        self._headers = extension.headers.pick(environ, content_type=self.stored_type)

    @property
    def posts(self) -> bool:
        """Whether `post` does for any body under this head what `answer` does."""
        return not self._key and self._preferences.isdisjoint(_ANSWERED_APART)


class Single(_Plan):
    """The body is one message."""

    __slots__ = ()

    def answer(self, body: bytes) -> bytes:
        """Produces the body and returns the answer's body. Raises what is wrong, or what became of it."""
        payload = shaping.single(self._content_type, body)
        manner = _manner(self._preferences - {ATOMIC})
        producer = self._extension.producer
        ack = producer.single(self._credentials, self._station, payload, self._headers, self._key, manner)
        if REPRESENTATION not in self._preferences:
            return STORED
        return encode({"ack": _ACK.dump(_place(self._station, ack)), "error": None, "success": True})

    def post(self, body: bytes, done: Done, tag: Any) -> None:
        """Produces without waiting: `done(tag, ack or error)` is called in the event loop. Raises what is wrong."""
        payload = shaping.single(self._content_type, body)
        self._extension.producer.post(self._credentials, self._station, payload, self._headers, done, tag)


class Batch(_Plan):
    """Each element of the body is one message."""

    __slots__ = ()

    stored_type = "application/json"

    def answer(self, body: bytes) -> bytes:
        """Produces the elements and returns the answer's body. Raises what is wrong, or what became of them."""
        manner, payloads = _manner(self._preferences), self._payloads(body)
        producer = self._extension.producer
        acks = producer.batch(self._credentials, self._station, payloads, self._headers, self._key, manner)
        if REPRESENTATION not in self._preferences:
            return STORED
        return encode({"acks": list(self._rows(acks)), "error": None, "success": True})

    def post(self, body: bytes, done: Done, tag: Any) -> None:
        """Produces without waiting: `done(tag, ack or error)` is called in the event loop. Raises what is wrong."""
        producer = self._extension.producer
        producer.post_batch(self._credentials, self._station, self._payloads(body), self._headers, done, tag)

    def _rows(self, acks: list[Ack]) -> Iterator[dict[str, Any]]:
        for start in range(0, len(acks), MOST_ROWS):
            if start:
                breathe()
            acks_now = enumerate(acks[start : start + MOST_ROWS], start)
            yield from _ACKS.dump([{"index": index, **_place(self._station, ack)} for index, ack in acks_now])

    def _payloads(self, body: bytes) -> list[bytes]:
        most = self._extension.config.max_batch_messages
        if ATOMIC in self._preferences:
            most = min(most, ATOMIC_MESSAGES)
        return shaping.batch(self._content_type, body, most)


def _key(environ: Mapping[str, Any]) -> str:
    """The sender's de-duplication id; empty when there is none."""
    key = environ.get("HTTP_IDEMPOTENCY_KEY", environ.get("HTTP_MSG_ID"))
    if key is None:
        return ""
    try:
        loaded: str = schemas.load(_KEY, {"key": key})["key"]
    except BadBody as error:
        name = "Idempotency-Key" if "HTTP_IDEMPOTENCY_KEY" in environ else "msg-id"
        raise BadHeader(f"header {name}: {error.message.removeprefix('key: ')}") from None
    return loaded


def _placed(station: Station, environ: Mapping[str, Any]) -> Station:
    """The station with the partition key of `msg-partition-key` or `?partition_key=`; the header wins."""
    key = environ.get("HTTP_MSG_PARTITION_KEY")
    if key is not None:
        return station._replace(partition_key=key.encode("latin-1").decode("utf-8", "surrogateescape"))
    query = environ.get("QUERY_STRING", "")
    if "partition_key" not in query:
        return station
    keys = parse_qs(query, keep_blank_values=True, errors="surrogateescape").get("partition_key", [])
    return station._replace(partition_key=keys[0]) if keys else station


def _preferences(environ: Mapping[str, Any]) -> frozenset[str]:
    """What `Prefer` (RFC 7240) asks for, in lower case, without parameters; quotes and blanks do not count."""
    prefer: str = environ.get("HTTP_PREFER", "")
    if not prefer:
        return frozenset()
    return frozenset(item.partition(";")[0] for item in re.sub(r'[\s"]', "", prefer).lower().split(","))


def _manner(preferences: frozenset[str]) -> Manner:
    if ATOMIC in preferences:
        return "atomic"
    return "apart" if REPRESENTATION in preferences else "together"


def _place(station: Station, ack: Ack) -> dict[str, object]:
    return {"station": station.name, "sequence": ack.sequence, "duplicate": ack.duplicate}
