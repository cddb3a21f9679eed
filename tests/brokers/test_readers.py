"""Users who may not read the registry: `ROOT_USER` reads for them where that is right, or the missing right is told."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from nats.aio.client import Client

from proxy.brokers import demands, readers
from proxy.config import Config
from proxy.credentials import Credentials
from proxy.errors import BrokerRefused, Forbidden
from proxy.messages import UNKNOWN, Demand, Schema, station_named
from tests.brokers.replicas import Replica
from tests.brokers.tools import MONITOR, ROOT, Operator, connections, failure, sessions, settings
from tests.servers import NatsServer, eventually

ORDERS = station_named("orders")
ALICE, BOB, ANNE = (Credentials(name, name) for name in ("alice", "bob", "anne"))
ANY, NONE = (Schema(type="json", definition=text) for text in ("{}", "false"))

# alice may not read, bob may not hear of changes, anne may both with the least rights there are
CONFIG = f"""{MONITOR}
accounts {{
  A: {{ jetstream: enabled, users: [
    {{ user: root, password: memphis }}
    {{ user: weak, password: weak, permissions: {{ publish: "_INBOX.>" }} }}
    {{ user: mute, password: mute, permissions: {{ publish: "$JS.API.>" }} }}
    {{ user: alice, password: alice, permissions: {{ publish: "orders.final" }} }}
    {{ user: bob, password: bob, permissions: {{ subscribe: "_INBOX.>" }} }}
    {{ user: anne, password: anne, permissions: {{
        publish: "$JS.API.STREAM.MSG.GET.KV_station-schemas", subscribe: ["_INBOX.>", "$KV.station-schemas.>"] }} }}
  ] }}
  B: {{ jetstream: enabled, users: [
    {{ user: root-b, password: memphis }}
    {{ user: ben, password: ben, permissions: {{ publish: "orders.final" }} }}
  ] }}
}}"""

Servers = Callable[..., NatsServer]
Replicas = Callable[[Config], Replica]


@pytest.fixture
def server(nats_server: Servers) -> NatsServer:
    """A server with two accounts; in A station `orders` demands a schema."""
    server = nats_server(CONFIG)

    async def work(client: Client) -> None:
        schemas = await client.jetstream().create_key_value(bucket="station-schemas")
        await schemas.put("schema.order.1", b'{"type": "json", "definition": "{}"}')
        await schemas.put("schema.order.2", b'{"type": "json", "definition": "false"}')
        await schemas.put("station.orders", b'{"schema": "order", "version": 1}')

    Operator(server).ask(work)
    return server


def with_root(server: NatsServer, user: str = "root", secret: str = "memphis") -> Config:
    """Settings with a `ROOT_USER`."""
    return settings(server.url, ROOT_USER=user, CONNECTION_TOKEN=secret)


def version(found: object) -> int | None:
    """The version that is demanded, if any is known to be."""
    return found.version if isinstance(found, Demand) else None


def attach(server: NatsServer, number: int) -> None:
    """Another worker, or a tool, changes what the station demands."""

    async def work(client: Client) -> None:
        schemas = await client.jetstream().key_value("station-schemas")
        await schemas.put("station.orders", b'{"schema": "order", "version": %d}' % number)

    Operator(server).ask(work)


def test_two_rights_are_enough_to_read(server: NatsServer, replica: Replicas) -> None:
    """To ask for keys, and to hear of changes."""
    one = replica(settings(server.url))
    assert version(one.demand(ANNE, ORDERS)) == 1
    attach(server, 2)
    eventually(lambda: version(one.known(ANNE, ORDERS)) == 2, 1)


@pytest.mark.parametrize(
    ("user", "right"),
    [
        (ALICE, "$JS.API.STREAM.MSG.GET.KV_station-schemas"),
        (BOB, "$KV.station-schemas.>"),
        (Credentials("weak", "weak"), "$JS.API.STREAM.MSG.GET.KV_station-schemas"),
    ],
)
def test_without_root_user_the_missing_right_is_named(
    server: NatsServer, replica: Replicas, user: Credentials, right: str
) -> None:
    """Each time, at once; nothing is taken for known."""
    one = replica(settings(server.url))
    for _ in range(3):
        error = failure(one.demand, user, ORDERS)
        assert (type(error), error.stored) == (Forbidden, "no")
        assert "station orders" in error.message
        assert right in error.message
        assert one.known(user, ORDERS) is UNKNOWN


def test_rights_that_are_taken_away_count_at_the_next_reading(
    server: NatsServer, replica: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read with them is not believed any longer."""
    monkeypatch.setattr(demands, "KEEP_SECONDS", 0.1)
    one = replica(settings(server.url))
    assert version(one.demand(ANNE, ORDERS)) == 1
    server.config(CONFIG.replace("$JS.API.STREAM.MSG.GET", "nothing"))
    server.reload()
    eventually(lambda: one.known(ANNE, ORDERS) is UNKNOWN)
    assert type(failure(one.demand, ANNE, ORDERS)) is Forbidden


def test_who_may_hear_of_no_changes_for_a_while_hears_of_them_again(
    server: NatsServer, replica: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ends the subscription, and does not bring it back with the right."""
    monkeypatch.setattr(demands, "AGAIN_SECONDS", (0.0, 0.2))  # none after the first reading, which follows no hint
    one = replica(settings(server.url))
    assert version(one.demand(ANNE, ORDERS)) == 1
    for config in (CONFIG.replace('"$KV.station-schemas.>"', '"other"'), CONFIG):
        server.config(config)
        server.reload()
    eventually(lambda: version(one.demand(ANNE, ORDERS)) == 1)
    attach(server, 2)
    eventually(lambda: version(one.known(ANNE, ORDERS)) == 2, 1)


def test_root_user_reads_for_those_who_may_not(server: NatsServer, replica: Replicas) -> None:
    """Through one session for all of them, and changes are seen as by anybody."""
    one = replica(with_root(server))
    for user in (ALICE, BOB, ALICE):
        assert version(one.demand(user, ORDERS)) == 1
        assert version(one.known(user, ORDERS)) == 1
    assert sessions(server, "root") == 1
    attach(server, 2)
    eventually(lambda: version(one.known(ALICE, ORDERS)) == version(one.known(BOB, ORDERS)) == 2, 1)
    one.registry(ROOT, "put_schema", "own", NONE)
    one.registry(ROOT, "attach", ORDERS, "own")
    for user in (ALICE, BOB):
        assert one.demand(user, ORDERS) == Demand(name="own", version=1, schema=NONE)


def test_who_may_read_does_so_without_root_user(server: NatsServer, replica: Replicas) -> None:
    """The broker's permissions decide wherever they can."""
    one = replica(with_root(server))
    assert version(one.demand(ANNE, ORDERS)) == 1
    assert sessions(server, "root") == 0


def test_root_user_changes_nothing_for_others(server: NatsServer, replica: Replicas) -> None:
    """It reads what a produce needs; who wants to see or change schemas needs the right."""
    one = replica(with_root(server))
    for operation in (("list_schemas",), ("get_schema", "order"), ("put_schema", "order", ANY), ("detach", ORDERS)):
        assert type(failure(one.registry, ALICE, *operation)) is Forbidden


def test_root_user_of_another_account_does_not_read(server: NatsServer, replica: Replicas) -> None:
    """The schemas of one account are none of the other's, whichever has some."""
    ben = Credentials("ben", "ben")
    for one, user in ((replica(with_root(server)), ben), (replica(with_root(server, "root-b")), ALICE)):
        for _ in range(2):
            error = failure(one.demand, user, ORDERS)
            assert type(error) is Forbidden
            assert "may be of another account" in error.message
            assert one.known(user, ORDERS) is UNKNOWN


def test_root_user_without_the_rights_does_not_read(server: NatsServer, replica: Replicas) -> None:
    """It may not read either, or may not show that it belongs to the account."""
    for name in ("weak", "mute"):
        one = replica(with_root(server, name, name))
        assert type(failure(one.demand, ALICE, ORDERS)) is Forbidden


def test_root_user_who_is_not_let_in_is_no_reason_to_validate_against_nothing(
    server: NatsServer, replica: Replicas
) -> None:
    """The gateway is set up wrongly, and the log says so; users who may read are not concerned."""
    one = replica(with_root(server, "root", "wrong"))
    error = failure(one.demand, ALICE, ORDERS, 1.0)
    assert (type(error), error.status, error.stored) == (BrokerRefused, 503, "no")
    assert "ROOT_USER" in error.message
    assert "root_refused" in one.notices
    assert version(one.demand(ANNE, ORDERS)) == 1


@pytest.mark.slow
def test_root_user_comes_back_after_a_restart_of_the_broker(server: NatsServer, replica: Replicas) -> None:
    """What it had read is not known meanwhile; whether it is of the same account is proved again."""
    one = replica(with_root(server))
    assert version(one.demand(ALICE, ORDERS)) == 1
    server.kill()
    eventually(lambda: one.known(ALICE, ORDERS) is UNKNOWN)
    server.start()
    assert version(one.demand(ALICE, ORDERS)) == 1
    attach(server, 2)
    eventually(lambda: version(one.known(ALICE, ORDERS)) == 2, 1)


def test_what_root_user_read_is_not_known_when_its_session_has_ended(server: NatsServer, replica: Replicas) -> None:
    """Nothing would tell of changes any more, though the user's own session goes on."""
    one = replica(with_root(server))
    assert version(one.demand(ALICE, ORDERS)) == 1
    server.config(CONFIG.replace("user: root, password: memphis", "user: root, password: changed"))
    server.reload()
    eventually(lambda: one.known(ALICE, ORDERS) is UNKNOWN)
    assert sessions(server, "alice") == 1
    assert type(failure(one.demand, ALICE, ORDERS, 0.5)) is BrokerRefused


def test_what_root_user_read_for_a_user_ends_with_the_session_of_that_user(
    server: NatsServer, replica: Replicas
) -> None:
    """The next one may belong to another account."""
    one = replica(with_root(server))
    assert version(one.demand(ALICE, ORDERS)) == version(one.demand(BOB, ORDERS)) == 1
    server.config(CONFIG.replace("user: alice, password: alice", "user: alice, password: changed"))
    server.reload()
    eventually(lambda: one.known(ALICE, ORDERS) is UNKNOWN)
    assert version(one.known(BOB, ORDERS)) == 1


def test_a_stranger_is_not_proved_again_and_again(server: NatsServer, replica: Replicas) -> None:
    """For a minute the answer is remembered."""
    one = replica(with_root(server, "root-b"))
    failure(one.demand, ALICE, ORDERS)
    (before,) = (found["in_msgs"] for found in connections(server) if found["authorized_user"] == "root-b")
    for _ in range(20):
        failure(one.demand, ALICE, ORDERS)
    (after,) = (found["in_msgs"] for found in connections(server) if found["authorized_user"] == "root-b")
    assert after == before
    assert readers.STRANGER_SECONDS <= 60
