"""The durable consumers of a station on NATS JetStream: one for each group, made when the group first reads.

Source: NATS ADR-1 (JetStream API and its errors), nats-server's `CONSUMER.INFO` and `CONSUMER.CREATE`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from proxy.brokers.answers import ApiError
from proxy.brokers.api import Api
from proxy.brokers.pulling import Source
from proxy.config import Config
from proxy.errors import BrokerRefused, Conflict, StationNotFound
from proxy.messages import Station

# The group of those who name none, as Memphis' gateway has it: they share the messages.
DEFAULT_GROUP = "rest-gateway"
MAX_KNOWN_GROUPS = 10_000
MAX_WAITING = 4096  # pulls at a consumer; nats-server's own default is 512

_NOT_FOUND = 10014
_NO_STREAM = 10059
_EXISTS = 10148  # with another configuration: somebody was faster


class Group(NamedTuple):
    """Where a group reads from, and for how many seconds a message is its reader's before others get it."""

    sources: tuple[Source, ...]
    ack_seconds: float


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
