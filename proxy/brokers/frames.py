"""The bytes of a publish on the wire.

Source: the NATS client protocol, `HPUB <subject> <reply> <header bytes> <total bytes>`, and ADR-4 for headers.
"""

from __future__ import annotations

import functools

_FORBIDDEN = str.maketrans("", "", "\r\n\0")


def publish(subject: str, reply: str, head: bytes, payload: bytes) -> bytes:
    """One message with headers. `head` is from `headers`."""
    size = len(head)
    line = f"HPUB {subject} {reply} {size} {size + len(payload)}\r\n".encode()
    return b"%b%b%b\r\n" % (line, head, payload)


def batch(subject: str, reply: str, messages: list[tuple[bytes, bytes]]) -> bytes:
    """The messages of a fast-ingest batch (head and payload), one after the other, as one piece.

    `reply` is the reply subject up to the message's number. The operation behind it is 0 for the message that begins a
    batch, 1 for one that goes on, 2 for the one that ends it (NATS ADR-50).
    """
    start, last = f"HPUB {subject} {reply}".encode(), len(messages)
    frames = []
    for n, (head, payload) in enumerate(messages, 1):
        operation = 2 if n == last else 0 if n == 1 else 1
        size = len(head)
        frames.append(
            b"%b%d.%d.$FI %d %d\r\n%b%b\r\n" % (start, n, operation, size, size + len(payload), head, payload)
        )
    return b"".join(frames)


def headers(id_name: str, key: str, pairs: tuple[tuple[str, str], ...]) -> bytes:
    """The header block of a message: its de-duplication id under `id_name`, then the message's own headers."""
    before, after = around(id_name, pairs)
    return b"%b%b%b" % (before, key.encode(), after)


def atomic(head: bytes, batch: str, number: int, last: bool) -> bytes:
    """A header block with the marks of an atomic batch: its id, the message's number, and the last one's commit."""
    marks = f"Nats-Batch-Id:{batch}\r\nNats-Batch-Sequence:{number}\r\n" + ("Nats-Batch-Commit:1\r\n" if last else "")
    return b"%b%b\r\n" % (head[:-2], marks.encode())


@functools.lru_cache(maxsize=1024)
def around(id_name: str, pairs: tuple[tuple[str, str], ...]) -> tuple[bytes, bytes]:
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
