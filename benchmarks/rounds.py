"""Rounds: each server in turn, again and again, so that what else the machine does hits all of them alike."""

from __future__ import annotations

import http.client
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from benchmarks import client, servers
from benchmarks.cases import Case
from benchmarks.load import Answers, Load, LoadFailed, Request
from benchmarks.measure import Memory, ProcessEnded, Usage
from benchmarks.servers import CannotStart, Contestant
from benchmarks.streams import ApiFailed, Stored, Streams
from tests.servers import NatsServer

_NEW_USERS_A_SECOND = 200
T = TypeVar("T")
FAILURES = (ApiFailed, CannotStart, LoadFailed, ProcessEnded, OSError, http.client.HTTPException)


class MessagesLost(Exception):
    """A server has answered 200 for messages that are not in the stream, or stored some twice."""


@dataclass(frozen=True)
class Sample:
    """One round of one server. CPU times in seconds, memory in MiB, `None` where it cannot be known."""

    case: str
    server: str
    round: int
    answers: Answers
    messages: int
    server_cpu: float | None
    broker_cpu: float | None
    others_cpu: float
    seconds: float
    largest_mib: float | None
    together_mib: float | None
    stored: int | None
    idle: int = 0
    idle_open: int = 0


@dataclass
class Bench:
    """What all rounds share: the broker, its streams, the load, how long and how often; `failures` are collected."""

    broker: NatsServer
    streams: Streams
    load: Load
    seconds: int
    rounds: int
    failures: list[str]

    def measure(self, case: Case, contestants: Sequence[Contestant]) -> list[Sample]:
        """All rounds of a case. What goes wrong with one server is noted and told; the others go on."""
        self.streams.make(case.stations)
        running = {one.name: (one, self.requests(case, one)) for one in contestants}
        samples = []
        for number in range(self.rounds + 1):  # the first warms up
            for name, (contestant, requests) in in_turn(running.items(), number):
                try:
                    samples.append(self._round(case, contestant, requests, number))
                except (*FAILURES, MessagesLost) as error:
                    del running[name]
                    self.fail(f"{case.name}: {name}: {error}")
        return [sample for sample in samples if sample.round > 0]

    def fail(self, text: str) -> None:
        """Notes a failure, and tells it at once."""
        self.failures.append(text)
        print(f"FAILED {text}", file=sys.stderr, flush=True)

    def requests(self, case: Case, contestant: Contestant) -> list[Request]:
        """What the case sends to this server, with tokens if it takes them. Raises `CannotStart`, `OSError`."""
        tokens = servers.tokens(contestant.url, case.identities) if contestant.ours else ()
        if tokens and case.schema is not None:
            servers.demand(contestant.url, tokens[0], case.stations[0], case.schema)
        return case.requests(tokens)

    def _round(self, case: Case, contestant: Contestant, requests: Sequence[Request], number: int) -> Sample:
        if number == 0:
            prove(contestant, requests[0])
        if len(case.stations) == 1:
            self.streams.make(case.stations)
        before = self.streams.stored()
        pids, idle = contestant.pids(), idle_count(case) if number else 0
        seconds = self.seconds if number else 1 + case.identities // _NEW_USERS_A_SECOND
        with client.idle_connections(contestant.url, idle) as silent:
            with Memory(pids) as memory, Usage(pids, self.broker.pid) as usage:
                answers = self.load.run(contestant.url, requests, case.connections, seconds)
            still_open = client.still_open(silent)
        return Sample(
            case=case.name,
            server=contestant.name,
            round=number,
            answers=answers,
            messages=answers.good * case.messages,
            server_cpu=usage.server,
            broker_cpu=usage.broker if contestant.checked else None,
            others_cpu=usage.others,
            seconds=usage.seconds,
            largest_mib=memory.largest,
            together_mib=memory.together,
            stored=self.check(case, answers, before) if contestant.checked else None,
            idle=idle,
            idle_open=still_open,
        )

    def check(self, case: Case, answers: Answers, before: Stored, *, limited: bool = False) -> int:
        """How many messages the streams have got. Raises `MessagesLost` when the answers say otherwise.

        Each answer of success stands for messages that are there. There may be more: requests that were cut off at
        the end (one a connection), or that ended with an error, may have stored theirs, but no request twice. A
        `limited` stream drops its oldest messages.
        """
        after = self.streams.stored()
        stored = after.ever - before.ever
        if not limited and after.messages - before.messages != stored:
            raise MessagesLost("messages are gone from the stream that should keep them all")
        least = answers.good * case.messages
        most = (answers.completed + case.connections + answers.broken) * case.messages
        if not least <= stored <= most:
            raise MessagesLost(f"{least} messages were acknowledged (at most {most} sent), and {stored} are stored")
        return stored


def in_turn(contestants: Iterable[T], number: int) -> list[T]:
    """Those of a round, in every second one the other way round: each leaves work to the broker that slows the next."""
    order = list(contestants)
    return order if number % 2 else order[::-1]


def prove(contestant: Contestant, request: Request) -> None:
    """Sees that the server does what the case asks for. Raises `CannotStart`, `OSError`, `HTTPException`."""
    status, body = client.send(contestant.url, request)
    if status != 200:
        raise CannotStart(f"it answers {status}: {body[:300].decode(errors='replace')}")


def idle_count(case: Case) -> int:
    """As many idle connections as the case wants and this process may open."""
    return min(case.idle, client.most_connections()) if case.idle else 0
