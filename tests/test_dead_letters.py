"""What a schema refuses, kept beside the station."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone

import pytest
from flask import Flask

from proxy import dead_letters
from proxy.errors import AckTimeout, BrokerAway, SchemaViolation
from proxy.messages import Ack, Message, station_named
from tests.application import Api, Stored, payloads, stored
from tests.servers import NatsServer

ORDER = '{"type": "object", "required": ["id"]}'


def _header(message: Stored, name: str) -> str:
    value = message.header(name)
    assert value is not None, message.headers
    return value.decode()


def test_what_is_refused_is_kept_as_it_was_sent(api: Api, broker: NatsServer, station: str) -> None:
    """Bytes and headers, and why, where, by whom and when; the sender still gets 400 and is told."""
    api.demand(station, ORDER, dead_letter=True)
    answer = api.single(station, b'{ "no": 1 }', "application/json", X_One="1", msg_color="red")
    body = answer.get_json()
    assert (answer.status_code, body["stored"], body["dead_letter"]) == (400, "no", "stored")
    assert payloads(broker, station) == []
    (letter,) = stored(broker, f"{station}.dls")
    assert letter.payload == b'{ "no": 1 }'
    kept = {name: _header(letter, name) for name in ("content-type", "x-one", "color", "dls-station", "dls-user")}
    assert kept == {
        "content-type": "application/json",
        "x-one": "1",
        "color": "red",
        "dls-station": station,
        "dls-user": "root",
    }
    assert _header(letter, "dls-reason") == body["error"]
    when = datetime.fromisoformat(_header(letter, "dls-time").replace("Z", "+00:00"))
    assert abs(datetime.now(timezone.utc) - when) < timedelta(minutes=1)


def test_what_is_good_has_no_dead_letter(api: Api, broker: NatsServer, station: str) -> None:
    """And no station is made for any."""
    api.demand(station, ORDER, dead_letter=True)
    assert api.single(station, b'{"id": 1}').status_code == 200
    assert stored(broker, f"{station}.dls") == []


def test_of_a_batch_each_refused_one_is_kept(api: Api, broker: NatsServer, station: str) -> None:
    """Each failure says what became of its dead letter."""
    api.demand(station, ORDER, dead_letter=True)
    body = api.batch(station, b'[{"id": 1}, {"a": 1}, {"id": 2}, 7]').get_json()
    assert [(entry["index"], entry["dead_letter"]) for entry in body["failed"]] == [(1, "stored"), (3, "stored")]
    assert payloads(broker, station) == [b'{"id": 1}', b'{"id": 2}']
    letters = stored(broker, f"{station}.dls")
    assert [letter.payload for letter in letters] == [b'{"a": 1}', b"7"]
    assert [_header(letter, "dls-reason") for letter in letters] == [entry["error"] for entry in body["failed"]]


def test_of_an_atomic_batch_those_that_are_at_fault_are_kept(api: Api, broker: NatsServer, station: str) -> None:
    """The good ones are neither stored nor dead."""
    api.demand(station, ORDER, dead_letter=True)
    body = api.batch(station, b'[{"id": 1}, {"a": 1}, 7]', Prefer="atomic").get_json()
    assert (body["index"], body["dead_letter"], body["stored"]) == (1, "stored", "no")
    assert payloads(broker, f"{station}.dls") == [b'{"a": 1}', b"7"]
    assert payloads(broker, station) == []


def test_a_repeat_with_the_same_key_is_kept_once(api: Api, broker: NatsServer, station: str) -> None:
    """Singles and batches; other bytes under the same key are another dead letter."""
    api.demand(station, ORDER, dead_letter=True)
    for _ in range(2):
        assert api.single(station, b"1", Idempotency_Key="k").get_json()["dead_letter"] == "stored"
        answer = api.batch(station, b"[2, 3, 2]", Idempotency_Key="k").get_json()
        assert {entry["dead_letter"] for entry in answer["failed"]} == {"stored"}
    assert api.single(station, b"4", Idempotency_Key="k").get_json()["dead_letter"] == "stored"
    assert sorted(payloads(broker, f"{station}.dls")) == [b"1", b"2", b"2", b"3", b"4"]


def test_a_key_that_was_refused_is_free_for_the_mended_message(api: Api, broker: NatsServer, station: str) -> None:
    """The key belongs to what the station has stored, which is nothing."""
    api.demand(station, ORDER, dead_letter=True)
    api.single(station, b"1", Idempotency_Key="k")
    assert api.single(station, b'{"id": 1}', Idempotency_Key="k").status_code == 200


def test_senders_cannot_write_these_headers(api: Api, broker: NatsServer, station: str) -> None:
    """Neither under their names nor as `msg-...`, into no station."""
    forged = {"dls_user": "admin", "msg_dls_user": "admin", "MSG_DLS_REASON": "x", "msg_dls_other": "x"}
    api.single(station, b"{}", **forged)
    api.demand(station, ORDER, dead_letter=True)
    api.single(station, b"{}", **forged)
    (message,), (letter,) = stored(broker, station), stored(broker, f"{station}.dls")
    assert not [name for name, _ in message.headers if b"dls" in name.lower()]
    assert sorted(name for name, _ in letter.headers if b"dls" in name.lower()) == [
        b"dls-reason",
        b"dls-station",
        b"dls-time",
        b"dls-user",
    ]
    assert _header(letter, "dls-user") == "root"


def test_a_dead_letter_is_checked_against_no_schema(api: Api, broker: NatsServer, station: str) -> None:
    """Whatever its own station demands."""
    api.demand(station, ORDER, dead_letter=True)
    api.put(f"/stations/{station}.dls/schema", {"schema": station, "dead_letter": True})
    assert api.single(station, b"1").get_json()["dead_letter"] == "stored"
    assert payloads(broker, f"{station}.dls") == [b"1"]


def test_a_dead_letter_that_is_not_stored_is_told(app: Flask, api: Api, broker: NatsServer) -> None:
    """The user may not produce to that station: the answer says so, and is the same otherwise."""
    api.demand("allowed", ORDER, dead_letter=True)
    try:
        limited = Api(app, "limited", "Passw0rd!")
        body = limited.single("allowed", b"1").get_json()
        assert body["error"].startswith("Schema validation has failed")
        assert body["dead_letter"].startswith("failed: the broker does not allow")
        entries = limited.batch("allowed", b"[1, 2]").get_json()["failed"]
        assert all(entry["dead_letter"].startswith("failed: ") for entry in entries)
    finally:
        api.delete("/stations/allowed/schema")


def test_checking_alone_keeps_nothing(api: Api, broker: NatsServer, station: str) -> None:
    """`/validate` has no dead letters."""
    api.demand(station, ORDER, dead_letter=True)
    answer = api.post(f"/stations/{station}/validate", b"1")
    assert (answer.status_code, "dead_letter" in answer.get_json()) == (400, False)
    assert stored(broker, f"{station}.dls") == []


# ---- the message itself --------------------------------------------------------------------------------------------


def _letter(reason: str, headers: tuple[tuple[str, str], ...] = ()) -> Message:
    message = Message(b"p", headers, "id", named=True, compare=True)
    (letter,) = dead_letters.letters([(message, SchemaViolation(reason))], station_named("a.b"), "us\ner")
    return letter


@pytest.mark.parametrize(
    "reason",
    ["x" * 5000, "é" * 5000, "a\r\nnats-rollup: all\0", "\ud800", "\u2028\x85\x1b[31m", " "],
)
def test_the_reason_is_one_line_of_bounded_size(reason: str) -> None:
    """Whatever a payload has brought into it."""
    value = dict(_letter(reason).headers)["dls-reason"]
    assert len(value.encode()) <= dead_letters.MAX_REASON_BYTES
    assert value.isprintable()
    assert dict(_letter(reason).headers)["dls-user"] == "us er"


def test_headers_of_a_team_that_look_like_ours_are_left_out() -> None:
    """There is one of each, in any case of letters."""
    letter = _letter("r", (("DLS-User", "forged"), ("dls-x", "1"), ("x-one", "1")))
    assert [name for name, _ in letter.headers] == ["x-one", "dls-reason", "dls-station", "dls-user", "dls-time"]


def test_the_id_stands_for_the_payload_too() -> None:
    """So nothing has to be compared."""
    letter = _letter("r")
    assert letter.key.startswith("id.")
    assert (len(letter.key), letter.named, letter.compare) == (len("id.") + 8, True, False)


@pytest.mark.parametrize(
    ("result", "told"),
    [
        (Ack(None, False), "stored"),
        (Ack(None, None), "stored"),
        (BrokerAway("gone"), "failed: gone"),
        (AckTimeout("silent"), "unknown: silent"),
    ],
)
def test_the_sender_is_told_what_became_of_it(result: Ack | BrokerAway | AckTimeout, told: str) -> None:
    """In one word, or with the reason."""
    assert dead_letters.outcome(result) == told


def test_a_name_without_room_for_the_ending_is_told(api: Api, broker: NatsServer) -> None:
    """An attachment that was not made here may ask for it all the same."""
    name = "x" * 126
    with pytest.raises(Exception, match="1 to 128"):
        dead_letters.station_of(station_named(name))
    assert json.dumps(dead_letters.station_of(station_named("x" * 124)).name)
