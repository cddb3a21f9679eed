"""The streams behind the stations, seen through the broker's own API: what is really stored. Source: NATS ADR-1."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import nats
from nats.aio.client import Client

USER, TOKEN = "root", "memphis"
_API_SECONDS = 10
_STEADY_SECONDS = 0.2
_SETTLED_WITHIN = 20.0
_DAY = 86_400 * 10**9
_BUCKET = "KV_"  # what names of streams begin with that are buckets

_Value = TypeVar("_Value")


class ApiFailed(Exception):
    """The broker does not do what it was asked."""


class Stored(NamedTuple):
    """What the streams hold: messages, and how many they have ever stored (those dropped since included)."""

    messages: int
    ever: int


class Streams:
    """The streams of one broker, made as the gateway makes them for new stations."""

    def __init__(self, url: str) -> None:
        self._url = url

    def make(self, stations: Sequence[str], max_bytes: int = -1) -> None:
        """Makes one empty stream for each station; all others go, the buckets of schemas aside."""

        async def work(client: Client) -> None:
            for name in [stream["config"]["name"] for stream in await _list(client)]:
                await _ask(client, f"STREAM.DELETE.{name}")
            for station in stations:
                await _ask(client, f"STREAM.CREATE.{station}", _config(station, max_bytes))

        self._do(work)

    def stored(self) -> Stored:
        """What they hold once nothing more comes."""
        deadline = time.monotonic() + _SETTLED_WITHIN

        async def work(client: Client) -> Stored:
            before, now = None, await _count(client)
            while before != now:
                if time.monotonic() > deadline:
                    raise ApiFailed("messages still come, long after the load has ended")
                await asyncio.sleep(_STEADY_SECONDS)
                before, now = now, await _count(client)
            return now

        return self._do(work)

    def _do(self, work: Callable[[Client], Awaitable[_Value]]) -> _Value:
        async def connected() -> _Value:
            client = await nats.connect(self._url, user=USER, password=TOKEN)
            try:
                return await work(client)
            finally:
                await client.close()

        return asyncio.run(connected())


def _config(station: str, max_bytes: int) -> dict[str, Any]:
    return {
        "name": station,
        "subjects": [f"{station}.final"],
        "storage": "file",
        "retention": "limits",
        "discard": "old",
        "max_age": 7 * _DAY,
        "max_bytes": max_bytes,
        "num_replicas": 1,
        "duplicate_window": 120 * 10**9,
        "allow_direct": True,
        "allow_batched": True,
    }


async def _count(client: Client) -> Stored:
    states = [stream["state"] for stream in await _list(client)]
    return Stored(sum(state["messages"] for state in states), sum(state["last_seq"] for state in states))


async def _list(client: Client) -> list[dict[str, Any]]:
    """All streams of stations; the API tells 256 at a time."""
    found: list[dict[str, Any]] = []
    while True:
        page = await _ask(client, "STREAM.LIST", {"offset": len(found)})
        found += page["streams"] or []
        if len(found) >= page["total"] or not page["streams"]:
            return [stream for stream in found if not stream["config"]["name"].startswith(_BUCKET)]


async def _ask(client: Client, verb: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    reply = await client.request(f"$JS.API.{verb}", json.dumps(body or {}).encode(), timeout=_API_SECONDS)
    answer: dict[str, Any] = json.loads(reply.data)
    if "error" in answer:
        raise ApiFailed(f"{verb}: {answer['error']['description']}")
    return answer
