"""`/stations`: produce messages to a station."""

from __future__ import annotations

from flask import Blueprint, Response, request

import schemas
from proxy import shaping
from proxy.errors import BadBody, BadHeader, LengthRequired, UnsupportedMediaType, encode
from proxy.extension import the_stations
from proxy.messages import Ack, Station, station_named
from schemas.stations import AckAt, AckOf, Key

bp = Blueprint("stations", __name__, url_prefix="/stations")

STORED = b'{"error":null,"success":true}'
_KEY, _ACK, _ACKS = Key(), AckOf(), AckAt(many=True)


@bp.post("/<path:station>/produce/single")
def produce_single(station: str) -> Response:
    """Stores the body as one message; answers once the broker has it."""
    extension = the_stations()
    credentials, target, key = extension.caller().credentials, station_named(station), _key()
    payload = shaping.single(request.environ.get("CONTENT_TYPE", ""), _body())
    headers = extension.headers.pick(request.environ)
    ack = extension.producer.single(credentials, target, payload, headers, key)
    if not _wants_representation():
        return _json(STORED)
    return _json(encode({"ack": _ACK.dump(_place(target, ack)), "error": None, "success": True}))


@bp.post("/<path:station>/produce/batch")
def produce_batch(station: str) -> Response:
    """Stores each element of the body as one message; answers once the broker has all of them."""
    extension = the_stations()
    credentials, target, key = extension.caller().credentials, station_named(station), _key()
    most = extension.config.max_batch_messages
    payloads = shaping.batch(request.environ.get("CONTENT_TYPE", ""), _body(), most)
    headers = extension.headers.pick(request.environ, content_type="application/json")
    acks = extension.producer.batch(credentials, target, payloads, headers, key)
    if not _wants_representation():
        return _json(STORED)
    places = [{"index": index, **_place(target, ack)} for index, ack in enumerate(acks)]
    return _json(encode({"acks": _ACKS.dump(places), "error": None, "success": True}))


def _body() -> bytes:
    """The body as sent; the application's limit on its length is enforced before it is read."""
    if request.content_length is None and not request.environ.get("HTTP_TRANSFER_ENCODING"):
        raise LengthRequired
    if request.environ.get("HTTP_CONTENT_ENCODING", "identity").strip().lower() not in ("", "identity"):
        raise UnsupportedMediaType("send the body without Content-Encoding")
    return request.get_data(cache=False)


def _key() -> str:
    """The sender's de-duplication id; empty when there is none."""
    environ = request.environ
    key = environ.get("HTTP_IDEMPOTENCY_KEY", environ.get("HTTP_MSG_ID"))
    if key is None:
        return ""
    try:
        loaded: str = schemas.load(_KEY, {"key": key})["key"]
    except BadBody as error:
        name = "Idempotency-Key" if "HTTP_IDEMPOTENCY_KEY" in environ else "msg-id"
        raise BadHeader(f"header {name}: {error.message.removeprefix('key: ')}") from None
    return loaded


def _wants_representation() -> bool:
    prefer: str = request.environ.get("HTTP_PREFER", "")
    return "return=representation" in prefer.lower().replace(" ", "").replace('"', "")


def _place(station: Station, ack: Ack) -> dict[str, object]:
    return {"station": station.name, "sequence": ack.sequence, "duplicate": ack.duplicate}


def _json(body: bytes) -> Response:
    return Response(body, mimetype="application/json")
