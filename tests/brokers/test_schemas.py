"""The registry of schemas: versions that nobody loses or changes, and what stations demand."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from proxy.brokers.schemas import BUCKET, Registry, station_key
from proxy.errors import BadRegistry, BadSchema, BadSchemaName, Conflict, SchemaNotFound, TooLarge
from proxy.messages import Attachment, Schema, SchemaHead, SchemaVersion, station_named
from tests.brokers.registries import ANY, NONE, ORDERS, OTHER, attempt, registry
from tests.brokers.tools import USERS, client, run
from tests.servers import NatsServer

PROTO = Schema(type="protobuf", definition="message A {}", message_struct_name="A", strict=True, compiled=b"\0\xff")

Servers = Callable[..., NatsServer]


@pytest.fixture
def server(nats_server: Servers) -> NatsServer:
    """A server with the user `root`."""
    return nats_server(users=USERS)


def alone(server: NatsServer, work: Callable[[Registry], Any]) -> Any:
    """Runs work that needs one replica."""

    async def with_one() -> Any:
        async with registry(server) as one:
            return await work(one)

    return run(with_one())


# ---- versions ----------------------------------------------------------------------------------------------------


def test_a_new_definition_is_a_new_version_and_the_same_one_is_not(server: NatsServer) -> None:
    """Numbers begin at 1; an older definition that comes back is new again."""

    async def work(one: Registry) -> None:
        puts = [await one.put_schema("order", schema) for schema in (ANY, ANY, NONE, NONE, ANY)]
        assert puts == [(1, True), (1, False), (2, True), (2, False), (3, True)]
        assert await one.get_schema("order") == SchemaVersion(name="order", version=3, schema=ANY)
        assert await one.get_schema("order", 2) == SchemaVersion(name="order", version=2, schema=NONE)

    alone(server, work)


def test_all_of_a_schema_is_kept(server: NatsServer) -> None:
    """What a compiler made of it too, which alone makes no new version."""

    async def work(one: Registry) -> None:
        await one.put_schema("p", PROTO)
        assert (await one.get_schema("p")).schema == PROTO
        assert await one.put_schema("p", msgspec.structs.replace(PROTO, compiled=b"other")) == (1, False)
        assert await one.put_schema("p", msgspec.structs.replace(PROTO, strict=False)) == (2, True)

    alone(server, work)


def test_what_is_not_there_is_not_found(server: NatsServer) -> None:
    """No bucket, no schema, no version."""

    async def work(one: Registry) -> None:
        assert await one.list_schemas() == []
        for missing in (one.get_schema("order"), one.delete_schema("order"), one.attach(ORDERS, "order")):
            assert isinstance(await attempt(missing), SchemaNotFound)
        await one.put_schema("order", ANY)
        for missing in (one.get_schema("order", 2), one.get_schema("order", 0), one.attach(ORDERS, "order", 2)):
            assert isinstance(await attempt(missing), SchemaNotFound)
        assert await one.attachment(ORDERS) is None

    alone(server, work)


def test_schemas_are_listed_by_name(server: NatsServer) -> None:
    """With the newest version's number and type, without the deleted ones; more than are read at once."""

    async def work(one: Registry) -> None:
        names = [f"s-{number:03}" for number in range(70)]
        for name in names:
            await one.put_schema(name, ANY)
        await one.put_schema("s-000", PROTO)
        await one.put_schema("gone", ANY)
        await one.delete_schema("gone")
        first, *rest = await one.list_schemas()
        assert first == SchemaHead(name="s-000", version=2, type="protobuf")
        assert [head.name for head in rest] == names[1:]

    alone(server, work)


@pytest.mark.parametrize("name", ["", "a.b", "a b", "a\n", "*", ">", "ä", "x" * 129, "a/b", "=", "a\r\nPUB x 0"])
def test_a_name_that_is_none_is_refused(server: NatsServer, name: str) -> None:
    """By every operation that takes one."""

    async def work(one: Registry) -> None:
        uses = (one.put_schema(name, ANY), one.get_schema(name), one.delete_schema(name), one.attach(ORDERS, name))
        for use in uses:
            assert isinstance(await attempt(use), BadSchemaName)

    alone(server, work)


def test_a_schema_that_cannot_be_stored_is_refused(server: NatsServer) -> None:
    """Larger than the broker's largest payload, or no Unicode; nothing is left of it."""

    async def work(one: Registry) -> None:
        large = await attempt(one.put_schema("order", Schema(type="json", definition="x" * (1 << 20))))
        assert isinstance(large, TooLarge)
        lone = await attempt(one.put_schema("order", Schema(type="json", definition="\ud800")))
        assert isinstance(lone, BadSchema)
        assert await one.list_schemas() == []
        assert await one.put_schema("order", ANY) == (1, True)

    alone(server, work)


def test_a_version_that_no_head_tells_of_is_not_lost(server: NatsServer) -> None:
    """A replica ended between its two steps: the next one who puts finishes what it began."""

    async def work(one: Registry) -> None:
        await one.bucket.create("schema.order.1", msgspec.json.encode(NONE))
        assert isinstance(await attempt(one.get_schema("order")), SchemaNotFound)
        assert await one.put_schema("order", ANY) == (2, True)
        assert (await one.get_schema("order", 1)).schema == NONE
        await one.bucket.create("schema.order.3", msgspec.json.encode(OTHER))
        assert await one.put_schema("order", NONE) == (4, True)
        assert (await one.get_schema("order", 3)).schema == OTHER

    alone(server, work)


# ---- stations ----------------------------------------------------------------------------------------------------


def test_a_station_demands_what_it_is_attached_to(server: NatsServer) -> None:
    """A version, or the newest at any time; until it is detached."""

    async def work(one: Registry) -> None:
        await one.put_schema("order", ANY)
        await one.attach(ORDERS, "order", 1, dead_letter=True)
        assert await one.attachment(ORDERS) == Attachment(schema="order", version=1, dead_letter=True)
        await one.attach(ORDERS, "order")
        assert await one.attachment(ORDERS) == Attachment(schema="order", version=None)
        assert await one.detach(ORDERS)
        assert await one.attachment(ORDERS) is None
        assert not await one.detach(ORDERS)

    alone(server, work)


@pytest.mark.parametrize("name", ["a", "a.b.c", "a..b", "a...b", "a_-b"])
def test_each_name_of_a_station_has_a_key_of_its_own(server: NatsServer, name: str) -> None:
    """Also one with dots in a row, which no key may have."""

    async def work(one: Registry) -> None:
        await one.put_schema("order", ANY)
        await one.attach(station_named(name), "order")
        assert await one.bucket.keys("station.>") == [station_key(station_named(name))]
        refusal = await attempt(one.delete_schema("order"))
        assert refusal.message == f"station {name} demands schema order: detach it first"

    alone(server, work)


# ---- deleting ----------------------------------------------------------------------------------------------------


def test_a_schema_that_a_station_demands_is_not_deleted(server: NatsServer) -> None:
    """And is as it was; it goes when the station is detached."""

    async def work(one: Registry) -> None:
        await one.put_schema("order", ANY)
        await one.attach(ORDERS, "order", 1)
        refusal = await attempt(one.delete_schema("order"))
        assert isinstance(refusal, Conflict)
        assert await one.put_schema("order", ANY) == (1, False)
        await one.attach(ORDERS, "order")
        await one.detach(ORDERS)
        await one.delete_schema("order")
        assert isinstance(await attempt(one.get_schema("order")), SchemaNotFound)
        assert isinstance(await attempt(one.get_schema("order", 1)), SchemaNotFound)

    alone(server, work)


def test_numbers_are_not_given_again(server: NatsServer) -> None:
    """A number stands for one content, also after a schema was deleted, by us or by another tool."""

    async def work(one: Registry) -> None:
        await one.put_schema("order", ANY)
        await one.put_schema("order", NONE)
        await one.delete_schema("order")
        assert await one.put_schema("order", OTHER) == (3, True)
        assert isinstance(await attempt(one.get_schema("order", 1)), SchemaNotFound)
        await one.bucket.delete("schema.order")
        assert await one.put_schema("order", ANY) == (4, True)

    alone(server, work)


def test_a_deletion_that_was_cut_off_is_taken_up_again(server: NatsServer) -> None:
    """Nobody attaches a schema with its mark; to put it takes the mark off, to delete it goes on."""

    async def work(one: Registry) -> None:
        await one.put_schema("order", ANY)
        mark = b'{"version": 1, "type": "json", "deleting": true}'
        await one.bucket.put("schema.order", mark)
        assert isinstance(await attempt(one.attach(ORDERS, "order")), Conflict)
        assert await one.put_schema("order", ANY) == (1, False)
        await one.attach(ORDERS, "order")
        await one.detach(ORDERS)
        await one.bucket.put("schema.order", mark)
        await one.delete_schema("order")
        assert await one.list_schemas() == []

    alone(server, work)


# ---- others who write there --------------------------------------------------------------------------------------


def test_the_values_are_json_that_other_tools_read_and_write(server: NatsServer) -> None:
    """Seen by nats-py, and the reverse."""

    async def work() -> None:
        async with registry(server) as one, client(server) as other:
            await one.put_schema("order", PROTO)
            await one.attach(ORDERS, "order", 1, True)
            things = await other.jetstream().key_value(BUCKET)
            keys = ("schema.order", "schema.order.1", "station.orders")
            values = [json.loads((await things.get(key)).value or b"") for key in keys]
            assert values == [
                {"version": 1, "type": "protobuf", "deleting": False},
                {
                    "type": "protobuf",
                    "definition": "message A {}",
                    "message_struct_name": "A",
                    "strict": True,
                    "compiled": "AP8=",
                },
                {"schema": "order", "version": 1, "dead_letter": True},
            ]
            await things.create("schema.order.2", b'{"type": "json", "definition": "{}"}')
            await things.put("schema.order", b'{"version": 2, "type": "json"}')
            await things.put("station.orders", b'{"schema": "order", "version": "newest"}')
            assert await one.get_schema("order") == SchemaVersion(name="order", version=2, schema=ANY)
            assert await one.attachment(ORDERS) == Attachment(schema="order", version=None)

    run(work())


def test_a_version_that_others_wrote_uncompiled_is_replaced(server: NatsServer) -> None:
    """The same definition put by us is another version, else its stations could never use it."""

    async def work(one: Registry) -> None:
        await one.put_schema("order", PROTO)
        await one.bucket.put("schema.order.1", msgspec.json.encode(msgspec.structs.replace(PROTO, compiled=b"")))
        assert await one.put_schema("order", PROTO) == (2, True)
        assert (await one.get_schema("order")).schema == PROTO
        assert await one.put_schema("order", PROTO) == (2, False)

    alone(server, work)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff",
        b'{"version": 0, "type": "json"}',
        b'{"version": 1e400, "type": "json"}',
        b'{"version": 99999999999999999999, "type": "json"}',
        b'{"version": 1, "type": "\\ud800"}',
        b'{"version": 1}',
        b"[" * 100_000,
    ],
)
def test_a_head_that_cannot_be_used_is_told(server: NatsServer, value: bytes) -> None:
    """It is neither no schema nor a crash."""

    async def work(one: Registry) -> None:
        await one.bucket.put("schema.order", value)
        uses = (one.get_schema("order"), one.put_schema("order", ANY), one.delete_schema("order"), one.list_schemas())
        for use in uses:
            told = await attempt(use)
            assert isinstance(told, BadRegistry)
            assert "schema.order" in told.message

    alone(server, work)


@pytest.mark.parametrize(
    "value",
    [
        b"x",
        b'{"schema": "a.>", "version": 1}',
        b'{"schema": "a\\r\\nPUB x 0", "version": 1}',
        b'{"schema": "a\\n", "version": 1}',
        b'{"schema": "order", "version": "oldest"}',
        b'{"schema": "order", "version": -1}',
        b'{"schema": "order", "version": true}',
        b'{"schema": "order", "version": 1, "dead_letter": 1}',
    ],
)
def test_an_attachment_that_cannot_be_used_is_told(server: NatsServer, value: bytes) -> None:
    """A deletion cannot know which schema is meant, so it is refused too. The way out is to attach or detach."""

    async def work(one: Registry) -> None:
        await one.put_schema("order", ANY)
        await one.bucket.put("station.orders", value)
        for use in (one.attachment(ORDERS), one.delete_schema("order")):
            told = await attempt(use)
            assert isinstance(told, BadRegistry)
            assert "station.orders" in told.message
        await one.attach(ORDERS, "order")
        assert await one.attachment(ORDERS) == Attachment(schema="order", version=None)
        await one.bucket.put("station.orders", value)
        await one.detach(ORDERS)
        assert await one.attachment(ORDERS) is None

    alone(server, work)


def test_a_head_that_counts_without_end_costs_nothing(server: NatsServer) -> None:
    """Numbers that others wrote are not counted through."""

    async def work(one: Registry) -> None:
        await one.put_schema("order", ANY)
        await one.bucket.put("schema.order", b'{"version": 9007199254740992, "type": "json"}')
        await one.bucket.put("schema.order.9007199254740992", msgspec.json.encode(ANY))
        assert isinstance(await attempt(one.put_schema("order", NONE)), Conflict)
        await one.delete_schema("order")
        assert await one.put_schema("order", NONE) == (2, True)

    alone(server, work)


def test_keys_that_are_none_of_ours_are_left_alone(server: NatsServer) -> None:
    """Whatever else is in the bucket."""

    async def work(one: Registry) -> None:
        await one.put_schema("order", ANY)
        for key in ("other", "schema", "schema.a/b", "schema.order.x", "schema.order.1.2", "schema.order.00"):
            await one.bucket.put(key, b"x")
        assert [head.name for head in await one.list_schemas()] == ["order"]
        assert await one.put_schema("order", NONE) == (2, True)
        await one.delete_schema("order")

    alone(server, work)


def test_subjects_that_are_no_keys_are_left_alone(server: NatsServer) -> None:
    """Anyone with the right to write to the bucket may publish to them; schemas are listed and deleted all the same."""

    async def work() -> None:
        async with registry(server) as one, client(server) as other:
            await one.put_schema("order", ANY)
            for key in ("station.a:b", "station.ä", "schema.ä", "schema.order.ä"):
                await other.jetstream().publish(f"$KV.{BUCKET}.{key}", b"x")
            assert [head.name for head in await one.list_schemas()] == ["order"]
            await one.delete_schema("order")
            assert await one.list_schemas() == []

    run(work())
