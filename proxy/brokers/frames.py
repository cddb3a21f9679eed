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


def headers(id_name: str, key: str, pairs: tuple[tuple[str, str], ...]) -> bytes:
    """The header block of a message: its de-duplication id under `id_name`, then the message's own headers."""
    return b"NATS/1.0\r\n%b:%b\r\n%b\r\n" % (id_name.encode(), key.encode(), _shared(pairs))


@functools.lru_cache(maxsize=1024)
def _shared(pairs: tuple[tuple[str, str], ...]) -> bytes:
    """The part that the messages of a batch, and of a sender, have in common.

    What would end a line is taken out once more here: whoever forgets to check it must not gain a header by it.
    """
    lines = [f"{name.translate(_FORBIDDEN)}: {value.translate(_FORBIDDEN)}\r\n" for name, value in pairs]
    return "".join(lines).encode("utf-8", "surrogateescape")


def request(subject: str, reply: str, payload: bytes) -> bytes:
    """One message without headers, as the JetStream API takes its requests."""
    return b"PUB %b %b %d\r\n%b\r\n" % (subject.encode(), reply.encode(), len(payload), payload)
