"""What the tests of the registry share: a replica's view of it, and attempts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from proxy.brokers.api import Api
from proxy.brokers.kv import Bucket
from proxy.brokers.schemas import BUCKET, Registry
from proxy.messages import Schema, station_named
from tests.brokers.tools import connected
from tests.servers import NatsServer

ORDERS = station_named("orders")
ANY, NONE, OTHER = (Schema(type="json", definition=text) for text in ("{}", "false", "true"))


@contextlib.asynccontextmanager
async def registry(server: NatsServer) -> AsyncIterator[Registry]:
    """The registry as a replica sees it, through a connection of its own."""
    async with connected(server.url) as connection:
        yield Registry(Bucket(Api(connection), BUCKET))


async def attempt(work: Any) -> Any:
    """What the work returns, or the error that it ends with."""
    return (await asyncio.gather(work, return_exceptions=True))[0]
