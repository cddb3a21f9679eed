"""What the stand-in for a Memphis broker changes in the frames that it relays."""

from __future__ import annotations

import asyncio
import re


def with_nats_id(words: list[bytes], payload: bytes) -> tuple[bytes, bytes]:
    """The broker knows an id by `msg-id`, nats-server by `Nats-Msg-Id`."""
    size = int(words[-2])
    head, rest = payload[:size], payload[size:]
    head = re.sub(rb"\r\nNats-Msg-Id:", b"\r\nNot-Known-Here:", head)
    head = re.sub(rb"\r\nmsg-id:", b"\r\nNats-Msg-Id:", head)
    line = b" ".join([*words[:-2], b"%d" % len(head), b"%d" % (len(head) + len(rest) - 2)]) + b"\r\n"
    return line, head + rest


async def to_client(inner: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Relays what nats-server says, a whole message at a time."""
    while line := await inner.readline():
        words = line.split()
        if words[0] in (b"MSG", b"HMSG"):
            line += await inner.readexactly(int(words[-1]) + 2)
        writer.write(line)
        await writer.drain()
