"""What was recorded with a real Memphis broker, played to our client: it hears the same, and says the same.

The differences are listed in `docs/memphis.md`, and here beside each comparison.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from proxy.brokers import memphis_control as control
from proxy.brokers.session import Got, Info, Names
from proxy.config import Config
from proxy.credentials import Credentials
from proxy.errors import BadStationName, GatewayError
from proxy.messages import Ack, Message, Station, station_named
from proxy.producer import Producer
from tests.brokers.memphis_replay import TRANSCRIPTS, Recording, Replay, Sent
from tests.brokers.memphis_standin import RECORDED
from tests.brokers.tools import settings
from tests.servers import eventually

ABSENT = not TRANSCRIPTS.exists()
pytestmark = pytest.mark.skipif(ABSENT, reason="the recordings are not part of the repository")

NUMBERS = [path.name[:2] for path in sorted(TRANSCRIPTS.glob("*.jsonl"))] if not ABSENT else []
Producers = Callable[[Config], Producer]

# Of a producer's creation and destruction: ours has one name for all, and another program's ids and language.
OURS = {"name", "connection_id", "app_id", "sdk_lang"}
# Headers that ours adds; the old gateway stored all of the request's, the Python client what it was given.
ADDED = {"msg-id"}
CREATIONS = "$memphis_producer_creations"


@pytest.fixture
def producer() -> Iterator[Producers]:
    """Starts producers that ask for schemas."""
    with contextlib.ExitStack() as stack:

        def start(config: Config) -> Producer:
            producer = Producer(config)
            stack.callback(producer.stop, 0)
            producer.start()
            return producer

        yield start


@pytest.fixture
def replay() -> Iterator[Callable[[str], Replay]]:
    """Plays a recording."""
    with contextlib.ExitStack() as stack:
        yield lambda number: stack.enter_context(contextlib.closing(Replay(Recording(number))))


def secrets_of(recording: Recording) -> dict[str, Credentials]:
    """The users that were let in, by name."""
    users = {}
    for connect, good in recording.connects():
        name = connect.get("name", "").partition("::")[2]
        if good and name:
            users[name] = Credentials(name, connect.get("pass") or connect.get("auth_token"))
    return users


def config_of(recording: Recording, replay: Replay) -> Config:
    """The settings for the mode in which the broker ran."""
    by_token = any("auth_token" in connect and good for connect, good in recording.connects())
    mode = "false" if by_token else "true"
    return settings(replay.url, USER_PASS_BASED_AUTH=mode, PRODUCE_TIMEOUT_SECONDS=2, ALLOW_OPEN_BROKER="true")


def types_of(value: Any) -> Any:
    """The form of a body: names and types."""
    if isinstance(value, dict):
        return {name: types_of(item) for name, item in value.items()}
    return type(value)


def outcome(act: Callable[[], Any]) -> str:
    """What becomes of a produce or log-on: "stored", "ok", or the error's situation."""
    try:
        result = act()
    except GatewayError as error:
        return type(error).__name__
    return "stored" if isinstance(result, Ack) else "ok"


# ---- logging on --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", NUMBERS)
def test_users_are_let_in_as_ever(replay: Callable[[str], Replay], producer: Producers, number: str) -> None:
    """Who was let in is, who was not is not; ours sends the same fields in CONNECT."""
    recording, broker = Recording(number), replay(number)
    started = producer(config_of(recording, broker))
    wanted = {}
    for connect, good in recording.connects():
        name = connect.get("name", "").partition("::")[2]
        by_token = "auth_token" in connect
        if not name or "::" in name or by_token == started._config.user_pass_based_auth:
            continue  # a raw client, or one in the wrong mode: ours has no such name, and one mode
        user, account = (connect.get("user") or name).partition("$")[::2]
        if (user == name and "pass" in connect) or by_token:
            key = name, connect.get("pass") or connect["auth_token"], account
            wanted[key] = good or wanted.get((name, key[1], ""), False)
    for (name, secret, account), good in wanted.items():
        known = good or any(wanted[other] for other in wanted if other[:2] == (name, secret))
        assert (outcome(lambda: started.log_on(Credentials(name, secret, account))) == "ok") is known  # noqa: B023
    fields = {name for connect, _ in recording.connects() if connect.get("lang") == "python3" for name in connect}
    assert all(set(connect) <= fields | {"user", "pass"} for connect in broker.connected if fields)


# ---- producing ---------------------------------------------------------------------------------------------------


def produces(recording: Recording) -> Iterator[tuple[str, str, Sent | None, list[Any]]]:
    """Who asked for a producer where, and each message that was sent there with its answers; some of many."""
    for sent, answers in recording.published(CREATIONS):
        body = sent.body
        if not isinstance(body, dict) or body.get("req_version") != 4 or body.get("producer_type") != "application":
            continue  # a raw client's trial; ours asks in one way
        if not answers or answers[0]["payload"]["error"].endswith("in Producer"):
            continue  # about a name that ours does not have
        station = body["station_name"].lower().replace(".", "#")
        messages = [(one, acks) for one, acks in recording.published() if one.subject.split("$")[0] == station]
        yield body["username"], body["station_name"], None, answers
        if not answers[0]["payload"]["error"]:
            for one, acks in messages[:5]:
                yield body["username"], body["station_name"], one, acks


@pytest.mark.slow
@pytest.mark.parametrize("number", NUMBERS)
def test_messages_are_produced_as_recorded(replay: Callable[[str], Replay], producer: Producers, number: str) -> None:
    """Each registration, and each message of a recording, comes to the same end and is said in the same way."""
    recording, broker = Recording(number), replay(number)
    started, users = producer(config_of(recording, broker)), secrets_of(recording)
    for username, name, message, answers in produces(recording):
        try:
            station = station_named(name)
        except BadStationName:
            continue  # refused before anything is sent
        if username not in users or (message and not answers):
            continue  # ours asks in the name of the user who is logged on; what had no answer tells nothing
        user = users[username]
        if message is not None:
            found = outcome(lambda: started.single(user, station, message.payload, ()))  # noqa: B023
        elif _allowed(None, answers) != {"ok"}:
            found = outcome(lambda: started.single(user, station, b"x", ()))  # noqa: B023
        else:
            found = outcome(lambda: registered(started, user, station))  # noqa: B023
        assert found in _allowed(message, answers), (name, message)
    _compare_requests(recording, broker)
    _compare_messages(recording, broker)


def registered(started: Producer, user: Credentials, station: Station) -> None:
    """Has the user's session register with a station, without a message."""
    started._running().call(started._pool.demand, user, station, 2.0, timeout=3, weight=1, size=0)


def _allowed(message: Sent | None, answers: list[Any]) -> set[str]:
    """The ends that a recorded answer stands for."""
    if message is None:
        error = answers[0]["payload"]["error"]
        return {type(control.refusal(error)).__name__} if error and not control.is_race(error) else {"ok"}
    if answers[0].get("status"):  # nobody listened, to the end or until the station was registered again
        return {"BrokerRefused", "stored"}
    body = answers[0]["payload"]
    # An id of ours that meets "duplicate" is another's: nothing was stored. Repeats of a payload have several answers.
    return {"BrokerRefused"} if "error" in body or body.get("duplicate") else {"stored", "BrokerRefused"}


def _compare_requests(recording: Recording, broker: Replay) -> None:
    """Requests of the control plane: the same fields, types, and values but for those that are a client's own."""
    for subject in (CREATIONS, "$memphis_producer_destructions"):
        wanted = [sent.body for sent, _ in recording.published(subject) if isinstance(sent.body, dict)]
        for sent in (one for one in broker.sent if one.subject == subject):
            same = [body for body in wanted if _of_ours(body, OURS) == _of_ours(sent.body, OURS)]
            if subject == CREATIONS or same:
                assert same, sent.body
                assert types_of(sent.body) in [types_of(body) for body in same]
            assert sent.body["connection_id"] in {one["name"].partition("::")[0] for one in broker.connected}


def _of_ours(body: dict[str, Any], without: set[str]) -> dict[str, Any]:
    rest = {name: value for name, value in body.items() if name not in without}
    return {**rest, "station_name": rest["station_name"].lower()}


def _compare_messages(recording: Recording, broker: Replay) -> None:
    """Messages: to a subject of the same station, under the two headers that the broker's console knows."""
    stations = {sent.subject.split("$")[0] for sent, _ in recording.published()}
    stations |= {
        str(s.body["station_name"]).lower().replace(".", "#")
        for s, _ in recording.published(CREATIONS)
        if isinstance(s.body, dict)
    }
    for sent in broker.sent:
        if not sent.subject.endswith(".final"):
            continue
        assert sent.subject.split("$")[0] in stations
        assert set(sent.headers) == {"$memphis_producedBy", "$memphis_connectionId"} | ADDED
        assert sent.headers["$memphis_producedBy"] == "rest-gateway"
        assert sent.headers["$memphis_connectionId"] in {one["name"].partition("::")[0] for one in broker.connected}
    listened = {one for one in broker.subscribed if not one.startswith("_INBOX")}
    assert listened <= recording.subscribed() | {"$memphis_sdk_clients_updates"} | {
        f"$memphis_schema_updates_{station}" for station in stations
    }


@pytest.mark.parametrize("number", NUMBERS)
def test_nothing_is_left_out_but_what_is_listed(number: str) -> None:
    """Each subject of the control plane that clients used is one of ours, a consumer's, or a keeper's of schemas."""
    ours = {CREATIONS, control.STATION_CREATIONS, control.PRODUCER_DESTRUCTIONS, control.DEAD_LETTERS}
    ours |= {control.NOTIFICATIONS, control.CONSUMER_CREATIONS}
    consumers = {"$memphis_consumer_destructions", "$memphis_pm_acks"}
    consumers |= {"$memphis_nacked_dls"}
    keepers = {"$memphis_schema_creations", "$memphis_schema_attachments", "$memphis_schema_detachments"}
    keepers |= {"$memphis_station_destructions"}
    never = {"$memphis_restgw_updates"}  # it tells passwords to everyone
    rows = Recording(number).rows
    used = {row["subject"] for row in rows if row["op"] in ("PUB", "HPUB") and row["dir"] == "client->broker"}
    used = {
        subject for subject in used if subject.startswith("$memphis_") and not subject.startswith("$memphis_syslogs")
    }
    assert used <= ours | consumers | keepers | never


# ---- answers and news --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", NUMBERS)
def test_every_recorded_answer_is_understood(number: str) -> None:
    """Those to producers' creations, in whatever way they were asked, are a registration or an error of ours."""
    for sent, answers in Recording(number).published(CREATIONS):
        for row in answers[:1]:
            answer = control.read_producer_answer(json.dumps(row["payload"]).encode())
            if answer.error:
                assert control.is_race(answer.error) or control.refusal(answer.error).status in (400, 401, 403, 503)
            else:
                assert answer.partitions_update.partitions_list, sent.body
                demand = control.demand_of(answer.schema_update, answer.schemaverse_to_dls)
                assert (demand is None) is (row["payload"]["schema_update"]["schema_name"] == "")


def test_stations_are_asked_for_with_the_recorded_fields() -> None:
    """All those of the Python client, with the same types; and every answer is understood."""
    config, client = settings("memphis://a", STATION_MAX_AGE_SECONDS=3600), control.Client("root", "id")
    whole = 0
    for sent, answers in Recording("04").published(control.STATION_CREATIONS):
        text = control.read_answer(str(answers[0]["payload"]).encode())
        assert not text or control.refusal(text).status in (400, 503)
        if isinstance(sent.body, dict) and sent.body["name"].lower() == "st-basic":
            ours = control.station_creation(client, station_named("st-basic"), config)
            assert ours == sent.body
            whole += 1
    assert whole == 2


@pytest.mark.parametrize("number", ["12", "19"])
def test_dead_letters_have_the_recorded_form(number: str) -> None:
    """The same fields and types, but for those that the broker writes over or ignores."""
    ignored = {"creation_unix"}
    found = Recording(number).published(control.DEAD_LETTERS)
    assert found
    for sent, _ in found:
        recorded = {name: value for name, value in sent.body.items() if name not in ignored}
        recorded["message"] = {name: value for name, value in recorded["message"].items() if name != "size"}
        payload, headers = bytes.fromhex(recorded["message"]["data"]), recorded["message"]["headers"]
        own = tuple((name, value) for name, value in headers.items() if not name.startswith("$memphis"))
        client = control.Client("root", recorded["producer"]["connection_id"])
        station = station_named(recorded["station_name"].replace("#", "."))
        ours = control.dead_letter(client, station, Message(payload, own, "id"), recorded["validation_error"])
        for body in (ours, recorded):  # each producer has its own name
            body["producer"].pop("name")
            body["message"]["headers"].pop("$memphis_producedBy")
        assert ours == recorded


def test_notifications_have_the_recorded_form() -> None:
    """The same fields, type and code; the text names station, producer and error."""
    ((sent, _),) = Recording("12").published(control.NOTIFICATIONS)
    ours = control.notification(station_named("pr-dls"), Message(b'{"name": "y"}', (), "id"), "why")
    assert set(ours) == set(sent.body)
    assert all(ours[name] == sent.body[name] for name in ("title", "type", "code"))
    assert [line.partition(":")[0] for line in ours["msg"].splitlines()] == ["Station", "Producer", "Error"]
    assert sent.body["msg"].startswith("Station: pr-dls\nProducer: prod1\nError:")


@pytest.mark.parametrize(("number", "name"), [("07", "st-change"), ("08", "st-gone"), ("12", "pr-dls")])
def test_recorded_news_change_what_is_demanded(
    replay: Callable[[str], Replay], producer: Producers, number: str, name: str
) -> None:
    """One after the other; a switch of dead letters makes us ask, whatever value it names."""
    recording, broker = Recording(number), replay(number)
    started, station = producer(config_of(recording, broker)), station_named(name)
    registered(started, secrets_of(recording)["root"], station)
    (link,) = started._pool._links.values()
    demands: Any = link.session.demands  # type: ignore[union-attr]
    for row in recording.news():
        body = row["payload"]
        asked = sum(sent.subject == CREATIONS for sent in broker.sent)
        if row["subject"].endswith(f"updates_{name}"):
            broker.tell(row)
            wanted = body["init"]["active_version"]["schema_content"]
            eventually(lambda: _definition(demands.known[name]) == wanted)  # noqa: B023
        elif body["station_name"] == name and body["type"] == "schemaverse_to_dls":
            broker.tell(row)
            eventually(lambda: sum(one.subject == CREATIONS for one in broker.sent) > asked)  # noqa: B023
            return  # from here on the answers are those of another time


def _definition(demand: Any) -> str:
    return demand.schema.definition if demand is not None else ""


def test_recorded_keys_go_to_the_recorded_partitions(replay: Callable[[str], Replay], producer: Producers) -> None:
    """Those of the Python client."""
    recording, broker = Recording("11"), replay("11")
    started, root = producer(config_of(recording, broker)), secrets_of(recording)["root"]
    station = station_named("pr-parts")
    keyed = [sent for sent, _ in recording.published() if sent.payload.startswith(b"k:")]
    assert len(keyed) == 6
    for sent in keyed:
        started.single(root, station._replace(partition_key=sent.payload[2:].decode()), sent.payload, ())
        assert broker.sent[-1].subject == sent.subject


def test_a_removed_users_session_ends(replay: Callable[[str], Replay], producer: Producers) -> None:
    """The broker closes the connection and says nothing."""
    recording, broker = Recording("21"), replay("21")
    started, user = producer(config_of(recording, broker)), secrets_of(recording)["app-gone"]
    started.log_on(user)
    (link,) = started._pool._links.values()
    session: Any = link.session
    assert session.alive
    broker.hang_up()
    eventually(lambda: not session.alive)


def test_a_lost_race_ends_well(replay: Callable[[str], Replay], producer: Producers) -> None:
    """The first answer was that somebody else has made the station."""
    recording, broker = Recording("22"), replay("22")
    started = producer(config_of(recording, broker))
    registered(started, secrets_of(recording)["root"], station_named("race-2"))
    assert sum(sent.subject == CREATIONS for sent in broker.sent) >= 2


def test_answers_of_jetstream_are_understood() -> None:
    """Names, configurations and messages, as this broker writes them."""
    shapes: dict[str, Any] = {"STREAM.NAMES": Names, "STREAM.INFO": Info, "STREAM.MSG.GET": Got}
    count = 0
    for number in ("15", "16", "17"):
        recording = Recording(number)
        subjects = {row["subject"] for row in recording.rows if row["op"] == "PUB"}
        for verb, shape in shapes.items():
            for subject in (one for one in subjects if one.startswith(f"$JS.API.{verb}")):
                for _, answers in recording.published(subject):
                    for row in answers[:1]:
                        answer = msgspec.json.decode(json.dumps(row["payload"]).encode(), type=shape)
                        if shape is Info and not answer.error:
                            assert answer.config.duplicate_window > 0
                        count += 1
    assert count > 10


def test_the_stand_in_says_what_was_recorded() -> None:
    """Its texts and bodies are those of the recordings."""
    said = "".join(path.read_text() for path in sorted(TRANSCRIPTS.glob("*.jsonl")))
    for name in ("bad_station", "violation"):
        assert RECORDED[name] in said
    for name, names in {
        "no_user": {"user": "ghost"},
        "race": {"station": "race-2"},
        "not_allowed_to_access": {"user": "app-rb", "station": "rb-denied"},
        "not_allowed_to_create": {"user": "app-rb", "station": "rb-other"},
    }.items():
        assert RECORDED[name].format(**names) in said
    for name in ("producer", "detached", "remove_station", "schemaverse_to_dls"):
        assert json.dumps(RECORDED[name]) in said
    for schema in RECORDED["schemas"].values():
        assert json.dumps(schema) in said
