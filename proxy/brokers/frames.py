"""The bytes of a publish on the wire.

Source: the NATS client protocol, `HPUB <subject> <reply> <header bytes> <total bytes>`, and ADR-4 for headers.
"""

from __future__ import annotations

import functools
import operator
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from proxy.messages import Elements, Message, Pairs

# A message: how many bytes its header block has, and that with the payload behind it.
Block = tuple[int, bytes]

_FORBIDDEN = str.maketrans("", "", "\r\n\0")
_BEGIN, _GO_ON, _COMMIT = 0, 1, 2  # what a message does for its batch; its end without a message is for `groups`
_MARK_SIZE = 9  # the dot before an element's mark, and its digits
_MOST_IN_FORM = 1000  # messages; a form has some 150 bytes for each, and many are kept
_LINE_ENDS = [b"%d\r\n" % size for size in range(4096)]  # kept, as numbers are slow to write


def publish(subject: str, reply: str, block: Block) -> bytes:
    """One message with headers."""
    head, data = block
    return b"%b%b\r\n" % (f"HPUB {subject} {reply} {head} {len(data)}\r\n".encode(), data)


def batch(subject: str, reply: str, messages: list[Block]) -> bytes:
    """The messages of a fast-ingest batch, one after the other, as one piece.

    `reply` is the reply subject up to the message's number; behind that stands one of the operations (NATS ADR-50).
    """
    form = _literal(f"HPUB {subject} {reply}".encode()) + b"%d.%d.$FI %d %d\r\n%b\r\n"
    frames = [form % (n, _GO_ON, head, len(data), data) for n, (head, data) in enumerate(messages, 1)]
    for n, operation in ((1, _BEGIN), (len(messages), _COMMIT)):
        head, data = messages[n - 1]
        frames[n - 1] = form % (n, operation, head, len(data), data)
    return b"".join(frames)


class Whole(NamedTuple):
    """A batch whose elements are sent all together; made into frames without a look at each by the interpreter."""

    messages: Elements
    before: bytes
    after: bytes

    def largest(self) -> int:
        """Bytes of the largest message with headers, or a few more."""
        messages = self.messages
        head = len(self.before) + len(str(len(messages))) + _MARK_SIZE + len(self.after)
        return head + max(messages.sizes)

    def frames(self, subject: str, reply: str) -> bytes:
        """What `batch` makes of the `blocks` of these messages, without a step of the interpreter for each."""
        messages, before, after = self.messages, self.before, self.after
        form = _form(len(before) + _MARK_SIZE + len(after), len(messages))
        begin = f"\r\nHPUB {subject} {reply}".encode()
        parts = [begin, b"", b"", before, b"", b"", after, b""] * len(messages)
        parts[0] = begin[2:]
        parts[1::8] = form.numbers
        parts[2::8] = _line_ends(list(map(operator.add, form.heads, messages.sizes)))
        parts[4::8] = form.places
        parts[5::8] = struct.pack(f">{len(messages)}I", *messages.marks).hex(" ", 4).encode().split()
        parts[7::8] = messages.payloads
        parts.append(b"\r\n")
        return b"".join(parts)


def whole(id_name: str, marks: Pairs, messages: Sequence[Message], count: int) -> Whole | None:
    """So many of these messages as one piece; None if they are not all, one, or too many, or no elements of a batch."""
    if not isinstance(messages, Elements) or count != len(messages) or not 1 < count <= _MOST_IN_FORM:
        return None
    before, after = around(id_name, messages.headers + marks)
    return Whole(messages, before + messages.start.encode(), after)


class _Form(NamedTuple):
    """What is alike in batches of so many elements: the frame from the number on, its header bytes, the id's place."""

    numbers: list[bytes]
    heads: list[int]
    places: list[bytes]


@functools.lru_cache(maxsize=64)
def _form(head: int, count: int) -> _Form:
    """For elements whose header blocks have `head` bytes and the place."""
    heads = [head + len(str(place)) for place in range(count)]
    operations = [_BEGIN, *[_GO_ON] * (count - 2), _COMMIT]
    numbers = [b"%d.%d.$FI %d " % each for each in zip(range(1, count + 1), operations, heads, strict=True)]
    return _Form(numbers, heads, [b"%d." % place for place in range(count)])


def _line_ends(sizes: list[int]) -> list[bytes]:
    """The last word of each frame's first line."""
    try:
        return list(map(_LINE_ENDS.__getitem__, sizes))
    except IndexError:
        return [b"%d\r\n" % size for size in sizes]


def blocks(id_name: str, marks: Pairs, messages: Sequence[Message], indexes: Iterable[int]) -> list[Block]:
    """Messages as they are sent, those at these places: with their ids under `id_name`, and `marks` for headers more.

    What messages have in common is encoded once, as it is most of it.
    """
    if isinstance(messages, Elements):
        return _blocks_of_elements(id_name, marks, messages, indexes)
    found: list[Block] = []
    pairs, before, after = None, b"", b""
    for message in map(messages.__getitem__, indexes):
        if message.headers != pairs:  # most are alike, and need not be looked up
            pairs = message.headers
            before, after = around(id_name, pairs + marks)
        data = b"%b%b%b%b" % (before, message.key.encode(), after, message.payload)
        found.append((len(data) - len(message.payload), data))
    return found


def _blocks_of_elements(id_name: str, marks: Pairs, messages: Elements, indexes: Iterable[int]) -> list[Block]:
    before, after = around(id_name, messages.headers + marks)
    form = b"%b%%d.%%08x%b%%b" % (_literal(before + messages.start.encode()), _literal(after))
    payloads, numbers = messages.payloads, messages.marks
    datas = [(form % (index, numbers[index], payloads[index]), index) for index in indexes]
    return [(len(data) - len(payloads[index]), data) for data, index in datas]


def _literal(data: bytes) -> bytes:
    """What stands for itself in a format."""
    return data.replace(b"%", b"%%")


def headers(id_name: str, key: str, pairs: Pairs) -> bytes:
    """The header block of a message: its de-duplication id under `id_name`, then the message's own headers."""
    before, after = around(id_name, pairs)
    return b"%b%b%b" % (before, key.encode(), after)


def atomic(head: bytes, batch: str, number: int, last: bool) -> bytes:
    """A header block with the marks of an atomic batch: its id, the message's number, and the last one's commit."""
    marks = f"Nats-Batch-Id:{batch}\r\nNats-Batch-Sequence:{number}\r\n" + ("Nats-Batch-Commit:1\r\n" if last else "")
    return b"%b%b\r\n" % (head[:-2], marks.encode())


@functools.lru_cache(maxsize=1024)
def around(id_name: str, pairs: Pairs) -> tuple[bytes, bytes]:
    """A header block up to the de-duplication id and from its end on: what a sender's messages have in common.

    What would end a line is taken out once more here: whoever forgets to check it must not gain a header by it.
    """
    lines = [f"{name.translate(_FORBIDDEN)}: {value.translate(_FORBIDDEN)}\r\n" for name, value in pairs]
    shared = "".join(lines).encode("utf-8", "surrogateescape")
    return f"NATS/1.0\r\n{id_name}:".encode(), b"\r\n%b\r\n" % shared


def request(subject: str, reply: str, payload: bytes) -> bytes:
    """One message without headers, as the JetStream API takes its requests."""
    return b"PUB %b %b %d\r\n%b\r\n" % (subject.encode(), reply.encode(), len(payload), payload)


def publish_only(subject: str, payload: bytes) -> bytes:
    """One message without headers that nobody answers."""
    return b"PUB %b %d\r\n%b\r\n" % (subject.encode(), len(payload), payload)
