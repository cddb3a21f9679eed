"""Several gateways at one station: each answer is true, whatever the others send meanwhile."""

from __future__ import annotations

import contextlib
import random
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.clients import Sender, logged_on, with_tokens_of
from tests.faults.cluster import Cluster, NotNow
from tests.faults.ledger import ACKED, NOT_STORED, UNKNOWN, Answer, Ledger
from tests.servers import Gateway

USERS = ("shop", "depot", "mill")
SIZES = (1, 1, 1, 2, 10, 64, 120, 300)
LARGE = "x" * 3000
ROUNDS = 25
BEST = (ACKED, UNKNOWN, NOT_STORED)

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Three nats-servers, each with a copy of station `orders`, and three users."""
    users = [f"{{ user: {user}, password: memphis }}" for user in ("root", *USERS)]
    cluster = Cluster(tmp_path, users=f"authorization {{ users: [{', '.join(users)}] }}")
    try:
        cluster.start().add("orders", allow_atomic=True, max_msg_size=len(LARGE))
        cluster.await_copies("orders")
        yield cluster
    finally:
        cluster.stop()


class Order(NamedTuple):
    """A request: messages, and headers. A `contested` key is the same user's for another message too."""

    payloads: list[bytes]
    headers: dict[str, str]
    contested: bool

    def send(self, sender: Sender, ledger: Ledger) -> None:
        """Sends it, and writes down what is told of its messages."""
        if len(self.payloads) == 1:
            answer = sender.single("orders", self.payloads[0], **self.headers)
        else:
            answer = sender.batch("orders", b"[%b]" % b",".join(self.payloads), **self.headers)
        assert answer.status != 422 or self.contested, "a key of somebody else's"
        ledger.answered(self.payloads, Answer(0, 0.0, 0.0, answer.status, answer.body))


def orders(user: str, side: int) -> Iterator[Order]:
    """What a user sends at one of the gateways; the keys are the same at the other one, and those of all users.

    So are messages that have one, but for some single ones, which get the key of another message. Some requests have a
    message in the middle that the station refuses.
    """
    chance = random.Random("b")  # all users take turns alike, so that their keys meet
    for number in range(ROUNDS):
        size, keyed, atomic = chance.choice(SIZES), chance.random() < 0.6, chance.random() < 0.3
        own = not keyed or (size == 1 and chance.random() < 0.5)
        name = f"{user}-{number}-{side}" if own else f"{user}-{number}"
        payloads = [b'"%b-%d"' % (name.encode(), part) for part in range(size)]
        if chance.random() < 0.25:
            payloads[size // 2] = f'"{name}-{LARGE}"'.encode()
        headers = {"Idempotency_Key": f"key-{number}"} if keyed else {}
        yield Order(payloads, headers | ({"Prefer": "atomic"} if atomic and size > 1 else {}), own and keyed)


def send_all(sender: Sender, other: Sender, side: int) -> Ledger:
    """Sends all orders of a user, and what has a key once more to the other gateway; what was told."""
    ledger = Ledger()
    for order in orders(sender.user, side):
        ledger.sent(order.payloads)
        order.send(sender, ledger)
        if order.headers.get("Idempotency_Key"):
            order.send(other, ledger)
    return ledger


def test_replicas_tell_the_truth_of_one_station(cluster: Cluster, tmp_path: Path) -> None:
    """Two gateways of two workers each get the same keys at once while the stream changes its leader: nothing is lost,
    doubled, misstated, stored in part, or taken for somebody else's.
    """
    env = {"BROKER_URL": ",".join(server.url for server in cluster.servers), "JWT_SECRET": "s" * 32}
    env |= {"HTTP_HOST": "127.0.0.1", "WEB_CONCURRENCY": "2"}
    with contextlib.ExitStack() as stack:
        hosts = []
        for side in range(2):
            gateway = Gateway(tmp_path / f"gateway-{side}", env)
            stack.callback(gateway.stop, signal.SIGINT)
            hosts.append(gateway.start().host)
        pool = stack.enter_context(ThreadPoolExecutor(2 * len(USERS)))
        work = []
        for user in USERS:
            for side in range(2):
                sender = stack.enter_context(logged_on(hosts[side], user))
                work.append(
                    pool.submit(send_all, sender, stack.enter_context(with_tokens_of(sender, hosts[1 - side])), side)
                )
        while wait(work, 0.7).not_done:
            with contextlib.suppress(NotNow):
                cluster.api("STREAM.LEADER.STEPDOWN.orders")
        ledgers = [future.result(0) for future in work]
    _compare(cluster.payloads("orders"), ledgers)


def _compare(stored: list[bytes], ledgers: list[Ledger]) -> None:
    """All words, of which the best counts for each message, against the stream."""
    words = Ledger()
    for ledger in ledgers:
        for payload, word in ledger.words.items():
            words.words[payload] = min(word, words.words.get(payload, word), key=BEST.index)
    assert words.compare(stored).wrong == {}
    assert words.compare(stored).acknowledged > 1000
    there = set(stored)
    for user in USERS:
        for side in range(2):
            torn = [
                order.payloads[0]
                for order in orders(user, side)
                if "Prefer" in order.headers and len({payload in there for payload in order.payloads}) > 1
            ]
            assert torn == []
