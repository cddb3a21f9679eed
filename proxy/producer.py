"""The broker as the routes see it: log on, check, produce. Each call has a deadline and a truthful end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import structlog

from proxy import checking, logs
from proxy.bridge import Bridge
from proxy.brokers import open_broker
from proxy.brokers.pool import Pool
from proxy.brokers.revocations import Heard
from proxy.config import Config
from proxy.credentials import Credentials
from proxy.errors import (
    BadBody,
    BrokerAway,
    ChangeUnconfirmed,
    GatewayError,
    OpenBroker,
    SchemaViolation,
    Stopping,
)
from proxy.gathering import Consignment, Done, Gathering, Order
from proxy.keys import KeyMaker, atomic_elements, elements, single_id, with_key
from proxy.messages import Ack, Demand, Manner, Message, Pairs, Station, Unknown
from proxy.replies import GaveUp
from proxy.storing import GRACE_SECONDS, Storing, failure_of, size_of

LOG_ON_SECONDS = 15.0
CHECK_SECONDS = 5.0
CHECK_MEMORY_SECONDS = 1.0
MOST_CHECKED = 256  # messages of one batch that are checked without letting others run


class Producer:
    """Produces to stations as the users that callers name. One for each process; it starts after the fork.

    `revoked(ends)` is called, on another thread, with families of tokens that were revoked; see `Tokens.revoke`.
    """

    def __init__(self, config: Config, revoked: Heard = lambda ends: None) -> None:
        self._config = config
        self._revoked = revoked
        self._lock = threading.Lock()
        self._stopped = False
        #: Whether this process is about to stop: consumes end with what there is then.
        self.leaving: Callable[[], bool] = lambda: False
        self._pool: Pool
        self._keys = KeyMaker(config.jwt_secret)
        self._gathering: Gathering
        self._storing: Storing
        self._bridge: Bridge | None = None
        self._checking = threading.RLock()  # `check` may be what starts, and the start checks
        self._checked: tuple[float, GatewayError | None] = (0.0, None)

    # ---- start and stop ----------------------------------------------------------------------------------------

    def start(self, timeout: float = 10.0) -> None:
        """Starts the bridge. Raises `OpenBroker` when the broker lets everyone in; one that is away is waited for."""
        with self._lock:
            if self._bridge is not None or self._stopped:
                return
            config = self._config
            # Made here, as it imports the broker's module: imports take locks, which the loop's thread must not.
            self._pool = Pool(open_broker(config, self._notice), config, self._notice, self._revoked)
            self._pool.consuming.leaving = lambda: self.leaving()
            bridge = Bridge(
                self._pool.open,
                self._pool.close,
                limit=config.max_pending_messages,
                limit_bytes=config.max_pending_bytes,
                on_notice=_log_notice,
            )
            bridge.start(timeout)
            seconds = config.produce_timeout_seconds
            self._gathering = Gathering(bridge, self._pool.publish, seconds, GRACE_SECONDS)
            self._storing = Storing(bridge, self._pool, seconds)
            self._bridge = bridge
            if self._pool.syslog is not None:
                self._pool.syslog.write("info", "the gateway is up and running")
                logs.listen(self._pool.syslog.hear)
        try:
            self.check()
        except OpenBroker:
            self.stop(0)
            self._stopped = False
            raise
        except GatewayError:
            pass  # readiness tells

    def stop(self, drain: float = 5.0) -> None:
        """Refuses new work, waits up to `drain` seconds for what is under way, closes all connections."""
        with self._lock:
            self._stopped = True
            bridge, self._bridge = self._bridge, None
            if bridge is not None and self._pool.syslog is not None:
                logs.unlisten(self._pool.syslog.hear)
        if bridge is not None and (abandoned := bridge.stop(drain)):
            structlog.get_logger().warning("stopped_with_messages_under_way", count=abandoned)

    def alive(self) -> bool:
        """Whether this process can still produce one day; to be asked four times a second. False is for good."""
        bridge = self._bridge
        return bridge is None or bridge.look()

    def _notice(self, event: str, **fields: Any) -> None:
        if self._bridge is not None:
            self._bridge.tell(event, **fields)

    def _running(self) -> Bridge:
        """The bridge, started now if nobody has (Flask's development server tells no application when to start)."""
        if self._bridge is None:
            self.start()
        if self._bridge is None:
            raise Stopping
        return self._bridge

    # ---- users -------------------------------------------------------------------------------------------------

    def log_on(self, credentials: Credentials) -> None:
        """Proves credentials by a fresh connection. Raises what the broker, or its absence, says."""
        bridge = self._running()
        try:
            bridge.run(self._pool.log_on, credentials, timeout=LOG_ON_SECONDS)
        except GaveUp:
            raise BrokerAway from None

    def revoke(self, family: str, end: int) -> None:
        """Ends a family of tokens everywhere. Raises `LogOutOff`, and what the broker, or its absence, says."""
        bridge = self._running()
        try:
            bridge.run(self._pool.revocations.revoke, family, end, timeout=CHECK_SECONDS)
        except GaveUp:
            raise ChangeUnconfirmed from None

    def check_revocations(self, ever: bool = False) -> None:
        """Sees that this process knows what was revoked; with `ever`, that it has once known. Raises `BrokerAway`."""
        if not self._config.root_user:
            return
        bridge, revocations = self._running(), self._pool.revocations
        if ever and revocations.begun:
            return
        try:
            bridge.run(revocations.check_begun if ever else revocations.check, timeout=CHECK_SECONDS)
        except GaveUp:
            raise BrokerAway from None

    def check(self) -> None:
        """Sees that this process can produce; the answer of the last second is believed. Raises what is wrong.

        Those who ask at the same time get one answer: anyone may ask, and must not cost the broker a connection each.
        """
        with self._checking:
            when, error = self._checked
            if time.monotonic() - when > CHECK_MEMORY_SECONDS:
                error = self._check()
                self._checked = (time.monotonic(), error)
        if error is not None:
            raise error.anew()  # a first request may have called, which adds to it and has a payload

    def _check(self) -> GatewayError | None:
        bridge = self._running()
        try:
            bridge.run(self._pool.check, timeout=CHECK_SECONDS)
        except GaveUp:
            return BrokerAway("the broker does not answer in time")
        except GatewayError as error:
            return error
        return None

    # ---- schemas -----------------------------------------------------------------------------------------------

    def registry(self, credentials: Credentials, operation: str, *args: Any, seconds: float) -> Any:
        """Calls that method of the user's `brokers.Registry`, and raises what it raises; `GaveUp` in time."""
        bridge = self._running()
        return bridge.run(self._pool.registry, credentials, operation, *args, timeout=seconds)

    def demand(self, credentials: Credentials, station: Station, until: float) -> Demand | None:
        """What the station demands of payloads, asked of the broker where it is not known; see `Storing.demand`."""
        self._running()
        return self._storing.demand(credentials, station, until)

    def consuming(self, job: str, *args: Any, seconds: float) -> Any:
        """Runs that job of `brokers.consuming`, beside the messages: it counts for none of their limits.

        Raises what it answers, and `GaveUp` in time.
        """
        bridge = self._running()
        return bridge.call(getattr(self._pool.consuming, job), *args, timeout=seconds, weight=0)

    # ---- messages ----------------------------------------------------------------------------------------------

    def single(
        self,
        credentials: Credentials,
        station: Station,
        payload: bytes,
        headers: Pairs,
        key: str = "",
        manner: Manner = "apart",
    ) -> Ack:
        """Produces one message and returns its ack. Raises the `GatewayError` that says what became of it.

        `manner` "together" lets messages travel in groups; sequences are not told then. `key` is the sender's
        de-duplication id; without one a 503 or 504 carries ours as `idempotency_key`.
        """
        own = key or self._keys.own(station.name)
        storing = self._producing(key, own)
        namespace = self._keys.namespace(*credentials.owner, station.name)
        message = Message(payload, headers, single_id(namespace, own), named=bool(key), compare=bool(key))
        result: Ack | Exception
        if manner == "together" and not key and self._may_gather(credentials, station):
            result = self._gathering.store(credentials, station, message, size_of([message]))
        else:
            try:
                (result,) = storing.store(credentials, station, [message], manner)
            except GatewayError as error:
                result = error
        if isinstance(result, Ack):
            return result
        raise with_key(result, own) if isinstance(result, GatewayError) and not key else result

    def _may_gather(self, credentials: Credentials, station: Station) -> bool:
        """Whether a message may go with those of other greenlets: there are greenlets, and nothing is to be checked."""
        calls_back = self._bridge is not None and self._bridge.calls_back
        return calls_back and self._pool.known_demand(credentials, station) is None

    def post(
        self,
        credentials: Credentials,
        station: Station,
        payload: bytes,
        headers: Pairs,
        done: Done,
        tag: Any = None,
    ) -> None:
        """Produces one message without waiting: `done(tag, ack or error)` is called in gevent's event loop.

        The error is what `single` would raise. Raises `SchemaViolation`; and `Stopping` when nothing is taken any more,
        without gevent, where it is not known what the station demands, and for what belongs to its dead letters:
        `single` asks, and keeps them.
        """
        demand = self._demand_now(credentials, station)
        if demand is not None:
            try:
                checking.check(demand, payload)
            except SchemaViolation:
                if demand.dead_letter:
                    raise Stopping from None
                raise
        namespace = self._keys.namespace(*credentials.owner, station.name)
        message = Message(payload, headers, single_id(namespace, self._keys.own(station.name)))
        self._gathering.add(credentials, station, Order(message, size_of([message]), done, tag))

    def post_batch(
        self,
        credentials: Credentials,
        station: Station,
        payloads: list[bytes],
        headers: Pairs,
        done: Done,
        tag: Any = None,
    ) -> None:
        """Produces messages in order without waiting: `done(tag, ack or error)` is called in gevent's event loop.

        The ack is the first one's, the error what `batch` would raise. Raises as `post` does; `Stopping` also for what
        the station does not take, since `batch` stores the rest, and for more messages than should be checked while
        others wait; and `Overloaded`.
        """
        demand = self._demand_now(credentials, station)
        if demand is not None and (len(payloads) > MOST_CHECKED or not checking.pass_at_once(demand, payloads)):
            raise Stopping
        own = self._keys.own_batch(station.name)
        namespace = self._keys.namespace(*credentials.owner, station.name)
        messages = elements(namespace, own, payloads, headers, named=False)
        receiver = Consignment(len(payloads), own, done, tag)
        self._gathering.send(credentials, station, messages, size_of(messages), receiver)

    def _demand_now(self, credentials: Credentials, station: Station) -> Demand | None:
        """What the station demands, told without waiting. Raises `Stopping` where that, or to post, is impossible."""
        if self._bridge is None or not self._bridge.calls_back:
            raise Stopping
        demand = self._pool.known_demand(credentials, station)
        if isinstance(demand, Unknown):
            raise Stopping
        return demand

    def batch(
        self,
        credentials: Credentials,
        station: Station,
        payloads: list[bytes],
        headers: Pairs,
        key: str = "",
        manner: Manner = "apart",
    ) -> list[Ack]:
        """Produces messages in order and returns their acks. Raises `BatchFailed` when any was not stored, `BadBody`
        when there are none.

        With `manner` "atomic" all are stored or none, and what is raised is the one reason.
        """
        if not payloads:
            raise BadBody("the batch has no messages")
        own = key or self._keys.own_batch(station.name)
        storing = self._producing(key, own)
        namespace = self._keys.namespace(*credentials.owner, station.name)
        make = atomic_elements if manner == "atomic" else elements
        messages = make(namespace, own, payloads, headers, named=bool(key))
        try:
            results = storing.store(credentials, station, messages, manner)
        except GatewayError as error:
            results = [error] * len(messages)
        if manner == "atomic" and isinstance(results[0], GatewayError):
            raise results[0] if key else with_key(results[0], own)
        failed = failure_of(results)
        if failed is not None:
            raise failed if key else with_key(failed, own)
        return [result for result in results if isinstance(result, Ack)]

    def _producing(self, key: str, own: str) -> Storing:
        """What stores; who gets none, as nothing runs, is told the key as well, with which to come again."""
        try:
            self._running()
        except GatewayError as error:
            raise error if key else with_key(error, own) from None
        return self._storing


def _log_notice(event: str, fields: dict[str, Any]) -> None:
    structlog.get_logger().warning(event, **fields)
