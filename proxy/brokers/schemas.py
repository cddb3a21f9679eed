"""The registry of schemas on NATS: a bucket of the user's own account, with the user's own rights.

Keys, with JSON as values:

    schema.<name>         the newest version's number and type
    schema.<name>.<n>     a version; made by create, and never changed
    station.<station>     what a station demands: a schema's name, a version or "newest", whether to keep dead letters

Numbers of versions only grow, and are not given again after a schema was deleted: a number stands for one content. Two
who change the same thing at the same time are told apart by the revisions of keys (NATS ADR-8), without any lock.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from proxy.brokers.kv import MAX_KEYS, Bucket, Entry
from proxy.errors import BadRegistry, BadSchema, BadSchemaName, Conflict, SchemaNotFound
from proxy.messages import Attachment, Schema, SchemaHead, SchemaVersion, Station

BUCKET = "station-schemas"
MAX_VERSIONS = MAX_KEYS
AT_ONCE = 64  # reads or writes under way for one operation
TRIES = 10  # for as often as others change the same schema in between

_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
_VERSION = re.compile(rf"schema\.({_NAME.pattern})\.([0-9]{{1,9}})")
_Name = Annotated[str, msgspec.Meta(pattern=rf"\A{_NAME.pattern}\Z")]
_Number = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
T = TypeVar("T")
U = TypeVar("U")


class Head(msgspec.Struct, frozen=True):
    """Value of `schema.<name>`. `deleting` is set while it is being seen whether a station demands it."""

    version: _Number
    type: str
    deleting: bool = False


class Attached(msgspec.Struct, frozen=True):
    """Value of `station.<station>`."""

    schema: _Name
    version: _Number | Literal["newest"]
    dead_letter: bool = False


def station_key(station: Station) -> str:
    """The key of a station. A key has no empty token, so each one of a name gets the sign that no name has."""
    return "station." + ".".join(token or "=" for token in station.name.split("."))


def schema_key(name: str, version: int | None = None) -> str:
    """The key of a schema's newest number, or of a version. Raises `BadSchemaName`."""
    if not _NAME.fullmatch(name):
        raise BadSchemaName
    return f"schema.{name}" if version is None else f"schema.{name}.{version}"


def decode(entry: Entry, key: str, shape: type[T]) -> T:
    """What a key holds. Anyone with the right to may have written it. Raises `BadRegistry`."""
    try:
        return msgspec.json.decode(entry.value, type=shape)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise BadRegistry(f"what the registry has under {key} cannot be used; put it right or delete it") from None


class Registry:
    """The schemas in a bucket. See `proxy.brokers.Registry`."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket

    def on_write(self, function: Callable[[str], None]) -> None:
        """Has `function` called with the key after each change, made or not."""
        self.bucket.on_write = function

    # ---- schemas -----------------------------------------------------------------------------------------------

    async def put_schema(self, name: str, schema: Schema) -> tuple[int, bool]:
        """Makes `schema` the newest version: its number, and whether it was made for this (not: the same as before).

        The version comes first, by create, so that two who do this at once cannot have the same number. Then the head
        is moved on to it. Whoever finds a version that no head tells of moves the head on for the one who made it.
        """
        value, made = _encode(schema), 0
        for _ in range(TRIES):
            head, revision = await self._head(name)
            newest = head.version if head is not None else await self._last_number(name)
            if head is not None and await self._has(name, newest, schema):
                await self._settle(name, head, revision)
                return newest, newest == made
            # Others make it for the first time at this moment, and have not put the head there yet. (After a deletion
            # the version could be one that is about to go.)
            if not revision and await self._has(name, newest, schema):
                if await self._move(name, newest, 0):
                    return newest, newest == made
                continue
            if newest >= MAX_VERSIONS:
                raise Conflict(f"schema {name} has had {newest} versions, and can have no more")
            if await self._make(name, newest + 1, value):
                made = newest + 1
            if await self._move(name, newest + 1, revision) and made == newest + 1:
                return made, True
        raise Conflict(f"schema {name} was changed by others all the time; try again")

    async def get_schema(self, name: str, version: int | None = None) -> SchemaVersion:
        """That version, or the newest. Raises `SchemaNotFound`."""
        head, _ = await self._head(name)
        if head is None:
            raise SchemaNotFound(f"there is no schema {name}")
        number = head.version if version is None else version
        schema = await self._read(schema_key(name, number), Schema)
        if schema is None:
            raise SchemaNotFound(f"schema {name} has no version {number}")
        return SchemaVersion(name=name, version=number, schema=schema)

    async def list_schemas(self) -> list[SchemaHead]:
        """All schemas, by name."""
        names = [key.removeprefix("schema.") for key in await self.bucket.keys("schema.*")]
        heads = await _each(self._listed, filter(_NAME.fullmatch, names))
        return [head for head in heads if head is not None]

    async def delete_schema(self, name: str) -> None:
        """Deletes all versions. Raises `SchemaNotFound`, and `Conflict` while a station demands the schema.

        Marks the head first, looks for stations then. `attach` does it the other way round: it attaches, and looks for
        the mark then. So at least one of two that do this at once sees the other, and takes back what it did.
        """
        head, revision = await self._head(name)
        if head is None:
            raise SchemaNotFound(f"there is no schema {name}")
        marked = Head(head.version, head.type, deleting=True)
        revision = await self.bucket.update(schema_key(name), _encode(marked), revision)
        try:
            await self._see_unused(name)
        except BaseException:
            await asyncio.shield(self._settle(name, marked, revision))
            raise
        await self.bucket.delete(schema_key(name), revision)
        numbers = await self._numbers(name)  # one above the head's belongs to somebody who makes the schema anew
        await _each(self.bucket.delete, (schema_key(name, number) for number in numbers if number <= head.version))

    # ---- stations ----------------------------------------------------------------------------------------------

    async def attach(self, station: Station, name: str, version: int | None = None, dead_letter: bool = False) -> None:
        """Makes the station demand that version, or the newest at any time. Raises `SchemaNotFound`."""
        await self._see_usable(name, version)
        key = station_key(station)
        before = await self.bucket.get(key)
        value = _encode(Attached(name, "newest" if version is None else version, dead_letter))
        revision = await self.bucket.put(key, value)
        try:
            await self._see_usable(name, version)
        except BaseException:
            await asyncio.shield(self._take_back(key, before, revision))
            raise

    async def detach(self, station: Station) -> bool:
        """Makes the station demand nothing; false when it did not before."""
        key = station_key(station)
        if await self.bucket.get(key) is None:
            return False
        await self.bucket.delete(key)
        return True

    async def attachment(self, station: Station) -> Attachment | None:
        """What the station demands; None for nothing."""
        found = await self._read(station_key(station), Attached)
        if found is None:
            return None
        version = None if found.version == "newest" else found.version
        return Attachment(schema=found.schema, version=version, dead_letter=found.dead_letter)

    # ---- steps -------------------------------------------------------------------------------------------------

    async def _read(self, key: str, shape: type[T]) -> T | None:
        entry = await self.bucket.get(key)
        return None if entry is None else decode(entry, key, shape)

    async def _head(self, name: str) -> tuple[Head | None, int]:
        """A schema's head and its revision, which is that of the marker, or 0, when there is none."""
        entry = await self.bucket.entry(schema_key(name))
        if entry is None or entry.deleted:
            return None, entry.revision if entry else 0
        return decode(entry, schema_key(name), Head), entry.revision

    async def _listed(self, name: str) -> SchemaHead | None:
        head, _ = await self._head(name)
        return None if head is None else SchemaHead(name=name, version=head.version, type=head.type)

    async def _numbers(self, name: str) -> list[int]:
        """The numbers that were ever given to versions, those of deleted ones too."""
        keys = await self.bucket.keys(f"schema.{name}.*")
        return [int(number[2]) for number in map(_VERSION.fullmatch, keys) if number]

    async def _last_number(self, name: str) -> int:
        return max(await self._numbers(name), default=0)

    async def _has(self, name: str, version: int, schema: Schema) -> bool:
        """Whether a version says the same; compilers may differ. One that others wrote may lack what was compiled."""
        found = await self._read(schema_key(name, version), Schema)
        if found is None or (schema.compiled and not found.compiled):
            return False
        return _as_written(found) == _as_written(schema)

    async def _see_usable(self, name: str, version: int | None) -> None:
        """Raises `SchemaNotFound`, or `Conflict` when the schema is about to go."""
        await self.get_schema(name, version)
        head, _ = await self._head(name)
        if head is None or head.deleting:
            raise Conflict(f"schema {name} is being deleted; if nobody does that now, put it or delete it again")

    async def _make(self, name: str, version: int, value: bytes) -> bool:
        try:
            await self.bucket.create(schema_key(name, version), value)
        except Conflict:
            return False
        return True

    async def _move(self, name: str, version: int, revision: int) -> bool:
        """Moves the head from `revision` on to a version; whether it is there or above, now or in the meantime."""
        found = await self._read(schema_key(name, version), Schema)
        if found is None:
            return False
        try:
            await self.bucket.update(schema_key(name), _encode(Head(version, found.type)), revision)
        except Conflict:
            head, _ = await self._head(name)
            return head is not None and head.version >= version
        return True

    async def _settle(self, name: str, head: Head, revision: int) -> None:
        """Takes the mark of a deletion off again; whoever changed the head meanwhile has done so too."""
        if head.deleting:
            try:
                await self.bucket.update(schema_key(name), _encode(Head(head.version, head.type)), revision)
            except Conflict:
                return

    async def _see_unused(self, name: str) -> None:
        """Raises `Conflict` while a station demands the schema, which it names."""
        for key, attached in await self._attachments():
            if attached.schema == name:
                station = key.removeprefix("station.").replace("=", "")
                raise Conflict(f"station {station} demands schema {name}: detach it first")

    async def _attachments(self) -> list[tuple[str, Attached]]:
        async def read(key: str) -> tuple[str, Attached | None]:
            return key, await self._read(key, Attached)

        found = await _each(read, await self.bucket.keys("station.>"))
        return [(key, attached) for key, attached in found if attached is not None]

    async def _take_back(self, key: str, before: Entry | None, revision: int) -> None:
        """Undoes a change of a key, unless others have changed it since."""
        try:
            if before is None:
                await self.bucket.delete(key, revision)
            else:
                await self.bucket.update(key, before.value, revision)
        except Conflict:
            return


def _as_written(schema: Schema) -> Schema:
    return msgspec.structs.replace(schema, compiled=b"")


async def _each(function: Callable[[U], Awaitable[T]], things: Iterable[U]) -> list[T]:
    """What the function says of each thing, in order; a bounded number of them at once."""
    results: list[T] = []
    queue = list(things)
    for start in range(0, len(queue), AT_ONCE):
        results += await asyncio.gather(*map(function, queue[start : start + AT_ONCE]))
    return results


def _encode(record: Any) -> bytes:
    try:
        return msgspec.json.encode(record)
    except UnicodeEncodeError:
        raise BadSchema("the definition has characters that are none (lone surrogates)") from None
