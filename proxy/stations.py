"""`/stations`: produce messages to a station."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Blueprint, Response, request

import schemas
from proxy import shaping
from proxy.credentials import Credentials
from proxy.errors import BadBody, BadHeader, LengthRequired, UnsupportedMediaType, encode
from proxy.extension import OUTCOME, Answer, Proved, Stations, the_stations
from proxy.messages import Ack, Station, station_named
from schemas.stations import AckAt, AckOf, Key

bp = Blueprint("stations", __name__, url_prefix="/stations")

STORED = b'{"error":null,"success":true}'
_KEY, _ACK, _ACKS = Key(), AckOf(), AckAt(many=True)


@bp.post("/<path:station>/produce/single")
def produce_single(station: str) -> Response:
    """Stores the body as one message; answers once the broker has it."""
    return _produce(station, single)


@bp.post("/<path:station>/produce/batch")
def produce_batch(station: str) -> Response:
    """Stores each element of the body as one message; answers once the broker has all of them."""
    return _produce(station, batch)


def _produce(name: str, answer: Answer) -> Response:
    """What Flask adds: the route, the limit on the body, and the memory that this request was fine."""
    extension, environ = the_stations(), request.environ
    credentials, station, body = extension.caller().credentials, station_named(name), _body()
    if OUTCOME in environ:  # the lane has tried, and only the answer is left to give
        raise environ[OUTCOME]
    content = answer(extension, credentials, station, environ, body)
    extension.prove(environ["PATH_INFO"], Proved(str(request.endpoint), answer, station, str(request.url_rule)))
    return Response(content, mimetype="application/json")


def single(
    extension: Stations, credentials: Credentials, station: Station, environ: Mapping[str, Any], body: bytes
) -> bytes:
    """Produces the body as one message and returns the answer's body. Raises what is wrong, or what became of it."""
    key, places = _key(environ), _wants_representation(environ)
    payload = shaping.single(environ.get("CONTENT_TYPE", ""), body)
    headers = extension.headers.pick(environ)
    ack = extension.producer.single(credentials, station, payload, headers, key, places)
    if not places:
        return STORED
    return encode({"ack": _ACK.dump(_place(station, ack)), "error": None, "success": True})


def batch(
    extension: Stations, credentials: Credentials, station: Station, environ: Mapping[str, Any], body: bytes
) -> bytes:
    """Produces each element of the body as one message; otherwise as `single`."""
    key, places = _key(environ), _wants_representation(environ)
    payloads = shaping.batch(environ.get("CONTENT_TYPE", ""), body, extension.config.max_batch_messages)
    headers = extension.headers.pick(environ, content_type="application/json")
    acks = extension.producer.batch(credentials, station, payloads, headers, key, places)
    if not places:
        return STORED
    rows = [{"index": index, **_place(station, ack)} for index, ack in enumerate(acks)]
    return encode({"acks": _ACKS.dump(rows), "error": None, "success": True})


def _body() -> bytes:
    """The body as sent; the application's limit on its length is enforced before it is read."""
    if request.content_length is None and not request.environ.get("HTTP_TRANSFER_ENCODING"):
        raise LengthRequired
    if request.environ.get("HTTP_CONTENT_ENCODING", "identity").strip().lower() not in ("", "identity"):
        raise UnsupportedMediaType("send the body without Content-Encoding")
    return request.get_data(cache=False)


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


def _wants_representation(environ: Mapping[str, Any]) -> bool:
    prefer: str = environ.get("HTTP_PREFER", "")
    return prefer != "" and "return=representation" in prefer.lower().replace(" ", "").replace('"', "")


def _place(station: Station, ack: Ack) -> dict[str, object]:
    return {"station": station.name, "sequence": ack.sequence, "duplicate": ack.duplicate}
