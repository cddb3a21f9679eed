"""The outline of a JSON document: its brackets, without what stands in strings.

The document is gone through in blocks, of which each has few pieces, however many strings there are.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import accumulate

BLOCK = 256 << 10
_NOT_BRACKETS_OR_QUOTES = bytes(set(range(256)) - set(b'[]{}"'))
_AS_SQUARE = bytes.maketrans(b"{}", b"[]")
_AS_STEPS = bytes.maketrans(b"[]", b"\x01\xff")
_ROUNDS = 4


def is_deeper(body: bytes, most: int, block: int = BLOCK) -> bool:
    """Whether well-formed JSON is nested more than `most` levels deep, where `most` is four at least.

    Taking out all innermost pairs takes out one level; a few rounds leave little of ordinary documents. What is left
    is added up, one for each that opens, minus one for each that closes.
    """
    if body.count(b"[") + body.count(b"{") <= most:
        return False
    brackets = b"".join(_outside_strings(body, block))
    for _ in range(_ROUNDS):
        brackets = brackets.replace(b"[]", b"")
    steps = array("b", brackets.translate(_AS_STEPS))
    return max(accumulate(steps), default=0) > most - _ROUNDS


def _outside_strings(body: bytes, block: int) -> Iterator[bytes]:
    """The brackets of each block; braces become square ones."""
    start, inside = 0, False
    while start < len(body):
        part = _block(body, start, block)
        start += len(part)
        if b"\\" in part:
            part = part.replace(b"\\\\", b"").replace(b'\\"', b"")
        # Most strings shrink to a pair of quotes, which is quicker to take out than to split at. Where two strings with
        # brackets in them stand side by side, this makes them one, and their brackets stay inside it.
        pieces = part.translate(_AS_SQUARE, _NOT_BRACKETS_OR_QUOTES).replace(b'""', b"").split(b'"')
        yield b"".join(pieces[inside::2])
        inside ^= len(pieces) % 2 == 0


def _block(body: bytes, start: int, size: int) -> bytes:
    """The bytes from `start` on: `size` of them, or one more where that would split an escape."""
    part = body[start : start + size]
    escapes = len(part) - len(part.rstrip(b"\\"))
    return body[start : start + size + 1] if escapes % 2 else part
