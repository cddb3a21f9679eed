"""Who waits for the replies to what a connection has sent."""

from __future__ import annotations

from typing import Protocol

import msgspec


class Owner(Protocol):
    """Whoever sent something and is told what became of it. `index` is what it gave to `send`."""

    def answered(self, index: int, data: bytes, status: str | None) -> None:
        """A reply came."""

    def denied(self, index: int, maybe_stored: bool) -> None:
        """The server does not let this user publish that."""

    def lost(self, index: int) -> None:
        """The connection ended before a reply came."""


class Waiting(msgspec.Struct, frozen=True):
    """Sent frames whose reply has not come: whose they are, which of its messages, where they went, how many."""

    owner: Owner
    item: int
    subject: str
    frames: int
