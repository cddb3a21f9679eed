"""`SCHEMA_DIR`: what files become, and what a start does when others start, or when the broker is away."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from proxy.credentials import Credentials
from proxy.errors import BadSetting, BrokerAway, GatewayError, SchemaNotFound
from proxy.extension import Stations
from proxy.messages import Attachment, Schema, station_named
from proxy.seeding import MAX_NAMED, read
from tests.application import settings
from tests.brokers.tools import Operator
from tests.servers import NatsServer, eventually

ROOT = Credentials("root", "memphis")
ORDER = '{"type": "object", "required": ["id"]}'
OTHER = '{"type": "object", "required": ["number"]}'
ORDERS = station_named("orders")

Starter = Callable[..., Stations]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A `SCHEMA_DIR` with one file, for station `orders`."""
    directory = tmp_path / "schemas"
    directory.mkdir()
    (directory / "orders.json").write_text(ORDER)
    return directory


@pytest.fixture
def server(nats_server: Callable[..., NatsServer]) -> NatsServer:
    """A broker without schemas."""
    return nats_server(users={"root": "memphis"})


@pytest.fixture
def gateway(server: NatsServer, directory: Path) -> Iterator[Starter]:
    """Makes gateways with that directory: `gateway()`, not started; stopped at the end."""
    made: list[Stations] = []

    def make(**env: str) -> Stations:
        root = {"ROOT_USER": "root", "CONNECTION_TOKEN": "memphis", "SCHEMA_DIR": str(directory)}
        made.append(Stations(settings(server.url, **root, **env)))
        return made[-1]

    yield make
    for stations in made:
        stations.stop(0)


def _newest(stations: Stations, name: str = "orders") -> tuple[int, str]:
    found = stations.registrar.get(ROOT, name)
    return found.version, found.schema.definition


def _refusal(function: Callable[[], Any]) -> str:
    with pytest.raises(BadSetting) as caught:
        function()
    assert caught.value.variable == "SCHEMA_DIR"
    return str(caught.value)


def _publish(server: NatsServer, subject: str, payload: bytes) -> None:
    Operator(server).ask(lambda client: client.jetstream().publish(subject, payload))


# ---- files ---------------------------------------------------------------------------------------------------------


def test_a_file_is_a_schema_for_the_station_of_its_name(directory: Path) -> None:
    """Its ending tells the language; dots in a station's name are no dots in the schema's; other files are left."""
    (directory / "shop.Clicks.avsc").write_text('"string"')
    (directory / "items.proto").write_bytes(b"\xef\xbb\xbfsyntax")
    (directory / "queries.graphql").write_text("type Query { a: Int }")
    (directory / "README.md").write_text("not a schema")
    (directory / "old.json").mkdir()
    assert [(seed.file, seed.station.name, seed.name, seed.schema) for seed in read(directory)] == [
        ("items.proto", "items", "items", Schema(type="protobuf", definition="syntax")),
        ("orders.json", "orders", "orders", Schema(type="json", definition=ORDER)),
        ("queries.graphql", "queries", "queries", Schema(type="graphql", definition="type Query { a: Int }")),
        ("shop.Clicks.avsc", "shop.clicks", "shop_clicks", Schema(type="avro", definition='"string"')),
    ]


def test_files_that_are_no_schemas_are_named_in_the_log(directory: Path) -> None:
    """An ending in capitals may have been meant; hidden files and directories were not. The list is bounded."""
    for name in ("Orders.JSON", "README.md", ".gitkeep", *(f"x{number}" for number in range(MAX_NAMED))):
        (directory / name).write_text("{}")
    (directory / "more").mkdir()
    with capture_logs() as lines:
        assert [seed.file for seed in read(directory)] == ["orders.json"]
    (line,) = lines
    assert (line["event"], line["log_level"], line["count"]) == ("files_that_are_no_schemas", "warning", MAX_NAMED + 2)
    assert line["files"][:3] == ["Orders.JSON", "README.md", "x0"]
    assert len(line["files"]) == MAX_NAMED


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("a b.json", b"{}", "a b.json: a station name has"),
        ("orders.proto", b"", "orders.proto: has the same station"),
        ("x.json", b"\xff", "x.json: is not UTF-8"),
    ],
)
def test_a_file_that_is_none_is_refused(directory: Path, file: str, content: bytes, words: str) -> None:
    """By its name."""
    (directory / file).write_bytes(content)
    assert words in _refusal(lambda: read(directory))


def test_two_stations_cannot_share_the_name_of_a_schema(directory: Path) -> None:
    """As they would where one has a dot and the other the sign that stands for it."""
    (directory / "a.b.json").write_text("{}")
    (directory / "a_b.json").write_text("{}")
    assert "a_b.json: has the same station, or the same name for its schema (a_b), as a.b.json" in _refusal(
        lambda: read(directory)
    )


def test_a_directory_that_is_none_is_refused(directory: Path) -> None:
    """One that is not there, and a file."""
    for path in (directory / "nowhere", directory / "orders.json"):
        assert "a directory that can be read" in _refusal(lambda path=path: read(path))  # type: ignore[misc]


# ---- the start -----------------------------------------------------------------------------------------------------


def test_a_start_puts_and_attaches_what_is_new(gateway: Starter) -> None:
    """When it ends, stations demand what the files say."""
    stations = gateway()
    stations.start()
    stations.check()
    assert _newest(stations) == (1, ORDER)
    assert stations.registrar.attachment(ROOT, ORDERS) == Attachment(schema="orders", version=None)


def test_another_start_changes_nothing(gateway: Starter, server: NatsServer) -> None:
    """A file that has not changed makes no version; one that has makes one."""
    for _ in range(3):
        gateway().start()
    stations = gateway()
    assert _newest(stations)[0] == 1


def test_a_changed_file_makes_a_version(gateway: Starter, directory: Path) -> None:
    """Also back to what was there before."""
    for number, definition in enumerate((ORDER, OTHER, ORDER), 1):
        (directory / "orders.json").write_text(definition)
        stations = gateway()
        stations.start()
        assert _newest(stations) == (number, definition)


def test_what_others_wrote_uncompiled_is_put_anew(gateway: Starter, directory: Path, server: NatsServer) -> None:
    """By a tool of NATS: the definition is that of the file, and no station could use it."""
    proto = 'syntax = "proto3"; message Item { int32 id = 1; }'
    (directory / "items.proto").write_text(proto)
    values = {
        "schema.items.1": {"type": "protobuf", "definition": proto},
        "schema.items": {"version": 1, "type": "protobuf"},
    }
    gateway().registrar.put(ROOT, "first", Schema(type="json", definition="{}"))
    for key, value in values.items():
        _publish(server, f"$KV.station-schemas.{key}", json.dumps(value).encode())
    for _ in range(2):
        stations = gateway()
        stations.start()
        assert _newest(stations, "items") == (2, proto)


def test_many_that_start_at_once_make_one_version(gateway: Starter, directory: Path) -> None:
    """Of each file, whoever wins; none of them fails."""
    for number in range(5):
        (directory / f"station{number}.json").write_text(ORDER)
    many = [gateway() for _ in range(8)]
    failures: list[Exception] = []

    def start(stations: Stations) -> None:
        try:
            stations.start()
            stations.check()
        except Exception as error:
            failures.append(error)

    for definition, number in ((None, 1), (OTHER, 2)):
        if definition is not None:
            for stations in many:
                stations.stop(0)
            (directory / "station3.json").write_text(definition)
            many = [gateway() for _ in range(8)]
        threads = [threading.Thread(target=start, args=(stations,)) for stations in many]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert not failures
        heads = {head.name: head.version for head in many[0].registrar.all(ROOT)}
        assert heads == {"orders": 1, **{f"station{n}": 1 for n in range(5)}, "station3": number}


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("bad.json", '{\n "type": 1 x}', "line 2"),
        ("bad.proto", 'syntax = "proto3";\nmessage A { int32 }', "line 2"),
        ("bad.avsc", '{"type": "nothing"}', "nothing"),
        ("bad.graphql", "type Query {\n a: Nothing }", "Nothing"),
        ("bad.json", "1" * (256 * 1024 + 1), "larger than"),
        ("bad.json", "é" * (256 * 1024), "larger than"),
        ("bad.graphql", "\ufefftype Query { a: Int }" + "\n" * (256 * 1024) + "type {", "larger than"),
    ],
)
@pytest.mark.parametrize("away", [False, True])
def test_a_file_that_does_not_compile_stops_the_start(
    gateway: Starter, directory: Path, server: NatsServer, file: str, content: str, words: str, away: bool
) -> None:
    """With its name and the reason, whether the broker is there or not."""
    (directory / file).write_text(content)
    if away:
        server.stop()
    message = _refusal(gateway().start)
    assert file in message
    assert words in message


def test_a_station_keeps_the_version_that_an_operator_has_chosen(gateway: Starter, directory: Path) -> None:
    """A restart does not undo it, and says so in the log; dead letters stay on as well."""
    first = gateway()
    first.start()
    (directory / "orders.json").write_text(OTHER)
    gateway().start()
    chosen = Attachment(schema="orders", version=1, dead_letter=True)
    first.registrar.attach(ROOT, ORDERS, chosen)
    with capture_logs() as lines:
        gateway().start()
    assert first.registrar.attachment(ROOT, ORDERS) == chosen
    warned = {"event": "station_demands_an_older_schema", "station": "orders", "version": 1, "log_level": "warning"}
    assert warned in lines


def test_another_schema_gives_way_to_the_file(gateway: Starter) -> None:
    """Only the dead letters stay as they were."""
    stations = gateway()
    stations.registrar.put(ROOT, "older", Schema(type="json", definition="{}"))
    stations.registrar.attach(ROOT, ORDERS, Attachment(schema="older", version=None, dead_letter=True))
    stations.start()
    assert stations.registrar.attachment(ROOT, ORDERS) == Attachment(schema="orders", version=None, dead_letter=True)


def test_a_broker_that_is_away_gets_them_when_it_comes(gateway: Starter, server: NatsServer) -> None:
    """The start does not wait; the gateway is not ready until then."""
    server.stop()
    stations = gateway()
    stations.start()
    with pytest.raises(GatewayError):
        stations.check()
    server.start()
    eventually(lambda: not _fails(stations.check), 20)
    assert _newest(stations) == (1, ORDER)


def test_a_user_who_may_not_put_them_keeps_the_gateway_from_being_ready(
    nats_server: Callable[..., NatsServer], directory: Path
) -> None:
    """The reason names the right that is missing; a stop ends the attempts."""
    server = nats_server(
        "authorization { users: [{ user: root, password: memphis, permissions: "
        '{ publish: ["$JS.API.STREAM.INFO.>", "$JS.API.STREAM.MSG.GET.>"] } }] }'
    )
    root = {"ROOT_USER": "root", "CONNECTION_TOKEN": "memphis", "SCHEMA_DIR": str(directory)}
    stations = Stations(settings(server.url, **root))
    try:
        stations.start()
        with pytest.raises(BrokerAway, match=r"SCHEMA_DIR are not in the registry yet: .*STREAM.CREATE"):
            stations.check()
    finally:
        stations.stop(0)


def test_without_a_directory_nothing_is_put(server: NatsServer) -> None:
    """Nor asked."""
    stations = Stations(settings(server.url))
    try:
        stations.start()
        stations.check()
        with pytest.raises(SchemaNotFound):
            stations.registrar.get(ROOT, "orders")
    finally:
        stations.stop(0)


def _fails(function: Callable[[], Any]) -> bool:
    try:
        function()
    except GatewayError:
        return True
    return False
