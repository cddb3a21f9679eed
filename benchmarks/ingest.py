"""How fast a broker takes messages from a client that does nothing but send what was encoded before.

    python -m benchmarks.ingest [--rounds N] [--batches N]

No gateway can be faster at the same kind of messages. Each kind is sent in batches of 100, eight of them
under way at once, to a new stream; kinds take turns, and medians are told.
"""

from __future__ import annotations

import argparse
import itertools
import json
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from benchmarks import report, servers
from benchmarks.measure import cpu_seconds
from benchmarks.streams import TOKEN, USER, Streams
from proxy.brokers import frames
from proxy.keys import elements

MESSAGES, AT_ONCE, SECONDS = 100, 8, 30
STATION, SUBJECT, INBOX = "bench", "bench.final", "_INBOX.ingest."
PAYLOADS = [json.dumps({"n": n, "text": "x" * 80}).encode() for n in range(MESSAGES)]
JSON = (("content-type", "application/json"),)


class Kind(NamedTuple):
    """A way to send the batch of that number, and how many answers come to it."""

    meaning: str
    encode: Callable[[int], bytes]
    answers: int


def _as_we_do(number: int) -> bytes:
    batch = elements("abcdefghijkl", f"-{number:09}", PAYLOADS, JSON, named=False)
    return frames.batch(SUBJECT, _reply(number), frames.blocks("Nats-Msg-Id", (), batch, range(MESSAGES)))


def _without_headers(number: int) -> bytes:
    """One batch still. Its frames have no header block, so they are another verb's."""
    operations = [0, *[1] * (MESSAGES - 2), 2]
    replies = [f"{_reply(number)}{n}.{operation}.$FI" for n, operation in enumerate(operations, 1)]
    return b"".join(map(frames.request, [SUBJECT] * MESSAGES, replies, PAYLOADS))


def _acked_each(number: int) -> bytes:
    return b"".join(frames.request(SUBJECT, f"{INBOX}{number}.{n}", PAYLOADS[n]) for n in range(MESSAGES))


def _reply(number: int) -> str:
    return f"{INBOX}{number}.500.fail."


KINDS = (
    Kind("a batch, with ids and content types, as the gateway sends it", _as_we_do, 1),
    Kind("a batch without headers", _without_headers, 1),
    Kind("without headers, an ack each, as the peer sends it", _acked_each, MESSAGES),
)


def run(server: servers.NatsServer, kind: Kind, batches: int) -> tuple[float, float]:
    """Messages a second, and microseconds of the broker's CPU time for each."""
    Streams(server.url).make([STATION])
    data = [kind.encode(number) for number in range(batches)]
    with socket.create_connection(("127.0.0.1", server.port), SECONDS) as connection:
        hello = {"user": USER, "pass": TOKEN, "verbose": False, "headers": True, "no_responders": True}
        connection.sendall(f"CONNECT {json.dumps(hello)}\r\nSUB {INBOX}> 1\r\n".encode())
        acks = _acks(connection.makefile("rb"))
        began, before = time.perf_counter(), cpu_seconds([server.pid])
        for number, batch in enumerate(data):
            connection.sendall(batch)
            if number + 1 >= AT_ONCE:
                _take(acks, kind.answers)
        _take(acks, kind.answers * (min(batches, AT_ONCE) - 1))
        seconds, cpu = time.perf_counter() - began, cpu_seconds([server.pid]) - before
    if Streams(server.url).stored().messages != batches * MESSAGES:
        raise RuntimeError("the stream does not hold what was acknowledged")
    return batches * MESSAGES / seconds, cpu / (batches * MESSAGES) * 1e6


def _acks(lines: BinaryIO) -> Iterator[bytes]:
    """The answers that say that messages are stored; the first word of a batch, which is none, is passed over."""
    for line in lines:
        if line.startswith(b"-ERR"):
            raise RuntimeError(line.decode())
        if line.startswith(b"MSG"):
            data = lines.read(int(line.split()[-1]) + 2)
            if b'"error"' in data:
                raise RuntimeError(data.decode())
            if b'"type":' not in data:
                yield data


def _take(acks: Iterator[bytes], count: int) -> None:
    if len(list(itertools.islice(acks, count))) < count:
        raise RuntimeError("the broker has closed the connection")


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingest", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=2000, help="of 100 messages, a kind and round")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name, servers.broker(Path(name) / "nats") as server:
        rounds = [[run(server, kind, options.batches) for kind in KINDS] for _ in range(options.rounds)]
    rows = [
        [kind.meaning, f"{statistics.median(rates):,.0f}", f"{statistics.median(costs):.1f}"]
        for kind, results in zip(KINDS, zip(*rounds, strict=True), strict=True)
        for rates, costs in [zip(*results, strict=True)]
    ]
    print(report.table(["messages", "messages/s", "broker us"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
