"""Single messages whose senders are ready in the same turn of the event loop, handed over together.

A hand-over to the other thread costs about the same for one message and for fifty. So those for the same station and
user wait for the end of the turn and cross the bridge as one; each sender is told its own result as soon as it is
known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, cast

from proxy.bridge import Bridge
from proxy.credentials import Credentials
from proxy.errors import AckTimeout, GatewayError, Overloaded
from proxy.keys import with_key
from proxy.messages import Ack, Message, Station
from proxy.replies import GaveUp, Receiver
from proxy.storing import failure_of

MOST_TOGETHER = 512
MOST_BYTES_TOGETHER = 1 << 20  # what is admitted or refused as one; a larger message goes alone

Done = Callable[[Any, "Ack | Exception"], None]


class Order(NamedTuple):
    """A message, its size with headers in bytes, and whom to tell: `done(tag, result)` is called in the event loop."""

    message: Message
    size: int
    done: Done
    tag: Any


class Gathering:
    """Collects the orders of a turn. `job` is a job of the bridge that publishes messages; `seconds` is its deadline.

    One greenlet at a time runs in here, and the event loop never in between: nothing of this can switch.
    """

    def __init__(self, bridge: Bridge, job: Callable[..., None], seconds: float, grace: float) -> None:
        self._bridge, self._job, self._seconds, self._grace = bridge, job, seconds, grace
        self._orders: dict[tuple[Credentials, Station], list[Order]] = {}

    def add(self, credentials: Credentials, station: Station, order: Order) -> None:
        """Hands a message over at the end of this turn. The order is told what became of it, whatever that is."""
        if not self._orders:
            self._bridge.at_end_of_turn(self._post_all)
        place = credentials, station
        orders = self._orders.get(place)
        if orders is None:
            self._orders[place] = [order]
        else:
            orders.append(order)

    def store(self, credentials: Credentials, station: Station, message: Message, size: int) -> Ack | Exception:
        """Hands a message over as `add` does, waits in this greenlet, and returns what became of it."""
        result: Ack | Exception = self._bridge.meet(
            lambda cell: self.add(credentials, station, Order(message, size, _switch_to, cell))
        )
        return result

    def _post_all(self) -> None:
        gathered, self._orders = self._orders, {}
        for (credentials, station), orders in gathered.items():
            for together, size in _cut(orders):
                self._post(credentials, station, together, size)

    def _post(self, credentials: Credentials, station: Station, orders: list[Order], size: int) -> None:
        parcel = Parcel(orders)
        messages = [order.message for order in orders]
        try:
            self.send(credentials, station, messages, size, parcel)
        except GatewayError as error:
            parcel.ended(None, error)

    def send(
        self, credentials: Credentials, station: Station, messages: Sequence[Message], size: int, receiver: Receiver
    ) -> None:
        """Hands messages over now. `size` is theirs in bytes. Raises `Overloaded`, `Stopping`."""
        self._bridge.post(
            receiver,
            self._job,
            credentials,
            station,
            messages,
            self._seconds,
            "together",
            timeout=self._seconds + self._grace,
            weight=len(messages),
            size=size,
        )


class Parcel:
    """Orders that crossed the bridge together: each is told its result, once."""

    def __init__(self, orders: list[Order]) -> None:
        self._orders: list[Order | None] = [*orders]
        self._fault: Exception | None = None

    def heard(self, part: list[tuple[int, Ack | GatewayError]]) -> None:
        """Results that are known before those of others."""
        for index, result in part:
            self._tell(index, result)

    def ended(self, value: list[Ack | GatewayError] | None, error: BaseException | None) -> None:
        """The results of all; or one failure for all that have none yet."""
        for index in range(len(self._orders)):
            self._tell(index, value[index] if value is not None else _own(error))
        if self._fault is not None:
            raise self._fault

    def _tell(self, index: int, result: Ack | Exception) -> None:
        order = self._orders[index]
        if order is not None:
            self._orders[index] = None
            if isinstance(result, GatewayError):
                with_key(result, order.message.key.partition(".")[2])
            try:
                order.done(order.tag, result)
            except Exception as fault:  # of ours; it is raised when the others have been told
                self._fault = self._fault or fault


class Consignment:
    """A batch that crossed the bridge: whoever sent it is told one result when all are known, once.

    `done(tag, result)` is called with the first ack, or with what has failed, which tells `key`.
    """

    def __init__(self, count: int, key: str, done: Done, tag: Any) -> None:
        self._count, self._key, self._done, self._tag = count, key, done, tag

    def heard(self, part: Any) -> None:
        """The sender waits for all."""

    def ended(self, value: list[Ack | GatewayError] | None, error: BaseException | None) -> None:
        """The results of all; or one failure for all."""
        self._done(self._tag, self._outcome(value, error))

    def _outcome(self, value: list[Ack | GatewayError] | None, error: BaseException | None) -> Ack | Exception:
        if value is None:
            failure = _own(error)
            if not isinstance(failure, GatewayError):
                return failure
            value = [failure] * self._count
        failed = failure_of(value)
        return with_key(failed, self._key) if failed is not None else cast(Ack, value[0])


def _cut(orders: list[Order]) -> Iterator[tuple[list[Order], int]]:
    """Orders in their order, so many at a time as go together, with their size; at least one at a time."""
    start = size = 0
    for place, order in enumerate(orders):
        full = place - start == MOST_TOGETHER or size + order.size > MOST_BYTES_TOGETHER
        if full and place > start:
            yield orders[start:place], size
            start, size = place, 0
        size += order.size
    yield orders[start:], size


def _switch_to(cell: Any, result: Ack | Exception) -> None:
    cell.switch(result)


def _own(error: BaseException | None) -> Exception:
    """The failure as one order is told it: each answer adds to an error of its own."""
    if isinstance(error, GaveUp):
        return AckTimeout() if error.started else Overloaded()
    if isinstance(error, GatewayError):
        return error.anew()
    return error if isinstance(error, Exception) else RuntimeError(repr(error))
