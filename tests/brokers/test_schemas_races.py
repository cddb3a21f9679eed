"""Replicas that change the same schema at the same time: nothing is lost, and no station is left without its schema."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from proxy.brokers.api import Api
from proxy.brokers.kv import Bucket, Entry
from proxy.brokers.schemas import BUCKET, Registry
from proxy.errors import SchemaNotFound
from proxy.messages import Attachment, Schema, SchemaVersion
from tests.brokers.registries import ANY, NONE, ORDERS, OTHER, attempt, registry
from tests.brokers.tools import USERS, connected, run
from tests.servers import NatsServer

Servers = Callable[..., NatsServer]


@pytest.fixture
def server(nats_server: Servers) -> NatsServer:
    """A server with the user `root`."""
    return nats_server(users=USERS)


def together(server: NatsServer, work: Callable[[Registry, Registry], Any]) -> Any:
    """Runs work that needs two replicas."""

    async def with_two() -> Any:
        async with registry(server) as one, registry(server) as other:
            return await work(one, other)

    return run(with_two())


# ---- new versions -----------------------------------------------------------------------------------------------


def test_two_replicas_that_put_at_once_get_two_versions(server: NatsServer) -> None:
    """None is lost, none is overwritten, and the newest is one of them."""

    async def work(one: Registry, other: Registry) -> None:
        for turn in range(20):
            schemas = [Schema(type="json", definition=f"{{}} {turn} {n}") for n in range(2)]
            puts = await asyncio.gather(one.put_schema("order", schemas[0]), other.put_schema("order", schemas[1]))
            assert sorted(puts) == [(2 * turn + 1, True), (2 * turn + 2, True)]
            for (number, _), schema in zip(puts, schemas, strict=True):
                assert (await one.get_schema("order", number)).schema == schema
            assert (await other.get_schema("order")).version == 2 * turn + 2

    together(server, work)


def test_many_that_put_the_same_at_once_make_one_version(server: NatsServer) -> None:
    """As after a deployment, when each replica registers what it was shipped with. No other version is left behind."""

    async def work(one: Registry, other: Registry) -> None:
        for name in map("order-{}".format, range(10)):
            puts = await asyncio.gather(*(each.put_schema(name, ANY) for each in (one, other) * 5))
            assert sum(made for _, made in puts) == 1
            assert {number for number, _ in puts} == {1}
            assert await one.bucket.keys(f"schema.{name}.*") == [f"schema.{name}.1"]

    together(server, work)


# ---- deletions --------------------------------------------------------------------------------------------------


class Interrupted(Bucket):
    """A bucket whose user is interrupted: before its `step`-th use, something else is done to the end."""

    def __init__(self, api: Api, step: int, interrupt: Callable[[], Any]) -> None:
        super().__init__(api, BUCKET)
        self._left, self._interrupt = step, interrupt

    async def _pass(self) -> None:
        self._left -= 1
        if self._left == 0:
            await attempt(self._interrupt())

    async def entry(self, key: str) -> Entry | None:
        """A use."""
        await self._pass()
        return await super().entry(key)

    async def keys(self, pattern: str = ">") -> list[str]:
        """A use."""
        await self._pass()
        return await super().keys(pattern)

    async def _write(self, *args: Any) -> int:
        await self._pass()
        return await super()._write(*args)


@pytest.mark.parametrize("before", [None, "kept"])
@pytest.mark.parametrize("version", [None, 1])
@pytest.mark.parametrize("whole", ["attach", "delete"])
def test_a_deletion_and_an_attachment_at_once_leave_no_station_without_its_schema(
    server: NatsServer, whole: str, version: int | None, before: str | None
) -> None:
    """Whichever comes between two steps of the other: one is refused. A station left as it was demands what it did."""
    outcomes: set[tuple[str, str]] = set()

    async def work() -> None:
        async with registry(server) as other, connected(server.url) as connection:
            await other.put_schema("kept", NONE)
            for step in range(1, 14):
                await (other.attach(ORDERS, before) if before else other.detach(ORDERS))
                await other.put_schema("order", ANY)
                number = version and (await other.get_schema("order")).version
                results: dict[str, Any] = {}

                async def attach(one: Registry, number: int | None = number, results: Any = results) -> None:
                    results["attach"] = await attempt(one.attach(ORDERS, "order", number))

                async def delete(one: Registry, results: Any = results) -> None:
                    results["delete"] = await attempt(one.delete_schema("order"))

                inner, outer = (attach, delete) if whole == "attach" else (delete, attach)
                bucket = Interrupted(Api(connection), step, lambda inner=inner: inner(other))
                await outer(Registry(bucket))
                if len(results) == 2:  # else it had ended before that step
                    outcomes.add(_names(results))
                    await _consistent(other, results, before, number)

    run(work())
    assert ("NoneType", "Conflict") in outcomes
    assert outcomes & {("Conflict", "NoneType"), ("SchemaNotFound", "NoneType")}
    assert ("NoneType", "NoneType") not in outcomes


def _names(results: dict[str, Any]) -> tuple[str, str]:
    return type(results["attach"]).__name__, type(results["delete"]).__name__


async def _consistent(one: Registry, results: dict[str, Any], before: str | None, number: int | None) -> None:
    """Asserts that the station demands what it was told to, or else what it did before; and that this is there."""
    found = await one.attachment(ORDERS)
    if results["attach"] is None:
        assert found == Attachment(schema="order", version=number)
        assert (await one.get_schema("order", number)).schema == ANY
    else:
        assert (found and found.schema) == before


@pytest.mark.parametrize("whole", ["put", "delete"])
def test_a_deletion_and_a_new_version_at_once_lose_nothing(server: NatsServer, whole: str) -> None:
    """A version that is made after a deletion began is there afterwards, whatever became of the deletion."""

    async def work() -> set[type]:
        outcomes = set()
        async with registry(server) as other, connected(server.url) as connection:
            for step in range(2, 14):
                await other.put_schema("order", ANY)
                results: dict[str, Any] = {}

                async def put(one: Registry, results: Any = results) -> None:
                    results["put"] = await one.put_schema("order", NONE)

                async def delete(one: Registry, results: Any = results) -> None:
                    results["delete"] = await attempt(one.delete_schema("order"))

                inner, outer = (put, delete) if whole == "put" else (delete, put)
                bucket = Interrupted(Api(connection), step, lambda inner=inner: inner(other))
                await outer(Registry(bucket))
                if len(results) == 2:  # else it had ended before that step
                    outcomes.add(type(results["delete"]))
                    number, made = results["put"]
                    assert made
                    assert (await other.get_schema("order")).version == number
                    assert (await other.get_schema("order", number)).schema == NONE
        return outcomes

    assert type(None) in run(work())


def test_a_new_version_between_two_steps_of_another_is_the_older_or_the_newer_one(server: NatsServer) -> None:
    """The head never goes back."""

    async def work() -> None:
        async with registry(server) as other, connected(server.url) as connection:
            for step in range(1, 8):
                name, results = f"s-{step}", []
                await other.put_schema(name, ANY)

                async def put(name: str = name, results: Any = results) -> None:
                    results.append(await other.put_schema(name, OTHER))

                results.append(await Registry(Interrupted(Api(connection), step, put)).put_schema(name, NONE))
                numbers = [2, 3] if len(results) == 2 else [2]  # else it had ended before that step
                assert sorted(results) == [(number, True) for number in numbers]
                assert (await other.get_schema(name)).version == numbers[-1]

    run(work())


def test_a_deletion_spares_what_is_made_anew_meanwhile(server: NatsServer) -> None:
    """Between its steps somebody makes the schema again, under the next number."""

    async def work() -> None:
        async with registry(server) as other, connected(server.url) as connection:

            class Slow(Bucket):
                async def keys(self, pattern: str = ">") -> list[str]:
                    if pattern.startswith("schema."):
                        assert await other.put_schema("order", NONE) == (2, True)
                    return await super().keys(pattern)

            await other.put_schema("order", ANY)
            await Registry(Slow(Api(connection), BUCKET)).delete_schema("order")
            assert await other.get_schema("order") == SchemaVersion(name="order", version=2, schema=NONE)
            assert isinstance(await attempt(other.get_schema("order", 1)), SchemaNotFound)

    run(work())
