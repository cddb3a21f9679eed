"""What a schema has refused, kept in a station of its own: `<station>.dls`.

A dead letter has the bytes and headers that were sent, and beside them why, where, from whom and when they were
refused. It is stored under the sender's own permissions, and checked against no schema.
"""

from __future__ import annotations

import datetime
import hashlib

from proxy.errors import GatewayError, SchemaViolation
from proxy.messages import Ack, Message, Station, station_named

SUFFIX = ".dls"
PREFIX = "dls-"  # of headers that only we set: `shaping` takes none of a sender's
MAX_REASON_BYTES = 1024


def station_of(station: Station) -> Station:
    """The station that keeps what this one refuses. Raises `BadStationName` where the name would be too long."""
    return station_named(station.name + SUFFIX)


def letters(rejected: list[tuple[Message, SchemaViolation]], station: Station, user: str) -> list[Message]:
    """The dead letters of messages that were refused.

    Their ids stand for the payloads too, so that repeats need no comparison. Headers that look like ours are left out.
    """
    facts = (("dls-station", station.name), ("dls-user", _line(user)), ("dls-time", _now()))
    return [_letter(message, ("dls-reason", _line(error.message)), *facts) for message, error in rejected]


def _letter(message: Message, *facts: tuple[str, str]) -> Message:
    own = tuple(pair for pair in message.headers if not pair[0].lower().startswith(PREFIX))
    id = f"{message.key}.{hashlib.sha256(message.payload).hexdigest()[:8]}"
    return Message(message.payload, own + facts, id, named=message.named)


def outcome(result: Ack | GatewayError | None) -> str:
    """What the sender is told: `stored`, or that it was not and why, or that nobody knows.

    `sent` (None) where the broker keeps dead letters itself, and answers nothing.
    """
    if result is None:
        return "sent"
    if isinstance(result, Ack):
        return "stored"
    return f"{'unknown' if result.stored == 'unknown' else 'failed'}: {result.message}"


def _line(text: str) -> str:
    """A text as the value of a header: one line, of bounded size, in UTF-8 whatever it held."""
    line = "".join(character if character.isprintable() else " " for character in text)
    return line.encode(errors="replace")[:MAX_REASON_BYTES].decode(errors="ignore").strip()


def _now() -> str:
    """The time as RFC 3339 writes it, in UTC."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
