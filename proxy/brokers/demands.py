"""What stations demand of payloads, as one session has read it from the registry: a table that is kept true.

A session subscribes to all keys of the bucket first, and reads then. What comes there is a hint to read again: it comes
when a change is sent, so before it is stored, and also when it is refused. So the key is read again at once and some
times after that. Without a hint, each station is read again every minute. What cannot be read again is not believed.

Stations are read when they are first asked for. No consumer is needed, so a user costs the broker a subscription.
"""

from __future__ import annotations

import asyncio
import weakref
from typing import TypeVar

from proxy.brokers.connection import Connection
from proxy.brokers.kv import KEY, Bucket
from proxy.brokers.schemas import Attached, Head, decode, schema_key, station_key
from proxy.brokers.tasks import Tasks
from proxy.errors import BadRegistry, BrokerAway, BrokerRefused, Forbidden, GatewayError
from proxy.messages import Demand, Schema, Station

MAX_STATIONS = 1000
MAX_HINTS = 1000
HINT_SECONDS = 0.02  # hints of that time are taken together
AGAIN_SECONDS = (0.0, 0.1, 0.25, 0.6, 1.5, 4.0, 10.0)  # pauses between the readings that follow a hint
KEEP_SECONDS = 60.0
MARGIN_SECONDS = 15.0
RETRY_SECONDS = 5.0
TRIES = 5

T = TypeVar("T")


class Look:
    """A station that is looked after.

    `keys` are those that what is known was read from, `reading_keys` those of the reading under way so far; `stale`
    tells that one of the latter has changed since. `step` counts the readings that follow a hint, `again` is the timer
    of the next one, `trying` tells that one is under way.
    """

    __slots__ = (
        "again",
        "demand",
        "keys",
        "read_at",
        "reading",
        "reading_keys",
        "refresh",
        "stale",
        "station",
        "step",
        "trying",
    )

    def __init__(self, station: Station) -> None:
        self.station = station
        self.demand: Demand | None = None
        self.keys: set[str] = set()
        self.read_at = float("-inf")
        self.reading: asyncio.Task[Demand | None] | None = None
        self.reading_keys: set[str] = set()
        self.stale = self.trying = False
        self.step = 0
        self.again: asyncio.TimerHandle | None = None
        self.refresh: asyncio.TimerHandle | None = None


class Demands:
    """The table of one session. See `proxy.brokers.Demands`.

    `known` is looked up by other threads while the loop changes it. Each step of that is one operation of a `dict`,
    which the interpreter makes whole, and what is in it is immutable: a thread finds what was true before a change or
    what is true after it, as if it had asked a moment earlier or later.
    """

    def __init__(self, connection: Connection, bucket: Bucket) -> None:
        self.known: dict[str, Demand | None] = {}
        self._connection, self._bucket = connection, bucket
        self._loop = asyncio.get_running_loop()
        self._looks: dict[str, Look] = {}
        self._tasks = Tasks()
        self._subscribing: asyncio.Task[None] | None = None
        self._subscribed_at = 0.0
        self._hinted: set[str] = set()
        self._closed = False

    async def read(self, station: Station) -> Demand | None:
        """What is known, or else what the registry says; those who ask at the same time share one reading.

        Raises `Forbidden`, which names the missing right, `BadRegistry`, `BrokerAway`, `BrokerRefused`.
        """
        if self._closed:
            raise BrokerAway
        if station.name in self.known:
            return self.known[station.name]
        return await asyncio.shield(self._read(self._look(station)))

    def changed(self, key: str) -> None:
        """Word that a key was changed: what was read from it is not known any more, and what is being read is not."""
        for look in self._looks.values():
            if key in look.keys or key in look.reading_keys:
                self.known.pop(look.station.name, None)
            look.stale |= key in look.reading_keys

    def close(self) -> None:
        """Forgets everything: nothing tells of changes any more. What is being read fails with the connection."""
        self._closed = True
        for look in list(self._looks.values()):
            self._drop(look)

    # ---- reading -----------------------------------------------------------------------------------------------

    def _look(self, station: Station) -> Look:
        """The station's place; the one that came first gives way when there are too many."""
        look = self._looks.get(station.name)
        if look is None:
            if len(self._looks) >= MAX_STATIONS:
                self._drop(next(iter(self._looks.values())))
            look = self._looks[station.name] = Look(station)
        return look

    def _drop(self, look: Look) -> None:
        if self._has(look):
            del self._looks[look.station.name]
            self.known.pop(look.station.name, None)
        for timer in (look.again, look.refresh):
            if timer is not None:
                timer.cancel()

    def _has(self, look: Look) -> bool:
        return self._looks.get(look.station.name) is look

    def _read(self, look: Look) -> asyncio.Task[Demand | None]:
        """The reading that is under way, or a new one."""
        if look.reading is None:
            look.reading = self._tasks.do(self._find(look))
        return look.reading

    async def _find(self, look: Look) -> Demand | None:
        """Reads until nothing has changed in between, and remembers what was found."""
        try:
            await self._subscribed()
            for _ in range(TRIES):
                look.stale = False
                look.reading_keys = set()
                demand = await self._demand(look)
                if not look.stale:
                    return self._remember(look, demand)
            raise BrokerRefused(f"the schema of station {look.station.name} changes faster than it can be read")
        except Forbidden as error:
            raise Forbidden(f"the schema of station {look.station.name} cannot be read: {error.message}") from None
        finally:
            look.reading = None
            look.reading_keys = set()

    async def _demand(self, look: Look) -> Demand | None:
        attached = await self._value(look, station_key(look.station), Attached)
        if attached is None:
            return None
        number = attached.version
        if number == "newest":
            number = (await self._needed(look, schema_key(attached.schema), Head)).version
        schema = await self._needed(look, schema_key(attached.schema, number), Schema)
        return Demand(name=attached.schema, version=number, schema=_shared(schema), dead_letter=attached.dead_letter)

    async def _needed(self, look: Look, key: str, shape: type[T]) -> T:
        value = await self._value(look, key, shape)
        if value is None:
            raise BadRegistry(f"station {look.station.name} demands a schema that is not in the registry: no {key}")
        return value

    async def _value(self, look: Look, key: str, shape: type[T]) -> T | None:
        look.reading_keys.add(key)  # before it is read, so that no change in between is missed
        entry = await self._bucket.get(key)
        return None if entry is None else decode(entry, key, shape)

    def _remember(self, look: Look, demand: Demand | None) -> Demand | None:
        """Makes it known. What is still the same stays the same object, so that `is` tells whether it has changed."""
        if demand != look.demand:
            look.demand = demand
        first = look.read_at < 0
        look.read_at, look.keys = self._loop.time(), look.reading_keys
        if self._has(look):
            self.known[look.station.name] = look.demand
            self._refresh_in(look, KEEP_SECONDS)
            if first and look.read_at - self._subscribed_at < 1:
                self._follow(look, 2)  # other servers of a cluster may not have known of the subscription yet
        return look.demand

    # ---- keeping it true ---------------------------------------------------------------------------------------

    async def _subscribed(self) -> None:
        """Waits until hints come. One subscription for the session, whoever asks first."""
        if self._subscribing is None:
            self._subscribing = self._tasks.do(self._subscribe())
        subscribing = self._subscribing
        try:
            await asyncio.shield(subscribing)
        except GatewayError:
            if self._subscribing is subscribing:
                self._subscribing = None  # to be tried again: rights may be given
            raise

    async def _subscribe(self) -> None:
        await self._connection.subscribe(f"{self._bucket.prefix}>", self._on_hint)
        self._subscribed_at = self._loop.time()

    def _on_hint(self, subject: bytes) -> None:
        """Anyone with the right to write to the bucket's subjects may send something here, at any rate."""
        key = subject[len(self._bucket.prefix) :].decode("latin-1")
        if len(self._hinted) < MAX_HINTS and KEY.fullmatch(key):
            if not self._hinted:
                self._loop.call_later(HINT_SECONDS, self._take_hints)
            self._hinted.add(key)

    def _take_hints(self) -> None:
        many, hinted = len(self._hinted) >= MAX_HINTS, self._hinted
        self._hinted = set()
        for look in self._looks.values():
            if many or not hinted.isdisjoint(look.keys | look.reading_keys):
                self.known.pop(look.station.name, None)
                if look.again is None or look.step > 1:  # else it is read within a moment as it is
                    self._follow(look, 0)

    def _follow(self, look: Look, step: int) -> None:
        """Has the station read again from that step on; while it is, when that is done."""
        look.step = step
        if look.trying:
            return
        if look.again is not None:
            look.again.cancel()
        more = step < len(AGAIN_SECONDS) and self._has(look)
        look.again = self._loop.call_later(AGAIN_SECONDS[step], self._again, look) if more else None

    def _again(self, look: Look) -> None:
        look.again = None
        look.trying = True
        look.step += 1
        self._tasks.do(self._try_again(look))

    async def _try_again(self, look: Look) -> None:
        if look.reading is not None:  # begun before this moment, so perhaps before the change
            await asyncio.wait({look.reading})
        try:
            await asyncio.shield(self._read(look))
        except GatewayError:
            self.known.pop(look.station.name, None)
        finally:
            look.trying = False
            self._follow(look, look.step)

    def _refresh_in(self, look: Look, seconds: float) -> None:
        if look.refresh is not None:
            look.refresh.cancel()
        if self._has(look):
            look.refresh = self._loop.call_later(seconds, lambda: self._tasks.do(self._refresh(look)))

    async def _refresh(self, look: Look) -> None:
        """Reads a station whose minute is up. What cannot be read for long is dropped, so the next one who asks is told
        why.
        """
        try:
            await asyncio.shield(self._read(look))
        except (BrokerAway, BrokerRefused):
            if self._loop.time() - look.read_at > KEEP_SECONDS + MARGIN_SECONDS:
                self._drop(look)
            else:
                self._refresh_in(look, RETRY_SECONDS)
        except GatewayError:
            self._drop(look)


# Schemas that some session knows. A cache of so many would be of no use to sessions that look at more in turn.
_schemas: weakref.WeakValueDictionary[int, Schema] = weakref.WeakValueDictionary()


def _shared(schema: Schema) -> Schema:
    """One object for all sessions that have read the same schema, so that users without number take no more memory."""
    known = _schemas.get(hash(schema))
    if known == schema:
        return known
    _schemas[hash(schema)] = schema
    return schema
