"""The brokers behind the gateway, one module each, found by the scheme of `BROKER_URL`.

No broker is imported before it is asked for: gunicorn's master must have neither nats nor asyncio in it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from proxy.errors import BadSetting

if TYPE_CHECKING:
    from proxy.brokers.atomic import AtomicDelivery
    from proxy.brokers.publishing import Delivery
    from proxy.config import Config
    from proxy.credentials import Credentials
    from proxy.messages import Station

Notice = Callable[..., None]

BROKERS = {
    "embedded": "proxy.brokers.jetstream:JetStream",
    "nats": "proxy.brokers.jetstream:JetStream",
    "tls": "proxy.brokers.jetstream:JetStream",
}


class Reply(Protocol):
    """Where a job puts its answer, once; as the bridge hands it over."""

    on_abandon: Callable[[], object] | None

    @property
    def hears_parts(self) -> bool:
        """Whether parts of the answer are of use before its end."""

    def tell(self, part: Any) -> None:
        """Answers a part."""

    def set(self, value: Any) -> None:
        """Answers."""


class Session(Protocol):
    """One broker connection as one user: it publishes, and knows about stations. It ends once and never reconnects."""

    @property
    def alive(self) -> bool:
        """Whether messages can be sent."""

    @property
    def max_payload(self) -> int:
        """Most bytes of headers and payload that the broker takes in a message."""

    @property
    def proved_at(self) -> float:
        """When, by the loop's clock, the broker last gave a sign of life that was asked for."""

    def on_end(self, function: Callable[[], None]) -> None:
        """Has `function` called once when the session has ended."""

    def publish(self, delivery: Delivery, indexes: Iterable[int], grouped: bool) -> list[int]:
        """Sends messages, if `grouped` together with others of this turn; returns those that are too large."""

    def publish_atomic(self, delivery: AtomicDelivery) -> int | None:
        """Sends the messages of an atomic batch; the index of one that is too large, in which case nothing is sent.

        Raises `BadRequest` where the broker knows no atomic batches.
        """

    def forget(self, token: int) -> None:
        """Waits for the answer to a message no longer."""

    def check(self) -> None:
        """Asks the broker for a sign of life; the session ends when none comes."""

    def window(self, station: Station) -> float | None:
        """Seconds for which the station knows a de-duplication id; None while that is being asked."""

    async def ensure(self, station: Station) -> bool:
        """True when it has created the station, false when it was there. Raises when there is none."""

    async def stored(self, station: Station, sequence: int) -> bytes | None:
        """The payload with that sequence; None when it is gone, or the user may not read it.

        Raises `BrokerAway` or `BrokerRefused` when it cannot be told now.
        """

    async def close(self) -> None:
        """Ends the session."""


class Broker(Protocol):
    """A kind of broker at the addresses that the settings name."""

    async def connect(self, credentials: Credentials) -> Session:
        """Logs on, which proves the credentials.

        Raises `Unauthorized`, `Forbidden`, `BrokerAway`, `BrokerRefused` or `OpenBroker`.
        """

    async def check(self) -> None:
        """Sees that the broker answers, and does not let everyone in; raises as `connect` does."""


def open_broker(config: Config, notice: Notice) -> Broker:
    """The broker that the settings name; `notice(event, **fields)` is told what a log should know of.

    Raises `BadSetting` for one that there is no module for.
    """
    scheme = "embedded" if config.embedded else config.broker_url[0].partition("://")[0]
    if scheme not in BROKERS:
        raise BadSetting("BROKER_URL", f"nats:// or tls://; this version knows no {scheme}:// yet")
    module, _, attribute = BROKERS[scheme].partition(":")
    make: Any = getattr(importlib.import_module(module), attribute)
    broker: Broker = make(config, notice)
    return broker
