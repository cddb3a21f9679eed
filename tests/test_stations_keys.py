"""De-duplication: a repeat with the same key is stored once, another message under it is refused."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from flask import Flask

from tests.application import Api, payloads, stored
from tests.servers import NatsServer
from tests.ways import api

__all__ = ["api"]  # a fixture

VISIBLE = "".join(map(chr, range(0x21, 0x7F)))
WITH_ACK = {"Prefer": "return=representation"}


@pytest.mark.parametrize("name", ["Idempotency-Key", "msg-id", "Msg-Id"])
@pytest.mark.parametrize("key", ["k", "0" * 200, VISIBLE, '"8e03978e-40d5-43e8-bc93-6894a57f9324"'])
def test_a_repeat_is_stored_once(api: Api, broker: NatsServer, station: str, name: str, key: str) -> None:
    """The second answer is like the first, and says so to whom asks."""
    first, second = (api.single(station, b"[1]", **{name: key}, **WITH_ACK) for _ in range(2))
    assert payloads(broker, station) == [b"[1]"]
    assert first.get_json()["ack"] == {"station": station, "sequence": 1, "duplicate": False}
    assert second.get_json()["ack"] == {"station": station, "sequence": 1, "duplicate": True}
    assert api.single(station, b"[1]", **{name: key}).data == b'{"error":null,"success":true}'


def test_without_a_key_every_message_is_stored(api: Api, broker: NatsServer, station: str) -> None:
    """Equal bytes may well be two messages."""
    assert [api.single(station, b"[1]").status_code for _ in range(2)] == [200, 200]
    assert payloads(broker, station) == [b"[1]", b"[1]"]


def test_the_brokers_id_is_the_users_own(api: Api, broker: NatsServer, station: str) -> None:
    """12 characters for the user, a dot, the key."""
    api.single(station, Idempotency_Key="the.key")
    assert re.fullmatch(rb"[\w-]{12}\.the\.key", stored(broker, station)[0].header("Nats-Msg-Id") or b"")


def test_users_do_not_meet_by_their_keys(app: Flask, api: Api, broker: NatsServer, station: str) -> None:
    """Nobody can make another user's message look like a repeat."""
    for sender in (api, Api(app, "app1", "Passw0rd!")):
        assert sender.single(station, sender.token[-5:], None, Idempotency_Key="k").status_code == 200
    assert len(stored(broker, station)) == 2


def test_replicas_recognise_each_others_repeats(
    api: Api, make_app: Callable[..., Flask], broker: NatsServer, station: str
) -> None:
    """A sender may repeat at another gateway."""
    other = Api(make_app(broker.url))
    for sender in (api, other):
        assert sender.single(station, b"[1]", Idempotency_Key="k").status_code == 200
    assert payloads(broker, station) == [b"[1]"]


def test_a_key_of_another_message_is_refused(api: Api, broker: NatsServer, station: str) -> None:
    """422: the sender meant something new, which is not stored."""
    api.single(station, b"[1]", Idempotency_Key="k")
    answer = api.single(station, b"[2]", Idempotency_Key="k")
    body = answer.get_json()
    assert (answer.status_code, body["stored"], body["repeat"]) == (422, "no", "never")
    assert "Idempotency-Key" in body["error"]
    assert payloads(broker, station) == [b"[1]"]


def test_who_may_not_read_gets_the_brokers_word(app: Flask, broker: NatsServer) -> None:
    """Where the stored message cannot be compared the broker's word counts: a duplicate."""
    Api(app).single("allowed")
    before = len(stored(broker, "allowed"))
    limited = Api(app, "limited", "Passw0rd!")
    answers = [limited.single("allowed", body, Idempotency_Key="once", **WITH_ACK) for body in (b"[1]", b"[2]")]
    assert [answer.get_json()["ack"]["duplicate"] for answer in answers] == [False, True]
    assert len(stored(broker, "allowed")) == before + 1


def test_the_key_is_not_among_the_stored_headers(api: Api, broker: NatsServer, station: str) -> None:
    """It is part of the broker's id alone."""
    api.single(station, Idempotency_Key="k1", msg_id="k2")
    names = [name for name, _ in stored(broker, station)[0].headers]
    assert names == [b"Nats-Msg-Id", b"content-type"]


def test_idempotency_key_goes_before_msg_id(api: Api, broker: NatsServer, station: str) -> None:
    """Of two names the one that is a standard counts."""
    api.single(station, Idempotency_Key="k1", msg_id="k2")
    assert (stored(broker, station)[0].header("Nats-Msg-Id") or b"").endswith(b".k1")


@pytest.mark.parametrize("name", ["Idempotency-Key", "msg-id"])
@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 201, "é", "a\tb", "\x7f", "a\x00"])
@pytest.mark.usefixtures("nothing_stored")
def test_a_bad_key_is_refused(api: Api, station: str, name: str, key: str) -> None:
    """400 names the header, for one message and for a batch."""
    variable = "HTTP_" + name.upper().replace("-", "_")
    for route in ("single", "batch"):
        path = f"/stations/{station}/produce/{route}"
        answer = api.post(path, b"[1]", environ_overrides={variable: key})
        assert answer.status_code == 400
        assert f"header {name}: must be 1 to 200 visible ASCII characters" in answer.get_json()["error"]


# ---- batches -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefer", [{}, WITH_ACK])
def test_a_repeated_batch_is_stored_once(api: Api, broker: NatsServer, station: str, prefer: dict[str, str]) -> None:
    """Every element has an id of its own, so the repeat stores nothing."""
    for _ in range(2):
        assert api.batch(station, b"[1,1,2]", Idempotency_Key="k", **prefer).status_code == 200
    assert payloads(broker, station) == [b"1", b"1", b"2"]


def test_the_acks_of_a_repeated_batch_tell(api: Api, station: str) -> None:
    """Each names its place, and that it was there."""
    api.batch(station, b"[1,2]", Idempotency_Key="k")
    acks = api.batch(station, b"[1,2]", Idempotency_Key="k", **WITH_ACK).get_json()["acks"]
    assert acks == [
        {"index": 0, "station": station, "sequence": 1, "duplicate": True},
        {"index": 1, "station": station, "sequence": 2, "duplicate": True},
    ]


def test_a_changed_element_is_another_message(api: Api, broker: NatsServer, station: str) -> None:
    """Its id holds a digest of its bytes, so a mended batch may be sent under the same key."""
    api.batch(station, b"[1,2]", Idempotency_Key="k")
    api.batch(station, b"[1,3]", Idempotency_Key="k")
    assert payloads(broker, station) == [b"1", b"2", b"3"]


@pytest.mark.parametrize("key", ["the-key", None])
def test_ids_of_elements_have_index_and_digest(api: Api, broker: NatsServer, station: str, key: str | None) -> None:
    """`<user>.<key>.<index>.<8 hex digits>`, whoever has made the key."""
    api.batch(station, b"[1,2]", **({"Idempotency-Key": key} if key else {}))
    ids = [message.header("Nats-Msg-Id") or b"" for message in stored(broker, station)]
    own = key.encode() if key else rb"-[\w-]{9}"
    for index, value in enumerate(ids):
        assert re.fullmatch(rb"[\w-]{12}\." + own + rb"\.%d\.[0-9a-f]{8}" % index, value)


# ---- when the broker does not answer -------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_503_brings_the_key_to_repeat_with(make_app: Callable[..., Flask]) -> None:
    """Where the sender gave none; one that it gave is not told again. For one message and for a batch."""
    api = Api(make_app(PRODUCE_TIMEOUT_SECONDS="1"))
    for send, body, key in ((api.single, b"[1]", r"[\w-]{9}"), (api.batch, b"[1]", r"-[\w-]{9}")):
        answer = send("orders", body)
        assert (answer.status_code, answer.get_json()["stored"]) == (503, "no")
        assert re.fullmatch(key, answer.get_json()["idempotency_key"])
        assert "idempotency_key" not in send("orders", body, Idempotency_Key="k").get_json()


@pytest.mark.slow
def test_a_504_brings_the_key_to_repeat_with(
    nats_server: Callable[..., NatsServer], make_app: Callable[..., Flask]
) -> None:
    """Unknown whether it is stored: with the key it is stored once."""
    server = nats_server(users={"root": "memphis"})
    api = Api(make_app(server.url, PRODUCE_TIMEOUT_SECONDS="1"))
    assert api.single("orders", b"[0]").status_code == 200
    server.pause()
    answer = api.single("orders", b"[1]")
    body = answer.get_json()
    server.resume()
    assert (answer.status_code, body["stored"], body["repeat"]) == (504, "unknown", "with-key")
    assert api.single("orders", b"[1]", Idempotency_Key=body["idempotency_key"]).status_code == 200
    assert payloads(server, "orders") == [b"[0]", b"[1]"]
