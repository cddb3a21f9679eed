"""The consumers that a session has registered with a Memphis broker: one for each station, group and reader's name.

The broker makes a durable consumer for the group on each partition's stream. It is never taken back here: the group's
last consumer that is takes its position with it, and the next one would read everything from the beginning.
"""

from __future__ import annotations

import asyncio

from proxy.brokers import memphis_control as control
from proxy.brokers.consumers import DEFAULT_GROUP, MAX_KNOWN_GROUPS, Group, internal
from proxy.brokers.memphis_connection import MemphisConnection
from proxy.brokers.memphis_stations import create
from proxy.brokers.partitions import stream_of
from proxy.brokers.pulling import Source
from proxy.config import Config
from proxy.messages import Station, Wanted

Key = tuple[str, str, str]

REFRESH_SECONDS = 60.0  # of a group in use: a station that is made anew may have more partitions, and nobody tells


class Consumers:
    """The consumers of one session, kept while it lives."""

    def __init__(self, connection: MemphisConnection, config: Config, client: control.Client) -> None:
        self._connection, self._config, self._client = connection, config, client
        self._known: dict[Key, Group] = {}
        self._asked_at: dict[Key, float] = {}
        self._loop = asyncio.get_running_loop()

    def known(self, station: Station, wanted: Wanted) -> Group | None:
        """Where a group reads from, if this session is registered for it under the reader's name."""
        return self._known.get(_key(station, wanted))

    def is_to_be_asked(self, station: Station, wanted: Wanted) -> bool:
        """Whether it is time to register once more; true once."""
        key, now = _key(station, wanted), self._loop.time()
        old = now - self._asked_at.get(key, now) > REFRESH_SECONDS
        if old:
            self._asked_at[key] = now
        return old

    def forget(self, station: Station, wanted: Wanted) -> None:
        """The group's consumers do not answer."""
        self._known.pop(_key(station, wanted), None)
        self._asked_at.pop(_key(station, wanted), None)

    async def register(self, station: Station, wanted: Wanted) -> Group:
        """Registers a consumer, and returns where its group reads from.

        Raises `Forbidden`, `Unauthorized`, `StationNotFound`; `BrokerRefused` or `BrokerAway` when it cannot be told.
        """
        name = broker_group(wanted.group)
        body = control.consumer_creation(self._client, station, wanted.consumer, name, self._config)
        answer = await create(self._connection, station, control.CONSUMER_CREATIONS, body)
        partitions = answer.partitions_update.partitions_list or [0]
        sources = (Source(stream_of(station, partition), internal(name)) for partition in partitions)
        if len(self._known) >= MAX_KNOWN_GROUPS:
            self._known.clear()
            self._asked_at.clear()
        self._asked_at[_key(station, wanted)] = self._loop.time()
        group = self._known[_key(station, wanted)] = Group(tuple(sources), self._config.consume_ack_wait_seconds)
        return group


def broker_group(group: str) -> str:
    """The name that a group has at the broker, which is that of Memphis' gateway: groups go on where they were."""
    return f"{group}-{DEFAULT_GROUP}" if group else DEFAULT_GROUP


def _key(station: Station, wanted: Wanted) -> Key:
    return station.name, wanted.group, wanted.consumer
