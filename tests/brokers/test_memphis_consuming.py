"""Consuming from a Memphis broker: what was recorded is said and heard again, all partitions are read.

The differences to the recordings are listed in `docs/memphis.md`, and here beside each comparison.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from proxy.brokers import memphis_control as control
from proxy.config import Config
from proxy.consumer import Consumer, Turn
from proxy.credentials import Credentials
from proxy.errors import GatewayError
from proxy.messages import Wanted, station_named
from proxy.producer import Producer
from tests.brokers.memphis_replay import TRANSCRIPTS, Recording, Replay, Sent, payload_of
from tests.brokers.memphis_standin import RECORDED, Standin
from tests.brokers.memphis_tools import LIMITED
from tests.brokers.tools import ROOT, facts, failure, outcomes, settings
from tests.servers import eventually

recorded = pytest.mark.skipif(not TRANSCRIPTS.exists(), reason="the recordings are not part of the repository")

Producers = Callable[[Config], Producer]
CREATIONS, PULLS, ACKS = control.CONSUMER_CREATIONS, "$JS.API.CONSUMER.MSG.NEXT.", "$JS.ACK."
# Another program's ids and language; and ours acks later, and has what was not acked delivered again.
OURS = {"connection_id", "app_id", "sdk_lang", "max_ack_time_ms", "max_msg_deliveries"}
GATEWAY = "19"  # the recording of Memphis' gateway


def wanted(messages: int = 10, seconds: float = 0.3, group: str = "", name: str = "c1") -> Wanted:
    """What is asked for."""
    return Wanted(name, group, messages, seconds, 8 << 20)


def payloads(turn: Turn) -> list[bytes]:
    """What was read, acked."""
    turn.end(True, True)
    return [message.payload for message in turn.messages]


# ---- recordings --------------------------------------------------------------------------------------------------


class ConsumingReplay(Replay):
    """Also registers consumers as recorded, and delivers to them what was delivered then, once."""

    def __init__(self, recording: Recording) -> None:
        self._deliveries = [row for row in recording.rows if row["op"] == "HMSG" and ACKS in row.get("reply", "")]
        super().__init__(recording)

    def _answer(self, subject: str, reply: str, body: Any, payload: bytes) -> Iterator[bytes]:
        if subject == CREATIONS:
            for sent, answers in self.recording.published(CREATIONS):
                if all(sent.body[name] == body[name] for name in ("name", "station_name", "consumers_group")):
                    yield _plain(reply, payload_of(answers[0]))
                    return
        elif subject == "$JS.API.STREAM.NAMES":
            yield _plain(reply, json.dumps({"streams": [body["subject"].removesuffix(".final")]}).encode())
        elif subject.startswith(ACKS):
            yield _plain(reply, b"")  # Memphis' gateway asked for no answer, which JetStream gives to who does
        elif subject.startswith(PULLS):
            yield from self._deliver(subject, reply, body)
        else:
            yield from super()._answer(subject, reply, body, payload)

    def _deliver(self, subject: str, inbox: str, body: Any) -> Iterator[bytes]:
        stream, _, durable = subject.removeprefix(PULLS).rpartition(".")
        sid = self._sids[inbox][1].encode()
        mine = [row for row in self._deliveries if row["reply"].startswith(f"{ACKS}{stream}.{durable}.")]
        for row in mine[: body["batch"]]:
            self._deliveries.remove(row)
            yield _with_head(row["subject"].encode(), sid, row["reply"].encode(), _head(row), payload_of(row))
        if len(mine) < body["batch"]:
            yield _with_head(inbox.encode(), sid, b"", b"NATS/1.0 408 Request Timeout\r\n\r\n", b"")


def _plain(reply: str, payload: bytes) -> bytes:
    return b"MSG %b 1 %d\r\n%b\r\n" % (reply.encode(), len(payload), payload)


def _with_head(subject: bytes, sid: bytes, reply: bytes, head: bytes, payload: bytes) -> bytes:
    names = b" ".join(filter(None, (subject, sid, reply)))
    return b"HMSG %b %d %d\r\n%b%b\r\n" % (names, len(head), len(head) + len(payload), head, payload)


def _head(row: dict[str, Any]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in row["headers"])
    return f"NATS/1.0\r\n{lines}\r\n".encode()


@pytest.fixture
def replayed(producer: Producers) -> Iterator[tuple[ConsumingReplay, Producer, Config]]:
    """The session of Memphis' gateway, played to ours."""
    with contextlib.closing(ConsumingReplay(Recording(GATEWAY))) as broker:
        config = settings(broker.url, ALLOW_OPEN_BROKER="true", PRODUCE_TIMEOUT_SECONDS=2)
        yield broker, producer(config), config


def asked_for(broker: ConsumingReplay) -> Iterator[tuple[dict[str, Any], Any]]:
    """Each registration that was recorded, under names that ours lets through, and its answer."""
    for sent, answers in broker.recording.published(CREATIONS):
        if sent.body["name"] != "_c!" and "%" not in sent.body["station_name"]:
            yield sent.body, answers[0]["payload"]


@recorded
@pytest.mark.slow
def test_what_was_recorded_is_read_and_said_again(replayed: tuple[ConsumingReplay, Producer, Config]) -> None:
    """Registrations, pulls and acks, to the same ends."""
    broker, started, config = replayed
    consumer, users = Consumer(config, started), {"root": ROOT, "app-rb": LIMITED}
    for body, answer in asked_for(broker):
        station = station_named(body["station_name"])
        group = body["consumers_group"].removesuffix("rest-gateway").removesuffix("-")
        ask = wanted(group=group, name=body["name"])
        if isinstance(answer, str):  # an error is plain text
            error = failure(consumer.take, users[body["username"]], station, ask)
            assert facts(error) == ("Forbidden", "no", "never")
            assert error.message == answer
        else:
            consumer.take(users[body["username"]], station, ask).end(True, True)
    _compare_registrations(broker)
    _compare_pulls(broker)
    _compare_acks(broker)


def _said(broker: ConsumingReplay, prefix: str) -> list[Sent]:
    return [sent for sent in broker.sent if sent.subject.startswith(prefix)]


def _compare_registrations(broker: ConsumingReplay) -> None:
    """The same fields, types, and values but for those that are a client's own."""
    for sent, (recorded, _) in zip(_said(broker, CREATIONS), asked_for(broker), strict=True):
        assert {name: type(value) for name, value in sent.body.items()} == {n: type(v) for n, v in recorded.items()}
        assert all(sent.body[name] == recorded[name] for name in set(recorded) - OURS)


def _compare_pulls(broker: ConsumingReplay) -> None:
    """From the same consumers; ours asks first for what is there, and bounds the bytes."""
    rows = [row for row in broker.recording.rows if row["op"] == "PUB" and row["subject"].startswith(PULLS)]
    ours = _said(broker, PULLS)
    assert {sent.subject for sent in ours} == {row["subject"] for row in rows}
    assert {name for row in rows for name in row["payload"]} == {"batch", "expires"}
    assert {tuple(sorted(sent.body)) for sent in ours} == {
        ("batch", "max_bytes", "no_wait"),
        ("batch", "expires", "max_bytes"),
    }


def _compare_acks(broker: ConsumingReplay) -> None:
    """Each message that was acked is; with the same word."""
    rows = [row for row in broker.recording.rows if row["op"] == "PUB" and row["subject"].startswith(ACKS)]
    assert {(sent.subject, sent.payload) for sent in _said(broker, ACKS)} == {
        (row["subject"], payload_of(row)) for row in rows
    }


@recorded
@pytest.mark.parametrize("number", ["13", "14", "15", GATEWAY])
def test_every_recorded_answer_is_understood(number: str) -> None:
    """In whatever way they were asked: a registration with partitions, or an error of ours."""
    count = 0
    for _, answers in Recording(number).published(CREATIONS):
        for row in answers[:1]:  # another one follows an error, and says nothing
            payload = row["payload"]
            answer = control.read_producer_answer(
                (payload if isinstance(payload, str) else json.dumps(payload)).encode()
            )
            assert bool(answer.error) != bool(answer.partitions_update.partitions_list)
            if answer.error:
                assert control.refusal(answer.error).status in (400, 401, 403, 503)
            count += 1
    assert count


@recorded
def test_the_python_client_asks_with_the_same_fields() -> None:
    """And the same types."""
    client = control.Client("root", "id")
    ours = control.consumer_creation(client, station_named("a"), "c1", "g1", settings("memphis://a"))
    for sent, _ in Recording("13").published(CREATIONS):
        assert {name: type(value) for name, value in ours.items()} == {n: type(v) for n, v in sent.body.items()}


@recorded
def test_the_stand_in_says_what_was_recorded() -> None:
    """Its texts and bodies for consumers are those of the recordings."""
    said = "".join(path.read_text() for path in sorted(TRANSCRIPTS.glob("*.jsonl")))
    assert all(RECORDED[name] in said for name in ("bad_consumer", "no_consumers_user"))
    assert all(json.dumps(RECORDED[name]) in said for name in ("consumer", "no_consumer", "durable"))


# ---- against the stand-in ----------------------------------------------------------------------------------------


class Reader(Consumer):
    """Reads as root."""

    def __init__(self, standin: Standin, producer: Producers, **env: Any) -> None:
        config = settings(standin.url, **env)
        self.producer = producer(config)
        super().__init__(config, self.producer)

    def read(self, station: str, user: Credentials = ROOT, **ask: Any) -> list[bytes]:
        """The payloads of what is read; all of it is acked."""
        return payloads(self.take(user, station_named(station), wanted(**ask)))

    def fails(self, station: str, user: Credentials = ROOT) -> GatewayError:
        """Why nothing can be read."""
        return failure(self.take, user, station_named(station), wanted())


def test_one_read_takes_from_all_partitions(standin: Standin, producer: Producers) -> None:
    """Memphis' gateway read one for each request, round robin."""
    standin.make("parts", 3)
    reader = Reader(standin, producer)
    reader.producer.batch(ROOT, station_named("parts"), [b"%d" % n for n in range(30)], ())
    assert all(len(standin.stored(f"parts${number}")) == 10 for number in (1, 2, 3))
    assert len(reader.read("parts", messages=20)) == 20
    assert len(reader.read("parts", messages=20)) == 10
    assert reader.read("parts") == []


@pytest.mark.slow
def test_messages_that_come_to_any_partition_end_a_wait(standin: Standin, producer: Producers, submit: Any) -> None:
    """However few are wanted; what is too many for the answer is there for the next."""
    standin.make("parts", 3)
    reader = Reader(standin, producer)
    assert reader.read("parts") == []
    for messages in (1, 2, 5):
        turn = submit(reader.read, "parts", messages=messages, seconds=20)
        reader.producer.batch(ROOT, station_named("parts"), [b"x"] * 6, ())
        found = len(turn.result(10))
        assert found == messages
        while found < 6:
            found += len(reader.read("parts"))
        assert found == 6


@pytest.mark.slow
def test_a_reader_registers_once_and_again_after_a_reconnect(standin: Standin, producer: Producers) -> None:
    """Under its name, for its group; nothing is ever taken back, as the group's position would go with it."""
    reader = Reader(standin, producer)
    for _ in range(2):
        reader.read("orders")
        reader.read("orders", name="c2")
        reader.read("orders", group="g")
    bodies = standin.bodies(CREATIONS)
    assert [(body["name"], body["consumers_group"]) for body in bodies] == [
        ("c1", "rest-gateway"),
        ("c2", "rest-gateway"),
        ("c1", "g-rest-gateway"),
    ]
    standin.server.restart()
    reader.read("orders", seconds=3)
    assert len(standin.bodies(CREATIONS)) == 4
    reader.producer.stop()
    assert standin.bodies("$memphis_consumer_destructions") == []


@pytest.mark.parametrize(("deliveries", "sent"), [(0, 10), (3, 3), (10, 10), (11, 10)])
def test_deliveries_and_time_to_ack_follow_from_the_settings(
    standin: Standin, producer: Producers, deliveries: int, sent: int
) -> None:
    """The broker takes 1 to 10 deliveries."""
    Reader(standin, producer, CONSUME_MAX_DELIVERIES=deliveries, CONSUME_ACK_WAIT_SECONDS=7).read("orders")
    (body,) = standin.bodies(CREATIONS)
    assert (body["max_msg_deliveries"], body["max_ack_time_ms"]) == (sent, 7000)


@pytest.mark.slow
def test_a_station_removed_without_notice_is_made_again(standin: Standin, producer: Producers) -> None:
    """A pull that nobody answers is why we look."""
    reader = Reader(standin, producer)
    assert reader.read("orders") == []
    standin.remove("orders", notice=False)
    assert reader.read("orders", seconds=3) == []
    assert "orders" in standin.stations


def test_a_refusal_of_another_request_is_none_of_an_ack(standin: Standin, producer: Producers, submit: Any) -> None:
    """However late the ack's answer is: it may be taken, and who was given the message may read on."""
    station = station_named("rb-allowed-a")
    standin.make(station.name)
    reader = Reader(standin, producer)
    reader.producer.single(LIMITED, station, b"1", ())
    turn = reader.take(LIMITED, station, wanted())
    id = turn.ack_id(turn.messages[0])
    (link,) = (one for one in reader.producer._pool._links.values() if one.credentials is LIMITED)
    session: Any = link.session
    standin.server.pause()
    try:
        acks = [submit(turn.end, True, True), submit(failure, reader.ack, LIMITED, station, [id])]
        eventually(lambda: session.connection.waiting == len(acks))
        session._loop.call_soon_threadsafe(session.connection._on_denied_something)
        assert outcomes(acks[1].result(10)) == [(0, 504, "unknown")]
        acks[0].result(10)
    finally:
        standin.server.resume()
    reader.producer.single(LIMITED, station, b"2", ())
    assert reader.read(station.name, LIMITED) == [b"2"]


@pytest.mark.slow
def test_a_station_removed_is_not_found_where_none_is_made(standin: Standin, producer: Producers) -> None:
    """By the setting; registering would make it, so it is looked for first."""
    reader = Reader(standin, producer, AUTO_CREATE_STATIONS="false")
    assert reader.read("orders") == []
    standin.remove("orders", notice=False)
    assert facts(reader.fails("orders")) == ("StationNotFound", "no", "never")
    assert "orders" not in standin.stations


def test_no_permission_is_told_in_the_brokers_words(standin: Standin, producer: Producers) -> None:
    """For a station that is there, and for one that is not."""
    reader = Reader(standin, producer)
    for station, verb in (("orders", "access"), ("absent", "create")):
        error = reader.fails(station, LIMITED)
        assert facts(error) == ("Forbidden", "no", "never")
        assert error.message == f"user app-rb is not allowed to {verb} station {station}"


def test_a_user_of_limited_rights_reads_what_was_made_for_it(standin: Standin, producer: Producers) -> None:
    """Although the broker refuses its subjects for a moment."""
    reader = Reader(standin, producer)
    station = station_named("rb-allowed-new")
    assert reader.read(station.name, LIMITED) == []
    reader.producer.single(LIMITED, station, b"1", ())
    assert reader.read(station.name, LIMITED) == [b"1"]


def test_a_refusal_of_another_request_does_not_end_a_wait(standin: Standin, producer: Producers, submit: Any) -> None:
    """The broker's refusals name no subject."""
    reader = Reader(standin, producer)
    assert reader.read("rb-allowed-a", LIMITED) == []
    waiting = submit(reader.read, "rb-allowed-a", LIMITED, messages=1, seconds=20)
    (link,) = (one for one in reader.producer._pool._links.values() if one.credentials is LIMITED)
    session: Any = link.session
    session._loop.call_soon_threadsafe(session.connection._on_denied_something)
    reader.producer.single(LIMITED, station_named("rb-allowed-a"), b"1", ())
    assert waiting.result(10) == [b"1"]


@pytest.mark.slow
def test_a_busy_broker_is_503(standin: Standin, producer: Producers) -> None:
    """It takes connections and does not answer."""
    reader = Reader(standin, producer)
    standin.silent.add(CREATIONS)
    assert reader.fails("orders").status == 503
