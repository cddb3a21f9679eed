"""What a client and a Memphis broker say to each other beside JetStream: JSON on subjects that begin with `$memphis_`.

Pure: bodies are made and answers read here, nothing is sent. The broker tells what went wrong by text alone, so this is
where its texts are judged. Source: a Memphis 1.4.4 broker's recorded conversations; see `docs/memphis.md`.
"""

from __future__ import annotations

import base64
import binascii
import re
import uuid
from typing import Any

import msgspec

from proxy.config import Config
from proxy.errors import BadStationName, BrokerRefused, Forbidden, GatewayError, StationNotFound, Unauthorized
from proxy.messages import Demand, Message, Schema, Station

STATION_CREATIONS = "$memphis_station_creations"
PRODUCER_CREATIONS = "$memphis_producer_creations"
PRODUCER_DESTRUCTIONS = "$memphis_producer_destructions"
CONSUMER_CREATIONS = "$memphis_consumer_creations"
CLIENT_UPDATES = "$memphis_sdk_clients_updates"
SCHEMA_UPDATES = "$memphis_schema_updates_"  # and the internal name of a station
DEAD_LETTERS = "$memphis_schemaverse_dls"
NOTIFICATIONS = "$memphis_notifications"

# The name that Memphis' own gateway has, which consumers and dashboards know.
PRODUCER = "rest-gateway"
REQUEST_VERSION = 4
MOST_DELIVERIES = 10
LONGEST_WINDOW_SECONDS = 24 * 3600  # the broker refuses a longer one
FOR_EVER_SECONDS = 10**9  # a station that keeps messages without end has to be given one

_ALREADY = re.compile(r"already exists?\b", re.IGNORECASE)
_REFUSALS: tuple[tuple[str, type[GatewayError]], ...] = (
    (r"is not allowed to (?:access|create) station", Forbidden),
    (r"^user (?:.* )?does not exist", Unauthorized),
    (r"\bstation .* does not exist", StationNotFound),
    (r"are allowed in station|^station (?:should be under|name can)", BadStationName),
)


class Version(msgspec.Struct, frozen=True):
    """The active version of a schema; `descriptor` is base64 of a protobuf `FileDescriptorSet`."""

    version_number: int = 0
    descriptor: str = ""
    schema_content: str = ""
    message_struct_name: str = ""


class SchemaUpdate(msgspec.Struct, frozen=True):
    """A station's schema; without a name there is none."""

    schema_name: str = ""
    type: str = ""
    active_version: Version = msgspec.field(default_factory=Version)


class Partitions(msgspec.Struct, frozen=True):
    """The numbers of a station's partitions; none for stations of brokers before partitions."""

    partitions_list: list[int] | None = None


class ProducerAnswer(msgspec.Struct, frozen=True):
    """The answer to a producer's creation; `error` is empty when it was made. A consumer's has the first two."""

    schema_update: SchemaUpdate = msgspec.field(default_factory=SchemaUpdate)
    partitions_update: Partitions = msgspec.field(default_factory=Partitions)
    schemaverse_to_dls: bool = False
    send_notification: bool = False
    error: str = ""


class SchemaNews(msgspec.Struct, frozen=True):
    """What comes when a schema is attached (`UpdateType` 1) or detached (2)."""

    init: SchemaUpdate


class ClientNews(msgspec.Struct, frozen=True):
    """What comes on `CLIENT_UPDATES`; `station_name` is an internal name, or empty for all stations."""

    type: str
    station_name: str = ""
    update: Any = None


def read_producer_answer(data: bytes) -> ProducerAnswer:
    """The answer to a creation of a producer or consumer, as JSON or bare text. Raises `BrokerRefused` for nonsense."""
    try:
        return msgspec.json.decode(data, type=ProducerAnswer)
    except msgspec.MsgspecError:
        text = _text(data)
    if not text:
        raise BrokerRefused("the broker's answer cannot be understood")
    return ProducerAnswer(error=text)


def read_answer(data: bytes) -> str:
    """The text of an answer that is empty when all is well."""
    return _text(data)


def is_race(text: str) -> bool:
    """Whether somebody else was creating the same at this moment: asking again helps."""
    return bool(_ALREADY.search(text))


def refusal(text: str) -> GatewayError:
    """The error for a text of the broker's."""
    kind = next((kind for pattern, kind in _REFUSALS if re.search(pattern, text, re.IGNORECASE)), None)
    if kind is None:
        return BrokerRefused(f"the broker refused: {text}")
    return kind() if kind is Unauthorized or kind is BadStationName else kind(text)


def _text(data: bytes) -> str:
    return data.decode(errors="replace").strip()


# ---- what is asked -----------------------------------------------------------------------------------------------


class Client(msgspec.Struct, frozen=True):
    """Who asks: the user, and the id of the connection; `app_id` is the same for all connections of a process."""

    user: str
    connection_id: str

    def marks(self) -> tuple[tuple[str, str], ...]:
        """The headers by which consumers and the dashboard know where a message is from."""
        return (("$memphis_producedBy", PRODUCER), ("$memphis_connectionId", self.connection_id))


_APP_ID = str(uuid.uuid4())


def producer_creation(client: Client, station: Station) -> dict[str, Any]:
    """Asks for a producer; the broker makes the station if it is absent."""
    return {
        "name": PRODUCER,
        "station_name": station.name,
        "connection_id": client.connection_id,
        "producer_type": "application",
        "req_version": REQUEST_VERSION,
        "username": client.user,
        "app_id": _APP_ID,
        "sdk_lang": "python",
    }


def producer_destruction(client: Client, station: Station) -> dict[str, Any]:
    """Asks to forget the producer of this connection."""
    return {
        "name": PRODUCER,
        "station_name": station.name,
        "username": client.user,
        "connection_id": client.connection_id,
        "req_version": 1,
    }


def consumer_creation(client: Client, station: Station, name: str, group: str, config: Config) -> dict[str, Any]:
    """Asks for a consumer: the broker makes the group's durable consumers, and the station if it is absent.

    For a group that is there, time to ack and number of deliveries change to these, and the position stays.
    """
    deliveries = config.consume_max_deliveries
    return {
        "name": name,
        "station_name": station.name,
        "connection_id": client.connection_id,
        "consumer_type": "application",
        "consumers_group": group,
        "max_ack_time_ms": int(config.consume_ack_wait_seconds * 1000),
        "max_msg_deliveries": deliveries if 1 <= deliveries <= MOST_DELIVERIES else MOST_DELIVERIES,
        "start_consume_from_sequence": 1,
        "last_messages": -1,
        "req_version": REQUEST_VERSION,
        "username": client.user,
        "app_id": _APP_ID,
        "sdk_lang": "python",
    }


def station_creation(client: Client, station: Station, config: Config) -> dict[str, Any]:
    """Asks for a station as the settings want it. Where they limit age and bytes, the age counts: it can be one."""
    kind, value = "message_age_sec", config.station_max_age_seconds or FOR_EVER_SECONDS
    if config.station_max_bytes and not config.station_max_age_seconds:
        kind, value = "bytes", config.station_max_bytes
    window = min(config.duplicate_window_seconds, LONGEST_WINDOW_SECONDS)
    if kind == "message_age_sec":  # the broker takes no window that is longer
        window = min(window, value)
    return {
        "name": station.name,
        "retention_type": kind,
        "retention_value": value,
        "storage_type": "file",
        "replicas": config.station_replicas,
        "idempotency_window_in_ms": int(window * 1000),
        "schema_name": "",
        "dls_configuration": {"poison": True, "Schemaverse": True},
        "username": client.user,
        "tiered_storage_enabled": False,
        "partitions_number": 1,
        "dls_station": "",
    }


def dead_letter(client: Client, station: Station, message: Message, reason: str) -> dict[str, Any]:
    """A message that a schema has refused, for the broker to keep."""
    return {
        "station_name": station.internal,
        "producer": {"name": PRODUCER, "connection_id": client.connection_id},
        "message": {"data": message.payload.hex(), "headers": _readable((*message.headers, *client.marks()))},
        "validation_error": reason,
    }


def notification(station: Station, message: Message, reason: str) -> dict[str, Any]:
    """The news of such a message, for those who keep a station."""
    return {
        "title": "Schema validation has failed",
        "msg": f"Station: {station.name}\nProducer: {PRODUCER}\nError: {reason}",
        "type": "schema_validation_fail_alert",
        "code": message.payload.decode(errors="replace"),
    }


def _readable(pairs: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Headers for JSON, which holds no half of a surrogate pair; bytes that are not UTF-8 are replaced."""
    return {name: value.encode(errors="surrogateescape").decode(errors="replace") for name, value in pairs}


# ---- what is told ------------------------------------------------------------------------------------------------


def demand_of(update: SchemaUpdate, dead_letter: bool) -> Demand | None:
    """What a station demands by its schema; None without one."""
    if not update.schema_name:
        return None
    version = update.active_version
    schema = Schema(
        type=update.type,
        definition=version.schema_content,
        message_struct_name=version.message_struct_name,
        compiled=_descriptor(version.descriptor),
    )
    return Demand(name=update.schema_name, version=version.version_number, schema=schema, dead_letter=dead_letter)


def _descriptor(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return b""  # what uses it will say that the schema cannot be used
