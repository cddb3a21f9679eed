"""Users' places in the pool of sessions, and whom the broker has refused one lately. All of it runs on the loop."""

from __future__ import annotations

from proxy.brokers import Session
from proxy.brokers.readers import Identity
from proxy.brokers.waiting import Waiting
from proxy.credentials import Credentials
from proxy.errors import GatewayError

REFUSED_MEMORY_SECONDS = 3.0  # a token outlives its user's removal; each message must not cost a connection


class Link:
    """A user's place in the pool: the session, if there is one, and the deliveries (and wishes) that need it."""

    __slots__ = ("credentials", "deliveries", "opening", "retry_at", "session", "used")

    def __init__(self, credentials: Credentials) -> None:
        self.credentials = credentials
        self.session: Session | None = None
        self.opening = False
        self.deliveries: dict[Waiting, None] = {}
        self.used = 0.0
        self.retry_at = 0.0


class Refusals:
    """What the broker has told users whom it did not take, for some seconds; of at most so many, the oldest go."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._told: dict[Identity, tuple[float, GatewayError]] = {}

    def __len__(self) -> int:
        return len(self._told)

    def remember(self, identity: Identity, error: GatewayError, now: float) -> None:
        """The broker has refused this user just now."""
        self._told.pop(identity, None)
        if len(self._told) >= self._most:
            del self._told[next(iter(self._told))]
        self._told[identity] = now + REFUSED_MEMORY_SECONDS, error

    def check(self, identity: Identity, now: float) -> None:
        """Raises what the broker has told this user a moment ago."""
        until, error = self._told.get(identity, (0.0, None))
        if error is not None and now < until:
            raise type(error)(error.message)

    def forget(self, identity: Identity) -> None:
        """The broker has taken this user."""
        self._told.pop(identity, None)
