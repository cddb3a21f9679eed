"""Old clients and old settings find all as it was with Memphis' REST gateway, or better, and told in the document.

The real gateway runs, with the settings of the old one, in front of a stand-in for a Memphis broker. It is sent what
the old one was sent when it was recorded, but for consuming.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import jwt
import msgspec
import pytest

from tests.brokers.memphis_standin import Standin, User
from tests.clients import STORED, Answer, Sender, logged_on
from tests.recorded_differences import DIFFERENCES
from tests.recorded_http import Case, Tokens, cases, same, says, send
from tests.servers import ROOT, Gateway, NatsServer, free_port

pytestmark = pytest.mark.slow

_USERS = {"root": User("memphis"), "app1": User("Passw0rd!"), "app-rb": User("Passw0rd!", ("rb-allowed*",))}
_SCHEMAS = {"hp-json": "json", "hp-bjson": "json", "hp-proto": "protobuf", "hp-avro": "avro", "hp-gql": "graphql"}
_CASES = cases("consume/batch")
_NATS_CASES = [case for case in _CASES if "schema" not in case.name and not case.name.startswith("loss")]
_EXPECTED = {name: row for rows in DIFFERENCES.values() for name, row in rows.items()}
_RECORDED = pytest.mark.skipif(not _CASES, reason="the recordings are not part of the repository")
_REMOVED = {  # what happens to a station before a request that has this in its name, and whether clients are told
    "removed from the dashboard": ("hp-del", True),
    "removed by another SDK": ("hp-deljs", False),
}

# All that the old gateway reads, by the names that it has for it.
_OLD_SETTINGS = {
    "CLIENT_CERT_PATH": "",
    "CLIENT_KEY_PATH": "",
    "CLOUD_ENV": "false",
    "CONNECTION_TOKEN": "of no use to users with passwords",
    "DEBUG": "false",
    "DEV_ENV": "false",
    "HTTP_PORT": "0",
    "JWT_EXPIRES_IN_MINUTES": "15",
    "JWT_SECRET": "the access secret of an old gateway" * 2,
    "MEMPHIS_CLIENT": "MEMPHIS HTTP LOGGER",
    "MEMPHIS_HOST": "127.0.0.1",
    "REFRESH_JWT_EXPIRES_IN_MINUTES": "300",
    "REFRESH_JWT_SECRET": "the refresh secret of an old gateway" * 2,
    "REST_GW_UPDATES_SUBJ": "$memphis_restgw_updates",
    "ROOT_CA_PATH": "",
    "ROOT_PASSWORD": "memphis",
    "ROOT_USER": "root",
    "USER_PASS_BASED_AUTH": "true",
}


_OLD_CLAIMS = {"account_id": 1, "connection_token": "", "password": "memphis", "username": "root"}


class Stored(Protocol):
    """What a broker has stored."""

    payload: bytes
    headers: dict[str, str]


class Replay:
    """The answers of a gateway to recorded requests, in their order, by name.

    `produced` are the messages that were answered 200, by station. `before` is called before each request.
    """

    def __init__(self, gateway: Gateway, cases: list[Case], before: Callable[[Case], None] | None = None) -> None:
        self.gateway = gateway
        self.answers: dict[str, Answer] = {}
        self.produced: dict[str, Counter[bytes]] = defaultdict(Counter)
        tokens = {**_log_on(gateway, "root"), **_log_on(gateway, "app1"), **_log_on(gateway, "app-rb")}
        for case in cases:
            if before is not None:
                before(case)
            self.answers[case.name] = send(gateway.host, case, tokens)
            self._count(case, self.answers[case.name])

    def _count(self, case: Case, answer: Answer) -> None:
        found = re.fullmatch(r"/stations/([^/]+)/produce/(single|batch)/?(?:\?.*)?", case.path.lower())
        if found and case.method == "POST":
            self.produced[found[1].replace("%31", "1")].update(_stored_of(case, answer, found[2] == "batch"))


def _stored_of(case: Case, answer: Answer, batch: bool) -> list[bytes]:
    """The messages of a request that have to be stored after its answer, each byte for byte."""
    headers = {name.lower(): value for name, value in case.headers}
    if headers.get("msg-id") and case.name.endswith("again"):
        return []  # it is a duplicate
    if batch and (answer.status == 200 or "failed" in answer.json):
        elements = [bytes(element) for element in msgspec.json.decode(case.body, type=list[msgspec.Raw])]
        failed = {entry["index"] for entry in answer.json["failed"]} if answer.status != 200 else set()
        return [element for index, element in enumerate(elements) if index not in failed]
    if answer.status != 200:
        return []
    if "transfer-encoding" in headers:
        return [b'{"c":1}']
    return [gzip.decompress(case.body) if "content-encoding" in headers else case.body]


def _log_on(gateway: Gateway, user: str) -> Tokens:
    with contextlib.closing(Sender(gateway.host, user)) as sender:
        fields = {"username": user, "password": _USERS[user].secret}
        answer = sender.post("/auth/authenticate", json.dumps(fields).encode(), "application/json")
    assert answer.status == 200, answer.body
    return {(user, kind): answer.json[kind] for kind in ("jwt", "jwt_refresh_token")}


@pytest.fixture(scope="module")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standin]:
    """A broker with the users, stations and schemas of the recordings."""
    standin = Standin(tmp_path_factory.mktemp("memphis"), _USERS)
    for station, partitions in {"hp-parts": 3, "rb-denied": 1, "rb-allowed-1": 1, **dict.fromkeys(_SCHEMAS, 1)}.items():
        standin.make(station, partitions)
    for station, schema in _SCHEMAS.items():
        standin.attach(station, schema)
    yield standin
    standin.stop()


@pytest.fixture(scope="module")
def replay(standin: Standin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replay]:
    """The gateway with the settings of the old one."""
    gateway = Gateway(tmp_path_factory.mktemp("moved"), {**_OLD_SETTINGS, "MEMPHIS_PORT": str(standin.port)})

    def remove(case: Case) -> None:
        for words, removal in _REMOVED.items():
            if words in case.name:
                standin.remove(*removal)

    try:
        yield Replay(gateway.start(), _CASES, remove)
    finally:
        gateway.stop()


def test_it_starts_with_the_settings_of_the_old_one(replay: Replay) -> None:
    """Ready, as the user of these settings, with nothing to complain of; a secret is in no line that it has written."""
    assert replay.gateway.get("/monitoring/ready") == (200, b'{"status":"ok"}')
    output = replay.gateway.output()
    assert not re.search(r'"level":"(warning|error)"', output), output
    assert not [name for name in ("JWT_SECRET", "CONNECTION_TOKEN") if _OLD_SETTINGS[name] in output]


@_RECORDED
@pytest.mark.parametrize("case", _CASES, ids=[case.name for case in _CASES])
def test_it_is_answered_as_ever_or_better(replay: Replay, case: Case) -> None:
    """The recorded status and body, or those of the table."""
    answer = replay.answers[case.name]
    assert answer.headers["access-control-allow-origin"] == "*"
    if case.name not in _EXPECTED:
        assert same(case, answer), (answer.status, answer.body)
        if answer.status == 200:
            assert answer.headers["content-type"] == case.answer_headers["Content-Type"]
        return
    status, expected = _EXPECTED[case.name]
    assert not same(case, answer), "it is answered as ever: the row in the table is out of date"
    assert answer.status == status, answer.body
    assert says(answer, expected), answer.body


@_RECORDED
def test_what_was_answered_200_is_stored_and_nothing_else(replay: Replay, standin: Standin) -> None:
    """Byte for byte, once: no answer comes before the ack, and no element is encoded anew."""
    gone = {station: Counter([b'{"n": 1}']) for station, _ in _REMOVED.values()}  # went with their station
    produced = {name: found - gone.get(name, Counter()) for name, found in replay.produced.items() if found}
    stored = {name: Counter(message.payload for message in _messages(standin, name)) for name in standin.stations}
    assert {name: found for name, found in stored.items() if found} == produced
    assert sum(map(len, produced.values())) > 30


@_RECORDED
def test_no_secret_is_stored(replay: Replay, standin: Standin) -> None:
    """Nor anything else that was not meant for those who consume."""
    assert replay.answers
    messages = [message for name in standin.stations for message in _messages(standin, name)]
    names = {name.lower() for message in messages for name in message.headers}
    broker = {"$memphis_producedby", "$memphis_connectionid", "nats-msg-id"}
    assert names - broker == {"content-type", "x-one", "x-rep", "x-long"}
    assert "a,b" in {message.headers.get("x-rep", "").replace(", ", ",") for message in messages}
    assert not [value for message in messages for value in message.headers.values() if "eyJ" in value]


def test_no_log_on_is_announced(replay: Replay, standin: Standin) -> None:
    """The old one told user and password to all who listened."""
    assert any(connect["name"].endswith("::app1") for connect in standin.connects)
    assert not [line for line in standin.lines if "restgw" in line]


@pytest.mark.parametrize(("algorithm", "claims"), [("HS256", _OLD_CLAIMS), ("HS512", _OLD_CLAIMS), ("HS256", {})])
def test_tokens_of_the_old_one_are_not_taken(replay: Replay, algorithm: str, claims: dict[str, Any]) -> None:
    """Although both have the same secret: neither one with a password in it, nor one that names nobody."""
    access = jwt.encode({**claims, "exp": int(time.time()) + 600}, _OLD_SETTINGS["JWT_SECRET"], algorithm)
    refresh = jwt.encode({**claims, "exp": int(time.time()) + 600}, _OLD_SETTINGS["REFRESH_JWT_SECRET"], algorithm)
    body = json.dumps({"jwt_refresh_token": refresh}).encode()
    with contextlib.closing(Sender(replay.gateway.host)) as sender:
        sender.token = access
        assert sender.single("hp-1", b"{}").status == 401
        assert sender.post("/auth/refreshToken", body, "application/json").status == 401


def test_the_old_one_takes_no_token_of_this_one(replay: Replay) -> None:
    """It has the same secret, believes what is signed with it, and takes a token that names nobody for root's."""
    for kind, secret in (("jwt", "JWT_SECRET"), ("jwt_refresh_token", "REFRESH_JWT_SECRET")):
        token = _log_on(replay.gateway, "app1")["app1", kind]
        with pytest.raises(jwt.InvalidSignatureError):
            jwt.decode(token, _OLD_SETTINGS[secret], ["HS256"], audience="stations")


def test_log_ons_beside_produces_end_no_worker(replay: Replay, standin: Standin) -> None:
    """Four senders that log on again and again beside eight that produce ended the old one within seconds."""
    before, token = replay.gateway.worker_pids(), _log_on(replay.gateway, "root")["root", "jwt"]

    def log_on(_: int) -> set[int]:
        return {len(_log_on(replay.gateway, "root")) for _ in range(10)}

    def produce(_: int) -> set[int]:
        with contextlib.closing(Sender(replay.gateway.host)) as sender:
            sender.token = token
            return {sender.single("beside", b"{}").status for _ in range(50)}

    with ThreadPoolExecutor(12) as pool:
        tokens, statuses = pool.map(log_on, range(4)), pool.map(produce, range(8))
        assert [*tokens, *statuses] == [{2}] * 4 + [{200}] * 8
    assert replay.gateway.worker_pids() == before
    assert len(standin.stored("beside$1")) == 400


def _messages(standin: Standin, station: str) -> list[Stored]:
    internal = station.replace(".", "#")
    return [message for number in standin.stations[station] for message in standin.stored(f"{internal}${number}")]


@_RECORDED
def test_each_difference_is_one_of_a_recorded_request() -> None:
    """That it differs indeed, the test of the request shows."""
    assert _EXPECTED.keys() <= {case.name for case in _CASES}
    assert sum(map(len, DIFFERENCES.values())) == len(_EXPECTED), "a request stands under two reasons"


@pytest.mark.parametrize("reason", DIFFERENCES)
def test_each_reason_is_told_in_the_document(reason: str) -> None:
    """Under a heading of its own."""
    text = (ROOT / "docs" / "moving-from-memphis.md").read_text()
    headings = re.findall(r"^### (.*)$", text, re.M)
    assert reason in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_document_explains_each_setting() -> None:
    """Those that count here, and those that are passed over."""
    text = (ROOT / "docs" / "moving-from-memphis.md").read_text()
    assert set(re.findall(r"^\| `([A-Z_]+)` \|", text, re.M)) == {*_OLD_SETTINGS, "MEMPHIS_PORT"}


def test_it_starts_with_the_file_of_the_old_one(
    standin: Standin, tmp_path: Path, gateway: Callable[..., Gateway]
) -> None:
    """`conf/config.json` in the directory where it runs, and not one variable."""
    port = free_port()
    file: dict[str, Any] = {**_OLD_SETTINGS, "HTTP_PORT": str(port), "MEMPHIS_PORT": standin.port, "VERSION": "1.2.8"}
    running = gateway({"HTTP_PORT": ""})
    (running.directory / "conf").mkdir(parents=True)
    (running.directory / "conf" / "config.json").write_text(json.dumps({**file, "DEBUG": False}))
    running.start()
    assert running.url.endswith(f":{port}")
    assert running.get("/monitoring/ready")[0] == 200
    token = _log_on(running, "app1")["app1", "jwt"]
    with contextlib.closing(Sender(running.host)) as sender:
        sender.token = token
        assert sender.single("of-the-file", b"1").json == STORED
    assert [message.payload for message in standin.stored("of-the-file$1")] == [b"1"]


def test_a_broker_with_one_connection_token(tmp_path: Path, gateway: Callable[..., Gateway]) -> None:
    """The first request with a token ended the old one."""
    standin = Standin(tmp_path / "memphis", token=_OLD_SETTINGS["CONNECTION_TOKEN"])
    by_token = {"MEMPHIS_PORT": str(standin.port), "USER_PASS_BASED_AUTH": "false"}
    try:
        running = gateway({**_OLD_SETTINGS, **by_token}).start()
        assert running.get("/monitoring/ready")[0] == 200
        with logged_on(running.host, "root", _OLD_SETTINGS["CONNECTION_TOKEN"]) as sender:
            assert [sender.single("orders", b"{}").json for _ in range(3)] == [STORED] * 3
        assert len(standin.stored("orders$1")) == 3
        running.stop()
    finally:
        standin.stop()


def test_a_bad_value_in_the_file_stops_the_start(gateway: Callable[..., Gateway]) -> None:
    """With the names of file and key, as one of the environment with its own."""
    running = gateway()
    (running.directory / "conf").mkdir(parents=True)
    (running.directory / "conf" / "config.json").write_text('{"JWT_EXPIRES_IN_MINUTES": "soon"}')
    running.start(ready=False)
    assert running.wait() != 0
    assert running.output().startswith("stations: JWT_EXPIRES_IN_MINUTES in conf/config.json must be a whole number")


# ---- at a NATS server -------------------------------------------------------------------------------------------

_NATS_USERS = """
max_payload: 8388608
authorization { users: [
  { user: root, password: memphis }
  { user: app1, password: "Passw0rd!" }
  { user: app-rb, password: "Passw0rd!",
    permissions: { publish: [rb-allowed-1.final, rb-allowed-new.final, "$JS.API.STREAM.>"] } }
] }
"""


@pytest.fixture(scope="module")
def nats_replay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replay]:
    """The same users and settings in front of a NATS server."""
    server = NatsServer(tmp_path_factory.mktemp("nats"), _NATS_USERS)
    env = {"BROKER_URL": server.url, "AUTO_CREATE_STATIONS": "true", "SCHEMA_REGISTRY": "false"}
    token = {"CONNECTION_TOKEN": "memphis"}
    gateway = Gateway(tmp_path_factory.mktemp("moved-to-nats"), {**_OLD_SETTINGS, **env, **token})
    try:
        server.start()
        yield Replay(gateway.start(), _NATS_CASES)
    finally:
        gateway.stop()
        server.stop()


@_RECORDED
@pytest.mark.parametrize("case", _NATS_CASES, ids=[case.name for case in _NATS_CASES])
def test_old_clients_find_it_the_same_at_a_nats_server(nats_replay: Replay, case: Case) -> None:
    """Where there is no Memphis broker any more; what is refused is told in other words."""
    answer = nats_replay.answers[case.name]
    status, expected = _EXPECTED.get(case.name, (case.status, ""))
    assert answer.status == status, answer.body
    if answer.status == 200:
        assert says(answer, expected) if expected else same(case, answer), answer.body
