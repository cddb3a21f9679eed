"""What goes to a station, and what comes back: message in, ack out."""

from __future__ import annotations

from typing import NamedTuple


class Message(NamedTuple):
    """One message for a station.

    `payload` is stored byte for byte; `headers` are names in lower case with their values; `key` is the broker's
    de-duplication id; `named` tells that the sender chose the key, so a duplicate must have the same bytes.
    """

    payload: bytes
    headers: tuple[tuple[str, str], ...]
    key: str
    named: bool = False


class Ack(NamedTuple):
    """The broker's word that it stored a message.

    `sequence` is its place in the station. `duplicate` is true when an earlier message with the same key is the one
    stored, None when a retry of ours makes it impossible to tell.
    """

    sequence: int
    duplicate: bool | None
