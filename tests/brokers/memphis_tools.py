"""What the tests of Memphis brokers share: sessions at the stand-in."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from proxy.brokers.memphis import Memphis, MemphisSession
from proxy.credentials import Credentials
from proxy.messages import station_named
from tests.brokers.memphis_standin import Standin, User
from tests.brokers.tools import ROOT, run, settings

CREATIONS, DESTRUCTIONS = "$memphis_producer_creations", "$memphis_producer_destructions"
MADE = "$memphis_station_creations"
ORDERS = station_named("orders")
LIMITED = Credentials("app-rb", "Passw0rd!")
USERS = {"root": User("memphis"), "app-rb": User("Passw0rd!", ("rb-allowed*",))}  # as recorded


@contextlib.asynccontextmanager
async def logged_on(standin: Standin, user: Credentials = ROOT, **env: Any) -> AsyncIterator[MemphisSession]:
    """A session, closed at the end."""
    session: Any = await Memphis(settings(standin.url, **env), lambda event, **fields: None).connect(user)
    try:
        yield session
    finally:
        await session.close()


def as_session(standin: Standin, work: Callable[[MemphisSession], Awaitable[None]], **env: Any) -> None:
    """Runs work with a session of root's."""

    async def session() -> None:
        async with logged_on(standin, **env) as one:
            await work(one)

    run(session())


async def elsewhere(function: Callable[..., Any], *args: Any) -> None:
    """Runs what waits for the stand-in beside the loop."""
    await asyncio.get_running_loop().run_in_executor(None, function, *args)
