"""Heads that a client sends again and again, parsed once.

On a kept-alive connection most requests differ from the one before in their body and its length alone. Their head is
the same bytes, so parsing it again could only give the same result.
"""

from __future__ import annotations

import re
from io import BytesIO

from proxy.http1_requests import Environ, Request

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})(?=\r\n)", re.IGNORECASE)
_LENGTH_DIGITS = 9
_LARGEST_HEAD = 2048
# Heads that mean more than "here is a body of this length".
_SPECIAL = {"HTTP_TRANSFER_ENCODING", "HTTP_EXPECT", "HTTP_UPGRADE", "HTTP_CONNECTION"}


class KnownHead:
    """A head that was parsed and found to be in order; `request` recognises it."""

    __slots__ = ("_after", "_before", "_environ", "_largest_body")

    def __init__(self, before: bytes, after: bytes, environ: Environ, largest_body: int) -> None:
        self._before = before
        self._after = after
        self._environ = environ
        self._largest_body = largest_body

    def request(self, data: bytes) -> Request | None:
        """The request in `data`, if that is this head with some length, a body of that length, and nothing else."""
        before = self._before
        if not data.startswith(before):
            return None
        start = len(before)
        end = data.find(b"\r", start, start + _LENGTH_DIGITS + 1)
        length = data[start:end]
        if not length.isdigit() or not data.startswith(self._after, end):
            return None
        body = data[end + len(self._after) :]
        if int(length) != len(body) or len(body) > self._largest_body:
            return None
        environ = self._environ.copy()
        environ["CONTENT_LENGTH"] = length.decode()
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
