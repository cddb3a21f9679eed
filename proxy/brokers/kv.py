"""A bucket of keys and values on JetStream, as NATS' own tools make and read it, over a session's connection.

A bucket is a stream `KV_<bucket>` whose subjects `$KV.<bucket>.<key>` keep one message each; a message's sequence is
the revision of its key. Source: NATS ADR-8 (key-value store), ADR-31 (direct get), ADR-43 (TTL of a message).

Nothing here watches: a session may subscribe to a bucket's subjects and take what comes as a hint to read again.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from proxy.brokers import answers
from proxy.brokers.answers import ApiError
from proxy.brokers.api import Api, Response
from proxy.errors import BrokerAway, BrokerRefused, ChangeUnconfirmed, Conflict, Forbidden

MAX_KEYS = 10_000  # that one question about a bucket may be about
TTL_SINCE = (2, 11)
KEY = re.compile(r"[-/_=A-Za-z0-9]+(?:\.[-/_=A-Za-z0-9]+)*")

HEARD_SECONDS = (0.05, 0.1, 0.25, 0.6)  # pauses between attempts to be heard by a new bucket
FOR_NOBODY = b"NATS/1.0\r\nNats-Expected-Stream: -\r\n\r\n"

# err_code of the JetStream API
NO_STREAM = 10059
NO_MESSAGE = 10037
WRONG_REVISION = 10071
NAME_IN_USE = 10058

_REMOVALS = {
    "kv-operation",
    "nats-marker-reason",
}  # a marker made by a client; by the server, when a value's time is up


class Entry(NamedTuple):
    """What a key holds: a value, or with `deleted` a marker that it holds none any more."""

    value: bytes
    revision: int
    deleted: bool


class Message(msgspec.Struct):
    """A message in an answer to `STREAM.MSG.GET`; headers and payload are in base64 there."""

    seq: int = 0
    hdrs: bytes = b""
    data: bytes = b""


class Got(msgspec.Struct):
    """Answer to `STREAM.MSG.GET`."""

    message: Message = msgspec.field(default_factory=Message)
    error: ApiError | None = None


class State(msgspec.Struct):
    """The part of a stream's state that counts here."""

    subjects: dict[str, int] | None = None


class Info(msgspec.Struct):
    """Answer to `STREAM.INFO` and `STREAM.CREATE`; `total` counts subjects, which come in pages."""

    state: State = msgspec.field(default_factory=State)
    total: int = 0
    error: ApiError | None = None


class Bucket:
    """One bucket as one user may use it. Keys are tokens of letters, digits, `-`, `_`, `/` and `=`, joined by dots.

    All raise `Forbidden` when the user may not, `BrokerAway` and `BrokerRefused` when it cannot be told now. What
    changes something creates the bucket if it is absent, and raises `TooLarge` as well, and `ChangeUnconfirmed` when it
    may be made or not. `replicas` copies are kept in a bucket that is created. One with `expiring` keys can have values
    with a time to live (nats-server 2.11). `on_write(key)` is called after each change, made or not.
    """

    def __init__(self, api: Api, name: str, replicas: int = 1, expiring: bool = False, trial: str = "") -> None:
        self.name, self.stream, self.prefix = name, f"KV_{name}", f"$KV.{name}."
        self.on_write: Callable[[str], None] = lambda key: None
        self._api, self._replicas, self._expiring, self._trial = api, replicas, expiring, trial
        self._is_there = self._hears = False
        self._direct_first = False

    # ---- reading -----------------------------------------------------------------------------------------------

    async def get(self, key: str) -> Entry | None:
        """The value of a key; None when it has none, or there is no bucket."""
        entry = await self.entry(key)
        return None if entry is None or entry.deleted else entry

    async def entry(self, key: str) -> Entry | None:
        """The value or the marker that a key has.

        The stream's leader is asked, which knows each change that was acknowledged. Users without the right to ask it
        read directly, from whatever replica answers; that right can be given for some keys alone.
        """
        subject = self._subject(key)
        ways = [self._from_leader, self._direct]
        if self._direct_first:
            ways.reverse()
        try:
            return await ways[0](subject)
        except Forbidden:
            entry = await self._second(ways[1], subject)
            self._direct_first = not self._direct_first
            return entry

    async def keys(self, pattern: str = ">") -> list[str]:
        """The keys that a subject pattern such as `users.*` is about, deleted ones too, in order.

        What others wrote under subjects that are no keys is left out. Raises `BrokerRefused` when there are more than
        `MAX_KEYS`.
        """
        found: dict[str, int] = {}
        while True:
            body = {"subjects_filter": self.prefix + pattern, "offset": len(found)}
            info: Info = await self._api.ask(f"STREAM.INFO.{self.stream}", body, Info)
            if self._is_absent(info.error):
                return []
            page = info.state.subjects or {}
            found |= page
            if info.total > MAX_KEYS:
                raise BrokerRefused(f"there are more than {MAX_KEYS} keys like {pattern} in bucket {self.name}")
            if not page or len(found) >= info.total:
                return sorted(filter(KEY.fullmatch, (subject[len(self.prefix) :] for subject in found)))

    async def _second(self, way: Callable[[str], Any], subject: str) -> Entry | None:
        try:
            entry: Entry | None = await way(subject)
        except Forbidden:
            raise Forbidden(
                f"this user may not read bucket {self.name}: it needs the right to publish to "
                f"$JS.API.STREAM.MSG.GET.{self.stream}, or to $JS.API.DIRECT.GET.{self.stream}.{subject}"
            ) from None
        return entry

    async def _from_leader(self, subject: str) -> Entry | None:
        got: Got = await self._api.ask(f"STREAM.MSG.GET.{self.stream}", {"last_by_subj": subject}, Got)
        if got.error is not None and got.error.err_code == NO_MESSAGE:
            self._is_there = True
            return None
        if self._is_absent(got.error):
            return None
        return Entry(got.message.data, got.message.seq, not _REMOVALS.isdisjoint(_headers(got.message.hdrs)))

    async def _direct(self, subject: str) -> Entry | None:
        response = await self._api.request(f"$JS.API.DIRECT.GET.{self.stream}.{subject}", b"")
        if response.from_nobody:  # no bucket, or one without a replica that can answer now
            await self._prove_absent()
            return None
        self._is_there = True
        if response.status == "404":
            return None
        headers = _headers(response.head)
        sequence = headers.get("nats-sequence", "")
        if response.status is not None or not sequence.isdecimal():
            raise BrokerRefused(f"bucket {self.name} cannot be read: status {response.status}")
        return Entry(response.data, int(sequence), not _REMOVALS.isdisjoint(headers))

    async def _prove_absent(self) -> None:
        """Raises unless the broker says that there is no bucket; silence is no such word."""
        unknown = f"it cannot be told whether there is a bucket {self.name}"
        try:
            info: Info = await self._api.ask(f"STREAM.INFO.{self.stream}", {}, Info)
        except Forbidden as error:
            raise BrokerRefused(f"{unknown}: {error.message}") from None
        if not self._is_absent(info.error):
            raise BrokerRefused(f"bucket {self.name} cannot be read directly now")

    def _is_absent(self, error: ApiError | None) -> bool:
        """Whether the broker's answer is that there is no bucket. Raises `BrokerRefused` for any other error."""
        self._is_there = error is None
        if error is not None and error.err_code != NO_STREAM:
            raise BrokerRefused(f"bucket {self.name} cannot be read now: {error.description}")
        return error is not None

    # ---- changing ----------------------------------------------------------------------------------------------

    async def create(self, key: str, value: bytes, seconds: float = 0.0) -> int:
        """Gives a value to a key that has none; the revision. With `seconds` the value goes after that time.

        Raises `Conflict` when it has one.
        """
        try:
            return await self._write(key, value, _expecting(0), seconds)
        except Conflict:
            entry = await self.entry(key)
            if entry is None or not entry.deleted:
                raise
            return await self.update(key, value, entry.revision, seconds)

    async def update(self, key: str, value: bytes, revision: int, seconds: float = 0.0) -> int:
        """Replaces the value, or the marker, that has this revision; the new one. Raises `Conflict` for another."""
        return await self._write(key, value, _expecting(revision), seconds)

    async def put(self, key: str, value: bytes, seconds: float = 0.0) -> int:
        """Gives a key a value, whatever it has; the revision."""
        return await self._write(key, value, [], seconds)

    async def delete(self, key: str, revision: int | None = None) -> int:
        """Puts a marker in a key's place; with `revision` only if it has that one. Raises `Conflict`."""
        expected = [] if revision is None else _expecting(revision)
        return await self._write(key, b"", ["KV-Operation: DEL", *expected])

    async def ensure(self) -> None:
        """Creates the bucket if it is absent."""
        if self._expiring and self._api.connection.server_version < TTL_SINCE:
            raise BrokerRefused(
                f"bucket {self.name} needs nats-server {TTL_SINCE[0]}.{TTL_SINCE[1]}: its values expire"
            )
        info: Info = await self._api.ask(f"STREAM.CREATE.{self.stream}", self._config(), Info)
        if info.error is not None and info.error.err_code != NAME_IN_USE:
            raise BrokerRefused(f"the broker did not create bucket {self.name}: {info.error.description}")
        self._is_there = True

    async def _write(self, key: str, value: bytes, headers: list[str], seconds: float = 0.0) -> int:
        if seconds:
            headers = [*headers, f"Nats-TTL: {math.ceil(seconds)}s"]
        head = "".join(f"{line}\r\n" for line in ("NATS/1.0", *headers, "")).encode()
        await self._see_to_it(key)
        try:
            response = await self._api.publish(self._subject(key), head, value)
        except ChangeUnconfirmed:
            self._is_there = self._hears = False  # to be looked at before the next change
            raise
        finally:
            self.on_write(key)
        return self._revision(response)

    async def _see_to_it(self, key: str) -> None:
        """Sees that there is a bucket before something is sent to it.

        The server would not say that no stream takes it: sessions that listen for hints take it too.
        """
        if not self._is_there:
            with contextlib.suppress(Forbidden):
                await self.entry(key)
        if not self._is_there:
            await self.ensure()
        if not self._hears:
            await self._be_heard(self._trial or key)

    async def _be_heard(self, key: str) -> None:
        """Waits until the bucket hears what is sent from here, but not for long. It may have been created just now.

        In a cluster this server may not know yet who takes its keys. Then it says that nobody does, or is silent where
        sessions listen for hints. What is sent to find out is for no stream of any name.
        """
        with contextlib.suppress(BrokerAway, Forbidden):  # the change itself will tell
            for pause in HEARD_SECONDS:
                response = await self._api.try_out(self._subject(key), FOR_NOBODY)
                if not response.from_nobody:
                    break
                await asyncio.sleep(pause)
        self._hears = True

    def _revision(self, response: Response) -> int:
        answer = None if response.status else answers.decode(response.data)
        if answer is None:
            self._is_there = self._hears = False
            raise BrokerRefused(f"bucket {self.name} takes no values now")
        if answer.error is not None:
            if answer.error.err_code == WRONG_REVISION:
                raise Conflict
            raise BrokerRefused(f"bucket {self.name} did not take the value: {answer.error.description}")
        if answer.stream != self.stream:
            raise BrokerRefused(f"another stream, {answer.stream!r}, takes the keys of bucket {self.name}")
        return answer.seq

    def _config(self) -> dict[str, Any]:
        """The stream as NATS' own tools make it for a bucket with one value a key."""
        config: dict[str, Any] = {
            "name": self.stream,
            "subjects": [f"{self.prefix}>"],
            "storage": "file",
            "retention": "limits",
            "discard": "new",
            "max_msgs_per_subject": 1,
            "num_replicas": self._replicas,
            "allow_rollup_hdrs": True,
            "deny_delete": True,
            "allow_direct": True,
        }
        if self._expiring:
            config["allow_msg_ttl"] = True
        return config

    def _subject(self, key: str) -> str:
        """The subject of a key. One that is no key never reaches the wire: who asks has to have checked it."""
        if not KEY.fullmatch(key):
            raise ValueError(f"not a key: {key!r}")
        return self.prefix + key


def _expecting(revision: int) -> list[str]:
    return [f"Nats-Expected-Last-Subject-Sequence: {revision}"]


def _headers(block: bytes) -> dict[str, str]:
    """The headers of a block, by their names in lower case."""
    lines = block.decode("utf-8", "replace").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines if line)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}
