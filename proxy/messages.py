"""What goes where, what is demanded of it, and what comes back: station, schema, message in, ack out."""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple, overload

import msgspec

from proxy.errors import BadStationName

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9_.-]{0,126}[a-z0-9])?", re.ASCII)


class Station(NamedTuple):
    """A station: `name` as clients see it, `internal` as brokers store it (`.` becomes `#`).

    `partition_key` tells where in it messages go, on brokers whose stations have partitions; None leaves it to us.
    """

    name: str
    internal: str
    partition_key: str | None = None


@functools.lru_cache(maxsize=4096)
def station_named(text: str) -> Station:
    """The station of that name; the case of letters does not count. Raises `BadStationName`."""
    name = text.lower()
    if not text.isascii() or not _NAME.fullmatch(name):
        raise BadStationName
    return Station(name, name.replace(".", "#"))


# How the messages of a produce are to be stored: together with others, so that their sequences are not known; apart,
# each with a word about its own sequence; or all of them or none.
Manner = Literal["together", "apart", "atomic"]


Pairs = tuple[tuple[str, str], ...]


class Message(msgspec.Struct, frozen=True, gc=False):
    """One message for a station.

    `payload` is stored byte for byte; `headers` are names in lower case with their values; `key` is the broker's
    de-duplication id. `named` tells that the sender chose the key. `compare` asks, when the broker knows the key, to
    compare the payload with the stored one (keys that contain a digest of the payload need no comparison).
    """

    payload: bytes
    headers: Pairs
    key: str
    named: bool = False
    compare: bool = False


class Elements(Sequence[Message]):
    """The messages of a batch, which differ in payload and key alone; each is made when it is asked for.

    Keys are `start`, the place in the batch, a dot, and eight hex digits of the place's number in `marks`. `sizes` are
    the payloads' bytes, which several steps ask for.
    """

    __slots__ = ("headers", "marks", "named", "payloads", "sizes", "start")

    def __init__(self, payloads: list[bytes], headers: Pairs, start: str, marks: list[int], named: bool) -> None:
        self.payloads, self.headers = payloads, headers
        self.start, self.marks, self.named = start, marks, named
        self.sizes = list(map(len, payloads))

    def __len__(self) -> int:
        return len(self.payloads)

    @overload
    def __getitem__(self, index: int) -> Message: ...

    @overload
    def __getitem__(self, index: slice) -> Elements: ...

    def __getitem__(self, index: int | slice) -> Message | Elements:
        """The message at a place; a part of a batch would have other keys, so there is none."""
        if isinstance(index, slice):
            raise TypeError("messages of a batch are asked for one by one")
        index = range(len(self.payloads))[index]
        key = f"{self.start}{index}.{self.marks[index]:08x}"
        return Message(self.payloads[index], self.headers, key, self.named)


class Ack(msgspec.Struct, frozen=True, gc=False):
    """The broker's word that it stored a message.

    `sequence` is its place in the station, None where it was not asked for. `duplicate` is true when an earlier message
    with the same key is the one stored, None when a retry of ours makes it impossible to tell.
    """

    sequence: int | None
    duplicate: bool | None


class Wanted(NamedTuple):
    """What a consume asks for: so many messages, within so many seconds, for a group; of no name, for the default one.

    `consumer` is the reader's own name. `bytes` are the most of payloads and headers together.
    """

    consumer: str
    group: str
    messages: int
    seconds: float
    bytes: int


class Delivered(NamedTuple):
    """A message as the broker delivers it: payload, header block, and the subject of its ack."""

    payload: bytes
    head: bytes
    ack: str


class Schema(msgspec.Struct, frozen=True, kw_only=True, weakref=True):
    """What payloads have to satisfy: a definition in one of the languages that `proxy.validators` knows.

    `message_struct_name` is the message of a protobuf definition that payloads are, `strict` refuses what that message
    does not know. `compiled` is what `validators.prepare` made of a definition that no request should compile.
    """

    type: str
    definition: str
    message_struct_name: str = ""
    strict: bool = False
    compiled: bytes = b""


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """What a station demands of payloads: a version of a named schema. Immutable, and replaced as a whole.

    With `dead_letter` the station keeps what was refused, in another station.
    """

    name: str
    version: int
    schema: Schema
    dead_letter: bool = False


class Unknown(enum.Enum):
    """In place of a demand: it is not known here, and has to be asked for."""

    UNKNOWN = "unknown"


UNKNOWN: Final = Unknown.UNKNOWN


class SchemaVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a named schema, as the registry has it."""

    name: str
    version: int
    schema: Schema


class SchemaHead(msgspec.Struct, frozen=True, kw_only=True):
    """What a list of schemas tells of each: its newest version, and the language of that."""

    name: str
    version: int
    type: str


class Attachment(msgspec.Struct, frozen=True, kw_only=True):
    """Which schema a station demands: that version, or with None whatever is the newest."""

    schema: str
    version: int | None
    dead_letter: bool = False
