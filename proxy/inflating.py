"""Bodies with `Content-Encoding: gzip` (RFC 1952): inflated up to a limit, and no further.

A few bytes of gzip can stand for gigabytes, and a body can consist of many members that hold nothing. So the size is
judged while it grows, and the number of members is limited.
"""

from __future__ import annotations

import io
import threading
import weakref
import zlib
from typing import Any

from proxy.breathing import breathe
from proxy.errors import BadBody, Overloaded, TooLarge

MAX_MEMBERS = 100
MAX_HELD_BYTES = 256 << 20
PATIENCE_SECONDS = 5.0
_PIECE = 16 << 10
_STEP = 128 << 10
_GZIP = 16 + zlib.MAX_WBITS
_CODINGS = {"": False, "identity": False, "gzip": True, "x-gzip": True}


def is_gzip(coding: str) -> bool | None:
    """What `Content-Encoding` says: true for gzip, false for bytes as they are, None for anything else."""
    return _CODINGS.get(coding.strip().lower())


class Share:
    """So many bytes of content, which count as long as this is there."""

    __slots__ = ("__weakref__", "size")

    def __init__(self, size: int) -> None:
        self.size = size


class Inflating:
    """Inflates bodies of a process, one after the other; `most` bytes of contents are held at once, or one content.

    Seven kilobytes may become seven megabytes, so what senders spend on many at once bounds neither the memory that
    they take nor the time for which others wait.
    """

    def __init__(self, most: int = MAX_HELD_BYTES, patience: float = PATIENCE_SECONDS) -> None:
        self._most, self._patience = most, patience
        self._turn = threading.Lock()
        self._shares: weakref.WeakSet[Share] = weakref.WeakSet()

    def content(self, body: bytes, limit: int) -> tuple[bytes, Share]:
        """As `gunzip`, and what to keep as long as the content. Raises `Overloaded` also."""
        if not self._turn.acquire(timeout=self._patience):
            raise Overloaded("too many gzip bodies are waiting to be inflated; try again shortly")
        try:
            breathe()
            content = gunzip(body, limit)
            held = sum(share.size for share in list(self._shares))
            if held and held + len(content) > self._most:
                raise Overloaded("this worker holds as much content of gzip bodies as it can; try again shortly")
            share = Share(len(content))
            self._shares.add(share)
        finally:
            self._turn.release()
        return content, share


def gunzip(body: bytes, limit: int) -> bytes:
    """The content of a gzip body; it needs `limit` bytes of memory and little more, whatever the body is.

    Raises `TooLarge` for content above `limit` bytes, `BadBody` for what is no gzip, is cut off, has something else
    behind it, or has more than 100 members.
    """
    content, view = io.BytesIO(), memoryview(body)  # it gives its buffer away, where joined pieces would be copied
    position = members = 0
    while position < len(view) or not members:
        members += 1
        if members > MAX_MEMBERS:
            raise BadBody(f"the body has more than {MAX_MEMBERS} gzip members")
        position = _member(view, position, content, limit)
    return content.getvalue()


def _member(view: memoryview, position: int, content: io.BytesIO, limit: int) -> int:
    """Inflates one member into `content`; returns where the next one begins."""
    inflater = zlib.decompressobj(_GZIP)
    while not inflater.eof:
        piece = view[position : position + _PIECE]
        if not piece:
            raise BadBody("the gzip body is cut off")
        try:
            _inflate(inflater, piece, content, limit)
        except zlib.error:
            raise BadBody("the body is not gzip, though Content-Encoding says so") from None
        position += len(piece)
    return position - len(inflater.unused_data)


def _inflate(inflater: Any, piece: bytes | memoryview, content: io.BytesIO, limit: int) -> None:
    """Inflates one piece, in steps: a few thousand bytes may become millions."""
    size = _STEP
    # A full step may have left something inside the inflater; at its end what it calls its tail is not to be trusted.
    while (piece or size == _STEP) and not inflater.eof:
        size = content.write(inflater.decompress(piece, _STEP))
        if content.tell() > limit:
            raise TooLarge(f"the body is larger than {limit} bytes when inflated")
        piece = inflater.unconsumed_tail
