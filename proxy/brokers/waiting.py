"""What waits in the pool for a user's session."""

from __future__ import annotations

import asyncio
from typing import Protocol

from proxy.brokers import Session
from proxy.errors import BrokerAway, GatewayError


class Waiting(Protocol):
    """What needs a user's session, as a `Delivery` does."""

    def begin(self, session: Session) -> None:
        """A session has become available."""

    def tick(self, now: float) -> None:
        """Time goes on; whoever is past its deadline ends."""

    def delayed(self, error: GatewayError) -> None:
        """No session can be had now; why."""

    def refuse(self, error: GatewayError) -> None:
        """None will ever be had."""


class Wish:
    """Waits for nothing but the session, until `deadline`."""

    def __init__(self, deadline: float) -> None:
        self.session: asyncio.Future[Session] = asyncio.get_running_loop().create_future()
        self._deadline = deadline
        self._why: GatewayError = BrokerAway()

    def begin(self, session: Session) -> None:
        """Here it is."""
        if not self.session.done():
            self.session.set_result(session)

    def tick(self, now: float) -> None:
        """Time goes on."""
        if now >= self._deadline:
            self.refuse(self._why)

    def delayed(self, error: GatewayError) -> None:
        """Not now."""
        self._why = error

    def refuse(self, error: GatewayError) -> None:
        """Never."""
        if not self.session.done():
            self.session.set_exception(error)
