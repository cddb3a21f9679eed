"""What a connection to a Memphis broker does beside those to NATS: it hears news, and is refused without a subject.

The broker's refusals are all the same line, "cant access the requested station". It is laid to a subscription that the
broker may not have read yet; else to what is in flight then and has no answer a little later, to questions first. So
nobody is told that a station is forbidden because another one was: what is refused after all is refused once more when
it is repeated. What is taken for refused may be stored.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import msgspec
import nats.errors

from proxy.brokers import frames
from proxy.brokers.api import Question
from proxy.brokers.connection import CHECK_SECONDS, DENIAL_GRACE_SECONDS, Options
from proxy.brokers.listening import Heard, ListeningConnection
from proxy.brokers.tokens import tokens
from proxy.errors import BrokerAway, BrokerRefused

_DENIED_SOMETHING = "permissions violation - "
# Subjects of requests whose answers may take long: of the control plane, and pulls, which are asked for messages again
# when nothing comes of them. The first everybody may send.
_PATIENT = ("$memphis_", "$JS.API.CONSUMER.MSG.NEXT.")
_QUESTION = "$JS.API."


class MemphisConnection(ListeningConnection):
    """A live connection to a Memphis broker. `refusals` counts subscriptions that were refused, `client_name` is what
    it was told.

    `notice` tells a log.
    """

    def __init__(self, client: Any, options: Options) -> None:
        super().__init__(client, options)
        self.client_name, self.notice = options.name, options.notice
        self.refusals = 0
        self._listened = self._read = 0  # subscriptions that were sent, and how many the broker has read for sure
        self._suspects: list[int] = []
        self._denials = 0

    def listen(self, subject: str, heard: Heard) -> int:
        """As ever; the broker may refuse it."""
        self._listened += 1
        return super().listen(subject, heard)

    async def settled(self) -> None:
        """Waits until the broker has read all that was sent. Raises `BrokerAway` when it does not within 3 s."""
        self.flush()
        listened = self._listened
        try:
            await self._client.rtt(timeout=int(CHECK_SECONDS))
            self._has_read(listened)
        except (nats.errors.Error, asyncio.TimeoutError, OSError):
            self.check()
            raise BrokerAway("the broker does not answer") from None

    async def request(self, subject: str, body: dict[str, Any], seconds: float, tries: int = 1) -> bytes:
        """The first answer to a request of the control plane, which is sent again each `seconds`, up to `tries` times.

        All have the same reply subject: an answer to the first may come after the second was sent. Raises
        `BrokerRefused` when none comes, or nobody is there to give one, `BrokerAway` when the connection ends.
        """
        question, token, listened = Question(subject, self), tokens.take(1), self._listened
        frame = frames.request(subject, self.reply_subject(token), msgspec.json.encode(body))
        try:
            for _ in range(tries):
                self.send(question, 0, token, subject, frame)
                with contextlib.suppress(asyncio.TimeoutError):
                    response = await asyncio.wait_for(asyncio.shield(question.answer), seconds)
                    break
                self.check()
            else:
                raise BrokerRefused("the broker is busy, and does not answer in time")
        finally:
            self.forget(token)
            question.answer.cancel()
        self._has_read(listened)
        if response.from_nobody:
            raise BrokerRefused(f"nobody answers on {subject}: the broker is starting, or is no Memphis broker")
        return response.data

    def _has_read(self, listened: int) -> None:
        """The broker reads in order: what came before something that it has answered is read, and refused if at all."""
        self._read = max(self._read, listened)

    async def on_error(self, error: Exception) -> None:
        """nats-py's report of an `-ERR` line, or of an error of its own."""
        if _DENIED_SOMETHING in str(error).lower():
            self._on_denied_something()
        else:
            await super().on_error(error)

    def _on_denied_something(self) -> None:
        if not self.alive:  # the inbox is all that was asked for
            self._refused.add(f"{self._inbox}>".lower())
        elif self._read < self._listened:
            self._read += 1
            self.refusals += 1
        else:
            self._on_denied_message()

    def _on_denied_message(self) -> None:
        if not self._suspects:
            self._denials = 0
            self._suspects = [t for t, waiting in self._waiting.items() if not waiting.subject.startswith(_PATIENT)]
            if self._suspects:
                self._loop.call_later(DENIAL_GRACE_SECONDS, self._settle_suspects)
        self._denials += 1

    def _settle_suspects(self) -> None:
        suspects, self._suspects = [token for token in self._suspects if token in self._waiting], []
        questions = [token for token in suspects if self._waiting[token].subject.startswith(_QUESTION)]
        self._settle_denied(questions if self._denials <= len(questions) else suspects, True)
