"""Schemas and the stations that demand them, as routes, commands and the start of the gateway change them."""

from __future__ import annotations

import time
from typing import Any

from proxy import checking, validators
from proxy.credentials import Credentials
from proxy.dead_letters import station_of
from proxy.errors import BrokerAway, ChangeUnconfirmed, CheckFailed, GatewayError, SchemaNotFound
from proxy.messages import Attachment, Schema, SchemaHead, SchemaVersion, Station
from proxy.producer import Producer
from proxy.replies import GaveUp
from proxy.storing import GRACE_SECONDS


class Registrar:
    """The registry of schemas, used as the users that callers name: the broker decides what each may do.

    All methods raise `Forbidden`, `BadRegistry`, `Unavailable`; those that change something also `Conflict` when others
    changed the same at the same time, and `ChangeUnconfirmed`. The case of letters in names does not count.
    """

    def __init__(self, producer: Producer, seconds: float) -> None:
        self._producer, self._seconds = producer, seconds

    def put(self, credentials: Credentials, name: str, schema: Schema) -> tuple[SchemaVersion, bool]:
        """Makes this the newest version of the schema; false beside it when it was that already.

        Compiles it first, which may take seconds. Raises `BadSchema`, `BadSchemaName`, `TooLarge`.
        """
        name, prepared = name.lower(), validators.prepare(schema)
        version, made = self._change(credentials, "put_schema", name, prepared)
        return SchemaVersion(name=name, version=version, schema=prepared), made

    def get(self, credentials: Credentials, name: str, version: int | None = None) -> SchemaVersion:
        """That version of the schema, or the newest. Raises `BadSchemaName`, `SchemaNotFound`."""
        found: SchemaVersion = self._ask(credentials, "get_schema", name.lower(), version)
        return found

    def all(self, credentials: Credentials) -> list[SchemaHead]:
        """All schemas, by name."""
        found: list[SchemaHead] = self._ask(credentials, "list_schemas")
        return found

    def delete(self, credentials: Credentials, name: str) -> None:
        """Deletes a schema. Raises `BadSchemaName`, `SchemaNotFound`, `Conflict` while a station demands it."""
        self._change(credentials, "delete_schema", name.lower())

    def attach(self, credentials: Credentials, station: Station, attachment: Attachment) -> Attachment:
        """Makes the station demand a schema from now on; what it demands then, by the schema's own name.

        Raises `BadSchemaName`, `SchemaNotFound`, and `BadStationName` where no station could keep its dead letters.
        """
        if attachment.dead_letter:
            station_of(station)
        name = attachment.schema.lower()
        self._change(credentials, "attach", station, name, attachment.version, attachment.dead_letter)
        return Attachment(schema=name, version=attachment.version, dead_letter=attachment.dead_letter)

    def detach(self, credentials: Credentials, station: Station) -> None:
        """Makes the station demand nothing. Raises `SchemaNotFound` where it did not before."""
        if not self._change(credentials, "detach", station):
            raise _nothing_attached(station)

    def attachment(self, credentials: Credentials, station: Station) -> Attachment:
        """What the station demands. Raises `SchemaNotFound` for nothing."""
        found: Attachment | None = self._ask(credentials, "attachment", station)
        if found is None:
            raise _nothing_attached(station)
        return found

    def validate(self, credentials: Credentials, station: Station, payload: bytes) -> None:
        """Checks a payload as `Producer.single` would. Raises `SchemaViolation`."""
        demand = self._producer.demand(credentials, station, self._until())
        if demand is not None:
            checking.check(demand, payload)

    def validate_batch(self, credentials: Credentials, station: Station, payloads: list[bytes]) -> None:
        """Checks payloads as `Producer.batch` would. Raises `CheckFailed`."""
        until = self._until()
        demand = self._producer.demand(credentials, station, until)
        refused: list[tuple[int, GatewayError]] = [*checking.refused(demand, payloads, until).items()]
        if refused:
            raise CheckFailed(len(payloads), refused)

    def _until(self) -> float:
        return time.monotonic() + self._seconds

    def _ask(self, credentials: Credentials, method: str, *args: Any) -> Any:
        try:
            return self._run(credentials, method, args)
        except GaveUp:
            raise BrokerAway("the broker does not answer in time") from None

    def _change(self, credentials: Credentials, method: str, *args: Any) -> Any:
        try:
            return self._run(credentials, method, args)
        except GaveUp as error:
            raise (ChangeUnconfirmed() if error.started else BrokerAway("the gateway is too busy")) from None

    def _run(self, credentials: Credentials, method: str, args: tuple[Any, ...]) -> Any:
        return self._producer.registry(credentials, method, *args, seconds=self._seconds + GRACE_SECONDS)


def _nothing_attached(station: Station) -> SchemaNotFound:
    return SchemaNotFound(f"station {station.name} has no schema")
