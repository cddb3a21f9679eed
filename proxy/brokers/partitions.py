"""Which partition of a Memphis station a message goes to.

A partition knows the ids of its own messages alone, so a repeat must go where the first attempt went: in this process
or another, now or in a minute. Therefore nothing is counted here; the choice follows from the message. With a partition
key it is the one that Memphis' own clients make of it. Without, it follows from the de-duplication id: the ids that we
make count up (see `proxy.keys`), which makes it a round robin.
"""

from __future__ import annotations

import functools
import re
import string

from proxy.brokers.murmur import murmur3
from proxy.messages import Message, Station

SEED = 31  # that of Memphis' clients

# `<user>.<key>`, and for an element of a batch `.<index>.<digest>`; a key of ours has nine digits, that of a batch
# another one before them. See `proxy.keys`.
_ID = re.compile(r"[\w-]{12}\.(.*?)(?:\.(\d{1,9})\.[0-9a-f]{8})?", re.ASCII)
_OURS = re.compile(r"-?([\w-]{9})", re.ASCII)
_DIGITS = {digit: value for value, digit in enumerate(string.ascii_letters + string.digits + "-_")}


def stream_of(station: Station, partition: int) -> str:
    """The stream of a partition; stations of old brokers have none, which is 0 here."""
    return f"{station.internal}${partition}" if partition else station.internal


def partition_of(station: Station, message: Message, partitions: list[int]) -> int:
    """The number of the partition for a message to a station, out of those that this has (one at least)."""
    if len(partitions) == 1:
        return partitions[0]
    if station.partition_key is not None:
        number = murmur3(station.partition_key.encode(errors="surrogateescape"), SEED)
    else:
        number = _number(message.key)
    return partitions[number % len(partitions)]


def _number(id: str) -> int:
    """A number for an id: ids that follow each other have numbers that do."""
    match = _ID.fullmatch(id)
    key, index = (match[1], int(match[2] or 0)) if match else (id, 0)
    ours = _OURS.fullmatch(key)
    if not ours:
        return murmur3(key.encode(), SEED) + index
    return functools.reduce(lambda number, digit: number << 6 | _DIGITS[digit], ours[1], 0) + index
