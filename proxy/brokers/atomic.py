"""A batch of which all messages are stored, or none.

Source: NATS ADR-50 (atomic batch publishing, nats-server 2.12). The messages carry the batch's id and their number in
headers; the last one commits, and its answer is the batch's. All ids of a batch depend on all its payloads, so the
stream's word that it knows one of them means that it has stored this very batch.
"""

from __future__ import annotations

from collections.abc import Iterable

from proxy.brokers import Session, answers
from proxy.brokers.publishing import Delivery
from proxy.brokers.tokens import tokens
from proxy.errors import BadRequest, BrokerRefused, GatewayError, TooLarge
from proxy.messages import Ack

# err_code
DISABLED = 10174
KNOWN_ID = 10201
NOT_NOW = {10176, 10210}  # a part was lost on the way, too many batches are open

_CANNOT = "this station takes no atomic batches (its stream needs allow_atomic, its server 2.12); send it without"


class AtomicDelivery(Delivery):
    """All messages of one produce as a single one: one attempt sends them all, one answer settles them all."""

    def _units(self) -> int:
        return 1

    def _send(self, indexes: Iterable[int], grouped: bool = False) -> None:
        session = self.session
        if session is None or self._results[0] is not None:
            return
        self._take_reply_subject(session)
        try:
            too_large = session.publish_atomic(self)
            if too_large is None:
                self._flying[0] = self._loop.time()
                return
            raise TooLarge(f"message {too_large} is larger than the {session.max_payload} bytes of the broker")
        except GatewayError as error:
            self._settle(0, self._truthful(0, error))  # an earlier attempt may have been taken

    def _take_reply_subject(self, session: Session) -> None:
        """Another one for each attempt: each message of a refused batch may have an answer, and some come late."""
        if self.alone:
            session.forget(self.token)
            self.token = tokens.take(1)
        self.alone = True

    def on_error(self, index: int, error: answers.ApiError) -> None:
        """The stream refused a message of the batch, and so the batch."""
        if error.err_code == KNOWN_ID:
            self._on_known()
        elif error.err_code in NOT_NOW:
            self._not_now(0, BrokerRefused(f"the broker is not ready: {error.description}"))
        elif error.err_code == DISABLED:
            self._flying.pop(0, None)
            self._settle(0, self._truthful(0, cannot()))
        else:
            super().on_error(0, error)

    def _on_ack(self, index: int, ack: answers.Answer) -> None:
        if ack.count != len(self.messages):
            return  # of one message: the stream's leader is a server of before 2.12, and knows no batches
        self._settle(0, Ack(ack.seq, None if 0 in self._unanswered else False))

    def _on_known(self) -> None:
        repeated = 0 in self._unanswered or 0 in self._repeated
        if repeated or self.messages[0].named:
            self._settle(0, Ack(None, None if repeated else True))
        else:
            self._settle(0, BrokerRefused("the de-duplication id was in use; repeat the request"))

    def _report(self) -> list[Ack | GatewayError | None]:
        """The batch's result for each message; the stream gave them sequences in a row, and told the last."""
        (result,), count = self._results, len(self.messages)
        if not isinstance(result, Ack) or result.sequence is None:
            return [result] * count
        first = result.sequence - count + 1
        return [Ack(first + index, result.duplicate) for index in range(count)]


def cannot() -> GatewayError:
    """The refusal of an atomic batch where the broker knows none."""
    return BadRequest(_CANNOT)
