"""Attempts and repeats: a message that the broker does not answer for now is sent again, with the same id."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import pytest

from proxy.config import Config
from proxy.messages import Ack, station_named
from proxy.producer import Producer
from tests.brokers.fakes import INFO, Answer, FakeNats, Published, message_id, no_responders, reply, station
from tests.brokers.tools import ROOT, facts, failure, outcomes, settings
from tests.servers import eventually
from tests.uncollected import Payload, no_payloads, uncollected

ORDERS = station_named("orders")


FIRST = 2  # connection 1 is that of the start, which sees whether there is a broker

Fakes = Callable[[Answer], FakeNats]
Producers = Callable[[Config], Producer]


@pytest.fixture
def fake() -> Iterator[Fakes]:
    """Starts servers that have the station `orders` and answer its messages as the test likes."""
    with contextlib.ExitStack() as stack:

        def start(answer: Answer) -> FakeNats:
            server = FakeNats(station(answer))
            stack.callback(server.close)
            return server

        yield start


@pytest.fixture
def producing(producer: Producers) -> Callable[..., Producer]:
    """Starts a producer to a fake server."""

    def start(server: FakeNats, seconds: float = 3) -> Producer:
        return producer(settings(server.url, ALLOW_OPEN_BROKER="true", PRODUCE_TIMEOUT_SECONDS=seconds))

    return start


Producing = Callable[..., Producer]


def ack(published: Published, sequence: int = 1, more: str = "") -> bytes:
    """The stream's word that it has stored the message."""
    return reply(published, f'{{"stream":"orders","seq":{sequence}{more}}}'.encode())


def error(published: Published, code: int) -> bytes:
    """The stream's word that it has not."""
    return reply(published, f'{{"error":{{"code":503,"err_code":{code},"description":"test"}}}}'.encode())


def published(server: FakeNats) -> list[Published]:
    """What came for the station."""
    return [message for message in server.published if message.subject == "orders.final"]


def test_what_cannot_be_stored_now_is_sent_again(fake: Fakes, producing: Producing) -> None:
    """An id in process, a stream without leader or quorum, a full queue: they pass."""
    codes = {b"a": 10158, b"b": 10008, b"c": 10009, b"d": 10118, b"e": 10167}

    def answer(server: FakeNats, message: Published) -> bytes:
        return error(message, codes[message.content[-1:]]) if message.number <= len(codes) else ack(message)

    server = fake(answer)
    results = producing(server).batch(ROOT, ORDERS, list(codes), ())
    assert results == [Ack(1, None), *[Ack(1, False)] * 4]
    ids = [message_id(message) for message in published(server)]
    assert ids[5:] == [*ids[1:5], ids[0]]  # the first waits for word of how long its id is known
    assert len(set(ids)) == 5


def test_what_nobody_takes_now_is_sent_again(fake: Fakes, producing: Producing) -> None:
    """A leader election looks like a subject that nobody listens to; the station is looked for meanwhile."""

    def answer(server: FakeNats, message: Published) -> bytes:
        return no_responders(message) if message.number < 4 else ack(message)

    server = fake(answer)
    started = time.monotonic()
    assert producing(server).single(ROOT, ORDERS, b"x", ()) == Ack(1, False)
    assert 0.5 < time.monotonic() - started < 1.5
    assert len({message_id(message) for message in published(server)}) == 1


@pytest.mark.slow
def test_what_cannot_be_stored_until_the_deadline_is_refused(fake: Fakes, producing: Producing) -> None:
    """Each attempt was answered, so it is known that nothing is stored; the last reason is told."""
    server = fake(lambda server, message: error(message, 10008))
    failed = failure(producing(server, 1).single, ROOT, ORDERS, b"x", ())
    assert facts(failed) == ("BrokerRefused", "no", "safe")
    assert "test" in failed.message
    assert failed.fields["idempotency_key"]


@pytest.mark.slow
def test_what_is_in_process_until_the_deadline_may_be_stored(fake: Fakes, producing: Producing) -> None:
    """Another request with the same key has sent it, and the stream does not know yet what becomes of that."""
    server = fake(lambda server, message: error(message, 10158))
    failed = failure(producing(server, 1).single, ROOT, ORDERS, b"x", (), "k1")
    assert facts(failed) == ("AckTimeout", "unknown", "with-key")


@pytest.mark.parametrize(
    ("codes", "told"),
    [((10158, 10158, 10077), "no"), ((10158, 10008, 10077), "unknown"), ((10008, 10158, 10077), "no")],
)
def test_a_leader_that_knew_an_id_and_refuses_its_message_has_not_stored_it(
    fake: Fakes, producing: Producing, codes: tuple[int, ...], told: str
) -> None:
    """It would say again that it knows it; but one that comes after another leader may know less."""
    server = fake(lambda server, message: error(message, codes[min(message.number, len(codes)) - 1]))
    failed = failure(producing(server).single, ROOT, ORDERS, b"x", (), "k1")
    assert (type(failed).__name__, failed.stored) == ("BrokerRefused" if told == "no" else "AckTimeout", told)


@pytest.mark.parametrize("code", [10060, 10077, 10123])
def test_what_will_not_be_stored_is_told_at_once(fake: Fakes, producing: Producing, code: int) -> None:
    """Other errors do not pass by waiting."""
    server = fake(lambda server, message: error(message, code))
    assert facts(failure(producing(server).single, ROOT, ORDERS, b"x", ())) == ("BrokerRefused", "no", "safe")
    assert len(published(server)) == 1


@pytest.mark.slow
def test_what_is_not_answered_is_sent_again(fake: Fakes, producing: Producing) -> None:
    """After a second, to a server that gives a sign of life; nobody can tell then which attempt was stored.

    Attempts share their reply subject, so a late answer to the first one counts.
    """

    def answer(server: FakeNats, message: Published) -> bytes:
        if message.number <= 3:
            return b""
        first, again = published(server)[message.number - 4], ack(message, more=',"duplicate":true')
        return {b"a": ack(message), b"b": again, b"c": ack(first) + again}[message.content[-1:]]

    server = fake(answer)
    assert producing(server).batch(ROOT, ORDERS, [b"a", b"b", b"c"], ()) == [Ack(1, None)] * 3
    ids = [message_id(message) for message in published(server)]
    assert ids[:3] == ids[3:]
    assert {message.connection for message in published(server)} == {FIRST}


@pytest.mark.slow
def test_an_attempt_without_an_answer_makes_the_end_unknown(fake: Fakes, producing: Producing) -> None:
    """Also when a later attempt is refused: the first one may be stored."""
    server = fake(lambda server, message: b"" if message.number == 1 else error(message, 10077))
    failed = failure(producing(server).single, ROOT, ORDERS, b"x", ())
    assert facts(failed) == ("AckTimeout", "unknown", "with-key")
    assert failed.fields["idempotency_key"]


def test_what_was_lost_with_its_connection_is_sent_again(fake: Fakes, producing: Producing) -> None:
    """On a new one, the unanswered messages alone, in their order, with the same ids."""

    def answer(server: FakeNats, message: Published) -> bytes:
        if message.number == 3:
            raise ConnectionError
        return ack(message, message.number)

    server = fake(answer)
    acks = producing(server).batch(ROOT, ORDERS, [b"1", b"2", b"3", b"4", b"5"], ())
    assert acks == [Ack(1, False), Ack(2, False), Ack(4, None), Ack(5, None), Ack(6, None)]
    contents = [message.content[-1:] for message in published(server)]
    assert contents == [b"1", b"2", b"3", b"3", b"4", b"5"]
    ids = [message_id(message) for message in published(server)]
    assert ids[2] == ids[3]
    assert len(set(ids)) == 5


def test_a_group_that_was_lost_is_sent_again(fake: Fakes, producing: Producing) -> None:
    """At once, its messages one by one, with the same ids."""

    def answer(server: FakeNats, message: Published) -> bytes:
        if message.number == 3:
            raise ConnectionError
        return b"" if message.connection == FIRST else ack(message, message.number)

    server = fake(answer)
    started, before = producing(server), time.monotonic()
    acks = started.batch(ROOT, ORDERS, [b"1", b"2", b"3"], (), manner="together")
    assert time.monotonic() - before < 0.9
    assert [ack.duplicate for ack in acks] == [None] * 3
    ids = [message_id(message) for message in published(server)]
    assert ids[:3] == ids[3:]


def test_answers_to_messages_that_a_group_does_not_have_are_passed_over(fake: Fakes, producing: Producing) -> None:
    """Nobody is told that a message is stored, or not, by a number that is no message's."""

    def answer(server: FakeNats, message: Published) -> bytes:
        if message.number < 3:
            return b""
        inbox = message.reply.partition(".500.")[0]
        commit = b'{"stream":"orders","seq":3,"batch":"b","count":3}'
        wrong = b'{"error":{"code":400,"err_code":10077}}'
        answers = [(f".500.fail.{n}.1.$FI", wrong) for n in (0, -1, 4, 99)]
        return b"".join(
            b"MSG %b 1 %d\r\n%b\r\n" % ((inbox + tail).encode(), len(content), content)
            for tail, content in [*answers, (".500.fail.3.2.$FI", commit)]
        )

    assert len(producing(fake(answer)).batch(ROOT, ORDERS, [b"1", b"2", b"3"], (), manner="together")) == 3


def test_answers_that_come_too_late_are_passed_over(fake: Fakes, producing: Producing) -> None:
    """The second answer to a message is nobody's."""
    server = fake(lambda server, message: ack(message, message.number) + ack(message, 77) + error(message, 10077))
    started = producing(server)
    assert [started.single(ROOT, ORDERS, b"x", ()).sequence for _ in range(3)] == [1, 2, 3]


@pytest.mark.slow
def test_each_message_of_a_batch_has_its_own_end(fake: Fakes, producing: Producing) -> None:
    """Stored, refused, unanswered, not now: each is told as it is."""

    def answer(server: FakeNats, message: Published) -> bytes:
        answers = {b"0": ack(message), b"1": error(message, 10077), b"2": b"", b"3": error(message, 10008)}
        return answers[message.content[-1:]]

    failed = failure(producing(fake(answer), 1).batch, ROOT, ORDERS, [b"0", b"1", b"2", b"3"], ())
    assert outcomes(failed) == [(1, 503, "no"), (2, 504, "unknown"), (3, 503, "no")]
    assert (failed.status, failed.stored, failed.repeat) == (504, "partly", "with-key")


@pytest.mark.slow
def test_a_silent_server_is_left_for_another_connection(fake: Fakes, producing: Producing) -> None:
    """One that neither acknowledges nor gives a sign of life; within the deadline."""

    def answer(server: FakeNats, message: Published) -> bytes:
        if message.connection == FIRST:
            server.mute.add(FIRST)
            return b""
        return ack(message)

    server = fake(answer)
    assert producing(server, 10).single(ROOT, ORDERS, b"x", ()) == Ack(1, None)
    assert [message.connection for message in published(server)] == [FIRST, FIRST + 1]
    eventually(lambda: server.open == 1)


JUNK = (".x", ".1.fail", ".1.fail.x.1.$FI", ".1.fail.-1.1.$FI")


@pytest.mark.parametrize("tail", JUNK)
def test_junk_below_the_inbox_settles_nothing_and_ends_no_session(fake: Fakes, producing: Producing, tail: str) -> None:
    """Whoever listens to a station can send there: what is no reply is thrown away, the stream's word counts."""

    def answer(server: FakeNats, message: Published) -> bytes:
        junk = message._replace(reply=message.reply + tail)
        below = message._replace(reply=message.reply.rsplit(".", 1)[0] + tail)
        forged = b'{"stream":"orders","seq":9}'
        return reply(junk, forged) + reply(below, forged) + ack(message)

    server = fake(answer)
    started = producing(server)
    assert [started.single(ROOT, ORDERS, b"x", ()).sequence for _ in range(2)] == [1, 1]
    assert {message.connection for message in published(server)} == {FIRST}


@pytest.mark.parametrize("refusal", [no_responders, lambda message: error(message, 10009)])
def test_a_repeat_that_the_stream_knows_is_stored(
    fake: Fakes, producing: Producing, refusal: Callable[[Published], bytes]
) -> None:
    """A message that was stored although the answer said otherwise is not told to be absent."""

    def answer(server: FakeNats, message: Published) -> bytes:
        first = len(published(server)) == 1
        return refusal(message) if first else ack(message, more=',"duplicate":true')

    server = fake(answer)
    assert producing(server).single(ROOT, ORDERS, b"x", ()) == Ack(1, None)


@pytest.mark.slow
def test_late_answers_to_a_refused_atomic_batch_do_not_count_for_its_repeat(fake: Fakes, producing: Producing) -> None:
    """Each message of a batch may be refused; the last refusals come when the batch has been sent again and stored."""
    batch, late = 3, []

    def answer(server: FakeNats, message: Published) -> bytes:
        number = len(published(server))
        if number <= batch:
            late.append(error(message, 10176))
            return late[0] if number == 1 else b""
        if number < 2 * batch:
            return b""
        if number == 2 * batch:  # stored; the answer is lost on the way
            return b"".join(late[1:])
        return error(message, 10201) if number == 3 * batch else b""

    server = fake(answer)
    acks = producing(server).batch(ROOT, ORDERS, [b"x"] * batch, (), manner="atomic")
    assert acks == [Ack(None, None)] * batch


@pytest.mark.slow
def test_acks_of_single_messages_are_none_of_an_atomic_batch(fake: Fakes, producing: Producing) -> None:
    """A stream may be led by a server that is older than the one we talk to, and knows no batches."""
    server = fake(lambda server, message: ack(message))
    failed = failure(lambda: producing(server, 1).batch(ROOT, ORDERS, [b"x"] * 3, (), manner="atomic"))
    assert facts(failed) == ("AckTimeout", "unknown", "with-key")


def test_a_server_that_knows_no_atomic_batches_is_sent_none(fake: Fakes, producing: Producing) -> None:
    """It would store the messages one by one."""
    server = fake(lambda server, message: ack(message))
    server.info = INFO.replace(b"2.15.1", b"2.11.9")
    failed = failure(lambda: producing(server).batch(ROOT, ORDERS, [b"x"] * 3, (), manner="atomic"))
    assert (failed.status, *facts(failed)) == (400, "BadRequest", "no", "never")
    assert not published(server)


def test_a_server_that_knows_no_fast_batches_is_sent_messages_alone(fake: Fakes, producing: Producing) -> None:
    """Each has an answer of its own, and all are sent before the first one comes."""
    server = fake(lambda server, message: b"".join(map(ack, published(server))) if message.number == 3 else b"")
    server.info = INFO.replace(b"2.15.1", b"2.13.0")
    assert len(producing(server).batch(ROOT, ORDERS, [b"x"] * 3, (), manner="together")) == 3
    assert not [message for message in published(server) if ".fail." in message.reply]


def test_a_known_key_that_cannot_be_compared_now_is_left_open(fake: Fakes, producing: Producing) -> None:
    """It may be another message that is stored under the key: neither stored nor refused is said."""

    def answer(server: FakeNats, message: Published) -> bytes:
        asked = message.subject.startswith("$JS.API.STREAM.MSG.GET.")
        return no_responders(message) if asked else ack(message, more=',"duplicate":true')

    error = failure(producing(fake(answer)).single, ROOT, ORDERS, b"x", (), "key")
    assert facts(error) == ("AckTimeout", "unknown", "with-key")


@pytest.mark.parametrize("code", [10008, 10037])
def test_a_known_key_is_compared_when_the_stream_has_its_leader(fake: Fakes, producing: Producing, code: int) -> None:
    """One without a leader, or with one that does not have all messages yet, has not lost the one it is asked for."""
    asked = []

    def answer(server: FakeNats, message: Published) -> bytes:
        if not message.subject.startswith("$JS.API.STREAM.MSG.GET."):
            return ack(message, more=',"duplicate":true')
        asked.append(message)
        return error(message, code) if len(asked) == 1 else reply(message, b'{"message":{"data":"eQ=="}}')

    refusal = failure(producing(fake(answer)).single, ROOT, ORDERS, b"x", (), "key")
    assert facts(refusal) == ("KeyReused", "no", "never")


def test_a_known_key_is_compared_when_the_connection_has_come_back(fake: Fakes, producing: Producing) -> None:
    """A connection that ends meanwhile is a fault like others: nobody notices, and no payload stays behind."""
    asked = []

    def answer(server: FakeNats, message: Published) -> bytes:
        if not message.subject.startswith("$JS.API.STREAM.MSG.GET."):
            return ack(message, more=',"duplicate":true')
        asked.append(message.connection)
        if len(asked) == 1:
            raise ConnectionError
        return reply(message, b'{"message":{"data":"eA=="}}')

    with uncollected():
        assert producing(fake(answer)).single(ROOT, ORDERS, Payload(b"x"), (), "key") == Ack(1, None)
        assert asked == [FIRST, FIRST + 1]
        eventually(no_payloads)
