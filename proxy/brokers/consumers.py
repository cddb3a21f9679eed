"""The durable consumers of a station on NATS JetStream: one for each group, made when the group first reads.

Source: NATS ADR-1 (JetStream API and its errors), nats-server's `CONSUMER.INFO` and `CONSUMER.CREATE`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import msgspec

from proxy.brokers.answers import ApiError
from proxy.brokers.api import Api
from proxy.brokers.pulling import Source
from proxy.brokers.tasks import Tasks
from proxy.config import Config
from proxy.errors import BrokerAway, BrokerRefused, Conflict, GatewayError, StationNotFound
from proxy.messages import Station

# The group of those who name none, as Memphis' gateway has it: they share the messages.
DEFAULT_GROUP = "rest-gateway"
MAX_KNOWN_GROUPS = 10_000
GROUP_MEMORY_SECONDS = 60.0  # an operator may change its time to ack meanwhile
MAX_WAITING = 4096  # pulls at a consumer; nats-server's own default is 512

_NOT_FOUND = 10014
_NO_STREAM = 10059
_EXISTS = 10148  # with another configuration: somebody was faster


class Group(NamedTuple):
    """Where a group reads from, and for how many seconds a message is its reader's before others get it."""

    sources: tuple[Source, ...]
    ack_seconds: float


class KnownGroups:
    """The groups of one session by station and name; `find` looks for one. Those in use are looked at again in time."""

    def __init__(self, find: Callable[[Station, str], Awaitable[Group]]) -> None:
        self._find = find
        self._known: dict[tuple[str, str], tuple[Group, float]] = {}
        self._loop, self._tasks = asyncio.get_running_loop(), Tasks()

    async def get(self, station: Station, name: str) -> Group:
        """What is known of a group, or else what is found. Raises what keeps it from being found."""
        key, now = (station.name, name), self._loop.time()
        if key not in self._known:
            return await self._learn(station, name)
        group, asked_at = self._known[key]
        if now - asked_at >= GROUP_MEMORY_SECONDS:
            self._known[key] = group, now
            self._tasks.do(self._learn_again(station, name))
        return group

    def forget(self, station: Station, name: str) -> None:
        """It is looked for again at the next call."""
        self._known.pop((station.name, name), None)

    def close(self) -> None:
        """Looks at none any more."""
        self._tasks.cancel()

    async def _learn(self, station: Station, name: str) -> Group:
        group = await self._find(station, name)
        if len(self._known) >= MAX_KNOWN_GROUPS:
            self._known.clear()
        self._known[station.name, name] = group, self._loop.time()
        return group

    async def _learn_again(self, station: Station, name: str) -> None:
        """Beside what is read meanwhile; who reads next is told what is wrong with the group by now."""
        try:
            await self._learn(station, name)
        except (BrokerAway, BrokerRefused):
            pass  # that cannot be told now
        except GatewayError:
            self.forget(station, name)


class ConsumerConfig(msgspec.Struct):
    """The part of a consumer's configuration that counts here; times in nanoseconds."""

    ack_policy: str = ""
    ack_wait: int = 0
    deliver_subject: str = ""
    filter_subject: str = ""
    filter_subjects: list[str] | None = None


class ConsumerInfo(msgspec.Struct):
    """Answer to `CONSUMER.INFO` and `CONSUMER.CREATE`."""

    config: ConsumerConfig = msgspec.field(default_factory=ConsumerConfig)
    error: ApiError | None = None


def internal(group: str) -> str:
    """A group's name as brokers store it, as that of a station."""
    return (group or DEFAULT_GROUP).replace(".", "#")


async def find_group(api: Api, config: Config, station: Station, subject: str, source: Source) -> Group:
    """The group's consumer; one that is there is used as it is, else it is made.

    Raises `Forbidden`, `StationNotFound`, `BrokerRefused`, and `Conflict` for one that loses what is not acked, or has
    the messages of another station in the same stream.
    """
    info: ConsumerInfo = await api.ask(f"CONSUMER.INFO.{source.stream}.{source.durable}", {}, ConsumerInfo)
    if info.error is not None and info.error.err_code == _NOT_FOUND:
        verb = f"CONSUMER.CREATE.{source.stream}.{source.durable}.{subject}"
        info = await api.ask(verb, _creation(config, source, subject), ConsumerInfo)
        if info.error is not None and info.error.err_code == _EXISTS:
            info = await api.ask(f"CONSUMER.INFO.{source.stream}.{source.durable}", {}, ConsumerInfo)
    if info.error is not None:
        if info.error.err_code == _NO_STREAM:
            raise StationNotFound(f"there is no station {station.name}")
        raise BrokerRefused(f"the broker has no consumer for this group: {info.error.description}")
    if info.config.ack_policy != "explicit" or info.config.deliver_subject:
        raise Conflict(
            f"station {station.name} has a consumer {source.durable} that is no pull consumer with explicit acks; "
            "take another consumer_group"
        )
    if not _delivers(info.config, subject):
        raise Conflict(
            f"consumer {source.durable} reads another station, which is kept in one stream with {station.name}; "
            "take another consumer_group"
        )
    return Group((source,), info.config.ack_wait / 1e9)


def _delivers(config: ConsumerConfig, subject: str) -> bool:
    """Whether messages on a subject are among those of a consumer; without filters it has all of its stream."""
    filters = [config.filter_subject] if config.filter_subject else config.filter_subjects or []
    return not filters or any(_covers(pattern.split("."), subject.split(".")) for pattern in filters)


def _covers(pattern: list[str], subject: list[str]) -> bool:
    if pattern[-1] == ">":
        pattern, subject = pattern[:-1], subject[: len(pattern) - 1]
    return len(pattern) == len(subject) and all(
        one in ("*", other) for one, other in zip(pattern, subject, strict=True)
    )


def _creation(config: Config, source: Source, subject: str) -> dict[str, Any]:
    return {
        "stream_name": source.stream,
        "action": "create",
        "config": {
            "name": source.durable,
            "durable_name": source.durable,
            "filter_subject": subject,
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait": int(config.consume_ack_wait_seconds * 1e9),
            "max_deliver": config.consume_max_deliveries or -1,
            "replay_policy": "instant",
            "max_ack_pending": -1,
            "max_waiting": MAX_WAITING,
        },
    }
