"""What is said on the control plane of a Memphis broker: bodies, answers, and what texts mean."""

from __future__ import annotations

import base64
import json

import msgspec
import pytest

from proxy import validators
from proxy.brokers import memphis_control as control
from proxy.errors import BrokerRefused, SchemaViolation
from proxy.messages import Message, station_named
from tests.brokers.memphis_standin import RECORDED
from tests.brokers.tools import settings

ORDERS = station_named("Orders.EU")
CLIENT = control.Client("root", "11111111-2222-4333-8444-555555555555")


@pytest.mark.parametrize(
    ("text", "status"),
    {
        "User ghost does not exist": 401,
        "user app-rb is not allowed to access station rb-denied": 403,
        "user app-rb is not allowed to create station rb-other": 403,
        "station no-such-station does not exist": 404,
        "memphis: Station no-such-station does not exist": 404,
        "Only alphanumeric and the '_', '-', '.' characters are allowed in Station": 400,
        "Station should be under 128 characters": 400,
        "station can not be created, probably since replicas count is larger than the cluster size": 503,
        "to produce to this station please upgrade your SDK version": 503,
        "anything else": 503,
    }.items(),
)
def test_a_text_of_the_brokers_is_an_error_of_ours(text: str, status: int) -> None:
    """All texts but the last were recorded."""
    assert control.refusal(text).status == status


def test_a_race_is_told_from_other_refusals() -> None:
    """The broker leaves out the blank behind "Station"."""
    assert control.is_race(RECORDED["race"].format(station="orders"))
    assert not control.is_race("User ghost does not exist")


def test_an_answer_may_be_bare_text() -> None:
    """As that of consumers is, so that it might be one day for producers."""
    assert control.read_producer_answer(b"something is wrong").error == "something is wrong"


@pytest.mark.parametrize("data", [b"", b"  \n"])
def test_an_empty_answer_is_no_producer(data: bytes) -> None:
    """Nothing of what is needed stands in it."""
    with pytest.raises(BrokerRefused):
        control.read_producer_answer(data)


def test_a_station_is_asked_for_as_the_settings_say() -> None:
    """An age, which the window does not exceed."""
    config = settings("memphis://a", STATION_MAX_AGE_SECONDS=60, STATION_REPLICAS=3)
    body = control.station_creation(CLIENT, ORDERS, config)
    assert (body["name"], body["username"], body["replicas"]) == ("orders.eu", "root", 3)
    assert (body["retention_type"], body["retention_value"]) == ("message_age_sec", 60)
    assert body["idempotency_window_in_ms"] == 60_000


def test_a_station_knows_ids_for_a_day_at_most() -> None:
    """The broker makes none that should know them for longer."""
    config = settings("memphis://a", DUPLICATE_WINDOW_SECONDS=100_000)
    assert control.station_creation(CLIENT, ORDERS, config)["idempotency_window_in_ms"] == 86_400_000


@pytest.mark.parametrize(
    ("age", "size", "retention"),
    [(0, 0, ("message_age_sec", 10**9)), (0, 5000, ("bytes", 5000)), (60, 5000, ("message_age_sec", 60))],
)
def test_a_station_has_one_limit(age: int, size: int, retention: tuple[str, int]) -> None:
    """The broker knows one each; no limit is an age that nobody lives to see."""
    config = settings("memphis://a", STATION_MAX_AGE_SECONDS=age, STATION_MAX_BYTES=size)
    body = control.station_creation(CLIENT, ORDERS, config)
    assert (body["retention_type"], body["retention_value"]) == retention


def test_a_dead_letter_holds_any_bytes() -> None:
    """The payload in hex, headers that are not UTF-8 with replacements, the station's internal name."""
    headers = (("x-a", "caf\udce9"),)
    letter = control.dead_letter(CLIENT, ORDERS, Message(b"\xff\x00", headers, "id"), "why")
    assert json.loads(json.dumps(letter)) == letter
    assert letter["station_name"] == "orders#eu"
    assert letter["message"]["data"] == "ff00"
    assert letter["message"]["headers"] == {"x-a": "caf\ufffd", **dict(CLIENT.marks())}


def test_no_schema_is_no_demand() -> None:
    """The broker says so with empty texts."""
    answer = control.read_producer_answer(json.dumps(RECORDED["producer"]).encode())
    assert control.demand_of(answer.schema_update, True) is None


@pytest.mark.parametrize("kind", ["json", "protobuf", "avro", "graphql"])
def test_a_schema_becomes_a_demand(kind: str) -> None:
    """With its definition as given, and for protobuf what the broker's compiler made of it."""
    answer = {**RECORDED["producer"], "schema_update": RECORDED["schemas"][kind]}
    update = control.read_producer_answer(json.dumps(answer).encode()).schema_update
    demand, version = control.demand_of(update, True), RECORDED["schemas"][kind]["active_version"]
    assert demand is not None
    assert (demand.name, demand.version, demand.dead_letter) == (update.schema_name, 1, True)
    assert (demand.schema.type, demand.schema.definition) == (kind, version["schema_content"])
    assert demand.schema.message_struct_name == version["message_struct_name"]
    assert demand.schema.compiled == base64.b64decode(version["descriptor"])


def test_a_descriptor_that_is_no_base64_leaves_the_definition() -> None:
    """Whoever compiles it has the last word."""
    update = control.SchemaUpdate("s", "protobuf", control.Version(1, "?", "syntax", "A"))
    demand = control.demand_of(update, False)
    assert demand is not None
    assert demand.schema.compiled == b""


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("json", b'{"id": 1}', b'{"name": "x"}'),
        ("protobuf", b"\x08\x01\x12\x01a", b"\xff\xff\xff"),
        ("avro", b'{"id": 1, "name": "x"}', b'{"id": 1}'),
        ("graphql", b"query { order(id: 1) { id name } }", b"query { order(id: 1) { nope } }"),
    ],
)
def test_what_the_broker_sends_is_what_our_languages_take(kind: str, good: bytes, bad: bytes) -> None:
    """Definitions and descriptors as they are: payloads that Memphis' gateway took pass, those it refused do not."""
    update = msgspec.convert(RECORDED["schemas"][kind], control.SchemaUpdate)
    demand = control.demand_of(update, True)
    assert demand is not None
    validators.check(demand.schema, good)
    with pytest.raises(SchemaViolation):
        validators.check(demand.schema, bad)
