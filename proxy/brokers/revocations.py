"""Families of tokens that were logged out, kept in a bucket of `ROOT_USER`, so that all workers and replicas know them.

A key says everything: `<digit>.<family>.<end>`, the end being the Unix time at which the last token of the family
expires, and with it the key. The digit, of the family's hash, divides the keys for questions about all of them. Who
listens hears of a log-out at once; besides, all keys are read when the connection is made, and again every minute.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from proxy.brokers import Broker, Notice
from proxy.brokers.answers import ApiError
from proxy.brokers.api import Api
from proxy.brokers.kv import TTL_SINCE, Bucket
from proxy.config import Config
from proxy.credentials import Credentials
from proxy.errors import BrokerAway, Forbidden, GatewayError, LogOutOff, Unauthorized

BUCKET = "station-revocations"
TRIAL = "trial"  # a key that revokes nothing: who listens believes whatever is sent to those that do
READ_AGAIN_SECONDS = 60.0
RETRY_SECONDS = 2.0
PATIENCE_SECONDS = 1.0
NOT_ENABLED = (10039, 10076)  # JetStream, for this account or this server

Heard = Callable[[Mapping[str, int]], None]
_SUBJECT = re.compile(rb"\$KV\.station-revocations\.[0-9a-f]\.([\w-]{1,64}\.\d{1,12})\.(\d{1,12})", re.ASCII)


class Account(msgspec.Struct):
    """The answer to `INFO`, as far as it counts here."""

    error: ApiError | None = None


class Revocations:
    """Listens to the bucket as `ROOT_USER`, on the loop; `heard` is called with the ends of families.

    Without `ROOT_USER`, or where it may not use the bucket, nothing can be revoked, and `why_off` says why. What the
    broker does not allow is tried again every minute: other replicas may be allowed it again, and revoke.
    """

    def __init__(self, broker: Broker, config: Config, heard: Heard, notice: Notice) -> None:
        self._broker, self._config, self._heard, self._notice = broker, config, heard, notice
        self.why_off = "" if config.root_user else "log-out needs ROOT_USER, as whom the gateway keeps what was revoked"
        self._too_old = False
        self._bucket: Bucket | None = None
        self._task: asyncio.Task[None] | None = None
        self._settled: asyncio.Event
        self._begun: asyncio.Event

    async def open(self) -> None:
        """Begins to listen; returns at once."""
        self._settled, self._begun = asyncio.Event(), asyncio.Event()
        if self._config.root_user:
            self._task = asyncio.get_running_loop().create_task(self._listen())
        else:
            self._begun.set()

    async def close(self) -> None:
        """Ends listening."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def check(self) -> None:
        """Sees that what was revoked is known here, if anything can be. Raises `BrokerAway` after a second."""
        if not self.why_off:
            await _patiently(self._settled)

    @property
    def begun(self) -> bool:
        """Whether `check_begun` would return at once. For any thread, once this is open."""
        return self._begun.is_set()

    async def check_begun(self) -> None:
        """Sees that what was revoked before this process began is known here, once and for all: a process that has
        read nothing yet would take every token that was ever logged out. Raises `BrokerAway` after a second.

        Where nobody can read it, as `ROOT_USER` is not let in, there is nothing to wait for.
        """
        await _patiently(self._begun)

    async def revoke(self, family: str, end: int) -> None:
        """Ends a family, everywhere; its last token would expire at `end` (Unix time).

        Raises `LogOutOff` where that cannot be done, `BrokerAway`, `BrokerRefused`, and `ChangeUnconfirmed` when it may
        be done.
        """
        await self.check()
        if self.why_off or self._bucket is None:
            raise LogOutOff(self.why_off)
        digit = hashlib.sha256(family.encode()).hexdigest()[0]
        try:
            await self._bucket.put(f"{digit}.{family}.{end}", b"", max(1.0, end - time.time()))
        except Forbidden as error:
            raise LogOutOff(f"ROOT_USER may not use bucket {BUCKET}: {error.message}") from None
        self._heard({family: end})

    async def _listen(self) -> None:
        """Keeps a connection, as long as this task is not cancelled."""
        while True:
            try:
                session: Any = await self._broker.connect(Credentials(self._config.root_user, self._config.root_secret))
                try:
                    await self._follow(session)
                finally:
                    self._bucket = None
                    if not self.why_off:
                        self._settled.clear()
                    await session.close()
            except (Forbidden, Unauthorized):
                self._begun.set()  # readiness tells; producing does not need that user
            except GatewayError:
                pass  # readiness tells
            except Exception as error:
                self._notice("unexpected", error=repr(error))
            if self._too_old:
                return
            await asyncio.sleep(READ_AGAIN_SECONDS if self.why_off else RETRY_SECONDS)

    async def _follow(self, session: Any) -> None:
        """Hears what is revoked until the connection ends."""
        if session.connection.server_version < TTL_SINCE:  # nobody did anything wrong, so there is nothing to note
            self._too_old = True
            self._turn_off(f"log-out needs a broker with keys that expire: nats-server {TTL_SINCE[0]}.{TTL_SINCE[1]}")
            return
        ended = asyncio.Event()
        session.on_end(ended.set)
        api, replicas = Api(session.connection), self._config.station_replicas
        bucket = self._bucket = Bucket(api, BUCKET, replicas, expiring=True, trial=TRIAL)
        try:
            await self._see_jetstream(session)
            await session.connection.subscribe(f"$KV.{BUCKET}.>", self._on_subject)
            while not ended.is_set():
                await self._read(bucket)
                self.why_off = ""
                self._settle()
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(ended.wait(), READ_AGAIN_SECONDS)
        except Forbidden as error:  # then it cannot be told of log-outs by others either: there are none
            if not self.why_off:
                self._notice("log_out_is_off", why=error.message)
            self._turn_off(f"ROOT_USER may not use bucket {BUCKET}: {error.message}")

    def _turn_off(self, why: str) -> None:
        self.why_off = why
        self._settle()

    def _settle(self) -> None:
        self._settled.set()
        self._begun.set()

    async def _see_jetstream(self, session: Any) -> None:
        """Finds out whether this account can have a bucket at all."""
        account: Account = await Api(session.connection).ask("INFO", {}, Account)
        if account.error is not None and account.error.err_code in NOT_ENABLED:
            raise Forbidden("its account has no JetStream")

    async def _read(self, bucket: Bucket) -> None:
        """Reads all keys; raises `BrokerRefused` when they cannot be read.

        All is asked at once: a worker that has just started takes no token before, however far away the broker is.
        """
        ends: dict[str, int] = {}
        for keys in await asyncio.gather(*(bucket.keys(f"{digit}.>") for digit in "0123456789abcdef")):
            for key in keys:
                ends |= _end_of(f"$KV.{BUCKET}.{key}".encode())
        if ends:
            self._heard(ends)

    def _on_subject(self, subject: bytes) -> None:
        if ends := _end_of(subject):
            self._heard(ends)


async def _patiently(event: asyncio.Event) -> None:
    try:
        await asyncio.wait_for(event.wait(), PATIENCE_SECONDS)
    except asyncio.TimeoutError:
        raise BrokerAway("which tokens were revoked is not known now; try again shortly") from None


def _end_of(subject: bytes) -> dict[str, int]:
    """The family that a key is about, and its end; nothing for a key that is none of ours."""
    match = _SUBJECT.fullmatch(subject)
    return {match[1].decode(): int(match[2])} if match else {}
