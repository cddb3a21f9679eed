"""Questions to the broker, one answer each: the JetStream API, and messages whose ack is waited for.

Source: NATS ADR-1 (JetStream API and its errors).
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Any, NamedTuple

import msgspec

from proxy.brokers import frames
from proxy.brokers.connection import NO_RESPONDERS, Connection
from proxy.brokers.tokens import tokens
from proxy.errors import BrokerAway, BrokerRefused, ChangeUnconfirmed, Forbidden, GatewayError, TooLarge

API_SECONDS = 2.0
ASK_SECONDS = (0.5,) * 4  # API_SECONDS in all; each is the wait after one time of asking
_CREATIONS = ("STREAM.CREATE.", "CONSUMER.CREATE.")
HEARS_SECONDS = 1.0
HEARS_TRIES = 4
HEARS_PAUSE_SECONDS = 0.1


class Response(NamedTuple):
    """An answer: its payload, its header block (empty when there is none), and the status in that, if any."""

    data: bytes
    head: bytes
    status: str | None

    @property
    def from_nobody(self) -> bool:
        """Whether it is the server's word that nobody listens."""
        return self.status == NO_RESPONDERS and not self.data


class Question:
    """Something sent that waits for its answer; it has no effect that the answer is needed to know of."""

    def __init__(self, subject: str, connection: Connection) -> None:
        self.subject = subject
        self.answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._connection = connection

    def answered(self, index: int, data: bytes, status: str | None) -> None:
        """The answer, or word that nobody is there to give one."""
        if not self.answer.done():
            self.answer.set_result(Response(data, self._connection.reply_head or b"", status))

    def denied(self, index: int, maybe_stored: bool) -> None:
        """The user may not ask this."""
        self._fail(Forbidden(f"the broker does not allow this user to publish to {self.subject}"))

    def lost(self, index: int) -> None:
        """The connection ended."""
        self._fail(BrokerAway())

    def late(self) -> GatewayError:
        """What is to be told when no answer comes."""
        return BrokerAway("the broker does not answer")

    def _fail(self, error: GatewayError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class Change(Question):
    """A message that changes something: without an answer it is not known whether it did."""

    def denied(self, index: int, maybe_stored: bool) -> None:
        """The user may not do this; an earlier one may have been let."""
        if maybe_stored:
            self._fail(ChangeUnconfirmed())
        else:
            super().denied(index, maybe_stored)

    def lost(self, index: int) -> None:
        """The connection ended."""
        self._fail(ChangeUnconfirmed())

    def late(self) -> GatewayError:
        """It may be made."""
        return ChangeUnconfirmed()


class Api:
    """Asks through one connection. All raise `Forbidden` when the user may not, `BrokerAway` when no answer comes."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def ask(self, verb: str, body: dict[str, Any], shape: type[Any]) -> Any:
        """One request to the JetStream API, and its answer in that shape.

        Raises `BrokerRefused` when JetStream is off, or says what cannot be understood.
        """
        # In a cluster what is created twice is said to be there before anyone leads it.
        waits = (API_SECONDS,) if verb.startswith(_CREATIONS) else ASK_SECONDS
        response = await self.request(f"$JS.API.{verb}", msgspec.json.encode(body), waits)
        if response.from_nobody:
            raise BrokerRefused("JetStream does not answer: it is off for this account, or has no leader now")
        try:
            return msgspec.json.decode(response.data, type=shape)
        except msgspec.MsgspecError:
            raise BrokerRefused("the broker's answer cannot be understood") from None

    async def request(self, subject: str, payload: bytes, waits: tuple[float, ...] = ASK_SECONDS) -> Response:
        """One message without headers, and the answer to it.

        It is asked again after each of the waits but the last: what is asked while a cluster elects a leader is never
        answered.
        """
        token = tokens.take(1)
        frame = frames.request(subject, self.connection.reply_subject(token), payload)
        return await self._exchange(Question(subject, self.connection), token, frame, waits)

    async def try_out(self, subject: str, head: bytes) -> Response:
        """One message whose header block has the stream refuse it, and the answer; asked again as a `request` is."""
        token = tokens.take(1)
        frame = frames.publish(subject, self.connection.reply_subject(token), (len(head), head))
        return await self._exchange(Question(subject, self.connection), token, frame, ASK_SECONDS)

    async def publish(self, subject: str, head: bytes, payload: bytes) -> Response:
        """One message with a header block, and the stream's answer. Raises `TooLarge`, `ChangeUnconfirmed`.

        It is sent once, as it may be stored without an answer.
        """
        data = head + payload
        if len(data) > self.connection.max_payload:
            raise TooLarge(
                f"this takes {len(data)} bytes in the broker, "
                f"which takes messages of at most {self.connection.max_payload}"
            )
        if not self.connection.alive:
            raise BrokerAway
        token = tokens.take(1)
        frame = frames.publish(subject, self.connection.reply_subject(token), (len(head), data))
        return await self._exchange(Change(subject, self.connection), token, frame, (API_SECONDS,))

    async def _exchange(self, question: Question, token: int, frame: bytes, waits: tuple[float, ...]) -> Response:
        """Sends it once for each of the waits, until it is answered."""
        try:
            for seconds in waits:
                self.connection.send(question, 0, token, question.subject, frame)
                await asyncio.wait({question.answer}, timeout=seconds)
                if question.answer.done():
                    return question.answer.result()
            self.connection.check()
            raise question.late()
        finally:
            self.connection.forget(token)
            question.answer.cancel()


async def hears(listener: Connection, speaker: Connection) -> bool:
    """Whether a message of one connection arrives at the other's inbox.

    Then both belong to one account: a server carries it no further, unless an operator exports inboxes to others. It
    is tried a few times, as another server of a cluster learns of an inbox a moment after it was opened.
    """
    for _ in range(HEARS_TRIES):
        if await _hears(listener, speaker):
            return True
        await asyncio.sleep(HEARS_PAUSE_SECONDS)
    return False


async def _hears(listener: Connection, speaker: Connection) -> bool:
    nonce = secrets.token_hex(16).encode()  # nobody else can have sent it
    first = tokens.take(2)
    subject = listener.reply_subject(first)
    heard, spoken = Question(subject, listener), Question(subject, speaker)
    listener.expect(heard, first)
    speaker.send(spoken, 0, first + 1, subject, frames.request(subject, speaker.reply_subject(first + 1), nonce))
    # The speaker's own answer can only be that nobody is there, which need not be waited out.
    questions = {heard.answer, spoken.answer}
    done, _ = await asyncio.wait(questions, timeout=HEARS_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    listener.forget(first)
    speaker.forget(first + 1)
    for question in questions - done:
        question.cancel()
    failed = {question for question in done if question.exception() is not None}
    return heard.answer in done - failed and heard.answer.result().data == nonce
