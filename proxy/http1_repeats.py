"""Heads that a client sends again and again, parsed once.

On a kept-alive connection most requests differ from the one before in their body and its length alone. Their head is
the same bytes, so parsing it again could only give the same result.

An application may go further: it may have a function that takes an environ and gives an `Again`, which serves all
requests with that head from their bodies alone. It is asked for each head that is parsed; what it gives is kept with a
head that is remembered.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from io import BytesIO
from typing import Protocol

from proxy.http1_requests import Environ, Request

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})(?=\r\n)", re.IGNORECASE)
_LENGTH_DIGITS = 9
_LARGEST_HEAD = 2048
# Heads that mean more than "here is a body of this length".
_SPECIAL = {"HTTP_TRANSFER_ENCODING", "HTTP_EXPECT", "HTTP_UPGRADE", "HTTP_CONNECTION"}


class Asker(Protocol):
    """Who waits for the answer to a request that an `Again` takes. One of the two is called, in the event loop; perhaps
    before it is taken, if it is `decline`.
    """

    def answer(self, head: bytes, body: bytes) -> None:
        """Answers; `head` has no Content-Length, no Date, and no empty line at its end."""

    def decline(self, more: Environ) -> None:
        """Has the application serve the request after all, with this added to its environ."""


class Again(Protocol):
    """What serves the requests with a certain head, without WSGI and without a greenlet."""

    def __call__(self, body: bytes, asker: Asker) -> bool:
        """Takes a body, and answers later; or returns false, and the application serves the request as any other."""


AgainFor = Callable[[Environ], "Again | None"]


class KnownHead:
    """A head that was parsed and found to be in order; `body` recognises it, `request` makes a request of it."""

    __slots__ = ("_after", "_before", "_environ", "_largest_body", "again")

    def __init__(self, before: bytes, after: bytes, environ: Environ, largest_body: int) -> None:
        self._before = before
        self._after = after
        self._environ = environ
        self._largest_body = largest_body
        self.again: Again | None = None

    def body(self, data: bytes) -> bytes | None:
        """The body of the request in `data`, if that is this head with its length, the body, and nothing else."""
        before = self._before
        if not data.startswith(before):
            return None
        start = len(before)
        end = data.find(b"\r", start, start + _LENGTH_DIGITS + 1)
        if end < 0 or not data.startswith(self._after, end):
            return None
        body = data[end + len(self._after) :]
        return body if len(body) <= self._largest_body and data[start:end] == b"%d" % len(body) else None

    def request(self, body: bytes) -> Request:
        """The request with this head and that body."""
        environ = self._environ.copy()
        environ["CONTENT_LENGTH"] = str(len(body))
        environ["wsgi.input"] = BytesIO(body)
        return Request(environ, keep_alive=True, http10=False)


def known_head(data: bytes, request: Request, largest_body: int) -> KnownHead | None:
    """Remember the head of a request, just parsed from `data` and nothing else; None if it is not of the plain kind."""
    head = data[: data.find(b"\r\n\r\n") + 4]
    length = _LENGTH.search(head)
    plain = request.keep_alive and not request.http10 and request.environ.keys().isdisjoint(_SPECIAL)
    if length is None or not plain or len(head) > _LARGEST_HEAD:
        return None
    return KnownHead(data[: length.start(1)], head[length.end(1) :], request.environ.copy(), largest_body)
