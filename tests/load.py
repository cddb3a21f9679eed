"""Load for fault tests: clients that produce without a pause, and a ledger of what each message's sender was told."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from types import TracebackType

from tests.clients import JSON, Answer, Sender, logged_on
from tests.servers import eventually

_BATCH = 20
ACKED, NOT_STORED, UNKNOWN = "acked", "not stored", "unknown"


class Load:
    """Clients at work while the block runs: `with Load(gateway.host, "orders") as load: ...`.

    One half sends single messages, the other half batches of 20; no two messages are alike. A client sends the next
    ones when it has an answer, whatever it is; with `repeat` it repeats them under an Idempotency-Key until all are
    stored. `ledger` holds for each payload what the sender knows: acked, not stored, unknown. `statuses` counts
    answers, `slowest` is the longest time in seconds that one took.
    """

    def __init__(self, host: str, station: str, *, clients: int = 8, repeat: bool = False) -> None:
        self.ledger: dict[bytes, str] = {}
        self.statuses: Counter[int] = Counter()
        self.slowest = 0.0
        self._host, self._station, self._repeat = host, station, repeat
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._client, args=(number,)) for number in range(clients)]

    def __enter__(self) -> Load:
        with logged_on(self._host) as sender:
            self._token = sender.token
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def acked(self) -> int:
        """How many messages are known to be stored."""
        return Counter(list(self.ledger.values()))[ACKED]

    def await_acks(self, count: int, within: float = 20.0) -> None:
        """Waits until so many more messages have been stored."""
        before = self.acked()
        eventually(lambda: self.acked() >= before + count, within)

    def faults(self, stored: Iterable[bytes]) -> dict[str, list[bytes]]:
        """What is wrong with the payloads in the stream, by the ledger; empty when nothing is."""
        counts = Counter(stored)
        found = {
            "acknowledged and lost": [p for p, known in self.ledger.items() if known == ACKED and not counts[p]],
            "refused and stored": [p for p, known in self.ledger.items() if known == NOT_STORED and counts[p]],
            "doubled": [payload for payload, count in counts.items() if count > 1],
            "never sent": [payload for payload in counts if payload not in self.ledger],
        }
        return {fault: payloads for fault, payloads in found.items() if payloads}

    def _client(self, number: int) -> None:
        with contextlib.closing(Sender(self._host)) as sender:
            sender.token = self._token
            for payloads in _work(number):
                self._produce(sender, payloads)
                if self._stop.is_set():
                    return

    def _produce(self, sender: Sender, payloads: list[bytes]) -> None:
        self.ledger.update(dict.fromkeys(payloads, UNKNOWN))
        headers = {"Idempotency_Key": str(hash(payloads[0]))} if self._repeat else {}
        while True:
            answer = self._send(sender, payloads, headers)
            known = dict(zip(payloads, _knowledge(answer, len(payloads)), strict=True))
            if not self._repeat:
                self.ledger.update(known)
                return
            self.ledger.update({p: k for p, k in known.items() if k == ACKED})  # an earlier attempt may be stored
            if self._stop.is_set() or set(known.values()) == {ACKED}:
                return

    def _send(self, sender: Sender, payloads: list[bytes], headers: dict[str, str]) -> Answer | None:
        """The answer; None when there was none, and after a pause when there is nobody to give one."""
        began = time.monotonic()
        try:
            if len(payloads) == 1:
                answer = sender.single(self._station, payloads[0], JSON, **headers)
            else:
                answer = sender.batch(self._station, b"[" + b",".join(payloads) + b"]", JSON, **headers)
        except (OSError, http.client.HTTPException) as error:
            sender.close()
            if isinstance(error, ConnectionRefusedError):
                self._stop.wait(0.05)
            return None
        self.statuses[answer.status] += 1
        self.slowest = max(self.slowest, time.monotonic() - began)
        return answer


def _work(client: int) -> Iterator[list[bytes]]:
    size = _BATCH if client % 2 else 1
    for n in itertools.count():
        yield [json.dumps({"client": client, "n": n, "part": part}).encode() for part in range(size)]


def _knowledge(answer: Answer | None, count: int) -> list[str]:
    """What an answer tells of each of `count` messages."""
    if answer is None:
        return [UNKNOWN] * count
    if answer.status == 200:
        return [ACKED] * count
    body = answer.json
    told = {failure["index"]: failure["stored"] for failure in body.get("failed", ())}
    if not told:
        told = dict.fromkeys(range(count), body["stored"])
    words = {None: ACKED, "no": NOT_STORED, "unknown": UNKNOWN}
    return [words[told.get(index)] for index in range(count)]
