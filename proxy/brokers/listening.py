"""A connection that also listens: to subjects of news, and to inboxes of its own that messages are delivered to."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from nats.nuid import NUID

from proxy.brokers import frames
from proxy.brokers.connection import Connection, Options

Heard = Callable[[bytes], None]
Delivery = Callable[[bytes, bytes, "bytes | None"], None]  # reply subject, payload, header block

_FIRST_SID = 1 << 20  # nats-py gives subscriptions of its own smaller numbers
LATE_SECONDS = 2.0


class ListeningConnection(Connection):
    """A live connection; what it sends beside questions goes out in the order of the calls, with them."""

    def __init__(self, client: Any, options: Options) -> None:
        super().__init__(client, options)
        self._sids = itertools.count(_FIRST_SID)
        # Beside the inbox of replies, whose subscription would be handed everything once more.
        self._deliveries = f"{options.inbox_prefix}.{NUID().next().decode()}"

    def emit(self, frame: bytes) -> None:
        """Sends a frame at the end of this turn of the loop, after those that were sent before it."""
        if not self._frames:
            self._loop.call_soon(self.flush)
        self._frames.append(frame)

    def tell(self, subject: str, payload: bytes) -> None:
        """Publishes what nobody answers."""
        self.emit(frames.publish_only(subject, payload))

    def listen(self, subject: str, heard: Heard) -> int:
        """Has `heard` called with the payload of each message on a subject; its number, for `unlisten`.

        A frame that is sent after this is read by the broker after this.
        """
        sid = next(self._sids)
        self._client.takers[sid] = lambda subject, data, *rest: heard(data)
        self.emit(f"SUB {subject} {sid}\r\n".encode())
        return sid

    def unlisten(self, sid: int) -> None:
        """Ends that."""
        if self._client.takers.pop(sid, None) is not None:
            self.emit(f"UNSUB {sid}\r\n".encode())

    def open_inbox(self, delivered: Delivery) -> tuple[int, str]:
        """Has `delivered` called with all that is sent to an inbox; its number, for `close_inbox`, and its subject."""
        sid = next(self._sids)
        subject = f"{self._deliveries}.{sid:x}"
        self._client.takers[sid] = lambda subject, data, head, reply: delivered(reply, data, head)
        self.emit(f"SUB {subject} {sid}\r\n".encode())
        return sid, subject

    def close_inbox(self, sid: int) -> None:
        """Takes no more; what is on its way is still delivered for a moment, so that it can be given back."""
        self.emit(f"UNSUB {sid}\r\n".encode())
        self._loop.call_later(LATE_SECONDS, self._client.takers.pop, sid, None)
