"""The brokers behind the gateway, one module each, found by the scheme of `BROKER_URL`.

No broker is imported before it is asked for: gunicorn's master must have neither nats nor asyncio in it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from proxy.errors import BadSetting

if TYPE_CHECKING:
    from proxy.brokers.atomic import AtomicDelivery
    from proxy.brokers.consumers import Group
    from proxy.brokers.listening import ListeningConnection
    from proxy.brokers.publishing import Delivery
    from proxy.brokers.waiting import Waiting
    from proxy.config import Config
    from proxy.credentials import Credentials
    from proxy.errors import GatewayError
    from proxy.messages import Attachment, Demand, Message, Schema, SchemaHead, SchemaVersion, Station, Unknown, Wanted

Notice = Callable[..., None]

BROKERS = {
    "embedded": "proxy.brokers.jetstream:JetStream",
    "memphis": "proxy.brokers.memphis:Memphis",
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

    def fail(self, error: BaseException) -> None:
        """Answers with an error."""


class Demands(Protocol):
    """What stations demand of payloads, as a session has read it.

    `known` is by the station's name, None for one that demands nothing. Only the loop changes it; other threads look
    things up in it.
    """

    known: dict[str, Demand | None]

    async def read(self, station: Station) -> Demand | None:
        """What is known, or else what the registry says.

        Raises `Forbidden`, which names the missing right, `BadRegistry`, and `BrokerAway` or `BrokerRefused` when it
        cannot be told now.
        """

    def changed(self, key: str) -> None:
        """Word that a key of the registry may have changed: what was read from it is not known any more."""


class Registry(Protocol):
    """The schemas of the user's account, and which station demands which, with the user's own rights.

    All raise `Forbidden`, `BadRegistry`, `BrokerAway`, `BrokerRefused`; those that change something also `TooLarge`,
    `Conflict` when others changed the same thing at the same time, and `ChangeUnconfirmed`. `Pool.registry` runs them.
    """

    def on_write(self, function: Callable[[str], None]) -> None:
        """Has `function` called with the key after each change, made or not; see `Demands.changed`."""

    async def put_schema(self, name: str, schema: Schema) -> tuple[int, bool]:
        """Makes `schema` the newest version: its number, and whether it was made for this (not: the same as before).

        Raises `BadSchemaName`.
        """

    async def get_schema(self, name: str, version: int | None = None) -> SchemaVersion:
        """That version, or the newest. Raises `BadSchemaName`, `SchemaNotFound`."""

    async def list_schemas(self) -> list[SchemaHead]:
        """All schemas, by name."""

    async def delete_schema(self, name: str) -> None:
        """Deletes all versions. Raises `BadSchemaName`, `SchemaNotFound`, `Conflict` while a station demands it."""

    async def attach(self, station: Station, name: str, version: int | None = None, dead_letter: bool = False) -> None:
        """Makes the station demand that version, or the newest at any time.

        Raises `BadSchemaName`, `SchemaNotFound`.
        """

    async def detach(self, station: Station) -> bool:
        """Makes the station demand nothing; false when it did not before."""

    async def attachment(self, station: Station) -> Attachment | None:
        """What the station demands; None for nothing."""


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

    @property
    def demands(self) -> Demands:
        """What stations demand."""

    @property
    def registry(self) -> Registry:
        """Where schemas are kept."""

    @property
    def connection(self) -> ListeningConnection:
        """What it sends and reads through."""

    def on_end(self, function: Callable[[], None]) -> None:
        """Has `function` called once when the session has ended."""

    def begin(self, waiting: Waiting) -> None:
        """Has what waited for a session use this one, once it knows what it must know of the station."""

    def settling(self, station: Station) -> bool:
        """Whether the user's permissions for this station may still be on their way: refusals are not final then."""

    def publish(self, delivery: Delivery, indexes: list[int], grouped: bool) -> list[int]:
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

    def demand(self, station: Station) -> Demand | Unknown | None:
        """What the station demands, if it is known; nobody is asked."""

    async def hears(self, other: Any) -> bool:
        """Whether a message of that session arrives here, as it does when both belong to one account."""

    async def stored(self, station: Station, message: Message, sequence: int) -> bytes | None:
        """The payload with that sequence where `message` belongs; None when it is gone, or the user may not read it.

        Raises `BrokerAway` or `BrokerRefused` when it cannot be told now.
        """

    async def dead_letter(self, station: Station, rejected: list[tuple[Message, str]]) -> list[GatewayError | None]:
        """Gives messages that a schema has refused, with the reasons, to a broker that keeps them.

        Returns for each what kept it from being sent; whether the broker has stored it nobody tells.
        """

    async def group(self, station: Station, wanted: Wanted) -> Group:
        """Where a group reads from, which is made for this where that is allowed. Raises when there is nothing."""

    def forget_group(self, station: Station, wanted: Wanted) -> None:
        """Looks for the group again at the next call."""

    async def close(self) -> None:
        """Ends the session."""


class Broker(Protocol):
    """A kind of broker at the addresses that the settings name."""

    #: Whether it keeps what schemas have refused itself, when it is given by `Session.dead_letter`.
    keeps_letters: bool

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
        raise BadSetting("BROKER_URL", f"nats://, tls:// or memphis://; this version knows no {scheme}://")
    module, _, attribute = BROKERS[scheme].partition(":")
    make: Any = getattr(importlib.import_module(module), attribute)
    broker: Broker = make(config, notice)
    return broker
