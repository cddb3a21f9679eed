"""`/stations/<station>/consume`: read messages, ack them, or give them back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from flask import Blueprint, Response
from marshmallow import Schema

import schemas
from proxy import intake
from proxy.breathing import breathe
from proxy.consumer import Turn
from proxy.errors import BadBody, encode
from proxy.extension import the_stations
from proxy.hanging_up import Line
from proxy.messages import Delivered, Wanted, station_named
from schemas.consume import Acks, Consume, Nacks

bp = Blueprint("consume", __name__, url_prefix="/stations")
bp.record_once(intake.add_converters)

MAX_ACKS_BYTES = 8 << 20  # as many ids as may come, with their quotes
MAX_CONSUME_BYTES = 64 << 10
MOST_ROWS = 100  # that are written without letting others run
_CONSUME, _ACKS, _NACKS = Consume(), Acks(), Nacks()
_INTERNAL = "$memphis"  # headers with which the broker marks messages


class Row(msgspec.Struct, omit_defaults=True):
    """A message in an answer. `encoding` is "base64" for one that is not UTF-8, `ack_id` there for manual acks."""

    message: str
    headers: dict[str, str]
    encoding: str = ""
    ack_id: str = ""


class Answer(Response):
    """An answer whose body is read once, by the server: who else reads it must not make it look sent."""

    implicit_sequence_conversion = False


class Body:
    """The body of an answer with messages. Once it was written in full they are acked, unless their reader does that.

    A server takes the one chunk, writes it, and asks for the next: that is when it was written. One that cannot write
    it only closes this (PEP 3333), and the messages go back. So they do when the client has hung up meanwhile.
    """

    def __init__(self, turn: Turn, content: bytes, ack: bool, line: Line) -> None:
        self._turn, self._chunks, self._ack, self._line = turn, [content], ack, line
        self._gone = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._chunks:
            # Looked at before it is written: whoever closes right after has read it.
            self._gone = self._line.has_hung_up()
            return self._chunks.pop()
        self._turn.end(not (self._gone or self._line.was_reset()), self._ack)
        raise StopIteration

    def close(self) -> None:
        """Nothing more will be written."""
        self._turn.end(False, self._ack)


@bp.post("/<station:station>/consume/batch")
def consume_batch(station: str) -> Response:
    """Reads messages of a group; answers with a list of them, as soon as there are enough or the wait is over."""
    extension, named = the_stations(), station_named(station)
    caller = extension.caller()
    asked = schemas.load(_CONSUME, intake.fields(MAX_CONSUME_BYTES))
    manual = asked["ack"] == "manual"
    line = Line(intake.current().environ)
    turn = extension.consumer.take(caller.credentials, named, _wanted(asked), line.has_hung_up)
    with turn.given_back_on_failure():
        extension.tokens.check(caller)  # the wait may have been long
        content = msgspec.json.encode(list(_rows(turn, manual)))
        turn.shed()
        answer = Answer(Body(turn, content, not manual, line), mimetype="application/json")
        answer.content_length = len(content)
    return answer


@bp.post("/<station:station>/consume/ack")
def ack(station: str) -> Response:
    """Acks messages that were read with manual acks: 200 when the broker has taken all of these acks."""
    consumer, caller, named = the_stations().consumer, the_stations().caller(), station_named(station)
    asked = _asked(_ACKS)
    consumer.ack(caller.credentials, named, asked["ack_ids"])
    return _done()


@bp.post("/<station:station>/consume/nack")
def nack(station: str) -> Response:
    """Has messages delivered again, at once or after a delay: 200 when the broker has taken all of this."""
    consumer, caller, named = the_stations().consumer, the_stations().caller(), station_named(station)
    asked = _asked(_NACKS)
    consumer.give_back(caller.credentials, named, asked["ack_ids"], asked["delay_ms"] / 1000)
    return _done()


def _asked(shape: Schema) -> dict[str, Any]:
    return schemas.load(shape, intake.fields(MAX_ACKS_BYTES))


def _done() -> Response:
    return Response(encode({"error": None, "success": True}), mimetype="application/json")


def _wanted(asked: dict[str, Any]) -> Wanted:
    config, wait = the_stations().config, asked["batch_max_wait_time_ms"]
    most = int(config.consume_max_wait_seconds * 1000)
    if wait > most:
        raise BadBody(f"batch_max_wait_time_ms: must be at most {most} (CONSUME_MAX_WAIT_SECONDS)")
    name, group = asked["consumer_name"], asked["consumer_group"]
    return Wanted(name, group, asked["batch_size"], wait / 1000, config.consume_max_bytes)


def _rows(turn: Turn, manual: bool) -> Iterator[Row]:
    for number, message in enumerate(turn.messages, 1):
        if number % MOST_ROWS == 0:
            breathe()
        yield _row(turn, message, manual)


def _row(turn: Turn, message: Delivered, manual: bool) -> Row:
    headers = _headers(message.head)
    ack_id = turn.ack_id(message) if manual else ""
    try:
        return Row(message.payload.decode(), headers, "", ack_id)
    except UnicodeDecodeError:
        return Row(_base64(message.payload), headers, "base64", ack_id)


def _base64(payload: bytes) -> str:
    return str(msgspec.to_builtins(payload))


def _headers(head: bytes) -> dict[str, str]:
    """The headers of a block by name, as they were stored, the first of each name; without the broker's marks."""
    found: dict[str, str] = {}
    for line in head.split(b"\r\n")[1:]:
        name, colon, value = line.decode(errors="replace").partition(":")
        if colon and not name.startswith(_INTERNAL):
            found.setdefault(name.strip(), value.strip())
    return found
