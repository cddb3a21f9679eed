"""What senders were told of each message, and how that compares with what the stream has."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

ACKED, NOT_STORED, UNKNOWN = "acknowledged", "not stored", "unknown"
NO_ANSWER = 0  # in place of a status: the connection ended

_TOLD = {"no": NOT_STORED, "unknown": UNKNOWN}


class Answer(NamedTuple):
    """An answer as its sender saw it: when it was asked (monotonic time) and how many seconds it took.

    `status` is `NO_ANSWER` when there was none; `retry` tells whether there was a `Retry-After`.
    """

    sender: int
    asked: float
    seconds: float
    status: int
    body: bytes
    retry: bool = False

    @property
    def at(self) -> float:
        """When it came."""
        return self.asked + self.seconds

    @property
    def json(self) -> Any:
        """The body; an empty one for no answer, and for what is none of the gateway's."""
        return json.loads(self.body) if self.body.startswith(b"{") else {}


@dataclass(frozen=True)
class Verdict:
    """The ledger against the stream. `lost`: acknowledged and missing. `doubled`: stored twice. `lies`: said not to be
    stored, and stored. `strange`: stored, and never sent.
    """

    sent: int
    acknowledged: int
    unknown: int
    lost: list[bytes]
    doubled: list[bytes]
    lies: list[bytes]
    strange: list[bytes]

    @property
    def wrong(self) -> dict[str, list[bytes]]:
        """What must not be, a few examples of each; empty when all is well."""
        kinds = {"lost": self.lost, "doubled": self.doubled, "lies": self.lies, "strange": self.strange}
        return {kind: payloads[:3] for kind, payloads in kinds.items() if payloads}


@dataclass
class Ledger:
    """Each message with the last certain word on it, and every answer. Written by one thread."""

    words: dict[bytes, str] = field(default_factory=dict)
    answers: list[Answer] = field(default_factory=list)

    def sent(self, payloads: Iterable[bytes]) -> None:
        """These are about to be sent for the first time; until an answer comes nothing is known of them."""
        self.words.update(dict.fromkeys(payloads, NOT_STORED))

    def answered(self, payloads: Sequence[bytes], answer: Answer) -> None:
        """An answer to a request with these messages, or none. What was unknown once is settled by a 200 alone."""
        self.answers.append(answer)
        for payload, word in zip(payloads, told(answer, len(payloads)), strict=True):
            before = self.words[payload]
            if word == ACKED or (before == NOT_STORED and word == UNKNOWN):
                self.words[payload] = word

    def compare(self, stored: Iterable[bytes]) -> Verdict:
        """Judges all words by the payloads in the stream."""
        counts, known = Counter(stored), Counter(self.words.values())
        return Verdict(
            sent=len(self.words),
            acknowledged=known[ACKED],
            unknown=known[UNKNOWN],
            lost=[payload for payload, word in self.words.items() if word == ACKED and not counts[payload]],
            doubled=[payload for payload, count in counts.items() if count > 1],
            lies=[payload for payload, word in self.words.items() if word == NOT_STORED and counts[payload]],
            strange=[payload for payload in counts if payload not in self.words],
        )

    @property
    def statuses(self) -> Counter[int]:
        """How often each status came."""
        return Counter(answer.status for answer in self.answers)

    @property
    def longest(self) -> float:
        """Seconds that the slowest answer took; an end without an answer counts as one."""
        return max((answer.seconds for answer in self.answers), default=0.0)

    def recovery(self, senders: int, back: float) -> float:
        """Seconds after `back` until each sender has had a 200 to a request that it made since, or before and waited.

        Infinite when one has had none.
        """
        first: dict[int, float] = {}
        for answer in self.answers:
            if answer.status == 200 and answer.at >= back:
                first.setdefault(answer.sender, answer.at)
        return max(first.values()) - back if len(first) == senders else float("inf")


def told(answer: Answer, count: int) -> list[str]:
    """What an answer tells of each of `count` messages; one that is not the gateway's tells nothing."""
    if answer.status == 200:
        return [ACKED] * count
    body = answer.json
    if "failed" not in body:
        return [_TOLD[body["stored"]] if body else UNKNOWN] * count
    failures = {failure["index"]: _TOLD[failure["stored"]] for failure in body["failed"]}
    return [failures.get(index, ACKED) for index in range(count)]
