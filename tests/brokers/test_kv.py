"""A bucket on a real server: what is read, what is changed, and that NATS' own client sees the same."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from nats.aio.client import Client
from nats.js.errors import KeyWrongLastSequenceError
from nats.js.kv import KeyValue

from proxy.brokers.api import Api
from proxy.brokers.connection import connect
from proxy.brokers.kv import Bucket
from proxy.credentials import Credentials
from proxy.errors import BrokerRefused, Conflict, Forbidden, TooLarge
from tests.brokers.fakes import FakeNats, Published, no_responders, reply
from tests.brokers.tools import USERS, Operator, client, connected, eventually_on_loop, options, run
from tests.servers import NatsServer

READ, DIRECT = "$JS.API.STREAM.MSG.GET.KV_things", "$JS.API.DIRECT.GET.KV_things.$KV.things.>"
INFO, WRITE = "$JS.API.STREAM.INFO.KV_things", "$KV.things.>"

Servers = Callable[..., NatsServer]


@pytest.fixture
def server(nats_server: Servers) -> NatsServer:
    """A server with the user `root`."""
    return nats_server(users=USERS)


@contextlib.asynccontextmanager
async def bucket(server: NatsServer, **how: Any) -> AsyncIterator[Bucket]:
    """The bucket `things` as `root` uses it."""
    async with connected(server.url) as connection:
        yield Bucket(Api(connection), "things", **how)


@contextlib.asynccontextmanager
async def nats_bucket(server: NatsServer) -> AsyncIterator[KeyValue]:
    """The same with nats-py."""
    async with client(server) as other:
        yield await other.jetstream().key_value("things")


def allowed(*subjects: str) -> str:
    """The configuration of a server where alice may publish to these subjects."""
    rights = ", ".join(f'"{subject}"' for subject in subjects)
    alice = f"{{ user: alice, password: a, permissions: {{ publish: [{rights}] }} }}"
    return f"authorization {{ users: [{{ user: root, password: memphis }}, {alice}] }}"


@contextlib.asynccontextmanager
async def alices(server: NatsServer) -> AsyncIterator[Bucket]:
    """The bucket as alice may use it."""
    connection = await connect(server.url, Credentials("alice", "a"), options(), 5)
    try:
        yield Bucket(Api(connection), "things")
    finally:
        await connection.close()


# ---- reading and changing ----------------------------------------------------------------------------------------


def test_without_a_bucket_there_are_no_values(server: NatsServer) -> None:
    """And reading makes none."""

    async def work() -> None:
        async with bucket(server) as things:
            assert await things.get("a") is None
            assert await things.keys() == []

    run(work())
    assert Operator(server).streams() == []


def test_the_first_change_makes_the_bucket_as_the_tools_of_nats_do(server: NatsServer) -> None:
    """So they take it for one."""

    async def work() -> None:
        async with bucket(server) as things:
            await things.put("a", b"1")
        async with nats_bucket(server) as others:
            status = await others.status()
            assert (status.values, status.history) == (1, 1)

    run(work())
    config = Operator(server).config("KV_things")
    ours = {
        "subjects": ["$KV.things.>"],
        "max_msgs_per_subject": 1,
        "discard": "new",
        "storage": "file",
        "num_replicas": 1,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "allow_direct": True,
    }
    assert {name: config[name] for name in ours} == ours


def test_values_go_both_ways_between_us_and_nats_py(server: NatsServer) -> None:
    """With their revisions, and their markers."""

    async def work() -> None:
        async with bucket(server) as things:
            one = await things.create("a.b", b"1")
            async with nats_bucket(server) as others:
                theirs = await others.get("a.b")
                assert (theirs.value, theirs.revision) == (b"1", one)
                two = await others.update("a.b", b"2", last=one)
                entry = await things.get("a.b")
                assert entry is not None
                assert (entry.value, entry.revision, entry.deleted) == (b"2", two, False)
                await others.delete("a.b")
                assert await things.get("a.b") is None
                three = await things.create("a.b", b"3")
                assert (await others.get("a.b")).revision == three
                await things.delete("a.b", three)
                with pytest.raises(Exception, match=r"key not found|deleted"):
                    await others.get("a.b")
                await others.put("a.b", b"4")
                await others.purge("a.b")
                entry = await things.entry("a.b")
                assert entry is not None
                assert entry.deleted

    run(work())


def test_a_key_is_created_once(server: NatsServer) -> None:
    """Of many who try at once, one does."""

    async def work() -> list[Any]:
        async with bucket(server) as things:
            await things.ensure()
            return await asyncio.gather(*(things.create("a", b"%d" % n) for n in range(20)), return_exceptions=True)

    results = run(work())
    assert sum(isinstance(result, int) for result in results) == 1
    assert sum(isinstance(result, Conflict) for result in results) == 19


def test_only_the_revision_that_was_seen_is_replaced(server: NatsServer) -> None:
    """By us, as by nats-py."""

    async def work() -> None:
        async with bucket(server) as things:
            first = await things.put("a", b"1")
            second = await things.update("a", b"2", first)
            for stale in (things.update("a", b"x", first), things.delete("a", first), things.update("a", b"x", 0)):
                with pytest.raises(Conflict):
                    await stale
            async with nats_bucket(server) as others:
                with pytest.raises(KeyWrongLastSequenceError):
                    await others.update("a", b"x", last=first)
            entry = await things.get("a")
            assert entry is not None
            assert (entry.value, entry.revision) == (b"2", second)

    run(work())


def test_keys_are_told_by_pattern_with_the_deleted_ones(server: NatsServer) -> None:
    """In order."""

    async def work() -> None:
        async with bucket(server) as things:
            for key in ("b.2", "a", "b.1", "b.1.x", "c"):
                await things.put(key, b"")
            await things.delete("b.2")
            assert await things.keys() == ["a", "b.1", "b.1.x", "b.2", "c"]
            assert await things.keys("b.*") == ["b.1", "b.2"]
            assert await things.keys("x.>") == []

    run(work())


@pytest.mark.parametrize("key", ["", ".", "a..b", ".a", "a.", "a b", "a\r\nPUB x 0", "*", "a.>", "ä", "$x"])
def test_what_is_no_key_reaches_no_server(server: NatsServer, key: str) -> None:
    """Neither to be read nor to be changed."""

    async def work() -> None:
        async with bucket(server) as things:
            for use in (things.get(key), things.put(key, b"x"), things.delete(key)):
                with pytest.raises(ValueError, match="not a key"):
                    await use

    run(work())
    assert Operator(server).streams() == []


def test_a_large_value_comes_back_whole_and_a_larger_one_is_refused(server: NatsServer) -> None:
    """The broker's largest payload is the limit, headers included."""

    async def work() -> None:
        async with bucket(server) as things:
            value = b"x" * ((1 << 20) - 100)
            await things.create("a", value)
            entry = await things.get("a")
            assert entry is not None
            assert entry.value == value
            with pytest.raises(TooLarge, match="1048576"):
                await things.put("a", b"x" * (1 << 20))

    run(work())


@pytest.mark.slow
def test_a_value_with_a_time_to_live_goes_by_itself(server: NatsServer) -> None:
    """And its key can be created again."""

    async def work() -> None:
        async with bucket(server, expiring=True) as things:
            await things.create("a", b"1", seconds=0.5)
            await things.put("b", b"1")
            gone: list[object] = []

            async def look() -> None:
                while await things.get("a") is not None:
                    await asyncio.sleep(0.05)
                gone.append(True)

            task = asyncio.create_task(look())
            await eventually_on_loop(lambda: gone)
            await task
            assert await things.get("b") is not None
            await things.create("a", b"2", seconds=60)

    run(work())


def test_each_change_is_told_made_or_not(server: NatsServer) -> None:
    """Who keeps what it has read has to look again."""
    told: list[str] = []

    async def work() -> None:
        async with bucket(server) as things:
            things.on_write = told.append
            await things.create("a", b"1")
            with pytest.raises(Conflict):
                await things.update("a", b"2", 99)
            await things.delete("a")

    run(work())
    assert told == ["a", "a", "a"]


def test_a_bucket_that_was_deleted_is_made_again(server: NatsServer) -> None:
    """Though others listen to its subjects, so that the server does not say that no stream takes them."""

    async def work() -> None:
        async with bucket(server) as things, client(server) as other:
            await other.subscribe("$KV.things.>")
            await things.put("a", b"1")
            await other.jetstream().delete_stream("KV_things")
            assert await things.get("a") is None
            assert await things.create("a", b"2") == 1

    run(work())


@pytest.mark.slow
@pytest.mark.parametrize("deaf", [no_responders, lambda published: b""], ids=["nobody", "silence"])
@pytest.mark.parametrize("absent", [10059, 10037], ids=["created by us", "by another"])
def test_a_new_bucket_is_written_to_once_it_hears(deaf: Callable[[Published], bytes], absent: int) -> None:
    """In a cluster it takes a moment. The first that are sent are for no stream, so that none of them is stored."""
    told = {"STREAM.MSG.GET": {"error": {"err_code": absent}}, "STREAM.CREATE": {}}

    def answer(server: FakeNats, published: Published) -> bytes:
        if published.subject.startswith("$JS.API."):
            verb = published.subject.removeprefix("$JS.API.").removesuffix(".KV_things")
            return reply(published, json.dumps(told[verb]).encode())
        if published.number <= 2:
            return deaf(published)
        if b"Nats-Expected-Stream: -\r\n" in published.content:
            return reply(published, b'{"error":{"code":400,"err_code":10060,"description":"another stream"}}')
        return reply(published, b'{"stream":"KV_things","seq":%d}' % published.number)

    async def work(url: str) -> None:
        async with connected(url) as connection:
            things = Bucket(Api(connection), "things")
            assert await things.put("a", b"1") == 4
            assert await things.put("a", b"2") == 5

    with contextlib.closing(FakeNats(answer)) as fake:
        run(work(fake.url))
        written = [published.content for published in fake.published if published.subject == "$KV.things.a"]
        assert [b"Nats-Expected-Stream: -\r\n" in content for content in written] == [True] * 3 + [False] * 2


def test_another_stream_in_the_place_of_the_bucket_is_told(server: NatsServer) -> None:
    """What it acknowledges is no value of ours."""
    Operator(server).api("STREAM.CREATE.other", name="other", subjects=["$KV.things.>"])

    async def work() -> None:
        async with bucket(server) as things:
            with pytest.raises(BrokerRefused, match="did not create bucket things"):
                await things.put("a", b"1")

    run(work())


def test_a_bucket_that_takes_nothing_now_says_so(server: NatsServer) -> None:
    """Here it is full."""

    async def work() -> None:
        async with bucket(server) as things:
            await things.put("a", b"1")
            async with client(server) as other:
                config = (await other.jetstream().stream_info("KV_things")).config
                config.max_msgs = 1
                await other.jetstream().update_stream(config)
            with pytest.raises(BrokerRefused, match="did not take the value"):
                await things.put("b", b"1")

    run(work())


# ---- rights ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rights", [(READ,), (DIRECT, INFO)])
def test_either_right_to_read_is_enough(nats_server: Servers, rights: tuple[str, ...]) -> None:
    """The leader's answer, or a replica's; a value, a marker, nothing, and no bucket."""
    server = nats_server(allowed(*rights))

    async def work() -> None:
        async with bucket(server) as things, alices(server) as hers:
            assert await hers.get("a") is None
            revision = await things.put("a", b"1")
            entry = await hers.get("a")
            assert entry is not None
            assert (entry.value, entry.revision, entry.deleted) == (b"1", revision, False)
            revision = await things.delete("a")
            assert await hers.entry("a") == (b"", revision, True)
            assert await hers.get("b") is None

    run(work())


def test_a_missing_right_to_read_is_named(nats_server: Servers) -> None:
    """Both that would do."""
    server = nats_server(allowed("x"))

    async def work() -> None:
        async with alices(server) as hers:
            with pytest.raises(Forbidden) as told:
                await hers.get("a")
            assert READ in told.value.message
            assert "$JS.API.DIRECT.GET.KV_things.$KV.things.a" in told.value.message

    run(work())


def test_silence_is_not_taken_for_an_absent_bucket(nats_server: Servers) -> None:
    """Nobody answers a direct question where there is no bucket, and also where its replicas are away."""
    server = nats_server(allowed(DIRECT))

    async def work() -> None:
        async with alices(server) as hers:
            with pytest.raises(BrokerRefused, match="cannot be told whether there is a bucket things"):
                await hers.get("a")

    run(work())


def test_a_bucket_without_direct_reading_is_not_absent(nats_server: Servers) -> None:
    """Nobody answers there either."""
    server = nats_server(allowed(DIRECT, INFO))
    Operator(server).api("STREAM.CREATE.KV_things", name="KV_things", subjects=["$KV.things.>"])

    async def work() -> None:
        async with alices(server) as hers:
            with pytest.raises(BrokerRefused, match="cannot be read directly now"):
                await hers.get("a")

    run(work())


def test_who_may_write_and_read_needs_no_right_to_create(nats_server: Servers) -> None:
    """Where the bucket is there."""
    server = nats_server(allowed(READ, WRITE))

    async def work() -> None:
        async with bucket(server) as things, alices(server) as hers:
            with pytest.raises(Forbidden, match=r"STREAM\.CREATE\.KV_things"):
                await hers.put("a", b"1")
            await things.ensure()
            await hers.put("a", b"1")
            await hers.create("b", b"1")

    run(work())


def test_who_may_not_write_is_told_the_key(nats_server: Servers) -> None:
    """And nothing is changed."""
    server = nats_server(allowed(READ))

    async def work() -> None:
        async with bucket(server) as things, alices(server) as hers:
            await things.put("a", b"1")
            with pytest.raises(Forbidden, match=r"\$KV\.things\.a"):
                await hers.put("a", b"2")
            entry = await things.get("a")
            assert entry is not None
            assert entry.value == b"1"

    run(work())


def test_the_client_of_these_tests_is_nats_own(server: NatsServer) -> None:
    """What nats-py makes is a bucket to us."""

    async def work(other: Client) -> None:
        things = await other.jetstream().create_key_value(bucket="things")
        await things.put("a", b"1")
        async with bucket(server) as ours:
            assert await ours.keys() == ["a"]
            assert await ours.create("b", b"2") == 2
        assert (await things.get("b")).value == b"2"

    Operator(server).ask(work)
